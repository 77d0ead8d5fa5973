"""The sockets under the lanes, where peers come and go quickly."""

import sys

import pytest
import trio

from cluster import nng_socket
from cluster.nng_socket import PullSocket, PushSocket
from tests.cluster.lane_nodes import rss_bytes

HANG_UPS = 3_000
MAX_GROWTH_BYTES = 8 * 1024 * 1024  # a leaked socket takes some 10 KiB


async def push_until_hung_up(push: PushSocket) -> None:
    while True:
        if push.send_nowait(b"frame" * 40):
            await trio.lowlevel.checkpoint()
        else:
            try:
                await push.wait_writable()
            except trio.ClosedResourceError:  # the connection was lost
                await trio.lowlevel.checkpoint()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
async def test_peers_that_hang_up_again_and_again_cost_neither_the_process_nor_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """nng sent by connections whose memory was free already: a segmentation fault within a second of this."""
    monkeypatch.setattr(nng_socket, "RECONNECT_MIN_S", 0.001)
    monkeypatch.setattr(nng_socket, "RECONNECT_MAX_S", 0.002)
    pull = PullSocket(None)
    port = pull.listen("127.0.0.1", 0)
    pushes = [PushSocket(None, "127.0.0.1", port) for _ in range(8)]
    before_bytes = 0
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for push in pushes:
                    nursery.start_soon(push_until_hung_up, push)
                for number in range(HANG_UPS):
                    while pull.receive_nowait() is None:
                        await pull.wait_readable()
                    pull.hang_up()
                    if number == HANG_UPS // 3:
                        before_bytes = rss_bytes()
                nursery.cancel_scope.cancel()
    finally:
        for push in pushes:
            push.close()
        pull.close()
    assert sum(push.connects for push in pushes) >= HANG_UPS // 2
    assert rss_bytes() - before_bytes < MAX_GROWTH_BYTES
