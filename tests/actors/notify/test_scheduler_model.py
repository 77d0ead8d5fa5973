"""The scheduler over days and weeks: rule by rule against plain models, and all of them together."""

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.notify.facts import Facts, UserFacts
from actors.notify.local_time import instant_of
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
from tests.actors.notify.clocks import DAY_MS, HOUR_MS, MINUTE_MS, is_quiet, minutes, wall
from tests.actors.notify.notify_world import World

ZONES = ("Europe/Berlin", "Australia/Lord_Howe", "America/Santiago", "Asia/Kathmandu")
STARTS = (  # ordinary weeks, and weeks in which the clock is changed
    instant_of("2026-11-23T00:00", "UTC"),
    instant_of("2026-03-27T00:00", "UTC"),
    instant_of("2026-10-23T00:00", "UTC"),
    instant_of("2026-04-03T00:00", "UTC"),
    instant_of("2026-09-04T00:00", "UTC"),
)
nights = st.sampled_from(
    [
        None,
        QuietHours(start="22:00", end="07:00"),
        QuietHours(start="22:00", end="07:00", weekdays=[0, 1, 2, 3, 6]),
        QuietHours(start="01:00", end="02:30"),
        QuietHours(start="12:00", end="13:00"),
        QuietHours(start="07:00", end="22:00"),
    ]
)
# Bursts and silences: gaps in minutes between one arrival and the next.
gaps = st.lists(st.sampled_from([0, 0, 0, 1, 1, 7, 30, 61, 600, 1_500]), min_size=1, max_size=60)


def arrivals(start_ms: int, gaps_min: list[int]) -> list[int]:
    times, at_ms = [], start_ms
    for gap in gaps_min:
        at_ms += gap * MINUTE_MS
        times.append(at_ms)
    return times


def one(number: int, at_ms: int, type_name: str = "t", **changes: int | str) -> Facts:
    return Facts(
        notification_id=number,
        app_id="app",
        user_id="ann",
        type=type_name,
        created_at_ms=at_ms,
        content_hash=str(changes.get("content_hash", number)),
        send_at_ms=int(changes.get("send_at_ms", 0)),
        expires_at_ms=int(changes.get("expires_at_ms", 0)),
        batch_key=str(changes.get("batch_key", "")),
    )


def run(world: World, times: list[int], type_name: str = "t", **changes: int | str) -> World:
    for number, at_ms in enumerate(times):
        world.arrive(one(number, at_ms, type_name, **changes), at_ms)
    world.finish()
    return world


@given(
    zone=st.sampled_from(ZONES),
    start_ms=st.sampled_from(STARTS),
    night=nights,
    cap=st.integers(1, 5),
    gaps_min=gaps,
)
@settings(max_examples=40)
def test_the_cap_and_the_night_are_a_queue_that_loses_nothing(
    zone: str, start_ms: int, night: QuietHours | None, cap: int, gaps_min: list[int]
) -> None:
    """The model looks every minute whether the first in line may go. Times and order are the same."""
    times = arrivals(start_ms, gaps_min)
    user = UserFacts(time_zone=zone, preferences=Preferences(quiet_hours=night))
    world = run(World(user, AppRules(cap_per_hour=cap), {"t": TypeRule(name="t", channels=["apns"])}), times)

    waiting: list[int] = []
    sent: list[tuple[int, int]] = []
    for at_ms in minutes(start_ms, times[-1] + 30 * DAY_MS):
        while len(waiting) + len(sent) < len(times) and times[len(waiting) + len(sent)] == at_ms:
            waiting.append(len(waiting) + len(sent))
        if not waiting and len(sent) == len(times):
            break
        while (
            waiting
            and sum(1 for sent_ms, _ in sent[-cap:] if sent_ms > at_ms - HOUR_MS) < cap
            and (night is None or not is_quiet(night, wall(zone, at_ms)))
        ):
            sent.append((at_ms, waiting.pop(0)))
    assert [(send.at_ms, send.ids[0]) for send in world.sent] == sent
    assert not world.dropped


