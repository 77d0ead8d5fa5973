"""What `hubbub bench feed` asks of a server: variants, goals, timetables, and what counts as sustained."""

import random
from collections.abc import Callable
from typing import Final

import msgspec

from bench.feed_cast import DRAW_COUNT, Cast, cast
from bench.feed_graph import Graph
from bench.feed_rows import active_share_of, is_active
from bench.load.loop import Loop, now
from bench.load.trial import Samples
from bench.report.statistics import percentiles

BY_FOLLOWERS: Final = "posts by followers"
EVENLY: Final = "posts evenly"
TO_200: Final = "posts to 200"
COLD: Final = "reads cold"
KEPT: Final = "reads after a start"
WARM: Final = "reads warm"
BOTH: Final = "both"
AT_GOAL: Final = "at the goal"
POSTS: Final = (BY_FOLLOWERS, EVENLY, TO_200)
READS: Final = (COLD, KEPT, WARM)
VARIANTS: Final = (*POSTS, *READS, AT_GOAL, BOTH)

GOAL_ENTRIES_PER_S: Final = 23_148  # 10 million posts a day × 200 followers
GOAL_READS_PER_S: Final = 11_574  # 100 million users × 10 a day
GOAL_FOLLOWERS: Final = 200
GOAL_P99_S: Final = 0.55
PAGE: Final = 20
READER_COUNT: Final = 3000
UNACKED: Final = 64
UNANSWERED: Final = 64
AHEAD_ENTRIES: Final = 40_000  # about two seconds of the goal: a queue, and no more
SETTLED_WITHIN_S: Final = 1.0  # after the last thing was due; more is a queue that grows
DRAIN_TIMEOUT_S: Final = 120.0
WHOLE_EVERY: Final = 50  # pages; decoding all of each would make the client the slower one
_TICK_S: Final = 0.001
_EXPONENTS: Final = {BY_FOLLOWERS: 1.0, EVENLY: 0.0}


def people_of(graph: Graph, variant: str, *, hot_from: int, scale: float) -> Cast:
    """Choose who takes part: the same for every server, wire and round."""
    share = active_share_of(graph)
    return cast(
        graph,
        reader_count=max(2, round(READER_COUNT * scale)),
        hot_from=hot_from,
        is_reader=lambda account: is_active(account, share) == (variant != COLD),
        is_active=lambda account: is_active(account, share),
        exponent=_EXPONENTS.get(variant),
        mean=GOAL_FOLLOWERS,
        draw_count=max(20, round(DRAW_COUNT * scale)),
    )


class Timetable:
    """Posts and reads at two rates, each when it is due, whatever has happened to those before."""

    def __init__(
        self,
        loop: Loop,
        part: float,
        *,
        entries_each: float,
        scale: float,
        post: Callable[[float], None],
        read: Callable[[int, float], None],
        lag: Callable[[float, float], None],
    ) -> None:
        """`part` of the goal. `read` gets a number below a million, which chooses the reader."""
        self.posts_per_s = part * GOAL_ENTRIES_PER_S * scale / max(entries_each, 1.0)
        self.reads_per_s = part * GOAL_READS_PER_S * scale
        self.post_count = self.read_count = 0
        self._loop = loop
        self._post, self._read, self._lag = post, read, lag
        self._start_at = self._end_at = 0.0
        self._chance = random.Random(1)

    def start(self, seconds: float) -> None:
        """Go on for so long from now."""
        self._start_at = now()
        self._end_at = self._start_at + seconds
        self._tick()

    def _tick(self) -> None:
        at = now()
        # All that has become due since: a timer for each would cost more than what it sends.
        until = min(at, self._end_at)
        while (due_at := self._start_at + self.post_count / self.posts_per_s) <= until:
            self._lag(due_at, now())
            self._post(due_at)
            self.post_count += 1
        while (due_at := self._start_at + self.read_count / self.reads_per_s) <= until:
            self._lag(due_at, now())
            self._read(int(self._chance.random() * 1_000_000), due_at)
            self.read_count += 1
        if at < self._end_at:
            self._loop.at(at + _TICK_S, self._tick)


class Rung(msgspec.Struct, frozen=True, kw_only=True):
    """What one part of the goal came to."""

    part: float
    entries_per_s: float
    reads_per_s: float
    posts_per_s: float
    settle_s: float
    live_p99_s: float
    read_p99_s: float

    @property
    def is_sustained(self) -> bool:
        """Tell whether the server has kept up."""
        return (
            self.settle_s <= SETTLED_WITHIN_S
            and self.live_p99_s < GOAL_P99_S
            and self.read_p99_s < GOAL_P99_S
        )

    def __str__(self) -> str:
        said = f"{self.part:.2f}"
        if self.is_sustained:
            return said
        late = f"{self.settle_s:.1f} s late, p99 live {self.live_p99_s:.2f} s, read {self.read_p99_s:.2f} s"
        return f"{said} not ({late})"


class Ladder:
    """Find the greatest part of the goal that is sustained, then measure it."""

    def __init__(self, climb: Callable[[float, float], Rung]) -> None:
        """`climb` goes at a part of the goal for so many seconds, and waits until all is done."""
        self._climb = climb
        self.rungs: list[Rung] = []

    def find(self, seconds: float, *, steps: int = 5) -> Rung:
        """Return the measured rung; not sustained, where none was."""
        part = self._search(seconds / 2, steps)
        last = self._try(part, seconds)
        for _ in range(4):  # a longer time finds queues that a shorter one did not
            if last.is_sustained:
                break
            part *= 0.85
            last = self._try(part, seconds)
        return last

    def _search(self, seconds: float, steps: int) -> float:
        low = high = 0.0
        part = 1.0
        for _ in range(steps):
            if self._try(part, seconds).is_sustained:
                low = part
                part = (low + high) / 2 if high else part * 1.5
            else:
                high = part
                part = (low + high) / 2
        return low or part

    def _try(self, part: float, seconds: float) -> Rung:
        rung = self._climb(part, seconds)
        self.rungs.append(rung)
        return rung

    def measure(self, part: float, seconds: float) -> Rung:
        """Measure one part, sustained or not."""
        return self._try(part, seconds)

    def __str__(self) -> str:
        return "parts of the goal tried: " + ", ".join(map(str, self.rungs))


def p99_s(samples: Samples) -> float:
    """The 99th percentile of latencies, in seconds; 0 of none."""
    return percentiles(samples.values[1::2]).p99_ms / 1e3
