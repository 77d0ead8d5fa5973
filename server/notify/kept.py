"""A value that is read when asked for, and then kept: so that many who look cost no more than one."""

from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import trio

COST_FACTOR: Final = 20.0  # so reading takes at most a twentieth of one reader's time

T = TypeVar("T")


class Kept(Generic[T]):
    """A value that is read when asked for, and then kept. Who asks while it is read waits with the first."""

    def __init__(
        self, read: Callable[[], Awaitable[T]], kept_s: float, *, cost_factor: float = COST_FACTOR
    ) -> None:
        """It is kept for `kept_s`, or for `cost_factor` times as long as reading took, if that is longer."""
        self._read = read
        self._kept_s = kept_s
        self._cost_factor = cost_factor
        self._reading = trio.Lock()
        self._value: T | None = None
        self._until = -1.0

    async def get(self) -> T:
        """The value, read anew where it is too old. Raises: HubbubError; then the next one reads again."""
        async with self._reading:
            began = trio.current_time()
            if self._value is None or began >= self._until:
                self._value = await self._read()
                now = trio.current_time()
                self._until = now + max(self._kept_s, self._cost_factor * (now - began))
            return self._value
