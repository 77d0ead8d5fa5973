"""Posts forms over kept HTTP/1.1 connections, under Trio, with `h11` for the parsing.

A failure says what the sender may do next: `NotSent` is safe to repeat, `Unanswered` is not, as the request
may have been carried out. Whatever was answered, 5xx too, is an `Answer`: what it means is the provider's
rule.
"""

import contextlib
import select
import ssl
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

import h11
import msgspec
import trio

from actors.notify.delivery import Outcome
from server.providers.dialing import dial_tcp
from server.providers.reach import PUBLIC, AddressRefused, Reach, is_host
from server.providers.slots import Slots

CONNECT_TIMEOUT_S: Final = 10.0  # waiting for a free connection, name lookup, TCP and TLS together
REQUEST_TIMEOUT_S: Final = 15.0  # from the first byte sent to the last one read; Twilio's p99 is far below
IDLE_LIMIT_S: Final = 20.0  # load balancers close idle connections after 60 s; a third of it is safe
MAX_ANSWER_BYTES: Final = 1 << 20
MAX_RETRY_AFTER_S: Final = 86_400.0  # a provider that asks for more than a day is not believed
_READ_BYTES: Final = 16 * 1024


class Answer(msgspec.Struct, frozen=True):
    """What the server said. Header names are lowercase; of doubled ones the last counts."""

    status: int
    headers: dict[str, str]
    body: bytes


class NotSent(Exception):
    """The server cannot have the whole request. `code`: connect, address_refused, tls, busy,
    closed, lost.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class Unanswered(Exception):
    """The request left and no whole answer came. `code`: timeout, lost, bad_answer."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def judge_failure(failure: NotSent | Unanswered) -> Outcome:
    """Say what a post without an answer means, at any provider. Pure."""
    if isinstance(failure, Unanswered):
        return Outcome(
            kind="unknown",
            action="resolve_unknown",
            code=failure.code,
            detail=failure.detail,
            scope="provider",
        )
    if failure.code == "busy":  # with our own calls, which says nothing of the provider
        return Outcome(kind="refused", action="retry", code=failure.code, detail=failure.detail)
    # A wrong certificate or address does not mend by itself.
    is_config = failure.code in ("tls", "address_refused")
    return Outcome(
        kind="refused",
        action="break" if is_config else "retry",
        code=failure.code,
        detail=failure.detail,
        scope="credential" if is_config else "provider",
    )


