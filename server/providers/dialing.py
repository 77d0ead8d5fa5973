"""Open a byte stream to a provider or webhook: name, address check (see `reach`), TCP, TLS, ALPN."""

import socket
import ssl
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec
import trio

from server.providers.lookup import NamedBy
from server.providers.reach import Reach, is_host

Alpn = Literal["h2", "http/1.1"]
NEXT_AFTER_S: Final = 2.0  # of silence; a handshake around the world takes a fifth of it


class Origin(msgspec.Struct, frozen=True):
    """Scheme, host and port (RFC 6454): what connections and VAPID tokens belong to."""

    scheme: Literal["https", "http"]
    host: str
    port: int

    @property
    def authority(self) -> str:
        """As in a Host header: without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def split_url(url: str) -> tuple[Origin, str]:
    """Take an absolute http(s) URL apart into its origin and the path with query. Raises: ValueError."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("a URL has printable ASCII characters only")
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("neither https nor http")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a name or password in the URL")
    scheme: Literal["https", "http"] = "https" if parts.scheme == "https" else "http"
    if not is_host(parts.hostname):
        raise ValueError("the host is no name that can be looked up")
    port = parts.port if parts.port is not None else (443 if scheme == "https" else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Origin(scheme, parts.hostname, port), path


def tls_context(ca_pem: str, alpn: tuple[Alpn, ...]) -> ssl.SSLContext:
    """Make a client's context that trusts this CA alone, or the system's. Raises: ssl.SSLError."""
    context = ssl.create_default_context(cadata=ca_pem or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9113, 9.2
    context.set_alpn_protocols(list(alpn))
    return context


class Dialed(msgspec.Struct, frozen=True):
    """An open stream, the socket's number, and the protocol that TLS agreed on."""

    stream: trio.abc.Stream
    fd: int
    protocol: Alpn


async def dial(origin: Origin, context: ssl.SSLContext, *, reach: Reach, named_by: NamedBy = "app") -> Dialed:
    """Connect, with TLS for https. Plain http speaks HTTP/1.1. The caller sets the time limit.

    Raises: AddressRefused; OSError, ssl.SSLError, trio.BrokenResourceError.
    """
    tcp = await dial_tcp(origin.host, origin.port, reach=reach, named_by=named_by)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if origin.scheme == "http":
        return Dialed(tcp, tcp.socket.fileno(), "http/1.1")
    tls = trio.SSLStream(tcp, context, server_hostname=origin.host, https_compatible=True)
    try:
        await tls.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(tls)
        raise
    protocol: Alpn = "h2" if tls.selected_alpn_protocol() == "h2" else "http/1.1"
    return Dialed(tls, tcp.socket.fileno(), protocol)


async def dial_tcp(host: str, port: int, *, reach: Reach, named_by: NamedBy = "app") -> trio.SocketStream:
    """Connect to the first address of a host that takes it, in the resolver's order (RFC 6724).

    Raises: AddressRefused, OSError.
    """
    addresses = await reach.resolve(host, port, named_by)
    failure: OSError | None = None
    for number, address in enumerate(addresses, 1):
        try:
            # Where IPv6 leads nowhere the others have to get their turn within the caller's time.
            with trio.move_on_after(NEXT_AFTER_S if number < len(addresses) else float("inf")):
                return await trio.open_tcp_stream(address, port)
        except OSError as exc:
            failure = exc
    raise failure or OSError(f"no address of {host} answered")
