"""Wake the actors of notifications: after a start, or when their shard was taken over, and now and then.

They have timers and queues of their own, which only run while they are awake; nobody else would wake them.
"""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from actors.address import Address
from actors.messages import Wake
from actors.notify.address import app_address, partition_address
from actors.notify.timekeeper import RETENTION_MS, TIDY_S
from actors.ports import WallClock
from actors.router import Router
from protocol.errors import HubbubError, Unavailable
from protocol.notify_found import NotifyReads
from protocol.notify_records import PARTITION_COUNT

SCAN_INTERVAL_S: Final = 15.0  # for those that could not be woken, or have ended since
RETRY_S: Final = 1.0

_logger = structlog.get_logger()


class NotifyResumer:
    """Wake this node's partitions and apps; run one per node."""

    def __init__(
        self, reads: NotifyReads, router: Router, *, owns: Callable[[int], bool], now_ms: WallClock
    ) -> None:
        self._reads = reads
        self._router = router
        self._owns = owns
        self._now_ms = now_ms
        self._tidied_at_s = float("-inf")
        self._wake = trio.Event()

    def scan_soon(self) -> None:
        """Shards were taken over just now."""
        self._wake.set()

    async def run(self) -> None:
        """Wake them until cancelled."""
        while True:
            self._wake = trio.Event()
            delay_s = await self._scan()
            with trio.move_on_after(delay_s):
                await self._wake.wait()

    async def _scan(self) -> float:
        delay_s = SCAN_INTERVAL_S
        addresses = [partition_address(partition) for partition in range(PARTITION_COUNT)]
        try:
            app_ids = set(await self._reads.apps_with_requests())
            if trio.current_time() - self._tidied_at_s >= TIDY_S:  # an app with nothing to do is not awake
                app_ids.update(await self._reads.apps_with_ended_requests(self._now_ms() - RETENTION_MS))
                self._tidied_at_s = trio.current_time()
            addresses += [app_address(app_id) for app_id in sorted(app_ids)]
        except HubbubError as error:
            _logger.warning("requests_unreadable", code=error.code)
            delay_s = RETRY_S
        for address in addresses:
            if self._owns(address.shard) and not self._woke(address):
                delay_s = RETRY_S
        return delay_s

    def _woke(self, address: Address) -> bool:
        try:
            self._router.tell(address, Wake())
        except Unavailable:
            return False
        return True
