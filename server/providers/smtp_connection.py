"""One connection to a submission server, under Trio: greeting, TLS, login, and one mail after the other.

Our own and not `smtplib` in threads, for how it ends: a cancelled call stops at once and takes just its own
connection along, while a thread would go on sending behind a caller who has given up, which is how mails come
twice. It also sends the commands of a mail at once where the server lets it (RFC 2920), for two waits fewer.
In mails a second on one machine that is 1.2 to 2.2 times `smtplib`; without it the two are about equal
(`bench.text_providers`).
"""

import base64
import contextlib
import ipaddress
import select
import ssl
from typing import Final

import trio

from actors.notify.delivery import Outcome
from protocol.provider_configs import SmtpConfig
from server.providers.dialing import dial_tcp
from server.providers.mail import Mail
from server.providers.reach import AddressRefused, Reach
from server.providers.smtp_replies import (
    BadReply,
    Reply,
    ReplyReader,
    Stage,
    dot_stuffed,
    extensions_of,
    judge_lost,
    judge_smtp,
)

CONNECT_TIMEOUT_S: Final = 10.0
COMMAND_TIMEOUT_S: Final = 30.0  # RFC 5321 asks for five minutes; a provider that is that slow is down for us
FINAL_TIMEOUT_S: Final = 120.0  # and for ten after the dot: giving up early there makes unknown outcomes
_READ_BYTES: Final = 16 * 1024


class Lost(Exception):
    """The connection ended before a reply, or spoke nonsense. `code`: lost, timeout, bad_reply."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Refused(Exception):
    """There is no connection to be had; `outcome` says what that means for the mail that waits."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.code)
        self.outcome = outcome


