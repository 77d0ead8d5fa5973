"""Lanes between nodes on real sockets: order, bounds, gaps, and who is believed."""

import pytest
import trio

from cluster.lanes import MAX_ITEM_BYTES, Lane
from tests.cluster.lane_nodes import LaneNode, running

pytestmark = pytest.mark.timeout(60)


async def test_items_arrive_once_and_in_order_on_both_lanes() -> None:
    """Deltas of presence and messages between actors are applied in the order they were sent."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    async with running(ann, bob):
        expected = [b"%d" % n for n in range(5_000)]
        for item in expected:
            assert ann.lanes.send_nowait("bob", Lane.DATA, item)
            assert ann.lanes.send_nowait("bob", Lane.CONTROL, item)
        await bob.until(lambda: len(bob.items) == 10_000)
        assert bob.texts(Lane.DATA) == expected
        assert bob.texts(Lane.CONTROL) == expected
        stats = ann.lanes.stats().peers["bob"]
        assert stats.data.items_sent == 5_000
        assert stats.data.envelopes_sent < 50  # of 64 KiB
        assert bob.gaps == [("ann", 1)]  # the beginning
        assert ann.links == [("bob", True)]
        assert ann.lanes.refused() == bob.lanes.refused() == {}
