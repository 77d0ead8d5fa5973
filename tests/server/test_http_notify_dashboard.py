"""The notification dashboard over HTTP: who may see it, and that its numbers are the service's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import trio

from protocol.http_notify_dashboard import NotifyDashboard
from protocol.notify_records import DeadDelivery
from server.config import Settings
from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from tests.server.http_world import Api, code_of, open_api
from tests.server.notify.notify_world import apns_token
from tests.server.notify.test_http_notify import Backend, backend_of, with_sandbox

ADMIN = "an-admin-token-of-some-length"
MINE, ALL = "/v1/app/notify/dashboard", "/v1/notify/dashboard"


def dashboard_of(response: httpx.Response) -> NotifyDashboard:
    assert response.status_code == 200, response.text
    return msgspec.json.decode(response.content, type=NotifyDashboard, strict=True)


async def until(read: Callable[[], Any], test: Callable[[NotifyDashboard], bool]) -> NotifyDashboard:
    """Ask as the page does, until it shows something: what is shown may be 2 s old."""
    while True:
        found = dashboard_of(await read())
        if test(found):
            return found
        await trio.sleep(0.1)


async def reachable(backend: Backend, number: int = 1) -> str:
    """A user with a phone."""
    user_id = await backend.user(f"user-{number}")
    address = {"channel": "apns", "address": apns_token(number)}
    await backend.json("POST", f"/v1/app/users/{user_id}/addresses", json=address)
    return user_id


async def send(backend: Backend, user_id: str, **more: Any) -> int:
    body = {"type": "order", "user_id": user_id, "text": "It is on its way.", **more}
    accepted = await backend.json("POST", "/v1/notifications", 202, json=body)
    notification_id: int = accepted["items"][0]["notification_id"]
    return notification_id


async def with_orders(api: Api, app_id: str = "default") -> Backend:
    """A backend whose app has a type that goes by push."""
    backend = await backend_of(api, app_id)
    rule = {"name": "order", "channels": ["apns"], "is_capped": False, "dedup_s": 0}
    await backend.json("PUT", "/v1/app/notify/types/order", json=rule)
    return backend


async def test_operators_see_all_apps_and_others_nothing(tmp_path: Path) -> None:
    """The numbers of all customers are for who runs the machine."""
    async with open_api(tmp_path, settings=Settings(admin_token=ADMIN)) as api:
        here = dashboard_of(await api.call("GET", ALL))
        assert here.app_id == ""
        proxied = {"x-forwarded-for": "203.0.113.9"}
        assert code_of(await api.call("GET", ALL, headers=proxied)) == (403, "forbidden")
        wrong = proxied | {"authorization": "Bearer wrong"}
        assert code_of(await api.call("GET", ALL, headers=wrong)) == (403, "forbidden")
        right = proxied | {"authorization": f"Bearer {ADMIN}"}
        assert (await api.call("GET", ALL, headers=right)).status_code == 200
        backend = await backend_of(api)
        of_app = proxied | backend.basic
        assert code_of(await api.call("GET", ALL, headers=of_app)) == (403, "forbidden")
        assert code_of(await api.call("GET", MINE)) == (401, "unauthenticated")


async def test_a_page_elsewhere_cannot_read_it_in_an_operators_browser(tmp_path: Path) -> None:
    """DNS rebinding: the browser is on this machine, but asks for somebody else's name."""
    async with open_api(tmp_path, settings=Settings(admin_token=ADMIN)) as api:
        for host in ("evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", ""):
            headers = {"host": host, "authorization": "Bearer guessed"}
            assert (await api.call("GET", ALL, headers=headers)).status_code in (400, 403), host
            explained = await api.call("GET", "/v1/notify/notifications/1/explain", headers=headers)
            assert explained.status_code in (400, 403), host
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
            assert (await api.call("GET", ALL, headers={"host": host})).status_code == 200
        named = {"host": "chat.example", "authorization": f"Bearer {ADMIN}"}
        assert (await api.call("GET", ALL, headers=named)).status_code == 200


async def test_an_app_sees_its_own_deliveries_and_nobody_elses(tmp_path: Path) -> None:
    """Two customers on one server."""
    async with open_sandbox() as sandbox, open_api(tmp_path) as api:
        mine, other = await with_orders(api), await with_orders(api, await api.other_app())
        await with_sandbox(mine, sandbox, "apns")
        ann = await reachable(mine)
        for _ in range(3):
            await mine.until_done(await send(mine, ann))
        quiet = {"start": "00:00", "end": "23:59"}
        wishes = {"quiet_hours": quiet}
        await mine.json("PUT", f"/v1/app/users/{ann}/preferences", json=wishes)
        await send(mine, ann, send_at="2090-01-01T09:00:00Z")

        seen = await until(
            lambda: mine.call("GET", MINE),
            lambda found: bool(found.providers.lines and found.providers.lines[0].accepted_count == 3),
        )
        (provider,) = seen.providers.lines
        assert (provider.provider_id, provider.kind, provider.breaker) == ("apns", "apns", "closed")
        assert (provider.success, provider.doubled_count, provider.unknown_count) == (1.0, 0, 0)
        assert provider.p50_ms is not None
        assert 0 <= provider.p50_ms <= (provider.p99_ms or 0) < 20_000
        assert seen.providers.is_complete
        assert [(line.count, line.next_due_at_ms) for line in seen.held.lines] == [(1, 3_786_944_400_000)]
        assert (seen.queues.lines, seen.queues.is_complete) == ([], True)
        assert (seen.held.total, seen.queues.open_totals) == (1, {})

        theirs = dashboard_of(await other.call("GET", MINE))
        assert (theirs.providers.lines, theirs.held.lines, theirs.queues.lines) == ([], [], [])
        assert (theirs.rates.since_start, theirs.rates.decided_per_s, theirs.held.total) == ({}, {}, 0)

        whole = dashboard_of(await api.call("GET", ALL))
        assert whole.rates.since_start["accepted"] == 3
        assert [(line.node_id, line.is_missing) for line in whole.nodes] == [("n1", False)]
        assert whole.held.total == 1
        assert {line.app_id for line in whole.providers.lines} == {"default"}


