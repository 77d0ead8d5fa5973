"""What the fake of APNs checks, asked by httpx over HTTP/2."""

import socket
import uuid
from typing import Any

import httpx
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from server.sandbox import Sandbox
from server.sandbox.authority import private_pem
from tests.sandbox.clients import TOKEN, Clock, apns_headers, http_client, provider_token, trusting

BODY = b'{"aps":{"alert":"Hello"}}'
APNS_ID = "7f6e5d4c-3b2a-4190-8f7e-6d5c4b3a2910"


async def push(
    sandbox: Sandbox,
    clock: Clock,
    *,
    token: str = TOKEN,
    url: str = "",
    body: bytes = BODY,
    method: str = "POST",
    path: str = "",
    **headers: Any,
) -> httpx.Response:
    """Push one alert, on a connection of its own."""
    signed = headers.pop("signed", None) or provider_token(sandbox, clock.now_s())
    async with http_client(sandbox) as client:
        return await client.request(
            method,
            (url or sandbox.apns_url) + (path or f"/3/device/{token}"),
            content=body,
            headers=apns_headers(signed, **headers),
        )


def reason(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["reason"]


async def test_a_good_push_is_taken_over_http_2_and_kept(sandbox: Sandbox, clock: Clock) -> None:
    """App developers look at what arrived, so it has to be all there."""
    response = await push(
        sandbox,
        clock,
        token=TOKEN.upper(),
        body=b'{"aps":{"alert":"Hi"},"delivery_id":"d_1"}',
        apns_id=APNS_ID,
        apns_priority="5",
        apns_expiration="1900000000",
        apns_collapse_id="chat-7",
    )
    assert (response.http_version, response.status_code, response.content) == ("HTTP/2", 200, b"")
    assert response.headers["apns-id"] == APNS_ID
    (delivery,) = sandbox.deliveries("apns")
    assert (delivery.address, delivery.id, delivery.identity) == (TOKEN, APNS_ID, "d_1")
    assert delivery.content == {
        "topic": "com.example.app",
        "push_type": "alert",
        "priority": 5,
        "expiration": 1_900_000_000,
        "collapse_id": "chat-7",
        "environment": "production",
        "payload": {"aps": {"alert": "Hi"}, "delivery_id": "d_1"},
    }


async def test_who_gives_no_apns_id_gets_one(sandbox: Sandbox, clock: Clock) -> None:
    """Apple answers refusals with an id, too."""
    for body in (BODY, b""):
        response = await push(sandbox, clock, body=body)
        assert str(uuid.UUID(response.headers["apns-id"])) == response.headers["apns-id"]


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({"method": "GET", "body": b""}, 405, "MethodNotAllowed"),
        ({"path": "/4/device/" + TOKEN}, 404, "BadPath"),
        ({"path": "/3/device/"}, 400, "MissingDeviceToken"),
        ({"token": "xyz"}, 400, "BadDeviceToken"),
        ({"token": TOKEN[:-1]}, 400, "BadDeviceToken"),
        ({"apns_topic": None}, 400, "MissingTopic"),
        ({"apns_topic": "com.other.app"}, 400, "TopicDisallowed"),
        ({"apns_push_type": "loud"}, 400, "InvalidPushType"),
        ({"apns_push_type": "voip"}, 400, "BadTopic"),
        ({"apns_push_type": "background", "apns_priority": "10"}, 400, "BadPriority"),
        ({"apns_priority": "7"}, 400, "BadPriority"),
        ({"apns_expiration": "tomorrow"}, 400, "BadExpirationDate"),
        ({"apns_expiration": "-1"}, 400, "BadExpirationDate"),
        ({"apns_collapse_id": "x" * 65}, 400, "BadCollapseId"),
        ({"apns_id": "12345"}, 400, "BadMessageId"),
        ({"body": b""}, 400, "PayloadEmpty"),
        ({"body": b"{}"}, 400, "PayloadEmpty"),
        ({"body": b"[1]"}, 400, "PayloadEmpty"),
        ({"body": b'{"aps":"' + b"x" * 4_087 + b'"}'}, 413, "PayloadTooLarge"),
        ({"authorization": None}, 403, "MissingProviderToken"),
        ({"authorization": "bearer not.a.token"}, 403, "InvalidProviderToken"),
    ],
)
async def test_a_mistake_gets_apples_word_and_is_not_delivered(
    sandbox: Sandbox, clock: Clock, changes: dict[str, Any], status: int, word: str
) -> None:
    """Senders tell dead tokens from bugs by these words."""
    assert reason(await push(sandbox, clock, **changes)) == (status, word)
    assert sandbox.count("apns") == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"body": b'{"aps":"' + b"x" * 4_086 + b'"}'},
        {"apns_collapse_id": "x" * 64},
        {"apns_push_type": "background", "apns_priority": "5"},
        {"apns_push_type": None},
        {"apns_priority": "1"},
        {"apns_expiration": "0"},
        {
            "apns_push_type": "voip",
            "apns_topic": "com.example.app.voip",
            "body": b'{"a":"' + b"x" * 5_112 + b'"}',
        },
        {
            "apns_push_type": "liveactivity",
            "apns_topic": "com.example.app.push-type.liveactivity",
        },
        {"token": "0a" * 100},
    ],
)
async def test_what_is_just_allowed_is_taken(sandbox: Sandbox, clock: Clock, changes: dict[str, Any]) -> None:
    """A fake that is too strict would have apps work around it."""
    assert (await push(sandbox, clock, **changes)).status_code == 200


