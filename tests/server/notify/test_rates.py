"""How fast things happen: what the dashboard's rates and sparklines rest on."""

from collections.abc import Sequence

import pytest

from server.notify.rates import RateRing

SENT = ("", "sent")


def filled(values: Sequence[float], every_s: float = 5.0, capacity: int = 60) -> RateRing:
    ring = RateRing(capacity)
    for number, value in enumerate(values):
        ring.add(100 + number * every_s, {SENT: value})
    return ring


def test_a_rate_is_what_was_gained_in_the_last_minute() -> None:
    """Operators compare it with what their providers allow."""
    ring = filled([1_000 + 50 * number for number in range(40)])
    assert ring.per_s("") == {"sent": pytest.approx(10)}
    assert ring.covered_s() == pytest.approx(60)
    busy_before = filled([0, 6_000] + [6_000] * 12)
    assert busy_before.per_s("") == {}


def test_a_node_that_has_just_started_tells_of_the_time_it_has_seen() -> None:
    """What was counted before the first look is no rate."""
    ring = filled([700])
    assert (ring.per_s(""), ring.covered_s(), ring.series("", "sent")) == ({}, 0.0, [])
    ring.add(105, {SENT: 750})
    assert ring.per_s("") == {"sent": 10.0}
    assert ring.covered_s() == 5.0


def test_each_app_has_rates_of_its_own() -> None:
    """Developers of one app see nothing of another's."""
    ring = RateRing()
    ring.add(0, {("a", "notified"): 0})
    ring.add(5, {("a", "notified"): 5, ("b", "notified"): 50, ("", "notified"): 55})
    assert ring.per_s("a") == {"notified": 1.0}
    assert ring.per_s("b") == {"notified": 10.0}
    assert ring.per_s("") == {"notified": 11.0}
    assert ring.per_s("c") == {}


def test_a_counter_that_fell_has_begun_anew() -> None:
    """A rate is never below zero."""
    assert filled([100, 110, 5]).series("", "sent") == [2.0, 1.0]


def test_only_the_newest_slices_are_kept() -> None:
    """Memory stays bounded, and slices that came late count for the time that they took."""
    ring = filled([number * 10 for number in range(20)], capacity=3)
    assert ring.series("", "sent") == [2.0, 2.0, 2.0]
    ring.add(100 + 19 * 5 + 10, {SENT: 290})
    assert ring.series("", "sent") == [2.0, 2.0, 10.0]
