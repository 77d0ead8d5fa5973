"""Web Push: one POST to the endpoint that a browser gave, encrypted for it (RFC 8030, 8291, 8292).

The endpoint is whatever a client registered. So its host's words concern that host alone, its address is
checked (see `dialing`), and no answer but 404 and 410 ends a subscription.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from actors.notify.delivery import Outcome, Outgoing
from protocol.provider_configs import WebPushConfig
from server.providers.dialing import Origin, split_url, tls_context
from server.providers.exchange import (
    Header,
    Request,
    RequestFailed,
    Response,
    outcome_of_failure,
    retry_after_s,
)
from server.providers.payload_fit import fitted, shortened
from server.providers.push_pools import H2_OR_HTTP1, PushPools, digest
from server.providers.vapid import MAX_ORIGINS, Vapid, base64url
from server.providers.webpush_crypto import MAX_PLAINTEXT_BYTES, encrypted, subscription_keys

MAX_TTL_S: Final = 2_592_000  # Mozilla's limit, 30 days; others take it too
MAX_ENDPOINT_CHARS: Final = 2_000
HOST_PAUSE_S: Final = 60.0  # after a 429 without Retry-After
STUB_CHARS: Final = 100  # of the title, in a payload that has to be small
URGENCY: Final = {"high": b"high", "medium": b"normal", "low": b"low"}  # RFC 8030, 5.3


def judge_webpush(
    status: int, detail: str = "", asked_s: float | None = None, *, is_stub: bool = False, location: str = ""
) -> Outcome:
    """Tell what an answer means. `is_stub`: the payload was the smallest one; `location`: of the message."""
    if 200 <= status < 300:
        return Outcome(kind="accepted", action="done", provider_id=location)
    refused = partial(Outcome, kind="refused", code=str(status), detail=detail)
    if status in (404, 410):
        return refused(action="retire")
    if status == 413 and not is_stub:
        return refused(action="retry_now")
    if status in (401, 403):  # the key pair, or a subscription that was made with another one
        return refused(action="break", scope="host")
    if status == 429:
        return refused(action="retry", scope="host", retry_after_s=asked_s or HOST_PAUSE_S)
    if status >= 500 or status == 408:
        return refused(action="retry", scope="host", retry_after_s=asked_s)
    if status < 200:
        return Outcome(
            kind="unknown",
            action="resolve_unknown",
            code="protocol_error",
            detail=str(status),
            scope="host",
        )
    return refused(action="dead_letter")  # 400 and 413: our bug; 3xx: redirects are not followed


def endpoint_of(address: str, *, allow_http: bool) -> tuple[Origin, str]:
    """Read a subscription's endpoint: its origin and its path. Raises: ValueError."""
    if len(address) > MAX_ENDPOINT_CHARS:
        raise ValueError("the endpoint is too long")
    origin, path = split_url(address)
    if origin.scheme != "https" and not allow_http:
        raise ValueError("the endpoint is not https")
    return origin, path


def topic_of(collapse_key: str) -> bytes:
    """Name what replaces what: 32 characters of base64url (RFC 8030, 5.4) that tell nothing of the key."""
    hashed = hashlib.sha256(collapse_key.encode("utf-8", "surrogatepass")).digest()
    return base64url(hashed[:24]).encode()


def webpush_payload(outgoing: Outgoing) -> bytes | None:
    """Write what the service worker reads, at most 3,993 bytes; the body is shortened to fit."""

    def build(title: str, body: str, dropped: frozenset[str]) -> bytes:
        payload: dict[str, Any] = {
            "title": title,
            "body": body,
            "url": "" if "url" in dropped else outgoing.url,
            "image": "" if "image" in dropped else outgoing.image,
            "tag": "" if "tag" in dropped else outgoing.collapse_key,
            "badge": outgoing.badge,
            "data": {} if "data" in dropped else outgoing.data,
            "notification_id": outgoing.notification_id,
            "delivery_id": outgoing.delivery_id,
        }
        if outgoing.click_url and "click_url" not in dropped:
            payload["click_url"] = outgoing.click_url
        if outgoing.is_silent:
            payload["silent"] = True  # as showNotification knows it; a push that shows nothing is not allowed
        return msgspec.json.encode(payload)

    return fitted(
        build,
        outgoing.title,
        outgoing.body,
        MAX_PLAINTEXT_BYTES,
        ("click_url", "image", "data", "url", "tag"),
    )


