"""Who watches which posts, and what a session is sent when it begins to."""

from actors.feed.post_cache import PostCache
from actors.feed_audience import FeedAudience, LiveKey
from protocol.codec import Encoded
from protocol.feed_events import PostCounts
from protocol.records import PostCountsRow, PostRow


class Session:
    """A connection that keeps what it is sent, as an outbox does: the newest of each key."""

    user_id = "u_ann"

    def __init__(self, conn_id: int) -> None:
        self.conn_id = conn_id
        self.sent: dict[LiveKey, object] = {}

    def push_live(self, key: LiveKey, encoded: Encoded, stream: str | None = None) -> None:
        self.sent[key] = encoded.event


def cache(*rows: PostRow) -> PostCache:
    posts = PostCache()
    for row in rows:
        posts.put(row, PostCountsRow(post_id=row.post_id, likes=row.post_id * 2, comments=1))
    return posts


def row(post_id: int, *, author_id: str = "u_bob", visibility: str = "public") -> PostRow:
    return PostRow(post_id=post_id, app_id="default", author_id=author_id, at_ms=1, visibility=visibility)


def test_who_begins_to_watch_a_post_is_sent_its_counts_once() -> None:
    """Pages: what changed between reading a post and watching it must not stay unknown."""
    audience = FeedAudience()
    audience.counts_of = cache(row(1), row(2)).counts_of
    session, other = Session(1), Session(2)
    audience.watch(other, feed=False, post_ids=[1])
    other.sent.clear()
    audience.watch(session, feed=False, post_ids=[1, 5])
    assert list(session.sent.values()) == [PostCounts(post_id=1, likes=2, comments=1)]
    assert not other.sent
    session.sent.clear()
    audience.watch(session, feed=False, post_ids=[2, 1])
    assert list(session.sent.values()) == [PostCounts(post_id=2, likes=4, comments=1)]


def test_counts_of_posts_that_not_everybody_may_see_are_not_sent_unasked() -> None:
    """Authors: anybody may say that they watch an id."""
    posts = cache(row(1, visibility="followers"), row(2, author_id="u_private"), row(3))
    posts.set_private("u_private", is_private=True)
    audience = FeedAudience()
    audience.counts_of = posts.counts_of
    session = Session(1)
    audience.watch(session, feed=False, post_ids=[1, 2, 3])
    assert list(session.sent.values()) == [PostCounts(post_id=3, likes=6, comments=1)]