@given(
    zone=st.sampled_from(ZONES),
    start_ms=st.sampled_from(STARTS),
    at=st.sampled_from([(9, 0), (2, 15), (0, 0)]),
    weekday=st.none() | st.integers(0, 6),
    gaps_min=gaps,
)
@settings(max_examples=30)
def test_each_digest_holds_what_came_since_the_last_one(
    zone: str, start_ms: int, at: tuple[int, int], weekday: int | None, gaps_min: list[int]
) -> None:
    """The model looks every minute whether the clock shows the time, or has just leapt over it."""
    times = arrivals(start_ms, gaps_min)
    preferences = Preferences(
        frequency="daily" if weekday is None else "weekly",
        digest_at="{:02}:{:02}".format(*at),
        digest_weekday=weekday or 0,
    )
    rules = {"t": TypeRule(name="t", channels=["inapp", "email"])}
    world = run(World(UserFacts(time_zone=zone, preferences=preferences), AppRules(), rules), times)

    digests: list[tuple[int, list[int]]] = []
    waiting: list[int] = []
    number, done_on = 0, None
    for at_ms in minutes(start_ms - DAY_MS, times[-1] + 9 * DAY_MS):
        shown = wall(zone, at_ms)
        if (shown.hour, shown.minute) >= at and shown.date() != done_on:
            done_on = shown.date()
            if waiting and (weekday is None or shown.weekday() == weekday):
                digests.append((at_ms, waiting))
                waiting = []
        while number < len(times) and times[number] == at_ms:
            waiting.append(number)
            number += 1
    assert [(send.at_ms, send.ids) for send in world.sent] == digests
    assert world.inapp_at_ms == dict(enumerate(times))


@given(
    gaps_s=st.lists(
        st.tuples(st.sampled_from([0, 1, 29, 30, 60, 240, 300]), st.sampled_from("abc")),
        min_size=1,
        max_size=60,
    ),
    window_s=st.sampled_from([60, 300, 3_600]),
)
def test_a_batch_holds_what_came_within_the_window_of_its_first(
    gaps_s: list[tuple[int, str]], window_s: int
) -> None:
    """By key: the first opens, later ones do not move the end, and what comes at the end opens the next."""
    world = World(
        UserFacts(),
        AppRules(cap_per_hour=0),
        {"t": TypeRule(name="t", channels=["apns"], batch_window_s=window_s)},
    )
    at_ms = STARTS[0]
    opened: dict[str, tuple[int, list[int]]] = {}
    expected: list[tuple[int, list[int]]] = []
    for number, (gap_s, key) in enumerate(gaps_s):
        at_ms += gap_s * 1_000
        world.arrive(one(number, at_ms, batch_key=key), at_ms)
        if key not in opened or opened[key][0] <= at_ms:
            opened[key] = (at_ms + window_s * 1_000, [])
            expected.append(opened[key])
        opened[key][1].append(number)
    world.finish()
    assert [(send.at_ms, send.ids) for send in world.sent] == sorted(expected)


ALL_CHANNELS: list[Channel] = ["inapp", "apns", "email"]
RULES = {
    "plain": TypeRule(name="plain", channels=ALL_CHANNELS),
    "code": TypeRule(name="code", channels=ALL_CHANNELS, is_security=True, dedup_s=0),
    "free": TypeRule(name="free", channels=ALL_CHANNELS, is_capped=False),
    "likes": TypeRule(name="likes", channels=ALL_CHANNELS, batch_window_s=600),
    "offer": TypeRule(name="offer", channels=["email"], purpose="marketing", ttl_s=7_200),
    "push": TypeRule(name="push", channels=["apns"], ttl_s=36_000),
}
frequencies: st.SearchStrategy[Frequency] = st.sampled_from(
    ["immediate", "immediate", "daily", "weekly", "off"]
)
choices = st.builds(
    TypePreference,
    channels=st.dictionaries(st.sampled_from(ALL_CHANNELS), st.booleans()),
    frequency=st.none() | frequencies,
)
coming = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 5, 20, 45, 61, 400]),  # minutes since the one before
        st.sampled_from(sorted(RULES)),
        st.sampled_from(["", "", "a", "b"]),  # batch key
        st.sampled_from([0, 0, 0, 10, 90, 2_000]),  # to be sent in so many minutes
        st.sampled_from([0, 0, 0, 5, 100, 1_000]),  # expires after so many minutes
        st.integers(0, 30),  # content
    ),
    min_size=1,
    max_size=60,
)


