"""Decide what becomes of notifications that are asked for.

Each goes through the stages in order, and what every stage said is one row of the ledger, stored together
with the notification and its deliveries. The rules themselves are pure functions (scheduler.py); here they
are given what they need, and what they say is staged.
"""

from collections.abc import Sequence
from typing import cast

import msgspec

from actors.notify.facts import Facts, dedup_key
from actors.notify.job import Job
from actors.notify.keeper import LedgerBody, NotifyNeeds, ledger_body
from actors.notify.messages import Notify
from actors.notify.open_room import line_of
from actors.notify.plan import Asked, Plan, Ready, content_hash, zone_of
from actors.notify.ports import Setup
from actors.notify.recent_finder import RecentFinder
from actors.notify.scheduler import schedule, seen_before
from actors.notify.send_at import send_at_ms
from actors.notify.sender import MAX_OPEN_BULK
from actors.notify.turns import TURN_S, Rest, post_in_turn
from actors.notify.user_state import Kept, UserState
from actors.notify.verdict import Verdict
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol.errors import HubbubError, Refused, Unavailable
from protocol.notify_records import NotificationRow
from protocol.notify_replies import NotificationItem, Notified
from protocol.notify_types import Channel, Decision, TypeRule
from protocol.records import Appended, Op, Put, Update

_encode = msgspec.json.Encoder().encode


class Deciding(Staged):
    """A decision on its way into the log."""

    __slots__ = ("asked", "decider", "index", "is_keyed", "item", "jobs", "shown")

    def __init__(
        self,
        decider: "Decider",
        asked: Asked | None,
        index: int,
        item: Notified,
        jobs: list[Job],
        shown: NotificationItem | None,
        *,
        is_keyed: bool = False,
    ) -> None:
        super().__init__(NO_REPLY, None)
        self.decider = decider
        self.asked = asked
        self.index = index
        self.item = item
        self.jobs = jobs
        self.shown = shown
        self.is_keyed = is_keyed  # it may turn out to have been stored before

    def note(self, at: Appended | None) -> None:
        if at is not None and at.is_duplicate:
            self.decider.was_repeated(self, at)
        else:
            self.decider.was_decided(self)

    def resolve(self, at: Appended | None) -> None:
        if self.asked is not None and not (at is not None and at.is_duplicate):
            self.asked.done(self.index, self.item)


class Settled(msgspec.Struct, frozen=True):
    """Decisions by a key have been stored: whoever waited for them may go on."""


