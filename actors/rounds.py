"""Do many small things in one go: what several tasks ask for within one round of the event loop."""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import trio

T = TypeVar("T")

# Some 20 µs each: others wait for a millisecond or two at most.
_AT_ONCE: Final = 64


class Rounds(Generic[T]):
    """Gather items; hand them to `handle` when those tasks have run that could run.

    One task switch serves all of them. For the Trio thread. `handle` does not raise.
    """

    def __init__(self, handle: Callable[[T], None]) -> None:
        self._handle = handle
        self._items: list[T] = []
        self._task: trio.lowlevel.Task | None = None

    def add(self, item: T) -> None:
        """Have this item handled in the next round. Items keep their order."""
        self._items.append(item)
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    async def run(self) -> None:
        """Handle rounds until cancelled."""
        handle = self._handle
        while True:
            if self._items:
                items, self._items = self._items, []
                for index, item in enumerate(items, 1):
                    handle(item)
                    if index % _AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
            else:
                self._task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_wait)

    def _abort_wait(self, _raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
