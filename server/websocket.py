"""The WebSocket transport, and the only file that knows which WebSocket library carries it.

wsproto reads frames; the upgrade is our own (upgrade.py).

- Frames that are built already are written to the stream under a lock, many at once. One write of 50 frames
  costs a quarter of 50 writes, and a frame is encoded once however many sessions get it.
- We read by pulling: no second task and no channel for each connection (5 KB and one task switch for each
  message), and a reader that must not read really does not read.
- Our clients need our close codes, which say whether to reconnect, instead of 1002, 1007 and 1009.
"""

from collections.abc import Sequence
from typing import Final, cast

import trio
from wsproto import ConnectionType
from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from protocol.codec import Wire
from protocol.errors import ProtocolError
from protocol.limits import MAX_FRAME_BYTES
from server.listener import RequestHead
from server.transport import (
    CLOSE_TIMEOUT_S,
    SocketLikeStream,
    StreamWriter,
    TransportClosed,
    free_stream,
)
from server.upgrade import upgrade

MAX_PARTS: Final = 64  # fragments of one message that are kept apart; joined when there are more
MAX_REASON_BYTES: Final = 123  # RFC 6455 section 5.5: a control frame holds 125 bytes, two are the code


async def accept_websocket(stream: SocketLikeStream, head: RequestHead, early: bytes) -> "WebSocketTransport":
    """Complete the upgrade whose request head was read already; `early` is what came after the head.

    Raises: HandshakeFailed("bad_upgrade") where the request is not a valid upgrade; TransportClosed.
    """
    answer, wire = upgrade(head)
    transport = WebSocketTransport(stream, wire, early)
    await transport.send_raw(answer)
    return transport


class WebSocketTransport(StreamWriter):
    """One WebSocket, after its handshake. See `Transport` for the contract."""

    __slots__ = ("_ended_by", "_lock", "_message_bytes", "_parts", "_proto", "wire")

    def __init__(self, stream: SocketLikeStream, wire: Wire, early: bytes) -> None:
        super().__init__(stream)
        self._proto = Connection(ConnectionType.SERVER)
        self._lock = trio.StrictFIFOLock()
        self.wire = wire
        self._parts: list[bytes | str] = []
        self._message_bytes = 0
        self._ended_by: TransportClosed | ProtocolError | None = None
        if early:
            self._proto.receive_data(early)

    async def receive(self) -> Sequence[bytes | str]:
        """Return at least one message."""
        while True:  # ends with a message, or an exception
            if self._ended_by is not None:
                raise self._ended_by
            payloads = await self._take_messages()
            if payloads:
                return payloads
            if self._ended_by is None:
                self._proto.receive_data(await self._read())

    async def send_raw(self, frames: bytes) -> None:
        """Write finished frames."""
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:  # the reader is answering a ping
            await self._lock.acquire()
        try:
            await self._write(frames)
        finally:
            self._lock.release()

    async def close(self, code: int, reason: str) -> None:
        """Send the close frame, or answer the peer's, and free the socket."""
        with trio.move_on_after(CLOSE_TIMEOUT_S):
            try:
                is_peers_idea = self._proto.state is ConnectionState.REMOTE_CLOSING
                if self._proto.state is ConnectionState.OPEN or is_peers_idea:
                    text = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
                    await self.send_raw(self._proto.send(CloseConnection(code=code, reason=text)))
                    if not is_peers_idea:
                        await self._await_peers_close()
            except TransportClosed:
                pass
        if self._is_torn:
            self.abort()
        else:
            free_stream(self._stream)

    async def _await_peers_close(self) -> None:
        """Return when the peer has answered our close frame. What else it sends is thrown away."""
        if isinstance(self._ended_by, ProtocolError):
            await self._part()  # its frames cannot be told apart any more
            return
        while True:  # ends with the peer's close frame or the end of the stream, or is cancelled
            for event in self._proto.events():
                if isinstance(event, CloseConnection):
                    return
            self._proto.receive_data(await self._read())

    async def _take_messages(self) -> list[bytes | str]:
        """Return the complete messages of what was read; answer pings; note how the stream ended."""
        payloads: list[bytes | str] = []
        is_heard = False
        for event in self._proto.events():
            is_heard = True
            if isinstance(event, TextMessage | BytesMessage):
                data: bytes | str = event.data if isinstance(event, TextMessage) else bytes(event.data)
                if event.message_finished and not self._parts:
                    if _size_bytes(data) > MAX_FRAME_BYTES:
                        self._end_too_large()
                        break
                    payloads.append(data)
                elif not self._add_part(data):
                    break
                elif event.message_finished:
                    payloads.append(_join(self._parts))
                    self._parts.clear()
                    self._message_bytes = 0
            elif isinstance(event, Ping):
                try:
                    await self.send_raw(self._proto.send(event.response()))
                except TransportClosed as exc:
                    self._ended_by = exc
                    break
            elif isinstance(event, CloseConnection):
                self._end(event)
                break
        if is_heard:
            self.heard_at = trio.current_time()
        return payloads

    def _add_part(self, data: bytes | str) -> bool:
        """Keep a fragment; tell whether the message is still within its limit."""
        self._message_bytes += _size_bytes(data)
        if self._message_bytes > MAX_FRAME_BYTES:
            self._end_too_large()
            return False
        # An empty first fragment counts: it tells that a message has begun.
        if data or not self._parts:
            self._parts.append(data)
            if len(self._parts) > MAX_PARTS:
                self._parts = [_join(self._parts)]
        return True

    def _end_too_large(self) -> None:
        self._parts.clear()
        self._ended_by = ProtocolError("frame_too_large", f"A message may have {MAX_FRAME_BYTES} bytes.")

    def _end(self, event: CloseConnection) -> None:
        if self._proto.state is ConnectionState.REMOTE_CLOSING:
            self._ended_by = TransportClosed(int(event.code))
        elif int(event.code) == 1007:
            self._ended_by = ProtocolError("not_utf8")
        else:
            self._ended_by = ProtocolError("bad_frame", f"A WebSocket frame was broken: {event.reason}")


def _size_bytes(data: bytes | str) -> int:
    """How many bytes the client sent for this."""
    return len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())


def _join(parts: list[bytes | str]) -> bytes | str:
    if isinstance(parts[0], str):
        return "".join(cast(list[str], parts))
    return b"".join(cast(list[bytes], parts))
