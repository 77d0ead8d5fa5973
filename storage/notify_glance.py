"""The reads behind the notification dashboard: each is bounded, whatever is stored.

Open deliveries and held notifications are read along the partial indexes that the partitions use, a few from
the head of each lane, so those that are due longest come first. Concluded ones have no index by time but
their ids, which rise with it: where there are too many, the span is cut into slices, and a few are read from
the head of each.
Measured with a million deliveries, a fifth of them open, on two busy cores: 10 to 50 ms each.
"""

import sqlite3
from collections import Counter
from typing import Final

from protocol.notify_glance import (
    Backlog,
    Concluded,
    ConcludedDeliveries,
    DeadCount,
    DeadLettersFound,
    HeldNotifications,
    HeldOfApp,
    OpenDeliveries,
    OpenLane,
)
from protocol.notify_ids import first_id_at
from protocol.notify_records import (
    PARTITION_COUNT,
    DeadDelivery,
    DeliveryRow,
    ExperimentRow,
    NotificationRow,
    NotifyGroupRow,
    RequestRow,
)
from protocol.records import User
from storage.reader import Readers
from storage.schema import spec_of

LANE_ROWS: Final = 200  # open deliveries of one partition and priority: 9,600 in all
HELD_ROWS: Final = 300  # held notifications of one partition: 4,800 in all
SLICES: Final = 120  # of the span whose conclusions are asked for
SLICE_ROWS: Final = 80  # of one of them: 9,600 in all
DEAD_ROWS: Final = 5_000
_PRIORITIES: Final = ("high", "medium", "low")
_REQUEST: Final = spec_of(RequestRow)

_LANES: Final = " UNION ALL ".join(
    f"""SELECT * FROM (SELECT partition, app_id, channel, priority, created_at_ms, next_at_ms, notification_id
    FROM {DeliveryRow.table} WHERE partition = {partition} AND priority = '{priority}' AND is_open = 1
    ORDER BY next_at_ms LIMIT {LANE_ROWS})"""
    for partition in range(PARTITION_COUNT)
    for priority in _PRIORITIES
)
_OPEN: Final = f"""
SELECT d.partition, d.app_id, d.channel, d.priority, count(*), min(d.created_at_ms),
    sum(d.next_at_ms <= :now_ms), sum(n.deadline_at_ms BETWEEN 1 AND :now_ms)
FROM ({_LANES}) d JOIN {NotificationRow.table} n ON n.notification_id = d.notification_id
GROUP BY d.partition, d.app_id, d.channel, d.priority
"""
_OPEN_COUNTS: Final = " UNION ALL ".join(
    f"""SELECT '{priority}', count(*) FROM {DeliveryRow.table}
    WHERE partition = {partition} AND priority = '{priority}' AND is_open = 1"""
    for partition in range(PARTITION_COUNT)
    for priority in _PRIORITIES
)
_HEADS_HELD: Final = " UNION ALL ".join(
    f"""SELECT * FROM (SELECT partition, app_id, due_at_ms FROM {NotificationRow.table}
    WHERE partition = {partition} AND state = 'held' ORDER BY due_at_ms LIMIT {HELD_ROWS})"""
    for partition in range(PARTITION_COUNT)
)
_HELD: Final = f"""
SELECT partition, app_id, count(*), min(due_at_ms) FROM ({_HEADS_HELD}) GROUP BY partition, app_id
"""
_ENDED: Final = f"""SELECT app_id, channel, provider_id, state, doubles,
    CASE WHEN accepted_at_ms > 0 THEN max(0, accepted_at_ms - created_at_ms) ELSE -1 END AS ms
FROM {DeliveryRow.table}"""
_SPAN: Final = "notification_id >= :first_id AND notification_id < :first_id + :step * {slices}"
_SLICED: Final = " UNION ALL ".join(
    f"""SELECT * FROM ({_ENDED} WHERE notification_id >= :first_id + {number} * :step
        AND notification_id < :first_id + {number + 1} * :step
    ORDER BY notification_id LIMIT {SLICE_ROWS})"""
    for number in range(SLICES)
)
_CONCLUDED: Final = """
SELECT app_id, channel, provider_id, state, CASE WHEN ms < 100 THEN ms WHEN ms < 1000 THEN ms / 10 * 10
    WHEN ms < 10000 THEN ms / 100 * 100 WHEN ms < 100000 THEN ms / 1000 * 1000
    WHEN ms < 1000000 THEN ms / 10000 * 10000 ELSE ms / 100000 * 100000 END AS about, count(*), sum(doubles)
FROM ({source}) WHERE provider_id <> '' GROUP BY app_id, channel, provider_id, state, about
"""
_CONCLUDED_ALL: Final = _CONCLUDED.format(source=f"{_ENDED} WHERE {_SPAN.format(slices=SLICES)}")
_CONCLUDED_SAMPLE: Final = _CONCLUDED.format(source=_SLICED)
# Whether there are more than may be looked at; by the index alone.
_IS_MORE: Final = f"""
SELECT 1 FROM {DeliveryRow.table} WHERE {_SPAN.format(slices=SLICES)}
ORDER BY notification_id LIMIT 1 OFFSET {SLICES * SLICE_ROWS}
"""
_DEAD: Final = """
SELECT app_id, channel, provider_id, code, count(*), min(at_ms), max(at_ms) FROM (
    SELECT app_id, channel, provider_id, code, at_ms FROM {table} {where} LIMIT {limit}
) GROUP BY app_id, channel, provider_id, code
"""
_DEAD_OF_APP: Final = _DEAD.format(
    table=DeadDelivery.table, where="WHERE app_id = :app_id ORDER BY at_ms DESC", limit=DEAD_ROWS
)
_DEAD_OF_ALL: Final = _DEAD.format(
    table=DeadDelivery.table, where="ORDER BY notification_id DESC", limit=DEAD_ROWS
)