class Decider(RecentFinder):
    """Take `Notify`."""

    def __init__(self, partition: int, needs: NotifyNeeds) -> None:
        super().__init__(partition, needs)
        self._unsettled: dict[str, set[int]] = {}  # user -> notifications by a key, not stored yet
        self._held_back: list[tuple[object, Reply]] = []  # messages that wait for those

    def held_until(self, due_at_ms: int) -> None:
        """Something is held until then."""
        raise NotImplementedError

    def is_behind(self, message: Notify) -> bool:
        """Tell whether it was checked by a newer setup of its app than is known on this node."""
        if not message.setup_version:
            return False
        setup = self._setups.known(message.app_id)
        return setup is None or setup.version < message.setup_version

    def catch_up(self, message: Notify, reply: Reply) -> None:
        """Read the setup; then the message comes again."""
        self._ctx.start_soon(self._catch_up, message, reply)

    async def _catch_up(self, message: Notify, reply: Reply) -> None:
        try:
            await self._setups.at_least(message.app_id, message.setup_version)
        except HubbubError as error:
            reply.fail(error)
            return
        self._held_back.append((msgspec.structs.replace(message, setup_version=0), reply))
        self._ctx.post(Settled())

    def rests_on_stored(self, notify: Notify, message: object, reply: Reply) -> bool:
        """Tell whether a decision would rest on what is stored; else `message` comes again when it is.

        What was decided by a key may turn out to be a repetition, of which nothing is stored: no duplicate
        may be found of that, and no group be joined that it has opened.
        """
        if not any(user_id in self._unsettled for user_id in notify.user_ids):
            return True
        setup = self._setup_of(notify.app_id)
        rule = setup.type_rule(notify.content.type)
        if rule is None:
            return True
        digest = content_hash(notify.content, notify.occurrence)
        now_ms = self._now_ms()
        for user_id in notify.user_ids:
            unsettled = self._unsettled.get(user_id)
            user = self._users.get(user_id)
            if unsettled is None or user is None:
                continue
            facts = _facts(notify, user, setup, rule, digest, 0, now_ms)
            verdict = schedule(facts, rule, user.facts, setup.rules, now_ms)
            if verdict.stage == "deduplicate":
                rests_on = seen_before(facts, rule, user.facts, dedup_key(facts), now_ms) or 0
            else:
                group = user.groups.get(verdict.group) if verdict.group else None
                rests_on = group.opener_id if group is not None else 0
            if rests_on in unsettled:
                self._held_back.append((message, reply))
                return False
        return True

    async def settled(self) -> None:
        """Take the messages again that waited."""
        held_back, self._held_back = self._held_back, []
        await self.handle_again_if_room(held_back)

    def _is_settled(self, staged: Deciding) -> None:
        """A decision by a key has its outcome."""
        unsettled = self._unsettled.get(staged.item.user_id)
        if unsettled is not None:
            unsettled.discard(staged.item.notification_id)
            if not unsettled:
                del self._unsettled[staged.item.user_id]
        if self._held_back:
            self._ctx.post(Settled())

    def notify(self, message: Notify, reply: Reply) -> None:
        """Decide for each user, and answer when all is stored. Users are in memory, if they exist."""
        setup, rule = self._rule_of(message)
        asked = Asked(message, reply)
        digest = content_hash(message.content, message.occurrence)
        for index, user_id in enumerate(message.user_ids):
            user = self._users.get(user_id)
            if user is None or user.app_id != message.app_id or user.is_disabled:
                if len(message.user_ids) == 1:
                    raise Refused("user_not_found")
                asked.done(index, _not_there(user_id))
                continue
            self._notify_user(user, setup, rule, digest, asked, index)

    def _rule_of(self, message: Notify) -> tuple[Setup, TypeRule]:
        """What a message is decided by. Raises: Refused(type_not_found), Unavailable: it comes too early."""
        setup = self._setup_of(message.app_id)
        rule = setup.type_rule(message.content.type)
        if rule is None:
            raise Refused("type_not_found", f"The app has no type {message.content.type!r}.")
        if message.is_bulk and self._has_enough(message.app_id, message.content.channels or rule.channels):
            raise Unavailable("busy", "The partition has enough to send.", retry_after_s=0.1)
        return setup, rule

    def _has_enough(self, app_id: str, channels: Sequence[Channel]) -> bool:
        """Tell whether a campaign had better wait: for what its app has to send there, and can.

        What waits for its time, or for an account that cannot be used, is not waited for.
        """
        return (
            self._room.count_of_app(app_id) >= MAX_OPEN_BULK
            and self._channels.moving_count(app_id, channels) >= MAX_OPEN_BULK
        )

    def notify_in_turns(self, message: Notify, reply: Reply) -> None:
        """As `notify`, some users at a time: their texts are written by a template, which may take long."""
        self._rule_of(message)
        digest = content_hash(message.content, message.occurrence)
        self.go_on_later(Rest(Asked(message, reply), message, digest))

    def go_on(self, rest: Rest) -> None:
        """Decide about the next of a request's users, who are in memory, if they exist."""
        asked, message = rest.asked, rest.left
        setup = self._setup_of(message.app_id)
        rule = setup.type_rule(message.content.type)
        if rule is None:
            raise Refused("type_not_found", f"The app has no type {message.content.type!r}.")
        first = len(asked.items) - len(message.user_ids)
        until_s = self._ctx.now() + TURN_S
        for number, user_id in enumerate(message.user_ids):
            if number and self._ctx.now() >= until_s:
                left = msgspec.structs.replace(message, user_ids=message.user_ids[number:])
                self.go_on_later(msgspec.structs.replace(rest, left=left))
                return
            user = self._users.get(user_id)
            if user is None or user.app_id != message.app_id or user.is_disabled:
                asked.done(first + number, _not_there(user_id))
            else:
                self._notify_user(user, setup, rule, rest.digest, asked, first + number)

    def go_on_later(self, message: Rest | Ready) -> None:
        """Take this message when others have had their turns."""
        self._ctx.start_soon(post_in_turn, self._turns, self._ctx, message)

    def _notify_user(
        self, user: UserState, setup: Setup, rule: TypeRule, digest: str, asked: Asked, index: int
    ) -> None:
        message = asked.message
        content = message.content
        now_ms = self._now_ms()
        notification_id = self._ids.next(now_ms)
        facts = _facts(message, user, setup, rule, digest, notification_id, now_ms)
        verdict = schedule(facts, rule, user.facts, setup.rules, now_ms)
        self._stats.count_notified(user.app_id)
        decisions = [Decision("validate", "pass", message.source, rule.name), *verdict.decisions]
        kept = Kept(
            content=content,
            source=message.source,
            channels=content.channels,
            priority=facts.priority,
            names=[content.actor] if content.actor else [],
            actor_count=max(message.actor_count, 1 if content.actor else 0),
            digest=digest,
            held_by=verdict.stage,
        )
        plan = Plan(decisions)
        ops: list[Op] = []
        row_state: dict[str, object] = {}
        if verdict.kind == "drop":
            self._dropped(plan, verdict)
        elif verdict.kind == "hold" and verdict.group:
            row_state = self._hold_in_group(user, setup, rule, facts, kept, verdict, plan, ops, now_ms)
        elif verdict.kind == "hold":
            plan.state, plan.reason = "held", verdict.reason
            self._stats.held += 1
            user.facts.note(facts, verdict, now_ms)
            if verdict.inapp_now and self._draw(user, setup, kept, plan):
                self._show(user, setup, rule, facts, kept, verdict, plan)
            row_state = {"due_at_ms": verdict.due_at_ms, "content": _encode(kept).decode()}
        else:
            self._send(user, setup, rule, facts, kept, verdict, plan)
            if plan.state != "dropped":
                user.facts.note(facts, verdict, now_ms, is_counted=plan.counted_at_ms > 0)
        self._stage_decision(
            user,
            rule,
            facts,
            verdict,
            plan,
            ops,
            row_state,
            kept,
            asked=asked,
            index=index,
            client_id=f"{message.source}:{message.key}" if message.key else None,
            digest=message.digest,
        )

    def _dropped(self, plan: Plan, verdict: Verdict) -> None:
        plan.state, plan.reason = "dropped", verdict.reason or verdict.stage
        self._stats.dropped += 1
        if verdict.stage == "deduplicate":
            self._stats.duplicates += 1

    def _stage_decision(
        self,
        user: UserState,
        rule: TypeRule,
        facts: Facts,
        verdict: Verdict,
        plan: Plan,
        ops: list[Op],
        row_state: dict[str, object],
        kept: Kept,
        *,
        asked: Asked,
        index: int,
        client_id: str | None,
        digest: str,
    ) -> None:
        """Stage the ledger's row, the notification, and its deliveries, as one."""
        now_ms = facts.created_at_ms
        notification_id = facts.notification_id
        deadline_at_ms = (facts.send_at_ms or now_ms) + rule.deadline_s * 1000
        jobs = self._jobs_of(plan, rule, now_ms, deadline_at_ms)
        item = Notified(
            user_id=user.user_id,
            notification_id=notification_id,
            state=plan.state,
            reason=plan.reason,
            due_at_ms=cast(int, row_state["due_at_ms"]) if plan.state == "held" else 0,
        )
        shown = self._item_of(notification_id, rule.name, facts.priority, now_ms, plan, user)
        staged = Deciding(self, asked, index, item, jobs, shown, is_keyed=client_id is not None)
        if client_id is not None and verdict.kind != "drop":
            self._unsettled.setdefault(user.user_id, set()).add(notification_id)
        row_index = self._record(
            "decided",
            user.user_id,
            notification_id,
            plan.decisions,
            staged,
            client_id=client_id,
            digest=digest,
        )
        content = asked.message.content
        centre = plan.centre
        row = NotificationRow(
            notification_id=notification_id,
            partition=self._partition,
            app_id=user.app_id,
            user_id=user.user_id,
            type=rule.name,
            priority=facts.priority,
            state=plan.state,
            created_at_ms=now_ms,
            request_id=asked.message.request_id,
            purpose=rule.purpose,
            template=content.template,
            variant=plan.variant,
            is_exposed=plan.is_exposed,
            dedup_key=verdict.dedup_key if plan.state != "dropped" else "",
            expires_at_ms=verdict.expires_at_ms,
            deadline_at_ms=deadline_at_ms,
            title=centre.title if centre else "",
            text=centre.body if centre else "",
            url=centre.url if centre else "",
            image=centre.image if centre else "",
            in_centre=centre is not None,
            counted_at_ms=plan.counted_at_ms,
            sent_at_ms=now_ms if centre else 0,
            **{  # type: ignore[arg-type]  # fields of NotificationRow
                **({"content": _encode(kept).decode()} if rule.fallback and jobs else {}),
                **row_state,
            },
        )
        self._stage_ops([Put(row, row_index), *_tied(ops, row_index)])
        self._stage_ops(self._delivery_puts(plan, jobs, user, row_index))

    def was_decided(self, staged: Deciding) -> None:
        """A decision is stored: show it, and let its deliveries go."""
        if staged.is_keyed:
            self._is_settled(staged)
        if staged.item.due_at_ms:
            self.held_until(staged.item.due_at_ms)
        if staged.shown is not None:
            user = self._users.get(staged.item.user_id)
            self._publish(staged.item.user_id, staged.shown, len(user.unread) if user is not None else 1)
        begun: list[Job] = []
        spilled: list[Job] = []
        for job in staged.jobs:
            del self._deciding[job.notification_id, job.number]
            if job.notification_id in self._gone:  # erased or cancelled since it was stored
                job.is_final = True
                if not job.is_begun:
                    continue
            if not job.is_begun and not self._room.has_place(line_of(job)):
                spilled.append(job)  # it is stored, and read when there is room
                continue
            self._open(job)
            if job.is_begun:
                begun.append(job)
            else:
                self._channels.offer(job)
        for job in spilled:
            self._spilled.add(line_of(job))
            note = self._notes.get(job.notification_id)
            if note is not None:
                note.away.add(job.number)
        if begun:
            self._stats.attempts += len(begun)
            self._channels.begun(begun)

    def was_repeated(self, staged: Deciding, at: Appended) -> None:
        """The key was used before: nothing was stored, so what memory took note of is forgotten."""
        self._stats.repeated += 1
        for job in staged.jobs:
            del self._deciding[job.notification_id, job.number]
        self._channels.left(staged.jobs)
        user = self._users.get(staged.item.user_id)
        if user is not None:
            user.undo(staged.item.notification_id)
        self._is_settled(staged)
        if staged.asked is not None:
            self._ctx.start_soon(self._answer_repeated, staged.asked, staged.index, at.seq)

    async def _answer_repeated(self, asked: Asked, index: int, seq: int) -> None:
        """Tell what the first request with that key did."""
        user_id = asked.message.user_ids[index]
        try:
            entry = await self._log.entry(self._stream, seq)
            if entry is None:  # the ledger is kept for less long than the key was
                item = Notified(user_id=user_id, notification_id=0, state="done", repeated=True)
            else:
                body = ledger_body(entry.body) if entry.body != "{}" else LedgerBody([])
                if body.digest and asked.message.digest and body.digest != asked.message.digest:
                    raise Refused(
                        "payload_conflict", "That idempotency key was used before for something else."
                    )
                rows = await self._reads.notifications([entry.thread or 0])
                item = Notified(
                    user_id=user_id,
                    notification_id=entry.thread or 0,
                    state=rows[0].state if rows else "done",
                    due_at_ms=rows[0].due_at_ms if rows and rows[0].state == "held" else 0,
                    repeated=True,
                )
        except HubbubError as error:
            if len(asked.message.user_ids) == 1 or not isinstance(error, Refused):
                asked.reply.fail(error)
                return
            item = Notified(
                user_id=user_id, notification_id=0, state="refused", reason=error.code, repeated=True
            )
        asked.done(index, item)


def _facts(
    message: Notify,
    user: UserState,
    setup: Setup,
    rule: TypeRule,
    digest: str,
    notification_id: int,
    now_ms: int,
) -> Facts:
    """A notification that is asked for, as the rules see it."""
    content = message.content
    return Facts(
        notification_id=notification_id,
        app_id=user.app_id,
        user_id=user.user_id,
        type=rule.name,
        subject=content.subject,
        priority=content.priority or rule.priority,
        created_at_ms=now_ms,
        send_at_ms=send_at_ms(content.send_at, zone_of(user, setup)) if content.send_at else 0,
        expires_at_ms=content.expires_at_ms,
        collapse_key=content.collapse_key,
        batch_key=content.batch_key or content.subject,
        content_hash=digest,
        channels=content.channels,
    )


def _not_there(user_id: str) -> Notified:
    return Notified(user_id=user_id, notification_id=0, state="refused", reason="user_not_found")


def _tied(ops: list[Op], row_index: int) -> list[Op]:
    """Let what a decision does to others' rows happen only if the decision is stored."""
    return [
        msgspec.structs.replace(op, row_index=row_index) if isinstance(op, Put | Update) else op for op in ops
    ]
