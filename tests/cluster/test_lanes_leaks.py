"""Memory, threads and file descriptors stay where they are, however often sends are given up and ways break.

pynng's own asynchronous calls fail here: each cancelled `asend` keeps its message for ever.
"""

import gc
import os
import sys

import msgspec
import pytest
import trio

from cluster import nng_socket
from cluster.lanes import Lane, PeerAddress
from cluster.nng_socket import PullSocket, PushSocket
from tests.cluster.lane_nodes import HOST, LaneNode, rss_bytes, running
from tests.cluster.lane_proxy import LaneProxy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

ITEM = b"x" * 20_000
# For the allocator. The cancelled sends of one short run would be 20 MB, if they were kept.
SLACK_BYTES = 6 * 2**20

long_only = pytest.mark.long


class Footprint:
    """What this process holds now, to be compared with what it holds later."""

    def __init__(self) -> None:
        gc.collect()
        self.rss_bytes = rss_bytes()
        self.fds = len(os.listdir("/proc/self/fd"))
        self.threads = len(os.listdir("/proc/self/task"))

    def assert_kept(self, what: str, count: int) -> None:
        now = Footprint()
        grown_bytes = now.rss_bytes - self.rss_bytes
        print(f"{count} {what}: RSS {self.rss_bytes / 2**20:.1f} MiB, {grown_bytes / 1024:+.0f} KiB after it")
        assert grown_bytes < SLACK_BYTES
        assert now.fds <= self.fds + 8  # a connection or two may be opening or closing just then
        assert now.threads == self.threads


@pytest.fixture
def quick_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect at once, however short a connection was."""
    monkeypatch.setattr(nng_socket, "LASTING_S", 0.0)


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=long_only)])
async def test_memory_stays_flat_over_cancelled_sends(count: int) -> None:
    """A sender that waits for a slow peer is cancelled whenever that peer is given up."""
    pull = PullSocket(None)
    port = pull.listen(HOST, 0)
    push = PushSocket(None, HOST, port)
    try:
        await push.wait_writable()
        while True:  # until the kernel's buffers and nng's are full, as nobody reads
            while push.send_nowait(ITEM):
                pass
            with trio.move_on_after(0.3) as waited:
                await push.wait_writable()
            if waited.cancelled_caught:
                break
        footprint = Footprint()
        for _ in range(count):
            assert not push.send_nowait(ITEM + b"")
            with trio.CancelScope() as scope:
                scope.cancel()
                await push.wait_writable()
        footprint.assert_kept("cancelled sends", count)
    finally:
        push.close()
        pull.close()


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=long_only)])
async def test_memory_stays_flat_over_peers_given_up_with_their_queues(count: int) -> None:
    """Nodes come and go; each leaves behind what was queued for it."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    async with running(ann, bob):
        silent = await trio.open_tcp_listeners(0, host=HOST)  # takes connections, and says nothing
        silent_port = silent[0].socket.getsockname()[1]

        async def give_up(count: int) -> None:
            for n in range(count):
                port = (silent_port, 9, bob.address.port)[n % 3]  # nobody is at 9
                ann.lanes.connect(PeerAddress("gone", n + 1, HOST, port, port))
                for _ in range(10):
                    assert ann.lanes.send_nowait("gone", Lane.DATA, ITEM + b"")
                    assert ann.lanes.send_nowait("gone", Lane.CONTROL, ITEM + b"")
                await trio.lowlevel.checkpoint()
                if n % 10 == 0:
                    await trio.sleep(0.01)
            ann.lanes.disconnect("gone")
            await trio.sleep(0.5)  # nng closes what was opened in threads of its own

        await give_up(200)
        footprint = Footprint()
        await give_up(count)
        footprint.assert_kept("peers given up", count)
        ann.lanes.send_nowait("bob", Lane.DATA, b"still")
        await bob.until(lambda: b"still" in bob.texts())
        for listener in silent:
            await listener.aclose()


@pytest.mark.usefixtures("quick_reconnects")
@pytest.mark.parametrize("count", [40, pytest.param(1_000, marks=long_only)])
async def test_memory_stays_flat_over_reconnects(count: int) -> None:
    """A bad cable for a night."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    bob.keeps = False
    async with running(ann, bob, connected=False) as nursery:
        proxies = [await LaneProxy.open(port, nursery) for port in (bob.address.port, bob.address.data_port)]
        ann.lanes.connect(
            msgspec.structs.replace(bob.address, port=proxies[0].port, data_port=proxies[1].port)
        )
        bob.lanes.connect(ann.address)
        await ann.until_up(bob)

        async def reconnect(count: int) -> None:
            for _ in range(count):
                before = ann.lanes.stats().peers["bob"].connects
                for proxy in proxies:
                    proxy.cut()
                for _ in range(10):
                    ann.lanes.send_nowait("bob", Lane.DATA, ITEM + b"")
                await ann.until(lambda: ann.lanes.stats().peers["bob"].connects >= before + 2)  # noqa: B023

        await reconnect(40)
        footprint = Footprint()
        await reconnect(count)
        await ann.until_up(bob)
        footprint.assert_kept("reconnects of both lanes", count)
        assert bob.lanes.stats().items_received