def open_deliveries(connection: sqlite3.Connection, now_ms: int) -> OpenDeliveries:
    found: dict[tuple[str, str, str], OpenLane] = {}
    looked: Counter[tuple[int, str]] = Counter()
    for partition, *key, count, oldest_at_ms, due, overdue in connection.execute(_OPEN, {"now_ms": now_ms}):
        app_id, channel, priority = key
        looked[partition, priority] += count
        lane = OpenLane(app_id, channel, priority, count, oldest_at_ms, due, overdue)
        known = found.get((app_id, channel, priority))
        found[app_id, channel, priority] = lane if known is None else _joined(known, lane)
    return OpenDeliveries(list(found.values()), is_complete=max(looked.values(), default=0) < LANE_ROWS)


def _joined(one: OpenLane, other: OpenLane) -> OpenLane:
    return OpenLane(
        one.app_id,
        one.channel,
        one.priority,
        one.count + other.count,
        min(one.oldest_at_ms, other.oldest_at_ms),
        one.due_count + other.due_count,
        one.overdue_count + other.overdue_count,
    )


def held(connection: sqlite3.Connection) -> HeldNotifications:
    counts: Counter[str] = Counter()
    looked: Counter[int] = Counter()
    next_at_ms: dict[str, int] = {}
    for partition, app_id, count, due_at_ms in connection.execute(_HELD):
        counts[app_id] += count
        looked[partition] += count
        next_at_ms[app_id] = min(due_at_ms, next_at_ms.get(app_id, due_at_ms))
    items = [HeldOfApp(app_id, count, next_at_ms[app_id]) for app_id, count in counts.items()]
    return HeldNotifications(items, is_complete=max(looked.values(), default=0) < HELD_ROWS)


def backlog(connection: sqlite3.Connection) -> Backlog:
    counts: Counter[str] = Counter()
    for priority, count in connection.execute(_OPEN_COUNTS):
        counts[priority] += count
    sql = f"SELECT count(*) FROM {NotificationRow.table} WHERE state = 'held'"
    return Backlog(dict(counts), connection.execute(sql).fetchone()[0])


