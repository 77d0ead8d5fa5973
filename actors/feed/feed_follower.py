"""Read from the log what other nodes did to posts and authors, so that each page counts it.

One read serves all who ask while it waits to begin: the busier the node, the more pages share one. A node
alone is told everything by its own actors, and reads only once, at its start.
"""

from typing import Final

import structlog
import trio

from actors.feed.index import FeedNode
from actors.ports import FeedReads
from protocol.errors import HubbubError, Unavailable

_PAGE: Final = 1_000  # changes in one read
_INTERVAL_S: Final = 1.0  # between reads that nobody asked for: news of hot authors come from them
_RETRY_S: Final = 0.5

_log = structlog.get_logger(__name__)


class _Round:
    """One read, and those who wait for it."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: HubbubError | None = None

    def fail(self, error: HubbubError) -> None:
        self.error = error
        self.done.set()


class FeedFollower:
    """Keep a FeedNode up to date. `run` is the only one that reads."""

    def __init__(self, node: FeedNode, reads: FeedReads, *, is_needed: bool) -> None:
        """`is_needed`: there may be other nodes."""
        self.is_needed = is_needed
        self._node = node
        self._reads = reads
        self._next = _Round()  # the read that has not begun yet
        self._wake = trio.Event()

    async def refresh(self) -> None:
        """Return when all is known that was stored before the call. Raises: as the store's reads."""
        if self._node.is_loaded and not self.is_needed:
            return
        waited_for = self._next  # one that runs may have read before this call
        self._wake.set()
        await waited_for.done.wait()
        error = waited_for.error
        if error is not None:  # a copy, as many raise it
            raise Unavailable(error.code, error.message, retry_after_s=error.retry_after_s or _RETRY_S)

    async def run(self) -> None:
        """Read once, then whenever somebody asks, and in a cluster each second. Ends only by cancellation."""
        reading = self._next
        try:
            while True:
                reading, self._next = self._next, _Round()
                self._wake = trio.Event()
                interval_s = _INTERVAL_S if self.is_needed else float("inf")
                try:
                    await self._read_changes()
                except HubbubError as error:
                    _log.warning("feed_changes_unreadable", code=error.code)
                    reading.fail(error)
                    interval_s = _RETRY_S
                else:
                    reading.done.set()
                with trio.move_on_after(interval_s):
                    await self._wake.wait()
        finally:
            for waited_for in (reading, self._next):
                if not waited_for.done.is_set():
                    waited_for.fail(Unavailable("draining", retry_after_s=_RETRY_S))
            self._next = _Round()

    async def _read_changes(self) -> None:
        node = self._node
        if not node.is_loaded:
            state = await self._reads.state()
            node.start(state)
        elif self.is_needed:
            while True:
                changes = await self._reads.changes(node.lsn, limit=_PAGE)
                for change in changes:
                    node.apply(change)
                if len(changes) < _PAGE:
                    return
