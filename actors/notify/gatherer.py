"""Batches and digests: what is held to become one with others.

A batch is its first notification, into which the others merge; a digest is one of its own. Both are released
when they are due, as releaser.py does it with all that is held; what a digest tells then is in digester.py.
"""

from typing import Final

import msgspec

from actors.notify.batching import grown
from actors.notify.builtin_types import DIGEST
from actors.notify.facts import Facts
from actors.notify.plan import Plan
from actors.notify.ports import Setup
from actors.notify.sender import Sender
from actors.notify.user_state import Group, Kept, UserState
from actors.notify.verdict import Verdict
from actors.reply import NO_REPLY
from actors.stream_actor import Staged
from protocol.errors import Refused
from protocol.notify_content import Content
from protocol.notify_ids import at_ms_of
from protocol.notify_records import NotificationRow
from protocol.notify_replies import NotificationItem
from protocol.notify_types import Decision, TypeRule
from protocol.records import Op, Put, Update

# Told by one digest: each is asked for when it is released, some 10 µs. What comes then opens another one.
MAX_MEMBERS: Final = 2_000

_encode = msgspec.json.Encoder().encode


class Gatherer(Sender):
    """Let notifications join a group."""

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
        now_ms: int,
    ) -> dict[str, object]:
        """Let it join the open group, or open one. Returns what its row holds beside the plan.

        A group whose time has come is not open any more, released or not: its members may have been read.
        """
        known = user.facts.open_groups.get(verdict.group)
        is_open = known is not None and known.due_at_ms > now_ms
        group = user.groups.get(verdict.group) if is_open else None
        user.facts.note(facts, verdict, now_ms)
        plan.reason = verdict.reason
        is_digest = verdict.group.startswith("digest:")
        if is_digest:
            if verdict.inapp_now and self._draw(user, setup, kept, plan):
                self._show(user, setup, rule, facts, kept, verdict, plan)
            if group is None or group.count >= MAX_MEMBERS:
                group = self._open_digest(
                    user, verdict, ops, now_ms, facts.notification_id, is_first=group is None
                )
            self._grow(group, kept, ops)
        elif group is None:
            plan.state = "held"
            self._stats.held += 1
            user.groups[verdict.group] = Group(
                facts.notification_id, verdict.due_at_ms, 1, kept, opener_id=facts.notification_id
            )
            if verdict.inapp_now and self._draw(user, setup, kept, plan):
                self._show(user, setup, rule, facts, kept, verdict, plan)
            return {
                "due_at_ms": verdict.due_at_ms,
                "group_key": verdict.group,
                "item_count": 1,
                "content": _encode(kept).decode(),
            }
        else:
            self._grow(group, kept, ops)
            if verdict.inapp_now and self._draw(user, setup, group.kept, plan):
                self._show_again(user, setup, rule, group, plan, ops, now_ms)
        plan.state = "merged"
        self._stats.merged += 1
        return {
            "into_id": group.notification_id,
            "due_at_ms": verdict.due_at_ms,
            "content": _encode(kept).decode(),
        }

    def _open_digest(
        self,
        user: UserState,
        verdict: Verdict,
        ops: list[Op],
        now_ms: int,
        opener_id: int,
        *,
        is_first: bool,
    ) -> Group:
        """Make the notification that will tell of all that is put off until then.

        One that is not the first, as that is full, must not be shown instead of it.
        """
        digest_id = self._ids.next(now_ms)
        collapse_key = verdict.group.replace(":", "-")
        if not is_first:
            collapse_key = f"{collapse_key}-{digest_id:x}"
        kept = Kept(
            content=Content(type=DIGEST, template=DIGEST, collapse_key=collapse_key),
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

    def _close_group(self, user: UserState, row: NotificationRow) -> Group | None:
        """A group is released, or has ended: what comes opens another. Returns it, if it was the open one."""
        group = user.groups.get(row.group_key) if row.group_key else None
        if group is None or group.notification_id != row.notification_id:
            return None
        del user.groups[row.group_key]
        known = user.facts.open_groups.get(row.group_key)
        if known is not None and known.notification_id == row.notification_id:
            del user.facts.open_groups[row.group_key]
        return group

    def _grow(self, group: Group, kept: Kept, ops: list[Op]) -> None:
        """Count one more item of a group; the first few whose doing it is keep their names."""
        group.count += 1
        group.kept, new = grown(group.kept, group.actors, kept)
        group.actors.update(new)
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
        experiment = kept.content.experiment
        drawn = setup.variant_of(experiment, user.user_id) if experiment else None
        text = self._renderer.render(
            setup,
            kept.content,
            self._reader(user, setup, kept, count=count),
            "inapp",
            variant=f"{experiment}:{drawn}" if drawn else "",
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
