"""What a node knows beyond its feeds: the posts, which authors are merged in at read, and who watches.

Actors tell it at the commit and before the ack (actors.ports.FeedIndex). In a cluster what other nodes did is
read from the log (actors.feed.feed_follower) before each page is made.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from actors.feed.feed import ENDLESS, Feed, Relations
from actors.feed.post_cache import PostCache
from actors.feed.ranking import COMMENT_WEIGHT, LIKE_WEIGHT, REPOST_WEIGHT
from protocol.events import Event
from protocol.feed_events import PostCounts
from protocol.feed_found import FeedChange, FeedState
from protocol.feed_types import FeedOptions
from protocol.records import AuthorRow, PostCountsRow, PostRow
from protocol.stored_posts import post_of

RING_SIZE: Final = 1_000  # newest posts of one hot author that are kept: deeper pages read from the store

Change = Callable[[Relations], None]


class Trending(Protocol):
    """Who counts what people act on; server/trends.py fits this."""

    def noted_post(self, app_id: str, post_id: int, author_id: str, hashtags: Iterable[str]) -> None: ...

    def noted_act(
        self,
        app_id: str,
        post_id: int,
        author_id: str,
        user_id: str,
        hashtags: Iterable[str],
        weight: float,
    ) -> None: ...


def note_act(relations: Relations, post: PostRow, weight: int) -> None:
    """A reader did something with a post, or took it back: it counts in ranked feeds."""
    if relations.affinities is not None:
        relations.affinities.noted(post.author_id, post.at_ms, weight)


class HotAuthor:
    """An author whose posts, or some of them, were never pushed: up to `last_hot_id` they are merged in."""

    __slots__ = ("covered_from", "is_loaded", "last_hot_id", "ring")

    def __init__(self, last_hot_id: int) -> None:
        self.last_hot_id = last_hot_id
        self.ring = array("q")  # the newest posts, rising
        self.covered_from = ENDLESS  # the ring is complete from here on
        self.is_loaded = False  # until it was read, nothing older than what came since is in it

    def add(self, post_id: int) -> None:
        """A new post, however it goes into feeds."""
        ring = self.ring
        if not ring or post_id > ring[-1]:
            ring.append(post_id)
        else:
            at = bisect_left(ring, post_id)
            if ring[at] != post_id:
                ring.insert(at, post_id)
        if len(ring) > RING_SIZE:
            del ring[: len(ring) - RING_SIZE]
            if self.is_loaded:
                self.covered_from = max(self.covered_from, ring[0])

    def load(self, post_ids: Iterable[int], *, is_whole: bool) -> None:
        """Take what was read of the newest posts; `is_whole`: there are no older ones."""
        known = set(self.ring)
        found = list(post_ids)
        self.ring = array("q", sorted(known.union(found))[-RING_SIZE:])
        self.is_loaded = True
        self.covered_from = 0 if is_whole and len(self.ring) < RING_SIZE else (self.ring or found)[0]

    def between(self, low: int, high: int) -> "array[int]":
        """The ids from `low` on, below `high`, rising."""
        ring = self.ring
        return ring[bisect_left(ring, low) : bisect_left(ring, high)]


class FeedNode:
    """Fits actors.ports.FeedIndex. All methods are for the Trio thread and return at once."""

    def __init__(
        self,
        *,
        trending: Trending | None = None,
        options_of: Callable[[str], FeedOptions] = lambda _app_id: FeedOptions(),
        has_others: bool = False,
    ) -> None:
        """`options_of`: what an app has switched on. `has_others`: there may be other nodes."""
        self.has_others = has_others
        self.posts = PostCache()
        self.feeds: dict[str, Feed] = {}  # user_id -> those in memory, put here by the partitions
        self.hot: dict[str, HotAuthor] = {}
        # Authors of whom more may be stored than was told: pages with them are read from the store.
        self.doubtful: set[str] = set()
        self.pending: dict[str, list[int]] = {}  # author_id -> posts that are being pushed
        # Readers whose relations are being read: what changes meanwhile, in order.
        self.arriving: dict[str, list[Change]] = {}
        self.watching: dict[str, set[str]] = {}  # hot author_id -> readers who have their feed on the screen
        self._watchers: set[str] = set()
        self._hot_now: set[str] = set()  # authors whose new posts are not pushed, as far as was told
        self._pushed_early: set[int] = set()  # told before `start`, whose state may be older
        self.on_post: Callable[[int], None] = lambda _post_id: None  # hears the id of each post of any node
        self.news: dict[str, dict[int, str]] = {}  # user_id -> new posts of hot authors: id -> author
        self.is_loaded = False
        self.lsn = 0  # of the log: up to here it knows what other nodes did
        self.trending = trending
        self.options_of = options_of
        self.post_count = 0

    def start(self, state: FeedState) -> None:
        """Take what was stored before this node began to be told."""
        self.lsn = state.lsn
        for author_id, last_hot_id in state.hot:
            self._hot(author_id, last_hot_id)
        for author_id, post_id in state.pending:
            if post_id not in self._pushed_early:
                self._add_pending(author_id, post_id)
        self._pushed_early.clear()
        self.is_loaded = True

    def relate(self, user_id: str, change: Change) -> None:
        """Change how a reader stands to others, in memory."""
        feed = self.feeds.get(user_id)
        if feed is not None and feed.relations is not None:
            change(feed.relations)
        arriving = self.arriving.get(user_id)
        if arriving is not None:
            arriving.append(change)

    def followed(self, user_id: str, author_id: str) -> None:
        """A reader follows an author from now on; if that one is hot, one who watches hears of new posts."""
        self.relate(user_id, lambda relations: relations.follow(author_id))
        if user_id in self._watchers and (author_id in self.hot or author_id in self._hot_now):
            self.watching.setdefault(author_id, set()).add(user_id)

    # -- actors.ports.FeedIndex ---------------------------------------------------------------------

    def posted(self, post: PostRow, *, is_pending: bool) -> None:
        if post.post_id in self.pending.get(post.author_id, ()):
            self.posts.put(post)  # told again by the next actor of its author, who goes on pushing it
            return
        self._posted(post, None, is_pending=is_pending)
        self.post_count += 1
        if self.trending is not None and not post.repost_of and self._is_for_all(post):
            self.trending.noted_post(post.app_id, post.post_id, post.author_id, post_of(post).hashtags)

    def _posted(self, post: PostRow, counts: PostCountsRow | None, *, is_pending: bool) -> None:
        self.posts.put(post, counts)
        author_id, post_id, root_id = post.author_id, post.post_id, post.repost_of
        self.on_post(post_id)
        if root_id:
            self.relate(author_id, lambda own: own.reposted.add(root_id))
        if is_pending:
            self._add_pending(author_id, post_id)
        if post.is_hot:
            self._hot(author_id, post_id)
            for user_id in self.watching.get(author_id, ()):
                self.news.setdefault(user_id, {})[post_id] = author_id
        hot = self.hot.get(author_id)
        if hot is not None:
            hot.add(post_id)

    def pushed(self, post_id: int, author_id: str) -> None:
        if not self.is_loaded:
            self._pushed_early.add(post_id)
        pending = self.pending.get(author_id)
        if pending is not None and post_id in pending:
            pending.remove(post_id)
            if not pending:
                del self.pending[author_id]

    def edited(self, post: PostRow) -> None:
        if self.posts.get(post.post_id) is None:
            self.posts.forget(post.post_id)
        else:
            self.posts.put(post)

    def deleted(self, post: PostRow) -> None:
        self.posts.put(post)
        root_id = post.repost_of
        if root_id:
            self.relate(post.author_id, lambda own: own.reposted.discard(root_id))

    def counted(self, counts: PostCountsRow) -> None:
        self.posts.count(counts)

    def liked(self, post: PostRow, user_id: str, *, removed: bool) -> None:
        post_id = post.post_id

        def change(relations: Relations) -> None:
            if removed:
                relations.liked.discard(post_id)
            else:
                relations.liked.add(post_id)
            note_act(relations, post, -LIKE_WEIGHT if removed else LIKE_WEIGHT)

        self.relate(user_id, change)
        if not removed:
            self._note_act(post, user_id, LIKE_WEIGHT)

    def commented(self, post: PostRow, user_id: str) -> None:
        self.relate(user_id, lambda relations: note_act(relations, post, COMMENT_WEIGHT))
        self._note_act(post, user_id, COMMENT_WEIGHT)

    def reposted(self, post: PostRow, user_id: str, *, removed: bool) -> None:
        weight = -REPOST_WEIGHT if removed else REPOST_WEIGHT
        self.relate(user_id, lambda relations: note_act(relations, post, weight))
        if not removed:
            self._note_act(post, user_id, REPOST_WEIGHT)

    def author_changed(self, author: AuthorRow) -> None:
        self.posts.set_private(author.user_id, is_private=author.is_private)
        if author.last_hot_id:
            self._hot(author.user_id, author.last_hot_id)
        if not author.is_hot:
            self._hot_now.discard(author.user_id)
        elif author.user_id not in self._hot_now:
            self._hot_now.add(author.user_id)
            self._watch_hot(author.user_id)

    def blocked(self, user_id: str, other_id: str, *, blocked: bool) -> None:
        self.relate(user_id, lambda own: own.block(other_id, by_reader=True, blocked=blocked))
        self.relate(other_id, lambda own: own.block(user_id, by_reader=False, blocked=blocked))

    def forget(self, author_id: str) -> None:
        if not self.has_others:  # else each page reads first what was stored, by this node as well
            self.doubtful.add(author_id)
        self.posts.forget_author(author_id)
        hot = self.hot.get(author_id)
        if hot is not None:
            self.hot[author_id] = HotAuthor(hot.last_hot_id)

    def started(self, author: AuthorRow) -> None:
        self.doubtful.discard(author.user_id)
        self.author_changed(author)

    # -- what other nodes did -----------------------------------------------------------------------

    def apply(self, change: FeedChange) -> None:
        """Take note of a change that was read from the log; what this node did itself is known already."""
        self.lsn = change.lsn
        post, author = change.post, change.author
        match change.kind:
            case "posted" if post is not None:
                # Also where a page has met the post already: that says nothing of pending and rings.
                self._posted(post.row, post.counts, is_pending=not post.row.is_hot)
                self.posts.set_private(post.row.author_id, is_private=post.is_private)
            case "post_edited" if post is not None:
                self.posts.put(post.row, post.counts)
            case "post_deleted" if post is not None:
                self.posts.put(post.row, post.counts)
                self.deleted(post.row)
            case "pushed" if post is not None:
                self.pushed(post.row.post_id, change.user_id)
            case "author_changed" if author is not None:
                self.author_changed(author)
            case "block_changed":
                # Two of them may be read in another order than they are told: the later one counts.
                self.blocked(change.user_id, change.other_id, blocked=change.blocked)

    def heard(self, event: Event) -> None:
        """Take a live event about a post that another node has sent."""
        if isinstance(event, PostCounts):
            self.posts.heard(event)

    # -- who watches --------------------------------------------------------------------------------

    def watch(self, feed: Feed) -> None:
        """A reader has the feed on the screen: count new posts of hot authors for it."""
        self._watchers.add(feed.user_id)
        if feed.relations is not None:
            # Also who is hot, and has not posted since.
            for author_id in feed.relations.follows & (self.hot.keys() | self._hot_now):
                self.watching.setdefault(author_id, set()).add(feed.user_id)

    def unwatch(self, user_ids: Iterable[str]) -> None:
        """These readers have their feed on the screen no more."""
        gone = set(user_ids)
        self._watchers -= gone
        for author_id in list(self.watching):
            left = self.watching[author_id]
            left -= gone
            if not left:
                del self.watching[author_id]
        for user_id in gone:
            self.news.pop(user_id, None)

    def _watch_hot(self, author_id: str) -> None:
        """An author has become hot: count new posts for those who watch."""
        for user_id in self._watchers:
            feed = self.feeds.get(user_id)
            if feed is not None and feed.relations is not None and author_id in feed.relations.follows:
                self.watching.setdefault(author_id, set()).add(user_id)

    def _note_act(self, post: PostRow, user_id: str, weight: float) -> None:
        if self.trending is not None and self._is_for_all(post):
            hashtags = post_of(post).hashtags
            self.trending.noted_act(post.app_id, post.post_id, post.author_id, user_id, hashtags, weight)

    def _is_for_all(self, post: PostRow) -> bool:
        """Tell whether everybody may see a post, and so what trends because of it."""
        return post.visibility == "public" and post.author_id not in self.posts.private_author_ids

    def _hot(self, author_id: str, last_hot_id: int) -> HotAuthor:
        hot = self.hot.get(author_id)
        if hot is None:
            hot = self.hot[author_id] = HotAuthor(last_hot_id)
        elif last_hot_id > hot.last_hot_id:
            hot.last_hot_id = last_hot_id
        return hot

    def _add_pending(self, author_id: str, post_id: int) -> None:
        pending = self.pending.setdefault(author_id, [])
        if post_id not in pending:
            pending.append(post_id)
