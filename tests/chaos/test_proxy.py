"""The proxy before a node's cluster port loses exactly what it is told to lose."""

import os

import pytest
import trio

from tests.chaos.proxy import Proxy
from tests.nodes import free_port

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="who dials is read from /proc")


async def _echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def _ask(stream: trio.SocketStream) -> bytes:
    await stream.send_all(b"hello")
    with trio.move_on_after(0.3):  # what is lost never comes
        return bytes(await stream.receive_some(100))
    return b"(silence)"


async def test_only_what_comes_from_the_cut_node_is_lost() -> None:
    """A test of cut networks that cuts nothing would hold whatever happens."""
    target, port = free_port(), free_port()
    names = {"n1": os.getpid()}
    proxy = Proxy(port, target, ["n1", "n2"], names.get)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_tcp, _echo, target)
            await nursery.start(proxy.run)
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                assert await _ask(stream) == b"hello"
                proxy.cut("n2")
                assert await _ask(stream) == b"hello"
                proxy.cut("n1")
                assert await _ask(stream) == b"(silence)"
                async with await trio.open_tcp_stream("127.0.0.1", port) as newcomer:
                    assert await _ask(newcomer) == b"(silence)"
                proxy.heal()
                assert await stream.receive_some(100) == b""  # it ended, as after a long silence
            async with await trio.open_tcp_stream("127.0.0.1", port) as after:
                assert await _ask(after) == b"hello"
            nursery.cancel_scope.cancel()
