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


async def test_nodes_meet_by_one_address_on_a_command_line() -> None:
    """`--join HOST:PORT` is all that a new node knows."""
    ann, bob = LaneNode("ann", meets=True), LaneNode("bob", meets=True)
    async with running(ann, bob, connected=False):
        ann.lanes.greet(bob.address.host, bob.address.port, bob.address.data_port)
        await ann.until_up(bob)
        await bob.until_up(ann)
        assert bob.hellos[0] == ann.address
        assert ann.hellos[0] == bob.address
        assert ann.lanes.send_nowait("bob", Lane.DATA, b"hello")
        await bob.until(lambda: bob.items == [(Lane.DATA, "ann", 1, b"hello")])


async def test_a_node_that_is_greeted_by_itself_takes_no_notice() -> None:
    """All nodes may be started with the same list of addresses."""
    ann = LaneNode("ann", meets=True)
    async with running(ann):
        ann.lanes.greet(ann.address.host, ann.address.port)
        await ann.until(lambda: ann.lanes.refused().get("own"))
        assert ann.hellos == []


async def test_items_sent_before_the_peer_is_known_to_live_wait_for_it() -> None:
    """Who has just learned of a node talks to it at once."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    async with running(ann, bob, connected=False):
        ann.lanes.connect(bob.address)
        assert ann.lanes.send_nowait("bob", Lane.CONTROL, b"early")
        assert ann.lanes.send_nowait("bob", Lane.DATA, b"early data")
        await bob.until(lambda: bob.hellos)
        assert bob.items == []  # and it does not know yet whom these would be made for
        bob.lanes.connect(bob.hellos[0])
        await bob.until(lambda: len(bob.items) == 2)
        await ann.until_up(bob)


async def test_a_restarted_peer_is_followed_and_its_new_life_announced() -> None:
    """A node with stale knowledge of another learns the new boot within about a second."""
    ann, bob = LaneNode("ann", meets=True), LaneNode("bob", meets=True)
    async with running(ann):
        async with running(bob, connected=False):
            ann.lanes.connect(bob.address)
            await ann.until_up(bob)
            port, data_port = bob.address.port, bob.address.data_port
        again = LaneNode("bob", boot=2, port=port, data_port=data_port, meets=True)
        async with running(again, connected=False):
            # ann says hello to boot 1 until it is told better.
            await ann.until(lambda: again.address in ann.hellos)
            await ann.until_up(again)
            assert ann.lanes.send_nowait("bob", Lane.DATA, b"to the new one")
            await again.until(lambda: b"to the new one" in again.texts())
            assert again.lanes.send_nowait("ann", Lane.DATA, b"from the new one")
            await ann.until(lambda: (Lane.DATA, "bob", 2, b"from the new one") in ann.items)
            assert ("bob", 2) in ann.gaps


async def test_what_an_older_life_still_says_is_refused() -> None:
    """A frozen process that was replaced must not speak for its successor."""
    ann, old, new = LaneNode("ann", meets=True), LaneNode("bob", meets=True), LaneNode("bob", boot=2)
    async with running(ann, old), running(new, connected=False):
        new.lanes.connect(ann.address)
        await new.until_up(ann)
        old.lanes.send_nowait("ann", Lane.DATA, b"from the grave")  # unless ann has hung up on it already
        await ann.until(lambda: ann.lanes.refused().get("old_boot", 0) > 1)
        assert b"from the grave" not in ann.texts()
        assert ann.lanes.is_reachable("bob")


async def test_lanes_opened_anew_in_the_same_life_go_on_and_tell_of_the_gap() -> None:
    """A supervisor may restart the lanes while the node lives on."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    async with running(ann):
        async with running(bob, connected=False):
            bob.lanes.connect(ann.address)
            ann.lanes.connect(bob.address)
            await ann.until_up(bob)
            bob_at = bob.address
        again = LaneNode("bob", port=bob_at.port, data_port=bob_at.data_port)
        async with running(again, connected=False):
            again.lanes.connect(ann.address)
            await again.until_up(ann)
            assert again.lanes.send_nowait("ann", Lane.DATA, b"again")
            await ann.until(lambda: b"again" in ann.texts())
            assert ann.gaps == [("bob", 1), ("bob", 1)]
            assert ann.lanes.send_nowait("bob", Lane.DATA, b"to you")
            await again.until(lambda: b"to you" in again.texts())


