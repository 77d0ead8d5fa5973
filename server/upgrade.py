"""The WebSocket upgrade (RFC 6455 section 4.2): whether a request is one, and what is answered. Pure.

Our own and not the library's: there an upgrade went through two HTTP parsers and a quarter of what a connect
costs. It is strict where leniency would let two readers of one request differ (a proxy and us).
"""

import base64
import binascii
import hashlib
import re
from typing import Final

from protocol.codec import WS_SUBPROTOCOLS, Wire
from server.listener import HandshakeFailed, RequestHead, http_answer

_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_VERSION: Final = "13"
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token, RFC 9110 section 5.6.2
_HOST: Final = re.compile(r"[!-+\--~]+")  # one, and ASCII: two that were joined have a comma between
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")  # no line break can hide in a value
_BEGIN: Final = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


def upgrade(head: RequestHead) -> tuple[bytes, Wire]:
    """Return the answer that opens the WebSocket, and how it is spoken from there on.

    The first known subprotocol that the client offers is chosen; a client that offers none speaks JSON, and
    one that offers only unknown ones is told none (RFC 6455 section 4.2.2) and speaks JSON or leaves.
    Extensions are never agreed to.

    Raises: HandshakeFailed("bad_upgrade"), whose answer says what is wrong.
    """
    headers = head.headers
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise _refusal("A header is not valid.")
    if not head.is_http_11 or head.method != "GET":
        raise _refusal("A WebSocket is opened by GET in HTTP/1.1.")
    if not _HOST.fullmatch(headers.get("host", "")):
        raise _refusal("There must be one Host.")
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise _refusal("The request must not have a body.")
    if "websocket" not in _words(headers.get("upgrade", "")):
        raise _refusal("Upgrade must say websocket.")
    if "upgrade" not in _words(headers.get("connection", "")):
        raise _refusal("Connection must say Upgrade.")
    if headers.get("sec-websocket-version") != _VERSION:
        message = f"Sec-WebSocket-Version must be {_VERSION}."
        answer = http_answer(
            426, "bad_request", message=message, headers=f"sec-websocket-version: {_VERSION}\r\n"
        )
        raise HandshakeFailed("bad_upgrade", answer)
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        raise _refusal("Sec-WebSocket-Key must be 16 bytes in base64.")
    accept = base64.b64encode(hashlib.sha1(key.encode() + _ACCEPT_GUID, usedforsecurity=False).digest())
    answer = _BEGIN + b"Sec-WebSocket-Accept: " + accept + b"\r\n"
    offered = headers.get("sec-websocket-protocol", "").split(",")
    chosen = next((name for offer in offered if (name := offer.strip()) in WS_SUBPROTOCOLS), None)
    if chosen is None:
        return answer + b"\r\n", Wire.JSON_WS
    return answer + b"Sec-WebSocket-Protocol: " + chosen.encode() + b"\r\n\r\n", WS_SUBPROTOCOLS[chosen]


def _words(value: str) -> list[str]:
    return [word.strip() for word in value.lower().split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(key) == 24 and len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except ValueError:
        return False


def _refusal(message: str) -> HandshakeFailed:
    return HandshakeFailed("bad_upgrade", http_answer(400, "bad_request", message=message))
