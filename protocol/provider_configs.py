"""What an app tells of its providers: one tagged Struct for each kind. Stored sealed, never shown again."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_Secret = Annotated[str, Meta(min_length=1, max_length=10_000)]
_Url = Annotated[
    str, Meta(max_length=500, description="Another address than the provider's own, such as the sandbox's.")
]


class _Config(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """`rate_per_s` paces all that goes by these credentials, from all nodes: 0.001 or more; 0: no pace."""

    rate_per_s: Annotated[float, Meta(ge=0, le=100_000)] = 0.0


class ApnsConfig(_Config, tag="apns", frozen=True, kw_only=True, omit_defaults=True):
    """Apple Push Notification service, by provider token. One signer and pool per team and environment."""

    team_id: Annotated[str, Meta(min_length=1, max_length=20)]
    key_id: Annotated[str, Meta(min_length=1, max_length=20)]
    private_key: Annotated[_Secret, Meta(description="The .p8 file's PEM text.")]
    topic: Annotated[str, Meta(min_length=1, max_length=155, description="The app's bundle id.")]
    environment: Literal["production", "development"] = "production"
    base_url: _Url = ""
    ca_pem: Annotated[str, Meta(max_length=20_000, description="Trust this CA, as the sandbox needs.")] = ""


class FcmConfig(_Config, tag="fcm", frozen=True, kw_only=True, omit_defaults=True):
    """Firebase Cloud Messaging, HTTP v1, by a service account."""

    project_id: Annotated[str, Meta(min_length=1, max_length=100)]
    client_email: Annotated[str, Meta(min_length=1, max_length=254)]
    private_key: Annotated[_Secret, Meta(description="PEM text of the service account's RSA key.")]
    token_uri: _Url = ""
    base_url: _Url = ""
    ca_pem: Annotated[str, Meta(max_length=20_000)] = ""


class WebPushConfig(_Config, tag="webpush", frozen=True, kw_only=True, omit_defaults=True):
    """Web Push with VAPID. Without one of its own an app uses the server's key pair."""

    private_key: Annotated[_Secret, Meta(description="P-256, PEM text.")]
    subject: Annotated[str, Meta(max_length=254, description="mailto: or https: of who answers for it.")]
    allow_private: Annotated[
        bool,
        Meta(
            description="Endpoints may lie in networks that the operator has opened (notify_networks), as "
            "those of the sandbox do."
        ),
    ] = False
    ca_pem: Annotated[str, Meta(max_length=20_000)] = ""


class TwilioConfig(_Config, tag="twilio", frozen=True, kw_only=True, omit_defaults=True):
    """SMS by Twilio. `user`: the account's SID or an API key's; `secret`: the token or the key's secret."""

    account_sid: Annotated[str, Meta(min_length=1, max_length=64)]
    user: Annotated[str, Meta(max_length=64, description="Empty: account_sid.")] = ""
    secret: _Secret
    auth_token: Annotated[str, Meta(max_length=200, description="Signs callbacks; empty: `secret` does.")] = (
        ""
    )
    sender: Annotated[str, Meta(max_length=40, description="From: a number or name.")] = ""
    messaging_service_sid: Annotated[str, Meta(max_length=64)] = ""
    base_url: _Url = ""
    ca_pem: Annotated[str, Meta(max_length=20_000)] = ""


class VonageConfig(_Config, tag="vonage", frozen=True, kw_only=True, omit_defaults=True):
    """SMS by Vonage's SMS API, as a second provider."""

    api_key: Annotated[str, Meta(min_length=1, max_length=64)]
    api_secret: _Secret
    sender: Annotated[str, Meta(min_length=1, max_length=40)]
    signature_secret: Annotated[str, Meta(max_length=200, description="Signs delivery receipts.")] = ""
    base_url: _Url = ""
    ca_pem: Annotated[str, Meta(max_length=20_000)] = ""


class SmtpConfig(_Config, tag="smtp", frozen=True, kw_only=True, omit_defaults=True):
    """Email by SMTP submission: an own server's, or an SES or SendGrid account's."""

    host: Annotated[str, Meta(min_length=1, max_length=253)]
    port: Annotated[int, Meta(ge=1, le=65_535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: Annotated[str, Meta(max_length=254)] = ""
    password: Annotated[str, Meta(max_length=1_000)] = ""
    sender: Annotated[str, Meta(min_length=3, max_length=320, description="`Name <address>` or an address.")]
    reply_to: Annotated[str, Meta(max_length=320)] = ""
    connections: Annotated[int, Meta(ge=1, le=64)] = 4
    ca_pem: Annotated[str, Meta(max_length=20_000)] = ""
    webhook_key: Annotated[
        str, Meta(max_length=2_000, description="Public key of SendGrid's signed event webhook, base64.")
    ] = ""
    sns_topic_arn: Annotated[
        str, Meta(max_length=300, description="Where SES publishes its events; others' topics do not count.")
    ] = ""
    unsubscribe_mailto: Annotated[
        str, Meta(max_length=254, description="Address that takes unsubscriptions, beside the link.")
    ] = ""


class AppriseConfig(_Config, tag="apprise", frozen=True, kw_only=True, omit_defaults=True):
    """The long tail: the user's device holds an Apprise address (slack://…, tgram://…, discord://…)."""

    schemes: Annotated[
        list[str], Meta(max_length=50, description="Which services users may name; empty: all but files.")
    ] = []
    allow_private: Annotated[
        bool,
        Meta(
            description="Hosts may lie in networks that the operator has opened (notify_networks), as "
            "those of the sandbox do."
        ),
    ] = False


ProviderConfig = (
    ApnsConfig | FcmConfig | WebPushConfig | TwilioConfig | VonageConfig | SmtpConfig | AppriseConfig
)
