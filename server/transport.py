"""One connection as a session sees it, whatever carries it: payloads come in, finished frames go out."""

import contextlib
import math
import socket
import struct
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from protocol.codec import Wire
from protocol.errors import ProtocolError

SocketLikeStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

CLOSE_TIMEOUT_S: Final = 2.0  # for the peer to read our last frame and to close as well
# Read at once. Larger buffers do not help chat; the buffer lives only while bytes arrive.
RECEIVE_BYTES: Final = 16 * 1024
# A slow but honest phone moves this much in 10 s; a blocked write is judged by its pieces.
WRITE_PIECE_BYTES: Final = 64 * 1024
# What a peer may still send while we wait for it to notice that we have closed.
MAX_IGNORED_BYTES: Final = 4 * 1024 * 1024


class TransportClosed(Exception):
    """The connection is gone, or was aborted. `code` is what the peer said when it closed, 0 if it said
    nothing."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(code)
        self.code = code


class Source(Protocol):
    """Where frames to be written come from. server/outbox.py fits this."""

    def take(self, max_bytes: int) -> bytes:
        """Remove and return whole frames; b"" if there are none."""
        ...


class Transport(Protocol):
    """One reader task calls `receive`; one writer task calls `send_raw`; `abort` may be called by anyone.

    A write that was cut short (cancelled, aborted) leaves half a frame behind: from then on the transport
    refuses to write, and `close` only aborts.
    """

    @property
    def wire(self) -> Wire:
        """How payloads are encoded here."""
        ...

    @property
    def heard_at(self) -> float:
        """When the peer last completed a frame of any kind, as `trio.current_time()`."""
        ...

    @property
    def write_blocked_since(self) -> float:
        """When the write that is under way last made progress; infinity if none is under way."""
        ...

    # By tasks, or by a `SocketPump` after hello; never both at once.

    async def receive(self) -> Sequence[bytes | str]:
        """Return at least one payload, in order.

        Raises: TransportClosed; ProtocolError with bad_frame, not_utf8 or frame_too_large where framing
        broke: nothing can be received after that.
        """
        ...

    async def send_raw(self, frames: bytes) -> None:
        """Write finished frames, behind what a pump has left. Raises: TransportClosed."""
        ...

    def fileno(self) -> int:
        """The socket, where its bytes are the connection's bytes; -1 where they are not (TLS)."""
        ...

    def feed(self, data: bytes) -> Sequence[bytes | str]:
        """Return the payloads that these bytes complete, in order. Does not raise: see `ended`."""
        ...

    @property
    def ended(self) -> TransportClosed | ProtocolError | None:
        """Why nothing follows what `feed` has returned; None while something may."""
        ...

    @property
    def owes_pongs(self) -> bool:
        """Tell whether `unsent` has something of the transport's own."""
        ...

    def unsent(self, source: Source, max_bytes: int) -> bytes:
        """Return what is to be written next; b"" if nothing. Tell `note_sent` how much of it was."""
        ...

    def note_sent(self, frames: bytes, sent_bytes: int) -> bool:
        """Keep what the kernel did not take; tell whether it took all."""
        ...

    @property
    def is_blocked(self) -> bool:
        """Tell whether `note_sent` has kept something."""
        ...

    def abort(self) -> None:
        """Drop the connection at once, with whatever was not sent. Whoever waits on it gets
        TransportClosed."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Say why, give the peer a moment to read it, and free the socket. Call once, when nobody reads or
        writes any more. Returns within 2 s, and never raises but Cancelled."""
        ...


class StreamWriter:
    """Write to a socket (or TLS on one) so that a half-written frame can never be continued.

    The base of the transports. Not locked: whoever writes from several tasks locks. `unsent` and `note_sent`
    are for a `SocketPump`, which does not wait; what it leaves goes out before anything else.
    """

    __slots__ = ("_is_torn", "_rest", "_stream", "heard_at", "write_blocked_since")

    def __init__(self, stream: SocketLikeStream) -> None:
        self._stream: SocketLikeStream = stream
        self._rest = b""  # of frames that a pump could not write whole
        self._is_torn = False  # a write is under way, or was cut short
        self.heard_at = trio.current_time()
        self.write_blocked_since = math.inf

    async def _write(self, data: bytes) -> None:
        """Write all of `data`. Raises: TransportClosed."""
        if self._is_torn:
            raise TransportClosed
        if self._rest:
            data, self._rest = self._rest + data, b""
        self._is_torn = True  # and stays so if we are cancelled below
        self.write_blocked_since = trio.current_time()
        try:
            if len(data) <= WRITE_PIECE_BYTES:
                await self._stream.send_all(data)
            else:
                view = memoryview(data)
                for start in range(0, len(data), WRITE_PIECE_BYTES):
                    await self._stream.send_all(view[start : start + WRITE_PIECE_BYTES])
                    self.write_blocked_since = trio.current_time()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise TransportClosed from None
        finally:
            self.write_blocked_since = math.inf
        self._is_torn = False

    def fileno(self) -> int:
        """The socket, where its bytes are the connection's bytes; -1 where they are not."""
        return self._stream.socket.fileno() if isinstance(self._stream, trio.SocketStream) else -1

    @property
    def owes_pongs(self) -> bool:
        """Tell whether `unsent` has something of the transport's own."""
        return False

    def unsent(self, source: Source, max_bytes: int) -> bytes:
        """Return what is to be written next, without waiting: what was left, then what `source` has."""
        return self._rest or source.take(max_bytes)

    def note_sent(self, frames: bytes, sent_bytes: int) -> bool:
        """Keep what the kernel did not take; tell whether it took all."""
        if sent_bytes == len(frames):
            if self._rest:
                self._rest = b""
                self.write_blocked_since = math.inf
            return True
        if sent_bytes or not self._rest:
            self.write_blocked_since = trio.current_time()
        self._rest = frames[sent_bytes:]
        return False

    @property
    def is_blocked(self) -> bool:
        """Tell whether something was left."""
        return bool(self._rest)

    async def _read(self) -> bytes:
        """Return some bytes. Raises: TransportClosed, at the end of the stream as well."""
        try:
            data = await self._stream.receive_some(RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise TransportClosed from None
        if not data:
            raise TransportClosed
        return bytes(data)

    def abort(self) -> None:
        """Drop the connection at once; the kernel's send buffer with it."""
        self._is_torn = True
        abort_stream(self._stream)

    async def _part(self) -> None:
        """Wait until the peer has closed too, so that it can read our last bytes, then free the socket.

        Closing a socket with unread input sends a reset, which may destroy what the peer has not read yet.
        """
        try:
            if isinstance(self._stream, trio.SocketStream):
                await self._stream.send_eof()
            ignored_bytes = 0
            while ignored_bytes < MAX_IGNORED_BYTES:  # ends with the peer's end of stream
                ignored_bytes += len(await self._read())
        except (TransportClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            return


def abort_stream(stream: SocketLikeStream) -> None:
    """Reset the connection and free its socket, synchronously. Tasks that wait on it get
    ClosedResourceError."""
    sock = (stream if isinstance(stream, trio.SocketStream) else stream.transport_stream).socket
    if sock.fileno() != -1:
        # Linger 0: reset, and drop what is in the kernel's buffers, instead of keeping it for minutes.
        with contextlib.suppress(OSError):  # not connected any more
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def free_stream(stream: SocketLikeStream) -> None:
    """Close a connection's socket, synchronously; what was written is still delivered."""
    (stream if isinstance(stream, trio.SocketStream) else stream.transport_stream).socket.close()
