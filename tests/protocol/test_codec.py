"""The codecs and the framing keep their promises for any bytes at all."""

import json
import struct
import tracemalloc
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage

from protocol import (
    CODES,
    Command,
    CommandError,
    Encoded,
    FrameSplitter,
    HubbubError,
    ProtocolError,
    Wire,
    decode_command,
    decode_server,
    encode_frame,
    encode_payload,
    encode_tcp_command,
)
from protocol.codec import ws_frame
from protocol.commands import Send
from protocol.limits import MAX_FILES, MAX_FRAME_BYTES, MAX_IDS, MAX_MENTIONS, MAX_TEXT_BYTES
from protocol.reference import COMMANDS, EVENTS, REPLIES, tag_of
from tests import strategies
from tests.strategies import examples

BOTH_CODECS = (Wire.JSON_WS, Wire.MSGPACK_WS)
DECODE_CODES = {"bad_frame", "unknown_type", "bad_field"}

by_name = pytest.mark.parametrize("kind", [*COMMANDS, *REPLIES, *EVENTS], ids=lambda kind: kind.__name__)
by_codec = pytest.mark.parametrize("wire", BOTH_CODECS, ids=lambda wire: wire.name)


def decode(kind: type[msgspec.Struct], payload: bytes | str, wire: Wire) -> object:
    return decode_command(payload, wire) if kind in COMMANDS else decode_server(payload, wire)


def outcome(payload: bytes | str, wire: Wire) -> Command | str:
    """Decode as a gateway does: a command, or the stable code of the refusal."""
    try:
        command = decode_command(payload, wire)
    except CommandError as exc:
        assert exc.code in DECODE_CODES
        assert exc.message
        assert 0 <= exc.command_id < 2**53
        return exc.code
    assert type(command) in COMMANDS
    return command


