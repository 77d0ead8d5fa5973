"""Who asks in an app's name: by Basic, by bearer, or by a signed request that cannot be replayed.

A signature is made of the app's secret and of all that the request asks for:
HMAC-SHA256(secret, "TIMESTAMP\\nNONCE\\nMETHOD\\nPATH\\nSHA256(body)"), in hex behind `v1=`. It holds within
five minutes of its timestamp, and once: every node of the cluster refuses it from then on, restarts or not
(server/http/signatures.py).

POST /v1/notifications alone stores no row for that, as it is what an app asks most. What makes it safe to
repeat is its idempotency key: one in the body is signed, so that a replay has the same; without any the
signature is the key. So where this node does not know it any more, a replay is answered with what the first
one did, and sends nothing. A key in a header is not signed: such a request has a row like all others.
"""

import hmac
from functools import partial
from typing import Final

import trio

from protocol.errors import ProtocolError, Refused
from protocol.records import AppKey
from server.http.context import AnyRequest, app_key_of, bearer_token, note_user, services_of
from server.http.signatures import WINDOW_S, signature_of, spend

SIGNED: Final = "X-Hubbub-Signature"
SIGNED_BODY_BYTES: Final = 8 * 1024 * 1024  # some 100,000 lines of an import
BY_KEY: Final = "is_once_by_key"  # opt of a handler that sees to repetitions by itself
_HASHED_AT_ONCE: Final = 256 * 1024  # bytes: a millisecond at most; more is hashed beside the event loop
_APP: Final = "hubbub_app"  # in the scope: who was found to ask

APP_AUTH: Final[list[dict[str, list[str]]]] = [{"app_key": []}, {"app_bearer": []}, {"app_signature": []}]


async def app_of(request: AnyRequest) -> tuple[AppKey, str]:
    """The app that asks, and the signature of a signed request ("" for others). Found once for a request.

    Raises: Refused(unauthenticated, bad_signature, request_expired, request_replayed),
    ProtocolError(frame_too_large).
    """
    found: tuple[AppKey, str] | None = request.scope.get(_APP)  # type: ignore[assignment]
    if found is None:
        found = await _app_of(request)
        request.scope[_APP] = found  # type: ignore[typeddict-unknown-key]
    return found


async def _app_of(request: AnyRequest) -> tuple[AppKey, str]:
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
    """Look at what costs nothing first: a body is read only of who names a working key, in time.

    App keys are no secrets (each token that a backend signs names one), so these bodies have a limit of their
    own: nobody without the secret makes the node hold more.
    """
    services = services_of(request)
    headers = request.headers
    app_key = headers.get("x-hubbub-key", "")
    timestamp = headers.get("x-hubbub-timestamp", "")
    nonce = headers.get("x-hubbub-nonce", "")
    given = headers[SIGNED.lower()]
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 12 or len(nonce) > 100:
        raise Refused("bad_signature", "X-Hubbub-Timestamp is Unix time in seconds, X-Hubbub-Nonce text.")
    if abs(services.now_ms() / 1000 - int(timestamp)) > WINDOW_S:
        raise Refused("request_expired")
    secret = services.log_ins.secret_of(app_key)
    key = await services.log_ins.authenticate_app(app_key, secret)
    _check_size(request)
    path = request.scope["path"]
    query = request.scope.get("query_string", b"")
    if query:
        path = f"{path}?{query.decode('latin-1')}"
    body = await request.body()
    sign = partial(
        signature_of, secret, timestamp=timestamp, nonce=nonce, method=request.method, path=path, body=body
    )
    wanted = sign() if len(body) <= _HASHED_AT_ONCE else await trio.to_thread.run_sync(sign)
    if not hmac.compare_digest(wanted.encode(), given.encode("utf-8", "replace")):
        raise Refused("bad_signature", "The signature does not fit this request and app key.")
    if not services.signatures.is_new(f"{app_key}:{given}", trio.current_time()):
        raise Refused("request_replayed")
    if not request.route_handler.opt.get(BY_KEY):
        await spend(services.store, app_key, given, services.now_ms())
    note_user(request, key.app_id, "")
    return key, given


def _check_size(request: AnyRequest) -> None:
    """Raises: ProtocolError(frame_too_large), where a signed body is, or may become, too large."""
    limit = request.route_handler.resolve_request_max_body_size()
    if limit is not None and limit <= SIGNED_BODY_BYTES:
        return  # the framework counts
    size = request.content_length
    if size is None or size > SIGNED_BODY_BYTES:
        raise ProtocolError(
            "frame_too_large",
            f"A signed request names its Content-Length, of {SIGNED_BODY_BYTES} bytes at most: send the file"
            " in parts, or with the secret.",
        )
