"""What the fakes of FCM and of Google's token endpoint check, asked by httpx."""

from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from server.sandbox import Fault, Sandbox
from tests.sandbox.clients import Clock, google_token, grant_form, http_client

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
MESSAGE = {"token": "abc:DEF-1", "notification": {"title": "Hello"}}


async def send(
    sandbox: Sandbox,
    clock: Clock,
    message: Any,
    *,
    project: str = "sandbox-project",
    access_token: str | None = None,
    http2: bool = True,
    **request: Any,
) -> httpx.Response:
    async with http_client(sandbox, http2=http2) as client:
        if access_token is None:
            access_token = await google_token(sandbox, client, clock)
        return await client.post(
            f"{sandbox.fcm_url}/v1/projects/{project}/messages:send",
            json={"message": message, **request},
            headers={"authorization": f"Bearer {access_token}"},
        )


def details(response: httpx.Response) -> list[str]:
    """Return the @types of an error's details: what senders go by."""
    error = response.json()["error"]
    assert error["code"] == response.status_code
    return [detail["@type"] for detail in error.get("details", [])]


def code(response: httpx.Response) -> str:
    for detail in response.json()["error"]["details"]:
        if detail["@type"] == FCM_ERROR:
            return str(detail["errorCode"])
    return ""


@pytest.mark.parametrize("http2", [True, False])
async def test_a_good_message_is_taken_and_kept(sandbox: Sandbox, clock: Clock, http2: bool) -> None:
    """Over both versions of HTTP, as Google does."""
    message = {
        "token": "abc:DEF-1",
        "notification": {"title": "Hello"},
        "data": {"delivery_id": "d_7", "kind": "chat"},
        "android": {"collapse_key": "chat", "ttl": "3.5s", "priority": "HIGH"},
        "apns": {"headers": {"apns-priority": "10"}, "payload": {"aps": {"badge": 1}}},
        "webpush": {"headers": {"TTL": "60"}},
    }
    response = await send(sandbox, clock, message, http2=http2)
    assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert response.status_code == 200
    assert response.json()["name"].startswith("projects/sandbox-project/messages/")
    (delivery,) = sandbox.deliveries("fcm")
    assert (delivery.address, delivery.identity) == ("abc:DEF-1", "d_7")
    assert delivery.id == response.json()["name"]
    assert delivery.content["message"] == message


async def test_a_dry_run_delivers_nothing(sandbox: Sandbox, clock: Clock) -> None:
    """It is how credentials are tried."""
    assert (await send(sandbox, clock, MESSAGE, validate_only=True)).status_code == 200
    assert (await send(sandbox, clock, {}, validate_only=True)).status_code == 400
    assert sandbox.count("fcm") == 0


async def test_camel_case_is_read_as_well(sandbox: Sandbox, clock: Clock) -> None:
    """As protobuf's JSON has it."""
    await send(sandbox, clock, {"token": "a", "android": {"collapseKey": "x", "directBootOk": True}})
    (delivery,) = sandbox.deliveries("fcm")
    assert delivery.content["message"]["android"] == {"collapse_key": "x", "direct_boot_ok": True}


