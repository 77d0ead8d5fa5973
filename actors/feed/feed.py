"""One reader's feed in memory: ids of posts, and what decides which of them are shown.

The ids are an index, never the truth: from `covered_from` on they are complete, but for posts of hot authors
and posts that are still being pushed, which are merged in at read. What is older is read from the store.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from actors.feed.ad_slots import AdSlots
from actors.feed.affinity import Affinities
from actors.feed.interest import Interests
from protocol.feed_found import FoundRelations
from protocol.limits import COOL_FOLLOWERS, FEED_CAP, HOT_FOLLOWERS

ENDLESS: Final = 1 << 62  # above every post_id

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[int]).decode


class FeedLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes that decide how feeds work. Tests make them small."""

    cap: int = FEED_CAP
    hot_followers: int = HOT_FOLLOWERS
    cool_followers: int = COOL_FOLLOWERS
    ttl_s: float = 7 * 24 * 3600.0  # a feed that nobody has read for so long is not kept; 0: none is kept
    max_feeds: int = 12_500  # of one partition: 200,000 of a node, some 2 GB with their follows
    max_examined: int = 1_000  # posts that one page may look at; then it ends early and says so
    tail_rows: int = (
        16_384  # rows of a partition's stream before its feeds are written down and it is trimmed
    )


class Relations:
    """How a reader stands to authors, posts and hashtags: what a page is filtered by."""

    __slots__ = (
        "ad_slots",
        "affinities",
        "blocked_by",
        "blocks",
        "follows",
        "interests",
        "language",
        "liked",
        "liked_from",
        "muted",
        "read_position",
        "reposted",
        "reposted_from",
        "uncovered",
    )

    def __init__(self, user_id: str, found: FoundRelations, *, mark_limit: int = 5_000) -> None:
        self.follows: set[str] = {author_id for author_id, _ in found.follows}
        self.follows.add(user_id)  # the own posts are part of the feed
        # Followed, but the author does not push to this reader yet: pages are read from the store.
        self.uncovered: set[str] = {author_id for author_id, is_covered in found.follows if not is_covered}
        self.muted = set(found.muted)
        self.blocks = set(found.blocks)
        self.blocked_by = set(found.blocked_by)
        self.interests = Interests(found.interests)
        self.liked = set(found.liked)
        self.reposted = set(found.reposted)
        # Marks of older posts are not known.
        self.liked_from = found.liked[-1] if len(found.liked) >= mark_limit else 0
        self.reposted_from = found.reposted[-1] if len(found.reposted) >= mark_limit else 0
        self.read_position = found.read_position
        self.affinities: Affinities | None = None  # read when a ranked feed is asked for
        self.ad_slots: AdSlots | None = None  # read when the app shows ads, and so is
        self.language = ""  # of the reader

    @property
    def shuts_out_anything(self) -> bool:
        """Whether anything of those who are followed is left out."""
        return bool(self.blocks or self.blocked_by or self.muted or self.interests)

    def follow(self, author_id: str) -> None:
        """The reader follows an author from now on."""
        self.follows.add(author_id)
        self.uncovered.add(author_id)

    def covered(self, author_id: str) -> None:
        """From now on the author's pushes are all there is."""
        self.uncovered.discard(author_id)

    def unfollow(self, author_id: str) -> None:
        """The reader does not follow the author any more."""
        self.follows.discard(author_id)
        self.uncovered.discard(author_id)

    def block(self, other_id: str, *, by_reader: bool, blocked: bool) -> None:
        """One of the two has blocked the other, or does so no more."""
        side = self.blocks if by_reader else self.blocked_by
        if blocked:
            side.add(other_id)
        else:
            side.discard(other_id)

    def mute(self, other_id: str, *, muted: bool) -> None:
        """The reader does not want to see the other, or does again."""
        if muted:
            self.muted.add(other_id)
        else:
            self.muted.discard(other_id)


class Feed:
    """The entries of one reader, oldest first, in 8 bytes each."""

    __slots__ = (
        "_cap",
        "covered_from",
        "ids",
        "is_dirty",
        "partition",
        "position",
        "read_at_s",
        "relations",
        "stored_read_at_s",
        "user_id",
    )

    def __init__(
        self,
        user_id: str,
        partition: int,
        ids: Iterable[int],
        *,
        cap: int,
        covered_from: int,
        position: int = 0,
        read_at_s: float = 0.0,
    ) -> None:
        """`ids` rise. `read_at_s`: when it was read last, on the clock of the caller's choice."""
        self.user_id = user_id
        self.partition = partition
        self.ids = array("q", ids)
        self._cap = cap
        self.covered_from = covered_from
        self.position = position
        self.read_at_s = read_at_s
        self.stored_read_at_s = read_at_s
        self.relations: Relations | None = None
        self.is_dirty = False  # it differs from what is stored of it
        self._trim()

    def push(self, post_id: int) -> bool:
        """Put an entry in its place; False where it is there already, or older than what is kept."""
        if not self.insert(post_id):
            return False
        self.position += 1
        return True

    def insert(self, post_id: int) -> bool:
        """Do so without counting it as pushed: it was there before the feed heard of it."""
        ids = self.ids
        if not ids or post_id > ids[-1]:
            ids.append(post_id)
        else:
            if post_id < self.covered_from:
                return False
            at = bisect_left(ids, post_id)
            if ids[at] == post_id:
                return False
            ids.insert(at, post_id)
        self.is_dirty = True
        if len(ids) > self._cap:
            self._trim()
        return True

    def take(self, post_id: int, *, new_from: int) -> bool:
        """Put an entry in its place, as pushed from `new_from` on; returns whether it now is."""
        if post_id >= new_from:
            return self.push(post_id)
        self.insert(post_id)
        return False

    def _trim(self) -> None:
        excess = len(self.ids) - self._cap
        if excess > 0:
            del self.ids[:excess]
            self.covered_from = self.ids[0]

    def with_ids(self, post_ids: Sequence[int], *, new_from: int) -> "Feed":
        """A copy that also has these, what the feed will be once a change is stored.

        From `new_from` on they count as pushed.
        """
        copy = Feed(
            self.user_id,
            self.partition,
            self.ids,
            cap=self._cap,
            covered_from=self.covered_from,
            position=self.position,
            read_at_s=self.read_at_s,
        )
        for post_id in post_ids:
            copy.take(post_id, new_from=new_from)
        return copy

    def entries(self) -> str:
        """The ids as they are stored: newest first, the first one and then the differences."""
        differences = []
        last = 0
        for post_id in reversed(self.ids):
            differences.append(last - post_id if last else post_id)
            last = post_id
        return _encode(differences).decode()


def read_entries(entries: str) -> list[int]:
    """The ids of stored entries, oldest first. Raises: msgspec.MsgspecError."""
    ids: list[int] = []
    last = 0
    for number in _decode(entries):
        last = last - number if last else number
        ids.append(last)
    ids.reverse()
    return ids
