"""The queries behind notifications: functions on a connection. protocol.notify_found tells what for."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from protocol.notify_found import (
    MAX_RECENT,
    ExportedEntry,
    FoundFacts,
    FoundTold,
    FoundUser,
    ProviderCount,
    QueueDepth,
    UntoldDead,
    VariantCount,
)
from protocol.notify_ids import COUNT_BITS
from protocol.notify_records import (
    PARTITION_COUNT,
    ConsentRow,
    DeadDelivery,
    DeliveryRow,
    NotificationRow,
    NotifyAppRow,
    NotifyDeviceRow,
    NotifyGroupRow,
    NotifyUserRow,
    RequestRow,
    TemplateRow,
    notify_stream,
)
from protocol.notify_templates import HOLDOUT
from protocol.records import Disabled, Entry, Row, User
from storage.schema import TableSpec, spec_of

_NOTIFICATION: Final = spec_of(NotificationRow)
_DELIVERY: Final = spec_of(DeliveryRow)
_TEMPLATE: Final = spec_of(TemplateRow)
R = TypeVar("R", bound=Row)

# When a user was told of a notification. What was dropped may have been shown in the app before.
_TOLD_AT: Final = """CASE WHEN n.state IN ('held', 'merged', 'dropped') THEN n.sent_at_ms
    ELSE max(n.created_at_ms, n.due_at_ms, n.sent_at_ms) END"""
_DUE_AT: Final = "CASE WHEN n.state IN ('held', 'merged') THEN max(n.created_at_ms, n.due_at_ms) ELSE 0 END"
_MAX_COUNTED: Final = 2_000  # of one user, looked at for the cap and for duplicates
_MAX_CENTRE: Final = 10_000  # of one user, among which unread ones are counted: a bot may have a million
# Past those that were pushed only it goes by the index alone: some 5 ms for 100,000 of one user.
_NEWEST: Final = f"""(
    SELECT notification_id, read_at_ms FROM {NotificationRow.table}
    WHERE user_id = {{user_id}} AND in_centre = 1 ORDER BY notification_id DESC LIMIT {_MAX_CENTRE})"""
# One statement with one row: see storage/queries.py. User ids hold no U+0000, so they may be JSON.
_USERS: Final = f"""
SELECT json_group_array(json_array(u.user_id, u.app_id, u.name, u.language, u.time_zone,
    EXISTS (SELECT 1 FROM {Disabled.table} d WHERE d.user_id = u.user_id),
    coalesce((SELECT p.preferences FROM {NotifyUserRow.table} p WHERE p.user_id = u.user_id), ''),
    json((SELECT json_group_array(json_array(c.purpose, c.source, c.given_at_ms, c.ends_at_ms))
        FROM {ConsentRow.table} c WHERE c.user_id = u.user_id AND c.withdrawn_at_ms = 0)),
    json((SELECT json_group_array(json_array(
            v.device_key, v.channel, v.address, v.keys, v.registered_at_ms, v.name))
        FROM {NotifyDeviceRow.table} v WHERE v.user_id = u.user_id AND v.retired_at_ms = 0)),
    json((SELECT json_group_array(json_array(
            r.dedup_key, r.notification_id, r.told_at_ms, r.due_at_ms)) FROM (
        SELECT n.dedup_key, n.notification_id, {_TOLD_AT} AS told_at_ms, {_DUE_AT} AS due_at_ms FROM (
            SELECT n.dedup_key, n.notification_id, n.state, n.created_at_ms, n.due_at_ms, n.sent_at_ms
            FROM {NotificationRow.table} n
            WHERE n.user_id = u.user_id AND n.notification_id >= :since_id
            ORDER BY n.notification_id DESC LIMIT {_MAX_COUNTED}) n
        WHERE n.dedup_key <> '' ORDER BY n.notification_id DESC LIMIT {MAX_RECENT}) r)),
    json((SELECT json_group_array(n.counted_at_ms) FROM (
        SELECT n.counted_at_ms FROM {NotificationRow.table} n
        WHERE n.user_id = u.user_id AND n.notification_id >= :since_id
        ORDER BY n.notification_id DESC LIMIT {_MAX_COUNTED}) n
        WHERE n.counted_at_ms > :counted_since_ms)),
    json((SELECT json_group_array(json_array(
            n.group_key, n.notification_id, n.due_at_ms, n.item_count, n.content))
        FROM {NotificationRow.table} n WHERE n.user_id = u.user_id AND n.notification_id >= :since_id
        AND n.state = 'held' AND n.group_key <> '')),
    json((SELECT json_group_array(n.notification_id) FROM {_NEWEST.format(user_id="u.user_id")} n
        WHERE n.read_at_ms = 0)),
    json((SELECT json_group_array(json_array(
            v.device_key, v.channel, v.address, v.registered_at_ms, v.name, v.retired_for))
        FROM {NotifyDeviceRow.table} v
        WHERE v.user_id = u.user_id AND v.retired_at_ms > 0 AND v.channel IN ('email', 'sms'))),
    coalesce((SELECT n.notification_id FROM {NotificationRow.table} n
        WHERE n.user_id = u.user_id AND n.notification_id >= :since_id
        ORDER BY n.notification_id DESC LIMIT 1 OFFSET {_MAX_COUNTED - 1}), 0)
)) FROM json_each(:asked) asked CROSS JOIN {User.table} u ON u.user_id = asked.value
"""
_users: Final = msgspec.json.Decoder(list[FoundUser])
_USER_FACTS: Final = f"""
SELECT json_group_array(json_array(u.user_id, u.name, u.language, u.time_zone,
    EXISTS (SELECT 1 FROM {Disabled.table} d WHERE d.user_id = u.user_id)
)) FROM json_each(?) asked CROSS JOIN {User.table} u ON u.user_id = asked.value
"""
_user_facts: Final = msgspec.json.Decoder(list[FoundFacts])
# By the user's index over the ids: an index over random keys would cost each notification more than this.
_TOLD: Final = f"""
SELECT n.user_id, n.dedup_key, n.notification_id,
    CASE WHEN n.state = 'merged' AND n.due_at_ms <= :now_ms THEN n.due_at_ms ELSE {_TOLD_AT} END
