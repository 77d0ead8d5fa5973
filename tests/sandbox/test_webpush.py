"""What the fake push service checks, asked by httpx."""

from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from server.sandbox import Fault, Sandbox, Subscription
from server.sandbox.authority import private_pem
from tests.sandbox.clients import (
    Clock,
    encrypt,
    http_client,
    public_point,
    push_headers,
    vapid_header,
)

OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


async def push(
    sandbox: Sandbox,
    clock: Clock,
    subscription: Subscription,
    plaintext: bytes = b'{"title":"Hello","delivery_id":"d_9"}',
    *,
    body: bytes | None = None,
    vapid: dict[str, Any] | None = None,
    method: str = "POST",
    **headers: str | None,
) -> httpx.Response:
    authorization = vapid_header(sandbox, clock, **(vapid or {}))
    headers = {"authorization": authorization, **headers}
    async with http_client(sandbox) as client:
        return await client.request(
            method,
            subscription.endpoint,
            content=encrypt(subscription, plaintext) if body is None else body,
            headers=push_headers(**headers),
        )


async def test_a_good_message_is_decrypted_and_kept(sandbox: Sandbox, clock: Clock) -> None:
    """As the browser's service worker would get it."""
    subscription = sandbox.webpush.subscribe()
    assert subscription.as_json()["keys"] == {"p256dh": subscription.p256dh, "auth": subscription.auth}
    response = await push(sandbox, clock, subscription, topic="chat-7", urgency="high")
    assert (response.status_code, response.headers["ttl"]) == (201, "60")
    assert response.headers["location"].startswith(sandbox.addresses.webpush_url + "/message/")
    (delivery,) = sandbox.deliveries("webpush")
    assert (delivery.address, delivery.identity) == (subscription.endpoint, "d_9")
    assert delivery.content["payload"] == {"title": "Hello", "delivery_id": "d_9"}
    assert (delivery.content["topic"], delivery.content["urgency"]) == ("chat-7", "high")
    assert [message.plaintext for message in subscription.received] == [
        b'{"title":"Hello","delivery_id":"d_9"}'
    ]


async def test_a_message_may_be_empty(sandbox: Sandbox, clock: Clock) -> None:
    """RFC 8030 has no body by need."""
    subscription = sandbox.webpush.subscribe()
    response = await push(sandbox, clock, subscription, body=b"", content_encoding=None)
    assert response.status_code == 201


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"ttl": None}, 400),
        ({"ttl": "soon"}, 400),
        ({"urgency": "urgent"}, 400),
        ({"topic": "x" * 33}, 400),
        ({"topic": "a b"}, 400),
        ({"content_encoding": "aesgcm"}, 400),
        ({"content_encoding": None}, 400),
        ({"authorization": None}, 401),
        ({"authorization": "Bearer x"}, 401),
        ({"vapid": {"aud": "https://example.com"}}, 403),
        ({"vapid": {"exp": 4_000_000_000}}, 403),
        ({"vapid": {"exp": 1_000_000_000}}, 403),
        ({"vapid": {"exp": None}}, 403),
        ({"vapid": {"sub": "admin"}}, 403),
        ({"vapid": {"sub": None}}, 403),
        ({"vapid": {"k": public_point(OTHER_KEY)}}, 403),
        ({"vapid": {"k": "AAAA"}}, 403),
        ({"body": b"x" * 4_097}, 413),
        ({"body": b"x" * 200}, 400),
        ({"method": "PUT"}, 405),
    ],
)
async def test_a_mistake_is_refused_and_not_delivered(
    sandbox: Sandbox, clock: Clock, changes: dict[str, Any], status: int
) -> None:
    """Push services differ in what they overlook; what no RFC allows is refused here."""
    response = await push(sandbox, clock, sandbox.webpush.subscribe(), **changes)
    assert response.status_code == status, response.text
    assert response.json()["code"] == status
    assert sandbox.count("webpush") == 0


