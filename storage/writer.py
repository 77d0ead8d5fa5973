"""The writer: one thread that owns the only writing connection of the process.

Appends are queued by the Trio thread. The thread takes what is there (no timer), commits it as one
transaction with one fsync, and wakes the Trio thread once per commit. While it commits, the next group
gathers: the slower the disk, the larger the groups. It also runs every checkpoint, so that no checkpoint
ever runs beside a commit.

When the disk fails, it fails closed: what is queued is refused, and nothing is taken until a probe has been
written and read back. Reads go on meanwhile.
"""

import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import trio

from protocol.errors import HubbubError, OutcomeUnknown, Overloaded, StorageUnavailable, Unavailable
from protocol.records import Append, Insert, Put, Row
from storage.locks import WriteLock, WriteLockHeld
from storage.schema import values_of
from storage.transaction import Outcome, StreamCache, Transaction, savepoint

log = structlog.get_logger(__name__)

MAX_QUEUED_BYTES: Final = 8 * 1024 * 1024  # about a second of a slow disk; more is refused, not buffered
_ROOM_BYTES: Final = 1024 * 1024  # what actors may have decided already when they ask for room
MAX_QUEUED_S: Final = 1.0  # an append that would wait longer than this is better retried elsewhere
_MAX_GROUP: Final = 1024  # appends of one commit: tens of ms at most, so that acks keep flowing
_MAX_GROUP_BYTES: Final = 2 * 1024 * 1024
# How long appends that nobody waits for wait for others to share a commit with. A post is pushed by a dozen
# small ones; alone each would cost an fsync and two switches between threads, more than the rows themselves.
_PATIENCE_S: Final = 0.01
_ROW_OVERHEAD_BYTES: Final = 200  # a row's columns and the Python objects around it

# Commits wait for a checkpoint, 10 to 30 ms. Hot pages are in the WAL many times and are copied once, so a
# rare one costs little more than a frequent one: at 8 MiB and 1,000 messages a second it was three a second,
# and 3 % of all messages met one. Recovery after a kill reads that much again, some 0.1 s.
_PASSIVE_AT_BYTES: Final = 64 * 1024 * 1024
_TRUNCATE_AT_BYTES: Final = 256 * 1024 * 1024  # a reader has pinned the WAL for long; wait for it briefly
_TRUNCATE_WAIT_MS: Final = 200
_FRAME_BYTES: Final = 4096 + 24  # a page and its header in the WAL
_IDLE_S: Final = 1.0
_IDLE_WAL_BYTES: Final = 1024 * 1024  # kept for the next writes; an allocated file is quicker to fill
_BUSY_TIMEOUT_MS: Final = 5_000  # for people who write with the sqlite3 shell; our nodes take the write lock
_FIRST_PROBE_S: Final = 0.2
_LAST_PROBE_S: Final = 10.0
_LOOK_S: Final = 1.0  # clients that resend what a kill left unacked come together
_CLOSE_TIMEOUT_S: Final = 30.0  # a hung disk must not keep a node from exiting

# Upper bounds in seconds, for a histogram of commit times.
COMMIT_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

# Primary result codes (https://www.sqlite.org/rescode.html) that say the disk or the file is at fault.
_STORAGE_CODES: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)

Call = Callable[[sqlite3.Connection], Any]


class WriterStats(msgspec.Struct):
    """Counters since the start, for metrics. Written by the writer's thread; read them any time."""

    commit_count: int = 0
    append_count: int = 0
    row_count: int = 0
    duplicate_count: int = 0
    refused_count: int = 0
    commit_s: float = 0.0
    longest_commit_s: float = 0.0
    largest_group: int = 0
    checkpoint_count: int = 0
    checkpointed_bytes: int = 0  # of WAL, which is what the commits have written
    fault_count: int = 0
    commit_buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(COMMIT_BUCKETS_S) + 1))


