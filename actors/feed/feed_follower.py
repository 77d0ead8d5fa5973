"""Read from the log what other nodes did to posts and authors, so that each page counts it.

One read serves all who ask while it waits to begin: the busier the node, the more pages share one. A node
alone is told everything by its own actors, and reads only once, at its start.
"""

from typing import Final

import structlog
import trio

from actors.feed.index import FeedNode
from actors.ports import FeedReads
from protocol.errors import HubbubError

_PAGE: Final = 1_000  # changes in one read
_INTERVAL_S: Final = 1.0  # between reads that nobody asked for: news of hot authors come from them
_RETRY_S: Final = 0.5

_log = structlog.get_logger(__name__)


class FeedFollower:
    """Keep a FeedNode up to date."""

    def __init__(self, node: FeedNode, reads: FeedReads, *, is_needed: bool) -> None:
        """`is_needed`: there may be other nodes."""
        self.is_needed = is_needed
        self._node = node
        self._reads = reads
        self._is_reading = False
        self._next: trio.Event | None = None  # of the read that has not begun yet
        self._error: HubbubError | None = None

    async def refresh(self) -> None:
        """Return when all is known that was stored before the call. Raises: as the store's reads."""
        while self._is_reading:  # what it finds may be older than this call
            if self._next is None:
                self._next = trio.Event()
            await self._next.wait()
            if self._error is None:
                return
            raise self._error
        await self._read()

    async def run(self) -> None:
        """Read once, and where there are other nodes again and again. Ends only by cancellation."""
        while True:
            try:
                await self.refresh()
            except HubbubError as error:
                _log.warning("feed_changes_unreadable", code=error.code)
                await trio.sleep(_RETRY_S)
                continue
            if not self.is_needed:
                await trio.sleep_forever()
            await trio.sleep(_INTERVAL_S)

    async def _read(self) -> None:
        self._is_reading = True
        try:
            await self._read_changes()
            while (waiting := self._next) is not None:
                self._next = None
                self._error = None
                try:
                    await self._read_changes()
                except HubbubError as error:
                    self._error = error
                    raise
                finally:
                    waiting.set()
        finally:
            self._is_reading = False

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
