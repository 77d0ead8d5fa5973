"""The WebSocket transport, against a real client library and against raw bytes."""

import math
import os
import struct
from contextlib import suppress

import pytest
import trio
import trio.testing
import trio_websocket

from protocol.codec import Wire, encode_payload, ws_frame
from protocol.commands import History, Send
from protocol.errors import CloseCode
from protocol.limits import MAX_FRAME_BYTES
from protocol.replies import MessagePage, Sent
from server.session import SessionLimits
from server.websocket import WebSocketTransport
from tests.server.edge import HELLO, TYPING, Edge, browse, dial, open_edge, posted

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: chat.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

pytestmark = pytest.mark.usefixtures("both_pumps")


def frame(
    payload: bytes, *, opcode: int = 1, is_final: bool = True, declared_bytes: int | None = None
) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(payload) if declared_bytes is None else declared_bytes
    first = (0x80 if is_final else 0) | opcode
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + b"\0\0\0\0" + payload


def hello_frame() -> bytes:
    return frame(encode_payload(HELLO, Wire.JSON_WS))


async def raw_websocket(edge: Edge, *, receive_buffer_bytes: int = 0) -> trio.SocketStream:
    """A WebSocket of which the test writes each byte; hello was answered."""
    stream = await dial(edge, is_bot=False, receive_buffer_bytes=receive_buffer_bytes)
    await stream.send_all(UPGRADE + hello_frame())
    received = b""
    while True:
        received += await stream.receive_some(65536)
        head, _blank, rest = received.partition(b"\r\n\r\n")
        frames, left_bytes = _whole_frames(rest)
        if frames and not left_bytes:
            break
    assert head.startswith(b"HTTP/1.1 101")
    assert b'"welcome"' in frames[0][1]
    return stream


async def rest_of(stream: trio.SocketStream) -> bytes:
    """Everything up to the end of the stream; a reset ends it as well."""
    received = b""
    try:
        while data := await stream.receive_some(65536):
            received += data
    except trio.BrokenResourceError:
        pass
    return received


def close_code_of(received: bytes) -> int:
    """The code of the close frame that ends a server's bytes."""
    at = received.rindex(b"\x88")
    return int.from_bytes(received[at + 2 : at + 4], "big")


@pytest.mark.parametrize(
    ("offered", "chosen", "wire"),
    [
        (["hubbub.json"], "hubbub.json", Wire.JSON_WS),
        (["hubbub.msgpack", "hubbub.json"], "hubbub.msgpack", Wire.MSGPACK_WS),
        (["other", "hubbub.msgpack"], "hubbub.msgpack", Wire.MSGPACK_WS),
        ([], None, Wire.JSON_WS),
        (["other"], None, Wire.JSON_WS),
    ],
)
async def test_the_first_known_subprotocol_is_spoken_and_json_where_none_is(
    offered: list[str], chosen: str | None, wire: Wire
) -> None:
    """Browsers and apps choose their encoding by subprotocol; `wscat` offers none and must work too."""
    with trio.fail_after(30):
        async with open_edge() as edge, browse(edge, subprotocols=offered, wire=wire, hello=HELLO) as browser:
            assert browser.socket.subprotocol == chosen
            await browser.send(Send(id=2, conversation_id="c1", client_id="m", text="héllo ☃"))
            assert isinstance(await browser.receive(), Sent)
            edge.service.opened[0].push(posted(1), "c1", 1)
            assert await browser.receive() == posted(1).event


async def test_many_frames_written_at_once_arrive_one_by_one() -> None:
    """Coalesced writes must be invisible to a client."""
    with trio.fail_after(30):
        async with open_edge() as edge, browse(edge, hello=HELLO) as browser:
            session = edge.service.opened[0]
            events = [posted(seq, "x" * (seq * 37 % 3000)) for seq in range(1, 150)]
            for seq, event in enumerate(events, 1):
                assert session.push(event, "c1", seq)
            for event in events:
                assert await browser.receive() == event.event


