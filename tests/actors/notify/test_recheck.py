"""What may still go: each line of the table, and that security passes all but consent and the address."""

import pytest

from actors.notify.recheck import WAITED_MS, must_ask_again, recheck
from actors.notify.user_state import UserState
from protocol.notify_found import FoundConsent, FoundDevice, FoundUser
from protocol.notify_types import AppRules, Preferences, QuietHours, TypePreference, TypeRule

NOON_MS = 1_795_694_400_000  # 2026-11-26 12:00 UTC
DAY = QuietHours(start="09:00", end="18:00")
RULE = TypeRule(name="t", purpose="ads")


def user(
    preferences: Preferences | None = None,
    *,
    ends_at_ms: int = 0,
    purposes: tuple[str, ...] = ("ads",),
    is_disabled: bool = False,
) -> UserState:
    found = UserState(
        FoundUser(
            user_id="u",
            app_id="a",
            name="",
            language="",
            time_zone="Europe/Berlin",
            is_disabled=int(is_disabled),
            preferences="",
            consents=[FoundConsent(purpose, "form", 1, ends_at_ms) for purpose in purposes],
            devices=[FoundDevice("apns-1", "apns", "ab", "", 1, "")],
            recent=[],
            counted=[],
            groups=[],
            unread=[],
        )
    )
    found.facts.preferences = preferences or Preferences()
    return found


@pytest.mark.parametrize(
    ("who", "rule", "device_key", "kind", "code"),
    [
        (user(), RULE, "apns-1", "go", ""),
        (None, RULE, "apns-1", "drop", "user_gone"),
        (user(is_disabled=True), RULE, "apns-1", "drop", "user_gone"),
        (user(), RULE, "apns-2", "drop", "address_gone"),
        (user(), RULE, "", "go", ""),
        (user(purposes=()), RULE, "apns-1", "drop", "no_consent"),
        (user(ends_at_ms=NOON_MS), RULE, "apns-1", "drop", "no_consent"),
        (user(ends_at_ms=NOON_MS + 1), RULE, "apns-1", "go", ""),
        (user(Preferences(channels={"apns": False})), RULE, "apns-1", "drop", "not_wanted"),
        (user(Preferences(channels={"sms": False})), RULE, "apns-1", "go", ""),
        (user(Preferences(frequency="off")), RULE, "apns-1", "drop", "not_wanted"),
        (
            user(Preferences(channels={"apns": False}, types={"t": TypePreference(channels={"apns": True})})),
            RULE,
            "apns-1",
            "go",
            "",
        ),
        (user(Preferences(quiet_hours=DAY)), RULE, "apns-1", "hold", ""),
        (user(Preferences(quiet_hours=QuietHours(start="22:00", end="07:00"))), RULE, "apns-1", "go", ""),
    ],
)
def test_the_table(who: UserState | None, rule: TypeRule, device_key: str, kind: str, code: str) -> None:
    """Each line drops or holds by itself."""
    check = recheck(who, rule, AppRules(), "apns", device_key, NOON_MS, is_seen=False)
    assert (check.kind, check.code) == (kind, code)
    assert (check.decision is None) == (kind == "go")


def test_quiet_hours_end_by_the_users_clock() -> None:
    """18:00 in Berlin in winter is 17:00 UTC."""
    check = recheck(
        user(Preferences(quiet_hours=DAY)), RULE, AppRules(), "apns", "apns-1", NOON_MS, is_seen=False
    )
    assert check.due_at_ms == NOON_MS + 5 * 3_600_000


@pytest.mark.parametrize(
    ("who", "kind"),
    [
        (user(Preferences(channels={"apns": False}, quiet_hours=DAY)), "go"),
        (user(purposes=()), "drop"),
        (user(is_disabled=True), "drop"),
    ],
)
def test_security_passes_wishes_and_nothing_else(who: UserState, kind: str) -> None:
    """A code is sent at night, but not to somebody who may not be told, or is not there."""
    rule = TypeRule(name="t", purpose="ads", is_security=True)
    assert recheck(who, rule, AppRules(), "apns", "apns-1", NOON_MS, is_seen=False).kind == kind


@pytest.mark.parametrize(("is_security", "code"), [(False, "seen_in_app"), (True, "")])
def test_what_was_seen_is_not_pushed_but_for_codes(is_security: bool, code: str) -> None:
    """The user knows it."""
    rule = TypeRule(name="t", is_security=is_security)
    assert recheck(user(), rule, AppRules(), "apns", "apns-1", NOON_MS, is_seen=True).code == code


def test_what_goes_at_once_is_not_asked_twice() -> None:
    """A notification costs some 30 microseconds."""
    assert not must_ask_again(NOON_MS, NOON_MS + WAITED_MS)
    assert must_ask_again(NOON_MS, NOON_MS + WAITED_MS + 1)
    assert must_ask_again(NOON_MS + 60_000, NOON_MS)