class SmtpConnection:
    """One logged-in connection; one mail at a time."""

    def __init__(self, tcp: trio.SocketStream) -> None:
        self.idle_since = 0.0
        self.is_usable = False  # between mails, and nothing went wrong
        self._tcp = tcp
        self._stream: trio.abc.Stream = tcp
        self._reader = ReplyReader()
        self._extensions: dict[str, str] = {}
        self._needs_reset = False
        self._poll = select.poll()
        self._poll.register(tcp.socket.fileno(), select.POLLIN)

    @property
    def is_alive(self) -> bool:
        """False once the server closed it, or said that it will (421), as far as the kernel knows."""
        return self.is_usable and not self._poll.poll(0)

    async def deliver(self, mail: Mail) -> Outcome:
        """Hand over one mail. Afterwards the next may follow if `is_usable`. Raises trio.Cancelled only."""
        self.is_usable = False
        is_after_dot = False
        try:
            refusal = self._unfit(mail) or await self._envelope(mail)
            if refusal is not None:
                return refusal
            letter = dot_stuffed(mail.data)
            # Where sending fails the kernel has not taken all, so the server cannot have the dot. Only a
            # timeout leaves that open.
            with trio.move_on_after(FINAL_TIMEOUT_S):
                try:
                    await self._stream.send_all(letter)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    raise Lost("lost") from None
                is_after_dot = True
                reply = await self._reply()
                self.is_usable = reply.code != 421
                return judge_smtp("body", reply.code, reply.text)
            return judge_lost(is_after_dot=True, code="timeout")
        except Refused as refused:  # by the answer to RSET
            return refused.outcome
        except Lost as failure:
            return judge_lost(is_after_dot=is_after_dot, code=failure.code)

    async def aclose(self) -> None:
        """Say QUIT and close; whoever waits for a reply is told that the connection is lost."""
        with trio.CancelScope(shield=True):
            if self.is_usable:
                self.is_usable = False
                with trio.move_on_after(1), contextlib.suppress(trio.BrokenResourceError):
                    await self._stream.send_all(b"QUIT\r\n")
            await trio.aclose_forcefully(self._stream)

    def _unfit(self, mail: Mail) -> Outcome | None:
        size = self._extensions.get("SIZE", "")
        if mail.needs_smtputf8 and "SMTPUTF8" not in self._extensions:
            self.is_usable = True
            return Outcome(kind="refused", action="failover", code="no_smtputf8")
        if size.isascii() and size.isdigit() and 0 < int(size) < len(mail.data):
            self.is_usable = True
            return Outcome(
                kind="refused", action="dead_letter", code="552", detail=f"More than {size} bytes."
            )
        return None

    async def _envelope(self, mail: Mail) -> Outcome | None:
        """Go up to the 354, in one step where the server takes several commands at once (RFC 2920)."""
        parameters = " SMTPUTF8 BODY=8BITMIME" if mail.needs_smtputf8 else ""
        if "SIZE" in self._extensions:
            parameters += f" SIZE={len(mail.data)}"
        commands: list[tuple[Stage, str]] = [
            ("mail", f"MAIL FROM:<{mail.sender}>{parameters}"),
            ("rcpt", f"RCPT TO:<{mail.recipient}>"),
            ("data", "DATA"),
        ]
        # After a mail that was taken there is nothing to reset (RFC 5321 section 4.1.1.4).
        if self._needs_reset:
            await self._ask("mail", "RSET", 250)
        self._needs_reset = True
        if "PIPELINING" in self._extensions:
            return await self._pipelined(commands)
        for stage, command in commands:
            reply = await self._command(command)
            if not (reply.code == 354 if stage == "data" else reply.is_ok):
                self.is_usable = reply.code != 421
                return judge_smtp(stage, reply.code, reply.text)
        self._needs_reset = False
        return None

    async def _pipelined(self, commands: list[tuple[Stage, str]]) -> Outcome | None:
        await self._send("".join(f"{command}\r\n" for _, command in commands))
        refusal: Outcome | None = None
        is_closing = False
        for stage, _ in commands:
            reply = await self._reply_in_time()
            is_closing |= reply.code == 421
            if refusal is None and not (reply.code == 354 if stage == "data" else reply.is_ok):
                refusal = judge_smtp(stage, reply.code, reply.text)
                if is_closing:
                    return refusal
            elif refusal is not None and reply.code == 354:
                # It waits for a letter to nobody: give it an empty one (RFC 2920 section 3.1).
                await self._command(".")
        self.is_usable = refusal is not None and not is_closing
        self._needs_reset = refusal is not None
        return refusal

    async def _ask(self, stage: Stage, command: str, *wanted: int) -> Reply:
        """Send a command and insist on an answer. Raises: Refused, Lost."""
        reply = await self._command(command)
        if reply.code not in wanted:
            raise Refused(judge_smtp(stage, reply.code, reply.text))
        return reply

    async def _command(self, command: str) -> Reply:
        await self._send(f"{command}\r\n")
        return await self._reply_in_time()

    async def _send(self, text: str) -> None:
        try:
            with trio.fail_after(COMMAND_TIMEOUT_S):
                await self._stream.send_all(text.encode())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Lost("lost") from None
        except trio.TooSlowError:
            raise Lost("timeout") from None

    async def _reply_in_time(self) -> Reply:
        try:
            with trio.fail_after(COMMAND_TIMEOUT_S):
                return await self._reply()
        except trio.TooSlowError:
            raise Lost("timeout") from None

    async def _reply(self) -> Reply:
        try:
            while (reply := self._reader.next_reply()) is None:
                data = await self._stream.receive_some(_READ_BYTES)
                if not data:
                    raise Lost("lost")
                self._reader.feed(bytes(data))
        except BadReply:
            raise Lost("bad_reply") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Lost("lost") from None
        return reply

    async def _begin(self, config: SmtpConfig, tls: ssl.SSLContext | None) -> None:
        if config.security == "tls":
            await self._encrypt(config, tls)
        greeting = await self._reply_in_time()
        if greeting.code != 220:
            raise Refused(judge_smtp("greeting", greeting.code, greeting.text))
        hello = f"EHLO {_own_name(self._tcp)}"
        self._extensions = extensions_of(await self._ask("hello", hello, 250))
        if config.security == "starttls":
            if "STARTTLS" not in self._extensions:
                raise Refused(_broken("no_starttls", "The server offers no STARTTLS."))
            await self._ask("starttls", "STARTTLS", 220)
            if self._reader.has_rest:  # somebody put words in its mouth before the encryption began
                raise Refused(_broken("starttls_injection", "More came than the answer to STARTTLS."))
            await self._encrypt(config, tls)
            self._extensions = extensions_of(await self._ask("hello", hello, 250))
        if config.username:
            await self._log_in(config)
        self.is_usable = True

    async def _encrypt(self, config: SmtpConfig, tls: ssl.SSLContext | None) -> None:
        if tls is None:
            raise Refused(_broken("no_tls", "There is no TLS context."))
        stream = trio.SSLStream(self._tcp, tls, server_hostname=config.host, https_compatible=True)
        await stream.do_handshake()
        self._stream = stream

    async def _log_in(self, config: SmtpConfig) -> None:
        ways = self._extensions.get("AUTH", "").upper().split()
        if "PLAIN" in ways:
            secret = base64.b64encode(f"\0{config.username}\0{config.password}".encode()).decode()
            await self._ask("auth", f"AUTH PLAIN {secret}", 235)
        elif "LOGIN" in ways:
            await self._ask("auth", "AUTH LOGIN", 334)
            await self._ask("auth", base64.b64encode(config.username.encode()).decode(), 334)
            await self._ask("auth", base64.b64encode(config.password.encode()).decode(), 235)
        else:
            raise Refused(_broken("no_auth", "The server offers neither AUTH PLAIN nor LOGIN."))


async def open_smtp(config: SmtpConfig, tls: ssl.SSLContext | None, reach: Reach) -> SmtpConnection:
    """Connect, greet, encrypt and log in; the connection is then ready for mails. Raises: Refused."""
    connection: SmtpConnection | None = None
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            connection = SmtpConnection(await dial_tcp(config.host, config.port, reach=reach))
        with trio.fail_after(COMMAND_TIMEOUT_S):
            await connection._begin(config, tls)
        return connection
    except trio.TooSlowError:
        raise Refused(judge_lost(is_after_dot=False, code="timeout")) from None
    except Lost as failure:
        raise Refused(judge_lost(is_after_dot=False, code=failure.code)) from None
    except AddressRefused as exc:
        raise Refused(_broken("address_refused", str(exc))) from None
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        cause = exc.__cause__ or exc
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise Refused(_broken("tls", str(cause)[:300])) from exc
        outcome = Outcome(
            kind="refused", action="retry", code="connect", detail=str(cause)[:300], scope="provider"
        )
        raise Refused(outcome) from exc
    finally:
        if connection is not None and not connection.is_usable:
            await connection.aclose()


def _own_name(tcp: trio.SocketStream) -> str:
    """An address literal (RFC 5321 section 4.1.3): true behind any NAT, and no lookup is needed."""
    address = ipaddress.ip_address(str(tcp.socket.getsockname()[0]).partition("%")[0])
    return f"[{address}]" if address.version == 4 else f"[IPv6:{address}]"


def _broken(code: str, detail: str) -> Outcome:
    return Outcome(kind="refused", action="break", code=code, detail=detail, scope="credential")
