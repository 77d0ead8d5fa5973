"""The peer for feeds: replies are taken apart wherever they are cut, and feeds hold what they should."""

from collections.abc import Iterator

import pytest

from bench.feed_graph import from_lines
from bench.feed_target import FeedWorld
from bench.load.loop import Loop
from bench.load.target import Cores, running
from bench.peers.redis_feed import (
    BATCH,
    FIRST_ID,
    Incomplete,
    RedisConnection,
    RedisFeed,
    command,
    fan_out_commands,
    is_installed,
    numbered,
    parse,
)

needs_redis = pytest.mark.skipif(not is_installed(), reason="there is no redis-server here")


def test_commands_are_arrays_of_bulk_strings() -> None:
    """As the protocol's description has it; a length that is off would hang the server."""
    assert command(b"GET", b"post:1") == b"*2\r\n$3\r\nGET\r\n$6\r\npost:1\r\n"


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b":42\r\n", 42),
        (b"+OK\r\n", b"OK"),
        (b"$5\r\na\r\nbc\r\n", b"a\r\nbc"),
        (b"$-1\r\n", None),
        (b"*0\r\n", []),
        (b"*3\r\n$1\r\nx\r\n$-1\r\n:7\r\n", [b"x", None, 7]),
    ],
)
def test_replies_are_read_when_they_are_whole(data: bytes, value: object) -> None:
    """TCP cuts where it likes: of every beginning the parser must say that more is needed."""
    assert parse(b"??" + data, 2) == (value, 2 + len(data))
    for end in range(len(data)):
        with pytest.raises(Incomplete):
            parse(data[:end], 0)


def test_an_error_is_a_value_that_says_so() -> None:
    """It ends the run; it must not pass for a count."""
    value, _ = parse(b"-ERR unknown command\r\n", 0)
    assert isinstance(value, RuntimeError)


def test_feeds_are_filled_in_batches() -> None:
    """200 followers a pipeline, as the usual design does."""
    batches = fan_out_commands([b"feed:%d" % number for number in range(BATCH + 1)])
    assert [size for _, size in batches] == [BATCH, 1]
    filled = numbered(batches[1][0], FIRST_ID)
    assert b"ZADD" in filled
    assert filled.count(b"%d" % FIRST_ID) == 2
    assert b"#" not in filled


@pytest.fixture
def connection() -> Iterator[tuple[Loop, RedisConnection]]:
    """A connection to a Redis of its own."""
    cores = Cores()
    cores.is_pinned = False
    loop = Loop()
    world = FeedWorld(from_lines(["1 2"]))
    with running(RedisFeed, cores, world=world) as target:
        assert isinstance(target, RedisFeed)
        made = RedisConnection(loop, target.port)
        yield loop, made
        made.close()
        loop.close()


@needs_redis
def test_what_is_pushed_is_read_back(connection: tuple[Loop, RedisConnection]) -> None:
    """Short and long replies in one stream, each to who has asked: the figures count these."""
    loop, redis = connection
    done: list[object] = []
    (data, size), *_ = fan_out_commands([b"feed:ann", b"feed:bob"])
    for number in range(3):
        redis.send(command(b"SET", b"post:%d" % number, b"body\r\n"), 1, lambda value, at: None)
        redis.send(numbered(data, FIRST_ID + number), 2 * size, lambda value, at: done.append("pushed"))
        redis.send(command(b"ZREVRANGE", b"feed:bob", b"0", b"1"), 0, lambda value, at: done.append(value))
    redis.send(command(b"MGET", b"post:0", b"post:9"), 0, lambda value, at: done.append(value))
    loop.run_until(lambda: len(done) == 7, timeout_s=10, what="all replies are there")
    ids = [b"%d" % (FIRST_ID + number) for number in range(3)]
    assert done == [
        *("pushed", [ids[0]]),
        *("pushed", [ids[1], ids[0]]),
        *("pushed", [ids[2], ids[1]]),
        [b"body\r\n", None],
    ]


@needs_redis
def test_a_refused_command_ends_the_run(connection: tuple[Loop, RedisConnection]) -> None:
    """Counting an error as an entry would flatter Redis."""
    loop, redis = connection
    redis.send(command(b"ZADD", b"feed:ann", b"x", b"y"), 1, lambda value, at: None)
    with pytest.raises(RuntimeError, match="ERR"):
        loop.run_until(lambda: False, timeout_s=10, what="the reply is there")
