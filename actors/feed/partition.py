"""The actor of one partition: it owns the feeds of its readers, and answers their pages from memory.

Follows, mutes and interests are decided in relations_keeper.py, feeds are kept in feed_keeper.py, and pages
made in page_desk.py; here is what comes in, and what goes out live.
"""

import msgspec

from actors.feed.feed_keeper import Sweep, WriteDown
from actors.feed.page import Fetched, PageMaker
from actors.feed.page_desk import READERS, Loaded, PageDesk, Retry
from actors.feed.request import Request
from actors.feed_audience import FEED_STREAM
from actors.messages import Ask, Evict, FanOut, FeedWatched, Told
from actors.reply import Reply
from protocol import feed_events, replies
from protocol.codec import Encoded
from protocol.errors import HubbubError


class _Live(msgspec.Struct, frozen=True):
    """The post that these readers were pushed is in memory now: tell those who watch."""

    post_id: int
    places: list[tuple[str, int]]


class FeedPartition(PageDesk):
    """Own the feeds of one partition."""

    # -- messages -----------------------------------------------------------------------------------

    def handle_nowait(self, message: object, reply: Reply) -> bool:
        if isinstance(message, Ask) and type(message.command) in READERS:
            self.serve(Request(message, reply))
            return True
        if isinstance(message, FanOut):
            self.fan_out(message, reply)
        elif isinstance(message, Retry):
            self.retry(message)
        elif isinstance(message, Loaded):
            self.loaded(message)
        else:
            return False
        return True

    async def handle(self, message: object, reply: Reply) -> None:
        if self.handle_nowait(message, reply):
            return
        match message:
            case Ask():
                if not await self.relate(message, reply):
                    raise TypeError(f"a feed partition does not take {type(message.command).__name__}")
            case Told():
                await self.told(message, reply)
            case FeedWatched(user_id=user_id):
                self._watch(user_id, reply)
            case Evict(user_ids=user_ids):
                self._log.check_room()
                self.drop([user_id for user_id in user_ids if user_id in self._feeds])
                self._answer_in_order(reply, replies.Ok())
            case _Live():
                self.tell_live(message.post_id, message.places)
            case Sweep():
                self.sweep()
            case WriteDown():
                self.write_down(message)
            case _:
                raise TypeError(f"a feed partition does not take {type(message).__name__}")

    # -- what watchers hear -------------------------------------------------------------------------

    def tell_live(self, post_id: int, places: list[tuple[str, int]]) -> None:
        """Tell readers who watch of a post that they can read by now."""
        found = self._node.posts.get(post_id)
        is_known = self._node.posts.is_known
        if found is None or (found.root_id and not is_known(found.root_id)):
            if not is_known(post_id) or (found is not None and found.root_id):
                self._ctx.start_soon(self._fetch_live, post_id, places)
            return
        now_ms = self._now_ms()
        for user_id, position in places:
            feed = self._feeds.get(user_id)
            if feed is None or feed.relations is None:
                continue
            maker = PageMaker(feed, self._node, self._limits, Fetched(), now_ms=now_ms)
            item = None
            if maker.judge(post_id) is None:
                root = self._node.posts.get(found.root_id) if found.root_id else None
                dressed = maker.dress([(found, root)], is_new=True)
                item = dressed[0] if isinstance(dressed, list) else None
            event = feed_events.FeedPosted(position=position, item=item)
            self._fanout.publish_user_live(
                user_id, ("feed", str(position)), Encoded(event), stream=FEED_STREAM
            )

    async def _fetch_live(self, post_id: int, places: list[tuple[str, int]]) -> None:
        try:
            await self._follower.refresh()
            await self.fetch_posts((post_id,))
        except HubbubError:
            return  # the next event's position shows the gap
        self._ctx.post(_Live(post_id, places))

    def _watch(self, user_id: str, reply: Reply) -> None:
        """A session shows the feed: it has to be in memory, for its news to be told."""
        self._watched.add(user_id)
        feed = self._feeds.get(user_id)
        if feed is None or feed.relations is None:
            self.arrive(user_id)
        else:
            self._node.watch(feed)
        reply.resolve(replies.Ok())
