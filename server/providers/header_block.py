"""Header blocks of HTTP/2 requests (HPACK, RFC 7541), made for many requests that differ little.

The library's encoder searches its table and Huffman-codes every value, in Python: more than half of what a
request would cost. Here headers that requests share enter the dynamic table once and are then one byte each,
remembered as a whole; what is a request's own is a literal that is never entered. So the table never evicts,
and an index is simple arithmetic. When it is full, it is emptied as a whole by a size update.
"""

from collections.abc import Iterable
from typing import Any, Final

from hpack import Encoder

from server.providers.exchange import Header

# RFC 7541, appendix A: of the static table what we send. Names, and the pairs that are there as a whole.
_NAMES: Final = {
    b":authority": 1, b":path": 4, b"authorization": 23, b"content-encoding": 26, b"content-length": 28,
    b"content-type": 31, b"user-agent": 58,
}  # fmt: skip
_PAIRS: Final = {
    (b":method", b"POST"): b"\x83",
    (b":scheme", b"http"): b"\x86",
    (b":scheme", b"https"): b"\x87",
}
_FIRST_DYNAMIC: Final = 62
_DEFAULT_TABLE_BYTES: Final = 4_096  # SETTINGS_HEADER_TABLE_SIZE until the peer says otherwise
_ENTRY_OVERHEAD_BYTES: Final = 32  # RFC 7541, 4.1
# Many credentials on one connection may need more than the table holds; then some go as literals, as emptying
# it for each request would cost more than it saves.
_BLOCKS_BETWEEN_FLUSHES: Final = 1_000


def _integer(value: int, prefix_bits: int, flags: int) -> bytes:
    """Write an integer, RFC 7541, 5.1."""
    full = (1 << prefix_bits) - 1
    if value < full:
        return bytes((flags | value,))
    out = bytearray((flags | full,))
    value -= full
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _string(value: bytes) -> bytes:
    return _integer(len(value), 7, 0) + value  # without Huffman


def _literal(header: Header, prefix_bits: int, flags: int) -> bytes:
    name, value = header
    index = _NAMES.get(name, 0)
    start = _integer(index, prefix_bits, flags)
    return start + (b"" if index else _string(name)) + _string(value)


class BlockEncoder(Encoder):
    """Stand in for h2's encoder: `load` makes the next block, and h2 takes it when it asks to encode.

    h2 itself needs to see no more of a request than its method. One object per connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self._limit_bytes = _DEFAULT_TABLE_BYTES
        self._used_bytes = 0
        self._entries: dict[Header, int] = {}  # to their position, from the oldest
        self._known: dict[tuple[Header, ...], bytes] = {}  # whole runs of shared headers, as they are now
        self._must_flush = False
        self._blocks_since_flush = _BLOCKS_BETWEEN_FLUSHES
        self._next = b""

    @property
    def header_table_size(self) -> int:
        """What the peer lets us use, in bytes."""
        return self._limit_bytes

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        self._limit_bytes = min(value, _DEFAULT_TABLE_BYTES)
        self._must_flush = True  # a smaller table has to be confirmed at the start of the next block (4.2)

    def load(
        self, head: tuple[Header, ...], path: bytes, static: tuple[Header, ...], own: tuple[Header, ...]
    ) -> None:
        """Make the next block: pseudo-headers `head` and `path`, the shared `static`, the request's `own`."""
        parts = []
        self._blocks_since_flush += 1
        if self._must_flush:
            parts += [b"\x20", _integer(self._limit_bytes, 5, 0x20)]
            self._entries.clear()
            self._known.clear()
            self._used_bytes = 0
            self._blocks_since_flush = 0
            self._must_flush = False
        parts += [self._known.get(head) or self._shared(head), _literal((b":path", path), 4, 0)]
        parts.append(self._known.get(static) or self._shared(static))
        parts += [_literal(header, 4, 0) for header in own]
        self._next = b"".join(parts)

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:
        """Give h2 what was loaded."""
        block, self._next = self._next, b""
        return block

    def _shared(self, headers: tuple[Header, ...]) -> bytes:
        out = bytearray()
        has_grown = False
        for header in headers:
            if pair := _PAIRS.get(header):
                out += pair
            elif (position := self._entries.get(header)) is not None:
                out += _integer(_FIRST_DYNAMIC + len(self._entries) - 1 - position, 7, 0x80)
            elif self._enter(header):
                out += _literal(header, 6, 0x40)
                has_grown = True
            else:
                out += _literal(header, 4, 0)
        if not has_grown and len(self._known) < 64:
            self._known[headers] = bytes(out)
        return bytes(out)

    def _enter(self, header: Header) -> bool:
        size_bytes = len(header[0]) + len(header[1]) + _ENTRY_OVERHEAD_BYTES
        if self._used_bytes + size_bytes > self._limit_bytes:
            if size_bytes <= self._limit_bytes and self._blocks_since_flush >= _BLOCKS_BETWEEN_FLUSHES:
                self._must_flush = True
            return False
        self._entries[header] = len(self._entries)
        self._used_bytes += size_bytes
        self._known.clear()  # all indexes have moved
        return True
