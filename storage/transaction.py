"""One transaction of the writer: many appends, each of them atomic on its own.

An append is judged first (fence, head, duplicates) and only then written, so a refused one leaves no trace
and needs no savepoint. What it writes is collected and goes to SQLite in runs of equal statements. Only an
append that may meet a unique index is written at once, inside a savepoint.

Many rows go into each statement. Not for SQLite's sake: each step of a statement gives up Python's global
lock, and beside a busy Trio thread it takes up to a switch interval (5 ms) to get it back.

Everything here runs in the writer's thread on the writer's connection.
"""

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Any, Final

import msgspec

from protocol.errors import Conflict, Fenced, HeadMismatch, HubbubError
from protocol.records import Advance, Append, Appended, Insert, LogRow, Op, Put, Redact, Remove, Trim, Update
from storage.schema import spec_of, values_of

Outcome = tuple[Appended, ...] | HubbubError

# 64 Ki streams are about 20 MB; a stream that falls out is read again from its index.
_CACHED_STREAMS: Final = 65_536
# What stays of a redacted row: valid JSON, so that views and readers need no special case.
REDACTED_BODY: Final = "{}"

INSERT_LOG: Final = (
    "INSERT INTO log"
    " (stream_id, seq, kind, at_ms, user_id, client_id, message_count, is_message, thread, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_FIND_DUPLICATE: Final = (
    "SELECT seq, message_count, at_ms FROM log WHERE stream_id = ? AND user_id = ? AND client_id = ?"
)
_FIND_DUPLICATES: Final = (
    "WITH k (stream_id, user_id, client_id) AS (",
    "VALUES (?, ?, ?)",
    ") SELECT k.stream_id, k.user_id, k.client_id, l.seq, l.message_count, l.at_ms FROM k CROSS JOIN log l"
    " ON l.stream_id = k.stream_id AND l.user_id = k.user_id AND l.client_id = k.client_id",
)
_ADVANCE: Final = (
    "UPDATE member SET delivered_seq = max(delivered_seq, v.column3), read_seq = max(read_seq, v.column4),"
    " read_count = max(read_count, v.column5) FROM (",
    "VALUES (?, ?, ?, ?, ?)",
    ") AS v WHERE member.conversation_id = v.column1 AND member.user_id = v.column2",
)
_ADVANCE_SQL: Final = "".join(_ADVANCE)
_SET_HEADS: Final = (
    "UPDATE shard SET head = v.column2 FROM (",
    "VALUES (?, ?)",
    ") AS v WHERE shard.shard = v.column1",
)
# As JSON: one row is one step, and the decoder is a tenth of the price of Python's own splitting.
_ALL_SHARDS: Final = (
    "SELECT json_group_array(shard), json_group_array(epoch), json_group_array(head) FROM shard"
)
# Rows of one statement. Few sizes, so that each is prepared once and kept.
_CHUNKS: Final = (64, 32, 16, 8, 4, 2, 1)
_MANY_SHARDS: Final = 16  # from here on all rows in one statement are cheaper than one by one
_REDACT: Final = (
    "UPDATE log SET body = ? WHERE stream_id = (SELECT stream_id FROM stream WHERE name = ?) AND seq = ?"
)
_REDACT_EDITS: Final = (
    "UPDATE log SET body = json_object('type', 'edited', 'target', ?, 'text', '')"
    " WHERE stream_id = (SELECT stream_id FROM stream WHERE name = ?)"
    " AND kind = 'edited' AND json_extract(body, '$.target') = ?"
)
_TRIM: Final = (
    "WITH s AS (SELECT stream_id FROM stream WHERE name = ?)"
    " DELETE FROM log WHERE stream_id = (SELECT stream_id FROM s)"
    " AND seq < min(?, (SELECT max(seq) FROM log WHERE stream_id = (SELECT stream_id FROM s)))"
)
_numbers: Final = msgspec.json.Decoder(list[int]).decode

Statement = tuple[str, tuple[Any, ...]]
_Parts = tuple[str, str, str]  # before, "VALUES (…)" of one row, after
_IdempotencyKey = tuple[int, str, str]


class _Stream:
    """Where a stream stands, as its only writer knows it under one epoch."""

    __slots__ = ("epoch", "message_count", "seq", "shard", "stream_id")

    def __init__(self, stream_id: int, shard: int, epoch: int, seq: int, message_count: int) -> None:
        self.stream_id = stream_id
        self.shard = shard
        self.epoch = epoch
        self.seq = seq
        self.message_count = message_count


