"""Reading a client's WebSocket frames: the rules of RFC 6455, any cut, any bytes, and wsproto's opinion."""

import struct
import sys
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from protocol.errors import ProtocolError
from protocol.limits import MAX_FRAME_BYTES
from server.transport import TransportClosed
from server.ws_frames import (
    MAX_PONGS_BYTES,
    NO_CODE,
    TABLES_FROM_BYTES,
    FrameReader,
    close_frame,
    pong_frame,
)
from tests.strategies import examples

LIMIT_BYTES = 2_000  # small enough to be passed by generated messages
KEY = b"\x37\xfa\x21\x3d"  # the mask of the RFC's examples (section 5.7)


def frame(
    payload: bytes = b"",
    *,
    first: int = 0x81,
    key: bytes = KEY,
    width: int | None = None,
    declared_bytes: int | None = None,
) -> bytes:
    """A client's frame; `width` is how many bytes beyond the second tell the length, the fewest if None."""
    size = len(payload) if declared_bytes is None else declared_bytes
    if width is None:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[width]
    masked = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    return bytes((first, 0x80 | short)) + size.to_bytes(8)[8 - width :] + key + masked


def verdict(ended: TransportClosed | ProtocolError | None) -> object:
    """What a session makes of the end of a stream."""
    return ended.code if ended is not None else None


def read(*reads: bytes, limit_bytes: int = LIMIT_BYTES) -> tuple[list[bytes], object, bytes]:
    """Messages, verdict and pongs of a new reader that is fed these."""
    reader = FrameReader(limit_bytes)
    messages = [message for data in reads for message in reader.feed(data)]
    return messages, verdict(reader.ended), reader.pongs


# -- the rules --------------------------------------------------------------------------------------------

SNOW = "☃".encode()

GOOD: dict[str, tuple[bytes, list[bytes]]] = {
    "5.7 a masked Hello": (bytes.fromhex("818537fa213d7f9f4d5158"), [b"Hello"]),
    "5.7 two fragments": (frame(b"Hel", first=0x01) + frame(b"lo", first=0x80), [b"Hello"]),
    "5.2 no payload": (frame() + frame(first=0x82), [b"", b""]),
    "5.2 the longest 7-bit length": (frame(b"x" * 125), [b"x" * 125]),
    "5.2 the shortest 16-bit length": (frame(b"x" * 126), [b"x" * 126]),
    "5.2 127 bytes are not a 64-bit length": (frame(b"x" * 127), [b"x" * 127]),
    "5.3 each frame has its own mask": (frame(b"ab", key=b"\xff\0\xff\0") + frame(b"cd"), [b"ab", b"cd"]),
    "5.4 control frames between fragments": (
        frame(b"a", first=0x01) + frame(b"?", first=0x8A) + frame(b"b", first=0x00) + frame(first=0x80),
        [b"ab"],
    ),
    "5.4 an empty first fragment": (frame(first=0x01) + frame(b"a", first=0x80), [b"a"]),
    "5.4 nothing but empty fragments": (frame(first=0x02) + frame(first=0) * 99 + frame(first=0x80), [b""]),
    "5.5.3 a pong that nobody asked for": (frame(b"x", first=0x8A) + frame(b"a"), [b"a"]),
    "5.6 binary may be anything": (frame(b"\xff\xfe", first=0x82), [b"\xff\xfe"]),
    "5.6 text beyond ASCII": (frame(SNOW), [SNOW]),
    "5.6 a character across fragments": (frame(SNOW[:1], first=0x01) + frame(SNOW[1:], first=0x80), [SNOW]),
    "5.6 the largest message": (frame(b"x" * LIMIT_BYTES), [b"x" * LIMIT_BYTES]),
}

