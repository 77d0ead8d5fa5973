"""Providers that are in use: made from apps' settings, closed when these change."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Final

import msgspec
import structlog
import trio

from actors.notify.delivery import Outcome, Outgoing, Provider
from protocol.errors import ProtocolError
from protocol.notify_types import Channel
from protocol.provider_configs import (
    ApnsConfig,
    AppriseConfig,
    FcmConfig,
    ProviderConfig,
    SmtpConfig,
    TwilioConfig,
    VonageConfig,
    WebPushConfig,
)
from server.notify.links import Links
from server.providers.apns import ApnsProvider
from server.providers.apprise_provider import AppriseProvider
from server.providers.fcm import FcmProvider
from server.providers.push_pools import PushPools, open_push_pools
from server.providers.reach import Reach
from server.providers.smtp import SmtpProvider
from server.providers.twilio import TwilioProvider
from server.providers.vonage import VonageProvider
from server.providers.webpush import WebPushProvider

CHANNEL_OF: Final[dict[type, Channel]] = {
    ApnsConfig: "apns",
    FcmConfig: "fcm",
    WebPushConfig: "webpush",
    TwilioConfig: "sms",
    VonageConfig: "sms",
    SmtpConfig: "email",
    AppriseConfig: "apprise",
}
CLOSE_S: Final = 5.0  # for saying goodbye to a server
# How long calls may go on after a change of settings: longer than any provider waits for its slowest answer.
LAST_CALLS_S: Final = 600.0

log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


def credential_of(app_id: str, config: ProviderConfig) -> str:
    """Name the credentials of settings, without telling them: what a breaker and a pace belong to.

    Those of one APNs team or Firebase project are one, whichever app uses them, as the provider counts so.
    """
    named: tuple[str, ...]
    match config:
        case ApnsConfig():
            named = (config.team_id, config.key_id, config.environment, config.base_url, config.private_key)
        case FcmConfig():
            named = (config.project_id, config.client_email, config.base_url, config.private_key)
        case TwilioConfig():
            named = (config.account_sid, config.user, config.base_url, config.secret)
        case _:
            named = (app_id, _encode(config).decode())
    return blake2b(msgspec.json.encode((type(config).__name__, named)), digest_size=12).hexdigest()


class InUse:
    """A provider whose calls are counted, so that it can be closed after the last of them."""

    __slots__ = ("_idle", "_provider", "call_count")

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.call_count = 0
        self._idle: trio.Event | None = None  # made by who waits

    @property
    def channel(self) -> Channel:
        return self._provider.channel

    async def send(self, outgoing: Outgoing) -> Outcome:
        self.call_count += 1
        try:
            return await self._provider.send(outgoing)
        finally:
            self.call_count -= 1
            if self._idle is not None and not self.call_count:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until no call is under way."""
        while self.call_count:
            self._idle = trio.Event()
            await self._idle.wait()

    async def aclose(self) -> None:
        await self._provider.aclose()


class WithCallback:
    """A provider that is told where to tell of each delivery."""

    def __init__(self, provider: Provider, links: Links, app_id: str, provider_id: str) -> None:
        self._provider = provider
        self._links = links
        self._app_id = app_id
        self._provider_id = provider_id

    @property
    def channel(self) -> Channel:
        return self._provider.channel

    async def send(self, outgoing: Outgoing) -> Outcome:
        number = int(outgoing.delivery_id.rpartition("-")[2])
        url = self._links.called(outgoing.notification_id, number, self._app_id, self._provider_id)
        return await self._provider.send(msgspec.structs.replace(outgoing, callback_url=url))

    async def aclose(self) -> None:
        await self._provider.aclose()


class ProviderRegistry:
    """Make providers. Connections live in the nursery of `open_registry`."""

    def __init__(
        self, nursery: trio.Nursery, pools: PushPools, links: Links, now_ms: Callable[[], int]
    ) -> None:
        self._nursery = nursery
        self._pools = pools
        self._links = links
        self._now_ms = now_ms
        self._in_use: list[InUse] = []

    def make(self, app_id: str, provider_id: str, config: ProviderConfig) -> InUse:
        """Make one; it connects when it is first used. Raises: ProtocolError(bad_field) for bad settings."""
        now_ms = self._now_ms
        reach = self._pools.reach
        provider: Provider
        try:
            match config:
                case ApnsConfig():
                    provider = ApnsProvider(config, pools=self._pools, now_ms=now_ms)
                case FcmConfig():
                    provider = FcmProvider(config, pools=self._pools, now_ms=now_ms)
                case WebPushConfig():
                    provider = WebPushProvider(config, pools=self._pools, now_ms=now_ms)
                case TwilioConfig():
                    provider = TwilioProvider(config, clock_ms=now_ms, reach=reach)
                case VonageConfig():
                    provider = VonageProvider(config, clock_ms=now_ms, reach=reach)
                case SmtpConfig():
                    provider = SmtpProvider(config, clock_ms=now_ms, reach=reach)
                case AppriseConfig():
                    provider = AppriseProvider(config, reach=reach)
        except ValueError as exc:  # a key that is no key, an address that is none
            raise ProtocolError("bad_field", f"The provider's settings cannot be used: {exc}") from None
        if provider.channel == "sms" and self._links.base_url:
            provider = WithCallback(provider, self._links, app_id, provider_id)
        in_use = InUse(provider)
        self._in_use.append(in_use)
        return in_use

    def close_soon(self, provider: InUse) -> None:
        """Close one that is not used any more, once what is under way has ended or its time is up."""
        self._in_use.remove(provider)
        self._nursery.start_soon(_close_when_idle, provider)

    async def aclose(self) -> None:
        """Close all that are in use."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for provider in self._in_use:
                    nursery.start_soon(_close, provider)
        self._in_use.clear()


async def _close_when_idle(provider: InUse) -> None:
    try:
        with trio.move_on_after(LAST_CALLS_S):
            await provider.idle()
    finally:  # also where the node ends meanwhile
        await _close(provider)


async def _close(provider: Provider) -> None:
    with trio.move_on_after(CLOSE_S, shield=True):
        try:
            await provider.aclose()
        except (OSError, trio.BrokenResourceError):
            log.debug("provider_not_closed", channel=provider.channel)


@asynccontextmanager
async def open_registry(
    links: Links, now_ms: Callable[[], int], reach: Reach
) -> AsyncIterator[ProviderRegistry]:
    """Make providers within, which connect within `reach`; at exit all connections are closed."""
    async with open_push_pools(reach=reach) as pools, trio.open_nursery() as nursery:
        registry = ProviderRegistry(nursery, pools, links, now_ms)
        try:
            yield registry
        finally:
            await registry.aclose()
        nursery.cancel_scope.cancel()
