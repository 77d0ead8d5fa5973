"""How many requests one host may have under way: as many as it has earned by answering.

Endpoints of Web Push are anybody's to register, and one that never answers holds a hand of the channel until
the request times out. So a host begins with two, gets one more for each answer, and half as many with each
failure, as TCP does with its window (RFC 5681, section 3.1). Hosts that have earned nothing share a quarter
of the hands, as names are free: whoever has a domain has as many hosts as he likes.
"""

from typing import Final

from actors.notify.job import Job

FIRST_ROOM: Final = 2
STRANGERS_SHARE: Final = 0.25  # of the hands, for hosts that have earned nothing


class Room:
    """The requests of some hosts together, or of one. A job that has lost its slot is out of the room."""

    __slots__ = ("_inside", "size")

    def __init__(self, size: int = FIRST_ROOM) -> None:
        self.size = size
        self._inside: set[Job] = set()

    @property
    def is_full(self) -> bool:
        """Tell whether nobody may come in. Looks at those inside only when there are that many."""
        if len(self._inside) >= self.size:
            self._inside = {job for job in self._inside if job.slot != "none"}
        return len(self._inside) >= self.size

    @property
    def is_strange(self) -> bool:
        """Tell whether its host has earned nothing, or lost it."""
        return self.size <= FIRST_ROOM

    def enter(self, job: Job) -> None:
        """Let a job in that gets its slot now."""
        self._inside.add(job)

    def earn(self) -> None:
        """It has answered."""
        self.size += 1

    def fail(self) -> None:
        """It has not, or with a failure."""
        self.size = max(FIRST_ROOM, self.size // 2)
