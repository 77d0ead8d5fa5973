"""Messages that actors post to themselves later: one task and one heap for all actors of a host.

A sleeping task for each would cost 60 µs and a cancel scope; conversations tick several times a second.
"""

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Final

import trio

from actors.rounds import Turn

# What is due so soon after something else goes with it: no tick is so exact, and each wake-up costs 30 µs.
_TOGETHER_S: Final = 0.005
_AT_ONCE: Final = 64  # of one turn; some 50 µs each, and what is left is due at once

Post = Callable[[object], None]


class Timers:
    """Call `post(message)` at its time. For the Trio thread; `run` is the host's own task."""

    def __init__(self, turn: Turn) -> None:
        """`turn`: what is due together is done in one."""
        self._turn = turn
        self._heap: list[tuple[float, int, Post, object]] = []
        self._numbers = count()  # so that equal times keep their order, and messages are never compared
        self._scope = trio.CancelScope()  # ends at the first timer's time
        self._is_over = False

    def post_at(self, when: float, post: Post, message: object) -> None:
        """Post at `when`, by `trio.current_time()`, or some milliseconds around it."""
        heapq.heappush(self._heap, (when, next(self._numbers), post, message))
        if when < self._scope.deadline:
            self._scope.deadline = when

    async def run(self) -> None:
        """Post what is due, until `stop`, which may come before this begins."""
        while not self._is_over:
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf) as self._scope:
                await trio.sleep_forever()
            now = trio.current_time()
            with self._turn:
                for _ in range(_AT_ONCE):
                    if not self._heap or self._heap[0][0] > now + _TOGETHER_S:
                        break
                    _, _, post, message = heapq.heappop(self._heap)
                    post(message)

    def stop(self) -> None:
        """Let `run` return; what has not been due is forgotten."""
        self._is_over = True
        self._scope.cancel()
