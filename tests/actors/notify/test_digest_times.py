"""Digest times against a plain model: the first minute at which the clock shows the time or has passed it."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.notify.digest_times import next_daily_ms, next_hour_ms, next_weekly_ms
from actors.notify.local_time import instant_of
from tests.actors.notify.clocks import (
    DAY_MS,
    DAYS,
    FIRST_MS,
    HOUR_MS,
    MINUTE_MS,
    all_zones,
    clock_changes,
    minutes,
    wall,
)

times = st.tuples(st.sampled_from([0, 1, 2, 3, 9, 23]), st.sampled_from([0, 1, 15, 30, 59]))


def due_times(zone: str, from_ms: int, until_ms: int, hour: int, minute: int) -> list[tuple[int, datetime]]:
    """When each day's digest is due, and the day's date and time as it was wanted."""
    wanted = wall(zone, from_ms).replace(hour=hour, minute=minute, second=0) - timedelta(days=1)
    found = []
    for at_ms in minutes(from_ms - 2 * DAY_MS, until_ms):
        while wall(zone, at_ms) >= wanted:
            found.append((at_ms, wanted))
            wanted += timedelta(days=1)
    return found


@pytest.mark.timeout(600)  # the long form looks at every minute 5,000 times
@given(
    change=st.sampled_from(clock_changes()),
    time=times,
    minute=st.integers(0, 2 * 1_440),
    extra=st.integers(0, 59_999),
)
def test_daily_digests_where_the_clock_is_changed(
    change: tuple[str, int], time: tuple[int, int], minute: int, extra: int
) -> None:
    """One digest a day: not left out in a gap, not doubled in a fold."""
    zone, near_ms = change
    now_ms = near_ms + minute * MINUTE_MS + extra
    due = due_times(zone, near_ms - DAY_MS, now_ms + 3 * DAY_MS, *time)
    expected = next(at_ms for at_ms, _ in due if at_ms > now_ms)
    assert next_daily_ms("{:02}:{:02}".format(*time), zone, now_ms) == expected


@given(
    zone=st.sampled_from(all_zones()),
    time=times,
    weekday=st.integers(0, 6),
    minute=st.integers(0, DAYS * 1_440),
)
def test_weekly_digests_in_every_zone(zone: str, time: tuple[int, int], weekday: int, minute: int) -> None:
    """The weekday is that of the date on the user's calendar, not UTC's."""
    now_ms = FIRST_MS + minute * MINUTE_MS
    shown = wall(zone, now_ms)
    wanted = shown.replace(hour=time[0], minute=time[1], second=0) - timedelta(days=2)
    while wanted.weekday() != weekday:
        wanted += timedelta(days=1)
    expected = 0
    while expected <= now_ms:
        expected = instant_of(wanted.isoformat(), zone)
        wanted += timedelta(days=7)
    assert next_weekly_ms(weekday, "{:02}:{:02}".format(*time), zone, now_ms) == expected


@given(change=st.sampled_from(clock_changes()), minute=st.integers(0, 2_880), extra=st.integers(0, 59_999))
def test_the_next_full_hour_is_one_by_the_users_clock(
    change: tuple[str, int], minute: int, extra: int
) -> None:
    """In Kathmandu it is not a full hour in UTC, and where the clock leaps it may come early."""
    zone, near_ms = change
    now_ms = near_ms + minute * MINUTE_MS + extra
    expected = next(
        at_ms for at_ms in minutes(now_ms + 1, now_ms + 3 * HOUR_MS) if wall(zone, at_ms).minute == 0
    )
    assert next_hour_ms(zone, now_ms) == expected


@pytest.mark.parametrize(
    ("now", "at", "expected"),
    [
        ("2026-11-27T08:59", "09:00", "2026-11-27T09:00"),
        ("2026-11-27T09:00", "09:00", "2026-11-28T09:00"),  # after, not at
        ("2026-03-29T01:00", "02:30", "2026-03-29T03:00"),  # leapt over
        ("2026-10-25T02:30", "02:30", "2026-10-26T02:30"),  # the second showing is none
    ],
)
def test_known_cases(now: str, at: str, expected: str) -> None:
    """Cases that a person can check by hand, in Berlin."""
    zone = "Europe/Berlin"
    assert next_daily_ms(at, zone, instant_of(now, zone)) == instant_of(expected, zone)
