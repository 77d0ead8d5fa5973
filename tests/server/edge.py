"""A gateway on real sockets with a small service behind it, and the clients that its tests use."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
import trio_websocket
from trio_websocket import WebSocketConnection

from actors.reply import Reply as ReplyPort
from protocol.codec import Encoded, FrameSplitter, Wire, decode_server, encode_payload, encode_tcp_command
from protocol.commands import Command, Heartbeat, Hello, History, Logout, Send, SetTyping
from protocol.errors import CloseCode, Refused, Unavailable
from protocol.events import Closing, Event, MessagePosted
from protocol.limits import MAX_FRAME_BYTES, PAGE_BYTES
from protocol.records import User
from protocol.replies import HeartbeatAck, MessagePage, Ok, Reply, Sent, Welcome
from protocol.types import Message, Profile, ServerLimits
from server.gateway import Gateway, GatewaySettings, open_gateway
from server.identity import Identity
from server.metrics import Metrics
from server.session import Session


class EchoService:
    """Answer commands on the session's real path; `held` keeps those to "held" back until a test answers."""

    def __init__(self) -> None:
        self.opened: list[Session] = []
        self.closed_sessions: list[Session] = []
        self.commands: list[Command] = []
        self.held: list[ReplyPort] = []
        self.on_open: Callable[[Session], Awaitable[None]] | None = None
        self.seq = 0
        self._changed = trio.Event()

    async def open(self, session: Session, hello: Hello) -> Welcome:
        self.opened.append(session)
        self._note()
        if self.on_open is not None:
            await self.on_open(session)
        return Welcome(
            user=Profile(user_id=session.user_id, username="u", name="U"),
            app_id="app",
            session_id=session.identity.session_id,
            device_id=hello.device_id,
            node_id="n1",
            server="test",
            now_ms=1,
            heartbeat_interval_s=30.0,
            limits=ServerLimits(
                max_frame_bytes=MAX_FRAME_BYTES,
                max_text_bytes=1,
                max_group_members=1,
                max_unacked_sends=32,
                max_file_bytes=1,
            ),
        )

    def handle(self, session: Session, command: Command, reply: ReplyPort) -> None:
        self.commands.append(command)
        self._note()
        if isinstance(command, Send) and command.conversation_id == "held":
            self.held.append(reply)
        elif isinstance(command, Send) and command.conversation_id == "nowhere":
            raise Refused("conversation_not_found")
        elif isinstance(command, Send) and command.conversation_id == "bug":
            raise RuntimeError("a bug in the hub")
        elif isinstance(command, Send):
            self.seq += 1
            reply.resolve(Sent(conversation_id=command.conversation_id, seq=self.seq, at_ms=1))
        elif isinstance(command, History):
            message = Message(
                conversation_id=command.conversation_id,
                seq=1,
                at_ms=1,
                user_id="u",
                text="x" * (PAGE_BYTES - 500),
            )
            reply.resolve(MessagePage(conversation_id=command.conversation_id, items=[message]))
        elif isinstance(command, Heartbeat):
            reply.resolve(HeartbeatAck(now_ms=1))
        elif isinstance(command, Logout):
            reply.resolve(Ok())
            session.close(CloseCode.SESSION_REVOKED)
        else:
            reply.resolve(Ok())

    def closed(self, session: Session) -> None:
        self.closed_sessions.append(session)
        self._note()

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Return when `is_true()`, looked at after everything that happens here."""
        while not is_true():
            await self._changed.wait()


async def authenticate(token: str) -> Identity:
    """Take "USER" or "USER:LOGIN" as a token; "bad…" is refused, "later" cannot be told now."""
    await trio.lowlevel.checkpoint()
    if token.startswith("bad"):
        raise Refused("unauthenticated")
    if token == "later":
        raise Unavailable("storage_unavailable", retry_after_s=5.0)
    user_id, _, login = token.partition(":")
    user = User(
        user_id=user_id,
        app_id="app",
        username=user_id,
        username_key=user_id,
        name=user_id,
        name_key=user_id,
        created_at_ms=0,
    )
    expires_at_ms = 1 if login == "expired" else 0
    return Identity(user=user, app_id="app", session_id=login or "login", expires_at_ms=expires_at_ms)


class PlainApp:
    """An ASGI application: /, /echo (length of the body), /big (1 MB pieces until told), /slow (held)."""

    def __init__(self) -> None:
        self.lifespan: list[str] = []
        self.clients: list[tuple[str, int]] = []
        self.release = trio.Event()
        self.entered = trio.Event()
        self.finished = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                self.lifespan.append(message["type"])
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        assert scope["type"] == "http"
        self.clients.append(tuple(scope["client"]))
        body = b"hello"
        if scope["path"] == "/echo":
            size = 0
            while True:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    break
            body = str(size).encode()
        elif scope["path"] == "/slow":
            self.entered.set()
            await self.release.wait()
        elif scope["path"] == "/big":
            body = b"x" * 64 * 1024 * 1024
        headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"text/plain")]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        finally:
            self.finished.set()


class Edge(msgspec.Struct):
    """What a test of the edge holds."""

    gateway: Gateway
    service: EchoService
    app: PlainApp
    metrics: Metrics
    clients: list[trio.SocketStream]

    @property
    def port(self) -> int:
        return self.gateway.port

    @property
    def bot_port(self) -> int:
        assert self.gateway.bot_port is not None
        return self.gateway.bot_port


@asynccontextmanager
async def open_edge(
    *, cluster_origins: Callable[[], Collection[str]] = frozenset, **changes: Any
) -> AsyncIterator[Edge]:
    """Open a gateway on free ports, with settings as given."""
    settings = GatewaySettings(**({"port": 0, "bot_port": 0} | changes))
    service, app, metrics = EchoService(), PlainApp(), Metrics()
    async with open_gateway(
        settings,
        authenticate=authenticate,
        service=service,
        app=app,
        metrics=metrics,
        cluster_origins=cluster_origins,
    ) as gateway:
        edge = Edge(gateway, service, app, metrics, [])
        try:
            yield edge
        finally:
            for client in edge.clients:
                client.socket.close()


async def dial(edge: Edge, *, is_bot: bool = True, receive_buffer_bytes: int = 0) -> trio.SocketStream:
    """Connect a plain TCP stream, to the bot port or the public one; it is freed with the edge."""
    sock = trio.socket.socket()
    if receive_buffer_bytes:  # a peer that stalls early
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer_bytes)
    await sock.connect(("127.0.0.1", edge.bot_port if is_bot else edge.port))
    stream = trio.SocketStream(sock)
    edge.clients.append(stream)
    return stream


class Bot:
    """A bot's connection: MessagePack behind a length."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._splitter = FrameSplitter(64 * MAX_FRAME_BYTES)
        self._received: list[Reply | Event] = []

    async def send(self, *commands: Command) -> None:
        await self.stream.send_all(b"".join(encode_tcp_command(command) for command in commands))

    async def receive(self) -> Reply | Event | None:
        """Return the next message; None at the end of the stream."""
        while not self._received:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            payloads = self._splitter.feed(data)
            self._received += [decode_server(payload, Wire.MSGPACK_TCP) for payload in payloads]
        return self._received.pop(0)

    async def rest(self) -> list[Reply | Event]:
        """Return everything up to the end of the stream."""
        messages: list[Reply | Event] = []
        while (message := await self.receive()) is not None:
            messages.append(message)
        return messages

    async def close_code(self) -> int:
        """Read to the end; return the code of the closing event, 0 if there was none."""
        messages = await self.rest()
        return messages[-1].code if messages and isinstance(messages[-1], Closing) else 0


