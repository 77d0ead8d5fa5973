"""The queries behind lists that an app's backend reads page by page. protocol.notify_found tells what for.

Each goes on behind the whole key of the row that was last: by time alone, rows of one millisecond would be
lost between two pages.
"""

import sqlite3
from typing import Any, Final

from protocol.notify_records import DeadDelivery, ErasureRow, NotifyGroupRow, RequestRow
from storage.schema import spec_of

_DEAD: Final = spec_of(DeadDelivery)
_ERASURE: Final = spec_of(ErasureRow)
_REQUEST: Final = spec_of(RequestRow)
# A group may have a million members: each step leaps to the next name in the index.
_GROUPS: Final = f"""
WITH RECURSIVE found (name) AS (
    SELECT min(name) FROM {NotifyGroupRow.table} WHERE app_id = :app_id AND name > :after
    UNION ALL
    SELECT (SELECT min(name) FROM {NotifyGroupRow.table} WHERE app_id = :app_id AND name > found.name)
    FROM found WHERE found.name IS NOT NULL
)
SELECT name FROM found WHERE name IS NOT NULL LIMIT :limit
"""


def dead_letters(
    connection: sqlite3.Connection, app_id: str, after: tuple[int, int, int], limit: int
) -> list[DeadDelivery]:
    sql = (
        f"{_DEAD.select} WHERE app_id = ? AND (at_ms, notification_id, number) > (?, ?, ?)"
        " ORDER BY at_ms, notification_id, number LIMIT ?"
    )
    return [_DEAD.row(row) for row in connection.execute(sql, (app_id, *after, limit)).fetchall()]


def erasures(
    connection: sqlite3.Connection, app_id: str, user_id: str, after: tuple[int, str], limit: int
) -> list[ErasureRow]:
    sql = (
        f"{_ERASURE.select} WHERE app_id = ? AND user_id = ? AND (at_ms, erasure_id) > (?, ?)"
        " ORDER BY at_ms, erasure_id LIMIT ?"
    )
    return [_ERASURE.row(row) for row in connection.execute(sql, (app_id, user_id, *after, limit)).fetchall()]


def requests(
    connection: sqlite3.Connection, app_id: str, state: str, before: tuple[int, str] | None, limit: int
) -> list[RequestRow]:
    sql = f"{_REQUEST.select} WHERE app_id = ?"
    values: list[Any] = [app_id]
    if state:
        sql += " AND state = ?"
        values.append(state)
    if before is not None:
        sql += " AND (created_at_ms, request_id) < (?, ?)"
        values += before
    sql += " ORDER BY created_at_ms DESC, request_id DESC LIMIT ?"
    return [_REQUEST.row(row) for row in connection.execute(sql, (*values, limit)).fetchall()]


def group_names(connection: sqlite3.Connection, app_id: str, after: str, limit: int) -> list[str]:
    values: dict[str, Any] = {"app_id": app_id, "after": after, "limit": limit}
    return [row[0] for row in connection.execute(_GROUPS, values).fetchall()]
