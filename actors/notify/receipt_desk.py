"""What providers tell later of a delivery: confirmed, bounced, complained of, refused."""

from typing import Final, cast

from actors.notify.delivery import Outcome
from actors.notify.fallbacks import Fallbacks
from actors.notify.job import Job
from actors.notify.keeper import OpenRead
from actors.notify.lately import Lately
from actors.notify.messages import DeliveryTold
from actors.reply import Reply
from actors.stream_actor import Staged
from protocol import replies
from protocol.errors import Refused
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.notify_types import Channel, Decision
from protocol.records import Op, Update

# Which of a delivery's states replaces which: by what is told last in the world, not by what arrives last.
RANK: Final = {
    "queued": 0,
    "sending": 0,
    "accepted": 1,
    "unknown": 1,
    "refused": 2,
    "dead": 2,
    "confirmed": 3,
    "bounced": 3,
    "complained": 4,
}
TOLD_S: Final = 10.0


class ReceiptDesk(Fallbacks):
    """Take `DeliveryTold`."""

    _told: Lately  # (notification_id, number, state) on its way into the store

    async def told(self, message: DeliveryTold, reply: Reply) -> None:
        """Store what a provider tells later; states only go on, however late or often they are told.

        A receipt may come before the provider's own answer, or after the node died that waited for it: then
        it ends the delivery, and nothing is sent again.
        """
        key = (message.notification_id, message.number)
        row = await self._log.get(DeliveryRow, *key)
        # Whose account it is that tells was checked by who takes the call; it tells of its own app only.
        if row is None or row.partition != self._partition or row.app_id != message.app_id:
            raise Refused("notification_not_found")
        if not self._has_users((row.user_id,), message, reply):
            return
        if self._is_known(row, message.state):
            self._answer_in_order(reply, replies.Ok())
            return
        job = await self._open_job(row)
        now_ms = self._at_ms()
        decisions = [Decision("told", message.state, message.code)]
        ops: list[Op] = []
        changes: dict[str, str | int | None] = {"state": message.state, "code": message.code or row.code}
        is_confirmed = message.state == "confirmed"
        if is_confirmed and not row.accepted_at_ms:
            changes["accepted_at_ms"] = now_ms
        if job is not None:
            changes.update(is_open=0, outgoing="", concluded_at_ms=now_ms)
        where: dict[str, str | int] = {"notification_id": row.notification_id, "number": row.number}
        ops.append(Update(DeliveryRow, where, changes))
        if job is not None:
            self._end_by_receipt(job, now_ms, decisions, ops, is_sent=is_confirmed)
        if is_confirmed:
            ops.append(
                Update(NotificationRow, {"notification_id": row.notification_id}, {"confirmed_at_ms": now_ms})
            )
        if message.action in ("retire", "suppress"):
            self._retire_told(row, message, now_ms, decisions, ops)
        self._told.add((*key, message.state), self._ctx.now())
        self._record(
            "told",
            row.user_id,
            row.notification_id,
            decisions,
            Staged(reply, lambda _at: replies.Ok()),
        )
        self._stage_ops(ops)

    def _is_known(self, row: DeliveryRow, state: str) -> bool:
        """Tell whether a delivery has come as far already, as stored or as staged."""
        rank = RANK.get(state, 0)
        if rank <= RANK.get(row.state, 0):
            return True
        key = (row.notification_id, row.number)
        return any((*key, other) in self._told for other, its in RANK.items() if its >= rank)

    async def _open_job(self, row: DeliveryRow) -> Job | None:
        """The delivery, if it is open; from the store, where it did not fit into memory."""
        key = (row.notification_id, row.number)
        if key in self._jobs or not row.is_open or key in self._closed:
            return self._jobs.get(key)
        notes = await self._read_notes({row.notification_id})
        await self._setups.load(row.app_id)
        self.take_up(OpenRead(row.priority, [row], notes))
        return self._jobs.get(key)

    def _end_by_receipt(
        self, job: Job, now_ms: int, decisions: list[Decision], ops: list[Op], *, is_sent: bool
    ) -> None:
        """End an open delivery: the attempt under way has its result, and no other follows."""
        if job.is_begun:
            job.is_begun = False
            self._count(Outcome(kind="accepted" if is_sent else "refused", action="done"))
        self._finish(job, now_ms, decisions, ops, is_sent=is_sent)

    def _retire_told(
        self,
        row: DeliveryRow,
        message: DeliveryTold,
        now_ms: int,
        decisions: list[Decision],
        ops: list[Op],
    ) -> None:
        """Send nothing more to the address, unless it was registered again since the delivery was made."""
        user = self._users.get(row.user_id)
        target = user.devices.get(row.device_key) if user is not None else None
        if target is None:
            return
        if target.registered_at_ms > row.created_at_ms:
            decisions.append(Decision("retire", "pass", "registered_again", f"{target.registered_at_ms}"))
            return
        self.retire(
            row.app_id,
            row.user_id,
            cast(Channel, row.channel),
            row.device_key,
            message.code or message.action,
            now_ms,
            decisions,
            ops,
            is_guarded=message.action == "retire",
        )
