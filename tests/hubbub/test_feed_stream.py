"""The pure core of the live feed: whatever is lost, late, repeated or cut, each post is told once."""

from hypothesis import given
from hypothesis import strategies as st

from hubbub.feed_stream import HELD_EVENTS, MAX_TOLD, OVERLAP_MS, FeedStream
from protocol.feed_events import FeedPosted
from protocol.feed_types import FeedItem, Post


def item(post_id: int, at_ms: int = 0) -> FeedItem:
    return FeedItem(post=Post(post_id=post_id, author_id="bob", at_ms=at_ms or 1_000_000 + post_id))


def posted(position: int, post_id: int) -> FeedPosted:
    return FeedPosted(position=position, item=item(post_id))


def ids(items: list[FeedItem] | list[FeedPosted]) -> list[int]:
    shown = [one.item if isinstance(one, FeedPosted) else one for one in items]
    return [one.post.post_id for one in shown if one is not None and one.post is not None]


def catch_up(stream: FeedStream, feed: dict[int, FeedItem], position: int) -> list[int]:
    stream.begin()
    told = ids(stream.take([feed[post_id] for post_id in sorted(feed, reverse=True)]))
    return told + ids(stream.end(position, 1_000_000))


# What the network does to the event of one post: it comes, is lost, comes twice, comes later than the next,
# or there is no room for it; or the post is merged in at read and has no event at all.
FATES = st.sampled_from(["comes", "lost", "twice", "late", "no room", "hot", "hidden"])


@given(fates=st.lists(FATES, max_size=40), before=st.integers(0, 5), order=st.randoms(use_true_random=False))
def test_each_post_is_told_once_whatever_happens_to_its_event(
    fates: list[str], before: int, order: object
) -> None:
    """Who shows a live feed draws no post twice and misses none."""
    feed = {post_id: item(post_id) for post_id in range(1, before + 1)}
    stream = FeedStream()
    assert stream.start(list(feed.values()), position=before, clock_ms=1_000_000) == []
    post_ids = list(range(before + 1, before + 1 + len(fates)))
    order.shuffle(post_ids)  # type: ignore[attr-defined]  # a fan-out may be slower than the next one
    told: list[int] = []
    position = before
    late: list[FeedPosted] = []

    def offer(event: FeedPosted, *, has_room: bool = True) -> None:
        if stream.offer(event, has_room=has_room):
            told.extend(ids([event]))

    for post_id, fate in zip(post_ids, fates, strict=True):
        if fate == "hidden":  # by a block, a mute, or as not interesting: no page shows it either
            position += 1
            offer(FeedPosted(position=position))
            if stream.is_behind:
                told += catch_up(stream, feed, position)
            continue
        feed[post_id] = item(post_id)
        if fate == "hot":
            stream.miss()  # as its news make the watch do
            continue
        position += 1
        event = posted(position, post_id)
        if fate == "late":
            late.append(event)
            continue
        if fate != "lost":
            offer(event, has_room=fate != "no room")
        if fate == "twice":
            offer(event)
        while late:
            offer(late.pop())
        if stream.is_behind:
            told += catch_up(stream, feed, position)
    stream.miss()
    while stream.is_behind:
        told += catch_up(stream, feed, position)
    shown = [post_id for post_id, fate in zip(post_ids, fates, strict=True) if fate != "hidden"]
    assert sorted(told) == sorted(shown)
    assert stream.position == position


def test_an_unbroken_feed_is_told_as_it_comes() -> None:
    """The usual case costs no read at all."""
    stream = FeedStream()
    stream.start([item(1)], position=7, clock_ms=0)
    assert [stream.offer(posted(7 + number, 1 + number)) for number in range(1, 100)] == [True] * 99
    assert not stream.is_behind


def test_events_that_come_while_the_first_page_is_read_follow_it() -> None:
    """Between the watch and its page nothing falls through, and what the page shows is not told again."""
    stream = FeedStream()
    assert not stream.offer(posted(3, 30))
    assert not stream.offer(posted(4, 40))
    assert not stream.is_behind  # nobody catches up before there is a page
    assert ids(stream.start([item(30), item(20)], position=3, clock_ms=0)) == [40]
    assert stream.offer(posted(5, 50))


def test_the_past_of_somebody_newly_followed_is_not_news() -> None:
    """Following an author of ten years does not flood who shows only what is new."""
    stream = FeedStream()
    stream.start([item(100, at_ms=10_000_000)], position=1, clock_ms=10_000_000)
    stream.note_time(20_000_000)
    stream.miss()
    stream.begin()
    page = [item(300, at_ms=20_000_001), item(200, at_ms=20_000_000 - OVERLAP_MS - 1), item(50, at_ms=5)]
    assert ids(stream.take(page)) == [300]
    assert stream.reaches_back(page)