@given(
    zone=st.sampled_from(ZONES),
    start_ms=st.sampled_from(STARTS),
    preferences=st.builds(
        Preferences,
        channels=st.dictionaries(st.sampled_from(ALL_CHANNELS), st.booleans(), max_size=1),
        types=st.dictionaries(st.sampled_from(sorted(RULES)), choices, max_size=3),
        quiet_hours=nights,
        frequency=frequencies,
        digest_at=st.sampled_from(["06:30", "09:00", "23:00"]),
    ),
    app=st.builds(AppRules, cap_per_hour=st.integers(0, 3), over_cap=st.sampled_from(["later", "digest"])),
    consent_min=st.sampled_from([-1, 0, 600]),  # none, without an end, for so many minutes
    what=coming,
)
@settings(max_examples=200)
def test_what_the_rules_promise_together(
    zone: str,
    start_ms: int,
    preferences: Preferences,
    app: AppRules,
    consent_min: int,
    what: list[tuple[int, str, str, int, int, int]],
) -> None:
    """Everybody who reads docs/NOTIFICATIONS-SCHEDULING.md relies on this."""
    consents = {}
    consent_end_ms = start_ms + consent_min * MINUTE_MS if consent_min else 0
    if consent_min >= 0:
        consents["marketing"] = Consent(purpose="marketing", ends_at_ms=consent_end_ms)
    world = World(UserFacts(time_zone=zone, preferences=preferences, consents=consents), app, RULES)
    taken: list[Facts] = []
    at_ms = start_ms
    for number, (gap, name, key, later, ends, content) in enumerate(what):
        at_ms += gap * MINUTE_MS
        facts = one(
            number,
            at_ms,
            name,
            batch_key=key,
            send_at_ms=at_ms + later * MINUTE_MS if later else 0,
            expires_at_ms=at_ms + ends * MINUTE_MS if ends else 0,
            content_hash=str(content),
        )
        taken.append(facts)
        world.arrive(facts, at_ms)
    world.finish()

    night = preferences.quiet_hours
    sent_at: Counter[int] = Counter()
    for send in world.sent:
        for number in send.ids:
            sent_at[number] += 1
            facts = taken[number]
            rule = RULES[facts.type]
            if not rule.is_security:
                assert night is None or not is_quiet(night, wall(zone, send.at_ms)), "woken"
            assert send.at_ms >= facts.send_at_ms, "too early"
            if facts.expires_at_ms:
                assert send.at_ms < facts.expires_at_ms, "too late"
            if rule.ttl_s:
                assert send.at_ms < facts.created_at_ms + rule.ttl_s * 1_000, "too late"
            if rule.purpose:
                assert rule.purpose in consents
                assert not consent_end_ms or send.at_ms < consent_end_ms, "without consent"

    counted = [send.at_ms for send in world.sent if send.is_counted]
    if app.cap_per_hour:
        for first_ms, next_ms in zip(counted, counted[app.cap_per_hour :], strict=False):
            assert next_ms - first_ms >= HOUR_MS, "over the cap"
    assert counted == sorted(counted)

    for number in range(len(taken)):
        assert sent_at[number] <= 1, "sent twice"
        ends_well = sent_at[number] == 1 or number in world.inapp_at_ms or number in world.dropped
        assert ends_well, "lost"
        if number in world.dropped:
            assert not sent_at[number]
            assert world.dropped[number].reason
            assert world.dropped[number].decisions[-1].outcome == "drop"
    for now_ms, verdict in world.holds:
        assert verdict.due_at_ms > now_ms
        if verdict.stage != "schedule" and night is not None:
            assert not is_quiet(night, wall(zone, verdict.due_at_ms)), "to be woken by a hold"
        assert not verdict.expires_at_ms or verdict.due_at_ms < verdict.expires_at_ms

    # The same content interrupts no two times within the window, whoever had to wait how long; and who is
    # refused as a duplicate is one of what was, or was to be, told within the window.
    same: dict[tuple[str, int], list[int]] = {}
    for number, (_, name, *_, content) in enumerate(what):
        if RULES[name].dedup_s:
            same.setdefault((name, content), []).append(number)
    sent_ms = {number: send.at_ms for send in world.sent for number in send.ids}
    for (name, _), numbers in same.items():
        window_ms = RULES[name].dedup_s * 1_000
        times = sorted(sent_ms[number] for number in numbers if number in sent_ms)
        assert all(later - earlier >= window_ms for earlier, later in pairwise(times)), "told twice"
        shown = sorted(world.inapp_at_ms[number] for number in numbers if number in world.inapp_at_ms)
        assert all(later - earlier >= window_ms for earlier, later in pairwise(shown)), "shown twice"
    for number, verdict in world.dropped.items():
        if verdict.stage == "deduplicate":
            first = int(verdict.decisions[-1].value)
            at_ms = max(taken[number].created_at_ms, taken[number].send_at_ms, world.dropped_at_ms[number])
            window_ms = RULES[taken[number].type].dedup_s * 1_000
            assert first in same[taken[number].type, what[number][-1]]
            assert first != number
            assert any(abs(at_ms - told_ms) < window_ms for told_ms in world.told_at_ms[first])
