"""The store on SQLite: one directory, one writer thread, a few readers.

hubbub.db (and -wal, -shm)   log and directory
files/                       uploaded files under their SHA-256
write.lock, turn.lock        processes that share the directory take turns writing
node.lock                    a single node runs alone here
node-….lock                  each cluster node holds its own for as long as it lives
"""

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
import trio

from protocol.errors import HubbubError, StorageUnavailable
from protocol.records import (
    Append,
    Appended,
    Arrival,
    Entry,
    LogIn,
    MessageState,
    NodeLease,
    Op,
    Row,
    ShardOwner,
    StreamHead,
    UnreadLine,
    User,
)
from storage import ownership, queries
from storage.ad_reads import SqliteAdReads
from storage.check import DATABASE_NAME, FILES_NAME
from storage.feed_reads import FeedReads
from storage.files import FileStore
from storage.gather import Gathered
from storage.locks import LifeLock, NodeLock, WriteLock
from storage.migrations import migrate
from storage.notify_glance import SqliteNotifyGlances
from storage.notify_reads import SqliteNotifyReads
from storage.post_reads import SqlitePostReads
from storage.reader import Readers
from storage.store import Outcome, Value
from storage.trend_reads import SqliteTrendReads
from storage.writer import Call, Writer, WriterStats

log = structlog.get_logger(__name__)

R = TypeVar("R", bound=Row)

_OLDEST_SQLITE = (3, 35, 0)  # UPDATE FROM and several rows in one upsert


@asynccontextmanager
async def open_store(
    directory: str | Path, *, synchronous: str = "FULL", reader_count: int = 3
) -> AsyncIterator["SqliteStore"]:
    """Open a data directory, making it where it is missing; at exit, what is queued is committed.

    `synchronous="NORMAL"` trades promise 1 for speed: a power cut may lose the last second.
    Raises: StorageUnavailable, where the directory cannot be made or opened.
    """
    if synchronous not in ("FULL", "NORMAL", "EXTRA"):
        raise ValueError(f"synchronous is FULL, EXTRA or NORMAL, not {synchronous!r}")
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StorageUnavailable(
            f"Python's SQLite is {sqlite3.sqlite_version}; hubbub needs {'.'.join(map(str, _OLDEST_SQLITE))}."
        )
    directory = Path(directory)
    write_lock, node_lock = await trio.to_thread.run_sync(_prepare, directory)
    writer = Writer(directory / DATABASE_NAME, write_lock, synchronous=synchronous)
    readers = Readers(directory / DATABASE_NAME, count=reader_count)
    lives: dict[str, LifeLock] = {}
    try:
        with trio.CancelScope(shield=True):  # some ms; a thread that was started is also stopped
            await writer.start()
        try:
            await readers.start()
            yield SqliteStore(directory, writer, readers, node_lock, lives)
        finally:
            await readers.aclose()
            await writer.aclose()
    finally:
        # Not before the last commit: from then on others may take the shards.
        for life in lives.values():
            life.close()
        node_lock.close()
        write_lock.close()


