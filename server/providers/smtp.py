"""Email by SMTP submission: a pool of kept connections to one server."""

from collections.abc import Callable
from typing import Final

import trio

from actors.notify.delivery import Outcome, Outgoing
from protocol.notify_types import Channel
from protocol.provider_configs import SmtpConfig
from server.clock import wall_clock_ms
from server.providers.form_client import client_tls
from server.providers.mail import Mail, compose, mail_sender
from server.providers.reach import PUBLIC, Reach, is_host
from server.providers.slots import Slots
from server.providers.smtp_connection import Refused, SmtpConnection, open_smtp

IDLE_LIMIT_S: Final = 30.0  # SES closes idle connections after some ten seconds more; others wait for minutes
WAIT_LIMIT_S: Final = 60.0  # for a free connection; then the mail goes back to its queue


class SmtpProvider:
    """One account at one submission server, with `config.connections` connections at most.

    Raises: ValueError where an address in the config is none, or its CA cannot be read.
    """

    def __init__(
        self, config: SmtpConfig, *, clock_ms: Callable[[], int] = wall_clock_ms, reach: Reach = PUBLIC
    ) -> None:
        if not is_host(config.host):
            raise ValueError("the host is no name that can be looked up")
        self._config = config
        self._reach = reach
        self._sender = mail_sender(config)
        self._tls = None if config.security == "none" else client_tls(config.ca_pem)
        self._clock_ms = clock_ms
        self._slots = Slots(config.connections)
        self._idle: list[SmtpConnection] = []  # the last one used comes first, so that the others may age
        self._in_use: set[SmtpConnection] = set()
        self._is_closed = False

    @property
    def channel(self) -> Channel:
        return "email"

    async def send(self, outgoing: Outgoing) -> Outcome:
        """Try once. Never raises but trio.Cancelled, which costs one connection.

        A kept connection that turns out to be dead before the letter left is replaced within the try.
        """
        mail = compose(self._sender, outgoing, self._clock_ms())
        if isinstance(mail, Outcome):
            return mail
        with trio.move_on_after(WAIT_LIMIT_S) as waiting:
            await self._slots.acquire(is_urgent=outgoing.priority == "high")
        if waiting.cancelled_caught:  # which says nothing of the server
            return Outcome(kind="refused", action="retry", code="busy")
        try:
            return await self._send(mail)
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        """Close all connections; a mail whose letter has left becomes unknown."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop().aclose()
        for connection in tuple(self._in_use):
            await connection.aclose()

    async def _send(self, mail: Mail) -> Outcome:
        kept = await self._take_kept()
        if kept is not None:
            outcome = await self._deliver(kept, mail)
            # What was refused over a connection that then broke (421, or just gone) was not taken.
            if kept.is_usable or outcome.kind != "refused" or outcome.action != "retry":
                return outcome
        if self._is_closed:
            return Outcome(kind="refused", action="retry", code="closed", scope="provider")
        try:
            fresh = await open_smtp(self._config, self._tls, self._reach)
        except Refused as refused:
            return refused.outcome
        return await self._deliver(fresh, mail)

    async def _deliver(self, connection: SmtpConnection, mail: Mail) -> Outcome:
        self._in_use.add(connection)
        try:
            return await connection.deliver(mail)
        finally:
            self._in_use.discard(connection)
            if connection.is_usable and not self._is_closed:
                connection.idle_since = trio.current_time()
                self._idle.append(connection)
            else:
                await connection.aclose()

    async def _take_kept(self) -> SmtpConnection | None:
        oldest = trio.current_time() - IDLE_LIMIT_S
        while self._idle:
            connection = self._idle.pop()
            if connection.is_alive and connection.idle_since >= oldest:
                return connection
            await connection.aclose()
        return None
