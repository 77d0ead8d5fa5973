"""Reports of SES about mails, which come by SNS: are they ours, and what do they say? Pure.

SES gives a mail an id of its own, which its reply to DATA tells (`provider_id`). It reports the Message-ID
that we gave it, whose left part is the delivery's id, only where its "original headers" are switched on.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from server.providers.status import Consequence, State, StatusUpdate, delivery_id_of

SNS_REPLAY_S: Final = 4_000.0  # SNS repeats for about an hour, as signed the first time
_CLOCK_SKEW_S: Final = 300.0
_SNS_HOST: Final = r"https://sns\.[a-z]{2}(?:-[a-z]+){1,3}-[0-9]\.amazonaws\.com(?:\.cn)?/"
# Subtypes of a transient bounce that say that this mail was refused; the address lives.
_NOT_DELIVERED: Final = frozenset({"MailboxFull", "MessageTooLarge", "ContentRejected", "AttachmentRejected"})
_CERTIFICATE_URL: Final = re.compile(_SNS_HOST + r"SimpleNotificationService-[0-9A-Za-z]{1,64}\.pem")
_SUBSCRIBE_URL: Final = re.compile(_SNS_HOST + r"\?Action=ConfirmSubscription&[!-~]{1,2000}")


class SnsEnvelope(msgspec.Struct, frozen=True, rename="pascal"):
    """A message of Amazon SNS, as posted. `subscribe_url` is to be got once, to confirm a subscription."""

    type: str
    message_id: str
    topic_arn: str
    message: str
    timestamp: str
    signature: str
    signature_version: str = "1"
    signing_cert_url: str = msgspec.field(default="", name="SigningCertURL")
    subscribe_url: str = msgspec.field(default="", name="SubscribeURL")
    subject: str | None = None
    token: str = ""


class _SesRecipient(msgspec.Struct, frozen=True, rename="camel"):
    email_address: str = ""
    status: str = ""
    diagnostic_code: str = ""


class _SesDetail(msgspec.Struct, frozen=True, rename="camel"):
    """The part that is named as the event: bounce, complaint, delivery, open, click, …"""

    bounce_type: str = ""
    bounce_sub_type: str = ""
    bounced_recipients: list[_SesRecipient] = []
    complained_recipients: list[_SesRecipient] = []
    delayed_recipients: list[_SesRecipient] = []
    complaint_feedback_type: str = ""
    recipients: list[str] = []
    delay_type: str = ""
    reason: str = ""
    link: str = ""
    timestamp: str = ""


class _SesCommon(msgspec.Struct, frozen=True, rename="camel"):
    message_id: str = ""


class _SesHeader(msgspec.Struct, frozen=True):
    name: str = ""
    value: str = ""


class _SesMail(msgspec.Struct, frozen=True, rename="camel"):
    message_id: str = ""
    timestamp: str = ""
    destination: list[str] = []
    common_headers: _SesCommon | None = None
    headers: list[_SesHeader] = []


class _SesEvent(msgspec.Struct, frozen=True, rename="camel"):
    event_type: str = ""
    notification_type: str = ""
    mail: _SesMail = _SesMail()
    bounce: _SesDetail | None = None
    complaint: _SesDetail | None = None
    delivery: _SesDetail | None = None
    delivery_delay: _SesDetail | None = None
    reject: _SesDetail | None = None
    open: _SesDetail | None = None
    click: _SesDetail | None = None


def is_sns_certificate_url(url: str) -> bool:
    """Say whether a signing certificate may be got from there: https, and SNS's own host of a region."""
    return _CERTIFICATE_URL.fullmatch(url) is not None


def is_sns_subscribe_url(url: str) -> bool:
    """Say whether confirming a subscription by this address calls SNS and nobody else."""
    return _SUBSCRIBE_URL.fullmatch(url) is not None


def read_sns(body: bytes) -> SnsEnvelope:
    """Decode what SNS posts, unverified. Raises: ValueError."""
    try:
        return msgspec.json.decode(body, type=SnsEnvelope)
    except msgspec.DecodeError as exc:
        raise ValueError("not a message of SNS") from exc


