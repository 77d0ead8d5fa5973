"""The sessions of this node that show the feed, or posts whose counts they want to hear live."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from actors.presence_board import PushLive
from protocol import events
from protocol.codec import Encoded
from protocol.events import Event
from protocol.feed_events import PostCounts

FEED_STREAM: Final = "feed"  # what a Resync names when live events of the feed were lost

LiveKey = str | tuple[str, ...]


def counts_key(post_id: int) -> LiveKey:
    """Under which the counts of a post wait in an outbox: newer ones take their place."""
    return ("post_counts", str(post_id))


class Watcher(Protocol):
    """One connection, as far as feeds go; see actors.hub.Listener."""

    @property
    def conn_id(self) -> int: ...

    @property
    def user_id(self) -> str: ...

    @property
    def push_live(self) -> PushLive: ...


class FeedAudience:
    """Know who watches what. All methods are for the Trio thread; nothing here waits."""

    def __init__(self) -> None:
        self._feeds: dict[str, dict[int, Watcher]] = {}  # user_id -> conn_id -> the sessions with the feed on
        self._posts: dict[int, dict[int, Watcher]] = {}  # post_id -> conn_id -> the sessions that show it
        self._shown: dict[int, frozenset[int]] = {}  # conn_id -> post_ids
        self._users: dict[int, str] = {}  # conn_id -> user_id, of those who show posts
        # What this node knows of a post that everybody may see; see `watch`.
        self.counts_of: Callable[[int], PostCounts | None] = lambda _post_id: None
        # Gets the live events about posts that other nodes have sent.
        self.heard: Callable[[Event], None] = lambda _event: None

    def watch(self, watcher: Watcher, *, feed: bool, post_ids: Sequence[int]) -> None:
        """Replace what a session watches, and send the counts of what is new in it.

        A post is watched a moment after it was read: a like in between would not be heard of.
        """
        conn_id = watcher.conn_id
        if feed:
            self._feeds.setdefault(watcher.user_id, {})[conn_id] = watcher
        else:
            self._leave_feed(watcher)
        old, new = self._shown.pop(conn_id, frozenset()), frozenset(post_ids)
        if new:
            self._shown[conn_id] = new
            self._users[conn_id] = watcher.user_id
        else:
            self._users.pop(conn_id, None)
        for post_id in new - old:
            self._posts.setdefault(post_id, {})[conn_id] = watcher
            counts = self.counts_of(post_id)
            if counts is not None:
                watcher.push_live(counts_key(post_id), Encoded(counts), None)
        for post_id in old - new:
            self._leave_post(conn_id, post_id)

    def forget(self, watcher: Watcher) -> None:
        """A session has gone."""
        self._leave_feed(watcher)
        self._users.pop(watcher.conn_id, None)
        for post_id in self._shown.pop(watcher.conn_id, ()):
            self._leave_post(watcher.conn_id, post_id)

    def part(self, user_id: str) -> None:
        """The user may not see some author's posts any more: hear of none until the session says anew."""
        for conn_id in [c for c, user in self._users.items() if user == user_id]:
            for post_id in self._shown.pop(conn_id, ()):
                self._leave_post(conn_id, post_id)
            del self._users[conn_id]

    def publish_feed(self, user_id: str, key: LiveKey, encoded: Encoded) -> None:
        """Send a live event to the user's sessions that show the feed."""
        watchers = self._feeds.get(user_id)
        if watchers is not None:
            for watcher in watchers.values():
                watcher.push_live(key, encoded, FEED_STREAM)

    def publish_post(self, post_id: int, key: LiveKey, encoded: Encoded) -> None:
        """Send a live event to the sessions that show a post. The next one makes up for a lost one."""
        watchers = self._posts.get(post_id)
        if watchers is not None:
            for watcher in watchers.values():
                watcher.push_live(key, encoded, None)

    def resync(self, user_id: str) -> None:
        """Tell the sessions that show the feed that live events of it may be lost."""
        encoded = Encoded(events.Resync(conversation_id=FEED_STREAM))
        self.publish_feed(user_id, ("resync", FEED_STREAM), encoded)

    def user_ids(self) -> list[str]:
        """The users whose feed is shown here."""
        return list(self._feeds)

    def _leave_feed(self, watcher: Watcher) -> None:
        watchers = self._feeds.get(watcher.user_id)
        if watchers is not None and watchers.pop(watcher.conn_id, None) is not None and not watchers:
            del self._feeds[watcher.user_id]

    def _leave_post(self, conn_id: int, post_id: int) -> None:
        watchers = self._posts.get(post_id)
        if watchers is not None:
            watchers.pop(conn_id, None)
            if not watchers:
                del self._posts[post_id]
