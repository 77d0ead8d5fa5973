"""The usual Python choice, as a competent team writes it: Starlette on uvicorn with uvloop and websockets.

A chat server of one process that stores each message in SQLite (WAL, synchronous=FULL, group commit) before
its ack. It speaks the part of hubbub's JSON protocol that the benchmark uses: hello (a JWT of the app's
backend), open_direct, create_group, send, history, sync, heartbeat. What hubbub does beside that it does not:
no dedup by client_id, no receipts or unread counts, no presence, no edits, no rate limits, no time-out for
silent clients.

Each connection has a queue of its own and a task that writes from it, so that a slow member stops nobody;
who is 1,000 frames behind is disconnected. An event is encoded once for all who hear it.

usage: python -m bench.peers.uvicorn_app --data-dir DIR --port PORT --secret SECRET
Prints {"event": "started", "port": N} when it listens; SIGTERM ends it with exit code 0.
"""

import argparse
import asyncio
import gc
import json
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Final

import jwt
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.peers.uvicorn_store import MessageRow, Store, User
from protocol import replies
from protocol.codec import CommandError, Wire, decode_command, encode_payload
from protocol.commands import Command, CreateGroup, Heartbeat, Hello, History, OpenDirect, Send, Sync
from protocol.errors import CloseCode, Refused
from protocol.events import Event, MessagePosted
from protocol.limits import HEARTBEAT_INTERVAL_S, MAX_FRAME_BYTES, MAX_GROUP_MEMBERS, MAX_TEXT_BYTES
from protocol.types import ConversationKind, ConversationSummary, Head, Message, Profile, ServerLimits

MAX_UNACKED: Final = 64  # sends of one connection on their way to the disk; then it is not read
MAX_QUEUED: Final = 1000  # frames waiting for one connection; then it is too slow
GRACE_S: Final = 5  # for connections to close at the end
_SUBPROTOCOL: Final = "hubbub.json"
_LIMITS: Final = ServerLimits(
    max_frame_bytes=MAX_FRAME_BYTES,
    max_text_bytes=MAX_TEXT_BYTES,
    max_group_members=MAX_GROUP_MEMBERS,
    max_unacked_sends=MAX_UNACKED,
    max_file_bytes=0,
)


class Conversation:
    """A conversation and its members. `last_seq` is the last one given out, `head` the last one stored."""

    def __init__(
        self,
        conversation_id: str,
        kind: ConversationKind,
        title: str,
        member_ids: Sequence[str],
        head: int = 0,
    ) -> None:
        self.conversation_id = conversation_id
        self.kind = kind
        self.title = title
        self.member_ids = frozenset(member_ids)
        self.head = self.last_seq = head
        self.stored: asyncio.Future[None] | None = None  # set where it was made by this process

    def summary(self, user_id: str) -> ConversationSummary:
        others = self.member_ids - {user_id} if self.kind == "direct" else ()
        return ConversationSummary(
            conversation_id=self.conversation_id,
            kind=self.kind,
            title=self.title,
            head=self.head,
            member_count=len(self.member_ids),
            peer_id=next(iter(others), ""),
        )


class Connection:
    """One signed-in WebSocket: read by the endpoint's own task, written by another one from a queue."""

    def __init__(self, websocket: WebSocket, user: User) -> None:
        self._websocket = websocket
        self._frames: deque[str] = deque()
        self._has_frames = asyncio.Event()
        self._has_room: asyncio.Event | None = None  # while the reader waits for it
        self._reader = asyncio.current_task()
        self.user = user
        self.unacked_count = 0
        self.is_too_slow = False

    def push(self, frame: str) -> None:
        """Queue one frame. A connection that is too far behind is ended."""
        frames = self._frames
        frames.append(frame)
        if len(frames) == 1:
            self._has_frames.set()
        elif len(frames) > MAX_QUEUED and not self.is_too_slow:
            self.is_too_slow = True
            if self._reader is not None:
                self._reader.cancel()

    def answer(self, reply: replies.Reply) -> None:
        self.push(encode_payload(reply, Wire.JSON_WS).decode())

    async def write_all(self) -> None:
        """Write what is queued until cancelled, or the client has gone."""
        frames, send_text = self._frames, self._websocket.send_text
        try:
            while True:
                await self._has_frames.wait()
                while frames:
                    await send_text(frames[0])
                    frames.popleft()
                self._has_frames.clear()
        except (WebSocketDisconnect, RuntimeError):
            pass  # it has gone, or uvicorn has closed it for a broken frame: the reader hears of it as well

    async def room(self) -> None:
        """Wait while too many sends are on their way to the disk."""
        while self.unacked_count >= MAX_UNACKED:
            self._has_room = asyncio.Event()
            await self._has_room.wait()
        self._has_room = None

    def acked(self, reply: replies.Sent) -> None:
        self.unacked_count -= 1
        if self._has_room is not None:
            self._has_room.set()
        self.answer(reply)


