"""FCM HTTP v1: what answers mean, what is sent, and how its access token is kept."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import rsa

from actors.notify.delivery import Outcome
from protocol.provider_configs import FcmConfig
from server.providers.exchange import Response
from server.providers.fcm import QUOTA_PAUSE_S, FcmProvider, data_key, fcm_message, judge_fcm
from server.providers.google_token import SCOPE, AccessToken, TokenRefused, judge_token
from server.providers.limits import Limits
from server.providers.push_pools import open_push_pools
from server.providers.reach import ANYWHERE
from tests.providers.peers import Node, certificates, needs_node, open_node, outgoing, pem_of

KEY = rsa.generate_private_key(65_537, 2_048)
NOW_MS = 1_800_000_000_000
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"


def answer(code: str = "", *, message: str = "", fields: tuple[str, ...] = (), status: str = "X") -> bytes:
    """Write an error as FCM does."""
    details: list[dict[str, Any]] = [{"@type": FCM_ERROR, "errorCode": code}] if code else []
    if fields:
        details.append({"@type": BAD_REQUEST, "fieldViolations": [{"field": field} for field in fields]})
    return json.dumps({"error": {"status": status, "message": message, "details": details}}).encode()


TOKEN_WORDS = "The registration token is not a valid FCM registration token"


@pytest.mark.parametrize(
    ("status", "body", "action", "scope"),
    [
        (404, answer("UNREGISTERED"), "retire", "device"),
        (400, answer("INVALID_ARGUMENT", message=TOKEN_WORDS), "retire", "device"),
        (400, answer("INVALID_ARGUMENT", fields=("message.token",)), "retire", "device"),
        (400, answer("INVALID_ARGUMENT", fields=("message.android.ttl",)), "dead_letter", "device"),
        (
            400,
            answer("INVALID_ARGUMENT", message=TOKEN_WORDS, fields=("message.data",)),
            "dead_letter",
            "device",
        ),
        (400, answer("INVALID_ARGUMENT", message="Message too big"), "dead_letter", "device"),
        (400, answer(fields=("message.token",)), "dead_letter", "device"),
        (403, answer("SENDER_ID_MISMATCH"), "retire", "device"),
        (429, answer("QUOTA_EXCEEDED"), "retry", "credential"),
        (503, answer("UNAVAILABLE"), "retry", "provider"),
        (500, answer("INTERNAL"), "retry", "provider"),
        (401, answer("THIRD_PARTY_AUTH_ERROR"), "break", "credential"),
        (401, answer(status="UNAUTHENTICATED"), "retry_now", "credential"),
        (403, answer(status="PERMISSION_DENIED"), "break", "credential"),
        (404, b"<html>", "break", "credential"),
        (429, b"", "retry", "credential"),
        (502, b"<html>", "retry", "provider"),
        (413, b"\xff", "dead_letter", "device"),
    ],
)
def test_each_line_of_the_table(status: int, body: bytes, action: str, scope: str) -> None:
    """Notes on notifications, section 5, FCM. Only FcmError's word ends a token."""
    outcome = judge_fcm(status, body)
    assert (outcome.kind, outcome.action, outcome.scope) == ("refused", action, scope)


def test_accepted_carries_the_name_and_nothing_is_unknown() -> None:
    """The name finds the message at Google's."""
    assert judge_fcm(200, b'{"name":"projects/p/messages/1"}') == Outcome(
        kind="accepted", action="done", provider_id="projects/p/messages/1"
    )
    assert judge_fcm(0, b"").kind == "unknown"


def test_it_waits_as_it_is_told() -> None:
    """Quota is counted by the minute."""
    assert judge_fcm(429, answer("QUOTA_EXCEEDED"), 9.0).retry_after_s == 9.0
    assert judge_fcm(429, answer("QUOTA_EXCEEDED")).retry_after_s == QUOTA_PAUSE_S
    assert judge_fcm(503, answer("UNAVAILABLE"), 9.0).retry_after_s == 9.0
    assert judge_fcm(503, answer("UNAVAILABLE")).retry_after_s is None


def test_a_fresh_token_that_is_refused_opens_the_breaker() -> None:
    """Refresh once, not for ever."""
    assert judge_fcm(401, answer(), token_age_ms=5_000).action == "break"


