"""What is later than its deadline: of each app and priority by itself, so that none hides behind another."""

import sqlite3
from typing import Final

from protocol.notify_found import QueueDepth
from protocol.notify_records import DeliveryRow, NotificationRow

# Looked at, shared by apps and priorities: with more than that late, nobody needs the exact count.
_MAX_OVERDUE: Final = 10_000
_MIN_OVERDUE: Final = 100  # of one app and priority, however many there are
# By the index from one app and priority to the next: it holds what is open and nothing else.
_OPEN_LANES: Final = f"""
WITH RECURSIVE lane (app_id, priority) AS (
    SELECT '', '' UNION ALL SELECT
        (SELECT n.app_id FROM {NotificationRow.table} n WHERE n.state = 'open'
            AND (n.app_id, n.priority) > (lane.app_id, lane.priority)
            ORDER BY n.app_id, n.priority LIMIT 1),
        (SELECT n.priority FROM {NotificationRow.table} n WHERE n.state = 'open'
            AND (n.app_id, n.priority) > (lane.app_id, lane.priority)
            ORDER BY n.app_id, n.priority LIMIT 1)
    FROM lane WHERE lane.app_id IS NOT NULL
) SELECT app_id, priority FROM lane WHERE priority <> ''
"""
_OVERDUE: Final = f"""
SELECT n.app_id, d.channel, n.priority, count(*), min(d.created_at_ms), count(*) FROM (
    SELECT app_id, priority, notification_id FROM {NotificationRow.table}
    WHERE state = 'open' AND app_id = ? AND priority = ? AND deadline_at_ms < ?
    ORDER BY deadline_at_ms LIMIT ?) n
CROSS JOIN {DeliveryRow.table} d ON d.notification_id = n.notification_id AND d.is_open = 1
GROUP BY d.channel
"""


def overdue(connection: sqlite3.Connection, now_ms: int) -> list[QueueDepth]:
    lanes = connection.execute(_OPEN_LANES).fetchall()
    limit = max(_MIN_OVERDUE, _MAX_OVERDUE // max(1, len(lanes)))
    found: list[QueueDepth] = []
    for app_id, priority in lanes:
        rows = connection.execute(_OVERDUE, (app_id, priority, now_ms, limit)).fetchall()
        found += [QueueDepth(*row) for row in rows]
    return found
