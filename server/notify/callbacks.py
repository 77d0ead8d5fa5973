"""What providers tell later, checked and brought into our words. Pure: bytes in, values out."""

from typing import Final
from urllib.parse import parse_qsl

import msgspec

from protocol.errors import ProtocolError, Refused
from protocol.limits import MAX_SAFE_INTEGER
from protocol.provider_configs import SmtpConfig, TwilioConfig, VonageConfig
from server.providers.sendgrid_webhook import is_sendgrid_signature, sendgrid_statuses
from server.providers.sms_webhooks import (
    is_twilio_signature,
    is_vonage_signature,
    twilio_status,
    vonage_status,
)
from server.providers.status import StatusUpdate


class Told(msgspec.Struct, frozen=True):
    """What became of a delivery; or `mark`: what its reader has done with it.

    `provider_ref`: the provider's id of the message, as it was in its answer; "" where one has several.
    """

    state: str = ""
    code: str = ""
    action: str = ""
    mark: str = ""
    provider_ref: str = ""


# What only tells that it is on its way changes nothing.
_STATES: Final = {
    "delivered": "confirmed",
    "read": "confirmed",
    "failed": "refused",
    "undelivered": "refused",
    "bounced_hard": "bounced",
    "unsubscribed": "complained",
    "complained": "complained",
}
_MARKS: Final = {"opened": "opened", "clicked": "clicked"}
_ACTIONS: Final = frozenset({"retire", "suppress", "failover"})


def told_of(update: StatusUpdate) -> Told | None:
    """Bring a report into our words; None: it changes nothing."""
    if update.state in _MARKS:
        return Told(mark=_MARKS[update.state])
    state = _STATES.get(update.state)
    if state is None:
        return None
    action = update.action if update.action in _ACTIONS else ""
    return Told(state=state, code=update.code or update.state, action=action)


def told_by_twilio(config: TwilioConfig, url: str, query: str, body: bytes, signature: str) -> Told | None:
    """Read Twilio's status callback. Raises: Refused(bad_signature)."""
    form = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    if query:
        url = f"{url}?{query}"
    if not is_twilio_signature(config.auth_token or config.secret, url, form, signature):
        raise Refused("bad_signature", "X-Twilio-Signature does not fit this callback.")
    update = twilio_status(dict(form))
    told = None if update is None else told_of(update)
    if update is None or told is None:
        return None
    return msgspec.structs.replace(told, provider_ref=update.provider_id)


def told_by_vonage(config: VonageConfig, query: str, body: bytes, now_ms: int) -> Told | None:
    """Read Vonage's delivery receipt, by GET, form or JSON. Raises: Refused(bad_signature), ProtocolError."""
    form = dict(parse_qsl(query, keep_blank_values=True))
    if body[:1] == b"{":
        try:
            form |= {k: str(v) for k, v in msgspec.json.decode(body, type=dict[str, object]).items()}
        except msgspec.MsgspecError:
            raise ProtocolError("bad_field", "The receipt is no JSON object.") from None
    elif body:
        form |= dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    # Without a secret the receipt rests on its address, which holds a MAC of ours.
    if config.signature_secret and not is_vonage_signature(config.signature_secret, form, now_ms):
        raise Refused("bad_signature", "The receipt's signature does not fit.")
    update = vonage_status(form)  # of one part of the text, each of which has an id of its own
    return None if update is None else told_of(update)


def told_by_sendgrid(
    config: SmtpConfig, body: bytes, signature: str, timestamp: str, now_ms: int
) -> list[tuple[int, int, Told]]:
    """Read SendGrid's events: (notification_id, number, what). Raises: Refused, ProtocolError."""
    if not is_sendgrid_signature(config.webhook_key, body, signature, timestamp, now_ms):
        raise Refused("bad_signature", "The event webhook's signature does not fit.")
    try:
        updates = sendgrid_statuses(body)
    except ValueError:
        raise ProtocolError("bad_field", "That is no batch of events.") from None
    found = []
    for update in updates:
        told = told_of(update)
        place = delivery_place(update.delivery_id)
        if told is not None and place is not None:
            found.append((*place, told))
    return found


def delivery_place(delivery_id: str) -> tuple[int, int] | None:
    """The notification and the number that a delivery's id is made of; None: it is no id of ours."""
    note, _, number = delivery_id.rpartition("-")
    try:
        place = int(note, 16), int(number)
    except ValueError:
        return None
    return place if 0 <= min(place) <= max(place) <= MAX_SAFE_INTEGER else None
