"""An HTTP/2 server connection over Trio: h2 (sans-io) does the protocol, this file moves the bytes.

Small on purpose: whole requests in, whole answers out, one write for all that one read asked for. Validation
of headers is off, as the services check what concerns them, and a fake must not be the bottleneck.
"""

import contextlib
import math
from typing import Final

import h2.errors
import h2.exceptions
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection as Protocol
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from server.sandbox.exchange import Answer, Answerer, Line, make_request

MAX_STREAMS: Final = 1_000  # Apple allows about as many once a connection has proved itself
MAX_BODY_BYTES: Final = 1024 * 1024  # of a request; the services refuse much smaller ones by their own words
MAX_HEADER_BYTES: Final = 64 * 1024
_READ_BYTES: Final = 64 * 1024
_WINDOW_BYTES: Final = 4 * 1024 * 1024  # of the connection; given back in halves
_GRACE_S: Final = 1.0  # for the peer to close by itself after GOAWAY, so that no answer is lost to a reset


class ConnectionReset(Exception):
    """The driver is to reset the TCP connection."""


class _Stream:
    """One exchange that is not over."""

    __slots__ = ("body", "has_end", "headers", "hold", "rest")

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.headers = headers
        self.body = bytearray()
        self.has_end = False
        self.hold: trio.CancelScope | None = None  # of the wait for a release
        self.rest: bytes | None = None  # of the answer: what waits for the peer's window


