"""The entries of one reader: in order, once each, as many as fit, and complete from covered_from on."""

from hypothesis import given
from hypothesis import strategies as st

from actors.feed.feed import Feed, read_entries

IDS = st.integers(1, 500)


def feed(ids: list[int], *, cap: int, covered_from: int = 0) -> Feed:
    return Feed("u", 0, sorted(ids), cap=cap, covered_from=covered_from)


@given(start=st.sets(IDS, max_size=8), pushed=st.lists(IDS, max_size=60), cap=st.integers(1, 12))
def test_a_feed_holds_the_newest_and_knows_from_where_it_is_complete(
    start: set[int], pushed: list[int], cap: int
) -> None:
    """Whatever order posts come in: what is kept is what a reader who sorts all of them would see first."""
    kept = feed(list(start), cap=cap)
    for post_id in pushed:
        kept.push(post_id)
    everything = sorted(start.union(pushed))
    assert list(kept.ids) == everything[-cap:]
    assert [i for i in everything if i >= kept.covered_from] == list(kept.ids)
    assert kept.covered_from == (kept.ids[0] if len(everything) > cap else 0)


@given(pushed=st.lists(IDS, max_size=40), cap=st.integers(1, 50))
def test_the_position_counts_each_entry_that_came_in_once(pushed: list[int], cap: int) -> None:
    kept = feed([], cap=cap)
    taken = [post_id for post_id in pushed if kept.push(post_id)]
    assert kept.position == len(taken)
    assert all(not kept.push(post_id) for post_id in kept.ids)


@given(ids=st.sets(st.integers(1, 2**53 - 1), max_size=50))
def test_entries_are_read_back_as_they_were(ids: set[int]) -> None:
    kept = feed(list(ids), cap=100)
    assert read_entries(kept.entries()) == sorted(ids)


def test_what_is_older_than_the_feed_is_complete_from_is_not_taken() -> None:
    """A post that came late lies where the store is asked anyway; taking it would claim what is not so."""
    kept = feed([10, 20, 30], cap=3, covered_from=10)
    assert not kept.push(5)
    assert kept.push(15)
    assert list(kept.ids) == [15, 20, 30]
    assert kept.covered_from == 15


def test_a_copy_with_more_leaves_the_feed_as_it_is() -> None:
    kept = feed([10, 20], cap=3)
    copy = kept.with_ids([30, 5, 15], new_from=20)
    assert (list(copy.ids), copy.position) == ([15, 20, 30], kept.position + 1)
    assert list(kept.ids) == [10, 20]
