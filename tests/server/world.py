"""A node without its edge: the real store and the real actors, with listeners that record what they hear."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TypeVar, cast

import pytest
import trio

from actors.feed.feed import FeedLimits
from actors.reply import ReplySlot
from protocol import commands, events, replies
from protocol.codec import Encoded
from protocol.commands import Command, Hello
from protocol.errors import CloseCode, HubbubError, Overloaded, StorageUnavailable
from protocol.events import Event
from protocol.records import Append, Insert, Op, User
from protocol.replies import Reply
from protocol.types import ConversationSummary, Member
from server.chat_core import Alone, ChatCore
from server.directory import Directory
from server.identity import Identity
from server.log_ins import LogIns
from server.providers.reach import Reach
from server.session import Session
from server.tails import MAX_BYTES
from storage.sqlite import SqliteStore, open_store
from storage.store import Outcome, Store
from tests.server.reach import HERE

E = TypeVar("E", bound=Event)


class Device:
    """One connected device, as the service and the hub see a session; keeps every event in order."""

    def __init__(self, world: "World", identity: Identity, conn_id: int, device_id: str) -> None:
        self.world = world
        self.identity = identity
        self.conn_id = conn_id
        self.device_id = device_id
        self.context: object = None
        self.events: list[Event] = []
        self.close_code: CloseCode | None = None
        self.welcome: replies.Welcome
        self._news = trio.Event()

    @property
    def user_id(self) -> str:
        return self.identity.user.user_id

    def push(self, encoded: Encoded, stream: str, seq: int) -> None:
        self._heard(encoded)

    def push_live(self, key: object, encoded: Encoded, stream: str | None = None) -> None:
        self._heard(encoded)

    def _heard(self, encoded: Encoded) -> None:
        self.events.append(cast(Event, encoded.event))
        news, self._news = self._news, trio.Event()
        news.set()

    def close(self, code: CloseCode, reason: str = "") -> None:
        self.close_code = code

    def as_session(self) -> Session:
        return cast(Session, self)

    async def do(self, command: Command) -> Reply:
        """Give one command and wait for its answer. Raises: HubbubError."""
        slot = ReplySlot()
        self.world.core.service.handle(self.as_session(), command, slot)
        return cast(Reply, await slot.wait())

    async def refusal(self, command: Command) -> str:
        """Give a command that must fail, and return the error's code."""
        with pytest.raises(HubbubError) as caught:
            await self.do(command)
        return caught.value.code

    async def send(
        self, conversation_id: str, text: str, client_id: str = "", **more: object
    ) -> replies.Sent:
        command = commands.Send(
            conversation_id=conversation_id,
            client_id=client_id or self.world.new_client_id(),
            text=text,
            **more,  # type: ignore[arg-type]  # fields of Send
        )
        return cast(replies.Sent, await self.do(command))

    async def until(self, kind: type[E], count: int = 1) -> list[E]:
        """Wait until that many events of a type were heard, and return all of them."""
        while True:
            found = self.heard(kind)
            if len(found) >= count:
                return found
            await self._news.wait()

    async def until_count(self, count: int) -> None:
        """Wait until that many events were heard, whatever they are."""
        while len(self.events) < count:
            await self._news.wait()

    async def until_heard(self, test: Callable[[Event], bool]) -> Event:
        """Wait for the first event that passes the test."""
        while True:
            for event in self.events:
                if test(event):
                    return event
            await self._news.wait()

    async def sync(self, conversation_id: str, after: int = 0, limit: int = 200) -> list[Event]:
        """Read all events of a conversation after a cursor, page by page."""
        found: list[Event] = []
        while True:
            page = await self.do(
                commands.Sync(conversation_id=conversation_id, after=after + len(found), limit=limit)
            )
            assert isinstance(page, replies.EventPage)
            found += page.items
            if not page.more:
                return found

    async def sync_inbox(self, after: int = 0) -> list[Event]:
        """Read all events of the own inbox after a cursor."""
        page = await self.do(commands.SyncInbox(after=after, limit=500))
        assert isinstance(page, replies.EventPage)
        assert not page.more
        return page.items

    async def members(self, conversation_id: str) -> dict[str, Member]:
        reply = await self.do(commands.ListMembers(conversation_id=conversation_id))
        assert isinstance(reply, replies.MemberList)
        return {member.user_id: member for member in reply.items}

    async def line(self, conversation_id: str) -> ConversationSummary:
        reply = await self.do(commands.GetConversation(conversation_id=conversation_id))
        assert isinstance(reply, replies.ConversationInfo)
        return reply.conversation

    def heard(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def disconnect(self) -> None:
        self.world.core.service.closed(self.as_session())


class FlakyStore:
    """The real store, but for appends that a test lets fail: with the errors of `failures`, in order.

    Appends to streams that begin with `failing` alone, conversations unless a test says otherwise: what
    users' actors do meanwhile about something earlier is not meant.
    `concluded` is set, and replaced, whenever an append was stored or refused. After `unplug_after` nothing
    is stored any more, and nobody hears of it, as when the process is killed.
    """

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.failures: list[HubbubError | None] = []
        self.failing = "c:"
        self.is_failing_at_once = False  # raised by append_nowait, as an overloaded store does
        self.is_down = False  # says that there is no room, before anybody tries
        self.is_full = False  # says so, and refuses whatever is tried all the same
        self.commits_fail = False  # those outside any shard
        self.concluded = trio.Event()
        self._left: int | None = None  # appends until the plug is pulled
        self._stores_last = False
        self._unplugged = trio.Event()
        self._unheard: list[Callable[[Outcome], None]] = []
        self._has_let_go = False

    def unplug_after(self, appends: int, *, stores_last: bool = False) -> trio.Event:
        """Let so many appends through, and then none; `stores_last`: one more, whose outcome nobody hears.

        Returns what is set when that has happened.
        """
        self._left = appends
        self._stores_last = stores_last
        return self._unplugged

    def let_go(self) -> None:
        """Refuse what nobody has heard of since the plug was pulled, so that its actors can end."""
        self._has_let_go = True
        unheard, self._unheard = self._unheard, []
        for on_done in unheard:
            on_done(StorageUnavailable("disk"))

    def _is_unplugged(self, append: Append) -> bool:
        if self._left is None:
            return False
        if self._left > 0:
            self._left -= 1
            return False
        if not self._unplugged.is_set():
            if self._stores_last:
                self._store.append_nowait(append, lambda _outcome: None)
            self._unplugged.set()
        return True

    def check_room(self) -> None:
        if self.is_down:
            raise StorageUnavailable("disk")
        if self.is_full:
            raise Overloaded
        self._store.check_room()

    def append_nowait(self, append: Append, on_done: Callable[[Outcome], None]) -> None:
        if self._is_unplugged(append):
            if self._has_let_go:
                raise StorageUnavailable("disk")
            self._unheard.append(on_done)
            return
        if self.is_full:
            raise Overloaded
        is_meant = any(row.stream.startswith(self.failing) for row in append.rows)
        error = self.failures.pop(0) if self.failures and is_meant else None
        if error is None:

            def conclude(outcome: Outcome) -> None:
                on_done(outcome)
                concluded, self.concluded = self.concluded, trio.Event()
                concluded.set()

            self._store.append_nowait(append, conclude)
        elif self.is_failing_at_once:
            raise error
        else:
            failure = error
            self._store.append_nowait(
                Append(shard=append.shard, epoch=append.epoch), lambda _outcome: on_done(failure)
            )

    async def commit(self, ops: Sequence[Op]) -> None:
        if self.commits_fail:
            raise StorageUnavailable("disk")
        await self._store.commit(ops)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


class World:
    def __init__(self, store: SqliteStore, flaky: FlakyStore, core: ChatCore) -> None:
        self.store = store
        self.flaky = flaky
        self.core = core
        self.now_ms = 0
        self.secret = b""
        self._conn_ids = 0
        self.devices: list[Device] = []

    def new_client_id(self) -> str:
        return token_hex(8)

    async def user(self, name: str, app_id: str = "default") -> Identity:
        """Make a user, or find the one that an earlier world on the same directory has made."""
        found = await self.store.get(User, f"u_{name}")
        row = found or User(
            user_id=f"u_{name}",
            app_id=app_id,
            username=name,
            username_key=name,
            name=name.title(),
            name_key=name,
            created_at_ms=1,
        )
        if found is None:
            await self.store.commit([Insert(row)])
        return Identity(user=row, app_id=app_id, session_id=f"s_{name}")

    async def connect(self, identity: Identity, device_id: str = "d1", **hello: object) -> Device:
        self._conn_ids += 1
        device = Device(self, identity, self._conn_ids, device_id)
        command = Hello(token="t", device_id=device_id, **hello)  # type: ignore[arg-type]  # fields of Hello
        self.devices.append(device)
        device.welcome = await self.core.service.open(device.as_session(), command)
        return device

    async def person(self, name: str, app_id: str = "default") -> Device:
        return await self.connect(await self.user(name, app_id))

    async def people(self, *names: str) -> list[Device]:
        return [await self.person(name) for name in names]

    async def crowd(self, count: int, app_id: str = "default") -> list[str]:
        """Make many users who are not connected, in one transaction; give their ids."""
        rows = [
            User(
                user_id=f"u_crowd{number}",
                app_id=app_id,
                username=f"crowd{number}",
                username_key=f"crowd{number}",
                name="",
                name_key="",
                created_at_ms=1,
            )
            for number in range(count)
        ]
        await self.store.commit([Insert(row) for row in rows])
        return [row.user_id for row in rows]

    async def befriend(self, one: Device, other: Device) -> None:
        await one.do(commands.RequestContact(user_id=other.user_id))
        await other.until(events.ContactChanged)
        await other.do(commands.AnswerContact(user_id=one.user_id, accept=True))
        await one.until(events.ContactChanged, 2)

    async def group(self, owner: Device, *members: Device, title: str = "Group") -> str:
        reply = await owner.do(
            commands.CreateGroup(
                client_id=self.new_client_id(), title=title, member_ids=[m.user_id for m in members]
            )
        )
        assert isinstance(reply, replies.ConversationInfo)
        return reply.conversation.conversation_id

    async def direct(self, one: Device, other: Device) -> str:
        reply = await one.do(commands.OpenDirect(user_id=other.user_id))
        assert isinstance(reply, replies.ConversationInfo)
        return reply.conversation.conversation_id

    async def unread(self, device: Device, conversation_id: str) -> int:
        reply = await device.do(commands.GetConversation(conversation_id=conversation_id))
        assert isinstance(reply, replies.ConversationInfo)
        return reply.conversation.unread


@asynccontextmanager
async def open_world(
    directory: Path,
    *,
    debounce_s: float = 0.0,
    timeout_s: float = 30.0,
    tails_bytes: int = MAX_BYTES,
    feed_limits: FeedLimits | None = None,
    public_url: str = "",
    clock: Callable[[], int] | None = None,
    reach: Reach = HERE,
) -> AsyncIterator[World]:
    """Bring a node to life on a directory; opening it again is a restart.

    `clock`: wall time in ms; without one it stands still, at world.now_ms.
    """
    async with open_store(directory) as store:
        epochs = await store.claim_all("n1")
        flaky = FlakyStore(store)
        people = Directory(store)
        log_ins = LogIns(store, people, b"a secret of 32 bytes for tests...")
        worlds: list[World] = []
        core = ChatCore(
            cast(Store, flaky),
            people,
            log_ins,
            surround=partial(Alone, epochs),
            node_id="n1",
            server="test",
            nodes=list,
            now_ms=clock or (lambda: worlds[0].now_ms),
            max_file_bytes=1 << 20,
            debounce_s=debounce_s,
            tails_bytes=tails_bytes,
            feed_limits=feed_limits or FeedLimits(),
            secret=log_ins.server_secret,
            public_url=public_url,
            reach=reach,
        )
        log_ins.on_session_revoked = core.service.session_revoked
        world = World(store, flaky, core)
        world.secret = log_ins.server_secret
        worlds.append(world)
        world.now_ms = 1_700_000_000_000
        async with trio.open_nursery() as nursery:
            await nursery.start(core.supervisor.run)
            try:
                with trio.fail_after(timeout_s):
                    yield world
            finally:
                for device in world.devices:
                    device.disconnect()
            nursery.cancel_scope.cancel()


def texts(found: Iterable[Event]) -> list[str]:
    """The texts of the messages among events."""
    return [event.text for event in found if isinstance(event, events.MessagePosted)]


__all__ = ["Device", "FlakyStore", "World", "events", "open_world", "texts"]
