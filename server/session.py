"""One connected device: from hello to the last frame.

Its own task says hello and goodbye. In between a plain socket is served by the node's poller, without a
task (`server/socket_pump.py`); a TLS stream, and any stream where there is no epoll, by this task as the
reader and a second one as the writer.

The edge session knows the language, limits and timing. What commands mean is the business of a
`SessionService`; who somebody is, of an `Authenticate`. It stays on the node where its socket landed.

States: hello expected -> opening (authenticated, the service prepares the welcome) -> open -> closing.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec
import structlog
import trio

from actors.reply import Reply as ReplyPort
from protocol.codec import CommandError, Encoded, Wire, decode_command, encode_frame
from protocol.commands import (
    Command,
    Hello,
)
from protocol.errors import CLOSE_MEANINGS, CloseCode, HubbubError, ProtocolError, Unavailable
from protocol.limits import (
    HEARTBEAT_TIMEOUT_S,
    HELLO_TIMEOUT_S,
    MAX_OUTBOX_BYTES,
    MAX_OUTBOX_FRAMES,
    MAX_UNACKED_BYTES,
    MAX_UNACKED_SENDS,
    PAGE_BYTES,
    WRITE_TIMEOUT_S,
)
from protocol.records import User
from protocol.replies import Error, Sent, Welcome
from server.identity import Identity
from server.metrics import Metrics
from server.outbox import COALESCED_WRITE_BYTES, Outbox
from server.poller import Poller
from server.ratelimit import Rate, TokenBucket
from server.socket_pump import SocketPump
from server.transport import Transport, TransportClosed
from server.weights import CREATING, LONG_ANSWERS, WEIGHED, weight_of

log = structlog.get_logger(__name__)


# -- what the session needs of others ---------------------------------------------------------------------


class Authenticate(Protocol):
    """Find out whom a token stands for. server/log_ins.py fits this."""

    async def __call__(self, token: str) -> Identity:
        """Raises: Refused("unauthenticated"), or Unavailable if that cannot be told now."""
        ...


class SessionService(Protocol):
    """Give commands their meaning. The chat hub fits this.

    For each session: `open` once; then, if it returned, `handle` any number of times; then `closed` once,
    however `open` ended, so `open` needs no clean-up of its own.
    """

    async def open(self, session: "Session", hello: Hello) -> Welcome:
        """Attach the session to what it listens to and return the welcome (its id is filled in here).

        Events pushed meanwhile are kept and follow the welcome. Cancelled when the connection closes or
        10 s have passed. Raises: HubbubError, which is answered; the connection is then closed.
        """
        ...

    def handle(self, session: "Session", command: Command, reply: ReplyPort) -> None:
        """Carry out one command, without blocking; answer through `reply`, now or later, exactly once.

        `reply.resolve` takes a reply Struct without id. Commands of one session come in the order in which
        they were sent. A HubbubError that is raised here is answered as by `reply.fail`. Not called with
        Hello.
        """
        ...

    def closed(self, session: "Session") -> None:
        """Detach the session. Does not block or raise. Answers that come later are thrown away."""
        ...


class Registry(Protocol):
    """Know all sessions of this node. server/gateway.py fits this."""

    def enter(self, session: "Session") -> None:
        """Take in a session that is authenticated; an older one of the same device is closed (4506).

        Raises: Unavailable (draining, too_many_connections).
        """
        ...

    def leave(self, session: "Session") -> None:
        """Forget a session, if it was taken in."""
        ...

    def charge_creation(self, user_id: str, command: Command) -> None:
        """Count what a command creates against its user. Raises: Unavailable(rate_limited)."""
        ...

    def answered(self) -> None:
        """Note that some command was answered: a drain waits for the last one."""
        ...


class SessionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one session may do, and how long it may take."""

    commands: Rate = Rate(200.0, 400.0)
    # Refused commands are cheap but not free: past this many (and 10 more per second) the connection is
    # closed.
    refusals: Rate = Rate(10.0, 500.0)
    hello_timeout_s: float = HELLO_TIMEOUT_S
    open_timeout_s: float = 10.0
    heartbeat_timeout_s: float = HEARTBEAT_TIMEOUT_S
    write_timeout_s: float = WRITE_TIMEOUT_S
    flush_timeout_s: float = 2.0  # how long a closing connection may take to accept what was still queued


