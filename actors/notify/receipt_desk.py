"""What providers tell later of a delivery: confirmed, bounced, complained of, refused."""

from typing import Final, cast

import msgspec

from actors.notify.delivery import Outcome
from actors.notify.job import Job
from actors.notify.messages import DeliveryTold
from actors.notify.ports import Account
from actors.notify.undelivered import UNDELIVERED
from actors.notify.undelivered_desk import UndeliveredDesk
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import replies
from protocol.errors import HubbubError, Refused
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


class ToldAgain(msgspec.Struct, frozen=True):
    """What was told while its delivery was being concluded: that is stored by now."""

    message: DeliveryTold
    reply: Reply


class ReceiptDesk(UndeliveredDesk):
    """Take `DeliveryTold`."""

    async def told(self, message: DeliveryTold, reply: Reply) -> None:
        """Store what a provider tells later; states only go on, however late or often they are told.

        A receipt may come before the provider's own answer, or after the node died that waited for it: then
        it ends the delivery, and nothing is sent again. Only where another account may do better the answer
        is waited for: the next attempt begins when this one has ended. What was taken and not delivered goes
        by the next account, else by the type's fallback (undelivered.py).
        """
        key = (message.notification_id, message.number)
        row = await self._log.get(DeliveryRow, *key)
        # Whose account it is that tells was checked by who takes the call; it tells of its own app only.
        if row is None or row.partition != self._partition or row.app_id != message.app_id:
            raise Refused("notification_not_found")
        if not self._has_users((row.user_id,), message, reply):
            return
        self.check_room_again()
        if self.is_being_stored(row):
            self._tell_again(message, reply)  # it was read as it was before its answer came
            return
        if self._is_known(row, message.state) or self._is_of_another_try(row, message):
            self._answer_in_order(reply, replies.Ok())
            return
        is_undelivered = message.state in UNDELIVERED and not row.is_open and key not in self._jobs
        siblings = await self.read_siblings(row) if is_undelivered else None
        if siblings is not None and any(self.is_being_stored(other) for other in siblings.others):
            self._tell_again(message, reply)  # whether that one has come is not read yet
            return
        if message.action == "failover" and siblings and self.fail_over(row, message, siblings, reply):
            return
        job = await self._open_job(row)
        self.check_room_again()
        if message.action == "failover" and job is not None and job.is_begun and self._channels.has_next(job):
            self._note_early(job, message, reply)
            return
        now_ms = self._now_ms()
        decisions = [Decision("told", message.state, message.code)]
        ops: list[Op] = []
        changes: dict[str, str | int | None] = {"state": message.state, "code": message.code or row.code}
        is_confirmed = message.state == "confirmed"
        if is_confirmed and not row.accepted_at_ms:
            changes["accepted_at_ms"] = now_ms
        changes["outgoing"] = ""
        if job is not None:
            changes.update(is_open=0, concluded_at_ms=now_ms)
        where: dict[str, str | int] = {"notification_id": row.notification_id, "number": row.number}
        ops.append(Update(DeliveryRow, where, changes))
        if job is not None:
            has_come = message.state == "complained"
            self._end_by_receipt(job, now_ms, decisions, ops, is_sent=is_confirmed, may_have_come=has_come)
        if is_confirmed:
            ops.append(
                Update(NotificationRow, {"notification_id": row.notification_id}, {"confirmed_at_ms": now_ms})
            )
        if siblings is not None:
            follow = self.follow_on(row, siblings, now_ms, ops)
            if follow.why is not None:
                decisions.append(follow.why)
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
        if message.action in ("retire", "suppress"):
            self.skip_gone(row.user_id, row.device_key, "retired")

    async def told_again(self, again: ToldAgain) -> None:
        """As `told`."""
        try:
            await self.told(again.message, again.reply)
        except HubbubError as error:
            again.reply.fail(error)

    def _tell_again(self, message: DeliveryTold, reply: Reply) -> None:
        """Take it once all that was decided before is stored."""
        again = ToldAgain(message, reply)
        self._stage_ops((), Staged(NO_REPLY, None, after=lambda _at: self._ctx.post(again)))

    def _is_known(self, row: DeliveryRow, state: str) -> bool:
        """Tell whether a delivery has come as far already, as stored or as staged."""
        rank = RANK.get(state, 0)
        if rank <= RANK.get(row.state, 0):
            return True
        key = (row.notification_id, row.number)
        return any((*key, other) in self._told for other, its in RANK.items() if its >= rank)

    def _note_early(self, job: Job, message: DeliveryTold, reply: Reply) -> None:
        """The account that is asked just now has taken it already, and could not deliver it.

        It is stored of which attempt that was told: whoever takes it up after a crash has to know.
        """
        job.told_code = message.code or message.state
        self._record(
            "told",
            job.user_id,
            job.notification_id,
            [Decision("told", message.state, message.code)],
            Staged(reply, lambda _at: replies.Ok()),
        )
        self._stage_ops(
            [Update(DeliveryRow, job.where, {"code": job.told_code, "told_attempt": job.attempt})],
        )

    def concluded(self, job: Job, account: Account | None, outcome: Outcome) -> None:
        """As that of Deliverer; what the account has told already is more than its answer."""
        code, job.told_code = job.told_code, ""
        if code and outcome.kind != "refused":
            outcome = Outcome(kind="refused", action="failover", code=code, detail="told before the answer")
            job.undelivered_by += (account.provider_id if account is not None else job.provider_id,)
            if account is None:  # it was made in another life: the next account is the one after its own
                names = [known.provider_id for known in self._channels.chain(job.app_id, job.channel)]
                job.account_index = names.index(job.provider_id) if job.provider_id in names else 0
        super().concluded(job, account, outcome)

    def _is_of_another_try(self, row: DeliveryRow, message: DeliveryTold) -> bool:
        """Tell whether a provider says no to what has gone on to another one since."""
        if not message.provider_id or message.state == "confirmed":
            return False
        job = self._jobs.get((row.notification_id, row.number))
        failed_over = row.failed_over if job is None else job.failed_over
        is_begun = row.state != "queued" if job is None else job.is_begun
        if failed_over and not is_begun:  # it waits for the next one
            return True
        if (job or row).provider_id != message.provider_id:
            return True
        # The same account, which was asked more than once: an answer that was lost had another id.
        is_answered = bool(row.provider_ref and message.provider_ref) and not row.is_open
        return is_answered and row.provider_ref != message.provider_ref

    async def _open_job(self, row: DeliveryRow) -> Job | None:
        """The delivery, if it is open; from the store, where it did not fit into memory."""
        key = (row.notification_id, row.number)
        if key in self._jobs or not row.is_open or key in self._closed:
            return self._jobs.get(key)
        line = (row.priority, row.app_id, row.channel)
        found = await self._with_notes(line, [row])
        self.check_room_again()
        self.take_up(found, is_forced=True)
        return self._jobs.get(key)

    def _end_by_receipt(
        self,
        job: Job,
        now_ms: int,
        decisions: list[Decision],
        ops: list[Op],
        *,
        is_sent: bool,
        may_have_come: bool,
    ) -> None:
        """End an open delivery: the attempt under way has its result, and no other follows."""
        if job.is_begun:
            job.is_begun = False
            self._count(Outcome(kind="accepted" if is_sent else "refused", action="done"))
        self._finish(job, now_ms, decisions, ops, is_sent=is_sent, may_have_come=may_have_come)

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
            if message.action == "suppress":
                channel = cast(Channel, row.channel)
                self.suppress(row.app_id, channel, row.device_key, message.action, message.code, now_ms, ops)
            return
        # Who complains of an old message means it, however often the address was registered since.
        if message.action == "retire" and target.registered_at_ms > row.created_at_ms:
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
