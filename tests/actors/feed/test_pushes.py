"""The account of pushes: whatever is refused and in whatever order, each message arrives once."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.feed.followers import Step
from actors.feed.pushes import IN_FLIGHT_PER_PARTITION, Push, Pushes

_STEPS = st.lists(st.tuples(st.integers(0, 3), st.tuples(st.text("ab", min_size=1, max_size=2))), min_size=1)


@given(st.lists(_STEPS, min_size=1, max_size=6), st.data())
def test_every_post_arrives_whole_and_is_done_once(posts: list[list[Step]], data: st.DataObject) -> None:
    pushes = Pushes()
    waiting = dict(enumerate(posts, 1))
    in_flight: list[Push] = []
    held: list[int] = []
    arrived: list[tuple[int, int, tuple[str, ...]]] = []
    done: list[int] = []
    for _ in range(10_000):
        if waiting and (not (in_flight or held) or data.draw(st.booleans())):
            post_id = next(iter(waiting))
            pushes.add(post_id, waiting.pop(post_id))
            pushes.add(post_id, [(0, ("x",))])  # on its way already
        in_flight += pushes.take()
        for partition in range(4):
            count = sum(push.partition == partition for push in in_flight)
            assert count <= IN_FLIGHT_PER_PARTITION
        if held and (not in_flight or data.draw(st.booleans())):
            pushes.resume(held.pop(0))
        elif in_flight:
            push = in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1)))
            if data.draw(st.integers(0, 3)) == 3:
                if pushes.refused(push):
                    held.append(push.partition)
                assert push.partition in held
            else:
                arrived.append((push.post_id, push.partition, push.user_ids))
                if pushes.arrived(push):
                    done.append(push.post_id)
        elif not waiting:
            break
        assert len(pushes) == len(posts) - len(waiting) - len(done)
    assert sorted(done) == list(range(1, len(posts) + 1))
    wanted = [(post_id, *step) for post_id, steps in enumerate(posts, 1) for step in steps]
    assert sorted(arrived) == sorted(wanted)


def test_a_partition_that_refuses_keeps_its_order_and_gets_nothing_before_its_time() -> None:
    pushes = Pushes()
    for post_id in (1, 2, 3):
        pushes.add(post_id, [(7, ("a",)), (8, ("b",))])
    first = pushes.take()
    assert [(push.partition, push.post_id) for push in first] == [(7, 1), (8, 1), (7, 2), (8, 2)]
    assert pushes.refused(first[2]) == 1
    assert pushes.refused(first[0]) == 0  # its time is set already
    assert pushes.take() == []
    pushes.arrived(first[1])
    assert [(push.partition, push.post_id) for push in pushes.take()] == [(8, 3)]
    pushes.resume(7)
    again = pushes.take()
    assert [(push.partition, push.post_id) for push in again] == [(7, 1), (7, 2)]
    assert pushes.refused(again[0]) == 2


@pytest.mark.parametrize("order", list(permutations(range(IN_FLIGHT_PER_PARTITION))))
def test_in_whatever_order_pushes_are_refused_they_are_tried_again_in_their_own(
    order: tuple[int, ...],
) -> None:
    pushes = Pushes()
    for post_id in range(1, IN_FLIGHT_PER_PARTITION + 2):
        pushes.add(post_id, [(7, ("a",))])
    taken = pushes.take()
    assert [pushes.refused(taken[index]) for index in order] == [1, *[0] * (len(order) - 1)]
    pushes.resume(7)
    again = pushes.take()
    assert [push.post_id for push in again] == [push.post_id for push in taken]
    for push in again:
        assert pushes.arrived(push)
    assert [push.post_id for push in pushes.take()] == [IN_FLIGHT_PER_PARTITION + 1]
