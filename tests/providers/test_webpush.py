"""Web Push: what answers mean, what is sent, and whom an endpoint may not lead to."""

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from actors.notify.delivery import Outcome
from protocol.provider_configs import WebPushConfig
from server.providers.aes128gcm import decrypt
from server.providers.limits import Limits
from server.providers.push_pools import open_push_pools
from server.providers.reach import ANYWHERE
from server.providers.vapid import LIFE_S, Vapid, base64url, public_point
from server.providers.webpush import (
    HOST_PAUSE_S,
    WebPushProvider,
    judge_webpush,
    stub_payload,
    topic_of,
    webpush_payload,
)
from server.providers.webpush_crypto import MAX_PLAINTEXT_BYTES
from tests.providers.peers import Node, certificates, needs_node, open_node, outgoing, pem_of

KEY = ec.generate_private_key(ec.SECP256R1())
BROWSER = ec.generate_private_key(ec.SECP256R1())
AUTH = os.urandom(16)
KEYS = {"p256dh": base64url(public_point(BROWSER)), "auth": base64url(AUTH)}
NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    ("status", "kind", "action", "scope"),
    [
        (200, "accepted", "done", "device"),
        (201, "accepted", "done", "device"),
        (202, "accepted", "done", "device"),
        (204, "accepted", "done", "device"),
        (404, "refused", "retire", "device"),
        (410, "refused", "retire", "device"),
        (400, "refused", "dead_letter", "device"),
        (401, "refused", "break", "host"),
        (403, "refused", "break", "host"),
        (413, "refused", "retry_now", "device"),
        (429, "refused", "retry", "host"),
        (408, "refused", "retry", "host"),
        (500, "refused", "retry", "host"),
        (502, "refused", "retry", "host"),
        (503, "refused", "retry", "host"),
        (507, "refused", "retry", "host"),
        (301, "refused", "dead_letter", "device"),
        (418, "refused", "dead_letter", "device"),
        (0, "unknown", "resolve_unknown", "host"),
    ],
)
def test_each_line_of_the_table(status: int, kind: str, action: str, scope: str) -> None:
    """Notes on notifications, section 5, Web Push."""
    outcome = judge_webpush(status)
    assert (outcome.kind, outcome.action, outcome.scope) == (kind, action, scope)


def test_no_other_status_ends_a_subscription() -> None:
    """Other servers unsubscribed people for one 503."""
    assert [code for code in range(600) if judge_webpush(code).action == "retire"] == [404, 410]


def test_too_large_is_tried_once_more_as_a_stub() -> None:
    """And not for ever."""
    assert judge_webpush(413, is_stub=True).action == "dead_letter"


def test_a_host_says_for_how_long() -> None:
    """Who ignores a 429 is banned by address."""
    assert judge_webpush(429, asked_s=7).retry_after_s == 7
    assert judge_webpush(429).retry_after_s == HOST_PAUSE_S
    assert judge_webpush(503, asked_s=7).retry_after_s == 7
    assert judge_webpush(503).retry_after_s is None


@pytest.mark.parametrize("key", ["a", "order-7", "x" * 500, "日本"])
def test_a_topic_is_short_and_base64url(key: str) -> None:
    """RFC 8030, 5.4."""
    topic = topic_of(key)
    assert len(topic) == 32
    assert topic == topic_of(key) != topic_of(key + "!")
    assert base64.urlsafe_b64decode(topic)


def test_the_service_worker_gets_its_fields() -> None:
    """The shape that web/ reads."""
    made = webpush_payload(
        outgoing("webpush", "https://x/", badge=2, collapse_key="c", url="/7", data={"a": "b"})
    )
    assert made is not None
    assert json.loads(made) == {
        "title": "Shipped",
        "body": "It is on its way",
        "url": "/7",
        "image": "",
        "tag": "c",
        "badge": 2,
        "data": {"a": "b"},
        "notification_id": 7,
        "delivery_id": "d-1",
    }


def test_a_payload_is_shrunk_to_one_record() -> None:
    """First the body; then the image goes, the data, the URL."""
    made = webpush_payload(outgoing("webpush", "https://x/", body="é" * 9_000, data={"a": "b"}))
    assert made is not None
    assert MAX_PLAINTEXT_BYTES - 4 < len(made) <= MAX_PLAINTEXT_BYTES
    assert json.loads(made)["data"] == {"a": "b"}
    made = webpush_payload(
        outgoing("webpush", "https://x/", image="https://x/" + "i" * 2_000, data={"a": "b" * 2_000})
    )
    assert made is not None
    assert (json.loads(made)["image"], json.loads(made)["data"]) == ("", {"a": "b" * 2_000})


def test_vapid_signs_for_the_origin_and_again_before_the_end() -> None:
    """`aud` is the endpoint's origin, `exp` at most 24 hours away, one signature for many messages."""
    vapid = Vapid(pem_of(KEY), "mailto:ops@example.org")
    header = vapid.authorization("https://push.example", NOW_MS)
    scheme, token, key = header.decode().replace(",", "").split(" ")
    assert (scheme, key) == ("vapid", f"k={vapid.public_key}")
    claims = jwt.decode(
        token.removeprefix("t="),
        KEY.public_key(),
        ["ES256"],
        audience="https://push.example",
        options={"verify_exp": False},
    )
    assert claims["sub"] == "mailto:ops@example.org"
    assert claims["exp"] - NOW_MS // 1_000 == LIFE_S <= 86_400
    assert vapid.authorization("https://push.example", NOW_MS + 10 * 3_600_000) == header
    assert vapid.authorization("https://push.example", NOW_MS + 11 * 3_600_000) != header
    assert vapid.authorization("https://other.example", NOW_MS) != header


