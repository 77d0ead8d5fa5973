"""A server's own counters, read from /metrics while the load goes on, without waiting for the answer."""

import re
import socket
from collections.abc import Callable
from typing import Final

from bench.load.client import Closed
from bench.load.loop import Loop, now

PREFIX: Final = "hubbub_"
READ_TIMEOUT_S: Final = 60.0
RETRY_S: Final = 0.5  # after which a server that sheds newcomers, or has closed, is asked again
_RECEIVE_BYTES: Final = 65_536
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Counters:
    """Ask one node for its numbers. One question at a time, over one connection as long as it lasts."""

    def __init__(self, loop: Loop, address: tuple[str, int]) -> None:
        self._loop = loop
        self._address = address
        self._socket: socket.socket | None = None
        self._got = b""
        self._on_done: Callable[[dict[str, float]], None] | None = None

    @property
    def is_asking(self) -> bool:
        """Tell whether an answer is still awaited."""
        return self._on_done is not None

    def ask(self, on_done: Callable[[dict[str, float]], None]) -> None:
        """Ask; the answer goes to `on_done`: names without the prefix, labels included."""
        if self.is_asking:
            raise RuntimeError("the last question is not answered yet")
        self._on_done = on_done
        self._ask()

    def read(self) -> dict[str, float]:
        """Ask, and run the loop until the answer is there. Raises: Closed, TimedOut."""
        answers: list[dict[str, float]] = []
        self._loop.run_until(lambda: not self.is_asking, timeout_s=READ_TIMEOUT_S, what="counters are read")
        self.ask(answers.append)
        self._loop.run_until(lambda: bool(answers), timeout_s=READ_TIMEOUT_S, what="counters are read")
        return answers[0]

    def close(self) -> None:
        """Await nothing any more."""
        self._hang_up()
        self._on_done = None

    def _ask(self) -> None:
        if self._on_done is None:
            return  # closed meanwhile
        self._got = b""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, READ_TIMEOUT_S)
                self._socket.setblocking(False)
                self._loop.watch(self._socket.fileno(), self._on_event)
            self._socket.send(f"GET /metrics HTTP/1.1\r\nHost: {self._address[0]}\r\n\r\n".encode())
        except OSError:
            self._try_again()

    def _on_event(self, events: int) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._try_again()
            return
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return
        status = head.partition(b"\r\n")[0]
        if b" 503 " in status:  # overloaded for the moment
            self._try_again()
            return
        length = _LENGTH.search(head)
        if b" 200 " not in status or length is None:
            raise Closed(f"/metrics: {head[:100]!r}")
        if len(body) >= int(length[1]):
            on_done, self._on_done = self._on_done, None
            if on_done is not None:
                on_done(parsed(body.decode()))

    def _try_again(self) -> None:
        self._hang_up()
        if self.is_asking:
            self._loop.at(now() + RETRY_S, self._ask)

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None


def parsed(text: str) -> dict[str, float]:
    """Read Prometheus' text format: {"feed_posts": 3.0}; labels stay part of the name."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith(PREFIX):
            name, _, value = line.rpartition(" ")
            found[name.removeprefix(PREFIX)] = float(value)
    return found
