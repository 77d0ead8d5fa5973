"""Only a provider's own reports count, and what they say moves a delivery on in one direction."""

import base64
import datetime
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from server.providers.ses_webhook import sns_string
from server.providers.status import ORDER, State
from server.providers.webhooks import (
    is_news,
    is_sendgrid_signature,
    is_sns_certificate_url,
    is_sns_signature,
    is_sns_subscribe_url,
    is_twilio_signature,
    is_vonage_signature,
    later,
    read_sns,
    sendgrid_statuses,
    ses_statuses,
    twilio_status,
    vonage_status,
)
from tests.providers.outgoing import NOW_MS

TWILIO_URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
TWILIO_FORM = {
    "CallSid": "CA1234567890ABCDE",
    "Caller": "+14158675309",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
}
TWILIO_SIGNATURE = "RSOYDt4T1cUTdK1PDd93/VVr8B8="
TOPIC = "arn:aws:sns:eu-west-1:123456789012:ses-events"
CERTIFICATE_URL = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a1b2c.pem"


# --- the order of states ---------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from(ORDER), min_size=1).flatmap(lambda x: st.tuples(st.just(x), st.permutations(x)))
)
def test_order_and_repetition_of_reports_do_not_matter(reports: tuple[list[State], list[State]]) -> None:
    """Callbacks come late, twice and out of order."""
    one, other = reports
    state: State = "accepted"
    mirrored: State = "accepted"
    for report in one:
        state = later(state, report)
    for report in other + other:
        mirrored = later(report, mirrored)
    assert state == mirrored
    assert not any(is_news(state, report) for report in one)


@pytest.mark.parametrize(
    ("known", "reported", "news"),
    [
        ("accepted", "queued", True),
        ("queued", "sending", True),
        ("sending", "sent", True),
        ("sent", "delivered", True),
        ("sent", "undelivered", True),
        ("sent", "failed", True),
        ("delivered", "sent", False),
        ("delivered", "delivered", False),
        ("delivered", "undelivered", False),
        ("delivered", "read", True),
        ("delivered", "bounced_soft", False),
        ("delivered", "bounced_hard", True),
        ("opened", "delivered", False),
        ("clicked", "complained", True),
    ],
)
def test_states_move_one_way(known: State, reported: State, news: bool) -> None:
    """A late "sent" must not undo "delivered"."""
    assert is_news(known, reported) is news


# --- Twilio and Vonage -----------------------------------------------------------------------------------


def test_twilio_signs_url_and_sorted_fields() -> None:
    """Twilio's published example; any change breaks it, and so does an empty token."""
    form = list(TWILIO_FORM.items())
    assert is_twilio_signature("12345", TWILIO_URL, form, TWILIO_SIGNATURE)
    assert is_twilio_signature("12345", TWILIO_URL, reversed(form), TWILIO_SIGNATURE)
    assert not is_twilio_signature("12346", TWILIO_URL, form, TWILIO_SIGNATURE)
    assert not is_twilio_signature("12345", TWILIO_URL + "&baz=3", form, TWILIO_SIGNATURE)
    assert not is_twilio_signature("12345", TWILIO_URL, [*form, ("Extra", "")], TWILIO_SIGNATURE)
    assert not is_twilio_signature("12345", TWILIO_URL, form[1:], TWILIO_SIGNATURE)
    for forged in ("", "invalid ж", TWILIO_SIGNATURE.lower()):
        assert not is_twilio_signature("12345", TWILIO_URL, form, forged)


def test_an_empty_token_signs_nothing() -> None:
    """Anyone could sign with it."""
    import hashlib
    import hmac

    forged = base64.b64encode(hmac.digest(b"", b"https://a/", hashlib.sha1)).decode()
    assert not is_twilio_signature("", "https://a/", [], forged)


def test_twilio_signs_doubled_fields_once() -> None:
    """Values of one name are sorted, and equal ones count once (the vector of Twilio's own libraries)."""
    form = [
        ("Sid", "CA123"),
        ("SidAccount", "AC123"),
        ("Digits", "5678"),
        ("Digits", "1234"),
        ("Digits", "1234"),
    ]
    assert is_twilio_signature("12345", TWILIO_URL, form, "IK+Dwps556ElfBT0I3Rgjkr1wJU=")