async def open_bot(edge: Edge, token: str = "ann", device_id: str = "d1") -> Bot:
    """Connect a bot and say hello."""
    bot = Bot(await dial(edge))
    await bot.send(Hello(id=1, token=token, device_id=device_id))
    welcome = await bot.receive()
    assert isinstance(welcome, Welcome)
    assert welcome.id == 1
    return bot


class Browser:
    """A WebSocket client."""

    def __init__(self, socket: WebSocketConnection, wire: Wire) -> None:
        self.socket = socket
        self.wire = wire

    async def send(self, *commands: Command) -> None:
        for command in commands:
            payload = encode_payload(command, self.wire)
            await self.socket.send_message(payload.decode() if self.wire is Wire.JSON_WS else payload)

    async def receive(self) -> Reply | Event:
        return decode_server(await self.socket.get_message(), self.wire)

    async def close_code(self) -> int:
        """Read to the end; return the close code that the server gave."""
        try:
            while True:
                await self.socket.get_message()
        except trio_websocket.ConnectionClosed as exc:
            return int(exc.reason.code) if exc.reason is not None else 0


@asynccontextmanager
async def browse(
    edge: Edge,
    *,
    subprotocols: Sequence[str] = ("hubbub.json",),
    wire: Wire = Wire.JSON_WS,
    hello: Hello | None = None,
    ssl_context: ssl.SSLContext | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> AsyncIterator[Browser]:
    """Connect a WebSocket, and say hello if one is given."""
    async with trio_websocket.open_websocket(
        "127.0.0.1" if ssl_context is None else "localhost",
        edge.port,
        "/ws",
        use_ssl=ssl_context or False,
        subprotocols=list(subprotocols),
        extra_headers=list(headers),
        disconnect_timeout=2,
        max_message_size=64 * MAX_FRAME_BYTES,
    ) as socket:
        browser = Browser(socket, wire)
        if hello is not None:
            await browser.send(hello)
            assert isinstance(await browser.receive(), Welcome)
        try:
            yield browser
        finally:
            # The library leaves this to the peer where the peer closed first.
            await trio.aclose_forcefully(socket._stream)


def posted(seq: int, text: str = "", conversation_id: str = "c1") -> Encoded:
    """A message event."""
    return Encoded(MessagePosted(conversation_id=conversation_id, seq=seq, at_ms=1, user_id="u", text=text))


HELLO = Hello(id=1, token="ann", device_id="d1")
TYPING = SetTyping(id=9, conversation_id="c1")
