"""The scheduler's precedence, line by line: each line by itself, and each against the lines below it."""

import msgspec
import pytest

from actors.notify.facts import HOUR_MS, Facts, OpenGroup, UserFacts, dedup_key
from actors.notify.local_time import instant_of, local_text
from actors.notify.scheduler import EXPIRES_BEFORE, schedule
from actors.notify.verdict import Verdict
from protocol.notify_types import (
    AppRules,
    Channel,
    Consent,
    Frequency,
    Preferences,
    QuietHours,
    TypePreference,
    TypeRule,
)

ZONE = "Europe/Berlin"
NOON_MS = instant_of("2026-11-27T12:00", ZONE)
NIGHT_MS = instant_of("2026-11-27T23:00", ZONE)
NIGHT = QuietHours(start="22:00", end="07:00")
APP = AppRules()


def facts(
    notification_id: int = 1,
    *,
    created_at_ms: int = NOON_MS,
    send_at_ms: int = 0,
    expires_at_ms: int = 0,
    batch_key: str = "",
    channels: list[Channel] | None = None,
    held_by: str | None = None,
) -> Facts:
    return Facts(
        notification_id=notification_id,
        app_id="app",
        user_id="ann",
        type="order",
        subject="42",
        content_hash="h",
        created_at_ms=created_at_ms,
        send_at_ms=send_at_ms,
        expires_at_ms=expires_at_ms,
        batch_key=batch_key,
        channels=channels or [],
        is_released=held_by is not None,
        held_by=held_by or "",
    )


def rule(**changes: object) -> TypeRule:
    """A type for push and in-app; `changes` are its fields."""
    return msgspec.structs.replace(TypeRule(name="order", channels=["inapp", "apns"]), **changes)


def user(
    preferences: Preferences | None = None,
    *,
    sent: list[int] | None = None,
    recent: dict[str, tuple[int, int]] | None = None,
    consents: list[Consent] | None = None,
    groups: dict[str, OpenGroup] | None = None,
) -> UserFacts:
    return UserFacts(
        time_zone=ZONE,
        preferences=preferences or Preferences(),
        consents={consent.purpose: consent for consent in consents or []},
        sent_at_ms=sent or [],
        recent=recent or {},
        open_groups=groups or {},
    )


def due(verdict: Verdict) -> str:
    assert verdict.kind == "hold"
    return local_text(verdict.due_at_ms, ZONE)[:16]


SEEN = {dedup_key(facts()): (7, NOON_MS - 1)}
FULL = [NOON_MS - HOUR_MS + 60_000 * minute for minute in range(1, 11)]


# 1: deduplicate


def test_the_same_content_within_the_window_is_dropped() -> None:
    """The 24 h are kept to the millisecond, and the first one is named."""
    again = schedule(facts(), rule(), user(recent=SEEN), APP, NOON_MS)
    assert (again.kind, again.stage, again.reason) == ("drop", "deduplicate", "a duplicate of 7")
    last_ms, next_ms = NOON_MS - 2 + 86_400_000, NOON_MS - 1 + 86_400_000
    assert schedule(facts(), rule(), user(recent=SEEN), APP, last_ms).kind == "drop"
    assert schedule(facts(), rule(), user(recent=SEEN), APP, next_ms).kind == "send"


def test_a_notification_is_no_duplicate_of_itself() -> None:
    """After a crash it may come before the scheduler again."""
    assert schedule(facts(7), rule(), user(recent=SEEN), APP, NOON_MS).kind == "send"


@pytest.mark.parametrize("field", ["app_id", "user_id", "type", "subject", "content_hash"])
def test_each_part_of_the_key_makes_another(field: str) -> None:
    """Also where parts are moved from one to the next."""
    other = msgspec.structs.replace(facts(), **{field: "x"})
    assert dedup_key(other) != dedup_key(facts())
    moved = msgspec.structs.replace(facts(), content_hash="h\0", subject="42")
    assert dedup_key(moved) != dedup_key(msgspec.structs.replace(facts(), content_hash="h", subject="\x0042"))


