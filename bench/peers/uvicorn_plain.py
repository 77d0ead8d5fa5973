"""The usual Python choice, as a competent team writes it in a week: Starlette on uvicorn, JSON as dicts.

A chat server of one process that stores each message in SQLite (WAL, synchronous=FULL, group commit) before
its ack. It speaks the part of hubbub's JSON protocol that the benchmark uses: hello (a JWT of the app's
backend), open_direct, create_group, send, history, sync, heartbeat. What hubbub does beside that it does not:
no dedup by client_id, no receipts or unread counts, no presence, no edits, no rate limits, no time-out for
silent clients.

One coroutine per connection does one command after the other, and awaits what it stores; what a client sends
meanwhile waits in the socket. A second task sends what is in the connection's queue, so that a slow member
stops nobody; who is 1,000 frames behind is disconnected. An event is encoded once for all who hear it. How
far an expert gets with the same libraries shows `uvicorn_tuned.py`.

usage: python -m bench.peers.uvicorn_plain --data-dir DIR --port PORT --secret SECRET
Prints {"event": "started", "port": N} when it listens; SIGTERM ends it with exit code 0.
"""

import asyncio
import json
from contextlib import suppress
from secrets import token_hex
from typing import Any, Final, TypeVar

from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.peers.uvicorn_process import make_server
from bench.peers.uvicorn_rooms import Conversation, Online, Rooms, now_ms
from bench.peers.uvicorn_store import MessageRow, Store, User
from protocol.errors import CloseCode, Refused
from protocol.limits import (
    HEARTBEAT_INTERVAL_S,
    MAX_FRAME_BYTES,
    MAX_GROUP_MEMBERS,
    MAX_PAGE,
    MAX_TEXT_BYTES,
)

MAX_QUEUED: Final = 1000  # frames waiting for one connection; then it is too slow
_LIMITS: Final = {
    "max_frame_bytes": MAX_FRAME_BYTES,
    "max_text_bytes": MAX_TEXT_BYTES,
    "max_group_members": MAX_GROUP_MEMBERS,
    "max_unacked_sends": 1,
    "max_file_bytes": 0,
}
_REQUIRED: Final[Any] = object()
Fields = dict[str, Any]
T = TypeVar("T")


class Connection:
    """One signed-in WebSocket: read by the endpoint's own task, written by another one from a queue."""

    def __init__(self, websocket: WebSocket, user: User) -> None:
        self._websocket = websocket
        self.user = user
        self._frames: asyncio.Queue[str] = asyncio.Queue(MAX_QUEUED)
        self._reader = asyncio.current_task()
        self._is_reading = False
        self.is_too_slow = False

    def send_text(self, frame: str) -> None:
        """Queue one frame. A connection that is too far behind is ended, after the command it is at."""
        try:
            self._frames.put_nowait(frame)
        except asyncio.QueueFull:
            if not self.is_too_slow:
                self.is_too_slow = True
                if self._is_reading and self._reader is not None:
                    self._reader.cancel()

    def send_json(self, answer: Fields) -> None:
        self.send_text(_encode(answer))

    async def receive_json(self) -> Fields:
        """Return the next command. Raises: WebSocketDisconnect; Refused(bad_frame)."""
        self._is_reading = True
        try:
            return await _receive_json(self._websocket)
        finally:
            self._is_reading = False

    async def send_all(self) -> None:
        """Send what is queued until cancelled, or the client has gone."""
        with suppress(WebSocketDisconnect, RuntimeError):  # the reader hears of it as well
            while True:
                await self._websocket.send_text(await self._frames.get())