async def test_a_header_that_comes_twice_is_refused(sandbox: Sandbox, clock: Clock) -> None:
    """Apple does not guess which one was meant."""
    headers = list(apns_headers(provider_token(sandbox, clock.now_s())).items())
    async with http_client(sandbox) as client:
        response = await client.post(
            f"{sandbox.apns_url}/3/device/{TOKEN}",
            content=BODY,
            headers=[*headers, ("apns-priority", "5"), ("apns-priority", "10")],
        )
    assert reason(response) == (400, "DuplicateHeaders")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kid": "UNKNOWN"}, "InvalidProviderToken"),
        ({"iss": "OTHERTEAM"}, "InvalidProviderToken"),
        ({"iss": None}, "InvalidProviderToken"),
        ({"key": private_pem(ec.generate_private_key(ec.SECP256R1()))}, "InvalidProviderToken"),
        ({"key": "a secret that is long enough for HS256", "algorithm": "HS256"}, "InvalidProviderToken"),
    ],
)
async def test_a_token_that_another_key_or_team_signed_is_invalid(
    sandbox: Sandbox, clock: Clock, changes: dict[str, Any], word: str
) -> None:
    """The signature is really verified."""
    signed = provider_token(sandbox, clock.now_s(), **changes)
    assert reason(await push(sandbox, clock, signed=signed)) == (403, word)


async def test_a_token_lives_for_one_hour(sandbox: Sandbox, clock: Clock) -> None:
    """Senders have to sign anew in time."""
    signed = provider_token(sandbox, clock.now_s())
    clock.ahead_s = 3_590
    assert (await push(sandbox, clock, signed=signed)).status_code == 200
    clock.ahead_s = 3_602
    assert reason(await push(sandbox, clock, signed=signed)) == (403, "ExpiredProviderToken")


async def test_a_token_from_the_future_is_invalid(sandbox: Sandbox, clock: Clock) -> None:
    """A wrong clock is what developers find last."""
    signed = provider_token(sandbox, clock.now_s() + 120)
    assert reason(await push(sandbox, clock, signed=signed)) == (403, "InvalidProviderToken")


async def test_a_revoked_key_signs_no_more(sandbox: Sandbox, clock: Clock) -> None:
    """Its known tokens end with it."""
    signed = provider_token(sandbox, clock.now_s())
    assert (await push(sandbox, clock, signed=signed)).status_code == 200
    sandbox.apns.revoke_key(sandbox.configs().apns.key_id)
    assert reason(await push(sandbox, clock, signed=signed)) == (403, "InvalidProviderToken")


