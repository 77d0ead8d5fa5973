"""Ids of posts: unique, rising, and in step with the clock."""

from hypothesis import given
from hypothesis import strategies as st

from actors.feed.ids import EPOCH_MS, PostIds, at_ms_of, first_id_at
from protocol.limits import MAX_SAFE_INTEGER

NOW_MS = EPOCH_MS + 200_000_000_000


@given(steps=st.lists(st.tuples(st.integers(0, 255), st.integers(-5, 5)), max_size=200))
def test_ids_are_unique_and_rise_within_their_shard_whatever_the_clock_does(
    steps: list[tuple[int, int]],
) -> None:
    ids = PostIds()
    now_ms = NOW_MS
    made: dict[int, list[int]] = {}
    for shard, moved_ms in steps:
        now_ms += moved_ms
        made.setdefault(shard, []).append(ids.next(shard, now_ms))
    everything = [post_id for of_shard in made.values() for post_id in of_shard]
    assert len(set(everything)) == len(everything)
    assert all(0 < post_id <= MAX_SAFE_INTEGER for post_id in everything)
    for shard, of_shard in made.items():
        assert of_shard == sorted(of_shard)
        assert all(post_id >> 4 & 0xFF == shard for post_id in of_shard)


@given(shards=st.lists(st.integers(0, 255), max_size=40))
def test_ids_of_one_node_rise_over_all_shards(shards: list[int]) -> None:
    """Feeds are read by id: a later post must not stand behind an earlier one."""
    ids = PostIds()
    made = [ids.next(shard, NOW_MS) for shard in shards]
    assert made == sorted(made)


def test_a_flood_does_not_take_ids_away_from_the_clock() -> None:
    ids = PostIds()
    last = 0
    for number in range(20_000):
        last = ids.next(number * 97 % 256, NOW_MS + number // 20)
    assert at_ms_of(last) - (NOW_MS + 1000) < 2_500


def test_ids_follow_those_of_other_nodes_whose_clocks_are_ahead() -> None:
    """A reader who has seen the other node's post must meet ours above it."""
    ids = PostIds()
    theirs = first_id_at(NOW_MS + 900) + 0xFFF
    ids.saw(theirs)
    assert ids.next(3, NOW_MS) > theirs
    ids.saw(first_id_at(NOW_MS + 3_600_000))  # a clock that is an hour ahead is not followed
    assert at_ms_of(ids.next(3, NOW_MS + 1)) < NOW_MS + 2_500


def test_a_seed_keeps_old_ids_from_being_made_again() -> None:
    ids = PostIds()
    old = ids.next(7, NOW_MS)
    later = PostIds()
    assert not later.is_seeded(7, 1)
    later.seed(7, 1, old)
    assert later.is_seeded(7, 1)
    assert not later.is_seeded(7, 2)
    assert later.next(7, NOW_MS - 60_000) > old
    assert first_id_at(at_ms_of(old)) <= old
