"""Crashes add up to a quarantine, and are forgotten when they should be."""

import pytest

from actors.crash_history import CrashHistory, CrashPolicy

POLICY = CrashPolicy()


def _crash(history: CrashHistory, times: int, now: float) -> list[float]:
    return [history.record(now) for _ in range(times)]


def test_the_fifth_crash_in_a_minute_earns_a_quarantine() -> None:
    """A crash loop costs a minute of one actor, not a core."""
    history = CrashHistory(POLICY, 0.0)
    assert _crash(history, 5, 10.0) == [0, 0, 0, 0, 60]
    assert history.quarantine_left_s(10.0) == 60
    assert history.quarantine_left_s(69.0) == 1
    assert history.quarantine_left_s(70.0) == 0


def test_crashes_that_are_far_apart_earn_none() -> None:
    """An actor that fails now and then is restarted, for ever."""
    history = CrashHistory(POLICY, 0.0)
    assert [history.record(15.0 * n) for n in range(40)] == [0] * 40


def test_a_quarantine_doubles_up_to_a_quarter_of_an_hour() -> None:
    """An actor that is broken for good is tried ever more seldom, and still heals within 15 min of a fix."""
    history = CrashHistory(POLICY, 0.0)
    now, earned = 0.0, []
    for _ in range(7):
        earned.append(_crash(history, 5, now)[-1])
        now = history.quarantined_until
    assert earned == [60, 120, 240, 480, 900, 900, 900]


@pytest.mark.parametrize(("quiet_s", "earned"), [(899, 120), (900, 60)])
def test_a_quarter_of_an_hour_of_health_clears_the_record(quiet_s: float, earned: float) -> None:
    """Last month's incident does not make today's hiccup last 15 minutes."""
    history = CrashHistory(POLICY, 0.0)
    _crash(history, 5, 0.0)
    now = history.quarantined_until + quiet_s
    assert history.is_forgettable(now) == (quiet_s >= 900)
    assert _crash(history, 5, now)[-1] == earned
