"""What APNs checks of one request, as pure functions. Words and statuses are Apple's.

Source: Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs".
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from server.sandbox.exchange import Request

MAX_PAYLOAD_BYTES: Final = 4_096
MAX_VOIP_PAYLOAD_BYTES: Final = 5_120
MAX_COLLAPSE_ID_BYTES: Final = 64
# What follows the bundle id in the topic of a push type; types that are not here have the bare bundle id.
TOPIC_SUFFIXES: Final[Mapping[str, str]] = {
    "voip": ".voip",
    "complication": ".complication",
    "fileprovider": ".pushkit.fileprovider",
    "location": ".location-query",
    "liveactivity": ".push-type.liveactivity",
    "pushtotalk": ".voip-ptt",
}
_PUSH_TYPES: Final = frozenset({"alert", "background", "mdm", "controls", "widgets", *TOPIC_SUFFIXES})
_PATH: Final = re.compile(r"/3/device/([^/]*)\Z")
_TOKEN: Final = re.compile(r"(?:[0-9a-fA-F]{2}){32,100}\Z")  # 32 bytes today; Apple: do not rely on it
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_STATUSES: Final[Mapping[str, int]] = {
    "ExpiredProviderToken": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "Forbidden": 403,
    "BadCertificate": 403,
    "BadCertificateEnvironment": 403,
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "Unregistered": 410,
    "ExpiredToken": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}
_USUAL_REASONS: Final[Mapping[int, str]] = {
    400: "BadDeviceToken",
    403: "InvalidProviderToken",
    404: "BadPath",
    405: "MethodNotAllowed",
    410: "Unregistered",
    413: "PayloadTooLarge",
    429: "TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}


class Refusal(Exception):
    """APNs says no. `timestamp_ms`: with 410, since when the token is dead."""

    def __init__(self, reason: str, *, timestamp_ms: int = 0, status: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status or _STATUSES.get(reason, 400)
        self.timestamp_ms = timestamp_ms


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is well-formed. `bundle_id`: the topic without its push type's suffix."""

    token: str
    topic: str
    bundle_id: str
    push_type: str
    priority: int
    expiration_s: int
    collapse_id: str
    apns_id: str
    payload: dict[str, Any]


def usual_reason(status: int) -> str:
    """Say what Apple most likely means by a status."""
    return _USUAL_REASONS.get(status, "")


def read_token(request: Request) -> str:
    """Check method and path; return the device token as sent. Raises: Refusal."""
    if request.method != "POST":
        raise Refusal("MethodNotAllowed")
    match = _PATH.match(request.path)
    if match is None:
        raise Refusal("BadPath")
    if not match[1]:
        raise Refusal("MissingDeviceToken")
    return match[1]


def read_push(request: Request) -> Push:
    """Check all that can be judged by the request alone, but for its provider token. Raises: Refusal."""
    token = read_token(request)
    headers = request.headers
    if any(name.startswith("apns-") for name in request.repeated):
        raise Refusal("DuplicateHeaders")
    apns_id = headers.get("apns-id", "")
    if "apns-id" in headers and not _UUID.match(apns_id):
        raise Refusal("BadMessageId")
    if not _TOKEN.match(token):
        raise Refusal("BadDeviceToken")
    push_type = headers.get("apns-push-type", "alert")
    if push_type not in _PUSH_TYPES:
        raise Refusal("InvalidPushType")
    topic = headers.get("apns-topic", "")
    bundle_id = read_bundle_id(topic, push_type)
    priority = headers.get("apns-priority", "5" if push_type == "background" else "10")
    if priority not in {"1", "5", "10"} or (push_type == "background" and priority == "10"):
        raise Refusal("BadPriority")
    expiration = headers.get("apns-expiration", "0")
    if not (expiration.isascii() and expiration.isdigit() and len(expiration) <= 12):
        raise Refusal("BadExpirationDate")
    collapse_id = headers.get("apns-collapse-id", "")
    if len(collapse_id.encode()) > MAX_COLLAPSE_ID_BYTES:
        raise Refusal("BadCollapseId")
    return Push(
        token=token.lower(),
        topic=topic,
        bundle_id=bundle_id,
        push_type=push_type,
        priority=int(priority),
        expiration_s=int(expiration),
        collapse_id=collapse_id,
        apns_id=apns_id.lower(),
        payload=read_payload(request.body, push_type),
    )


def read_bundle_id(topic: str, push_type: str) -> str:
    """Take the push type's suffix off a topic. Raises: Refusal."""
    if not topic:
        raise Refusal("MissingTopic")
    suffix = TOPIC_SUFFIXES.get(push_type, "")
    if not topic.endswith(suffix) or topic == suffix:
        raise Refusal("BadTopic")
    return topic.removesuffix(suffix) if suffix else topic


def read_payload(body: bytes, push_type: str) -> dict[str, Any]:
    """Check the payload. Raises: Refusal.

    What Apple answers to a body that is no JSON object is not documented; here it counts as empty.
    """
    limit = MAX_VOIP_PAYLOAD_BYTES if push_type == "voip" else MAX_PAYLOAD_BYTES
    if len(body) > limit:
        raise Refusal("PayloadTooLarge")
    try:
        payload = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        raise Refusal("PayloadEmpty") from None
    if not payload:
        raise Refusal("PayloadEmpty")
    return payload
