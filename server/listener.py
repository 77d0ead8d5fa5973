"""The way in: TCP listeners, TLS, and the first request's head, which tells WebSocket from HTTP."""

import contextlib
import errno
import os
import re
import ssl
from collections.abc import Awaitable, Callable, Collection
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog
import trio

from protocol.errors import CODES
from protocol.replies import Error
from server.metrics import Metrics
from server.transport import SocketLikeStream

MAX_HEAD_BYTES: Final = 16 * 1024  # request line and headers; browsers with many cookies send 8 KB
BACKLOG: Final = 1024  # connections that the kernel holds while the loop is busy
ACCEPT_PAUSE_S: Final = 0.1  # out of file descriptors: only time, and others who close, help
_OUT_OF_ROOM: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_METHOD: Final = re.compile(rb"[A-Z]{1,20}( |$)")
_STATUS_LINES: Final = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

log = structlog.get_logger(__name__)


class HandshakeFailed(Exception):
    """The connection never came to a request. `reason` is counted; `answer` is written before the close."""

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer


class RequestHead(msgspec.Struct, frozen=True):
    """The first request's line and headers. Header names are lower case; repeated ones are joined by
    commas."""

    method: str
    target: str
    headers: dict[str, str]
    is_http_11: bool = True

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def wants_websocket(self) -> bool:
        """Tell whether the client asks to speak WebSocket from here on."""
        return "websocket" in self.headers.get("upgrade", "").lower()


def http_answer(
    status: int, code: str, *, message: str = "", retry_after_s: float | None = None, headers: str = ""
) -> bytes:
    """Return a whole HTTP/1.1 response that refuses a connection, with a stable code, and closes it."""
    body = msgspec.json.encode(Error(code=code, message=message or CODES[code], retry_after_s=retry_after_s))
    if retry_after_s is not None:
        headers += f"retry-after: {max(1, round(retry_after_s))}\r\n"
    head = (
        f"HTTP/1.1 {status} {_STATUS_LINES[status]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n{headers}\r\n"
    )
    return head.encode() + body


async def read_head(stream: SocketLikeStream) -> tuple[bytes, bytes]:
    """Return the first request's head, its blank line included, and whatever came after it.

    The caller sets the deadline. Raises: HandshakeFailed.
    """
    buffer = bytearray()
    while True:  # ends with a head, with too many bytes, or with the stream
        try:
            data = await stream.receive_some(4096)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise HandshakeFailed("reset") from None
        if not data:
            raise HandshakeFailed("closed_in_head" if buffer else "closed_without_request")
        searched_to = max(0, len(buffer) - 3)
        buffer += data
        if not _METHOD.match(buffer[:24]):
            if buffer.startswith(b"\x16\x03"[: len(buffer)]):
                raise HandshakeFailed("tls_on_plain_port")
            raise HandshakeFailed("not_http", http_answer(400, "wrong_transport"))
        end = buffer.find(b"\r\n\r\n", searched_to)
        if end >= 0 and end + 4 <= MAX_HEAD_BYTES:
            return bytes(buffer[: end + 4]), bytes(buffer[end + 4 :])
        if end >= 0 or len(buffer) > MAX_HEAD_BYTES:
            raise HandshakeFailed("head_too_large", http_answer(431, "frame_too_large"))


def parse_head(head: bytes) -> RequestHead:
    """Read a request's head just far enough to route it; the HTTP parser behind it is the strict one.

    Raises: HandshakeFailed.
    """
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise HandshakeFailed("bad_request_line", http_answer(400, "bad_request"))
    headers: dict[str, str] = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise HandshakeFailed("bad_header", http_answer(400, "bad_request"))
        key = name.lower()
        value = value.strip()
        headers[key] = f"{headers[key]},{value}" if key in headers else value
    return RequestHead(parts[0], parts[1], headers, parts[2] == "HTTP/1.1")