def test_a_type_without_a_window_has_no_duplicates() -> None:
    """Nor has what says nothing of its own, as a digest."""
    assert schedule(facts(), rule(dedup_s=0), user(recent=SEEN), APP, NOON_MS).kind == "send"
    empty = msgspec.structs.replace(facts(), content_hash="")
    seen = {dedup_key(empty): (7, NOON_MS - 1)}
    assert schedule(empty, rule(), user(recent=seen), APP, NOON_MS).kind == "send"


def test_what_was_held_is_a_duplicate_of_what_was_told_meanwhile() -> None:
    """Nobody is told twice because one of the two had to wait; of two that wait, the first is told."""
    released = facts(8, held_by="quiet_hours")
    again = schedule(released, rule(), user(recent=SEEN), APP, NOON_MS)
    assert (again.stage, again.reason) == ("deduplicate", "a duplicate of 7")
    ann = user()
    ann.planned[dedup_key(facts())] = (7, NOON_MS + 1)
    assert schedule(released, rule(), ann, APP, NOON_MS).kind == "send"
    assert schedule(released, rule(), ann, APP, NOON_MS + 1).reason == "a duplicate of 7"


def test_the_same_for_two_days_is_told_on_both() -> None:
    """A reminder that is scheduled a week ahead, day by day, is no duplicate of itself."""
    ann = user()
    for day in (1, 2):
        one = facts(day, send_at_ms=NOON_MS + day * 24 * HOUR_MS)
        verdict = schedule(one, rule(), ann, APP, NOON_MS)
        assert (verdict.kind, verdict.stage) == ("hold", "schedule")
        ann.note(one, verdict, NOON_MS)
    near = facts(3, send_at_ms=NOON_MS + 48 * HOUR_MS + 1)
    assert schedule(near, rule(), ann, APP, NOON_MS).reason == "a duplicate of 2"
    for day in (1, 2):
        now_ms = NOON_MS + day * 24 * HOUR_MS
        one = facts(day, held_by="schedule")
        verdict = schedule(one, rule(), ann, APP, now_ms)
        assert verdict.kind == "send"
        ann.note(one, verdict, now_ms)
        assert schedule(facts(4), rule(), ann, APP, now_ms + 1).reason == f"a duplicate of {day}"


def test_what_was_dropped_makes_no_duplicate() -> None:
    """A user who gives consent now hears what had been refused."""
    ann = user()
    refused = schedule(facts(1), rule(purpose="marketing"), ann, APP, NOON_MS)
    ann.note(facts(1), refused, NOON_MS)
    ann.consents["marketing"] = Consent(purpose="marketing")
    taken = schedule(facts(2), rule(purpose="marketing"), ann, APP, NOON_MS)
    assert (refused.kind, taken.kind) == ("drop", "send")
    ann.note(facts(2), taken, NOON_MS)
    assert schedule(facts(3), rule(purpose="marketing"), ann, APP, NOON_MS).reason == "a duplicate of 2"


# 2: consent


def test_without_consent_nothing_is_sent_and_security_is_no_exception() -> None:
    """Consent is law, not taste."""
    for is_security in (False, True):
        needing = rule(purpose="marketing", is_security=is_security)
        verdict = schedule(facts(), needing, user(), APP, NOON_MS)
        assert (verdict.kind, verdict.stage) == ("drop", "consent")


def test_consent_ends_at_its_end() -> None:
    """Up to the millisecond before, and also for what has been held meanwhile."""
    ann = user(consents=[Consent(purpose="marketing", ends_at_ms=NOON_MS)])
    needing = rule(purpose="marketing")
    assert schedule(facts(), needing, ann, APP, NOON_MS - 1).kind == "send"
    for held_by in (None, "digest", "schedule"):
        verdict = schedule(facts(held_by=held_by), needing, ann, APP, NOON_MS)
        assert verdict.reason == "the consent to marketing ended"


# 3: preferences


