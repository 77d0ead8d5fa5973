"""Firebase Cloud Messaging, HTTP v1: one POST per message, by a service account.

Rules: firebase.google.com/docs/reference/fcm/rest/v1/projects.messages and …/rest/v1/ErrorCode.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import msgspec

from actors.notify.delivery import Outcome, Outgoing
from protocol.provider_configs import FcmConfig
from server.providers.apns import collapse_id
from server.providers.dialing import split_url
from server.providers.exchange import Header, Request, RequestFailed, outcome_of_failure, retry_after_s
from server.providers.google_token import AccessToken, GoogleToken, TokenRefused
from server.providers.payload_fit import fitted
from server.providers.push_pools import PushPools, digest

BASE_URL: Final = "https://fcm.googleapis.com"
TOKEN_URI: Final = "https://oauth2.googleapis.com/token"
MAX_PAYLOAD_BYTES: Final = 4_096
MAX_TTL_S: Final = 2_419_200  # four weeks
QUOTA_PAUSE_S: Final = 60.0  # without a Retry-After: quota is counted by the minute
FRESH_TOKEN_MS: Final = 60_000  # a token younger than this that is refused will not get better by another one
_RESERVED: Final = re.compile(r"from|message_type|collapse_key|(google|gcm).*", re.IGNORECASE)
_OURS: Final = frozenset({"notification_id", "delivery_id", "url", "image", "title", "body"})
_PREFIX: Final = "x_"


class _Violation(msgspec.Struct, frozen=True):
    field: str = ""


class _Detail(msgspec.Struct, frozen=True, rename={"type": "@type", "field_violations": "fieldViolations"}):
    type: str = ""
    error_code: str = msgspec.field(default="", name="errorCode")
    field_violations: list[_Violation] = []


class _Error(msgspec.Struct, frozen=True):
    status: str = ""
    message: str = ""
    details: list[_Detail] = []


class _Answer(msgspec.Struct, frozen=True):
    name: str = ""
    error: _Error = _Error()


def judge_fcm(
    status: int, body: bytes, asked_s: float | None = None, *, token_age_ms: int = FRESH_TOKEN_MS
) -> Outcome:
    """Tell what an answer means. `asked_s`: Retry-After; `token_age_ms`: of the token that was sent."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        answer = _Answer()
    if 200 <= status < 300:
        return Outcome(kind="accepted", action="done", provider_id=answer.name)
    error = answer.error
    code = next((found.error_code for found in error.details if found.type.endswith(".FcmError")), "")
    refused = partial(
        Outcome, kind="refused", code=code or error.status or str(status), detail=error.message[:300]
    )
    match code:
        case "UNREGISTERED":  # the app is gone
            return refused(action="retire")
        case "SENDER_ID_MISMATCH":  # the token is of another project, or the account is
            return refused(action="retire", is_doubtful=True)
        case "INVALID_ARGUMENT" if _blames_token(error):
            return refused(action="retire", is_doubtful=True)
        case "INVALID_ARGUMENT":
            return refused(action="dead_letter")
        case "QUOTA_EXCEEDED":
            return refused(action="retry", scope="credential", retry_after_s=asked_s or QUOTA_PAUSE_S)
        case "UNAVAILABLE" | "INTERNAL":
            return refused(action="retry", scope="provider", retry_after_s=asked_s)
        case "THIRD_PARTY_AUTH_ERROR":
            return refused(action="break", scope="credential")
    if status == 401 and token_age_ms >= FRESH_TOKEN_MS:
        return refused(action="retry_now", scope="credential")
    if status in (401, 403, 404):  # without FcmError: the account, its rights, or the project
        return refused(action="break", scope="credential")
    if status == 429:
        return refused(action="retry", scope="credential", retry_after_s=asked_s or QUOTA_PAUSE_S)
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


def _blames_token(error: _Error) -> bool:
    """Tell a bad registration token from a bad field; both come as INVALID_ARGUMENT."""
    fields = [violation.field for found in error.details for violation in found.field_violations]
    if fields:
        return all(field == "message.token" for field in fields)
    return "registration token" in error.message.lower()


def data_key(key: str) -> str:
    """Make a key of the app's data one that FCM takes, and that is none of ours."""
    return _PREFIX + key if _RESERVED.fullmatch(key) or key in _OURS else key


