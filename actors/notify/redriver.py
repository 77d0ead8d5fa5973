"""Dead deliveries, tried again when a person says so."""

from typing import cast

import msgspec

from actors.notify.messages import Redrive
from actors.notify.receipt_desk import ReceiptDesk
from actors.notify.recheck import Recheck, recheck
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol.notify_found import Standing
from protocol.notify_records import DeadDelivery, DeliveryRow, NotificationRow
from protocol.notify_replies import Redriven
from protocol.notify_types import Channel, Decision, TypeRule
from protocol.records import Put, Remove, Update


class Redriver(ReceiptDesk):
    """Take `Redrive`."""

    async def redrive(self, message: Redrive, reply: Reply) -> None:
        """Try dead deliveries again, from their first attempt on, where they still may go."""
        found: list[tuple[DeadDelivery, DeliveryRow]] = []
        for key in message.deliveries:
            dead = await self._log.get(DeadDelivery, *key)
            row = await self._log.get(DeliveryRow, *key)
            if dead is not None and row is not None and dead.app_id == message.app_id and dead.outgoing:
                found.append((dead, row))
        if not self._has_users([row.user_id for _, row in found], message, reply):
            return
        ids = sorted({row.notification_id for _, row in found})
        notes = await self._read_notes(ids)
        standings = await self._reads.standings(ids)
        await self._setups.load(message.app_id)
        self.check_room_again()
        count = 0
        for dead, row in found:
            note = notes.get(row.notification_id)
            if note is not None:
                count += self._redrive_one(dead, row, note, standings.get(row.notification_id))
        self._answer_when_stored(reply, lambda _at: Redriven(count=count))

    def _redrive_one(
        self, dead: DeadDelivery, row: DeliveryRow, note: NotificationRow, standing: Standing | None
    ) -> bool:
        """Open it again, or say in the ledger why not; whether it is open."""
        key = (row.notification_id, row.number)
        if key in self._jobs or row.notification_id in self._gone or note.state == "erased":
            return False
        now_ms = self._now_ms()
        check = self._recheck_row(row, note, now_ms)
        if check.kind == "drop":
            assert check.decision is not None
            self._record(
                "redriven",
                row.user_id,
                row.notification_id,
                [check.decision],
                Staged(NO_REPLY, None),
            )
            return False
        again = msgspec.structs.replace(
            row,
            state="queued",
            is_open=True,
            outgoing=dead.outgoing,
            attempt=0,
            told_attempt=0,
            failed_over=0,
            undelivered_by="",
            next_at_ms=check.due_at_ms or now_ms,
            concluded_at_ms=0,
        )
        job = self._job_of(again, {row.notification_id: note})
        if job is None:
            return False
        self._open(job, standing)
        decisions = [Decision("redrive", "pass", dead.code, row.device_key)]
        if check.decision is not None:
            decisions.append(check.decision)
        self._record(
            "redriven",
            row.user_id,
            row.notification_id,
            decisions,
            Staged(NO_REPLY, None, after=lambda _at: self._channels.offer(job)),
        )
        where: dict[str, str | int] = {"notification_id": row.notification_id, "number": row.number}
        self._stage_ops(
            [
                Put(again),
                Remove(DeadDelivery, where),
                Update(NotificationRow, {"notification_id": row.notification_id}, {"state": "open"}),
            ]
        )
        return True

    def _recheck_row(self, row: DeliveryRow, note: NotificationRow, now_ms: int) -> Recheck:
        setup = self._setup_of(row.app_id)
        rule = setup.type_rule(note.type) or TypeRule(name=note.type)
        user = self._users.get(row.user_id)
        channel = cast(Channel, row.channel)
        is_seen = self.is_seen(note)
        return recheck(user, rule, setup.rules, channel, row.device_key, now_ms, is_seen=is_seen)