class H2Connection:
    """Serve one connection until it ends. `stream` belongs to the caller, who closes it."""

    def __init__(self, stream: trio.abc.Stream, line: Line, answerer: Answerer) -> None:
        self._stream = stream
        self._line = line
        self._answerer = answerer
        self._protocol = Protocol(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        # In force from the first byte on: `update_settings` would wait for the peer's acknowledgement.
        self._protocol.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
            },
        )
        self._streams: dict[int, _Stream] = {}
        self._send_lock = trio.Lock()
        self._unacked_bytes = 0
        self._last_stream_id = 0  # the newest whose request is whole
        self._final_stream_id = math.inf  # after GOAWAY: newer ones are not processed
        self._goaway = b""  # the frame, once there is one
        self._is_goaway_sent = False
        self._is_reset = False
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Serve. Raises: ConnectionReset, where a fault or the peer's breach of HTTP/2 wants that."""
        self._protocol.initiate_connection()
        self._protocol.increment_flow_control_window(_WINDOW_BYTES - 65_535)
        with self._scope:
            async with trio.open_nursery() as nursery:
                # Inside the nursery, which would make a group of what is raised.
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._flush()
                    while data := await self._stream.receive_some(_READ_BYTES):
                        await self._take(bytes(data), nursery)
                nursery.cancel_scope.cancel()
        if self._is_reset:
            raise ConnectionReset

    async def _take(self, data: bytes, nursery: trio.Nursery) -> None:
        try:
            for event in self._protocol.receive_data(data):
                self._on_event(event, nursery)
        except h2.exceptions.ProtocolError:
            await self._flush()  # h2 has put a GOAWAY there that says what was wrong
            raise trio.BrokenResourceError from None
        if self._unacked_bytes > _WINDOW_BYTES // 2:
            self._protocol.increment_flow_control_window(self._unacked_bytes)
            self._unacked_bytes = 0
        await self._flush()

    def _on_event(self, event: Event, nursery: trio.Nursery) -> None:
        if isinstance(event, RequestReceived):
            if event.stream_id <= self._final_stream_id:
                self._streams[event.stream_id] = _Stream(event.headers)
        elif isinstance(event, DataReceived):
            self._unacked_bytes += event.flow_controlled_length
            self._on_data(event)
        elif isinstance(event, StreamEnded):
            if event.stream_id in self._streams:
                self._on_request(event.stream_id, nursery)
        elif isinstance(event, WindowUpdated):
            for stream_id in [event.stream_id] if event.stream_id else list(self._streams):
                self._send_rest(stream_id)
        elif isinstance(event, StreamReset):
            self._drop(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            self._scope.cancel()

    def _on_data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        stream.body += event.data
        if len(stream.body) > MAX_BODY_BYTES:
            self._reset_stream(event.stream_id, h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
        elif event.stream_ended is None and event.flow_controlled_length:
            self._protocol.increment_flow_control_window(event.flow_controlled_length, event.stream_id)

    def _on_request(self, stream_id: int, nursery: trio.Nursery) -> None:
        stream = self._streams[stream_id]
        stream.has_end = True
        method = target = ""
        pairs = []
        for name, value in stream.headers:
            if name == b":method":
                method = value.decode("latin-1")
            elif name == b":path":
                target = value.decode("latin-1")
            elif name == b":authority":
                pairs.append((b"host", value))
            elif not name.startswith(b":"):
                pairs.append((name, value))
        answer = self._answerer(make_request(self._line, method, target, pairs, bytes(stream.body)))
        if answer.delay_s > 0 or answer.hold is not None:
            stream.hold = trio.CancelScope()
            nursery.start_soon(self._give_later, stream_id, answer, stream.hold)
        else:
            self._give(stream_id, answer)

    async def _give_later(self, stream_id: int, answer: Answer, scope: trio.CancelScope) -> None:
        await trio.sleep(answer.delay_s)
        if answer.hold is not None:
            with scope:
                await answer.hold.wait()
            if scope.cancelled_caught:
                return
        self._give(stream_id, answer)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the reader ends it
            await self._flush()

    def _give(self, stream_id: int, answer: Answer) -> None:
        """Hand an answer to h2, or do what its fate says. The caller flushes."""
        if answer.fate == "stall":
            return
        if answer.fate == "reset":
            self._is_reset = True
            self._scope.cancel()
            return
        if stream_id not in self._streams:
            return  # the peer gave it up
        if answer.fate == "rst_stream":
            self._reset_stream(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            return
        if answer.fate == "goaway":
            self._go_away(stream_id, is_processed=answer.status > 0)
            if not answer.status:
                return
        self._last_stream_id = max(self._last_stream_id, stream_id)
        headers = [(":status", str(answer.status)), *answer.headers]
        if answer.body:
            self._protocol.send_headers(stream_id, headers)
            self._streams[stream_id].rest = answer.body
            self._send_rest(stream_id)
        else:
            self._protocol.send_headers(stream_id, headers, end_stream=True)
            del self._streams[stream_id]

    def _send_rest(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.rest is None:
            return
        while stream.rest:
            room = min(
                self._protocol.local_flow_control_window(stream_id), self._protocol.max_outbound_frame_size
            )
            if room <= 0:
                return
            piece, stream.rest = stream.rest[:room], stream.rest[room:]
            self._protocol.send_data(stream_id, piece, end_stream=not stream.rest)
        del self._streams[stream_id]

    def _drop(self, stream_id: int) -> None:
        """Forget an exchange that nobody waits for any more, and what is held of it."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None and stream.hold is not None:
            stream.hold.cancel()

    def _reset_stream(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        del self._streams[stream_id]
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self._protocol.reset_stream(stream_id, code)

    def _go_away(self, stream_id: int, *, is_processed: bool) -> None:
        """Take no newer streams than this one (or than those before it); what is older will be answered.

        h2's own `close_connection` refuses to answer anything afterwards, so the frame is made here.
        """
        last = stream_id if is_processed else stream_id - 2
        if last >= self._final_stream_id:
            return
        self._final_stream_id = max(last, 0)
        for newer in [one for one in self._streams if one > self._final_stream_id]:
            self._drop(newer)
        frame = GoAwayFrame(0)
        frame.last_stream_id = int(self._final_stream_id)
        self._goaway = frame.serialize()

    async def _flush(self) -> None:
        async with self._send_lock:
            data = self._protocol.data_to_send()
            if self._goaway and not self._is_goaway_sent:
                data, self._is_goaway_sent = data + self._goaway, True
            if data:
                await self._stream.send_all(data)
        if self._goaway and not self._streams:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + _GRACE_S)
