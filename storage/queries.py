"""The reads of the store: plain functions on a connection, each one statement or one read transaction."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, TypeVar

import msgspec

from protocol.records import (
    Appended,
    Arrival,
    DeviceCursor,
    Disabled,
    Entry,
    LogIn,
    MemberRow,
    MessageState,
    Row,
    Session,
    SessionUse,
    StreamHead,
    UnreadLine,
    User,
)
from storage.schema import TableSpec, spec_of

R = TypeVar("R", bound=Row)
Value = str | int | None
MessageAt = tuple[Entry, MessageState | None]

MAX_FIND_MANY: Final = 1000
MAX_LAST_MESSAGES: Final = 500

_STATE = spec_of(MessageState)
_ENTRY_COLUMNS = "l.seq, l.kind, l.at_ms, l.user_id, l.client_id, l.message_count, l.thread, l.body"
_ENTRY_WIDTH = 8
_STATE_COLUMNS = ", ".join(f"m.{name}" for name in _STATE.names)
_STREAM_ID = "(SELECT stream_id FROM stream WHERE name = ?)"
_EVENTS = (
    f"SELECT {_ENTRY_COLUMNS}, {_STATE_COLUMNS} FROM log l"
    " LEFT JOIN message_state m ON m.conversation_id = ? AND m.seq = l.seq"
    f" WHERE l.stream_id = {_STREAM_ID}"
)
_MESSAGES = f"{_EVENTS} AND l.is_message = 1"
# A conversation list, sorted before it is counted: unread is worked out for the lines of the page alone.
# unread = messages after read_seq that are not deleted; sending advances the sender's own read_seq.
_LINES = """
SELECT p.*,
    p.message_count - p.read_count - (SELECT count(*) FROM message_state d
        WHERE d.conversation_id = p.conversation_id AND d.seq > p.read_seq AND d.deleted_at_ms > 0) AS unread,
    (SELECT count(*) FROM mention n WHERE n.user_id = p.user_id
        AND n.conversation_id = p.conversation_id AND n.seq > p.read_seq) AS mentions_unread
FROM (
    SELECT c.conversation_id, c.kind, c.title, c.user_a, c.user_b, c.member_count, m.role, m.muted_until_ms,
        m.read_seq, coalesce(h.seq, 0) AS head, coalesce(h.message_count, 0) AS message_count,
        coalesce(h.at_ms, c.created_at_ms) AS updated_at_ms, m.read_count, m.user_id
    FROM member m
    JOIN conversation c ON c.conversation_id = m.conversation_id
    LEFT JOIN stream s ON s.name = 'c:' || m.conversation_id
    LEFT JOIN log h ON h.stream_id = s.stream_id
        AND h.seq = (SELECT max(seq) FROM log WHERE log.stream_id = s.stream_id)
    WHERE m.user_id = ?{condition}
    ORDER BY updated_at_ms DESC, c.conversation_id DESC
    LIMIT ?
) p
ORDER BY p.updated_at_ms DESC, p.conversation_id DESC
"""
_ALL_LINES = _LINES.replace("{condition}", "")
_LATER_LINES = _LINES.replace(
    "{condition}", " AND (coalesce(h.at_ms, c.created_at_ms), c.conversation_id) < (?, ?)"
)
_ONE_LINE = _LINES.replace("{condition}", " AND m.conversation_id = ?")


# Questions of many at once are one statement with one row: each step of a statement gives the interpreter's
# lock away and fights for it. So the answer is JSON, with the number of the question in each part. The
# questions are bound, not JSON: SQLite reads a text out of JSON up to its first U+0000 only, and would take
# one text for another.
def _listed(spec: TableSpec[Any], alias: str) -> str:
    return f"json_array({', '.join(f'{alias}.{name}' for name in spec.names)})"


_USER = spec_of(User)
_SESSION = spec_of(Session)
_IS_DISABLED = f"EXISTS (SELECT 1 FROM {Disabled.table} d WHERE d.user_id = u.user_id)"
# column1 is the question's number, NULL in a row without one; the columns behind it are the question.
_ARRIVALS = f"""
SELECT json_group_array(json_array(asked.column1,
    json((SELECT json_group_array(m.conversation_id) FROM {MemberRow.table} m
        WHERE m.user_id = asked.column2)),
    (SELECT max(l.seq) FROM stream s CROSS JOIN log l ON l.stream_id = s.stream_id
        WHERE s.name = 'u:' || asked.column2),
    json((SELECT json_group_object(c.stream, c.seq) FROM {DeviceCursor.table} c
        WHERE c.user_id = asked.column2 AND c.device_id = asked.column3))
)) FROM ({{asked}}) asked WHERE asked.column1 IS NOT NULL
"""
_EXTERNAL_USERS = f"""
SELECT json_group_array(json_array(asked.column1, {_listed(_USER, "u")}, {_IS_DISABLED}))
FROM ({{asked}}) asked CROSS JOIN {User.table} u ON u.app_id = asked.column2 AND u.external_id = asked.column3
"""
_LOG_INS = f"""
SELECT json_group_array(json_array(
    asked.column1, {_listed(_SESSION, "s")}, {_listed(_USER, "u")}, {_IS_DISABLED},
    (SELECT p.last_seen_ms FROM {SessionUse.table} p WHERE p.session_id = s.session_id)))
