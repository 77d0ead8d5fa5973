"""What follows where a provider has taken a delivery, and tells later that it could not be delivered. Pure.

An SMS that no carrier got through, a mail that bounced: it counts as a refusal that came late. Asked, in this
order:

| asked | then |
|---|---|
| type | has no fallback that was not tried; or nothing is kept to write it from: none, and nothing is said |
| notification | is held, cancelled or erased: none |
| end | `expires_at_ms` has come; of what has none, it was sent a day ago: none |
| seen | is so, and it is no security: none |
| the other deliveries | one has come, or may have: none |
| … | one is open: wait, as the last of them decides |
| else | fallback |

Wishes, consent and quiet hours are asked when the fallback is released, as after a refusal (fallbacks.py).
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from actors.notify.recheck import SEEN
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.notify_types import Decision, TypeRule

UNDELIVERED: Final = frozenset(("refused", "bounced"))
"""States of which a provider tells that it has not arrived. Who complains of a mail has got it."""
CAME: Final = frozenset(("confirmed", "complained"))
MAY_HAVE_COME: Final = CAME | {"accepted", "unknown"}
LATE_MS: Final = 86_400_000  # a mail may bounce after five days, and what it told of is old by then


class Follow(msgspec.Struct, frozen=True):
    """What follows; `why` is for the ledger, and missing where nobody would ask."""

    kind: Literal["none", "wait", "fallback"]
    why: Decision | None = None


NOTHING: Final = Follow("none")


def has_ended(note: NotificationRow, now_ms: int) -> bool:
    """Tell whether a notification is too old to be sent in another way. Unix ms."""
    return ends_at_ms(note.expires_at_ms, max(note.created_at_ms, note.sent_at_ms)) <= now_ms


def ends_at_ms(expires_at_ms: int, sent_at_ms: int) -> int:
    """From when on it is too late for another way. Unix ms; `expires_at_ms` 0: none was asked for."""
    return expires_at_ms or sent_at_ms + LATE_MS


def after_undelivered(
    note: NotificationRow,
    rule: TypeRule,
    told: DeliveryRow,
    others: Sequence[DeliveryRow],
    *,
    is_seen: bool,
    now_ms: int,
) -> Follow:
    """Decide what follows. `others`: the notification's other deliveries, as they are known now."""
    tried = {told.channel, *(row.channel for row in others)}
    left = [channel for channel in rule.fallback if channel not in tried]
    if not left or not note.content:
        return NOTHING
    if note.state not in ("open", "done"):
        return _none("state", note.state)
    if has_ended(note, now_ms):
        return _none("expires_at_ms", str(note.expires_at_ms) if note.expires_at_ms else "a day ago")
    if is_seen and not rule.is_security:
        return _none(SEEN, told.channel)
    for row in others:
        if row.state in MAY_HAVE_COME:
            return _none("reached", f"{row.channel}: {row.state}")
    if any(row.is_open for row in others):
        return Follow("wait", Decision("fallback", "pass", "others_open", told.channel))
    return Follow("fallback", Decision("fallback", "hold", "undelivered", left[0]))


def held_for_fallback(now_ms: int) -> dict[str, str | int | None]:
    """What a notification becomes that has reached nobody and goes by its type's next fallback."""
    return {"state": "held", "is_fallback": 1, "due_at_ms": now_ms, "group_key": ""}


def _none(rule: str, value: str) -> Follow:
    return Follow("none", Decision("fallback", "skip", rule, value))
