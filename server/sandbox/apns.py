"""A fake of the Apple Push Notification service: its tokens, topics and answers."""

import uuid
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from server.sandbox.apns_rules import Push, Refusal, read_push, usual_reason
from server.sandbox.exchange import Answer, Headers, Request
from server.sandbox.faults import Fault, Faults
from server.sandbox.ledger import Ledger, identity_in
from server.sandbox.provider_tokens import ProviderTokens

Environment = Literal["production", "development"]
# Apple's connection stays unusable after it; senders have to close it and wait.
_SPOILS: Final = "TooManyProviderTokenUpdates"


class _Device(msgspec.Struct, kw_only=True):
    bundle_id: str  # empty: any
    environment: Environment
    gone_at_ms: int = 0
    gone_reason: str = ""


class FakeApns:
    """Two ports, production and development, and one set of devices.

    Tokens that were never told of are good, for any topic and on either port, unless `knows_only_registered`.
    """

    def __init__(
        self, ledger: Ledger, faults: Faults, tokens: ProviderTokens, *, now_ms: Callable[[], int]
    ) -> None:
        self._ledger = ledger
        self._faults = faults
        self._tokens = tokens
        self._now_ms = now_ms
        self._teams: dict[str, str] = {}  # bundle id: team id
        self._devices: dict[str, _Device] = {}
        self.knows_only_registered = False

    def add_app(self, bundle_id: str, team_id: str) -> None:
        """Let a team push to an app."""
        self._teams[bundle_id] = team_id

    def add_key(self, key_id: str, team_id: str, public_key_pem: str) -> None:
        """Let a team's key sign provider tokens."""
        self._tokens.add_key(key_id, team_id, public_key_pem)

    def revoke_key(self, key_id: str) -> None:
        """End a key and all tokens that it signed: 403 InvalidProviderToken from now on."""
        self._tokens.revoke_key(key_id)

    def register(self, token: str, *, bundle_id: str = "", environment: Environment = "production") -> None:
        """Tell of a device's token (hex), or that it was registered anew."""
        self._devices[token.lower()] = _Device(bundle_id=bundle_id, environment=environment)

    def unregister(self, token: str, *, at_ms: int | None = None, reason: str = "Unregistered") -> None:
        """Let a token be dead since `at_ms`, by default now: 410 with that timestamp."""
        device = self._devices.setdefault(token.lower(), _Device(bundle_id="", environment="production"))
        device.gone_at_ms = self._now_ms() if at_ms is None else at_ms
        device.gone_reason = reason

    def answer(self, request: Request, environment: Environment) -> Answer:
        """Check one request as Apple does, apply faults, and keep what was accepted."""
        try:
            push = self._check(request, environment)
        except Refusal as refusal:
            return _refuse(request, refusal)
        hit = self._faults.pick("apns", push.token)
        if hit is not None and hit.fault.refuses:
            return hit.end(self._refuse_by(hit.fault, request))
        apns_id = push.apns_id or str(uuid.uuid4())
        payload = push.payload
        self._ledger.record(
            "apns",
            at_ms=self._now_ms(),
            address=push.token,
            id=apns_id,
            identity=identity_in(payload) or push.apns_id,
            content=None if self._ledger.keep == "ids" else _content(push, environment),
        )
        headers = [("apns-id", apns_id)]
        if environment == "development":
            headers.append(("apns-unique-id", str(uuid.uuid4())))
        answer = Answer(status=200, headers=headers)
        return answer if hit is None else hit.end(answer)

    def _check(self, request: Request, environment: Environment) -> Push:
        if request.line.spoiled_by:
            raise Refusal(request.line.spoiled_by)
        push = read_push(request)
        now_ms = self._now_ms()
        team_id, reason = self._tokens.check(request.headers.get("authorization"), now_ms / 1_000)
        if reason:
            request.line.spoiled_by = reason if reason == _SPOILS else ""
            raise Refusal(reason)
        if self._teams.get(push.bundle_id) != team_id:
            raise Refusal("TopicDisallowed")
        device = self._devices.get(push.token)
        if device is None:
            if self.knows_only_registered:
                raise Refusal("BadDeviceToken")
            return push
        if device.gone_at_ms:
            raise Refusal(device.gone_reason, timestamp_ms=device.gone_at_ms, status=410)
        if device.environment != environment:
            raise Refusal("BadDeviceToken")
        if device.bundle_id not in {"", push.bundle_id}:
            raise Refusal("DeviceTokenNotForTopic")
        return push

    def _refuse_by(self, fault: Fault, request: Request) -> Answer:
        if not fault.status:
            return Answer()
        reason = fault.code or usual_reason(fault.status)
        at_ms = (fault.timestamp_ms or self._now_ms()) if fault.status == 410 else 0
        refusal = Refusal(reason, timestamp_ms=at_ms, status=fault.status)
        if reason == _SPOILS:
            request.line.spoiled_by = reason
        answer = _refuse(request, refusal)
        answer.headers += fault.retry_after()
        return answer


def _refuse(request: Request, refusal: Refusal) -> Answer:
    body: dict[str, str | int] = {"reason": refusal.reason}
    if refusal.timestamp_ms:
        body["timestamp"] = refusal.timestamp_ms
    headers: Headers = [("apns-id", request.headers.get("apns-id") or str(uuid.uuid4()))]
    return Answer(
        status=refusal.status,
        headers=[*headers, ("content-type", "application/json")],
        body=msgspec.json.encode(body),
    )


def _content(push: Push, environment: Environment) -> dict[str, object]:
    return {
        "topic": push.topic,
        "push_type": push.push_type,
        "priority": push.priority,
        "expiration": push.expiration_s,
        "collapse_id": push.collapse_id,
        "environment": environment,
        "payload": push.payload,
    }
