"""Redis as the usual news feed: a sorted set per reader, which a worker fills, and bodies as strings.

Only Redis' own part is there. A post is SET, then ZADD and a trim to 800 for each follower, pipelined by 200
(what Mastodon, Stream-Framework and most designs on paper do); a page is ZREVRANGE and MGET. The client
(bench/feed_redis.py) plays the application: it knows all followers by heart, decides nothing, checks no
token, filters nothing, tells nobody of a new post, and leaves hot authors' new posts out without ever merging
them in. So what hubbub does beside has no counterpart here.
"""

import shutil
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from bench.feed_rows import user_id_of
from bench.feed_target import FeedTarget
from bench.load.loop import READABLE, WRITABLE, Loop, now
from bench.load.target import CannotRun
from protocol.limits import FEED_CAP

BATCH: Final = 200  # followers of one pipeline
FIRST_ID: Final = 10**15  # all ids have as many digits
START_TIMEOUT_S: Final = 10.0
_RECEIVE_BYTES: Final = 256 * 1024
_MARK: Final = b"#" * 16  # where a prepared command has the post's id


def is_installed() -> bool:
    """Tell whether there is a redis-server to measure."""
    return shutil.which("redis-server") is not None


def command(*words: bytes) -> bytes:
    """Encode one command (RESP2: an array of bulk strings)."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
    return b"".join(parts)


def key_of(account: int) -> bytes:
    """The key of an account's feed."""
    return b"feed:" + user_id_of(account).encode()


def body_of(post_id: int, author_id: str, text: str) -> bytes:
    """A post as it is stored, with what hubbub's answers have of one."""
    return b'{"post_id":%d,"author_id":"%s","at_ms":1790000000000,"text":"%s","client_id":"p"}' % (
        post_id,
        author_id.encode(),
        text.encode(),
    )


def fan_out_commands(keys: Sequence[bytes]) -> list[tuple[bytes, int]]:
    """The commands that put a post, whose id is left open, into these feeds; by batches, with their sizes."""
    batches = []
    for start in range(0, len(keys), BATCH):
        batch = keys[start : start + BATCH]
        trim = b"%d" % -(FEED_CAP + 1)
        data = b"".join(
            command(b"ZADD", key, _MARK, _MARK) + command(b"ZREMRANGEBYRANK", key, b"0", trim)
            for key in batch
        )
        batches.append((data, len(batch)))
    return batches


def numbered(data: bytes, post_id: int) -> bytes:
    """Fill the id in."""
    return data.replace(_MARK, b"%d" % post_id)


class Incomplete(Exception):
    """A reply is not all there yet."""


def parse(data: bytes, at: int) -> tuple[object, int]:
    """Take one reply apart: bytes, int, None, a list of them, or an Exception as a value; and where it ends.

    Raises: Incomplete.
    """
    end = data.find(b"\r\n", at)
    if end < 0:
        raise Incomplete
    kind, rest, after = data[at : at + 1], data[at + 1 : end], end + 2
    if kind == b":":
        return int(rest), after
    if kind == b"+":
        return rest, after
    if kind == b"-":
        return RuntimeError(rest.decode()), after
    size = int(rest)
    if size < 0:
        return None, after
    if kind == b"$":
        if len(data) < after + size + 2:
            raise Incomplete
        return data[after : after + size], after + size + 2
    if kind != b"*":
        raise ValueError(f"not RESP: {data[at:end]!r}")
    items = []
    for _ in range(size):
        item, after = parse(data, after)
        items.append(item)
    return items, after


class RedisConnection:
    """A connection of the application's pool. Replies come in the order of the commands."""

    def __init__(self, loop: Loop, port: int) -> None:
        self._loop = loop
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._unsent = b""
        self._rest = b""
        # What is awaited: how many short replies (":1"), and what to do then; 0: one long reply, handed on.
        self._awaited: deque[tuple[int, Callable[[object, float], None]]] = deque()
        self._left = 0
        self._loop.watch(self._socket.fileno(), self._on_event)

    def send(self, data: bytes, reply_count: int, on_done: Callable[[object, float], None]) -> None:
        """Send commands with so many short replies; 0: one command with a long reply."""
        self._awaited.append((reply_count, on_done))
        if len(self._awaited) == 1:
            self._left = reply_count
        if self._unsent:
            self._unsent += data
            return
        self._write(data)

    def close(self) -> None:
        self._loop.forget(self._socket.fileno())
        self._socket.close()

    def _write(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            if not self._unsent:
                self._loop.change(self._socket.fileno(), READABLE | WRITABLE)
            self._unsent = data[sent:]
        elif self._unsent:
            self._unsent = b""
            self._loop.change(self._socket.fileno(), READABLE)

    def _on_event(self, events: int) -> None:
        if events & WRITABLE and self._unsent:
            self._write(self._unsent)
        if not events & ~WRITABLE:
            return
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError("redis-server has closed the connection")
        self._take(self._rest + data if self._rest else data, now())

    def _take(self, data: bytes, at: float) -> None:
        place = 0
        awaited = self._awaited
        while place < len(data):
            if not awaited:
                raise RuntimeError(f"a reply that nobody asked for: {data[place : place + 50]!r}")
            count, on_done = awaited[0]
            value: object = None
            if count:
                place, is_done = self._take_short(data, place)
                if not is_done:
                    break
            else:
                try:
                    value, place = parse(data, place)
                except Incomplete:
                    break
                if isinstance(value, Exception):
                    raise value
            awaited.popleft()
            self._left = awaited[0][0] if awaited else 0
            on_done(value, at)
        self._rest = data[place:]

    def _take_short(self, data: bytes, place: int) -> tuple[int, bool]:
        """Count short replies; return where they end, and whether all that were awaited have come."""
        if data.find(b"-", place) >= 0 and b"-ERR" in data[place:]:
            raise RuntimeError(data[data.find(b"-ERR", place) :][:100].decode())
        found = data.count(b"\r\n", place)
        if found < self._left:
            self._left -= found
            end = data.rfind(b"\r\n")
            return (end + 2 if found else place), False
        if found == self._left:
            return data.rfind(b"\r\n") + 2, True
        while self._left:  # something of the next command is there as well
            place = data.find(b"\r\n", place) + 2
            self._left -= 1
        return place, True


class RedisFeed(FeedTarget):
    """redis-server with an append-only file that is synced each second, as is its default."""

    name = "redis"
    wires = ("resp",)
    fsync = "everysec"

    def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise CannotRun("There is no redis-server: apt install redis-server, or --no-peer.")
        data = self.directory / "redis"
        data.mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        words = [program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(data), "--save", ""]
        words += ["--appendonly", "yes", "--appendfsync", self.fsync]
        # Else it would rewrite the file in the middle of a run, on the same core.
        words += ["--auto-aof-rewrite-percentage", "0"]
        log = (self.directory / f"{self.name}.log").open("w")
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, text=True)
        log.close()
        self.cores.pin(process.pid)
        self.processes.append(process)
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > give_up_at:
                    raise CannotRun("redis-server did not start; see its log with --keep.") from None
                time.sleep(0.02)  # another program's start has no event to wait for

    def addresses(self, wire: str) -> list[tuple[str, int]]:
        return [("127.0.0.1", self.port)]


class RedisFeedAlways(RedisFeed):
    """The same, synced before each reply: as durable as hubbub."""

    name = "redis-always"
    fsync = "always"


REDIS: Final[tuple[type[RedisFeed], ...]] = (RedisFeed, RedisFeedAlways)
