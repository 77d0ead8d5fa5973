"""Alerts as the dashboard and an app's developers see them, from their rows. Pure."""

from collections.abc import Iterable
from typing import Final

import msgspec

from protocol.http_notify import AlertInfo
from protocol.http_notify_dashboard import AlertLine
from protocol.notify_records import AlertRow
from server.notify.waiting_alert import alert_of

_detail: Final = msgspec.json.Decoder(dict[str, str]).decode


def alert_lines(rows: Iterable[AlertRow]) -> list[AlertLine]:
    """What developers have yet to be told, oldest first; what they were told is left out."""
    return [
        AlertLine(
            app_id=row.app_id,
            kind=row.kind,
            about=", ".join(f"{name}: {value}" for name, value in _detail(row.detail).items() if value),
            count=row.count,
            at_ms=row.at_ms,
            reason=row.reason,
        )
        for row in sorted(rows, key=lambda row: row.at_ms)
        if row.count
    ]


def alert_info(row: AlertRow) -> AlertInfo:
    """One of the API's list, told or not."""
    telling = alert_of(row)
    return AlertInfo(
        alert_id=telling.alert_id if telling is not None else "",
        kind=row.kind,
        at_ms=row.at_ms,
        count=row.count,
        detail=_detail(row.detail),
        is_mailed=row.is_mailed,
        told_at_ms=row.told_at_ms,
        reason=row.reason,
    )
