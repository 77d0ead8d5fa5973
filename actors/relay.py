"""Deliver durable tells: stored with their cause, retried until their target has stored their effect.

A tell is removed by the same append that stores its effect, so it happens once however often it is delivered.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog
import trio

from actors.address import Address
from actors.messages import Told
from actors.ports import Log
from actors.reply import Reply
from actors.router import Router
from protocol.errors import HubbubError
from protocol.records import Tell

MAX_IN_FLIGHT: Final = 128  # half of a mailbox, if all should go to one actor
MAX_HINTS: Final = 4096  # what overflows is found by the next scan
SCAN_INTERVAL_S: Final = 30.0  # for tells whose node died; hints make the others immediate
RETRY_S: Final = 1.0

_logger = structlog.get_logger()


class _Receipt:
    """The reply of one tell in flight."""

    __slots__ = ("is_done", "relay", "tell_id")

    def __init__(self, relay: "TellRelay", tell_id: str) -> None:
        self.relay = relay
        self.tell_id = tell_id
        self.is_done = False

    def resolve(self, value: object) -> None:
        if not self.is_done:
            self.is_done = True
            self.relay.concluded(self.tell_id, None)

    def fail(self, error: HubbubError) -> None:
        if not self.is_done:
            self.is_done = True
            self.relay.concluded(self.tell_id, error)


class TellRelay:
    """Carry tells from the store to their targets; run one per node."""

    def __init__(self, log: Log, router: Router) -> None:
        self._log = log
        self._router = router
        self._queue: deque[Tell] = deque()
        self._in_flight: set[str] = set()
        self._must_scan = True
        self._failed = False
        self._wake = trio.Event()

    @property
    def depth(self) -> int:
        """How many tells wait or are in flight here; more may lie in the store."""
        return len(self._queue) + len(self._in_flight)

    def hint(self, tells: Sequence[Tell]) -> None:
        """These were committed just now: deliver them without waiting for a scan."""
        if len(self._queue) + len(tells) > MAX_HINTS:
            self._must_scan = True
        else:
            self._queue.extend(tells)
        self._wake.set()

    def concluded(self, tell_id: str, error: HubbubError | None) -> None:
        """A tell was stored by its target, or was not taken this time."""
        self._in_flight.discard(tell_id)
        if error is not None:
            self._failed = True
            self._must_scan = True
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled; what is not delivered then is found by the next start's scan."""
        while True:
            while self._queue and len(self._in_flight) < MAX_IN_FLIGHT:
                self._deliver(self._queue.popleft())
            if self._must_scan and not self._queue and not self._in_flight:
                if self._failed:
                    self._failed = False
                    await trio.sleep(RETRY_S)
                await self._scan()
                continue
            self._wake = trio.Event()
            with trio.move_on_after(SCAN_INTERVAL_S) as scope:
                await self._wake.wait()
            if scope.cancelled_caught:
                self._must_scan = True

    def _deliver(self, tell: Tell) -> None:
        if tell.tell_id in self._in_flight:
            return
        self._in_flight.add(tell.tell_id)
        receipt: Reply = _Receipt(self, tell.tell_id)
        self._router.ask_nowait(Address(tell.kind, tell.target_id), Told(tell.tell_id, tell.body), receipt)

    async def _scan(self) -> None:
        """Read the oldest tells that are still stored."""
        self._must_scan = False
        try:
            tells = await self._log.find(Tell, {}, order_by="at_ms", limit=MAX_IN_FLIGHT)
        except HubbubError as error:
            _logger.warning("tells_unreadable", code=error.code)
            self._failed = self._must_scan = True
            return
        if len(tells) == MAX_IN_FLIGHT:
            self._must_scan = True
        self._queue.extend(tells)
