"""A small HTTP/1.1 server for tests: keeps what was asked, and answers, stalls or hangs up as it is told."""

import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import parse_qs

import h11
import trio


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return {
            name: values[-1] for name, values in parse_qs(self.body.decode(), strict_parsing=True).items()
        }


Behaviour = Callable[[trio.abc.Stream, Asked], Awaitable[bool]]
"""Answers one request; False closes the connection."""


def answer(status: int, body: bytes = b"{}", *headers: str) -> Behaviour:
    """Answer so, and keep the connection."""

    async def behave(stream: trio.abc.Stream, asked: Asked) -> bool:
        head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
        await stream.send_all("\r\n".join(head).encode() + body)
        return not any(header.lower() == "connection: close" for header in headers)

    return behave


def raw(data: bytes) -> Behaviour:
    """Send these bytes and hang up."""

    async def behave(stream: trio.abc.Stream, asked: Asked) -> bool:
        await stream.send_all(data)
        return False

    return behave


async def stall(stream: trio.abc.Stream, asked: Asked) -> bool:
    """Never answer, until the other end hangs up."""
    await stream.receive_some(1)
    return False


class HttpPeer:
    """`script` is used up first, then `usual` holds."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script: deque[Behaviour] = deque()
        self.usual: Behaviour = answer(201, b'{"sid": "SM1", "status": "queued"}')
        self.connections = 0
        self.port = 0
        self.got_one = trio.Event()
        self.closed: list[trio.Event] = []

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        closed = trio.Event()
        self.closed.append(closed)
        parser = h11.Connection(h11.SERVER)
        try:
            while (asked := await self._read(parser, stream)) is not None:
                self.asked.append(asked)
                self.got_one.set()
                behave = self.script.popleft() if self.script else self.usual
                if not await behave(stream, asked):
                    return
                parser = h11.Connection(h11.SERVER)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass
        finally:
            await trio.aclose_forcefully(stream)
            closed.set()

    async def _read(self, parser: h11.Connection, stream: trio.abc.Stream) -> Asked | None:
        request: h11.Request | None = None
        body = b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(bytes(await stream.receive_some(65_536)))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                headers = {name.decode(): value.decode() for name, value in request.headers}
                return Asked(request.method.decode(), request.target.decode(), headers, body)
            else:
                return None


@asynccontextmanager
async def open_http_peer(tls: ssl.SSLContext | None = None) -> AsyncIterator[HttpPeer]:
    """Listen on a free port of 127.0.0.1 until the end of the block."""
    peer = HttpPeer()
    async with trio.open_nursery() as nursery:
        if tls is None:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            peer.port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, peer.serve, listeners)
        else:
            secure = await trio.open_ssl_over_tcp_listeners(0, tls, host="127.0.0.1", https_compatible=True)
            peer.port = secure[0].transport_listener.socket.getsockname()[1]  # type: ignore[attr-defined]
            nursery.start_soon(trio.serve_listeners, peer.serve, secure)
        yield peer
        nursery.cancel_scope.cancel()
