"""Alerts outlive the node: a kill loses none, and whoever had one knows it by its id."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from protocol.notify_content import NotifyRequest
from protocol.notify_records import AlertRow, RequestRow
from protocol.notify_types import AppRules, TypeRule
from protocol.records import Put
from server.clock import wall_clock_ms
from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from storage.sqlite import open_store
from tests.server.http_world import open_api
from tests.server.notify.notify_world import APP, Clock, Notifier, open_notifier
from tests.server.notify.test_http_notify import Hooks, backend_of, open_webhooks


async def rows_of(notifier: Notifier) -> list[AlertRow]:
    return await notifier.world.store.find(AlertRow, {"app_id": APP})


async def until_rows(notifier: Notifier, is_so: Callable[[list[AlertRow]], bool]) -> list[AlertRow]:
    """Wait until the store holds such rows."""
    while True:
        rows = await rows_of(notifier)
        if is_so(rows):
            return rows
        await trio.sleep(0.005)


async def told_to(notifier: Notifier, url: str) -> None:
    await notifier.core.desk.put_rules(APP, AppRules(alert_webhook=url))


def alerts_at(hooks: Hooks, path: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(body) for body in hooks.at(path)]


async def test_an_open_breaker_is_told_after_a_kill_as_it_was_told_before(tmp_path: Path) -> None:
    """The webhook failed, then the node died: what comes then has the same id, and says the same."""
    async with open_sandbox() as sandbox, open_webhooks() as hooks:
        hooks.refuses["/alerts"] = 500
        async with open_notifier(tmp_path, sandbox) as notifier:
            await told_to(notifier, f"{hooks.url}/alerts")
            person = await notifier.world.person("ann")
            await notifier.has_apns(person, 1)
            person.disconnect()
            sandbox.inject(Fault(channel="apns", status=403, code="InvalidProviderToken", times=1))
            await notifier.notify(NotifyRequest(type="contact", user_id=person.user_id, text="x"))
            await hooks.until_told("/alerts", 1)
        hooks.refuses.clear()
        before = len(hooks.received)
        async with open_notifier(tmp_path, sandbox, is_new=False) as notifier:
            await hooks.until_told("/alerts", before + 1)
            (row,) = await until_rows(notifier, lambda rows: rows[0].told_at_ms > 0)
            assert (row.count, row.telling) == (0, "")
        bodies = hooks.at("/alerts")
        assert set(bodies) == {bodies[0]}
        (alert, *_) = alerts_at(hooks, "/alerts")
        assert (alert["kind"], alert["count"]) == ("breaker_opened", 1)
        assert len(alert["alert_id"]) == 32


async def test_what_nobody_could_be_told_of_waits_for_a_webhook_over_a_restart(tmp_path: Path) -> None:
    """Who sets one up because something is wrong hears what, in the number in which it came."""
    async with open_webhooks() as hooks:
        async with open_notifier(tmp_path) as notifier:
            for _ in range(3):
                notifier.core.alerts.add(APP, "mail_events_nameless", {"provider_id": "ses"})
            notifier.core.alerts.add(APP, "mass_retirement", {"channel": "apns"})
            await until_rows(notifier, lambda rows: sum(row.count for row in rows) == 4)
        async with open_notifier(tmp_path, is_new=False) as notifier:
            await told_to(notifier, f"{hooks.url}/alerts")
            await hooks.until_told("/alerts", 2)
        told = {alert["kind"]: alert["count"] for alert in alerts_at(hooks, "/alerts")}
        assert told == {"mail_events_nameless": 3, "mass_retirement": 1}


async def test_what_was_told_is_not_told_again_by_a_restart(tmp_path: Path) -> None:
    """Its hour goes on, and what comes within it is counted."""
    clock = Clock()
    async with open_webhooks() as hooks:
        async with open_notifier(tmp_path, clock=clock) as notifier:
            await told_to(notifier, f"{hooks.url}/alerts")
            notifier.core.alerts.add(APP, "breaker_opened", {"channel": "sms"})
            await hooks.until_told("/alerts", 1)
            await until_rows(notifier, lambda rows: rows[0].told_at_ms > 0)
        async with open_notifier(tmp_path, is_new=False, clock=clock) as notifier:
            notifier.core.alerts.add(APP, "breaker_opened", {"channel": "sms"})
            notifier.core.alerts.add(APP, "breaker_opened", {"channel": "apns"})
            await hooks.until_told("/alerts", 2)  # the other one, which is news
            clock.ahead_ms += 3_601_000
            await hooks.until_told("/alerts", 3)
        told = [(alert["detail"]["channel"], alert["count"]) for alert in alerts_at(hooks, "/alerts")]
        assert told == [("sms", 1), ("apns", 1), ("sms", 1)]
        assert len({alert["alert_id"] for alert in alerts_at(hooks, "/alerts")}) == 3


async def test_a_request_that_failed_is_stored_with_its_alert(tmp_path: Path) -> None:
    """Killed the moment after: the request says failed, and its app's developers hear of it."""
    clock = Clock()
    async with open_webhooks() as hooks:
        async with open_notifier(tmp_path, clock=clock) as notifier:
            await told_to(notifier, f"{hooks.url}/alerts")
            await notifier.world.people("ann")
            await notifier.core.desk.put_type(APP, TypeRule(name="news"))
            wanted = NotifyRequest(type="news", group="*", text="x", cron="* * * * *")
            done = await notifier.notify(wanted)
            await notifier.core.desk.remove_type(APP, "news")
            flaky = notifier.world.flaky
            unplugged = flaky.unplug_after(1, stores_last=True)  # it runs; then it fails
            clock.ahead_ms += 61_000
            await notifier.wake_app()
            await unplugged.wait()
            await notifier.world.store.barrier()
            row = await notifier.world.store.get(RequestRow, done.request_id)
            assert row is not None
            assert row.state == "failed"
            assert hooks.at("/alerts") == []
            flaky.let_go()
        async with open_notifier(tmp_path, is_new=False, clock=clock) as notifier:
            await hooks.until_told("/alerts", 1)
        (alert,) = alerts_at(hooks, "/alerts")
        assert (alert["kind"], alert["count"]) == ("request_failed", 1)
        assert alert["detail"]["request_id"] == done.request_id


