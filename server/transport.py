"""One connection as a session sees it, whatever carries it: payloads come in, finished frames go out."""

from collections.abc import Sequence
from typing import Protocol

from protocol.codec import Wire


class TransportClosed(Exception):
    """The connection is gone, or was aborted. `code` is what the peer said when it closed, 0 if it said
    nothing."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(code)
        self.code = code


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

    async def receive(self) -> Sequence[bytes | str]:
        """Return at least one payload, in order.

        Raises: TransportClosed; ProtocolError with bad_frame, not_utf8 or frame_too_large where framing
        broke: nothing can be received after that.
        """
        ...

    async def send_raw(self, frames: bytes) -> None:
        """Write finished frames. Raises: TransportClosed."""
        ...

    def abort(self) -> None:
        """Drop the connection at once, with whatever was not sent. Whoever waits on it gets
        TransportClosed."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Say why, give the peer a moment to read it, and free the socket. Call once, when nobody reads or
        writes any more. Returns within 2 s, and never raises but Cancelled."""
        ...
