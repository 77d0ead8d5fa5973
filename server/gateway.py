"""The node's edge: who may come in, which protocol they speak, all sessions, and the orderly end.

One public port carries the page, HTTP and WebSocket; another one the bot protocol. Tasks: one accept loop for
each port, the lag watch, the sweeper (all deadlines of all sessions, once a second), the poller's two, which
serve all plain sockets after hello, and one for each connection, which greets and parts; over TLS that one
goes on as the session's reader, and a second one is its writer.

Nothing here waits for a client: what is refused is refused at once, what is slow is swept away.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog
import trio
from hypercorn.typing import ASGIFramework

from actors.rounds import Turn
from protocol.codec import Encoded, Wire, encode_frame
from protocol.commands import Command
from protocol.errors import CLOSE_MEANINGS, CloseCode, Unavailable
from protocol.events import Closing, Reconnect
from protocol.limits import HANDSHAKE_TIMEOUT_S
from protocol.types import NodeInfo
from server.asgi_bridge import AsgiBridge
from server.bot_gateway import TcpTransport
from server.lag import LagWatch
from server.listener import (
    HandshakeFailed,
    RequestHead,
    TlsFiles,
    accept_forever,
    http_answer,
    is_origin_allowed,
    open_listener,
    parse_head,
    read_head,
    shake_tls,
)
from server.metrics import Metrics
from server.poller import IS_AVAILABLE, Poller
from server.ratelimit import AddressCounts, AddressRates, Rate, client_address, trusted_networks
from server.session import Authenticate, Session, SessionLimits, SessionService
from server.transport import SocketLikeStream, Transport, TransportClosed, abort_stream, free_stream
from server.websocket import accept_websocket
from server.weights import creation_weight_of

WEBSOCKET_PATH: Final = "/ws"
SWEEP_INTERVAL_S: Final = 1.0  # deadlines of 10 s and 60 s need no finer clock
SWEEP_CHUNK: Final = 1000  # sessions looked at before the loop may do something else: about 1 ms
SHED_RETRY_S: Final = 2.0  # what a client that was turned away is told to wait
ABORT_GRACE_S: Final = 3.0  # between the close codes of a drain and the end

_ComeIn = Callable[[trio.SocketStream, str, "_Counted"], Awaitable[Session | None]]
"""What leads from a new connection to its session; None where it has ended without one."""

_Door = tuple[
    trio.SocketListener, Callable[[trio.SocketStream, str], Awaitable[None]], Callable[[str], bytes]
]
"""A listener, what serves its connections, and what tells those that are turned away why."""

log = structlog.get_logger(__name__)


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen and how much to take. Port 0 is any free one; bot_port None is no bot port."""

    host: str = "127.0.0.1"
    port: int = 8080
    bot_port: int | None = 8081
    tls_cert: str = ""
    tls_key: str = ""
    origins: tuple[str, ...] = ()
    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    unlimited: tuple[str, ...] = ()  # addresses and networks without limits by address
    max_connections: int = 20_000
    max_connections_per_address: int = 500
    max_sessions_per_user: int = 100
    # Half-open handshakes: a flood of them must not take the places of those who finish theirs.
    max_handshakes: int = 1000
    connections: Rate = Rate(20.0, 500.0)
    creations: Rate = Rate(20.0, 500.0)  # of one user, all sessions together
    handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S
    shed_lag_s: float = 0.5
    session: SessionLimits = SessionLimits()


