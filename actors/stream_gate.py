"""In what order the events of one stream pass to the listeners of this node: each once, none left out.

Events come from the stream's owner, over a lane that may lose some; while a shard moves, for a moment from
two owners. What was passed already is left out. What follows a hole waits until the hole has been read from
the store, which is the truth; a hole too long to be filled becomes a resync.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

UNKNOWN: Final = -1  # an empty stream stands at 0, and its first event must not be missed either
MAX_WAITING: Final = 256  # events behind a hole: as many as an actor's mailbox; then a resync is cheaper


class Healer(Protocol):
    """Read from the store what the lanes have lost; actors.healer fits this."""

    def fill(self, stream: str, after: int) -> None:
        """Read the entries after that seq, soon, and give them to `Hub.filled`. Does not block."""
        ...


class Passage(Enum):
    """What to do with an event that arrives."""

    PASS = "pass"
    LEAVE_OUT = "leave_out"
    WAIT = "wait"
    FILL = "fill"  # wait, and have the hole before it read


class StreamGate:
    """Where one stream stands for the listeners of this node, and what waits behind a hole."""

    __slots__ = ("first", "head", "is_too_far", "last", "waiting")

    def __init__(self) -> None:
        self.head = UNKNOWN  # the last seq that passed
        self.first = 0  # the first one that passed, where nothing was known before it
        self.last = 0  # the last one that is known to be stored, while a hole is being read
        self.waiting: list[tuple[int, Callable[[], None]]] | None = None  # while a hole is being read
        self.is_too_far = False  # more came behind the hole than may wait

    @property
    def is_known(self) -> bool:
        """Tell whether it is known where the stream stands."""
        return self.head >= 0

    @property
    def is_open(self) -> bool:
        """Tell whether no hole is being read."""
        return self.waiting is None

    def judge(self, seq: int) -> Passage:
        """Decide on an event; nothing is changed."""
        if self.waiting is not None:
            return Passage.LEAVE_OUT if seq <= self.head else Passage.WAIT
        if seq == self.head + 1 or not self.is_known:
            return Passage.PASS
        return Passage.LEAVE_OUT if seq <= self.head else Passage.FILL

    def passed(self, seq: int) -> None:
        """Move on to an event that passes."""
        if self.head < 0:
            self.first = seq
        self.head = seq

    def close(self, last: int) -> None:
        """Let everything wait until the hole before `last` is read."""
        if self.waiting is None:
            self.waiting = []
        self.last = max(self.last, last)

    def hold(self, seq: int, release: Callable[[], None]) -> None:
        """Keep an event until the hole before it is filled."""
        self.close(seq)
        assert self.waiting is not None
        if len(self.waiting) < MAX_WAITING:
            self.waiting.append((seq, release))
        else:
            self.is_too_far = True

    def reopen(self) -> list[tuple[int, Callable[[], None]]]:
        """End the waiting; returns what waited, by rising seq."""
        waiting, self.waiting = self.waiting or [], None
        self.last, self.is_too_far = 0, False
        return sorted(waiting, key=lambda held: held[0])