@pytest.mark.parametrize(
    ("general", "of_type", "expected"),
    [
        ({}, {}, ["inapp", "apns"]),
        ({"apns": False}, {}, ["inapp"]),
        ({"apns": False}, {"apns": True}, ["inapp", "apns"]),
        ({"apns": True}, {"apns": False}, ["inapp"]),
        ({"inapp": False}, {"apns": False}, []),
        ({"email": False}, {"sms": False}, ["inapp", "apns"]),
    ],
)
def test_a_types_own_choice_beats_the_general_one(
    general: dict[Channel, bool], of_type: dict[Channel, bool], expected: list[Channel]
) -> None:
    """Channel by channel."""
    ann = user(Preferences(channels=general, types={"order": TypePreference(channels=of_type)}))
    verdict = schedule(facts(), rule(), ann, APP, NOON_MS)
    assert verdict.channels == expected
    assert (verdict.kind, verdict.stage) == (("send", "") if expected else ("drop", "preferences"))


def test_off_leaves_in_app_only_to_those_who_said_yes_to_it() -> None:
    """Off is off; the inbox alone may be asked for."""
    off = Preferences(types={"order": TypePreference(frequency="off")})
    verdict = schedule(facts(), rule(), user(off), APP, NOON_MS)
    assert (verdict.kind, verdict.reason) == ("drop", "the user switched it off")
    for chosen in (
        Preferences(channels={"inapp": True}, types=off.types),
        Preferences(types={"order": TypePreference(frequency="off", channels={"inapp": True})}),
    ):
        verdict = schedule(facts(), rule(), user(chosen), APP, NOON_MS)
        assert (verdict.kind, verdict.channels, verdict.is_counted) == ("send", ["inapp"], False)


def test_a_types_own_frequency_beats_the_general_one() -> None:
    """One may want a digest of everything, and orders at once."""
    at_once = TypePreference(frequency="immediate")
    ann = user(Preferences(frequency="off", types={"order": at_once}))
    assert schedule(facts(), rule(), ann, APP, NOON_MS).kind == "send"


def test_security_is_above_preferences() -> None:
    """A one-time code comes also to those who have switched everything off."""
    ann = user(Preferences(frequency="off", channels={"apns": False, "inapp": False}))
    verdict = schedule(facts(), rule(is_security=True), ann, APP, NOON_MS)
    assert (verdict.kind, verdict.channels) == ("send", ["inapp", "apns"])


def test_the_request_names_channels_in_place_of_the_type_and_the_fallback_obeys_too() -> None:
    """The fallback is for the caller; the user's choice holds for it as well."""
    ann = user(Preferences(channels={"sms": False}))
    wanting = rule(fallback=["sms", "email"])
    verdict = schedule(facts(channels=["fcm"]), wanting, ann, APP, NOON_MS)
    assert (verdict.channels, verdict.fallback) == (["fcm"], ["email"])


# 4: expiry


def test_the_earlier_of_both_ends_counts() -> None:
    """The request's `expires_at_ms` and the type's `ttl_s`, each to the millisecond."""
    for request, ttl_s in ((NOON_MS + 60_000, 0), (0, 60), (NOON_MS + 60_000, 120), (NOON_MS + 120_000, 60)):
        one = facts(expires_at_ms=request)
        assert schedule(one, rule(ttl_s=ttl_s), user(), APP, NOON_MS + 59_999).kind == "send"
        verdict = schedule(one, rule(ttl_s=ttl_s), user(), APP, NOON_MS + 60_000)
        assert (verdict.kind, verdict.stage, verdict.reason) == ("drop", "expiry", "expired")


# 5: schedule