class Gateway:
    """Accept connections and keep their sessions. Open it with `open_gateway`.

    `port` and `bot_port` are the real ones once it is open.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        authenticate: Authenticate,
        service: SessionService,
        app: ASGIFramework,
        metrics: Metrics,
        cluster_origins: Callable[[], Collection[str]] = frozenset,
        turn: Turn | None = None,
    ) -> None:
        """`cluster_origins` tells whose pages may connect too: those of the other nodes.

        `turn`: the node's, at whose end is written what sessions got in it.
        """
        now = trio.current_time()
        self.settings = settings
        self.metrics = metrics
        self.port = settings.port
        self.bot_port = settings.bot_port
        self.is_draining = False
        self.lag = LagWatch(metrics.observe_lag)
        self._turn = turn or Turn()
        self._poller: Poller | None = None  # while `run` runs
        self._authenticate = authenticate
        self._service = service
        self._app = app
        self._bridge = self._new_bridge()
        self._tls = TlsFiles(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        self._origins = frozenset((*settings.origins, *_origin_of(settings.public_url)))
        self._cluster_origins = cluster_origins
        self._is_trusted = trusted_networks(settings.trusted_proxies)
        self._is_unlimited = trusted_networks(settings.unlimited)
        self._address_rates = AddressRates(settings.connections)
        self._creations = AddressRates(settings.creations)  # by user id
        self._address_counts = AddressCounts(settings.max_connections_per_address)
        self._connection_count = 0
        self._handshakes: dict[_Handshake, None] = {}  # the oldest first
        self._next_conn_id = 1
        self._sessions: dict[int, Session] = {}  # all, by conn_id, from before hello to the end
        # Welcomed or about to be; tuples, as most users have one, and a dict for each is 180 bytes more.
        self._by_user: dict[str, tuple[Session, ...]] = {}
        self._waiting = trio.lowlevel.ParkingLot()  # whoever waits for answers or ends of connections
        self._accepting = trio.CancelScope()
        self._opened_at = now
        metrics.add_gauges("edge", "The edge of this node.", self.stats)

    # -- for the hub, accounts and the operator -----------------------------------------------------------

    def sessions(self) -> Iterator[Session]:
        """All sessions that have said hello; safe against changes while iterating."""
        for devices in tuple(self._by_user.values()):
            yield from devices

    def sessions_of(self, user_id: str) -> tuple[Session, ...]:
        """The sessions of one user on this node."""
        return self._by_user.get(user_id, ())

    def reload_tls(self) -> bool:
        """Read the certificate files again, as on SIGHUP; tell whether they could be used."""
        return self._tls is None or self._tls.reload()

    def stats(self) -> dict[str, float]:
        """What is open now; for metrics and the operator's page."""
        sessions = self._sessions.values()
        return {
            "connections": self._connection_count,
            "handshakes": len(self._handshakes),
            "users": len(self._by_user),
            "sessions": sum(len(devices) for devices in self._by_user.values()),
            "outbox_frames": sum(session.outbox_frame_count for session in sessions),
            "outbox_bytes": sum(session.outbox_bytes for session in sessions),
            "outbox_bytes_max": max((session.outbox_bytes for session in sessions), default=0),
            "unanswered_commands": sum(session.unanswered_count for session in sessions),
            "loop_lag_seconds": self.lag.lag_s(trio.current_time()),
            "uptime_seconds": trio.current_time() - self._opened_at,
        }

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return self._connection_count

    # -- what sessions ask (`session.Registry`) -----------------------------------------------------------

    def enter(self, session: Session) -> None:
        """Take in a session that has proved who it is; the same device's older one is closed."""
        if self.is_draining:
            raise Unavailable("draining", retry_after_s=1.0)
        devices = self._by_user.get(session.user_id, ())
        others = tuple([other for other in devices if other.device_id != session.device_id])
        if len(others) >= self.settings.max_sessions_per_user:
            raise Unavailable("too_many_connections", retry_after_s=30.0)
        for older in devices:
            if older.device_id == session.device_id:
                older.close(CloseCode.REPLACED)
        self._by_user[session.user_id] = (*others, session)

    def leave(self, session: Session) -> None:
        """Forget a session, unless a newer one has its place."""
        devices = self._by_user.get(session.user_id, ())
        if session in devices:
            if len(devices) == 1:
                del self._by_user[session.user_id]
            else:
                self._by_user[session.user_id] = tuple([other for other in devices if other is not session])
        self._waiting.unpark_all()

    def charge_creation(self, user_id: str, command: Command) -> None:
        """Count what a command creates against its user, whichever way it came.

        Raises: Unavailable(rate_limited).
        """
        weight = creation_weight_of(command)
        if weight:
            now = trio.current_time()
            if not self._creations.take(user_id, now, weight):
                wait_s = round(max(0.01, self._creations.retry_after_s(user_id, now, weight)), 3)
                raise Unavailable(
                    "rate_limited", "Too many conversations or members at once.", retry_after_s=wait_s
                )

    def answered(self) -> None:
        """Wake a drain that waits for the last answer."""
        if self.is_draining:
            self._waiting.unpark_all()

    # -- life ---------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled; connections that are open then are dropped. See `drain`.

        Raises: OSError where an address cannot be listened on.
        """
        settings = self.settings
        self._accepting = trio.CancelScope()  # these two serve once; a supervisor may run us again
        self._bridge = self._new_bridge()
        async with contextlib.AsyncExitStack() as stack:
            public = await stack.enter_async_context(await open_listener(settings.host, self.port))
            self.port = int(public.socket.getsockname()[1])
            doors: list[_Door] = [(public, self._serve_public, self._refuse_http)]
            if self.bot_port is not None:
                bots = await stack.enter_async_context(await open_listener(settings.host, self.bot_port))
                self.bot_port = int(bots.socket.getsockname()[1])
                doors.append((bots, self._serve_bot, self._refuse_bot))
            async with trio.open_nursery() as nursery:
                await nursery.start(self._bridge.run_lifespan)
                try:
                    nursery.start_soon(self.lag.run)
                    if IS_AVAILABLE:
                        self._poller = Poller(self._turn)
                        nursery.start_soon(self._poller.run)
                    nursery.start_soon(self._sweep)
                    async with trio.open_nursery() as connections:
                        try:
                            await self._accept(doors, connections, task_status)
                            await trio.sleep_forever()  # connections go on; our parent ends this
                        finally:
                            # Before the nursery waits: Hypercorn shields its writes from cancellation.
                            for session in tuple(self._sessions.values()):
                                session.abort(CloseCode.GOING_AWAY)
                            self._bridge.abort()
                finally:
                    self._bridge.stop()

    def _new_bridge(self) -> AsgiBridge:
        return AsgiBridge(self._app, write_timeout_s=self.settings.session.write_timeout_s)

    async def _accept(
        self, doors: Sequence[_Door], connections: trio.Nursery, task_status: trio.TaskStatus[None]
    ) -> None:
        """Accept at all doors until a drain begins."""
        with self._accepting:
            async with trio.open_nursery() as acceptors:
                for listener, serve, refuse in doors:
                    admit = partial(self._admit, refuse)
                    acceptors.start_soon(accept_forever, listener, connections, admit, serve, self.metrics)
                task_status.started()
        for listener, _serve, _refuse in doors:
            listener.socket.close()  # the kernel refuses newcomers from here on

    async def drain(
        self,
        *,
        within_s: float = 5.0,
        nodes: Sequence[NodeInfo] = (),
        grace_s: float = 0.0,
        deadline_s: float = 10.0,
    ) -> None:
        """Let everybody go: no new connections, clients told to reconnect, work in flight finished.

        Clients get `reconnect` and may leave by themselves for `grace_s`; then no command is read any more,
        those that were read are answered, what is queued is written, and connections are closed with 4000.
        Returns when all have gone, at the latest after `deadline_s` and 6 s; after 3 s the rest is dropped.
        """
        if self.is_draining:
            return
        self.is_draining = True
        log.info("drain_started", session_count=len(self._sessions), connection_count=self._connection_count)
        started_at = trio.current_time()
        self._accepting.cancel()
        await self._bridge.drain()
        hint = Encoded(Reconnect(within_s=within_s, nodes=list(nodes), reason="draining"))
        for session in self.sessions():
            session.push_live("reconnect", hint)
        with trio.move_on_after(deadline_s):
            with trio.move_on_after(grace_s):
                await self._until(lambda: not self._by_user)
            for session in self.sessions():
                session.pause()
            await self._until(lambda: all(not session.unanswered_count for session in self.sessions()))
        unanswered_count = sum(session.unanswered_count for session in self.sessions())
        for session in tuple(self._sessions.values()):
            session.close(CloseCode.DRAINING)
        with trio.move_on_after(ABORT_GRACE_S):
            await self.until_empty()
        dropped_count = self._connection_count
        if dropped_count:
            for session in tuple(self._sessions.values()):
                session.abort(CloseCode.DRAINING)
            self._bridge.abort()
            with trio.move_on_after(ABORT_GRACE_S):  # an application may still be busy with a request
                await self.until_empty()
        log.info(
            "drain_ended",
            dropped_count=dropped_count,
            unanswered_count=unanswered_count,
            duration_ms=round((trio.current_time() - started_at) * 1000),
        )

    async def until_empty(self) -> None:
        """Return when no connection is open."""
        await self._until(lambda: not self._connection_count)

    async def _until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():  # each answer and each end of a connection wakes it; the caller's scope ends it
            await self._waiting.park()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_INTERVAL_S)
            now, now_ms = trio.current_time(), time.time_ns() // 1_000_000
            self._bridge.check(now)
            for handshake in tuple(self._handshakes):
                if handshake.deadline > now:
                    break  # the others began later
                handshake.cut_off()
            for index, session in enumerate(tuple(self._sessions.values()), 1):
                session.check(now, now_ms)
                if index % SWEEP_CHUNK == 0:
                    await trio.lowlevel.checkpoint()

    # -- who may come in ----------------------------------------------------------------------------------

    def _admit(self, refuse: Callable[[str], bytes], peer: str) -> bytes | None:
        """Return None to let a new connection in, else its last answer."""
        reason = self._reason_to_shed(peer)
        if reason is None:
            return None
        self.metrics.shed[reason] += 1
        return refuse(reason)

    def _reason_to_shed(self, peer: str) -> str | None:
        now = trio.current_time()
        if self.is_draining:
            return "draining"
        if self._connection_count >= self.settings.max_connections:
            return "max_connections"
        if len(self._handshakes) >= self.settings.max_handshakes:
            return "max_handshakes"
        if self.lag.lag_s(now) > self.settings.shed_lag_s:
            return "loop_lag"
        if self._is_trusted(peer):
            return None  # whom it speaks for is known when the head is read
        return self._reason_to_shed_address(peer, now)

    def _reason_to_shed_address(self, address: str, now: float) -> str | None:
        if self._is_unlimited(address):
            self._address_counts.enter(address, is_limited=False)
            return None
        if not self._address_rates.take(address, now):
            return "address_rate"
        if not self._address_counts.enter(address):
            return "address_connections"
        return None

    def _refuse_http(self, reason: str) -> bytes:
        if self._tls is not None:
            return b""  # nothing can be said before a TLS handshake
        return _http_refusal(reason)

    def _refuse_bot(self, reason: str) -> bytes:
        if self._tls is not None:
            return b""
        code = CloseCode.DRAINING if reason == "draining" else CloseCode.OVERLOADED
        return encode_frame(Closing(code=code, reason=CLOSE_MEANINGS[code]), Wire.MSGPACK_TCP)

    # -- connections --------------------------------------------------------------------------------------

    async def _serve_public(self, stream: trio.SocketStream, peer: str) -> None:
        await self._serve(self._come_in, stream, peer)

    async def _serve_bot(self, stream: trio.SocketStream, peer: str) -> None:
        await self._serve(self._come_in_as_bot, stream, peer)

    async def _serve(self, come_in: _ComeIn, stream: trio.SocketStream, peer: str) -> None:
        """Count a connection while it lasts; free its socket and swallow nothing but its own failures."""
        counted = _Counted(peer, is_address_counted=not self._is_trusted(peer))
        self._connection_count += 1
        try:
            # Not in one frame with what it takes to come in: this one is kept as long as the connection.
            session = await come_in(stream, peer, counted)
            if session is not None:
                try:
                    await session.run()
                finally:
                    del self._sessions[session.conn_id]
        except Exception:
            # A bug of ours ends this connection, not the node. Sessions have their own report.
            log.exception("connection_crashed", kind=counted.kind)
        finally:
            self._connection_count -= 1
            if counted.kind:
                self._count_open(counted.kind, -1)
            if counted.is_address_counted:
                self._address_counts.leave(counted.address)
            if stream.socket.fileno() != -1:
                free_stream(stream)
            self._waiting.unpark_all()

    async def _come_in(self, stream: trio.SocketStream, peer: str, counted: "_Counted") -> Session | None:
        """Make the session of a WebSocket; serve HTTP here, to its end."""
        arrived = await self._shake_hands(stream, peer, counted)
        if arrived is None:
            return None
        if not isinstance(arrived, _HttpArrival):
            return self._new_session(arrived, "websocket", counted)
        counted.kind = "http"
        self._count_open("http", 1)
        # The peer, not the client behind a proxy: its next request may come for somebody else.
        await self._bridge.serve(arrived.stream, arrived.first, peer)
        return None

    async def _come_in_as_bot(
        self, socket_stream: trio.SocketStream, _peer: str, counted: "_Counted"
    ) -> Session | None:
        stream: SocketLikeStream = socket_stream
        if self._tls is not None:
            with self._handshake(socket_stream) as handshake:
                try:
                    stream = await shake_tls(socket_stream, self._tls.context)
                except HandshakeFailed as exc:
                    self._count_failure(handshake, exc.reason)
                    return None
        return self._new_session(TcpTransport(stream), "tcp", counted)

    def _new_session(self, transport: Transport, kind: str, counted: "_Counted") -> Session:
        counted.kind = kind
        self._count_open(kind, 1)
        conn_id = self._next_conn_id
        self._next_conn_id += 1
        session = self._sessions[conn_id] = Session(
            transport,
            conn_id=conn_id,
            remote_address=counted.address,
            authenticate=self._authenticate,
            service=self._service,
            registry=self,
            metrics=self.metrics,
            limits=self.settings.session,
            poller=self._poller,
        )
        if self.is_draining:
            session.close(CloseCode.DRAINING)
        return session

    def _count_open(self, kind: str, change: int) -> None:
        self.metrics.open_connections[kind] += change
        if change > 0:
            self.metrics.accepted[kind] += 1

    async def _shake_hands(
        self, socket_stream: trio.SocketStream, peer: str, counted: "_Counted"
    ) -> "_HttpArrival | Transport | None":
        """Find out what a new connection wants, within 10 s; None where it wants nothing that we have."""
        stream: SocketLikeStream = socket_stream
        with self._handshake(socket_stream) as handshake:
            try:
                if self._tls is not None:
                    stream = await shake_tls(socket_stream, self._tls.context)
                head, rest = await read_head(stream)
                return await self._route(stream, head, rest, peer, counted)
            except HandshakeFailed as exc:
                self._count_failure(handshake, exc.reason)
                if exc.answer:
                    await _say_last(stream, exc.answer)
            except TransportClosed:
                self._count_failure(handshake, "reset")
        return None

    def _handshake(self, stream: trio.SocketStream) -> "_Handshake":
        deadline = trio.current_time() + self.settings.handshake_timeout_s
        return _Handshake(stream, deadline, self._handshakes)

    def _count_failure(self, handshake: "_Handshake", reason: str) -> None:
        self.metrics.handshake_failures["timeout" if handshake.is_late else reason] += 1

    async def _route(
        self, stream: SocketLikeStream, raw_head: bytes, rest: bytes, peer: str, counted: "_Counted"
    ) -> "_HttpArrival | Transport":
        head = parse_head(raw_head)
        if head.path != WEBSOCKET_PATH:
            if head.wants_websocket:
                raise HandshakeFailed("wrong_path", http_answer(404, "not_found"))
            return _HttpArrival(stream, raw_head + rest)
        if head.method != "GET" or not head.wants_websocket:
            answer = http_answer(426, "wrong_transport", headers="upgrade: websocket\r\n")
            raise HandshakeFailed("no_upgrade", answer)
        if not (is_origin_allowed(head, self._origins) or is_origin_allowed(head, self._cluster_origins())):
            log.info("origin_refused", origin=head.headers["origin"][:200])
            raise HandshakeFailed("origin_refused", http_answer(403, "origin_refused"))
        if not counted.is_address_counted:
            # A WebSocket is one client's; a proxy's HTTP connection is many, told apart by each request.
            self._count_behind_proxy(head, peer, counted)
        return await accept_websocket(stream, head, rest)

    def _count_behind_proxy(self, head: RequestHead, peer: str, counted: "_Counted") -> None:
        address = client_address(peer, head.headers.get("x-forwarded-for", ""), self._is_trusted)
        counted.address = address
        if self._is_trusted(address):
            return  # the proxy speaks for itself, as for a health check
        reason = self._reason_to_shed_address(address, trio.current_time())
        if reason is not None:
            self.metrics.shed[reason] += 1
            raise HandshakeFailed(reason, _http_refusal(reason))
        counted.is_address_counted = True


class _Counted:
    """What has to be counted back when a connection ends."""

    __slots__ = ("address", "is_address_counted", "kind")

    def __init__(self, address: str, *, is_address_counted: bool) -> None:
        self.address = address
        self.is_address_counted = is_address_counted
        self.kind = ""


class _Handshake:
    """A connection that has not come to its request yet, in `open_ones` as long as this context is open.

    The sweeper cuts off those that are late: a cancel scope for each would be a tenth of a connect.
    """

    __slots__ = ("_open_ones", "_stream", "deadline", "is_late")

    def __init__(
        self, stream: trio.SocketStream, deadline: float, open_ones: "dict[_Handshake, None]"
    ) -> None:
        self._stream = stream
        self._open_ones = open_ones
        self.deadline = deadline
        self.is_late = False

    def __enter__(self) -> "_Handshake":
        self._open_ones[self] = None
        return self

    def __exit__(self, *_: object) -> None:
        del self._open_ones[self]

    def cut_off(self) -> None:
        """Reset the connection: whoever waits on it is told that it is closed."""
        self.is_late = True
        abort_stream(self._stream)


class _HttpArrival(msgspec.Struct, frozen=True):
    """A connection whose first request is for the HTTP side."""

    stream: SocketLikeStream
    first: bytes


async def _say_last(stream: SocketLikeStream, answer: bytes) -> None:
    """Write an answer to a peer whose request is not read further, and let it read that."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError), trio.move_on_after(1.0):
        await stream.send_all(answer)
        if isinstance(stream, trio.SocketStream):
            await stream.send_eof()
        ignored_bytes = 0
        while ignored_bytes < 1024 * 1024:  # ends with the peer's end of stream, or after 1 s
            data = await stream.receive_some(16 * 1024)
            if not data:
                break
            ignored_bytes += len(data)


def _http_refusal(reason: str) -> bytes:
    if reason in ("address_rate", "address_connections"):
        return http_answer(429, "too_many_connections", retry_after_s=SHED_RETRY_S)
    if reason == "draining":
        return http_answer(503, "draining", retry_after_s=SHED_RETRY_S)
    return http_answer(503, "overloaded", retry_after_s=SHED_RETRY_S)


def _origin_of(url: str) -> tuple[str, ...]:
    if not url:
        return ()
    parts = urlsplit(url)
    return (f"{parts.scheme}://{parts.netloc}",)


@contextlib.asynccontextmanager
async def open_gateway(
    settings: GatewaySettings,
    *,
    authenticate: Authenticate,
    service: SessionService,
    app: ASGIFramework,
    metrics: Metrics,
    cluster_origins: Callable[[], Collection[str]] = frozenset,
) -> AsyncIterator[Gateway]:
    """Listen and serve while the context is open; connections that are open at its end are dropped."""
    gateway = Gateway(
        settings,
        authenticate=authenticate,
        service=service,
        app=app,
        metrics=metrics,
        cluster_origins=cluster_origins,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.run)
        try:
            yield gateway
        finally:
            nursery.cancel_scope.cancel()
