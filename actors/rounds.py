"""Do many small things in one go: what a turn of the event loop asks for is done at the turn's end.

Actors that took messages want to be flushed, outboxes that got frames to be written. Whoever has many things
to do in one turn (the poller, the store's commits, the timers) says so by `with turn:`, and what they have
asked for is done when they are through, without a task switch. What anybody else asks for, and what is too
much for one turn, is done by a task.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

import trio

T = TypeVar("T")

# Some 20 µs each: others wait for a millisecond or two at most.
_AT_ONCE: Final = 64


class Rounds(Generic[T]):
    """Gather items, and hand them to `handle` in the order in which they came.

    For the Trio thread. `handle` must not raise; what it adds is handled in the next round.
    """

    def __init__(self, handle: Callable[[T], None], turn: "Turn | None" = None) -> None:
        """`turn`: at whose end items are handled that were added in it."""
        self._handle = handle
        self._items: list[T] = []
        self._task: trio.lowlevel.Task | None = None
        self._turn = turn
        if turn is not None:
            turn.rounds.append(self)

    def add(self, item: T) -> None:
        """Have this item handled soon."""
        self._items.append(item)
        if self._turn is None or not self._turn.is_open:
            self._wake()

    def end_turn(self) -> None:
        """Handle what there is, or as much as is good for one turn."""
        if self._items:
            items, self._items = self._items[:_AT_ONCE], self._items[_AT_ONCE:]
            handled_count = 0
            try:
                for item in items:
                    handled_count += 1
                    self._handle(item)
            finally:
                # Nothing is left unless one raised, which is a bug: the others are not to suffer for it.
                self._items[:0] = items[handled_count:]

    def leave_rest(self) -> None:
        """Let the task handle what is left."""
        if self._items:
            self._wake()

    async def run(self) -> None:
        """Handle what no turn has handled, until cancelled."""
        while True:
            self.end_turn()
            if self._items:
                await trio.lowlevel.checkpoint()
            else:
                self._task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_wait)

    def _wake(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def _abort_wait(self, _raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Turn:
    """A stretch of synchronous work whose consequences are dealt with at its end: `with turn: …`.

    Never await inside. Entering it within itself is harmless: the outermost end counts.
    """

    def __init__(self) -> None:
        self.rounds: list[Rounds[Any]] = []  # in the order in which one leads to the next
        self.is_open = False
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1
        self.is_open = True

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        try:
            for rounds in self.rounds:
                rounds.end_turn()
        finally:
            self.is_open = False
            for rounds in self.rounds:
                rounds.leave_rest()
