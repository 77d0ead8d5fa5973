"""How close a reader is to each author, whatever the order in which it is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.feed.affinity import HALF_LIFE_MS, MAX_AUTHORS, Affinities
from protocol.feed_types import Post

NOW_MS = 1_800_000_000_000
acts = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(NOW_MS - 12 * HALF_LIFE_MS, NOW_MS), st.integers(1, 3)),
    max_size=20,
)


def by(author_id: str) -> Post:
    return Post(post_id=1, author_id=author_id, at_ms=NOW_MS)


@given(noted=acts, cut=st.integers(0, 20), later_ms=st.integers(0, 6 * HALF_LIFE_MS))
def test_each_act_is_halved_every_thirty_days(
    noted: list[tuple[str, int, int]], cut: int, later_ms: int
) -> None:
    """Oracle: every act by itself; some are loaded, some noted afterwards, in any order."""
    now_ms = NOW_MS + later_ms
    mine = Affinities(noted[cut:], now_ms=NOW_MS)
    for act in noted[:cut]:
        mine.noted(*act)
    for author_id in "abc":
        expected = sum(
            weight * 0.5 ** ((now_ms - at_ms) / HALF_LIFE_MS)
            for author, at_ms, weight in noted
            if author == author_id
        )
        assert mine.with_author(author_id, now_ms) == pytest.approx(expected, rel=1e-9)


def test_a_repost_counts_by_the_closer_of_its_two_authors() -> None:
    """A friend's picture, repeated by a stranger, is a friend's picture."""
    mine = Affinities([("friend", NOW_MS, 3), ("fan", NOW_MS, 1)], now_ms=NOW_MS)
    assert mine.of(by("stranger"), by("friend"), NOW_MS) == 3.0
    assert mine.of(by("friend"), by("stranger"), NOW_MS) == 3.0
    assert mine.of(by("fan"), None, NOW_MS) == 1.0
    assert mine.of(by("stranger"), None, NOW_MS) == 0.0
    assert Affinities(now_ms=NOW_MS).of(by("friend"), by("fan"), NOW_MS) == 0.0


def test_a_like_that_is_taken_back_leaves_nothing() -> None:
    """Nor does it go below nothing when it is taken back later."""
    mine = Affinities([("ann", NOW_MS, 1)], now_ms=NOW_MS)
    mine.noted("ann", NOW_MS, -1)
    assert mine.with_author("ann", NOW_MS) == 0.0
    mine.noted("ann", NOW_MS, 1)
    mine.noted("ann", NOW_MS + HALF_LIFE_MS, -1)
    assert mine.with_author("ann", NOW_MS + HALF_LIFE_MS) == 0.0
    assert len(mine) == 0


def test_the_closest_are_kept_when_there_are_too_many() -> None:
    """Memory of one reader is bounded; a reader who likes everybody loses the faintest."""
    mine = Affinities(now_ms=NOW_MS)
    for number in range(5 * MAX_AUTHORS):
        mine.noted(f"u{number}", NOW_MS, number + 1)
        assert len(mine) <= 2 * MAX_AUTHORS
    last = 5 * MAX_AUTHORS - 1
    assert mine.with_author(f"u{last}", NOW_MS) == last + 1
    assert mine.with_author("u0", NOW_MS) == 0.0
