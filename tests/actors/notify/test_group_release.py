"""How the answers of a group's members become one."""

from actors.notify.facts import HOUR_MS, Facts, UserFacts
from actors.notify.group_release import release
from protocol.notify_types import AppRules, Channel, Preferences, TypePreference, TypeRule

NOW_MS = 1_790_000_000_000
CHANNELS: list[Channel] = ["inapp", "apns", "email"]
RULES = {
    "likes": TypeRule(name="likes", channels=CHANNELS),
    "free": TypeRule(name="free", channels=CHANNELS, is_capped=False),
    "offer": TypeRule(name="offer", channels=CHANNELS, purpose="marketing"),
}
APP = AppRules(cap_per_hour=1)


def member(notification_id: int, type_name: str, expires_at_ms: int = 0) -> Facts:
    return Facts(
        notification_id=notification_id,
        app_id="app",
        user_id="ann",
        type=type_name,
        created_at_ms=NOW_MS - HOUR_MS,
        expires_at_ms=expires_at_ms,
        is_released=True,
        held_by="digest",
    )


def test_each_channel_has_the_members_that_the_user_lets_through() -> None:
    """A digest by mail may tell more than one by push; in-app they were delivered long ago."""
    preferences = Preferences(types={"likes": TypePreference(channels={"apns": False})})
    outcome = release(
        [member(1, "likes"), member(2, "free")], RULES, UserFacts(preferences=preferences), APP, NOW_MS
    )
    assert outcome.kind == "send"
    assert outcome.channels == {"apns": [2], "email": [1, 2]}
    assert outcome.is_counted


def test_members_leave_one_by_one_and_an_empty_group_sends_nothing() -> None:
    """Consent that was withdrawn purges what was waiting."""
    members = [member(1, "likes", NOW_MS), member(2, "offer"), member(3, "free")]
    outcome = release(members, RULES, UserFacts(), APP, NOW_MS)
    assert [facts.notification_id for facts in outcome.kept] == [3]
    assert [(facts.notification_id, verdict.stage) for facts, verdict in outcome.dropped] == [
        (1, "expiry"),
        (2, "consent"),
    ]
    assert not outcome.is_counted
    outcome = release(members[:2], RULES, UserFacts(), APP, NOW_MS)
    assert (outcome.kind, outcome.reason, len(outcome.dropped)) == ("drop", "no consent to marketing", 2)
    assert release([], RULES, UserFacts(), APP, NOW_MS).kind == "drop"


def test_a_group_waits_for_the_last_of_its_members() -> None:
    """One that is over the cap holds the others, so that the user gets one and not two."""
    user = UserFacts(sent_at_ms=[NOW_MS - 1_000])
    for members in ([member(1, "likes"), member(2, "free")], [member(2, "free"), member(1, "likes")]):
        outcome = release(members, RULES, user, APP, NOW_MS)
        assert (outcome.kind, outcome.due_at_ms) == ("hold", NOW_MS - 1_000 + HOUR_MS)
        assert outcome.kept == members
    assert release([member(2, "free")], RULES, user, APP, NOW_MS).kind == "send"


def test_a_type_that_is_gone_and_members_that_are_not_marked_are_taken_as_released() -> None:
    """A type may be removed while a digest waits; a digest is not held by its own frequency again."""
    daily = UserFacts(preferences=Preferences(frequency="daily"))
    fresh = Facts(notification_id=1, app_id="app", user_id="ann", type="gone", created_at_ms=NOW_MS)
    outcome = release([fresh], RULES, daily, APP, NOW_MS)
    assert (outcome.kind, list(outcome.channels)) == ("send", ["apns", "fcm", "webpush"])
