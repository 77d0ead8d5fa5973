"""Cron expressions by the user's clock, against a plain model that looks at every minute."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.notify.facts import Facts, dedup_key
from actors.notify.local_time import instant_of, local_text
from actors.notify.recurrence import check_cron, next_cron_ms, occurrence
from protocol.errors import ProtocolError
from tests.actors.notify.clocks import (
    DAY_MS,
    DAYS,
    FIRST_MS,
    MINUTE_MS,
    all_zones,
    clock_changes,
    minutes,
    wall,
)

BERLIN = "Europe/Berlin"
minute_sets = st.sets(st.sampled_from([0, 1, 15, 30, 45, 59]), min_size=1)
hour_sets = st.sets(st.sampled_from([0, 1, 2, 3, 4, 12, 23]), min_size=1)


def listed(numbers: set[int]) -> str:
    return ",".join(str(number) for number in sorted(numbers))


@pytest.mark.timeout(600)  # the long form looks at every minute 5,000 times
@given(
    change=st.sampled_from(clock_changes()), mins=minute_sets, hours=hour_sets, after=st.integers(0, 2_880)
)
def test_named_times_come_once_a_day_where_the_clock_is_changed(
    change: tuple[str, int], mins: set[int], hours: set[int], after: int
) -> None:
    """A report at 02:30 is neither left out in spring nor sent twice in autumn."""
    zone, near_ms = change
    after_ms = near_ms + after * MINUTE_MS + 1
    wanted = wall(zone, near_ms - 2 * DAY_MS).replace(minute=0, second=0)
    due: list[int] = []
    for at_ms in minutes(near_ms - 2 * DAY_MS, after_ms + 2 * DAY_MS):
        while wall(zone, at_ms) >= wanted:  # shown for the first time, or leapt over
            if wanted.minute in mins and wanted.hour in hours:
                due.append(at_ms)
            wanted += timedelta(minutes=1)
    expected = next(at_ms for at_ms in due if at_ms > after_ms)
    assert next_cron_ms(f"{listed(mins)} {listed(hours)} * * *", zone, after_ms) == expected


@pytest.mark.timeout(600)  # the long form looks at every minute 5,000 times
@given(
    change=st.sampled_from(clock_changes()),
    mins=minute_sets,
    hours=hour_sets,
    is_hourly=st.booleans(),
    after=st.integers(0, 2_880),
)
def test_starred_times_follow_the_clock_where_it_is_changed(
    change: tuple[str, int], mins: set[int], hours: set[int], is_hourly: bool, after: int
) -> None:
    """Every quarter of an hour: also in the hour that is shown twice, and not in one that is leapt over."""
    zone, near_ms = change
    after_ms = near_ms + after * MINUTE_MS

    def is_due(shown: datetime) -> bool:
        return shown.minute in mins if is_hourly else shown.minute % 15 == 0 and shown.hour in hours

    expected = next(
        at_ms for at_ms in minutes(after_ms + 1, after_ms + 3 * DAY_MS) if is_due(wall(zone, at_ms))
    )
    expression = f"{listed(mins)} * * * *" if is_hourly else f"*/15 {listed(hours)} * * *"
    assert next_cron_ms(expression, zone, after_ms) == expected


@given(
    zone=st.sampled_from(all_zones()),
    minute=st.integers(0, DAYS * 1_440),
    days=st.sets(st.integers(0, 6), min_size=1),
    month=st.integers(1, 12),
)
def test_days_are_those_of_the_users_calendar(zone: str, minute: int, days: set[int], month: int) -> None:
    """Weekdays and months, in zones whose day is another than UTC's."""
    after_ms = FIRST_MS + minute * MINUTE_MS
    at_ms = next_cron_ms(f"0 12 * {month} {listed(days)}", zone, after_ms)
    shown = wall(zone, at_ms)
    assert (shown.hour, shown.minute, shown.month) == (12, 0, month)
    assert (shown.weekday() + 1) % 7 in days
    day = wall(zone, after_ms)
    while (day := day + timedelta(days=1)).date() < shown.date():
        assert day.month != month or (day.weekday() + 1) % 7 not in days


