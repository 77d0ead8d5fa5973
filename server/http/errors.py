"""Turn every failure of a request into one JSON answer: code, message, and when to come again."""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from protocol import replies
from protocol.errors import (
    PROTOCOL_CODES,
    REFUSED_CODES,
    HubbubError,
    ProtocolError,
    Refused,
    Unavailable,
)
from protocol.http import ErrorBody

log: structlog.stdlib.BoundLogger = structlog.get_logger("http")

SHALLOW_FRAMES: Final = 200  # the framework's and ours; Python ends at 1,000

# Where the kind of error alone does not say the status.
_STATUS: Final[dict[str, int]] = {
    "frame_too_large": 413,
    "unauthenticated": 401,
    "bad_credentials": 401,
    "not_found": 404,
    "user_not_found": 404,
    "conversation_not_found": 404,
    "message_not_found": 404,
    "file_not_found": 404,
    "invite_not_found": 404,
    "contact_not_found": 404,
    "post_not_found": 404,
    "comment_not_found": 404,
    "follow_not_found": 404,
    "campaign_not_found": 404,
    "slot_not_found": 404,
    "type_not_found": 404,
    "template_not_found": 404,
    "group_not_found": 404,
    "notification_not_found": 404,
    "request_not_found": 404,
    "device_not_found": 404,
    "provider_not_found": 404,
    "experiment_not_found": 404,
    "import_not_found": 404,
    "bad_link": 404,
    "bad_signature": 401,
    "request_expired": 401,
    "request_replayed": 409,
    "method_not_allowed": 405,
    "name_taken": 409,
    "already_exists": 409,
    "payload_conflict": 409,
    "group_full": 409,
    "message_deleted": 409,
    "owner_must_stay": 409,
    "too_many_follows": 409,
    "too_many_muted": 409,
    "not_repostable": 409,
    "not_enabled": 409,
    "file_too_large": 413,
    "text_too_long": 413,
    "bad_image": 415,
    "bad_request": 400,
    "bad_cursor": 400,
    "weak_password": 400,
    "text_empty": 400,
    "too_many_mentions": 400,
    "self_not_allowed": 400,
    "not_a_group": 400,
    "bad_device_token": 400,
    "template_variable_unknown": 400,
    "template_failed": 400,
    "rate_limited": 429,
    "too_many_connections": 429,
    "internal": 500,
}


def status_of(exc: HubbubError) -> int:
    """The HTTP status of an error: by its code where that says more than its kind."""
    status = _STATUS.get(exc.code)
    if status is not None:
        return status
    if isinstance(exc, ProtocolError):
        return 400
    return 403 if isinstance(exc, Refused) else 503


def error_of(reply: replies.Error) -> HubbubError:
    """Make the error again that a reply tells of."""
    if reply.code in PROTOCOL_CODES:
        return ProtocolError(reply.code, reply.message)
    if reply.code in REFUSED_CODES:
        return Refused(reply.code, reply.message)
    return Unavailable(reply.code, reply.message, retry_after_s=reply.retry_after_s or 1.0)


def answer(exc: HubbubError) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of the answer to an error."""
    body = ErrorBody(code=exc.code, message=exc.message, retry_after_s=exc.retry_after_s)
    headers = {"cache-control": "no-store"}
    if exc.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(exc.retry_after_s)))
    status = status_of(exc)
    if status == 401:
        headers["www-authenticate"] = "Bearer"  # not Basic: a browser would open its own log-in window
    return status, msgspec.json.encode(body), headers


def _response(exc: HubbubError, more: Mapping[str, str] | None = None) -> Response[bytes]:
    status, body, headers = answer(exc)
    return Response(
        body, status_code=status, headers={**headers, **(more or {})}, media_type="application/json"
    )


def on_hubbub_error(_: Request[Any, Any, Any], exc: HubbubError) -> Response[bytes]:
    """Answer an error of ours."""
    return _response(exc)


def on_http_exception(_: Request[Any, Any, Any], exc: HTTPException) -> Response[bytes]:
    """Answer what the framework refuses: unknown paths and methods, bodies that cannot be read."""
    return _response(_translated(exc), exc.headers if exc.status_code == 405 else None)


def _translated(exc: HTTPException) -> HubbubError:
    if isinstance(exc, ValidationException):
        return ProtocolError("bad_field", _explained(exc))
    if exc.status_code == 404:
        return Refused("not_found", "There is nothing at this address.")
    if exc.status_code == 405:
        return Refused("method_not_allowed")
    if exc.status_code == 413:
        return ProtocolError("frame_too_large", "The body of the request is too large.")
    if "disconnected" in exc.detail:  # only the log will see it
        return Refused("bad_request", "The body of the request did not come.")
    if exc.status_code >= 500:
        log.error("http_request_failed", error=exc.detail)
        return Unavailable("internal")
    return Refused("bad_request", exc.detail)


def _explained(exc: ValidationException) -> str:
    """Name the fields and what is wrong with them; the framework's own sentence names only the address."""
    extra = exc.extra
    parts: list[str] = []
    for item in extra if isinstance(extra, list) else []:
        if isinstance(item, dict):
            key, message = item.get("key", ""), item.get("message", "")
            if message == "'data'":  # all that the framework says where it wanted a body
                return "The body is missing."
            parts.append(f"{key}: {message}" if key and key != "data" else str(message))
    return "; ".join(parts) or exc.detail


def on_exception(_: Request[Any, Any, Any], exc: Exception) -> Response[bytes]:
    """Answer our own bugs without a word about them; the log has the traceback."""
    if isinstance(exc, UnicodeDecodeError) and _is_the_frameworks(exc):
        return _response(ProtocolError("not_utf8", "The body of the request is not valid UTF-8."))
    if isinstance(exc, RecursionError) and _depth(exc) < SHALLOW_FRAMES:
        return _response(Refused("bad_request", "The body of the request is nested too deep."))
    log.error("http_request_crashed", exc_info=exc)
    return _response(Unavailable("internal"))


def _depth(exc: Exception) -> int:
    """How many calls deep it was raised: few in a decoder, which counts its own; many where we recurse."""
    count = 0
    trace = exc.__traceback__
    while trace is not None:
        count += 1
        trace = trace.tb_next
    return count


def _is_the_frameworks(exc: Exception) -> bool:
    """Tell whether the framework raised it: it decodes only what was sent, and lets this error through."""
    module = ""
    trace = exc.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    return module.partition(".")[0] == "litestar"
