"""Reports of SendGrid about mails: are they SendGrid's, and what do they say? Pure.

It knows a mail by the Message-ID that we gave it, whose left part is the delivery's id.
"""

import base64
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.providers.status import Consequence, State, StatusUpdate, delivery_id_of

SENDGRID_REPLAY_S: Final = 600.0  # each attempt is signed anew, so that only its way counts
_CLOCK_SKEW_S: Final = 300.0

_SENDGRID_STATES: Final[dict[str, tuple[State, Consequence]]] = {
    "processed": ("accepted", ""),
    "deferred": ("delayed", ""),
    "delivered": ("delivered", ""),
    "bounce": ("bounced_hard", "retire"),
    "dropped": ("failed", "dead_letter"),
    "open": ("opened", ""),
    "click": ("clicked", ""),
    "spamreport": ("complained", "suppress"),
    "unsubscribe": ("unsubscribed", "suppress"),
    "group_unsubscribe": ("unsubscribed", "suppress"),
}
# Why SendGrid dropped a mail before it tried (its event reference, "Dropped").
_SENDGRID_DROPS: Final[dict[str, Consequence]] = {
    "Bounced Address": "retire",
    "Invalid": "retire",
    "Unsubscribed Address": "suppress",
    "Spam Reporting Address": "suppress",
}


class _SendGridEvent(msgspec.Struct, frozen=True):
    event: str = ""
    email: str = ""
    timestamp: int = 0
    sg_message_id: str = ""
    smtp_id: str = msgspec.field(default="", name="smtp-id")
    type: str = ""
    reason: str = ""
    status: str = ""
    url: str = ""


def is_sendgrid_signature(
    public_key: str,
    body: bytes,
    signature: str,
    timestamp: str,
    now_ms: int,
    *,
    max_age_s: float = SENDGRID_REPLAY_S,
) -> bool:
    """Check a signed event webhook: ECDSA on P-256 with SHA-256 over timestamp and raw body, and its age.

    `public_key`: DER in base64, as SendGrid shows it; the other two are the X-Twilio-Email-Event-Webhook-…
    headers. Source: SendGrid's page on the signed event webhook.
    """
    if not (timestamp.isascii() and timestamp.isdigit()):
        return False
    age_s = now_ms / 1_000 - int(timestamp[:12])
    if not -_CLOCK_SKEW_S <= age_s <= max_age_s:
        return False
    try:
        key = serialization.load_der_public_key(base64.b64decode(public_key, validate=True))
        raw = base64.b64decode(signature, validate=True)
    except (ValueError, UnsupportedAlgorithm):
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return False
    try:
        key.verify(raw, timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def sendgrid_statuses(body: bytes) -> list[StatusUpdate]:
    """Read a batch of events. Events that we do not know, or cannot read, are left out: the rest counts.

    Raises: ValueError where it is not a JSON array.
    """
    try:
        raw_events = msgspec.json.decode(body, type=list[msgspec.Raw])
    except msgspec.DecodeError as exc:
        raise ValueError("not a batch of SendGrid events") from exc
    updates: list[StatusUpdate] = []
    for raw in raw_events:
        try:
            event = msgspec.json.decode(raw, type=_SendGridEvent)
        except msgspec.DecodeError:
            continue
        if event.event in _SENDGRID_STATES:
            updates.append(_sendgrid_status(event))
    return updates


def _sendgrid_status(event: _SendGridEvent) -> StatusUpdate:
    state, action = _SENDGRID_STATES[event.event]
    if event.event == "bounce" and event.type == "blocked":  # the mail was refused, not the address
        state, action = "undelivered", ""
    if event.event == "dropped":
        action = _SENDGRID_DROPS.get(event.reason, "dead_letter")
    return StatusUpdate(
        provider="sendgrid",
        state=state,
        at_ms=event.timestamp * 1_000,
        provider_id=event.sg_message_id.partition(".")[0],  # as the reply to DATA named it
        delivery_id=delivery_id_of(event.smtp_id),
        address=event.email,
        code=event.status or event.type,
        detail=event.reason[:300],
        url=event.url,
        action=action,
    )
