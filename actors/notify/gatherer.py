"""Batches and digests: what is held to become one with others.

A batch is its first notification, into which the others merge; a digest is one of its own. Both are released
when they are due, as decider.py does it with all that is held.
"""

import msgspec

from actors.notify.builtin_types import DIGEST
from actors.notify.facts import Facts
from actors.notify.group_release import release
from actors.notify.plan import Plan
from actors.notify.ports import Setup
from actors.notify.sender import DIGEST_ITEMS, MAX_ACTORS, MAX_NAMES, Sender
from actors.notify.stored_facts import facts_of
from actors.notify.user_state import Group, Kept, UserState, decode_kept
from actors.notify.verdict import Verdict
from actors.reply import NO_REPLY
from actors.stream_actor import Staged
from protocol.errors import Refused
from protocol.notify_content import Content
from protocol.notify_ids import at_ms_of
from protocol.notify_records import NotificationRow
from protocol.notify_replies import NotificationItem
from protocol.notify_types import Channel, Decision, TypeRule
from protocol.records import Op, Put, Update

_encode = msgspec.json.Encoder().encode


class Gatherer(Sender):
    """Let notifications join a group, and tell what a digest holds."""

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
                group = self._open_digest(user, verdict, ops, now_ms, facts.notification_id)
            self._grow(group, kept, ops)
        elif group is None:
            plan.state = "held"
            self._stats.held += 1
            user.groups[verdict.group] = Group(
                facts.notification_id, verdict.due_at_ms, 1, kept, opener_id=facts.notification_id
            )
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

    def _open_digest(
        self, user: UserState, verdict: Verdict, ops: list[Op], now_ms: int, opener_id: int
    ) -> Group:
        """Make the notification that will tell of all that is put off until then."""
        digest_id = self._ids.next(now_ms)
        kept = Kept(
            content=Content(type=DIGEST, template=DIGEST, collapse_key=verdict.group.replace(":", "-")),
            source=DIGEST,
            priority="low",
            held_by="digest",
        )
        group = Group(digest_id, verdict.due_at_ms, 0, kept, opener_id=opener_id)
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
        first = group.kept.first
        if first is None and content.type != DIGEST and not group.kept.is_carrier:
            first = group.kept.content
        group.kept = msgspec.structs.replace(
            group.kept,
            content=content,
            names=names,
            actor_count=max(actor_count, len(names)),
            first=first,
        )
        ops.append(
            Update(
                NotificationRow,
                {"notification_id": group.notification_id},
                {"item_count": group.count, "content": _encode(group.kept).decode()},
            )
        )

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
            item = self._item_of_group(user, setup, rule.name, group.notification_id, group.kept, group.count)
        except Refused as refused:
            plan.decisions.append(Decision("render", "drop", refused.code, f"inapp: {refused.message}"))
            return
        user.unread.add(group.notification_id)
        plan.decisions.append(Decision("enqueue", "sent", "inapp", f"as part of {group.notification_id}"))
        self._seen.discard(group.notification_id)
        ops.append(self._reshow(user, item, in_centre=True, read_at_ms=0, seen_at_ms=0))

    def _item_of_group(
        self, user: UserState, setup: Setup, type_name: str, notification_id: int, kept: Kept, count: int
    ) -> NotificationItem:
        """What the centre shows of a batch. Raises: Refused, as Renderer.render."""
        text = self._renderer.render(
            setup,
            kept.content,
            self._reader(user, setup, kept, count=count),
            "inapp",
            variant="",
            notification_id=notification_id,
        )
        return NotificationItem(
            notification_id=notification_id,
            type=type_name,
            priority=kept.priority,
            at_ms=at_ms_of(notification_id),
            title=text.title,
            text=text.body,
            url=text.url,
            image=text.image,
            count=count,
        )

    def _reshow(self, user: UserState, item: NotificationItem, **changes: str | int | None) -> Op:
        """Show an item of the centre as it now is; returns what is to be stored of that."""
        unread = len(user.unread)
        self._stage_ops(
            (), Staged(NO_REPLY, None, after=lambda _at: self._publish(user.user_id, item, unread))
        )
        words = {"title": item.title, "text": item.text, "url": item.url, "image": item.image}
        return Update(NotificationRow, {"notification_id": item.notification_id}, {**words, **changes})

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