async def test_a_page_larger_than_one_write_arrives_whole() -> None:
    """A 192 KiB page is written in pieces, so that a slow link is judged by progress."""
    with trio.fail_after(30):
        async with open_edge() as edge, browse(edge, hello=HELLO) as browser:
            await browser.send(History(id=4, conversation_id="c1"))
            page = await browser.receive()
            assert isinstance(page, MessagePage)
            assert len(page.items[0].text) > 190_000


async def test_a_frame_fed_byte_by_byte_equals_the_frame_fed_whole() -> None:
    """Networks cut where they like."""
    with trio.fail_after(40):
        async with open_edge() as edge:
            stream = await raw_websocket(edge)
            for byte in frame(encode_payload(TYPING, Wire.JSON_WS)):
                await stream.send_all(bytes((byte,)))
            assert b'"id":9' in await stream.receive_some(65536)


async def test_fragments_are_joined_and_pings_between_them_answered() -> None:
    """RFC 6455 section 5.4: control frames may come in the middle of a fragmented message."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            stream = await raw_websocket(edge)
            payload = encode_payload(TYPING, Wire.JSON_WS)
            parts = [frame(payload[:5], is_final=False)]
            parts += [frame(payload[at : at + 1], opcode=0, is_final=False) for at in range(5, len(payload))]
            parts += [frame(b"", opcode=0, is_final=False)] * 300
            await stream.send_all(b"".join([*parts, frame(b"are you there", opcode=9), frame(b"", opcode=0)]))
            received = b""
            while b'"id":9' not in received:
                received += await stream.receive_some(65536)
            assert b"\x8a\x0dare you there" in received


@pytest.mark.parametrize(
    ("sent", "error_code", "close_code"),
    [
        (frame(b"\xff\xfe\xfd"), b"not_utf8", CloseCode.BAD_FRAME),
        (frame(b"{}", opcode=3), b"bad_frame", CloseCode.BAD_FRAME),
        (b"\x81\x02{}", b"bad_frame", CloseCode.BAD_FRAME),  # not masked
        (frame(b"x" * 126, opcode=9), b"bad_frame", CloseCode.BAD_FRAME),
        (frame(b"x", opcode=0), b"bad_frame", CloseCode.BAD_FRAME),  # a continuation of nothing
    ],
)
async def test_broken_framing_gets_an_error_and_a_close_that_says_stop(
    sent: bytes, error_code: bytes, close_code: CloseCode
) -> None:
    """A client that breaks the language would do it again: 45xx tells it not to reconnect."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            stream = await raw_websocket(edge)
            await stream.send_all(frame(encode_payload(TYPING, Wire.JSON_WS)) + sent)
            received = await rest_of(stream)
            assert b'"id":9' in received  # what came before is still answered
            assert b'"code":"' + error_code in received
            assert close_code_of(received) == close_code


@pytest.mark.parametrize("is_fragmented", [False, True])
async def test_a_megabyte_frame_is_refused_before_it_is_complete(is_fragmented: bool) -> None:
    """Nobody makes the node hold a message that it will not take."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            stream = await raw_websocket(edge)
            sent_bytes = 0
            piece = b"x" * 16384
            received = b""

            async def read() -> None:
                nonlocal received
                received = await rest_of(stream)
                nursery.cancel_scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                try:
                    if is_fragmented:
                        await stream.send_all(frame(b"x", is_final=False))
                    else:
                        await stream.send_all(frame(b"", declared_bytes=1 << 40))
                    while True:
                        data = frame(piece, opcode=0, is_final=False) if is_fragmented else piece
                        await stream.send_all(data)
                        sent_bytes += len(piece)
                        if sent_bytes > MAX_FRAME_BYTES:
                            break  # the close comes although the message is not complete
                except trio.BrokenResourceError:
                    pass  # it came already
            assert b'"code":"frame_too_large"' in received
            assert close_code_of(received) == CloseCode.FRAME_TOO_LARGE


async def test_a_text_of_the_largest_size_is_taken() -> None:
    """The limit counts bytes as the client sent them, not characters."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            stream = await raw_websocket(edge)
            whole = b'{"type":"set_typing","id":9,"conversation_id":"c1","pad":""}'
            snow = "☃".encode()
            padding = b"x" * ((MAX_FRAME_BYTES - len(whole)) % 3) + snow * (
                (MAX_FRAME_BYTES - len(whole)) // 3
            )
            exact = whole.replace(b'""', b'"' + padding + b'"')
            assert len(exact) == MAX_FRAME_BYTES
            await stream.send_all(frame(exact))
            assert b'"id":9' in await stream.receive_some(65536)
            await stream.send_all(frame(exact.replace(b'"pad"', b'"padd"')))
            assert close_code_of(await rest_of(stream)) == CloseCode.FRAME_TOO_LARGE


