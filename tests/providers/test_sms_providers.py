"""Twilio and Vonage as they are used: the form that goes out, and the outcome of what comes back."""

import base64
from typing import Any

import pytest
import trio

from actors.notify.delivery import Provider
from protocol.provider_configs import TwilioConfig, VonageConfig
from server.providers.form_client import FormClient
from server.providers.reach import ANYWHERE
from server.providers.sms_webhooks import is_twilio_signature
from server.providers.twilio import TwilioProvider
from server.providers.vonage import VonageProvider
from tests.providers.http_peer import HttpPeer, answer, open_http_peer, raw, stall
from tests.providers.outgoing import NOW_MS, make_outgoing

PHONE = "+4915112345678"


def _twilio(peer: HttpPeer, **changes: str) -> TwilioProvider:
    settings: dict[str, Any] = {"account_sid": "AC1", "secret": "s3cret", "sender": "+15005550006", **changes}
    config = TwilioConfig(base_url=f"http://127.0.0.1:{peer.port}", **settings)
    return TwilioProvider(config, clock_ms=lambda: NOW_MS, reach=ANYWHERE)


def _vonage(peer: HttpPeer) -> VonageProvider:
    base_url = f"http://127.0.0.1:{peer.port}"
    config = VonageConfig(api_key="key", api_secret="s3cret", sender="Shop", base_url=base_url)
    return VonageProvider(config, clock_ms=lambda: NOW_MS, reach=ANYWHERE)


async def test_twilio_gets_the_form_it_asks_for() -> None:
    """By its OpenAPI: To, From, Body, StatusCallback, ValidityPeriod; Basic with the account's SID."""
    async with open_http_peer() as peer:
        provider: Provider = _twilio(peer)
        outgoing = make_outgoing(
            "sms",
            PHONE,
            body="Grüße & mehr = 100 %",
            url="https://shop.example/o/42",
            callback_url="https://hub.example/callbacks/twilio?d=1",
            expires_at_ms=NOW_MS + 90_500,
        )
        with trio.fail_after(5):
            outcome = await provider.send(outgoing)
        assert (outcome.kind, outcome.action, outcome.provider_id) == ("accepted", "done", "SM1")
        (asked,) = peer.asked
        assert (asked.method, asked.target) == ("POST", "/2010-04-01/Accounts/AC1/Messages.json")
        assert base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")) == b"AC1:s3cret"
        assert asked.form == {
            "To": PHONE,
            "From": "+15005550006",
            "Body": "On its way\nGrüße & mehr = 100 % https://shop.example/o/42",
            "StatusCallback": "https://hub.example/callbacks/twilio?d=1",
            "ValidityPeriod": "90",
        }
        assert provider.channel == "sms"
        await provider.aclose()


async def test_twilio_by_api_key_and_messaging_service() -> None:
    """The account stays in the path when a key of its own signs in."""
    async with open_http_peer() as peer:
        provider = _twilio(peer, user="SK7", sender="", messaging_service_sid="MG9")
        await provider.send(make_outgoing("sms", PHONE, expires_at_ms=NOW_MS + 999_000_000))
        (asked,) = peer.asked
        assert base64.b64decode(asked.headers["authorization"][6:]) == b"SK7:s3cret"
        assert asked.form["MessagingServiceSid"] == "MG9"
        assert "From" not in asked.form
        assert asked.form["ValidityPeriod"] == "36000"
        await provider.aclose()
    with pytest.raises(ValueError):
        TwilioProvider(TwilioConfig(account_sid="AC1", secret="s"))


async def test_what_is_too_late_or_empty_is_not_sent() -> None:
    """A code that has expired only confuses."""
    async with open_http_peer() as peer:
        for provider in (_twilio(peer), _vonage(peer)):
            late = await provider.send(make_outgoing("sms", PHONE, expires_at_ms=NOW_MS + 500))
            assert (late.kind, late.action) == ("refused", "expired")
            empty = await provider.send(make_outgoing("sms", PHONE, title=" ", body=""))
            assert (empty.kind, empty.action) == ("refused", "dead_letter")
        assert peer.asked == []


async def test_twilio_tells_stop_throttling_and_trouble_apart() -> None:
    """From the wire to the action: STOP, 429 with Retry-After, 500, silence, nobody there."""
    async with open_http_peer() as peer:
        config = TwilioConfig(account_sid="AC1", secret="s", sender="Shop")
        client = FormClient(f"http://127.0.0.1:{peer.port}", request_timeout_s=0.2, reach=ANYWHERE)
        provider = TwilioProvider(config, client=client, clock_ms=lambda: NOW_MS)
        peer.script.extend(
            [
                answer(400, b'{"code": 21610, "message": "Attempt to send to unsubscribed recipient"}'),
                answer(429, b'{"code": 20429, "message": "Too Many Requests"}', "Retry-After: 3"),
                answer(500, b"oops"),
                raw(b""),
                stall,
            ]
        )
        with trio.fail_after(5):
            outcomes = [await provider.send(make_outgoing("sms", PHONE)) for _ in range(5)]
        assert [(outcome.kind, outcome.action, outcome.code) for outcome in outcomes] == [
            ("refused", "suppress", "21610"),
            ("refused", "retry", "20429"),
            ("unknown", "resolve_unknown", "500"),
            ("unknown", "resolve_unknown", "lost"),
            ("unknown", "resolve_unknown", "timeout"),
        ]
        assert outcomes[1].retry_after_s == 3.0
        await provider.aclose()
        closed = await provider.send(make_outgoing("sms", PHONE))
        assert (closed.kind, closed.action, closed.code) == ("refused", "retry", "closed")


async def test_vonage_gets_the_form_it_asks_for() -> None:
    """The number without plus, unicode where 7 bits do not do, the delivery's id to come back by."""
    async with open_http_peer() as peer:
        peer.usual = answer(
            200, b'{"message-count": "1", "messages": [{"status": "0", "message-id": "0A1"}]}'
        )
        provider: Provider = _vonage(peer)
        outgoing = make_outgoing(
            "sms",
            PHONE,
            title="",
            body="Привет",
            callback_url="https://hub.example/v",
            expires_at_ms=NOW_MS + 5_000,
        )
        with trio.fail_after(5):
            outcome = await provider.send(outgoing)
            await provider.send(make_outgoing("sms", PHONE, body="plain"))
        assert (outcome.kind, outcome.provider_id) == ("accepted", "0A1")
        first, second = peer.asked
        assert first.target == "/sms/json"
        assert first.form == {
            "api_key": "key",
            "api_secret": "s3cret",
            "from": "Shop",
            "to": "4915112345678",
            "text": "Привет",
            "type": "unicode",
            "client-ref": "n42-d7",
            "callback": "https://hub.example/v",
            "status-report-req": "1",
            "ttl": "20000",
        }
        assert "type" not in second.form
        assert "ttl" not in second.form
        await provider.aclose()


def test_a_callback_signed_elsewhere_is_checked_by_the_same_rule() -> None:
    """The sandbox signs as Twilio does: HMAC-SHA1 over address and sorted fields."""
    import hashlib
    import hmac

    url, fields = "https://hub.example/callbacks/twilio?d=1", {"MessageSid": "SM1", "MessageStatus": "sent"}
    text = url + "".join(name + fields[name] for name in sorted(fields))
    signature = base64.b64encode(hmac.new(b"token", text.encode(), hashlib.sha1).digest()).decode()
    assert is_twilio_signature("token", url, fields.items(), signature)
