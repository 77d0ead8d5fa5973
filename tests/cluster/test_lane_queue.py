"""What waits for a peer: in order, bounded, and honest about what is missing."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.lane_queue import BATCH_BYTES, ITEM_OVERHEAD_BYTES, LaneQueue


def drained(queue: LaneQueue) -> list[bytes | None]:
    """All that is queued; None stands for a hole."""
    found: list[bytes | None] = []
    while queue:
        if queue.take_hole():
            found.append(None)
            continue
        batch = queue.batch()
        assert batch
        found += batch
        queue.sent(len(batch))
    return found


@given(sizes=st.lists(st.integers(0, 300)), limit_bytes=st.integers(0, 2_000))
def test_every_item_comes_out_in_order_or_leaves_a_hole(sizes: list[int], limit_bytes: int) -> None:
    """The receiver relies on a gap wherever something is missing."""
    queue = LaneQueue(limit_bytes)
    expected: list[bytes | None] = []
    for n, size in enumerate(sizes):
        item = b"%d" % n * size
        if queue.offer(item, 0.0):
            expected.append(item)
        elif not expected or expected[-1] is not None:
            expected.append(None)
        assert queue.size_bytes <= limit_bytes
    assert drained(queue) == expected
    assert queue.size_bytes == 0


def test_once_full_it_takes_nothing_until_half_of_it_is_gone() -> None:
    """A peer that is too slow sees one gap at a time, not one after each item."""
    queue = LaneQueue(4 * (100 + ITEM_OVERHEAD_BYTES))
    item = b"x" * 100
    assert [queue.offer(item, 0.0) for _ in range(6)] == [True] * 4 + [False] * 2
    queue.sent(1)
    assert not queue.offer(item, 0.0)
    queue.sent(1)
    assert queue.offer(item, 0.0)
    assert queue.refused_count == 3
    assert drained(queue) == [item, item, None, item]


def test_a_batch_is_small_unless_one_item_is_larger() -> None:
    """Many items travel as one envelope, and none of them keeps the next lane's waiting for long."""
    queue = LaneQueue(10 * BATCH_BYTES)
    queue.offer(b"x" * 3 * BATCH_BYTES, 0.0)
    for _ in range(3):
        queue.offer(b"y" * (BATCH_BYTES // 2 - ITEM_OVERHEAD_BYTES), 0.0)
    lengths = []
    while queue:
        batch = queue.batch()
        lengths.append(len(batch))
        queue.sent(len(batch))
    assert lengths == [1, 2, 1]


def test_old_items_are_forgotten_on_request() -> None:
    """A probe that could not be sent for seconds would only mislead."""
    queue = LaneQueue(1_000)
    for at in (1.0, 2.0, 3.0):
        queue.offer(b"x", at)
    queue.drop_older(2.5)
    assert len(queue) == 1
    assert queue.dropped_count == 2
    assert queue.size_bytes == 1 + ITEM_OVERHEAD_BYTES
