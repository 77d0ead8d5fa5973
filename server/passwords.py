"""Hash and check passwords with argon2id, away from the Trio thread and never more than two at a time.

Parameters: 19 MiB, 2 passes, 1 lane: OWASP's Password Storage Cheat Sheet names it as the first choice where
memory is shared with other work. It takes some 30 ms of one core and, with two at a time, 38 MiB. Who comes
when 32 wait already is refused with `overloaded`: a flood of log-ins must not hold up those who are in.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import argon2
import trio

from protocol.errors import Unavailable

T = TypeVar("T")

MEMORY_KIB: Final = 19_456
PASSES: Final = 2
LANES: Final = 1
CONCURRENT_COUNT: Final = 2  # leaves the other cores, or at worst half of two, to the chat
MAX_WAITING_COUNT: Final = 32  # a second of waiting at about 30 ms each


class Passwords:
    """The password hasher of one process."""

    def __init__(
        self, hasher: argon2.PasswordHasher | None = None, *, max_waiting_count: int = MAX_WAITING_COUNT
    ) -> None:
        self._hasher = hasher or argon2.PasswordHasher(
            time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES, type=argon2.Type.ID
        )
        self._limiter = trio.CapacityLimiter(CONCURRENT_COUNT)
        self._max_waiting_count = max_waiting_count
        self._nobodys_hash = ""

    async def hash(self, password: str) -> str:
        """Hash a new password. Raises: Unavailable(overloaded)."""
        return await self._run(partial(self._hasher.hash, password))

    async def verify(self, stored_hash: str, password: str) -> tuple[bool, str]:
        """Tell whether the password is right, and its new hash where the old one's parameters are outdated.

        An empty stored hash (no such user, or one without a password) costs as much as a wrong password, so
        that nobody learns from the time which names exist. Raises: Unavailable(overloaded).
        """
        if not stored_hash and not self._nobodys_hash:
            self._nobodys_hash = await self.hash("nobody's password")
        is_right = await self._run(partial(self._check, stored_hash or self._nobodys_hash, password))
        if not (is_right and stored_hash):
            return False, ""
        if self._hasher.check_needs_rehash(stored_hash):
            return True, await self.hash(password)
        return True, ""

    def _check(self, stored_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored_hash, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._limiter.statistics().tasks_waiting >= self._max_waiting_count:
            raise Unavailable("overloaded", "Too many people are logging in just now.", retry_after_s=2.0)
        return await trio.to_thread.run_sync(work, limiter=self._limiter)
