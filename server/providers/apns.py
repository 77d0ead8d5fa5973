"""Apple Push Notification service: token-based, one POST per device over HTTP/2.

Rules: developer.apple.com, "Sending notification requests to APNs" and "Handling notification responses".
"""

import base64
import hashlib
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal

import msgspec

from actors.notify.delivery import Outcome, Outgoing
from protocol.provider_configs import ApnsConfig
from server.providers.apns_signer import MIN_AGE_MS, ApnsSigner, ProviderToken
from server.providers.connection_pool import ConnectionPool
from server.providers.dialing import split_url
from server.providers.exchange import (
    Header,
    Request,
    RequestFailed,
    Response,
    outcome_of_failure,
    retry_after_s,
)
from server.providers.payload_fit import fitted
from server.providers.push_pools import H2_ONLY, PushPools, digest

HOSTS: Final = {
    "production": "https://api.push.apple.com",
    "development": "https://api.sandbox.push.apple.com",
}
MAX_PAYLOAD_BYTES: Final = 4_096
MAX_COLLAPSE_BYTES: Final = 64
STORED_FOR_S: Final = 30 * 86_400  # what has no end is kept for a device that is off as long as APNs keeps it
# After TooManyProviderTokenUpdates; Apple names no time, and people report minutes.
TOKEN_UPDATES_PAUSE_S: Final = 60.0
_DELIVERIES: Final = uuid.UUID("5f2b0c4e-6a0d-5f6e-9a67-2d0e3c8f4b11")  # namespace of apns-ids; for ever
_HEX: Final = frozenset("0123456789abcdef")

_DEAD_TOKEN: Final = frozenset({"BadDeviceToken", "DeviceTokenNotForTopic"})


def judge_apns(
    status: int,
    reason: str,
    timestamp_ms: int = 0,
    *,
    token_age_ms: int = 0,
    asked_s: float | None = None,
    provider_id: str = "",
) -> Outcome:
    """Tell what an answer means. `token_age_ms`: of the token that was sent; `asked_s`: Retry-After."""
    if status == 200:
        return Outcome(kind="accepted", action="done", provider_id=provider_id)
    refused = partial(Outcome, kind="refused", code=reason or str(status), provider_id=provider_id)
    if status == 410:  # Unregistered, ExpiredToken
        return refused(action="retire", invalid_since_ms=timestamp_ms)
    if status == 400 and reason in _DEAD_TOKEN:  # or of the other environment, or another app's
        return refused(action="retire", is_doubtful=True)
    if status == 400 and reason == "IdleTimeout":
        return refused(action="retry_now", scope="provider")
    if status == 403 and reason == "ExpiredProviderToken":
        if token_age_ms >= MIN_AGE_MS:
            return refused(action="retry_now", scope="credential")
        return refused(
            action="break", scope="credential", detail="The token is new, so one of the two clocks is wrong."
        )
    if status == 403:
        return refused(action="break", scope="credential")
    if status == 429 and reason == "TooManyProviderTokenUpdates":
        return refused(action="retry", scope="credential", retry_after_s=TOKEN_UPDATES_PAUSE_S)
    if status == 429:
        return refused(action="retry", scope="device", retry_after_s=asked_s)
    if status >= 500:
        return refused(action="retry", scope="provider", retry_after_s=asked_s)
    if status < 200:
        return Outcome(
            kind="unknown",
            action="resolve_unknown",
            code="protocol_error",
            detail=str(status),
            scope="provider",
        )
    return refused(action="dead_letter")


class ApnsLine:
    """A signer and the connections that carry its tokens: one per team, key and host, for all apps.

    Tokens of two keys or two teams on one connection are refused by APNs, so they never share one.
    """

    def __init__(self, signer: ApnsSigner, pool: ConnectionPool) -> None:
        self.signer = signer
        self.pool = pool

    def close(self) -> None:
        """Close the connections at once."""
        self.pool.close()


def collapse_id(key: str) -> bytes:
    """Name what replaces what: the key itself, or its hash where it is longer than 64 bytes or not plain."""
    plain = key.isascii() and key.isprintable() and len(key) <= MAX_COLLAPSE_BYTES and key == key.strip()
    if plain:
        return key.encode()
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()).rstrip(
        b"="
    )


def apns_id(delivery_id: str) -> str:
    """Name a delivery as APNs wants it: a UUID in lower case, the same in all attempts."""
    return str(uuid.uuid5(_DELIVERIES, delivery_id))


def push_kind(outgoing: Outgoing) -> tuple[Literal["alert", "background"], Literal[10, 5]]:
    """Choose push type and priority. A background push may carry neither text nor badge nor sound."""
    if outgoing.is_silent or not (outgoing.title or outgoing.body):
        return ("background" if outgoing.badge is None else "alert"), 5
    return "alert", (5 if outgoing.priority == "low" else 10)


def apns_payload(outgoing: Outgoing) -> bytes | None:
    """Write the payload in at most 4,096 bytes; the body is shortened to fit. None: too large without one."""
    is_shown = not outgoing.is_silent and bool(outgoing.title or outgoing.body)

    def build(title: str, body: str, dropped: frozenset[str]) -> bytes:
        aps: dict[str, Any] = {}
        if is_shown:
            aps["alert"] = {key: text for key, text in (("title", title), ("body", body)) if text}
            aps["sound"] = "default"
            aps["thread-id"] = outgoing.type
            if outgoing.image and "image" not in dropped:
                aps["mutable-content"] = 1  # the app's extension loads the image
        else:
            aps["content-available"] = 1
        if outgoing.badge is not None:
            aps["badge"] = outgoing.badge
        payload: dict[str, Any] = {
            "aps": aps,
            "notification_id": outgoing.notification_id,
            "delivery_id": outgoing.delivery_id,
        }
        for name, value in (("url", outgoing.url), ("image", outgoing.image), ("data", outgoing.data)):
            if value and name not in dropped:
                payload[name] = value
        return msgspec.json.encode(payload)

    title, body = (outgoing.title, outgoing.body) if is_shown else ("", "")
    return fitted(build, title, body, MAX_PAYLOAD_BYTES, ("image", "data", "url"))


