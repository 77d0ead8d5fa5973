"""Write texts, choose devices and channels, and make the deliveries of one notification."""

from collections.abc import Mapping
from typing import Final

import msgspec

from actors.notify.delivery import Outgoing
from actors.notify.facts import Facts
from actors.notify.job import Job
from actors.notify.open_keeper import OpenKeeper
from actors.notify.plan import DigestPart, Plan, zone_of
from actors.notify.ports import Reader, Setup
from actors.notify.user_state import Kept, UserState
from actors.notify.verdict import Verdict
from protocol import notify_events
from protocol.codec import Encoded
from protocol.errors import Refused
from protocol.notify_records import DeliveryRow
from protocol.notify_replies import NotificationItem
from protocol.notify_templates import HOLDOUT
from protocol.notify_types import Channel, Decision, Priority, TypeRule
from protocol.records import Op, Put

NOTIFICATIONS_STREAM: Final = "notifications"  # what a resync names when live events were lost
# How long a push waits for a user who is connected: what is seen in the app is not pushed.
SEEN_GRACE_MS: Final = 4_000
# Open deliveries of one partition beyond which campaigns wait: some seconds' work, so that little is queued.
MAX_OPEN_BULK: Final = 1_000

_encode = msgspec.json.Encoder().encode


class Sender(OpenKeeper):
    """Fill a plan with what is to be shown and sent."""

    def _reader(
        self, user: UserState, setup: Setup, kept: Kept, part: DigestPart | None = None, count: int = 0
    ) -> Reader:
        """For whom a text is written. `count`: how many became one, where it is not one.

        `part`: of a digest, what it tells on the channel; then that is counted.
        """
        return Reader(
            user_id=user.user_id,
            name=user.name,
            locale=user.language or setup.rules.default_locale,
            time_zone=zone_of(user, setup),
            names=tuple(kept.names),
            others=max(0, kept.actor_count - len(kept.names)),
            count=len(part.ids) if part is not None else count or max(1, kept.actor_count),
            titles=tuple(part.lines) if part is not None else (),
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
        if plan.shows_variant(plan.centre):
            plan.is_exposed = True
            plan.decisions.append(Decision("experiment", "sent", "exposed", "inapp"))

    def _draw(self, user: UserState, setup: Setup, kept: Kept, plan: Plan) -> bool:
        """Draw the user's variant where an experiment is named; False: the user is in the holdout.

        Drawn is not exposed: that is who is sent, or shown, the variant's own text.
        """
        experiment = kept.content.experiment
        if not experiment:
            return True
        variant = setup.variant_of(experiment, user.user_id)
        if variant is None:
            plan.decisions.append(Decision("experiment", "pass", "not_running", experiment))
            return True
        plan.variant = f"{experiment}:{variant}"
        if variant == HOLDOUT:
            plan.decisions.append(Decision("experiment", "drop", HOLDOUT, experiment))
            return False
        plan.decisions.append(Decision("experiment", "pass", "variant", plan.variant))
        return True

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
        parts: Mapping[Channel, DigestPart] | None = None,
        item_count: int = 0,
        is_in_centre: bool = False,
    ) -> None:
        """Choose variant, devices and channels, and write the texts. `parts`: of a digest, by channel."""
        decisions = plan.decisions
        now_ms = self._now_ms()
        if not self._draw(user, setup, kept, plan):
            plan.state, plan.reason = "dropped", HOLDOUT
            return
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
                reader if parts is None else self._reader(user, setup, kept, parts[channel]),
                channel,
                due_at_ms,
                plan,
                notification_id=facts.notification_id,
                expires_at_ms=verdict.expires_at_ms,
            )

        for channel in verdict.channels:
            if channel != "inapp":
                choose(channel)
        # What only the centre shows has reached nobody, where another channel was wanted and leads nowhere.
        is_in_app = plan.centre is not None or is_in_centre
        if not plan.deliveries and (not is_in_app or any(channel != "inapp" for channel in verdict.channels)):
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
        elif plan.centre is None and not is_in_centre:
            plan.state, plan.reason = "dropped", "unreachable"
            decisions.append(Decision("choose", "drop", "unreachable"))
        self._stats.sent += 1

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
            why = next((known.why for known in user.stopped.values() if known.target.channel == channel), "")
            if why:
                plan.decisions.append(Decision("choose", "skip", "suppressed", f"{channel}: {why}"))
            else:
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
        shows_variant = plan.shows_variant(text)
        badge = len(user.unread) + (plan.centre is not None)
        collapse_key = content.collapse_key
        if not collapse_key and rule.batch_window_s:
            collapse_key = f"batch-{rule.name}-{content.batch_key or content.subject}"
        data = {name: str(value) for name, value in content.data.items() if _is_plain(value)}
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
                data=data,
                badge=badge,
                collapse_key=collapse_key,
                expires_at_ms=expires_at_ms,
                unsubscribe_url=text.unsubscribe_url,
                click_url=text.click_url,
                locale=text.locale,
                shows_variant=shows_variant,
            )
            plan.deliveries.append((outgoing, due_at_ms))
            plan.decisions.append(Decision("enqueue", "pass", channel, target.device_key))

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
                job.begin(now_ms)
                plan.decisions.append(Decision("attempt", "pass", job.channel, f"1 to {job.way}, at once"))
            self._deciding[job.notification_id, number] = job
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
                    provider_id=job.provider_id,
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

    def _publish(self, user_id: str, item: NotificationItem, unread: int) -> None:
        event = notify_events.NotificationShown(item=item, unread=unread)
        self._fanout.publish_user_live(
            user_id,
            ("notification", str(item.notification_id)),
            Encoded(event),
            stream=NOTIFICATIONS_STREAM,
        )


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool)
