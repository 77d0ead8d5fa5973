"""Deliveries of one partition: attempts are stored before they are made, and what became of them after.

A channel asks `begin`, sends once that is stored, and tells `conclude`. What a node had begun when it died
has an unknown outcome; so has a request whose answer was lost. The type's rule and the channel's collapse key
decide whether such a one is sent again (retry_policy.py), and each one that may have come twice is counted.
"""

import random
from typing import Final

import msgspec

from actors.notify.decider import Decider, Deciding
from actors.notify.delivery import Outcome
from actors.notify.job import Job
from actors.notify.messages import DeliveryTold, Redrive
from actors.notify.plan import Plan
from actors.notify.ports import Account
from actors.notify.retry_policy import Step, next_step
from actors.notify.user_state import UserState, decode_kept
from actors.notify.wishes import is_wanted
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import replies
from protocol.errors import HubbubError, Refused
from protocol.notify_records import DeadDelivery, DeliveryRow, NotificationRow, NotifyDeviceRow
from protocol.notify_replies import Notified, Redriven
from protocol.notify_types import Decision
from protocol.records import Op, Put, Remove, Update

_encode = msgspec.json.Encoder().encode


class Begin(msgspec.Struct, frozen=True):
    """From a channel: attempts of these jobs are about to be made."""

    jobs: list[Job]


class Conclude(msgspec.Struct, frozen=True):
    """From a channel: so an attempt ended."""

    job: Job
    account: Account | None
    outcome: Outcome


class Resume(msgspec.Struct, frozen=True):
    """Go on with deliveries that were read from the store."""

    jobs: list[Job]


class Fallback(msgspec.Struct, frozen=True):
    """A notification that reached nobody; `tried`: by which channels, `count`: in how many deliveries."""

    row: NotificationRow
    tried: list[str]
    count: int
    is_own: bool = True


