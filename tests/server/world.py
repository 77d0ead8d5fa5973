"""A node without its edge: the real store and the real actors, with listeners that record what they hear."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar, cast

import trio

from actors.reply import ReplySlot
from protocol import commands, events, replies
from protocol.codec import Encoded
from protocol.commands import Command, Hello
from protocol.errors import CloseCode
from protocol.events import Event
from protocol.records import Insert, User
from protocol.replies import Reply
from protocol.types import DeviceSession
from server.chat_core import ChatCore
from server.identity import Identity
from server.session import Session
from storage.sqlite import SqliteStore, open_store


E = TypeVar("E", bound=Event)


class NoLogIns:
    """Accounts are tested elsewhere."""

    async def list_sessions(self, identity: Identity) -> list[DeviceSession]:
        return [DeviceSession(session_id=identity.session_id, current=True)]

    async def revoke_session(self, identity: Identity, session_id: str) -> None: ...

    async def log_out(self, identity: Identity) -> None: ...


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
            found = [event for event in self.events if isinstance(event, kind)]
            if len(found) >= count:
                return found
            await self._news.wait()

    def heard(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def disconnect(self) -> None:
        self.world.core.service.closed(self.as_session())


class World:
    def __init__(self, store: SqliteStore, core: ChatCore) -> None:
        self.store = store
        self.core = core
        self.now_ms = 0
        self._conn_ids = 0
        self._client_ids = 0
        self.devices: list[Device] = []

    def new_client_id(self) -> str:
        self._client_ids += 1
        return f"client-{self._client_ids}"

    async def user(self, name: str, app_id: str = "default") -> Identity:
        row = User(
            user_id=f"u_{name}",
            app_id=app_id,
            username=name,
            username_key=name,
            name=name.title(),
            name_key=name,
            created_at_ms=1,
        )
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
async def open_world(directory: Path, *, debounce_s: float = 0.0) -> AsyncIterator[World]:
    async with open_store(directory) as store:
        epochs = await store.claim_all("n1")
        worlds: list[World] = []
        core = ChatCore(
            store,
            epochs,
            NoLogIns(),
            node_id="n1",
            server="test",
            nodes=list,
            now_ms=lambda: worlds[0].now_ms,
            max_file_bytes=1 << 20,
            debounce_s=debounce_s,
        )
        world = World(store, core)
        worlds.append(world)
        world.now_ms = 1_700_000_000_000
        async with trio.open_nursery() as nursery:
            await nursery.start(core.supervisor.run)
            with trio.fail_after(30):
                yield world
            for device in world.devices:
                device.disconnect()
            nursery.cancel_scope.cancel()


__all__ = ["Device", "World", "events", "open_world"]
