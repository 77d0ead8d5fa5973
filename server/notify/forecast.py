"""A dry run as it is shown: from what is stored about a user to what the coming days hold."""

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from actors.notify.builtin_types import DIGEST
from actors.notify.dry_run import Forecast, Held, Recurring, next_days
from actors.notify.facts import Facts
from actors.notify.plan import content_hash, zone_of
from actors.notify.ports import Setup
from actors.notify.send_at import send_at_ms
from actors.notify.stored_facts import facts_of
from actors.notify.stored_setup import read_request
from actors.notify.user_state import UserState, decode_kept
from protocol import notify_replies
from protocol.notify_content import NotifyRequest, content_of
from protocol.notify_records import NotificationRow, NotifyGroupRow, RequestRow
from protocol.notify_types import Channel, Decision, TypeRule
from protocol.records import User
from storage.store import Store

MAX_REQUESTS: Final = 500  # of an app that are looked at, the newest


async def requests_for(store: Store, app_id: str, user_id: str) -> list[RequestRow]:
    """The app's requests that will come to this user: at a time that is set, or again and again."""
    found = []
    groups: dict[str, bool] = {}
    for row in await store.notify_glances.open_requests(app_id, limit=MAX_REQUESTS):
        request = read_request(row.body)
        if not (request.cron or row.state == "waiting"):
            continue  # it is being handed on just now
        group = request.group
        if group and group not in groups:
            groups[group] = await _is_member(store, app_id, group, user_id)
        if groups[group] if group else user_id in request.user_ids:
            found.append(row)
    return found


async def _is_member(store: Store, app_id: str, group: str, user_id: str) -> bool:
    if group != "*":
        return await store.get(NotifyGroupRow, app_id, group, user_id) is not None
    user = await store.get(User, user_id)
    return user is not None and not user.is_bot


def forecasts_of(
    user: UserState,
    setup: Setup,
    rows: list[NotificationRow],
    requests: list[RequestRow],
    *,
    now_ms: int,
    days: int,
) -> notify_replies.Forecasts:
    """What this user is to hear; `rows` are held, and `requests` are still to come to the user."""
    held = [
        Held(
            facts=facts_of(row),
            due_at_ms=row.due_at_ms,
            group=row.group_key,
            held_by=decode_kept(row.content).held_by if row.content else "",
        )
        for row in rows
    ]
    recurring = []
    for row in requests:
        request = read_request(row.body)
        rule = setup.type_rule(request.type)
        if rule is None:
            continue  # the type was removed: it will be refused
        facts = _facts_of(request, user, rule, row.created_at_ms)
        if request.cron:
            recurring.append(_recurring(request, facts, setup))
        elif request.send_at:
            due_at_ms = send_at_ms(request.send_at, zone_of(user, setup))
            held.append(Held(facts=facts, due_at_ms=due_at_ms, held_by="schedule"))
    rules = {rule.name: rule for rule in setup.all_types()}
    found = next_days(user.facts, setup.rules, rules, held, recurring, now_ms, days)
    reachable: set[Channel] = {"inapp"}
    reachable |= {target.channel for target in user.devices.values() if setup.has_provider(target.channel)}
    return notify_replies.Forecasts(items=[_shown(forecast, rules, reachable) for forecast in found])


def _shown(
    forecast: Forecast, rules: Mapping[str, TypeRule], reachable: Collection[Channel]
) -> notify_replies.Forecast:
    """A forecast as it is shown: on the channels by which the user is reached, as of now."""
    channels = [channel for channel in forecast.channels if channel in reachable]
    kind, reason, why = forecast.kind, forecast.reason, forecast.why
    if kind == "send" and not channels:
        fallback = forecast.fallback
        if forecast.group:  # it goes as a notification of its own
            type_name = DIGEST if forecast.group.startswith("digest:") else forecast.types[0]
            fallback = rules[type_name].fallback if type_name in rules else []
        channels = [channel for channel in fallback if channel in reachable][:1]
        if not channels:
            kind, reason = "drop", "unreachable"
            why = [*why, Decision("choose", "drop", "unreachable")]
    return notify_replies.Forecast(
        at_ms=forecast.at_ms,
        local=forecast.local,
        kind=kind,
        types=forecast.types,
        channels=channels,
        notification_ids=forecast.notification_ids,
        until_ms=forecast.until_ms,
        reason=reason,
        why=why,
    )


def _recurring(request: NotifyRequest, facts: Facts, setup: Setup) -> Recurring:
    # Unlike a dry run's, a request's expires_at_ms is an instant: what comes later is not sent.
    ends = [at_ms for at_ms in (request.ends_at_ms, facts.expires_at_ms) if at_ms]
    return Recurring(
        facts=msgspec.structs.replace(facts, expires_at_ms=0),
        cron=request.cron,
        zone=request.time_zone or setup.rules.default_time_zone,
        ends_at_ms=min(ends, default=0),
    )


def _facts_of(request: NotifyRequest, user: UserState, rule: TypeRule, created_at_ms: int) -> Facts:
    """The facts of a notification that does not exist yet, as its partition will make them."""
    return Facts(
        notification_id=0,
        app_id=user.app_id,
        user_id=user.user_id,
        type=rule.name,
        subject=request.subject,
        priority=request.priority or rule.priority,
        created_at_ms=created_at_ms,
        expires_at_ms=request.expires_at_ms,
        collapse_key=request.collapse_key,
        batch_key=request.batch_key or request.subject,
        content_hash=content_hash(content_of(request)),
        channels=request.channels,
    )
