"""Answers that are held back until they are let go: whoever tests has all the time it takes in between."""

from collections.abc import Callable, Collection
from typing import Final

import trio

_READ_BYTES: Final = 64 * 1024
_MAX_AHEAD_BYTES: Final = 1024 * 1024  # that a peer sends while its answer is held; then it is not read


class Hold:
    """Where the answers of one rule wait, at one service. Each waits in a task of its connection, and ends
    with that. Once let go, nothing is held here any more: a release cannot come too early."""

    def __init__(self, changed: trio.lowlevel.ParkingLot) -> None:
        self._changed = changed
        self._released = trio.Event()
        self.count = 0  # answers that wait now

    async def wait(self) -> None:
        """Wait until the answer may go."""
        self.count += 1
        self._changed.unpark_all()
        try:
            await self._released.wait()
        finally:
            self.count -= 1

    async def wait_with(self, stream: trio.abc.ReceiveStream, take: Callable[[bytes], object]) -> bool:
        """Wait until the answer may go, or until nobody is there for it: then False.

        Only by reading is it known that a peer has gone; `take` gets what it sent ahead meanwhile.
        """
        is_there = True
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                nonlocal is_there
                ahead_bytes = 0
                try:
                    while data := await stream.receive_some(_READ_BYTES):
                        take(bytes(data))
                        ahead_bytes += len(data)
                        if ahead_bytes > _MAX_AHEAD_BYTES:
                            return
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                is_there = False
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            await self.wait()
            nursery.cancel_scope.cancel()
        return is_there

    def release(self) -> int:
        """Let go what waits, and what is still to come; returns how many waited."""
        self._released.set()
        return self.count


class Holds:
    """The holds of all rules in force, by rule and service."""

    def __init__(self) -> None:
        self._holds: dict[tuple[int, str], Hold] = {}
        self._changed = trio.lowlevel.ParkingLot()

    def add(self, rule_id: int, services: Collection[str]) -> None:
        """Let the answers of a rule wait."""
        for service in services:
            self._holds[rule_id, service] = Hold(self._changed)

    def of(self, rule_id: int, service: str) -> Hold | None:
        """Return where an answer waits, if it does."""
        return self._holds.get((rule_id, service))

    def remove(self, rule_id: int) -> None:
        """Let go what waits by a rule that ends."""
        for key in [key for key in self._holds if key[0] == rule_id]:
            self._holds.pop(key).release()

    def release(self, services: Collection[str]) -> int:
        """Let go what waits at some services; returns how many waited."""
        return sum(hold.release() for hold in self._at(services))

    def count(self, services: Collection[str]) -> int:
        """Count the answers that wait now."""
        return sum(hold.count for hold in self._at(services))

    async def wait_for(self, services: Collection[str], count: int) -> None:
        """Wait until so many answers wait at once."""
        while self.count(services) < count:
            await self._changed.park()

    def _at(self, services: Collection[str]) -> list[Hold]:
        return [hold for (_, service), hold in self._holds.items() if service in services]
