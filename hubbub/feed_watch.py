"""Keep the live feed whole: watch it on each connection anew, and read what was missed.

One task, started by the first `client.feed.start_live` or `watch`. It tells the server what this client
shows, after each welcome again, and catches up whenever something may have been lost: a hole in the
positions, a `resync` of "feed", a new connection, or no room for what came.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from hubbub.asker import Asker
from hubbub.backoff import full_jitter_s
from hubbub.event_queue import MAX_NEWS_AUTHORS, EventQueue
from hubbub.feed_stream import FeedStream
from protocol import replies as r
from protocol.errors import HubbubError
from protocol.feed_commands import ReadFeed, WatchFeed
from protocol.feed_events import FeedChanged, FeedNews, FeedPosted, PostCounts
from protocol.feed_replies import FeedPage
from protocol.feed_types import FeedItem

logger = logging.getLogger("hubbub")

FEED: Final = "feed"  # what a resync of the feed has instead of a conversation_id
CATCH_UP_PAGE: Final = 100  # items in one answer
MAX_CATCH_UP_PAGES: Final = 50  # who was away for more is told the newest 5,000

FeedLive = FeedPosted | FeedNews | FeedChanged | PostCounts


class FeedWatch:
    """What one client watches of the feed. Its user sets it, its connection tells of welcomes and events."""

    def __init__(self, asker: Asker, queue: EventQueue, chance: Callable[[], float]) -> None:
        self._asker = asker
        self._queue = queue
        self._chance = chance
        self._stream: FeedStream | None = None  # while the feed is live
        self._expand_news = False
        self._post_ids: list[int] = []
        self._wanted = 0  # rises with each change of what is watched
        self._told = 0  # what of it the server of this connection knows
        self._telling = trio.Lock()
        self._wake = trio.Event()
        self._is_listening = False
        self._welcomes = 0
        self._clock_ms = 0  # what the server said of the time last, and when
        self._clock_at = 0.0

    # -- the user's side ----------------------------------------------------------------------------

    async def start(self, *, limit: int, since: int | None, expand_news: bool) -> FeedPage:
        """Watch the feed from a page on, which is returned."""
        stream = self._stream = FeedStream(since)
        self._expand_news = expand_news
        self._wanted += 1
        try:
            await self._tell()
            clock_ms = self._clock()
            page = await self._read("", limit, ads=True)  # for the user's eyes
        except BaseException:
            if self._stream is stream:
                self._stream = None
                self._wanted += 1
                self._wake.set()  # the task takes it back
            raise
        for event in stream.start(page.items, page.position, clock_ms):
            self._queue.put(event, None)
        self._wake.set()
        return page

    async def stop(self) -> None:
        """Watch the feed no more."""
        self._stream = None
        self._wanted += 1
        await self._tell()

    async def watch(self, post_ids: Sequence[int]) -> None:
        """Watch these posts, instead of the last."""
        self._post_ids = list(post_ids)
        self._wanted += 1
        await self._tell()

    def listen(self) -> None:
        """Events are taken from now on."""
        self._is_listening = True
        self._wake.set()

    # -- the connection's side ----------------------------------------------------------------------

    def on_welcome(self, now_ms: int) -> None:
        """A new connection: the server knows nothing of what is watched, and events may have been lost."""
        self._set_clock(now_ms)
        self._welcomes += 1
        self._told = 0
        self.on_resync()

    def on_resync(self) -> None:
        """Live events were lost."""
        if self._stream is not None:
            self._stream.miss()
        self._wake.set()

    def note_time(self, now_ms: int) -> None:
        """The server has said so late that it lives."""
        self._set_clock(now_ms)
        if self._stream is not None and self._told == self._wanted:
            self._stream.note_time(now_ms)

    def take(self, event: FeedLive) -> None:
        """Take a live event."""
        stream = self._stream
        if isinstance(event, FeedPosted):
            if stream is None:
                return  # the watch has ended, or was not told to this user
            has_room = self._is_listening and self._queue.has_room
            if stream.offer(event, clock_ms=self._clock(), has_room=has_room):
                self._queue.put(event, None)
            elif stream.is_behind:
                self._wake.set()
        elif isinstance(event, FeedNews) and self._expand_news and stream is not None:
            stream.miss()
            self._wake.set()
        elif self._is_listening:
            self._queue.put_live(event)

    def _set_clock(self, now_ms: int) -> None:
        if now_ms >= self._clock():
            self._clock_ms, self._clock_at = now_ms, trio.current_time()

    def _clock(self) -> int:
        """The server's time by now, or a little less: what it said last came with a delay."""
        return self._clock_ms + int((trio.current_time() - self._clock_at) * 1000) if self._clock_ms else 0

    # -- the task -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Tell and catch up until the client ends."""
        failures = 0
        while True:
            is_untold = self._told != self._wanted and bool(self._stream or self._post_ids or self._told)
            is_behind = self._is_listening and self._stream is not None and self._stream.is_behind
            if not is_untold and not is_behind:
                self._wake = trio.Event()
                await self._wake.wait()
                continue
            try:
                if is_untold:
                    await self._tell()
                stream = self._stream
                if stream is not None and is_behind:
                    await self._catch_up(stream)
                failures = 0
            except HubbubError as exc:
                if exc is self._asker.ended:
                    await trio.sleep_forever()  # the client is over; its nursery ends this task
                logger.warning("feed_catch_up_failed code=%s", exc.code)
                failures += 1
                await trio.sleep(
                    full_jitter_s(
                        failures, self._chance, max_delay_s=30.0, at_least_s=exc.retry_after_s or 0.1
                    )
                )

    async def _tell(self) -> None:
        """Tell the server what is watched now. Raises: HubbubError."""
        async with self._telling:  # a command that is tried again must not undo a later one
            while self._told != self._wanted:  # ends when nobody changed it meanwhile
                told, welcomes = self._wanted, self._welcomes
                command = WatchFeed(
                    id=self._asker.next_id(), feed=self._stream is not None, post_ids=self._post_ids
                )
                await self._asker.ask_now(command, r.Ok)
                if self._welcomes == welcomes:  # else tell the new connection as well
                    self._told = told

    async def _read(self, before: str, limit: int, *, ads: bool = False) -> FeedPage:
        command = ReadFeed(
            id=self._asker.next_id(), before=before, limit=limit, order="chronological", ads=ads
        )
        return await self._asker.ask_now(command, FeedPage)

    async def _catch_up(self, stream: FeedStream) -> None:
        """Read down to what is known, then tell what is above it, oldest first, as fast as it is taken.

        Only the places of pages are kept on the way down, so that a long absence takes no memory.
        """
        stream.begin()
        newest_id = stream.newest_id
        clock_ms = self._clock()
        try:
            first = page = await self._read("", CATCH_UP_PAGE)
            places: list[str] = []
            while page.before and not stream.reaches_back(page.items):
                if len(places) + 1 == MAX_CATCH_UP_PAGES:
                    logger.warning("feed_too_far_behind told_count=%s", MAX_CATCH_UP_PAGES * CATCH_UP_PAGE)
                    break
                places.append(page.before)
                page = await self._read(page.before, CATCH_UP_PAGE)
            for index in range(len(places) - 1, -1, -1):
                if index < len(places) - 1:  # the lowest one is at hand
                    page = await self._read(places[index], CATCH_UP_PAGE)
                await self._put(stream, page, first.position, newest_id)
            await self._put(stream, first, first.position, newest_id)
        except BaseException:
            stream.give_up()
            raise
        if self._stream is stream:
            for event in stream.end(first.position, clock_ms):
                self._queue.put(event, None)

    async def _put(self, stream: FeedStream, page: FeedPage, position: int, newest_id: int) -> None:
        await self._queue.wait_room()
        if self._stream is not stream:
            return  # the watch ended while there was no room
        news: list[FeedItem] = []
        for item in stream.take(page.items):
            if item.why == "hot" and not self._expand_news:
                news.append(item)
            else:
                self._queue.put(FeedPosted(position=position, item=item), None)
        count = sum(item.post is not None and item.post.post_id > newest_id for item in news)
        if count:
            user_ids = {item.post.author_id: None for item in news if item.post is not None}
            self._queue.put_live(FeedNews(count=count, user_ids=list(user_ids)[:MAX_NEWS_AUTHORS]))