FROM json_each(:asked) asked CROSS JOIN {NotificationRow.table} n
    ON n.user_id = json_extract(asked.value, '$[0]') AND n.dedup_key = json_extract(asked.value, '$[1]')
    AND n.notification_id >= json_extract(asked.value, '$[2]')
"""
_LEDGERS: Final = (
    "SELECT l.seq, l.kind, l.at_ms, l.user_id, l.client_id, l.message_count, l.thread, l.body FROM log l"
    " WHERE l.stream_id = (SELECT stream_id FROM stream WHERE name = ?)"
    " AND l.thread IN (SELECT value FROM json_each(?)) ORDER BY l.seq"
)
_EXPORTED: Final = f"""
SELECT l.seq, l.thread, l.user_id, l.kind, l.at_ms, l.body FROM log l
JOIN {User.table} u ON u.user_id = l.user_id
WHERE l.stream_id = (SELECT stream_id FROM stream WHERE name = ?) AND l.seq > ? AND u.app_id = ?
AND l.thread IS NOT NULL AND l.seq <= ? ORDER BY l.seq LIMIT ?
"""
_QUEUE_DEPTHS: Final = f"""
SELECT app_id, channel, priority, count(*), min(created_at_ms), sum(next_at_ms <= ?)
FROM {DeliveryRow.table} WHERE is_open = 1 GROUP BY app_id, channel, priority
"""
_UNTOLD: Final = f"""
SELECT g.app_id, g.channel, g.provider_id, g.code, g.count, g.upto_ms, coalesce((
    SELECT d.detail FROM {DeadDelivery.table} d WHERE d.alerted_at_ms = 0 AND d.app_id = g.app_id
    AND d.channel = g.channel AND d.provider_id = g.provider_id AND d.code = g.code AND d.at_ms = g.upto_ms
    LIMIT 1), '')
FROM (SELECT app_id, channel, provider_id, code, count(*) AS count, max(at_ms) AS upto_ms
    FROM {DeadDelivery.table} WHERE alerted_at_ms = 0 AND at_ms >= ?
    GROUP BY app_id, channel, provider_id, code) g
"""
_UNTOLD_OF: Final = f"""
SELECT notification_id, number FROM {DeadDelivery.table} WHERE alerted_at_ms = 0 AND app_id = ?
AND channel = ? AND provider_id = ? AND code = ? AND at_ms <= ? ORDER BY at_ms LIMIT ?
"""
_PROVIDER_COUNTS: Final = f"""
SELECT channel, provider_id, state, count(*),
    coalesce(avg(CASE WHEN accepted_at_ms > 0 THEN accepted_at_ms - created_at_ms END), 0.0)
