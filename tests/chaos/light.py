"""The cheapest honest client: one task, one TCP connection, a cursor per conversation.

It connects to any of several nodes, and to another one when its own is silent or gone; resumes by cursor;
reads what is missing when it meets a hole, a `resync` or a head. Hundreds of them fit into one process:
without the SDK's nursery, queues and tasks, one costs a few KiB and one task switch per read.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final, cast, get_args

import trio

from protocol import commands as c
from protocol import events as e
from protocol import replies as r
from protocol.codec import FrameSplitter, Wire, decode_server, encode_tcp_command
from protocol.commands import Command
from protocol.events import ConversationEvent, Event
from protocol.replies import Reply
from tests.chaos.ledger import Ledger, View

SYNC_AGAIN_S: Final = 10.0  # a sync that was not answered by then is asked for again
RECONNECT_S: Final = 1.0  # a lost connection comes back after a random part of this
ANSWER_S: Final = 10.0  # a node that leaves a beat unanswered for so long is given up
CONVERSATION_EVENTS: Final = frozenset(get_args(ConversationEvent))


class Place:
    """Where a node serves bots."""

    def __init__(self, node: str, host: str, port: int) -> None:
        self.node = node
        self.host = host
        self.port = port


class _Followed:
    """A conversation, how far this client knows it to reach, and the sync under way."""

    __slots__ = ("head", "sync_due", "sync_id", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self.head = 0
        self.sync_id = 0
        self.sync_due = 0.0


class _Pending:
    """A command whose answer somebody waits for. `reply` stays None where the connection was lost."""

    __slots__ = ("done", "reply")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.reply: Reply | None = None


class LightClient:
    """One device. `run` keeps it connected until cancelled or `leave`."""

    def __init__(
        self,
        name: str,
        token: str,
        places: Sequence[Place],
        ledger: Ledger,
        rng: random.Random,
        *,
        device_id: str = "light",
        focus: list[str] | None = None,
        beat_s: float = 25.0,
        first: Place | None = None,
        on_live: Callable[[Event], None] | None = None,
        greet: Callable[[Callable[[], int]], Sequence[Command]] = lambda _: (),
    ) -> None:
        self.name = name
        self.places = list(places)
        self.node = ""  # where it is connected; empty while it is not
        self.welcome: r.Welcome | None = None
        self.connected = trio.Event()
        self.connects = 0
        self._token = token
        self._device_id = device_id
        self._ledger = ledger
        self._rng = rng
        self._focus = focus
        self._beat_s = beat_s
        self.next_place = first  # where it connects next; None: any but the last one
        self.comes_back = True  # whether it connects again when it loses its connection
        self._last: Place | None = None
        self._on_live = on_live
        self._greet = greet  # what it asks for after each welcome, given a maker of ids
        self._followed: dict[str, _Followed] = {}
        self._pending: dict[int, _Pending] = {}
        self._next_id = 1
        self._stream: trio.SocketStream | None = None
        self._lock = trio.Lock()
        self._out: list[Command] = []
        self._beat_id = 0
        self._beat_due = 0.0
        self._news = trio.Event()
        self._scope: trio.CancelScope | None = None
        self._is_leaving = False

    def follow(self, conversation_id: str, start: int = 0) -> View:
        """Listen to a conversation from `start` on; before `run`."""
        view = self._ledger.view(self.name, conversation_id, start)
        self._followed[conversation_id] = _Followed(view)
        return view

    async def until(self, conversation_id: str, seq: int) -> None:
        """Wait until the view reaches `seq`."""
        followed = self._followed[conversation_id]
        while followed.view.cursor < seq:
            await self._news.wait()

    def leave(self) -> None:
        """Vanish, without a goodbye; `run` ends."""
        self._is_leaving = True
        if self._scope is not None:
            self._scope.cancel()

    def move(self, place: Place) -> None:
        """Drop the connection and go to that node first."""
        self.next_place = place
        if self._scope is not None:
            self._scope.cancel()

    # -- asking -------------------------------------------------------------------------------------

    def next_id(self) -> int:
        self._next_id += 1
        return self._next_id

    async def ask(self, command: Command, timeout_s: float = 30.0) -> Reply | None:
        """Send a command whose id came from `next_id`. None where no answer came."""
        stream = self._stream
        if stream is None or not self.node:
            return None
        pending = self._pending[command.id] = _Pending()
        try:
            with trio.move_on_after(timeout_s):
                await self._write(stream, [command])
                await pending.done.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self._pending.pop(command.id, None)
        return pending.reply

    async def send(
        self, conversation_id: str, client_id: str, text: str, timeout_s: float = 30.0
    ) -> Reply | None:
        """Try a send once."""
        return await self.ask(
            c.Send(id=self.next_id(), conversation_id=conversation_id, client_id=client_id, text=text),
            timeout_s,
        )

    async def _write(self, stream: trio.SocketStream, commands: Sequence[Command]) -> None:
        data = b"".join([encode_tcp_command(command) for command in commands])
        async with self._lock:
            if stream is self._stream:  # else it was lost while we waited
                # A write that was cut short must not be followed by another one.
                with trio.CancelScope(shield=True), trio.move_on_after(ANSWER_S) as scope:
                    await stream.send_all(data)
                if scope.cancelled_caught:
                    await trio.aclose_forcefully(stream)

    # -- the one task -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and connect again, until cancelled or told to leave."""
        while not self._is_leaving:
            place = self._pick()
            with trio.CancelScope() as self._scope:
                try:
                    await self._serve(place)
                except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                except (EOFError, trio.TooSlowError):
                    pass  # it ended, or was silent for too long
            self._lose()
            if not self.comes_back:
                self._is_leaving = True
            if not self._is_leaving:
                await trio.sleep(RECONNECT_S * self._rng.random())

    def _pick(self) -> Place:
        if self.next_place is not None:
            self._last, self.next_place = self.next_place, None
            return self._last
        others = [place for place in self.places if place is not self._last] or self.places
        self._last = self._rng.choice(others)
        return self._last

    def _lose(self) -> None:
        self.node = ""
        self._stream = None
        self._scope = None
        self.connected = trio.Event() if self.connected.is_set() else self.connected
        for pending in self._pending.values():
            pending.done.set()
        self._pending.clear()
        self._out.clear()
        for followed in self._followed.values():
            followed.sync_id = 0

    async def _serve(self, place: Place) -> None:
        with trio.fail_after(ANSWER_S):
            stream = await trio.open_tcp_stream(place.host, place.port)
        try:
            self._stream = stream
            await self._write(stream, [self._hello()])
            splitter = FrameSplitter()
            self._beat_id = 0
            self._beat_due = trio.current_time() + ANSWER_S  # for the welcome, at first
            while True:  # until the connection is lost
                data = b""
                with trio.move_on_at(self._next_due()) as waiting:
                    data = bytes(await stream.receive_some(65536))
                if not data and not waiting.cancelled_caught:
                    raise EOFError
                for payload in splitter.feed(data):
                    self._take(decode_server(payload, Wire.MSGPACK_TCP), place)
                self._tick(trio.current_time())
                if self._out:
                    out, self._out = self._out, []
                    await self._write(stream, out)
        finally:
            self._stream = None
            await trio.aclose_forcefully(stream)

    def _hello(self) -> c.Hello:
        cursors = {conversation_id: f.view.cursor for conversation_id, f in self._followed.items()}
        return c.Hello(
            id=1,
            token=self._token,
            device_id=self._device_id,
            client="light",
            cursors=cursors,
            inbox_cursor=0,
            focus=self._focus,
        )

    def _next_due(self) -> float:
        due = self._beat_due
        for followed in self._followed.values():
            if followed.sync_due:
                due = min(due, followed.sync_due)
        return due

    def _tick(self, now: float) -> None:
        """Beat, and ask again for what was not answered."""
        if now >= self._beat_due:
            if self._beat_id or not self.node:
                raise EOFError  # the last beat, or the hello, was not answered
            self._beat_id = self.next_id()
            cursors = {name: f.view.cursor for name, f in self._followed.items()}
            self._out.append(c.Heartbeat(id=self._beat_id, cursors=cursors))
            self._beat_due = now + ANSWER_S
        for conversation_id, followed in self._followed.items():
            if followed.sync_due and now >= followed.sync_due:
                followed.sync_due = 0.0
                followed.sync_id = 0
                self._sync(conversation_id, followed, now)

    def _take(self, message: Reply | Event, place: Place) -> None:
        kind = type(message)
        if kind in CONVERSATION_EVENTS:
            self._on_event(cast("ConversationEvent", message))
        elif kind is r.EventPage:
            self._on_page(cast("r.EventPage", message))
        elif kind is r.Welcome:
            self._on_welcome(cast("r.Welcome", message), place)
        elif kind is r.HeartbeatAck:
            self._beat_id = 0
            self._beat_due = trio.current_time() + self._beat_s * (0.9 + 0.1 * self._rng.random())
            for head in cast("r.HeartbeatAck", message).heads:
                self._learn(head.conversation_id, head.head)
        elif kind is e.Resync:
            resync = cast("e.Resync", message)
            self._learn(resync.conversation_id, resync.head)
        elif kind is e.Heads:
            for hint in cast("e.Heads", message).items:
                self._learn(hint.conversation_id, hint.head)
        elif isinstance(message, e.Reconnect | e.Closing):
            raise EOFError
        elif isinstance(message, get_args(Reply)):
            self._on_reply(cast("Reply", message))
        if self._on_live is not None and isinstance(message, e.Presence | r.PresenceList):
            self._on_live(cast("Event", message))

    def _on_welcome(self, welcome: r.Welcome, place: Place) -> None:
        self.welcome = welcome
        self.node = place.node
        self._ledger.reconnects += self.connects > 0
        self.connects += 1
        self._beat_due = trio.current_time() + self._beat_s * self._rng.random()
        for head in welcome.heads:
            self._learn(head.conversation_id, head.head)
        self._out += self._greet(self.next_id)
        self.connected.set()

    def _on_reply(self, reply: Reply) -> None:
        if isinstance(reply, r.Error):
            if reply.id == 1 and not self.node:
                self._ledger.refusals[f"hello:{reply.code}"] += 1
                raise EOFError
            for conversation_id, followed in self._followed.items():
                if reply.id == followed.sync_id:
                    self._ledger.refusals[f"sync:{reply.code}"] += 1
                    if reply.retry_after_s is None:
                        self._ledger.failures.append(
                            f"{self.name} may not sync {conversation_id}: {reply.code} {reply.message}"
                        )
                    followed.sync_due = trio.current_time() + (reply.retry_after_s or SYNC_AGAIN_S)
                    return
        pending = self._pending.pop(reply.id, None)
        if pending is not None:
            pending.reply = reply
            pending.done.set()

    # -- views --------------------------------------------------------------------------------------

    def _on_event(self, event: ConversationEvent) -> None:
        followed = self._followed.get(event.conversation_id)
        if followed is None:
            return
        followed.head = max(followed.head, event.seq)
        if self._ledger.heard(followed.view, event):
            self._wake()
        elif event.seq > followed.view.cursor:
            self._sync(event.conversation_id, followed, trio.current_time())

    def _learn(self, conversation_id: str, head: int) -> None:
        followed = self._followed.get(conversation_id)
        if followed is not None:
            followed.head = max(followed.head, head)
            if head > followed.view.cursor:
                self._sync(conversation_id, followed, trio.current_time())

    def _sync(self, conversation_id: str, followed: _Followed, now: float) -> None:
        if followed.sync_id:
            return
        followed.sync_id = self.next_id()
        followed.sync_due = now + SYNC_AGAIN_S
        cursor = followed.view.cursor
        self._out.append(c.Sync(id=followed.sync_id, conversation_id=conversation_id, after=cursor))

    def _on_page(self, page: r.EventPage) -> None:
        followed = self._followed.get(page.conversation_id)
        if followed is None or followed.sync_id != page.id:
            return
        followed.sync_id = 0
        followed.sync_due = 0.0
        view = followed.view
        for item in page.items:
            event = cast("ConversationEvent", item)
            if not self._ledger.heard(view, event) and event.seq > view.cursor:
                view.faults.append(f"a page has seq {event.seq} after {view.cursor}")
        followed.head = max(followed.head, page.head)
        if page.items:
            self._wake()
        if followed.head > view.cursor:
            if not page.items and page.head <= view.cursor:
                # The node does not know yet what another one announced: ask a little later.
                followed.sync_due = trio.current_time() + 0.5
                followed.sync_id = -1
            else:
                self._sync(page.conversation_id, followed, trio.current_time())

    def _wake(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()
