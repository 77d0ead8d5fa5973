"""All that the HTTP door needs for providers' callbacks: checks, readers, and what they return. Pure.

A reader does not check: `is_…_signature` comes first, over the raw request.
"""

from server.providers.sendgrid_webhook import is_sendgrid_signature, sendgrid_statuses
from server.providers.ses_webhook import (
    SnsEnvelope,
    is_sns_certificate_url,
    is_sns_signature,
    is_sns_subscribe_url,
    read_sns,
    ses_statuses,
)
from server.providers.sms_webhooks import (
    is_twilio_signature,
    is_vonage_signature,
    twilio_status,
    vonage_status,
)
from server.providers.status import StatusUpdate, is_news, later

__all__ = [
    "StatusUpdate",
    "is_news",
    "later",
    "is_twilio_signature",
    "twilio_status",
    "is_vonage_signature",
    "vonage_status",
    "is_sendgrid_signature",
    "sendgrid_statuses",
    "SnsEnvelope",
    "read_sns",
    "is_sns_certificate_url",
    "is_sns_subscribe_url",
    "is_sns_signature",
    "ses_statuses",
]
