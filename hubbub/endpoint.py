"""Where a server is reached: URLs in, host, port and transport out. Pure."""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from protocol.codec import Wire
from protocol.types import NodeInfo

DEFAULT_BOT_PORT: Final = 8081
DEFAULT_PORT: Final = 8080


class Endpoint(msgspec.Struct, frozen=True):
    """Where and how to connect."""

    host: str
    port: int
    wire: Wire
    is_tls: bool = False
    path: str = "/ws"

    def __str__(self) -> str:
        if self.wire is Wire.MSGPACK_TCP:
            return f"hubbub{'s' if self.is_tls else ''}://{self.host}:{self.port}"
        return f"ws{'s' if self.is_tls else ''}://{self.host}:{self.port}{self.path}"


def parse_url(url: str, *, wire: Wire | None = None) -> Endpoint:
    """Read a server's URL.

    ws, wss, http and https mean the WebSocket at /ws (or the path given); hubbub and hubbubs mean the bot
    port. `wire` chooses JSON on a WebSocket; the default is MessagePack.

    Raises: ValueError with a sentence that says what is wrong.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if not parts.hostname:
        raise ValueError(f"{url!r} names no host; try http://127.0.0.1:8080")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"the port in {url!r} is not a number from 1 to 65535") from None
    if parts.scheme in ("hubbub", "hubbubs"):
        return Endpoint(
            parts.hostname,
            port or DEFAULT_BOT_PORT,
            Wire.MSGPACK_TCP,
            is_tls=parts.scheme == "hubbubs",
            path="",
        )
    if parts.scheme not in ("ws", "wss", "http", "https"):
        raise ValueError(f"{url!r}: use ws, wss, http, https, hubbub or hubbubs")
    is_tls = parts.scheme in ("wss", "https")
    if parts.scheme in ("ws", "wss") and parts.path not in ("", "/"):
        path = parts.path
    else:
        path = parts.path.rstrip("/") + "/ws"
    default_port = (
        (443 if is_tls else 80) if parts.scheme in ("ws", "wss") else (443 if is_tls else DEFAULT_PORT)
    )
    return Endpoint(
        parts.hostname,
        port or default_port,
        Wire.MSGPACK_WS if wire is None else wire,
        is_tls=is_tls,
        path=path,
    )


def split_urls(url: str | Sequence[str]) -> list[str]:
    """Return the addresses in a list, or in a text with commas between them. Raises: ValueError for none."""
    texts = [url] if isinstance(url, str) else url
    urls = [part for text in texts for part in map(str.strip, text.split(",")) if part]
    if not urls:
        raise ValueError("no address of a server is given; try http://127.0.0.1:8080")
    return urls


def parse_urls(url: str | Sequence[str], *, wire: Wire | None = None) -> list[Endpoint]:
    """Read the addresses of one server or cluster, each once. See `parse_url`.

    Raises: ValueError, also where they differ in transport or TLS: a client that moves between them must not
    find itself without the protection that it began with.
    """
    endpoints = list(dict.fromkeys(parse_url(one, wire=wire) for one in split_urls(url)))
    if len({(endpoint.wire, endpoint.is_tls) for endpoint in endpoints}) > 1:
        raise ValueError(f"{url!r}: addresses of one server must have the same scheme, with TLS or without")
    return endpoints


def node_endpoint(node: NodeInfo, configured: Sequence[Endpoint]) -> Endpoint | None:
    """Return where a node that the server named is reached by the transport in use; None where it is not.

    The token goes there, so: a connection with TLS is never continued without, and a name for the own machine
    is only believed where the user gave one as well. Elsewhere it would be a node that does not know its
    address, and whatever listens on this machine would get the token.
    """
    like = configured[0]
    address = node.bot_address if like.wire is Wire.MSGPACK_TCP else node.url
    if not address:
        return None
    if like.wire is Wire.MSGPACK_TCP and "://" not in address:
        address = f"hubbub{'s' if like.is_tls else ''}://{address}"
    try:
        endpoint = parse_url(address, wire=None if like.wire is Wire.MSGPACK_TCP else like.wire)
    except ValueError:
        return None
    if (like.is_tls and not endpoint.is_tls) or endpoint.wire is not like.wire:
        return None
    if _is_own_machine(endpoint.host) and not any(_is_own_machine(one.host) for one in configured):
        return None
    return endpoint


def _is_own_machine(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))  # 127.1 and 2130706433 are addresses too
        except (OSError, ValueError):
            name = host.rstrip(".")
            return name == "localhost" or name.endswith(".localhost")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified
