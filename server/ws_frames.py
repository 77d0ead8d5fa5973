"""Read a client's WebSocket frames, and build a server's control frames (RFC 6455 section 5).

Pure: bytes come in, messages go out; no task, no socket, no clock. Most frames of a chat are small, final and
whole in one read, so `FrameReader.feed` has a short way for these; every other frame takes the long way,
`_take_frame`, which is also the one place where the rules stand.

Where the RFC leaves a choice: a length that is not written in its shortest form is refused; the limit is
judged by the length that a frame declares, before its payload is there; UTF-8 is judged when a message is
complete; pings that came faster than pongs were written may share the last pong (section 5.5.3).
"""

import struct
from typing import Final

from protocol.errors import ProtocolError
from server.transport import TransportClosed

MAX_CONTROL_BYTES: Final = 125  # section 5.5
MAX_REASON_BYTES: Final = MAX_CONTROL_BYTES - 2  # of a close frame, behind its code
MAX_PONGS_BYTES: Final = 1024  # held for whoever writes them; past that, only the last ping is answered
NO_CODE: Final = 1005  # what a close frame without a code stands for (section 7.1.5)
# From here on four table look-ups beat one large XOR: at 1,500 bytes by a tenth, at 100 KB by half.
TABLES_FROM_BYTES: Final = 1024

_TEXT: Final = 0x81  # FIN and opcode 1
_BINARY: Final = 0x82
_CLOSE: Final = 0x88
_PING: Final = 0x89
_PONG: Final = 0x8A
_CONTINUATION: Final = 0x80
_WHOLE: Final = (_TEXT, _BINARY)
_FIN: Final = 0x80
_OPCODE: Final = 0x0F
# Section 5.2: no reserved bit and no reserved opcode; section 5.5: control frames are final.
_FIRST_BYTES: Final = frozenset({0x00, 0x01, 0x02, _CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG})
# Codes below 3000 that may be sent: section 7.4.1, and 1012 and 1013 of the registry that section 11.7 opens.
_DEFINED_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1014)})
_XOR_TABLES: Final = tuple(bytes(byte ^ key for byte in range(256)) for key in range(256))


