"""The readers: a few threads, each with a read-only connection, that answer queries in short transactions.

Writing never waits for them and they never wait for it (WAL). A query that runs for 2 s is interrupted,
because a long read keeps the WAL from being reused.
"""

import contextlib
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple

import structlog
import trio

from protocol.errors import Overloaded, ProtocolError, StorageUnavailable, Unavailable

log = structlog.get_logger(__name__)

QUERY_LIMIT_S: Final = 2.0
MAX_WAITING_READS: Final = 2048  # a thread answers thousands of short reads a second
_INSTRUCTIONS_PER_CHECK: Final = 20_000  # of SQLite's machine: about 1 ms
_CLOSE_TIMEOUT_S: Final = QUERY_LIMIT_S + 3.0

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Read:
    """One query on its way to a thread and back."""

    __slots__ = ("args", "error", "function", "is_abandoned", "on_done", "value")

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], on_done: "Callable[[Read], None]"
    ) -> None:
        self.function = function
        self.args = args
        self.on_done = on_done
        self.value: Any = None
        self.error: Exception | None = None
        self.is_abandoned = False


class Readers:
    """Run query functions `f(connection, *args)` on read-only connections, off the Trio thread."""

    def __init__(self, database: Path, *, count: int = 3, query_limit_s: float = QUERY_LIMIT_S) -> None:
        self.read_count = 0
        self.waiting_count = 0
        self._database = database
        self._count = count
        self._query_limit_s = query_limit_s
        self._token = trio.lowlevel.current_trio_token()
        self._queue: queue.SimpleQueue[Read | None] = queue.SimpleQueue()
        self._answered: deque[Read] = deque()  # by the threads; not yet told to who asked
        self._is_telling = False  # the Trio thread is on its way to `_tell`
        self._running_count = 0
        self._open_count = 0
        self._is_closed = False
        self._opened = trio.Event()
        self._stopped = trio.Event()

    async def start(self) -> None:
        """Open the connections: a database that vanishes later can still be read through them."""
        for number in range(self._count):
            self._running_count += 1
            threading.Thread(target=self._run, name=f"store-reader-{number}", daemon=True).start()
        await self._opened.wait()

    async def run(self, function: Callable[[sqlite3.Connection, *Ts], T], *args: *Ts) -> T:
        """Call `function` in a reader's thread. A cancelled caller leaves at once; the query ends by itself.

        Raises: Overloaded with 2,048 reads waiting; Unavailable "timeout" after 2 s; StorageUnavailable;
        ProtocolError(bad_field), where SQLite can hold no such value: an integer beyond 64 bits, half a
        character.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        read = self.submit(function, args, lambda _: trio.lowlevel.reschedule(task))

        def abort(_: object) -> trio.lowlevel.Abort:
            read.is_abandoned = True
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if read.error is not None:
            raise read.error
        value: T = read.value
        return value

    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], on_done: Callable[[Read], None]
    ) -> Read:
        """As `run`, without waiting: `on_done(read)` is called in the Trio thread, unless it was abandoned.

        Raises: Overloaded, StorageUnavailable; then `on_done` is never called.
        """
        if self._is_closed:
            raise StorageUnavailable("The store is closed.")
        if self.waiting_count >= MAX_WAITING_READS:
            raise Overloaded("Too many reads are waiting.")
        read = Read(function, args, on_done)
        self.waiting_count += 1
        self.read_count += 1
        self._queue.put(read)
        return read

    async def aclose(self) -> None:
        """Answer what waits and close the connections."""
        if not self._is_closed:
            self._is_closed = True
            for _ in range(self._count):
                self._queue.put(None)
        with trio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
            await self._stopped.wait()

    def _tell(self) -> None:
        """Tell those whose reads are answered, all that are by now: a wake-up of this thread is dear."""
        self._is_telling = False  # first: what is answered from here on asks for another call
        while self._answered:
            read = self._answered.popleft()
            self.waiting_count -= 1
            if not read.is_abandoned:
                read.on_done(read)

    def _note_open(self) -> None:
        self._open_count += 1
        if self._open_count == self._count:
            self._opened.set()

    def _leave(self) -> None:
        self._running_count -= 1
        if self._running_count == 0:
            self._stopped.set()

    # In a reader's thread.

    def _run(self) -> None:
        reader = _Connection(self._database, self._query_limit_s)
        try:
            with contextlib.suppress(sqlite3.Error):  # the first read will tell
                reader.open()
            self._token.run_sync_soon(self._note_open)
            while (read := self._queue.get()) is not None:  # None: aclose() was called
                if not read.is_abandoned:
                    reader.answer(read)
                self._answered.append(read)
                if not self._is_telling:
                    self._is_telling = True
                    with contextlib.suppress(trio.RunFinishedError):
                        self._token.run_sync_soon(self._tell)
        finally:
            reader.close()
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._leave)


class _Connection:
    """A read-only connection that is opened on demand, and anew after an error."""

    def __init__(self, database: Path, query_limit_s: float) -> None:
        self._database = database
        self._query_limit_s = query_limit_s
        self._connection: sqlite3.Connection | None = None
        self._deadline = 0.0

    def answer(self, read: Read) -> None:
        try:
            connection = self._connection or self.open()
            self._deadline = time.monotonic() + self._query_limit_s
            read.value = read.function(connection, *read.args)
        except sqlite3.Error as exc:
            # What Python itself says, as of a text that is no UTF-8, has no code of SQLite's.
            if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                log.warning("store_read_too_long", query=getattr(read.function, "__name__", ""))
                read.error = Unavailable("timeout", "The query took too long and was interrupted.")
                return
            log.exception("store_read_failed", query=getattr(read.function, "__name__", ""))
            read.error = StorageUnavailable(f"The store cannot read: {exc}")
            read.error.__cause__ = exc
            self.close()
        except (OverflowError, UnicodeEncodeError) as exc:  # no column holds it, so it is nowhere
            read.error = ProtocolError("bad_field", f"The store knows no such value: {exc}")
            read.error.__cause__ = exc
        except Exception as exc:  # the caller's own, such as a wrong column: it is raised there
            read.error = exc

    def open(self) -> sqlite3.Connection:
        self._deadline = time.monotonic() + self._query_limit_s
        self._connection = connection = open_read_only(self._database)
        connection.execute("PRAGMA query_only = ON")
        connection.set_progress_handler(self._is_late, _INSTRUCTIONS_PER_CHECK)
        connection.execute("SELECT 1 FROM shard LIMIT 1").fetchall()  # opens the WAL, too
        return connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline


def open_read_only(database: Path) -> sqlite3.Connection:
    """Open a connection that cannot write, for this thread or another.

    Being read-only it never checkpoints either, not even when it is the last to close.
    """
    return sqlite3.connect(
        f"{database.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        timeout=5.0,
    )
