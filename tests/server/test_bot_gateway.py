"""The bot port: length-prefixed MessagePack over plain TCP."""

import os

import pytest
import trio

from protocol.codec import encode_tcp_command
from protocol.commands import Hello, Send
from protocol.errors import CloseCode
from protocol.events import Closing
from protocol.limits import MAX_FRAME_BYTES
from protocol.replies import Error, Ok, Sent
from tests.server.edge import HELLO, TYPING, Bot, dial, open_bot, open_edge

pytestmark = pytest.mark.usefixtures("both_pumps")


async def test_commands_fed_byte_by_byte_are_the_commands_fed_whole() -> None:
    """Networks cut where they like."""
    with trio.fail_after(40):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            for byte in encode_tcp_command(TYPING) + b"\0\0\0\0" + encode_tcp_command(TYPING):
                await bot.stream.send_all(bytes((byte,)))
            assert [await bot.receive(), await bot.receive()] == [Ok(id=9), Ok(id=9)]


async def test_commands_sent_together_with_hello_are_carried_out() -> None:
    """A script need not wait for the welcome."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = Bot(await dial(edge))
            await bot.send(
                HELLO, *[Send(id=n, conversation_id="c", client_id=str(n), text="x") for n in (2, 3)]
            )
            await bot.receive()
            answers = [await bot.receive(), await bot.receive()]
            assert [answer.id for answer in answers if isinstance(answer, Sent)] == [2, 3]


@pytest.mark.parametrize(
    ("sent", "error_code", "close_code"),
    [
        ((MAX_FRAME_BYTES + 1).to_bytes(4, "big"), "frame_too_large", CloseCode.FRAME_TOO_LARGE),
        (b"\xff\xff\xff\xff", "frame_too_large", CloseCode.FRAME_TOO_LARGE),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "wrong_transport", CloseCode.BAD_FRAME),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "wrong_transport", CloseCode.BAD_FRAME),
    ],
)
@pytest.mark.parametrize("says_hello", [False, True])
async def test_what_is_no_frame_is_refused_before_it_is_held(
    sent: bytes, error_code: str, close_code: CloseCode, says_hello: bool
) -> None:
    """The length alone decides: nobody makes the node wait for 4 GB."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            if says_hello:
                bot = await open_bot(edge)
                error_code, close_code = "frame_too_large", CloseCode.FRAME_TOO_LARGE
            else:
                bot = Bot(await dial(edge))
            await bot.stream.send_all(sent)
            error, closing = await bot.rest()
            assert isinstance(error, Error)
            assert (error.id, error.code) == (0, error_code)
            assert isinstance(closing, Closing)
            assert closing.code == close_code
            assert closing.reason


async def test_the_largest_frame_is_taken() -> None:
    """A text of 100 KB, all of it escaped, must pass."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            payload = b"\x84\xa4type\xaaset_typing\xa2id\x09\xafconversation_id\xa1c\xa3pad\xc6"
            padding_bytes = MAX_FRAME_BYTES - len(payload) - 4
            payload += padding_bytes.to_bytes(4, "big") + b"x" * padding_bytes
            await bot.stream.send_all(len(payload).to_bytes(4, "big") + payload)
            assert await bot.receive() == Ok(id=9)


async def test_a_drop_in_the_middle_of_a_frame_ends_the_session() -> None:
    """Bots crash at any byte."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            await bot.stream.send_all(encode_tcp_command(TYPING)[:-3])
            await bot.stream.aclose()
            await edge.service.until(lambda: bool(edge.service.closed_sessions))
            await edge.gateway.until_empty()
            assert not edge.metrics.closes


async def test_random_bytes_end_with_a_close_and_never_a_crash() -> None:
    """Any bytes at all give an answer or a close."""
    with trio.fail_after(40):
        async with open_edge() as edge:
            for number in range(60):
                stream = await dial(edge)
                junk = os.urandom(300)
                if number % 2:  # well framed, badly encoded
                    junk = b"".join(len(part).to_bytes(4, "big") + part for part in (junk[:9], junk[9:40]))
                if number % 3:
                    junk = encode_tcp_command(Hello(id=1, token="ann", device_id=f"d{number}")) + junk
                await stream.send_all(junk)
                await stream.send_eof()
                bot = Bot(stream)
                await bot.rest()
            await edge.gateway.until_empty()
            assert CloseCode.INTERNAL not in edge.metrics.closes


async def test_a_bot_that_goes_away_says_nothing_and_leaves_nothing() -> None:
    """The end of a stream is a normal end."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            for _ in range(20):
                bot = await open_bot(edge)
                await bot.stream.aclose()
            await edge.gateway.until_empty()
            assert edge.gateway.stats()["sessions"] == 0
            assert len(edge.service.closed_sessions) == 20