def stub_payload(outgoing: Outgoing) -> bytes:
    """Write the smallest payload of use: who it is about, and the ids to fetch the rest by."""
    return msgspec.json.encode(
        {
            "title": shortened(outgoing.title, STUB_CHARS),
            "body": "",
            "notification_id": outgoing.notification_id,
            "delivery_id": outgoing.delivery_id,
        }
    )


class WebPushProvider:
    """Send for one app. Fits `actors.notify.delivery.Provider`."""

    channel: Final = "webpush"

    def __init__(self, config: WebPushConfig, *, pools: PushPools, now_ms: Callable[[], int]) -> None:
        """`now_ms`: wall clock. Raises: ValueError for a key, subject or CA that is none."""
        tls_context(config.ca_pem, H2_OR_HTTP1)  # or else each host would tell
        self._config = config
        self._pools = pools
        self._now_ms = now_ms
        self._vapid_key = ("vapid", digest(config.private_key), config.subject)
        self._vapid = pools.acquire(self._vapid_key, lambda: Vapid(config.private_key, config.subject))
        self._static: dict[bytes, tuple[Header, ...]] = {}
        self._is_closed = False

    @property
    def public_key(self) -> str:
        """The applicationServerKey to subscribe with, base64url."""
        return self._vapid.public_key

    async def send(self, outgoing: Outgoing) -> Outcome:
        """Try once, and once more with a stub where the payload is too large for the host."""
        if 0 < outgoing.expires_at_ms <= self._now_ms():
            return Outcome(kind="refused", action="expired", code="expired")
        payload = webpush_payload(outgoing)
        if payload is None:
            return Outcome(kind="refused", action="dead_letter", code="payload_too_large")
        outcome = await self._try(outgoing, payload, is_stub=False)
        if outcome.action == "retry_now" and outcome.code == "413":
            outcome = await self._try(outgoing, stub_payload(outgoing), is_stub=True)
        return outcome

    async def aclose(self) -> None:
        """Leave the connections, which belong to hosts and close when nobody uses them."""
        if not self._is_closed:
            self._is_closed = True
            self._pools.release(self._vapid_key)

    async def _try(self, outgoing: Outgoing, payload: bytes, *, is_stub: bool) -> Outcome:
        config = self._config
        try:
            origin, path = endpoint_of(outgoing.target.address, allow_http=config.allow_private)
            body = encrypted(payload, subscription_keys(outgoing.target.keys))
        except ValueError as exc:  # nothing that was ever registered so can be reached
            return Outcome(kind="refused", action="dead_letter", code="bad_subscription", detail=str(exc))
        now_ms = self._now_ms()
        authorization = self._vapid.authorization(str(origin), now_ms)
        until_ms = outgoing.expires_at_ms
        ttl_s = min(max(0, until_ms - now_ms) // 1_000, MAX_TTL_S) if until_ms else MAX_TTL_S
        headers: list[Header] = [
            (b"ttl", b"%d" % ttl_s),
            (b"urgency", URGENCY[outgoing.priority]),
            (b"content-length", b"%d" % len(body)),
        ]
        if outgoing.collapse_key:
            headers.append((b"topic", topic_of(outgoing.collapse_key)))
        request = Request(path.encode(), self._shared_headers(authorization), tuple(headers), body)
        try:
            pool = self._pools.host(
                origin, ca_pem=config.ca_pem, public_only=not config.allow_private, named_by="user"
            )
            response = await pool.request(request)
        except RequestFailed as failure:
            return outcome_of_failure(failure, scope="host")
        return _judged(response, now_ms, is_stub=is_stub)

    def _shared_headers(self, authorization: bytes) -> tuple[Header, ...]:
        static = self._static.get(authorization)
        if static is None:
            if len(self._static) >= MAX_ORIGINS:
                self._static.clear()
            static = self._static[authorization] = (
                (b"authorization", authorization),
                (b"content-encoding", b"aes128gcm"),
                (b"content-type", b"application/octet-stream"),
            )
        return static


def _judged(response: Response, now_ms: int, *, is_stub: bool) -> Outcome:
    return judge_webpush(
        response.status,
        response.body[:200].decode("utf-8", "replace") if response.status >= 300 else "",
        retry_after_s(response.headers.get("retry-after"), now_ms),
        is_stub=is_stub,
        location=response.headers.get("location", "")[:500],
    )
