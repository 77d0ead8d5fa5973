"""Connections of the load generator: each is one device of one user."""

import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from bench.load.loop import READABLE, WRITABLE, Loop, now
from bench.load.wires import Got, WireFormat, encoded
from protocol.commands import Command, Hello
from protocol.errors import CloseCode

RECEIVE_BYTES: Final = 256 * 1024  # one read takes what a server has coalesced
OPENING_AT_ONCE: Final = 64  # connections on their way in; a listening socket's queue holds more
SHED_RETRY_S: Final = 2.0  # after which a server that is overloaded asks to be tried again
_SHED: Final = ("HTTP/1.1 503 ", f"closing {CloseCode.OVERLOADED:d}")
_NEW, _UPGRADING, _GREETING, _OPEN, _CLOSED = range(5)


class Closed(Exception):
    """The server ended a connection on which something was still awaited."""


class Account(msgspec.Struct, frozen=True):
    """Whom a connection logs in as. `name` is the token's subject; user_id is told by welcome."""

    name: str
    token: str


class Connection:
    """One client connection. Subclasses take what comes in `got`, or in `received` undecoded."""

    receive_buffer_bytes = 0  # the kernel's; 0: what it chooses, and grows

    def __init__(
        self, loop: Loop, wire: WireFormat, address: tuple[str, int], account: Account, device_id: str = "d"
    ) -> None:
        self._loop = loop
        self.wire = wire
        self.address = address
        self.account = account
        self.device_id = device_id
        self.user_id = ""
        self.welcome: dict[str, Any] = {}
        self.cursors: dict[str, int] = {}  # what this device has, told by hello
        self.inbox_cursor = 0
        self.started_at = 0.0
        self.opened_at = 0.0
        self.error = ""
        self._state = _NEW
        self._socket: socket.socket
        self._rest = b""
        self._unsent = b""
        self._ids = 0
        self._answers: dict[int, Callable[[bytes], None]] = {}

    # -- for subclasses -----------------------------------------------------------------------------

    def got(self, got: Got, payload: bytes, at: float) -> None:
        """Take one reply or event that nobody asked for by `ask`."""

    def received(self, data: bytes, at: float) -> bytes:
        """Take what was read; return the bytes of an unfinished frame."""
        payloads, taken = self.wire.split(data)
        decode, answers = self.wire.decode, self._answers
        for payload in payloads:
            got = decode(payload)
            if answers and got.id in answers:
                answers.pop(got.id)(payload)
            else:
                self.got(got, payload, at)
        return data[taken:] if taken else data

    def welcomed(self) -> None:
        """Note that the welcome has come: commands may be sent."""

    def ended(self) -> None:
        """Note that the server has closed, or could not be reached."""

    # -- opening and closing ------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Tell whether the welcome has come, and nothing has ended the connection since."""
        return self._state == _OPEN

    @property
    def is_closed(self) -> bool:
        """Tell whether the connection has ended, or could not be made; `error` says why."""
        return self._state == _CLOSED

    @property
    def is_shed(self) -> bool:
        """Tell whether the server turned the connection away because it is overloaded for the moment."""
        return self._state == _CLOSED and self.error.startswith(_SHED)

    def open(self) -> None:
        """Begin to connect, for the first time or again; `is_open` when the welcome has come."""
        self.started_at = now()
        self._socket = sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.receive_buffer_bytes:  # before the connect, in which the window's scale is agreed
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer_bytes)
        self._state, self._rest, self._unsent = _NEW, b"", b""
        self._answers.clear()
        self.error = ""
        failure = sock.connect_ex(self.address)
        if failure not in (0, errno.EINPROGRESS):  # this machine may refuse at once
            self._end(f"connect: error {failure}")
            return
        self._loop.watch(sock.fileno(), self._on_event, WRITABLE)

    def close(self) -> None:
        """Drop the connection without a word."""
        if self._state != _CLOSED:
            self._state = _CLOSED
            self._loop.forget(self._socket.fileno())
            self._socket.close()

    def stop_reading(self) -> None:
        """Read nothing from now on, as a phone without a network does."""
        self._loop.change(self._socket.fileno(), 0)

    def read_on(self) -> None:
        """Read again."""
        self._loop.change(self._socket.fileno(), READABLE)

    # -- talking ------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send a framed command; what the kernel does not take waits here."""
        if self._unsent:
            self._unsent += frame
            return
        try:
            sent = self._socket.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._end(str(exc))
            return
        if sent < len(frame):
            self._unsent = frame[sent:]
            self._loop.change(self._socket.fileno(), READABLE | WRITABLE)

    def tell(self, command: Command) -> None:
        """Send a command whose answer `got` takes, if it has an id."""
        self.send(encoded(command, self.wire))

    def ask(self, command: Command, on_answer: Callable[[bytes], None]) -> None:
        """Send a command under an id of its own; the answer's payload goes to `on_answer`."""
        self._ids += 1
        number = 1_000_000_000 + self._ids  # apart from the ids that workloads choose
        self._answers[number] = on_answer
        self.tell(msgspec.structs.replace(command, id=number))

    # -- events -------------------------------------------------------------------------------------

    def _on_event(self, events: int) -> None:
        if events & WRITABLE:
            self._writable()
        if events & ~WRITABLE and self._state != _CLOSED:
            self._readable()

    def _writable(self) -> None:
        sock = self._socket
        if self._state == _NEW:
            failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                self._end(f"connect: error {failure}")
                return
            self._loop.change(sock.fileno(), READABLE)
            opening = self.wire.opening(f"{self.address[0]}:{self.address[1]}")
            if opening:
                self._state = _UPGRADING
                self.send(opening)
            else:
                self._greet()
            return
        unsent, self._unsent = self._unsent, b""
        self._loop.change(sock.fileno(), READABLE)
        if unsent:
            self.send(unsent)

    def _greet(self) -> None:
        self._state = _GREETING
        hello = Hello(
            id=1,
            token=self.account.token,
            device_id=self.device_id,
            cursors=self.cursors or None,
            inbox_cursor=self.inbox_cursor or None,
        )
        self.tell(hello)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            self._end(str(exc))
            return
        if not data:
            self._end("closed by the server")
            return
        at = now()
        if self._rest:
            data = self._rest + data
        if self._state == _OPEN:
            self._rest = self.received(data, at)
        else:
            self._rest = self._opening(data, at)

    def _opening(self, data: bytes, at: float) -> bytes:
        """Take what comes before the connection is open; return what is left of it."""
        if self._state == _UPGRADING:
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                return data
            if b" 101 " not in head.partition(b"\r\n")[0]:
                self._end(head.decode("latin-1")[:200])
                return b""
            self._greet()
            data = rest
        payloads, taken = self.wire.split(data)
        if not payloads:
            return data[taken:]
        welcome = self.wire.decode(payloads[0])
        if welcome.type != "welcome":
            self._end(f"{welcome.type} {welcome.code}")
            return b""
        self.welcome = as_dict(payloads[0], self.wire)
        self.user_id = self.welcome["user"]["user_id"]
        self.opened_at = at
        self._state = _OPEN
        self.welcomed()
        for payload in payloads[1:]:  # what came together with the welcome
            self.got(self.wire.decode(payload), payload, at)
        return data[taken:]

    def _end(self, why: str) -> None:
        if self._state != _CLOSED:
            self.error = why
            self.close()
            self.ended()