def concluded(connection: sqlite3.Connection, since_ms: int, now_ms: int) -> ConcludedDeliveries:
    first_id = first_id_at(since_ms)
    span = {"first_id": first_id, "step": max(1, (first_id_at(now_ms + 1) - first_id) // SLICES + 1)}
    is_complete = connection.execute(_IS_MORE, span).fetchone() is None
    sql = _CONCLUDED_ALL if is_complete else _CONCLUDED_SAMPLE
    return ConcludedDeliveries([Concluded(*row) for row in connection.execute(sql, span)], is_complete)


def dead_letters(connection: sqlite3.Connection, app_id: str) -> DeadLettersFound:
    sql = _DEAD_OF_APP if app_id else _DEAD_OF_ALL
    items = [DeadCount(*row) for row in connection.execute(sql, {"app_id": app_id} if app_id else {})]
    return DeadLettersFound(items, is_complete=sum(item.count for item in items) < DEAD_ROWS)


def open_requests(connection: sqlite3.Connection, app_id: str, limit: int) -> list[RequestRow]:
    mine = "app_id = ? AND " if app_id else ""
    sql = f"{_REQUEST.select} WHERE {mine}state IN ('waiting', 'running') ORDER BY created_at_ms DESC LIMIT ?"
    values = (app_id, limit) if app_id else (limit,)
    return [_REQUEST.row(row) for row in connection.execute(sql, values).fetchall()]


def audience(connection: sqlite3.Connection, app_id: str, group: str) -> int:
    if group == "*":
        sql = f"SELECT count(*) FROM {User.table} WHERE app_id = ?"
        return int(connection.execute(sql, (app_id,)).fetchone()[0])
    sql = f"SELECT count(*) FROM {NotifyGroupRow.table} WHERE app_id = ? AND name = ?"
    return int(connection.execute(sql, (app_id, group)).fetchone()[0])


def reached(connection: sqlite3.Connection, app_id: str, group: str, cursor: str) -> int:
    sql = f"SELECT count(*) FROM {NotifyGroupRow.table} WHERE app_id = ? AND name = ? AND user_id <= ?"
    return int(connection.execute(sql, (app_id, group, cursor)).fetchone()[0])


def experiments(connection: sqlite3.Connection, app_id: str, limit: int) -> list[tuple[str, str]]:
    mine = "WHERE app_id = ? " if app_id else ""
    sql = f"SELECT app_id, name FROM {ExperimentRow.table} {mine}ORDER BY created_at_ms DESC LIMIT ?"
    return connection.execute(sql, (app_id, limit) if app_id else (limit,)).fetchall()


class SqliteNotifyGlances:
    """Fits protocol.notify_glance.NotifyGlances; see there for what each method promises."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def open_deliveries(self, now_ms: int) -> OpenDeliveries:
        return await self._readers.run(open_deliveries, now_ms)

    async def held(self) -> HeldNotifications:
        return await self._readers.run(held)

    async def backlog(self) -> Backlog:
        return await self._readers.run(backlog)

    async def concluded(self, *, since_ms: int, now_ms: int) -> ConcludedDeliveries:
        return await self._readers.run(concluded, since_ms, now_ms)

    async def dead_letters(self, app_id: str) -> DeadLettersFound:
        return await self._readers.run(dead_letters, app_id)

    async def open_requests(self, app_id: str, *, limit: int) -> list[RequestRow]:
        return await self._readers.run(open_requests, app_id, limit)

    async def audience(self, app_id: str, group: str) -> int:
        return await self._readers.run(audience, app_id, group)

    async def reached(self, app_id: str, group: str, cursor: str) -> int:
        return await self._readers.run(reached, app_id, group, cursor)

    async def experiments(self, app_id: str, *, limit: int) -> list[tuple[str, str]]:
        return await self._readers.run(experiments, app_id, limit)
