"""Posts that pages were made of lately, apart from the feeds that show them: one copy for all readers.

It is filled by what authors write on this node and by what pages had to read. Two generations make it a
cache: what is used moves into the younger one, and when that is full the older one goes.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from protocol.feed_events import PostCounts
from protocol.feed_found import FoundPost
from protocol.feed_types import FeedItem, Post
from protocol.records import PostCountsRow, PostRow
from protocol.stored_posts import post_of

MAX_POSTS: Final = 200_000  # of both generations: some 200 MB of short posts
MAX_BYTES: Final = 256 * 1024 * 1024  # the same for long ones, as JSON; objects take about as much
MAX_COUNT_AGE_MS: Final = 10_000  # in a cluster; on a node alone counts are told by who counts
_ITEM_BYTES: Final = 150  # of an item beside its post, once its counts have grown
_encode = msgspec.json.Encoder().encode


class CachedPost:
    """A post as pages need it."""

    __slots__ = (
        "app_id",
        "author_id",
        "counted_at_ms",
        "counts",
        "is_deleted",
        "is_hot",
        "is_public",
        "plain_item",
        "post",
        "post_id",
        "root_author_id",
        "root_id",
        "size_bytes",
    )

    def __init__(self, row: PostRow, counts: PostCountsRow | None) -> None:
        self.post_id = row.post_id
        self.app_id = row.app_id
        self.author_id = row.author_id
        self.counted_at_ms = 0  # when its counts were last read or heard; 0: not since it was last asked
        self.root_id = row.repost_of
        self.root_author_id = row.root_author_id
        self.is_deleted = row.deleted_at_ms > 0
        self.is_public = row.visibility == "public"
        self.is_hot = row.is_hot
        self.counts = counts
        self.post: Post
        self.plain_item: FeedItem  # for a reader who has neither written nor marked it
        self._show(post_of(row, counts))
        self.size_bytes = len(_encode(self.post)) + _ITEM_BYTES  # in a page, as JSON

    def count(self, counts: PostCountsRow) -> None:
        """Its counts have changed."""
        self.counts = counts
        self._show(
            msgspec.structs.replace(
                self.post, likes=counts.likes, comments=counts.comments, reposts=counts.reposts
            )
        )

    def _show(self, post: Post) -> None:
        self.post = post
        self.plain_item = FeedItem(post=post, why="hot" if self.is_hot else "followed")


Shown = tuple[CachedPost, CachedPost | None]
"""A post, and the one that it repeats. A plain tuple: twenty are made for each page."""


class PostCache:
    """Posts by id, and which of their authors are private."""

    def __init__(self, *, max_posts: int = MAX_POSTS, max_bytes: int = MAX_BYTES) -> None:
        self.young: dict[
            int, CachedPost | None
        ] = {}  # pages look here first; what is not here `get` may have
        self._old: dict[int, CachedPost | None] = {}
        self._generation_size = max(1, max_posts // 2)
        self._generation_bytes = max_bytes // 2
        self._young_bytes = 0  # at most: what was replaced or forgotten is still counted
        # What changed while posts were being read: the store may have been asked before the change.
        self._reading_count = 0
        self._moment = 0
        self._changed_at: dict[int | str, int] = {}
        self.private_author_ids: set[str] = set()

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def get(self, post_id: int) -> CachedPost | None:
        """The post, if it is here and exists."""
        found = self.young.get(post_id)
        if found is None:
            found = self._old.pop(post_id, None)
            if found is not None:
                self._put(post_id, found)
        return found

    def is_known(self, post_id: int) -> bool:
        """Tell whether the post is here, or known not to exist."""
        return post_id in self.young or post_id in self._old

    def put(self, row: PostRow, counts: PostCountsRow | None = None) -> None:
        """A post has been written. Without `counts` it keeps those it has.

        Not for an edit of a post that is not here, whose counts are not known: then `forget`.
        """
        self._note(row.post_id)
        known = self.get(row.post_id)
        if counts is None and known is not None:
            counts = known.counts
        self._put(row.post_id, CachedPost(row, counts))

    def forget(self, post_id: int) -> None:
        """A post has changed in a way that only the store knows."""
        self._note(post_id)
        self.young.pop(post_id, None)
        self._old.pop(post_id, None)

    def forget_old_counts(self, post_ids: Iterable[int], now_ms: int) -> None:
        """Let go of posts whose counts are old: what other nodes told of them may have been lost."""
        for post_id in post_ids:
            found = self.get(post_id)
            if found is None:
                continue
            if not found.counted_at_ms:
                found.counted_at_ms = now_ms
            elif now_ms - found.counted_at_ms > MAX_COUNT_AGE_MS:
                del self.young[post_id]  # where `get` has put it

    def forget_author(self, author_id: str) -> None:
        """More of an author's posts, or of their counts, may be stored than is known here."""
        self._note(author_id)
        for generation in (self.young, self._old):
            for post_id in [i for i, post in generation.items() if post and post.author_id == author_id]:
                self._note(post_id)
                del generation[post_id]

    def count(self, counts: PostCountsRow) -> None:
        """The counts of a post have changed."""
        self._note(counts.post_id)
        known = self.get(counts.post_id)
        if known is not None:
            known.count(counts)

    def heard(self, event: PostCounts) -> None:
        """Another node tells the counts of a post."""
        self.count(
            PostCountsRow(
                post_id=event.post_id, likes=event.likes, comments=event.comments, reposts=event.reposts
            )
        )

    def counts_of(self, post_id: int) -> PostCounts | None:
        """The counts of a post that everybody may see, if it is here."""
        known = self.young.get(post_id) or self._old.get(post_id)
        if known is None or not known.is_public or known.author_id in self.private_author_ids:
            return None
        post = known.post
        return PostCounts(post_id=post_id, likes=post.likes, comments=post.comments, reposts=post.reposts)

    def set_private(self, author_id: str, *, is_private: bool) -> None:
        """An author's posts are for followers only, or for all."""
        self._note(author_id)
        self._set_private(author_id, is_private=is_private)

    def begin_read(self) -> int:
        """Posts are about to be read from the store; give the answer to `end_read`."""
        self._reading_count += 1
        return self._moment

    def end_read(self, moment: int, asked: Iterable[int], found: Iterable[FoundPost]) -> None:
        """Take what was read, but for what has changed since; nothing of both: the read failed.

        Those that were asked for and not found do not exist.
        """
        changed_at = self._changed_at
        for item in found:
            if changed_at.get(item.row.post_id, 0) <= moment:
                self._put(item.row.post_id, CachedPost(item.row, item.counts))
            if changed_at.get(item.row.author_id, 0) <= moment:
                self._set_private(item.row.author_id, is_private=item.is_private)
        for post_id in asked:
            if not self.is_known(post_id) and changed_at.get(post_id, 0) <= moment:
                self._put(post_id, None)
        self._reading_count -= 1
        if not self._reading_count:
            changed_at.clear()

    def _note(self, key: int | str) -> None:
        if self._reading_count:
            self._moment += 1
            self._changed_at[key] = self._moment

    def _set_private(self, author_id: str, *, is_private: bool) -> None:
        if is_private:
            self.private_author_ids.add(author_id)
        else:
            self.private_author_ids.discard(author_id)

    def _put(self, post_id: int, post: CachedPost | None) -> None:
        self._old.pop(post_id, None)
        self.young[post_id] = post
        if post is not None:
            self._young_bytes += post.size_bytes
        if len(self.young) >= self._generation_size or self._young_bytes >= self._generation_bytes:
            self._old, self.young = self.young, {}
            self._young_bytes = 0
