"""What a reader is not interested in: posts, authors and hashtags, each on a curve that is known and ends.

An author or a hashtag is hidden for 14 days; then it counts a fifth, and a fifth more every 35 days, until
after 154 days all is as before. A single post stays hidden for the whole time. The durations and the bounds
are those of FeedbackFatigueScorer in Twitter's published home mixer; there the factor rises a little each
day, here in four steps, so that a person can be told when what changes.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final
from unicodedata import category, normalize

from protocol.errors import ProtocolError, Refused
from protocol.feed_types import Interest, InterestKind, Post
from protocol.limits import MAX_INTERESTS, MAX_SAFE_INTEGER
from protocol.records import InterestRow
from protocol.types import ID_PATTERN

DAY_MS: Final = 24 * 3600 * 1000
HIDDEN_MS: Final = 14 * DAY_MS  # "not now": long enough to be felt, short enough for a second thought
STEP_MS: Final = 35 * DAY_MS  # 140 days in four steps
STEPS: Final = (0.2, 0.4, 0.6, 0.8)  # what scores are multiplied with after the hidden days
ENDS_MS: Final = HIDDEN_MS + len(STEPS) * STEP_MS  # 154 days; nothing said in a bad mood lasts for ever

MAX_HASHTAG_CHARS: Final = 100  # as protocol.feed_types.Hashtag

_POST_ID = re.compile(r"[1-9][0-9]{0,15}")
_USER_ID = re.compile(ID_PATTERN)
_JOINERS: Final = "\u200c\u200d"  # within words of Persian and of Indian languages


def factor_at(since_ms: int, now_ms: int) -> float:
    """What the scores of an author or a hashtag are multiplied with by now; 0: hidden, 1: it has ended."""
    weakened_ms = now_ms - since_ms - HIDDEN_MS
    if weakened_ms < 0:  # also where the clock went back behind since_ms
        return 0.0
    step = weakened_ms // STEP_MS
    return STEPS[step] if step < len(STEPS) else 1.0


def interest_of(row: InterestRow, now_ms: int) -> Interest:
    """The wire's view of a row: when it hides, when it ends, and what it does by now."""
    kind = _kind(row.kind)
    return Interest(
        kind=kind,
        target=row.target,
        since_ms=row.since_ms,
        hidden_until_ms=row.since_ms + _hidden_ms(kind),
        ends_at_ms=row.since_ms + ENDS_MS,
        factor=_factor(kind, row.since_ms, now_ms),
    )


def undone(row: InterestRow) -> Interest:
    """The answer to taking it back: nothing is hidden, and scores are whole."""
    return Interest(kind=_kind(row.kind), target=row.target, since_ms=row.since_ms, factor=1.0)


def target_of(kind: InterestKind, target: str, user_id: str) -> str:
    """Check what a reader is not interested in, and write it as it is stored.

    Raises: ProtocolError bad_field; Refused self_not_allowed for the reader as an author.
    """
    if kind == "post":
        if _POST_ID.fullmatch(target) is None or int(target) > MAX_SAFE_INTEGER:
            raise ProtocolError("bad_field", f"{target[:20]!r} is not a post_id.")
        return target
    if kind == "author":
        if _USER_ID.match(target) is None:
            raise ProtocolError("bad_field", f"{target[:20]!r} is not a user_id.")
        if target == user_id:
            raise Refused("self_not_allowed", "One's own posts cannot be hidden.")
        return target
    hashtag = _folded(target[1:] if target[:1] in ("#", "\uff03") else target)
    if not 0 < len(hashtag) <= MAX_HASHTAG_CHARS or not all(map(_is_of_tag, hashtag)):
        raise ProtocolError("bad_field", f"{target[:20]!r} is not a hashtag.")
    if not any(map(str.isalpha, hashtag)):
        raise ProtocolError("bad_field", "A hashtag has a letter.")
    return hashtag


