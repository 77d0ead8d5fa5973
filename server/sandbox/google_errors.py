"""Errors in the shape of Google's APIs: a status, and `details` that are told apart by their `@type`."""

from collections.abc import Mapping
from typing import Any, Final

from server.sandbox.exchange import Answer, Headers, json_answer

_FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"

# errorCode of FCM: HTTP status, status word, message (firebase.google.com, "ErrorCode")
_FCM_CODES: Final[Mapping[str, tuple[int, str, str]]] = {
    "UNREGISTERED": (404, "NOT_FOUND", "Requested entity was not found."),
    "INVALID_ARGUMENT": (
        400,
        "INVALID_ARGUMENT",
        "The registration token is not a valid FCM registration token",
    ),
    "SENDER_ID_MISMATCH": (403, "PERMISSION_DENIED", "SenderId mismatch"),
    "QUOTA_EXCEEDED": (429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Messages'."),
    "UNAVAILABLE": (503, "UNAVAILABLE", "The service is currently unavailable."),
    "INTERNAL": (500, "INTERNAL", "Internal error encountered."),
    "THIRD_PARTY_AUTH_ERROR": (
        401,
        "UNAUTHENTICATED",
        "Request is missing required authentication credential for APNs or web push.",
    ),
}
_USUAL_CODES: Final[Mapping[int, str]] = {row[0]: code for code, row in _FCM_CODES.items()}


class GoogleRefusal(Exception):
    """Google says no; `answer` is how."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def fcm_error(code: str, *, status: int = 0, headers: Headers | None = None) -> Answer:
    """Answer with one of FCM's own error codes; a `status` of 0 is the code's usual one."""
    usual_status, word, message = _FCM_CODES.get(code, (status or 400, code, code))
    details: list[dict[str, Any]] = [{"@type": _FCM_ERROR, "errorCode": code}]
    return _error(status or usual_status, word, message, details, headers)


def fcm_fault(status: int, code: str, headers: Headers) -> Answer:
    """Answer as a fault says. No code: the status' usual one; a status that FCM has no code for goes bare."""
    code = code or _USUAL_CODES.get(status, "")
    if not code:
        return _error(status, "UNKNOWN", "Injected by the sandbox.", [], headers)
    return fcm_error(code, status=status, headers=headers)


def bad_field(field: str, description: str) -> GoogleRefusal:
    """Refuse a field: 400 with BadRequest, which is how a sender tells it from a bad token."""
    violation = {"field": field, "description": description}
    return GoogleRefusal(
        _error(
            400,
            "INVALID_ARGUMENT",
            description,
            [{"@type": _BAD_REQUEST, "fieldViolations": [violation]}],
        )
    )


def bad_message(field: str, description: str) -> GoogleRefusal:
    """Refuse what FCM itself, not Google's JSON reader, finds wrong: FcmError and BadRequest together."""
    details: list[dict[str, Any]] = [
        {"@type": _FCM_ERROR, "errorCode": "INVALID_ARGUMENT"},
        {"@type": _BAD_REQUEST, "fieldViolations": [{"field": field, "description": description}]},
    ]
    return GoogleRefusal(_error(400, "INVALID_ARGUMENT", description, details))


def unauthenticated() -> GoogleRefusal:
    """Refuse a missing, unknown or expired access token."""
    message = "Request had invalid authentication credentials. Expected OAuth 2 access token."
    answer = _error(
        401,
        "UNAUTHENTICATED",
        message,
        [{"@type": _ERROR_INFO, "reason": "ACCESS_TOKEN_EXPIRED", "domain": "googleapis.com"}],
        [("www-authenticate", 'Bearer realm="https://accounts.google.com/", error="invalid_token"')],
    )
    return GoogleRefusal(answer)


def permission_denied(project_id: str) -> GoogleRefusal:
    """Refuse another project's account."""
    message = (
        "Permission 'cloudmessaging.messages.create' denied on resource "
        f"'//cloudresourcemanager.googleapis.com/projects/{project_id}' (or it may not exist)."
    )
    details: list[dict[str, Any]] = [
        {
            "@type": _ERROR_INFO,
            "reason": "IAM_PERMISSION_DENIED",
            "domain": "cloudresourcemanager.googleapis.com",
        }
    ]
    return GoogleRefusal(_error(403, "PERMISSION_DENIED", message, details))


def not_found() -> GoogleRefusal:
    """Refuse a path or method that is none of the API's."""
    return GoogleRefusal(_error(404, "NOT_FOUND", "Requested entity was not found.", []))


def _error(
    status: int, word: str, message: str, details: list[dict[str, Any]], headers: Headers | None = None
) -> Answer:
    error: dict[str, Any] = {"code": status, "message": message, "status": word}
    if details:
        error["details"] = details
    return json_answer(status, {"error": error}, headers)
