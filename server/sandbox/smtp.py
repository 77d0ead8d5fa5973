"""A fake SMTP submission server over Trio: STARTTLS or TLS, AUTH, pipelining, and faults at each stage."""

import contextlib
import hmac
import ssl
from collections.abc import Callable
from typing import Final

import trio

from server.sandbox.doors import Serve, open_tls
from server.sandbox.exchange import Line
from server.sandbox.faults import Faults, Hit, Stage
from server.sandbox.h2_connection import ConnectionReset
from server.sandbox.ledger import Ledger
from server.sandbox.smtp_rules import (
    MAX_COMMAND_BYTES,
    MAX_MESSAGE_BYTES,
    Envelope,
    Reply,
    SmtpRefusal,
    check_message,
    content_of,
    message_id_of,
    read_mail,
    read_plain,
    read_recipient,
    split_command,
    unbase64,
)

NAME: Final = "sandbox.localhost"
_READ_BYTES: Final = 64 * 1024
_MAX_ERRORS: Final = 20  # of one session; then 421, as real servers do
SES_THROTTLED: Final = "Throttling failure: Maximum sending rate exceeded."


class FakeSmtp:
    """One account. `has_auth` False: an open relay, as a mail server of one's own may be."""

    def __init__(
        self,
        ledger: Ledger,
        faults: Faults,
        context: ssl.SSLContext,
        *,
        username: str,
        password: str,
        now_ms: Callable[[], int],
    ) -> None:
        self.ledger = ledger
        self.faults = faults
        self.context = context
        self.username = username
        self.password = password
        self.now_ms = now_ms
        self.has_auth = True

    def starttls_server(self) -> Serve:
        """Serve in plain text until the client asks for TLS, as on port 587."""

        async def serve(stream: trio.SocketStream, line: Line) -> None:
            await _Session(self, stream, is_secure=False).run()

        return serve

    def tls_server(self) -> Serve:
        """Serve under TLS from the start, as on port 465."""

        async def serve(stream: trio.SocketStream, line: Line) -> None:
            async with open_tls(stream, self.context) as tls:
                if tls is not None:
                    await _Session(self, tls, is_secure=True).run()

        return serve

    def is_authentic(self, username: str, password: str) -> bool:
        """Compare in constant time."""
        is_user = hmac.compare_digest(username.encode(), self.username.encode())
        return hmac.compare_digest(password.encode(), self.password.encode()) and is_user


class _Gone(Exception):
    """The peer has closed."""