class SqliteStore:
    """Fits storage.store.Store; see there for what each method promises."""

    def __init__(
        self,
        directory: Path,
        writer: Writer,
        readers: Readers,
        node_lock: NodeLock,
        lives: dict[str, LifeLock],
    ) -> None:
        self.directory = directory
        self.files = FileStore(directory / FILES_NAME)
        self.posts = SqlitePostReads(readers)
        self._writer = writer
        self._readers = readers
        self._arrivals = Gathered(readers, queries.arrivals)
        self._external_users = Gathered(readers, queries.external_users)
        self._log_ins = Gathered(readers, queries.log_ins)
        self.trends = SqliteTrendReads(readers)
        self._node_lock = node_lock
        self.feeds = FeedReads(readers)
        self.ads = SqliteAdReads(readers)
        self.notify = SqliteNotifyReads(readers)
        self.notify_glances = SqliteNotifyGlances(readers)
        self._lives = lives  # node_id -> its lock, held until the store closes

    # How it is doing.

    @property
    def health(self) -> str:
        """Why nothing can be written now, for a person; empty while all is well."""
        return self._writer.fault

    def deliver_within(self, turn: AbstractContextManager[None]) -> None:
        """Tell the outcomes of each commit within `turn`, which is entered many times."""
        self._writer.delivering = turn

    async def watch(self) -> None:
        """Run as long as the store can be used. Raises: RuntimeError, when its writer has crashed."""
        await self._writer.wait_stopped()
        raise RuntimeError(self._writer.fault or "The store was closed.")

    @property
    def stats(self) -> WriterStats:
        """Counters since the start."""
        return self._writer.stats

    @property
    def read_count(self) -> int:
        """Reads since the start."""
        return self._readers.read_count

    @property
    def queued_bytes(self) -> int:
        return self._writer.queued_bytes

    @property
    def queued_count(self) -> int:
        return self._writer.queued_count

    @property
    def oldest_queued_s(self) -> float:
        return self._writer.oldest_s()

    @property
    def waiting_reads_count(self) -> int:
        return self._readers.waiting_count

    # Ownership.

    async def claim_all(self, node_id: str) -> dict[int, int]:
        self._node_lock.take_alone()
        epochs: dict[int, int] = await self._call(lambda db: ownership.claim_all(db, node_id))
        return epochs

    async def live_as(self, node_id: str) -> None:
        """Hold the directory as one of several nodes, under this name, until the store is closed.

        Raises: DirectoryInUse, where a node runs alone here, or one of that name; StorageUnavailable.
        """
        self._node_lock.take_shared()
        await trio.to_thread.run_sync(self._live_as, node_id)

    async def register_node(self, node_id: str, address: str, *, lease_ms: int = 12_000) -> int:
        await self.live_as(node_id)
        boot: int = await self._call(lambda db: ownership.register_node(db, node_id, address, lease_ms))
        return boot

    async def renew_node(
        self, node_id: str, boot: int, *, lease_ms: int = 12_000, is_draining: bool = False
    ) -> bool:
        is_ours: bool = await self._call(
            lambda db: ownership.renew_node(db, node_id, boot, lease_ms, is_draining)
        )
        return is_ours

    async def claim(
        self, shards: Mapping[int, int], *, node_id: str, boot: int
    ) -> dict[int, tuple[int, int]]:
        won: dict[int, tuple[int, int]] = await self._call(
            lambda db: ownership.claim(db, shards, node_id, boot)
        )
        return won

    async def release(self, shards: Mapping[int, int]) -> dict[int, int]:
        released: dict[int, int] = await self._call(lambda db: ownership.release(db, shards))
        return released

    async def end_leases_of_the_dead(self) -> list[tuple[str, int]]:
        if not await self._readers.run(ownership.find_dead, self.directory):
            return []  # the usual case costs no transaction
        ended: list[tuple[str, int]] = await self._call(
            lambda db: ownership.end_leases_of_the_dead(db, self.directory)
        )
        for node_id, boot in ended:
            log.info("dead_node_lease_ended", dead_node_id=node_id, dead_boot=boot)
        return ended

    async def members(self) -> list[NodeLease]:
        return await self._readers.run(ownership.members)

    async def shards(self) -> list[ShardOwner]:
        return await self._readers.run(ownership.shards)

    def _live_as(self, node_id: str) -> None:
        """Take the node's own lock. Raises: DirectoryInUse, StorageUnavailable."""
        if node_id in self._lives:
            return  # a later life in the same process
        try:
            life = LifeLock(self.directory, node_id)
        except OSError as exc:
            raise StorageUnavailable(f"The lock of node {node_id} cannot be made: {exc}") from exc
        try:
            life.take()
        except BaseException:
            life.close()
            raise
        self._lives[node_id] = life

    # Writing.

    def append_nowait(self, append: Append, on_done: Callable[[Outcome], None]) -> None:
        self._writer.append_nowait(append, on_done)

    def check_room(self) -> None:
        self._writer.check_room()

    async def append(self, append: Append) -> tuple[Appended, ...]:
        await trio.lowlevel.checkpoint_if_cancelled()
        waiter = _Waiter()
        self._writer.append_nowait(append, waiter.done)
        places: tuple[Appended, ...] = await waiter.wait()
        return places

    async def commit(self, ops: Sequence[Op]) -> None:
        await self.append(Append(shard=-1, epoch=0, ops=tuple(ops)))

    async def barrier(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        waiter = _Waiter()
        self._writer.barrier_nowait(partial(waiter.done, None))
        await waiter.wait()

    async def others_version(self) -> int:
        """A number that changes when another process has written. Raises: StorageUnavailable."""
        return int(await self._call(_data_version))

    async def _call(self, call: Call) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        waiter = _Waiter()
        self._writer.call_nowait(call, waiter.done)
        return await waiter.wait()

    # Reading.

    async def read(self, stream: str, *, after: int, limit: int, max_bytes: int = 1 << 20) -> list[Entry]:
        return await self._readers.run(queries.read, stream, after, limit, max_bytes)

    async def read_messages(
        self,
        stream: str,
        *,
        before: int = 0,
        after: int | None = None,
        thread: int = 0,
        limit: int,
        max_bytes: int = 1 << 20,
    ) -> list[tuple[Entry, MessageState | None]]:
        return await self._readers.run(queries.read_messages, stream, before, after, thread, limit, max_bytes)

    async def read_tail(
        self, stream: str, *, limit: int, max_bytes: int = 1 << 20
    ) -> list[tuple[Entry, MessageState | None]]:
        return await self._readers.run(queries.read_tail, stream, limit, max_bytes)

    async def entry(self, stream: str, seq: int) -> Entry | None:
        return await self._readers.run(queries.entry, stream, seq)

    async def appended(self, stream: str, user_id: str, client_id: str) -> Appended | None:
        return await self._readers.run(queries.appended, stream, user_id, client_id)

    async def message_count_at(self, stream: str, seq: int) -> int:
        return await self._readers.run(queries.message_count_at, stream, seq)

    async def head(self, stream: str) -> StreamHead:
        return await self._readers.run(queries.head, stream)

    async def get(self, table: type[R], *key: Value) -> R | None:
        return await self._readers.run(queries.get, table, key)

    async def find(
        self,
        table: type[R],
        where: dict[str, Value],
        *,
        order_by: str = "",
        after: Value = None,
        limit: int = 1000,
    ) -> list[R]:
        return await self._readers.run(queries.find, table, where, order_by, after, limit)

    async def find_many(self, table: type[R], column: str, values: Sequence[str | int]) -> list[R]:
        return await self._readers.run(queries.find_many, table, column, values)

    async def find_prefix(
        self, table: type[R], where: dict[str, Value], column: str, prefix: str, *, limit: int = 20
    ) -> list[R]:
        return await self._readers.run(queries.find_prefix, table, where, column, prefix, limit)

    async def conversation_lines(
        self, user_id: str, *, before: tuple[int, str] | None = None, limit: int = 50
    ) -> list[UnreadLine]:
        return await self._readers.run(queries.conversation_lines, user_id, before, limit)

    async def conversation_line(self, user_id: str, conversation_id: str) -> UnreadLine | None:
        return await self._readers.run(queries.conversation_line, user_id, conversation_id)

    async def last_messages(
        self, conversation_ids: Sequence[str]
    ) -> dict[str, tuple[Entry, MessageState | None]]:
        return await self._readers.run(queries.last_messages, conversation_ids)

    async def device_cursors(self, user_id: str, device_id: str) -> dict[str, int]:
        return await self._readers.run(queries.device_cursors, user_id, device_id)

    async def arrival(self, user_id: str, device_id: str) -> Arrival:
        return await self._arrivals.ask((user_id, device_id))

    async def external_user(self, app_id: str, external_id: str) -> tuple[User, bool] | None:
        return await self._external_users.ask((app_id, external_id))

    async def log_in(self, token_hash: str) -> LogIn | None:
        return await self._log_ins.ask(token_hash)

    async def sharing_conversation(self, user_id: str, other_ids: Sequence[str]) -> set[str]:
        return await self._readers.run(queries.sharing_conversation, user_id, other_ids)

    async def heads(self, streams: Sequence[str]) -> dict[str, int]:
        return await self._readers.run(queries.heads, streams)

    async def deleted_seqs(self, conversation_id: str, *, after: int) -> list[int]:
        return await self._readers.run(queries.deleted_seqs, conversation_id, after)


def _data_version(connection: sqlite3.Connection) -> int:
    """SQLite's own count of what other connections have committed; ours alone writes in this process."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


class _Waiter:
    """Let one task wait for one outcome; a waiter that was cancelled ignores it."""

    __slots__ = ("_is_done", "_outcome", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._outcome: Any = None
        self._is_done = False

    def done(self, outcome: Any) -> None:
        self._outcome = outcome
        self._is_done = True
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)

    async def wait(self) -> Any:
        """Raises: the outcome, if it is an error."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        if not self._is_done:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
        if isinstance(self._outcome, HubbubError):
            raise self._outcome
        return self._outcome


def _prepare(directory: Path) -> tuple[WriteLock, NodeLock]:
    """Make the directory and its tables. Raises: StorageUnavailable."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / FILES_NAME).mkdir(mode=0o700, exist_ok=True)
        write_lock = WriteLock(directory)
        try:
            with write_lock.held():
                applied = migrate(directory / DATABASE_NAME)
                os.chmod(directory / DATABASE_NAME, 0o600)  # SQLite gives -wal and -shm the same
            node_lock = NodeLock(directory)
        except BaseException:
            write_lock.close()
            raise
    except (OSError, sqlite3.Error) as exc:
        raise StorageUnavailable(
            f"The data directory {directory} cannot be used: {exc}."
            " Choose another one, or mend its permissions."
        ) from exc
    if applied:
        log.info("store_migrated", directory=str(directory), steps=applied)
    return write_lock, node_lock
