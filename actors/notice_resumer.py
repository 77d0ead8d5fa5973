"""Wake actors that have something to tell: after a start, or when their shard was taken over.

What is to be told outlives the actor that has it to tell; whoever runs that actor next takes it up, but only
once something wakes it. Looking is a read of two tables that are mostly empty.
"""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from actors.address import Address
from actors.feed.address import author_address
from actors.messages import Wake
from actors.ports import Log
from actors.router import Router
from protocol.errors import HubbubError, Unavailable
from protocol.notify_records import ChatNotice, NoticeBacklog

PAGE: Final = 256
PAUSE_S: Final = 0.05  # between two pages: each of them reads its state first
SCAN_INTERVAL_S: Final = 30.0  # for actors that could not be woken, or have ended since
RETRY_S: Final = 1.0

_logger = structlog.get_logger()


class NoticeResumer:
    """Wake the conversations and authors of this node's shards that have something to tell; one per node."""

    def __init__(self, log: Log, router: Router, *, owns: Callable[[int], bool]) -> None:
        self._log = log
        self._router = router
        self._owns = owns
        self._has_missed = False  # somebody could not be woken, or found
        self._wake = trio.Event()

    def scan_soon(self) -> None:
        """Look again: shards were taken over just now."""
        self._wake.set()

    async def run(self) -> None:
        """Wake actors until cancelled."""
        while True:
            self._wake = trio.Event()
            self._has_missed = False
            try:
                await self._conversations()
                await self._authors()
            except HubbubError as error:
                _logger.warning("notices_unreadable", code=error.code)
                self._has_missed = True
            delay_s = RETRY_S if self._has_missed else SCAN_INTERVAL_S
            with trio.move_on_after(delay_s):
                await self._wake.wait()

    async def _conversations(self) -> None:
        after = ""
        while True:
            page = await self._log.find(
                ChatNotice, {}, order_by="conversation_id", after=after or None, limit=PAGE
            )
            for row in page:
                self._tell(Address("conversation", row.conversation_id), row.shard)
            if len(page) < PAGE:
                return
            after = page[-1].conversation_id
            await trio.sleep(PAUSE_S)

    async def _authors(self) -> None:
        after = ""
        while True:
            page = await self._log.find(
                NoticeBacklog, {}, order_by="author_id", after=after or None, limit=PAGE
            )
            for author_id, shard in {row.author_id: row.shard for row in page}.items():
                self._tell(author_address(author_id), shard)
            if len(page) < PAGE:
                return
            after = page[-1].author_id  # the rest of this one's are found by the actor itself
            await trio.sleep(PAUSE_S)

    def _tell(self, address: Address, shard: int) -> None:
        if not self._owns(shard):
            return
        try:
            self._router.tell(address, Wake())
        except Unavailable:  # it is being ended, or the node has no room for more actors
            self._has_missed = True
