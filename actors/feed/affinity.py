"""How much a reader has to do with each author: likes, comments and reposts, halved every 30 days."""

from collections.abc import Iterable
from heapq import nlargest
from math import exp2
from typing import Final

from protocol.feed_types import Post

DAY_MS: Final = 24 * 3600 * 1000
HALF_LIFE_MS: Final = 30 * DAY_MS  # a month apart halves a friendship, a year of silence ends it
HISTORY_MS: Final = 6 * HALF_LIFE_MS  # what is read from the store: beyond it an act counts below 1/64
HISTORY_ROWS: Final = 1_000  # acts read from the store for one reader, the latest; it takes milliseconds
MAX_AUTHORS: Final = 500  # authors remembered of one reader, those with the most; some 50 kB
# Twice as many may gather before the least are dropped, so that dropping is rare.
_DROP_AT: Final = 2 * MAX_AUTHORS


class Affinities:
    """The decayed interactions of one reader with each author; for the readers of ranked feeds alone.

    All acts are kept in units of one moment, as weight × 2^((at - moment) / half life): the order in which
    they are noted does not matter, an author is one number, and all are decayed by one factor when asked.
    """

    __slots__ = ("_moment_ms", "_totals")

    def __init__(self, rows: Iterable[tuple[str, int, int]] = (), *, now_ms: int) -> None:
        """`rows`: author_id, at_ms and weight of each act."""
        self._moment_ms = now_ms
        self._totals: dict[str, float] = {}
        for author_id, at_ms, weight in rows:
            self.noted(author_id, at_ms, weight)

    def __len__(self) -> int:
        return len(self._totals)

    def noted(self, author_id: str, at_ms: int, weight: int) -> None:
        """The reader did something with a post of this author; a negative weight takes it back.

        Taken back with the time of the act it leaves nothing behind; with a later time, a little less than
        nothing, which counts as nothing.
        """
        change = weight * exp2((at_ms - self._moment_ms) / HALF_LIFE_MS)
        total = self._totals.get(author_id, 0.0) + change
        if total <= 0.0:
            self._totals.pop(author_id, None)
            return
        self._totals[author_id] = total
        if len(self._totals) > _DROP_AT:
            self._totals = dict(nlargest(MAX_AUTHORS, self._totals.items(), key=_strength))

    def with_author(self, author_id: str, now_ms: int) -> float:
        """The interactions with one author, as they count now."""
        total = self._totals.get(author_id)
        return 0.0 if total is None else total * exp2((self._moment_ms - now_ms) / HALF_LIFE_MS)

    def of(self, post: Post, root: Post | None, now_ms: int) -> float:
        """The interactions with the author of a post; of a repost, with the closer of its two authors."""
        if not self._totals:
            return 0.0
        own = self.with_author(post.author_id, now_ms)
        return own if root is None else max(own, self.with_author(root.author_id, now_ms))


def _strength(item: tuple[str, float]) -> tuple[float, str]:
    return item[1], item[0]
