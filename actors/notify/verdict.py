"""What the scheduler says about one notification at one moment."""

from typing import Literal

import msgspec

from protocol.notify_types import Channel, Decision

Stage = Literal[
    "", "deduplicate", "consent", "preferences", "expiry", "schedule", "digest", "batch", "quiet_hours", "cap"
]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Send, hold until `due_at_ms`, or drop; with the reason, and every decision on the way.

    `stage`: which rule held or dropped it ("" where it is sent); the caller hands it back as `Facts.held_by`.
    `channels`: may be used now, also while the rest is held; `held_channels`: are to wait. `inapp_now`: the
    copy in the app is among `channels`; it interrupts nobody, so every hold but the schedule's lets it
    through. `fallback`: the type's fallback channels that the user allows. `group`: `batch:<type>:<key>`,
    `digest:daily`, `digest:weekly` or `digest:cap`: held ones of one group are released as one. `is_counted`:
    this send counts for the frequency cap. `dedup_key`: to be remembered, "" for none. `expires_at_ms`: the
    earlier of the request's and the type's, 0 for none. Its lists are not to be changed.
    """

    kind: Literal["send", "hold", "drop"]
    due_at_ms: int = 0
    group: str = ""
    stage: Stage = ""
    reason: str = ""
    channels: list[Channel] = []
    held_channels: list[Channel] = []
    fallback: list[Channel] = []
    inapp_now: bool = False
    is_counted: bool = False
    dedup_key: str = ""
    expires_at_ms: int = 0
    decisions: list[Decision] = []
