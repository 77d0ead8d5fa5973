"""Sign requests of an app's backend: the secret itself does not travel, and a request is good but once."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Generator
from typing import Final

import httpx

KEY_HEADER: Final = "X-Hubbub-Key"
TIMESTAMP_HEADER: Final = "X-Hubbub-Timestamp"
NONCE_HEADER: Final = "X-Hubbub-Nonce"
SIGNATURE_HEADER: Final = "X-Hubbub-Signature"
VERSION: Final = "v1"


def sign_request(
    app_key: str,
    secret: str,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    timestamp: int | None = None,
    nonce: str | None = None,
) -> dict[str, str]:
    """Return the headers that prove that this request comes from who has the app's secret.

    `path`: as it is sent, with its query, such as "/v1/notifications?x=1". `timestamp`: Unix seconds, now
    unless given; `nonce`: a new one for each request, also for a repeated one, or it counts as a replay.
    The signature is HMAC-SHA256 in hex of `timestamp\\nnonce\\nMETHOD\\npath\\nsha256hex(body)`, after "v1=".
    """
    at = str(int(time.time()) if timestamp is None else timestamp)
    once = nonce or secrets.token_urlsafe(18)
    return {
        KEY_HEADER: app_key,
        TIMESTAMP_HEADER: at,
        NONCE_HEADER: once,
        SIGNATURE_HEADER: f"{VERSION}={signature(secret, method, path, body, timestamp=at, nonce=once)}",
    }


def signature(secret: str, method: str, path: str, body: bytes, *, timestamp: str, nonce: str) -> str:
    """Return the signature in hex. Pure, so that both sides can use it."""
    signed = f"{timestamp}\n{nonce}\n{method.upper()}\n{path}\n{hashlib.sha256(body).hexdigest()}"
    return hmac.new(secret.encode(), signed.encode(), hashlib.sha256).hexdigest()


class SignedRequests(httpx.Auth):
    """Sign each request of an httpx client as it is sent, each try by itself."""

    requires_request_body = True

    def __init__(self, app_key: str, secret: str, *, now: Callable[[], float] = time.time) -> None:
        self._app_key = app_key
        self._secret = secret
        self._now = now

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the headers."""
        headers = sign_request(
            self._app_key,
            self._secret,
            request.method,
            request.url.raw_path.decode("ascii"),
            request.content,
            timestamp=int(self._now()),
        )
        request.headers.update(headers)
        yield request
