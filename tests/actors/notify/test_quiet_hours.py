"""Quiet hours against a plain model: the user's clock, read minute by minute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.notify.local_time import instant_of, local_text
from actors.notify.quiet_hours import quiet_from_ms, quiet_until_ms, quiet_windows
from protocol.notify_types import QuietHours
from tests.actors.notify.clocks import (
    DAY_MS,
    DAYS,
    FIRST_MS,
    HOUR_MS,
    MINUTE_MS,
    ODD_ZONES,
    all_zones,
    clock_changes,
    is_quiet,
    wall,
)

clock_times = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
near_changes = st.builds(
    "{:02}:{:02}".format, st.sampled_from([0, 1, 2, 3, 23]), st.sampled_from([0, 15, 30])
)
quiet_hours = st.builds(
    QuietHours,
    start=clock_times | near_changes,
    end=clock_times | near_changes,
    weekdays=st.lists(st.integers(0, 6), unique=True, max_size=7),
)


def check_a_span(quiet: QuietHours, zone: str, from_ms: int, hours: int) -> None:
    """Compare every minute of a span: the model is swept backwards, so each minute knows its next change."""
    from_ms -= from_ms % MINUTE_MS
    span = range(from_ms, from_ms + (hours + 26) * HOUR_MS, MINUTE_MS)
    shown = [is_quiet(quiet, wall(zone, at_ms)) for at_ms in span]
    until_ms: int | None = None
    begin_ms: int | None = None
    for index in range(len(span) - 1, -1, -1):
        at_ms = span[index]
        if shown[index]:
            begin_ms = at_ms
        else:
            until_ms = at_ms
        if index % 7 and shown[index] == shown[index - 1]:
            continue  # one minute of seven, and each one where something changes
        if not shown[index]:
            assert quiet_until_ms(quiet, zone, at_ms) == 0, local_text(at_ms, zone)
            if begin_ms is not None:
                assert quiet_from_ms(quiet, zone, at_ms) == begin_ms, local_text(at_ms, zone)
        elif until_ms is not None:
            assert quiet_until_ms(quiet, zone, at_ms) == until_ms, local_text(at_ms, zone)
            assert quiet_until_ms(quiet, zone, at_ms + 59_999) == until_ms
            assert quiet_from_ms(quiet, zone, at_ms) == at_ms


@pytest.mark.timeout(600)  # the long form looks at every minute 5,000 times
@given(change=st.sampled_from(clock_changes()), quiet=quiet_hours)
def test_quiet_hours_follow_the_clock_where_it_is_changed(change: tuple[str, int], quiet: QuietHours) -> None:
    """A user who sleeps through a change of the clock is neither woken early nor left out."""
    zone, near_ms = change
    check_a_span(quiet, zone, near_ms - 12 * HOUR_MS, 48)


@pytest.mark.timeout(600)  # the long form looks at every minute 5,000 times
@given(
    zone=st.sampled_from(all_zones()) | st.sampled_from(ODD_ZONES),
    day=st.integers(0, DAYS),
    quiet=quiet_hours,
)
def test_quiet_hours_follow_the_clock_of_every_zone(zone: str, day: int, quiet: QuietHours) -> None:
    """Midnight, weekdays and odd offsets, on any day."""
    check_a_span(quiet, zone, FIRST_MS + day * DAY_MS, 30)


def test_every_zone_ends_its_night_at_seven() -> None:
    """Each zone by itself, in winter and in summer."""
    quiet = QuietHours(start="22:00", end="07:00")
    for zone in all_zones():
        for date in ("2026-01-15", "2026-07-15"):
            until_ms = quiet_until_ms(quiet, zone, instant_of(f"{date}T23:30", zone))
            assert wall(zone, until_ms).isoformat() == f"{date[:-2]}16T07:00:00", zone


@pytest.mark.parametrize(
    ("quiet", "now", "until"),
    [
        # The clock leaps from 02:00 to 03:00, and the window ends within the leap.
        (QuietHours(start="22:00", end="02:30"), "2026-03-29T01:59", "2026-03-29T03:00"),
        # Begins within the leap.
        (QuietHours(start="02:30", end="06:00"), "2026-03-29T03:00", "2026-03-29T06:00"),
        # Lies wholly within it: it is not missed.
        (QuietHours(start="02:10", end="02:50"), "2026-03-29T03:00", None),
        # Weekdays are those on which it begins: Sunday night ends on Monday.
        (QuietHours(start="22:00", end="07:00", weekdays=[6]), "2026-11-30T06:59", "2026-11-30T07:00"),
        (QuietHours(start="22:00", end="07:00", weekdays=[6]), "2026-11-29T06:59", None),
        (QuietHours(start="13:00", end="15:00", weekdays=[4]), "2026-11-27T14:00", "2026-11-27T15:00"),
        (QuietHours(start="13:00", end="15:00", weekdays=[4]), "2026-11-26T14:00", None),
        (QuietHours(start="08:00", end="08:00"), "2026-11-27T08:00", None),
    ],
)
def test_known_cases(quiet: QuietHours, now: str, until: str | None) -> None:
    """Cases that a person can check by hand, in Berlin."""
    zone = "Europe/Berlin"
    expected = 0 if until is None else instant_of(until, zone)
    assert quiet_until_ms(quiet, zone, instant_of(now, zone)) == expected


def test_a_window_that_ends_within_the_hour_shown_twice_comes_twice() -> None:
    """The clock decides, and it shows 02:15 twice."""
    zone, quiet = "Europe/Berlin", QuietHours(start="22:00", end="02:30")
    first_ms = instant_of("2026-10-25T02:00", zone)
    assert quiet_until_ms(quiet, zone, first_ms) == first_ms + 30 * MINUTE_MS
    assert quiet_until_ms(quiet, zone, first_ms + 45 * MINUTE_MS) == 0
    assert quiet_until_ms(quiet, zone, first_ms + HOUR_MS) == first_ms + 90 * MINUTE_MS


def test_windows_are_listed_in_order() -> None:
    """The dry run shows them; one that has begun already begins now."""
    zone, quiet = "Europe/Berlin", QuietHours(start="22:00", end="07:00", weekdays=[4, 6])
    now_ms = instant_of("2026-11-27T23:00", zone)
    found = [
        (local_text(begin_ms, zone)[:16], local_text(end_ms, zone)[:16])
        for begin_ms, end_ms in quiet_windows(quiet, zone, now_ms, now_ms + 7 * DAY_MS)
    ]
    assert found == [
        ("2026-11-27T23:00", "2026-11-28T07:00"),
        ("2026-11-29T22:00", "2026-11-30T07:00"),
        ("2026-12-04T22:00", "2026-12-05T07:00"),
    ]
    assert list(quiet_windows(QuietHours(start="08:00", end="08:00"), zone, 0, DAY_MS)) == []
