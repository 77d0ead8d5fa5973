"""What the uvicorn peers keep: users, conversations, members and messages in one SQLite file.

One thread writes. It takes everything that waits, up to 1,000 writes, as one transaction (group commit, WAL,
synchronous=FULL), and tells the event loop once per commit. Reads use a read-only connection of the loop's
thread: a page costs less than handing it to another thread and back.
"""

import asyncio
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple

MAX_BATCH: Final = 1000  # writes of one transaction: some milliseconds, so that an ack never waits for long
_ABOVE_ALL: Final = 2**63 - 1

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS users (user_id TEXT PRIMARY KEY, subject TEXT NOT NULL UNIQUE, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS conversations (
    conversation_id TEXT PRIMARY KEY, kind TEXT NOT NULL, title TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS members (
    conversation_id TEXT NOT NULL, user_id TEXT NOT NULL, PRIMARY KEY (conversation_id, user_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    conversation_id TEXT NOT NULL, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL, user_id TEXT NOT NULL,
    text TEXT NOT NULL, client_id TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS messages_by_seq ON messages (conversation_id, seq);
"""
_ADD_USER: Final = "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_ADD_CONVERSATION: Final = "INSERT INTO conversations VALUES (?, ?, ?)"
_ADD_MEMBER: Final = "INSERT INTO members VALUES (?, ?)"
_ADD_MESSAGE: Final = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)"


_Statement = tuple[str, Sequence[tuple[object, ...]]]  # SQL, and the rows to execute it with


class User(NamedTuple):
    user_id: str
    name: str


class MessageRow(NamedTuple):
    """One message as it is stored."""

    conversation_id: str
    seq: int
    at_ms: int
    user_id: str
    text: str
    client_id: str


class ConversationRow(NamedTuple):
    """One conversation with all that the server wants to know of it at its start."""

    conversation_id: str
    kind: str
    title: str
    member_ids: list[str]
    head: int


class _Write(NamedTuple):
    """Statements of one write, and what to call in the loop's thread after the commit."""

    statements: Sequence[_Statement]
    message: MessageRow | None
    on_commit: Callable[[], None]


class Store:
    """Open with the event loop running; `close` waits for what was submitted."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._writer = _connect(path)
        self._writer.executescript(_SCHEMA)
        self._reader = _connect(path)
        self._reader.execute("PRAGMA query_only = ON")
        # Bounded by the connections: each has at most so many writes of its own under way (64 or 1).
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="writer")
        self._thread.start()

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()
        self._reader.close()
        self._writer.close()

    # -- writes: each is durable when its future is done, or its callback called ---------------------

    def add_message(self, row: MessageRow) -> asyncio.Future[None]:
        """Store a message. Messages become durable, and their futures done, in the order of these calls."""
        done, on_commit = self._promise()
        self.add_message_then(row, on_commit)
        return done

    def add_message_then(self, row: MessageRow, on_commit: Callable[[], None]) -> None:
        """Store a message as `add_message` does; call back instead of waking a task."""
        self._waiting.put(_Write((), row, on_commit))

    def add_user(self, user_id: str, subject: str, name: str) -> asyncio.Future[None]:
        """Store a user, unless there is one with that subject."""
        return self._submit((_ADD_USER, [(user_id, subject, name)]))

    def add_conversation(
        self, conversation_id: str, kind: str, title: str, member_ids: Collection[str]
    ) -> asyncio.Future[None]:
        return self._submit(
            (_ADD_CONVERSATION, [(conversation_id, kind, title)]),
            (_ADD_MEMBER, [(conversation_id, user_id) for user_id in member_ids]),
        )

    def _submit(self, *statements: _Statement) -> asyncio.Future[None]:
        done, on_commit = self._promise()
        self._waiting.put(_Write(statements, None, on_commit))
        return done

    def _promise(self) -> tuple[asyncio.Future[None], Callable[[], None]]:
        done: asyncio.Future[None] = self._loop.create_future()

        def on_commit() -> None:
            if not done.done():  # its connection may have ended meanwhile
                done.set_result(None)

        return done, on_commit

    # -- reads --------------------------------------------------------------------------------------

    def user_of(self, subject: str) -> User | None:
        row = self._reader.execute("SELECT user_id, name FROM users WHERE subject = ?", (subject,)).fetchone()
        return None if row is None else User(*row)

    def has_users(self, user_ids: Sequence[str]) -> bool:
        """Tell whether all of these users exist."""
        find = self._reader.execute
        return all(find("SELECT 1 FROM users WHERE user_id = ?", (each,)).fetchone() for each in user_ids)

    def conversations(self) -> list[ConversationRow]:
        """Everything there is; for the start."""
        read = self._reader.execute
        rows = {
            conversation_id: ConversationRow(conversation_id, kind, title, [], head)
            for conversation_id, kind, title, head in read(
                "SELECT conversation_id, kind, title, (SELECT coalesce(max(seq), 0) FROM messages AS m"
                " WHERE m.conversation_id = c.conversation_id) FROM conversations AS c"
            )
        }
        for conversation_id, user_id in read("SELECT conversation_id, user_id FROM members"):
            rows[conversation_id].member_ids.append(user_id)
        return list(rows.values())

    def messages_before(self, conversation_id: str, seq: int, limit: int) -> list[MessageRow]:
        """The last messages before a seq (0: of all), by falling seq."""
        rows = self._reader.execute(
            "SELECT * FROM messages WHERE conversation_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?",
            (conversation_id, seq or _ABOVE_ALL, limit),
        )
        return [MessageRow._make(row) for row in rows]

    def messages_after(self, conversation_id: str, seq: int, limit: int) -> list[MessageRow]:
        """The first messages after a seq, by rising seq."""
        rows = self._reader.execute(
            "SELECT * FROM messages WHERE conversation_id = ? AND seq > ? ORDER BY seq LIMIT ?",
            (conversation_id, seq, limit),
        )
        return [MessageRow._make(row) for row in rows]

    # -- the writer's thread ------------------------------------------------------------------------

    def _write_all(self) -> None:
        try:
            while (write := self._waiting.get()) is not None:
                batch = [write]
                is_last = False
                while len(batch) < MAX_BATCH and not self._waiting.empty():
                    write = self._waiting.get()
                    if write is None:
                        is_last = True
                        break
                    batch.append(write)
                self._commit(batch)
                self._loop.call_soon_threadsafe(_call_back, batch)
                if is_last:
                    return
        except Exception:
            # What is in memory is ahead of the file. A restart reads what was committed; no more was acked.
            logging.exception("The store failed.")
            os._exit(1)

    def _commit(self, batch: list[_Write]) -> None:
        writer = self._writer
        writer.execute("BEGIN IMMEDIATE")
        for write in batch:
            for sql, rows in write.statements:
                writer.executemany(sql, rows)
        writer.executemany(_ADD_MESSAGE, [write.message for write in batch if write.message])
        writer.execute("COMMIT")


def _call_back(batch: list[_Write]) -> None:
    for write in batch:
        write.on_commit()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection
