"""What FCM's HTTP v1 API checks of one message, as pure functions.

Source: Firebase, "REST Resource: projects.messages", "ErrorCode", and the discovery document of fcm v1.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from server.sandbox.google_errors import GoogleRefusal, bad_field, bad_message, fcm_error

MAX_PAYLOAD_BYTES: Final = 4_096
MAX_TOPIC_PAYLOAD_BYTES: Final = 2_048
MAX_TTL_S: Final = 2_419_200  # four weeks
_TOKEN: Final = re.compile(r"[A-Za-z0-9_:.\-]+\Z")
_TOPIC: Final = re.compile(r"[a-zA-Z0-9\-_.~%]+\Z")
_DURATION: Final = re.compile(r"(-?[0-9]+)(?:\.[0-9]{1,9})?s\Z")
_RESERVED: Final = re.compile(r"(?:from|message_type|google.*|gcm.*)\Z", re.DOTALL)
_TARGETS: Final = ("token", "topic", "condition")

# Fields of each object; a value names the object or kind that the field holds.
_STRING, _BOOL, _INT, _ANY, _MAP, _DURATION_KIND = "string", "bool", "int", "any", "map", "duration"
_STRINGS, _PRIORITY = "strings", "priority"
_SHAPES: Final[Mapping[str, Mapping[str, str]]] = {
    "request": {"message": "message", "validate_only": _BOOL},
    "message": {
        "name": _STRING,
        "data": _MAP,
        "notification": "notification",
        "android": "android",
        "webpush": "webpush",
        "apns": "apns",
        "fcm_options": "fcm_options",
        "token": _STRING,
        "topic": _STRING,
        "condition": _STRING,
    },
    "notification": {"title": _STRING, "body": _STRING, "image": _STRING},
    "fcm_options": {"analytics_label": _STRING, "image": _STRING, "link": _STRING},
    "android": {
        "collapse_key": _STRING,
        "priority": _PRIORITY,
        "ttl": _DURATION_KIND,
        "restricted_package_name": _STRING,
        "data": _MAP,
        "notification": "android_notification",
        "fcm_options": "fcm_options",
        "direct_boot_ok": _BOOL,
        "bandwidth_constrained_ok": _BOOL,
        "restricted_satellite_ok": _BOOL,
    },
    "android_notification": {
        **dict.fromkeys(
            ("title", "body", "icon", "color", "sound", "tag", "click_action", "body_loc_key"), _STRING
        ),
        **dict.fromkeys(("title_loc_key", "channel_id", "ticker", "image", "event_time"), _STRING),
        **dict.fromkeys(("notification_priority", "visibility", "proxy"), _STRING),
        **dict.fromkeys(("body_loc_args", "title_loc_args", "vibrate_timings"), _STRINGS),
        **dict.fromkeys(("sticky", "local_only", "default_sound"), _BOOL),
        **dict.fromkeys(("default_vibrate_timings", "default_light_settings"), _BOOL),
        "bypass_proxy_notification": _BOOL,
        "notification_count": _INT,
        "light_settings": _ANY,
    },
    "webpush": {"headers": _MAP, "data": _MAP, "notification": _ANY, "fcm_options": "fcm_options"},
    "apns": {
        "headers": _MAP,
        "payload": _ANY,
        "fcm_options": "fcm_options",
        "live_activity_token": _STRING,
    },
}
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])([A-Z])")


class FcmMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is well-formed. `address`: its token, `/topics/…`, or its condition."""

    address: str
    is_token: bool
    is_dry_run: bool
    message: dict[str, Any]


def read_message(body: bytes) -> FcmMessage:
    """Check a request's JSON. Raises: GoogleRefusal."""
    try:
        request = msgspec.json.decode(body)
    except msgspec.DecodeError as exc:
        raise bad_field("", f"Invalid JSON payload received. {exc}") from None
    if not isinstance(request, dict):
        raise bad_field("", "Invalid JSON payload received. Expected an object.")
    request = _read_object("request", "", request)
    message = request.get("message")
    if message is None:
        raise bad_field("message", "Message is required.")
    targets = [name for name in _TARGETS if message.get(name)]
    if len(targets) != 1:
        word = "Recipient of the message is not set." if not targets else "Exactly one target is allowed."
        raise bad_message("message", word)
    address, is_token = str(message[targets[0]]), targets[0] == "token"
    if is_token and not _TOKEN.match(address):
        raise GoogleRefusal(fcm_error("INVALID_ARGUMENT"))
    if targets[0] == "topic":
        if not _TOPIC.match(address.removeprefix("/topics/")):
            raise bad_message("message.topic", "Malformed topic name")
        address = "/topics/" + address.removeprefix("/topics/")
    _check_data(message)
    _check_size(message, is_topic=not is_token)
    return FcmMessage(
        address=address,
        is_token=is_token,
        is_dry_run=request.get("validate_only") is True,
        message=message,
    )


def _read_object(shape: str, path: str, value: dict[str, Any]) -> dict[str, Any]:
    """Check names and kinds of an object's fields; returns it with snake_case names."""
    fields = _SHAPES[shape]
    found: dict[str, Any] = {}
    for raw_name, one in value.items():
        name = _CAMEL.sub(lambda match: "_" + match[1].lower(), raw_name)
        here = f"{path}.{name}" if path else name
        kind = fields.get(name)
        if kind is None:
            at = f" at '{path}'" if path else ""
            raise bad_field(
                path, f'Invalid JSON payload received. Unknown name "{raw_name}"{at}: Cannot find field.'
            )
        if one is not None:
            found[name] = _read_value(kind, here, one)
    return found


def _read_value(kind: str, path: str, value: Any) -> Any:
    if kind in _SHAPES:
        if not isinstance(value, dict):
            raise _wrong_kind(path, "TYPE_MESSAGE", value)
        return _read_object(kind, path, value)
    if kind in {_STRING, _DURATION_KIND, _PRIORITY} and not isinstance(value, str):
        raise _wrong_kind(path, "TYPE_STRING", value)
    if kind == _BOOL and not isinstance(value, bool):
        raise _wrong_kind(path, "TYPE_BOOL", value)
    if kind == _INT and (isinstance(value, bool) or not isinstance(value, int)):
        raise _wrong_kind(path, "TYPE_INT32", value)
    if kind == _MAP:
        if not isinstance(value, dict):
            raise _wrong_kind(path, "TYPE_MESSAGE", value)
        for index, one in enumerate(value.values()):
            if not isinstance(one, str):
                raise _wrong_kind(f"{path}[{index}].value", "TYPE_STRING", one)
    if kind == _STRINGS and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise _wrong_kind(path, "TYPE_STRING", value)
    if kind == _DURATION_KIND:
        match = _DURATION.match(value)
        if match is None:
            raise bad_field(path, f"Invalid value at '{path}' (type.googleapis.com/google.protobuf.Duration)")
        if not 0 <= int(match[1]) <= MAX_TTL_S:
            raise bad_message(path, f"Invalid time to live: it is 0 to {MAX_TTL_S} seconds.")
    if kind == _PRIORITY and value.upper() not in {"NORMAL", "HIGH"}:
        raise _wrong_kind(path, "type.googleapis.com/google.firebase.fcm.v1.AndroidMessagePriority", value)
    return value


def _wrong_kind(path: str, kind: str, value: Any) -> GoogleRefusal:
    shown = msgspec.json.encode(value).decode()
    return bad_field(path, f"Invalid value at '{path}' ({kind}), {shown}")


def _check_data(message: Mapping[str, Any]) -> None:
    for path, data in (
        ("message.data", message.get("data")),
        ("message.android.data", message.get("android", {}).get("data")),
    ):
        for key in data or {}:
            if _RESERVED.match(key):
                raise bad_message(f"{path}[{key}]", f"Invalid data payload key: {key}")


def _check_size(message: Mapping[str, Any], *, is_topic: bool) -> None:
    """Sum up what reaches the device: keys and values of data, and the texts of the notification."""
    limit = MAX_TOPIC_PAYLOAD_BYTES if is_topic else MAX_PAYLOAD_BYTES
    size = sum(len(str(key).encode()) + len(str(value).encode()) for key, value in _payload_of(message))
    if size > limit:
        raise bad_message("message", "Android message is too big")
    apns = message.get("apns", {}).get("payload")
    if apns is not None and len(msgspec.json.encode(apns)) > MAX_PAYLOAD_BYTES:
        raise bad_message("message.apns.payload", "APNs payload is too big")


def _payload_of(message: Mapping[str, Any]) -> list[tuple[str, Any]]:
    android = message.get("android", {})
    parts = (
        message.get("data"),
        android.get("data"),
        message.get("notification"),
        android.get("notification"),
    )
    return [pair for part in parts for pair in (part or {}).items()]