class FormClient:
    """A pool of connections to one origin. Safe to call from several tasks; they share `connections`.

    `base_url` is http(s)://host[:port][/prefix], and its host lies within `reach`; `ca_pem` is trusted
    instead of the system's authorities.

    Raises: ValueError for any other base_url, or a CA that cannot be read.
    """

    def __init__(
        self,
        base_url: str,
        *,
        ca_pem: str = "",
        reach: Reach = PUBLIC,
        connections: int = 64,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.username:
            raise ValueError("base_url must be http(s)://host[:port][/prefix]")
        if not is_host(url.hostname):
            raise ValueError("the host of base_url is no name that can be looked up")
        self._reach = reach
        self._tls = client_tls(ca_pem) if url.scheme == "https" else None
        self._host = url.hostname
        self._port = url.port or (443 if self._tls else 80)
        self._authority = url.netloc
        self._prefix = url.path.rstrip("/")
        self._connect_timeout_s = connect_timeout_s
        self._request_timeout_s = request_timeout_s
        self._slots = Slots(connections)
        self._idle: list[_Connection] = []  # the last one used comes first, so that the others may age
        self._in_use: set[_Connection] = set()
        self._is_closed = False

    async def post(
        self,
        path: str,
        body: bytes,
        headers: Iterable[tuple[str, str]] = (),
        *,
        method: str = "POST",
        is_urgent: bool = False,
    ) -> Answer:
        """Send one form and read the answer. A cancelled call closes its connection and no other.

        `is_urgent`: before those that are not, where no connection is free. Raises: NotSent, Unanswered.
        """
        request = h11.Request(
            method=method,
            target=self._prefix + path,
            headers=[
                ("Host", self._authority),
                *headers,
                ("Content-Type", "application/x-www-form-urlencoded"),
                ("Content-Length", str(len(body))),
            ],
        )
        try:
            with trio.fail_after(self._connect_timeout_s):
                await self._slots.acquire(is_urgent=is_urgent)
        except trio.TooSlowError:
            raise NotSent("busy", "no connection became free") from None
        try:
            return await self._exchange(request, body)
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        """Close all connections; calls under way end with Unanswered, later ones with NotSent."""
        self._is_closed = True
        while self._idle:
            await trio.aclose_forcefully(self._idle.pop().stream)
        for connection in tuple(self._in_use):
            await trio.aclose_forcefully(connection.stream)

    async def _exchange(self, request: h11.Request, body: bytes) -> Answer:
        connection = self._reusable() or await self._connect()
        self._in_use.add(connection)
        is_reusable = False
        try:
            with trio.fail_after(self._request_timeout_s):
                answer = await connection.exchange(request, body)
            is_reusable = connection.reset()
            return answer
        except trio.TooSlowError:
            raise Unanswered("timeout") from None
        finally:
            self._in_use.discard(connection)
            if is_reusable and not self._is_closed:
                connection.idle_since = trio.current_time()
                self._idle.append(connection)
            else:
                with trio.CancelScope(shield=True):  # closing by force does not wait
                    await trio.aclose_forcefully(connection.stream)

    def _reusable(self) -> "_Connection | None":
        """Take a kept connection that the server has not closed meanwhile, as far as the kernel knows."""
        oldest = trio.current_time() - IDLE_LIMIT_S
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since >= oldest and not connection.is_readable():
                return connection
            connection.abandon()
        return None

    async def _connect(self) -> "_Connection":
        if self._is_closed:
            raise NotSent("closed")
        try:
            with trio.fail_after(self._connect_timeout_s):
                tcp = await dial_tcp(self._host, self._port, reach=self._reach)
                if self._tls is None:
                    return _Connection(tcp, tcp.socket)
                tls = trio.SSLStream(tcp, self._tls, server_hostname=self._host, https_compatible=True)
                try:
                    await tls.do_handshake()
                except BaseException:
                    await trio.aclose_forcefully(tcp)
                    raise
                return _Connection(tls, tcp.socket)
        except trio.TooSlowError:
            raise NotSent("connect", "timeout") from None
        except AddressRefused as exc:
            raise NotSent("address_refused", str(exc)) from None
        except (OSError, trio.BrokenResourceError) as exc:
            # An SSLError arrives as the cause of a BrokenResourceError.
            cause = exc.__cause__ or exc
            code = "tls" if isinstance(cause, ssl.SSLCertVerificationError) else "connect"
            raise NotSent(code, str(cause)[:200]) from exc


class _Connection:
    """One connection: the bytes, and h11's idea of where the conversation stands."""

    def __init__(self, stream: trio.abc.Stream, sock: trio.socket.SocketType) -> None:
        self.stream = stream
        self.idle_since = 0.0
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._h11 = h11.Connection(h11.CLIENT)

    async def exchange(self, request: h11.Request, body: bytes) -> Answer:
        """Send and read. Raises: NotSent, Unanswered."""
        parser = self._h11
        head = parser.send(request) or b""
        parser.send(h11.Data(data=body))
        parser.send(h11.EndOfMessage())
        try:
            await self.stream.send_all(head + body)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            # The kernel refused some of it, so the server cannot have the whole form.
            raise NotSent("lost", str(exc.__cause__ or exc)[:200]) from exc
        response: h11.Response | None = None
        pieces: list[bytes] = []
        size = 0
        try:
            while True:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    parser.receive_data(bytes(await self.stream.receive_some(_READ_BYTES)))
                elif isinstance(event, h11.Response):
                    response = event
                elif isinstance(event, h11.Data):
                    size += len(event.data)
                    if size > MAX_ANSWER_BYTES:
                        raise Unanswered("bad_answer", "the answer is too long")
                    pieces.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    break
                elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    raise Unanswered("lost", "closed before an answer")
        except h11.RemoteProtocolError as exc:
            is_over = parser.trailing_data[1]
            raise Unanswered("lost" if is_over else "bad_answer", str(exc)[:200]) from exc
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise Unanswered("lost", str(exc.__cause__ or exc)[:200]) from exc
        if response is None:  # h11 gives no EndOfMessage without one
            raise Unanswered("bad_answer", "no status line")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
        return Answer(response.status_code, headers, b"".join(pieces))

    def reset(self) -> bool:
        """Prepare for the next request; False where the server wants the connection closed."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True

    def is_readable(self) -> bool:
        """Nothing may come while nobody asked: what does is the end of the connection, or junk."""
        return bool(self._poll.poll(0))

    def abandon(self) -> None:
        self._sock.close()


def client_tls(ca_pem: str = "") -> ssl.SSLContext:
    """Return a context that verifies the host's name, by `ca_pem` alone where there is one.

    Raises: ValueError if ca_pem is no certificate.
    """
    try:
        context = ssl.create_default_context(cadata=ca_pem or None)
    except ssl.SSLError as exc:
        raise ValueError("ca_pem is not a certificate in PEM") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def retry_after_s(headers: Mapping[str, str], now_ms: int) -> float | None:
    """Read Retry-After, seconds or a date (RFC 9110 section 10.2.3); None where it is absent or nonsense."""
    value = headers.get("retry-after", "").strip()
    wait_s: float | None = None
    if value.isascii() and value.isdigit():
        wait_s = float(value[:9])
    elif value:
        with contextlib.suppress(ValueError, OverflowError):
            wait_s = parsedate_to_datetime(value).timestamp() - now_ms / 1_000
    return None if wait_s is None else min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)