def as_dict(payload: bytes, wire: WireFormat) -> dict[str, Any]:
    """Decode all of a payload. For what happens once, not for what is measured."""
    decoded: dict[str, Any] = (
        msgspec.json.decode(payload) if wire.name == "json" else msgspec.msgpack.decode(payload)
    )
    return decoded


def open_all(
    loop: Loop, connections: Iterable[Connection], *, at_once: int = OPENING_AT_ONCE, timeout_s: float = 120.0
) -> int:
    """Open connections, so many at once; return how often one was shed, and tried again later, as clients do.

    Raises: Closed, where one is refused; TimedOut.
    """
    waiting = list(connections)
    waiting.reverse()
    opening: list[Connection] = []
    shed: list[Connection] = []
    shed_count = 0

    def try_again() -> None:
        waiting.append(shed.pop(0))

    def is_done() -> bool:
        nonlocal shed_count
        still = []
        for connection in opening:
            if connection.is_shed:
                shed_count += 1
                shed.append(connection)
                loop.at(now() + SHED_RETRY_S, try_again)
            elif connection.is_closed:
                raise Closed(f"{connection.account.name} could not connect: {connection.error}")
            elif not connection.is_open:
                still.append(connection)
        opening[:] = still
        while waiting and len(opening) < at_once:
            connection = waiting.pop()
            connection.open()
            opening.append(connection)
        return not opening and not shed

    loop.run_until(is_done, timeout_s=timeout_s, what="all connections are welcomed")
    return shed_count


def ask_all(
    loop: Loop, questions: Sequence[tuple[Connection, Command]], *, timeout_s: float = 60.0
) -> list[dict[str, Any]]:
    """Ask each, at most 64 at once, and return the answers in the same order.

    Raises: Closed, where an answer is an error or a connection ends; TimedOut.
    """
    answers: list[dict[str, Any]] = [{} for _ in questions]
    state = {"asked": 0, "open": 0}

    def ask_next() -> None:
        position = state["asked"]
        if position == len(questions):
            return
        state["asked"] += 1
        state["open"] += 1
        connection, command = questions[position]

        def on_answer(payload: bytes) -> None:
            state["open"] -= 1
            answers[position] = answer = as_dict(payload, connection.wire)
            if answer["type"] == "error":
                raise Closed(f"{command!r}: {answer}")
            ask_next()

        connection.ask(command, on_answer)

    for _ in range(OPENING_AT_ONCE):
        ask_next()

    def is_done() -> bool:
        for connection, _ in questions:
            if connection.is_closed:
                raise Closed(f"{connection.account.name}: {connection.error}")
        return not state["open"]

    loop.run_until(is_done, timeout_s=timeout_s, what="every command of the preparation is answered")
    return answers
