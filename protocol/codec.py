"""Turn commands, replies and events into bytes and back: JSON, MessagePack, and length-prefixed frames.

Outside bytes enter the system only through `decode_command` (server) or `decode_server` (client).
What a server sends is encoded once per `Wire`, however many sessions listen: see `Encoded`.
"""

import struct
from enum import IntEnum
from typing import Final, get_args

import msgspec

from protocol.commands import Command
from protocol.errors import ProtocolError
from protocol.events import Event
from protocol.limits import MAX_FRAME_BYTES, MAX_SAFE_INTEGER
from protocol.replies import Reply


class Wire(IntEnum):
    """How a connection speaks; the value indexes the cache of `Encoded`."""

    JSON_WS = 0  # JSON in WebSocket text frames
    MSGPACK_WS = 1  # MessagePack in WebSocket binary frames
    MSGPACK_TCP = 2  # MessagePack behind a 4-byte big-endian length


WS_SUBPROTOCOLS: Final = {"hubbub.json": Wire.JSON_WS, "hubbub.msgpack": Wire.MSGPACK_WS}


class CommandError(ProtocolError):
    """A frame that could not be understood; `command_id` is its id where one could be read."""

    def __init__(self, code: str, message: str = "", *, command_id: int = 0) -> None:
        super().__init__(code, message)
        self.command_id = command_id


class _Probe(msgspec.Struct):
    """Just enough of a broken command to answer it by id; both fields may hold anything."""

    id: object = 0
    type: object = ""


COMMAND_TYPES: Final = frozenset(str(struct.__struct_config__.tag) for struct in get_args(Command))
SERVER_TYPES: Final = frozenset(str(struct.__struct_config__.tag) for struct in get_args(Reply | Event))

_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()
_json_command: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_msgpack_command: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_json_server: msgspec.json.Decoder[Reply | Event] = msgspec.json.Decoder(Reply | Event)
_msgpack_server: msgspec.msgpack.Decoder[Reply | Event] = msgspec.msgpack.Decoder(Reply | Event)
_json_probe = msgspec.json.Decoder(_Probe)
_msgpack_probe = msgspec.msgpack.Decoder(_Probe)


def decode_command(payload: bytes | str, wire: Wire) -> Command:
    """Decode one command from a frame's payload.

    Raises: CommandError with code bad_frame (not JSON/MessagePack), unknown_type or bad_field.
    """
    try:
        if wire is Wire.JSON_WS:
            return _json_command.decode(payload)
        return _msgpack_command.decode(payload if isinstance(payload, bytes) else payload.encode())
    except msgspec.ValidationError as exc:
        raise _explain(payload, wire, exc, COMMAND_TYPES) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as exc:
        raise CommandError("bad_frame", f"The frame could not be decoded: {exc}") from None


def decode_server(payload: bytes | str, wire: Wire) -> Reply | Event:
    """Decode what a server sent.

    Raises: CommandError as `decode_command` does. A client skips an unknown_type: the server is newer.
    """
    try:
        if wire is Wire.JSON_WS:
            return _json_server.decode(payload)
        return _msgpack_server.decode(payload if isinstance(payload, bytes) else payload.encode())
    except msgspec.ValidationError as exc:
        raise _explain(payload, wire, exc, SERVER_TYPES) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as exc:
        raise CommandError("bad_frame", f"The frame could not be decoded: {exc}") from None


def _explain(
    payload: bytes | str, wire: Wire, exc: msgspec.ValidationError, known_types: frozenset[str]
) -> CommandError:
    try:
        if wire is Wire.JSON_WS:
            probe = _json_probe.decode(payload)
        else:
            probe = _msgpack_probe.decode(payload if isinstance(payload, bytes) else payload.encode())
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return CommandError("bad_field", str(exc))
    command_id = 0
    if isinstance(probe.id, int) and 0 <= probe.id <= MAX_SAFE_INTEGER:
        command_id = int(probe.id)  # true and false are ints to Python
    if isinstance(probe.type, str) and probe.type not in known_types:
        shown = probe.type[:64]
        return CommandError("unknown_type", f"There is no type {shown!r}.", command_id=command_id)
    return CommandError("bad_field", str(exc), command_id=command_id)


def encode_payload(message: Command | Reply | Event, wire: Wire) -> bytes:
    """Encode without any framing."""
    return (_json_encoder if wire is Wire.JSON_WS else _msgpack_encoder).encode(message)


def encode_frame(message: Reply | Event, wire: Wire) -> bytes:
    """Encode for the server's side of a connection, framing included: ready to be written to the stream."""
    if wire is Wire.MSGPACK_TCP:
        payload = _msgpack_encoder.encode(message)
        return len(payload).to_bytes(4, "big") + payload
    if wire is Wire.JSON_WS:
        return ws_frame(_json_encoder.encode(message), is_text=True)
    return ws_frame(_msgpack_encoder.encode(message), is_text=False)


def ws_frame(payload: bytes, *, is_text: bool) -> bytes:
    """Frame a payload as one unmasked, final WebSocket data frame (RFC 6455 section 5.2)."""
    first = 0x81 if is_text else 0x82
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


class Encoded:
    """One event and its frames, each made when first asked for and shared by all who listen."""

    __slots__ = ("_frames", "event")

    def __init__(self, event: Reply | Event) -> None:
        self.event = event
        self._frames: list[bytes | None] = [None, None, None]

    def frame(self, wire: Wire) -> bytes:
        frame = self._frames[wire]
        if frame is None:
            frame = self._frames[wire] = encode_frame(self.event, wire)
        return frame


def encode_tcp_command(command: Command) -> bytes:
    """Encode a command for the bot protocol, length prefix included."""
    payload = _msgpack_encoder.encode(command)
    return len(payload).to_bytes(4, "big") + payload


class FrameSplitter:
    """Cut a byte stream into payloads behind 4-byte big-endian lengths.

    Feeding byte by byte gives the same payloads as feeding everything at once. Never holds more than one
    frame's worth of bytes beyond what was fed last. A length of 0 is a keep-alive and gives nothing.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._max_frame_bytes = max_frame_bytes

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Return the payloads completed by `data`. Raises: ProtocolError("frame_too_large")."""
        buffer = self._buffer
        buffer += data
        payloads: list[bytes] = []
        start = 0
        while len(buffer) - start >= 4:
            size = int.from_bytes(buffer[start : start + 4], "big")
            if size > self._max_frame_bytes:
                raise ProtocolError(
                    "frame_too_large", f"A frame of {size} bytes; the limit is {self._max_frame_bytes}."
                )
            end = start + 4 + size
            if len(buffer) < end:
                break
            if size:
                payloads.append(bytes(buffer[start + 4 : end]))
            start = end
        if start:
            del buffer[:start]
        return payloads

    @property
    def pending_bytes(self) -> int:
        """How much of an unfinished frame is held."""
        return len(self._buffer)