@by_name
@given(data=st.data())
@examples(15, long=1_000)
def test_every_type_round_trips_in_both_codecs(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    """Bots and browsers in one conversation see the same thing."""
    value = data.draw(strategies.structs(kind))
    for wire in BOTH_CODECS:
        assert decode(kind, encode_payload(value, wire), wire) == value
    as_text = encode_payload(value, Wire.JSON_WS).decode()
    assert decode(kind, as_text, Wire.JSON_WS) == value


@by_codec
@given(data=st.data())
@examples(200, long=20_000)
def test_any_bytes_give_a_command_or_a_stable_code(wire: Wire, data: st.DataObject) -> None:
    """A gateway lets nothing but these two out of the decoder, whatever a peer sends."""
    outcome(data.draw(st.binary(max_size=300)), wire)


@given(text=st.text(st.characters(), max_size=300))
@examples(200, long=20_000)
def test_any_text_gives_a_command_or_a_stable_code(text: str) -> None:
    """Lone surrogates included: a text frame's content is not always encodable."""
    outcome(text, Wire.JSON_WS)
    outcome(text, Wire.MSGPACK_WS)


@by_codec
@given(data=st.data())
@examples(300, long=20_000)
def test_a_damaged_command_gives_a_command_or_a_stable_code(wire: Wire, data: st.DataObject) -> None:
    """Close to valid is where decoders break: a flipped length, a cut string, a doubled field."""
    outcome(data.draw(strategies.damaged_commands(wire)), wire)


@given(fields=strategies.almost_commands())
@examples(300, long=20_000)
def test_known_fields_with_any_values_are_decoded_or_refused_as_bad_fields(fields: dict[str, Any]) -> None:
    """A client's author learns that a field is wrong, not that the frame is broken."""
    assert outcome(msgspec.json.encode(fields), Wire.JSON_WS) not in ("bad_frame", "unknown_type")
    assert outcome(msgspec.msgpack.encode(fields), Wire.MSGPACK_WS) not in ("bad_frame", "unknown_type")


@by_codec
@given(data=st.data())
@examples(200, long=20_000)
def test_a_client_survives_any_bytes_from_a_server(wire: Wire, data: st.DataObject) -> None:
    """The SDK reads through the same door and trusts the same promise."""
    payload = data.draw(st.binary(max_size=200) | strategies.damaged_commands(wire))
    try:
        message = decode_server(payload, wire)
    except CommandError as exc:
        assert exc.code in DECODE_CODES
    else:
        assert type(message) in (*REPLIES, *EVENTS)


@by_codec
@pytest.mark.parametrize(
    "unit", [pytest.param((b"[", b"\x91"), id="lists"), pytest.param((b'{"a":', b"\x81\xa1a"), id="objects")]
)
@pytest.mark.parametrize("known_type", [False, True])
def test_deep_nesting_is_a_bad_frame(wire: Wire, unit: tuple[bytes, bytes], known_type: bool) -> None:
    """A stack overflow would take the node and everybody on it."""
    if wire is Wire.JSON_WS:
        head, one = (b'{"type":"heartbeat","x":' if known_type else b""), unit[0]
    else:
        head, one = (b"\x82\xa4type\xa9heartbeat\xa1x" if known_type else b""), unit[1]
    payload = head + one * (MAX_FRAME_BYTES // len(one))
    assert outcome(payload, wire) in ("bad_frame", "bad_field")


@pytest.mark.parametrize(
    "tail",
    [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"],
)
@pytest.mark.parametrize("name", [b"cursors", b"unheard"])
def test_a_length_without_content_reserves_no_memory(tail: bytes, name: bytes) -> None:
    """Five bytes that promise four billion items are refused before a single one is allocated."""
    payload = b"\x82\xa4type\xa9heartbeat\xa7" + name + tail
    outcome(payload, Wire.MSGPACK_TCP)  # warm caches first
    tracemalloc.start()
    try:
        assert outcome(payload, Wire.MSGPACK_TCP) in ("bad_frame", "bad_field")
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


@by_codec
@pytest.mark.parametrize(
    "unknown",
    [
        {"type": "teleport", "id": 7},
        {"type": "", "id": 7},
        {"id": 7},
        {"type": "message", "id": 7},  # an event is no command
        {"type": "x" * 10_000, "id": 7},
    ],
)
def test_an_unknown_type_is_named_and_answered_by_id(wire: Wire, unknown: dict[str, Any]) -> None:
    """A newer client on an older server learns what it cannot do there, and stays connected."""
    payload = encode_any(unknown, wire)
    with pytest.raises(CommandError) as caught:
        decode_command(payload, wire)
    assert (caught.value.code, caught.value.command_id) == ("unknown_type", 7)
    assert len(caught.value.message) < 200


@by_codec
@given(extra=strategies.json_values, data=st.data())
@examples(100, long=10_000)
def test_unknown_fields_are_skipped(wire: Wire, extra: Any, data: st.DataObject) -> None:
    """Schemas only grow: an older reader takes a newer writer's frame for what it knows of it."""
    value = data.draw(strategies.commands() | strategies.server_messages())
    fields = msgspec.to_builtins(value)
    fields["a_field_of_the_next_version"] = extra
    assert decode(type(value), encode_any(fields, wire), wire) == value


@by_codec
@given(message=st.data())
@examples(30, long=1_000)
def test_a_client_can_tell_a_newer_servers_types_apart_from_broken_ones(
    wire: Wire, message: st.DataObject
) -> None:
    """During a rolling upgrade a client skips what it does not know, and resyncs on nothing."""
    fields = msgspec.to_builtins(message.draw(strategies.structs(*EVENTS)))
    fields["type"] = "of_the_next_version"
    with pytest.raises(CommandError) as caught:
        decode_server(encode_any(fields, wire), wire)
    assert caught.value.code == "unknown_type"


@by_codec
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"type": "get_conversation", "conversation_id": "c1\n"}, id="newline after an id"),
        pytest.param({"type": "get_conversation", "conversation_id": ""}, id="empty id"),
        pytest.param({"type": "get_conversation", "conversation_id": "a" * 65}, id="long id"),
        pytest.param({"type": "get_conversation", "conversation_id": "ä"}, id="foreign letters in an id"),
        pytest.param({"type": "get_conversation"}, id="field missing"),
        pytest.param({"type": "get_conversation", "conversation_id": None}, id="null for a string"),
        pytest.param({"type": "sync", "conversation_id": "c1", "after": -1}, id="negative cursor"),
        pytest.param({"type": "sync", "conversation_id": "c1", "after": 2**53}, id="not exact in JavaScript"),
        pytest.param({"type": "sync", "conversation_id": "c1", "after": True}, id="boolean for a number"),
        pytest.param({"type": "sync", "conversation_id": "c1", "limit": 501}, id="page too long"),
        pytest.param({"type": "get_users", "user_ids": ["u"] * (MAX_IDS + 1)}, id="too many ids"),
        pytest.param(
            {"type": "set_role", "conversation_id": "c", "user_id": "u", "role": "king"}, id="no such role"
        ),
    ],
)
def test_a_field_outside_its_limits_is_refused_by_name(wire: Wire, fields: dict[str, Any]) -> None:
    """The rules behind the decoder rely on the limits; the client is told which field it was."""
    with pytest.raises(CommandError) as caught:
        decode_command(encode_any({"id": 9, **fields}, wire), wire)
    assert (caught.value.code, caught.value.command_id) == ("bad_field", 9)
    assert "`" in caught.value.message


@given(payloads=st.lists(st.binary(max_size=60), max_size=6), data=st.data())
@examples(200, long=20_000)
def test_a_stream_in_pieces_gives_the_payloads_of_the_stream_fed_whole(
    payloads: list[bytes], data: st.DataObject
) -> None:
    """TCP cuts where it likes, byte by byte at worst."""
    stream = b"".join(len(payload).to_bytes(4, "big") + payload for payload in payloads)
    expected = [payload for payload in payloads if payload]  # a length of 0 is a keep-alive
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=5).map(sorted))
    pieces = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
    for parts in ([stream], pieces, [bytes([byte]) for byte in stream]):
        splitter = FrameSplitter()
        assert [payload for part in parts for payload in splitter.feed(part)] == expected
        assert splitter.pending_bytes == 0


