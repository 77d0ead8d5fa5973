"""The app's backend in `hubbub bench notify`: requests by the bot port and by HTTP, and what was answered."""

import socket
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bench.load.client import RECEIVE_BYTES, Connection, open_all
from bench.load.loop import READABLE, WRITABLE, Loop, now
from bench.load.trial import Samples
from bench.load.wires import BotProtocol, encoded
from bench.notify_target import NotifyHubbub
from protocol.notify_commands import Notify
from protocol.notify_content import NotifyRequest

BOT_CONNECTIONS: Final = 24  # a session's socket is not read while 32 of its requests are unanswered
HTTP_CONNECTIONS: Final = 16
BUSY_AGAIN_S: Final = 0.1
SETTLE_TIMEOUT_S: Final = 120.0
_TICK_S: Final = 0.002


class Item(msgspec.Struct, gc=False):
    """What became of a request for one user."""

    notification_id: int = 0
    state: str = ""
    repeated: bool = False


class Answer(msgspec.Struct, gc=False):
    """Any answer, as far as each one is looked at."""

    type: str = ""
    id: int = 0
    code: str | int = ""
    request_id: str = ""
    items: list[Item] = []


class Entry(msgspec.Struct, gc=False):
    """One request, and what was answered."""

    request: NotifyRequest
    due_at: float  # by the loop's clock
    by_http: bool = False
    answered_at: float = 0.0
    notification_id: int = 0
    state: str = ""
    repeated: bool = False
    busy_count: int = 0


class Backend:
    """Send requests when told to; keep what was answered."""

    def __init__(self, loop: Loop, target: NotifyHubbub, *, http: bool = True) -> None:
        self.loop = loop
        self.target = target
        self.entries: list[Entry] = []
        self.answered_count = self.sent_count = 0
        self.errors: list[str] = []
        self.on_answer: Callable[[Entry], None] | None = None
        self._app_key, self._secret = target.app_key
        self.wire = BotProtocol()
        account, address = target.account("backend"), target.addresses("bot")[0]
        self._bots = [
            _BotPort(self, loop, self.wire, address, account, f"d{n}") for n in range(BOT_CONNECTIONS)
        ]
        open_all(loop, self._bots)
        self._https = [_HttpPort(self, loop, target) for _ in range(HTTP_CONNECTIONS if http else 0)]

    def frame(self, number: int, request: NotifyRequest, *, by_http: bool = False) -> bytes:
        """Encode a request that will be `entries[number]`."""
        if by_http:
            return self._https[0].framed(request)
        command = Notify(id=number + 1, app_key=self._app_key, secret=self._secret, request=request)
        return encoded(command, self.wire)

    def send(self, entry: Entry, frame: bytes) -> None:
        """Send the next one."""
        number = len(self.entries)
        self.entries.append(entry)
        self.sent_count += 1
        self._put(number, entry, frame)

    def ask(self, request: NotifyRequest, *, by_http: bool = False) -> Entry:
        """Send a request that is due now."""
        entry = Entry(request, now(), by_http)
        self.send(entry, self.frame(len(self.entries), request, by_http=by_http))
        return entry

    def _put(self, number: int, entry: Entry, frame: bytes) -> None:
        if entry.by_http:
            min(self._https, key=len).push(number, frame)
        else:
            self._bots[number % BOT_CONNECTIONS].send(frame)

    def answered(self, number: int, answer: Answer, at: float) -> None:
        """Of the connections: that is what was answered."""
        entry = self.entries[number]
        if answer.type == "error" and answer.code in ("busy", "overloaded", "storage_busy", "rate_limited"):
            entry.busy_count += 1  # as every backend does: again, under the same key
            frame = self.frame(number, entry.request, by_http=entry.by_http)
            self.loop.at(at + BUSY_AGAIN_S, lambda: self._put(number, entry, frame))
            return
        self.answered_count += 1
        entry.answered_at = at
        if answer.type == "notify_accepted":
            if answer.items:
                item = answer.items[0]
                entry.notification_id, entry.state = item.notification_id, item.state
                entry.repeated = item.repeated
            else:
                entry.state = answer.request_id
        else:
            self.errors.append(f"{answer.type} {answer.code}")
        if self.on_answer is not None:
            self.on_answer(entry)

    def settle(self) -> None:
        """Wait until all is answered. Raises: TimedOut."""
        self.loop.run_until(
            lambda: self.answered_count == self.sent_count,
            timeout_s=SETTLE_TIMEOUT_S,
            what="all requests are answered",
        )

    def acks(self, since: float, *, by_http: bool | None = None, kinds: Sequence[str] = ()) -> Samples:
        """How long answers took from when they were due, of those due from `since` on."""
        samples = Samples()
        for entry in self.entries:
            is_asked = by_http in (None, entry.by_http) and (not kinds or entry.request.type in kinds)
            if is_asked and entry.due_at >= since and entry.answered_at:
                samples.add(entry.answered_at, entry.answered_at - entry.due_at)
        return samples

    def busy_count(self) -> int:
        """How often the server asked to be tried again."""
        return sum(entry.busy_count for entry in self.entries)

    def faults(self) -> list[str]:
        """What went wrong."""
        closed = [port.error for port in self._bots if port.is_closed]
        return [*(f"{what}: {count}" for what, count in Counter(self.errors).items()), *closed]

    def close(self) -> None:
        for bot in self._bots:
            bot.close()
        for http in self._https:
            http.close()


