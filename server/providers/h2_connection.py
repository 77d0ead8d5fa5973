"""One HTTP/2 connection as a client (RFC 9113): our Trio driver of the sans-io library h2.

Three tasks share the connection: a reader, a writer and a watch. Callers put frames into one buffer, and the
writer sends all that several of them have queued at once, so TLS and system calls are paid once for many.

Who may be tried again is decided here. A request counts as sent from the moment its last frame was taken for
writing; before that it is `NotProcessed`, whatever happens. After it, it is `NotProcessed` only by the peer's
word: a GOAWAY with a lower last-stream-id, or REFUSED_STREAM. All else is `OutcomeUnknown`.
"""

from collections.abc import Callable
from typing import Any, Final

import h2.events
import trio
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from server.providers.exchange import Header, NotProcessed, OutcomeUnknown, Request, RequestFailed, Response
from server.providers.h2_protocol import ClientProtocol
from server.providers.limits import Limits

_READ_BYTES: Final = 65_536
_LAST_STREAM_ID: Final = 2**31 - 1_001  # a few below the end (5.1.1); then another connection takes over
_METHOD_ONLY: Final = ((b":method", b"POST"),)  # all that h2 has to see; the block is in the encoder


class _Stream:
    __slots__ = ("body", "done", "failure", "headers", "is_sent", "rest", "status")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.status = 0
        self.headers: list[Header] = []
        self.body = b""
        self.rest: bytes | None = None  # of the request's body, which waits for the peer's window
        self.is_sent = False
        self.failure: RequestFailed | None = None


