"""The WebSocket transport: a WebSocket as the session's `Transport`, without a library.

The upgrade is `server/upgrade.py`, frames are read by `server/ws_frames.py`, because

- an upgrade by the library was a quarter of what a connect costs;
- a server's frames are built once for all who get them, and written many at once: one write of 50 frames
  costs a quarter of 50 writes;
- frames are read by pulling: no reader task and no channel for each connection (5 KB and one task switch for
  each message), none of wsproto's buffers and generators (2 KB, and 7 times the CPU for a short message), and
  a reader that must not read really does not read;
- our clients need our close codes, which say whether to reconnect, where the library answers an oversize
  message with 1009 and broken frames with 1002 or 1007.
"""

import math
from collections.abc import Sequence

import trio

from protocol.codec import Wire
from protocol.errors import ProtocolError
from protocol.limits import MAX_FRAME_BYTES
from server.listener import RequestHead
from server.transport import (
    CLOSE_TIMEOUT_S,
    SocketLikeStream,
    Source,
    StreamWriter,
    TransportClosed,
    free_stream,
)
from server.upgrade import upgrade
from server.ws_frames import FrameReader, close_frame


async def accept_websocket(stream: SocketLikeStream, head: RequestHead, early: bytes) -> "WebSocketTransport":
    """Complete the upgrade whose request head was read already; `early` is what came after the head.

    Raises: HandshakeFailed("bad_upgrade") where the request is not a valid upgrade; TransportClosed.
    """
    answer, wire = upgrade(head)
    transport = WebSocketTransport(stream, wire, early)
    await transport.send_raw(answer)
    return transport


class WebSocketTransport(StreamWriter):
    """One WebSocket, after its handshake. See `Transport` for the contract.

    Any bytes of the peer count as heard: a large message on a slow link is not silence.
    """

    __slots__ = ("_early", "_frames", "_has_answered", "_is_answering", "wire")

    def __init__(self, stream: SocketLikeStream, wire: Wire, early: bytes) -> None:
        super().__init__(stream)
        self.wire = wire
        self._early = early
        self._frames = FrameReader(MAX_FRAME_BYTES)
        self._is_answering = False  # the reader task writes pongs
        self._has_answered: trio.Event | None = None  # there while the writer waits for that

    async def receive(self) -> Sequence[bytes]:
        """Return at least one message."""
        frames = self._frames
        while frames.ended is None:  # ends with a message, or an exception
            data, self._early = self._early or await self._read(), b""
            messages = self.feed(data)
            if frames.pongs and self.write_blocked_since == math.inf and self._has_answered is None:
                await self._answer_pings()  # else the writer does
            if messages:
                return messages
        raise frames.ended

    async def send_raw(self, frames: bytes) -> None:
        """Write finished frames, and behind them pongs for the pings that came meanwhile."""
        if self._is_answering:
            self._has_answered = trio.Event()
            try:
                await self._has_answered.wait()
            finally:
                self._has_answered = None
        await self._write(frames)
        await self._write_pongs()

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Return the messages that are complete now."""
        self.heard_at = trio.current_time()
        return self._frames.feed(data)

    @property
    def ended(self) -> TransportClosed | ProtocolError | None:
        """Why no message follows."""
        return self._frames.ended

    @property
    def owes_pongs(self) -> bool:
        """Tell whether pings are not answered yet."""
        return bool(self._frames.pongs)

    def unsent(self, source: Source, max_bytes: int) -> bytes:
        """Return what is to be written next: what was left, then pongs, then what `source` has."""
        if self._rest:
            return self._rest
        pongs = self._frames.pongs
        if pongs:
            self._frames.pongs = b""
            return pongs
        return source.take(max_bytes)

    async def _answer_pings(self) -> None:
        self._is_answering = True
        try:
            await self._write_pongs()
        except TransportClosed as exc:  # what came before is still handled
            self._frames.ended = self._frames.ended or exc
        finally:
            self._is_answering = False
            if self._has_answered is not None:
                self._has_answered.set()

    async def _write_pongs(self) -> None:
        frames = self._frames
        while frames.pongs:  # a client that pings faster than it reads pongs delays its own frames only
            pongs, frames.pongs = frames.pongs, b""
            await self._write(pongs)

    async def close(self, code: int, reason: str) -> None:
        """Send the close frame, or answer the peer's, and free the socket."""
        with trio.move_on_after(CLOSE_TIMEOUT_S):
            try:
                await self.send_raw(close_frame(code, reason))
                await self._await_peers_close()
            except TransportClosed:
                pass
        if self._is_torn:
            self.abort()
        else:
            free_stream(self._stream)

    async def _await_peers_close(self) -> None:
        """Return when the peer has closed, too. What else it sends is thrown away."""
        frames = self._frames
        if isinstance(frames.ended, ProtocolError):
            await self._part()  # its frames cannot be told apart any more
        while frames.ended is None:  # ends with the peer's close frame or the stream, or is cancelled
            data, self._early = self._early or await self._read(), b""
            self.feed(data)
            frames.pongs = b""
