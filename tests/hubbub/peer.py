"""A small chat server on real sockets, scripted to misbehave: the SDK's tests connect to it.

It keeps conversations in memory, speaks the protocol through the project's own codecs, over TCP and
WebSocket, and lets a test decide what happens to each live event and each answer on its way out.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import trio
import trio_websocket

from protocol import commands as c
from protocol import events as e
from protocol import replies as r
from protocol.codec import FrameSplitter, Wire, decode_command, encode_frame, encode_payload
from protocol.commands import Command
from protocol.errors import CloseCode
from protocol.events import ConversationEvent, Event
from protocol.replies import Reply
from protocol.types import ConversationSummary, Head, NodeInfo, Profile, ServerLimits

LIMITS = ServerLimits(
    max_frame_bytes=640 * 1024,
    max_text_bytes=100 * 1024,
    max_group_members=500,
    max_unacked_sends=32,
    max_file_bytes=1024,
)

Outgoing = Reply | Event


class Hangup(Exception):
    """Raised by a test's hook: cut this connection now, without a goodbye."""


class HangupWithCode(Exception):
    """Raised by a test's hook: close this connection with a code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class PeerSession:
    """One connection, seen from the server."""

    def __init__(self, peer: "Peer", wire: Wire, write: Callable[[Outgoing], Any]) -> None:
        self.peer = peer
        self.wire = wire
        self.user: Profile | None = None
        self.device_id = ""
        self.hello: c.Hello | None = None
        self.received: list[Command] = []
        self.write = write
        self.scope = trio.CancelScope()


class Peer:
    """The scripted server. `on_live` and `on_reply` return what is really sent instead, or hang up."""

    def __init__(self) -> None:
        self.users = {"token-ann": Profile(user_id="ann", username="ann", name="Ann")}
        self.conversations: dict[str, list[ConversationEvent]] = {}
        self.inbox: list[Event] = []
        self.read_seqs: dict[str, int] = {}
        self.sent: dict[tuple[str, str, str], r.Sent] = {}
        self.sessions: list[PeerSession] = []
        self.hellos: list[c.Hello] = []
        self.commands: list[Command] = []
        self.cursors: dict[str, dict[str, int]] = {}
        self.heartbeat_interval_s = 0.05
        self.max_unacked_sends = 32
        self.on_live: Callable[[PeerSession, Event], Sequence[Outgoing]] = lambda _, event: (event,)
        self.on_reply: Callable[[PeerSession, Command, Reply], Sequence[Outgoing]] = lambda _s, _c, reply: (
            reply,
        )
        self.on_command: Callable[[PeerSession, Command], Reply | None] = lambda _s, _c: None
        self.gates: dict[type, trio.Event] = {}  # answers to these commands wait
        self.tcp_url = ""
        self.ws_url = ""
        self.node_id = "node-1"
        self.nodes: list[NodeInfo] = []  # told in welcome
        self.life = trio.CancelScope()

    # -- what a test does to the world --------------------------------------------------------------

    async def post(
        self, conversation_id: str, text: str, *, user_id: str = "bob", client_id: str = ""
    ) -> int:
        """Store a message and tell every session about it. Returns its seq."""
        log = self.conversations.setdefault(conversation_id, [])
        event = e.MessagePosted(
            conversation_id=conversation_id,
            seq=len(log) + 1,
            at_ms=1_000 + len(log),
            user_id=user_id,
            text=text,
            client_id=client_id,
        )
        await self.add(event)
        return event.seq

    async def add(self, event: ConversationEvent) -> None:
        """Store any next event of a conversation and tell every session about it."""
        log = self.conversations.setdefault(event.conversation_id, [])
        assert event.seq == len(log) + 1
        log.append(event)
        await self.tell(event)

    async def add_to_inbox(self, event: Any) -> None:
        self.inbox.append(event)
        await self.tell(event)

    async def tell(self, event: Event) -> None:
        for session in tuple(self.sessions):
            if session.user is None:
                continue
            try:
                for message in self.on_live(session, event):
                    await session.write(message)
            except Hangup:
                session.scope.cancel()
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio_websocket.ConnectionClosed):
                session.scope.cancel()

    def cut_all(self) -> None:
        """Drop every connection without a goodbye."""
        for session in self.sessions:
            session.scope.cancel()

    def die(self) -> None:
        """Drop every connection and refuse new ones."""
        self.life.cancel()

    def as_node(self) -> NodeInfo:
        """What other nodes tell of this one."""
        address = self.tcp_url.removeprefix("hubbub://")
        return NodeInfo(node_id=self.node_id, url=f"{self.ws_url}/ws", bot_address=address)

    # -- the sockets --------------------------------------------------------------------------------

    async def handle_tcp(self, stream: trio.SocketStream) -> None:
        lock = trio.Lock()

        async def write(message: Outgoing) -> None:
            async with lock:
                await stream.send_all(encode_frame(message, Wire.MSGPACK_TCP))

        session = PeerSession(self, Wire.MSGPACK_TCP, write)
        splitter = FrameSplitter()
        self.sessions.append(session)
        try:
            with session.scope:
                while data := await stream.receive_some(65536):
                    for payload in splitter.feed(data):
                        await self._serve(session, decode_command(payload, session.wire))
        except HangupWithCode as hangup:
            await write(e.Closing(code=hangup.code, reason="scripted"))
        except (Hangup, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.sessions.remove(session)
            await trio.aclose_forcefully(stream)

    async def handle_ws(self, request: trio_websocket.WebSocketRequest) -> None:
        subprotocol = request.proposed_subprotocols[0]
        wire = Wire.JSON_WS if subprotocol == "hubbub.json" else Wire.MSGPACK_WS
        socket = await request.accept(subprotocol=subprotocol)

        async def write(message: Outgoing) -> None:
            payload = encode_payload(message, wire)
            await socket.send_message(payload.decode() if wire is Wire.JSON_WS else payload)

        session = PeerSession(self, wire, write)
        self.sessions.append(session)
        try:
            with session.scope:
                while True:
                    await self._serve(session, decode_command(await socket.get_message(), wire))
        except HangupWithCode as hangup:
            await socket.aclose(hangup.code, "scripted")
        except (Hangup, trio_websocket.ConnectionClosed):
            pass
        finally:
            self.sessions.remove(session)

    async def _serve(self, session: PeerSession, command: Command) -> None:
        self.commands.append(command)
        session.received.append(command)
        gate = self.gates.get(type(command))
        if gate is not None:
            await gate.wait()
        reply = self.on_command(session, command)
        after: ConversationEvent | None = None
        if reply is None:
            reply, after = self._answer(session, command)
        for message in self.on_reply(session, command, reply):
            await session.write(message)
        if isinstance(reply, r.Welcome):
            assert isinstance(command, c.Hello)
            session.user = reply.user
        if after is not None:
            await self.tell(after)

    def _answer(self, session: PeerSession, command: Command) -> tuple[Reply, ConversationEvent | None]:
        if isinstance(command, c.Hello):
            return self._welcome(session, command), None
        if isinstance(command, c.Heartbeat):
            self._note_cursors(session, command.cursors)
            heads = self._heads(command.cursors)
            return (
                r.HeartbeatAck(id=command.id, now_ms=1, inbox_head=len(self.inbox), heads=heads),
                None,
            )
        if isinstance(command, c.Ack):
            self._note_cursors(session, command.cursors)
            return r.Ok(id=command.id), None
        if isinstance(command, c.Send):
            return self._send(session, command)
        if isinstance(command, c.Sync):
            log = self.conversations.get(command.conversation_id)
            if log is None:
                return r.Error(id=command.id, code="conversation_not_found"), None
            items = log[command.after : command.after + command.limit]
            more = command.after + command.limit < len(log)
            page = r.EventPage(
                id=command.id,
                conversation_id=command.conversation_id,
                items=list(items),
                head=len(log),
                more=more,
            )
            return page, None
        if isinstance(command, c.SyncInbox):
            items_inbox = self.inbox[command.after : command.after + command.limit]
            more = command.after + command.limit < len(self.inbox)
            return r.EventPage(id=command.id, items=items_inbox, head=len(self.inbox), more=more), None
        if isinstance(command, c.GetConversation):
            return r.ConversationInfo(
                id=command.id, conversation=self._summary(command.conversation_id)
            ), None
        if isinstance(command, c.ListConversations):
            names = list(self.conversations)
            return r.ConversationList(id=command.id, items=[self._summary(name) for name in names]), None
        return r.Ok(id=command.id), None

    def _welcome(self, session: PeerSession, hello: c.Hello) -> Reply:
        self.hellos.append(hello)
        session.hello = hello
        session.device_id = hello.device_id
        user = self.users.get(hello.token)
        if user is None:
            return r.Error(id=hello.id, code="unauthenticated", message="no such token")
        cursors = hello.cursors if hello.cursors is not None else self.cursors.get(hello.device_id, {})
        return r.Welcome(
            id=hello.id,
            user=user,
            app_id="app",
            session_id=f"session-{len(self.hellos)}",
            device_id=hello.device_id,
            node_id=self.node_id,
            nodes=self.nodes,
            server="peer",
            now_ms=1,
            heartbeat_interval_s=self.heartbeat_interval_s,
            limits=msgspec.structs.replace(LIMITS, max_unacked_sends=self.max_unacked_sends),
            inbox_head=len(self.inbox),
            inbox_cursor=hello.inbox_cursor or 0,
            heads=self._heads(cursors),
            cursors={} if hello.cursors is not None else dict(cursors),
        )

    def _heads(self, cursors: dict[str, int]) -> list[Head]:
        return [
            Head(conversation_id=name, head=len(log))
            for name, log in self.conversations.items()
            if len(log) > cursors.get(name, 0)
        ]

    def _note_cursors(self, session: PeerSession, cursors: dict[str, int]) -> None:
        self.cursors.setdefault(session.device_id, {}).update(cursors)

    def _summary(self, conversation_id: str) -> ConversationSummary:
        log = self.conversations[conversation_id]
        return ConversationSummary(
            conversation_id=conversation_id,
            kind="group",
            head=len(log),
            read_seq=self.read_seqs.get(conversation_id, 0),
        )

    def _send(self, session: PeerSession, command: c.Send) -> tuple[Reply, ConversationEvent | None]:
        assert session.user is not None
        key = (command.conversation_id, session.user.user_id, command.client_id)
        first = self.sent.get(key)
        if first is not None:
            return msgspec.structs.replace(first, id=command.id, duplicate=True), None
        log = self.conversations.setdefault(command.conversation_id, [])
        event = e.MessagePosted(
            conversation_id=command.conversation_id,
            seq=len(log) + 1,
            at_ms=1_000,
            user_id=session.user.user_id,
            text=command.text,
            client_id=command.client_id,
            reply_to=command.reply_to,
        )
        log.append(event)
        sent = r.Sent(id=command.id, conversation_id=command.conversation_id, seq=event.seq, at_ms=1_000)
        self.sent[key] = sent
        return sent, event


async def _live(peer: Peer, *, task_status: trio.TaskStatus[None]) -> None:
    with peer.life:
        async with trio.open_nursery() as nursery:
            tcp_listeners = await nursery.start(partial(trio.serve_tcp, peer.handle_tcp, 0, host="127.0.0.1"))
            server = await nursery.start(trio_websocket.serve_websocket, peer.handle_ws, "127.0.0.1", 0, None)
            peer.tcp_url = f"hubbub://127.0.0.1:{tcp_listeners[0].socket.getsockname()[1]}"
            peer.ws_url = f"ws://127.0.0.1:{server.port}"
            task_status.started()


@asynccontextmanager
async def open_peer() -> AsyncIterator[Peer]:
    """Run a peer on free ports of 127.0.0.1, by TCP and by WebSocket."""
    peer = Peer()
    async with trio.open_nursery() as nursery:
        await nursery.start(_live, peer)
        yield peer
        peer.die()


@asynccontextmanager
async def open_cluster(count: int) -> AsyncIterator[list[Peer]]:
    """Run peers that know of each other and share what is stored."""
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(open_peer()) for _ in range(count)]
        for number, peer in enumerate(peers, 1):
            peer.node_id = f"node-{number}"
            peer.conversations, peer.sent = peers[0].conversations, peers[0].sent
            peer.cursors, peer.inbox = peers[0].cursors, peers[0].inbox
        for peer in peers:
            peer.nodes = [one.as_node() for one in peers]
        yield peers


__all__ = ["CloseCode", "Hangup", "HangupWithCode", "Peer", "PeerSession", "open_cluster", "open_peer"]
