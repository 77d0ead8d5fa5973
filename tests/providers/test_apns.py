"""APNs: what its answers mean, what is sent, and how we fare with Node's own HTTP/2 server."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from actors.notify.delivery import Outcome
from protocol.provider_configs import ApnsConfig
from server.providers.apns import (
    TOKEN_UPDATES_PAUSE_S,
    ApnsProvider,
    apns_id,
    apns_payload,
    collapse_id,
    judge_apns,
    push_kind,
)
from server.providers.limits import Limits
from server.providers.push_pools import PushPools, open_push_pools
from server.providers.reach import ANYWHERE
from tests.providers.peers import (
    DEVICE,
    Node,
    certificates,
    needs_node,
    open_node,
    outgoing,
    pem_of,
    public_pem_of,
)

KEY = ec.generate_private_key(ec.SECP256R1())
NOW_MS = 1_800_000_000_000
MINUTE_MS = 60_000

DEAD_LETTERS = [
    (400, "BadCollapseId"), (400, "BadExpirationDate"), (400, "BadMessageId"), (400, "BadPriority"),
    (400, "BadTopic"), (400, "MissingTopic"), (400, "TopicDisallowed"), (400, "InvalidPushType"),
    (400, "PayloadEmpty"), (400, "DuplicateHeaders"), (400, "MissingDeviceToken"), (404, "BadPath"),
    (405, "MethodNotAllowed"), (413, "PayloadTooLarge"), (400, "SomethingNew"),
]  # fmt: skip
BREAKS = [
    "InvalidProviderToken", "MissingProviderToken", "BadCertificate", "BadCertificateEnvironment",
    "Forbidden",
]  # fmt: skip


@pytest.mark.parametrize(("status", "reason"), DEAD_LETTERS)
def test_a_mistake_of_ours_is_a_dead_letter(status: int, reason: str) -> None:
    """The same request would fail again."""
    outcome = judge_apns(status, reason)
    assert (outcome.kind, outcome.action, outcome.code) == ("refused", "dead_letter", reason)


def test_a_token_that_may_be_another_environments_is_doubtful() -> None:
    """410 is about a token that APNs knows; the others look the same with the wrong account."""
    doubtful = [
        judge_apns(400, reason).is_doubtful for reason in ("BadDeviceToken", "DeviceTokenNotForTopic")
    ]
    assert (doubtful, judge_apns(410, "Unregistered").is_doubtful) == ([True, True], False)


@pytest.mark.parametrize("reason", BREAKS)
def test_bad_credentials_open_the_breaker(reason: str) -> None:
    """Ten thousand notifications are not to become ten thousand dead letters."""
    outcome = judge_apns(403, reason)
    assert (outcome.kind, outcome.action, outcome.scope) == ("refused", "break", "credential")


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (400, "BadDeviceToken", ("refused", "retire", "device")),
        (400, "DeviceTokenNotForTopic", ("refused", "retire", "device")),
        (400, "IdleTimeout", ("refused", "retry_now", "provider")),
        (429, "TooManyProviderTokenUpdates", ("refused", "retry", "credential")),
        (429, "TooManyRequests", ("refused", "retry", "device")),
        (500, "InternalServerError", ("refused", "retry", "provider")),
        (503, "ServiceUnavailable", ("refused", "retry", "provider")),
        (503, "Shutdown", ("refused", "retry", "provider")),
        (0, "", ("unknown", "resolve_unknown", "provider")),
    ],
)
def test_each_line_of_the_table(status: int, reason: str, expected: tuple[str, str, str]) -> None:
    """Notes on notifications, section 5, APNs."""
    outcome = judge_apns(status, reason)
    assert (outcome.kind, outcome.action, outcome.scope) == expected


@pytest.mark.parametrize("reason", ["Unregistered", "ExpiredToken"])
def test_a_dead_token_tells_since_when(reason: str) -> None:
    """A device that registered again later is alive."""
    outcome = judge_apns(410, reason, 1_700_000_000_123)
    assert (outcome.action, outcome.invalid_since_ms) == ("retire", 1_700_000_000_123)


def test_accepted_carries_the_id() -> None:
    """The ledger finds it at Apple's by that."""
    assert judge_apns(200, "", provider_id="x") == Outcome(kind="accepted", action="done", provider_id="x")