@asynccontextmanager
async def open_webpush(
    limits: Limits | None = None, *, allow_private: bool = True, **config: Any
) -> AsyncIterator[tuple[WebPushProvider, Node]]:
    """Run a peer, and a provider that trusts its CA."""
    with trio.fail_after(30):
        async with open_node(**config) as node, open_push_pools(limits or Limits(), ANYWHERE) as pools:
            settings = WebPushConfig(
                private_key=pem_of(KEY),
                subject="mailto:ops@example.org",
                allow_private=allow_private,
                ca_pem=certificates().ca,
            )
            provider = WebPushProvider(settings, pools=pools, now_ms=lambda: NOW_MS)
            yield provider, node
            await provider.aclose()


def decrypted(body: bytes) -> Any:
    """Read a message as the browser would."""
    return json.loads(decrypt(body, private_key=BROWSER, auth=AUTH))


@needs_node
@pytest.mark.parametrize(
    "peer", [{}, {"http1": True}, {"tls": False}], ids=["h2", "http1 by TLS", "plain http1"]
)
async def test_a_message_arrives_by_either_protocol(peer: dict[str, Any]) -> None:
    """TLS chooses; the headers of RFC 8030 and 8292 are the same."""
    orders = {"*": {"status": 201, "headers": {"location": "/m/1"}}}
    async with open_webpush(log=True, orders=orders, **peer) as (provider, node):
        base = node.url if peer.get("tls", True) else f"http://127.0.0.1:{node.port}"
        made = outgoing("webpush", f"{base}/p/1", keys=KEYS, collapse_key="c", expires_at_ms=NOW_MS + 60_999)
        assert await provider.send(made) == Outcome(kind="accepted", action="done", provider_id="/m/1")
        heard = await node.heard()
        headers = heard["headers"]
        assert (headers["ttl"], headers["urgency"], headers["topic"]) == (
            "60",
            "high",
            topic_of("c").decode(),
        )
        assert headers["content-encoding"] == "aes128gcm"
        assert headers["content-length"] == str(len(heard["body"]))
        assert headers["authorization"].endswith(f"k={provider.public_key}")
        assert decrypted(heard["body"])["title"] == "Shipped"


@needs_node
async def test_a_host_that_takes_less_gets_a_stub_once() -> None:
    """Better "Shipped" than nothing."""
    async with open_webpush(
        log=True, orders={"1": [{"status": 413}, {"status": 201}], "2": {"status": 413}}
    ) as (
        provider,
        node,
    ):
        made = outgoing("webpush", f"{node.url}/p/1", keys=KEYS, body="x" * 3_000)
        assert (await provider.send(made)).kind == "accepted"
        bodies = [decrypted((await node.heard())["body"]) for _ in range(2)]
        assert [len(body["body"]) for body in bodies] == [3_000, 0]
        assert bodies[1] == json.loads(stub_payload(made))
        again = await provider.send(outgoing("webpush", f"{node.url}/p/2", keys=KEYS))
        assert (again.action, again.code) == ("dead_letter", "413")


@needs_node
async def test_an_endpoint_at_home_is_not_asked() -> None:
    """The peer would have answered 201; it never hears of it."""
    async with open_webpush(log=True, allow_private=False) as (provider, node):
        for host in ("127.0.0.1", "localhost", "2130706433"):
            made = outgoing("webpush", f"https://{host}:{node.port}/p/1", keys=KEYS)
            outcome = await provider.send(made)
            assert (outcome.kind, outcome.action) == ("refused", "dead_letter")
            assert outcome.code == "address_refused"
        plain = await provider.send(outgoing("webpush", f"http://127.0.0.1:{node.port}/p/1", keys=KEYS))
        assert (plain.action, plain.code) == ("dead_letter", "bad_subscription")
        assert await node.all_heard() == []


@needs_node
@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "-", "xn--.example", "[fe80::1%25x]"])
async def test_an_endpoint_with_no_host_is_one_deliverys_loss(host: str) -> None:
    """Anybody may register any. The resolver's own errors once ended the connections of all providers."""
    async with open_webpush() as (provider, node):
        outcome = await provider.send(outgoing("webpush", f"https://{host}/p", keys=KEYS))
        assert (outcome.kind, outcome.action in ("dead_letter", "retry")) == ("refused", True)
        assert (await provider.send(outgoing("webpush", f"{node.url}/p/1", keys=KEYS))).kind == "accepted"


@needs_node
async def test_bad_keys_and_lapsed_messages_are_not_sent() -> None:
    """Nothing leaves."""
    async with open_webpush() as (provider, node):
        outcome = await provider.send(
            outgoing("webpush", f"{node.url}/p/1", keys={"p256dh": "x", "auth": "y"})
        )
        assert (outcome.action, outcome.code) == ("dead_letter", "bad_subscription")
        late = await provider.send(outgoing("webpush", f"{node.url}/p/1", keys=KEYS, expires_at_ms=NOW_MS))
        assert late.action == "expired"