FROM {DeliveryRow.table} WHERE app_id = ? AND notification_id >= ?
GROUP BY channel, provider_id, state
"""
_VARIANT_COUNTS: Final = f"""
SELECT variant, sum(exposed), sum(opened), sum(clicked), sum(confirmed),
    count(*), sum(drawn_opened), sum(drawn_clicked), sum(drawn_confirmed)
FROM (
    SELECT variant, max(is_exposed) AS exposed,
        max(is_exposed AND opened_at_ms > 0) AS opened, max(opened_at_ms > 0) AS drawn_opened,
        max(is_exposed AND clicked_at_ms > 0) AS clicked, max(clicked_at_ms > 0) AS drawn_clicked,
        max(is_exposed AND confirmed_at_ms > 0) AS confirmed, max(confirmed_at_ms > 0) AS drawn_confirmed
    FROM (
        SELECT substr(variant, length(:experiment) + 2) AS variant, user_id,
            is_exposed OR variant = :experiment || ':{HOLDOUT}' AS is_exposed,
            opened_at_ms, clicked_at_ms, confirmed_at_ms
        FROM {NotificationRow.table}
        WHERE app_id = :app_id AND variant >= :experiment || ':' AND variant < :experiment || ';'
            AND variant <> ''
    )
    GROUP BY variant, user_id
) GROUP BY variant
"""


def users(
    connection: sqlite3.Connection, user_ids: Sequence[str], since_id: int, counted_since_ms: int
) -> list[FoundUser]:
    values = {
        "asked": json.dumps(list(user_ids)),
        "since_id": since_id,
        "counted_since_ms": counted_since_ms,
    }
    return _users.decode(connection.execute(_USERS, values).fetchone()[0])


def told(
    connection: sqlite3.Connection, wanted: Sequence[tuple[str, str, int]], now_ms: int
) -> list[FoundTold]:
    last: dict[tuple[str, str], FoundTold] = {}
    for row in connection.execute(_TOLD, {"asked": json.dumps(list(wanted)), "now_ms": now_ms}):
        found = FoundTold(*row)
        known = last.get((found.user_id, found.dedup_key))
        if found.told_at_ms > (known.told_at_ms if known is not None else 0):
            last[found.user_id, found.dedup_key] = found
    return list(last.values())


def user_facts(connection: sqlite3.Connection, user_ids: Sequence[str]) -> list[FoundFacts]:
    asked = json.dumps(list(user_ids))
    return _user_facts.decode(connection.execute(_USER_FACTS, (asked,)).fetchone()[0])


def largest_id(connection: sqlite3.Connection) -> int:
    found = connection.execute(f"SELECT max(notification_id) FROM {NotificationRow.table}").fetchone()[0]
    return int(found or 0)


def held(
    connection: sqlite3.Connection, partition: int, due_to_ms: int, limit: int, without: Sequence[str]
) -> list[NotificationRow]:
    others, app_ids = _of_others(without)
    return _rows(
        connection,
        _NOTIFICATION,
        f"WHERE partition = ? AND state = 'held' AND due_at_ms <= ?{others}"
        " ORDER BY due_at_ms, notification_id LIMIT ?",
        (partition, due_to_ms, *app_ids, limit),
    )


def next_due(connection: sqlite3.Connection, partition: int, without: Sequence[str]) -> int:
    others, app_ids = _of_others(without)
    found = connection.execute(
        f"SELECT due_at_ms FROM {NotificationRow.table} WHERE partition = ? AND state = 'held'{others}"
        " ORDER BY due_at_ms LIMIT 1",
        (partition, *app_ids),
    ).fetchone()
    return int(found[0]) if found is not None else 0


def _of_others(without: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The condition that leaves these apps out, and its values. The index is by time, whoever's it is."""
    if not without:
        return "", ()
    return " AND +app_id NOT IN (SELECT value FROM json_each(?))", (json.dumps(list(without)),)


def held_of(connection: sqlite3.Connection, user_id: str) -> list[NotificationRow]:
    return _rows(
        connection,
        _NOTIFICATION,
        "WHERE user_id = ? AND state = 'held' ORDER BY due_at_ms, notification_id LIMIT 1000",
        (user_id,),
    )


def notifications(connection: sqlite3.Connection, ids: Sequence[int]) -> list[NotificationRow]:
    return _rows(
        connection,
        _NOTIFICATION,
        "WHERE notification_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(ids)),),
    )


