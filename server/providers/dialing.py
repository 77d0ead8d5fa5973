"""Open a byte stream to a provider: name, address check, TCP, TLS, ALPN.

Endpoints of Web Push come from clients, so whoever registers one could make the server talk to its own
network (SSRF). Such a host is resolved once, every address is checked, and the connection goes to an address
that was checked; there is no second look-up that could answer differently (DNS rebinding).
"""

import ipaddress
import socket
import ssl
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec
import trio

Alpn = Literal["h2", "http/1.1"]
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Ranges that Python's is_global lets pass, and that lead to an IPv4 address or to nowhere.
_REFUSED_V6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "::/96",  # IPv4-compatible, deprecated (RFC 4291, 2.5.5.1)
        "64:ff9b:1::/48",  # NAT64 of one's own network (RFC 8215)
        "fec0::/10",  # site-local, deprecated (RFC 3879)
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class AddressRefused(Exception):
    """The host lies, or part of it, in a network where push services do not live."""


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
    port = parts.port if parts.port is not None else (443 if scheme == "https" else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Origin(scheme, parts.hostname, port), path


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the public internet, also by what it embeds."""
    try:
        ip: _Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if any(ip in network for network in _REFUSED_V6):
            return False
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if embedded is not None:
            return is_public(str(embedded))
    return ip.is_global and not (
        ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local
    )


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


async def dial(origin: Origin, context: ssl.SSLContext, *, public_only: bool) -> Dialed:
    """Connect, with TLS for https. Plain http speaks HTTP/1.1. The caller sets the time limit.

    Raises: AddressRefused; OSError, ssl.SSLError, trio.BrokenResourceError.
    """
    if public_only:
        tcp = await _dial_public(origin)
    else:
        tcp = await trio.open_tcp_stream(origin.host, origin.port)
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


async def _dial_public(origin: Origin) -> trio.SocketStream:
    failure: OSError | None = None
    for address in await public_addresses(origin.host, origin.port):
        try:
            return await trio.open_tcp_stream(address, origin.port)
        except OSError as exc:
            failure = exc
    raise failure or OSError(f"no address for {origin.host}")


async def public_addresses(host: str, port: int) -> list[str]:
    """Resolve a host. One address in a private network refuses it as a whole: so does an attacker's look.

    Raises: AddressRefused; OSError where the name is not known.
    """
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    for address in addresses:
        if not is_public(address):
            raise AddressRefused(f"{host} is {address}")
    return addresses