class Chat:
    """Who is connected, which conversations there are, and what each command does."""

    def __init__(self, store: Store, secret: str) -> None:
        self._store = store
        self._secret = secret
        self._online: dict[str, set[Connection]] = {}
        self._conversations: dict[str, Conversation] = {}
        self._of_user: dict[str, list[Conversation]] = {}
        self._directs: dict[frozenset[str], Conversation] = {}
        for row in store.conversations():
            kind: ConversationKind = "direct" if row.kind == "direct" else "group"
            self._add(Conversation(row.conversation_id, kind, row.title, row.member_ids, row.head))

    # -- connections --------------------------------------------------------------------------------

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection until it ends."""
        is_offered = _SUBPROTOCOL in websocket.scope["subprotocols"]
        await websocket.accept(subprotocol=_SUBPROTOCOL if is_offered else None)
        try:
            connection = await self._greet(websocket)
        except Refused as exc:
            with suppress(WebSocketDisconnect):
                await websocket.send_text(_error(0, exc.code, exc.message))
                await websocket.close(CloseCode.UNAUTHENTICATED, exc.code)
            return
        except WebSocketDisconnect:
            return
        writer = asyncio.create_task(connection.write_all())
        try:
            await self._read_all(connection, websocket)
        except asyncio.CancelledError:
            if not connection.is_too_slow:
                raise
        finally:
            writer.cancel()
            self._detach(connection)

    async def _greet(self, websocket: WebSocket) -> Connection:
        """Take hello. Raises: Refused; WebSocketDisconnect."""
        try:
            hello = decode_command(await _next_frame(websocket), Wire.JSON_WS)
        except CommandError as exc:
            raise Refused(exc.code, exc.message) from None
        if not isinstance(hello, Hello):
            raise Refused("hello_expected")
        user = await self._sign_in(hello.token)
        # From here on in one go: events come after the welcome, and none is missed between it and the heads.
        connection = Connection(websocket, user)
        cursors = hello.cursors or {}
        welcome = replies.Welcome(
            id=hello.id,
            user=Profile(user_id=user.user_id, username=user.name, name=user.name),
            app_id="peer",
            session_id=token_hex(8),
            device_id=hello.device_id,
            node_id="peer",
            server="uvicorn",
            now_ms=_now_ms(),
            heartbeat_interval_s=HEARTBEAT_INTERVAL_S,
            limits=_LIMITS,
            heads=[
                Head(conversation_id=each.conversation_id, head=each.head)
                for each in self._of_user.get(user.user_id, ())
                if each.head > cursors.get(each.conversation_id, 0)
            ],
        )
        connection.answer(welcome)
        self._online.setdefault(user.user_id, set()).add(connection)
        return connection

    async def _sign_in(self, token: str) -> User:
        """Verify a token, and make its user at the first use. Raises: Refused(unauthenticated)."""
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=["HS256"], options={"require": ["exp", "sub"]}
            )
        except jwt.PyJWTError as exc:
            raise Refused("unauthenticated", str(exc)) from None
        subject = str(claims["sub"])
        user = self._store.user_of(subject)
        if user is None:
            await self._store.add_user(token_hex(8), subject, str(claims.get("name", subject)))
            user = self._store.user_of(subject)
            assert user is not None  # ours, or that of a connection which was faster
        return user

    def _detach(self, connection: Connection) -> None:
        connections = self._online[connection.user.user_id]
        connections.discard(connection)
        if not connections:
            del self._online[connection.user.user_id]

    # -- commands -----------------------------------------------------------------------------------

    async def _read_all(self, connection: Connection, websocket: WebSocket) -> None:
        """Read and do commands until the client goes."""
        while True:
            try:
                frame = await _next_frame(websocket)
            except WebSocketDisconnect:
                return
            command_id = 0
            try:
                command = decode_command(frame, Wire.JSON_WS)
                command_id = command.id
                if isinstance(command, Send):
                    self._send(connection, command)
                    if connection.unacked_count >= MAX_UNACKED:
                        await connection.room()
                else:
                    connection.answer(await self._do(connection.user, command))
            except CommandError as exc:
                connection.push(_error(exc.command_id, exc.code, exc.message))
            except Refused as exc:
                connection.push(_error(command_id, exc.code, exc.message))

    async def _do(self, user: User, command: Command) -> replies.Reply:
        """Carry out anything but a send. Raises: Refused."""
        match command:
            case History():
                return self._history(user, command)
            case Sync():
                return self._sync(user, command)
            case Heartbeat():
                return replies.HeartbeatAck(id=command.id, now_ms=_now_ms())
            case OpenDirect():
                return await self._open_direct(user, command)
            case CreateGroup():
                return await self._create_group(user, command)
            case _:
                raise Refused("not_found", "This server does not know that command.")

    def _send(self, connection: Connection, command: Send) -> None:
        """Give the message its place, and hand it to the store: the ack and the fan-out follow the commit."""
        conversation = self._conversation(connection.user, command.conversation_id)
        text = command.text
        if not text:
            raise Refused("text_empty")
        if len(text) > MAX_TEXT_BYTES or len(text.encode()) > MAX_TEXT_BYTES:
            raise Refused("text_too_long")
        conversation.last_seq = seq = conversation.last_seq + 1
        row = MessageRow(
            conversation.conversation_id, seq, _now_ms(), connection.user.user_id, text, command.client_id
        )
        connection.unacked_count += 1
        self._store.add_message(row, partial(self._stored, connection, command.id, conversation, row))

    def _stored(
        self, sender: Connection, command_id: int, conversation: Conversation, row: MessageRow
    ) -> None:
        """Ack one message, and send it to all connections of all members, the sender's too."""
        conversation.head = row.seq
        sender.acked(
            replies.Sent(
                id=command_id, conversation_id=conversation.conversation_id, seq=row.seq, at_ms=row.at_ms
            )
        )
        frame = encode_payload(_event(row), Wire.JSON_WS).decode()
        online = self._online
        for user_id in conversation.member_ids:
            for connection in online.get(user_id, ()):
                connection.push(frame)

    def _history(self, user: User, command: History) -> replies.MessagePage:
        """Messages only before or after a seq; there are no threads here."""
        conversation_id = self._conversation(user, command.conversation_id).conversation_id
        if command.after is None:
            rows = self._store.messages_before(conversation_id, command.before, command.limit + 1)
        else:
            rows = self._store.messages_after(conversation_id, command.after, command.limit + 1)
        items = [
            Message(
                conversation_id=conversation_id,
                seq=row.seq,
                at_ms=row.at_ms,
                user_id=row.user_id,
                text=row.text,
                client_id=row.client_id,
            )
            for row in rows[: command.limit]
        ]
        if command.after is None:
            items.reverse()
        return replies.MessagePage(
            id=command.id, conversation_id=conversation_id, items=items, more=len(rows) > command.limit
        )

    def _sync(self, user: User, command: Sync) -> replies.EventPage:
        conversation = self._conversation(user, command.conversation_id)
        rows = self._store.messages_after(conversation.conversation_id, command.after, command.limit + 1)
        items: list[Event] = [_event(row) for row in rows[: command.limit]]
        return replies.EventPage(
            id=command.id,
            conversation_id=conversation.conversation_id,
            items=items,
            head=conversation.head,
            more=len(rows) > command.limit,
        )

    async def _open_direct(self, user: User, command: OpenDirect) -> replies.ConversationInfo:
        members = frozenset((user.user_id, command.user_id))
        if len(members) == 1:
            raise Refused("self_not_allowed")
        if not self._store.has_users([command.user_id]):
            raise Refused("user_not_found")
        conversation = self._directs.get(members)
        is_new = conversation is None
        if conversation is None:
            conversation = self._make("direct", "", members)
        return await _info(command.id, conversation, user, created=is_new)

    async def _create_group(self, user: User, command: CreateGroup) -> replies.ConversationInfo:
        members = frozenset((user.user_id, *command.member_ids))
        if len(members) > MAX_GROUP_MEMBERS:
            raise Refused("group_full")
        if not self._store.has_users(command.member_ids):
            raise Refused("user_not_found")
        return await _info(command.id, self._make("group", command.title, members), user, created=True)

    def _make(self, kind: ConversationKind, title: str, members: frozenset[str]) -> Conversation:
        conversation = Conversation(token_hex(8), kind, title, sorted(members))
        conversation.stored = self._store.add_conversation(
            conversation.conversation_id, kind, title, conversation.member_ids
        )
        self._add(conversation)
        return conversation

    def _add(self, conversation: Conversation) -> None:
        self._conversations[conversation.conversation_id] = conversation
        for user_id in conversation.member_ids:
            self._of_user.setdefault(user_id, []).append(conversation)
        if conversation.kind == "direct":
            self._directs[conversation.member_ids] = conversation

    def _conversation(self, user: User, conversation_id: str) -> Conversation:
        conversation = self._conversations.get(conversation_id)
        if conversation is None or user.user_id not in conversation.member_ids:
            raise Refused("conversation_not_found")
        return conversation