class ApnsProvider:
    """Send for one app. Fits `actors.notify.delivery.Provider`."""

    channel: Final = "apns"

    def __init__(self, config: ApnsConfig, *, pools: PushPools, now_ms: Callable[[], int]) -> None:
        """`now_ms`: wall clock. Raises: ValueError for a key, CA or base_url that is none."""
        origin, path = split_url(config.base_url or HOSTS[config.environment])
        secret = digest(config.private_key)
        self._topic = config.topic.encode()
        self._base = path.rstrip("/").encode()
        self._pools = pools
        self._now_ms = now_ms
        # Two apps with the same key share a signer whatever their topics, environments and base URLs are.
        self._signer_key = ("apns signer", config.team_id, config.key_id, secret)
        self._key = ("apns", config.team_id, config.key_id, secret, origin, digest(config.ca_pem))
        signer = pools.acquire(
            self._signer_key, lambda: ApnsSigner(config.team_id, config.key_id, config.private_key)
        )
        try:
            self._line = pools.acquire(
                self._key,
                lambda: ApnsLine(signer, pools.pool(origin, ca_pem=config.ca_pem, alpn=H2_ONLY)),
            )
        except BaseException:
            pools.release(self._signer_key)
            raise
        self._is_closed = False
        self._static: dict[tuple[str, int], tuple[Header, ...]] = {}
        self._static_token = ""

    async def send(self, outgoing: Outgoing) -> Outcome:
        """Try once; see `Provider.send`."""
        now_ms = self._now_ms()
        if 0 < outgoing.expires_at_ms <= now_ms:
            return Outcome(kind="refused", action="expired", code="expired")
        device = outgoing.target.address.lower()
        if not device or not _HEX.issuperset(device):  # it becomes part of the path
            return Outcome(kind="refused", action="retire", code="malformed_token")
        payload = apns_payload(outgoing)
        if payload is None:
            return Outcome(kind="refused", action="dead_letter", code="payload_too_large")
        token = self._line.signer.token(now_ms)
        request = self._request(outgoing, device, payload, token, now_ms)
        try:
            response = await self._line.pool.request(request)
        except RequestFailed as failure:
            return outcome_of_failure(failure)
        return self._answered(response, token)

    async def aclose(self) -> None:
        """Leave the shared connections; the last app to do so closes them."""
        if not self._is_closed:
            self._is_closed = True
            self._pools.release(self._key)
            self._pools.release(self._signer_key)

    def _request(
        self, outgoing: Outgoing, device: str, payload: bytes, token: ProviderToken, now_ms: int
    ) -> Request:
        kind, priority = push_kind(outgoing)
        if token.value != self._static_token:
            self._static.clear()
            self._static_token = token.value
        static = self._static.get((kind, priority))
        if static is None:
            static = self._static[kind, priority] = (
                (b"authorization", b"bearer " + token.value.encode()),
                (b"apns-topic", self._topic),
                (b"apns-push-type", kind.encode()),
                (b"apns-priority", b"%d" % priority),
            )
        until_s = outgoing.expires_at_ms // 1_000 or now_ms // 1_000 + STORED_FOR_S
        headers: list[Header] = [
            (b"apns-id", apns_id(outgoing.delivery_id).encode()),
            (b"apns-expiration", b"%d" % until_s),
            (b"content-length", b"%d" % len(payload)),
        ]
        if outgoing.collapse_key:
            headers.append((b"apns-collapse-id", collapse_id(outgoing.collapse_key)))
        return Request(self._base + b"/3/device/" + device.encode(), static, tuple(headers), payload)

    def _answered(self, response: Response, token: ProviderToken) -> Outcome:
        now_ms = self._now_ms()
        reason, timestamp_ms = _said(response.body) if response.status != 200 else ("", 0)
        outcome = judge_apns(
            response.status,
            reason,
            timestamp_ms,
            token_age_ms=now_ms - token.signed_at_ms,
            asked_s=retry_after_s(response.headers.get("retry-after"), now_ms),
            provider_id=response.headers.get("apns-id", ""),
        )
        line = self._line
        if outcome.code == "ExpiredProviderToken":
            if line.signer.renew(token, now_ms) and outcome.action == "break":
                return msgspec.structs.replace(outcome, action="retry_now", detail="")
        elif outcome.code == "TooManyProviderTokenUpdates":
            line.signer.hold(now_ms)
            line.pool.leave(response)
            line.pool.hold(TOKEN_UPDATES_PAUSE_S)
        elif outcome.action in ("retry", "retry_now") and outcome.scope == "provider":
            line.pool.leave(response)  # this server is ill or leaves; another connection finds another one
        return outcome


class _Said(msgspec.Struct, frozen=True):
    reason: str = ""
    timestamp: int = 0  # of a 410, Unix ms


def _said(body: bytes) -> tuple[str, int]:
    try:
        said = msgspec.json.decode(body, type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", 0
    return said.reason[:100], max(0, said.timestamp)