async def test_a_client_that_closes_gets_its_close_answered() -> None:
    """A browser's close() must not hang until a time-out."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            async with browse(edge, hello=HELLO) as browser:
                await browser.socket.aclose(1000)
            await edge.service.until(lambda: bool(edge.service.closed_sessions))
            stream = await raw_websocket(edge)
            await stream.send_all(frame(struct.pack("!H", 1001), opcode=8))
            assert b"\x88" in await rest_of(stream)


async def test_a_drop_in_the_middle_of_a_frame_ends_the_session() -> None:
    """Phones lose their network at any byte."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            stream = await raw_websocket(edge)
            await stream.send_all(frame(b"x" * 1000)[:500])
            stream.socket.close()
            await edge.service.until(lambda: bool(edge.service.closed_sessions))


async def test_the_close_code_reaches_a_client_that_is_still_sending() -> None:
    """A close must not become a reset just because the client's last bytes were not read."""
    with trio.fail_after(30):
        async with (
            open_edge() as edge,
            browse(edge, hello=HELLO) as browser,
            trio.open_nursery() as nursery,
        ):

            async def flood() -> None:
                with suppress(trio_websocket.ConnectionClosed):
                    while True:
                        await browser.send(Send(conversation_id="held", client_id="m", text="x" * 1000))

            nursery.start_soon(flood)
            await edge.service.until(lambda: len(edge.service.held) == 32)
            edge.service.opened[0].close(CloseCode.MOVED)
            assert await browser.close_code() == CloseCode.MOVED


async def test_a_write_that_was_cut_short_is_never_continued() -> None:
    """Half a frame and then another one would be garbage: the connection is dropped instead."""
    with trio.fail_after(30):
        async with open_edge(session=SessionLimits(flush_timeout_s=0.2)) as edge:
            stream = await raw_websocket(edge, receive_buffer_bytes=4096)
            asked = [
                encode_payload(History(id=number, conversation_id="c1"), Wire.JSON_WS)
                for number in range(1, 99)
            ]
            await stream.send_all(b"".join(frame(payload) for payload in asked))
            session = edge.service.opened[0]
            # Everything comes to a stand: the writer in the middle of a page, the next one in the outbox.
            await edge.service.until(lambda: len(edge.service.commands) >= 2)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert session.outbox_bytes > 0
            session.close(CloseCode.MOVED)
            await edge.gateway.until_empty()
            received = await rest_of(stream)
            frames, torn_bytes = _whole_frames(received)
            assert torn_bytes > 0
            assert {first for first, _payload in frames} <= {0x81}, "no close frame inside a torn page"