class Http2Connection:
    """Send requests over one open byte stream. `open`, then `run` in a nursery; then `request` from any task.

    The pool calls `take` before each request and only while `room` is above zero. `on_change` is called when
    room has appeared, or when there will be none any more.
    """

    protocol: Final = "h2"

    def __init__(
        self,
        stream: trio.abc.Stream,
        authority: str,
        scheme: str,
        limits: Limits,
        on_change: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._limits = limits
        self._on_change = on_change
        self._head = (
            (b":method", b"POST"),
            (b":scheme", scheme.encode()),
            (b":authority", authority.encode()),
        )
        self._h2 = ClientProtocol()
        self._streams: dict[int, _Stream] = {}
        self._blocked: dict[int, _Stream] = {}  # those with a `rest`, oldest first
        self._out = bytearray()
        self._unsent: list[_Stream] = []  # whose last frame lies in _out
        self._writer = trio.lowlevel.ParkingLot()
        self._has_settings = False
        self._is_draining = False
        self._failure = ""
        self._detail = ""
        self._in_flight = 0
        self._last_used_at = self._last_heard_at = trio.current_time()
        self._scope = trio.CancelScope()
        self.opened_at: Final = trio.current_time()
        self._handlers: dict[type[h2.events.Event], Callable[[Any], None]] = {
            h2.events.ResponseReceived: self._on_response,
            h2.events.DataReceived: self._on_data,
            h2.events.StreamEnded: self._on_end,
            h2.events.StreamReset: self._on_reset,
            h2.events.WindowUpdated: self._on_window,
            h2.events.RemoteSettingsChanged: self._on_settings,
            h2.events.ConnectionTerminated: self._on_goaway,
        }

    @property
    def room(self) -> int:
        """How many more requests it takes now."""
        if self._is_draining:
            return 0
        return (
            min(self._limits.max_streams, self._h2.remote_settings.max_concurrent_streams) - self._in_flight
        )

    @property
    def is_usable(self) -> bool:
        """Whether it takes, or will take, requests."""
        return not self._is_draining

    def take(self) -> None:
        """Reserve room for one request."""
        self._in_flight += 1

    def give_back(self) -> None:
        """Free what `take` reserved."""
        self._in_flight -= 1
        self._last_used_at = trio.current_time()
        if self._is_draining and not self._in_flight:
            self._writer.unpark()
        else:
            self._on_change()

    def drain(self) -> None:
        """Take no more requests, and close when the last one is done."""
        if not self._is_draining:
            self._is_draining = True
            self._writer.unpark()
            self._on_change()

    def abort(self, code: str, detail: str = "") -> None:
        """Close at once. What has left is unknown."""
        if not self._failure:
            self._failure, self._detail = code, detail
        self._is_draining = True
        self._scope.cancel()

    async def open(self) -> None:
        """Exchange the first settings: until then nobody knows how many streams the peer allows (APNs: 1).

        Raises: OSError, trio.BrokenResourceError, ProtocolError; the caller closes the stream then.
        """
        self._h2.initiate_connection()
        await self._stream.send_all(self._h2.data_to_send())
        while not self._has_settings:
            data = await self._stream.receive_some(_READ_BYTES)
            if not data:
                raise trio.BrokenResourceError("closed before its settings came")
            for event in self._h2.receive_data(data):
                self._handle(event)
        self._out += self._h2.data_to_send()

    async def run(self) -> None:
        """Read, write and watch until the connection ends. Raises nothing but trio.Cancelled."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
        finally:
            self._end(self._failure or "pool_closed")
            await trio.aclose_forcefully(self._stream)

    async def request(self, request: Request, deadline: float) -> Response:
        """Send and wait for the answer, until `deadline`. `take` came before; the room is given back.

        A cancelled call resets its stream; others are not affected. Raises: NotProcessed, OutcomeUnknown.
        """
        try:
            if self._is_draining:
                raise NotProcessed(self._failure or "goaway", self._detail)
            began_at = trio.current_time()
            stream_id, stream = self._begin(request)
            try:
                with trio.CancelScope(deadline=deadline):
                    await stream.done.wait()
                if not stream.done.is_set():
                    if self._last_heard_at < began_at:
                        self.drain()  # not a slow answer but a silent peer: others had better not join
                    raise OutcomeUnknown("timeout") if stream.is_sent else NotProcessed("no_room", "not sent")
            finally:
                if not stream.done.is_set():
                    self._forget(stream_id, ErrorCodes.CANCEL)
            if stream.failure is not None:
                raise stream.failure
            names = {name.decode("latin-1"): value.decode("latin-1") for name, value in stream.headers}
            return Response(stream.status, names, stream.body, self.opened_at)
        finally:
            self.give_back()

    # What goes out.

    def _begin(self, request: Request) -> tuple[int, _Stream]:
        protocol = self._h2
        stream = _Stream()
        stream_id = protocol.get_next_available_stream_id()
        if stream_id > _LAST_STREAM_ID:
            self.drain()
        protocol.blocks.load(self._head, request.path, request.static, request.headers)
        protocol.send_headers(stream_id, _METHOD_ONLY)
        self._streams[stream_id] = stream
        stream.rest = request.body
        # Not behind those that are blocked: one whose own window stays shut would hold up all others.
        if not self._push(stream_id, stream):
            self._blocked[stream_id] = stream
        self._flush()
        return stream_id, stream

    def _push(self, stream_id: int, stream: _Stream) -> bool:
        """Queue as much of the body as the peer's windows allow (5.2). True: all of it."""
        rest = stream.rest or b""
        while True:
            size = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if len(rest) <= size or not rest:
                self._h2.send_data(stream_id, rest, end_stream=True)
                stream.rest = None
                self._unsent.append(stream)
                return True
            if size <= 0:
                stream.rest = rest
                return False
            self._h2.send_data(stream_id, rest[:size])
            rest = rest[size:]

    def _push_blocked(self) -> None:
        for stream_id in list(self._blocked):
            if self._push(stream_id, self._blocked[stream_id]):
                del self._blocked[stream_id]
            elif self._h2.outbound_flow_control_window <= 0:
                return

    def _flush(self) -> None:
        """Hand what h2 has queued to the writer. Before reading too: h2 empties its buffer at a GOAWAY."""
        if data := self._h2.data_to_send():
            self._out += data
            self._writer.unpark()

    async def _write(self) -> None:
        try:
            while True:
                while not self._out:
                    if self._is_draining and not self._in_flight:
                        self._h2.close_connection()
                        await self._stream.send_all(self._h2.data_to_send())
                        self.abort("goaway")
                        return
                    await self._writer.park()
                data, self._out = self._out, bytearray()
                for stream in self._unsent:
                    stream.is_sent = True
                self._unsent.clear()
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            # The reader may still find answers, or a GOAWAY that tells who was processed.
            self.drain()
            with trio.move_on_after(1.0):
                await trio.sleep_forever()
            self.abort("connection_lost", str(exc))

    # What comes in.

    async def _read(self) -> None:
        try:
            while data := await self._stream.receive_some(_READ_BYTES):
                self._last_heard_at = trio.current_time()
                for event in self._h2.receive_data(data):
                    self._handle(event)
                self._flush()
            self.abort("connection_lost", "closed by the peer")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.abort("connection_lost", str(exc))
        except ProtocolError as exc:
            self.abort("protocol_error", str(exc))

    async def _watch(self) -> None:
        """Ping a silent peer, give up on one that stays silent, and close a connection that nobody uses."""
        limits = self._limits
        while True:
            await trio.sleep(min(limits.ping_after_s, limits.idle_close_s) / 2)
            now = trio.current_time()
            if not self._in_flight and now - self._last_used_at >= limits.idle_close_s:
                self.drain()
            elif now - self._last_heard_at >= limits.ping_after_s:
                self._h2.ping(b"hubbub\0\0")
                self._flush()
                await trio.sleep(limits.ping_timeout_s)
                if self._last_heard_at <= now:
                    self.abort("stalled", f"silent for {trio.current_time() - self._last_heard_at:.1f} s")

    def _handle(self, event: h2.events.Event) -> None:
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def _on_response(self, event: h2.events.ResponseReceived) -> None:
        if stream := self._streams.get(event.stream_id):
            for name, value in event.headers:
                if name == b":status":
                    stream.status = int(value) if value.isdigit() else 0
                else:
                    stream.headers.append((name, value))

    def _on_data(self, event: h2.events.DataReceived) -> None:
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if stream := self._streams.get(event.stream_id):
            stream.body += event.data
            if len(stream.body) > self._limits.max_response_bytes:
                stream.body = stream.body[: self._limits.max_response_bytes]
                self._finish(event.stream_id, stream)
                self._reset(event.stream_id, ErrorCodes.CANCEL)

    def _on_end(self, event: h2.events.StreamEnded) -> None:
        if stream := self._streams.get(event.stream_id):
            self._finish(event.stream_id, stream)
            if stream.rest is not None:  # answered before it had all of the request
                self._reset(event.stream_id, ErrorCodes.NO_ERROR)

    def _on_reset(self, event: h2.events.StreamReset) -> None:
        if stream := self._streams.get(event.stream_id):
            error = event.error_code
            name = error.name if isinstance(error, ErrorCodes) else f"error {error}"
            if error == ErrorCodes.REFUSED_STREAM:
                stream.failure = NotProcessed("refused_stream", name)
            else:
                stream.failure = OutcomeUnknown("stream_reset", name)
            self._finish(event.stream_id, stream)

    def _on_window(self, event: h2.events.WindowUpdated) -> None:
        if self._blocked:
            self._push_blocked()

    def _on_settings(self, event: h2.events.RemoteSettingsChanged) -> None:
        self._has_settings = True
        if self._blocked:
            self._push_blocked()
        self._on_change()

    def _on_goaway(self, event: h2.events.ConnectionTerminated) -> None:
        """Older streams go on; newer ones were not processed (6.8). A second GOAWAY may lower the mark."""
        last_stream_id = event.last_stream_id or 0
        error = event.error_code
        name = error.name if isinstance(error, ErrorCodes) else f"error {error}"
        words = (event.additional_data or b"")[:200].decode("utf-8", "replace")
        self._detail = f"{name} {words}".strip()
        for stream_id in [stream_id for stream_id in self._streams if stream_id > last_stream_id]:
            stream = self._streams[stream_id]
            stream.failure = NotProcessed("goaway", self._detail)
            self._finish(stream_id, stream)
        self.drain()

    def _finish(self, stream_id: int, stream: _Stream) -> None:
        del self._streams[stream_id]
        self._blocked.pop(stream_id, None)
        stream.done.set()

    def _forget(self, stream_id: int, code: ErrorCodes) -> None:
        """Give up on a stream whose caller has left."""
        if self._streams.pop(stream_id, None) is not None:
            self._blocked.pop(stream_id, None)
            self._reset(stream_id, code)

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        try:
            self._h2.reset_stream(stream_id, code)
        except ProtocolError:
            return  # it, or the connection, is closed already
        self._flush()

    def _end(self, code: str) -> None:
        self._is_draining = True
        for stream in self._streams.values():
            error = OutcomeUnknown if stream.is_sent else NotProcessed
            stream.failure = error(code, self._detail)
            stream.done.set()
        self._streams.clear()
        self._blocked.clear()
        self._on_change()
