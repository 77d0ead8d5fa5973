"""Deliveries of one partition: attempts are stored before they are made, and what became of them after.

A channel asks `begin`, sends once that is stored, and tells `conclude`. What a node had begun when it died
has an unknown outcome; so has a request whose answer was lost. The type's rule and the channel's collapse key
decide whether such a one is sent again (retry_policy.py), and each one that may have come twice is counted.
Before anything goes on that has waited, it is asked whether it still may (recheck.py).
"""

import random
from typing import Final

import msgspec

from actors.notify.delivery import Outcome
from actors.notify.job import Job
from actors.notify.ports import Account
from actors.notify.recheck import Recheck, must_ask_again, recheck
from actors.notify.retirer import Retirer
from actors.notify.retry_policy import Step, next_step, resumed_at_ms
from actors.notify.undelivered import ends_at_ms, held_for_fallback
from actors.reply import NO_REPLY
from actors.stream_actor import Staged
from protocol.notify_records import DeadDelivery, DeliveryRow, NotificationRow
from protocol.notify_types import Decision
from protocol.records import Op, Put, Update

NO_ACCOUNT: Final = "no_provider_left"
RESUMED: int = 128  # deliveries in one turn: so many users are read at once

_encode = msgspec.json.Encoder().encode


class Begin(msgspec.Struct, frozen=True):
    """From a channel: attempts of these jobs are about to be made."""

    jobs: list[Job]
    is_own: bool = True


class Conclude(msgspec.Struct, frozen=True):
    """From a channel: so an attempt ended."""

    job: Job
    account: Account | None
    outcome: Outcome
    is_own: bool = True


class Resume(msgspec.Struct, frozen=True):
    """Go on with deliveries that were read from the store. Their users are in memory.

    `rest`: of them, with which it goes on when others have had their turns.
    """

    jobs: list[Job]
    rest: list[Job] = []
    is_own: bool = True

    @property
    def user_ids(self) -> list[str]:
        """Whose they are."""
        return list(dict.fromkeys(job.user_id for job in self.jobs))


