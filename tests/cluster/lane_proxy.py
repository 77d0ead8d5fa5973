"""A TCP proxy before one port of a node: a way that can be cut or long, or swallow what is sent."""

from contextlib import suppress
from typing import Self

import trio

from tests.cluster.lane_nodes import HOST


class LaneProxy:
    """Forward to a port of this machine. Only towards it may bytes be swallowed."""

    def __init__(self, listener: trio.SocketListener, target_port: int, nursery: trio.Nursery) -> None:
        self.port: int = listener.socket.getsockname()[1]
        self.swallows = False
        self.swallowed_bytes = 0
        self.delay_s = 0.0  # of each chunk, on both ways
        self.connections = 0  # ever made
        self._target_port = target_port
        self._connections: set[trio.CancelScope] = set()
        self._nursery = nursery
        nursery.start_soon(trio.serve_listeners, self._serve, [listener])

    @classmethod
    async def open(cls, target_port: int, nursery: trio.Nursery) -> Self:
        (listener,) = await trio.open_tcp_listeners(0, host=HOST)
        return cls(listener, target_port, nursery)

    def cut(self) -> None:
        """Close all connections; new ones are welcome."""
        for scope in tuple(self._connections):
            scope.cancel()

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        with trio.CancelScope() as scope, suppress(OSError, trio.BrokenResourceError):
            self._connections.add(scope)
            try:
                target = await trio.open_tcp_stream(HOST, self._target_port)
                async with target, trio.open_nursery() as nursery:
                    nursery.start_soon(self._forward, target, stream, False)
                    await self._forward(stream, target, True)
                    nursery.cancel_scope.cancel()
            finally:
                self._connections.discard(scope)

    async def _forward(self, source: trio.SocketStream, to: trio.SocketStream, may_swallow: bool) -> None:
        with suppress(trio.BrokenResourceError):
            async for chunk in source:
                await trio.sleep(self.delay_s)
                if may_swallow and self.swallows:
                    self.swallowed_bytes += len(chunk)
                else:
                    await to.send_all(chunk)
