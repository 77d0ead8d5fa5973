"""The score of a post for one reader, and the order of a ranked feed. docs/RANKING.md tells it to people.

score = recency × affinity × engagement × interest. Each factor can be told with what it was worked out from,
and their product is the score, to the last bit. Nothing is learned, and nothing else has a say.
"""

from collections import Counter, deque
from collections.abc import Sequence, Set
from math import exp2, log1p
from typing import Final, NamedTuple

from protocol.feed_types import Post, ScorePart

HOUR_MS: Final = 3600 * 1000

# People look in the morning and in the evening: what came since the last look keeps more than half its
# weight, and yesterday's posts at the same hour a quarter.
HALF_LIFE_H: Final = 12.0
# Interactions: a like is a tap, a comment takes words, a repost is said to one's own followers.
LIKE_WEIGHT: Final = 1
COMMENT_WEIGHT: Final = 2
REPOST_WEIGHT: Final = 3
# A friend who gets a like each day for months (43 by decay) counts 2.9-fold: as if 18 hours younger. More
# would show a reader the same three people for ever.
AFFINITY_WEIGHT: Final = 0.5
# A hundred interactions an hour count 2.2-fold: 13 hours. It is worth less than affinity at its best, so what
# many like does not bury what a friend says.
ENGAGEMENT_WEIGHT: Final = 0.25
# Added to the age before interactions are divided by it: the first like of a new post is no sensation.
ENGAGEMENT_PRIOR_H: Final = 2.0

MAX_IN_A_ROW: Final = 2  # of one author: a third post running is passed over
MAX_IN_WINDOW: Final = 3  # and so is a fourth within
WINDOW: Final = 10  # places: about what two screens show
# For variety's sake a post is put before better ones only with this share of their score, as if it were a day
# older: yesterday's post of somebody else comes before an author's fourth of today, last week's does not.
VARIETY_SHARE: Final = 0.25


class Candidate(NamedTuple):
    """A post of a feed with its score. Its order among others is the order of the feed, reversed."""

    score: float
    post_id: int
    author_id: str
    root_author_id: str = ""  # of a repost: who wrote what it repeats; it counts as both people's


def score(post: Post, root: Post | None, *, affinity: float, interest: float, now_ms: int) -> float:
    """Score a post, or a repost of `root`, for one reader.

    `affinity`: the reader's decayed interactions with the author (`Affinities.of`); `interest`: the factor of
    `Interests.factor_of`. After two years without interactions the score is 0, and ids alone give the order.
    """
    content = post if root is None else root
    return (
        _recency(_age_h(post, now_ms))
        * _affinity(affinity)
        * _engagement(_acts_per_h(content, _age_h(content, now_ms)))
        * interest
    )


def parts(post: Post, root: Post | None, *, affinity: float, interest: float, now_ms: int) -> list[ScorePart]:
    """The factors whose product, in this order, is the score; `value` is what each was worked out from.

    Hours of age; decayed interactions with the author; weighted interactions an hour that the post had. An
    interest has dates of its own, as list_interests tells them.
    """
    content = post if root is None else root
    age_h = _age_h(post, now_ms)
    acts_per_h = _acts_per_h(content, _age_h(content, now_ms))
    return [
        ScorePart(name="recency", factor=_recency(age_h), value=age_h),
        ScorePart(name="affinity", factor=_affinity(affinity), value=affinity),
        ScorePart(name="engagement", factor=_engagement(acts_per_h), value=acts_per_h),
        ScorePart(name="interest", factor=interest),
    ]


def rank(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Sort by falling score, the newer post first where it is equal; then keep one author from filling it.

    Place by place the best that is left is taken, unless its author has the last MAX_IN_A_ROW places or
    MAX_IN_WINDOW of the last WINDOW - 1: then the next one that breaks no rule and has VARIETY_SHARE of the
    best one's score. Where there is none the best is taken all the same, so nothing is ever left out.
    """
    waiting = sorted(candidates)  # the best at the end: taking one near it moves few others
    waiting_of = Counter(candidate.author_id for candidate in waiting)
    placed: list[Candidate] = []
    tally = _Tally()
    while waiting:
        # The sum spares a search that must fail: in the feed of one author all that wait are by who is full.
        index, full = -1, tally.full
        if full and sum(waiting_of[author_id] for author_id in full) < len(waiting):
            index = _pick(waiting, full)
        taken = waiting.pop(index)
        waiting_of[taken.author_id] -= 1
        placed.append(taken)
        tally.note(_voices(taken))
    return placed


_NOBODY: Final[Set[str]] = frozenset()


class _Tally:
    """Whose posts stand in the last places, and whose next one would break a rule."""

    def __init__(self) -> None:
        self.full: Set[str] = _NOBODY
        self._window: deque[tuple[str, ...]] = deque()
        self._counts: dict[str, int] = {}
        self._crowded: set[str] = set()
        self._runs: dict[str, int] = {}  # how many places on end the last one's authors have had

    def note(self, voices: tuple[str, ...]) -> None:
        """The next place is theirs."""
        window, counts = self._window, self._counts
        window.append(voices)
        for voice in voices:
            counts[voice] = count = counts.get(voice, 0) + 1
            if count == MAX_IN_WINDOW:
                self._crowded.add(voice)
        if len(window) == WINDOW:
            for voice in window.popleft():
                counts[voice] = count = counts[voice] - 1
                if count == MAX_IN_WINDOW - 1:
                    self._crowded.discard(voice)
                elif count == 0:
                    del counts[voice]
        self._runs = {voice: self._runs.get(voice, 0) + 1 for voice in voices}
        running = [voice for voice, length in self._runs.items() if length >= MAX_IN_A_ROW]
        self.full = self._crowded.union(running) if running or self._crowded else _NOBODY


def _pick(waiting: Sequence[Candidate], full: Set[str]) -> int:
    """The index of the best one, counted from the end, that breaks no rule; else of the best."""
    least_score = waiting[-1].score * VARIETY_SHARE
    for back, candidate in enumerate(reversed(waiting), 1):
        if candidate.score < least_score:
            break
        if candidate.author_id not in full and candidate.root_author_id not in full:
            return -back
    return -1


def _voices(candidate: Candidate) -> tuple[str, ...]:
    author_id, root_author_id = candidate.author_id, candidate.root_author_id
    return (author_id, root_author_id) if root_author_id not in ("", author_id) else (author_id,)


def _age_h(post: Post, now_ms: int) -> float:
    return max(0, now_ms - post.at_ms) / HOUR_MS


def _acts_per_h(post: Post, age_h: float) -> float:
    """Divided by age, not by followers: counts stand on the post, and bought followers harm nobody."""
    acts = LIKE_WEIGHT * post.likes + COMMENT_WEIGHT * post.comments + REPOST_WEIGHT * post.reposts
    return acts / (age_h + ENGAGEMENT_PRIOR_H)


def _recency(age_h: float) -> float:
    return exp2(-age_h / HALF_LIFE_H)


def _affinity(interactions: float) -> float:
    return 1.0 + AFFINITY_WEIGHT * log1p(interactions)


def _engagement(acts_per_h: float) -> float:
    return 1.0 + ENGAGEMENT_WEIGHT * log1p(acts_per_h)
