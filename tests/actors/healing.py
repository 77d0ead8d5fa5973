"""A hub with its healer over a log in memory that can fail, and devices that check what they hear."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import trio

from actors.healer import StoreHealer
from actors.hub import Hub
from protocol import events
from protocol.codec import Encoded
from protocol.errors import CloseCode, StorageUnavailable
from protocol.events import ConversationEvent, Event, InboxEvent
from protocol.records import Entry, MemberRow, Row, conversation_stream, inbox_stream
from protocol.stored_events import body_of

R = TypeVar("R", bound=Row)


def posted(conversation_id: str, seq: int, text: str = "") -> Encoded:
    return Encoded(
        events.MessagePosted(
            conversation_id=conversation_id, seq=seq, message_count=seq, user_id="x", text=text or str(seq)
        )
    )


class History:
    """Streams and memberships; fits actors.healer.History."""

    def __init__(self) -> None:
        self.streams: dict[str, list[Entry]] = {}
        self.members: set[tuple[str, str]] = set()  # (conversation_id, user_id)
        self.is_failing = False
        self.read_count = 0
        self.gate: trio.Event | None = None  # a read waits for it, after it has seen what it returns

    def head(self, conversation_id: str) -> int:
        return len(self.streams.get(conversation_stream(conversation_id), ()))

    def commit(self, conversation_id: str, text: str) -> int:
        return self.store(conversation_stream(conversation_id), events.MessagePosted(text=text))

    def store(self, stream: str, event: ConversationEvent | InboxEvent) -> int:
        entries = self.streams.setdefault(stream, [])
        entries.append(
            Entry(
                seq=len(entries) + 1,
                kind=str(event.__struct_config__.tag),
                at_ms=1,
                user_id="x",
                client_id=None,
                message_count=len(entries) + 1,
                thread=None,
                body=body_of(event),
            )
        )
        return len(entries)

    async def _wait(self) -> None:
        self.read_count += 1
        await trio.lowlevel.checkpoint()
        if self.is_failing:
            raise StorageUnavailable("disk")

    async def read(self, stream: str, *, after: int, limit: int, max_bytes: int = 1 << 20) -> list[Entry]:
        await self._wait()
        found: list[Entry] = []
        size_bytes = 0
        for entry in self.streams.get(stream, [])[after : after + limit]:
            size_bytes += len(entry.body)
            if found and size_bytes > max_bytes:
                break
            found.append(entry)
        if self.gate is not None:
            await self.gate.wait()
        return found

    async def heads(self, streams: Sequence[str]) -> dict[str, int]:
        await self._wait()
        return {name: len(self.streams[name]) for name in streams if self.streams.get(name)}

    async def find_many(self, table: type[R], column: str, values: Sequence[str | int]) -> list[R]:
        await self._wait()
        found = [
            MemberRow(conversation_id=c, user_id=u, role="member", joined_at_ms=1)
            for c, u in sorted(self.members)
            if u in values
        ]
        if self.gate is not None:
            await self.gate.wait()
        return cast("list[R]", found)


class Device:
    """A session, and what a client makes of what it hears: its cursors move without a hole."""

    def __init__(
        self, hub: Hub, conn_id: int, user_id: str, history: History, *, is_seeded: bool = True
    ) -> None:
        self.conn_id = conn_id
        self.user_id = user_id
        self.heard: list[Event] = []
        self.closed: CloseCode | None = None
        self._history = history
        history.members.add(("c1", user_id))
        hub.attach(self, f"s{conn_id}", None)
        hub.join(conn_id, ["c1"])
        self.welcomed_at = {"c1": history.head("c1"), "": len(history.streams.get(inbox_stream(user_id), ()))}
        if is_seeded:
            hub.seed(conn_id, {"c1": self.welcomed_at["c1"]}, self.welcomed_at[""])

    def push(self, encoded: Encoded, stream: str, seq: int) -> None:
        self.heard.append(cast(Event, encoded.event))

    def push_live(self, key: object, encoded: Encoded, stream: str | None = None) -> None:
        self.heard.append(cast(Event, encoded.event))

    def close(self, code: CloseCode, reason: str = "") -> None:
        self.closed = code

    def check(self, conversation_id: str) -> None:
        """Each event came once, behind the one before it, or a resync stood for it."""
        cursor = self.welcomed_at[conversation_id]
        passed = 0  # what is welcomed already may still come
        for event in self.heard:
            if getattr(event, "conversation_id", None) != conversation_id:
                continue
            if isinstance(event, events.Resync):
                cursor = max(cursor, event.head)
            elif isinstance(event, events.MessagePosted):
                assert event.seq > passed, "heard twice, or out of order"
                if event.seq > self.welcomed_at[conversation_id]:
                    assert event.seq <= cursor + 1, "a hole"
                passed = event.seq
                cursor = max(cursor, event.seq)
        assert cursor == self._history.head(conversation_id), "the end is missing"

    def texts(self) -> list[str]:
        return [event.text for event in self.heard if isinstance(event, events.MessagePosted)]


class Runner:
    """The healer's task, which a supervisor may end and start again."""

    def __init__(self, healer: StoreHealer, nursery: trio.Nursery) -> None:
        self._healer = healer
        self._nursery = nursery
        self._scope = trio.CancelScope()

    def start(self) -> None:
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._run, self._scope)

    async def again(self) -> None:
        self._scope.cancel()
        await trio.lowlevel.checkpoint()
        self.start()

    async def _run(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._healer.run()


@asynccontextmanager
async def open_healing() -> AsyncIterator[tuple[Hub, History, StoreHealer, Runner]]:
    hub = Hub(now_ms=lambda: 1)
    history = History()
    healer = StoreHealer(history, hub)
    hub.healer = healer
    async with trio.open_nursery() as nursery:
        runner = Runner(healer, nursery)
        runner.start()
        yield hub, history, healer, runner
        nursery.cancel_scope.cancel()
