"""Who asks in an app's name: by Basic, by bearer, or by a signed request that cannot be replayed.

A signature is made of the app's secret and of all that the request asks for:
HMAC-SHA256(secret, "TIMESTAMP\\nNONCE\\nMETHOD\\nPATH\\nSHA256(body)"), in hex behind `v1=`. It holds within
five minutes of its timestamp, and once: what this node has seen it refuses. Another node, or one that was
restarted in between, does not know; there the signature is the idempotency key of a request that has none, so
that a replay is answered with what it did, and sends nothing.
"""

import hmac
from typing import Final

import trio

from protocol.errors import Refused
from protocol.records import AppKey
from server.clock import wall_clock_ms
from server.http.context import AnyRequest, app_key_of, bearer_token, note_user, services_of
from server.http.signatures import WINDOW_S, signature_of

SIGNED: Final = "X-Hubbub-Signature"

APP_AUTH: Final[list[dict[str, list[str]]]] = [{"app_key": []}, {"app_bearer": []}, {"app_signature": []}]


async def app_of(request: AnyRequest) -> tuple[AppKey, str]:
    """The app that asks, and the signature of a signed request ("" for others).

    Raises: Refused(unauthenticated, bad_signature, request_expired, request_replayed).
    """
    if SIGNED.lower() in request.headers:
        return await _signed(request)
    token = bearer_token(request)
    if token:
        app_key, _, secret = token.partition(":")
        key = await services_of(request).log_ins.authenticate_app(app_key, secret)
        note_user(request, key.app_id, "")
        return key, ""
    return await app_key_of(request), ""


async def _signed(request: AnyRequest) -> tuple[AppKey, str]:
    services = services_of(request)
    headers = request.headers
    app_key = headers.get("x-hubbub-key", "")
    timestamp = headers.get("x-hubbub-timestamp", "")
    nonce = headers.get("x-hubbub-nonce", "")
    given = headers[SIGNED.lower()]
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 12 or len(nonce) > 100:
        raise Refused("bad_signature", "X-Hubbub-Timestamp is Unix time in seconds, X-Hubbub-Nonce text.")
    path = request.scope["path"]
    query = request.scope.get("query_string", b"")
    if query:
        path = f"{path}?{query.decode('latin-1')}"
    secret = services.log_ins.secret_of(app_key)
    wanted = signature_of(
        secret,
        timestamp=timestamp,
        nonce=nonce,
        method=request.method,
        path=path,
        body=await request.body(),
    )
    if not hmac.compare_digest(wanted.encode(), given.encode("utf-8", "replace")):
        raise Refused("bad_signature", "The signature does not fit this request and app key.")
    key = await services.log_ins.authenticate_app(app_key, secret)
    if abs(wall_clock_ms() / 1000 - int(timestamp)) > WINDOW_S:
        raise Refused("request_expired")
    if not services.signatures.is_new(f"{app_key}:{given}", trio.current_time()):
        raise Refused("request_replayed")
    note_user(request, key.app_id, "")
    return key, given
