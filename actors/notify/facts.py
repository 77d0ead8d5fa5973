"""What the rules go by: one notification's facts, and what is known of its user."""

from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice

import msgspec

from actors.notify.verdict import Verdict
from protocol.notify_found import MAX_RECENT
from protocol.notify_types import Channel, Consent, Preferences, Priority

HOUR_MS = 3_600_000  # the frequency cap looks back over this
AHEAD_MS = 60_000  # what is further in the future was noted by a clock that has been set back since


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One notification as the rules see it: no text, no data. Times are Unix ms, 0 where there is none.

    `is_released`: it was held before, and its time has come. `held_by` is then the `Verdict.stage` that held
    it, and matters for `schedule` alone: what waited for its time has not been to the digest and the batch
    yet, and its copy in the app has not been delivered. Released by any other stage it is past all that.
    `content_hash`: of what it says; empty, as of a digest, which says what others said: it is no duplicate.
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
    `recent`: dedup key to (notification id, when it was told, in-app or elsewhere), newest last; `planned`:
    the same of what is held, with when it is due. What was told before `recent_since_ms` may be in the store
    alone (recent_finder.py). `open_groups`: by group key.
    """

    time_zone: str = ""
    preferences: Preferences = field(default_factory=Preferences)
    consents: dict[str, Consent] = field(default_factory=dict)
    sent_at_ms: list[int] = field(default_factory=list)
    recent: dict[str, tuple[int, int]] = field(default_factory=dict)
    open_groups: dict[str, OpenGroup] = field(default_factory=dict)
    planned: dict[str, tuple[int, int]] = field(default_factory=dict)
    recent_since_ms: int = 0

    def note(self, facts: Facts, verdict: Verdict, now_ms: int, *, is_counted: bool | None = None) -> None:
        """Remember what the verdict means for those that come after. What was dropped leaves no trace.

        So the same content is no duplicate of one that consent or preferences had refused. `is_counted`:
        whether it did interrupt, where that is known better than by the verdict.
        """
        if verdict.kind == "drop":
            return
        key = verdict.dedup_key
        if key and verdict.kind == "hold":
            if verdict.inapp_now:
                self.told(key, facts.notification_id, now_ms)
            self.planned[key] = (facts.notification_id, verdict.due_at_ms)
            if len(self.planned) > 2 * MAX_RECENT:  # they are asked about again when they are due
                for old in list(islice(self.planned, MAX_RECENT)):
                    del self.planned[old]
        elif key:
            self.told(key, facts.notification_id, now_ms)
        if verdict.is_counted if is_counted is None else is_counted:
            self.count_send(now_ms)
        if verdict.group:
            group = self.open_groups.get(verdict.group)
            if group is None or group.due_at_ms <= now_ms:
                self.open_groups[verdict.group] = OpenGroup(facts.notification_id, verdict.due_at_ms)
            else:
                group.count += 1

    def told(self, key: str, notification_id: int, now_ms: int) -> None:
        """Remember that it was told now: the same is a duplicate from now on. `key`: empty for none."""
        if not key:
            return
        recent = self.recent
        recent.pop(key, None)  # the newest stand last
        recent[key] = (notification_id, now_ms)
        planned = self.planned.get(key)
        if planned is not None and planned[0] == notification_id:
            del self.planned[key]
        if len(recent) > 2 * MAX_RECENT:
            for old in list(islice(recent, len(recent) - MAX_RECENT)):
                self.recent_since_ms = max(self.recent_since_ms, recent.pop(old)[1])

    def forget(self, key: str, notification_id: int) -> None:
        """It is not told after all: the same is no duplicate of it."""
        for known in (self.recent, self.planned):
            seen = known.get(key)
            if seen is not None and seen[0] == notification_id:
                del known[key]

    def seen_as(
        self, key: str, notification_id: int, at_ms: int, dedup_ms: int, *, is_due: bool
    ) -> int | None:
        """Return the id of another one with this key that is told within `dedup_ms` of `at_ms`.

        What is held counts by when it is due. What is due itself (`is_due`) gives way only to what was told
        before: of two that are held the first goes.
        """
        for known in (self.recent, self.planned):
            seen = known.get(key)
            if seen is not None and seen[0] != notification_id:
                gap_ms = at_ms - seen[1]
                if -dedup_ms < gap_ms < dedup_ms and (gap_ms >= 0 or not is_due):
                    return seen[0]
        return None

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
            dict(self.planned),
            self.recent_since_ms,
        )


def dedup_key(facts: Facts) -> str:
    """Name what makes two notifications the same: app, user, type, subject and content. 32 hex digits.

    App, user and type are names without a NUL, and the subject's length is told, so no two lists of parts
    look the same.
    """
    subject = facts.subject
    parts = f"{facts.app_id}\0{facts.user_id}\0{facts.type}\0{len(subject)}\0{subject}{facts.content_hash}"
    return blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
