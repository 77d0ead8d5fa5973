"""What several nodes tell of themselves, put together: plain functions.

Rates and counts are sums; of an account's state the worst is shown, and where it is so. A node that did not
answer is missing in all of them, and has a line that says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from protocol.http_notify_dashboard import ChannelRate, NodeLine, NotifyRates
from protocol.notify_node import AccountStrain, Glance

_SEVERITY: Final = {"closed": 0, "half_open": 1, "open": 2}

Account = tuple[str, str, str]  # app, channel, provider_id
Strains = Mapping[Account, Mapping[str, AccountStrain]]  # by node


def severity(strain: AccountStrain) -> tuple[int, float, float]:
    """How bad it is; more is worse."""
    return _SEVERITY.get(strain.breaker, 0), strain.pause_s, -strain.pace


def summed_rates(parts: Iterable[NotifyRates]) -> NotifyRates:
    """What several nodes did together. `covered_s` is that of the node that has counted for longest."""
    all_parts = list(parts)
    channels: dict[str, list[ChannelRate]] = {}
    for part in all_parts:
        for line in part.channels:
            channels.setdefault(line.channel, []).append(line)
    return NotifyRates(
        covered_s=max((part.covered_s for part in all_parts), default=0.0),
        notified_per_s=sum(part.notified_per_s for part in all_parts),
        notified_series=summed_series([part.notified_series for part in all_parts]),
        accepted_per_s=sum(part.accepted_per_s for part in all_parts),
        accepted_series=summed_series([part.accepted_series for part in all_parts]),
        channels=[_summed_channel(lines) for lines in channels.values()],
        decided_per_s=_summed(part.decided_per_s for part in all_parts),
        since_start={
            name: round(value) for name, value in _summed(part.since_start for part in all_parts).items()
        },
    )


def summed_series(series: Sequence[Sequence[float]]) -> list[float]:
    """Sum slice by slice, the newest of each together: who began later has fewer."""
    longest = max(map(len, series), default=0)
    return [sum(one[-back] for one in series if len(one) >= back) for back in range(longest, 0, -1)]


def _summed_channel(lines: Sequence[ChannelRate]) -> ChannelRate:
    return ChannelRate(
        channel=lines[0].channel,
        accepted_per_s=sum(line.accepted_per_s for line in lines),
        refused_per_s=sum(line.refused_per_s for line in lines),
        unknown_per_s=sum(line.unknown_per_s for line in lines),
        series=summed_series([line.series for line in lines]),
        queued_count=sum(line.queued_count for line in lines),
        in_hand_count=sum(line.in_hand_count for line in lines),
    )


def _summed(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums.get(name, 0) + value
    return sums


def strains_of(parts: Mapping[str, Glance]) -> Strains:
    """By account and node, what is not used as it could be."""
    found: dict[Account, dict[str, AccountStrain]] = {}
    for node_id, part in parts.items():
        for strain in part.strains:
            key = (strain.app_id, strain.channel, strain.provider_id)
            found.setdefault(key, {})[node_id] = strain
    return found


def worst_breaker(strains: Mapping[str, AccountStrain]) -> str:
    """The worst state among nodes: open before half_open before closed."""
    states = [strain.breaker for strain in strains.values()]
    return max(states, key=lambda state: _SEVERITY.get(state, 0), default="closed")


def node_lines(parts: Mapping[str, Glance], missing: Iterable[str]) -> list[NodeLine]:
    """A line for each node, by name; of those that did not answer nothing is known but that."""
    lines = [_node_line(node_id, part) for node_id, part in parts.items()]
    lines += [NodeLine(node_id=node_id, is_missing=True) for node_id in missing]
    return sorted(lines, key=lambda line: line.node_id)


def _node_line(node_id: str, part: Glance) -> NodeLine:
    rates = part.rates
    return NodeLine(
        node_id=node_id,
        covered_s=rates.covered_s,
        notified_per_s=rates.notified_per_s,
        accepted_per_s=rates.accepted_per_s,
        queued_count=sum(line.queued_count for line in rates.channels),
        in_hand_count=sum(line.in_hand_count for line in rates.channels),
        open_count=sum(strain.breaker == "open" for strain in part.strains),
    )
