"""Wake authors whose posts are still being pushed: after a start, or when their shard was taken over.

The job of a post outlives its author's actor; whoever runs that actor next takes the job up, but only once
something wakes it. Looking is one read of a table that is mostly empty.
"""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from actors.feed.address import author_address
from actors.messages import Wake
from actors.ports import Log
from actors.router import Router
from protocol.errors import HubbubError

PAGE: Final = 128  # authors woken at a time
PAUSE_S: Final = 0.1  # between two pages: each of them reads its followers first
SCAN_INTERVAL_S: Final = 30.0  # for authors whose actor could not be woken, or has ended since
RETRY_S: Final = 1.0

_logger = structlog.get_logger()


class FanoutResumer:
    """Find unfinished jobs of this node's shards; run one per node."""

    def __init__(self, log: Log, router: Router, *, owns: Callable[[int], bool]) -> None:
        self._log = log
        self._router = router
        self._owns = owns
        self._scan_at = float("-inf")  # trio.current_time() seconds
        self._after = ""  # the last author of a full page, where the scan goes on
        self._wake = trio.Event()

    def scan_soon(self) -> None:
        """Look for the jobs of shards that were taken over just now."""
        self._scan_at = trio.current_time()
        self._after = ""
        self._wake.set()

    async def run(self) -> None:
        """Wake authors until cancelled."""
        self._scan_at = trio.current_time()
        while True:
            if trio.current_time() >= self._scan_at:
                await self._scan()
                continue
            self._wake = trio.Event()
            with trio.move_on_at(self._scan_at):
                await self._wake.wait()

    async def _scan(self) -> None:
        """Wake the next page of authors."""
        after, self._after = self._after, ""
        self._scan_at = now = trio.current_time()
        next_at = now + SCAN_INTERVAL_S
        try:
            found = await self._log.posts.unfinished(after=after, limit=PAGE)
            for author_id, shard in found:
                if self._owns(shard):
                    self._router.tell(author_address(author_id), Wake())
        except HubbubError as error:
            # The store cannot be read, or the node has no room for more actors: those of this page wait.
            _logger.warning("fanouts_not_resumed", code=error.code)
            next_at = now + max(RETRY_S, error.retry_after_s or 0.0)
        else:
            if len(found) == PAGE:
                after, next_at = found[-1][0], now + PAUSE_S
            else:
                after = ""
        if self._scan_at == now:  # else a look at all of them was asked for meanwhile
            self._scan_at, self._after = next_at, after
