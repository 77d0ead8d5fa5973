"""Ranked feeds as they were when their readers began to scroll: what is on the screen does not move."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from actors.feed.ranking import Candidate

SNAPSHOT_TTL_MS: Final = 3600 * 1000  # who comes back later wants a new order, not the old one's end
MAX_READERS: Final = 1_000  # of one node; with two of 800 posts each, 26 MB
SNAPSHOTS_PER_READER: Final = 2  # the phone and the laptop; a third one ends the oldest


class RankedFeed:
    """One ranked order of one reader's feed. It does not change: offsets stay true while posts arrive.

    `anchor_id` is the newest post_id that was examined for it; `made_at_ms` names it among the reader's.
    Posts are to be filtered when a page is read: what was deleted or blocked since is still in here.
    """

    __slots__ = ("anchor_id", "goes_on_below", "made_at_ms", "post_ids", "scores")

    def __init__(
        self, ranked: Sequence[Candidate], *, anchor_id: int, made_at_ms: int, goes_on_below: int = 0
    ) -> None:
        """`goes_on_below`: where the feed goes on by time, behind all that were ranked; 0: nowhere."""
        self.goes_on_below: Final = goes_on_below
        self.anchor_id: Final = anchor_id
        self.made_at_ms: Final = made_at_ms
        self.post_ids: Final = array("q", [candidate.post_id for candidate in ranked])
        self.scores: Final = array("d", [candidate.score for candidate in ranked])

    def __len__(self) -> int:
        return len(self.post_ids)

    def page(self, offset: int, limit: int) -> list[tuple[int, float]]:
        """The post_ids and scores from this place on; empty at the end."""
        end = offset + limit
        return list(zip(self.post_ids[offset:end], self.scores[offset:end], strict=True))

    def place_of(self, post_id: int) -> int | None:
        """Where a post stands, from 0; None where it is not in here."""
        try:
            return self.post_ids.index(post_id)
        except ValueError:
            return None

    def held_back(self, place: int) -> int:
        """How many places lower than by its score a post stands, so that its author does not fill the feed.

        Below 0: it stands higher, as others were held back.
        """
        own = self.scores[place], self.post_ids[place]
        ahead = sum(other > own for other in zip(self.scores, self.post_ids, strict=True))
        return place - ahead


class RankedFeeds:
    """The snapshots of a node's readers: the latest used ones, for an hour."""

    def __init__(self, *, max_readers: int = MAX_READERS) -> None:
        self._max_readers = max_readers
        self._of: OrderedDict[str, list[RankedFeed]] = OrderedDict()  # the one read last at the end

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def keep(self, user_id: str, feed: RankedFeed) -> None:
        """Keep a snapshot for the pages to come. One with the same made_at_ms takes the other's place."""
        others = [other for other in self._of.get(user_id, ()) if other.made_at_ms != feed.made_at_ms]
        self._of[user_id] = [*others, feed][-SNAPSHOTS_PER_READER:]
        self._of.move_to_end(user_id)
        if len(self._of) > self._max_readers:
            self._of.popitem(last=False)

    def get(self, user_id: str, made_at_ms: int, now_ms: int) -> RankedFeed | None:
        """The reader's snapshot of that moment; None when it has gone, and must be made anew."""
        self._drop_old(user_id, now_ms)
        for feed in self._of.get(user_id, ()):
            if feed.made_at_ms == made_at_ms:
                self._of.move_to_end(user_id)
                return feed
        return None

    def latest(self, user_id: str, now_ms: int) -> RankedFeed | None:
        """The reader's newest snapshot, to explain a post by."""
        self._drop_old(user_id, now_ms)
        feeds = self._of.get(user_id)
        return feeds[-1] if feeds else None

    def forget(self, user_id: str) -> None:
        """Drop all of a reader's, as when the feed moves to another node."""
        self._of.pop(user_id, None)

    def sweep(self, now_ms: int) -> None:
        """Drop what is too old; called now and then, for those who do not come back."""
        for user_id in list(self._of):
            self._drop_old(user_id, now_ms)

    def _drop_old(self, user_id: str, now_ms: int) -> None:
        feeds = self._of.get(user_id)
        if feeds is None:
            return
        fresh = [feed for feed in feeds if feed.made_at_ms > now_ms - SNAPSHOT_TTL_MS]
        if not fresh:
            del self._of[user_id]
        elif len(fresh) < len(feeds):
            self._of[user_id] = fresh
