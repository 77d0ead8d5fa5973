"""Where a device's cursors survive a restart of its process."""

import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

import msgspec
import trio


class SavedCursors(msgspec.Struct, frozen=True):
    """The last seq that the user of the client was done with, by conversation, and in the inbox.

    `inbox` is None where nothing was ever saved.
    """

    conversations: Mapping[str, int] = {}
    inbox: int | None = None


class CursorStore(Protocol):
    """Keeps one device's cursors. `save` is called at most about twice a second, and once at the end."""

    async def load(self) -> SavedCursors:
        """Return what was saved last."""
        ...

    async def save(self, changed: Mapping[str, int], inbox: int) -> None:
        """Keep these cursors, all or none of them; conversations that are not named keep theirs."""
        ...


class MemoryCursors:
    """Cursors for the life of this object: enough to hand from one client to the next."""

    def __init__(self) -> None:
        self._conversations: dict[str, int] = {}
        self._inbox: int | None = None

    async def load(self) -> SavedCursors:
        return SavedCursors(dict(self._conversations), self._inbox)

    async def save(self, changed: Mapping[str, int], inbox: int) -> None:
        self._conversations.update(changed)
        self._inbox = inbox


class FileCursors:
    """Cursors in a small SQLite file of their own. A crash in the middle of a save keeps the old ones."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()  # a save that was cancelled may still run when the next one starts

    async def load(self) -> SavedCursors:
        return await trio.to_thread.run_sync(self._load)

    async def save(self, changed: Mapping[str, int], inbox: int) -> None:
        await trio.to_thread.run_sync(self._save, dict(changed), inbox)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=10.0, isolation_level=None)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS cursor (stream TEXT PRIMARY KEY, seq INTEGER NOT NULL)"
        )
        return connection

    def _load(self) -> SavedCursors:
        with self._lock, closing(self._open()) as connection:
            rows: dict[str, int] = dict(connection.execute("SELECT stream, seq FROM cursor"))
        inbox = rows.pop("", None)
        return SavedCursors(rows, inbox)

    def _save(self, changed: dict[str, int], inbox: int) -> None:
        with self._lock, closing(self._open()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO cursor (stream, seq) VALUES (?, ?) "
                "ON CONFLICT (stream) DO UPDATE SET seq = max(seq, excluded.seq)",
                [*changed.items(), ("", inbox)],
            )
            connection.execute("COMMIT")
