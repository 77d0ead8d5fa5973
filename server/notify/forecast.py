"""A dry run as it is shown: from what is stored about a user to what the coming days hold."""

from collections.abc import Callable

from actors.notify.dry_run import Forecast, Held
from actors.notify.ports import Setup
from actors.notify.stored_facts import facts_of
from actors.notify.user_state import UserState, decode_kept
from protocol import notify_replies
from protocol.notify_records import NotificationRow

Run = Callable[..., list[Forecast]]


def forecasts_of(
    user: UserState, setup: Setup, rows: list[NotificationRow], *, now_ms: int, days: int, run: Run
) -> notify_replies.Forecasts:
    """What this user is to hear; `rows` are held, `run` is dry_run.next_days."""
    held = [
        Held(
            facts=facts_of(row),
            due_at_ms=row.due_at_ms,
            group=row.group_key,
            held_by=decode_kept(row.content).held_by if row.content else "",
        )
        for row in rows
    ]
    rules = {rule.name: rule for rule in setup.all_types()}
    found = run(user.facts, setup.rules, rules, held, (), now_ms, days)
    return notify_replies.Forecasts(
        items=[
            notify_replies.Forecast(
                at_ms=forecast.at_ms,
                local=forecast.local,
                kind=forecast.kind,
                types=forecast.types,
                channels=forecast.channels,
                notification_ids=forecast.notification_ids,
                until_ms=forecast.until_ms,
                reason=forecast.reason,
                why=forecast.why,
            )
            for forecast in found
        ]
    )
