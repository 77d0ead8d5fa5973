"""The sandbox: all fakes in one process, one Python object, and one control API."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from functools import partial

import msgspec
import trio

from server.clock import wall_clock_ms
from server.sandbox.apns import FakeApns
from server.sandbox.authority import host_name, server_context
from server.sandbox.control import Control
from server.sandbox.doors import HOST, Door, Serve, plain_server, web_server
from server.sandbox.faults import SERVICES, Fault, Faults, Service, services_of
from server.sandbox.fcm import FakeFcm
from server.sandbox.google_tokens import TOKEN_PATH, FakeGoogleTokens
from server.sandbox.keyring import (
    CLIENT_EMAIL,
    NUMBER,
    PROJECT_ID,
    SMTP_USER,
    TEAM_ID,
    TOPIC,
    Addresses,
    Configs,
    Keyring,
    make_configs,
    make_keyring,
    public_pem,
)
from server.sandbox.ledger import MAX_DELIVERIES, Delivery, Keep, Ledger
from server.sandbox.provider_tokens import UPDATES_IN_WINDOW, ProviderTokens
from server.sandbox.receipts import Postman
from server.sandbox.smtp import FakeSmtp
from server.sandbox.twilio import FakeTwilio
from server.sandbox.vonage import FakeVonage
from server.sandbox.webpush import FakeWebPush


class SandboxOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a sandbox is made. `now_ms` is the clock of all checks, as Unix ms: tests may move it."""

    port: int = 0  # the control API's; the others follow it by one each. 0: any free ports
    seed: int = 0  # of faults with a probability
    keep: Keep = "all"
    max_deliveries: int = MAX_DELIVERIES  # kept of each service
    token_updates: int = UPDATES_IN_WINDOW  # of an APNs key within 20 minutes
    now_ms: Callable[[], int] = wall_clock_ms