@pytest.mark.parametrize(
    "expression", ["* * * * *", "0 * * * *", "30 2 * * *", "0 0 1 1 *", "0 0 29 2 *", "0 9 * * 1#1"]
)
def test_occurrences_rise_and_lie_on_full_minutes(expression: str) -> None:
    """The caller asks again with the last answer, and at most one comes a minute."""
    at_ms = FIRST_MS + 17
    for _ in range(60):
        next_ms = next_cron_ms(expression, BERLIN, at_ms)
        assert next_ms > at_ms
        assert next_ms % MINUTE_MS == 0
        at_ms = next_ms


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 9 * * 1-5", "2026-11-27T09:00", "2026-11-30T09:00+01:00"),
        ("30 2 * * *", "2026-03-29T01:00", "2026-03-29T03:00+02:00"),
        ("30 2 * * *", "2026-10-25T02:30", "2026-10-26T02:30+01:00"),
        ("0 0 L * *", "2026-11-27T09:00", "2026-11-30T00:00+01:00"),
        ("0 9 13 * 5", "2026-11-27T09:00", "2026-12-04T09:00+01:00"),  # the 13th, or a Friday
    ],
)
def test_known_cases(expression: str, after: str, expected: str) -> None:
    """Cases that a person can check by hand."""
    assert local_text(next_cron_ms(expression, BERLIN, instant_of(after, BERLIN)), BERLIN) == expected


def test_the_second_showing_of_an_hour_does_not_go_back() -> None:
    """Asked in the hour's second showing, the answer is not in its first."""
    after_ms = instant_of("2026-10-25T02:15", BERLIN) + 3_600_000
    assert local_text(after_ms, BERLIN) == "2026-10-25T02:15+01:00"
    assert local_text(next_cron_ms("30 2 * * *", BERLIN, after_ms), BERLIN) == "2026-10-26T02:30+01:00"
    assert local_text(next_cron_ms("30 * * * *", BERLIN, after_ms), BERLIN) == "2026-10-25T02:30+01:00"


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("0 * * * * *", "once a minute"),
        ("@daily", "0 0 * * *"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day-of-month"),
        ("* * * 13 *", "month"),
        ("* * * * 9", "day-of-week"),
        ("*/0 * * * *", "minute"),
        ("0 0 30 2 *", "day-of-month"),
        ("a b c d e", "minute"),
        ("² * * * *", "minute"),
        ("* * * * L/2", "cron expression"),
        ("* * * * 1L/2", "cron expression"),
        ("* * * * 1#2,3L/3", "cron expression"),
        ("* " * 60, "characters"),
        ("9" * 90 + " * * * *", "minute"),
    ],
)
def test_a_bad_expression_is_told_in_a_sentence(expression: str, hint: str) -> None:
    """Apps write them by hand; nothing but bad_field comes out, whatever goes in."""
    with pytest.raises(ProtocolError) as caught:
        check_cron(expression)
    assert caught.value.code == "bad_field"
    assert hint in caught.value.message


@given(
    st.lists(st.text("0123456789*/,-#LWMONJAN", min_size=1, max_size=6), min_size=5, max_size=5).map(" ".join)
    | st.text(max_size=30)
)
def test_no_expression_raises_anything_else(expression: str) -> None:
    """What `check_cron` lets through has a next time, or none within 50 years."""
    try:
        check_cron(expression)
    except ProtocolError as exc:
        assert exc.code == "bad_field"
    else:
        assert next_cron_ms(expression, BERLIN, FIRST_MS) >= 0


def test_an_occurrence_is_a_duplicate_of_itself_alone() -> None:
    """A crash may make one twice; tomorrow's has the same words and is another, also on a day of 23 hours."""
    template = Facts(
        notification_id=0,
        app_id="a",
        user_id="u",
        type="report",
        created_at_ms=0,
        expires_at_ms=5_000,
        content_hash="h",
    )
    today, again = occurrence(template, 7, DAY_MS), occurrence(template, 8, DAY_MS)
    assert dedup_key(today) == dedup_key(again) != dedup_key(occurrence(template, 9, 2 * DAY_MS))
    assert (today.created_at_ms, today.expires_at_ms) == (DAY_MS, DAY_MS + 5_000)