def test_what_is_for_later_waits_in_app_as_well_and_is_asked_anew() -> None:
    """Its time is kept as it is; the night and the digest are asked when it has come."""
    later = facts(send_at_ms=NIGHT_MS)
    ann = user(Preferences(quiet_hours=NIGHT))
    verdict = schedule(later, rule(), ann, APP, NOON_MS)
    assert (due(verdict), verdict.stage) == ("2026-11-27T23:00", "schedule")
    assert (verdict.channels, verdict.inapp_now) == ([], False)
    released = msgspec.structs.replace(later, is_released=True, held_by=verdict.stage)
    verdict = schedule(released, rule(), ann, APP, NIGHT_MS)
    assert (due(verdict), verdict.channels) == ("2026-11-28T07:00", ["inapp"])
    ann.preferences = Preferences(frequency="daily")
    assert schedule(released, rule(), ann, APP, NIGHT_MS).group == "digest:daily"


# 6: digest


@pytest.mark.parametrize(
    ("preferences", "group", "expected"),
    [
        (Preferences(frequency="daily"), "digest:daily", "2026-11-28T09:00"),
        (Preferences(frequency="daily", digest_at="12:01"), "digest:daily", "2026-11-27T12:01"),
        (Preferences(frequency="weekly"), "digest:weekly", "2026-11-30T09:00"),
        (Preferences(frequency="weekly", digest_weekday=4), "digest:weekly", "2026-12-04T09:00"),
        # A digest in quiet hours waits for their end.
        (
            Preferences(frequency="daily", digest_at="06:00", quiet_hours=NIGHT),
            "digest:daily",
            "2026-11-28T07:00",
        ),
    ],
)
def test_a_digest_is_due_at_the_users_time(preferences: Preferences, group: str, expected: str) -> None:
    """In-app it is delivered at once."""
    verdict = schedule(facts(), rule(), user(preferences), APP, NOON_MS)
    assert (verdict.group, due(verdict), verdict.stage) == (group, expected, "digest")
    assert (verdict.channels, verdict.held_channels, verdict.inapp_now) == (["inapp"], ["apns"], True)


# 7: batch


def test_the_first_opens_a_batch_and_others_join_it() -> None:
    """The window is not moved by those that join."""
    batching, ann = rule(batch_window_s=300, dedup_s=0), user()
    for minute in range(5):
        now_ms = NOON_MS + minute * 60_000
        verdict = schedule(facts(minute, batch_key="post-1"), batching, ann, APP, now_ms)
        assert (verdict.group, due(verdict)) == ("batch:order:post-1", "2026-11-27T12:05")
        ann.note(facts(minute, batch_key="post-1"), verdict, now_ms)
    assert ann.open_groups["batch:order:post-1"].count == 5
    after = schedule(facts(9, batch_key="post-1"), batching, ann, APP, NOON_MS + 300_000)
    assert due(after) == "2026-11-27T12:10"
    assert schedule(facts(9), batching, ann, APP, NOON_MS).kind == "send"  # without a key


# 8: quiet hours


def test_the_night_holds_all_but_security_and_in_app() -> None:
    """Until it ends by the user's clock; priority alone does not wake anybody."""
    ann = user(Preferences(quiet_hours=NIGHT))
    verdict = schedule(facts(), rule(priority="high"), ann, APP, NIGHT_MS)
    assert (due(verdict), verdict.stage) == ("2026-11-28T07:00", "quiet_hours")
    assert (verdict.channels, verdict.held_channels) == (["inapp"], ["apns"])
    assert schedule(facts(), rule(is_security=True), ann, APP, NIGHT_MS).channels == ["inapp", "apns"]
    assert schedule(facts(channels=["inapp"]), rule(), ann, APP, NIGHT_MS).kind == "send"


def test_the_zone_is_the_users_then_the_apps_then_utc() -> None:
    """At 23:00 in Berlin it is noon in Honolulu, and 22:00 in UTC."""
    for zone, default, kind in (
        ("Pacific/Honolulu", ZONE, "send"),
        ("Nowhere/Land", "Pacific/Honolulu", "send"),
        ("", ZONE, "hold"),
        ("", "Nowhere/Land", "hold"),
    ):
        ann = user(Preferences(quiet_hours=NIGHT))
        ann.time_zone = zone
        app = AppRules(default_time_zone=default)
        assert schedule(facts(), rule(), ann, app, NIGHT_MS).kind == kind