def members(connection: sqlite3.Connection, into_id: int, limit: int) -> list[NotificationRow]:
    return _rows(
        connection,
        _NOTIFICATION,
        "WHERE into_id = ? AND into_id <> 0 ORDER BY notification_id LIMIT ?",
        (into_id, limit),
    )


def untold(connection: sqlite3.Connection, into_id: int, after: int, limit: int) -> list[NotificationRow]:
    return _rows(
        connection,
        _NOTIFICATION,
        "WHERE into_id = ? AND into_id <> 0 AND notification_id > ? AND state = 'merged' AND content <> ''"
        " AND read_at_ms = 0 ORDER BY notification_id LIMIT ?",
        (into_id, after, limit),
    )


def of_request(
    connection: sqlite3.Connection, app_id: str, request_id: str, partition: int, after: int, limit: int
) -> list[NotificationRow]:
    # By the id itself, so that rows of other partitions are not even looked at: the index holds both.
    return _rows(
        connection,
        _NOTIFICATION,
        f"WHERE request_id = ? AND request_id <> '' AND notification_id > ?"
        f" AND ((notification_id >> {COUNT_BITS}) & {PARTITION_COUNT - 1}) = ? AND app_id = ?"
        " ORDER BY notification_id LIMIT ?",
        (request_id, after, partition, app_id, limit),
    )


def open_of(connection: sqlite3.Connection, ids: Sequence[int]) -> list[DeliveryRow]:
    condition = "WHERE notification_id IN (SELECT value FROM json_each(?)) AND +is_open = 1"
    return _rows(connection, _DELIVERY, condition, (json.dumps(list(ids)),))


def dead_of(connection: sqlite3.Connection, ids: Sequence[int]) -> list[int]:
    sql = (
        f"SELECT DISTINCT notification_id FROM {DeadDelivery.table}"
        " WHERE notification_id IN (SELECT value FROM json_each(?))"
    )
    return [row[0] for row in connection.execute(sql, (json.dumps(list(ids)),)).fetchall()]


def deliveries(connection: sqlite3.Connection, notification_id: int) -> list[DeliveryRow]:
    return _rows(connection, _DELIVERY, "WHERE notification_id = ? ORDER BY number", (notification_id,))


def delivery_by_ref(connection: sqlite3.Connection, provider_ref: str) -> DeliveryRow | None:
    found = _rows(
        connection, _DELIVERY, "WHERE provider_ref = ? AND provider_ref <> '' LIMIT 1", (provider_ref,)
    )
    return found[0] if found else None


def ledgers(connection: sqlite3.Connection, partition: int, ids: Sequence[int]) -> list[Entry]:
    rows = connection.execute(_LEDGERS, (notify_stream(partition), json.dumps(list(ids)))).fetchall()
    return [
        Entry(
            seq=seq,
            kind=kind,
            at_ms=at_ms,
            user_id=user_id,
            client_id=client_id,
            message_count=message_count,
            thread=thread,
            body=body,
        )
        for seq, kind, at_ms, user_id, client_id, message_count, thread, body in rows
    ]


def centre(
    connection: sqlite3.Connection, user_id: str, before: int, limit: int, unread_only: bool
) -> tuple[list[NotificationRow], int]:
    condition = "WHERE user_id = ? AND in_centre = 1 AND notification_id < ?"
    if unread_only:
        condition += " AND read_at_ms = 0"
    rows = _rows(
        connection,
        _NOTIFICATION,
        f"{condition} ORDER BY notification_id DESC LIMIT ?",
        (user_id, before or 2**62, limit),
    )
    unread = connection.execute(
        f"SELECT count(*) FROM {_NEWEST.format(user_id='?')} WHERE read_at_ms = 0", (user_id,)
    ).fetchone()[0]
    return rows, int(unread)


def history(connection: sqlite3.Connection, user_id: str, before: int, limit: int) -> list[NotificationRow]:
    return _rows(
        connection,
        _NOTIFICATION,
        "WHERE user_id = ? AND notification_id < ? ORDER BY notification_id DESC LIMIT ?",
        (user_id, before or 2**62, limit),
    )


def ended_consents(
    connection: sqlite3.Connection, partition: int, now_ms: int, limit: int, without: Sequence[str]
) -> list[tuple[str, str]]:
    others, app_ids = _of_others(without)
    return connection.execute(
        f"SELECT user_id, purpose FROM {ConsentRow.table}"
        f" WHERE partition = ? AND ends_at_ms > 0 AND ends_at_ms <= ?{others} LIMIT ?",
        (partition, now_ms, *app_ids, limit),
    ).fetchall()


