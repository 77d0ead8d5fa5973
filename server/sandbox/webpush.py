"""A fake push service for browsers: subscriptions, messages that wait for them, and what they receive."""

import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.sandbox.exchange import Answer, Headers, Request, json_answer
from server.sandbox.faults import Fault, Faults
from server.sandbox.ledger import Ledger, identity_in
from server.sandbox.webpush_rules import (
    PushHead,
    PushRefusal,
    base64url,
    check_vapid,
    decrypt,
    read_head,
    unbase64,
)

_PREFIX: Final = "/push/"
_MAX_WAITING: Final = 1_000  # messages of one browser that is offline
_MAX_RECEIVED: Final = 1_000
_WORDS: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    410: "Gone",
    413: "Payload Too Large",
    429: "Too Many Requests",
    503: "Service Unavailable",
}
_ERRNOS: Final = {404: 102, 410: 103, 413: 104, 429: 105, 500: 999, 503: 201}


class PushMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message in plain text, as the service worker gets it."""

    id: str
    plaintext: bytes
    topic: str
    urgency: str
    ends_at_ms: int


class Subscription(msgspec.Struct, kw_only=True, eq=False):
    """One browser's subscription, with the secrets that only the browser has.

    While `is_online`, messages arrive at once in `received`; else they wait, a newer one takes the place of
    one with the same Topic, and TTL ends them.
    """

    endpoint: str
    p256dh: str
    auth: str
    private_key: ec.EllipticCurvePrivateKey
    application_server_key: bytes = b""
    is_online: bool = True
    is_gone: bool = False
    waiting: list[PushMessage] = []
    received: deque[PushMessage] = msgspec.field(default_factory=lambda: deque(maxlen=_MAX_RECEIVED))

    def as_json(self) -> dict[str, Any]:
        """Return what `PushSubscription.toJSON()` returns in a browser."""
        return {
            "endpoint": self.endpoint,
            "expirationTime": None,
            "keys": {"p256dh": self.p256dh, "auth": self.auth},
        }


class FakeWebPush:
    """One origin. Endpoints that it has not made are unknown: 404."""

    def __init__(self, ledger: Ledger, faults: Faults, *, now_ms: Callable[[], int]) -> None:
        self._ledger = ledger
        self._faults = faults
        self._now_ms = now_ms
        self._subscriptions: dict[str, Subscription] = {}
        self.origin = ""  # known when the port is

    def subscribe(self, application_server_key: str = "") -> Subscription:
        """Subscribe a browser. With a key (base64url), only its owner may push: others get 403."""
        key = ec.generate_private_key(ec.SECP256R1())
        path = _PREFIX + secrets.token_urlsafe(32)
        point = key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        subscription = Subscription(
            endpoint=self.origin + path,
            p256dh=base64url(point),
            auth=base64url(secrets.token_bytes(16)),
            private_key=key,
            application_server_key=unbase64(application_server_key) if application_server_key else b"",
        )
        self._subscriptions[path] = subscription
        return subscription

    def find(self, endpoint: str) -> Subscription | None:
        """Return the subscription of an endpoint, gone ones too."""
        return self._subscriptions.get(endpoint.removeprefix(self.origin))

    def unsubscribe(self, endpoint: str) -> None:
        """End a subscription: 410 from now on. Raises: KeyError."""
        subscription = self._subscriptions[endpoint.removeprefix(self.origin)]
        subscription.is_gone = True
        subscription.waiting.clear()

    def forget(self, endpoint: str) -> None:
        """Lose a subscription altogether: 404 from now on. Raises: KeyError."""
        del self._subscriptions[endpoint.removeprefix(self.origin)]

    def go_online(self, endpoint: str) -> list[PushMessage]:
        """Let a browser come back; returns what had waited and was still good. Raises: KeyError."""
        subscription = self._subscriptions[endpoint.removeprefix(self.origin)]
        subscription.is_online = True
        now_ms = self._now_ms()
        good = [message for message in subscription.waiting if message.ends_at_ms > now_ms]
        subscription.waiting.clear()
        subscription.received.extend(good)
        return good

    def answer(self, request: Request) -> Answer:
        """Check one message as a push service does, decrypt it, and hand it on."""
        try:
            return self._push(request)
        except PushRefusal as refusal:
            return _refuse(refusal.status, refusal.errno, refusal.message, [])

    def _push(self, request: Request) -> Answer:
        subscription = self._subscriptions.get(request.path)
        if subscription is None:
            raise PushRefusal(404, 102, "There is no such subscription.")
        if subscription.is_gone:
            raise PushRefusal(410, 103, "The subscription has ended.")
        head = read_head(request)
        now_ms = self._now_ms()
        point = check_vapid(
            request.headers.get("authorization", ""), origin=self.origin, now_s=now_ms / 1_000
        )
        if subscription.application_server_key not in {b"", point}:
            raise PushRefusal(403, 109, "The subscription is restricted to another key.")
        # A real service cannot look inside; the browser would drop the message and nobody would know.
        plaintext = decrypt(request.body, subscription.private_key, unbase64(subscription.auth))
        hit = self._faults.pick("webpush", subscription.endpoint)
        if hit is not None and hit.fault.refuses:
            return hit.end(_refuse_by(hit.fault))
        message = PushMessage(
            id=secrets.token_urlsafe(16),
            plaintext=plaintext,
            topic=head.topic,
            urgency=head.urgency,
            ends_at_ms=now_ms + head.ttl_s * 1_000,
        )
        _hand_on(subscription, message, is_kept=head.ttl_s > 0)
        self._record(subscription, message, head, now_ms)
        headers = [("location", f"{self.origin}/message/{message.id}"), ("ttl", str(head.ttl_s))]
        answer = Answer(status=201, headers=headers)
        return answer if hit is None else hit.end(answer)

    def _record(self, subscription: Subscription, message: PushMessage, head: PushHead, now_ms: int) -> None:
        payload = _payload_of(message.plaintext)
        self._ledger.record(
            "webpush",
            at_ms=now_ms,
            address=subscription.endpoint,
            id=message.id,
            identity=identity_in(payload),
            content={
                "ttl": head.ttl_s,
                "urgency": head.urgency,
                "topic": head.topic,
                "text": message.plaintext.decode("utf-8", "replace"),
                "payload": payload,
            },
        )


def _hand_on(subscription: Subscription, message: PushMessage, *, is_kept: bool) -> None:
    if subscription.is_online:
        subscription.received.append(message)
        return
    if message.topic:  # RFC 8030 section 5.4
        subscription.waiting[:] = [one for one in subscription.waiting if one.topic != message.topic]
    if is_kept:
        subscription.waiting.append(message)
        del subscription.waiting[:-_MAX_WAITING]


def _payload_of(plaintext: bytes) -> Any:
    try:
        return msgspec.json.decode(plaintext)
    except msgspec.DecodeError:
        return None


def _refuse_by(fault: Fault) -> Answer:
    if not fault.status:
        return Answer()
    errno = int(fault.code) if fault.code.isdigit() else _ERRNOS.get(fault.status, 999)
    return _refuse(fault.status, errno, "Injected by the sandbox.", fault.retry_after())


def _refuse(status: int, errno: int, message: str, headers: Headers) -> Answer:
    body = {"code": status, "errno": errno, "error": _WORDS.get(status, "Error"), "message": message}
    return json_answer(status, body, headers)
