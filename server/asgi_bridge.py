"""HTTP on connections that we accepted ourselves: Hypercorn's Trio worker, one connection at a time.

Hypercorn wants to own the listening socket. We run its connection handler on a stream whose first bytes were
read already, in our nursery, and add what it lacks: it shields writes from cancellation, so a client that
stops reading is dropped by `check`; HTTP/2 is not spoken (no protocol of ours needs it, and it is one more
way to flood); an upgrade on a kept-alive connection is refused, as it can no longer be handed over.
"""

import logging
from typing import Any, Final

import h11
import msgspec
import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from hypercorn.utils import wrap_app

from protocol.errors import CODES
from protocol.http import ErrorBody
from server.listener import MAX_HEAD_BYTES
from server.transport import WRITE_PIECE_BYTES, SocketLikeStream, abort_stream, free_stream

KEEP_ALIVE_S: Final = 15.0  # between two requests of one connection; also bounds a slow request head
MAX_REQUESTS_PER_CONNECTION: Final = 1000  # then the client opens another one, maybe to a better node
STALL_TIMEOUT_S: Final = 60.0  # a request in which nothing moves, in either direction
MAX_APP_QUEUE: Final = 4  # pieces of a request's body that wait for the application, 64 KiB each

# Where the status of a request that was not understood says more than bad_request.
_REFUSAL_CODES: Final = {426: "wrong_transport", 431: "frame_too_large"}

log = structlog.get_logger(__name__)


class _ReplayedStream:
    """A stream whose first bytes come from memory; it notes when something last moved."""

    def __init__(self, stream: SocketLikeStream, first: bytes) -> None:
        self.stream = stream
        self._first = first
        self.moved_at = trio.current_time()
        self.is_writing = False

    async def receive_some(self, max_bytes: int) -> bytes:
        if self._first:
            first, self._first = self._first[:max_bytes], self._first[max_bytes:]
            await trio.lowlevel.checkpoint()
            return first
        data = await self.stream.receive_some(max_bytes)
        self.moved_at = trio.current_time()
        return bytes(data)

    async def send_all(self, data: bytes) -> None:
        self.is_writing = True
        self.moved_at = trio.current_time()
        try:
            view = memoryview(data)
            for start in range(0, len(data), WRITE_PIECE_BYTES):
                await self.stream.send_all(view[start : start + WRITE_PIECE_BYTES])
                self.moved_at = trio.current_time()
        finally:
            self.is_writing = False

    async def send_eof(self) -> None:
        if isinstance(self.stream, trio.SocketStream):
            await self.stream.send_eof()

    async def aclose(self) -> None:
        free_stream(self.stream)
        await trio.lowlevel.checkpoint()


class _Http1(H11Protocol):
    """HTTP/1.1 only; what the parser refuses is answered as everything else is, with a code."""

    _is_head = False  # the answer to HEAD has no body

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore offers to speak HTTP/2."""

    async def _create_stream(self, request: h11.Request) -> None:
        self._is_head = request.method == b"HEAD"
        for name, value in request.headers:
            if name == b"upgrade" and value.lower() == b"websocket":
                await self._send_error_response(426)
                await self.send(Closed())
                return
        await super()._create_stream(request)

    async def _send_error_response(self, status_code: int) -> None:
        code = _REFUSAL_CODES.get(status_code, "bad_request")
        body = msgspec.json.encode(ErrorBody(code=code, message=CODES[code]))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        has_body = self.connection.our_state is h11.IDLE or not self._is_head
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        if has_body:
            await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class _Connection(TCPServer):
    """One HTTP connection on a stream that was accepted elsewhere."""

    _is_over = False

    async def protocol_send(self, event: Event) -> None:
        """Write, or note that the connection is idle; one that has ended must not be kept alive."""
        if not (self._is_over and isinstance(event, Updated)):
            await super().protocol_send(event)

    async def serve(self, *, is_tls: bool, client: tuple[str, int], server: tuple[str, int]) -> None:
        try:
            async with TaskGroup() as task_group:
                self._task_group = task_group
                self.protocol = _Http1(  # type: ignore[assignment]
                    self.app,
                    self.config,
                    self.context,
                    task_group,
                    ConnectionState(self.state.copy()),
                    is_tls,
                    client,
                    server,
                    self.protocol_send,
                )
                await self.protocol.initiate()
                await self.idle_task.restart(task_group, self._idle_timeout)
                await self._read_data()
                self._is_over = True
                await self.idle_task.stop()
        except OSError:
            pass  # the client has gone
        finally:
            with trio.CancelScope(shield=True):
                await self._close()


class AsgiBridge:
    """Serve an ASGI application on given connections, with its lifespan around them."""

    def __init__(self, app: ASGIFramework, *, write_timeout_s: float) -> None:
        self._app = wrap_app(app, 0, "asgi")
        self._write_timeout_s = write_timeout_s
        self._config = Config()
        self._config.keep_alive_timeout = KEEP_ALIVE_S
        self._config.keep_alive_max_requests = MAX_REQUESTS_PER_CONNECTION
        self._config.h11_max_incomplete_size = MAX_HEAD_BYTES
        self._config.max_app_queue_size = MAX_APP_QUEUE
        self._config.include_server_header = False
        self._config.errorlog = logging.getLogger("hubbub.http")
        self._context = WorkerContext(None)
        self._state: dict[str, Any] = {}
        self._connections: set[_ReplayedStream] = set()
        self._stopped = trio.Event()

    async def run_lifespan(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the application and, after `stop`, end it. Raises: what its start-up raises.

        Shielded: the application gets its shutdown event even if everything around it is cancelled. Its own
        time-outs bound both ends.
        """
        lifespan = Lifespan(self._app, self._config, self._state)
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                await nursery.start(lifespan.handle_lifespan)
                await lifespan.wait_for_startup()
                task_status.started()
                await self._stopped.wait()
                await lifespan.wait_for_shutdown()
                nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Let the application end. Call when no connection is left."""
        self._stopped.set()

    async def serve(self, stream: SocketLikeStream, first: bytes, address: str) -> None:
        """Serve requests until the connection ends. `first` was read already; `address` is the peer's."""
        replayed = _ReplayedStream(stream, first)
        connection = _Connection(
            self._app,
            self._config,
            self._context,
            self._state,
            replayed,  # type: ignore[arg-type]
        )
        is_tls = isinstance(stream, trio.SSLStream)
        sock = (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket
        try:
            here = sock.getsockname()
            peer_port = int(sock.getpeername()[1])
        except OSError:
            abort_stream(stream)
            return
        self._connections.add(replayed)
        try:
            await connection.serve(is_tls=is_tls, client=(address, peer_port), server=(here[0], here[1]))
        finally:
            self._connections.discard(replayed)

    def check(self, now: float) -> None:
        """Drop connections in which nothing moves. The gateway's sweeper calls it each second."""
        for replayed in tuple(self._connections):
            timeout_s = self._write_timeout_s if replayed.is_writing else STALL_TIMEOUT_S
            if now - replayed.moved_at >= timeout_s:
                log.info(
                    "http_connection_dropped", reason="write_blocked" if replayed.is_writing else "stalled"
                )
                abort_stream(replayed.stream)

    async def drain(self) -> None:
        """Close idle connections now, and each other one after the answer that is under way."""
        await self._context.terminated.set()

    def abort(self) -> None:
        """Drop all connections at once: a write that Hypercorn shields ends by nothing else."""
        for replayed in tuple(self._connections):
            abort_stream(replayed.stream)