async def test_a_long_item_passes_and_a_longer_one_is_refused_at_once() -> None:
    """nng would hang up on it, again and again, and take other items along."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    async with running(ann, bob):
        assert ann.lanes.send_nowait("bob", Lane.DATA, b"x" * MAX_ITEM_BYTES)
        assert not ann.lanes.send_nowait("bob", Lane.DATA, b"y" * (MAX_ITEM_BYTES + 1))
        assert ann.lanes.send_nowait("bob", Lane.DATA, b"z")
        await bob.until(lambda: len(bob.items) == 2)
        assert [len(text) for text in bob.texts()] == [MAX_ITEM_BYTES, 1]
        assert bob.gaps == [("ann", 1)] * 2  # the receiver knows that something is missing
        assert ann.lanes.stats().peers["bob"].data.items_refused == 1
        assert not ann.lanes.send_nowait("nobody", Lane.DATA, b"x")


async def test_a_full_data_lane_refuses_until_half_of_it_is_gone_and_the_receiver_sees_one_gap() -> None:
    """A slow peer costs 4 MiB, and is told once that it has missed something."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    async with running(ann, bob):
        taken = 0
        while ann.lanes.send_nowait("bob", Lane.DATA, b"%06d" % taken + b"x" * 10_000):
            taken += 1
        assert taken == pytest.approx(4 * 2**20 / 10_070, abs=2)
        for _ in range(100):
            assert not ann.lanes.send_nowait("bob", Lane.DATA, b"too much")
        assert ann.lanes.send_nowait("bob", Lane.CONTROL, b"still")
        queue_bytes = [ann.lanes.stats().peers["bob"].data.queued_bytes]

        def is_taken_again() -> bool:
            queue_bytes.append(ann.lanes.stats().peers["bob"].data.queued_bytes)
            return ann.lanes.send_nowait("bob", Lane.DATA, b"after")

        await ann.until(is_taken_again)
        assert queue_bytes[-1] <= 2 * 2**20
        await bob.until(lambda: b"after" in bob.texts())
        texts = bob.texts(Lane.DATA)
        assert [int(text[:6]) for text in texts[:-1]] == list(range(taken))
        assert bob.gaps == [("ann", 1)] * 2
        assert bob.lanes.stats().peers["ann"].lost_envelopes == 1


async def test_the_end_of_a_full_lane_is_missed_too() -> None:
    """Nothing is sent after what was left out, and yet the receiver must look for it."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    async with running(ann, bob):
        while ann.lanes.send_nowait("bob", Lane.DATA, b"x" * 100_000):
            pass
        start = trio.current_time()
        await bob.until(lambda: len(bob.gaps) == 2)
        assert trio.current_time() - start < 4  # two beats, and the time to read 4 MiB


async def test_control_is_quick_while_data_is_saturated() -> None:
    """Probes judge whether a node lives; a burst of events must not make it look dead."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    bob.keeps = False
    delays_s: list[float] = []
    sent_at: dict[bytes, float] = {}

    def note(lane: Lane, item: bytes) -> None:
        if lane is Lane.CONTROL:
            delays_s.append(trio.current_time() - sent_at[item])

    bob.on_item = note
    async with running(ann, bob) as nursery:

        async def saturate() -> None:
            while True:
                while ann.lanes.send_nowait("bob", Lane.DATA, b"x" * 2_000):
                    pass
                await trio.sleep(0.002)

        nursery.start_soon(saturate)
        for n in range(100):
            item = b"%d" % n
            sent_at[item] = trio.current_time()
            assert ann.lanes.send_nowait("bob", Lane.CONTROL, item)
            await trio.sleep(0.02)
        await bob.until(lambda: len(delays_s) == 100)
        assert bob.lanes.stats().items_received > 10_000
    delays_s.sort()
    assert delays_s[50] < 0.1
    assert delays_s[-1] < 1.0


async def test_ports_are_released_and_what_was_queued_is_out_when_the_lanes_end() -> None:
    """A node's good-bye is the last thing it queues, and its next life wants the same ports."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    async with running(ann):
        async with running(bob, connected=False):
            ann.lanes.connect(bob.address)
            bob.lanes.connect(ann.address)
            await bob.until_up(ann)
            await ann.until_up(bob)  # else its end is no news
            port, data_port = bob.address.port, bob.address.data_port
            bob.lanes.send_nowait("ann", Lane.CONTROL, b"good-bye")
        await ann.until(lambda: b"good-bye" in ann.texts())
        await ann.until(lambda: ("bob", False) in ann.links)
        assert not ann.lanes.is_reachable("bob")
        assert ann.lanes.heard_at("bob") <= trio.current_time()
        async with running(LaneNode("bob", boot=2, port=port, data_port=data_port)):
            pass


async def test_a_port_in_use_is_an_os_error() -> None:
    """The operator is told which one, instead of reading nng's exception."""
    ann = LaneNode("ann")
    async with running(ann):
        taken = LaneNode("bob", port=ann.address.port)
        with pytest.raises(OSError, match=f"127.0.0.1:{ann.address.port}"):
            await taken.lanes.run()