FROM ({{asked}}) asked CROSS JOIN {Session.table} s ON s.token_hash = asked.column2
    LEFT JOIN {User.table} u ON u.user_id = s.user_id
"""
_ASKED_SIZES: Final = (
    1,
    2,
    4,
    8,
    16,
    32,
    64,
)  # rows of questions; few sizes, so that each is prepared once and kept
_arrivals = msgspec.json.Decoder(list[tuple[int, list[str], int | None, dict[str, int]]])


def read(connection: sqlite3.Connection, stream: str, after: int, limit: int, max_bytes: int) -> list[Entry]:
    cursor = connection.execute(
        f"SELECT {_ENTRY_COLUMNS} FROM log l WHERE l.stream_id = {_STREAM_ID} AND l.seq > ?"
        " ORDER BY l.seq LIMIT ?",
        (stream, after, limit),
    )
    return [_entry(row) for row in _paged(cursor, max_bytes)]


def read_messages(
    connection: sqlite3.Connection,
    stream: str,
    before: int,
    after: int | None,
    thread: int,
    limit: int,
    max_bytes: int,
) -> list[MessageAt]:
    is_rising = after is not None
    bound = after if after is not None else before
    order = "ORDER BY l.seq" if is_rising else "ORDER BY l.seq DESC"
    compare = "AND l.seq > ?" if is_rising else "AND l.seq < ?" if before else ""
    bounds: tuple[Any, ...] = (bound,) if compare else ()
    conversation_id = stream.partition(":")[2]
    with snapshot(connection):
        if not thread:
            cursor: Iterable[Any] = connection.execute(
                f"{_MESSAGES} {compare} {order} LIMIT ?", (conversation_id, stream, *bounds, limit)
            )
        else:
            # The root and its replies have an index each; one query with OR would walk the whole stream.
            root = connection.execute(
                f"{_MESSAGES} AND l.seq = ? {compare}", (conversation_id, stream, thread, *bounds)
            )
            replies = connection.execute(
                f"{_MESSAGES} AND l.thread = ? {compare} {order} LIMIT ?",
                (conversation_id, stream, thread, *bounds, limit),
            )
            cursor = _chained(root, replies, limit) if is_rising else _chained(replies, root, limit)
        found = [_message(row) for row in _paged(cursor, max_bytes)]
    return found if is_rising else found[::-1]


def read_tail(connection: sqlite3.Connection, stream: str, limit: int, max_bytes: int) -> list[MessageAt]:
    conversation_id = stream.partition(":")[2]
    cursor = connection.execute(f"{_EVENTS} ORDER BY l.seq DESC LIMIT ?", (conversation_id, stream, limit))
    return [_message(row) for row in _paged(cursor, max_bytes)][::-1]


def entry(connection: sqlite3.Connection, stream: str, seq: int) -> Entry | None:
    row = connection.execute(
        f"SELECT {_ENTRY_COLUMNS} FROM log l WHERE l.stream_id = {_STREAM_ID} AND l.seq = ?", (stream, seq)
    ).fetchone()
    return None if row is None else _entry(row)


def appended(connection: sqlite3.Connection, stream: str, user_id: str, client_id: str) -> Appended | None:
    row = connection.execute(
        f"SELECT seq, message_count, at_ms FROM log WHERE stream_id = {_STREAM_ID}"
        " AND user_id = ? AND client_id = ?",
        (stream, user_id, client_id),
    ).fetchone()
    return None if row is None else Appended(row[0], row[1], row[2], is_duplicate=True)


def message_count_at(connection: sqlite3.Connection, stream: str, seq: int) -> int:
    row = connection.execute(
        f"SELECT message_count FROM log WHERE stream_id = {_STREAM_ID} AND seq <= ?"
        " ORDER BY seq DESC LIMIT 1",
        (stream, seq),
    ).fetchone()
    return 0 if row is None else int(row[0])


def head(connection: sqlite3.Connection, stream: str) -> StreamHead:
    row = connection.execute(
        f"SELECT seq, message_count, at_ms FROM log WHERE stream_id = {_STREAM_ID} ORDER BY seq DESC LIMIT 1",
        (stream,),
    ).fetchone()
    return StreamHead() if row is None else StreamHead(*row)


def get(connection: sqlite3.Connection, table: type[R], key: tuple[Value, ...]) -> R | None:
    spec = spec_of(table)
    if len(key) != len(table.key):
        raise ValueError(f"the key of {table.table} is {table.key}, not {len(key)} values")
    condition = " AND ".join(f"{name} = ?" for name in table.key)
    row = connection.execute(f"{spec.select} WHERE {condition}", key).fetchone()
    return None if row is None else spec.row(row)


def find(
    connection: sqlite3.Connection,
    table: type[R],
    where: dict[str, Value],
    order_by: str,
    after: Value,
    limit: int,
) -> list[R]:
    spec = spec_of(table)
    spec.check_columns(where)
    parts, values = _equal(where)
    order = ""
    if order_by:
        spec.check_columns((order_by,))
        order = f" ORDER BY {order_by}"
        if after is not None:
            parts.append(f"{order_by} > ?")
            values.append(after)
    elif after is not None:
        raise ValueError("`after` needs a column to order by")
    condition = f" WHERE {' AND '.join(parts)}" if parts else ""
    rows = connection.execute(f"{spec.select}{condition}{order} LIMIT ?", (*values, limit)).fetchall()
    return [spec.row(row) for row in rows]


def find_many(
    connection: sqlite3.Connection, table: type[R], column: str, values: Sequence[str | int]
) -> list[R]:
    spec = spec_of(table)
    spec.check_columns((column,))
    if not values:
        return []
    if len(values) > MAX_FIND_MANY:
        raise ValueError(f"at most {MAX_FIND_MANY} values, not {len(values)}")
    marks = ", ".join("?" * len(values))
    rows = connection.execute(f"{spec.select} WHERE {column} IN ({marks})", tuple(values)).fetchall()
    return [spec.row(row) for row in rows]


def find_prefix(
    connection: sqlite3.Connection,
    table: type[R],
    where: dict[str, Value],
    column: str,
    prefix: str,
    limit: int,
) -> list[R]:
    spec = spec_of(table)
    spec.check_columns((*where, column))
    parts, values = _equal(where)
    if prefix:
        parts.append(f"{column} >= ?")
        values.append(prefix)
        if (end := _next_prefix(prefix)) is not None:
            parts.append(f"{column} < ?")
            values.append(end)
    condition = f" WHERE {' AND '.join(parts)}" if parts else ""
    rows = connection.execute(
        f"{spec.select}{condition} ORDER BY {column} LIMIT ?", (*values, limit)
    ).fetchall()
    return [spec.row(row) for row in rows]


def conversation_lines(
    connection: sqlite3.Connection, user_id: str, before: tuple[int, str] | None, limit: int
) -> list[UnreadLine]:
    if before is None:
        rows = connection.execute(_ALL_LINES, (user_id, limit)).fetchall()
    else:
        rows = connection.execute(_LATER_LINES, (user_id, *before, limit)).fetchall()
    return [_line(row) for row in rows]


def conversation_line(
    connection: sqlite3.Connection, user_id: str, conversation_id: str
) -> UnreadLine | None:
    row = connection.execute(_ONE_LINE, (user_id, conversation_id, 1)).fetchone()
    return None if row is None else _line(row)


def last_messages(connection: sqlite3.Connection, conversation_ids: Sequence[str]) -> dict[str, MessageAt]:
    if len(conversation_ids) > MAX_LAST_MESSAGES:
        raise ValueError(f"at most {MAX_LAST_MESSAGES} conversations, not {len(conversation_ids)}")
    found: dict[str, MessageAt] = {}
    with snapshot(connection):
        for conversation_id in conversation_ids:
            row = connection.execute(
                f"{_MESSAGES} ORDER BY l.seq DESC LIMIT 1", (conversation_id, f"c:{conversation_id}")
            ).fetchone()
            if row is not None:
                found[conversation_id] = _message(row)
    return found


def device_cursors(connection: sqlite3.Connection, user_id: str, device_id: str) -> dict[str, int]:
    rows = connection.execute(
        f"SELECT stream, seq FROM {DeviceCursor.table} WHERE user_id = ? AND device_id = ?",
        (user_id, device_id),
    )
    return dict(rows.fetchall())


def sharing_conversation(connection: sqlite3.Connection, user_id: str, other_ids: Sequence[str]) -> set[str]:
    """For each of the others the search ends at the first conversation that is shared."""
    table = MemberRow.table
    rows = connection.execute(
        "SELECT other.value FROM json_each(?) other WHERE EXISTS ("
        f"SELECT 1 FROM {table} me CROSS JOIN {table} o ON o.conversation_id = me.conversation_id"
        " AND o.user_id = other.value WHERE me.user_id = ?)",
        (json.dumps(list(other_ids)), user_id),
    )
    return {other_id for (other_id,) in rows}


def heads(connection: sqlite3.Connection, streams: Sequence[str]) -> dict[str, int]:
    rows = connection.execute(
        "SELECT s.name, (SELECT max(l.seq) FROM log l WHERE l.stream_id = s.stream_id) AS head"
        " FROM json_each(?) asked CROSS JOIN stream s ON s.name = asked.value WHERE head IS NOT NULL",
        (json.dumps(list(streams)),),
    )
    return dict(rows.fetchall())


def deleted_seqs(connection: sqlite3.Connection, conversation_id: str, after: int) -> list[int]:
    rows = connection.execute(
        f"SELECT seq FROM {MessageState.table}"
        " WHERE conversation_id = ? AND seq > ? AND deleted_at_ms > 0 ORDER BY seq",
        (conversation_id, after),
    )
    return [seq for (seq,) in rows]


def arrivals(connection: sqlite3.Connection, devices: Sequence[tuple[str, str]]) -> list[Arrival]:
    found = [Arrival()] * len(devices)
    answer = _ask(connection, _ARRIVALS, devices)
    for number, conversation_ids, inbox_head, cursors in _arrivals.decode(answer):
        found[number] = Arrival(
            conversation_ids=conversation_ids, inbox_head=inbox_head or 0, cursors=cursors
        )
    return found


def external_users(
    connection: sqlite3.Connection, users: Sequence[tuple[str, str]]
) -> list[tuple[User, bool] | None]:
    found: list[tuple[User, bool] | None] = [None] * len(users)
    answer = _ask(connection, _EXTERNAL_USERS, users)
    for number, user, is_disabled in msgspec.json.decode(answer):
        found[number] = (_USER.row(user), bool(is_disabled))
    return found


def log_ins(connection: sqlite3.Connection, token_hashes: Sequence[str]) -> list[LogIn | None]:
    found: list[LogIn | None] = [None] * len(token_hashes)
    answer = _ask(connection, _LOG_INS, [(token_hash,) for token_hash in token_hashes])
    for number, session, user, is_disabled, last_seen_ms in msgspec.json.decode(answer):
        found[number] = LogIn(
            session=_SESSION.row(session),
            user=None if user[0] is None else _USER.row(user),
            is_disabled=bool(is_disabled),
            last_seen_ms=last_seen_ms or 0,
        )
    return found


def _ask(connection: sqlite3.Connection, template: str, questions: Sequence[tuple[str, ...]]) -> str:
    """Run the statement for all questions, one at least and MAX_GROUP of storage/gather.py at most."""
    width = 1 + len(questions[0])
    size = next(size for size in _ASKED_SIZES if size >= len(questions))
    values: list[Value] = [None] * (size * width)
    for number, question in enumerate(questions):
        values[number * width : (number + 1) * width] = (number, *question)
    row = connection.execute(_asking(template, size, width), values).fetchone()
    answer: str = row[0]
    return answer


@cache
def _asking(template: str, size: int, width: int) -> str:
    row = f"({', '.join('?' * width)})"
    return template.replace("{asked}", f"VALUES {', '.join([row] * size)}")


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Let several statements see one state."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _paged(rows: Iterable[Any], max_bytes: int) -> Iterator[Any]:
    """Yield at least one row, and more while their bodies fit into max_bytes.

    Characters stand for bytes here: bodies are mostly ASCII, and the limit guards memory, not a frame.
    """
    size_bytes = 0
    for number, row in enumerate(rows):
        size_bytes += len(row[_ENTRY_WIDTH - 1])
        if number and size_bytes > max_bytes:
            return
        yield row


def _chained(first: Iterable[Any], second: Iterable[Any], limit: int) -> Iterator[Any]:
    left = limit
    for rows in (first, second):
        for row in rows:
            if left <= 0:
                return
            left -= 1
            yield row


def _equal(where: dict[str, Value]) -> tuple[list[str], list[Any]]:
    parts = [f"{name} IS NULL" if value is None else f"{name} = ?" for name, value in where.items()]
    return parts, [value for value in where.values() if value is not None]


def _next_prefix(prefix: str) -> str | None:
    """The least text above all texts with this prefix (SQLite compares UTF-8 bytes, that is code points)."""
    for end in range(len(prefix), 0, -1):
        code = ord(prefix[end - 1]) + 1
        if code == 0xD800:
            code = 0xE000  # surrogates are no characters
        if code <= 0x10FFFF:
            return prefix[: end - 1] + chr(code)
    return None


def _entry(row: tuple[Any, ...]) -> Entry:
    seq, kind, at_ms, user_id, client_id, message_count, thread, body = row[:_ENTRY_WIDTH]
    return Entry(
        seq=seq,
        kind=kind,
        at_ms=at_ms,
        user_id=user_id,
        client_id=client_id,
        message_count=message_count,
        thread=thread,
        body=body,
    )


def _message(row: tuple[Any, ...]) -> MessageAt:
    state = row[_ENTRY_WIDTH:]
    return _entry(row), None if state[0] is None else _STATE.row(state)


def _line(row: tuple[Any, ...]) -> UnreadLine:
    (
        conversation_id,
        kind,
        title,
        user_a,
        user_b,
        member_count,
        role,
        muted_until_ms,
        read_seq,
        head_seq,
        message_count,
        updated_at_ms,
        _read_count,
        _user_id,
        unread,
        mentions_unread,
    ) = row
    return UnreadLine(
        conversation_id=conversation_id,
        kind=kind,
        title=title,
        user_a=user_a,
        user_b=user_b,
        member_count=member_count,
        role=role,
        muted_until_ms=muted_until_ms,
        read_seq=read_seq,
        head=head_seq,
        message_count=message_count,
        updated_at_ms=updated_at_ms,
        unread=unread,
        mentions_unread=mentions_unread,
    )
