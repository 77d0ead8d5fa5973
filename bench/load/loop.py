"""The event loop of the load generator: epoll, timers, and nothing that costs more than the sockets do.

Not Trio, not asyncio: a client that spends 30 µs per event on tasks measures itself. Everything runs in one
thread, by plain calls.
"""

import heapq
import select
import time
from collections.abc import Callable
from itertools import count
from typing import Final

READABLE: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
WRITABLE: Final = select.EPOLLOUT

now = time.perf_counter
"""The clock of all that is measured, in seconds."""

_MAX_EVENTS: Final = 4096
_COARSE_S: Final = 0.002  # nearer timers are waited for exactly: epoll may be late by up to a millisecond
_MAX_SELECT_FD: Final = 1024  # FD_SETSIZE: select() takes no descriptor above it


class TimedOut(TimeoutError):
    """What a run waited for did not happen in time; the message says what that was."""


class Loop:
    """Call handlers when their sockets are ready and timers when they are due."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def watch(self, fd: int, handler: Callable[[int], None], events: int = READABLE) -> None:
        """Call `handler(events)` whenever the socket is ready."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Change what a watched socket waits for."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Watch a socket no more; call before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call once, at `when` or as soon after it as the loop gets there."""
        heapq.heappush(self._timers, (when, next(self._numbers), call))

    def run_until(self, is_done: Callable[[], bool], *, timeout_s: float, what: str) -> None:
        """Run until `is_done()`, which is asked after each round of events.

        Raises: TimedOut, naming `what` was waited for.
        """
        give_up_at = now() + timeout_s
        while not is_done():
            at = now()
            if at >= give_up_at:
                raise TimedOut(f"{what}: not within {timeout_s:g} s")
            self._round(min(give_up_at - at, 0.5))

    def run_for(self, seconds: float) -> None:
        """Run for so long."""
        until = now() + seconds
        while (left_s := until - now()) > 0:
            self._round(left_s)

    def close(self) -> None:
        """Free the epoll descriptor."""
        self._epoll.close()

    def _round(self, longest_s: float) -> None:
        timers = self._timers
        if timers and (due_in_s := timers[0][0] - now()) < longest_s:
            longest_s = self._wait_exactly(due_in_s)
        handlers = self._handlers
        for fd, events in self._epoll.poll(longest_s, _MAX_EVENTS):
            handler = handlers.get(fd)
            if handler is not None:  # forgotten in this very round
                handler(events)
        while timers and timers[0][0] <= now():
            heapq.heappop(timers)[2]()

    def _wait_exactly(self, due_in_s: float) -> float:
        """Wait for events until a timer is due, if that is soon; return how long epoll may wait yet.

        epoll counts in milliseconds and rounds up, which would make sends late; select() counts in
        microseconds, and an epoll descriptor is readable when it has events. The alternative, to spin through
        the last millisecond, takes a whole core at 1,000 timers a second.
        """
        if due_in_s > _COARSE_S:
            return due_in_s - _COARSE_S
        if due_in_s > 0 and self._epoll.fileno() < _MAX_SELECT_FD:
            select.select((self._epoll,), (), (), due_in_s)
        return 0.0