class _Job:
    """One queued piece of work: an append, or a function that runs in a transaction of its own."""

    __slots__ = ("append", "barriers", "call", "is_patient", "on_done", "outcome", "queued_at", "size_bytes")

    def __init__(
        self, append: Append | None, call: Call | None, on_done: Callable[[Any], None], size_bytes: int
    ) -> None:
        self.append = append
        self.call = call
        self.on_done = on_done
        self.size_bytes = size_bytes
        self.is_patient = append is not None and append.patient
        self.queued_at = time.monotonic()
        self.outcome: Any = None
        self.barriers: list[Callable[[], None]] = []  # called once its owner was told; Trio thread only


class _CommitFailed(Exception):
    """COMMIT itself reported an error; whether it took effect must be found out."""

    def __init__(self, cause: sqlite3.Error, heads: dict[int, tuple[int, int]], is_moved: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.heads = heads
        self.is_moved = is_moved


class Writer:
    """Queue appends from the Trio thread; commit them in groups in a thread of its own."""

    def __init__(self, database: Path, lock: WriteLock, *, synchronous: str = "FULL") -> None:
        self.stats = WriterStats()
        self.fault: str = ""  # why nothing is written now; empty while all is well
        self._database = database
        self._wal = database.with_name(database.name + "-wal")
        self._lock = lock
        self._synchronous = synchronous
        self._token = trio.lowlevel.current_trio_token()
        # Around the outcomes of one commit, so that what follows from them is done together.
        self.delivering: AbstractContextManager[None] = contextlib.nullcontext()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._outstanding: deque[_Job] = deque()  # not yet told to their owners; Trio thread only
        self._queued_bytes = 0
        self._is_closed = False
        self._started = trio.Event()
        self._stopped = trio.Event()
        self._start_error: BaseException | None = None
        # The rest belongs to the thread.
        self._carried: _Job | None = None  # taken from the queue, but for the next transaction
        self._deciding: list[_Job] = []
        self._streams = StreamCache()
        self._heads: dict[int, tuple[int, int]] = {}
        self._identity: tuple[int, int] = (0, 0)
        self._unchecked_bytes = 0.0
        self._wal_factor = 4.0
        self._is_dirty = False
        self._probe_wait_s = _FIRST_PROBE_S
        self._probe_at = 0.0  # by time.monotonic()
        self._recovered_at = float("-inf")
        self._look_until = float("-inf")  # by time.monotonic(); see _try_hard

    # For the Trio thread.

    async def start(self) -> None:
        """Open the connection. Raises: StorageUnavailable."""
        threading.Thread(target=self._run, name="store-writer", daemon=True).start()
        await self._started.wait()
        if self._start_error is not None:
            raise StorageUnavailable(
                f"The store cannot be opened: {self._start_error}"
            ) from self._start_error

    async def aclose(self) -> None:
        """Commit what is queued, checkpoint, close. Takes 30 s at most; cancellation does not cut it
        short.
        """
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(None)
        with trio.move_on_after(_CLOSE_TIMEOUT_S, shield=True) as scope:
            await self._stopped.wait()
        if scope.cancelled_caught:
            log.error("store_writer_hung", waited_s=_CLOSE_TIMEOUT_S)

    @property
    def queued_bytes(self) -> int:
        return self._queued_bytes

    @property
    def queued_count(self) -> int:
        return len(self._outstanding)

    def oldest_s(self) -> float:
        """How long the oldest undecided job has waited, in seconds."""
        if self._outstanding and self._outstanding[0].outcome is None:
            return time.monotonic() - self._outstanding[0].queued_at
        return 0.0

    def append_nowait(self, append: Append, on_done: Callable[[Outcome], None]) -> None:
        """Queue an append. Raises: Overloaded, StorageUnavailable; then `on_done` is never called."""
        if self._is_closed:
            raise StorageUnavailable("The store is closed.")
        if self.fault:
            raise StorageUnavailable(self.fault)
        size_bytes = _size_of(append)
        job = _Job(append, None, on_done, size_bytes)
        self._check_queue(size_bytes, job.queued_at)
        self._queued_bytes += size_bytes
        self._outstanding.append(job)
        self._queue.put(job)

    def check_room(self) -> None:
        """Tell whether an append would be taken now. Raises: Overloaded, StorageUnavailable."""
        if self._is_closed or self.fault:
            raise StorageUnavailable(self.fault or "The store is closed.")
        if self._outstanding:
            self._check_queue(_ROOM_BYTES, time.monotonic())

    def _check_queue(self, size_bytes: int, now: float) -> None:
        outstanding = self._outstanding
        if outstanding:
            if self._queued_bytes + size_bytes > MAX_QUEUED_BYTES:
                raise Overloaded
            oldest = outstanding[0]
            if oldest.outcome is None and now - oldest.queued_at > MAX_QUEUED_S:
                raise Overloaded

    def call_nowait(self, call: Call, on_done: Callable[[Any], None]) -> None:
        """Queue a function to run in a transaction of its own, in order with the appends.

        `on_done` gets what it returns, or a HubbubError. Raises: StorageUnavailable, when closed.
        """
        if self._is_closed:
            raise StorageUnavailable("The store is closed.")
        job = _Job(None, call, on_done, 0)
        self._outstanding.append(job)
        self._queue.put(job)

    def barrier_nowait(self, on_done: Callable[[], None]) -> None:
        """Call `on_done` after all that was queued before is decided, whatever the state of the disk.

        That may be at once. It costs the writer nothing, and divides no group.
        """
        if self._outstanding:
            self._outstanding[-1].barriers.append(on_done)
        else:
            on_done()

    def _deliver(self, jobs: Sequence[_Job]) -> None:
        try:
            with self.delivering:
                for job in jobs:
                    self._outstanding.popleft()
                    self._queued_bytes -= job.size_bytes
                    try:
                        job.on_done(job.outcome)
                    except Exception:
                        # One owner's bug must not lose the acks of the others in the same commit.
                        log.exception("store_callback_failed")
                    for passed in job.barriers:
                        try:
                            passed()
                        except Exception:
                            log.exception("store_callback_failed")
        except Exception:
            # Here it would end the whole process, and not the one connection that it is about.
            log.exception("store_delivery_failed")

    # For the writer's thread.

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            self._connection = connection = self._connect()
            status = os.stat(self._database)
            self._identity = (status.st_dev, status.st_ino)
        except BaseException as exc:
            self._start_error = exc
            if connection is not None:
                connection.close()
            self._tell(self._started.set)
            return
        self._tell(self._started.set)
        try:
            while (group := self._collect()) is not None:  # None: aclose() was called
                if group:
                    self._decide(group)
            self._rest()
        except BaseException:
            log.exception("store_writer_crashed")
            self.fault = "The store's writer has crashed; the node must be restarted."
            self._refuse_rest()
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._tell(self._stopped.set)

    async def wait_stopped(self) -> None:
        """Return when the writer's thread has ended: asked to, or by a bug, which `fault` then tells."""
        await self._stopped.wait()

    def _connect(self) -> sqlite3.Connection:
        # mode=rw: a database that is gone must be an error and never a new, empty one.
        connection = sqlite3.connect(
            f"{self._database.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=512,
            timeout=_BUSY_TIMEOUT_MS / 1000,
        )
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA secure_delete = ON")  # what was redacted is gone from the file, too
        connection.execute("PRAGMA cache_size = -32768")  # KiB; index pages of the busy streams
        return connection

    def _collect(self) -> list[_Job] | None:
        """Wait for work and take what is there: appends up to a group, or one call. None: stop."""
        job = self._carried
        self._carried = None
        if job is None:
            try:
                job = self._queue.get(timeout=self._patience_s())
            except queue.Empty:
                self._rest()
                return []
            if job is None:
                return None
        group = [job]
        size_bytes = job.size_bytes
        wait_until = job.queued_at + _PATIENCE_S if job.is_patient else 0.0
        while job.call is None and len(group) < _MAX_GROUP and size_bytes < _MAX_GROUP_BYTES:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                patience_s = wait_until - time.monotonic() if wait_until else 0.0
                if patience_s <= 0.0:
                    break
                try:
                    job = self._queue.get(timeout=patience_s)
                except queue.Empty:
                    break
            if job is None:
                self._queue.put(None)  # after the jobs that came before it
                break
            if job.call is not None:
                self._carried = job
                break
            if not job.is_patient:
                wait_until = 0.0
            group.append(job)
            size_bytes += job.size_bytes
        return group

    def _patience_s(self) -> float | None:
        if self.fault:
            return max(self._probe_at - time.monotonic(), 0.0)
        return _IDLE_S if self._is_dirty else None

    def _rest(self) -> None:
        """Use a quiet moment: probe a failed disk, or put the WAL into the database."""
        if self.fault:
            self._probe()
        elif self._is_dirty:
            self._checkpoint("TRUNCATE" if self._wal_bytes() > _IDLE_WAL_BYTES else "PASSIVE")
            self._is_dirty = False

    def _decide(self, group: list[_Job]) -> None:
        started_at = time.monotonic()
        if self.fault and started_at >= self._probe_at:
            self._probe()  # work that keeps coming, such as a lease's renewals, must not put it off
        if self.fault:
            for job in group:
                job.outcome = StorageUnavailable(self.fault)
            self._tell(self._deliver, group)
            return
        self._deciding = group
        outcomes: Sequence[Any]
        try:
            outcomes = self._try_hard(group, started_at)
        except _CommitFailed as exc:
            outcomes = self._settle(exc, group)
        except Exception as exc:
            if not _is_storage_fault(exc):
                raise
            self._fail(exc)
            outcomes = [StorageUnavailable(self.fault) for _ in group]
        for job, outcome in zip(group, outcomes, strict=True):
            job.outcome = outcome
        self._deciding = []
        self._count(group, time.monotonic() - started_at)  # before anybody is told, who may look at it
        self._tell(self._deliver, group)
        if self._unchecked_bytes * self._wal_factor > _PASSIVE_AT_BYTES:
            self._checkpoint("TRUNCATE" if self._wal_bytes() > _TRUNCATE_AT_BYTES else "PASSIVE")

    def _try_hard(self, group: list[_Job], now: float) -> list[Any]:
        """Run one transaction, and where one append spoils it a second or third, which leaves that one out.

        Hardly any append repeats a stored one, so at first nobody looks. When one does, the index says so,
        and for a second all groups look first: many that repeat cost no more than the look.
        Raises: _CommitFailed, and faults of the storage; then nothing was stored.
        """
        if now >= self._look_until:
            try:
                return self._attempt(group, looks_up=False)
            except sqlite3.IntegrityError:
                self._look_until = now + _LOOK_S
            except _CommitFailed:
                raise
            except Exception as exc:
                return self._attempt_carefully(group, exc)
        try:
            return self._attempt(group)
        except _CommitFailed:
            raise
        except Exception as exc:
            return self._attempt_carefully(group, exc)

    def _attempt_carefully(self, group: list[_Job], spoiled_by: Exception) -> list[Any]:
        """Judge each append by itself. Raises: what the storage is at fault for."""
        if _is_storage_fault(spoiled_by):
            raise spoiled_by
        log.warning("store_group_retried", error=repr(spoiled_by), append_count=len(group))
        return self._attempt(group, is_careful=True)

    def _attempt(self, group: list[_Job], *, is_careful: bool = False, looks_up: bool = True) -> list[Any]:
        """Run one transaction. Raises: _CommitFailed; anything else means that nothing was stored."""
        self._lock.acquire()
        try:
            connection = self._connection
            self._check_place()
            connection.execute("BEGIN IMMEDIATE")
            transaction = Transaction(connection, self._streams, self._heads, looks_up=looks_up)
            try:
                if not is_careful and len(group) > 1:
                    transaction.prepare([job.append for job in group if job.append is not None])
                outcomes = [self._apply(transaction, job, is_careful=is_careful) for job in group]
                heads = transaction.finish()
            except BaseException:
                self._roll_back()
                raise
            try:
                connection.execute("COMMIT")
            except sqlite3.Error as exc:
                self._roll_back()
                raise _CommitFailed(exc, heads, transaction.has_moved) from exc
            self._heads.update(heads)
            self._is_dirty = True
            return outcomes
        finally:
            self._lock.release()

    def _apply(self, transaction: Transaction, job: _Job, *, is_careful: bool) -> Any:
        if job.append is not None and not is_careful:
            return transaction.add(job.append)
        try:
            if job.append is not None:
                return transaction.add(job.append, is_careful=True)
            assert job.call is not None
            with savepoint(self._connection):
                return job.call(self._connection)
        except HubbubError as exc:
            return exc
        except Exception as exc:
            if _is_storage_fault(exc):
                raise
            log.exception("store_append_failed")
            return Unavailable("internal", f"The store could not take this: {exc}")

    def _roll_back(self) -> None:
        self._streams.clear()
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _check_place(self) -> None:
        """Refuse to write into a file that is no longer in its place: Linux would let us, and lose it."""
        status = os.stat(self._database)
        if (status.st_dev, status.st_ino) != self._identity:
            raise FileNotFoundError(f"{self._database} was replaced by another file")

    # When the disk fails.

    def _fail(self, cause: BaseException) -> None:
        message = (
            f"The store cannot write: {getattr(cause, 'sqlite_errorname', type(cause).__name__)}: {cause}"
        )
        if not self.fault:
            self.stats.fault_count += 1
            is_again = time.monotonic() - self._recovered_at < _LAST_PROBE_S
            # A nearly full disk takes the small probe and not the next group: do not flap.
            self._probe_wait_s = min(self._probe_wait_s * 2, _LAST_PROBE_S) if is_again else _FIRST_PROBE_S
            log.error("store_failed", error=message)
        self.fault = message
        self._probe_later(cause)

    def _probe_later(self, cause: BaseException) -> None:
        if isinstance(cause, WriteLockHeld):
            # It is free as soon as its holder goes on or is killed, and asking costs the disk nothing.
            self._probe_wait_s = _FIRST_PROBE_S
        self._probe_at = time.monotonic() + self._probe_wait_s

    def _settle(self, failed: _CommitFailed, group: list[_Job]) -> list[Any]:
        """Find out whether a COMMIT that reported an error took effect.

        SQLite puts the commit frame last, so usually nothing was stored; but after a failed fsync the frame
        may be on the disk. Only a later commit, which overwrites its place, proves that it is not.
        """
        self._fail(failed.cause)
        try:
            self._write_probe()
        except (sqlite3.Error, OSError, StorageUnavailable):
            self._roll_back()
            return [OutcomeUnknown() for _ in group]
        rows = self._connection.execute("SELECT shard, epoch, head FROM shard")
        stored = {shard: (epoch, head) for shard, epoch, head in rows.fetchall()}
        if any(stored[number][0] != epoch for number, (epoch, _) in failed.heads.items()):
            return [OutcomeUnknown() for _ in group]  # taken over meanwhile: the heads tell nothing of ours
        if failed.is_moved and all(stored[number] == place for number, place in failed.heads.items()):
            log.error("store_commit_succeeded_late", append_count=len(group))
            return [OutcomeUnknown() for _ in group]
        return [StorageUnavailable(f"The store could not commit: {failed.cause}") for _ in group]

    def _probe(self) -> None:
        """End the fault if the database can be written again."""
        try:
            self._write_probe()
        except (sqlite3.Error, OSError, StorageUnavailable) as exc:
            self._roll_back()
            self.fault = f"The store cannot write: {exc}"
            self._probe_wait_s = min(self._probe_wait_s * 2, _LAST_PROBE_S)
            self._probe_later(exc)
            log.debug("store_probe_failed", error=str(exc), next_in_s=self._probe_wait_s)
        else:
            log.info("store_recovered", fault=self.fault)
            self._recovered_at = time.monotonic()
            self.fault = ""

    def _write_probe(self) -> None:
        """Open the database anew and commit something. Raises: what the disk says."""
        self._check_place()
        connection = self._connect()
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._connection = connection
        with self._lock.held(timeout_s=1.0):
            self._check_place()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "INSERT INTO store_info (name, value) VALUES ('probe', ?)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (str(time.time_ns()),),
            )
            connection.execute("COMMIT")

    def _refuse_rest(self) -> None:
        """Answer everything that still comes, after a crash of this thread's own code."""
        for job in self._deciding:
            job.outcome = job.outcome or OutcomeUnknown()
        if self._carried is not None:
            self._carried.outcome = StorageUnavailable(self.fault)
            self._deciding = [*self._deciding, self._carried]
        self._tell(self._deliver, self._deciding)
        while (late := self._queue.get()) is not None:
            late.outcome = StorageUnavailable(self.fault)
            self._tell(self._deliver, [late])

    # Checkpoints.

    def _checkpoint(self, mode: str) -> None:
        """Copy the WAL into the database. A failure costs nothing but a longer WAL."""
        connection = self._connection
        try:
            with self._lock.held():
                connection.execute(f"PRAGMA busy_timeout = {_TRUNCATE_WAIT_MS}")
                try:
                    row = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
                finally:
                    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        except (sqlite3.Error, StorageUnavailable) as exc:
            log.warning("store_checkpoint_failed", mode=mode, error=str(exc))
            self._unchecked_bytes = 0.0
            return
        self.stats.checkpoint_count += 1
        frames = int(row[1])
        self.stats.checkpointed_bytes += max(int(row[2]), 0) * _FRAME_BYTES
        if frames > 0 and self._unchecked_bytes > 0:
            # How much WAL a queued byte costs depends on the load; follow it.
            seen = frames * _FRAME_BYTES / self._unchecked_bytes
            self._wal_factor = min(max((self._wal_factor + seen) / 2, 1.0), 64.0)
        self._unchecked_bytes = 0.0

    def _wal_bytes(self) -> int:
        try:
            return os.stat(self._wal).st_size
        except FileNotFoundError:
            return 0

    # Telling the Trio thread.

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function, *args)

    def _count(self, group: list[_Job], took_s: float) -> None:
        stats = self.stats
        stats.commit_count += 1
        stats.append_count += len(group)
        stats.commit_s += took_s
        stats.longest_commit_s = max(stats.longest_commit_s, took_s)
        stats.largest_group = max(stats.largest_group, len(group))
        for number, bound in enumerate(COMMIT_BUCKETS_S):
            if took_s <= bound:
                stats.commit_buckets[number] += 1
                break
        else:
            stats.commit_buckets[-1] += 1
        for job in group:
            self._unchecked_bytes += job.size_bytes
            if isinstance(job.outcome, HubbubError):
                stats.refused_count += 1
            elif job.append is not None:
                duplicate_count = sum([place.is_duplicate for place in job.outcome])
                stats.row_count += len(job.append.rows) - duplicate_count
                stats.duplicate_count += duplicate_count
        self._unchecked_bytes += 4096  # the pages that every commit touches


def _size_of(append: Append) -> int:
    size_bytes = 0
    for row in append.rows:
        size_bytes += len(row.body) + _ROW_OVERHEAD_BYTES
    for op in append.ops:
        size_bytes += _ROW_OVERHEAD_BYTES
        if isinstance(op, Put | Insert):
            size_bytes += _text_chars(op.row)
    return size_bytes


def _text_chars(row: Row) -> int:
    return sum([len(value) for value in values_of(row) if type(value) is str])


def _is_storage_fault(exc: BaseException) -> bool:
    """Tell a failing disk from a statement that is wrong."""
    if isinstance(exc, OSError | StorageUnavailable):
        return True
    code = getattr(exc, "sqlite_errorcode", None)
    return isinstance(exc, sqlite3.Error) and code is not None and (code & 0xFF) in _STORAGE_CODES