async def test_what_a_node_that_is_gone_had_to_tell_is_told_by_another(tmp_path: Path) -> None:
    """A machine may never come back."""
    row = AlertRow(
        node_id="n0",
        app_id=APP,
        kind="breaker_opened",
        about="channel=sms",
        detail='{"channel":"sms"}',
        at_ms=wall_clock_ms(),
        count=2,
        telling='{"alert_id":"abc","kind":"breaker_opened","app_id":"default","at_ms":1,"count":2,'
        '"detail":{"channel":"sms"}}',
    )
    async with open_store(tmp_path) as store:
        await store.claim_all("n0")
        await store.commit([Put(row)])
    async with open_webhooks() as hooks, open_notifier(tmp_path) as notifier:
        await told_to(notifier, f"{hooks.url}/alerts")
        await hooks.until_told("/alerts", 1)
        (alert,) = alerts_at(hooks, "/alerts")
        assert (alert["alert_id"], alert["count"]) == ("abc", 2)
        await until_rows(notifier, lambda rows: [found.node_id for found in rows] == ["n1"])


async def test_a_full_store_does_not_keep_an_alert_from_being_told(tmp_path: Path) -> None:
    """It may be about just that."""
    async with open_webhooks() as hooks, open_notifier(tmp_path) as notifier:
        await told_to(notifier, f"{hooks.url}/alerts")
        notifier.world.flaky.commits_fail = True
        notifier.core.alerts.add(APP, "breaker_opened", {"channel": "sms"})
        await hooks.until_told("/alerts", 1)
        assert await rows_of(notifier) == []
        notifier.world.flaky.commits_fail = False
        await until_rows(notifier, lambda rows: len(rows) == 1)


async def test_an_apps_developers_see_what_they_have_yet_to_be_told(tmp_path: Path) -> None:
    """The webhook is down: here it says why nothing came. Another app's alerts are its own."""
    async with open_webhooks() as hooks, open_api(tmp_path) as api:
        hooks.refuses["/alerts"] = 500
        backend = await backend_of(api)
        await backend.json("PUT", "/v1/app/notify/rules", json={"alert_webhook": f"{hooks.url}/alerts"})
        assert api.notifications is not None
        api.notifications.alerts.add(APP, "breaker_opened", {"channel": "sms", "detail": "no such key"})
        api.notifications.alerts.add("other", "breaker_opened", {"channel": "sms"})
        await hooks.until_told("/alerts", 1)
        while True:
            (item,) = (await backend.json("GET", "/v1/app/notify/alerts"))["items"]
            if item.get("reason"):
                break
            await trio.sleep(0.005)
        assert (item["kind"], item["count"], item["reason"]) == ("breaker_opened", 1, "status 500")
        assert item["detail"] == {"channel": "sms", "detail": "no such key"}
        assert item["alert_id"] == alerts_at(hooks, "/alerts")[0]["alert_id"]
        hooks.refuses.clear()
        while True:
            (item,) = (await backend.json("GET", "/v1/app/notify/alerts"))["items"]
            if item.get("told_at_ms"):
                break
            await trio.sleep(0.005)
        assert "count" not in item


async def test_deliveries_that_were_late_are_told_although_they_have_caught_up(tmp_path: Path) -> None:
    """Found at a look before the kill; at the next one nothing is late any more."""
    async with open_webhooks() as hooks:
        async with open_notifier(tmp_path) as notifier:
            late = {"channel": "sms", "priority": "high"}
            notifier.core.alerts.stand(APP, "deadline_passed", late, count=3)
            await until_rows(notifier, lambda rows: len(rows) == 1)
        async with open_notifier(tmp_path, is_new=False) as notifier:
            await notifier.core.watch.look()
            await told_to(notifier, f"{hooks.url}/alerts")
            await hooks.until_told("/alerts", 1)
        (alert,) = alerts_at(hooks, "/alerts")
        assert (alert["kind"], alert["count"], alert["detail"]) == ("deadline_passed", 3, late)


async def test_a_mail_that_was_taken_is_not_sent_again_for_the_webhooks_sake(tmp_path: Path) -> None:
    """The mail server has it, the webhook is down, and then the node dies."""
    async with open_sandbox() as sandbox, open_webhooks() as hooks:
        hooks.refuses["/alerts"] = 500
        async with open_notifier(tmp_path, sandbox) as notifier:
            rules = AppRules(alert_webhook=f"{hooks.url}/alerts", alert_email="dev@shop.example")
            await notifier.core.desk.put_rules(APP, rules)
            notifier.core.alerts.add(APP, "breaker_opened", {"channel": "sms"})
            await sandbox.wait_for("smtp", 1)
            await until_rows(notifier, lambda rows: rows[0].is_mailed)
            (told,) = await rows_of(notifier)
        hooks.refuses.clear()
        before = len(hooks.received)
        async with open_notifier(tmp_path, sandbox, is_new=False) as notifier:
            await hooks.until_told("/alerts", before + 1)
            await until_rows(notifier, lambda rows: rows[0].told_at_ms > 0)
            assert sandbox.count("smtp") == 1
        assert alerts_at(hooks, "/alerts")[-1]["alert_id"] == msgspec.json.decode(told.telling)["alert_id"]
