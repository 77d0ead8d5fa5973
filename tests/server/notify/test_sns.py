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


def unexpected() -> None:
    raise AssertionError("these messages say which mail they are about, or are none")


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
        ((notification_id, number, told),) = await door.take(CONFIG, body, NOW_MS, on_nameless=unexpected)
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
            CONFIG,
            _signed(key, _envelope(Message=json.dumps(EVENT)), NOTIFICATION),
            NOW_MS,
            on_nameless=unexpected,
        )
    assert caught.value.code == "bad_signature"
    with pytest.raises(HubbubError) as caught:
        await SnsDoor(fetch).take(CONFIG, b"{}", NOW_MS, on_nameless=unexpected)
    assert caught.value.code == "bad_field"


@pytest.mark.parametrize(
    ("mail", "is_told"),
    [
        ({"messageId": "m", "destination": ["ann@example.org"]}, True),
        # Another program's mail by the same account: none of ours, and nothing is wrong.
        ({"messageId": "m", "commonHeaders": {"messageId": "<a/b@example.com>"}}, False),
    ],
)
async def test_events_that_do_not_say_which_mail_they_are_about_are_told(mail: object, is_told: bool) -> None:
    """Else SES seems to be set up, and no bounce ever retires an address."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    async def fetch(_url: str) -> bytes:
        return _certificate(key)

    told: list[str] = []
    event = json.dumps(EVENT | {"mail": mail})
    body = _signed(key, _envelope(Message=event), NOTIFICATION)
    found = await SnsDoor(fetch).take(CONFIG, body, NOW_MS, on_nameless=lambda: told.append("told"))
    assert (found, bool(told)) == ([], is_told)
