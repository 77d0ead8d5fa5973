"""The next channel, where none has reached the user.

Such a notification is held, with `is_fallback`, from the append on that told of the last refusal, or that the
one which was taken was not delivered (undelivered.py). Released like all that is held, it goes by the next of
its type's fallback channels that leads anywhere.
"""

from collections.abc import Sequence

from actors.notify.decider import Deciding
from actors.notify.deliverer import Deliverer
from actors.notify.plan import Plan
from actors.notify.recheck import SEEN, Recheck, recheck
from actors.notify.undelivered import CAME
from actors.notify.user_state import UserState, decode_kept
from actors.reply import NO_REPLY
from actors.stream_actor import Staged
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.notify_replies import Notified
from protocol.notify_types import Decision, TypeRule
from protocol.records import Update


class Fallbacks(Deliverer):
    """Release what waits for a fallback."""

    def fall_back(self, user: UserState, row: NotificationRow, tried: Sequence[DeliveryRow]) -> None:
        """Send by the next of the type's fallback channels. `tried`: the deliveries made so far."""
        setup = self._setup_of(row.app_id)
        rule = setup.type_rule(row.type)
        if rule is None:
            self._end_held(row, "type_gone")
            return
        now_ms = self._now_ms()
        if 0 < row.expires_at_ms <= now_ms:
            self._end_held(row, "expired")
            return
        if self.is_seen(row) and not rule.is_security:
            self._end_held(row, SEEN)
            return
        if any(delivery.state in CAME for delivery in tried):  # as its provider has found out since
            self._end_held(row, "delivered")
            return
        kept = decode_kept(row.content)
        channels = {delivery.channel for delivery in tried}
        first_number = max((delivery.number + 1 for delivery in tried), default=0)
        plan = Plan([], variant=row.variant)  # which was drawn when it was sent first
        for channel in rule.fallback:
            if channel in channels:
                continue
            check = recheck(user, rule, setup.rules, channel, "", now_ms, is_seen=False)
            if check.decision is not None:
                plan.decisions.append(check.decision)
            if check.kind == "hold":
                self._hold_again(row, rule, check, plan)
                return
            if check.kind == "drop":
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
                first_number=first_number,
            )
            if plan.deliveries:
                break
        if not plan.deliveries:
            plan.decisions.append(Decision("choose", "drop", "no_fallback_left"))
        deadline_at_ms = row.deadline_at_ms
        if any(delivery.accepted_at_ms for delivery in tried):  # whatever came of it later, it went in time
            deadline_at_ms = now_ms + rule.deadline_s * 1000
        jobs = self._jobs_of(plan, rule, now_ms, deadline_at_ms, first_number)
        state = "open" if jobs else "done"
        item = Notified(user_id=user.user_id, notification_id=row.notification_id, state=state)
        row_index = self._record(
            "fallback",
            user.user_id,
            row.notification_id,
            plan.decisions,
            Deciding(self, None, 0, item, jobs, None),
        )
        changes: dict[str, str | int | None] = {
            "state": state,
            "is_fallback": 0,
            "deadline_at_ms": deadline_at_ms,
        }
        self._stage_ops([Update(NotificationRow, {"notification_id": row.notification_id}, changes)])
        self._stage_ops(self._delivery_puts(plan, jobs, user, row_index))

    def _hold_again(self, row: NotificationRow, rule: TypeRule, check: Recheck, plan: Plan) -> None:
        """Let it wait until it is not quiet any more, from when on its deadline counts."""
        self._record(
            "fallback",
            row.user_id,
            row.notification_id,
            plan.decisions,
            Staged(NO_REPLY, None, after=lambda _at: self.held_until(check.due_at_ms)),
        )
        changes: dict[str, str | int | None] = {
            "due_at_ms": check.due_at_ms,
            "deadline_at_ms": check.due_at_ms + rule.deadline_s * 1000,
        }
        self._stage_ops([Update(NotificationRow, {"notification_id": row.notification_id}, changes)])
