"""SES's events through SNS, as they come in at the node's door."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from protocol.errors import HubbubError
from protocol.provider_configs import SmtpConfig
from server.notify.callbacks import Told
from server.notify.sns import SnsDoor
from tests.providers.test_webhooks import (
    CERTIFICATE_URL,
    NOTIFICATION,
    TOPIC,
    _certificate,
    _envelope,
    _signed,
)

NOW_MS = 1_790_000_000_000
CONFIG = SmtpConfig(host="h", sender="a@example.org", sns_topic_arn=TOPIC)
EVENT = {
    "eventType": "Bounce",
    "mail": {"messageId": "m", "commonHeaders": {"messageId": "<1f3-0@example.org>"}},
    "bounce": {
        "bounceType": "Permanent",
        "bouncedRecipients": [{"emailAddress": "ann@example.org", "status": "5.1.1"}],
    },
}


async def test_a_bounce_that_sns_has_signed_is_taken_and_its_certificate_kept() -> None:
    """Bounces that are not heeded cost the sender's good name."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    asked: list[str] = []

    async def fetch(url: str) -> bytes:
        asked.append(url)
        return _certificate(key)

    door = SnsDoor(fetch)
    body = _signed(key, _envelope(Message=json.dumps(EVENT)), NOTIFICATION)
    for _ in range(2):
        ((notification_id, number, told),) = await door.take(CONFIG, body, NOW_MS)
        assert (notification_id, number) == (0x1F3, 0)
        assert isinstance(told, Told)
        assert (told.state, told.action) == ("bounced", "retire")
    assert asked == [CERTIFICATE_URL]


async def test_what_sns_has_not_signed_for_this_topic_is_refused() -> None:
    """Everybody can post to the door."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    async def fetch(_url: str) -> bytes:
        return _certificate(stranger)

    with pytest.raises(HubbubError) as caught:
        await SnsDoor(fetch).take(
            CONFIG, _signed(key, _envelope(Message=json.dumps(EVENT)), NOTIFICATION), NOW_MS
        )
    assert caught.value.code == "bad_signature"
    with pytest.raises(HubbubError) as caught:
        await SnsDoor(fetch).take(CONFIG, b"{}", NOW_MS)
    assert caught.value.code == "bad_field"
