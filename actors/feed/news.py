"""Tell readers who watch their feed of new posts of hot authors, those of one tick together."""

import trio

from actors.feed.index import FeedNode
from actors.feed.page import judge
from actors.feed_audience import FEED_STREAM
from actors.ports import Fanout, WallClock
from protocol.codec import Encoded
from protocol.feed_events import FeedNews
from protocol.limits import FEED_NEWS_TICK_S

_MAX_AUTHORS = 5  # named in one event


class FeedNewsTeller:
    """Send what a FeedNode has gathered for its readers."""

    def __init__(self, node: FeedNode, fanout: Fanout, *, now_ms: WallClock) -> None:
        self._node = node
        self._fanout = fanout
        self._now_ms = now_ms

    async def run(self) -> None:
        """Tell once a tick. Ends only by cancellation."""
        while True:
            await trio.sleep(FEED_NEWS_TICK_S)
            self.tell()

    def tell(self) -> None:
        """Tell what has come since the last time; posts that a reader does not get are not counted."""
        node = self._node
        news, node.news = node.news, {}
        now_ms = self._now_ms()
        for user_id, posted in news.items():
            feed = node.feeds.get(user_id)
            if feed is None or feed.relations is None:
                continue
            author_ids: dict[str, None] = {}
            count = 0
            for post_id, author_id in posted.items():
                found = node.posts.get(post_id)
                if found is not None and judge(feed.relations, user_id, node.posts, found, now_ms) is None:
                    count += 1
                    author_ids[author_id] = None
            if count:
                event = FeedNews(count=count, user_ids=list(author_ids)[:_MAX_AUTHORS])
                self._fanout.publish_user_live(user_id, ("feed_news",), Encoded(event), stream=FEED_STREAM)
