"""Followers by partition: each post goes to everybody once, in messages that are not too long."""

from hypothesis import given
from hypothesis import strategies as st

from actors.feed import followers as module
from actors.feed.address import partition_of
from actors.feed.followers import MAX_STEP, Followers

_IDS = st.sampled_from([f"u{number}" for number in range(40)])
_CHANGES = st.lists(st.tuples(st.sampled_from(["put", "discard", "steps"]), _IDS, st.integers(1, 9)))


@given(_CHANGES, st.sets(_IDS), st.booleans())
def test_steps_reach_exactly_the_followers_and_the_author(
    changes: list[tuple[str, str, int]], connected: set[str], is_long: bool
) -> None:
    """Steps are kept from one post to the next: no change may leave old ones behind."""
    followers, model = Followers("u0"), dict[str, int]()
    with_long_list = 0 if is_long else 1000
    original, module.LONG_LIST = module.LONG_LIST, with_long_list  # type: ignore[misc]
    try:
        for kind, user_id, version in [*changes, ("steps", "", 0)]:
            if kind == "put":
                followers.put(user_id, version)
                model[user_id] = version
            elif kind == "discard":
                followers.discard(user_id)
                model.pop(user_id, None)
            else:
                steps = followers.steps(connected.__contains__)
                reached = [u for _, users in steps for u in users]
                assert sorted(reached) == sorted({"u0", *model})
                assert all(partition_of(u) == partition for partition, users in steps for u in users)
                assert steps[0][1][0] == "u0"
                if is_long:
                    is_first = [u == "u0" or u in connected for u in reached]
                    assert is_first == sorted(is_first, reverse=True)
            assert len(followers) == len(model)
            assert followers.version_of(user_id) == model.get(user_id)
    finally:
        module.LONG_LIST = original  # type: ignore[misc]


def test_a_step_is_bounded() -> None:
    followers = Followers("ann")
    crowd = [name for number in range(80_000) if partition_of(name := f"u{number}") == 5]
    for name in crowd:
        followers.put(name, 1)
    steps = followers.steps(lambda _: False)
    sizes = [len(users) for partition, users in steps if partition == 5]
    assert max(sizes) == MAX_STEP
    assert len(sizes) == -(-(len(crowd) + (partition_of("ann") == 5)) // MAX_STEP)