def of_types(
    connection: sqlite3.Connection, user_id: str, types: Sequence[str], purpose: str, limit: int
) -> list[NotificationRow]:
    condition = "WHERE user_id = ? AND state <> 'erased'"
    values: tuple[Any, ...] = (user_id,)
    if purpose:
        condition += " AND (purpose = ? OR type IN (SELECT value FROM json_each(?)))"
        values = (user_id, purpose, json.dumps(list(types)))
    return _rows(connection, _NOTIFICATION, f"{condition} LIMIT ?", (*values, limit))


def users_at(
    connection: sqlite3.Connection, app_id: str, device_key: str, after: str, limit: int
) -> list[str]:
    found = connection.execute(
        f"SELECT user_id FROM {NotifyDeviceRow.table} WHERE device_key = ? AND channel IN ('email', 'sms')"
        " AND user_id > ? AND app_id = ? AND retired_at_ms = 0 ORDER BY user_id LIMIT ?",
        (device_key, after, app_id, limit),
    )
    return [row[0] for row in found.fetchall()]


def app_versions(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute(f"SELECT app_id, version FROM {NotifyAppRow.table}").fetchall())


def newest_templates(connection: sqlite3.Connection, app_id: str) -> list[TemplateRow]:
    newest = f"SELECT max(n.version) FROM {_TEMPLATE.name} n WHERE n.app_id = t.app_id AND n.name = t.name"
    return _rows(connection, _TEMPLATE, f"AS t WHERE app_id = ? AND version = ({newest})", (app_id,))


def template_versions(connection: sqlite3.Connection, app_id: str, name: str) -> list[int]:
    found = connection.execute(
        f"SELECT version FROM {_TEMPLATE.name} WHERE app_id = ? AND name = ? ORDER BY version", (app_id, name)
    )
    return [version for (version,) in found.fetchall()]


def apps_with_requests(connection: sqlite3.Connection) -> list[str]:
    # As a union each half has an index of just its rows.
    sql = (
        f"SELECT app_id FROM {RequestRow.table} WHERE state IN ('waiting', 'running')"
        f" UNION SELECT app_id FROM {RequestRow.table} WHERE state = 'cancelling'"
    )
    return [row[0] for row in connection.execute(sql).fetchall()]


_ENDED: Final = "done_at_ms > 0 AND done_at_ms < ? AND state IN ('done', 'failed', 'cancelled')"


def apps_with_ended_requests(connection: sqlite3.Connection, before_ms: int) -> list[str]:
    sql = f"SELECT DISTINCT app_id FROM {RequestRow.table} WHERE {_ENDED}"
    return [row[0] for row in connection.execute(sql, (before_ms,)).fetchall()]


def ended_requests(connection: sqlite3.Connection, app_id: str, before_ms: int, limit: int) -> list[str]:
    sql = (
        f"SELECT request_id FROM {RequestRow.table} WHERE {_ENDED} AND app_id = ? ORDER BY done_at_ms LIMIT ?"
    )
    return [row[0] for row in connection.execute(sql, (before_ms, app_id, limit)).fetchall()]


