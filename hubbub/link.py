"""One connection to a server, whatever its transport: WebSocket, or MessagePack frames over TCP.

Owns sockets and framing. Knows nothing of sessions, retries or cursors. A link that was cancelled in
the middle of a send may have written half a frame: whoever cancels must `abort` it and open another.
"""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol, cast

import trio
import trio_websocket

from hubbub.endpoint import Endpoint
from hubbub.errors import ConnectionLost, UntrustedServer
from protocol.codec import FrameSplitter, Wire, decode_server, encode_payload, encode_tcp_command
from protocol.commands import Command
from protocol.errors import ProtocolError
from protocol.events import Event
from protocol.limits import MAX_FRAME_BYTES
from protocol.replies import Reply

CONNECT_TIMEOUT_S: Final = 10.0  # DNS, TCP, TLS and upgrade together
CLOSE_TIMEOUT_S: Final = 1.0  # a polite goodbye; then the socket is dropped
RECEIVE_BYTES: Final = 64 * 1024
# Room for a server that grows its limit: a page of events is at most 192 KiB, a frame 640 KiB today.
MAX_MESSAGE_BYTES: Final = 4 * MAX_FRAME_BYTES


class Link(Protocol):
    """One open connection. One task may send and one may receive at a time."""

    async def send(self, commands: Sequence[Command]) -> None:
        """Write commands in this order. Raises: ConnectionLost."""
        ...

    async def receive(self) -> Sequence[Reply | Event]:
        """Return at least one message, in order. Raises: ConnectionLost, also where bytes make no sense."""
        ...

    async def close(self) -> None:
        """Say goodbye, within a second, while the link is still being read. Never raises."""
        ...

    async def abort(self) -> None:
        """Free the socket at once. Never raises."""
        ...


def _is_plain_unknown(payload: bytes | str, exc: ProtocolError) -> bool:
    # A newer server may push events that this client does not know: they are skipped, not fatal.
    return exc.code == "bad_field" and bool(payload)


class TcpLink:
    """MessagePack behind a 4-byte length."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._splitter = FrameSplitter(MAX_MESSAGE_BYTES)

    async def send(self, commands: Sequence[Command]) -> None:
        try:
            await self._stream.send_all(b"".join([encode_tcp_command(command) for command in commands]))
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as exc:
            raise ConnectionLost(f"write failed: {exc}") from exc

    async def receive(self) -> Sequence[Reply | Event]:
        while True:  # ends with the first complete frame
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as exc:
                raise ConnectionLost(f"read failed: {exc}") from exc
            if not data:
                raise ConnectionLost("the server closed the connection")
            messages: list[Reply | Event] = []
            try:
                payloads = self._splitter.feed(data)
            except ProtocolError as exc:
                raise ConnectionLost(str(exc)) from exc
            for payload in payloads:
                try:
                    messages.append(decode_server(payload, Wire.MSGPACK_TCP))
                except ProtocolError as exc:
                    if not _is_plain_unknown(payload, exc):
                        raise ConnectionLost(str(exc)) from exc
            if messages:
                return messages

    async def close(self) -> None:
        await self.abort()  # the end of the stream is all that this transport can say

    async def abort(self) -> None:
        await trio.aclose_forcefully(self._stream)


class WebSocketLink:
    """JSON in text frames or MessagePack in binary frames."""

    def __init__(
        self, stream: trio.abc.Stream, socket: trio_websocket.WebSocketConnection, wire: Wire
    ) -> None:
        self._stream = stream
        self._socket = socket
        self._wire = wire

    async def send(self, commands: Sequence[Command]) -> None:
        for command in commands:
            payload = encode_payload(command, self._wire)
            try:
                if self._wire is Wire.JSON_WS:
                    await self._socket.send_message(payload.decode())
                else:
                    await self._socket.send_message(payload)
            except (
                trio_websocket.ConnectionClosed,
                trio.BrokenResourceError,
                trio.ClosedResourceError,
            ) as exc:
                raise self._lost(exc) from exc

    async def receive(self) -> Sequence[Reply | Event]:
        while True:  # ends with the first message that this client knows
            try:
                payload = await self._socket.get_message()
            except (
                trio_websocket.ConnectionClosed,
                trio.BrokenResourceError,
                trio.ClosedResourceError,
            ) as exc:
                raise self._lost(exc) from exc
            try:
                return (decode_server(payload, self._wire),)
            except ProtocolError as exc:
                if not _is_plain_unknown(payload, exc):
                    raise ConnectionLost(str(exc)) from exc

    def _lost(self, exc: BaseException) -> ConnectionLost:
        reason = self._socket.closed
        # 1006 is what a socket says of itself where the peer said nothing.
        if reason is None or reason.code in (1005, 1006):
            return ConnectionLost(f"the connection broke: {exc!r}")
        return ConnectionLost(reason.reason or reason.name, int(reason.code))

    async def close(self) -> None:
        with trio.move_on_after(CLOSE_TIMEOUT_S), suppress(Exception):
            await self._socket.aclose()

    async def abort(self) -> None:
        await trio.aclose_forcefully(self._stream)


async def open_link(
    nursery: trio.Nursery,
    endpoint: Endpoint,
    *,
    ssl_context: ssl.SSLContext | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> Link:
    """Connect. `nursery` runs the WebSocket's own reader. Raises: ConnectionLost, also after `timeout_s`."""
    try:
        with trio.fail_after(timeout_s):
            stream = await _open_stream(endpoint, ssl_context)
            try:
                if endpoint.wire is Wire.MSGPACK_TCP:
                    return TcpLink(stream)
                subprotocol = "hubbub.json" if endpoint.wire is Wire.JSON_WS else "hubbub.msgpack"
                socket = await _upgrade(nursery, stream, endpoint, subprotocol)
                return WebSocketLink(stream, socket, endpoint.wire)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(stream)
                raise
    except trio.TooSlowError:
        raise ConnectionLost(f"{endpoint} did not answer within {timeout_s:g} s") from None
    except trio_websocket.ConnectionRejected as exc:
        raise ConnectionLost(f"{endpoint} refused the WebSocket: HTTP {exc.status_code}") from exc
    except (OSError, trio.BrokenResourceError, trio_websocket.HandshakeError) as exc:
        raise ConnectionLost(f"cannot reach {endpoint}: {str(exc) or type(exc).__name__}") from exc