MAX_BAD_HELLOS: Final = 5  # a client that cannot say hello in five attempts will not learn it
# How a refused hello closes the connection; anything else that is refused cannot be mended by trying again.
_REFUSED_HELLO: Final = {
    "draining": CloseCode.DRAINING,
    "moved": CloseCode.MOVED,
    "rate_limited": CloseCode.RATE_LIMITED,
}
_FRAMING_CLOSE: Final = {"frame_too_large": CloseCode.FRAME_TOO_LARGE}
_NOBODY: Final = Identity(
    user=User(user_id="", app_id="", username="", username_key="", name="", name_key="", created_at_ms=0),
    app_id="",
    session_id="",
)
_NO_SCOPE: Final = trio.CancelScope()  # before the first phase; cancelling it is harmless


class _CommandReply:
    """The one answer to one command; counted as unanswered until it comes."""

    __slots__ = ("_command_id", "_session", "is_done", "reserved_bytes", "size_bytes")

    def __init__(self, session: "Session", command_id: int, size_bytes: int, reserved_bytes: int) -> None:
        self._session = session
        self._command_id = command_id
        self.size_bytes = size_bytes
        self.reserved_bytes = reserved_bytes
        self.is_done = False

    def resolve(self, value: object) -> None:
        if not self.is_done:
            self.is_done = True
            self._session._answered(self, self._command_id, value)

    def fail(self, error: HubbubError) -> None:
        if not self.is_done:
            self.is_done = True
            self._session._answered(self, self._command_id, error)


