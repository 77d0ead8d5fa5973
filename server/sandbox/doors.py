"""Where connections come in: one port each, TLS and ALPN, and how a connection or a whole port is cut."""

import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from socket import SO_LINGER, SOL_SOCKET
from typing import Final

import trio

from server.sandbox.exchange import Answerer, LateAnswerer, Line
from server.sandbox.h1_connection import H1Connection
from server.sandbox.h2_connection import ConnectionReset, H2Connection

HOST: Final = "127.0.0.1"
_BACKLOG: Final = 512
_HANDSHAKE_S: Final = 10.0
_NO_LINGER: Final = struct.pack("ii", 1, 0)

Serve = Callable[[trio.SocketStream, Line], Awaitable[None]]


class Door:
    """One listening port on 127.0.0.1. While `is_out` says so, whoever comes is reset."""

    def __init__(self, serve: Serve, *, is_out: Callable[[], bool]) -> None:
        self._serve = serve
        self._is_out = is_out
        self._scopes: dict[trio.CancelScope, trio.SocketStream] = {}
        self.port = 0  # known once it is open

    async def open(self, port: int, nursery: trio.Nursery) -> None:
        """Listen, and serve in the nursery until it is cancelled. Port 0: any. Raises: OSError."""
        listeners = await trio.open_tcp_listeners(port, host=HOST, backlog=_BACKLOG)
        self.port = int(listeners[0].socket.getsockname()[1])
        nursery.start_soon(self._run, listeners)

    async def _run(self, listeners: list[trio.SocketListener]) -> None:
        await trio.serve_listeners(self._connected, listeners)

    def cut(self) -> None:
        """Reset all connections."""
        for scope, stream in self._scopes.items():
            mark_for_reset(stream)
            scope.cancel()

    async def _connected(self, stream: trio.SocketStream) -> None:
        scope = trio.CancelScope()
        self._scopes[scope] = stream
        try:
            with scope:
                if self._is_out():
                    mark_for_reset(stream)
                else:
                    await self._serve(stream, Line())
        except ConnectionReset:
            mark_for_reset(stream)
        finally:
            del self._scopes[scope]
            stream.socket.close()


def mark_for_reset(stream: trio.SocketStream) -> None:
    """Have the close that follows send RST instead of FIN, and throw away what was not sent."""
    with contextlib.suppress(OSError):  # closed already
        stream.socket.setsockopt(SOL_SOCKET, SO_LINGER, _NO_LINGER)


def web_server(answerer: Answerer, context: ssl.SSLContext, *, only_h2: bool = False) -> Serve:
    """Serve HTTP over TLS, HTTP/2 or 1.1 as ALPN says. `only_h2`: who did not ask for h2 is turned away."""

    async def serve(stream: trio.SocketStream, line: Line) -> None:
        async with open_tls(stream, context) as tls:
            if tls is None:
                return
            if tls.selected_alpn_protocol() == "h2":
                await H2Connection(tls, line, answerer).run()
            elif not only_h2:
                await H1Connection(tls, line, answerer).run()

    return serve


def plain_server(answerer: LateAnswerer) -> Serve:
    """Serve HTTP/1.1 without TLS."""

    async def serve(stream: trio.SocketStream, line: Line) -> None:
        await H1Connection(stream, line, answerer).run()

    return serve


@contextlib.asynccontextmanager
async def open_tls(
    stream: trio.SocketStream, context: ssl.SSLContext
) -> AsyncIterator[trio.SSLStream[trio.SocketStream] | None]:
    """Do the handshake; None if the peer does not manage it. Says goodbye at the end, if nothing failed."""
    tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    try:
        with trio.fail_after(_HANDSHAKE_S):
            await tls.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError):
        yield None
        return
    yield tls
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await tls.aclose()
