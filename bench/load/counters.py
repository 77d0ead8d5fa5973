"""A server's own counters, read from /metrics while the load goes on, without waiting for the answer."""

import socket
from collections.abc import Callable
from typing import Final

from bench.load.client import Closed
from bench.load.loop import Loop

PREFIX: Final = "hubbub_"
READ_TIMEOUT_S: Final = 30.0
_RECEIVE_BYTES: Final = 65_536


class Counters:
    """Ask one node for its numbers. One question at a time."""

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
        self._on_done, self._got = on_done, b""
        self._socket = socket.create_connection(self._address, READ_TIMEOUT_S)
        self._socket.sendall(
            f"GET /metrics HTTP/1.1\r\nHost: {self._address[0]}\r\nConnection: close\r\n\r\n".encode()
        )
        self._socket.setblocking(False)
        self._loop.watch(self._socket.fileno(), self._on_event)

    def read(self) -> dict[str, float]:
        """Ask, and run the loop until the answer is there. Raises: Closed, TimedOut."""
        answers: list[dict[str, float]] = []
        self._loop.run_until(lambda: not self.is_asking, timeout_s=READ_TIMEOUT_S, what="counters are read")
        self.ask(answers.append)
        self._loop.run_until(lambda: bool(answers), timeout_s=READ_TIMEOUT_S, what="counters are read")
        return answers[0]

    def close(self) -> None:
        """Await nothing any more."""
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._on_done = None

    def _on_event(self, events: int) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        if data:
            self._got += data
            return
        on_done = self._on_done
        self.close()
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found or b" 200 " not in head.partition(b"\r\n")[0]:
            raise Closed(f"/metrics: {head[:100]!r}")
        if on_done is not None:
            on_done(parsed(body.decode()))


def parsed(text: str) -> dict[str, float]:
    """Read Prometheus' text format: {"feed_posts": 3.0}; labels stay part of the name."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith(PREFIX):
            name, _, value = line.rpartition(" ")
            found[name.removeprefix(PREFIX)] = float(value)
    return found