class StreamCache:
    """Heads of the streams written lately. Empty it whenever the database may know better."""

    def __init__(self) -> None:
        self._streams: OrderedDict[str, _Stream] = OrderedDict()

    def get(self, name: str, epoch: int) -> _Stream | None:
        """A head that was learned under this very epoch; under another one somebody else may have written."""
        stream = self._streams.get(name)
        if stream is None or stream.epoch != epoch:
            return None
        self._streams.move_to_end(name)
        return stream

    def put(self, name: str, stream: _Stream) -> None:
        self._streams[name] = stream
        if len(self._streams) > _CACHED_STREAMS:
            self._streams.popitem(last=False)

    def forget(self, name: str) -> None:
        self._streams.pop(name, None)

    def clear(self) -> None:
        self._streams.clear()


class _Shard:
    """A shard's row as this transaction found it, and the head it will have."""

    __slots__ = ("epoch", "head", "stored_head")

    def __init__(self, epoch: int, head: int) -> None:
        self.epoch = epoch
        self.stored_head = head
        self.head = head


class Transaction:
    """Appends between one BEGIN IMMEDIATE and its COMMIT, both of which the writer issues."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        streams: StreamCache,
        heads: dict[int, tuple[int, int]],
        *,
        looks_up: bool = True,
    ) -> None:
        """`looks_up`: find repetitions of what is stored before writing. Without it one ends the transaction
        by an IntegrityError, and a transaction that looks up must follow.
        """
        self._connection = connection
        self._looks_up = looks_up
        self._streams = streams
        # shard -> (epoch, head) after the last commit of this process: a store that went back in time differs
        self._heads = heads
        self._shards: dict[int, _Shard] = {}
        self._keys: dict[_IdempotencyKey, Appended] = {}
        self._checked: set[_IdempotencyKey] = set()  # known to be stored or not, before this transaction
        self._found_shards: dict[int, tuple[int, int]] = {}
        self._log: list[tuple[Any, ...]] = []
        self._statements: list[Statement] = []
        self.has_moved = False  # whether any shard's head differs from what is stored

    def prepare(self, appends: Sequence[Append]) -> None:
        """Look up in bulk what `add` will ask for. Optional: what is not found here is asked for one by
        one.
        """
        shards = {append.shard for append in appends}
        if len(shards) >= _MANY_SHARDS:
            numbers, epochs, heads = map(_numbers, self._connection.execute(_ALL_SHARDS).fetchone())
            self._found_shards = dict(zip(numbers, zip(epochs, heads, strict=True), strict=True))
        if not self._looks_up:
            return
        keys: list[_IdempotencyKey] = []
        for append in appends:
            for row in append.rows:
                if row.client_id is not None:
                    stream = self._streams.get(row.stream, append.epoch)
                    if stream is not None:
                        keys.append((stream.stream_id, row.user_id, row.client_id))
        for found in _in_chunks(self._connection, _FIND_DUPLICATES, keys):
            for stream_id, user_id, client_id, seq, message_count, at_ms in found:
                self._keys[stream_id, user_id, client_id] = Appended(seq, message_count, at_ms, True)
        self._checked.update(keys)

    def add(self, append: Append, *, is_careful: bool = False) -> Outcome:
        """Judge one append and collect what it writes; with `is_careful`, or where it may conflict, write it.

        Raises: sqlite3.Error and the errors of unbindable values, after which the transaction must be rolled
        back (and, unless the disk is at fault, tried again carefully, which refuses the culprit alone).
        """
        if append.shard < 0:
            shard = None
        else:
            found = self._judge(append)
            if isinstance(found, HubbubError):
                return found
            shard = found
        if not is_careful and not any(_may_conflict(op) for op in append.ops):
            places = self._place(append, shard)
            self._operate(append.ops, places)
            return places
        self.flush()
        head_before = 0 if shard is None else shard.head
        keys_before = dict(self._keys)
        try:
            with savepoint(self._connection):
                places = self._place(append, shard)
                self._operate(append.ops, places)
                self.flush()
                return places
        except BaseException as exc:
            self._log.clear()
            self._statements.clear()
            self._keys = keys_before
            if shard is not None:
                shard.head = head_before
            for row in append.rows:
                self._streams.forget(row.stream)
            if isinstance(exc, sqlite3.IntegrityError) and exc.sqlite_errorcode in _UNIQUENESS_CODES:
                table = _table_of(exc)
                if self._looks_up or table != "log":  # else it repeats a stored one, and has to be looked up
                    return Conflict(table)
            raise

    def flush(self) -> None:
        """Write what was collected: log rows first, because an op may concern one of them."""
        if self._log:
            rows, self._log = self._log, []
            _write(self._connection, _parts_of(INSERT_LOG), rows)
        if self._statements:
            statements, self._statements = self._statements, []
            for sql, run in _runs(statements):
                if sql is _ADVANCE_SQL:
                    _write(self._connection, _ADVANCE, _merged(run))
                elif sql.startswith("INSERT"):
                    _write(self._connection, _parts_of(sql), run)
                else:
                    self._connection.executemany(sql, run)

    def finish(self) -> dict[int, tuple[int, int]]:
        """Write what is left and the new heads. Returns shard -> (epoch, head), as COMMIT will make it.

        The rows of this transaction and the head move together: whoever reads the one reads the other.
        """
        self.flush()
        moved = [
            (number, shard.head) for number, shard in self._shards.items() if shard.head != shard.stored_head
        ]
        if moved:
            self.has_moved = True
            _write(self._connection, _SET_HEADS, moved)
        return {number: (shard.epoch, shard.head) for number, shard in self._shards.items()}

    # What an append needs before anything of it is written.

    def _judge(self, append: Append) -> _Shard | HubbubError:
        """Check the fence and the head. BEGIN IMMEDIATE keeps both from changing until COMMIT."""
        shard = self._shards.get(append.shard)
        if shard is None:
            row = self._found_shards.get(append.shard) or (
                self._connection.execute(
                    "SELECT epoch, head FROM shard WHERE shard = ?", (append.shard,)
                ).fetchone()
            )
            if row is None:
                return Fenced(f"there is no shard {append.shard}")
            shard = _Shard(*row)
            if shard.epoch == append.epoch:
                known = self._heads.get(append.shard)
                if known is not None and known[0] == shard.epoch and known[1] != shard.head:
                    return HeadMismatch(
                        f"shard {append.shard} stands at {shard.head}, but this node left it at {known[1]}"
                    )
                self._shards[append.shard] = shard
        if shard.epoch != append.epoch:
            return Fenced(f"shard {append.shard} has epoch {shard.epoch}, not {append.epoch}")
        if append.expected_head is not None and append.expected_head != shard.head:
            return HeadMismatch(f"shard {append.shard} stands at {shard.head}, not {append.expected_head}")
        return shard

    def _place(self, append: Append, shard: _Shard | None) -> tuple[Appended, ...]:
        if not append.rows:
            return ()
        if shard is None:
            raise ValueError("rows belong to a shard")
        return tuple([self._place_row(row, append.shard, append.epoch, shard) for row in append.rows])

    def _place_row(self, row: LogRow, number: int, epoch: int, shard: _Shard) -> Appended:
        stream = self._streams.get(row.stream, epoch)
        if stream is None:
            stream = self._load(row.stream, number, epoch)
        elif stream.shard != number:
            raise ValueError(f"stream {row.stream} belongs to shard {stream.shard}, not {number}")
        key = None
        if row.client_id is not None:
            key = (stream.stream_id, row.user_id, row.client_id)
            first = self._keys.get(key)
            if first is None and self._looks_up and key not in self._checked:
                first = self._stored_duplicate(key)
            if first is not None:
                return first
        stream.seq += 1
        stream.message_count += row.is_message
        shard.head += 1
        self._log.append(
            (
                stream.stream_id,
                stream.seq,
                row.kind,
                row.at_ms,
                row.user_id,
                row.client_id,
                stream.message_count,
                1 if row.is_message else 0,
                row.thread,
                row.body,
            )
        )
        if key is not None:
            self._keys[key] = Appended(stream.seq, stream.message_count, row.at_ms, True)
        return Appended(stream.seq, stream.message_count, row.at_ms)

    def _stored_duplicate(self, key: _IdempotencyKey) -> Appended | None:
        found = self._connection.execute(_FIND_DUPLICATE, key).fetchone()
        if found is None:
            return None
        seq, message_count, at_ms = found
        return Appended(seq, message_count, at_ms, True)

    def _load(self, name: str, number: int, epoch: int) -> _Stream:
        """Read a stream's head, or make the stream."""
        self.flush()  # the head on disk must include what this transaction has placed
        row = self._connection.execute(
            "SELECT stream_id, shard FROM stream WHERE name = ?", (name,)
        ).fetchone()
        if row is None:
            cursor = self._connection.execute(
                "INSERT INTO stream (name, shard) VALUES (?, ?)", (name, number)
            )
            stream = _Stream(int(cursor.lastrowid or 0), number, epoch, 0, 0)
        else:
            stream_id, owner = row
            if owner != number:
                raise ValueError(f"stream {name} belongs to shard {owner}, not {number}")
            head = self._connection.execute(
                "SELECT seq, message_count FROM log WHERE stream_id = ? ORDER BY seq DESC LIMIT 1",
                (stream_id,),
            ).fetchone()
            stream = _Stream(stream_id, number, epoch, *(head or (0, 0)))
        self._streams.put(name, stream)
        return stream

    # What is stored together with the rows.

    def _operate(self, ops: Sequence[Op], places: tuple[Appended, ...]) -> None:
        collect = self._statements.append
        for op in ops:
            match op:
                case Advance():
                    delivered_seq, read_seq, read_count = op.delivered_seq, op.read_seq, op.read_count
                    if op.row_index >= 0:
                        place = places[op.row_index]
                        if place.is_duplicate:
                            continue
                        delivered_seq = max(delivered_seq, place.seq)
                        read_seq = max(read_seq, place.seq)
                        read_count = max(read_count, place.message_count)
                    collect(
                        (
                            _ADVANCE_SQL,
                            (op.conversation_id, op.user_id, delivered_seq, read_seq, read_count),
                        )
                    )
                case Put():
                    if op.row_index >= 0 and places[op.row_index].is_duplicate:
                        continue
                    spec = spec_of(type(op.row))
                    values = values_of(op.row)
                    if op.seq_field:
                        at = spec.names.index(op.seq_field)
                        values = (*values[:at], places[op.row_index].seq, *values[at + 1 :])
                    collect((spec.put, values))
                case Insert():
                    collect((spec_of(type(op.row)).insert, values_of(op.row)))
                case Remove():
                    if op.row_index >= 0 and places[op.row_index].is_duplicate:
                        continue
                    spec_of(op.table).check_columns(op.where)
                    condition = _condition(op.where)
                    collect((f"DELETE FROM {op.table.table} WHERE {condition}", tuple(op.where.values())))
                case Update():
                    if op.row_index >= 0 and places[op.row_index].is_duplicate:
                        continue
                    spec_of(op.table).check_columns((*op.where, *op.values))
                    changes = ", ".join(f"{name} = ?" for name in op.values)
                    sql = f"UPDATE {op.table.table} SET {changes} WHERE {_condition(op.where)}"
                    collect((sql, (*op.values.values(), *op.where.values())))
                case Redact():
                    collect((_REDACT, (REDACTED_BODY, op.stream, op.seq)))
                    collect((_REDACT_EDITS, (op.seq, op.stream, op.seq)))
                case Trim():
                    collect((_TRIM, (op.stream, op.before_seq)))