class FrameReader:
    """Cut what one client sends into messages. Feeding byte by byte gives the same as feeding all at once.

    Never holds more than one message and one read. Text is given as bytes, known to be UTF-8: that is what
    the decoder of JSON wants, and half the price of a str where it is not ASCII.

    `pongs` are finished frames that answer the pings met so far; whoever writes them sets it to b"".
    `ended` is why nothing can follow the messages returned so far, None while something can:
    TransportClosed(code) for a close frame, else ProtocolError with bad_frame, not_utf8 or frame_too_large.
    What is fed after that is ignored.
    """

    __slots__ = ("_buffer", "_is_text", "_max_message_bytes", "_message", "_wanted_bytes", "ended", "pongs")

    def __init__(self, max_message_bytes: int) -> None:
        """`max_message_bytes` limits one message, over all its fragments."""
        self._max_message_bytes = max_message_bytes
        self._buffer: bytearray | None = None  # an incomplete frame; None in an idle connection
        self._wanted_bytes = 0  # nothing new can be found before the buffer has these
        self._message: bytearray | None = None  # the fragments so far; empty ones leave nothing behind
        self._is_text = False  # what the fragments are of
        self.pongs = b""
        self.ended: TransportClosed | ProtocolError | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes, in order. Raises nothing: see `ended`."""
        messages: list[bytes] = []
        if self.ended is not None:
            return messages
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._wanted_bytes:
                return messages
            data, self._buffer = bytes(self._buffer), None
        position, size = 0, len(data)
        try:
            while position < size:
                if size - position >= 6 and self._message is None:
                    first, length, start = data[position], data[position + 1] - 0x80, position + 6
                    if length == 126:
                        length, start = int.from_bytes(data[position + 2 : position + 4]), start + 2
                        is_short = length >= 126
                    else:
                        is_short = 0 <= length < 126
                    end = start + length
                    if is_short and end <= size and first in _WHOLE:
                        if length > self._max_message_bytes:
                            raise self._too_large()
                        payload = _unmask(data, start, end)
                        if first == _TEXT and not payload.isascii():
                            _check_utf8(payload)
                        messages.append(payload)
                        position = end
                        continue
                next_position = self._take_frame(data, position, messages)
                if not next_position:
                    self._buffer = bytearray(memoryview(data)[position:])
                    break
                position = next_position
        except (ProtocolError, TransportClosed) as exc:
            self.ended = exc.with_traceback(None)  # it would hold what was read
            self._buffer = self._message = None
        return messages

    def _take_frame(self, data: bytes, position: int, messages: list[bytes]) -> int:
        """Take the frame at `position`, whatever it is; return where the next one begins, 0 if it is
        incomplete.

        Raises: ProtocolError, TransportClosed.
        """
        size = len(data)
        self._wanted_bytes = 0
        first = data[position]
        self._check_first_byte(first)
        if size - position < 2:
            return 0
        length, start = data[position + 1] - 0x80, position + 6
        if length < 0:
            raise _broken("a client's frame must be masked")  # section 5.1
        is_control = first >= _CLOSE
        if is_control and length > MAX_CONTROL_BYTES:
            raise _broken("a control frame has 125 bytes at most")  # section 5.5
        if length >= 126:
            width = 2 if length == 126 else 8
            start += width
            if size < start - 4:
                return 0
            length = int.from_bytes(data[position + 2 : start - 4])
            if length < (126 if width == 2 else 65536) or length >> 63:
                raise _broken("a length must be written in its shortest form, and below 2**63")
        if not is_control:
            held_bytes = 0 if self._message is None else len(self._message)
            if held_bytes + length > self._max_message_bytes:
                raise self._too_large()
        end = start + length
        if size < end:
            self._wanted_bytes = end - position
            return 0
        payload = _unmask(data, start, end)
        if is_control:
            self._take_control(first, payload)
        else:
            self._take_data(first, payload, messages)
        return end

    def _check_first_byte(self, first: int) -> None:
        if first not in _FIRST_BYTES:
            raise _broken(f"no frame begins with {first:#04x}")
        if first < _CLOSE:
            is_continuation = first & _OPCODE == 0
            if is_continuation and self._message is None:
                raise _broken("a continuation of nothing")  # section 5.4
            if not is_continuation and self._message is not None:
                raise _broken("a new message in the middle of another one")  # section 5.4

    def _take_data(self, first: int, payload: bytes, messages: list[bytes]) -> None:
        if self._message is None:
            self._is_text = first & _OPCODE == _TEXT & _OPCODE
            if not first & _FIN:
                self._message = bytearray(payload)
                return
        else:
            self._message += payload
            if not first & _FIN:
                return
            payload, self._message = bytes(self._message), None
        if self._is_text and not payload.isascii():
            _check_utf8(payload)
        messages.append(payload)

    def _take_control(self, first: int, payload: bytes) -> None:
        if first == _PING:
            pong = pong_frame(payload)
            self.pongs = pong if len(self.pongs) + len(pong) > MAX_PONGS_BYTES else self.pongs + pong
        elif first == _CLOSE:
            raise TransportClosed(_close_code(payload))

    def _too_large(self) -> ProtocolError:
        return ProtocolError("frame_too_large", f"A message may have {self._max_message_bytes} bytes.")


def close_frame(code: int, reason: str = "") -> bytes:
    """Build a server's close frame; the reason is cut to whole characters in 123 bytes."""
    text = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()
    return struct.pack("!BBH", _CLOSE, 2 + len(text), code) + text


def pong_frame(payload: bytes) -> bytes:
    """Build a server's answer to a ping of at most 125 bytes."""
    return bytes((_PONG, len(payload))) + payload


def _unmask(data: bytes, start: int, end: int) -> bytes:
    """Return `data[start:end]` without the mask, whose key stands before it (section 5.3)."""
    size = end - start
    if size < TABLES_FROM_BYTES:
        keys = (data[start - 4 : start] * (size // 4 + 1))[:size]
        return (int.from_bytes(data[start:end]) ^ int.from_bytes(keys)).to_bytes(size)
    payload = bytearray(data[start:end])
    for offset in range(4):
        payload[offset::4] = payload[offset::4].translate(_XOR_TABLES[data[start - 4 + offset]])
    return bytes(payload)


def _close_code(payload: bytes) -> int:
    """Return the code that a close frame carries (section 5.5.1). Raises: ProtocolError."""
    if not payload:
        return NO_CODE
    code = int.from_bytes(payload[:2])
    if code not in _DEFINED_CODES and not 3000 <= code < 5000:  # nor is a single byte a code
        raise _broken("a close frame without a proper code")  # section 7.4
    _check_utf8(payload[2:])
    return code


def _check_utf8(payload: bytes) -> None:
    """Raises: ProtocolError("not_utf8") (section 8.1)."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        pass
    else:
        return
    raise ProtocolError("not_utf8")  # not within `except`: the error it came from would hold the payload


def _broken(reason: str) -> ProtocolError:
    return ProtocolError("bad_frame", f"A WebSocket frame was broken: {reason}.")
