"""What the rules go by: one notification's facts, and what is known of its user."""

from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice

import msgspec

from actors.notify.verdict import Verdict
from protocol.notify_types import Channel, Consent, Preferences, Priority

HOUR_MS = 3_600_000  # the frequency cap looks back over this
AHEAD_MS = 60_000  # what is further in the future was noted by a clock that has been set back since
MAX_RECENT = 300  # looked through for duplicates, of one user: more within a day is a flood


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One notification as the rules see it: no text, no data. Times are Unix ms, 0 where there is none.

    `is_released`: it was held before, and its time has come. `held_by` is then the `Verdict.stage` that held
    it, and matters for `schedule` alone: what waited for its time has not been to the digest and the batch
    yet, and its copy in the app has not been delivered. Released by any other stage it is past all that.
    """

    notification_id: int
    app_id: str
    user_id: str
    type: str
    subject: str = ""
    priority: Priority = "medium"
    created_at_ms: int
    send_at_ms: int = 0
    expires_at_ms: int = 0
    collapse_key: str = ""
    batch_key: str = ""
    content_hash: str = ""
    channels: list[Channel] = []  # wanted; empty: those of the type
    is_released: bool = False
    held_by: str = ""


@dataclass(slots=True)
class OpenGroup:
    """A batch or digest that still takes members: its first notification, when it is due, how many it has."""

    notification_id: int
    due_at_ms: int
    count: int = 1


@dataclass(slots=True)
class UserFacts:
    """What is known of one user. The rules read it; `note` is how a verdict changes it.

    `sent_at_ms`: when interrupting ones that count were sent, rising; older than an hour is harmless.
    `recent`: dedup key to (notification id, when it was taken in), newest last. `open_groups`: by group key.
    """

    time_zone: str = ""
    preferences: Preferences = field(default_factory=Preferences)
    consents: dict[str, Consent] = field(default_factory=dict)
    sent_at_ms: list[int] = field(default_factory=list)
    recent: dict[str, tuple[int, int]] = field(default_factory=dict)
    open_groups: dict[str, OpenGroup] = field(default_factory=dict)

    def note(self, facts: Facts, verdict: Verdict, now_ms: int) -> None:
        """Remember what the verdict means for those that come after. What was dropped leaves no trace.

        So the same content is no duplicate of one that consent or preferences had refused.
        """
        if verdict.kind == "drop":
            return
        if verdict.dedup_key:
            self.recent.pop(verdict.dedup_key, None)  # the newest stand last
            self.recent[verdict.dedup_key] = (facts.notification_id, now_ms)
            if len(self.recent) > 2 * MAX_RECENT:
                for key in list(islice(self.recent, len(self.recent) - MAX_RECENT)):
                    del self.recent[key]
        if verdict.is_counted:
            self.count_send(now_ms)
        if verdict.group:
            group = self.open_groups.get(verdict.group)
            if group is None or group.due_at_ms <= now_ms:
                self.open_groups[verdict.group] = OpenGroup(facts.notification_id, verdict.due_at_ms)
            else:
                group.count += 1

    def count_send(self, now_ms: int) -> None:
        """Count one interrupting send for the cap, and forget those that left its window.

        And those that a clock that was ahead has put into the future: nobody knows when they were.
        """
        sent = self.sent_at_ms
        while sent and sent[-1] > now_ms + AHEAD_MS:
            del sent[-1]
        while sent and sent[0] <= now_ms - HOUR_MS:
            del sent[0]
        sent.append(now_ms)

    def copy(self) -> "UserFacts":
        """A copy that may go its own way; what is frozen is shared."""
        groups = {
            key: OpenGroup(group.notification_id, group.due_at_ms, group.count)
            for key, group in self.open_groups.items()
        }
        return UserFacts(
            self.time_zone,
            self.preferences,
            dict(self.consents),
            list(self.sent_at_ms),
            dict(self.recent),
            groups,
        )


def dedup_key(facts: Facts) -> str:
    """Name what makes two notifications the same: app, user, type, subject and content. 32 hex digits.

    App, user and type are names without a NUL, and the subject's length is told, so no two lists of parts
    look the same.
    """
    subject = facts.subject
    parts = f"{facts.app_id}\0{facts.user_id}\0{facts.type}\0{len(subject)}\0{subject}{facts.content_hash}"
    return blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
