"""Deliveries that are open, by line; how those of one notification stand, and if more may be told of it."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

from protocol.notify_found import Line, Standing
from protocol.notify_records import DeliveryRow
from storage.schema import spec_of

_DELIVERY: Final = spec_of(DeliveryRow)
# One step of the index for each line, however many deliveries are in it: column by column, as SQLite goes
# through all that is equal where a row value is to be greater.
_COLUMNS: Final = ("priority", "app_id", "channel")
_NEXT: Final = tuple(
    f"SELECT {column} FROM {DeliveryRow.table} WHERE partition = ? AND is_open = 1"
    f"{''.join(f' AND {known} = ?' for known in _COLUMNS[:depth])} AND {column} > ? ORDER BY {column} LIMIT 1"
    for depth, column in enumerate(_COLUMNS)
)
_OF_LINE: Final = (
    f"{_DELIVERY.select} WHERE partition = ? AND priority = ? AND app_id = ? AND channel = ? AND is_open = 1"
    " ORDER BY next_at_ms, notification_id, number LIMIT ?"
)
_STANDING: Final = f"""
SELECT notification_id, number, is_open, state IN ('accepted', 'confirmed', 'complained', 'unknown')
FROM {DeliveryRow.table} WHERE notification_id IN (SELECT value FROM json_each(?))
"""

_AWAITING: Final = f"""
SELECT DISTINCT notification_id FROM {DeliveryRow.table}
WHERE notification_id IN (SELECT value FROM json_each(?))
    AND +channel IN ('sms', 'email') AND +state IN ('accepted', 'unknown')
"""


def open_lines(connection: sqlite3.Connection, partition: int) -> list[Line]:
    return [
        (priority, app_id, channel)
        for priority in _following(connection, partition)
        for app_id in _following(connection, partition, priority)
        for channel in _following(connection, partition, priority, app_id)
    ]


def _following(connection: sqlite3.Connection, partition: int, *known: str) -> Iterator[str]:
    """What the next column holds beyond the known ones, each once."""
    last = ""
    while (found := connection.execute(_NEXT[len(known)], (partition, *known, last)).fetchone()) is not None:
        last = found[0]
        yield last


def open_deliveries(
    connection: sqlite3.Connection, partition: int, line: Line, limit: int
) -> list[DeliveryRow]:
    rows = connection.execute(_OF_LINE, (partition, *line, limit)).fetchall()
    return [_DELIVERY.row(row) for row in rows]


def standings(connection: sqlite3.Connection, ids: Sequence[int]) -> dict[int, Standing]:
    found: dict[int, Standing] = {}
    for notification_id, number, is_open, is_reached in connection.execute(
        _STANDING, (json.dumps(list(ids)),)
    ):
        standing = found.get(notification_id)
        if standing is None:
            standing = found[notification_id] = Standing([], [])
        if is_open:
            standing.open_numbers.append(number)
        if is_reached:
            standing.reached.append(number)
    return found


def awaiting_receipts(connection: sqlite3.Connection, ids: Sequence[int]) -> list[int]:
    return [row[0] for row in connection.execute(_AWAITING, (json.dumps(list(ids)),)).fetchall()]
