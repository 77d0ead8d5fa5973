"""SES tells of bounces, complaints and deliveries through Amazon SNS: its messages are checked and read here.

SNS signs with a certificate that it names by address; only SNS's own addresses are asked for one, and each is
kept. A topic's subscription is confirmed by itself, if the app has named that topic in its settings.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import httpx
import structlog

from protocol.errors import ProtocolError, Refused, Unavailable
from protocol.provider_configs import SmtpConfig
from server.notify.callbacks import Told, delivery_place, told_of
from server.providers.ses_webhook import (
    SnsEnvelope,
    is_sns_certificate_url,
    is_sns_signature,
    is_sns_subscribe_url,
    names_its_mail,
    read_sns,
    ses_statuses,
)

TIMEOUT_S: Final = 10.0
MAX_CERTIFICATES: Final = 32  # SNS has one for each region, and changes them now and then
MAX_BYTES: Final = 64 * 1024

Fetch = Callable[[str], Awaitable[bytes]]
log = structlog.get_logger(__name__)


async def fetch_over_https(url: str) -> bytes:
    """Get a small file. Raises: httpx.HTTPError."""
    async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False) as client:
        response = await client.get(url)
        response.raise_for_status()
        return response.content[:MAX_BYTES]


class SnsDoor:
    """Take what SNS posts."""

    def __init__(self, fetch: Fetch = fetch_over_https) -> None:
        self._fetch = fetch
        self._certificates: OrderedDict[str, bytes] = OrderedDict()

    async def take(
        self, config: SmtpConfig, body: bytes, now_ms: int, *, on_nameless: Callable[[], None]
    ) -> list[tuple[int, int, Told]]:
        """Check a message, and tell what became of which deliveries.

        `on_nameless` is called where the message does not say which mail it is about: nothing can be made
        of any until the app's developers have switched that on.

        Raises: ProtocolError(bad_field), Refused(bad_signature), Unavailable where SNS cannot be asked.
        """
        try:
            envelope = read_sns(body)
        except ValueError:
            raise ProtocolError("bad_field", "That is no message of SNS.") from None
        certificate = await self._certificate(envelope.signing_cert_url)
        if not is_sns_signature(envelope, certificate, config.sns_topic_arn, now_ms):
            raise Refused("bad_signature", "The message is not signed by SNS for this app's topic.")
        if envelope.type == "SubscriptionConfirmation":
            await self._confirm(envelope)
            return []
        if envelope.type != "Notification":
            return []
        try:
            updates = ses_statuses(envelope.message)
        except ValueError:
            raise ProtocolError("bad_field", "That is no event of SES.") from None
        found = []
        for update in updates:
            told, place = told_of(update), delivery_place(update.delivery_id)
            if told is not None and place is not None:
                found.append((*place, told))
        if not found and not names_its_mail(envelope.message):
            on_nameless()
        return found

    async def _certificate(self, url: str) -> bytes:
        if not is_sns_certificate_url(url):
            raise Refused("bad_signature", "The certificate is not at an address of SNS.")
        known = self._certificates.get(url)
        if known is not None:
            return known
        try:
            known = await self._fetch(url)
        except httpx.HTTPError as exc:
            raise Unavailable("busy", f"SNS's certificate cannot be had: {type(exc).__name__}.") from None
        self._certificates[url] = known
        if len(self._certificates) > MAX_CERTIFICATES:
            self._certificates.popitem(last=False)
        return known

    async def _confirm(self, envelope: SnsEnvelope) -> None:
        if not is_sns_subscribe_url(envelope.subscribe_url):
            raise Refused("bad_signature", "The subscription cannot be confirmed at an address of SNS.")
        try:
            await self._fetch(envelope.subscribe_url)
        except httpx.HTTPError as exc:
            raise Unavailable(
                "busy", f"The subscription cannot be confirmed: {type(exc).__name__}."
            ) from None
        log.info("sns_subscribed", topic=envelope.topic_arn)