def is_origin_allowed(head: RequestHead, allowed: Collection[str]) -> bool:
    """Tell whether a page may open a WebSocket: its own server's pages may, and those of allowed origins.

    A browser always sends Origin with a WebSocket; a client that sends none is not a browser, and cannot be
    misled by a foreign page.
    """
    origin = head.headers.get("origin")
    if origin is None or origin in allowed:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:  # such as "http://["
        return False
    return (
        parts.scheme in ("http", "https") and bool(parts.netloc) and parts.netloc == head.headers.get("host")
    )


class TlsFiles:
    """A certificate chain and its key in PEM files, read again by `reload`."""

    def __init__(self, cert_path: str, key_path: str) -> None:
        self._cert_path = cert_path
        self._key_path = key_path
        self.context = self._load()

    def reload(self) -> bool:
        """Use the files as they are now, for new connections. Where they cannot be used, keep the old."""
        try:
            self.context = self._load()
        except (OSError, ssl.SSLError) as exc:
            log.error("certificate_not_reloaded", path=self._cert_path, error=str(exc))  # noqa: TRY400 - no trace
            return False
        log.info("certificate_reloaded", path=self._cert_path)
        return True

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._cert_path, self._key_path)
        return context


async def shake_tls(stream: trio.SocketStream, context: ssl.SSLContext) -> SocketLikeStream:
    """Complete the TLS handshake. The caller sets the deadline. Raises: HandshakeFailed."""
    # https_compatible: an end of stream without close_notify is an end, as most clients do it.
    secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    try:
        await secured.do_handshake()
    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        is_plain = isinstance(exc.__cause__, ssl.SSLError) and "HTTP_REQUEST" in str(exc.__cause__)
        raise HandshakeFailed("plain_on_tls_port" if is_plain else "tls_failed") from None
    return secured


async def open_listener(host: str, port: int) -> trio.SocketListener:
    """Listen on one address. Raises: OSError, whose text names the address."""
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    for extra in listeners[1:]:  # a name that resolves to several addresses: we promise the first
        await extra.aclose()
    return listeners[0]


async def accept_forever(
    listener: trio.SocketListener,
    nursery: trio.Nursery,
    admit: Callable[[str], bytes | None],
    serve: Callable[[trio.SocketStream, str], Awaitable[None]],
    metrics: Metrics,
) -> None:
    """Accept connections until cancelled, and start `serve(stream, address)` for each that `admit` lets in.

    `admit(address)` returns None to let it in, else what is written to it before it is closed. Running out of
    file descriptors is counted and waited out; connections stay in the kernel's queue meanwhile.
    """
    has_warned = False
    while True:
        try:
            # Not listener.accept(): that would leave the address to be asked for.
            sock, peer = await listener.socket.accept()
        except OSError as exc:
            if listener.socket.fileno() == -1:
                raise trio.ClosedResourceError from None
            metrics.accept_errors[errno.errorcode.get(exc.errno or 0, "unknown")] += 1
            if exc.errno in _OUT_OF_ROOM:
                if not has_warned:
                    log.error("accept_out_of_resources", error=str(exc))  # noqa: TRY400 - nothing to trace
                    has_warned = True
                await trio.sleep(ACCEPT_PAUSE_S)
            continue  # else that connection has gone already
        has_warned = False
        stream, address = trio.SocketStream(sock), str(peer[0])
        refusal = admit(address)
        if refusal is None:
            nursery.start_soon(serve, stream, address)
        else:
            turn_away(stream, refusal)


def turn_away(stream: trio.SocketStream, answer: bytes) -> None:
    """Write a last answer as far as it fits at once, and close. Costs no task."""
    with contextlib.suppress(OSError):
        fileno = stream.socket.fileno()
        # What was sent already is read, or else closing would reset the connection before it is read.
        with contextlib.suppress(BlockingIOError):
            os.read(fileno, MAX_HEAD_BYTES)
        if answer:
            os.write(fileno, answer)
    stream.socket.close()
