"""Whether a delivery that waited may still go: what held when it was decided may hold no more.

Asked before what was stored is taken up again, before a retry, a redrive and a fallback, and of what has
waited in a queue. Pure.

| asked | drops | holds | passes without being asked |
|---|---|---|---|
| user | is gone, or disabled | | |
| address | is not the user's any more | | |
| consent | to the type's purpose is not given, or has ended | | nothing: security too |
| seen | is so in the app, or read, dismissed, opened | | security |
| preferences | do not want the type on this channel | | security |
| quiet_hours | | until they end, by the user's clock | security |

Duplicates and the frequency cap are not asked again: it has passed them, and counts already.
"""

from typing import Final, Literal

import msgspec

from actors.notify.local_time import known_zone
from actors.notify.quiet_hours import quiet_until_ms
from actors.notify.user_state import UserState
from actors.notify.wishes import is_wanted
from protocol.notify_types import AppRules, Channel, Decision, TypeRule


class Recheck(msgspec.Struct, frozen=True):
    """Go, hold until `due_at_ms`, or drop; `decision` says why, except where it goes."""

    kind: Literal["go", "hold", "drop"]
    decision: Decision | None = None
    due_at_ms: int = 0
    code: str = ""  # of a delivery that is dropped


GO = Recheck("go")
SEEN: Final = "seen_in_app"
WAITED_MS: Final = 1_000  # what goes at once is not asked twice


def recheck(
    user: UserState | None,
    rule: TypeRule,
    app: AppRules,
    channel: Channel,
    device_key: str,
    at_ms: int,
    *,
    is_seen: bool,
) -> Recheck:
    """Ask whether it may go at `at_ms` (Unix ms). `device_key`: empty where no address is chosen yet.

    `is_seen`: the user has seen what it tells, in the app or elsewhere.
    """
    if user is None or user.is_disabled:
        return _drop("validate", "user_gone" if user is None else "user_disabled", "", "user_gone")
    if device_key and device_key not in user.devices:
        return _drop("choose", "address_gone", device_key, "address_gone")
    if rule.purpose:
        consent = user.facts.consents.get(rule.purpose)
        if consent is None or 0 < consent.ends_at_ms <= at_ms:
            why = "purpose" if consent is None else "ends_at_ms"
            return _drop("consent", why, rule.purpose, "no_consent")
    if rule.is_security:
        return GO
    if is_seen:
        return Recheck("drop", Decision("result", "skipped", SEEN, channel), code=SEEN)
    wishes = user.facts.preferences
    if not is_wanted(wishes, rule.name, channel):
        return _drop("preferences", "channels", channel, "not_wanted")
    if wishes.quiet_hours is not None:
        zone = known_zone(user.facts.time_zone, app.default_time_zone)
        until_ms = quiet_until_ms(wishes.quiet_hours, zone, at_ms)
        if until_ms:
            return Recheck("hold", Decision("quiet_hours", "hold", "quiet_hours", str(until_ms)), until_ms)
    return GO


def must_ask_again(due_at_ms: int, now_ms: int) -> bool:
    """Tell whether something goes at another moment than the one that it was asked for: mostly later."""
    return not -WAITED_MS <= now_ms - due_at_ms <= WAITED_MS


def _drop(stage: str, rule: str, value: str, code: str) -> Recheck:
    return Recheck("drop", Decision(stage, "drop", rule, value), code=code)
