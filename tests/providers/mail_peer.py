"""Two SMTP servers for tests: aiosmtpd in a thread of its own, and one that follows a script under Trio."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from protocol.provider_configs import SmtpConfig


class Inbox:
    """What an aiosmtpd server took, and what it answers. Written to by its thread."""

    def __init__(self) -> None:
        self.letters: list[Envelope] = []
        self.peers: set[Any] = set()
        self.rcpt_replies: dict[str, str] = {}
        self.data_replies: list[str] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.resets = 0

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        reply = self.rcpt_replies.get(address, "250 OK")
        if reply.startswith("250"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_RSET(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.resets += 1
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.peers.add(session.peer)
        if self.data_replies:
            reply = self.data_replies.pop(0)
            if not reply.startswith("250"):
                return reply
        self.letters.append(envelope)
        return f"250 2.0.0 Ok: queued as Q{len(self.letters)}"

    def log_in(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        if not isinstance(data, LoginPassword):
            return AuthResult(success=False, handled=False)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"s3cret", handled=False)


class _AnyPort(Controller):
    """Learns which port it got before it connects to itself, and hangs up on all before it stops."""

    def __init__(self, handler: Inbox, **options: Any) -> None:
        super().__init__(handler, **options)
        self.sessions: list[SMTP] = []

    def factory(self) -> SMTP:
        self.sessions.append(super().factory())  # type: ignore[no-untyped-call]  # as below
        return self.sessions[-1]

    def hang_up(self) -> None:
        """Run in the server's thread: otherwise what its clients left open stays open after it."""
        for session in self.sessions:
            if isinstance(session.transport, asyncio.WriteTransport):
                session.transport.abort()

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd annotates only some


@contextmanager
def open_mail_server(tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[tuple[Inbox, int]]:
    """Run aiosmtpd on a free port; yields what it takes, and the port."""
    inbox = Inbox()
    controller = _AnyPort(
        inbox,
        hostname="127.0.0.1",
        port=0,
        tls_context=tls,
        authenticator=inbox.log_in,
        auth_require_tls=False,
        enable_SMTPUTF8=options.pop("enable_smtputf8", True),
        **options,
    )
    controller.start()
    try:
        yield inbox, controller.port
    finally:
        controller.loop.call_soon_threadsafe(controller.hang_up)
        controller.stop()


class ScriptedPeer:
    """Answers the n-th command of each connection by the n-th step; `said` is all that it was told."""

    def __init__(self, scripts: list[list[bytes | None]]) -> None:
        self.port = 0
        self.said: list[list[bytes]] = []
        self.closed: list[trio.Event] = []
        self.reached_end = trio.Event()
        self._scripts = scripts

    async def serve(self, stream: trio.abc.Stream) -> None:
        script = self._scripts[len(self.said)]
        said: list[bytes] = []
        closed = trio.Event()
        self.said.append(said)
        self.closed.append(closed)
        buffer = b""
        try:
            for step in script:
                if step is None:
                    return
                await stream.send_all(step)
                # A letter ends with its dot, also an empty one; after it stands the next command.
                end = b"\r\n.\r\n" if step.startswith(b"354") else b"\r\n"
                lead = end[:-3] if len(end) > 2 else b""
                while end not in lead + buffer:
                    data = await stream.receive_some(65_536)
                    if not data:
                        return
                    buffer += data
                line, _, buffer = (lead + buffer).partition(end)
                said.append(line.removeprefix(lead))
            self.reached_end.set()
            while await stream.receive_some(65_536):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)
            closed.set()


@asynccontextmanager
async def open_scripted(*scripts: list[bytes | None]) -> AsyncIterator[ScriptedPeer]:
    """Listen on a free port; the n-th connection gets the n-th script."""
    peer = ScriptedPeer(list(scripts))
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        peer.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, peer.serve, listeners)
        yield peer
        nursery.cancel_scope.cancel()


def smtp_config(port: int, **changes: Any) -> SmtpConfig:
    """A config for a server on 127.0.0.1, without TLS unless `changes` says so."""
    settings: dict[str, Any] = {"security": "none", "sender": "Shop <shop@example.org>", "connections": 2}
    return SmtpConfig(host="127.0.0.1", port=port, **{**settings, **changes})