# 9: the cap


def test_over_the_cap_it_waits_until_the_oldest_has_left_the_hour() -> None:
    """The oldest of the last ten, however many are remembered."""
    verdict = schedule(facts(), rule(), user(sent=FULL), APP, NOON_MS)
    assert (due(verdict), verdict.stage, verdict.group) == ("2026-11-27T12:01", "cap", "")
    verdict = schedule(facts(), rule(), user(sent=[1, 2, 3, *FULL]), APP, NOON_MS)
    assert due(verdict) == "2026-11-27T12:01"
    assert schedule(facts(), rule(), user(sent=FULL), APP, NOON_MS + 60_000).kind == "send"


def test_over_the_cap_it_may_wait_for_the_next_hours_digest() -> None:
    """At a full hour by which there is a place; what was released waits for a place by itself."""
    digesting = AppRules(over_cap="digest")
    verdict = schedule(facts(), rule(), user(sent=FULL), digesting, NOON_MS)
    assert (verdict.group, due(verdict)) == ("digest:cap", "2026-11-27T13:00")
    released = schedule(facts(held_by="cap"), rule(), user(sent=FULL), digesting, NOON_MS)
    assert (released.group, due(released)) == ("", "2026-11-27T12:01")


def test_security_and_uncapped_types_neither_wait_nor_count() -> None:
    """A code comes also after ten comments, and ten codes leave room for a comment."""
    for kind in (rule(is_security=True), rule(is_capped=False)):
        verdict = schedule(facts(), kind, user(sent=FULL), APP, NOON_MS)
        assert (verdict.kind, verdict.is_counted) == ("send", False)
    assert schedule(facts(), rule(), user(), APP, NOON_MS).is_counted
    assert not schedule(facts(channels=["inapp"]), rule(), user(), APP, NOON_MS).is_counted
    assert not schedule(facts(), rule(), user(), AppRules(cap_per_hour=0), NOON_MS).is_counted


def test_the_end_of_the_night_and_the_cap_hold_at_once() -> None:
    """The night ends at 12:30 and there is no place before 13:20; then it is quiet again until 14:00."""
    quiet = QuietHours(start="11:30", end="12:30")
    sent = [NOON_MS + 60_000 * (20 + minute) for minute in range(10)]
    now_ms = NOON_MS + 29 * 60_000
    verdict = schedule(facts(), rule(), user(Preferences(quiet_hours=quiet), sent=sent), APP, now_ms)
    assert (due(verdict), verdict.stage) == ("2026-11-27T13:20", "quiet_hours")
    siesta = QuietHours(start="13:00", end="14:00")
    verdict = schedule(facts(), rule(), user(Preferences(quiet_hours=siesta), sent=sent), APP, now_ms)
    assert (due(verdict), verdict.stage) == ("2026-11-27T14:00", "cap")


# What expires before it is due


@pytest.mark.parametrize(
    ("preferences", "changes", "batch_key", "send_at_ms", "sent"),
    [
        (Preferences(), {}, "", NOON_MS + HOUR_MS, []),
        (Preferences(frequency="daily"), {}, "", 0, []),
        (Preferences(), {"batch_window_s": 3_600}, "k", 0, []),
        (Preferences(quiet_hours=QuietHours(start="11:00", end="13:00")), {}, "", 0, []),
        (Preferences(), {}, "", 0, [NOON_MS] * 10),
    ],
    ids=["schedule", "digest", "batch", "quiet_hours", "cap"],
)
def test_what_expires_before_it_is_due_is_dropped_but_for_in_app(
    preferences: Preferences, changes: dict[str, object], batch_key: str, send_at_ms: int, sent: list[int]
) -> None:
    """That it will have expired is known now. In-app does not wait, unless for the schedule."""
    ann = user(preferences, sent=sent)
    one = facts(expires_at_ms=NOON_MS + 60_000, send_at_ms=send_at_ms, batch_key=batch_key)
    verdict = schedule(one, rule(**changes), ann, APP, NOON_MS)
    assert verdict.reason == EXPIRES_BEFORE
    assert (verdict.kind, verdict.channels) == (("drop", []) if send_at_ms else ("send", ["inapp"]))
    assert not verdict.is_counted
    verdict = schedule(one, rule(**changes, channels=["apns"]), ann, APP, NOON_MS)
    assert (verdict.kind, verdict.stage, verdict.reason) == ("drop", "expiry", EXPIRES_BEFORE)