def device_counts(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    sql = (
        f"SELECT app_id, channel, count(*) FROM {NotifyDeviceRow.table}"
        " WHERE retired_at_ms = 0 GROUP BY app_id, channel"
    )
    return {(app_id, channel): count for app_id, channel, count in connection.execute(sql).fetchall()}


def group_page(connection: sqlite3.Connection, app_id: str, name: str, after: str, limit: int) -> list[str]:
    if name == "*":
        sql = f"SELECT u.user_id FROM {User.table} u WHERE u.app_id = ? AND u.user_id > ? AND u.is_bot = 0"
        values: tuple[Any, ...] = (app_id, after)
    else:
        sql = f"SELECT u.user_id FROM {NotifyGroupRow.table} u"
        sql += " WHERE u.app_id = ? AND u.name = ? AND u.user_id > ?"
        values = (app_id, name, after)
    sql += f" AND NOT EXISTS (SELECT 1 FROM {Disabled.table} d WHERE d.user_id = u.user_id)"
    rows = connection.execute(f"{sql} ORDER BY u.user_id LIMIT ?", (*values, limit)).fetchall()
    return [row[0] for row in rows]


def users_by_external(
    connection: sqlite3.Connection, app_id: str, external_ids: Sequence[str]
) -> dict[str, str]:
    marks = ", ".join("?" * len(external_ids))
    sql = f"SELECT external_id, user_id FROM {User.table} WHERE app_id = ? AND external_id IN ({marks})"
    return dict(connection.execute(sql, (app_id, *external_ids)).fetchall())


def exported(
    connection: sqlite3.Connection, app_id: str, partition: int, after: int, upto: int, limit: int
) -> list[ExportedEntry]:
    rows = connection.execute(_EXPORTED, (notify_stream(partition), after, app_id, upto, limit)).fetchall()
    return [ExportedEntry(*row) for row in rows]


def ledger_step(connection: sqlite3.Connection, partition: int, after: int, rows: int) -> int:
    sql = (
        "SELECT max(seq) FROM (SELECT l.seq FROM log l WHERE l.stream_id ="
        " (SELECT stream_id FROM stream WHERE name = ?) AND l.seq > ? ORDER BY l.seq LIMIT ?)"
    )
    return int(connection.execute(sql, (notify_stream(partition), after, rows)).fetchone()[0] or 0)


def queue_depths(connection: sqlite3.Connection, now_ms: int) -> list[QueueDepth]:
    return [QueueDepth(*row) for row in connection.execute(_QUEUE_DEPTHS, (now_ms,)).fetchall()]


def ended_before(connection: sqlite3.Connection, partition: int, before_id: int, limit: int) -> list[int]:
    sql = (
        f"SELECT notification_id FROM {NotificationRow.table} WHERE notification_id < ? AND partition = ?"
        " AND state NOT IN ('open', 'held') ORDER BY notification_id LIMIT ?"
    )
    return [row[0] for row in connection.execute(sql, (before_id, partition, limit)).fetchall()]


def ledger_seq_at(connection: sqlite3.Connection, partition: int, at_ms: int) -> int:
    return stream_seq_at(connection, notify_stream(partition), at_ms)


def stream_seq_at(connection: sqlite3.Connection, stream: str, at_ms: int) -> int:
    sql = (
        "SELECT l.seq FROM log l WHERE l.stream_id = (SELECT stream_id FROM stream WHERE name = ?)"
        " AND l.seq > ? ORDER BY l.seq LIMIT 1"
    )
    first = connection.execute(sql, (stream, 0)).fetchone()
    last = connection.execute(
        "SELECT max(l.seq) FROM log l WHERE l.stream_id = (SELECT stream_id FROM stream WHERE name = ?)",
        (stream,),
    ).fetchone()[0]
    if first is None or last is None:
        return 0
    low, high = int(first[0]), int(last)  # times rise with seq: halve
    at = (
        "SELECT l.at_ms FROM log l WHERE l.stream_id = (SELECT stream_id FROM stream WHERE name = ?)"
        " AND l.seq >= ? ORDER BY l.seq LIMIT 1"
    )
    while low < high:
        middle = (low + high) // 2
        if connection.execute(at, (stream, middle)).fetchone()[0] < at_ms:
            low = middle + 1
        else:
            high = middle
    return low


def untold_dead(connection: sqlite3.Connection, since_ms: int) -> list[UntoldDead]:
    return [UntoldDead(*row) for row in connection.execute(_UNTOLD, (since_ms,)).fetchall()]


def untold_of(connection: sqlite3.Connection, group: UntoldDead, limit: int) -> list[tuple[int, int]]:
    what = (group.app_id, group.channel, group.provider_id, group.code, group.upto_ms, limit)
    return connection.execute(_UNTOLD_OF, what).fetchall()


def provider_counts(connection: sqlite3.Connection, app_id: str, since_id: int) -> list[ProviderCount]:
    rows = connection.execute(_PROVIDER_COUNTS, (app_id, since_id)).fetchall()
    return [ProviderCount(*row) for row in rows]


def variant_counts(connection: sqlite3.Connection, app_id: str, experiment: str) -> list[VariantCount]:
    asked = {"app_id": app_id, "experiment": experiment}
    rows = connection.execute(_VARIANT_COUNTS, asked).fetchall()
    return [VariantCount(*row) for row in rows]


def _rows(
    connection: sqlite3.Connection, spec: TableSpec[R], condition: str, values: tuple[Any, ...]
) -> list[R]:
    return [spec.row(row) for row in connection.execute(f"{spec.select} {condition}", values).fetchall()]
