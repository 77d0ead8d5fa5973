"""The dry run shows what the scheduler does, and leaves the user's facts alone."""

from actors.notify.dry_run import Forecast, Held, Recurring, next_days
from actors.notify.facts import HOUR_MS, Facts, OpenGroup, UserFacts
from actors.notify.local_time import instant_of
from protocol.notify_types import AppRules, Preferences, QuietHours, TypeRule

ZONE = "Europe/Berlin"
NOW_MS = instant_of("2026-03-27T20:00", ZONE)  # the clock leaps on Sunday, the 29th
RULES = {
    "order": TypeRule(name="order", channels=["apns"], dedup_s=86_400),
    "report": TypeRule(name="report", channels=["inapp", "email"]),
}
NIGHT = QuietHours(start="22:00", end="07:00")


def one(notification_id: int, type_name: str = "order") -> Facts:
    return Facts(
        notification_id=notification_id, app_id="app", user_id="ann", type=type_name, created_at_ms=NOW_MS
    )


def told(forecasts: list[Forecast], kind: str) -> list[tuple[str, list[int], list[str]]]:
    return [
        (forecast.local[:16], forecast.notification_ids, list(forecast.channels))
        for forecast in forecasts
        if forecast.kind == kind
    ]


def test_quiet_hours_of_the_week_are_shown_across_the_change_of_the_clock() -> None:
    """Seven nights; the one to Sunday lasts an hour less."""
    user = UserFacts(time_zone=ZONE, preferences=Preferences(quiet_hours=NIGHT))
    forecasts = next_days(user, AppRules(), RULES, [], [], NOW_MS)
    assert [forecast.kind for forecast in forecasts] == ["quiet"] * 7
    hours = [(forecast.until_ms - forecast.at_ms) / HOUR_MS for forecast in forecasts]
    assert hours == [9, 8, 9, 9, 9, 9, 9]
    assert forecasts[1].local == "2026-03-28T22:00+01:00"


def test_a_flood_at_seven_is_held_by_the_cap() -> None:
    """Held by the night, five are due at once, and two an hour may go; their order is kept."""
    user = UserFacts(time_zone=ZONE, preferences=Preferences(quiet_hours=NIGHT), sent_at_ms=[NOW_MS])
    seven_ms = instant_of("2026-03-28T07:00", ZONE)
    held = [Held(facts=one(number), due_at_ms=seven_ms, held_by="quiet_hours") for number in (1, 2, 3, 4, 5)]
    forecasts = next_days(user, AppRules(cap_per_hour=2), RULES, held, [], NOW_MS)
    assert told(forecasts, "send") == [
        ("2026-03-28T07:00", [1], ["apns"]),
        ("2026-03-28T07:00", [2], ["apns"]),
        ("2026-03-28T08:00", [3], ["apns"]),
        ("2026-03-28T08:00", [4], ["apns"]),
        ("2026-03-28T09:00", [5], ["apns"]),
    ]
    waits = [forecast for forecast in forecasts if forecast.kind == "hold"]
    assert waits
    assert all(forecast.why[-1].stage == "cap" and forecast.reason for forecast in waits)
    assert user.sent_at_ms == [NOW_MS]


def test_what_recurs_comes_every_day_also_on_one_of_23_hours() -> None:
    """The same words each day are no duplicates, and times are the user's."""
    user = UserFacts(time_zone=ZONE)
    template = Recurring(facts=one(0), cron="30 9 * * *")
    forecasts = next_days(user, AppRules(), RULES, [], [template], NOW_MS, days=4)
    days = ["2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31"]
    assert told(forecasts, "send") == [(f"{day}T09:30", [], ["apns"]) for day in days]
    assert {forecast.local[16:] for forecast in forecasts} == {"+01:00", "+02:00"}


def test_what_recurs_comes_no_more_once_it_has_ended() -> None:
    """An instant that is the end is too late."""
    ends_at_ms = instant_of("2026-03-30T09:30", ZONE)
    template = Recurring(facts=one(0), cron="30 9 * * *", zone=ZONE, ends_at_ms=ends_at_ms)
    forecasts = next_days(UserFacts(time_zone=ZONE), AppRules(), RULES, [], [template], NOW_MS, days=4)
    assert [forecast.local[:10] for forecast in forecasts] == ["2026-03-28", "2026-03-29"]


def test_a_digest_gathers_what_is_held_and_what_recurs() -> None:
    """In-app comes at once; the digest is the one that is open, and then the next day's."""
    preferences = Preferences(frequency="daily", digest_at="18:00")
    due_ms = instant_of("2026-03-28T18:00", ZONE)
    user = UserFacts(
        time_zone=ZONE, preferences=preferences, open_groups={"digest:daily": OpenGroup(1, due_ms, 2)}
    )
    held = [
        Held(facts=one(number, "report"), due_at_ms=due_ms, group="digest:daily", held_by="digest")
        for number in (1, 2)
    ]
    template = Recurring(facts=one(0, "report"), cron="0 12 * * *", zone="UTC")
    forecasts = next_days(user, AppRules(), RULES, held, [template], NOW_MS, days=2)
    assert told(forecasts, "send") == [
        ("2026-03-28T13:00", [], ["inapp"]),
        ("2026-03-28T18:00", [1, 2], ["email"]),
        ("2026-03-29T14:00", [], ["inapp"]),
        ("2026-03-29T18:00", [], ["email"]),
    ]
    digest = next(forecast for forecast in forecasts if forecast.notification_ids)
    assert (digest.group, digest.types) == ("digest:daily", ["report"])
    assert user.open_groups["digest:daily"].count == 2


def test_a_held_one_that_consent_or_its_end_forbids_is_shown_as_dropped() -> None:
    """The reason is shown, as `explain` would."""
    rules = {"order": TypeRule(name="order", channels=["apns"], ttl_s=3_600)}
    held = [Held(facts=one(1), due_at_ms=NOW_MS + 2 * HOUR_MS, held_by="cap")]
    (forecast,) = next_days(UserFacts(), AppRules(), rules, held, [], NOW_MS)
    assert (forecast.kind, forecast.reason, forecast.notification_ids) == ("drop", "expired", [1])


def test_it_ends_however_often_something_recurs() -> None:
    """A thousand forecasts are more than anybody reads."""
    template = Recurring(facts=one(0), cron="* * * * *")
    app = AppRules(cap_per_hour=1)
    forecasts = next_days(UserFacts(), app, RULES, [], [template, template], NOW_MS, days=10_000)
    assert len(forecasts) == 1_000
    assert [forecast.at_ms - NOW_MS for forecast in forecasts[:4]] == [60_000, 60_000, 120_000, 120_000]
