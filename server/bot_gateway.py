"""The bot protocol's transport: MessagePack behind a 4-byte big-endian length, over TCP or TLS.

TCP has no close frame: the last thing that a bot reads is a `closing` event with the close code.
"""

from collections.abc import Sequence
from typing import Final

import trio

from protocol.codec import FrameSplitter, Wire, encode_frame
from protocol.errors import ProtocolError
from protocol.events import Closing
from server.transport import CLOSE_TIMEOUT_S, SocketLikeStream, StreamWriter, TransportClosed, free_stream

# First bytes that are a plausible mistake and, read as a length, far above the limit.
_OTHER_PROTOCOLS: Final = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"PRI ", b"\x16\x03")


class TcpTransport(StreamWriter):
    """One bot connection. See `Transport` for the contract."""

    __slots__ = ("_has_received", "_splitter", "ended", "wire")

    def __init__(self, stream: SocketLikeStream) -> None:
        super().__init__(stream)
        self.wire = Wire.MSGPACK_TCP
        self._splitter = FrameSplitter()
        self._has_received = False
        self.ended: TransportClosed | ProtocolError | None = None

    async def receive(self) -> Sequence[bytes]:
        """Return at least one frame's payload."""
        while self.ended is None:  # ends with a frame, or an exception
            payloads = self.feed(await self._read())
            if payloads:
                return payloads
        raise self.ended

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Return the payloads of the frames that are complete now."""
        if not self._has_received:
            self._has_received = True
            if data.startswith(_OTHER_PROTOCOLS):
                self.ended = ProtocolError("wrong_transport", "This port speaks length-prefixed MessagePack.")
                return ()
        was_pending = self._splitter.pending_bytes
        try:
            payloads = self._splitter.feed(data)
        except ProtocolError as exc:
            self.ended = exc
            return ()
        if payloads or self._splitter.pending_bytes < was_pending + len(data):
            self.heard_at = trio.current_time()  # a frame, or a keep-alive
        return payloads

    async def send_raw(self, frames: bytes) -> None:
        """Write finished frames."""
        await self._write(frames)

    async def close(self, code: int, reason: str) -> None:
        """Say why in a last frame, and free the socket."""
        with trio.move_on_after(CLOSE_TIMEOUT_S):
            try:
                await self._write(encode_frame(Closing(code=code, reason=reason), self.wire))
                await self._part()
            except TransportClosed:
                pass
        if self._is_torn:
            self.abort()
        else:
            free_stream(self._stream)