class Deliverer(Retirer):
    """Take what channels say."""

    # -- of Owner: channels run in this process ------------------------------------------------------

    def begin(self, jobs: list[Job]) -> None:
        self._ctx.post(Begin(jobs))

    def conclude(self, job: Job, account: Account | None, outcome: Outcome) -> None:
        self._ctx.post(Conclude(job, account, outcome))

    # -- attempts -----------------------------------------------------------------------------------

    def post_resumed(self, jobs: list[Job]) -> None:
        """Let deliveries that were read from the store go on, the most urgent first."""
        if jobs:
            self._ctx.post_after(0.0, Resume(jobs[:RESUMED], jobs[RESUMED:]))

    def resume(self, message: Resume) -> None:
        """Offer what waits to its channel; what was under way when its node ended has an unknown outcome."""
        self.post_resumed(message.rest)
        for job in message.jobs:
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
                continue
            now_ms = self._now_ms()
            at_ms = resumed_at_ms(job.due_at_ms, now_ms)
            check = self._recheck(job, max(now_ms, at_ms))
            if check.kind == "drop":
                self._skip(job, check)
            elif check.kind == "hold" and check.due_at_ms == job.due_at_ms:  # as it is stored
                job.is_dated = True
                self._channels.offer(job)
            elif check.kind == "hold":
                self._put_off(job, check)
            else:
                job.due_at_ms = at_ms
                self._channels.offer(job)

    def _recheck(self, job: Job, at_ms: int, *, is_seen: bool = False) -> Recheck:
        """Ask whether a delivery may still go at that time. Its user is in memory, if there is one."""
        setup = self._setup_of(job.app_id)
        user = self._users.get(job.user_id)
        note = self._notes.get(job.notification_id)
        is_seen = is_seen or (note is not None and note.is_seen)
        return recheck(user, job.rule, setup.rules, job.channel, job.device_key, at_ms, is_seen=is_seen)

    def _put_off(self, job: Job, check: Recheck) -> None:
        """Let a delivery wait for a better time."""
        assert check.decision is not None
        job.due_at_ms = check.due_at_ms
        job.is_dated = True
        self._record(
            "put_off",
            job.user_id,
            job.notification_id,
            [check.decision],
            Staged(NO_REPLY, None, after=lambda _at: self._channels.offer(job)),
        )
        self._stage_ops([Update(DeliveryRow, job.where, {"next_at_ms": job.due_at_ms}), self._defer(job)])

    def _defer(self, job: Job) -> Op:
        """Count its deadline from when it is due: it waits for the user's sake, or begins anew."""
        job.deadline_at_ms = job.due_at_ms + job.rule.deadline_s * 1000
        where: dict[str, str | int] = {"notification_id": job.notification_id}
        return Update(NotificationRow, where, {"deadline_at_ms": job.deadline_at_ms})

    def _skip(self, job: Job, check: Recheck) -> None:
        """Let go of a delivery that may not be made any more."""
        assert check.decision is not None
        decisions = [check.decision]
        ops: list[Op] = []
        self._stats.skipped += 1
        job.is_begun = False
        now_ms = self._now_ms()
        ops.append(
            Update(
                DeliveryRow,
                job.where,
                {
                    "state": "skipped",
                    "is_open": 0,
                    "outgoing": "",
                    "code": check.code,
                    "concluded_at_ms": now_ms,
                },
            )
        )
        self._finish(job, now_ms, decisions, ops, falls_back=check.code == "address_gone")
        self._record("concluded", job.user_id, job.notification_id, decisions, Staged(NO_REPLY, None))
        self._stage_ops(ops)

    def skip_gone(self, user_id: str, device_key: str, reason: str) -> None:
        """Let go of all that waits to be sent to an address, if it is the user's no more."""
        user = self._users.get(user_id)
        if user is not None and device_key in user.devices:
            return
        for note_id, note in [(i, n) for i, n in self._notes.items() if n.user_id == user_id]:
            for number in sorted(note.numbers):
                job = self._jobs[note_id, number]
                if job.device_key == device_key and not job.is_begun:
                    why = Decision("choose", "drop", reason, device_key)
                    self._skip(job, Recheck("drop", why, code="address_gone"))

    def began(self, message: Begin) -> None:
        """Store that attempts begin, and let them go once it is stored.

        The users of those that have waited are in memory, if there are any.
        """
        self._channels.left([job for job in message.jobs if job.is_cancelled])
        now_ms = self._now_ms()
        jobs = [job for job in message.jobs if not job.is_cancelled and self._may_begin(job, now_ms)]
        for job in jobs:
            job.begin(now_ms)
            self._record(
                "attempted",
                job.user_id,
                job.notification_id,
                [Decision("attempt", "pass", job.channel, f"{job.attempt} to {job.way}")],
                Staged(NO_REPLY, None),
            )
            changes: dict[str, str | int | None] = {
                "state": "sending",
                "attempt": job.attempt,
                "provider_id": job.provider_id,
            }
            self._stage_ops([Update(DeliveryRow, job.where, changes)])
        self._stats.attempts += len(jobs)
        if jobs:
            self._stage_ops((), Staged(NO_REPLY, None, after=lambda _at: self._channels.begun(jobs)))

    def _may_begin(self, job: Job, now_ms: int) -> bool:
        """Ask again where a delivery has waited in its queue: it is let go of, or waits for longer."""
        if job.account is None:
            self._end_unsent(job, now_ms)
            return False
        if not must_ask_again(job.due_at_ms, now_ms):
            return True
        check = self._recheck(job, now_ms)
        if check.kind == "drop":
            self._skip(job, check)
        elif check.kind == "hold":
            self._channels.left((job,))
            self._put_off(job, check)
        return check.kind == "go"

    def _end_unsent(self, job: Job, now_ms: int) -> None:
        """No account is left that may try again what others took and did not deliver, within its time."""
        decisions = [Decision("result", "refused", NO_ACCOUNT, job.device_key)]
        changes: dict[str, str | int | None] = {
            "state": "refused",
            "code": NO_ACCOUNT,
            "is_open": 0,
            "concluded_at_ms": now_ms,
            "outgoing": "",
        }
        ops: list[Op] = [Update(DeliveryRow, job.where, changes)]
        self._finish(job, now_ms, decisions, ops)
        self._record("concluded", job.user_id, job.notification_id, decisions, Staged(NO_REPLY, None))
        self._stage_ops(ops)

    def concluded(self, job: Job, account: Account | None, outcome: Outcome) -> None:
        """Store what became of an attempt, and what comes next."""
        if not job.is_begun:
            return
        job.is_begun = False
        now_ms = self._now_ms()
        self._count(outcome)
        if account is not None:
            job.provider_id = account.provider_id
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
        ends_ms = ends_at_ms(job.expires_at_ms, job.created_at_ms)
        if step.kind == "break" and job.undelivered_by and ends_ms <= step.at_ms:
            step = Step("expired", 0, Decision("result", "refused", NO_ACCOUNT, job.device_key))
        told = f"{job.way}: {outcome.detail[:500]}" if outcome.detail else job.way
        decisions = [
            Decision("result", outcome.kind, outcome.code or outcome.action, told),
            step.why,
        ]
        ops: list[Op] = []
        is_dead = step.kind in ("retire", "suppress")
        if is_dead:
            self._retire(job, outcome, now_ms, decisions, ops)
        if not job.is_final and step.kind in ("retry", "failover", "break"):
            check = self._recheck(job, max(now_ms, step.at_ms))
            if check.decision is not None:
                decisions.append(check.decision)
            if check.kind != "drop":
                self._try_again(
                    job, outcome, step, check.due_at_ms, decisions, ops, is_dated=check.kind == "hold"
                )
                return
            step = Step("expired", 0, check.decision or step.why)
        self._store_end(job, outcome, step, now_ms, decisions, ops)
        if is_dead:
            self.skip_gone(job.user_id, job.device_key, "retired")

    def _count(self, outcome: Outcome) -> None:
        if outcome.kind == "accepted":
            self._stats.accepted += 1
        elif outcome.kind == "unknown":
            self._stats.unknown += 1
        else:
            self._stats.refused += 1

    def _try_again(
        self,
        job: Job,
        outcome: Outcome,
        step: Step,
        not_before_ms: int,
        decisions: list[Decision],
        ops: list[Op],
        *,
        is_dated: bool,
    ) -> None:
        """Store that another attempt follows, and queue it."""
        at_ms = job.due_at_ms = max(step.at_ms, not_before_ms)
        job.is_dated = is_dated
        job.waits = step.kind == "break" and at_ms == step.at_ms
        if step.kind == "failover":
            job.failed_over += 1
            job.account_index += 1
        self._stats.retried += 1
        changes: dict[str, str | int | None] = {
            "state": "queued",
            "next_at_ms": at_ms,
            "code": outcome.code[:100],
            "provider_id": job.provider_id,
        }
        if step.kind == "failover":
            changes.update(failed_over=job.failed_over, undelivered_by="/".join(job.undelivered_by))
        if outcome.kind == "unknown":  # what is sent again after this may come twice
            self._stats.doubled += 1
            changes["doubles"] = job.doubles
        ops.append(Update(DeliveryRow, job.where, changes))
        if is_dated:
            ops.append(self._defer(job))
        self._record(
            "concluded",
            job.user_id,
            job.notification_id,
            decisions,
            Staged(NO_REPLY, None, after=lambda _at: self._channels.offer(job)),
        )
        self._stage_ops(ops)

    def _store_end(
        self,
        job: Job,
        outcome: Outcome,
        step: Step,
        now_ms: int,
        decisions: list[Decision],
        ops: list[Op],
    ) -> None:
        """Store how a delivery ended."""
        state = {
            "done": "accepted",
            "unknown_final": "unknown",
            "dead_letter": "dead",
        }.get(step.kind, "unknown" if outcome.kind == "unknown" else "refused")
        if state == "dead" and job.is_final:
            state = "refused"
        changes: dict[str, str | int | None] = {
            "state": state,
            "code": outcome.code[:100],
            "provider_id": job.provider_id,
            "is_open": 0,
            "concluded_at_ms": now_ms,
            "outgoing": "",
        }
        if state == "accepted":
            changes.update(accepted_at_ms=now_ms, provider_ref=outcome.provider_id)
            if job.channel == "sms" and not job.is_final and self._channels.has_next(job):
                del changes["outgoing"]  # until its receipt: what is not delivered goes by the next account
        if state == "dead":
            self._bury(job, outcome, now_ms, ops)
        ops.append(Update(DeliveryRow, job.where, changes))
        self._finish(
            job,
            now_ms,
            decisions,
            ops,
            is_sent=state == "accepted",
            may_have_come=state == "unknown",
        )
        self._record("concluded", job.user_id, job.notification_id, decisions, Staged(NO_REPLY, None))
        self._stage_ops(ops)

    def _bury(self, job: Job, outcome: Outcome, now_ms: int, ops: list[Op]) -> None:
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
                    provider_id=job.provider_id,
                    code=outcome.code[:100],
                    detail=outcome.detail[:500],
                    outgoing=_encode(job.outgoing).decode(),
                    at_ms=now_ms,
                )
            )
        )

    def _finish(
        self,
        job: Job,
        now_ms: int,
        decisions: list[Decision],
        ops: list[Op],
        *,
        is_sent: bool = False,
        may_have_come: bool = False,
        falls_back: bool = True,
    ) -> None:
        """Close a delivery, and conclude its notification with the last of them.

        Where none has reached the user, the notification is held for the type's next fallback: in the same
        append, so that it is gone on with whatever happens to this node.
        """
        note = self._notes.get(job.notification_id)
        is_first = is_sent and note is not None and not note.is_sent
        if note is not None:
            note.is_sent = note.is_sent or is_sent or may_have_come
        is_last = self._close(job)
        if job.is_final:
            return
        changes: dict[str, str | int | None] = {}
        if job.outgoing.shows_variant and (is_sent or may_have_come):
            changes["is_exposed"] = 1
            decisions.append(Decision("experiment", "sent", "exposed", job.channel))
        if is_first:
            changes["sent_at_ms"] = now_ms
            if now_ms > job.deadline_at_ms:
                self._stats.late += 1
                changes["is_late"] = 1
                decisions.append(
                    Decision("deadline", "late", "deadline_s", f"{now_ms - job.deadline_at_ms} ms")
                )
        if is_last:
            changes["state"] = "done"
            if falls_back and job.rule.fallback and note is not None and not note.is_sent:
                changes.update(held_for_fallback(now_ms))
                self._stage_ops((), Staged(NO_REPLY, None, after=lambda _at: self.held_until(now_ms)))
        if changes:
            ops.append(Update(NotificationRow, {"notification_id": job.notification_id}, changes))
