"""What the store and the counters tell, as lines of the dashboard: plain functions."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from actors.notify.channel_desk import ChannelDesk
from actors.notify.keeper import NotifyStats
from protocol.http_notify_dashboard import (
    ChannelRate,
    HeldLine,
    NotifyRates,
    ProviderLine,
    QueueLine,
)
from protocol.notify_glance import Concluded, HeldOfApp, OpenLane
from protocol.notify_node import AccountStrain
from protocol.notify_records import ProviderRow
from protocol.notify_types import CHANNELS
from server.notify.node_lines import worst_breaker
from server.notify.rates import RateRing

_DECIDED: Final = ("sent", "held", "merged", "dropped", "late", "retried", "dead")
_SINCE_START: Final = ("notified", "accepted", "unknown", "doubled", "dead", "late")
_ENDED: Final = ("accepted", "confirmed", "bounced", "refused", "unknown", "dead")


def queue_lines(lanes: Iterable[OpenLane], app_id: str, now_ms: int) -> list[QueueLine]:
    """Of one app, or "": of all; the most urgent first."""
    lines = [
        QueueLine(
            app_id=lane.app_id,
            channel=lane.channel,
            priority=lane.priority,
            open_count=lane.count,
            due_count=lane.due_count,
            overdue_count=lane.overdue_count,
            oldest_age_s=max(0, now_ms - lane.oldest_at_ms) / 1000,
        )
        for lane in lanes
        if app_id in ("", lane.app_id)
    ]
    order = {"high": 0, "medium": 1, "low": 2}
    return sorted(lines, key=lambda line: (order.get(line.priority, 3), line.channel, line.app_id))


def open_totals(lines: Iterable[QueueLine]) -> dict[str, int]:
    """How many deliveries of each priority the lines tell of."""
    totals: Counter[str] = Counter()
    for line in lines:
        totals[line.priority] += line.open_count
    return dict(totals)


def held_lines(items: Iterable[HeldOfApp], app_id: str) -> list[HeldLine]:
    """Of one app, or "": of all; what is due first comes first."""
    lines = [
        HeldLine(app_id=item.app_id, count=item.count, next_due_at_ms=item.next_due_at_ms)
        for item in items
        if app_id in ("", item.app_id)
    ]
    return sorted(lines, key=lambda line: (line.next_due_at_ms, line.app_id))


def percentile(spread: Iterable[tuple[int, int]], share: float) -> int | None:
    """The value below or at which that share of all lies, of (value, how often); None of nothing."""
    ordered = sorted(spread)
    left = math.ceil(share * sum(count for _, count in ordered))
    for value, count in ordered:
        left -= count
        if left <= 0:
            return value
    return None


def provider_line(
    key: tuple[str, str, str],
    row: ProviderRow | None,
    found: Sequence[Concluded],
    strains: Mapping[str, AccountStrain],
) -> ProviderLine:
    """One account (app, channel, id) as it is set up, and what became of its deliveries.

    `strains`: by node, where it is not used as it could be.
    """
    app_id, channel, provider_id = key
    states: Counter[str] = Counter()
    for item in found:
        states[item.state] += item.count
    accepted = states["accepted"] + states["confirmed"]
    ended = sum(states[state] for state in _ENDED)
    spread = [(item.latency_ms, item.count) for item in found if item.latency_ms >= 0]
    return ProviderLine(
        app_id=app_id,
        channel=channel,
        provider_id=provider_id,
        kind=row.kind if row is not None else "",
        position=row.position if row is not None else 0,
        is_paused=row is not None and row.is_paused,
        breaker=worst_breaker(strains),
        breakers={node: one.breaker for node, one in strains.items() if one.breaker != "closed"},
        pace=min((one.pace for one in strains.values()), default=1.0),
        pause_s=max((one.pause_s for one in strains.values()), default=0.0),
        accepted_count=accepted,
        refused_count=states["refused"],
        unknown_count=states["unknown"],
        dead_count=states["dead"],
        bounced_count=states["bounced"],
        doubled_count=sum(item.doubles for item in found),
        success=accepted / ended if ended else None,
        p50_ms=percentile(spread, 0.5),
        p99_ms=percentile(spread, 0.99),
    )


def rates_here(ring: RateRing, app_id: str, channels: ChannelDesk, stats: NotifyStats) -> NotifyRates:
    """What this node did, for one app; or "": for all, with what only operators see."""
    per_s = ring.per_s(app_id)
    is_operator = not app_id
    lines: list[ChannelRate] = []
    for name in CHANNELS:
        actor = channels.channels.get(name)
        if actor is None:  # in-app: nothing is requested
            continue
        series = ring.series(app_id, f"accepted:{name}")
        lines.append(
            ChannelRate(
                channel=name,
                accepted_per_s=per_s.get(f"accepted:{name}", 0.0),
                refused_per_s=per_s.get(f"refused:{name}", 0.0),
                unknown_per_s=per_s.get(f"unknown:{name}", 0.0),
                series=series,
                queued_count=actor.depth if is_operator else 0,
                in_hand_count=actor.in_hand if is_operator else 0,
            )
        )
    return NotifyRates(
        covered_s=ring.covered_s(),
        notified_per_s=per_s.get("notified", 0.0),
        notified_series=ring.series(app_id, "notified"),
        accepted_per_s=sum(line.accepted_per_s for line in lines),
        accepted_series=[sum(values) for values in zip(*(line.series for line in lines), strict=True)],
        channels=lines,
        decided_per_s={name: per_s.get(name, 0.0) for name in _DECIDED} if is_operator else {},
        since_start={name: getattr(stats, name) for name in _SINCE_START} if is_operator else {},
    )