async def _upgrade(
    nursery: trio.Nursery,
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
    endpoint: Endpoint,
    subprotocol: str,
) -> trio_websocket.WebSocketConnection:
    """Shake hands; the socket's reader goes on in `nursery`. Raises: ConnectionLost, HandshakeError."""
    reader = _Reader(nursery)
    socket: trio_websocket.WebSocketConnection | None = None
    async with trio.open_nursery() as race:

        async def give_up() -> None:
            await reader.ended.wait()
            race.cancel_scope.cancel()

        race.start_soon(give_up)
        socket = await trio_websocket.wrap_client_stream(
            cast("trio.Nursery", reader),
            stream,
            f"{endpoint.host}:{endpoint.port}",
            endpoint.path,
            subprotocols=[subprotocol],
            message_queue_size=16,
            max_message_size=MAX_MESSAGE_BYTES,
            receive_buffer_size=RECEIVE_BYTES,
        )
        race.cancel_scope.cancel()
    if reader.refusal is not None:
        raise reader.refusal
    if socket is None:
        raise ConnectionLost(f"{endpoint} hung up without an answer; does it serve TLS, or another protocol?")
    return socket


class _Reader:
    """The nursery that trio-websocket (0.12) starts its reader in, as far as it uses one: `start_soon`.

    Two things it leaves to its caller: where the peer hangs up before its answer, the reader ends and the
    handshake waits for ever; where the peer refuses, the refusal is raised in the reader's nursery.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.ended = trio.Event()
        self.refusal: trio_websocket.HandshakeError | None = None

    def start_soon(self, reader: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(self._run, reader)

    async def _run(self, reader: Callable[[], Awaitable[None]]) -> None:
        try:
            await reader()
        except trio_websocket.HandshakeError as exc:
            self.refusal = exc
        finally:
            self.ended.set()


async def _open_stream(
    endpoint: Endpoint, context: ssl.SSLContext | None
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    if endpoint.is_tls:
        stream = await trio.open_ssl_over_tcp_stream(
            endpoint.host,
            endpoint.port,
            ssl_context=context or ssl.create_default_context(),
            https_compatible=True,
        )
        try:
            await stream.do_handshake()
        except BaseException as exc:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
            if isinstance(exc, trio.BrokenResourceError):
                raise _handshake_failure(endpoint, exc.__cause__) from exc
            raise
        return stream
    return await trio.open_tcp_stream(endpoint.host, endpoint.port)


def _handshake_failure(endpoint: Endpoint, cause: BaseException | None) -> ConnectionLost:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return UntrustedServer(
            f"The certificate of {endpoint.host}:{endpoint.port} is not trusted ({cause.verify_message}). "
            "Use a name that it was made for, and let this machine, or an ssl_context, trust who issued it."
        )
    hint = f"no TLS at {endpoint.host}:{endpoint.port}"
    return ConnectionLost(f"{hint}: {cause}" if cause is not None else hint)
