"""How many open deliveries a partition keeps in memory, and of which line; the rest waits in the store.

A line is what one app sends by one channel with one priority. It may keep as many as are free: so the first
line that gets stuck takes half of the room, the next one half of what is left, and whoever comes after those
still finds some. All that is in a line is counted, whatever it waits for.
"""

from typing import Final, TypeVar

from actors.notify.job import Job
from protocol.notify_found import Line

K = TypeVar("K", str, Line)

MAX_OPEN: Final = 20_000  # deliveries, some 1.5 KB each
MIN_OF_LINE: Final = 16  # which each line may keep, however full it is


class OpenRoom:
    """Count what is in memory. Of a partition; all calls return at once."""

    __slots__ = ("_of_app", "_of_line", "count")

    def __init__(self) -> None:
        self.count = 0
        self._of_line: dict[Line, int] = {}
        self._of_app: dict[str, int] = {}

    def enter(self, job: Job) -> None:
        """A delivery is kept in memory from now on."""
        self.count += 1
        line = line_of(job)
        self._of_line[line] = self._of_line.get(line, 0) + 1
        self._of_app[job.app_id] = self._of_app.get(job.app_id, 0) + 1

    def leave(self, job: Job) -> None:
        """It is not any more."""
        self.count -= 1
        _take_one(self._of_line, line_of(job))
        _take_one(self._of_app, job.app_id)

    def count_of_app(self, app_id: str) -> int:
        """How many of an app's are in memory."""
        return self._of_app.get(app_id, 0)

    @property
    def most_of_line(self) -> int:
        """How many a line may keep now."""
        return max(MIN_OF_LINE, MAX_OPEN - self.count)

    def has_place(self, line: Line) -> bool:
        """Tell whether one more of a line may be kept."""
        return self._of_line.get(line, 0) < self.most_of_line

    def wants_more(self, line: Line) -> bool:
        """Tell whether so little is left of a line that it is worth a read to bring back what waits."""
        return self._of_line.get(line, 0) < self.most_of_line // 2


def line_of(job: Job) -> Line:
    """The line of a delivery."""
    return job.priority, job.app_id, job.channel


def _take_one(counts: dict[K, int], key: K) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