def test_twilio_may_or_may_not_sign_the_port() -> None:
    """Whether it signs the standard port differs between its products; another port is another address."""
    form = TWILIO_FORM.items()
    assert is_twilio_signature("12345", TWILIO_URL.replace(".com", ".com:443"), form, TWILIO_SIGNATURE)
    assert not is_twilio_signature("12345", TWILIO_URL.replace(".com", ".com:8443"), form, TWILIO_SIGNATURE)


@pytest.mark.parametrize(
    ("status", "code", "state", "action"),
    [
        ("accepted", "", "accepted", ""),
        ("queued", "", "queued", ""),
        ("sending", "", "sending", ""),
        ("sent", "", "sent", ""),
        ("delivered", "", "delivered", ""),
        ("read", "", "read", ""),
        ("undelivered", "30003", "undelivered", "failover"),
        ("undelivered", "30005", "undelivered", "failover"),
        ("undelivered", "30006", "undelivered", "failover"),
        ("undelivered", "30007", "undelivered", "failover"),
        ("undelivered", "30008", "undelivered", "failover"),
        ("failed", "30001", "failed", "failover"),
        ("undelivered", "30004", "undelivered", "suppress"),
        ("failed", "21610", "failed", "suppress"),
        ("failed", "30036", "failed", "expired"),
        ("failed", "99999", "failed", "dead_letter"),
        ("delivered", "30008", "delivered", ""),
    ],
)
def test_twilio_reports(status: str, code: str, state: str, action: str) -> None:
    """What was lost on the way goes to the second provider, once, where that can help."""
    update = twilio_status({"MessageSid": "SM1", "MessageStatus": status, "ErrorCode": code, "To": "+1"})
    assert update is not None
    assert (update.state, update.action, update.provider_id, update.code) == (state, action, "SM1", code)


def test_what_is_no_report_is_left() -> None:
    """Incoming messages come to the same address."""
    assert twilio_status({"MessageSid": "SM1", "SmsStatus": "received"}) is None
    assert twilio_status({"MessageStatus": "sent"}) is None
    assert vonage_status({"messageId": "1"}) is None
    assert vonage_status({"status": "delivered"}) is None


# Of Vonage's own Python SDK (its tests), key "secret".
VONAGE_SHA256 = "a321e824b9b816be7c3f28859a31749a098713d39f613c80d455bbaffae1cd24"


def test_vonage_signs_sorted_fields() -> None:
    """A published vector; any change, age or an older kind of signature ends it."""
    form = {"a": "1", "b": "2", "timestamp": "1461605396", "sig": VONAGE_SHA256}
    now_ms = 1_461_605_396_000
    assert is_vonage_signature("secret", form, now_ms)
    assert is_vonage_signature("secret", {**form, "sig": VONAGE_SHA256.upper()}, now_ms)
    assert not is_vonage_signature("secret", {**form, "a": "2"}, now_ms)
    assert not is_vonage_signature("secret", {**form, "c": ""}, now_ms)
    assert not is_vonage_signature("other", form, now_ms)
    assert not is_vonage_signature("", form, now_ms)
    assert not is_vonage_signature("secret", form, now_ms + 90_000_000)
    assert not is_vonage_signature("secret", form, now_ms - 400_000)
    # MD5 over fields and secret, the account's oldest choice, is right by its own rule, and refused.
    assert not is_vonage_signature("secret", {**form, "sig": "6af838ef94998832dbfc29020b564830"}, now_ms)
    assert not is_vonage_signature("secret", {**form, "sig": ""}, now_ms)


@pytest.mark.parametrize(
    ("status", "code", "state", "action"),
    [
        ("delivered", "0", "delivered", ""),
        ("accepted", "0", "accepted", ""),
        ("buffered", "0", "delayed", ""),
        ("failed", "3", "undelivered", "retire"),
        ("failed", "6", "undelivered", "failover"),
        ("failed", "9", "undelivered", "suppress"),
        ("rejected", "10", "failed", "dead_letter"),
        ("expired", "1", "undelivered", "expired"),
        ("unknown", "1", "sent", ""),
    ],
)
def test_vonage_reports(status: str, code: str, state: str, action: str) -> None:
    """`client-ref` is our delivery's id, so no table of theirs is needed."""
    update = vonage_status(
        {
            "msisdn": "4915112345678",
            "messageId": "0A1",
            "status": status,
            "err-code": code,
            "client-ref": "n42-d7",
            "message-timestamp": "2026-09-21 14:13:20",
        }
    )
    assert update is not None
    assert (update.state, update.action, update.delivery_id) == (state, action, "n42-d7")
    assert (update.address, update.at_ms) == ("+4915112345678", NOW_MS)


