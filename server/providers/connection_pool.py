"""A few connections to one origin, opened when they are needed, shared by all who send there.

What TLS agrees on decides: HTTP/2 carries many requests on each of few connections, HTTP/1.1 one on each of
more. Callers wait here, in order, for room; a connection that went bad is left out and replaced. After a
failed connect the pool says no for a while instead of trying for each request.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

import structlog
import trio
from h2.exceptions import ProtocolError

from server.providers.dialing import Dialed, Origin
from server.providers.exchange import NotProcessed, Request, Response
from server.providers.h2_connection import Http2Connection
from server.providers.http1_connection import Http1Connection
from server.providers.limits import Limits
from server.providers.reach import AddressRefused

log = structlog.get_logger(__name__)


class Connection(Protocol):
    """What the pool needs of either kind."""

    @property
    def protocol(self) -> Literal["h2", "http/1.1"]: ...
    @property
    def room(self) -> int: ...
    @property
    def is_usable(self) -> bool: ...
    @property
    def opened_at(self) -> float: ...
    def take(self) -> None: ...
    def give_back(self) -> None: ...
    def drain(self) -> None: ...
    def abort(self, code: str, detail: str = "") -> None: ...
    async def open(self) -> None: ...
    async def run(self) -> None: ...
    async def request(self, request: Request, deadline: float) -> Response: ...


class _Waiter:
    __slots__ = ("connection", "failure", "woken")

    def __init__(self) -> None:
        self.woken = trio.Event()
        self.connection: Connection | None = None
        self.failure: NotProcessed | None = None


def backoff_s(failure_count: int, limits: Limits) -> float:
    """Tell how long no connect is tried after so many failed ones in a row. Doubles; without jitter."""
    return float(min(limits.max_backoff_s, limits.first_backoff_s * 2 ** min(failure_count - 1, 16)))


class ConnectionPool:
    """Send requests to one origin. Safe from several tasks; all methods but `request` return at once."""

    def __init__(
        self,
        origin: Origin,
        dial: Callable[[], Awaitable[Dialed]],
        nursery: trio.Nursery,
        limits: Limits,
    ) -> None:
        self.origin = origin
        self._dial = dial
        self._nursery = nursery
        self._limits = limits
        self._connections: list[Connection] = []
        self._waiters: dict[_Waiter, None] = {}  # in order of arrival
        self._connecting_count = 0
        self._failure_count = 0
        self._not_before = 0.0  # trio time of the next connect
        self._last_failure = ""
        self._speaks_http1 = False
        self._request_count = 0  # under way, or waiting for room
        self._is_closed = False

    @property
    def connection_count(self) -> int:
        """Connections that take requests."""
        return len(self._connections)

    @property
    def is_used(self) -> bool:
        """Whether somebody waits for an answer, or for a connection."""
        return self._request_count > 0

    async def request(self, request: Request, timeout_s: float | None = None) -> Response:
        """Send one request and wait for its answer. Raises: NotProcessed, OutcomeUnknown."""
        deadline = trio.current_time() + (timeout_s or self._limits.request_timeout_s)
        self._request_count += 1
        try:
            connection = self._with_room() if not self._waiters else None
            if connection is None:
                connection = await self._wait_for_room(deadline)
            else:
                connection.take()
            return await connection.request(request, deadline)
        finally:
            self._request_count -= 1

    def leave(self, response: Response) -> None:
        """Leave the connection that gave this answer, and older ones; they end with their last answer.

        Its successor stays, so many bad answers of one connection do not take that one too.
        """
        for connection in tuple(self._connections):
            if connection.opened_at <= response.opened_at:
                connection.drain()
        self._on_change()

    def hold(self, seconds: float) -> None:
        """Open no connection for so long; requests that would need one are `NotProcessed`."""
        self._not_before = max(self._not_before, trio.current_time() + seconds)
        self._last_failure = self._last_failure or "held"

    def close(self) -> None:
        """Close all connections at once; what has left is unknown."""
        self._is_closed = True
        for connection in list(self._connections):
            connection.abort("pool_closed")
        self._connections.clear()
        self._fail_waiters("pool_closed", "", None)

    def _with_room(self) -> Connection | None:
        for connection in tuple(self._connections):  # a copy: one that is found dead leaves the list
            if connection.room > 0:
                return connection
        return None

    async def _wait_for_room(self, deadline: float) -> Connection:
        if len(self._waiters) >= self._limits.max_waiting:
            raise NotProcessed("queue_full")
        waiter = _Waiter()
        self._waiters[waiter] = None
        self._grow()
        try:
            with trio.CancelScope(deadline=deadline):
                await waiter.woken.wait()
        except trio.Cancelled:
            if waiter.connection is not None:
                waiter.connection.give_back()
            raise
        finally:
            self._waiters.pop(waiter, None)
        if waiter.failure is not None:
            raise waiter.failure
        if waiter.connection is None:
            raise NotProcessed("no_room", "no connection had room in time")
        return waiter.connection

    def _on_change(self) -> None:
        """Room has appeared, or a connection has gone."""
        # A new list: it may be walked over right now.
        self._connections = [connection for connection in self._connections if connection.is_usable]
        while self._waiters and (connection := self._with_room()) is not None:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            connection.take()
            waiter.connection = connection
            waiter.woken.set()
        if self._waiters:
            self._grow()

    def _grow(self) -> None:
        """Open the connections that waiters need and limits allow, or tell them that it is no use."""
        limits = self._limits
        if self._is_closed:
            self._fail_waiters("pool_closed", "", None)
            return
        wait_s = self._not_before - trio.current_time()
        if wait_s > 0:
            if not self._connections and not self._connecting_count:
                self._fail_waiters("backing_off", self._last_failure, wait_s)
            return
        most = limits.max_http1_connections if self._speaks_http1 else limits.max_connections
        each = 1 if self._speaks_http1 else limits.max_streams
        while (
            len(self._waiters) > self._connecting_count * each
            and len(self._connections) + self._connecting_count < most
        ):
            self._connecting_count += 1
            self._nursery.start_soon(self._connect)

    async def _connect(self) -> None:
        try:
            with trio.fail_after(self._limits.connect_timeout_s):
                connection = await self._open()
        except AddressRefused as exc:
            self._connect_failed("address_refused", str(exc))
        except trio.TooSlowError:
            self._connect_failed("connect_failed", "timeout")
        except (OSError, ProtocolError, trio.BrokenResourceError) as exc:  # ssl.SSLError is an OSError
            cause = exc.__cause__ if isinstance(exc, trio.BrokenResourceError) and exc.__cause__ else exc
            self._connect_failed("connect_failed", str(cause) or type(cause).__name__)
        else:
            self._failure_count = 0
            self._last_failure = ""
            self._speaks_http1 = connection.protocol == "http/1.1"
            if self._is_closed:
                connection.abort("pool_closed")
            else:
                self._connections.append(connection)
            self._nursery.start_soon(connection.run)  # it closes what is aborted, too
        finally:
            self._connecting_count -= 1
        self._on_change()

    async def _open(self) -> Connection:
        dialed = await self._dial()
        connection: Connection
        authority = self.origin.authority
        if dialed.protocol == "h2":
            connection = Http2Connection(
                dialed.stream, authority, self.origin.scheme, self._limits, self._on_change
            )
        else:
            connection = Http1Connection(dialed.stream, authority, dialed.fd, self._limits, self._on_change)
        try:
            await connection.open()
        except BaseException:
            await trio.aclose_forcefully(dialed.stream)
            raise
        return connection

    def _connect_failed(self, code: str, detail: str) -> None:
        self._failure_count += 1
        wait_s = backoff_s(self._failure_count, self._limits) * random.uniform(0.5, 1.0)
        self._not_before = max(self._not_before, trio.current_time() + wait_s)
        self._last_failure = detail
        log.warning(
            "push_connect_failed",
            origin=str(self.origin),
            code=code,
            detail=detail,
            attempt=self._failure_count,
        )
        if not self._connections:
            self._fail_waiters(code, detail, None if code == "address_refused" else wait_s)

    def _fail_waiters(self, code: str, detail: str, retry_after_s: float | None) -> None:
        for waiter in self._waiters:
            waiter.failure = NotProcessed(code, detail, retry_after_s)
            waiter.woken.set()
        self._waiters.clear()
