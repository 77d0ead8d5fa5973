"""Make a page of a feed: one formula, whatever the posts come from.

A page is what is left of the candidates, by falling (or rising) post_id, after the filter, until it is full.
Candidates are, down to `covered_from`, the feed's entries with the posts of hot authors and those that are
still being pushed; below it, and while an author does not push to this reader yet, what the store finds by
pull. Nothing here waits: what is not in memory is asked for by `Missing`, and the page is made again with
what was fetched.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from actors.feed.feed import ENDLESS, Feed, FeedLimits, Relations
from actors.feed.index import RING_SIZE, FeedNode
from actors.feed.post_cache import CachedPost, PostCache, Shown
from protocol.feed_types import FeedItem, LeftOut, Omission, Why
from protocol.limits import PAGE_BYTES

SEEN_FROM_AUTHOR_MS: Final = 48 * 3600 * 1000  # a repost so soon tells the author's followers nothing
MAX_NEW_ABOVE: Final = 100  # more is shown as "100+"
_Portion = tuple[list[int], int, bool]
"""Candidates in the order of the page, where the next portion begins, and whether there is none."""
_NextPortion = Callable[[int, int], "_Portion | Missing"]
_MIN_STRETCH: Final = 10  # candidates looked at together, at least


class Pulled(msgspec.Struct, frozen=True):
    """Post ids that the store found beyond a bound; `is_end`: there is nothing beyond them."""

    post_ids: list[int]
    is_end: bool


class Fetched:
    """What was read from the store for one page so far."""

    __slots__ = ("liked", "marked", "pulled", "reposted")

    def __init__(self) -> None:
        self.pulled: dict[tuple[str, int], Pulled] = {}  # ("before" or "after", bound) -> what lies beyond
        self.marked: set[int] = set()  # posts whose marks are known from here
        self.liked: set[int] = set()
        self.reposted: set[int] = set()


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be read from the store before the page can be made."""

    post_ids: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()
    rings: tuple[str, ...] = ()  # hot authors whose newest posts are not in memory
    ads: bool = False  # what ads the reader was shown lately
    affinities: bool = False  # how much the reader has to do with each author
    pull_before: int = -1  # 0: from the newest
    pull_after: int = -1
    limit: int = 0


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """A page before it is dressed."""

    shown: list[Shown]
    left_out: list[Omission]
    last_examined: int  # post_id; the bound itself where nothing was
    first_examined: int
    is_end: bool
    is_complete: bool


def judge(
    relations: Relations, user_id: str, posts: PostCache, found: CachedPost, now_ms: int
) -> LeftOut | None:
    """Why a reader does not get a post in the feed; None: it is shown. What it repeats must be in `posts`."""
    if found.is_deleted:
        return "deleted"
    author_id = found.author_id
    if author_id in relations.blocks or author_id in relations.blocked_by:
        return "blocked"
    if author_id in relations.muted:
        return "muted"
    if author_id not in relations.follows:
        return "not_followed"
    root: CachedPost | None = None
    if found.root_id:
        root = posts.get(found.root_id)
        if root is None or root.is_deleted:
            return "deleted"
        root_author_id = root.author_id
        if root_author_id in relations.blocks or root_author_id in relations.blocked_by:
            return "blocked"
        if root_author_id in relations.muted:
            return "muted"
        is_followed = root_author_id in relations.follows
        if not is_followed and (not root.is_public or root_author_id in posts.private_author_ids):
            return "not_visible"
        if is_followed and author_id != user_id and found.post.at_ms - root.post.at_ms < SEEN_FROM_AUTHOR_MS:
            return "seen_from_author"
    interests = relations.interests
    if interests and interests.hidden_until(found.post, None if root is None else root.post, now_ms):
        return "not_interested"
    return None


