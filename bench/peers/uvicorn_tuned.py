"""Starlette on uvicorn as an expert tunes it: what these libraries can do, not what one meets in the field.

A chat server of one process that stores each message in SQLite (WAL, synchronous=FULL, group commit) before
its ack. It speaks the part of hubbub's JSON protocol that the benchmark uses: hello (a JWT of the app's
backend), open_direct, create_group, send, history, sync, heartbeat. What hubbub does beside that it does not:
no dedup by client_id, no receipts or unread counts, no presence, no edits, no rate limits, no time-out for
silent clients.

Tuned are: up to 64 sends of a connection are on their way to the disk, followed up by callbacks and not by
tasks; commands and answers are msgspec Structs, hubbub's own; each connection has a deque, an event and a
task that writes, so that a slow member stops nobody (who is 1,000 frames behind is disconnected); the cycle
collector is frozen. The usual way is `uvicorn_plain.py`.

usage: python -m bench.peers.uvicorn_tuned --data-dir DIR --port PORT --secret SECRET
Prints {"event": "started", "port": N} when it listens; SIGTERM ends it with exit code 0.
"""

import asyncio
import gc
from collections import deque
from contextlib import suppress
from functools import partial
from secrets import token_hex
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.peers.uvicorn_process import make_server
from bench.peers.uvicorn_rooms import Conversation, Online, Rooms, now_ms
from bench.peers.uvicorn_store import MessageRow, Store, User
from protocol import replies
from protocol.codec import CommandError, Wire, decode_command, encode_payload
from protocol.commands import Command, CreateGroup, Heartbeat, Hello, History, OpenDirect, Send, Sync
from protocol.errors import CloseCode, Refused
from protocol.events import Event, MessagePosted
from protocol.limits import HEARTBEAT_INTERVAL_S, MAX_FRAME_BYTES, MAX_GROUP_MEMBERS, MAX_TEXT_BYTES
from protocol.types import ConversationSummary, Head, Message, Profile, ServerLimits

MAX_UNACKED: Final = 64  # sends of one connection on their way to the disk; then it is not read
MAX_QUEUED: Final = 1000  # frames waiting for one connection; then it is too slow
_LIMITS: Final = ServerLimits(
    max_frame_bytes=MAX_FRAME_BYTES,
    max_text_bytes=MAX_TEXT_BYTES,
    max_group_members=MAX_GROUP_MEMBERS,
    max_unacked_sends=MAX_UNACKED,
    max_file_bytes=0,
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
    """Who is connected, and what each command does."""

    def __init__(self, store: Store, secret: str) -> None:
        self._store = store
        self._rooms = Rooms(store, secret)
        self._online: Online[Connection] = Online()

    # -- connections --------------------------------------------------------------------------------

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection until it ends."""
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
            self._online.detach(connection)

    async def _greet(self, websocket: WebSocket) -> Connection:
        """Take hello. Raises: Refused; WebSocketDisconnect."""
        try:
            hello = decode_command(await _next_frame(websocket), Wire.JSON_WS)
        except CommandError as exc:
            raise Refused(exc.code, exc.message) from None
        if not isinstance(hello, Hello):
            raise Refused("hello_expected")
        user = await self._rooms.sign_in(hello.token)
        # From here on in one go: events come after the welcome, and none is missed between it and the heads.
        connection = Connection(websocket, user)
        welcome = replies.Welcome(
            id=hello.id,
            user=Profile(user_id=user.user_id, username=user.name, name=user.name),
            app_id="peer",
            session_id=token_hex(8),
            device_id=hello.device_id,
            node_id="peer",
            server="uvicorn",
            now_ms=now_ms(),
            heartbeat_interval_s=HEARTBEAT_INTERVAL_S,
            limits=_LIMITS,
            heads=[
                Head(conversation_id=each.conversation_id, head=each.head)
                for each in self._rooms.with_news(user, hello.cursors or {})
            ],
        )
        connection.answer(welcome)
        self._online.attach(connection)
        return connection

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
                return replies.HeartbeatAck(id=command.id, now_ms=now_ms())
            case OpenDirect():
                conversation, is_new = await self._rooms.open_direct(user, command.user_id)
                return _info(command.id, conversation, user, created=is_new)
            case CreateGroup():
                conversation = await self._rooms.create_group(user, command.title, command.member_ids)
                return _info(command.id, conversation, user, created=True)
            case _:
                raise Refused("not_found", "This server does not know that command.")

    def _send(self, connection: Connection, command: Send) -> None:
        """Give the message its place, and hand it to the store: the ack and the fan-out follow the commit."""
        conversation, row = self._rooms.place(
            connection.user, command.conversation_id, command.text, command.client_id
        )
        connection.unacked_count += 1
        self._store.add_message_then(row, partial(self._stored, connection, command.id, conversation, row))

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
        online = self._online.by_user
        for user_id in conversation.member_ids:
            for connection in online.get(user_id, ()):
                connection.push(frame)

    def _history(self, user: User, command: History) -> replies.MessagePage:
        """Messages only before or after a seq; there are no threads here."""
        page = self._rooms.history(
            user, command.conversation_id, command.before, command.after, command.limit
        )
        items = [
            Message(
                conversation_id=row.conversation_id,
                seq=row.seq,
                at_ms=row.at_ms,
                user_id=row.user_id,
                text=row.text,
                client_id=row.client_id,
            )
            for row in page.rows
        ]
        return replies.MessagePage(
            id=command.id, conversation_id=command.conversation_id, items=items, more=page.more
        )

    def _sync(self, user: User, command: Sync) -> replies.EventPage:
        conversation, page = self._rooms.sync(user, command.conversation_id, command.after, command.limit)
        items: list[Event] = [_event(row) for row in page.rows]
        return replies.EventPage(
            id=command.id,
            conversation_id=conversation.conversation_id,
            items=items,
            head=conversation.head,
            more=page.more,
        )


def _info(
    command_id: int, conversation: Conversation, user: User, *, created: bool
) -> replies.ConversationInfo:
    summary = ConversationSummary(
        conversation_id=conversation.conversation_id,
        kind=conversation.kind,
        title=conversation.title,
        head=conversation.head,
        member_count=len(conversation.member_ids),
        peer_id=conversation.peer_id(user.user_id),
    )
    return replies.ConversationInfo(id=command_id, conversation=summary, created=created)


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


def main() -> None:
    server = make_server((__doc__ or "").partition("\n")[0], Chat)
    # What is alive now stays so, and a chat server makes little garbage in cycles: saves about 5 %.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    server.run()


if __name__ == "__main__":
    main()
