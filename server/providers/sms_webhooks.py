"""Delivery reports of the SMS providers: is it theirs, and what does it say? Pure."""

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from server.providers.status import Consequence, State, StatusUpdate

Form = Iterable[tuple[str, str]]
"""A decoded form, in any order; a name may come twice."""

VONAGE_REPLAY_S: Final = 86_400.0  # Vonage repeats a receipt for 24 h, as signed the first time
_CLOCK_SKEW_S: Final = 300.0

# Twilio's MessageStatus (its OpenAPI, api_v2010: message_enum_status).
_TWILIO_STATES: Final[dict[str, State]] = {
    "accepted": "accepted",
    "scheduled": "accepted",
    "queued": "queued",
    "sending": "sending",
    "sent": "sent",
    "partially_delivered": "sent",
    "failed": "failed",
    "canceled": "failed",
    "undelivered": "undelivered",
    "delivered": "delivered",
    "read": "read",
}
# What to do once a message that was accepted did not arrive, by ErrorCode (twilio.com/docs/api/errors).
_TWILIO_CONSEQUENCES: Final[dict[str, Consequence]] = {
    "21610": "suppress",  # STOP
    "21211": "retire",
    "21614": "retire",
    "30002": "break",  # the account is suspended
    "30001": "failover",  # the queue is full
    "30003": "failover",  # the phone cannot be reached: off, or roaming where this carrier does not go
    "30004": "suppress",  # blocked by the recipient, or by the carrier for them
    "30005": "failover",  # unknown phone, which other carriers may know
    "30006": "failover",  # a landline, or a carrier that cannot be reached
    "30007": "failover",  # filtered as spam, by this sender's reputation
    "30008": "failover",  # unknown
    "30036": "expired",
}

# Vonage's receipt, `status` and `err-code` (its article 204014733 and the SMS guide).
_VONAGE_STATES: Final[dict[str, State]] = {
    "accepted": "accepted",
    "buffered": "delayed",
    "delivered": "delivered",
    "expired": "undelivered",
    "failed": "undelivered",
    "rejected": "failed",
    "unknown": "sent",  # it says nothing, so it must not start a second sending
}
_VONAGE_CONSEQUENCES: Final[dict[str, Consequence]] = {
    "3": "retire",  # absent for good
    "4": "retire",  # barred, until the user asks the carrier
    "9": "suppress",  # the user does not want it
    "10": "dead_letter",
    "13": "dead_letter",  # by the user's age
    "14": "suppress",  # blocked at the user's carrier
}
_VONAGE_HASHES: Final = {40: hashlib.sha1, 64: hashlib.sha256, 128: hashlib.sha512}


def is_twilio_signature(auth_token: str, url: str, form: Form, signature: str) -> bool:
    """Check X-Twilio-Signature: HMAC-SHA1 over the URL and the sorted fields, in constant time.

    `url` is the address as Twilio called it, with its query. Whether it names the port of its scheme differs
    between Twilio's products, so both ways count. Equal pairs of name and value are signed once.
    Source: twilio.com/docs/usage/security#validating-requests.
    """
    fields = "".join(name + value for name, value in sorted(set(form)))
    is_valid = False
    for candidate in _with_and_without_port(url):
        digest = hmac.digest(auth_token.encode(), (candidate + fields).encode(), "sha1")
        expected = base64.b64encode(digest)
        is_valid |= hmac.compare_digest(expected, signature.encode("utf-8", "replace"))
    return is_valid and bool(auth_token)


def twilio_status(form: Mapping[str, str]) -> StatusUpdate | None:
    """Read a status callback; None where it is none, or of a status that we do not know."""
    provider_id = form.get("MessageSid") or form.get("SmsSid") or ""
    state = _TWILIO_STATES.get(form.get("MessageStatus") or form.get("SmsStatus") or "")
    if state is None or not provider_id:
        return None
    code = form.get("ErrorCode", "")
    is_lost = state in ("failed", "undelivered")
    return StatusUpdate(
        provider="twilio",
        state=state,
        provider_id=provider_id,
        address=form.get("To", ""),
        code=code,
        detail=form.get("ErrorMessage", "")[:300],
        action=_TWILIO_CONSEQUENCES.get(code, "dead_letter") if is_lost else "",
    )


def is_vonage_signature(
    signature_secret: str, form: Mapping[str, str], now_ms: int, *, max_age_s: float = VONAGE_REPLAY_S
) -> bool:
    """Check `sig` of a signed receipt: HMAC over its sorted fields, and its age by `timestamp`.

    SHA-1, SHA-256 or SHA-512, told by the length. The account's older choices, MD5 with the secret behind and
    HMAC-MD5, are refused: choose SHA-256 in its settings. Source: Vonage's guide on signed messages.
    """
    signature = form.get("sig", "").lower()
    chosen = _VONAGE_HASHES.get(len(signature))
    if chosen is None or not signature_secret:
        return False
    signed = "".join(
        f"&{name}={form[name].replace('&', '_').replace('=', '_')}" for name in sorted(form) if name != "sig"
    )
    expected = hmac.new(signature_secret.encode(), signed.encode(), chosen).hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
        return False
    stamp = form.get("timestamp", "")
    if not (stamp.isascii() and stamp.isdigit()):
        return False
    age_s = now_ms / 1_000 - int(stamp[:12])
    return -_CLOCK_SKEW_S <= age_s <= max_age_s


def vonage_status(form: Mapping[str, str]) -> StatusUpdate | None:
    """Read a delivery receipt; None where it is none, or of a status that we do not know."""
    provider_id = form.get("messageId", "")
    state = _VONAGE_STATES.get(form.get("status", "").lower())
    if state is None or not provider_id:
        return None
    code = form.get("err-code", "")
    action: Consequence = ""
    if form["status"].lower() == "expired":
        action = "expired"
    elif state in ("failed", "undelivered"):
        action = _VONAGE_CONSEQUENCES.get(code, "failover")
    address = form.get("msisdn", "")
    return StatusUpdate(
        provider="vonage",
        state=state,
        at_ms=_stamp_ms(form.get("message-timestamp", "")),
        provider_id=provider_id,
        delivery_id=form.get("client-ref", ""),
        address=f"+{address}" if address else "",
        code=code,
        action=action,
    )


def _with_and_without_port(url: str) -> list[str]:
    parts = urlsplit(url)
    standard = {"https": 443, "http": 80}.get(parts.scheme)
    try:
        port = parts.port
    except ValueError:
        return [url]
    if port == standard and port is not None:
        return [url, urlunsplit(parts._replace(netloc=parts.netloc.rpartition(":")[0]))]
    if port is None and standard is not None:
        return [url, urlunsplit(parts._replace(netloc=f"{parts.netloc}:{standard}"))]
    return [url]


def _stamp_ms(stamp: str) -> int:
    try:
        moment = datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return 0
    return int(moment.timestamp() * 1_000)
