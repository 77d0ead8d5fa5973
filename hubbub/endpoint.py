"""Where a server is reached: URLs in, host, port and transport out. Pure."""

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


def node_endpoint(node: NodeInfo, like: Endpoint) -> Endpoint | None:
    """Return where a node is reached by the transport in use; None where it does not offer it.

    A connection with TLS is never continued without.
    """
    address = node.bot_address if like.wire is Wire.MSGPACK_TCP else node.url
    if not address:
        return None
    if like.wire is Wire.MSGPACK_TCP and "://" not in address:
        address = f"hubbub{'s' if like.is_tls else ''}://{address}"
    try:
        endpoint = parse_url(address, wire=like.wire)
    except ValueError:
        return None
    if (like.is_tls and not endpoint.is_tls) or endpoint.wire is not like.wire:
        return None
    return endpoint
