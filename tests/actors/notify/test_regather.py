"""What a batch tells when some of its members leave it: as if they had never joined."""

from hypothesis import given
from hypothesis import strategies as st

from actors.notify.batching import MAX_NAMES
from actors.notify.regather import without
from actors.notify.user_state import Kept
from protocol.notify_content import Content
from tests.actors.notify.test_batching import gathered


def member(name: str, text: str) -> Kept:
    return Kept(content=Content(type="t", text=text, actor=name), names=[name] if name else [], actor_count=1)


@given(
    actors=st.lists(st.sampled_from(["Ann", "Ben", "Cid", "Dan", "Eve"]), min_size=1, max_size=8),
    leaves=st.sets(st.integers(0, 7)),
)
def test_a_batch_tells_of_those_who_stay(actors: list[str], leaves: set[int]) -> None:
    """A campaign that is taken back must not be told by its text, its names, or its number."""
    members = [member(name, f"text {number}") for number, name in enumerate(actors)]
    stay = [kept for number, kept in enumerate(members) if number not in leaves]
    gone = [kept for number, kept in enumerate(members) if number in leaves and number > 0]
    left = [kept for number, kept in enumerate(members) if number not in leaves and number > 0]
    kept, count = without(gathered(members), len(members), gone, left, is_own=0 in leaves)
    assert count == len(stay)
    if stay:
        assert kept.content == stay[-1].content
        people = {name for part in stay for name in part.names}
        assert set(kept.names) <= people
        assert len(kept.names) == len(set(kept.names)) == min(MAX_NAMES, len(people))
        assert kept.actor_count == len(people)


def test_what_came_after_the_read_keeps_its_text() -> None:
    """A member may join while the others are being read."""
    group = gathered([member("Ann", "1"), member("Ben", "2"), member("Cid", "3")])
    kept, count = without(group, 3, [member("Ben", "2")], [], is_own=False)
    assert (kept.content.text, count) == ("3", 2)
    assert kept.names == ["Ann", "Cid"]


def test_a_group_whose_opener_left_ends_with_the_last_of_the_others() -> None:
    """Its row carries the others, and no more."""
    group = gathered([member("Ann", "1"), member("Ben", "2")])
    kept, count = without(group, 2, [], [member("Ben", "2")], is_own=True)
    assert (kept.content.text, kept.names, count, kept.is_carrier) == ("2", ["Ben"], 1, True)
    assert without(kept, count, [member("Ben", "2")], [], is_own=False)[1] == 0