def is_sns_signature(
    envelope: SnsEnvelope,
    certificate_pem: bytes,
    topic_arn: str,
    now_ms: int,
    *,
    max_age_s: float = SNS_REPLAY_S,
) -> bool:
    """Check an SNS message by the certificate got from its `signing_cert_url`, which must be checked before.

    SNS signs for every AWS account, so `topic_arn`, the app's own topic, is as much part of it as the key.
    Version 1 is RSA with SHA-1, version 2 with SHA-256. Source: the SNS guide, "Verifying the signatures".
    """
    if (
        not topic_arn
        or envelope.topic_arn != topic_arn
        or not is_sns_certificate_url(envelope.signing_cert_url)
    ):
        return False
    age_s = (now_ms - _iso_ms(envelope.timestamp)) / 1_000
    if not -_CLOCK_SKEW_S <= age_s <= max_age_s:
        return False
    algorithm: hashes.HashAlgorithm
    if envelope.signature_version == "2":
        algorithm = hashes.SHA256()
    elif envelope.signature_version == "1":
        algorithm = hashes.SHA1()  # its default; a second preimage is what a forger would need
    else:
        return False
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        signature = base64.b64decode(envelope.signature, validate=True)
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm, binascii.Error):
        return False
    now = datetime.fromtimestamp(now_ms / 1_000, UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        return False
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    try:
        key.verify(signature, sns_string(envelope), padding.PKCS1v15(), algorithm)
    except InvalidSignature:
        return False
    return True


def sns_string(envelope: SnsEnvelope) -> bytes:
    """Write what SNS signs: names and values on lines of their own, in the order of their bytes."""
    pairs: list[tuple[str, str]] = [("Message", envelope.message), ("MessageId", envelope.message_id)]
    if envelope.type == "Notification":
        if envelope.subject is not None:
            pairs.append(("Subject", envelope.subject))
    else:
        pairs.append(("SubscribeURL", envelope.subscribe_url))
    pairs.append(("Timestamp", envelope.timestamp))
    if envelope.type != "Notification":
        pairs.append(("Token", envelope.token))
    pairs += [("TopicArn", envelope.topic_arn), ("Type", envelope.type)]
    return "".join(f"{name}\n{value}\n" for name, value in pairs).encode()


def names_its_mail(message: str) -> bool:
    """Tell whether an event has the Message-ID of its mail; without "original headers" it has not.

    Raises: ValueError where it is no event.
    """
    try:
        event = msgspec.json.decode(message, type=_SesEvent)
    except msgspec.DecodeError as exc:
        raise ValueError("not an event of SES") from exc
    return bool(_message_id(event.mail))


def _message_id(mail: _SesMail) -> str:
    found = next((header.value for header in mail.headers if header.name.lower() == "message-id"), "")
    if not found and mail.common_headers:
        return mail.common_headers.message_id
    return found


def ses_statuses(message: str) -> list[StatusUpdate]:
    """Read an event of SES, the `message` of an envelope: one update for each recipient that it concerns.

    Raises: ValueError where it is no event.
    """
    try:
        event = msgspec.json.decode(message, type=_SesEvent)
    except msgspec.DecodeError as exc:
        raise ValueError("not an event of SES") from exc
    name = event.event_type or event.notification_type
    if name == "Bounce" and event.bounce:
        # Permanent covers the suppression list too; Transient and Undetermined leave the address alive. A
        # general one of these may be no more than a note that somebody is out of the office.
        state: State = "bounced_soft"
        action: Consequence = ""
        if event.bounce.bounce_type == "Permanent":
            state, action = "bounced_hard", "retire"
        elif event.bounce.bounce_sub_type in _NOT_DELIVERED:
            state = "undelivered"
        return _ses_updates(
            event,
            event.bounce,
            event.bounce.bounced_recipients,
            state,
            action,
            f"{event.bounce.bounce_type}/{event.bounce.bounce_sub_type}",
        )
    if name == "Complaint" and event.complaint:
        feedback = event.complaint.complaint_feedback_type
        if feedback == "not-spam":
            return []
        recipients = event.complaint.complained_recipients
        return _ses_updates(event, event.complaint, recipients, "complained", "suppress", feedback)
    if name == "Delivery" and event.delivery:
        recipients = [_SesRecipient(email_address=address) for address in event.delivery.recipients]
        return _ses_updates(event, event.delivery, recipients, "delivered", "", "")
    everybody = [_SesRecipient(email_address=address) for address in event.mail.destination]
    if name == "DeliveryDelay" and event.delivery_delay:
        delay = event.delivery_delay
        return _ses_updates(event, delay, delay.delayed_recipients, "delayed", "", delay.delay_type)
    if name == "Reject" and event.reject:
        return _ses_updates(event, event.reject, everybody, "failed", "dead_letter", event.reject.reason)
    if name == "Open" and event.open:
        return _ses_updates(event, event.open, everybody, "opened", "", "")
    if name == "Click" and event.click:
        return _ses_updates(event, event.click, everybody, "clicked", "", "")
    if name == "Send":
        return _ses_updates(event, _SesDetail(), everybody, "sent", "", "")
    return []


def _ses_updates(
    event: _SesEvent,
    detail: _SesDetail,
    recipients: Sequence[_SesRecipient],
    state: State,
    action: Consequence,
    code: str,
) -> list[StatusUpdate]:
    mail = event.mail
    message_id = _message_id(mail)
    return [
        StatusUpdate(
            provider="ses",
            state=state,
            at_ms=max(_iso_ms(detail.timestamp or mail.timestamp), 0),
            provider_id=mail.message_id,
            delivery_id=delivery_id_of(message_id),
            address=recipient.email_address,
            code=recipient.status or code,
            detail=(recipient.diagnostic_code or code)[:300],
            url=detail.link,
            action=action,
        )
        for recipient in recipients
    ]


def _iso_ms(stamp: str) -> int:
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        return -(1 << 53)  # so that its age is beyond any window
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000)