class Deliverer(Decider):
    """Take what channels say, and what providers tell later."""

    # -- of Owner: channels run in this process ------------------------------------------------------

    def begin(self, jobs: list[Job]) -> None:
        self._ctx.post(Begin(jobs))

    def conclude(self, job: Job, account: Account | None, outcome: Outcome) -> None:
        self._ctx.post(Conclude(job, account, outcome))

    # -- attempts -----------------------------------------------------------------------------------

    def resume(self, jobs: list[Job]) -> None:
        """Offer what waits to its channel; what was under way when its node ended has an unknown outcome."""
        for job in jobs:
            if job.is_cancelled:
                continue
            if job.is_begun:
                gone = Outcome(
                    kind="unknown",
                    action="resolve_unknown",
                    code="node_ended",
                    detail="The node ended between the attempt and its result.",
                )
                self.concluded(job, None, gone)
            else:
                self._channels.offer(job)

    def began(self, message: Begin) -> None:
        """Store that attempts begin, and let them go once it is stored."""
        jobs = [job for job in message.jobs if not job.is_cancelled]
        self._channels.left([job for job in message.jobs if job.is_cancelled])
        now_ms = self._at_ms()
        for job in jobs:
            job.attempt += 1
            job.is_begun = True
            job.attempt_at_ms = now_ms
            self._record(
                "attempted",
                job.user_id,
                job.notification_id,
                [Decision("attempt", "pass", job.channel, f"{job.attempt} to {job.device_key}")],
                Staged(NO_REPLY, None),
            )
            self._stage_ops(
                [
                    Update(
                        DeliveryRow,
                        {"notification_id": job.notification_id, "number": job.number},
                        {"state": "sending", "attempt": job.attempt},
                    )
                ]
            )
        self._stats.attempts += len(jobs)
        if jobs:
            self._stage_ops((), Staged(NO_REPLY, None, after=lambda _at: self._channels.begun(jobs)))

    def concluded(self, job: Job, account: Account | None, outcome: Outcome) -> None:
        """Store what became of an attempt, and what comes next."""
        if not job.is_begun:
            return
        job.is_begun = False
        now_ms = self._at_ms()
        self._count(outcome)
        if outcome.kind == "unknown":
            job.doubles += 1
        step = next_step(
            outcome,
            attempt=job.attempt,
            rule=job.rule,
            channel=job.channel,
            now_ms=now_ms,
            expires_at_ms=job.expires_at_ms,
            has_collapse=bool(job.outgoing.collapse_key),
            has_next_provider=self._channels.has_next(job),
            rand=random.random(),
        )
        decisions = [
            Decision("result", outcome.kind, outcome.code or outcome.action, outcome.detail[:500]),
            step.why,
        ]
        ops: list[Op] = []
        user = self._users.get(job.user_id)
        if step.kind in ("retire", "suppress"):
            self._retire(job, user, outcome, now_ms, decisions, ops)
        self._store_step(job, account, outcome, step, now_ms, decisions, ops)

    def _count(self, outcome: Outcome) -> None:
        if outcome.kind == "accepted":
            self._stats.accepted += 1
        elif outcome.kind == "unknown":
            self._stats.unknown += 1
        else:
            self._stats.refused += 1

    def _store_step(
        self,
        job: Job,
        account: Account | None,
        outcome: Outcome,
        step: Step,
        now_ms: int,
        decisions: list[Decision],
        ops: list[Op],
    ) -> None:
        changes: dict[str, str | int | None] = {
            "code": outcome.code[:100],
            "provider_id": account.provider_id if account is not None else "",
        }
        is_open = step.kind in ("retry", "failover", "break")
        if is_open:
            job.due_at_ms = step.at_ms
            job.waits = step.kind == "break"
            if step.kind == "failover":
                job.failed_over += 1
                job.account_index += 1
            self._stats.retried += 1
            changes.update(state="queued", next_at_ms=job.due_at_ms)
            if outcome.kind == "unknown":  # what is sent again after this may come twice
                self._stats.doubled += 1
                changes["doubles"] = job.doubles
        else:
            state = {
                "done": "accepted",
                "unknown_final": "unknown",
                "dead_letter": "dead",
            }.get(step.kind, "refused")
            changes.update(state=state, is_open=0, concluded_at_ms=now_ms, outgoing="")
            if state == "accepted":
                changes.update(accepted_at_ms=now_ms, provider_ref=outcome.provider_id)
            if state == "dead":
                self._bury(job, account, outcome, now_ms, ops)
        where: dict[str, str | int] = {"notification_id": job.notification_id, "number": job.number}
        ops.append(Update(DeliveryRow, where, changes))
        if not is_open:
            self._finish(job, step, now_ms, decisions, ops)
        staged = (
            Staged(NO_REPLY, None, after=lambda _at: self._channels.offer(job))
            if is_open
            else Staged(NO_REPLY, None)
        )
        self._record("concluded", job.user_id, job.notification_id, decisions, staged)
        self._stage_ops(ops)

    def _bury(self, job: Job, account: Account | None, outcome: Outcome, now_ms: int, ops: list[Op]) -> None:
        """Keep a delivery that was given up for the app's developers, with what is needed to try it again."""
        self._stats.dead += 1
        ops.append(
            Put(
                DeadDelivery(
                    notification_id=job.notification_id,
                    number=job.number,
                    partition=self._partition,
                    app_id=job.app_id,
                    channel=job.channel,
                    provider_id=account.provider_id if account is not None else "",
                    code=outcome.code[:100],
                    detail=outcome.detail[:500],
                    outgoing=_encode(job.outgoing).decode(),
                    at_ms=now_ms,
                )
            )
        )

    def _finish(self, job: Job, step: Step, now_ms: int, decisions: list[Decision], ops: list[Op]) -> None:
        """Conclude a delivery, and its notification with the last of them."""
        note = self._notes.get(job.notification_id)
        is_sent = step.kind == "done"
        is_first = is_sent and note is not None and not note.is_sent
        if note is not None:
            note.is_sent = note.is_sent or is_sent or step.kind == "unknown_final"
        changes: dict[str, str | int | None] = {}
        if is_first:
            changes["sent_at_ms"] = now_ms
            if now_ms > job.deadline_at_ms:
                self._stats.late += 1
                changes["is_late"] = 1
                decisions.append(
                    Decision("deadline", "late", "deadline_s", f"{now_ms - job.deadline_at_ms} ms")
                )
        if self._close(job):
            changes["state"] = "done"
            if note is not None and not note.is_sent:
                self._ctx.start_soon(self._look_for_fallback, job.notification_id, job.user_id)
        if changes:
            ops.append(Update(NotificationRow, {"notification_id": job.notification_id}, changes))

    # -- fallback -----------------------------------------------------------------------------------

    async def _look_for_fallback(self, notification_id: int, user_id: str) -> None:
        """No address was reached: see whether the type names another channel that was not tried."""
        try:
            await self._log.barrier()
            rows = await self._reads.notifications([notification_id])
            tried = await self._reads.deliveries(notification_id)
        except HubbubError:
            return  # it stays as it is: refused everywhere, and told so
        if rows and rows[0].content:
            self._ctx.post(Fallback(rows[0], sorted({row.channel for row in tried}), len(tried)))

    def fall_back(self, message: Fallback) -> None:
        """Send by the next of the type's fallback channels that leads anywhere."""
        row = message.row
        user = self._users.get(row.user_id)
        if user is None or row.notification_id in self._gone:
            return
        setup = self._setup_of(row.app_id)
        rule = setup.type_rule(row.type)
        if rule is None:
            return
        now_ms = self._at_ms()
        kept = decode_kept(row.content)
        plan = Plan([])
        for channel in rule.fallback:
            if channel in message.tried or not (
                rule.is_security or is_wanted(user.facts.preferences, rule.name, channel)
            ):
                continue
            plan.decisions.append(Decision("choose", "change", "fallback", channel))
            self.choose(
                user,
                setup,
                rule,
                kept,
                self._reader(user, setup, kept),
                channel,
                now_ms,
                plan,
                notification_id=row.notification_id,
                expires_at_ms=row.expires_at_ms,
                first_number=message.count,
            )
            if plan.deliveries:
                break
        if not plan.decisions:
            return
        jobs = self._jobs_of(plan, rule, now_ms, row.deadline_at_ms, message.count)
        item = Notified(user_id=user.user_id, notification_id=row.notification_id, state="open")
        row_index = self._record(
            "fallback",
            user.user_id,
            row.notification_id,
            plan.decisions,
            Deciding(self, None, 0, item, jobs, None),
        )
        if jobs:
            self._stage_ops(
                [Update(NotificationRow, {"notification_id": row.notification_id}, {"state": "open"})]
            )
            self._stage_ops(self._delivery_puts(plan, jobs, user, row_index))

    # -- addresses that are dead --------------------------------------------------------------------

    def _retire(
        self,
        job: Job,
        user: UserState | None,
        outcome: Outcome,
        now_ms: int,
        decisions: list[Decision],
        ops: list[Op],
    ) -> None:
        """Send nothing more to an address, unless it was registered again, or too many would go at once."""
        target = job.outgoing.target
        known = user.devices.get(job.device_key) if user is not None else None
        if known is not None:
            target = known
        if outcome.invalid_since_ms and target.registered_at_ms > outcome.invalid_since_ms:
            decisions.append(Decision("retire", "pass", "registered_again", f"{target.registered_at_ms}"))
            return
        if outcome.action == "retire" and not self._channels.may_retire(job.app_id, job.channel, now_ms):
            decisions.append(Decision("retire", "hold", "mass_retirement", job.channel))
            return
        decisions.append(Decision("retire", "drop", outcome.code, job.device_key))
        if user is not None:
            user.devices.pop(job.device_key, None)
        where: dict[str, str | int] = {"user_id": job.user_id, "device_key": job.device_key}
        ops.append(
            Update(
                NotifyDeviceRow,
                where,
                {"retired_at_ms": now_ms, "retired_for": outcome.code[:100] or outcome.action},
            )
        )

    # -- told later ---------------------------------------------------------------------------------

    async def told(self, message: DeliveryTold, reply: Reply) -> None:
        """Store what a provider tells later; its states only go on, however late or often they come."""
        row = await self._log.get(DeliveryRow, message.notification_id, message.number)
        if row is None or row.partition != self._partition:
            raise Refused("notification_not_found")
        now_ms = self._at_ms()
        rank = _RANK.get(message.state, 0)
        if rank <= _RANK.get(row.state, 0):
            self._answer_in_order(reply, replies.Ok())
            return
        decisions = [Decision("told", message.state, message.code)]
        ops: list[Op] = [
            Update(
                DeliveryRow,
                {"notification_id": row.notification_id, "number": row.number},
                {"state": message.state, "code": message.code or row.code},
            )
        ]
        if message.state == "confirmed":
            ops.append(
                Update(NotificationRow, {"notification_id": row.notification_id}, {"confirmed_at_ms": now_ms})
            )
        if message.action in ("retire", "suppress"):
            decisions.append(Decision("retire", "drop", message.code, row.device_key))
            user = self._users.get(row.user_id)
            if user is not None:
                user.devices.pop(row.device_key, None)
            ops.append(
                Update(
                    NotifyDeviceRow,
                    {"user_id": row.user_id, "device_key": row.device_key},
                    {"retired_at_ms": now_ms, "retired_for": message.code or message.action},
                )
            )
        self._record(
            "told",
            row.user_id,
            row.notification_id,
            decisions,
            Staged(reply, lambda _at: replies.Ok()),
        )
        self._stage_ops(ops)

    async def redrive(self, message: Redrive, reply: Reply) -> None:
        """Try dead deliveries again, from their first attempt on."""
        now_ms = self._at_ms()
        count = 0
        for notification_id, number in message.deliveries:
            dead = await self._log.get(DeadDelivery, notification_id, number)
            row = await self._log.get(DeliveryRow, notification_id, number)
            if dead is None or row is None or dead.app_id != message.app_id or not dead.outgoing:
                continue
            if (notification_id, number) in self._jobs:
                continue
            notes = await self._read_notes({notification_id})
            again = msgspec.structs.replace(
                row,
                state="queued",
                is_open=True,
                outgoing=dead.outgoing,
                attempt=0,
                next_at_ms=now_ms,
                concluded_at_ms=0,
            )
            job = await self._job_of(again, notes)
            if job is None:
                continue
            count += 1
            self._record(
                "redriven",
                row.user_id,
                notification_id,
                [Decision("redrive", "pass", dead.code, row.device_key)],
                Staged(NO_REPLY, None, after=lambda _at, job=job: self._channels.offer(job)),  # type: ignore[misc]
            )
            self._stage_ops(
                [
                    Put(again),
                    Remove(DeadDelivery, {"notification_id": notification_id, "number": number}),
                    Update(NotificationRow, {"notification_id": notification_id}, {"state": "open"}),
                ]
            )
        self._answer_when_stored(reply, lambda _at: Redriven(count=count))


# Which of a delivery's states replaces which: by what is told last in the world, not by what arrives last.
_RANK: Final = {
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