# --- SendGrid --------------------------------------------------------------------------------------------


def _public(key: ec.EllipticCurvePrivateKey) -> str:
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(der).decode()


def test_sendgrid_signs_timestamp_and_body() -> None:
    """Its events suppress addresses, so nobody else may send them, and nobody twice."""
    key = ec.generate_private_key(ec.SECP256R1())
    stamp, body = str(NOW_MS // 1_000), b'[{"event":"open"}]\r\n'
    signature = base64.b64encode(key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()
    public = _public(key)
    assert is_sendgrid_signature(public, body, signature, stamp, NOW_MS)
    assert not is_sendgrid_signature(public, body + b" ", signature, stamp, NOW_MS)
    assert not is_sendgrid_signature(public, body, signature, str(NOW_MS // 1_000 + 1), NOW_MS)
    assert not is_sendgrid_signature(public, body, signature, stamp, NOW_MS + 601_000)
    assert not is_sendgrid_signature(public, body, signature, stamp, NOW_MS - 301_000)
    assert not is_sendgrid_signature(public, body, signature, "", NOW_MS)
    assert not is_sendgrid_signature(public, body, "AAAA", stamp, NOW_MS)
    assert not is_sendgrid_signature(public, body, "no base64!", stamp, NOW_MS)
    assert not is_sendgrid_signature("", body, signature, stamp, NOW_MS)
    assert not is_sendgrid_signature(
        _public(ec.generate_private_key(ec.SECP256R1())), body, signature, stamp, NOW_MS
    )
    weak = ec.generate_private_key(ec.SECP384R1())
    other = base64.b64encode(weak.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()
    assert not is_sendgrid_signature(_public(weak), body, other, stamp, NOW_MS)


def test_sendgrid_events() -> None:
    """A batch holds everything; what we cannot read must not hold up the rest."""
    base = {
        "email": "a@example.org",
        "timestamp": NOW_MS // 1_000,
        "smtp-id": "<n42-d7@example.org>",
        "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648",
    }
    events: list[Any] = [
        {**base, "event": "delivered", "response": "250 OK"},
        {**base, "event": "bounce", "type": "bounce", "status": "5.1.1", "reason": "500 unknown"},
        {**base, "event": "bounce", "type": "blocked", "status": "5.7.1"},
        {**base, "event": "deferred", "attempt": "5"},
        {**base, "event": "dropped", "reason": "Unsubscribed Address"},
        {**base, "event": "dropped", "reason": "Bounced Address"},
        {**base, "event": "dropped", "reason": "Spam Content"},
        {**base, "event": "spamreport"},
        {**base, "event": "open", "useragent": "x"},
        {**base, "event": "click", "url": "https://example.org/x"},
        {**base, "event": "unsubscribe"},
        {**base, "event": "account_status_change"},
        {**base, "event": "open", "email": None},
        7,
    ]
    updates = sendgrid_statuses(json.dumps(events).encode())
    assert [(update.state, update.action) for update in updates] == [
        ("delivered", ""),
        ("bounced_hard", "retire"),
        ("undelivered", ""),
        ("delayed", ""),
        ("failed", "suppress"),
        ("failed", "retire"),
        ("failed", "dead_letter"),
        ("complained", "suppress"),
        ("opened", ""),
        ("clicked", ""),
        ("unsubscribed", "suppress"),
    ]
    assert {update.delivery_id for update in updates} == {"n42-d7"}
    assert {update.provider_id for update in updates} == {"14c5d75ce93"}
    assert {update.at_ms for update in updates} == {NOW_MS}
    assert updates[9].url == "https://example.org/x"
    with pytest.raises(ValueError):
        sendgrid_statuses(b"{}")


# --- SES by SNS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


def _certificate(key: rsa.RSAPrivateKey, *, days: int = 365) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    begin = datetime.datetime.fromtimestamp(NOW_MS / 1_000, datetime.UTC) - datetime.timedelta(days=30)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _envelope(**changes: str) -> dict[str, str]:
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Subject": "Amazon SES",
        "Message": '{"eventType":"Delivery"}',
        "Timestamp": "2026-09-21T14:13:20.000Z",
        "SignatureVersion": "2",
        "SigningCertURL": CERTIFICATE_URL,
        "Signature": "",
        **changes,
    }


def _signed(key: rsa.RSAPrivateKey, envelope: dict[str, str], names: list[str]) -> bytes:
    """Sign as the guide says, by the names in its list and not by our own code."""
    text = "".join(f"{name}\n{envelope[name]}\n" for name in names if name in envelope)
    algorithm = hashes.SHA1() if envelope["SignatureVersion"] == "1" else hashes.SHA256()
    signature = base64.b64encode(key.sign(text.encode(), padding.PKCS1v15(), algorithm)).decode()
    return json.dumps({**envelope, "Signature": signature}).encode()


NOTIFICATION = ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"]
CONFIRMATION = ["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]


@pytest.mark.parametrize("version", ["1", "2"])
def test_sns_signatures(rsa_key: rsa.RSAPrivateKey, version: str) -> None:
    """SNS signs for every account: key, topic, age and the certificate's time must all be right."""
    pem = _certificate(rsa_key)
    body = _signed(rsa_key, _envelope(SignatureVersion=version), NOTIFICATION)
    good = read_sns(body)
    assert is_sns_signature(good, pem, TOPIC, NOW_MS)
    assert not is_sns_signature(good, pem, TOPIC + "x", NOW_MS)
    assert not is_sns_signature(good, pem, "", NOW_MS)
    assert not is_sns_signature(good, pem, TOPIC, NOW_MS + 4_001_000)
    assert not is_sns_signature(good, pem, TOPIC, NOW_MS - 301_000)
    assert not is_sns_signature(good, _certificate(rsa_key, days=20), TOPIC, NOW_MS)
    assert not is_sns_signature(good, b"not a certificate", TOPIC, NOW_MS)
    stranger = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    assert not is_sns_signature(good, _certificate(stranger), TOPIC, NOW_MS)
    for name, value in (
        ("Message", "{}"),
        ("SignatureVersion", "3"),
        ("SigningCertURL", "https://evil.example/x.pem"),
        ("Signature", "!"),
        ("Timestamp", "soon"),
    ):
        changed = read_sns(json.dumps({**json.loads(body), name: value}).encode())
        assert not is_sns_signature(changed, pem, TOPIC, NOW_MS), name


def test_sns_signs_a_notification_without_a_subject(rsa_key: rsa.RSAPrivateKey) -> None:
    """Event publishing sends no Subject, and then it is not signed."""
    envelope = _envelope()
    del envelope["Subject"]
    good = read_sns(_signed(rsa_key, envelope, NOTIFICATION))
    assert b"Subject" not in sns_string(good)
    assert is_sns_signature(good, _certificate(rsa_key), TOPIC, NOW_MS)


def test_sns_subscriptions_are_signed_otherwise(rsa_key: rsa.RSAPrivateKey) -> None:
    """They name an address to call and a token instead of a subject."""
    url = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn&Token=2336412f37"
    envelope = _envelope(Type="SubscriptionConfirmation", SubscribeURL=url, Token="2336412f37")
    del envelope["Subject"]
    good = read_sns(_signed(rsa_key, envelope, CONFIRMATION))
    assert is_sns_signature(good, _certificate(rsa_key), TOPIC, NOW_MS)
    assert is_sns_subscribe_url(good.subscribe_url)


@pytest.mark.parametrize(
    ("url", "is_good"),
    [
        (CERTIFICATE_URL, True),
        ("https://sns.us-gov-west-1.amazonaws.com/SimpleNotificationService-ab12.pem", True),
        ("https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-ab12.pem", True),
        ("http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a1b2c.pem", False),
        ("https://sns.eu-west-1.amazonaws.com.evil.example/SimpleNotificationService-0.pem", False),
        ("https://sns.eu-west-1.amazonaws.com@evil.example/SimpleNotificationService-0.pem", False),
        ("https://evil.example/?https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem", False),
        ("https://sns.eu-west-1.amazonaws.com:8443/SimpleNotificationService-0a1b2c.pem", False),
        ("https://sns.eu-west-1.amazonaws.com/../SimpleNotificationService-0a1b2c.pem", False),
        ("https://s3.eu-west-1.amazonaws.com/SimpleNotificationService-0a1b2c.pem", False),
        (CERTIFICATE_URL + "\n", False),
        ("", False),
    ],
)
def test_certificates_come_from_sns_only(url: str, is_good: bool) -> None:
    """Whoever chooses the certificate chooses the key."""
    assert is_sns_certificate_url(url) is is_good
    assert not is_sns_subscribe_url(url)


MAIL = {
    "timestamp": "2026-09-21T14:13:00.000Z",
    "messageId": "010001941c6a",
    "destination": ["a@example.org"],
    "headers": [{"name": "From", "value": "x"}, {"name": "Message-ID", "value": "<n42-d7@example.org>"}],
}


@pytest.mark.parametrize(
    ("event", "state", "action", "code"),
    [
        (
            {
                "notificationType": "Bounce",
                "bounce": {
                    "bounceType": "Permanent",
                    "bounceSubType": "General",
                    "bouncedRecipients": [{"emailAddress": "a@example.org", "status": "5.1.1"}],
                },
            },
            "bounced_hard",
            "retire",
            "5.1.1",
        ),
        (
            {
                "eventType": "Bounce",
                "bounce": {
                    "bounceType": "Transient",
                    "bounceSubType": "MailboxFull",
                    "bouncedRecipients": [{"emailAddress": "a@example.org"}],
                },
            },
            "undelivered",
            "",
            "Transient/MailboxFull",
        ),
        (  # or so it says where somebody is out of the office
            {
                "eventType": "Bounce",
                "bounce": {
                    "bounceType": "Transient",
                    "bounceSubType": "General",
                    "bouncedRecipients": [{"emailAddress": "a@example.org"}],
                },
            },
            "bounced_soft",
            "",
            "Transient/General",
        ),
        (
            {
                "eventType": "Complaint",
                "complaint": {
                    "complainedRecipients": [{"emailAddress": "a@example.org"}],
                    "complaintFeedbackType": "abuse",
                },
            },
            "complained",
            "suppress",
            "abuse",
        ),
        ({"eventType": "Delivery", "delivery": {"recipients": ["a@example.org"]}}, "delivered", "", ""),
        (
            {
                "eventType": "DeliveryDelay",
                "deliveryDelay": {
                    "delayType": "MailboxFull",
                    "delayedRecipients": [{"emailAddress": "a@example.org"}],
                },
            },
            "delayed",
            "",
            "MailboxFull",
        ),
        (
            {"eventType": "Reject", "reject": {"reason": "Bad content"}},
            "failed",
            "dead_letter",
            "Bad content",
        ),
        ({"eventType": "Open", "open": {"ipAddress": "192.0.2.1"}}, "opened", "", ""),
        ({"eventType": "Click", "click": {"link": "https://example.org"}}, "clicked", "", ""),
        ({"eventType": "Send", "send": {}}, "sent", "", ""),
    ],
)
def test_ses_events(event: dict[str, Any], state: str, action: str, code: str) -> None:
    """A hard bounce retires the address, a complaint ends the consent."""
    (update,) = ses_statuses(json.dumps({**event, "mail": MAIL}))
    assert (update.state, update.action, update.code) == (state, action, code)
    assert (update.provider_id, update.delivery_id) == ("010001941c6a", "n42-d7")
    assert (update.address, update.at_ms) == ("a@example.org", NOW_MS - 20_000)


def test_ses_events_without_consequence() -> None:
    """Several addresses may bounce at once, and "not spam" is no complaint."""
    two = [{"emailAddress": "a@example.org"}, {"emailAddress": "b@example.org"}]
    bounce = {"eventType": "Bounce", "bounce": {"bounceType": "Permanent", "bouncedRecipients": two}}
    assert [update.address for update in ses_statuses(json.dumps(bounce))] == [
        "a@example.org",
        "b@example.org",
    ]
    praise = {"complaintFeedbackType": "not-spam", "complainedRecipients": two}
    assert ses_statuses(json.dumps({"eventType": "Complaint", "complaint": praise})) == []
    assert ses_statuses('{"eventType": "Subscription"}') == []
    with pytest.raises(ValueError):
        ses_statuses("Successfully validated SNS topic")