class Chat:
    """Who is connected, and what each command does."""

    def __init__(self, store: Store, secret: str) -> None:
        self._store = store
        self._rooms = Rooms(store, secret)
        self._online: Online[Connection] = Online()

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection until it ends."""
        try:
            connection = await self._greet(websocket)
        except Refused as exc:
            with suppress(WebSocketDisconnect):
                await websocket.send_json(_error(0, exc))
                await websocket.close(CloseCode.UNAUTHENTICATED, exc.code)
            return
        except WebSocketDisconnect:
            return
        sender = asyncio.create_task(connection.send_all())
        try:
            await self._do_all(connection)
        except WebSocketDisconnect:
            pass
        except asyncio.CancelledError:
            if not connection.is_too_slow:
                raise
        finally:
            sender.cancel()
            self._online.detach(connection)

    async def _greet(self, websocket: WebSocket) -> Connection:
        """Take hello. Raises: Refused; WebSocketDisconnect."""
        hello = await _receive_json(websocket)
        if hello.get("type") != "hello":
            raise Refused("hello_expected")
        cursors: dict[str, int] = _field(hello, "cursors", dict, {})
        user = await self._rooms.sign_in(_field(hello, "token", str))
        # From here on in one go: events come after the welcome, and none is missed between it and the heads.
        connection = Connection(websocket, user)
        connection.send_json(
            {
                "type": "welcome",
                "id": _field(hello, "id", int, 0),
                "user": {"user_id": user.user_id, "username": user.name, "name": user.name},
                "app_id": "peer",
                "session_id": token_hex(8),
                "device_id": _field(hello, "device_id", str),
                "node_id": "peer",
                "server": "uvicorn",
                "now_ms": now_ms(),
                "heartbeat_interval_s": HEARTBEAT_INTERVAL_S,
                "limits": _LIMITS,
                "heads": [
                    {"conversation_id": each.conversation_id, "head": each.head}
                    for each in self._rooms.with_news(user, cursors)
                ],
            }
        )
        self._online.attach(connection)
        return connection

    async def _do_all(self, connection: Connection) -> None:
        """Read and do one command after the other. Raises: WebSocketDisconnect, when the client goes."""
        while not connection.is_too_slow:
            command_id = 0
            try:
                command = await connection.receive_json()
                command_id = _field(command, "id", int, 0)
                await self._do(connection, command_id, command)
            except Refused as exc:
                connection.send_json(_error(command_id, exc))

    async def _do(self, connection: Connection, command_id: int, command: Fields) -> None:
        """Carry out one command and answer it. Raises: Refused."""
        user = connection.user
        match command.get("type"):
            case "send":
                await self._send(connection, command_id, command)
                return
            case "history":
                answer = self._history(user, command)
            case "sync":
                answer = self._sync(user, command)
            case "heartbeat":
                answer = {"type": "heartbeat_ack", "now_ms": now_ms()}
            case "open_direct":
                other_id = _field(command, "user_id", str)
                conversation, is_new = await self._rooms.open_direct(user, other_id)
                answer = _info(conversation, user, created=is_new)
            case "create_group":
                title = _field(command, "title", str)
                member_ids = [str(each) for each in _field(command, "member_ids", list)]
                conversation = await self._rooms.create_group(user, title, member_ids)
                answer = _info(conversation, user, created=True)
            case _:
                raise Refused("not_found", "This server does not know that command.")
        connection.send_json({**answer, "id": command_id})

    async def _send(self, connection: Connection, command_id: int, command: Fields) -> None:
        """Store one message, ack it, and send it to all connections of all members, the sender's too."""
        conversation, row = self._rooms.place(
            connection.user,
            _field(command, "conversation_id", str),
            _field(command, "text", str),
            _field(command, "client_id", str),
        )
        # The store wakes the waiting tasks in the order of the messages, and none waits again before it has
        # queued its event everywhere: so the order in a conversation is the same for all.
        await self._store.add_message(row)
        conversation.head = row.seq
        connection.send_json(
            {
                "type": "sent",
                "id": command_id,
                "conversation_id": row.conversation_id,
                "seq": row.seq,
                "at_ms": row.at_ms,
            }
        )
        frame = _encode(_event(row))
        for user_id in conversation.member_ids:
            for member in self._online.by_user.get(user_id, ()):
                member.send_text(frame)

    def _history(self, user: User, command: Fields) -> Fields:
        """Messages only before or after a seq; there are no threads here."""
        conversation_id = _field(command, "conversation_id", str)
        before = _field(command, "before", int, 0)
        after: int | None = _field(command, "after", int, None)
        page = self._rooms.history(user, conversation_id, before, after, _limit(command, 50))
        return {
            "type": "messages",
            "conversation_id": conversation_id,
            "items": [row._asdict() for row in page.rows],
            "more": page.more,
        }

    def _sync(self, user: User, command: Fields) -> Fields:
        conversation, page = self._rooms.sync(
            user,
            _field(command, "conversation_id", str),
            _field(command, "after", int, 0),
            _limit(command, 200),
        )
        return {
            "type": "events",
            "conversation_id": conversation.conversation_id,
            "items": [_event(row) for row in page.rows],
            "head": conversation.head,
            "more": page.more,
        }


async def _receive_json(websocket: WebSocket) -> Fields:
    try:
        command = await websocket.receive_json()
    except (ValueError, KeyError):  # KeyError: a binary frame
        raise Refused("bad_frame", "The frame could not be decoded.") from None
    if not isinstance(command, dict):
        raise Refused("bad_frame", "A command is an object.")
    return command


def _field(command: Fields, name: str, kind: type[T], default: Any = _REQUIRED) -> T:
    """Return one field of a command, checked; null is as if it were not there. Raises: Refused(bad_field)."""
    value = command.get(name)
    if value is None and default is not _REQUIRED:
        return default  # type: ignore[no-any-return]  # None, where the caller says so
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Refused("bad_field", f"`{name}` is missing, or no {kind.__name__}.")
    return value


def _limit(command: Fields, default: int) -> int:
    limit = _field(command, "limit", int, default)
    if not 1 <= limit <= MAX_PAGE:
        raise Refused("bad_field", f"`limit` is from 1 to {MAX_PAGE}.")
    return limit


def _info(conversation: Conversation, user: User, *, created: bool) -> Fields:
    return {
        "type": "conversation",
        "conversation": {
            "conversation_id": conversation.conversation_id,
            "kind": conversation.kind,
            "title": conversation.title,
            "head": conversation.head,
            "member_count": len(conversation.member_ids),
            "peer_id": conversation.peer_id(user.user_id),
        },
        "created": created,
    }


def _event(row: MessageRow) -> Fields:
    return {"type": "message", **row._asdict()}


def _error(command_id: int, refused: Refused) -> Fields:
    return {"type": "error", "id": command_id, "code": refused.code, "message": refused.message}


def _encode(answer: Fields) -> str:
    """Encode as Starlette's send_json does."""
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False)


def main() -> None:
    make_server((__doc__ or "").partition("\n")[0], Chat).run()


if __name__ == "__main__":
    main()
