"""Cancel what a partition has of a request: held, merged into a batch or digest, queued, spilled.

Its notifications come page by page from cancel_finder.py; what has happened to them since they were read is
known in memory. Where the two do not agree yet (it was just released, or concluded), it is looked at once
more after the next commit. What is with a provider already may arrive. It is counted as under way and not
tried again: its time is over, also for whoever takes it up after a crash.
"""

from typing import Final

import msgspec

from actors.entity import EntityContext
from actors.notify.builtin_types import DIGEST
from actors.notify.cancel_finder import Cancel, CancelFinder, CancelFound
from actors.notify.delivery import Outcome
from actors.notify.job import Job
from actors.notify.plan import Ready
from actors.notify.ports import Account
from actors.notify.regather import without
from actors.notify.undelivered import has_ended
from actors.notify.user_state import Kept, UserState, decode_kept
from actors.reply import NO_REPLY
from actors.stream_actor import Staged
from protocol.errors import Refused
from protocol.notify_records import DeadDelivery, DeliveryRow, NotificationRow
from protocol.notify_types import Decision
from protocol.records import Op, Remove, Update

NO_ROOM_RETRY_S: Final = 0.2
CODE: Final = "request_cancelled"

_encode = msgspec.json.Encoder().encode


class Canceller(CancelFinder):
    """Cancel what was found."""

    async def activate(self, ctx: EntityContext) -> None:
        self._stopping: dict[int, bool] = {}  # under way when it was cancelled; whether something of it was
        await super().activate(ctx)

    def cancel_found(self, found: CancelFound) -> None:
        """Cancel what was read, as far as it is still so."""
        cancel = self._cancels.get(found.key)
        if cancel is None:
            return
        if found.error is not None:
            self._give_up(cancel, found.error)
            return
        if not self.has_room():
            self._ctx.post_after(NO_ROOM_RETRY_S, found)
            return
        # Who is being read just now may come with what was before.
        coming = {row.user_id for row in found.rows if row.user_id in self._wanted}
        coming |= {head.user_id for head in found.heads.values() if head.in_centre}  # it is written anew
        if coming and not self._has_users(list(coming), found, NO_REPLY):
            return
        if not self.has_batch_texts(found.heads.values(), found.members, found):
            return
        cancel.after = max(cancel.after, found.last_id)
        cancel.is_last = cancel.is_last or found.is_last
        leaving: dict[int, list[NotificationRow]] = {}
        deliveries: dict[int, list[DeliveryRow]] = {}
        for delivery in found.deliveries:
            deliveries.setdefault(delivery.notification_id, []).append(delivery)
        for row in found.rows:
            if row.notification_id in self._erased or row.into_id in self._erased:  # since it was read
                cancel.counts["kept"] += 1
            elif row.state == "held" and row.notification_id not in cancel.released:
                if not row.group_key:
                    self._cancel_held(cancel, row)
                else:
                    leaving.setdefault(row.notification_id, []).append(row)
            elif row.state == "open":
                self._cancel_open(cancel, row, deliveries.get(row.notification_id, []))
            elif row.state == "merged":
                head = found.heads.get(row.into_id)
                if head is None or head.state != "held":
                    cancel.counts["kept"] += 1
                elif head.notification_id in cancel.released:
                    cancel.again.append(row.notification_id)
                else:
                    leaving.setdefault(row.into_id, []).append(row)
            elif row.state == "held":  # released since it was read
                cancel.again.append(row.notification_id)
            elif row.state == "cancelled":
                cancel.counts["partly" if row.sent_at_ms else "cancelled"] += 1
            else:
                cancel.counts["kept"] += 1
                if row.notification_id in found.awaiting:
                    self._let_end(row)
        for head_id, rows in leaving.items():
            members = [
                row for row in found.members.get(head_id, []) if row.notification_id not in self._erased
            ]
            self._leave_group(cancel, found.heads[head_id], rows, members)
        # Nothing of a cancelled request is redriven.
        self._stage_ops([Remove(DeadDelivery, {"notification_id": known}) for known in found.dead])
        self._go_on(cancel)

    # -- one notification ---------------------------------------------------------------------------

    def _ended(
        self,
        cancel: Cancel,
        row: NotificationRow,
        decisions: list[Decision],
        *,
        where: dict[str, str | int],
        is_partly: bool,
    ) -> None:
        """Record that nothing of a notification waits any more."""
        self._put_behind(row.notification_id)
        cancel.counts["partly" if is_partly else "cancelled"] += 1
        self._stats.cancelled += 1
        changes: dict[str, str | int | None] = {
            "state": "cancelled",
            "content": "",
            "due_at_ms": 0,
            "is_fallback": 0,
        }
        if not is_partly:  # the same content is no duplicate, it does not count, and no experiment showed it
            changes.update(dedup_key="", counted_at_ms=0, variant="")
            self._uncount_user(row)
        self._record("cancelled", row.user_id, row.notification_id, decisions, Staged(NO_REPLY, None))
        self._stage_ops([Update(NotificationRow, {"notification_id": row.notification_id, **where}, changes)])

    def _put_behind(self, notification_id: int) -> None:
        """What was read of it and is on its way is old."""
        self._gone.add(notification_id, self._ctx.now())

    def _uncount_user(self, row: NotificationRow) -> None:
        user = self._users.get(row.user_id)
        if user is None:
            return
        user.facts.forget(row.dedup_key, row.notification_id)
        if row.counted_at_ms in user.facts.sent_at_ms:
            user.facts.sent_at_ms.remove(row.counted_at_ms)

    def _cancel_held(self, cancel: Cancel, row: NotificationRow) -> None:
        why = Decision("cancel", "cancelled", "request", cancel.request_id)
        self._ended(cancel, row, [why], where={"state": "held"}, is_partly=row.sent_at_ms > 0)

    def _leave_group(
        self,
        cancel: Cancel,
        head: NotificationRow,
        rows: list[NotificationRow],
        members: list[NotificationRow],
    ) -> None:
        """Let some leave a batch or digest that is not due yet; with the last one it ends."""
        user = self._users.get(head.user_id)
        group = user.groups.get(head.group_key) if user is not None else None
        if group is not None and group.notification_id != head.notification_id:
            group = None
        kept = group.kept if group is not None else decode_kept(head.content)
        count = group.count if group is not None else head.item_count
        gone = [row for row in rows if row.notification_id != head.notification_id]
        is_own = len(gone) < len(rows) and not kept.is_carrier
        ids = {row.notification_id for row in gone}
        left = [
            decode_kept(row.content)
            for row in members
            if row.state == "merged" and row.content and row.notification_id not in ids
        ]
        parts = [decode_kept(row.content) for row in gone if row.content]
        names = set(kept.names)
        kept, count = without(kept, count, parts, left, is_own=is_own)
        why = Decision("cancel", "cancelled", "request", cancel.request_id)
        for row in gone:
            self._ended(cancel, row, [why], where={"state": "merged"}, is_partly=row.sent_at_ms > 0)
        is_over = count <= 0 and head.type != DIGEST  # an empty digest is dropped when it is due
        if is_over:
            if user is not None and group is not None:
                del user.groups[head.group_key]
                user.facts.open_groups.pop(head.group_key, None)
            self._ended(cancel, head, [why], where={"state": "held"}, is_partly=head.sent_at_ms > 0)
            if not any(row.notification_id == head.notification_id for row in rows):
                cancel.counts["partly" if head.sent_at_ms else "cancelled"] -= 1  # another request's
            self.group_ended(cancel, head)
            return
        if group is not None and user is not None:
            group.kept, group.count = kept, count
            staying = {member.content.actor for member in left}
            group.actors -= names - {*kept.names} | ({part.content.actor for part in parts} - staying)
            if head.group_key in user.facts.open_groups:
                user.facts.open_groups[head.group_key].count = count
        ops: list[Op] = [
            Update(
                NotificationRow,
                {"notification_id": head.notification_id, "state": "held"},
                {"item_count": count, "content": _encode(kept).decode()},
            )
        ]
        if head.in_centre and user is not None:
            ops += self._retell(user, head, kept, count)
        if len(gone) < len(rows):
            cancel.counts["partly" if head.sent_at_ms else "cancelled"] += 1
        if is_own:
            decision = Decision("cancel", "change", "request", f"it goes on for {count} others")
            self._record("cancelled", head.user_id, head.notification_id, [decision], Staged(NO_REPLY, None))
        self._stage_ops(ops)

    def group_ended(self, cancel: Cancel, head: NotificationRow) -> None:
        """Nothing of a batch is left; what the centre shows of it was shown."""

    def _retell(self, user: UserState, head: NotificationRow, kept: Kept, count: int) -> list[Op]:
        """Let a batch's item in the centre tell of those that are left. Returns what is to be stored."""
        setup = self._setups.known(head.app_id)
        if setup is None:  # it cannot be read: as it was
            return []
        try:
            item = self._item_of_group(user, setup, head.type, head.notification_id, kept, count)
        except Refused as refused:  # the template is gone: as it was
            why = Decision("render", "drop", refused.code, f"inapp: {refused.message}")
            self._record("cancelled", head.user_id, head.notification_id, [why], Staged(NO_REPLY, None))
            return []
        return [self._reshow(user, msgspec.structs.replace(item, read=bool(head.read_at_ms)))]

    def _cancel_open(self, cancel: Cancel, row: NotificationRow, deliveries: list[DeliveryRow]) -> None:
        """Cancel the deliveries that wait; those that have begun are not tried again."""
        notification_id = row.notification_id
        note = self._notes.get(notification_id)
        numbers = sorted(note.numbers) if note is not None else []
        is_sent = row.sent_at_ms > 0 or (note is not None and note.is_sent)
        ops: list[Op] = []
        decisions: list[Decision] = []
        under_way = 0
        for number in numbers:
            job = self._jobs[notification_id, number]
            if job.is_begun:
                under_way += 1
                self._stop(job, ops)
            else:
                self._close(job)
                ops.append(_cancelled(notification_id, number, "queued", "cancelled", self._now_ms()))
                decisions.append(Decision("cancel", "cancelled", "request", job.device_key))
        is_clear = True
        for delivery in deliveries:
            key = (notification_id, delivery.number)
            if delivery.number in numbers:
                continue
            if key in self._deciding or key in self._closed:  # it was read as it was a moment before
                is_clear = False
                continue
            if key not in cancel.seen:  # it waits in the store alone; or it was taken up since it was read
                cancel.seen.add(key)
                is_clear = False
                continue
            # One that was begun in an earlier life of this actor may have arrived.
            state = "cancelled" if delivery.state == "queued" else "unknown"
            is_sent = is_sent or state == "unknown"
            ops.append(_cancelled(*key, delivery.state, state, self._now_ms()))
            decisions.append(Decision("cancel", state, "request", delivery.device_key))
        self._put_behind(notification_id)  # no fallback either
        self._stage_ops(ops)
        if not is_clear:
            cancel.again.append(notification_id)
        elif not under_way:
            why = Decision("cancel", "cancelled", "request", cancel.request_id)
            self._ended(cancel, row, [why, *decisions], where={}, is_partly=is_sent)
            return
        else:
            cancel.counts["under_way"] += 1
            self._let_end(row)
            self._stopping[notification_id] = bool(decisions) or self._stopping.get(notification_id, False)
            decisions.append(Decision("cancel", "pass", "under_way", str(under_way)))
        if decisions:
            self._record("cancelled", row.user_id, notification_id, decisions, Staged(NO_REPLY, None))

    def _stop(self, job: Job, ops: list[Op]) -> None:
        """Let an attempt that has begun be the last one."""
        job.expires_at_ms = now_ms = self._now_ms()
        job.is_final = False  # its notification is concluded here
        outgoing = msgspec.structs.replace(job.outgoing, expires_at_ms=now_ms)
        where: dict[str, str | int] = {"notification_id": job.notification_id, "number": job.number}
        ops.append(Update(DeliveryRow, where, {"outgoing": _encode(outgoing).decode()}))

    def _let_end(self, row: NotificationRow) -> None:
        """Its time is over: what its provider turns out not to have delivered goes no other way."""
        now_ms = self._now_ms()
        if not has_ended(row, now_ms):
            where: dict[str, str | int] = {"notification_id": row.notification_id}
            self._stage_ops([Update(NotificationRow, where, {"expires_at_ms": now_ms})])

    # -- what comes in between ----------------------------------------------------------------------

    def release(self, ready: Ready) -> Ready | None:
        for cancel in self._cancels.values():
            cancel.released.update(row.notification_id for row in ready.rows)
        members = {
            head_id: [row for row in rows if row.notification_id not in self._gone]
            for head_id, rows in ready.members.items()
        }
        return super().release(msgspec.structs.replace(ready, members=members))

    def concluded(self, job: Job, account: Account | None, outcome: Outcome) -> None:
        notification_id = job.notification_id
        if notification_id not in self._stopping:
            super().concluded(job, account, outcome)
            return
        if outcome.action == "dead_letter":  # which could be redriven
            outcome = msgspec.structs.replace(outcome, action="expired")
        if outcome.kind != "accepted":
            self._stopping[notification_id] = True
        super().concluded(job, account, outcome)
        if notification_id not in self._notes and self._stopping.pop(notification_id):
            if notification_id in self._erased:
                return
            self._stats.cancelled += 1
            where: dict[str, str | int] = {"notification_id": notification_id}
            # It may have been held for a fallback just now.
            self._stage_ops([Update(NotificationRow, where, {"state": "cancelled", "is_fallback": 0})])


def _cancelled(notification_id: int, number: int, was: str, state: str, now_ms: int) -> Op:
    """End a delivery, unless it is not what it was any more."""
    return Update(
        DeliveryRow,
        {"notification_id": notification_id, "number": number, "state": was},
        {"state": state, "is_open": 0, "outgoing": "", "code": CODE, "concluded_at_ms": now_ms},
    )
