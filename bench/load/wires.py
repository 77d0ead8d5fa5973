"""How a client speaks: JSON or MessagePack over WebSocket, or the bot protocol over TCP.

Client frames are masked for real (RFC 6455 section 5.3): a server shall not get off cheaper than in life.
"""

import os
from typing import Final, Protocol

import msgspec

from protocol.codec import Wire, encode_payload
from protocol.commands import Command


class Got(msgspec.Struct, gc=False):
    """Any reply or event, as far as a load generator looks."""

    type: str
    id: int = 0
    seq: int = 0
    conversation_id: str = ""
    user_id: str = ""
    client_id: str = ""
    code: str | int = ""


class WireFormat(Protocol):
    """One way to speak to a server."""

    name: str
    wire: Wire

    def opening(self, host: str) -> bytes:
        """What a client says before its first frame; empty where there is no handshake."""
        ...

    def frame(self, payload: bytes) -> bytes:
        """Frame one command."""
        ...

    def split(self, data: bytes) -> tuple[list[bytes], int]:
        """Return the payloads of the complete frames in `data`, and how many bytes they took."""
        ...

    def count(self, data: bytes) -> tuple[int, int]:
        """Count the complete frames in `data` that are messages, without decoding; and the bytes taken."""
        ...

    def decode(self, payload: bytes) -> Got:
        """Decode as far as Got goes."""
        ...


class _WebSocket:
    """RFC 6455, the client's side."""

    wire: Wire
    subprotocol: str
    _first: int
    _marks: tuple[bytes, ...]  # how a message begins; right behind a frame's head

    def __init__(self) -> None:
        mask = os.urandom(4)
        self._mask = mask
        self._long_mask = int.from_bytes(mask * 32_768, "little")

    def opening(self, host: str) -> bytes:
        return (
            f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {self.subprotocol}\r\n\r\n"
        ).encode()

    def frame(self, payload: bytes) -> bytes:
        size = len(payload)
        key = self._long_mask & ((1 << 8 * size) - 1)
        body = (int.from_bytes(payload, "little") ^ key).to_bytes(size, "little")
        if size < 126:
            head = bytes((self._first, 0x80 | size))
        elif size < 65_536:
            head = bytes((self._first, 0xFE)) + size.to_bytes(2, "big")
        else:
            raise ValueError("a load generator sends no frames of 64 KiB")
        return head + self._mask + body

    def split(self, data: bytes) -> tuple[list[bytes], int]:
        payloads: list[bytes] = []
        at, end = 0, len(data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                if end - at < 4:
                    break
                size, start = data[at + 2] << 8 | data[at + 3], at + 4
            elif size == 127:
                if end - at < 10:
                    break
                size, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            stop = start + size
            if stop > end:
                break
            if data[at] & 0x0F < 8:  # a control frame has nothing to tell: a closed socket follows
                payloads.append(data[start:stop])
            at = stop
        return payloads, at

    def count(self, data: bytes) -> tuple[int, int]:
        found = at = 0
        end, marks = len(data), self._marks
        while end - at >= 4:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = data[at + 2] << 8 | data[at + 3], at + 4
            elif size == 127:
                if end - at < 10:
                    break
                size, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            stop = start + size
            if stop > end:
                break
            if data.startswith(marks, start):
                found += 1
            at = stop
        return found, at


class JsonWebSocket(_WebSocket):
    """JSON in text frames."""

    name = "json"
    wire = Wire.JSON_WS
    subprotocol = "hubbub.json"
    _first = 0x81
    _marks = (b'{"type":"message",',)
    _decoder: Final = msgspec.json.Decoder(Got)

    def decode(self, payload: bytes) -> Got:
        return self._decoder.decode(payload)


class MsgpackWebSocket(_WebSocket):
    """MessagePack in binary frames."""

    name = "msgpack"
    wire = Wire.MSGPACK_WS
    subprotocol = "hubbub.msgpack"
    _first = 0x82
    _marks = tuple(bytes((0x80 | fields,)) + b"\xa4type\xa7message" for fields in range(3, 16))
    _decoder: Final = msgspec.msgpack.Decoder(Got)

    def decode(self, payload: bytes) -> Got:
        return self._decoder.decode(payload)


class BotProtocol:
    """MessagePack behind a 4-byte length, over TCP."""

    name = "bot"
    wire = Wire.MSGPACK_TCP
    _marks = MsgpackWebSocket._marks
    _decoder: Final = msgspec.msgpack.Decoder(Got)

    def opening(self, host: str) -> bytes:
        return b""

    def frame(self, payload: bytes) -> bytes:
        return len(payload).to_bytes(4, "big") + payload

    def split(self, data: bytes) -> tuple[list[bytes], int]:
        payloads: list[bytes] = []
        at, end = 0, len(data)
        while end - at >= 4:
            start = at + 4
            stop = start + int.from_bytes(data[at:start], "big")
            if stop > end:
                break
            payloads.append(data[start:stop])
            at = stop
        return payloads, at

    def count(self, data: bytes) -> tuple[int, int]:
        found = at = 0
        end, marks = len(data), self._marks
        while end - at >= 4:
            start = at + 4
            stop = start + int.from_bytes(data[at:start], "big")
            if stop > end:
                break
            if data.startswith(marks, start):
                found += 1
            at = stop
        return found, at

    def decode(self, payload: bytes) -> Got:
        return self._decoder.decode(payload)


WIRES: Final[dict[str, type[JsonWebSocket] | type[MsgpackWebSocket] | type[BotProtocol]]] = {
    "json": JsonWebSocket,
    "msgpack": MsgpackWebSocket,
    "bot": BotProtocol,
}


def encoded(command: Command, wire: WireFormat) -> bytes:
    """Encode and frame one command."""
    return wire.frame(encode_payload(command, wire.wire))
