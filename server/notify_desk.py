"""What an operator asks about notifications at the command line. Parsed by cli.py."""

import time
from datetime import UTC, datetime

import msgspec

from protocol.http_notify import Explanation
from protocol.notify_ids import at_ms_of
from protocol.notify_records import DeadDelivery
from server.desk import CliError, Desk, Line
from server.notify.explanation import explain_notification

_QUEUE_COLUMNS = ("app_id", "channel", "priority", "open", "due", "oldest_s")


async def explain(desk: Desk) -> None:
    """Print every stage of a notification, with its time, rule and value."""
    try:
        notification_id = int(desk.args.id)
    except ValueError:
        raise CliError(f"{desk.args.id!r} is no notification's id, which is a number.") from None
    rows = await desk.store.notify.notifications([notification_id])
    if not rows:
        made = datetime.fromtimestamp(at_ms_of(notification_id) / 1000, UTC).isoformat(timespec="seconds")
        raise CliError(f"There is no notification {notification_id}; such an id would be of {made}.")
    found = await explain_notification(desk.store, rows[0].app_id, notification_id)
    if desk.args.json:
        print(msgspec.json.encode(found).decode())
        return
    for line in lines_of(found):
        print(line)


def lines_of(found: Explanation) -> list[str]:
    """An explanation for people: what it is, what happened to it, and where its copies are."""
    note = found.notification
    lines = [
        f"notification {note.notification_id}: {note.type}, {note.priority}, for {note.user_id}",
        f"state: {note.state}" + (f", into {note.into_id}" if note.into_id else ""),
        "",
    ]
    for entry in found.ledger:
        at = datetime.fromtimestamp(entry.at_ms / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")
        lines.append(f"{at.removesuffix('+00:00')}  {entry.kind}")
        for decision in entry.decisions:
            told = f"    {decision.stage:<12} {decision.outcome:<9} {decision.rule}"
            lines.append(f"{told}: {decision.value}" if decision.value else told)
    if found.deliveries:
        lines.append("")
    for delivery in found.deliveries:
        line = f"{delivery.channel} to {delivery.device_key}: {delivery.state}"
        if delivery.attempt:
            times = "1 attempt" if delivery.attempt == 1 else f"{delivery.attempt} attempts"
            line += f" after {times} by {delivery.provider_id or '?'}"
        if delivery.code:
            line += f" ({delivery.code})"
        if delivery.doubles:
            line += f"; it may have come {delivery.doubles} times more"
        lines.append(line)
    return lines


async def queues(desk: Desk) -> None:
    """Print what waits to be delivered."""
    now_ms = time.time_ns() // 1_000_000
    lines: list[Line] = [
        {
            "app_id": depth.app_id,
            "channel": depth.channel,
            "priority": depth.priority,
            "open": depth.count,
            "due": depth.due_count,
            "oldest_s": max(0, now_ms - depth.oldest_at_ms) // 1000,
        }
        for depth in await desk.store.notify.queue_depths(now_ms)
    ]
    desk.printer.lines(lines, _QUEUE_COLUMNS)


async def dead(desk: Desk) -> None:
    """Print deliveries that were given up."""
    rows = await desk.store.find(DeadDelivery, {"app_id": await desk.app_id()}, order_by="at_ms")
    lines: list[Line] = [
        {
            "notification_id": row.notification_id,
            "number": row.number,
            "channel": row.channel,
            "provider_id": row.provider_id,
            "code": row.code,
            "detail": row.detail,
        }
        for row in rows
    ]
    desk.printer.lines(lines, ("notification_id", "number", "channel", "provider_id", "code", "detail"))