CLOSES: dict[str, tuple[bytes, object]] = {
    "5.5.1 no code": (b"", NO_CODE),
    "5.5.1 half a code": (b"\x03", "bad_frame"),
    "7.4.1 normal": (struct.pack("!H", 1000), 1000),
    "5.5.1 a reason": (struct.pack("!H", 1001) + SNOW, 1001),
    "5.5.1 a reason that is not UTF-8": (struct.pack("!H", 1001) + SNOW[:2], "not_utf8"),
    "7.4.1 the last before the gap": (struct.pack("!H", 1003), 1003),
    "7.4.1 reserved": (struct.pack("!H", 1004), "bad_frame"),
    "7.4.1 must not be sent: no code": (struct.pack("!H", 1005), "bad_frame"),
    "7.4.1 must not be sent: abnormal": (struct.pack("!H", 1006), "bad_frame"),
    "7.4.1 not UTF-8": (struct.pack("!H", 1007), 1007),
    "11.7 try again later": (struct.pack("!H", 1013), 1013),
    "11.7 not in use": (struct.pack("!H", 1014), "bad_frame"),
    "7.4.1 must not be sent: TLS": (struct.pack("!H", 1015), "bad_frame"),
    "7.4.2 below all": (struct.pack("!H", 999), "bad_frame"),
    "7.4.2 protocol's own": (struct.pack("!H", 2999), "bad_frame"),
    "7.4.2 libraries'": (struct.pack("!H", 3000), 3000),
    "7.4.2 ours": (struct.pack("!H", 4999), 4999),
    "7.4.2 above all": (struct.pack("!H", 5000), "bad_frame"),
}

