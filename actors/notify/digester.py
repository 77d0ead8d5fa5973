"""Digests that are due: what each tells, on which channel, and what becomes of those that it does not tell.

Each member is asked for itself. What it comes to is in the member's own ledger, so that "why did I not get
this?" is answered where it is asked.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from actors.notify.gatherer import Gatherer
from actors.notify.group_release import Release, release
from actors.notify.plan import DigestPart, Plan
from actors.notify.ports import Setup
from actors.notify.stored_facts import facts_of
from actors.notify.user_state import UserState, decode_kept
from actors.notify.verdict import Verdict
from actors.reply import NO_REPLY
from actors.stream_actor import Staged
from protocol.errors import Refused
from protocol.notify_records import NotificationRow
from protocol.notify_types import CHANNELS, Channel, Decision, TypeRule
from protocol.records import Op, Update

MAX_LINES: Final = 50  # of a digest; how many more it tells of is a number
# As far as the user wants digests there; which of them are used is said by `channels_of`.
DIGEST_CHANNELS: Final[list[Channel]] = [channel for channel in CHANNELS if channel != "inapp"]


class Told(msgspec.Struct, frozen=True):
    """What a digest is to tell: on each channel, and of which member what was said."""

    parts: dict[Channel, DigestPart]
    outcome: Release


def channels_of(
    verdict: Verdict, usual: Collection[Channel], reachable: Collection[Channel]
) -> list[Channel]:
    """On which channels a digest tells one of its members.

    On those of digests, as far as they lead to the user and the member may go there; where none does, on the
    member's own, so that an SMS becomes a line of an SMS; else on its first fallback that leads there.
    """
    own = [channel for channel in verdict.channels if channel in reachable]
    return (
        [channel for channel in own if channel in usual]
        or own
        or [channel for channel in verdict.fallback if channel in reachable][:1]
    )


class Digester(Gatherer):
    """Tell what a digest holds."""

    def _release_digest(
        self,
        user: UserState,
        setup: Setup,
        rule: TypeRule,
        members: Sequence[NotificationRow],
        count: int,
        verdict: Verdict,
        plan: Plan,
        now_ms: int,
    ) -> tuple[Verdict, Told]:
        """Ask again for each that became part of a digest: what it tells, on which channel; or why not now.

        `members`: what was not read in the app meanwhile, of `count`. Those that leave are dropped here; what
        the others come to is told by `_tell_members`, when the digest is written.
        """
        unread = {row.notification_id: row for row in members if row.state == "merged" and row.content}
        rules = {known.name: known for known in setup.all_types()}
        outcome = release([facts_of(row) for row in unread.values()], rules, user.facts, setup.rules, now_ms)
        for facts, dropped in outcome.dropped:
            self._drop_member(user, unread[facts.notification_id], dropped.stage, dropped.decisions)
        if outcome.kind != "send":
            why = Decision("digest", outcome.kind, outcome.reason or "empty", str(len(unread)))
            plan.decisions.append(why)
            held = msgspec.structs.replace(
                verdict,
                kind=outcome.kind,
                stage="digest",
                reason=outcome.reason or "empty",
                due_at_ms=outcome.due_at_ms,
                group="",
            )
            return held, Told({}, outcome)
        reachable = {target.channel for target in user.devices.values()} & set(verdict.channels)
        reachable = {channel for channel in reachable if setup.has_provider(channel)}
        ids: dict[Channel, list[int]] = {}
        for facts, asked in zip(outcome.kept, outcome.verdicts, strict=True):
            for channel in channels_of(asked, rule.channels, reachable):
                ids.setdefault(channel, []).append(facts.notification_id)
        lines: dict[int, str] = {}
        parts = {
            channel: DigestPart(ids[channel], self._lines(user, setup, unread, ids[channel], lines))
            for channel in DIGEST_CHANNELS
            if channel in ids
        }
        plan.decisions.append(Decision("digest", "pass", "items", f"{len(outcome.kept)} of {count}"))
        if not parts:
            wanted = ",".join(outcome.channels)
            plan.decisions.append(Decision("choose", "skip", "no_address", wanted))
        return msgspec.structs.replace(verdict, channels=list(parts)), Told(parts, outcome)

    def _tell_members(
        self,
        user: UserState,
        members: Sequence[NotificationRow],
        digest_id: int,
        told: Told,
        plan: Plan,
        now_ms: int,
    ) -> None:
        """A digest is written: let each member's ledger say what has come of it."""
        rows = {row.notification_id: row for row in members}
        enqueued = {outgoing.target.channel for outgoing, _ in plan.deliveries}
        channels: dict[int, list[Channel]] = {}
        for channel, part in told.parts.items():
            if channel in enqueued:
                for notification_id in part.ids:
                    channels.setdefault(notification_id, []).append(channel)
        for facts, verdict in zip(told.outcome.kept, told.outcome.verdicts, strict=True):
            row = rows[facts.notification_id]
            on = channels.get(row.notification_id)
            if on is None:
                why = Decision("digest", "drop", "unreachable", str(digest_id))
                self._drop_member(user, row, "digest", [why])
                continue
            user.facts.told(verdict.dedup_key, row.notification_id, now_ms)
            why = Decision("digest", "sent", ",".join(on), f"as part of {digest_id}")
            self._record("digested", row.user_id, row.notification_id, [why], Staged(NO_REPLY, None))
            self._stage_ops([_of_member(row, {"due_at_ms": now_ms})])

    def _drop_member(
        self, user: UserState | None, row: NotificationRow, stage: str, decisions: list[Decision]
    ) -> None:
        """A member is not told by its digest, and will not be."""
        self._stats.dropped += 1
        self._stats.duplicates += stage == "deduplicate"
        changes: dict[str, str | int | None] = {"state": "dropped", "content": ""}
        changes.update(self._undone(user, row))
        self._record("digested", row.user_id, row.notification_id, decisions, Staged(NO_REPLY, None))
        self._stage_ops([_of_member(row, changes)])

    def _undone(self, user: UserState | None, row: NotificationRow) -> dict[str, str | int | None]:
        """What was held is dropped: unless it was seen in the app, the same is no duplicate of it."""
        if row.sent_at_ms or not row.dedup_key:
            return {}
        if user is not None:
            user.facts.forget(row.dedup_key, row.notification_id)
        return {"dedup_key": ""}

    def _lines(
        self,
        user: UserState,
        setup: Setup,
        rows: Mapping[int, NotificationRow],
        ids: Sequence[int],
        known: dict[int, str],
    ) -> list[str]:
        """The first lines of a digest, each once. `known`: lines that were written for another channel."""
        lines: dict[str, None] = {}
        for notification_id in ids:
            if notification_id not in known:
                known[notification_id] = self._digest_line(user, setup, rows[notification_id])
            if known[notification_id]:
                lines[known[notification_id]] = None
                if len(lines) >= MAX_LINES:
                    break
        return list(lines)

    def _digest_line(self, user: UserState, setup: Setup, row: NotificationRow) -> str:
        """One line of a digest."""
        if row.title or row.text:
            return row.title or row.text
        kept = decode_kept(row.content)
        try:
            text = self._renderer.render(
                setup,
                kept.content,
                self._reader(user, setup, kept),
                "inapp",
                variant="",
                notification_id=row.notification_id,
            )
        except Refused:
            return ""
        return text.title or text.body


def _of_member(row: NotificationRow, changes: dict[str, str | int | None]) -> Op:
    """Change a member, unless it has left its digest."""
    where: dict[str, str | int] = {"notification_id": row.notification_id, "state": "merged"}
    return Update(NotificationRow, where, changes)