def test_an_end_at_the_due_time_is_too_early_and_a_millisecond_later_is_not() -> None:
    """To the millisecond, as the end itself is."""
    ann = user(sent=[NOON_MS - HOUR_MS + 1] * 10)
    for expires_at_ms, kind in ((NOON_MS + 1, "drop"), (NOON_MS + 2, "hold")):
        one = facts(expires_at_ms=expires_at_ms, channels=["apns"])
        assert schedule(one, rule(), ann, APP, NOON_MS).kind == kind
    assert schedule(facts(channels=["apns"]), rule(), ann, APP, NOON_MS + 1).kind == "send"


# What is released


def test_what_is_released_is_past_digest_and_batch_and_without_its_in_app_copy() -> None:
    """Consent, preferences, expiry, the night and the cap are asked again."""
    daily = Preferences(frequency="daily")
    batching = rule(batch_window_s=300)
    one = facts(batch_key="k", held_by="digest")
    verdict = schedule(one, batching, user(daily), APP, NOON_MS)
    assert (verdict.kind, verdict.channels, verdict.inapp_now) == ("send", ["apns"], False)
    assert schedule(one, rule(purpose="p"), user(daily), APP, NOON_MS).stage == "consent"
    no_push = Preferences(channels={"apns": False})
    assert schedule(one, rule(), user(no_push), APP, NOON_MS).stage == "preferences"
    night = user(Preferences(quiet_hours=NIGHT))
    assert due(schedule(one, rule(), night, APP, NIGHT_MS)) == "2026-11-28T07:00"
    assert schedule(one, rule(ttl_s=60), user(), APP, NIGHT_MS).reason == "expired"
    assert schedule(one, rule(), user(sent=FULL), APP, NOON_MS).stage == "cap"


# The precedence itself

LINES = [
    "deduplicate",
    "consent",
    "preferences",
    "expiry",
    "schedule",
    "digest",
    "batch",
    "quiet_hours",
    "cap",
]


def everything_from(line: int) -> Verdict:
    """Decide about one for which every line from `line` on has something to say, and none above."""

    def is_in(stage: str) -> bool:
        return LINES.index(stage) >= line

    frequency: Frequency = "daily" if is_in("digest") else "immediate"
    preferences = Preferences(
        channels={"inapp": False, "apns": False} if is_in("preferences") else {},
        frequency=frequency,
        quiet_hours=QuietHours(start="11:00", end="13:00") if is_in("quiet_hours") else None,
    )
    one = facts(
        expires_at_ms=NOON_MS if is_in("expiry") else 0,
        send_at_ms=NOON_MS + 1 if is_in("schedule") else 0,
        batch_key="k" if is_in("batch") else "",
    )
    ann = user(preferences, sent=FULL, recent=SEEN if is_in("deduplicate") else {})
    kind = rule(batch_window_s=60, purpose="p" if is_in("consent") else "")
    return schedule(one, kind, ann, APP, NOON_MS)


@pytest.mark.parametrize("line", range(len(LINES)), ids=LINES)
def test_the_first_line_that_has_something_to_say_decides(line: int) -> None:
    """The table in the scheduler's docstring, from top to bottom."""
    verdict = everything_from(line)
    assert verdict.stage == LINES[line]
    assert verdict.kind == ("drop" if line < LINES.index("schedule") else "hold")
    last = verdict.decisions[-1]
    assert (last.stage, last.outcome) == (LINES[line], verdict.kind)
