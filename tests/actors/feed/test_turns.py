"""The order of each reader's commands: one in hand, the others as they came, nobody behind anybody else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.feed.turns import MAX_WAITING, Turns
from protocol.errors import Unavailable


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=80))
def test_each_reader_has_one_command_in_hand_and_the_others_in_order(steps: list[tuple[str, bool]]) -> None:
    turns: Turns[int] = Turns()
    came: dict[str, list[int]] = {"a": [], "b": []}
    begun: dict[str, list[int]] = {"a": [], "b": []}
    in_hand: set[str] = set()
    for number, (user_id, joins) in enumerate(steps):
        if joins:
            came[user_id].append(number)
            if turns.join(user_id, number):
                assert user_id not in in_hand
                in_hand.add(user_id)
                begun[user_id].append(number)
        elif user_id in in_hand:
            following = turns.leave(user_id)
            if following is None:
                in_hand.discard(user_id)
            else:
                begun[user_id].append(following)
        assert len(turns) == len(in_hand)
    for user_id in in_hand:
        while (following := turns.leave(user_id)) is not None:
            begun[user_id].append(following)
    assert begun == came
    assert len(turns) == 0


def test_who_has_too_many_waiting_is_told_to_wait() -> None:
    turns: Turns[int] = Turns()
    assert turns.join("a", 0)
    for number in range(MAX_WAITING):
        assert not turns.join("a", number)
    with pytest.raises(Unavailable) as caught:
        turns.join("a", 99)
    assert caught.value.code == "busy"
    assert turns.join("b", 0)
    turns.leave("a")
    assert not turns.join("a", 99)