@pytest.mark.parametrize(("age_min", "action"), [(19, "break"), (20, "retry_now"), (55, "retry_now")])
def test_an_expired_token_is_signed_anew_unless_it_is_new(age_min: int, action: str) -> None:
    """A new token that is expired means a wrong clock; signing more would only bring a 429."""
    outcome = judge_apns(403, "ExpiredProviderToken", token_age_ms=age_min * MINUTE_MS)
    assert (outcome.action, outcome.scope) == (action, "credential")


def test_apns_id_is_a_lower_case_uuid_and_stable() -> None:
    """The same in each attempt, and after a restart."""
    first = apns_id("n7-d1")
    assert first == apns_id("n7-d1") == str(uuid.UUID(first)).lower() != apns_id("n7-d2")
    assert first == "99194efa-523d-5eb9-8807-51570db06a30"


@pytest.mark.parametrize(
    ("key", "is_kept"),
    [("order-7", True), ("x" * 64, True), ("x" * 65, False), ("é", False), ("a\nb", False)],
)
def test_a_collapse_id_is_plain_and_short(key: str, is_kept: bool) -> None:
    """BadCollapseId would be a dead letter."""
    made = collapse_id(key)
    assert (made == key.encode()) is is_kept
    assert len(made) <= 64
    assert made.isascii()
    assert made == collapse_id(key)


def test_push_type_and_priority() -> None:
    """A background push with priority 10 is refused."""
    assert push_kind(outgoing("apns", DEVICE)) == ("alert", 10)
    assert push_kind(outgoing("apns", DEVICE, priority="low")) == ("alert", 5)
    assert push_kind(outgoing("apns", DEVICE, is_silent=True)) == ("background", 5)
    assert push_kind(outgoing("apns", DEVICE, is_silent=True, badge=3)) == ("alert", 5)


def test_a_payload_says_what_the_notification_says() -> None:
    """What the app's code reads on the phone."""
    made = apns_payload(
        outgoing("apns", DEVICE, badge=0, image="https://x/i.png", url="https://x/7", data={"order": "7"})
    )
    assert made is not None
    assert json.loads(made) == {
        "aps": {
            "alert": {"title": "Shipped", "body": "It is on its way"},
            "sound": "default",
            "thread-id": "order",
            "mutable-content": 1,
            "badge": 0,
        },
        "url": "https://x/7",
        "image": "https://x/i.png",
        "data": {"order": "7"},
        "notification_id": 7,
        "delivery_id": "d-1",
    }


def test_a_silent_payload_has_neither_text_nor_sound() -> None:
    """Apple drops background pushes that have."""
    made = apns_payload(outgoing("apns", DEVICE, is_silent=True, data={"sync": "1"}))
    assert made is not None
    assert json.loads(made)["aps"] == {"content-available": 1}


@pytest.mark.parametrize("text", ["word " * 2_000, "日本語" * 1_000, '"\\' * 3_000, "👩‍👩‍👧" * 400])
def test_a_long_body_is_cut_on_a_character(text: str) -> None:
    """4,096 bytes, and still JSON and text."""
    made = apns_payload(outgoing("apns", DEVICE, body=text, data={"k": "v"}))
    assert made is not None
    assert 3_900 < len(made) <= 4_096
    payload = json.loads(made)
    cut = payload["aps"]["alert"]["body"]
    assert cut.endswith("…")
    assert text.startswith(cut[:-1])
    assert not cut[:-1].endswith("\u200d")
    assert payload["data"] == {"k": "v"}


