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


def answer_of(text: str, status: str = "200 OK") -> bytes:
    """What a server says."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


def answering(*connections: list[bytes]) -> tuple[tuple[str, int], threading.Thread]:
    """A server that gives these answers on each connection, in two pieces, and then closes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            for answers in connections:
                with listener.accept()[0] as connection:
                    for answer in answers:
                        assert connection.recv(4096).startswith(b"GET /metrics ")
                        connection.sendall(answer[:30])
                        connection.sendall(answer[30:])

    thread = threading.Thread(target=serve)
    thread.start()
    return listener.getsockname(), thread


def test_an_answer_in_pieces_is_read_whole() -> None:
    """While a run goes on, nobody waits for it: it comes when it comes. One connection does for several."""
    address, thread = answering([answer_of(TEXT), answer_of("hubbub_feed_posts 13\n")])
    loop = Loop()
    counters = Counters(loop, address)
    assert counters.read()["feed_posts"] == 12.0
    assert counters.read()["feed_posts"] == 13.0
    assert not counters.is_asking
    thread.join()
    counters.close()
    loop.close()


def test_an_overloaded_server_is_asked_again() -> None:
    """A node under full load sheds newcomers; the run that loads it must not end by that."""
    address, thread = answering([answer_of("{}", "503 Service Unavailable")], [], [answer_of(TEXT)])
    loop = Loop()
    counters = Counters(loop, address)
    assert counters.read()["feed_posts"] == 12.0
    thread.join()
    counters.close()
    loop.close()


def test_a_refusal_is_not_taken_for_zeros() -> None:
    """Nothing pushed and nothing told are two things."""
    address, thread = answering([answer_of("{}", "403 Forbidden")])
    loop = Loop()
    counters = Counters(loop, address)
    with pytest.raises(Closed, match="403"):
        counters.read()
    thread.join()
    counters.close()
    loop.close()
