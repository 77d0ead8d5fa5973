"""Sockets that the poller serves come and go, and their numbers are used again."""

import random
import socket
import struct

import pytest
import trio

from protocol.errors import CloseCode
from protocol.replies import Ok
from server.poller import IS_AVAILABLE
from tests.server.edge import TYPING, open_bot, open_edge

pytestmark = pytest.mark.skipif(not IS_AVAILABLE, reason="no epoll")

RESET = struct.pack("ii", 1, 0)  # struct linger: drop what is unsent


async def test_fds_that_are_reused_while_others_are_aborted() -> None:
    """Connections come and go at random, some aborted by the server, some reset by the client."""
    chance = random.Random(7)
    with trio.fail_after(60):
        async with open_edge(max_connections_per_address=5000, unlimited=("127.0.0.1",)) as edge:

            async def life(number: int) -> None:
                for turn in range(25):
                    bot = await open_bot(edge, f"u{number}", f"d{turn}")
                    stream = bot.stream
                    assert isinstance(stream, trio.SocketStream)
                    for _ in range(chance.randrange(4)):
                        await bot.send(TYPING)
                        got = await bot.receive()
                        assert got == Ok(id=9) or got is None, got
                        if got is None:
                            break
                    match chance.randrange(4):
                        case 0:
                            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                            stream.socket.close()
                        case 1:
                            for session in edge.gateway.sessions_of(f"u{number}"):
                                session.abort(CloseCode.SLOW_CONSUMER)
                        case 2:
                            await stream.send_eof()
                            await bot.rest()
                        case _:
                            for session in edge.gateway.sessions_of(f"u{number}"):
                                session.close(CloseCode.DRAINING)
                            await bot.close_code()
                    stream.socket.close()

            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(life, number)
            await edge.gateway.until_empty()
            assert edge.gateway._poller is not None
            assert edge.gateway._poller._watched == {}