async def test_dead_letters_are_counted_by_code_and_gone_once_redriven(tmp_path: Path) -> None:
    """What a developer does in the morning after."""
    async with open_sandbox() as sandbox, open_api(tmp_path) as api:
        backend = await with_orders(api)
        await with_sandbox(backend, sandbox, "apns")
        ann = await reachable(backend)
        sandbox.inject(Fault(channel="apns", status=400, code="BadTopic", times=2))
        first = await send(backend, ann)
        await send(backend, ann)
        seen = await until(
            lambda: backend.call("GET", MINE),
            lambda found: bool(found.dead.lines and found.dead.lines[0].count == 2),
        )
        (line,) = seen.dead.lines
        assert (line.app_id, line.channel, line.provider_id, line.code) == (
            "default",
            "apns",
            "apns",
            "BadTopic",
        )
        assert 0 < line.oldest_at_ms <= line.newest_at_ms
        whole = dashboard_of(await api.call("GET", ALL))
        assert [found.count for found in whole.dead.lines] == [2]

        asked = {"channel": "apns", "code": "BadTopic"}
        done = await backend.json("POST", "/v1/app/notify/dead_letters/redrive", 202, json=asked)
        assert done["count"] == 2
        await sandbox.wait_for("apns", 2)
        after = dashboard_of(await backend.call("GET", MINE))
        assert after.dead.lines == []
        assert await api.store.find(DeadDelivery, {}) == []
        told = await api.call("GET", f"/v1/notify/notifications/{first}/explain")
        rules = [decision[0] for entry in told.json()["ledger"] for decision in entry["decisions"]]
        assert "redrive" in rules


async def test_a_paused_provider_keeps_its_settings_and_its_queue(tmp_path: Path) -> None:
    """During a provider's bad day: stop sending, lose nothing, go on later without the secrets at hand."""
    async with open_sandbox() as sandbox, open_api(tmp_path) as api:
        backend = await with_orders(api)
        await with_sandbox(backend, sandbox, "apns")
        ann = await reachable(backend)
        path = "/v1/app/notify/providers/apns"
        paused = await backend.json("POST", f"{path}/pause")
        assert paused["is_paused"] is True
        notification_id = await send(backend, ann)
        seen = await until(
            lambda: backend.call("GET", MINE),
            lambda found: [line.open_count for line in found.queues.lines] == [1],
        )
        (line,) = seen.queues.lines
        assert (line.channel, line.priority, line.overdue_count) == ("apns", "medium", 0)
        assert [provider.is_paused for provider in seen.providers.lines] == [True]
        assert sandbox.count("apns") == 0
        resumed = await backend.json("POST", f"{path}/resume")
        assert resumed.get("is_paused", False) is False
        await sandbox.wait_for("apns", 1)
        await backend.until_done(notification_id)
        missing = await backend.call("POST", "/v1/app/notify/providers/none/pause")
        assert code_of(missing) == (404, "provider_not_found")
        other = await backend_of(api, await api.other_app())
        assert code_of(await other.call("POST", f"{path}/pause")) == (404, "provider_not_found")


async def test_larger_requests_and_experiments_are_shown(tmp_path: Path) -> None:
    """A campaign that waits for its hour, and a test of two texts."""
    async with open_api(tmp_path) as api:
        backend = await with_orders(api)
        users = [await backend.user(f"u{number}") for number in range(3)]
        await backend.json("POST", "/v1/app/groups/friends", json={"add": users})
        texts = {name: {"en": {"default": {"title": name, "body": "Hello"}}} for name in ("default", "warm")}
        template = {"name": "hello", "texts": texts}
        await backend.json("PUT", "/v1/app/notify/templates/hello", json=template)
        experiment = {
            "name": "greeting",
            "template": "hello",
            "variants": {"default": 1, "warm": 1},
        }
        await backend.json("PUT", "/v1/app/notify/experiments/greeting", json=experiment)
        asked = {"type": "order", "group": "friends", "text": "Hello", "cron": "0 9 * * *"}
        await backend.json("POST", "/v1/notifications", 202, json=asked)
        seen = dashboard_of(await backend.call("GET", MINE))
        (request,) = seen.requests
        assert (request.state, request.group, request.cron) == ("waiting", "friends", "0 9 * * *")
        assert (request.reached_count, request.audience_count) == (0, 3)
        (shown,) = seen.experiments
        assert shown.results is not None
        assert {variant.variant for variant in shown.results.variants} == {"default", "warm"}
        other = await backend_of(api, await api.other_app())
        theirs = dashboard_of(await other.call("GET", MINE))
        assert (theirs.requests, theirs.experiments) == ([], [])
        whole = dashboard_of(await api.call("GET", ALL))
        assert (len(whole.requests), len(whole.experiments)) == (1, 1)