BAD: dict[str, tuple[bytes, str]] = {
    "5.1 not masked": (b"\x81\x02", "bad_frame"),
    **{f"5.2 reserved bit {bit:#x}": (bytes((0x81 | bit,)), "bad_frame") for bit in (0x10, 0x20, 0x40)},
    **{
        f"5.2 opcode {code}": (bytes((0x80 | code,)), "bad_frame")
        for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    "5.2 125 in 16 bits": (frame(declared_bytes=125, width=2), "bad_frame"),
    "5.2 125 in 16 bits, whole": (frame(b"x" * 125, width=2), "bad_frame"),
    "5.2 65535 in 64 bits": (frame(declared_bytes=65535, width=8), "bad_frame"),
    "5.2 the top bit of 64": (frame(declared_bytes=1 << 63, width=8), "bad_frame"),
    "5.4 a continuation of nothing": (b"\x80", "bad_frame"),
    "5.4 a text in the middle of a text": (frame(b"a", first=0x01) + b"\x81", "bad_frame"),
    "5.4 a binary in the middle of a text": (frame(b"a", first=0x01) + b"\x02", "bad_frame"),
    "5.4 a continuation of a ping": (frame(first=0x89) + b"\x80", "bad_frame"),
    "5.5 a close in fragments": (b"\x08", "bad_frame"),
    "5.5 a ping in fragments": (b"\x09", "bad_frame"),
    "5.5 a pong in fragments": (b"\x0a", "bad_frame"),
    "5.5 a long close": (b"\x88\xfe", "bad_frame"),
    "5.5 a long ping": (b"\x89\xfe", "bad_frame"),
    "5.5 a very long pong": (b"\x8a\xff", "bad_frame"),
    "5.6 not UTF-8": (frame(b"\xff"), "not_utf8"),
    "5.6 half a character": (frame(SNOW[:2]), "not_utf8"),
    "5.6 a surrogate": (frame(b"\xed\xa0\x80"), "not_utf8"),
    "5.6 not UTF-8 in fragments": (frame(SNOW[:2], first=0x01) + frame(b"x", first=0x80), "not_utf8"),
    "10.4 a large message": (frame(declared_bytes=LIMIT_BYTES + 1), "frame_too_large"),
    "10.4 a whole large message": (frame(b"x" * (LIMIT_BYTES + 1)), "frame_too_large"),
    "10.4 a monster": (frame(declared_bytes=1 << 62, width=8), "frame_too_large"),
    "10.4 large over fragments": (
        frame(b"x" * LIMIT_BYTES, first=0x01) + frame(first=0, declared_bytes=1),
        "frame_too_large",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_frames_give_their_messages(name: str) -> None:
    """Clients that keep to the RFC are understood, wherever their bytes are cut."""
    sent, messages = GOOD[name]
    assert read(sent) == (messages, None, b"")
    assert read(*(bytes((byte,)) for byte in sent)) == (messages, None, b"")


@pytest.mark.parametrize("name", CLOSES)
def test_a_close_frame_tells_its_code_or_is_broken(name: str) -> None:
    """The code is logged and decides who closed; what follows the close frame is nothing."""
    payload, expected = CLOSES[name]
    sent = frame(b"before") + frame(payload, first=0x88) + frame(b"after")
    assert read(sent) == ([b"before"], expected, b"")


@pytest.mark.parametrize("name", BAD)
def test_bad_frames_end_the_stream_as_soon_as_they_show(name: str) -> None:
    """Nobody makes the node wait for the rest of what it will not take. What came before is still given."""
    sent, code = BAD[name]
    messages, ended, _pongs = read(frame(b"before") + sent)
    assert (messages, ended) == ([b"before"], code)
    reader = FrameReader(LIMIT_BYTES)
    before = frame(b"before") + sent[:-1]
    for byte in before:
        reader.feed(bytes((byte,)))
    reader.feed(sent[-1:])
    assert verdict(reader.ended) == code
    assert reader.feed(frame(b"after")) == []


@pytest.mark.parametrize(
    "size", [*range(10), TABLES_FROM_BYTES - 1, *(TABLES_FROM_BYTES + n for n in range(5))]
)
@pytest.mark.parametrize("first", [0x81, 0x82])
def test_payloads_of_every_size_are_unmasked(size: int, first: int) -> None:
    """There are two ways to unmask, and the last bytes may be fewer than the mask's four."""
    payload = bytes(at * 7 % 128 for at in range(size))
    assert read(frame(payload, first=first)) == ([payload], None, b"")


@pytest.mark.parametrize("size", [65_535, 65_536, MAX_FRAME_BYTES])
def test_the_longest_lengths_are_understood(size: int) -> None:
    """A text of 100 KB at JSON's worst takes 640 KB."""
    payload = b"x" * size
    assert read(frame(payload), limit_bytes=MAX_FRAME_BYTES) == ([payload], None, b"")


# -- what it holds ----------------------------------------------------------------------------------------


def test_a_ping_is_answered_with_its_own_payload() -> None:
    """Section 5.5.3. A ping may come between fragments, and in the read that also ends the stream."""
    sent = frame(b"a", first=0x01) + frame(b"there?", first=0x89) + frame(b"b", first=0x80) + b"\x80"
    assert read(sent) == ([b"ab"], "bad_frame", b"\x8a\x06there?")
    assert read(frame(first=0x89)) == ([], None, b"\x8a\x00")


def test_a_flood_of_pings_holds_a_few_pongs_and_always_the_last() -> None:
    """Section 5.5.3 lets a server answer only the most recent ping; a peer that does not read its pongs must
    not make us keep them."""
    reader = FrameReader(LIMIT_BYTES)
    for number in range(1000):
        payload = b"%120d" % number
        reader.feed(frame(payload, first=0x89) * 3)
        assert len(reader.pongs) <= MAX_PONGS_BYTES
        assert reader.pongs.endswith(pong_frame(payload))


def test_an_idle_reader_holds_nothing() -> None:
    """Thousands of connections are silent most of the time; what they once received must not stay."""
    reader = FrameReader(LIMIT_BYTES)
    empty_bytes = _held_bytes(reader)
    reader.feed(frame(b"x" * 999)[:500])
    assert _held_bytes(reader) > empty_bytes + 500
    assert reader.feed(frame(b"x" * 999)[500:]) == [b"x" * 999]
    reader.feed(frame(b"x" * 999, first=0x01) + frame(b"y" * 999, first=0x80))
    assert _held_bytes(reader) == empty_bytes


def test_endless_empty_fragments_leave_nothing_behind() -> None:
    """A client may send empty fragments forever; that must cost it more than us."""
    reader = FrameReader(LIMIT_BYTES)
    reader.feed(frame(first=0x01))
    held_bytes = _held_bytes(reader)
    for _ in range(1000):
        reader.feed(frame(first=0x00) * 100)
    assert _held_bytes(reader) == held_bytes
    assert reader.ended is None


def test_one_byte_fragments_are_held_as_bytes_not_as_objects() -> None:
    """The limit of a message is the limit of memory, too, however it is cut."""
    reader = FrameReader(MAX_FRAME_BYTES)
    reader.feed(frame(b"x", first=0x01) + frame(b"x", first=0x00) * 50_000)
    assert _held_bytes(reader) < 50_001 * 1.3


@pytest.mark.parametrize("last", [frame(b"\xff" * 100_000, first=0x80), b"\x81"])
def test_the_end_of_a_stream_holds_nothing_of_it(last: bytes) -> None:
    """A connection that is being closed waits for its peer; what it had received is garbage."""
    reader = FrameReader(MAX_FRAME_BYTES)
    reader.feed(frame(b"x" * 100_000, first=0x01) + last[:-1])
    assert _held_bytes(reader) > 100_000
    reader.feed(last[-1:])
    assert isinstance(reader.ended, ProtocolError)
    assert reader.ended.__traceback__ is None
    assert reader.ended.__context__ is None
    assert _held_bytes(reader) < 1000


def _held_bytes(reader: FrameReader) -> int:
    return sum(sys.getsizeof(getattr(reader, name)) for name in FrameReader.__slots__ if name != "ended")


# -- properties -------------------------------------------------------------------------------------------

keys = st.binary(min_size=4, max_size=4)
payloads = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(str.encode),
    st.integers(0, LIMIT_BYTES + 50).map(lambda size: b"a" * size),
)
first_bytes = st.one_of(
    st.sampled_from([0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A]), st.integers(0, 255)
)
any_frames = st.builds(
    lambda payload, first, key: frame(payload, first=first, key=key), payloads, first_bytes, keys
)


@st.composite
def fragmented(draw: st.DrawFn) -> bytes:
    """A good message in fragments, with control frames between them."""
    parts = draw(st.lists(st.one_of(st.binary(max_size=9), st.sampled_from([b"", b"a" * 600])), min_size=1))
    opcode = draw(st.sampled_from([1, 2]))
    sent = b""
    for at, part in enumerate(parts):
        is_last = at == len(parts) - 1
        first = (0x80 if is_last else 0) | (opcode if at == 0 else 0)
        sent += frame(part, first=first, key=draw(keys))
        if draw(st.booleans()):
            sent += frame(draw(st.binary(max_size=125)), first=draw(st.sampled_from([0x89, 0x8A])))
    return sent


streams = st.lists(st.one_of(any_frames, fragmented(), st.binary(max_size=12)), max_size=8).map(b"".join)


@examples(200, long=3_000)
@given(stream=streams, cuts=st.lists(st.integers(0, 5000), max_size=12))
def test_any_cut_of_any_stream_reads_as_the_whole(stream: bytes, cuts: list[int]) -> None:
    """Networks cut where they like, and neither messages nor verdicts may depend on it."""
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    assert read(*pieces) == read(stream)


@examples(200, long=3_000)
@given(reads=st.lists(st.one_of(st.binary(max_size=300), streams), max_size=6))
def test_any_bytes_at_all_raise_nothing(reads: list[bytes]) -> None:
    """The reader runs in the loop that serves everybody: what goes wrong is told by `ended` alone."""
    reader = FrameReader(LIMIT_BYTES)
    for data in reads:
        assert all(len(message) <= LIMIT_BYTES for message in reader.feed(data))
        assert reader.ended is None or isinstance(reader.ended, TransportClosed | ProtocolError)


# -- wsproto's opinion ------------------------------------------------------------------------------------


def read_by_wsproto(stream: bytes) -> tuple[list[bytes], object]:
    """Messages and verdict, read as this server did before it had a reader of its own."""
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(stream)
    messages: list[bytes] = []
    message = b""
    for event in connection.events():
        if isinstance(event, TextMessage | BytesMessage):
            message += event.data.encode() if isinstance(event, TextMessage) else event.data
            if len(message) > LIMIT_BYTES:
                return messages, "frame_too_large"
            if event.message_finished:
                messages.append(message)
                message = b""
        elif isinstance(event, CloseConnection):
            if connection.state is ConnectionState.REMOTE_CLOSING:
                return messages, int(event.code)
            return messages, "not_utf8" if int(event.code) == 1007 else "bad_frame"
    return messages, None


client_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(TextMessage, data=st.text(max_size=200), message_finished=st.booleans()),
    st.builds(BytesMessage, data=st.binary(max_size=200), message_finished=st.booleans()),
    st.builds(TextMessage, data=st.integers(0, LIMIT_BYTES + 10).map(lambda size: "é" * (size // 2))),
    st.builds(Ping, payload=st.binary(max_size=125)),
    st.builds(Pong, payload=st.binary(max_size=125)),
    st.builds(
        CloseConnection,
        code=st.sampled_from([1000, 1001, 3000, 4000]),
        reason=st.one_of(st.none(), st.text(max_size=30)),
    ),
)


def sent_by_wsproto(events: list[Event]) -> bytes:
    """What a client says with these, as far as they may follow each other; masked at random."""
    connection = Connection(ConnectionType.CLIENT)
    sent = b""
    open_kind: type[Event] | None = None
    for event in events:
        if isinstance(event, TextMessage | BytesMessage):
            if open_kind not in (None, type(event)):
                continue
            open_kind = None if event.message_finished else type(event)
        sent += connection.send(event)
        if isinstance(event, CloseConnection):
            break
    return sent


@examples(200, long=3_000)
@given(events=st.lists(client_events, max_size=12))
def test_what_wsproto_sends_is_read_as_wsproto_reads_it(events: list[Event]) -> None:
    """A real peer's frames, with real masks, give the same messages and the same end."""
    sent = sent_by_wsproto(events)
    messages, ended, _pongs = read(sent)
    assert (messages, ended) == read_by_wsproto(sent)


# Enough for any frame that is still wanted by a reader with our limit, and then for a frame that is broken.
TAIL = b"\0" * (65_536 + LIMIT_BYTES)


@examples(200, long=3_000)
@given(
    events=st.lists(client_events, max_size=6),
    stream=streams,
    flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
)
@example(events=[], stream=frame(b"a", first=0x01) + frame(b"b", first=0x82), flips=[])
@example(events=[], stream=frame(b"\xff", first=0x01) + b"\x82", flips=[])
def test_broken_frames_are_judged_as_wsproto_judges_them(
    events: list[Event], stream: bytes, flips: list[tuple[int, int]]
) -> None:
    """The same messages come out before the same end. Two differences are wanted:

    - UTF-8 is judged when a message is complete, so that something else may end it first;
    - a frame is judged by its head, so that ours may end while wsproto still waits for the payload.
    """
    sent = bytearray(sent_by_wsproto(events) + stream)
    for at, byte in flips:
        if sent:
            sent[at % len(sent)] = byte
    messages, ended, _pongs = read(bytes(sent))
    their_messages, their_end = read_by_wsproto(bytes(sent))
    assert messages == their_messages
    if their_end is None or their_end == "not_utf8":
        # With a tail that no reader takes, wsproto has to come to a verdict as well.
        messages, ended, _pongs = read(bytes(sent) + TAIL)
        their_messages, their_end = read_by_wsproto(bytes(sent) + TAIL)
        assert messages == their_messages
        assert their_end is not None
    assert ended == their_end or (their_end == "not_utf8" and ended is not None)


# -- the server's own control frames ----------------------------------------------------------------------


@given(code=st.sampled_from([1000, 4000, 4999]), reason=st.text(max_size=200))
def test_our_close_is_understood_by_wsproto(code: int, reason: str) -> None:
    """A reason is cut to 123 bytes, never within a character."""
    peer = Connection(ConnectionType.CLIENT)
    peer.receive_data(close_frame(code, reason))
    (event,) = peer.events()
    assert isinstance(event, CloseConnection)
    assert event.code == code
    told = event.reason or ""
    assert reason.startswith(told)
    assert told == reason or len(told.encode()) > 119


@given(payload=st.binary(max_size=125))
def test_our_pong_is_understood_by_wsproto(payload: bytes) -> None:
    """A client matches a pong to its ping by the payload."""
    peer = Connection(ConnectionType.CLIENT)
    peer.receive_data(pong_frame(payload))
    assert list(peer.events()) == [Pong(payload=payload)]