@given(command=strategies.commands())
@examples(100, long=10_000)
def test_a_command_fed_byte_by_byte_is_the_command_fed_whole(command: Command) -> None:
    """A bot on a bad line says the same as one on a good line."""
    splitter = FrameSplitter()
    frame = encode_tcp_command(command)
    payloads = [payload for byte in frame for payload in splitter.feed(bytes([byte]))]
    assert [decode_command(payload, Wire.MSGPACK_TCP) for payload in payloads] == [command]


@given(stream=st.binary(max_size=400), step=st.integers(1, 50))
@examples(300, long=20_000)
def test_any_bytes_on_the_bot_port_give_payloads_or_a_stable_code(stream: bytes, step: int) -> None:
    """A port scanner, a browser or a lost bot on the bot port is refused, and holds no memory."""
    splitter = FrameSplitter(max_frame_bytes=100)
    try:
        for at in range(0, len(stream), step):
            for payload in splitter.feed(stream[at : at + step]):
                outcome(payload, Wire.MSGPACK_TCP)
            assert splitter.pending_bytes < 4 + 100
    except HubbubError as exc:
        assert exc.code == "frame_too_large"


@pytest.mark.parametrize("char", ["\0", "\x1f", '"', "й", "€", "🐝"])
def test_a_text_of_100_kb_fits_a_frame_however_it_is_escaped(char: str) -> None:
    """Clients whose JSON is ASCII only, as Python's is; every id in the envelope is as long as it may be."""
    text = char * (MAX_TEXT_BYTES // len(char.encode()))
    fields = {
        "type": "send",
        "id": 2**53 - 1,
        "conversation_id": "c" * 64,
        "client_id": "\0" * 64,
        "reply_to": 2**53 - 1,
        "thread": 2**53 - 1,
        "mentions": ["u" * 64] * MAX_MENTIONS,
        "file_ids": ["f" * 64] * MAX_FILES,
    }
    payload = json.dumps({**fields, "text": text}, indent=4)
    assert len(payload.encode()) <= MAX_FRAME_BYTES
    assert decode_command(payload, Wire.JSON_WS) == msgspec.convert({**fields, "text": text}, Send)


def test_a_frame_above_the_limit_is_refused_by_its_length_alone() -> None:
    """Nobody can make the node buffer more than one frame."""
    assert FrameSplitter().feed((MAX_FRAME_BYTES).to_bytes(4, "big")) == []
    with pytest.raises(ProtocolError) as caught:
        FrameSplitter().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    assert caught.value.code == "frame_too_large"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_a_server_frame_is_one_that_a_websocket_client_reads(size: int) -> None:
    """Frames are made once for all sessions by our own code, so wsproto, a real peer, must agree with it."""
    for is_text in (True, False):
        payload = b"x" * size
        client = Connection(ConnectionType.CLIENT)
        client.receive_data(ws_frame(payload, is_text=is_text))
        parts = list(client.events())
        assert all(isinstance(part, TextMessage if is_text else BytesMessage) for part in parts)
        received = [part.data for part in parts if isinstance(part, TextMessage | BytesMessage)]
        assert sum(map(len, received)) == size
        assert isinstance(parts[-1], TextMessage | BytesMessage)
        assert parts[-1].message_finished


@given(message=strategies.server_messages())
@examples(50, long=2_000)
def test_an_encoded_event_is_framed_once_and_alike_for_all(message: Any) -> None:
    """Fan-out to 500 members costs one encoding for each kind of connection."""
    encoded = Encoded(message)
    for wire in Wire:
        frame = encoded.frame(wire)
        assert frame == encode_frame(message, wire)
        assert encoded.frame(wire) is frame
    (size,) = struct.unpack_from("!I", encoded.frame(Wire.MSGPACK_TCP))
    assert decode_server(encoded.frame(Wire.MSGPACK_TCP)[4 : 4 + size], Wire.MSGPACK_TCP) == message


def test_tags_name_one_type_each() -> None:
    """A payload's `type` alone says what it is, in either direction."""
    assert len({tag_of(kind) for kind in COMMANDS}) == len(COMMANDS)
    assert len({tag_of(kind) for kind in (*REPLIES, *EVENTS)}) == len(REPLIES) + len(EVENTS)


def test_the_decoders_codes_are_documented() -> None:
    """What a client meets, it can look up."""
    assert set(CODES) > DECODE_CODES


def encode_any(fields: dict[str, Any], wire: Wire) -> bytes:
    return msgspec.json.encode(fields) if wire is Wire.JSON_WS else msgspec.msgpack.encode(fields)
