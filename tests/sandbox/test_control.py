"""The control API, for tests in other processes and languages."""

from typing import Any

import httpx
import pytest
import trio

from server.sandbox import Sandbox
from tests.sandbox.clients import TOKEN, Clock, apns_headers, http_client, provider_token


@pytest.fixture
def ask(sandbox: Sandbox) -> Any:
    async def ask(method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.request(method, sandbox.control_url + path, json=body, headers=headers)

    return ask


async def push(sandbox: Sandbox, clock: Clock) -> int:
    async with http_client(sandbox) as client:
        response = await client.post(
            f"{sandbox.apns_url}/3/device/{TOKEN}",
            json={"aps": {"alert": "Hi"}, "delivery_id": "d_1"},
            headers=apns_headers(provider_token(sandbox, clock.now_s())),
        )
    return response.status_code


async def test_it_tells_where_everything_is(sandbox: Sandbox, ask: Any) -> None:
    """An app in any language is set up from here."""
    home = (await ask("GET", "/")).json()
    assert home["addresses"]["apns_url"] == sandbox.apns_url
    configs = (await ask("GET", "/v1/configs")).json()
    assert configs["apns"]["kind"] == "apns"
    assert configs["smtp"]["port"] == sandbox.smtp_port
    assert (await ask("GET", "/v1/ca.pem")).text == sandbox.ca_pem


async def test_deliveries_can_be_awaited(sandbox: Sandbox, clock: Clock, ask: Any) -> None:
    """A waiting call returns when the push is there; one that waits in vain says so."""
    found: list[Any] = []

    async def wait() -> None:
        found.append((await ask("GET", "/v1/deliveries/apns?count=1&timeout_s=10")).json())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        assert await push(sandbox, clock) == 200
    (body,) = found
    assert (body["count"], body["is_complete"]) == (1, True)
    (delivery,) = body["deliveries"]
    assert (delivery["identity"], delivery["content"]["payload"]["aps"]) == ("d_1", {"alert": "Hi"})
    body = (
        await ask("GET", f"/v1/deliveries/apns?count=2&timeout_s=0.05&after_seq={delivery['seq']}")
    ).json()
    assert (body["count"], body["is_complete"], body["deliveries"]) == (1, False, [])
    assert await push(sandbox, clock) == 200
    assert (await ask("GET", "/v1/doubles/apns")).json() == {"d_1": 2}
    assert (await ask("GET", "/v1/counts")).json()["apns"] == {"count": 2, "doubles": 1}


async def test_faults_and_outages_come_and_go(sandbox: Sandbox, clock: Clock, ask: Any) -> None:
    """As from Python."""
    made = await ask("POST", "/v1/faults", {"channel": "apns", "status": 503})
    assert made.status_code == 201
    assert await push(sandbox, clock) == 503
    (rule,) = (await ask("GET", "/v1/faults")).json()
    assert (rule["hit_count"], rule["fault"]) == (1, {"channel": "apns", "status": 503})
    assert (await ask("DELETE", f"/v1/faults/{made.json()['id']}")).status_code == 204
    assert await push(sandbox, clock) == 200
    assert (await ask("PUT", "/v1/outages/apns")).status_code == 204
    with pytest.raises(httpx.TransportError):
        await push(sandbox, clock)
    assert (await ask("POST", "/v1/reset")).status_code == 204
    clock.ahead_s = 1_300  # the third provider token
    assert await push(sandbox, clock) == 200
    assert sandbox.count("apns") == 1


async def test_what_is_held_is_awaited_and_let_go(sandbox: Sandbox, clock: Clock, ask: Any) -> None:
    """A test in any language does something while a provider thinks."""
    assert (await ask("POST", "/v1/faults", {"channel": "apns", "holds": True})).status_code == 201
    found = (await ask("GET", "/v1/holds/apns?count=1&timeout_s=0.05")).json()
    assert found == {"count": 0, "is_complete": False}
    statuses: list[int] = []

    async def one() -> None:
        statuses.append(await push(sandbox, clock))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        found = (await ask("GET", "/v1/holds/apns?count=1&timeout_s=10")).json()
        assert found == {"count": 1, "is_complete": True}
        assert (await ask("DELETE", "/v1/holds/sms")).json() == {"count": 0}
        assert statuses == []
        assert (await ask("DELETE", "/v1/holds")).json() == {"count": 1}
    assert statuses == [200]
    assert (await ask("DELETE", "/v1/holds/pigeon")).status_code == 400


async def test_devices_browsers_and_phones_are_told_of(sandbox: Sandbox, clock: Clock, ask: Any) -> None:
    """One route for each kind of address."""
    device = {"token": TOKEN, "gone_at_ms": 1}
    assert (await ask("PUT", "/v1/apns/devices", device)).status_code == 204
    assert await push(sandbox, clock) == 410
    await ask("PUT", "/v1/fcm/registrations", {"token": "abc", "is_gone": True})
    subscription = (await ask("POST", "/v1/webpush/subscriptions", {})).json()
    found = sandbox.webpush.find(subscription["endpoint"])
    assert found is not None
    assert found.as_json() == subscription
    change = {"endpoint": subscription["endpoint"], "is_online": False}
    assert (await ask("PUT", "/v1/webpush/subscriptions", change)).status_code == 204
    assert not found.is_online
    await ask("PUT", "/v1/webpush/subscriptions", {**change, "is_gone": True})
    assert found.is_gone
    assert (await ask("PUT", "/v1/sms/phones", {"number": "+49151"})).status_code == 204
    assert (await ask("GET", "/v1/receipts")).json() == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/v1/deliveries/pigeon", None, 400),
        ("GET", "/v1/deliveries/apns?limit=x", None, 400),
        ("POST", "/v1/faults", {"channel": "apns", "colour": "red"}, 400),
        ("DELETE", "/v1/faults/99", None, 404),
        ("PUT", "/v1/webpush/subscriptions", {"endpoint": "x"}, 404),
    ],
)
async def test_wrong_calls_are_told_in_words(
    ask: Any, method: str, path: str, body: Any, status: int
) -> None:
    """Not by a crash of the sandbox."""
    response = await ask(method, path, body)
    assert response.status_code == status
    assert response.json()["error"]


async def test_other_names_for_this_machine_are_refused(ask: Any) -> None:
    """A web page must not reach it by a name that it points here."""
    assert (await ask("GET", "/", host="evil.example.com")).status_code == 403