class Interests:
    """All that one reader is not interested in; MAX_INTERESTS at the most, then the oldest gives way.

    It is asked for each candidate of each page, so a reader without any pays one comparison.
    """

    __slots__ = ("_authors", "_hashtags", "_posts", "_rows", "_until_ms")

    def __init__(self, rows: Iterable[InterestRow] = ()) -> None:
        self._rows: dict[tuple[str, str], InterestRow] = {}
        # kind by kind: target -> since_ms. The rows beside them are for lists and for the store.
        self._posts: dict[int, int] = {}
        self._authors: dict[str, int] = {}
        self._hashtags: dict[str, int] = {}
        self._until_ms = 0  # when the last of them ends; before its first use and after that: nothing to do
        for row in rows:
            self.add(row)

    def __len__(self) -> int:
        return len(self._rows)

    def copy(self) -> "Interests":
        """The same rows, to be changed for themselves."""
        return Interests(self._rows.values())

    def get(self, kind: InterestKind, target: str) -> InterestRow | None:
        """The row, whether it still does anything or not."""
        return self._rows.get((kind, target))

    def giving_way(self, row: InterestRow) -> InterestRow | None:
        """The row that must be removed where this one is added, to be stored together with it.

        The oldest one; those that have ended are the oldest of all, as all last equally long.
        """
        if len(self._rows) < MAX_INTERESTS or (row.kind, row.target) in self._rows:
            return None
        return min(self._rows.values(), key=_age_order)

    def add(self, row: InterestRow) -> InterestRow | None:
        """Take in a row that is stored; said again, the curve begins anew. Returns what gave way to it."""
        gone = self.giving_way(row)
        if gone is not None:
            self.remove(gone.kind, gone.target)
        self._rows[row.kind, row.target] = row
        if row.kind == "post":
            self._posts[int(row.target)] = row.since_ms
        elif row.kind == "author":
            self._authors[row.target] = row.since_ms
        else:
            self._hashtags[row.target] = row.since_ms
        self._until_ms = max(self._until_ms, row.since_ms + ENDS_MS)
        return gone

    def remove(self, kind: str, target: str) -> InterestRow | None:
        """Take one back; None where there was none."""
        row = self._rows.pop((kind, target), None)
        if row is None:
            return None
        if kind == "post":
            del self._posts[int(target)]
        elif kind == "author":
            del self._authors[target]
        else:
            del self._hashtags[target]
        if not self._rows:
            self._until_ms = 0
        return row

    def listed(self, now_ms: int) -> list[Interest]:
        """All that have not ended, what was said last first."""
        rows = [row for row in self._rows.values() if now_ms < row.since_ms + ENDS_MS]
        return [interest_of(row, now_ms) for row in sorted(rows, key=_age_order, reverse=True)]

    def ended(self, now_ms: int) -> list[InterestRow]:
        """Those that do nothing any more and may be removed from the store."""
        return [row for row in self._rows.values() if row.since_ms + ENDS_MS <= now_ms]

    def hidden_until(self, post: Post, root: Post | None, now_ms: int) -> int:
        """Until when the reader does not see this post; 0: it is not hidden.

        A repost is judged by its own id and author, and by the id, author and hashtags of its `root`.
        """
        if now_ms >= self._until_ms:
            return 0
        until_ms = 0
        for kind, since_ms in self._applying(post, root):
            until_ms = max(until_ms, since_ms + _hidden_ms(kind))
        return until_ms if until_ms > now_ms else 0

    def factor_of(self, post: Post, root: Post | None, now_ms: int) -> float:
        """What the post's score is multiplied with: the smallest factor of those that apply, 0 if hidden."""
        if now_ms >= self._until_ms:
            return 1.0
        factor = 1.0
        for kind, since_ms in self._applying(post, root):
            factor = min(factor, _factor(kind, since_ms, now_ms))
        return factor

    def _applying(self, post: Post, root: Post | None) -> Iterator[tuple[InterestKind, int]]:
        for since_ms in (self._posts.get(post.post_id), self._posts.get(post.repost_of)):
            if since_ms is not None:
                yield "post", since_ms
        for each in (post, root):
            if each is None:
                continue
            if (since_ms := self._authors.get(each.author_id)) is not None:
                yield "author", since_ms
            for hashtag in each.hashtags if self._hashtags else ():
                if (since_ms := self._hashtags.get(hashtag)) is not None:
                    yield "hashtag", since_ms


def said(user_id: str, kind: InterestKind, target: str, since_ms: int) -> InterestRow:
    """The row of what a reader says now. Raises: as target_of."""
    return InterestRow(user_id=user_id, kind=kind, target=target_of(kind, target, user_id), since_ms=since_ms)


def _hidden_ms(kind: InterestKind) -> int:
    return ENDS_MS if kind == "post" else HIDDEN_MS


def _factor(kind: InterestKind, since_ms: int, now_ms: int) -> float:
    if kind == "post":
        return 0.0 if now_ms < since_ms + ENDS_MS else 1.0
    return factor_at(since_ms, now_ms)


def _kind(text: str) -> InterestKind:
    return "post" if text == "post" else "author" if text == "author" else "hashtag"


def _age_order(row: InterestRow) -> tuple[int, str, str]:
    return row.since_ms, row.kind, row.target


def _folded(hashtag: str) -> str:
    # As in posts: what differs only in case, or in how its letters are composed, is the same.
    return normalize("NFC", normalize("NFC", hashtag).casefold()).strip(_JOINERS)


def _is_of_tag(char: str) -> bool:
    # Vowel signs of many scripts are marks, not letters; str.isalnum() alone would cut their words.
    return char.isalnum() or char == "_" or char in _JOINERS or category(char).startswith("M")