def fcm_message(outgoing: Outgoing, now_ms: int) -> bytes | None:
    """Write the request's body; the message is at most 4,096 bytes. None: too large without its text.

    A silent one, or one without text, is a message of data only: the app decides what to show.
    """
    is_shown = not outgoing.is_silent and bool(outgoing.title or outgoing.body)
    until_ms = outgoing.expires_at_ms
    ttl_s = min((until_ms - now_ms) // 1_000, MAX_TTL_S) if until_ms else MAX_TTL_S

    def build(title: str, body: str, dropped: frozenset[str]) -> bytes:
        data: dict[str, str] = {}
        if "data" not in dropped:
            data |= {data_key(key): value for key, value in outgoing.data.items()}
        data["notification_id"] = str(outgoing.notification_id)
        data["delivery_id"] = outgoing.delivery_id
        if outgoing.url and "url" not in dropped:
            data["url"] = outgoing.url
        android: dict[str, Any] = {
            "priority": "HIGH" if is_shown and outgoing.priority != "low" else "NORMAL",
            "ttl": f"{ttl_s}s",
        }
        message: dict[str, Any] = {"token": outgoing.target.address, "data": data, "android": android}
        image = outgoing.image if "image" not in dropped else ""
        texts = {name: text for name, text in (("title", title), ("body", body), ("image", image)) if text}
        if is_shown:
            message["notification"] = texts
            shown: dict[str, Any] = {}
            if outgoing.collapse_key:
                shown["tag"] = outgoing.collapse_key
            if outgoing.badge is not None:
                shown["notification_count"] = outgoing.badge
            if shown:
                android["notification"] = shown
        else:
            data |= texts
        if outgoing.collapse_key:
            android["collapse_key"] = outgoing.collapse_key
        message["apns"] = _apns_part(outgoing, is_shown=is_shown)
        return msgspec.json.encode({"message": message})

    return fitted(build, outgoing.title, outgoing.body, MAX_PAYLOAD_BYTES, ("image", "data", "url"))


def _apns_part(outgoing: Outgoing, *, is_shown: bool) -> dict[str, Any]:
    """What an iPhone behind FCM needs beside the text, which FCM itself puts into the payload."""
    is_urgent = is_shown and outgoing.priority != "low"
    headers = {"apns-priority": "10" if is_urgent else "5"}
    if outgoing.expires_at_ms:
        headers["apns-expiration"] = str(outgoing.expires_at_ms // 1_000)
    if outgoing.collapse_key:
        headers["apns-collapse-id"] = collapse_id(outgoing.collapse_key).decode()
    aps: dict[str, Any] = {"sound": "default"} if is_shown else {"content-available": 1}
    if is_shown and outgoing.badge is not None:
        aps["badge"] = outgoing.badge
    return {"headers": headers, "payload": {"aps": aps}}


class FcmProvider:
    """Send for one app. Fits `actors.notify.delivery.Provider`."""

    channel: Final = "fcm"

    def __init__(self, config: FcmConfig, *, pools: PushPools, now_ms: Callable[[], int]) -> None:
        """`now_ms`: wall clock. Raises: ValueError for a key, CA or URL that is none."""
        origin, path = split_url(config.base_url or BASE_URL)
        audience = config.token_uri or TOKEN_URI
        token_origin, token_path = split_url(audience)
        authority = digest(config.ca_pem)
        self._path = (
            f"{path.rstrip('/')}/v1/projects/{quote(config.project_id, safe='')}/messages:send".encode()
        )
        self._pools = pools
        self._now_ms = now_ms
        self._pool_key = ("fcm", origin, authority)
        self._token_key = (
            "google token",
            config.client_email,
            digest(config.private_key),
            audience,
            authority,
        )
        self._pool = pools.acquire(self._pool_key, lambda: pools.pool(origin, ca_pem=config.ca_pem))
        try:
            self._token = pools.acquire(
                self._token_key,
                lambda: GoogleToken(
                    config.client_email,
                    config.private_key,
                    audience,
                    token_path,
                    pool=pools.pool(token_origin, ca_pem=config.ca_pem),
                    nursery=pools.nursery,
                    limits=pools.limits,
                    now_ms=now_ms,
                ),
            )
        except BaseException:
            pools.release(self._pool_key)
            raise
        self._is_closed = False
        self._static: tuple[AccessToken, tuple[Header, ...]] | None = None

    async def send(self, outgoing: Outgoing) -> Outcome:
        """Try once; see `Provider.send`."""
        now_ms = self._now_ms()
        if 0 < outgoing.expires_at_ms <= now_ms:
            return Outcome(kind="refused", action="expired", code="expired")
        message = fcm_message(outgoing, now_ms)
        if message is None:
            return Outcome(kind="refused", action="dead_letter", code="payload_too_large")
        try:
            token = await self._token.get()
        except TokenRefused as exc:
            return Outcome(
                kind="refused",
                action=exc.action,
                code=exc.code,
                detail=exc.detail,
                retry_after_s=exc.retry_after_s,
                scope="credential",
            )
        if self._static is None or self._static[0] is not token:
            bearer = (b"authorization", f"Bearer {token.value}".encode("latin-1", "replace"))
            self._static = token, (bearer, (b"content-type", b"application/json"))
        length = (b"content-length", b"%d" % len(message))
        try:
            response = await self._pool.request(Request(self._path, self._static[1], (length,), message))
        except RequestFailed as failure:
            return outcome_of_failure(failure)
        now_ms = self._now_ms()
        outcome = judge_fcm(
            response.status,
            response.body,
            retry_after_s(response.headers.get("retry-after"), now_ms),
            token_age_ms=now_ms - token.fetched_at_ms,
        )
        if outcome.action == "retry_now":
            self._token.drop(token)
        return outcome

    async def aclose(self) -> None:
        """Leave the shared connections; the last app to do so closes them."""
        if not self._is_closed:
            self._is_closed = True
            self._pools.release(self._token_key)
            self._pools.release(self._pool_key)
