"""Another way for what a provider has taken, and then told that it could not deliver.

By the next account of its channel, once; else by the type's fallback, as undelivered.py says. Either is
stored in the append of what was told, so that no crash lies between.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import msgspec

from actors.notify.fallbacks import Fallbacks
from actors.notify.messages import DeliveryTold
from actors.notify.undelivered import (
    MAY_HAVE_COME,
    NOTHING,
    Follow,
    after_undelivered,
    has_ended,
    held_for_fallback,
)
from actors.notify.user_state import UserState
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import replies
from protocol.notify_found import Standing
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.notify_types import Channel, Decision
from protocol.records import Op, Put, Update


class Siblings(msgspec.Struct, frozen=True):
    """The notification of a delivery that was concluded, and its other deliveries, as they are known now."""

    note: NotificationRow
    others: list[DeliveryRow]


class UndeliveredDesk(Fallbacks):
    """Find out how the notification stands, and let it go another way."""

    _called_off: OrderedDict[tuple[str, str], None]  # requests that were cancelled; by app and id
    _releasing: set[int]  # held notifications that are being decided about anew

    async def read_siblings(self, row: DeliveryRow) -> Siblings | None:
        """Read what else there is of a delivery's notification; None: that is gone.

        What was read may be a moment old: what is on its way into the store is known here.
        """
        notification_id = row.notification_id
        deliveries = await self._reads.deliveries(notification_id)
        note = (await self._read_notes({notification_id})).get(notification_id)
        await self._setups.load(row.app_id)
        self.check_room_again()
        if note is None or notification_id in self._gone:
            return None
        if notification_id in self._releasing:
            note = msgspec.structs.replace(note, state="held")
        if (note.app_id, note.request_id) in self._called_off:
            note = msgspec.structs.replace(note, state="cancelled")
        others = [self._as_known(other) for other in deliveries if other.number != row.number]
        return Siblings(note, others)

    def _as_known(self, row: DeliveryRow) -> DeliveryRow:
        """A delivery that was read, with what has been told of it or begun with it since."""
        key = (row.notification_id, row.number)
        if key in self._jobs or key in self._deciding:
            return row if row.is_open else msgspec.structs.replace(row, state="queued", is_open=True)
        for state in ("complained", "confirmed", "bounced", "refused"):
            if (*key, state) in self._told:
                return msgspec.structs.replace(row, state=state, is_open=False)
        return row

    def is_being_stored(self, row: DeliveryRow) -> bool:
        """Tell whether a delivery was concluded, and read as it was before."""
        key = (row.notification_id, row.number)
        return row.is_open and key in self._closed and key not in self._jobs and key not in self._deciding

    def follow_on(self, row: DeliveryRow, siblings: Siblings, now_ms: int, ops: list[Op]) -> Follow:
        """Let the notification go by its fallback, if it should: held in the same append as what was told."""
        note = siblings.note
        rule = self._setup_of(row.app_id).type_rule(note.type)
        if rule is None:
            return NOTHING
        is_seen = self.is_seen(note)
        follow = after_undelivered(note, rule, row, siblings.others, is_seen=is_seen, now_ms=now_ms)
        known = self._notes.get(row.notification_id)
        if follow.kind == "wait" and known is not None:
            known.is_sent = False
        if follow.kind == "fallback":
            where: dict[str, str | int] = {"notification_id": row.notification_id}
            ops.append(Update(NotificationRow, where, held_for_fallback(now_ms)))
            self._stage_ops((), Staged(NO_REPLY, None, after=lambda _at: self.held_until(now_ms)))
        return follow

    def fall_back(self, user: UserState, row: NotificationRow, tried: Sequence[DeliveryRow]) -> None:
        super().fall_back(user, row, [self._as_known(delivery) for delivery in tried])

    def fail_over(self, row: DeliveryRow, message: DeliveryTold, siblings: Siblings, reply: Reply) -> bool:
        """Send by the next account what the first one took and could not deliver; False: it cannot be.

        Once: for what the second one cannot deliver either there is the fallback.
        """
        chain = self._channels.chain(row.app_id, cast(Channel, row.channel))
        if row.is_open or not row.outgoing or row.undelivered_by:
            return False
        if len(chain) < 2 or chain[0].provider_id != row.provider_id:
            return False
        now_ms = self._now_ms()
        note = siblings.note
        if note.state == "cancelled" or has_ended(note, now_ms):
            return False
        again = msgspec.structs.replace(
            row,
            state="queued",
            is_open=True,
            next_at_ms=now_ms,
            provider_id=chain[1].provider_id,
            provider_ref="",
            failed_over=1,
            undelivered_by=row.provider_id,
            code=message.code,
            concluded_at_ms=0,
        )
        job = self._job_of(again, {row.notification_id: note})
        if job is None:
            return False
        check = self._recheck(job, now_ms, is_seen=self.is_seen(note))
        if check.kind == "drop":
            return False
        job.due_at_ms = max(now_ms, check.due_at_ms)
        again = msgspec.structs.replace(again, next_at_ms=job.due_at_ms)
        others = siblings.others
        reached = [other.number for other in others if other.state in MAY_HAVE_COME]
        self._open(job, Standing([other.number for other in others if other.is_open], reached))
        self._notes[row.notification_id].is_sent = bool(reached)  # by another one, as this one has not
        decisions = [Decision("told", message.state, message.code), Decision("result", "retry", "failover")]
        if check.decision is not None:
            decisions.append(check.decision)
        self._record(
            "told",
            row.user_id,
            row.notification_id,
            decisions,
            Staged(reply, lambda _at: replies.Ok(), after=lambda _at: self._channels.offer(job)),
        )
        self._stage_ops(
            [
                Put(again),
                self._defer(job),
                Update(NotificationRow, {"notification_id": row.notification_id}, {"state": "open"}),
            ]
        )
        return True