def config_of(node: Node, **changed: Any) -> ApnsConfig:
    """Tell the app's settings for this peer."""
    facts: dict[str, Any] = {
        "team_id": "TEAM123456",
        "key_id": "KEY1234567",
        "private_key": pem_of(KEY),
        "topic": "org.example.shop",
        "base_url": node.url,
        "ca_pem": certificates().ca,
    }
    return ApnsConfig(**(facts | changed))


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@asynccontextmanager
async def open_apns(
    limits: Limits | None = None, **config: Any
) -> AsyncIterator[tuple[ApnsProvider, Node, Clock, PushPools]]:
    """Run a peer, and a provider that sends to it."""
    clock = Clock()
    with trio.fail_after(30):
        async with open_node(**config) as node, open_push_pools(limits or Limits(), ANYWHERE) as pools:
            provider = ApnsProvider(config_of(node), pools=pools, now_ms=clock)
            yield provider, node, clock, pools
            await provider.aclose()


@needs_node
async def test_node_accepts_what_we_send() -> None:
    """All that APNs checks: path, headers, the id, the size, and the signature of the token."""
    async with open_apns(sandbox=True, log=True, verify=public_pem_of(KEY)) as (provider, node, _, _):
        made = outgoing(
            "apns", DEVICE.upper(), body="x" * 9_000, collapse_key="c" * 80, expires_at_ms=NOW_MS + 5_999
        )
        outcome = await provider.send(made)
        assert outcome == Outcome(kind="accepted", action="done", provider_id=apns_id("d-1"))
        headers = (await node.heard())["headers"]
        assert headers[":path"] == f"/3/device/{DEVICE}"
        assert headers["apns-topic"] == "org.example.shop"
        assert headers["apns-expiration"] == str(NOW_MS // 1_000 + 5)
        assert headers["apns-collapse-id"] == collapse_id("c" * 80).decode()
        assert (await provider.send(outgoing("apns", DEVICE, is_silent=True))).kind == "accepted"


@needs_node
async def test_a_wrong_key_breaks_for_that_key_alone() -> None:
    """One app's bad key is not the other app's trouble, though team and key id are the same."""
    async with open_apns(sandbox=True, verify=public_pem_of(KEY)) as (provider, node, clock, pools):
        other = pem_of(ec.generate_private_key(ec.SECP256R1()))
        stranger = ApnsProvider(config_of(node, private_key=other), pools=pools, now_ms=clock)
        assert (await provider.send(outgoing("apns", DEVICE))).kind == "accepted"
        assert (await stranger.send(outgoing("apns", DEVICE))).code == "InvalidProviderToken"
        await stranger.aclose()
        assert (await provider.send(outgoing("apns", DEVICE))).kind == "accepted"


@needs_node
async def test_apps_with_one_key_share_token_and_connection() -> None:
    """Two tokens of one team within 20 minutes would bring TooManyProviderTokenUpdates."""
    async with open_apns(log=True) as (provider, node, clock, pools):
        second = ApnsProvider(config_of(node, topic="org.example.other"), pools=pools, now_ms=clock)
        await provider.send(outgoing("apns", DEVICE))
        first_heard = await node.heard()
        await provider.aclose()  # the other one still needs what they share
        await second.send(outgoing("apns", DEVICE))
        second_heard = await node.heard()
        assert first_heard["headers"]["authorization"] == second_heard["headers"]["authorization"]
        assert first_heard["session"] == second_heard["session"] == 0
        assert second_heard["headers"]["apns-topic"] == "org.example.other"
        await second.aclose()


@needs_node
async def test_a_410_tells_since_when() -> None:
    """From the body, in milliseconds."""
    body = {"reason": "Unregistered", "timestamp": 1_700_000_000_123}
    async with open_apns(orders={DEVICE: {"status": 410, "body": body}}) as (provider, _, _, _):
        outcome = await provider.send(outgoing("apns", DEVICE))
        assert (outcome.action, outcome.code, outcome.invalid_since_ms) == (
            "retire",
            "Unregistered",
            1_700_000_000_123,
        )


@needs_node
async def test_an_expired_token_is_replaced_once_for_all() -> None:
    """Of a hundred that hear of it, one signs; and none signs again within 20 minutes."""
    expired = {"status": 403, "body": {"reason": "ExpiredProviderToken"}}
    async with open_apns(orders={"*": expired}, log=True) as (provider, node, clock, _):
        assert (await provider.send(outgoing("apns", DEVICE))).action == "break"
        clock.now_ms += 30 * MINUTE_MS
        outcomes: list[Outcome] = []

        async def send() -> None:
            outcomes.append(await provider.send(outgoing("apns", DEVICE)))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(send)
        assert {outcome.action for outcome in outcomes} == {"retry_now"}
        assert (await provider.send(outgoing("apns", DEVICE))).action == "break"
        tokens = [(await node.heard())["headers"]["authorization"] for _ in range(102)]
        assert len(set(tokens)) == 2


@needs_node
async def test_too_many_token_updates_closes_the_connection_and_pauses() -> None:
    """Apple keeps refusing on that connection; signing on would prolong it."""
    too_many = {"status": 429, "body": {"reason": "TooManyProviderTokenUpdates"}}
    async with open_apns(orders={"*": [too_many, {}]}, log=True) as (provider, node, _, _):
        outcome = await provider.send(outgoing("apns", DEVICE))
        assert (outcome.action, outcome.scope, outcome.retry_after_s) == (
            "retry",
            "credential",
            TOKEN_UPDATES_PAUSE_S,
        )
        assert (await node.heard("goaway"))["goaway"] == 0  # we closed it
        again = await provider.send(outgoing("apns", DEVICE))
        assert (again.kind, again.action, again.code) == ("refused", "retry", "backing_off")
        assert 50 < (again.retry_after_s or 0) <= TOKEN_UPDATES_PAUSE_S


@needs_node
async def test_a_503_moves_to_another_connection() -> None:
    """Another server may be well."""
    ill = {"status": 503, "body": {"reason": "ServiceUnavailable"}, "headers": {"retry-after": "7"}}
    async with open_apns(orders={"*": [ill, {}]}, log=True) as (provider, node, _, _):
        outcome = await provider.send(outgoing("apns", DEVICE))
        assert (outcome.kind, outcome.action, outcome.scope, outcome.retry_after_s) == (
            "refused",
            "retry",
            "provider",
            7.0,
        )
        assert (await provider.send(outgoing("apns", DEVICE))).kind == "accepted"
        assert [(await node.heard())["session"] for _ in range(2)] == [0, 1]


@needs_node
async def test_a_timeout_after_it_left_is_unknown() -> None:
    """It may have arrived; only the type's policy may send it again."""
    async with open_apns(Limits(request_timeout_s=0.3), orders={DEVICE: {"stall": True}}) as (
        provider,
        _,
        _,
        _,
    ):
        outcome = await provider.send(outgoing("apns", DEVICE))
        assert (outcome.kind, outcome.action, outcome.code) == ("unknown", "resolve_unknown", "timeout")


async def test_nobody_there_is_a_retry() -> None:
    """Nothing was sent; and the pool does not try again for each notification."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    async with open_push_pools(reach=ANYWHERE) as pools:
        config = config_of(Node(None, port, None))  # type: ignore[arg-type]  # only its URL is used
        provider = ApnsProvider(config, pools=pools, now_ms=lambda: NOW_MS)
        outcome = await provider.send(outgoing("apns", DEVICE))
        assert (outcome.kind, outcome.action, outcome.scope) == ("refused", "retry", "provider")
        assert outcome.code == "connect_failed"
        assert (outcome.retry_after_s or 0) > 0
        assert (await provider.send(outgoing("apns", DEVICE))).code == "backing_off"
        assert (await provider.send(outgoing("apns", "../../etc"))).code == "malformed_token"
        late = await provider.send(outgoing("apns", DEVICE, expires_at_ms=NOW_MS))
        assert late.action == "expired"


async def test_a_bad_key_is_told_at_once() -> None:
    """Whoever enters the settings learns it, not the first notification."""
    async with open_push_pools(reach=ANYWHERE) as pools:
        config = config_of(Node(None, 1, None), private_key="secret")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="PEM"):
            ApnsProvider(config, pools=pools, now_ms=lambda: NOW_MS)
