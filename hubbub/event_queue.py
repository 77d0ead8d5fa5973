"""Events that wait for the user of a client: bounded, with one consumer."""

from collections import deque
from typing import Final

import msgspec
import trio

from hubbub.streams import Stream
from protocol.events import Event, Presence, Read, Receipts, Typing
from protocol.feed_events import FeedChanged, FeedNews, PostCounts
from protocol.notify_events import NotificationShown, NotificationsMarked

MAX_NEWS_AUTHORS: Final = 10  # named in one FeedNews of ours
MAX_COALESCED: Final = 5_000  # latest states of receipts and presence kept for a user who is not reading


class EventQueue:
    """A queue of events, each with the stream whose cursor it moves (None: a live event).

    `limit` is a promise of the producer, who asks `has_room` first; one batch may overshoot it. Live events
    that come while there is no room are merged by what they are about: the latest receipt, presence, badge or
    count is what counts, and news of the feed add up. Typing marks are dropped then: they end by themselves.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[tuple[Event, Stream | None]] = deque()
        self._coalesced: dict[tuple[str, str, str], Event] = {}
        self._ready = trio.Event()
        self._room = trio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def has_room(self) -> bool:
        return len(self._items) < self._limit

    def put(self, event: Event, stream: Stream | None) -> None:
        """Add an event, whether there is room or not."""
        self._items.append((event, stream))
        if len(self._items) == 1:
            self._ready.set()
        if len(self._items) == self._limit:
            self._room = trio.Event()

    def put_live(self, event: Event) -> None:
        """Add an event without a seq, or merge it where there is no room."""
        if self.has_room:
            self.put(event, None)
            return
        if isinstance(event, Typing):
            return
        for key, part in _parts(event):
            old = self._coalesced.pop(key, None)  # the newest goes to the end
            if isinstance(old, FeedNews) and isinstance(part, FeedNews):
                part = _sum(old, part)
            self._coalesced[key] = part
        while len(self._coalesced) > MAX_COALESCED:
            del self._coalesced[next(iter(self._coalesced))]
        self._ready.set()

    async def wait_room(self) -> None:
        """Wait until there is room for one more."""
        while not self.has_room:  # ends when the consumer takes something
            await self._room.wait()

    def wake(self) -> None:
        """Let the consumer look again: the client ended."""
        self._ready.set()

    async def wait_ready(self) -> None:
        await self._ready.wait()

    def get_nowait(self) -> tuple[Event, Stream | None] | None:
        """Take the oldest event, or None where there is none."""
        if self._items:
            item = self._items.popleft()
            if len(self._items) == self._limit - 1:
                self._room.set()
            return item
        if self._coalesced:
            key = next(iter(self._coalesced))
            return self._coalesced.pop(key), None
        self._ready = trio.Event()
        return None


def _sum(first: FeedNews, second: FeedNews) -> FeedNews:
    user_ids = list(dict.fromkeys((*second.user_ids, *first.user_ids)))
    return FeedNews(count=first.count + second.count, user_ids=user_ids[:MAX_NEWS_AUTHORS])


def _parts(event: Event) -> list[tuple[tuple[str, str, str], Event]]:
    """Split an event into the smallest ones that replace each other, with their keys."""
    if isinstance(event, Receipts):
        return [
            (
                ("receipts", event.conversation_id, item.user_id),
                msgspec.structs.replace(event, items=[item]),
            )
            for item in event.items
        ]
    if isinstance(event, Presence):
        return [(("presence", "", item.user_id), Presence(items=[item])) for item in event.items]
    if isinstance(event, Read):
        return [(("read", event.conversation_id, ""), event)]
    if isinstance(event, PostCounts):
        return [(("post_counts", "", str(event.post_id)), event)]
    if isinstance(event, NotificationShown):
        return [(("notification", "", str(event.item.notification_id)), event)]
    if isinstance(event, NotificationsMarked):  # each tells of others, and none of them may be lost
        return [(("notifications_marked", event.mark, f"{event.up_to} {event.notification_ids}"), event)]
    if isinstance(event, FeedChanged):
        return [(("feed_changed", "", str(event.post.post_id)), event)]
    return [((type(event).__name__, str(getattr(event, "conversation_id", "")), ""), event)]