class Timetable:
    """Send requests when they are due, whatever has become of those before."""

    def __init__(self, backend: Backend, due: Sequence[tuple[float, Entry, bytes]]) -> None:
        """`due`: seconds from the start, the entry, and its frame."""
        self._backend = backend
        self._due = due
        self._next = 0
        self._start_at = 0.0
        self.lags = Samples()

    def start(self) -> None:
        self._start_at = now()
        self._tick()

    @property
    def is_done(self) -> bool:
        return self._next >= len(self._due)

    def _tick(self) -> None:
        at = now()
        due = self._due
        while self._next < len(due) and self._start_at + due[self._next][0] <= at:
            after_s, entry, frame = due[self._next]
            entry.due_at = self._start_at + after_s
            self._next += 1
            self._backend.send(entry, frame)
            self.lags.add(at, now() - entry.due_at)
        if self._next < len(due):
            self._backend.loop.at(at + _TICK_S, self._tick)


class _BotPort(Connection):
    """A connection to the bot port."""

    _decoder: Final = msgspec.msgpack.Decoder(Answer)

    def __init__(self, backend: Backend, *rest: object) -> None:
        super().__init__(*rest)  # type: ignore[arg-type]
        self._backend = backend

    def received(self, data: bytes, at: float) -> bytes:
        payloads, taken = self.wire.split(data)
        decode = self._decoder.decode
        for payload in payloads:
            answer = decode(payload)
            if answer.id:
                self._backend.answered(answer.id - 1, answer, at)
            elif answer.type == "closing":
                self._end(f"closing {answer.code}")
        return data[taken:] if taken else data


class _HttpPort:
    """A kept-alive HTTP/1.1 connection with one request under way."""

    _decoder: Final = msgspec.json.Decoder(Answer)

    def __init__(self, backend: Backend, loop: Loop, target: NotifyHubbub) -> None:
        self._backend = backend
        self._loop = loop
        self._address = target.addresses("json")[0]
        token = b64encode(":".join(target.app_key).encode()).decode()
        self._head = (
            f"POST /v1/notifications HTTP/1.1\r\nHost: {self._address[0]}:{self._address[1]}\r\n"
            f"Authorization: Basic {token}\r\nContent-Type: application/json\r\nContent-Length: "
        ).encode()
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._under_way = -1
        self._frame = b""
        self._rest = b""
        self._socket = self._connected()

    def _connected(self) -> socket.socket:
        connected = socket.create_connection(self._address)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setblocking(False)
        self._loop.watch(connected.fileno(), self._on_event)
        return connected

    def __len__(self) -> int:
        return len(self._waiting) + (self._under_way >= 0)

    def framed(self, request: NotifyRequest) -> bytes:
        body = msgspec.json.encode(request)
        return b"%s%d\r\n\r\n%s" % (self._head, len(body), body)

    def push(self, number: int, frame: bytes) -> None:
        self._waiting.append((number, frame))
        self._next()

    def close(self) -> None:
        self._loop.forget(self._socket.fileno())
        self._socket.close()

    def _next(self) -> None:
        if self._under_way < 0 and self._waiting:
            self._under_way, self._frame = self._waiting.popleft()
            self._socket.send(self._frame)  # less than a socket's buffer, which is empty

    def _on_event(self, events: int) -> None:
        if not events & (READABLE & ~WRITABLE):
            return
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:  # it was idle for long; what was on its way goes again, under the same key
            self.close()
            self._rest, self._socket = b"", self._connected()
            if self._under_way >= 0:
                self._socket.send(self._frame)
            return
        self._rest += data
        head, found, body = self._rest.partition(b"\r\n\r\n")
        if not found:
            return
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < size:
            return
        status = head.split(b" ", 2)[1]
        answer = self._decoder.decode(body[:size])
        if status != b"202":
            answer.type = "error"
        number, self._under_way, self._rest = self._under_way, -1, b""
        self._backend.answered(number, answer, now())
        self._next()
