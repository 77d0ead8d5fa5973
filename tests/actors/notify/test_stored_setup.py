"""Types and requests of an older release, read as they would be let in now."""

import msgspec
import pytest

from actors.notify.stored_setup import each_once, read_request, read_type
from protocol.notify_content import KeptRequest
from protocol.notify_types import TypeRule


def test_a_type_that_names_a_channel_twice_goes_there_once() -> None:
    """Older releases took it, and sent twice to each device."""
    body = '{"name":"order","channels":["apns","sms","apns"],"fallback":["email","email"],"ttl_s":60}'
    expected = TypeRule(name="order", channels=["apns", "sms"], fallback=["email"], ttl_s=60)
    assert read_type(body) == expected


def test_a_request_that_names_a_channel_twice_goes_there_once() -> None:
    """What recurs was stored once, perhaps years ago."""
    body = '{"type":"order","group":"*","text":"x","cron":"0 9 * * *","channels":["sms","sms"],"new":1}'
    expected = KeptRequest(type="order", group="*", text="x", cron="0 9 * * *", channels=["sms"])
    assert read_request(body) == expected


def test_all_else_is_as_it_was_stored() -> None:
    """Their order is that in which they are tried."""
    rule = TypeRule(name="order", channels=["webpush", "apns", "fcm"], fallback=["sms"])
    assert read_type(msgspec.json.encode(rule).decode()) == rule
    assert each_once(["sms", "apns", "sms", "email", "apns"]) == ["sms", "apns", "email"]
    with pytest.raises(msgspec.ValidationError):
        read_type('{"name":"order","channels":["pigeon"]}')