class Sandbox:
    """What tests hold: addresses and settings, what arrived, and faults. Made by `open_sandbox`.

    Names of channels: apns, fcm, token (Google's OAuth endpoint), webpush, twilio, vonage, smtp; `sms` is
    Twilio and Vonage together, `email` is smtp. Other names raise ValueError.
    """

    def __init__(self, keyring: Keyring, options: SandboxOptions) -> None:
        now = datetime.fromtimestamp(options.now_ms() / 1_000, UTC)
        now_ms = options.now_ms
        self.keyring = keyring
        self.ledger = ledger = Ledger(keep=options.keep, max_deliveries=options.max_deliveries)
        self.faults = faults = Faults(options.seed)
        trust = ssl.create_default_context(cadata=keyring.authority.ca_pem)
        self.postman = Postman(trust)
        self.apns = FakeApns(
            ledger, faults, ProviderTokens(updates_in_window=options.token_updates), now_ms=now_ms
        )
        self.apns.add_key(keyring.apns_key_id, TEAM_ID, public_pem(keyring.apns_key))
        self.apns.add_app(TOPIC, TEAM_ID)
        self.google_tokens = FakeGoogleTokens(faults, now_ms=now_ms)
        self.google_tokens.add_account(CLIENT_EMAIL, PROJECT_ID, public_pem(keyring.fcm_key))
        self.fcm = FakeFcm(ledger, faults, self.google_tokens, now_ms=now_ms)
        self.webpush = FakeWebPush(ledger, faults, now_ms=now_ms)
        self.twilio = FakeTwilio(
            ledger,
            faults,
            self.postman,
            account_sid=keyring.twilio_sid,
            auth_token=keyring.twilio_token,
            number=NUMBER,
            now_ms=now_ms,
        )
        self.vonage = FakeVonage(
            ledger,
            faults,
            self.postman,
            api_key=keyring.vonage_key,
            api_secret=keyring.vonage_secret,
            signature_secret=keyring.vonage_signature_secret,
            now_ms=now_ms,
        )
        plain_tls = server_context(keyring.authority, now, [])
        self.smtp = FakeSmtp(
            ledger, faults, plain_tls, username=SMTP_USER, password=keyring.smtp_password, now_ms=now_ms
        )
        self._out: set[Service] = set()
        self._doors: list[tuple[Door, tuple[Service, ...]]] = []
        h2 = server_context(keyring.authority, now, ["h2"])
        both = server_context(keyring.authority, now, ["h2", "http/1.1"])
        production = partial(self.apns.answer, environment="production")
        development = partial(self.apns.answer, environment="development")
        # In the order of their ports.
        self._control = self._add(plain_server(Control(self).answer))
        self._apns = self._add(web_server(production, h2, only_h2=True), "apns")
        self._apns_development = self._add(web_server(development, h2, only_h2=True), "apns")
        self._fcm = self._add(web_server(self.fcm.answer, both), "fcm")
        self._webpush = self._add(web_server(self.webpush.answer, both), "webpush")
        self._twilio = self._add(web_server(self.twilio.answer, self._own_context("twilio", now)), "twilio")
        self._smtp = self._add(self.smtp.starttls_server(), "smtp")
        self._smtps = self._add(self.smtp.tls_server(), "smtp")
        # A port of its own: while FCM is out, nobody can connect to it, and nothing is read and then lost.
        self._token = self._add(web_server(self.google_tokens.answer, both), "token")
        self._vonage = self._add(web_server(self.vonage.answer, self._own_context("vonage", now)), "vonage")

    def _own_context(self, service: Service, now: datetime) -> ssl.SSLContext:
        """With a certificate of its own, as two hosts have: by its name one is not taken for the other."""
        return server_context(self.keyring.authority, now, ["h2", "http/1.1"], name=host_name(service))

    def _add(self, serve: Serve, *services: Service) -> Door:
        door = Door(serve, is_out=lambda: bool(services) and self._out.issuperset(services))
        self._doors.append((door, services))
        return door

    async def run(self, port: int, nursery: trio.Nursery) -> None:
        """Open all ports, and serve in the nursery until it is cancelled. Raises: OSError."""
        for offset, (door, _) in enumerate(self._doors):
            await door.open(port + offset if port else 0, nursery)
        self.webpush.origin = self.addresses.webpush_url
        self.google_tokens.audiences.add(self.token_url)
        nursery.start_soon(self.postman.run)

    # -- where it is, and how to be its client ------------------------------------------------------

    @property
    def addresses(self) -> Addresses:
        """Where everything is."""
        return Addresses(
            control_url=f"http://{HOST}:{self._control.port}",
            apns_url=_url(self._apns),
            apns_development_url=_url(self._apns_development),
            fcm_url=_url(self._fcm),
            token_url=_url(self._token) + TOKEN_PATH,
            webpush_url=_url(self._webpush),
            twilio_url=_url(self._twilio),
            vonage_url=_url(self._vonage),
            smtp_host=HOST,
            smtp_port=self._smtp.port,
            smtps_port=self._smtps.port,
        )

    @property
    def control_url(self) -> str:
        return self.addresses.control_url

    @property
    def apns_url(self) -> str:
        return self.addresses.apns_url

    @property
    def apns_development_url(self) -> str:
        return self.addresses.apns_development_url

    @property
    def fcm_url(self) -> str:
        return self.addresses.fcm_url

    @property
    def token_url(self) -> str:
        return self.addresses.token_url

    @property
    def twilio_url(self) -> str:
        return self.addresses.twilio_url

    @property
    def vonage_url(self) -> str:
        return self.addresses.vonage_url

    @property
    def smtp_port(self) -> int:
        return self._smtp.port

    @property
    def smtps_port(self) -> int:
        return self._smtps.port

    @property
    def ca_pem(self) -> str:
        return self.keyring.authority.ca_pem

    def configs(self) -> Configs:
        """Return ready-made settings for each provider."""
        return make_configs(self.keyring, self.addresses)

    # -- what arrived -------------------------------------------------------------------------------

    def deliveries(self, channel: str) -> list[Delivery]:
        """Return what was accepted, in order of arrival, as far as it is kept."""
        return self.ledger.deliveries(channel)

    def count(self, channel: str) -> int:
        """Count all that was accepted, kept or not."""
        return self.ledger.count(channel)

    def doubles(self, channel: str) -> dict[str, int]:
        """Return what arrived more than once, by the sender's name for it, and how often."""
        return self.ledger.doubles(channel)

    async def wait_for(self, channel: str, count: int) -> list[Delivery]:
        """Wait until `count` have arrived since the start or `reset`. Put it under `trio.fail_after`."""
        return await self.ledger.wait_for(channel, count)

    # -- what goes wrong ----------------------------------------------------------------------------

    def inject(self, fault: Fault) -> int:
        """Put a fault in force; returns its id, for `withdraw`."""
        return self.faults.inject(fault)

    def withdraw(self, fault_id: int) -> bool:
        """End a fault; False if there is none."""
        return self.faults.withdraw(fault_id)

    async def wait_held(self, channel: str, count: int = 1) -> None:
        """Wait until `Fault(holds=True)` holds so many answers at once. Put it under `trio.fail_after`."""
        await self.faults.holds.wait_for(services_of(channel), count)

    def held_count(self, channel: str = "") -> int:
        """Count the answers that are held now. An empty name means all channels."""
        return self.faults.holds.count(services_of(channel) if channel else SERVICES)

    def release(self, channel: str = "") -> int:
        """Let go all answers that are held, and hold none by the faults in force now: a release is never too
        early. Returns how many were held. An empty name means all channels."""
        return self.faults.holds.release(services_of(channel) if channel else SERVICES)

    @contextlib.contextmanager
    def outage(self, channel: str) -> Iterator[None]:
        """Let a provider be gone for as long as the context lasts."""
        self.begin_outage(channel)
        try:
            yield
        finally:
            self.end_outage(channel)

    def begin_outage(self, channel: str) -> None:
        """Reset a provider's connections, and whatever comes, until `end_outage`."""
        self._out.update(services_of(channel))
        for door, services in self._doors:
            if services and self._out.issuperset(services):
                door.cut()

    def end_outage(self, channel: str) -> None:
        """Let a provider be back."""
        self._out.difference_update(services_of(channel))

    def reset(self) -> None:
        """Forget deliveries, faults and outages, and let go what is held; what is registered stays."""
        self.ledger.clear()
        self.faults.clear()
        self._out.clear()

    def counts(self) -> dict[str, dict[str, int]]:
        """Count arrivals and doubles of each service."""
        return {
            service: {"count": self.ledger.count(service), "doubles": self.ledger.double_count(service)}
            for service in SERVICES
        }


def _url(door: Door) -> str:
    return f"https://{HOST}:{door.port}"


@contextlib.asynccontextmanager
async def open_sandbox(
    keyring: Keyring | None = None, options: SandboxOptions | None = None
) -> AsyncIterator[Sandbox]:
    """Run a sandbox for as long as the context lasts. Without a keyring it makes new keys (some 100 ms).

    Raises: OSError, where a port is taken.
    """
    options = options or SandboxOptions()
    made_at = datetime.fromtimestamp(options.now_ms() / 1_000, UTC)
    sandbox = Sandbox(keyring or make_keyring(made_at), options)
    try:
        async with trio.open_nursery() as nursery:
            await sandbox.run(options.port, nursery)
            yield sandbox
            nursery.cancel_scope.cancel()
    finally:
        sandbox.postman.close()