def _whole_frames(received: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """First bytes and payloads of the whole frames, and how many bytes are left over."""
    frames: list[tuple[int, bytes]] = []
    while len(received) >= 2:
        size, start = received[1], 2
        if size == 126:
            size, start = int.from_bytes(received[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(received[2:10], "big"), 10
        if len(received) < start + size:
            break
        frames.append((received[0], received[start : start + size]))
        received = received[start + size :]
    return frames, len(received)


async def test_random_bytes_end_with_a_close_and_never_a_crash() -> None:
    """Any bytes at all give an answer or a close."""
    with trio.fail_after(40):
        async with open_edge() as edge:
            for _ in range(50):
                stream = await raw_websocket(edge)
                await stream.send_all(os.urandom(200))
                await stream.send_eof()
                await rest_of(stream)
            await edge.gateway.until_empty()
            assert CloseCode.INTERNAL not in edge.metrics.closes


@pytest.mark.parametrize(
    ("headers", "is_allowed"),
    [
        ([], True),
        ([(b"Origin", b"http://127.0.0.1:%d")], True),
        ([(b"Origin", b"https://app.example")], True),
        ([(b"Origin", b"https://chat.example")], True),
        ([(b"Origin", b"http://10.0.0.7:8080")], True),
        ([(b"Origin", b"https://evil.example")], False),
        ([(b"Origin", b"http://127.0.0.1:1")], False),
        ([(b"Origin", b"null")], False),
    ],
)
async def test_only_pages_of_known_origins_may_connect(
    headers: list[tuple[bytes, bytes]], is_allowed: bool
) -> None:
    """Another site's page must not open a socket with its visitor's network position."""
    with trio.fail_after(30):
        async with open_edge(
            origins=("https://app.example",),
            public_url="https://chat.example/",
            cluster_origins=lambda: {"http://10.0.0.7:8080"},
        ) as edge:
            sent = [(name, value.replace(b"%d", str(edge.port).encode())) for name, value in headers]
            if is_allowed:
                async with browse(edge, headers=sent, hello=HELLO):
                    return
            stream = await dial(edge, is_bot=False)
            origin = b"".join(b"%b: %b\r\n" % header for header in sent)
            await stream.send_all(UPGRADE.replace(b"Host:", origin + b"Host:"))
            answer = await rest_of(stream)
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert b'"code":"origin_refused"' in answer
            assert edge.metrics.handshake_failures["origin_refused"] == 1


async def test_pings_that_come_while_a_page_is_written_are_answered_behind_it() -> None:
    """A pong inside a page would break the stream; a reader that waited for the page would not read."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            stream = await raw_websocket(edge, receive_buffer_bytes=4096)
            await stream.send_all(frame(encode_payload(History(id=4, conversation_id="c1"), Wire.JSON_WS)))
            await trio.testing.wait_all_tasks_blocked(0.05)
            transport = edge.service.opened[0]._transport
            assert transport.write_blocked_since < trio.current_time(), "the page is stuck half way"
            for number in range(1000):  # they must not be kept while nobody can write them
                await stream.send_all(frame(b"%125d" % number, opcode=9))
            await stream.send_all(frame(encode_payload(TYPING, Wire.JSON_WS)))
            await edge.service.until(lambda: len(edge.service.commands) == 2)
            received = b""
            frames: list[tuple[int, bytes]] = []
            while [first for first, _payload in frames].count(0x81) < 2:
                received += await stream.receive_some(65536)
                frames, _left_bytes = _whole_frames(received)
            assert b'"messages"' in frames[0][1][:20]
            pongs = [payload for first, payload in frames if first == 0x8A]
            assert pongs[-1] == b"%125d" % 999
            assert len(pongs) < 100


async def test_the_writer_waits_for_the_pong_that_the_reader_writes() -> None:
    """Two tasks write to one stream: the frames of each stay whole, and neither is lost."""
    with trio.fail_after(30):
        ours, theirs = trio.socket.socketpair()
        with theirs:
            ours.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 4096)
            transport = WebSocketTransport(trio.SocketStream(ours), Wire.JSON_WS, b"")
            filler_bytes = 0
            with suppress(BlockingIOError):
                while True:  # ends when the kernel takes no more
                    filler_bytes += os.write(ours.fileno(), b"f" * 4096)
            received = b""
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.receive)
                await theirs.send(frame(b"ping", opcode=9))
                await trio.testing.wait_all_tasks_blocked()
                assert transport.write_blocked_since < math.inf, "the pong is stuck"
                nursery.start_soon(transport.send_raw, ws_frame(b"page", is_text=True))
                await trio.testing.wait_all_tasks_blocked()
                while len(received) < filler_bytes + 12:
                    received += await theirs.recv(65536)
                assert received[filler_bytes:] == b"\x8a\x04ping" + b"\x81\x04page"
                nursery.cancel_scope.cancel()
            transport.abort()
