"""Lanes over broken ways and to broken peers: cut, frozen, killed."""

import os
import signal
import sys

import msgspec
import pytest
import trio

from cluster import nng_socket
from cluster.lane_peer import DATA_QUEUE_BYTES
from cluster.lanes import Lane
from cluster.nng_socket import PushSocket
from tests.cluster.lane_nodes import HOST, LaneNode, rss_bytes, running
from tests.cluster.lane_process import lane_process
from tests.cluster.lane_proxy import LaneProxy
from tests.conftest import IS_LONG_RUN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def test_the_lost_end_of_a_data_lane_is_noticed_within_about_two_beats() -> None:
    """A hint that got lost last of all would else be missed until the next one, which may be hours away."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    async with running(ann, bob, connected=False) as nursery:
        proxy = await LaneProxy.open(bob.address.data_port, nursery)
        ann.lanes.connect(msgspec.structs.replace(bob.address, data_port=proxy.port))
        bob.lanes.connect(ann.address)
        await ann.until_up(bob)
        assert ann.lanes.send_nowait("bob", Lane.DATA, b"first")
        await bob.until(lambda: bob.texts() == [b"first"])
        assert bob.gaps == [("ann", 1)]
        proxy.swallows = True
        assert ann.lanes.send_nowait("bob", Lane.DATA, b"swallowed")
        await ann.until(lambda: proxy.swallowed_bytes)
        lost_at = trio.current_time()
        proxy.cut()
        proxy.swallows = False
        await bob.until(lambda: len(bob.gaps) == 2)
        assert trio.current_time() - lost_at < 4
        assert ann.lanes.send_nowait("bob", Lane.DATA, b"third")
        await bob.until(lambda: bob.texts() == [b"first", b"third"])
        assert len(bob.gaps) == 2  # told once
        assert bob.lanes.stats().peers["ann"].lost_envelopes == 1
        assert ann.lanes.stats().peers["bob"].connects == 3


async def test_a_loss_in_the_middle_is_told_before_what_comes_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The receiver must not apply a delta on top of one that it does not have."""
    monkeypatch.setattr(nng_socket, "LASTING_S", 0.0)  # reconnect at once
    ann, bob = LaneNode("ann"), LaneNode("bob")
    gaps_at: dict[bytes, int] = {}
    bob.on_item = lambda _, item: gaps_at.update({item: len(bob.gaps)})
    async with running(ann, bob, connected=False) as nursery:
        proxy = await LaneProxy.open(bob.address.data_port, nursery)
        ann.lanes.connect(msgspec.structs.replace(bob.address, data_port=proxy.port))
        bob.lanes.connect(ann.address)
        await ann.until_up(bob)
        for n in range(0, 20, 2):
            assert ann.lanes.send_nowait("bob", Lane.DATA, b"%d" % n)
            await bob.until(lambda: len(gaps_at) > n // 2)  # noqa: B023  # awaited in this round
            proxy.swallows = True
            proxy.swallowed_bytes = 0
            assert ann.lanes.send_nowait("bob", Lane.DATA, b"%d" % (n + 1))
            await ann.until(lambda: proxy.swallowed_bytes)
            connects = ann.lanes.stats().peers["bob"].connects
            proxy.swallows = False
            proxy.cut()
            await ann.until(lambda: ann.lanes.stats().peers["bob"].connects > connects)  # noqa: B023
        assert bob.texts() == [b"%d" % n for n in range(0, 20, 2)]
        assert [gaps_at[b"%d" % n] for n in range(0, 20, 2)] == list(range(1, 11))


async def test_a_way_that_works_in_one_direction_only_counts_as_down_on_both_sides() -> None:
    """A node that is heard but hears nothing would else be sent to for ever."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    async with running(ann, bob, connected=False) as nursery:
        proxy = await LaneProxy.open(bob.address.port, nursery)
        ann.lanes.connect(msgspec.structs.replace(bob.address, port=proxy.port))
        bob.lanes.connect(ann.address)
        await ann.until_up(bob)
        await bob.until_up(ann)
        proxy.swallows = True
        await ann.until(lambda: ann.links == [("bob", True), ("bob", False)])
        await bob.until(lambda: bob.links == [("ann", True), ("ann", False)])
        assert ann.lanes.heard_at("bob") > trio.current_time() - 2
        proxy.swallows = False
        # What it had swallowed ends within a message: nng hangs up on that, or we do, and dial anew.
        await ann.until_up(bob)
        await bob.until_up(ann)


async def test_a_killed_receiver_knows_in_its_next_life_that_something_was_lost() -> None:
    """Acked messages are in the store; what the lanes carried of them is gone with the process."""
    ann = LaneNode("ann", meets=True)
    async with running(ann):
        with lane_process("bob", ann.address) as first:
            ann.lanes.connect(first.address)
            await ann.until(lambda: ann.lanes.is_reachable("bob"))
            assert ann.lanes.send_nowait("bob", Lane.DATA, b"one")
            await ann.until(lambda: list(first.items) == ["one"])
        # It was killed. Until that is noticed, items are taken, and lost.
        refused = 0
        sent = 0
        with trio.fail_after(20):
            while refused < 3:
                refused += not ann.lanes.send_nowait("bob", Lane.DATA, b"lost")
                sent += 1
                await trio.sleep(0.1)
        assert sent > refused
        assert ann.links[-1] == ("bob", False)
        at = first.address
        with lane_process("bob", ann.address, boot=2, port=at.port, data_port=at.data_port) as second:
            await ann.until(lambda: ann.links[-1] == ("bob", True))
            assert ann.lanes.send_nowait("bob", Lane.DATA, b"two")
            await ann.until(lambda: "two" in second.items)
            assert second.gaps_before["two"] == 1
            assert list(second.items) == ["two"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_frozen_peer_costs_its_queue_and_nothing_else() -> None:
    """Its TCP connections stay open and its kernel answers: nothing but its silence shows it."""
    ann, carl = LaneNode("ann", meets=True), LaneNode("carl")
    async with running(ann, carl):
        with lane_process("bob", ann.address) as bob:
            ann.lanes.connect(bob.address)
            await ann.until(lambda: ann.lanes.is_reachable("bob"))
            ann.lanes.send_nowait("bob", Lane.CONTROL, b"echo")
            await ann.until(lambda: b"echo" in ann.texts(Lane.CONTROL, "bob"))
            before_bytes = rss_bytes()
            os.kill(bob.process.pid, signal.SIGSTOP)
            try:
                frozen_at = trio.current_time()
                refused = taken_bytes = 0
                while trio.current_time() < frozen_at + 10:
                    for _ in range(20):
                        if ann.lanes.send_nowait("bob", Lane.DATA, b"x" * 20_000):
                            taken_bytes += 20_000
                        else:
                            refused += 1
                        ann.lanes.send_nowait("bob", Lane.CONTROL, b"y" * 500)
                    assert ann.lanes.send_nowait("carl", Lane.DATA, b"z")
                    await trio.sleep(0.01)
                assert not ann.lanes.is_reachable("bob")
                assert ann.links[-1] == ("bob", False)
                assert ann.lanes.is_reachable("carl")
                await carl.until(lambda: len(carl.items) > 100)
                assert carl.gaps == [("ann", 1)]
                stats = ann.lanes.stats().peers["bob"]
                assert stats.data.queued_bytes <= DATA_QUEUE_BYTES
                assert refused == stats.data.items_refused > 0
                # The queues, one message that nng has in hand for each lane, and the allocator's slack.
                assert rss_bytes() - before_bytes < 4 * DATA_QUEUE_BYTES
            finally:
                os.kill(bob.process.pid, signal.SIGCONT)
            await ann.until(lambda: ann.lanes.is_reachable("bob"))
            await ann.until(lambda: ann.lanes.send_nowait("bob", Lane.DATA, b"welcome back"))
            await ann.until(lambda: "welcome back" in bob.items)
            assert bob.gaps_before["welcome back"] >= 2  # it knows that it has missed something


async def test_connections_that_end_amid_sends_do_not_crash_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With nng's own reconnects this ends in a segmentation fault after some hundred connections."""
    monkeypatch.setattr(nng_socket, "LASTING_S", 0.0)  # reconnect at once
    connection_count = 0

    async def take_some(stream: trio.SocketStream) -> None:
        nonlocal connection_count
        connection_count += 1
        taken_bytes, limit_bytes = 0, 1_000 + connection_count * 7_919 % 100_000
        async with stream:
            await stream.send_all(b"\x00SP\x00\x00\x51\x00\x00")  # as a Pull0 does (SP over TCP, section 3)
            async for chunk in stream:
                taken_bytes += len(chunk)
                if taken_bytes > limit_bytes:
                    break

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        port: int = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, take_some, listeners)
        push = PushSocket(None, HOST, port)
        with trio.fail_after(100):
            while connection_count < (20_000 if IS_LONG_RUN else 1_000):
                if push.send_nowait(b"x" * 5_000):
                    await trio.lowlevel.checkpoint()
                else:
                    await push.wait_writable()
        push.close()
        nursery.cancel_scope.cancel()
