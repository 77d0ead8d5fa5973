"""What several nodes tell, put together: against sums and maxima written down plainly."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.http_notify_dashboard import ChannelRate, NotifyRates
from protocol.notify_node import AccountStrain, Glance
from server.notify.node_lines import (
    node_lines,
    severity,
    strains_of,
    summed_rates,
    summed_series,
    worst_breaker,
)

numbers = st.integers(0, 1_000).map(float)  # whole ones, so that sums are exact in any order
states = st.sampled_from(["closed", "half_open", "open"])


@st.composite
def rates(draw: st.DrawFn) -> NotifyRates:
    length = draw(st.integers(0, 4))
    series = st.lists(numbers, min_size=length, max_size=length)
    channels = [
        ChannelRate(
            channel=name,
            accepted_per_s=draw(numbers),
            refused_per_s=draw(numbers),
            unknown_per_s=draw(numbers),
            series=draw(series),
            queued_count=draw(st.integers(0, 9)),
            in_hand_count=draw(st.integers(0, 9)),
        )
        for name in ("apns", "sms")
    ]
    return NotifyRates(
        covered_s=draw(numbers),
        notified_per_s=draw(numbers),
        notified_series=draw(series),
        accepted_per_s=draw(numbers),
        accepted_series=draw(series),
        channels=channels,
        decided_per_s=draw(st.dictionaries(st.sampled_from(["sent", "held"]), numbers)),
        since_start=draw(st.dictionaries(st.sampled_from(["notified", "dead"]), st.integers(0, 99))),
    )


@given(st.lists(rates(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_rates_and_counts_are_sums_whatever_the_order(parts: list[NotifyRates], random: object) -> None:
    """Each node answers when it can, and the page must not flicker."""
    whole = summed_rates(parts)
    assert whole.covered_s == max(part.covered_s for part in parts)
    assert whole.notified_per_s == sum(part.notified_per_s for part in parts)
    assert whole.accepted_per_s == sum(part.accepted_per_s for part in parts)
    for name in ("notified", "dead"):
        assert whole.since_start.get(name, 0) == sum(part.since_start.get(name, 0) for part in parts)
    for name in ("sent", "held"):
        assert whole.decided_per_s.get(name, 0) == sum(part.decided_per_s.get(name, 0) for part in parts)
    for place, line in enumerate(whole.channels):
        own = [part.channels[place] for part in parts]
        assert line.accepted_per_s == sum(one.accepted_per_s for one in own)
        assert line.refused_per_s == sum(one.refused_per_s for one in own)
        assert line.unknown_per_s == sum(one.unknown_per_s for one in own)
        assert (line.queued_count, line.in_hand_count) == (
            sum(one.queued_count for one in own),
            sum(one.in_hand_count for one in own),
        )
    assert sum(whole.notified_series) == sum(sum(part.notified_series) for part in parts)
    assert summed_rates(reversed(parts)) == whole


def test_series_meet_at_their_newest_end() -> None:
    """A node that has just started has no past."""
    assert summed_series([[1, 2, 3], [10]]) == [1, 2, 13]
    assert summed_series([[], [4, 5]]) == [4, 5]
    assert summed_series([]) == []


@given(st.dictionaries(st.sampled_from("abc"), states))
def test_of_breakers_the_worst_is_shown(found: dict[str, str]) -> None:
    """Deliveries wait as soon as one node does not send."""
    strains = {node: AccountStrain("app", "apns", "p", state) for node, state in found.items()}
    worst = "closed"
    if "half_open" in found.values():
        worst = "half_open"
    if "open" in found.values():
        worst = "open"
    assert worst_breaker(strains) == worst


def test_the_worst_come_first_where_not_all_can_be_told() -> None:
    """A node tells of 500 accounts."""
    slow = AccountStrain("a", "apns", "slow", "closed", 0.5)
    slower = AccountStrain("a", "apns", "slower", "closed", 0.25, 9.0)
    half = AccountStrain("a", "apns", "half", "half_open")
    shut = AccountStrain("a", "apns", "open", "open")
    assert sorted([slow, shut, slower, half], key=severity, reverse=True) == [shut, half, slower, slow]


def test_nodes_have_a_line_each_and_missing_ones_say_so() -> None:
    """Whoever looks must know of which nodes the figures are."""
    shut, slow = AccountStrain("a", "apns", "p", "open"), AccountStrain("a", "sms", "q", "closed", 0.5)
    part = Glance(summed_rates([]), [shut, slow])
    lines = node_lines({"n3": part, "n1": Glance(summed_rates([]), [slow])}, ["n2"])
    assert [(line.node_id, line.is_missing, line.open_count) for line in lines] == [
        ("n1", False, 0),
        ("n2", True, 0),
        ("n3", False, 1),
    ]
    found = strains_of({"n3": part, "n1": Glance(summed_rates([]), [slow])})
    assert found == {("a", "apns", "p"): {"n3": shut}, ("a", "sms", "q"): {"n1": slow, "n3": slow}}