def test_a_hole_that_opens_while_another_is_filled_is_seen() -> None:
    """Trouble seldom comes alone."""
    stream = FeedStream()
    stream.start([], position=0, clock_ms=0)
    assert not stream.offer(posted(2, 2))
    stream.begin()
    assert not stream.offer(posted(4, 4))
    assert ids(stream.take([item(2), item(1)])) == [1, 2]
    assert stream.end(2, 0) == []
    assert stream.is_behind  # the third is missing, and the fourth waits for it
    assert catch_up(stream, {1: item(1), 2: item(2), 3: item(3), 4: item(4)}, 4) == [3, 4]
    assert not stream.is_behind


def test_who_goes_on_where_it_was_is_told_what_came_since() -> None:
    """A bot that was down for a day."""
    stream = FeedStream(since=2)
    feed = {post_id: item(post_id, at_ms=post_id) for post_id in range(1, 6)}
    assert stream.start([feed[5]], position=5, clock_ms=9_000_000) == []
    assert stream.is_behind
    assert catch_up(stream, feed, 5) == [3, 4, 5]
    assert not stream.is_behind


def test_a_position_that_goes_back_is_looked_into() -> None:
    """A feed that was dropped and made anew counts from one again."""
    stream = FeedStream()
    stream.start([item(1)], position=500, clock_ms=0)
    assert not stream.offer(posted(1, 2))
    assert stream.is_behind
    assert catch_up(stream, {1: item(1), 2: item(2)}, 1) == [2]
    assert stream.offer(posted(2, 3))


def test_a_count_that_was_lost_is_not_caught_up_with_for_ever() -> None:
    """After a crash a feed may count from less than what it had told."""
    stream = FeedStream()
    stream.start([], position=0, clock_ms=0)
    assert not stream.offer(posted(9, 9))
    assert catch_up(stream, {8: item(8), 9: item(9)}, 3) == [8, 9]
    assert not stream.is_behind
    assert stream.offer(posted(4, 10))


def test_an_event_that_no_page_shows_is_told_all_the_same() -> None:
    """Pushed very late, it lies below what a catch-up looks at."""
    stream = FeedStream()
    stream.start([item(500)], position=1, clock_ms=1_000_500)
    assert not stream.offer(posted(3, 7))
    assert catch_up(stream, {500: item(500)}, 3) == [7]


def test_what_was_told_lately_narrows_what_a_catch_up_looks_at() -> None:
    """A busy feed is not read from yesterday on; and a clock that runs ahead hides nothing."""
    stream = FeedStream()
    stream.start([], position=0, clock_ms=1_000)
    assert stream.offer(FeedPosted(position=1, item=item(5, at_ms=90_000_000)), clock_ms=50_000_000)
    assert stream.reaches_back([item(6, at_ms=50_000_000 - OVERLAP_MS - 1)])
    assert not stream.reaches_back([item(6, at_ms=50_000_000 - OVERLAP_MS)])
    assert stream.offer(FeedPosted(position=2, item=item(7, at_ms=51_000_000)), clock_ms=99_000_000)
    assert stream.reaches_back([item(6, at_ms=51_000_000 - OVERLAP_MS - 1)])
    assert not stream.reaches_back([item(6, at_ms=51_000_000 - OVERLAP_MS)])


def test_memory_is_bounded_on_every_side() -> None:
    """A client that runs for years beside a busy feed."""
    stream = FeedStream()
    stream.start([], position=0, clock_ms=0)
    for number in range(1, MAX_TOLD + 500):
        assert stream.offer(posted(number, number))
    stream.miss()
    for number in range(MAX_TOLD + 500, MAX_TOLD + 500 + 2 * HELD_EVENTS):
        assert not stream.offer(posted(number, number))
    assert len(stream._told) == MAX_TOLD
    assert len(stream._held) == HELD_EVENTS


def test_a_failed_catch_up_is_tried_again() -> None:
    """The server was busy in the middle of it."""
    stream = FeedStream()
    stream.start([], position=0, clock_ms=0)
    stream.miss()
    stream.begin()
    assert ids(stream.take([item(1)])) == [1]
    stream.give_up()
    assert stream.is_behind
    assert catch_up(stream, {1: item(1), 2: item(2)}, 2) == [2]