# A key that exists already; other broken constraints (NOT NULL) are our own bug.
_UNIQUENESS_CODES: Final = (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE)


def _may_conflict(op: Op) -> bool:
    """Tell whether an op may meet a row that another append wrote."""
    match op:
        case Insert():
            return True
        case Put():
            return spec_of(type(op.row)).is_uniquely_indexed
        case Update():
            return spec_of(op.table).is_uniquely_indexed
    return False


def _condition(where: dict[str, str | int]) -> str:
    if not where:
        raise ValueError("an op without a condition would concern a whole table")
    return " AND ".join(f"{name} = ?" for name in where)


def _runs(statements: list[Statement]) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """Group neighbours of the same text, keeping the order."""
    sql, run = statements[0][0], [statements[0][1]]
    for text, values in statements[1:]:
        if text == sql:
            run.append(values)
        else:
            yield sql, run
            sql, run = text, [values]
    yield sql, run


def _merged(run: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Make one row per member: an UPDATE FROM takes only one of several that match."""
    if len(run) == 1:
        return run
    merged: dict[tuple[str, str], tuple[Any, ...]] = {}
    for values in run:
        member = (values[0], values[1])
        earlier = merged.get(member)
        merged[member] = values if earlier is None else (*member, *map(max, earlier[2:], values[2:]))
    return list(merged.values())


def _write(connection: sqlite3.Connection, parts: _Parts, rows: Sequence[tuple[Any, ...]]) -> None:
    for _ in _in_chunks(connection, parts, rows):
        pass


def _in_chunks(
    connection: sqlite3.Connection, parts: _Parts, rows: Sequence[tuple[Any, ...]]
) -> Iterator[list[tuple[Any, ...]]]:
    """Run a statement with many rows of values at a time. Yields what each run finds."""
    start = 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            values = list(chain.from_iterable(rows[start : start + size]))
            yield connection.execute(_with_rows(parts, size), values).fetchall()
            start += size


@cache
def _with_rows(parts: _Parts, count: int) -> str:
    before, first, after = parts
    return before + first + (", " + first.removeprefix("VALUES ")) * (count - 1) + after


@cache
def _parts_of(insert: str) -> _Parts:
    """Take an INSERT of one row apart, to repeat its values."""
    before, _, rest = insert.partition("VALUES (")
    marks, _, after = rest.partition(")")
    return before, f"VALUES ({marks})", after


@contextmanager
def savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("SAVEPOINT one_append")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # a full disk may have ended the whole transaction already
            connection.execute("ROLLBACK TO one_append")
            connection.execute("RELEASE one_append")
        raise
    connection.execute("RELEASE one_append")


def _table_of(exc: sqlite3.IntegrityError) -> str:
    """Name the table in "UNIQUE constraint failed: app.name"."""
    return str(exc).rpartition(": ")[2].partition(".")[0] or "row"