async def test_signing_too_often_spoils_the_connection(sandbox: Sandbox, clock: Clock) -> None:
    """One update within 20 minutes is allowed; after the second, only a new connection helps."""
    first, second, third = (provider_token(sandbox, clock.now_s() - age) for age in (30, 20, 10))
    url = f"{sandbox.apns_url}/3/device/{TOKEN}"
    async with http_client(sandbox) as client:
        for signed in (first, second, first):
            response = await client.post(url, content=BODY, headers=apns_headers(signed))
            assert response.status_code == 200
        for signed in (third, first):  # first is good, but the connection is not any more
            response = await client.post(url, content=BODY, headers=apns_headers(signed))
            assert reason(response) == (429, "TooManyProviderTokenUpdates")
    assert (await push(sandbox, clock, signed=first)).status_code == 200
    clock.ahead_s = 1_201
    assert (await push(sandbox, clock, signed=third)).status_code == 200


async def test_a_dead_token_says_since_when(sandbox: Sandbox, clock: Clock) -> None:
    """An app that was installed again later must not lose its new registration."""
    sandbox.apns.unregister(TOKEN, at_ms=1_700_000_000_123)
    response = await push(sandbox, clock, apns_id=APNS_ID)
    assert (response.status_code, response.json()) == (
        410,
        {"reason": "Unregistered", "timestamp": 1_700_000_000_123},
    )
    assert response.headers["apns-id"] == APNS_ID
    sandbox.apns.register(TOKEN)
    assert (await push(sandbox, clock)).status_code == 200


async def test_another_apps_token_is_told_apart(sandbox: Sandbox, clock: Clock) -> None:
    """A sender with two apps mixes them up sooner or later."""
    sandbox.apns.register(TOKEN, bundle_id="com.example.other")
    assert reason(await push(sandbox, clock)) == (400, "DeviceTokenNotForTopic")


async def test_development_and_production_do_not_mix(sandbox: Sandbox, clock: Clock) -> None:
    """The commonest of all mistakes with APNs."""
    sandbox.apns.register(TOKEN, environment="development")
    assert reason(await push(sandbox, clock)) == (400, "BadDeviceToken")
    response = await push(sandbox, clock, url=sandbox.apns_development_url)
    assert response.status_code == 200
    assert "apns-unique-id" in response.headers


async def test_strict_sandboxes_know_registered_tokens_only(sandbox: Sandbox, clock: Clock) -> None:
    """Some tests want every token to be one that a device gave."""
    sandbox.apns.knows_only_registered = True
    assert reason(await push(sandbox, clock)) == (400, "BadDeviceToken")
    sandbox.apns.register(TOKEN)
    assert (await push(sandbox, clock)).status_code == 200


async def test_http_1_is_turned_away(sandbox: Sandbox) -> None:
    """APNs speaks HTTP/2 only; a client without it must find out here."""

    def ask() -> bytes:
        port = int(sandbox.apns_url.rpartition(":")[2])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            trusting(sandbox).wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            return tls.recv(1)

    assert await trio.to_thread.run_sync(ask) == b""


async def test_an_unknown_ca_is_not_trusted(sandbox: Sandbox) -> None:
    """Configs bring the CA along for a reason."""
    async with httpx.AsyncClient(http2=True, trust_env=False) as client:
        with pytest.raises(httpx.ConnectError):
            await client.post(f"{sandbox.apns_url}/3/device/{TOKEN}", content=BODY)
    assert trusting(sandbox).verify_mode


async def test_many_pushes_share_a_connection(sandbox: Sandbox, clock: Clock) -> None:
    """Answers find their streams."""
    headers = apns_headers(provider_token(sandbox, clock.now_s()))
    seen: dict[str, str] = {}

    async def one(client: httpx.AsyncClient, number: int) -> None:
        apns_id = str(uuid.UUID(int=number))
        response = await client.post(
            f"{sandbox.apns_url}/3/device/{number:064x}",
            content=BODY,
            headers={**headers, "apns-id": apns_id},
        )
        assert response.status_code == 200
        seen[apns_id] = response.headers["apns-id"]

    async with http_client(sandbox) as client, trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(one, client, number)
        with trio.fail_after(10):
            await sandbox.wait_for("apns", 60)
    assert len(seen) == 60
    assert all(asked == answered for asked, answered in seen.items())