class PageMaker:
    """Make pages of one reader's feed. Made for one request, and again after each `Missing`."""

    def __init__(
        self,
        feed: Feed,
        node: FeedNode,
        limits: FeedLimits,
        fetched: Fetched,
        *,
        now_ms: int,
        explain: bool = False,
    ) -> None:
        assert feed.relations is not None
        self._feed = feed
        self._relations = feed.relations
        self._node = node
        self._posts = node.posts
        self._limits = limits
        self._fetched = fetched
        self._now_ms = now_ms
        self._explain = explain

    def older(self, before: int, limit: int, *, max_bytes: int = PAGE_BYTES) -> Stretch | Missing:
        """The newest posts below `before`; 0: the newest of all. One is shown, more up to `max_bytes`."""
        return self._gather(before, limit, max_bytes, self._below, before or ENDLESS)

    def newer(self, after: int, limit: int, *, max_bytes: int = PAGE_BYTES) -> Stretch | Missing:
        """The oldest posts above `after`, rising."""
        return self._gather(after, limit, max_bytes, self._above, after)

    def _gather(
        self, start: int, limit: int, max_bytes: int, next_portion: _NextPortion, bound: int
    ) -> Stretch | Missing:
        """Examine candidates, portion by portion, until the page is full or nothing is left."""
        relations, posts, user_id, now_ms = self._relations, self._posts, self._feed.user_id, self._now_ms
        follows, is_plain = relations.follows, not relations.shuts_out_anything
        get, is_known = posts.get, posts.is_known
        count = max(limit if is_plain else limit + limit // 4, _MIN_STRETCH)
        shown: list[Shown] = []
        left_out: list[Omission] = []
        unknown: list[int] = []
        first, last = 0, start
        examined = size_bytes = 0
        is_end = False
        while len(shown) < limit and not is_end and examined < self._limits.max_examined:
            portion = next_portion(bound, count)
            if isinstance(portion, Missing):
                return portion
            post_ids, bound, is_end = portion
            self._forget_old_counts(post_ids)
            young = posts.young
            for post_id in post_ids:
                if len(shown) >= limit or size_bytes > max_bytes:
                    is_end = False
                    limit = len(shown)  # a page ends early rather than exceed a frame
                    break
                last = post_id
                examined += 1
                found = young.get(post_id) or get(post_id)
                if found is None:
                    if not is_known(post_id):
                        unknown.append(post_id)
                    continue  # else it was never stored
                root: CachedPost | None = None
                if found.root_id:
                    root = get(found.root_id)
                    if root is None and not is_known(found.root_id):
                        unknown.append(found.root_id)
                        continue
                if is_plain and not (found.root_id or found.is_deleted) and found.author_id in follows:
                    reason = None  # as judge would say, at a third of the price: most posts are like this
                else:
                    reason = judge(relations, user_id, posts, found, now_ms)
                if reason is None:
                    size_bytes += found.size_bytes + (0 if root is None else root.size_bytes)
                    shown.append((found, root))
                elif self._explain:
                    left_out.append(self.omission(found, reason))
            if unknown:
                return Missing(post_ids=tuple(unknown))
            if not first and post_ids:
                first = post_ids[0]
        return Stretch(
            shown=shown,
            left_out=left_out,
            last_examined=last,
            first_examined=first or start,
            is_end=is_end,
            is_complete=is_end or len(shown) >= limit,
        )

    def dress(
        self, shown: Sequence[Shown], scores: Sequence[float] = (), *, is_new: bool = False
    ) -> list[FeedItem] | Missing:
        """Add what is the reader's own: marks, and why each is here.

        `is_new`: it has come just now; marks that are not known, of what a repost repeats, are left out.
        """
        relations, fetched = self._relations, self._fetched
        liked, reposted = relations.liked, relations.reposted
        liked_from = max(relations.liked_from, relations.reposted_from)
        if self._node.has_others:  # likes are counted where the post's author is, maybe on another node
            liked_from = ENDLESS
        own_id = self._feed.user_id
        unknown: list[int] = []
        if not (liked_from or scores):
            # Most items are the same for most readers.
            return [
                found.plain_item
                if root is None
                and found.post_id not in liked
                and found.post_id not in reposted
                and found.author_id != own_id
                else self._dressed((found, root))
                for found, root in shown
            ]
        items: list[FeedItem] = []
        for index, entry in enumerate(shown):
            marked_id = entry[0].root_id or entry[0].post_id
            if marked_id < liked_from and marked_id not in fetched.marked:
                unknown.append(marked_id)
            items.append(self._dressed(entry, scores[index] if scores else None))
        return Missing(marks=tuple(unknown)) if unknown and not is_new else items

    def _dressed(self, entry: Shown, score: float | None = None) -> FeedItem:
        found, root = entry
        relations, fetched = self._relations, self._fetched
        marked_id = found.root_id or found.post_id
        return FeedItem(
            post=found.post,
            original=None if root is None else root.post,
            why=self.why(entry),
            liked=marked_id in relations.liked or marked_id in fetched.liked,
            reposted=marked_id in relations.reposted or marked_id in fetched.reposted,
            score=score,
        )

    def why(self, entry: Shown) -> Why:
        """Why a post that is shown is in the feed."""
        found, root = entry
        if found.author_id == self._feed.user_id:
            return "own"
        if root is not None:
            return "repost"
        return "hot" if found.is_hot else "followed"

    def still_shown(self, post_ids: Sequence[int]) -> list[Shown | None] | Missing:
        """These posts, None for each that the reader does not get any more."""
        entries = self._entries(post_ids)
        if isinstance(entries, Missing):
            return entries
        return [entry if entry is not None and self._reason(entry[0]) is None else None for entry in entries]

    def _reason(self, found: CachedPost) -> LeftOut | None:
        return judge(self._relations, self._feed.user_id, self._posts, found, self._now_ms)

    def may_be_seen(self, entry: Shown, app_id: str) -> bool:
        """Tell whether the reader may see a post elsewhere, although it is not in the feed."""
        found, root = entry
        relations, private = self._relations, self._posts.private_author_ids
        for post in (found, root):
            if post is None:
                continue
            is_open = post.is_public and post.author_id not in private
            if post.is_deleted or post.app_id != app_id or post.author_id in relations.blocked_by:
                return False
            if not (is_open or post.author_id in relations.follows):
                return False
        return True

    def entry(self, post_id: int) -> Shown | None:
        """A post with what it repeats, by what is in memory."""
        found = self._posts.get(post_id)
        if found is None:
            return None
        return found, self._posts.get(found.root_id) if found.root_id else None

    def new_above(self, position: int) -> int | Missing:
        """How many visible posts are newer than a place, counted up to 100."""
        found = self.newer(position, MAX_NEW_ABOVE, max_bytes=ENDLESS)
        return found if isinstance(found, Missing) else len(found.shown)

    def judge(self, post_id: int) -> LeftOut | Missing | None:
        """Why the reader does not get this post; None: it is shown, or would be."""
        entries = self._entries((post_id,))
        if isinstance(entries, Missing):
            return entries
        entry = entries[0]
        return "deleted" if entry is None else self._reason(entry[0])

    # -- candidates ---------------------------------------------------------------------------------

    def _below(self, upper: int, count: int) -> _Portion | Missing:
        """The next candidates below a bound: ids falling, the new bound, whether nothing is beyond it."""
        feed = self._feed
        depth = self._ring_depth(feed.covered_from)
        if isinstance(depth, Missing):
            return depth
        if self._is_unsure() or (upper <= feed.covered_from and feed.covered_from) or upper <= depth:
            before = 0 if upper == ENDLESS else upper
            pulled = self._fetched.pulled.get(("before", before))
            if pulled is None:
                return Missing(pull_before=before, limit=count)
            low = 0 if pulled.is_end else pulled.post_ids[-1]
            return pulled.post_ids, low, pulled.is_end
        ids = feed.ids
        at = len(ids) if upper == ENDLESS else bisect_left(ids, upper)
        start = at - count
        if start > 0:
            post_ids, low = ids[start:at], ids[start]
        else:
            post_ids, low = ids[:at], feed.covered_from
        if low < depth:  # below it there may be more than the rings hold
            low = depth
            post_ids = post_ids[bisect_left(post_ids, low) :]
        falling = post_ids.tolist()
        falling.reverse()
        merged = self._with_merged(falling, low, upper)
        if len(merged) > 2 * count:  # hot authors write more than all others: in portions
            merged = merged[: 2 * count]
            return merged, merged[-1], False
        return merged, low, low == 0

    def _above(self, lower: int, count: int) -> _Portion | Missing:
        """The same above a bound: ids rising."""
        feed = self._feed
        depth = self._ring_depth(lower + 1)
        if isinstance(depth, Missing):
            return depth
        if self._is_unsure() or lower + 1 < feed.covered_from or lower + 1 < depth:
            pulled = self._fetched.pulled.get(("after", lower))
            if pulled is None:
                return Missing(pull_after=lower, limit=count)
            high = pulled.post_ids[-1] if pulled.post_ids else lower
            return pulled.post_ids, high, pulled.is_end
        ids = feed.ids
        at = bisect_right(ids, lower)
        rising = ids[at : at + count].tolist()
        is_end = at + count >= len(ids)
        high = ENDLESS if is_end else rising[-1] + 1
        falling = rising[::-1]
        merged = self._with_merged(falling, lower + 1, high)[::-1]
        if len(merged) > 2 * count:
            merged = merged[: 2 * count]
            return merged, merged[-1], False
        return merged, merged[-1] if merged else lower, is_end

    def _with_merged(self, falling: list[int], low: int, high: int) -> list[int]:
        """Add what is not pushed (yet), from `low` on and below `high`."""
        node, follows = self._node, self._relations.follows
        extra: list[int] = []
        if node.pending and not follows.isdisjoint(node.pending):
            for author_id in follows & node.pending.keys():
                extra += [post_id for post_id in node.pending[author_id] if low <= post_id < high]
        if node.hot and not follows.isdisjoint(node.hot):
            for author_id in follows & node.hot.keys():
                hot = node.hot[author_id]
                if hot.last_hot_id >= low:
                    extra += hot.between(low, high)
        if not extra:
            return falling
        return sorted({*falling, *extra}, reverse=True)

    def _is_unsure(self) -> bool:
        """Tell whether some author's newest posts may be missing from what is in memory."""
        doubtful, relations = self._node.doubtful, self._relations
        return bool(relations.uncovered) or not (doubtful.isdisjoint(relations.follows) if doubtful else True)

    def _ring_depth(self, low: int) -> int | Missing:
        """From where on the rings hold all that hot authors have written; 0: down to `low`, at least."""
        node, follows = self._node, self._relations.follows
        if not node.hot or follows.isdisjoint(node.hot):
            return 0
        depth = 0
        unloaded = []
        for author_id in follows & node.hot.keys():
            hot = node.hot[author_id]
            if hot.last_hot_id >= low:
                if not hot.is_loaded:
                    unloaded.append(author_id)
                elif low < hot.covered_from:
                    depth = max(depth, hot.covered_from)
        return Missing(rings=tuple(unloaded), limit=RING_SIZE) if unloaded else depth

    # -- posts --------------------------------------------------------------------------------------

    def _entries(self, post_ids: Sequence[int]) -> list[Shown | None] | Missing:
        """These posts with what they repeat; None for what does not exist."""
        get, is_known = self._posts.get, self._posts.is_known
        self._forget_old_counts(post_ids)
        entries: list[Shown | None] = []
        unknown: list[int] = []
        for post_id in post_ids:
            found = get(post_id)
            if found is None:
                entries.append(None)
                if not is_known(post_id):
                    unknown.append(post_id)
            elif found.root_id:
                root = get(found.root_id)
                entries.append((found, root))
                if root is None and not is_known(found.root_id):
                    unknown.append(found.root_id)
            else:
                entries.append((found, None))
        return Missing(post_ids=tuple(unknown)) if unknown else entries

    def _forget_old_counts(self, post_ids: Sequence[int]) -> None:
        if self._node.has_others:
            self._posts.forget_old_counts(post_ids, self._now_ms)

    def omission(self, found: CachedPost, reason: LeftOut) -> Omission:
        """Tell of a post that is left out, and until when."""
        until_ms = 0
        if reason == "not_interested":
            root = self._posts.get(found.root_id) if found.root_id else None
            until_ms = self._relations.interests.hidden_until(
                found.post, None if root is None else root.post, self._now_ms
            )
        return Omission(
            post_id=found.post.post_id, author_id=found.author_id, reason=reason, until_ms=until_ms
        )