async def test_the_size_limit_is_where_rfc_8291_puts_it(sandbox: Sandbox, clock: Clock) -> None:
    """3,993 bytes of plain text are 4,096 of body."""
    subscription = sandbox.webpush.subscribe()
    assert len(encrypt(subscription, b"x" * 3_993)) == 4_096
    assert (await push(sandbox, clock, subscription, b"x" * 3_993)).status_code == 201
    assert (await push(sandbox, clock, subscription, b"x" * 3_994)).status_code == 413


async def test_two_records_are_refused(sandbox: Sandbox, clock: Clock) -> None:
    """Libraries make them silently where the text is longer than a record; browsers drop them."""
    subscription = sandbox.webpush.subscribe()
    body = encrypt(subscription, b"x" * 200, record_bytes=128)
    response = await push(sandbox, clock, subscription, body=body)
    assert response.status_code == 400
    assert "one record" in response.json()["message"]


async def test_what_is_encrypted_for_another_browser_is_refused(sandbox: Sandbox, clock: Clock) -> None:
    """Mixed-up keys would else be seen by nobody."""
    one, other = sandbox.webpush.subscribe(), sandbox.webpush.subscribe()
    response = await push(sandbox, clock, one, body=encrypt(other, b"Hello"))
    assert response.status_code == 400
    assert "decrypt" in response.json()["message"]


async def test_a_restricted_subscription_takes_its_own_key_only(sandbox: Sandbox, clock: Clock) -> None:
    """RFC 8292 section 4: who changed the VAPID key gets 403 for old subscriptions."""
    subscription = sandbox.webpush.subscribe(public_point(OTHER_KEY))
    assert (await push(sandbox, clock, subscription)).status_code == 403
    response = await push(sandbox, clock, subscription, vapid={"key": private_pem(OTHER_KEY)})
    assert response.status_code == 201


async def test_ended_and_unknown_subscriptions_differ(sandbox: Sandbox, clock: Clock) -> None:
    """Both mean that the sender deletes it."""
    subscription = sandbox.webpush.subscribe()
    sandbox.webpush.unsubscribe(subscription.endpoint)
    response = await push(sandbox, clock, subscription)
    assert (response.status_code, response.json()["errno"]) == (410, 103)
    sandbox.webpush.forget(subscription.endpoint)
    response = await push(sandbox, clock, subscription)
    assert (response.status_code, response.json()["errno"]) == (404, 102)


async def test_offline_browsers_get_the_newest_of_each_topic(sandbox: Sandbox, clock: Clock) -> None:
    """RFC 8030: Topic replaces, TTL ends, TTL 0 does not wait."""
    subscription = sandbox.webpush.subscribe()
    subscription.is_online = False
    await push(sandbox, clock, subscription, b"one", topic="a")
    await push(sandbox, clock, subscription, b"two", topic="a")
    await push(sandbox, clock, subscription, b"three", topic="b")
    await push(sandbox, clock, subscription, b"four", ttl="0")
    await push(sandbox, clock, subscription, b"five", ttl="5")
    await push(sandbox, clock, subscription, b"six")
    clock.ahead_s = 10
    found = sandbox.webpush.go_online(subscription.endpoint)
    assert [message.plaintext for message in found] == [b"two", b"three", b"six"]
    await push(sandbox, clock, subscription, b"seven")
    assert [message.plaintext for message in subscription.received][-1] == b"seven"
    assert sandbox.count("webpush") == 7


async def test_a_long_ttl_is_shortened_and_said_so(sandbox: Sandbox, clock: Clock) -> None:
    """Senders must not take the answer's TTL for a refusal."""
    response = await push(sandbox, clock, sandbox.webpush.subscribe(), ttl="9999999")
    assert (response.status_code, response.headers["ttl"]) == (201, "2592000")


@pytest.mark.parametrize("status", [429, 503, 413, 410])
async def test_injected_statuses_say_when_to_retry(sandbox: Sandbox, clock: Clock, status: int) -> None:
    """And hit the one endpoint that they name."""
    one, other = sandbox.webpush.subscribe(), sandbox.webpush.subscribe()
    sandbox.inject(Fault(channel="webpush", match=one.endpoint, status=status, retry_after_s=30))
    response = await push(sandbox, clock, one)
    assert (response.status_code, response.headers["retry-after"]) == (status, "30")
    assert (await push(sandbox, clock, other)).status_code == 201
