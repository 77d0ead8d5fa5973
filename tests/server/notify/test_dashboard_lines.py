"""Figures of the dashboard, from what the store has found."""

import random

from hypothesis import given
from hypothesis import strategies as st

from protocol.notify_glance import Concluded, HeldOfApp, OpenLane
from protocol.notify_node import AccountStrain
from server.notify.dashboard_lines import held_lines, open_totals, percentile, provider_line, queue_lines


@given(st.lists(st.integers(0, 50), min_size=1), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_the_smallest_value_that_enough_are_not_above(
    values: list[int], share: float
) -> None:
    """The definition (nearest rank), however the values are grouped."""
    spread = [(value, values.count(value)) for value in set(values)]
    random.shuffle(spread)
    found = percentile(spread, share)
    assert found is not None
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_of_nothing_there_is_no_percentile() -> None:
    """The page then shows a dash, and no 0 ms."""
    assert percentile([], 0.5) is None


def test_success_is_of_what_has_ended() -> None:
    """What is still queued, and what was never sent, is no failure; what nobody knows is no success."""
    states = {"accepted": 6, "confirmed": 2, "unknown": 1, "refused": 1, "queued": 30, "skipped": 5}
    found = [Concluded("a", "apns", "p", state, -1, count, 0) for state, count in states.items()]
    found.append(Concluded("a", "apns", "p", "accepted", 120, 2, 3))
    line = provider_line(("a", "apns", "p"), None, found, {})
    assert line.success == 10 / 12
    assert (line.accepted_count, line.refused_count, line.unknown_count) == (10, 1, 1)
    assert (line.doubled_count, line.p50_ms, line.p99_ms) == (3, 120, 120)
    strains = {
        "n1": AccountStrain("a", "apns", "p", "half_open", 0.25),
        "n2": AccountStrain("a", "apns", "p", "open", 0.5, 3.0),
        "n3": AccountStrain("a", "apns", "p", "closed", 0.5),
    }
    idle = provider_line(("a", "apns", "p"), None, found[4:5], strains)
    assert (idle.success, idle.p50_ms, idle.breaker) == (None, None, "open")
    assert (idle.breakers, idle.pace, idle.pause_s) == ({"n1": "half_open", "n2": "open"}, 0.25, 3.0)


def test_an_app_sees_its_own_lines_only() -> None:
    """Also where all apps are read at once."""
    lanes = [OpenLane("a", "sms", "low", 5, 1_000, 5, 1), OpenLane("b", "apns", "high", 7, 4_000, 0, 0)]
    assert [line.app_id for line in queue_lines(lanes, "a", 6_000)] == ["a"]
    assert open_totals(queue_lines(lanes, "a", 6_000)) == {"low": 5}
    both = queue_lines(lanes, "", 6_000)
    assert [(line.priority, line.oldest_age_s) for line in both] == [("high", 2.0), ("low", 5.0)]
    assert [line.count for line in held_lines([HeldOfApp("a", 3, 9), HeldOfApp("b", 4, 8)], "b")] == [4]