@pytest.mark.parametrize(
    ("message", "types", "words"),
    [
        ({"token": "a", "key": "x"}, [BAD_REQUEST], "Cannot find field"),
        ({"token": "a", "data": {"n": 5}}, [BAD_REQUEST], "'message.data[0].value' (TYPE_STRING), 5"),
        ({"token": "a", "data": {"n": None}}, [BAD_REQUEST], "TYPE_STRING"),
        ({"token": "a", "data": ["x"]}, [BAD_REQUEST], "TYPE_MESSAGE"),
        ({"token": 5}, [BAD_REQUEST], "TYPE_STRING"),
        ({"token": "a", "android": {"ttl": "60"}}, [BAD_REQUEST], "Duration"),
        ({"token": "a", "android": {"ttl": 60}}, [BAD_REQUEST], "TYPE_STRING"),
        ({"token": "a", "android": {"priority": "urgent"}}, [BAD_REQUEST], "AndroidMessagePriority"),
        ({"token": "a", "notification": {"title": 1}}, [BAD_REQUEST], "TYPE_STRING"),
        ({"token": "a", "notification": "x"}, [BAD_REQUEST], "TYPE_MESSAGE"),
        ({"token": "a", "android": {"ttl": "2419201s"}}, [FCM_ERROR, BAD_REQUEST], "time to live"),
        ({"token": "a", "android": {"ttl": "-1s"}}, [FCM_ERROR, BAD_REQUEST], "time to live"),
        ({"notification": {}}, [FCM_ERROR, BAD_REQUEST], "Recipient"),
        ({"token": "a", "topic": "b"}, [FCM_ERROR, BAD_REQUEST], "one target"),
        ({"topic": "a b"}, [FCM_ERROR, BAD_REQUEST], "topic"),
        ({"token": "a", "data": {"from": "x"}}, [FCM_ERROR, BAD_REQUEST], "payload key: from"),
        ({"token": "a", "data": {"google.x": "x"}}, [FCM_ERROR, BAD_REQUEST], "payload key"),
        ({"token": "a", "android": {"data": {"gcm_x": "x"}}}, [FCM_ERROR, BAD_REQUEST], "payload key"),
        ({"token": "a", "data": {"x": "y" * 4_096}}, [FCM_ERROR, BAD_REQUEST], "too big"),
        ({"topic": "a", "data": {"x": "y" * 2_048}}, [FCM_ERROR, BAD_REQUEST], "too big"),
        ({"token": "not a token"}, [FCM_ERROR], "not a valid FCM registration token"),
        (None, [BAD_REQUEST], "required"),
    ],
)
async def test_a_bad_message_is_told_from_a_bad_token_by_its_details(
    sandbox: Sandbox, clock: Clock, message: Any, types: list[str], words: str
) -> None:
    """400 INVALID_ARGUMENT means both: who prunes tokens by the status alone loses good ones."""
    response = await send(sandbox, clock, message)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["status"] == "INVALID_ARGUMENT"
    assert details(response) == types
    assert words in response.json()["error"]["message"]
    assert sandbox.count("fcm") == 0


@pytest.mark.parametrize(
    "message",
    [
        {"token": "a", "data": {"x": "y" * 4_095}},
        {"topic": "a", "data": {"x": "y" * 2_047}},
        {"topic": "/topics/news"},
        {"condition": "'a' in topics && 'b' in topics"},
        {"token": "a", "android": {"ttl": "2419200s"}},
        {"token": "a", "android": {"ttl": "0s"}},
        {"token": "a", "data": {"fromage": "x"}},
        {"token": "a", "notification": None},
    ],
)
async def test_what_is_just_allowed_is_taken(sandbox: Sandbox, clock: Clock, message: dict[str, Any]) -> None:
    """Limits are where Google has them."""
    response = await send(sandbox, clock, message)
    assert response.status_code == 200, response.text


async def test_what_is_no_json_is_refused(sandbox: Sandbox, clock: Clock) -> None:
    """Not by a crash."""
    async with http_client(sandbox) as client:
        access_token = await google_token(sandbox, client, clock)
        for body in (b"{", b"[]", b"\xff"):
            response = await client.post(
                f"{sandbox.fcm_url}/v1/projects/sandbox-project/messages:send",
                content=body,
                headers={"authorization": f"Bearer {access_token}"},
            )
            assert response.status_code == 400
        response = await client.get(f"{sandbox.fcm_url}/v1/projects/sandbox-project/messages:send")
        assert response.status_code == 404