async def _info(
    command_id: int, conversation: Conversation, user: User, *, created: bool
) -> replies.ConversationInfo:
    """Answer once the conversation is stored, whoever has made it."""
    if conversation.stored is not None:
        await asyncio.shield(conversation.stored)  # others may wait for it too
    return replies.ConversationInfo(
        id=command_id, conversation=conversation.summary(user.user_id), created=created
    )


async def _next_frame(websocket: WebSocket) -> str:
    """Return the next text frame; a binary one counts as empty. Raises: WebSocketDisconnect."""
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message["code"])
    return message.get("text") or ""


def _event(row: MessageRow) -> MessagePosted:
    return MessagePosted(
        conversation_id=row.conversation_id,
        seq=row.seq,
        at_ms=row.at_ms,
        user_id=row.user_id,
        text=row.text,
        client_id=row.client_id,
    )


def _error(command_id: int, code: str, message: str) -> str:
    return encode_payload(replies.Error(id=command_id, code=code, message=message), Wire.JSON_WS).decode()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


# -- the process ------------------------------------------------------------------------------------


def make_app(data_dir: Path, secret: str) -> Starlette:
    """Make the application: one WebSocket endpoint, /ws, and a store that is open while it runs."""
    chats: list[Chat] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        store = Store(data_dir / "chat.sqlite3")
        chats.append(Chat(store, secret))
        yield
        store.close()

    async def endpoint(websocket: WebSocket) -> None:
        await chats[0].serve(websocket)

    return Starlette(routes=[WebSocketRoute("/ws", endpoint)], lifespan=lifespan)


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(json.dumps({"event": "started", "port": port}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--secret", required=True, help="what the app's backend signs its tokens with")
    options = parser.parse_args()
    config = uvicorn.Config(
        make_app(options.data_dir, options.secret),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        ws="websockets-sansio",  # faster than "websockets": see the README here
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=None,  # the clients send heartbeats
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
    )
    # When uvicorn has shut down it raises the signal again: here nothing is left to do.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    # What is alive now stays so, and a chat server makes little garbage in cycles: saves about 5 %.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    _Server(config).run()


if __name__ == "__main__":
    main()