@pytest.mark.parametrize(
    ("key", "sent"),
    [("from", "x_from"), ("gcm.n", "x_gcm.n"), ("google_id", "x_google_id"), ("Google", "x_Google"),
     ("message_type", "x_message_type"), ("delivery_id", "x_delivery_id"), ("order", "order"),
     ("fromage", "fromage")],
)  # fmt: skip
def test_reserved_keys_are_prefixed(key: str, sent: str) -> None:
    """FCM would refuse the whole message, and an app must not overwrite our ids."""
    assert data_key(key) == sent


def test_a_message_says_what_the_notification_says() -> None:
    """What the app, Android and an iPhone behind FCM read."""
    made = fcm_message(
        outgoing(
            "fcm", "T", badge=3, collapse_key="c", url="/7", data={"from": "a"}, expires_at_ms=NOW_MS + 9_999
        ),
        NOW_MS,
    )
    assert made is not None
    assert json.loads(made) == {
        "message": {
            "token": "T",
            "notification": {"title": "Shipped", "body": "It is on its way"},
            "data": {"x_from": "a", "notification_id": "7", "delivery_id": "d-1", "url": "/7"},
            "android": {
                "priority": "HIGH",
                "ttl": "9s",
                "collapse_key": "c",
                "notification": {"tag": "c", "notification_count": 3},
            },
            "apns": {
                "headers": {
                    "apns-priority": "10",
                    "apns-expiration": str((NOW_MS + 9_999) // 1_000),
                    "apns-collapse-id": "c",
                },
                "payload": {"aps": {"sound": "default", "badge": 3}},
            },
        }
    }


def test_a_silent_message_is_data_only_and_a_long_one_is_cut() -> None:
    """With a notification in it Android would show it by itself."""
    made = fcm_message(outgoing("fcm", "T", is_silent=True), NOW_MS)
    assert made is not None
    message = json.loads(made)["message"]
    assert "notification" not in message
    assert message["data"]["title"] == "Shipped"
    assert message["android"]["priority"] == "NORMAL"
    assert message["apns"] == {
        "headers": {"apns-priority": "5"},
        "payload": {"aps": {"content-available": 1}},
    }
    made = fcm_message(outgoing("fcm", "T", body="日本" * 3_000), NOW_MS)
    assert made is not None
    assert 4_090 <= len(made) <= 4_096


def test_a_token_is_renewed_five_minutes_before_its_end() -> None:
    """One that lives for less is used for half of its life."""
    for life_s, used_s in ((3_600, 3_300), (400, 200), (0, 0)):
        body = json.dumps({"access_token": "a", "expires_in": life_s}).encode()
        token = judge_token(Response(200, {}, body), NOW_MS)
        assert isinstance(token, AccessToken)
        assert token.renew_at_ms - NOW_MS == used_s * 1_000


@pytest.mark.parametrize(
    ("status", "body", "action", "code"),
    [
        (400, b'{"error":"invalid_grant"}', "break", "invalid_grant"),
        (401, b'{"error":"invalid_client"}', "break", "invalid_client"),
        (429, b"", "retry", "token_429"),
        (503, b"", "retry", "token_503"),
        (200, b"{}", "retry", "token_unreadable"),
    ],
)
def test_no_token_tells_why(status: int, body: bytes, action: str, code: str) -> None:
    """A deleted account opens the breaker; an outage is waited for."""
    refused = judge_token(Response(status, {}, body), NOW_MS)
    assert isinstance(refused, TokenRefused)
    assert (refused.action, refused.code) == (action, code)


class _World:
    def __init__(self, provider: FcmProvider, node: Node) -> None:
        self.provider = provider
        self.node = node
        self.now_ms = NOW_MS
        self.outcomes: list[Outcome] = []

    async def send(self) -> None:
        self.outcomes.append(await self.provider.send(outgoing("fcm", "T")))

    async def send_many(self, count: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self.send)


GRANTED = {"body": {"access_token": "tok-1", "expires_in": 3_600}}


@asynccontextmanager
async def open_fcm(
    orders: dict[str, Any], limits: Limits | None = None, **config: Any
) -> AsyncIterator[_World]:
    """Run a peer that is both endpoints, and a provider."""
    with trio.fail_after(30):
        async with (
            open_node(log=True, orders={"token": GRANTED, **orders}, **config) as node,
            open_push_pools(limits or Limits(), ANYWHERE) as pools,
        ):
            settings = FcmConfig(
                project_id="shop-1",
                client_email="push@shop-1.example",
                private_key=pem_of(KEY),
                token_uri=f"{node.url}/token",
                base_url=node.url,
                ca_pem=certificates().ca,
            )
            world: _World
            provider = FcmProvider(settings, pools=pools, now_ms=lambda: world.now_ms)
            world = _World(provider, node)
            yield world
            await provider.aclose()


@needs_node
@pytest.mark.parametrize("http1", [False, True], ids=["h2", "http1"])
async def test_a_hundred_messages_ask_for_one_token(http1: bool) -> None:
    """One fetch at a time, by either protocol; the grant is signed as Google wants it."""
    async with open_fcm({"messages:send": {"body": {"name": "n"}}}, http1=http1) as world:
        await world.send_many(100)
        assert {outcome.kind for outcome in world.outcomes} == {"accepted"}
        heard = [await world.node.heard() for _ in range(101)]
        paths = Counter(line.get("url") or line["headers"][":path"] for line in heard)
        assert paths == {"/token": 1, "/v1/projects/shop-1/messages:send": 100}
        grant = parse_qs(heard[0]["body"].decode())["assertion"][0]
        claims = jwt.decode(
            grant, KEY.public_key(), ["RS256"], options={"verify_aud": False, "verify_iat": False}
        )
        assert (claims["iss"], claims["scope"]) == ("push@shop-1.example", SCOPE)
        assert (claims["aud"], claims["exp"] - claims["iat"]) == (f"{world.node.url}/token", 3_600)
        assert heard[1]["headers"]["authorization"] == "Bearer tok-1"


@needs_node
async def test_a_refused_token_is_fetched_anew_once() -> None:
    """An old one may have been revoked; a new one that is refused is a matter for people."""
    tokens = [{"body": {"access_token": f"tok-{number}", "expires_in": 3_600}} for number in (1, 2)]
    orders = {"token": tokens, "messages:send": [{}, {"status": 401}]}
    async with open_fcm(orders) as world:
        await world.send()
        world.now_ms += 120_000
        await world.send()
        await world.send()
        await world.send()
        assert [outcome.action for outcome in world.outcomes] == ["done", "retry_now", "break", "break"]
        heard = [(await world.node.heard())["headers"] for _ in range(6)]
        assert [headers[":path"] for headers in heard].count("/token") == 2


@needs_node
async def test_a_deleted_account_breaks_and_is_not_asked_for_each_message() -> None:
    """Nothing is sent, and Google hears of it once."""
    denied = {"status": 400, "body": {"error": "invalid_grant", "error_description": "Account not found"}}
    async with open_fcm({"token": denied}, Limits(first_backoff_s=20.0)) as world:
        await world.send_many(20)
        await world.send_many(20)
        assert {(outcome.action, outcome.code) for outcome in world.outcomes} == {("break", "invalid_grant")}
        assert [line["headers"][":path"] for line in await world.node.all_heard()] == ["/token"]


@needs_node
async def test_a_cancelled_call_leaves_the_token_to_the_others() -> None:
    """The fetch belongs to nobody who may leave."""
    async with open_fcm({"token": GRANTED | {"gate": True}}) as world:
        scope = trio.CancelScope()

        async def give_up() -> None:
            with scope:
                await world.send()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await world.node.heard()  # it is the one whose call began the fetch
            nursery.start_soon(world.send)
            await trio.testing.wait_all_tasks_blocked(0.01)
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked(0.01)
            await world.node.tell(open=True)
        assert [outcome.kind for outcome in world.outcomes] == ["accepted"]


def test_a_token_that_may_be_another_projects_is_doubtful() -> None:
    """UNREGISTERED is about a token that FCM knows."""
    bad = answer("INVALID_ARGUMENT", message=TOKEN_WORDS)
    doubtful = [judge_fcm(403, answer("SENDER_ID_MISMATCH")).is_doubtful, judge_fcm(400, bad).is_doubtful]
    assert (doubtful, judge_fcm(404, answer("UNREGISTERED")).is_doubtful) == ([True, True], False)