class Session:
    """Serve one connection, from `run` to its end.

    For the hub: `push(encoded, stream, seq)` and `push_live(key, encoded, stream)` are the outbox's own (see
    `Outbox`), `close(code)` ends the session, `context` is the service's to use. `identity` and `device_id`
    are set before the service first sees the session.
    """

    __slots__ = (
        "__weakref__",
        "_authenticate",
        "_close_reason",
        "_commands",
        "_hello_id",
        "_is_entered",
        "_is_paused",
        "_limits",
        "_metrics",
        "_outbox",
        "_pending",
        "_poller",
        "_pump",
        "_reader",
        "_refusals",
        "_registry",
        "_reserved_bytes",
        "_scope",
        "_service",
        "_transport",
        "_unanswered_bytes",
        "client",
        "close_code",
        "conn_id",
        "context",
        "device_id",
        "identity",
        "push",
        "push_live",
        "remote_address",
        "unanswered_count",
        "wire",
    )

    def __init__(
        self,
        transport: Transport,
        *,
        conn_id: int,
        remote_address: str,
        authenticate: Authenticate,
        service: SessionService,
        registry: Registry,
        metrics: Metrics,
        limits: SessionLimits,
        poller: Poller | None = None,
    ) -> None:
        """`poller`: serves plain sockets; None: tasks do."""
        self._transport = transport
        self._poller = poller
        self._pump: SocketPump | None = None
        self._authenticate = authenticate
        self._service = service
        self._registry = registry
        self._metrics = metrics
        self._limits = limits
        self._outbox = Outbox(transport.wire, metrics.outbox, self._overflowed)
        self.push: Callable[[Encoded, str, int], bool] = self._outbox.push
        self.push_live = self._outbox.push_live
        self.conn_id = conn_id
        self.remote_address = remote_address
        self.wire: Wire = transport.wire
        self.identity: Identity = _NOBODY
        self.device_id = ""
        self.client = ""
        self.context: object = None
        self.close_code: CloseCode | None = None
        self._close_reason = ""
        self.unanswered_count = 0
        self._unanswered_bytes = 0
        self._reserved_bytes = 0
        now = trio.current_time()
        self._commands = TokenBucket(limits.commands, now)
        self._refusals: TokenBucket | None = None  # made when the first command is refused
        self._scope = _NO_SCOPE
        self._reader: trio.lowlevel.Task | None = None  # the reader task, while it waits for room
        self._is_entered = False  # the registry and the service are to be told when it ends
        self._hello_id = -1  # until hello has come
        self._pending: Sequence[bytes | str] = ()  # read, but there was no room for it yet
        self._is_paused = False

    # -- for the hub, the gateway and the sweeper ---------------------------------------------------------

    @property
    def user_id(self) -> str:
        """Whose session it is; empty before hello."""
        return self.identity.user.user_id

    @property
    def outbox_frame_count(self) -> int:
        """How many frames wait to be written."""
        return self._outbox.frame_count

    @property
    def outbox_bytes(self) -> int:
        """How many bytes wait to be written."""
        return self._outbox.size_bytes

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Close the connection: what is queued is still written, then the code. Does not block; the first
        call counts."""
        if self.close_code is None:
            self.close_code = code
            self._close_reason = reason or CLOSE_MEANINGS[code]
            self._scope.cancel()

    def abort(self, code: CloseCode) -> None:
        """Drop the connection at once, without a word: it does not take any."""
        self.close(code)
        if self._pump is not None:
            self._pump.stop()
        self._transport.abort()

    def pause(self) -> None:
        """Read no more commands. Those that were read are still answered, events still written."""
        self._is_paused = True

    def check(self, now: float, now_ms: int) -> None:
        """Close the session if one of its deadlines has passed. The gateway's sweeper calls it each
        second."""
        limits = self._limits
        if now - self._transport.write_blocked_since >= limits.write_timeout_s:
            log.warning(
                "slow_consumer_dropped",
                conn_id=self.conn_id,
                user_id=self.user_id,
                queue_depth=self._outbox.frame_count,
                size_bytes=self._outbox.size_bytes,
            )
            self.abort(CloseCode.SLOW_CONSUMER)
        elif self.close_code is not None or self.identity is _NOBODY:
            return
        elif (
            # A client is not silent while we do not listen.
            self._is_listening and now - self._transport.heard_at >= limits.heartbeat_timeout_s
        ):
            self.close(CloseCode.HEARTBEAT_TIMEOUT)
        elif 0 < self.identity.expires_at_ms <= now_ms:
            self.close(CloseCode.UNAUTHENTICATED, "The token has expired.")

    # -- the connection's life ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until either side closes the connection. For the connection's own task.

        A bug below ends this connection only: it is logged here, once, and the client is told to come again.
        """
        try:
            await self._serve()
        except Exception:
            log.exception("session_crashed", conn_id=self.conn_id, user_id=self.user_id)
            self.close(CloseCode.INTERNAL)
        except BaseException:
            self._transport.abort()  # cancelled: there is no time for words
            raise
        await self._finish()

    async def _serve(self) -> None:
        is_open = False
        try:
            with self._phase(self._limits.hello_timeout_s) as scope:
                is_open = await self._come_in(scope)
            if scope.cancelled_caught:
                self._come_too_late()
            if is_open:
                await self._converse()
        finally:
            self._leave()

    async def _come_in(self, scope: trio.CancelScope) -> bool:
        """Hear hello, find out who it is, and queue the welcome before everything else.

        Tells whether the session is open. Each step has its time; it is one scope whose deadline moves, as a
        scope for each would be a tenth of what a connect costs.
        """
        try:
            hello = await self._expect_hello()
            if hello is None:
                return False
            self._hello_id = hello.id
            scope.deadline = trio.current_time() + self._limits.open_timeout_s
            self.identity = await self._authenticate(hello.token)
            self.device_id = hello.device_id
            self.client = hello.client
            self._registry.enter(self)
            self._is_entered = True
            scope.deadline = trio.current_time() + self._limits.open_timeout_s
            welcome = await self._service.open(self, hello)
            self._outbox.reply_first(encode_frame(msgspec.structs.replace(welcome, id=hello.id), self.wire))
        except TransportClosed:
            return False
        except HubbubError as exc:
            self._refuse_hello(exc, max(0, self._hello_id))
            return False
        return self.close_code is None

    def _come_too_late(self) -> None:
        """A step took too long, or `close` was called meanwhile."""
        if self._hello_id >= 0:
            self._refuse_hello(Unavailable("timeout"), self._hello_id)
        elif self.close_code is None:
            self._fail(Unavailable("hello_timeout"), 0)
            self.close(CloseCode.HELLO_TIMEOUT)

    def _leave(self) -> None:
        if self._is_entered:
            self._is_entered = False
            self._registry.leave(self)
            self._service.closed(self)

    def _phase(self, timeout_s: float) -> trio.CancelScope:
        """Return the scope of the next part of this life; `close` cuts it short."""
        self._scope = trio.CancelScope(deadline=trio.current_time() + timeout_s)
        if self.close_code is not None:
            self._scope.cancel()
        return self._scope

    async def _expect_hello(self) -> Hello | None:
        """Return the first command if it is hello; else answer, close, and return None."""
        bad_count = 0
        while bad_count < MAX_BAD_HELLOS:  # ends with a hello, a close, or the phase's deadline
            payloads = await self._transport.receive()
            for index, payload in enumerate(payloads, 1):
                try:
                    command = decode_command(payload, self.wire)
                except CommandError as exc:
                    self._fail(exc, exc.command_id)
                    bad_count += 1
                    continue
                if isinstance(command, Hello):
                    self._pending = payloads[index:]  # a client need not wait for the welcome
                    return command
                self._fail(ProtocolError("hello_expected"), command.id)
                self.close(CloseCode.HELLO_EXPECTED)
                return None
            await self._flush()  # the writer is not running yet
        self.close(CloseCode.HELLO_EXPECTED)
        return None

    async def _converse(self) -> None:
        """Carry out commands and write what there is, until one side has had enough."""
        self._metrics.sessions_opened_count += 1
        if self._poller is not None and self._transport.fileno() >= 0:
            await self._converse_by_poller(self._poller)
        else:
            await self._converse_by_tasks()

    async def _converse_by_poller(self, poller: Poller) -> None:
        self._pump = SocketPump(poller, self._transport, self._outbox, self)
        try:
            with self._phase(math.inf):
                await self._pump.run()
        except TransportClosed:
            pass
        except ProtocolError as exc:
            self._break_off(exc)
        finally:
            self._pump = None

    async def _converse_by_tasks(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            try:
                with self._phase(math.inf):
                    await self._read()
            except TransportClosed:
                nursery.cancel_scope.cancel()
            except ProtocolError as exc:
                self._break_off(exc)
            self._leave()
            # Whoever was waiting for an answer that is there already still gets it.
            self._outbox.finish()
            nursery.cancel_scope.deadline = min(
                nursery.cancel_scope.deadline, trio.current_time() + self._limits.flush_timeout_s
            )

    async def _read(self) -> None:
        payloads: Sequence[bytes | str] = ()
        while self.close_code is None:  # ends with TransportClosed, ProtocolError, or by `close`
            if self.take(payloads):
                payloads = await self._transport.receive()
            else:
                payloads = ()
                await self._wait_until_may_read()

    async def _write(self) -> None:
        outbox = self._outbox
        try:
            while True:  # ends when finished and empty, or with TransportClosed
                frames = outbox.take(COALESCED_WRITE_BYTES)
                if frames:
                    await self._transport.send_raw(frames)
                    self._wake_reader()
                elif outbox.is_finished:
                    return
                else:
                    await outbox.wait()
        except TransportClosed:
            self._scope.cancel()

    async def _flush(self) -> None:
        while frames := self._outbox.take(COALESCED_WRITE_BYTES):
            await self._transport.send_raw(frames)

    async def _finish(self) -> None:
        """Write what a connection without a writer still owes, say why it ends, and free the socket."""
        if self.close_code is None:
            await self._transport.close(CloseCode.NORMAL, "")  # the peer's idea, or it has gone
            return
        self._metrics.closes[self.close_code] += 1
        log.debug("connection_closed", conn_id=self.conn_id, user_id=self.user_id, code=int(self.close_code))
        with trio.move_on_after(self._limits.flush_timeout_s), contextlib.suppress(TransportClosed):
            await self._flush()
        await self._transport.close(self.close_code, self._close_reason)

    # -- commands and answers -----------------------------------------------------------------------------

    def take(self, payloads: Sequence[bytes | str]) -> bool:
        """Carry out what was kept and these, in order; keep what there is no room for.

        Return whether more may be read now.
        """
        if self._pending:
            payloads, self._pending = [*self._pending, *payloads], ()
        now = trio.current_time()
        may_read = self._may_read()
        for index, payload in enumerate(payloads):
            if not may_read:
                self._pending = payloads[index:]
                break
            self._take_command(payload, now)
            may_read = self._may_read()
        return may_read

    def wrote(self) -> None:
        """Take note that the outbox has become smaller."""
        self._wake_reader()

    def _take_command(self, payload: bytes | str, now: float) -> None:
        metrics = self._metrics
        try:
            command = decode_command(payload, self.wire)
        except CommandError as exc:
            if self._commands.take(now):
                self._fail(exc, exc.command_id)
            else:
                self._refuse_rate(exc.command_id, now, 1.0)
            return
        kind = type(command)
        weight = min(weight_of(command) if kind in WEIGHED else 1.0, self._limits.commands.burst)
        if not self._commands.take(now, weight):
            self._refuse_rate(command.id, now, weight)
            return
        metrics.commands[kind] += 1
        if kind is Hello:
            self._fail(ProtocolError("hello_repeated"), command.id)
            return
        if kind in CREATING:
            try:
                self._registry.charge_creation(self.user_id, command)
            except Unavailable as exc:
                self._fail(exc, command.id)
                return
        size_bytes = len(payload)
        reserved_bytes = PAGE_BYTES if kind in LONG_ANSWERS else 0
        reply = _CommandReply(self, command.id, size_bytes, reserved_bytes)
        self.unanswered_count += 1
        self._unanswered_bytes += size_bytes
        self._reserved_bytes += reserved_bytes
        try:
            self._service.handle(self, command, reply)
        except HubbubError as exc:
            reply.fail(exc)

    def _answered(self, reply: _CommandReply, command_id: int, value: object) -> None:
        self.unanswered_count -= 1
        self._unanswered_bytes -= reply.size_bytes
        self._reserved_bytes -= reply.reserved_bytes
        if isinstance(value, HubbubError):
            self._fail(value, command_id)
        else:
            self._metrics.ack_count += isinstance(value, Sent)
            if command_id:
                self._succeed(value, command_id)
        self._registry.answered()
        self._wake_reader()

    def _succeed(self, value: object, command_id: int) -> None:
        try:
            answer = msgspec.structs.replace(value, id=command_id)  # type: ignore[type-var]
            self._outbox.reply(encode_frame(answer, self.wire))  # type: ignore[arg-type]
        except (TypeError, ValueError, msgspec.MsgspecError):
            # Not raised into the actor that answered: it is our bug, but not that actor's end.
            log.exception("answer_not_encodable", conn_id=self.conn_id, kind=type(value).__name__)
            self._fail(Unavailable("internal"), command_id)

    def _fail(self, error: HubbubError, command_id: int) -> None:
        self._metrics.errors[error.code] += 1
        answer = Error(
            id=command_id, code=error.code, message=error.message, retry_after_s=error.retry_after_s
        )
        self._outbox.reply(encode_frame(answer, self.wire))

    def _refuse_rate(self, command_id: int, now: float, weight: float) -> None:
        """Refuse a command for its session's rate; close the connection of a client that goes on
        regardless."""
        if self._refusals is None:
            self._refusals = TokenBucket(self._limits.refusals, now)
        if self._refusals.take(now):
            retry_after_s = round(max(0.01, self._commands.retry_after_s(now, weight)), 3)
            self._fail(Unavailable("rate_limited", retry_after_s=retry_after_s), command_id)
        else:
            log.warning("flooder_dropped", conn_id=self.conn_id, user_id=self.user_id)
            self.close(CloseCode.RATE_LIMITED)

    def _refuse_hello(self, error: HubbubError, command_id: int) -> None:
        """Answer a hello that failed, and close with the code that tells the client what to do."""
        if self.close_code is not None:
            return
        self._fail(error, command_id)
        if isinstance(error, ProtocolError):
            self._break_off(error, is_answered=True)
        elif error.code in _REFUSED_HELLO:
            self.close(_REFUSED_HELLO[error.code], error.message)
        elif isinstance(error, Unavailable):
            self.close(CloseCode.OVERLOADED, error.message)
        else:
            self.close(CloseCode.UNAUTHENTICATED, error.message)

    def _break_off(self, error: ProtocolError, *, is_answered: bool = False) -> None:
        """Close a connection whose framing broke: nothing after the break can be read."""
        if not is_answered:
            self._fail(error, 0)
        self.close(_FRAMING_CLOSE.get(error.code, CloseCode.BAD_FRAME), error.message)

    def _overflowed(self) -> None:
        self.close(CloseCode.SLOW_CONSUMER)

    # -- back-pressure on the reader ----------------------------------------------------------------------

    @property
    def _is_listening(self) -> bool:
        if self._pump is not None:
            return self._pump.is_reading
        return self._reader is None

    def _may_read(self) -> bool:
        outbox = self._outbox
        return (
            not self._is_paused
            and self.close_code is None
            and self.unanswered_count < MAX_UNACKED_SENDS
            and self._unanswered_bytes < MAX_UNACKED_BYTES
            and outbox.size_bytes + self._reserved_bytes < MAX_OUTBOX_BYTES
            and outbox.frame_count < MAX_OUTBOX_FRAMES
        )

    async def _wait_until_may_read(self) -> None:
        while not self._may_read():  # each answer and each write wakes it; `close` cancels it
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort_reader_wait)

    def _abort_reader_wait(self, _raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake_reader(self) -> None:
        if self._pump is not None:
            if not self._pump.is_reading and self._may_read():
                self._pump.resume()
        elif self._reader is not None and self._may_read():
            trio.lowlevel.reschedule(self._reader)
            self._reader = None
