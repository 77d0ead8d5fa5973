"""Deliveries that are open: by line, and how those of one notification stand."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from protocol.notify_found import Line, Standing
from protocol.notify_records import DeliveryRow
from storage.schema import spec_of

_DELIVERY: Final = spec_of(DeliveryRow)
# One step of the index for each line, however many deliveries there are in it.
_NEXT_LINE: Final = f"""
SELECT priority, app_id, channel FROM {DeliveryRow.table}
WHERE partition = ? AND is_open = 1 AND (priority, app_id, channel) > (?, ?, ?)
ORDER BY priority, app_id, channel LIMIT 1
"""
_OF_LINE: Final = (
    f"{_DELIVERY.select} WHERE partition = ? AND priority = ? AND app_id = ? AND channel = ? AND is_open = 1"
    " ORDER BY next_at_ms, notification_id, number LIMIT ?"
)
_STANDING: Final = f"""
SELECT notification_id, number, is_open, accepted_at_ms > 0 OR state IN ('confirmed', 'unknown')
FROM {DeliveryRow.table} WHERE notification_id IN (SELECT value FROM json_each(?))
"""


def open_lines(connection: sqlite3.Connection, partition: int) -> list[Line]:
    lines: list[Line] = []
    last: Line = ("", "", "")
    while (found := connection.execute(_NEXT_LINE, (partition, *last)).fetchone()) is not None:
        last = (found[0], found[1], found[2])
        lines.append(last)
    return lines


def open_deliveries(
    connection: sqlite3.Connection, partition: int, line: Line, limit: int
) -> list[DeliveryRow]:
    rows = connection.execute(_OF_LINE, (partition, *line, limit)).fetchall()
    return [_DELIVERY.row(row) for row in rows]


def standings(connection: sqlite3.Connection, ids: Sequence[int]) -> dict[int, Standing]:
    open_numbers: dict[int, list[int]] = {}
    reached: set[int] = set()
    for notification_id, number, is_open, is_reached in connection.execute(
        _STANDING, (json.dumps(list(ids)),)
    ):
        numbers = open_numbers.setdefault(notification_id, [])
        if is_open:
            numbers.append(number)
        if is_reached:
            reached.add(notification_id)
    return {id_: Standing(numbers, id_ in reached) for id_, numbers in open_numbers.items()}
