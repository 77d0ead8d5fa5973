"""Whose command is being looked at: one of each reader at a time, the others behind it as they came."""

from collections import deque
from typing import Final, Generic, TypeVar

from protocol.errors import Unavailable

MAX_WAITING: Final = 64  # of one reader: what one connection may have unanswered

T = TypeVar("T")


class Turns(Generic[T]):
    """Keep the order of each reader's commands; readers do not wait for each other."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}

    def __len__(self) -> int:
        """How many readers have a command in hand."""
        return len(self._waiting)

    def join(self, user_id: str, command: T) -> bool:
        """Take up a command. True: it is its turn, and `leave` is owed; else `leave` returns it later.

        Raises: Unavailable("busy"), with too many before it.
        """
        waiting = self._waiting.get(user_id)
        if waiting is None:
            self._waiting[user_id] = deque()
            return True
        if len(waiting) >= MAX_WAITING:
            raise Unavailable("busy", "Earlier commands are still waiting.", retry_after_s=0.1)
        waiting.append(command)
        return False

    def leave(self, user_id: str) -> T | None:
        """End a turn; returns the command whose turn it is now, for which `leave` is owed again."""
        waiting = self._waiting[user_id]
        if waiting:
            return waiting.popleft()
        del self._waiting[user_id]
        return None
