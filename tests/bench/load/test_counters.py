"""A server's counters are read as it tells them."""

import socket
import threading

import pytest

from bench.load.client import Closed
from bench.load.counters import Counters, parsed
from bench.load.loop import Loop

TEXT = """# HELP hubbub_feed_posts Posts.
# TYPE hubbub_feed_posts counter
hubbub_feed_posts 12.0
hubbub_commands_total{type="send"} 3.0
python_info 1.0
"""


def test_only_the_servers_own_numbers_are_taken() -> None:
    """By name without the prefix; labels belong to the name."""
    assert parsed(TEXT) == {"feed_posts": 12.0, 'commands_total{type="send"}': 3.0}


def answering(answer: bytes) -> tuple[tuple[str, int], threading.Thread]:
    """A server that gives one answer, in two pieces."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            assert connection.recv(4096).startswith(b"GET /metrics ")
            connection.sendall(answer[:20])
            connection.sendall(answer[20:])

    thread = threading.Thread(target=serve)
    thread.start()
    return listener.getsockname(), thread


def test_an_answer_in_pieces_is_read_whole() -> None:
    """While a run goes on, nobody waits for it: it comes when it comes."""
    address, thread = answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + TEXT.encode())
    loop = Loop()
    counters = Counters(loop, address)
    assert counters.read()["feed_posts"] == 12.0
    assert not counters.is_asking
    thread.join()
    loop.close()


def test_a_refusal_is_not_taken_for_zeros() -> None:
    """Nothing pushed and nothing told are two things."""
    address, thread = answering(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n{}")
    loop = Loop()
    with pytest.raises(Closed, match="403"):
        Counters(loop, address).read()
    thread.join()
    loop.close()
