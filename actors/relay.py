"""Deliver durable tells: stored with their cause, retried until their target has stored their effect.

A tell is removed by the same append that stores its effect, so it happens once however often it is delivered.
Tells of one target are delivered in the order of their ids: when one is not taken, those behind it wait for
the scan that finds it again. A target that takes nothing holds up nobody else; nor does one app of which a
target can take nothing hold up what it is told of others.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
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
_MAX_SET_ASIDE: Final = 10_000  # tells that crash their target are remembered; the oldest is tried again
# Refusals that concern the tell's app alone: a target that speaks for many apps takes those of others.
_OF_ONE_APP: Final = frozenset({"setup_unreadable"})

_logger = structlog.get_logger()


class _Receipt:
    """The reply of one tell in flight."""

    __slots__ = ("address", "is_done", "relay", "tell_id")

    def __init__(self, relay: "TellRelay", tell_id: str, address: Address) -> None:
        self.relay = relay
        self.tell_id = tell_id
        self.address = address
        self.is_done = False

    def resolve(self, value: object) -> None:
        if not self.is_done:
            self.is_done = True
            self.relay.concluded(self.tell_id, self.address, None)

    def fail(self, error: HubbubError) -> None:
        if not self.is_done:
            self.is_done = True
            self.relay.concluded(self.tell_id, self.address, error)


class TellRelay:
    """Carry tells from the store to their targets; run one per node."""

    def __init__(self, log: Log, router: Router, *, owns: Callable[[int], bool]) -> None:
        """`owns`: whether this node runs a shard's actors. Each node scans for what is owed to its own.

        What it could not hand over to others' it finds as well, or a later tell would pass an earlier one.
        """
        self._log = log
        self._router = router
        self._owns = owns
        self._queue: deque[Tell] = deque()
        self._in_flight: set[str] = set()
        self._blocked: dict[Address, float] = {}  # target -> not before; what is hinted meanwhile is scanned
        # Whose block ended with the scan under way: it takes up what they are owed, wherever they run.
        self._released: set[Address] = set()
        self._set_aside: OrderedDict[str, None] = OrderedDict()  # kept for the operator, as dead letters are
        self._put_off: OrderedDict[str, float] = OrderedDict()  # tell -> not before; the others go on
        self._concluded: set[str] | None = None  # while a scan is under way: what it may still show
        self._scan_at = float("-inf")  # trio.current_time() seconds
        self._scanned_to: str | None = None  # the last tell_id of a full page, where the scan goes on
        self._wake = trio.Event()

    @property
    def depth(self) -> int:
        """How many tells wait or are in flight here; more may lie in the store."""
        return len(self._queue) + len(self._in_flight)

    def hint(self, tells: Sequence[Tell]) -> None:
        """These were committed just now: deliver them without waiting for a scan."""
        if len(self._queue) + len(tells) > MAX_HINTS:
            now = trio.current_time()
            for tell in tells:
                self._block(Address(tell.kind, tell.target_id), now)
        else:
            self._queue.extend(tells)
        self._wake.set()

    def concluded(self, tell_id: str, address: Address, error: HubbubError | None) -> None:
        """A tell was stored by its target, or was not taken this time."""
        self._in_flight.discard(tell_id)
        if error is None:
            if self._concluded is not None:
                self._concluded.add(tell_id)
        elif error.code == "crashed":
            _logger.error("tell_set_aside", actor=str(address), tell_id=tell_id)
            self._set_aside[tell_id] = None
            if len(self._set_aside) > _MAX_SET_ASIDE:
                self._set_aside.popitem(last=False)
        elif error.code in _OF_ONE_APP:
            self._put_off[tell_id] = trio.current_time() + max(RETRY_S, error.retry_after_s or 0.0)
            if len(self._put_off) > _MAX_SET_ASIDE:
                self._put_off.popitem(last=False)
        else:
            self._block(address, trio.current_time() + max(RETRY_S, error.retry_after_s or 0.0))
        self._wake.set()

    def scan_soon(self) -> None:
        """Look for what is owed to shards that were taken over just now."""
        self._scan_at = trio.current_time()
        self._scanned_to = None
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled; what is not delivered then is found by the next start's scan."""
        self._scan_at = trio.current_time()
        while True:
            while self._queue and len(self._in_flight) < MAX_IN_FLIGHT:
                self._deliver(self._queue.popleft())
            has_room = not self._queue and len(self._in_flight) < MAX_IN_FLIGHT
            if has_room and trio.current_time() >= self._scan_at:
                await self._scan()
                continue
            self._wake = trio.Event()
            with trio.move_on_at(self._scan_at if has_room else float("inf")):
                await self._wake.wait()

    def _deliver(self, tell: Tell) -> None:
        address = Address(tell.kind, tell.target_id)
        if tell.tell_id in self._in_flight or tell.tell_id in self._set_aside or address in self._blocked:
            return
        if self._put_off:
            if self._put_off.get(tell.tell_id, 0.0) > trio.current_time():
                return
            self._put_off.pop(tell.tell_id, None)
        self._in_flight.add(tell.tell_id)
        receipt: Reply = _Receipt(self, tell.tell_id, address)
        self._router.ask_nowait(address, Told(tell.tell_id, tell.body), receipt)

    def _block(self, address: Address, until: float) -> None:
        """Deliver nothing more to a target until a scan at that time, which finds all that it is owed."""
        self._blocked[address] = until
        self._scan_at = min(self._scan_at, until)
        self._scanned_to = None  # the scan that is under way may have passed it

    async def _scan(self) -> None:
        """Queue the next page of tells that are still stored."""
        now = trio.current_time()
        if self._scanned_to is None:
            self._released = {address for address, until in self._blocked.items() if until <= now}
            self._blocked = {address: until for address, until in self._blocked.items() if until > now}
        after, self._scanned_to = self._scanned_to, None
        self._scan_at = min([now + SCAN_INTERVAL_S, *self._blocked.values()])
        self._concluded = set()
        try:
            tells = await self._log.find(Tell, {}, order_by="tell_id", after=after, limit=MAX_IN_FLIGHT)
        except HubbubError as error:
            _logger.warning("tells_unreadable", code=error.code)
            self._scan_at = now + RETRY_S
            return
        finally:
            concluded, self._concluded = self._concluded, None
        if len(tells) == MAX_IN_FLIGHT and self._scan_at > now:
            self._scanned_to = tells[-1].tell_id
            self._scan_at = now
        # What was hinted during the read lies behind what the scan found.
        known = concluded | self._in_flight | {tell.tell_id for tell in self._queue}
        self._queue.extendleft(
            tell for tell in reversed(tells) if tell.tell_id not in known and self._is_mine(tell)
        )

    def _is_mine(self, tell: Tell) -> bool:
        """Tell whether this node delivers it: it runs the target, or has tried before and was refused."""
        return self._owns(tell.shard) or Address(tell.kind, tell.target_id) in self._released
