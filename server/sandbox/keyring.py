"""The sandbox's accounts: freshly made keys, and the provider settings that an app gets for them."""

import datetime
import secrets
from typing import Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from protocol.provider_configs import (
    ApnsConfig,
    FcmConfig,
    SmtpConfig,
    TwilioConfig,
    VonageConfig,
    WebPushConfig,
)
from server.sandbox.authority import Authority, make_authority, private_pem

TEAM_ID: Final = "SANDBOXT01"
TOPIC: Final = "com.example.app"
PROJECT_ID: Final = "sandbox-project"
CLIENT_EMAIL: Final = f"sender@{PROJECT_ID}.iam.gserviceaccount.com"
NUMBER: Final = "+15005550006"  # Twilio's own number for tests
SMTP_USER: Final = "sandbox"
SENDER: Final = "Example <news@example.com>"


class Keyring(msgspec.Struct, frozen=True, kw_only=True):
    """All secrets of one sandbox. Kept in a file, the next start has the same accounts and the same CA."""

    authority: Authority
    apns_key_id: str
    apns_key: str  # PEM, P-256
    fcm_key: str  # PEM, RSA
    vapid_key: str  # PEM, P-256
    twilio_sid: str
    twilio_token: str
    vonage_key: str
    vonage_secret: str
    vonage_signature_secret: str
    smtp_password: str


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where a running sandbox is."""

    control_url: str
    apns_url: str
    apns_development_url: str
    fcm_url: str
    token_url: str
    webpush_url: str
    twilio_url: str
    vonage_url: str
    smtp_host: str
    smtp_port: int
    smtps_port: int


class Configs(msgspec.Struct, frozen=True, kw_only=True):
    """One ready-made setting for each provider."""

    apns: ApnsConfig
    apns_development: ApnsConfig
    fcm: FcmConfig
    webpush: WebPushConfig
    twilio: TwilioConfig
    vonage: VonageConfig
    smtp: SmtpConfig


def make_keyring(now: datetime.datetime) -> Keyring:
    """Make new keys; takes some 100 ms, for RSA. `now` is aware."""
    fcm_key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    return Keyring(
        authority=make_authority(now),
        apns_key_id=secrets.token_hex(5).upper(),
        apns_key=private_pem(ec.generate_private_key(ec.SECP256R1())),
        fcm_key=fcm_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        vapid_key=private_pem(ec.generate_private_key(ec.SECP256R1())),
        twilio_sid="AC" + secrets.token_hex(16),
        twilio_token=secrets.token_hex(16),
        vonage_key=secrets.token_hex(4),
        vonage_secret=secrets.token_urlsafe(16),
        vonage_signature_secret=secrets.token_urlsafe(32),
        smtp_password=secrets.token_urlsafe(16),
    )


def public_pem(private_key_pem: str) -> str:
    """Return the public half of a PEM key."""
    key = serialization.load_pem_private_key(private_key_pem.encode(), None)
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def make_configs(keyring: Keyring, at: Addresses) -> Configs:
    """Make the settings that send to the sandbox at `at`."""
    ca_pem = keyring.authority.ca_pem
    apns = ApnsConfig(
        team_id=TEAM_ID,
        key_id=keyring.apns_key_id,
        private_key=keyring.apns_key,
        topic=TOPIC,
        base_url=at.apns_url,
        ca_pem=ca_pem,
    )
    return Configs(
        apns=apns,
        apns_development=msgspec.structs.replace(
            apns, environment="development", base_url=at.apns_development_url
        ),
        fcm=FcmConfig(
            project_id=PROJECT_ID,
            client_email=CLIENT_EMAIL,
            private_key=keyring.fcm_key,
            token_uri=at.token_url,
            base_url=at.fcm_url,
            ca_pem=ca_pem,
        ),
        webpush=WebPushConfig(
            private_key=keyring.vapid_key,
            subject="mailto:admin@example.com",
            allow_private=True,
            ca_pem=ca_pem,
        ),
        twilio=TwilioConfig(
            account_sid=keyring.twilio_sid,
            secret=keyring.twilio_token,
            auth_token=keyring.twilio_token,
            sender=NUMBER,
            base_url=at.twilio_url,
            ca_pem=ca_pem,
        ),
        vonage=VonageConfig(
            api_key=keyring.vonage_key,
            api_secret=keyring.vonage_secret,
            sender="Example",
            signature_secret=keyring.vonage_signature_secret,
            base_url=at.vonage_url,
            ca_pem=ca_pem,
        ),
        smtp=SmtpConfig(
            host=at.smtp_host,
            port=at.smtp_port,
            username=SMTP_USER,
            password=keyring.smtp_password,
            sender=SENDER,
            ca_pem=ca_pem,
        ),
    )
