"""Decide anew about what was held, once its time has come: send it, hold it again, or drop it."""

from collections.abc import Sequence
from typing import cast

import msgspec

from actors.notify.builtin_types import DIGEST
from actors.notify.decider import Decider, Deciding
from actors.notify.digester import DIGEST_CHANNELS, Told
from actors.notify.facts import Facts
from actors.notify.plan import Plan, Ready
from actors.notify.recheck import SEEN
from actors.notify.scheduler import schedule
from actors.notify.turns import TURN_S
from actors.notify.user_state import UserState, decode_kept
from actors.reply import NO_REPLY
from actors.stream_actor import Staged
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.notify_replies import Notified
from protocol.notify_types import Decision, Priority, TypeRule
from protocol.records import Op, Update

_encode = msgspec.json.Encoder().encode


class Releaser(Decider):
    """Release what was held."""

    def release(self, ready: Ready) -> Ready | None:
        """Decide anew about held notifications whose time has come. Their users are in memory.

        Returns those for which there was no time in this turn.
        """
        now_ms, until_s = self._now_ms(), self._ctx.now() + TURN_S
        for number, row in enumerate(ready.rows):
            if number and self._ctx.now() >= until_s:
                return msgspec.structs.replace(ready, rows=ready.rows[number:])
            if row.notification_id in self._gone:
                continue
            if row.due_at_ms > now_ms:  # the clock was set back since it was read: more may have joined it
                continue
            if self._setups.known(row.app_id) is None:  # it cannot be read just now: it is found again
                continue
            user = self._users.get(row.user_id)
            if user is None or user.is_disabled or not row.content:
                self._end_held(row, "user_gone", ready.members.get(row.notification_id, []))
                continue
            if row.is_fallback:
                self.fall_back(user, row, ready.tried.get(row.notification_id, []))
            else:
                self._release_one(user, row, ready.members.get(row.notification_id, []))
        return None

    def fall_back(self, user: UserState, row: NotificationRow, tried: Sequence[DeliveryRow]) -> None:
        """Go on by another channel."""
        raise NotImplementedError

    def _release_one(self, user: UserState, row: NotificationRow, members: list[NotificationRow]) -> None:
        setup = self._setup_of(row.app_id)
        rule = setup.type_rule(row.type)
        if rule is None:
            self._end_held(row, "type_gone")
            return
        now_ms = self._now_ms()
        group = self._close_group(user, row)
        if group is not None:
            kept, count = group.kept, group.count
        else:
            kept, count = decode_kept(row.content), row.item_count
        if row.type != DIGEST and self.is_seen(row) and not rule.is_security:
            self._stats.skipped += 1
            seen = Plan([Decision("result", "skipped", SEEN)])
            self._stage_release(user, rule, row, seen, [], {"item_count": count, "content": ""}, now_ms)
            return
        content = kept.content
        is_digest = row.type == DIGEST
        if is_digest:  # a fallback would tell what not every member may be told there
            rule = msgspec.structs.replace(rule, fallback=[])
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
            # A batch of several says more than what opened it.
            content_hash=kept.digest if count <= 1 else "",
            channels=DIGEST_CHANNELS if is_digest else kept.channels,
            is_released=True,
            held_by=kept.held_by,
        )
        verdict = schedule(facts, rule, user.facts, setup.rules, now_ms)
        plan = Plan(list(verdict.decisions))
        ops: list[Op] = []
        changes: dict[str, str | int | None] = {"item_count": count}
        told: Told | None = None
        if is_digest and verdict.kind == "send":
            verdict, told = self._release_digest(user, setup, rule, members, count, verdict, plan, now_ms)
        if verdict.kind == "drop":
            self._dropped(plan, verdict)
            changes["content"] = ""
            for member in members if told is None else ():
                self._drop_member(user, member, "digest", plan.decisions[-1:])
        elif verdict.kind == "hold" and verdict.group:
            held = self._hold_in_group(user, setup, rule, facts, kept, verdict, plan, ops, now_ms)
            changes.update(cast(dict[str, str | int | None], held))
        elif verdict.kind == "hold":
            plan.state, plan.reason = "held", verdict.reason
            user.facts.note(facts, verdict, now_ms)
            if verdict.inapp_now and not row.in_centre and self._draw(user, setup, kept, plan):
                self._show(user, setup, rule, facts, kept, verdict, plan)
            kept = msgspec.structs.replace(kept, held_by=verdict.stage)
            changes.update(due_at_ms=verdict.due_at_ms, content=_encode(kept).decode(), group_key="")
        else:
            self._send(
                user,
                setup,
                rule,
                facts,
                kept,
                verdict,
                plan,
                parts=told.parts if told is not None else None,
                item_count=count,
                is_in_centre=row.in_centre,
            )
            if plan.state != "dropped":
                user.facts.note(facts, verdict, now_ms, is_counted=plan.counted_at_ms > 0)
                if rule.dedup_s and not verdict.dedup_key:
                    user.facts.told(row.dedup_key, row.notification_id, now_ms)
            if told is not None:
                self._tell_members(user, members, row.notification_id, told, plan, now_ms)
            changes["content"] = _encode(kept).decode() if rule.fallback and plan.deliveries else ""
        if plan.state == "dropped":
            changes.update(self._undone(user, row))
        self._stage_release(user, rule, row, plan, ops, changes, now_ms)

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
        if plan.is_exposed:
            changes["is_exposed"] = 1
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

    def _end_held(self, row: NotificationRow, reason: str, members: Sequence[NotificationRow] = ()) -> None:
        """Drop a held notification that can no longer be decided about. `members`: of a digest."""
        user = self._users.get(row.user_id)
        if user is not None:
            self._close_group(user, row)
        for member in members:
            self._drop_member(user, member, "validate", [Decision("validate", "drop", reason)])
        self._stats.dropped += not row.is_fallback
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
                    {
                        "state": "done" if row.is_fallback else "dropped",
                        "content": "",
                        "is_fallback": 0,
                        **({} if row.is_fallback else self._undone(user, row)),
                    },
                )
            ]
        )
