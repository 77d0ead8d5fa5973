"""Decide what becomes of notifications: those that are asked for, and those whose time has come.

Each goes through the stages in order, and what every stage said is one row of the ledger, stored together
with the notification and its deliveries. The rules themselves are pure functions (scheduler.py); here they
are given what they need, and what they say is staged.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, cast

import msgspec

from actors.notify.builtin_types import DIGEST
from actors.notify.delivery import Outgoing
from actors.notify.facts import Facts
from actors.notify.group_release import release
from actors.notify.job import Job
from actors.notify.keeper import MAX_OPEN, LedgerBody, NotifyKeeper, ledger_body
from actors.notify.local_time import known_zone
from actors.notify.messages import Notify
from actors.notify.ports import Reader, Setup, Text
from actors.notify.scheduler import schedule
from actors.notify.send_at import send_at_ms
from actors.notify.stored_facts import facts_of
from actors.notify.user_state import Group, Kept, UserState, decode_kept
from actors.notify.verdict import Verdict
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import notify_events, notify_replies
from protocol.codec import Encoded
from protocol.errors import HubbubError, Refused, Unavailable
from protocol.notify_content import Content
from protocol.notify_ids import at_ms_of
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.notify_replies import NotificationItem, Notified
from protocol.notify_types import Channel, Decision, Priority, TypeRule
from protocol.records import Appended, Op, Put, Update

NOTIFICATIONS_STREAM: Final = "notifications"  # what a resync names when live events were lost
# How long a push waits for a user who is connected: what is seen in the app is not pushed.
SEEN_GRACE_MS: Final = 4_000
# Open deliveries of one partition beyond which campaigns wait: some seconds' work, so that little is queued.
MAX_OPEN_BULK: Final = 1_000
MAX_NAMES: Final = 3
MAX_ACTORS: Final = 1_000  # told apart in one batch; beyond it each item counts
DIGEST_ITEMS: Final = 50

_encode = msgspec.json.Encoder().encode


class Asked:
    """One message that asks for notifications, and what has become of it so far."""

    __slots__ = ("items", "message", "remaining", "reply")

    def __init__(self, message: Notify, reply: Reply) -> None:
        self.message = message
        self.reply = reply
        self.items: list[Notified | None] = [None] * len(message.user_ids)
        self.remaining = len(message.user_ids)

    def done(self, index: int, item: Notified) -> None:
        """Take the answer for one user; with the last one, answer."""
        self.items[index] = item
        self.remaining -= 1
        if not self.remaining:
            self.reply.resolve(
                notify_replies.NotifyAccepted(
                    request_id=self.message.request_id,
                    items=[item for item in self.items if item is not None],
                    repeated=all(item is not None and item.repeated for item in self.items),
                )
            )


class Deciding(Staged):
    """A decision on its way into the log."""

    __slots__ = ("asked", "decider", "index", "item", "jobs", "shown")

    def __init__(
        self,
        decider: "Decider",
        asked: Asked | None,
        index: int,
        item: Notified,
        jobs: list[Job],
        shown: NotificationItem | None,
    ) -> None:
        super().__init__(NO_REPLY, None)
        self.decider = decider
        self.asked = asked
        self.index = index
        self.item = item
        self.jobs = jobs
        self.shown = shown

    def note(self, at: Appended | None) -> None:
        if at is not None and at.is_duplicate:
            self.decider.was_repeated(self, at)
        else:
            self.decider.was_decided(self)

    def resolve(self, at: Appended | None) -> None:
        if self.asked is not None and not (at is not None and at.is_duplicate):
            self.asked.done(self.index, self.item)


class Ready(msgspec.Struct, frozen=True):
    """Held notifications whose time has come, with what became part of them."""

    rows: list[NotificationRow]
    members: dict[int, list[NotificationRow]]
    is_own: bool = True


class Plan(msgspec.Struct):
    """What is to be stored of one decision."""

    decisions: list[Decision]
    state: str = "done"
    reason: str = ""
    centre: Text | None = None
    deliveries: list[tuple[Outgoing, int]] = []  # and when each is due
    variant: str = ""
    counted_at_ms: int = 0


class Decider(NotifyKeeper):
    """Take `Notify`, and release what was held."""

    def held_until(self, due_at_ms: int) -> None:
        """Something is held until then."""
        raise NotImplementedError

    # -- asked for ----------------------------------------------------------------------------------

    def notify(self, message: Notify, reply: Reply) -> None:
        """Decide for each user, and answer when all is stored. Users are in memory, if they exist."""
        if message.is_bulk and len(self._jobs) >= MAX_OPEN_BULK:
            raise Unavailable("busy", "The partition has enough to send.", retry_after_s=0.1)
        setup = self._setup_of(message.app_id)
        rule = setup.type_rule(message.content.type)
        if rule is None:
            raise Refused("type_not_found", f"The app has no type {message.content.type!r}.")
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

    def _notify_user(
        self, user: UserState, setup: Setup, rule: TypeRule, digest: str, asked: Asked, index: int
    ) -> None:
        message = asked.message
        content = message.content
        now_ms = self._at_ms()
        notification_id = self._ids.next(now_ms)
        facts = Facts(
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
            row_state = self._hold_in_group(user, setup, rule, facts, kept, verdict, plan, ops)
        elif verdict.kind == "hold":
            plan.state, plan.reason = "held", verdict.reason
            self._stats.held += 1
            user.facts.note(facts, verdict, now_ms)
            if verdict.inapp_now:
                self._show(user, setup, rule, facts, kept, verdict, plan)
            row_state = {"due_at_ms": verdict.due_at_ms, "content": _encode(kept).decode()}
        else:
            user.facts.note(facts, verdict, now_ms)
            self._send(user, setup, rule, facts, kept, verdict, plan)
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

    # -- batches and digests ------------------------------------------------------------------------

    def _hold_in_group(
        self,
        user: UserState,
        setup: Setup,
        rule: TypeRule,
        facts: Facts,
        kept: Kept,
        verdict: Verdict,
        plan: Plan,
        ops: list[Op],
    ) -> dict[str, object]:
        """Let it join the open group, or open one. Returns what its row holds beside the plan."""
        now_ms = facts.created_at_ms
        known = user.facts.open_groups.get(verdict.group)
        is_open = known is not None and known.due_at_ms > now_ms
        group = user.groups.get(verdict.group) if is_open else None
        user.facts.note(facts, verdict, now_ms)
        plan.reason = verdict.reason
        is_digest = verdict.group.startswith("digest:")
        if is_digest:
            if verdict.inapp_now:
                self._show(user, setup, rule, facts, kept, verdict, plan)
            if group is None:
                group = self._open_digest(user, verdict, ops, now_ms)
            self._grow(group, kept, ops)
        elif group is None:
            plan.state = "held"
            self._stats.held += 1
            user.groups[verdict.group] = Group(facts.notification_id, verdict.due_at_ms, 1, kept)
            if verdict.inapp_now:
                self._show(user, setup, rule, facts, kept, verdict, plan)
            return {
                "due_at_ms": verdict.due_at_ms,
                "group_key": verdict.group,
                "item_count": 1,
                "content": _encode(kept).decode(),
            }
        else:
            self._grow(group, kept, ops)
            if verdict.inapp_now:
                self._show_again(user, setup, rule, group, plan, ops, now_ms)
        plan.state = "merged"
        self._stats.merged += 1
        return {"into_id": group.notification_id, "content": _encode(kept).decode()}

    def _open_digest(self, user: UserState, verdict: Verdict, ops: list[Op], now_ms: int) -> Group:
        """Make the notification that will tell of all that is put off until then."""
        digest_id = self._ids.next(now_ms)
        kept = Kept(
            content=Content(type=DIGEST, template=DIGEST, collapse_key=verdict.group.replace(":", "-")),
            source=DIGEST,
            priority="low",
            held_by="digest",
        )
        group = Group(digest_id, verdict.due_at_ms, 0, kept)
        user.groups[verdict.group] = group
        user.facts.open_groups[verdict.group].notification_id = digest_id
        row = NotificationRow(
            notification_id=digest_id,
            partition=self._partition,
            app_id=user.app_id,
            user_id=user.user_id,
            type=DIGEST,
            priority="low",
            state="held",
            created_at_ms=now_ms,
            template=DIGEST,
            group_key=verdict.group,
            due_at_ms=verdict.due_at_ms,
            content=_encode(kept).decode(),
        )
        ops.append(Put(row))
        self._record(
            "opened_digest",
            user.user_id,
            digest_id,
            [Decision("digest", "hold", verdict.group, str(verdict.due_at_ms))],
            Staged(NO_REPLY, None),
        )
        return group

    def _grow(self, group: Group, kept: Kept, ops: list[Op]) -> None:
        """Count one more item of a group; the first few whose doing it is keep their names."""
        group.count += 1
        names = list(group.kept.names)
        actor_count = group.kept.actor_count
        for name in kept.names:
            if name not in group.actors and actor_count <= MAX_ACTORS:
                group.actors.add(name)
                actor_count += 1
                if len(names) < MAX_NAMES:
                    names.append(name)
        actor_count += max(0, kept.actor_count - len(kept.names))  # who are known by their number alone
        content = group.kept.content if group.kept.content.type == DIGEST else kept.content
        group.kept = msgspec.structs.replace(
            group.kept, content=content, names=names, actor_count=max(actor_count, len(names))
        )
        ops.append(
            Update(
                NotificationRow,
                {"notification_id": group.notification_id},
                {"item_count": group.count, "content": _encode(group.kept).decode()},
            )
        )

    # -- what is sent -------------------------------------------------------------------------------

    def _reader(
        self, user: UserState, setup: Setup, kept: Kept, titles: Sequence[str] = (), count: int = 0
    ) -> Reader:
        """For whom a text is written. `count`: how many became one, where it is not one."""
        return Reader(
            user_id=user.user_id,
            name=user.name,
            locale=user.language or setup.rules.default_locale,
            time_zone=zone_of(user, setup),
            names=tuple(kept.names),
            others=max(0, kept.actor_count - len(kept.names)),
            count=len(titles) or count or max(1, kept.actor_count),
            titles=tuple(titles),
        )

    def _show(
        self,
        user: UserState,
        setup: Setup,
        rule: TypeRule,
        facts: Facts,
        kept: Kept,
        verdict: Verdict,
        plan: Plan,
    ) -> None:
        """Put it into the notification centre, which interrupts nobody."""
        try:
            plan.centre = self._renderer.render(
                setup,
                kept.content,
                self._reader(user, setup, kept),
                "inapp",
                variant=plan.variant,
                notification_id=facts.notification_id,
            )
        except Refused as refused:
            plan.decisions.append(Decision("render", "drop", refused.code, f"inapp: {refused.message}"))
            return
        if plan.centre.decision is not None:
            plan.decisions.append(plan.centre.decision)
        plan.decisions.append(Decision("enqueue", "sent", "inapp"))

    def _show_again(
        self,
        user: UserState,
        setup: Setup,
        rule: TypeRule,
        group: Group,
        plan: Plan,
        ops: list[Op],
        now_ms: int,
    ) -> None:
        """Let the batch's item in the centre tell of one more."""
        try:
            text = self._renderer.render(
                setup,
                group.kept.content,
                self._reader(user, setup, group.kept, count=group.count),
                "inapp",
                variant="",
                notification_id=group.notification_id,
            )
        except Refused as refused:
            plan.decisions.append(Decision("render", "drop", refused.code, f"inapp: {refused.message}"))
            return
        user.unread.add(group.notification_id)
        ops.append(
            Update(
                NotificationRow,
                {"notification_id": group.notification_id},
                {
                    "title": text.title,
                    "text": text.body,
                    "url": text.url,
                    "image": text.image,
                    "in_centre": True,
                    "read_at_ms": 0,
                },
            )
        )
        plan.decisions.append(Decision("enqueue", "sent", "inapp", f"as part of {group.notification_id}"))
        item = NotificationItem(
            notification_id=group.notification_id,
            type=rule.name,
            priority=group.kept.priority,
            at_ms=at_ms_of(group.notification_id),
            title=text.title,
            text=text.body,
            url=text.url,
            image=text.image,
            count=group.count,
        )
        unread = len(user.unread)
        self._stage_ops(
            (),
            Staged(NO_REPLY, None, after=lambda _at: self._publish(user.user_id, item, unread)),
        )

    def _send(
        self,
        user: UserState,
        setup: Setup,
        rule: TypeRule,
        facts: Facts,
        kept: Kept,
        verdict: Verdict,
        plan: Plan,
        *,
        titles: Mapping[Channel, Sequence[str]] | None = None,
        item_count: int = 0,
        is_in_centre: bool = False,
    ) -> None:
        """Choose variant, devices and channels, and write the texts."""
        content, decisions = kept.content, plan.decisions
        now_ms = self._at_ms()
        if content.experiment:
            variant = setup.variant_of(content.experiment, user.user_id)
            if variant is None:
                decisions.append(Decision("experiment", "pass", "not_running", content.experiment))
            else:
                plan.variant = f"{content.experiment}:{variant}"
                if variant == "holdout":
                    decisions.append(Decision("experiment", "drop", "holdout", content.experiment))
                    plan.state, plan.reason = "dropped", "holdout"
                    self._uncount(user, verdict)
                    return
                decisions.append(Decision("experiment", "pass", "variant", plan.variant))
        reader = self._reader(user, setup, kept, count=item_count)
        if "inapp" in verdict.channels and not is_in_centre:
            self._show(user, setup, rule, facts, kept, verdict, plan)
        is_seen_soon = (
            (plan.centre is not None or is_in_centre)
            and not rule.is_security
            and self._fanout.is_connected(user.user_id)
        )
        due_at_ms = now_ms + SEEN_GRACE_MS if is_seen_soon else now_ms

        def choose(channel: Channel) -> None:
            self.choose(
                user,
                setup,
                rule,
                kept,
                reader if titles is None else self._reader(user, setup, kept, titles.get(channel, ())),
                channel,
                due_at_ms,
                plan,
                notification_id=facts.notification_id,
                expires_at_ms=verdict.expires_at_ms,
            )

        for channel in verdict.channels:
            if channel != "inapp":
                choose(channel)
        if not plan.deliveries and plan.centre is None and not is_in_centre:
            for channel in verdict.fallback:
                if channel not in verdict.channels:
                    decisions.append(Decision("choose", "change", "fallback", channel))
                    choose(channel)
                    if plan.deliveries:
                        break
        if plan.deliveries:
            plan.state = "open"
            if is_seen_soon:
                decisions.append(Decision("choose", "hold", "connected", f"{SEEN_GRACE_MS} ms for seeing it"))
            if verdict.is_counted:
                plan.counted_at_ms = now_ms
        else:
            self._uncount(user, verdict)
            if plan.centre is None and not is_in_centre:
                plan.state, plan.reason = "dropped", "unreachable"
                decisions.append(Decision("choose", "drop", "unreachable"))
        self._stats.sent += 1

    def _uncount(self, user: UserState, verdict: Verdict) -> None:
        """It interrupts nobody after all, so it does not count for the cap."""
        if verdict.is_counted and user.facts.sent_at_ms:
            user.facts.sent_at_ms.pop()

    def choose(
        self,
        user: UserState,
        setup: Setup,
        rule: TypeRule,
        kept: Kept,
        reader: Reader,
        channel: Channel,
        due_at_ms: int,
        plan: Plan,
        *,
        notification_id: int,
        expires_at_ms: int,
        first_number: int = 0,
    ) -> None:
        """Add a delivery for each of the user's addresses on a channel."""
        targets = [target for target in user.devices.values() if target.channel == channel]
        if not targets:
            plan.decisions.append(Decision("choose", "skip", "no_address", channel))
            return
        if not setup.has_provider(channel):
            plan.decisions.append(Decision("choose", "skip", "no_provider", channel))
            return
        content = kept.content
        try:
            text = self._renderer.render(
                setup,
                content,
                reader,
                channel,
                variant=plan.variant,
                notification_id=notification_id,
            )
        except Refused as refused:
            plan.decisions.append(Decision("render", "drop", refused.code, f"{channel}: {refused.message}"))
            return
        if text.decision is not None:
            plan.decisions.append(text.decision)
        badge = len(user.unread) + (plan.centre is not None)
        collapse_key = content.collapse_key
        if not collapse_key and rule.batch_window_s:
            collapse_key = f"batch-{rule.name}-{content.batch_key or content.subject}"
        for target in targets:
            number = first_number + len(plan.deliveries)
            outgoing = Outgoing(
                delivery_id=f"{notification_id:x}-{number}",
                notification_id=notification_id,
                app_id=user.app_id,
                user_id=user.user_id,
                type=rule.name,
                priority=kept.priority,
                target=target,
                title=text.title,
                body=text.body,
                html=text.html,
                url=text.url,
                image=text.image,
                data={name: str(value) for name, value in content.data.items() if _is_plain(value)},
                badge=badge,
                collapse_key=content.collapse_key
                or (
                    f"batch-{rule.name}-{content.batch_key or content.subject}" if rule.batch_window_s else ""
                ),
                expires_at_ms=expires_at_ms,
                unsubscribe_url=text.unsubscribe_url,
                locale=text.locale,
            )
            plan.deliveries.append((outgoing, due_at_ms))
            plan.decisions.append(Decision("enqueue", "pass", channel, target.device_key))

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
            due_at_ms=cast(int, row_state.get("due_at_ms", 0)),
        )
        shown = self._item_of(notification_id, rule.name, facts.priority, now_ms, plan, user)
        staged = Deciding(self, asked, index, item, jobs, shown)
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
            template=content.template,
            variant=plan.variant,
            dedup_key=verdict.dedup_key,
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

    def _jobs_of(
        self, plan: Plan, rule: TypeRule, now_ms: int, deadline_at_ms: int, first_number: int = 0
    ) -> list[Job]:
        jobs = []
        for number, (outgoing, due_at_ms) in enumerate(plan.deliveries, first_number):
            job = Job(
                self,
                outgoing,
                number,
                rule,
                created_at_ms=now_ms,
                due_at_ms=due_at_ms,
                deadline_at_ms=deadline_at_ms,
            )
            # With a free hand the attempt is stored with the decision: one commit less to wait for.
            if due_at_ms <= now_ms and self._channels.reserve(job):
                job.attempt = 1
                job.is_begun = True
                job.attempt_at_ms = now_ms
                plan.decisions.append(
                    Decision("attempt", "pass", job.channel, f"1 to {job.device_key}, at once")
                )
            jobs.append(job)
        return jobs

    def _delivery_puts(self, plan: Plan, jobs: list[Job], user: UserState, row_index: int) -> list[Op]:
        return [
            Put(
                DeliveryRow(
                    notification_id=job.notification_id,
                    number=job.number,
                    partition=self._partition,
                    app_id=user.app_id,
                    user_id=user.user_id,
                    channel=job.channel,
                    device_key=job.device_key,
                    priority=job.priority,
                    state="sending" if job.is_begun else "queued",
                    outgoing=_encode(job.outgoing).decode(),
                    attempt=job.attempt,
                    next_at_ms=job.due_at_ms,
                    created_at_ms=job.created_at_ms,
                ),
                row_index,
            )
            for job in jobs
        ]

    def _item_of(
        self,
        notification_id: int,
        type_name: str,
        priority: Priority,
        now_ms: int,
        plan: Plan,
        user: UserState,
    ) -> NotificationItem | None:
        """What the centre shows, where the plan says so; from now on it counts as unread."""
        centre = plan.centre
        if centre is None:
            return None
        user.unread.add(notification_id)
        return NotificationItem(
            notification_id=notification_id,
            type=type_name,
            priority=priority,
            at_ms=now_ms,
            title=centre.title,
            text=centre.body,
            url=centre.url,
            image=centre.image,
        )

    # -- after the commit ---------------------------------------------------------------------------

    def was_decided(self, staged: Deciding) -> None:
        """A decision is stored: show it, and let its deliveries go."""
        if staged.item.due_at_ms:
            self.held_until(staged.item.due_at_ms)
        if staged.shown is not None:
            user = self._users.get(staged.item.user_id)
            self._publish(staged.item.user_id, staged.shown, len(user.unread) if user is not None else 1)
        begun = []
        for job in staged.jobs:
            if len(self._jobs) >= MAX_OPEN and not job.is_begun:
                self._spilled.add(job.priority)  # it is stored, and read when there is room
                continue
            self._open(job)
            if job.is_begun:
                begun.append(job)
            else:
                self._channels.offer(job)
        if begun:
            self._stats.attempts += len(begun)
            self._channels.begun(begun)

    def was_repeated(self, staged: Deciding, at: Appended) -> None:
        """The key was used before: nothing was stored, so what memory took note of is forgotten."""
        self._stats.repeated += 1
        self._channels.left([job for job in staged.jobs if job.is_begun])
        user = self._users.get(staged.item.user_id)
        if user is not None:
            user.is_doubtful = True
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

    def _publish(self, user_id: str, item: NotificationItem, unread: int) -> None:
        event = notify_events.NotificationShown(item=item, unread=unread)
        self._fanout.publish_user_live(
            user_id,
            ("notification", str(item.notification_id)),
            Encoded(event),
            stream=NOTIFICATIONS_STREAM,
        )

    # -- what was held ------------------------------------------------------------------------------

    def release(self, ready: Ready) -> None:
        """Decide anew about held notifications whose time has come. Their users are in memory."""
        for row in ready.rows:
            if row.notification_id in self._gone:
                continue
            user = self._users.get(row.user_id)
            if user is None or user.is_disabled or not row.content:
                self._end_held(row, "user_gone")
                continue
            self._release_one(user, row, ready.members.get(row.notification_id, []))

    def _release_one(self, user: UserState, row: NotificationRow, members: list[NotificationRow]) -> None:
        setup = self._setup_of(row.app_id)
        rule = setup.type_rule(row.type)
        if rule is None:
            self._end_held(row, "type_gone")
            return
        now_ms = self._at_ms()
        group = user.groups.get(row.group_key) if row.group_key else None
        if group is not None and group.notification_id == row.notification_id:
            kept, count = group.kept, group.count
            del user.groups[row.group_key]
            known = user.facts.open_groups.get(row.group_key)
            if known is not None and known.notification_id == row.notification_id:
                del user.facts.open_groups[row.group_key]
        else:
            kept, count = decode_kept(row.content), row.item_count
        content = kept.content
        facts = Facts(
            notification_id=row.notification_id,
            app_id=user.app_id,
            user_id=user.user_id,
            type=rule.name,
            subject=content.subject,
            priority=kept.priority,
            created_at_ms=row.created_at_ms,
            expires_at_ms=content.expires_at_ms,
            collapse_key=content.collapse_key,
            batch_key=content.batch_key or content.subject,
            content_hash=kept.digest,
            channels=kept.channels,
            is_released=True,
            held_by=kept.held_by,
        )
        verdict = schedule(facts, rule, user.facts, setup.rules, now_ms)
        plan = Plan(list(verdict.decisions))
        ops: list[Op] = []
        changes: dict[str, str | int | None] = {"item_count": count}
        titles: dict[Channel, list[str]] = {}
        if row.type == DIGEST and verdict.kind == "send":
            verdict, titles = self._release_digest(user, setup, members, verdict, plan, now_ms)
        if verdict.kind == "drop":
            self._dropped(plan, verdict)
            changes["content"] = ""
        elif verdict.kind == "hold" and verdict.group:
            held = self._hold_in_group(user, setup, rule, facts, kept, verdict, plan, ops)
            changes.update(cast(dict[str, str | int | None], held))
        elif verdict.kind == "hold":
            plan.state, plan.reason = "held", verdict.reason
            user.facts.note(facts, verdict, now_ms)
            if verdict.inapp_now and not row.in_centre:
                self._show(user, setup, rule, facts, kept, verdict, plan)
            kept = msgspec.structs.replace(kept, held_by=verdict.stage)
            changes.update(due_at_ms=verdict.due_at_ms, content=_encode(kept).decode(), group_key="")
        else:
            user.facts.note(facts, verdict, now_ms)
            self._send(
                user,
                setup,
                rule,
                facts,
                kept,
                verdict,
                plan,
                titles=titles if row.type == DIGEST else None,
                item_count=count,
                is_in_centre=row.in_centre,
            )
            changes["content"] = _encode(kept).decode() if rule.fallback and plan.deliveries else ""
        self._stage_release(user, rule, row, plan, ops, changes, now_ms)

    def _release_digest(
        self,
        user: UserState,
        setup: Setup,
        members: list[NotificationRow],
        verdict: Verdict,
        plan: Plan,
        now_ms: int,
    ) -> tuple[Verdict, dict[Channel, list[str]]]:
        """Ask again for each that became part of a digest: what it tells, on which channel; or why not now.

        What was read in the app meanwhile is no news any more.
        """
        unread = [row for row in members if row.state == "merged" and row.content and not row.read_at_ms]
        rules = {rule.name: rule for rule in setup.all_types()}
        outcome = release([facts_of(row) for row in unread], rules, user.facts, setup.rules, now_ms)
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
            return held, {}
        told = {row.notification_id: self._digest_line(user, setup, row) for row in unread}
        titles = {
            channel: [line for id_ in ids[:DIGEST_ITEMS] if (line := told.get(id_))]
            for channel, ids in outcome.channels.items()
        }
        channels = [channel for channel in verdict.channels if titles.get(channel)]
        plan.decisions.append(Decision("digest", "pass", "items", f"{len(outcome.kept)} of {len(members)}"))
        return msgspec.structs.replace(verdict, channels=channels), titles

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

    def _stage_release(
        self,
        user: UserState,
        rule: TypeRule,
        row: NotificationRow,
        plan: Plan,
        ops: list[Op],
        changes: dict[str, str | int | None],
        now_ms: int,
    ) -> None:
        deadline_at_ms = now_ms + rule.deadline_s * 1000
        jobs = self._jobs_of(plan, rule, now_ms, deadline_at_ms)
        item = Notified(
            user_id=user.user_id, notification_id=row.notification_id, state=plan.state, reason=plan.reason
        )
        priority = cast(Priority, row.priority)
        shown = self._item_of(row.notification_id, rule.name, priority, now_ms, plan, user)
        row_index = self._record(
            "released",
            user.user_id,
            row.notification_id,
            plan.decisions,
            Deciding(self, None, 0, item, jobs, shown),
        )
        changes.update(state=plan.state, deadline_at_ms=deadline_at_ms)
        if plan.variant:
            changes["variant"] = plan.variant
        if plan.counted_at_ms:
            changes["counted_at_ms"] = plan.counted_at_ms
        if plan.centre is not None:
            changes.update(
                title=plan.centre.title,
                text=plan.centre.body,
                url=plan.centre.url,
                image=plan.centre.image,
                in_centre=True,
                sent_at_ms=now_ms,
            )
        self._stage_ops([*ops, Update(NotificationRow, {"notification_id": row.notification_id}, changes)])
        self._stage_ops(self._delivery_puts(plan, jobs, user, row_index))

    def _end_held(self, row: NotificationRow, reason: str) -> None:
        """Drop a held notification that can no longer be decided about."""
        self._stats.dropped += 1
        self._record(
            "released",
            row.user_id,
            row.notification_id,
            [Decision("validate", "drop", reason)],
            Staged(NO_REPLY, None),
        )
        self._stage_ops(
            [
                Update(
                    NotificationRow,
                    {"notification_id": row.notification_id},
                    {"state": "dropped", "content": ""},
                )
            ]
        )


def zone_of(user: UserState, setup: Setup) -> str:
    """The user's time zone, else the app's."""
    return known_zone(user.facts.time_zone, setup.rules.default_time_zone)


def content_hash(content: Content, occurrence: str = "") -> str:
    """Name what a notification says, whoever gets it: template and data, or text."""
    said = (
        occurrence,
        content.template,
        content.actor,
        content.title,
        content.text,
        content.url,
        content.image,
        msgspec.to_builtins(content.data),
    )
    return blake2b(msgspec.json.encode(said, order="sorted"), digest_size=12).hexdigest()


def _not_there(user_id: str) -> Notified:
    return Notified(user_id=user_id, notification_id=0, state="refused", reason="user_not_found")


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


def _tied(ops: list[Op], row_index: int) -> list[Op]:
    """Let what a decision does to others' rows happen only if the decision is stored."""
    return [
        msgspec.structs.replace(op, row_index=row_index) if isinstance(op, Put | Update) else op for op in ops
    ]