async def test_registrations_end_and_belong_to_projects(sandbox: Sandbox, clock: Clock) -> None:
    """The three words by which a sender prunes, or alerts."""
    sandbox.fcm.unregister("gone")
    sandbox.fcm.register("theirs", project_id="another-project")
    sandbox.fcm.register("ours", project_id="sandbox-project")
    response = await send(sandbox, clock, {"token": "gone"})
    assert (response.status_code, code(response)) == (404, "UNREGISTERED")
    response = await send(sandbox, clock, {"token": "theirs"})
    assert (response.status_code, code(response)) == (403, "SENDER_ID_MISMATCH")
    assert (await send(sandbox, clock, {"token": "ours"})).status_code == 200
    sandbox.fcm.knows_only_registered = True
    response = await send(sandbox, clock, {"token": "unheard-of"})
    assert (response.status_code, code(response)) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("fault", "status", "word", "error_code"),
    [
        (Fault(channel="fcm", status=429, retry_after_s=90), 429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
        (Fault(channel="fcm", status=503, retry_after_s=90), 503, "UNAVAILABLE", "UNAVAILABLE"),
        (Fault(channel="fcm", status=500), 500, "INTERNAL", "INTERNAL"),
        (Fault(channel="fcm", status=404), 404, "NOT_FOUND", "UNREGISTERED"),
        (
            Fault(channel="fcm", status=401, code="THIRD_PARTY_AUTH_ERROR"),
            401,
            "UNAUTHENTICATED",
            "THIRD_PARTY_AUTH_ERROR",
        ),
    ],
)
async def test_injected_errors_have_googles_shape(
    sandbox: Sandbox, clock: Clock, fault: Fault, status: int, word: str, error_code: str
) -> None:
    """Retry-After included."""
    sandbox.inject(fault)
    response = await send(sandbox, clock, MESSAGE)
    assert (response.status_code, code(response)) == (status, error_code)
    assert response.json()["error"]["status"] == word
    assert response.headers.get("retry-after") == (str(fault.retry_after_s) if fault.retry_after_s else None)


async def test_access_tokens_last_an_hour_and_can_be_revoked(sandbox: Sandbox, clock: Clock) -> None:
    """A sender has to ask for another one on 401."""
    async with http_client(sandbox) as client:
        access_token = await google_token(sandbox, client, clock)
    assert (await send(sandbox, clock, MESSAGE, access_token=access_token)).status_code == 200
    sandbox.google_tokens.revoke_tokens()
    response = await send(sandbox, clock, MESSAGE, access_token=access_token)
    assert (response.status_code, response.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
    async with http_client(sandbox) as client:
        access_token = await google_token(sandbox, client, clock)
    clock.ahead_s = 3_601
    assert (await send(sandbox, clock, MESSAGE, access_token=access_token)).status_code == 401
    assert (await send(sandbox, clock, MESSAGE, access_token="")).status_code == 401


async def test_another_project_is_forbidden(sandbox: Sandbox, clock: Clock) -> None:
    """A service account sends for its own project."""
    response = await send(sandbox, clock, MESSAGE, project="another-project")
    assert (response.status_code, response.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"iss": "nobody@example.com"}, "invalid_grant", "account not found"),
        ({"aud": "https://127.0.0.1/elsewhere"}, "invalid_grant", "audience"),
        ({"scope": "https://www.googleapis.com/auth/drive"}, "invalid_scope", "scope"),
        ({"scope": ""}, "invalid_scope", "scope"),
        ({"exp": 4_000_000_000}, "invalid_grant", "short-lived"),
        ({"iat": 1_000_000_000, "exp": 1_000_003_600}, "invalid_grant", "short-lived"),
        ({"exp": None}, "invalid_grant", ""),
    ],
)
async def test_a_grant_is_checked_as_google_does(
    sandbox: Sandbox, clock: Clock, changes: dict[str, Any], error: str, words: str
) -> None:
    """Wrong clocks, scopes and audiences are the usual mistakes of own JWT-bearer code."""
    async with http_client(sandbox) as client:
        response = await client.post(sandbox.token_url, data=grant_form(sandbox, clock, **changes))
    assert (response.status_code, response.json()["error"]) == (400, error)
    assert words in response.json()["error_description"]


async def test_another_key_signs_no_grant(sandbox: Sandbox, clock: Clock) -> None:
    """The signature is really verified."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    async with http_client(sandbox) as client:
        response = await client.post(sandbox.token_url, data=grant_form(sandbox, clock, key=key))
        assert response.json() == {
            "error": "invalid_grant",
            "error_description": "Invalid JWT Signature.",
        }
        response = await client.post(sandbox.token_url, data={"grant_type": "password"})
        assert response.json()["error"] == "unsupported_grant_type"
        sandbox.inject(Fault(channel="token", status=503, times=1))
        response = await client.post(sandbox.token_url, data=grant_form(sandbox, clock))
        assert response.status_code == 503
        response = await client.post(sandbox.token_url, data=grant_form(sandbox, clock))
    assert response.json()["expires_in"] == 3_600
    assert sandbox.google_tokens.granted_count == 1
