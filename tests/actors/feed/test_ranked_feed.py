"""A ranked feed stands still while it is read."""

from hypothesis import given
from hypothesis import strategies as st

from actors.feed.ranked_feed import SNAPSHOT_TTL_MS, SNAPSHOTS_PER_READER, RankedFeed, RankedFeeds
from actors.feed.ranking import Candidate, rank

NOW_MS = 1_800_000_000_000


def snapshot(made_at_ms: int = NOW_MS, *post_ids: int) -> RankedFeed:
    return RankedFeed(
        [Candidate(1.0, post_id, "ann") for post_id in post_ids], anchor_id=99, made_at_ms=made_at_ms
    )


@given(scores=st.lists(st.floats(0, 100), max_size=50), limit=st.integers(1, 20))
def test_pages_are_the_whole_order_once(scores: list[float], limit: int) -> None:
    """A reader who scrolls to the end sees each post once, with the very score it was sorted by."""
    ranked = rank([Candidate(value, number + 1, "ann") for number, value in enumerate(scores)])
    feed = RankedFeed(ranked, anchor_id=len(scores), made_at_ms=NOW_MS)
    read: list[tuple[int, float]] = []
    while page := feed.page(len(read), limit):
        assert len(page) <= limit
        read += page
    assert read == [(one.post_id, one.score) for one in ranked]
    assert [feed.place_of(post_id) for post_id, _ in read] == list(range(len(feed)))
    assert feed.place_of(1000) is None


@given(
    authors=st.lists(st.sampled_from("aaab"), max_size=40),
    scores=st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=40, max_size=40),
)
def test_how_far_a_post_was_held_back_is_told(authors: list[str], scores: list[float]) -> None:
    """Explanations: its place is its place by score, and the places it was moved."""
    given_ones = [Candidate(scores[number], number, author) for number, author in enumerate(authors)]
    ranked = rank(given_ones)
    feed = RankedFeed(ranked, anchor_id=99, made_at_ms=NOW_MS)
    by_score = sorted(given_ones, reverse=True)
    for place, one in enumerate(ranked):
        assert place - feed.held_back(place) == by_score.index(one)


def test_two_devices_scroll_beside_each_other() -> None:
    """The laptop's first page does not end the phone's scroll; a third device ends the oldest one's."""
    feeds = RankedFeeds()
    made = [snapshot(NOW_MS + number, number) for number in range(SNAPSHOTS_PER_READER + 1)]
    for feed in made[:-1]:
        feeds.keep("ann", feed)
    assert [feeds.get("ann", feed.made_at_ms, NOW_MS) for feed in made[:-1]] == made[:-1]
    feeds.keep("ann", made[-1])
    assert feeds.get("ann", made[0].made_at_ms, NOW_MS) is None
    assert feeds.latest("ann", NOW_MS) is made[-1]
    assert len(feeds) == SNAPSHOTS_PER_READER


def test_a_snapshot_made_anew_takes_the_place_of_the_lost_one() -> None:
    """The same cursor goes on with it."""
    feeds = RankedFeeds()
    feeds.keep("ann", snapshot(NOW_MS, 1))
    again = snapshot(NOW_MS, 1, 2)
    feeds.keep("ann", again)
    assert feeds.get("ann", NOW_MS, NOW_MS) is again
    assert len(feeds) == 1


def test_who_has_not_read_for_longest_gives_way() -> None:
    """Memory is bounded by readers, however often one of them reads."""
    feeds = RankedFeeds(max_readers=2)
    feeds.keep("ann", snapshot())
    feeds.keep("bob", snapshot())
    assert feeds.get("ann", NOW_MS, NOW_MS) is not None
    feeds.keep("eve", snapshot())
    assert feeds.get("bob", NOW_MS, NOW_MS) is None
    assert feeds.get("ann", NOW_MS, NOW_MS) is not None
    assert feeds.get("eve", NOW_MS, NOW_MS) is not None


def test_an_hour_ends_a_snapshot() -> None:
    """Who comes back later gets a new order; those who do not are swept."""
    feeds = RankedFeeds()
    for user_id in ("ann", "bob", "eve"):
        feeds.keep(user_id, snapshot())
    end_ms = NOW_MS + SNAPSHOT_TTL_MS
    assert feeds.get("ann", NOW_MS, end_ms - 1) is not None
    assert feeds.get("ann", NOW_MS, end_ms) is None
    assert feeds.latest("eve", end_ms) is None
    feeds.keep("eve", snapshot(end_ms))
    feeds.sweep(end_ms)
    assert len(feeds) == 1
    feeds.forget("eve")
    assert feeds.latest("eve", end_ms) is None