class _Session:
    """One connection: a line comes in, a reply goes out."""

    def __init__(self, server: FakeSmtp, stream: trio.abc.Stream, *, is_secure: bool) -> None:
        self._server = server
        self._stream = stream
        self._is_secure = is_secure
        self._buffer = bytearray()
        self._envelope: Envelope | None = None
        self._is_greeted = False
        self._is_authenticated = False
        self._error_count = 0

    async def run(self) -> None:
        """Serve until QUIT or the end. Raises: ConnectionReset, where a fault wants that."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, _Gone):
            try:
                await self._hit("connect")
            except SmtpRefusal as refusal:
                await self._reply(refusal.code, refusal.text)
                return
            await self._reply(220, f"{NAME} ESMTP hubbub sandbox")
            while await self._serve_one():
                pass

    async def _serve_one(self) -> bool:
        try:
            line = await self._read_line(MAX_COMMAND_BYTES)
            verb, rest = split_command(line)
            if verb == "QUIT":
                await self._reply(221, "2.0.0 Bye")
                return False
            if verb == "STARTTLS":
                await self._start_tls()
            elif verb == "DATA":
                await self._data()
            elif verb == "AUTH":
                await self._auth(rest)
            else:
                await self._reply(*await self._simple(verb, rest))
        except SmtpRefusal as refusal:
            self._error_count += 1
            await self._reply(refusal.code, refusal.text)
            if refusal.code == 421:
                return False
            if self._error_count > _MAX_ERRORS:
                await self._reply(421, "4.7.0 Too many errors on this connection")
                return False
        return True

    async def _simple(self, verb: str, rest: str) -> Reply:
        if verb in {"EHLO", "HELO"}:
            return self._hello(verb, rest)
        if verb == "MAIL":
            return await self._mail(rest)
        if verb == "RCPT":
            return await self._rcpt(rest)
        if verb == "RSET":
            self._envelope = None
            return 250, "2.0.0 OK"
        if verb == "NOOP":
            return 250, "2.0.0 OK"
        if verb == "VRFY":
            return 252, "2.1.5 Send some mail, and see"
        raise SmtpRefusal(502, "5.5.1 Unrecognized command")

    def _hello(self, verb: str, rest: str) -> Reply:
        if not rest:
            raise SmtpRefusal(501, f"5.5.4 Syntax: {verb} name")
        self._envelope = None
        self._is_greeted = True
        if verb == "HELO":
            return 250, NAME
        lines = [NAME, "PIPELINING", f"SIZE {MAX_MESSAGE_BYTES}", "8BITMIME", "ENHANCEDSTATUSCODES"]
        if not self._is_secure:
            lines.append("STARTTLS")
        elif self._server.has_auth:
            lines.append("AUTH PLAIN LOGIN")
        return 250, "\n".join(lines)

    async def _mail(self, rest: str) -> Reply:
        if not self._is_greeted:
            raise SmtpRefusal(503, "5.5.1 Say EHLO first")
        if self._server.has_auth and not self._is_authenticated:
            if not self._is_secure:
                raise SmtpRefusal(530, "5.7.0 Must issue a STARTTLS command first")
            raise SmtpRefusal(530, "5.7.0 Authentication required")
        if self._envelope is not None:
            raise SmtpRefusal(503, "5.5.1 Nested MAIL command")
        envelope = read_mail(rest)
        await self._hit("mail", envelope.sender)
        self._envelope = envelope
        return 250, "2.1.0 Sender OK"

    async def _rcpt(self, rest: str) -> Reply:
        if self._envelope is None:
            raise SmtpRefusal(503, "5.5.1 MAIL first")
        address = read_recipient(rest, self._envelope)
        await self._hit("rcpt", address)
        self._envelope.recipients.append(address)
        return 250, "2.1.5 Recipient OK"

    async def _data(self) -> None:
        envelope = self._envelope
        if envelope is None or not envelope.recipients:
            raise SmtpRefusal(503, "5.5.1 No valid recipients")
        await self._reply(354, "End data with <CR><LF>.<CR><LF>")
        is_hit_midway = False
        lines: list[bytes] = []
        size = 0
        while (line := await self._read_line(MAX_MESSAGE_BYTES)) != b".":
            if not is_hit_midway:
                is_hit_midway = True
                await self._hit("data", *envelope.recipients)
            size += len(line) + 2
            if size <= MAX_MESSAGE_BYTES:
                lines.append(line[1:] if line.startswith(b".") else line)
        self._envelope = None
        if size > MAX_MESSAGE_BYTES:
            raise SmtpRefusal(552, "5.3.4 Message size exceeds fixed limit")
        data = b"".join(line + b"\r\n" for line in lines)
        check_message(data)
        await self._take(data, envelope)

    async def _take(self, data: bytes, envelope: Envelope) -> None:
        """Keep a message, then answer, unless a fault comes between."""
        server = self._server
        hit = server.faults.pick("smtp", *envelope.recipients, stages=("dot",))
        if hit is not None:
            fault = hit.fault
            if not fault.drop_after_accept:
                await self._late(hit)
            if fault.reset:
                raise ConnectionReset
            if fault.stall:
                await self._stall()
            if fault.status:
                raise SmtpRefusal(fault.status, fault.code or _usual_text(fault.status))
        message_id = message_id_of(data)
        queue_id = f"{server.ledger.count('smtp') + 1:012X}"
        server.ledger.record(
            "smtp",
            at_ms=server.now_ms(),
            address=envelope.recipients[0],
            id=queue_id,
            identity=message_id,
            content=None if server.ledger.keep == "ids" else content_of(data, envelope),
        )
        if hit is not None and hit.fault.drop_after_accept:
            await self._late(hit)
            raise ConnectionReset
        await self._reply(250, f"2.0.0 OK queued as {queue_id}")

    async def _auth(self, rest: str) -> None:
        if not self._is_secure:
            raise SmtpRefusal(538, "5.7.11 Encryption required for requested authentication mechanism")
        if not self._is_greeted or not self._server.has_auth or self._is_authenticated:
            raise SmtpRefusal(503, "5.5.1 Not now")
        mechanism, _, initial = rest.partition(" ")
        if mechanism.upper() == "PLAIN":
            username, password = read_plain(initial or await self._ask(""))
        elif mechanism.upper() == "LOGIN":
            username = unbase64(initial or await self._ask("VXNlcm5hbWU6"))
            password = unbase64(await self._ask("UGFzc3dvcmQ6"))
        else:
            raise SmtpRefusal(504, "5.5.4 Unrecognized authentication type")
        await self._hit("auth", username)
        if not self._server.is_authentic(username, password):
            raise SmtpRefusal(535, "5.7.8 Authentication credentials invalid")
        self._is_authenticated = True
        await self._reply(235, "2.7.0 Authentication successful")

    async def _ask(self, challenge: str) -> str:
        await self._reply(334, challenge)
        line = (await self._read_line(MAX_COMMAND_BYTES)).decode("ascii", "replace").strip()
        if line == "*":
            raise SmtpRefusal(501, "5.7.0 Authentication cancelled")
        return line

    async def _start_tls(self) -> None:
        if self._is_secure or not isinstance(self._stream, trio.SocketStream):
            raise SmtpRefusal(503, "5.5.1 TLS is on already")
        if self._buffer:  # RFC 3207 section 6: what came before TLS must not count after it
            raise SmtpRefusal(503, "5.5.1 Nothing may be pipelined behind STARTTLS")
        await self._reply(220, "2.0.0 Ready to start TLS")
        async with open_tls(self._stream, self._server.context) as tls:
            if tls is None:
                raise _Gone
            self._stream, self._is_secure = tls, True
            self._is_greeted, self._envelope = False, None
            while await self._serve_one():
                pass
        raise _Gone

    async def _hit(self, stage: Stage, *addresses: str) -> None:
        """Let the fault of this stage happen, if one is due. Raises: SmtpRefusal, ConnectionReset."""
        hit = self._server.faults.pick("smtp", *addresses, stages=(stage,))
        if hit is None:
            return
        fault = hit.fault
        await self._late(hit)
        if fault.reset:
            raise ConnectionReset
        if fault.stall:
            await self._stall()
        if fault.status:
            refusal = SmtpRefusal(fault.status, fault.code or _usual_text(fault.status))
            if stage == "data":  # the rest of the message must not be taken for commands
                await self._reply(refusal.code, refusal.text)
                raise _Gone
            raise refusal

    async def _late(self, hit: Hit) -> None:
        """Wait for as long as a rule wants. Raises: _Gone, if the peer goes while its reply is held."""
        await trio.sleep(hit.fault.delay_s)
        if hit.hold is not None and not await hit.hold.wait_with(self._stream, self._buffer.extend):
            raise _Gone

    async def _stall(self) -> None:
        """Say nothing until the peer gives up. Raises: _Gone."""
        while await self._stream.receive_some(_READ_BYTES):
            pass
        raise _Gone

    async def _reply(self, code: int, text: str) -> None:
        lines = text.split("\n")
        shown = [f"{code}-{line}\r\n" for line in lines[:-1]] + [f"{code} {lines[-1]}\r\n"]
        await self._stream.send_all("".join(shown).encode())

    async def _read_line(self, limit: int) -> bytes:
        """Return one line without its CRLF; a lone CR or LF in it stays. Raises: _Gone, SmtpRefusal."""
        searched = 0
        while (end := self._buffer.find(b"\r\n", searched)) < 0:
            searched = max(len(self._buffer) - 1, 0)
            if searched > limit:
                raise SmtpRefusal(421, "5.5.2 Line too long")
            data = await self._stream.receive_some(_READ_BYTES)
            if not data:
                raise _Gone
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line


def _usual_text(code: int) -> str:
    if code == 454:
        return SES_THROTTLED
    kind = {4: "4.0.0 Try again later", 5: "5.0.0 Refused for good"}.get(code // 100, "Injected")
    return f"{kind} (sandbox)"
