"""Telling apps of events, and developers of alerts: a bad webhook is its own app's loss, and none is lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from protocol.errors import Unavailable
from protocol.notify_content import NotifyRequest
from protocol.notify_found import UntoldDead
from protocol.notify_records import AlertRow, DeadDelivery, NotifyAppRow
from protocol.notify_types import AppRules, TypeRule
from protocol.records import Put
from server.notify.app_setup import AppSetup
from server.notify.setups import SetupCache
from server.notify.watch import MAX_CAUSES, OTHERS, reports_of
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, open_sandbox
from tests.server.notify.notify_world import APP, Notifier, open_notifier
from tests.server.notify.test_http_notify import open_webhooks

# Of a release that did not look at them.
UNREADABLE = "http://a..b/"


class Silent:
    """A server that takes connections and says nothing."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        self.called = trio.Event()
        self.is_left = False


@asynccontextmanager
async def open_silent() -> AsyncIterator[Silent]:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    silent = Silent(listener)

    async def serve(stream: trio.SocketStream) -> None:
        silent.called.set()
        while await stream.receive_some():
            pass
        silent.is_left = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield silent
        nursery.cancel_scope.cancel()


async def put_unchecked(notifier: Notifier, app_id: str, rules: AppRules) -> None:
    row = NotifyAppRow(app_id=app_id, version=1, rules=msgspec.json.encode(rules).decode())
    await notifier.world.store.commit([Put(row)])
    await notifier.core.setups.reload(app_id)


async def put_type(notifier: Notifier, app_id: str) -> None:
    await notifier.core.desk.put_type(app_id, TypeRule(name="t", channels=["inapp"], dedup_s=0))


async def test_events_reach_a_good_app_beside_one_whose_webhook_cannot_be_read(tmp_path: Path) -> None:
    """Apps of several people share a server."""
    async with open_webhooks() as hooks, open_notifier(tmp_path) as notifier:
        await put_unchecked(notifier, "evil", AppRules(event_webhook=UNREADABLE, alert_webhook=UNREADABLE))
        await notifier.core.desk.put_rules(
            "good", AppRules(event_webhook=f"{hooks.url}/events", alert_webhook=f"{hooks.url}/alerts")
        )
        for app_id in ("evil", "good"):
            await put_type(notifier, app_id)
            person = await notifier.world.person(f"ann_{app_id}", app_id)
            await notifier.notify(NotifyRequest(type="t", user_id=person.user_id, text="x"), app_id)
            notifier.core.alerts.add(app_id, "dead_letter", {"channel": "sms"})
        await hooks.until_told_at("/events", "/alerts")
        while not notifier.core.exporter.told_count:  # noqa: ASYNC110 - counters tell nobody
            await trio.sleep(0.01)
        assert notifier.core.alerts.told_count == 1


async def test_events_reach_a_good_app_beside_one_whose_setup_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has set up so much that reading it takes too long."""
    async with open_webhooks() as hooks, open_notifier(tmp_path) as notifier:
        await put_unchecked(notifier, "a_first", AppRules())
        real = SetupCache.load

        async def load(self: SetupCache, app_id: str) -> AppSetup:
            if app_id == "a_first":
                raise Unavailable("timeout")
            return await real(self, app_id)

        monkeypatch.setattr(SetupCache, "load", load)
        await notifier.core.desk.put_rules("good", AppRules(event_webhook=f"{hooks.url}/events"))
        await put_type(notifier, "good")
        person = await notifier.world.person("ann", "good")
        await notifier.notify(NotifyRequest(type="t", user_id=person.user_id, text="x"), "good")
        await hooks.until_told_at("/events")


async def test_a_webhook_that_does_not_answer_holds_up_nobody_elses(tmp_path: Path) -> None:
    """It has 15 s each time; others' events are told within a second or two."""
    async with (
        open_silent() as events,
        open_silent() as alerts,
        open_webhooks() as hooks,
        open_notifier(tmp_path) as notifier,
    ):
        slow = AppRules(event_webhook=events.url, alert_webhook=alerts.url)
        await notifier.core.desk.put_rules("slow", slow)
        await put_type(notifier, "slow")
        await put_type(notifier, "good")
        person = await notifier.world.person("ann", "slow")
        await notifier.notify(NotifyRequest(type="t", user_id=person.user_id, text="x"), "slow")
        notifier.core.alerts.add("slow", "dead_letter", {"channel": "sms"})
        await events.called.wait()
        await alerts.called.wait()
        await notifier.core.desk.put_rules(
            "good", AppRules(event_webhook=f"{hooks.url}/events", alert_webhook=f"{hooks.url}/alerts")
        )
        person = await notifier.world.person("ben", "good")
        await notifier.notify(NotifyRequest(type="t", user_id=person.user_id, text="x"), "good")
        notifier.core.alerts.add("good", "dead_letter", {"channel": "sms"})
        await hooks.until_told_at("/events", "/alerts")
        assert not events.is_left
        assert not alerts.is_left


async def dead_letter(notifier: Notifier, sandbox: Sandbox, name: str) -> None:
    person = await notifier.world.person(name)
    await notifier.has_apns(person, 1)
    person.disconnect()
    sandbox.inject(Fault(channel="apns", status=400, code="BadTopic", times=1))
    done = await notifier.notify(NotifyRequest(type="contact", user_id=person.user_id, text=name))
    assert (await notifier.settled(done.items[0].notification_id)).state == "done"


async def alerted(notifier: Notifier) -> list[bool]:
    rows = await notifier.world.store.find(DeadDelivery, {"app_id": APP})
    return [row.alerted_at_ms > 0 for row in rows]


async def test_a_dead_letter_is_told_after_a_restart_where_nobody_was_told_before(tmp_path: Path) -> None:
    """The webhook was down, and then the node was."""
    async with open_sandbox() as sandbox:
        async with open_notifier(tmp_path, sandbox) as notifier:
            gone = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
            port = gone.socket.getsockname()[1]
            await gone.aclose()
            await notifier.core.desk.put_rules(APP, AppRules(alert_webhook=f"http://127.0.0.1:{port}/"))
            await dead_letter(notifier, sandbox, "ann")
            await notifier.core.watch.look()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert await alerted(notifier) == [False]
        async with open_webhooks() as hooks, open_notifier(tmp_path, sandbox, is_new=False) as notifier:
            await notifier.core.desk.put_rules(APP, AppRules(alert_webhook=f"{hooks.url}/alerts"))
            await notifier.core.watch.look()
            await hooks.until_told_at("/alerts")
            (body,) = [body for path, body, _ in hooks.received if path == "/alerts"]
            assert msgspec.json.decode(body)["detail"]["code"] == "BadTopic"
            while not notifier.core.alerts.told_count:  # noqa: ASYNC110 - counters tell nobody
                await trio.sleep(0.01)
            await notifier.core.watch.look()
            assert await alerted(notifier) == [True]
            await notifier.core.watch.look()
            assert notifier.core.alerts.told_count == 1


async def test_nobody_counts_as_told_until_an_app_names_whom_to_tell(tmp_path: Path) -> None:
    """Who sets a webhook up because something is wrong wants to hear what."""
    async with (
        open_sandbox() as sandbox,
        open_webhooks() as hooks,
        open_notifier(tmp_path, sandbox) as notifier,
    ):
        await dead_letter(notifier, sandbox, "ann")
        await notifier.core.watch.look()
        await trio.testing.wait_all_tasks_blocked(0.05)
        await notifier.core.watch.look()
        assert notifier.core.alerts.told_count == 0
        assert await alerted(notifier) == [False]
        await notifier.core.desk.put_rules(APP, AppRules(alert_webhook=f"{hooks.url}/alerts"))
        await hooks.until_told_at("/alerts")


async def test_several_dead_letters_of_one_cause_are_one_alert_with_their_number(tmp_path: Path) -> None:
    """A bad topic makes one of each notification."""
    async with (
        open_sandbox() as sandbox,
        open_webhooks() as hooks,
        open_notifier(tmp_path, sandbox) as notifier,
    ):
        for name in ("ann", "ben", "cai"):
            await dead_letter(notifier, sandbox, name)
        await notifier.core.desk.put_rules(APP, AppRules(alert_webhook=f"{hooks.url}/alerts"))
        await hooks.until_told_at("/alerts")
        while not all(await alerted(notifier)):  # noqa: ASYNC110 - the store tells nobody
            await trio.sleep(0.01)
        (body,) = [body for path, body, _ in hooks.received if path == "/alerts"]
        assert msgspec.json.decode(body)["count"] == 3


def test_what_an_apps_provider_makes_up_is_told_as_one() -> None:
    """Each code would be an alert of its own."""
    groups = [UntoldDead("evil", "apns", "p", f"{code}", 1 + code, 7, "") for code in range(MAX_CAUSES + 5)]
    groups.append(UntoldDead("good", "apns", "p", "BadTopic", 1, 7, "x"))
    reports = reports_of(groups)
    assert len([report for report in reports if report.app_id == "evil"]) == MAX_CAUSES + 1
    (others,) = [report for report in reports if report.detail["code"] == OTHERS]
    assert others.count == sum(1 + code for code in range(5))
    assert [report.detail["detail"] for report in reports if report.app_id == "good"] == ["x"]


async def until_open(notifier: Notifier, count: int) -> None:
    """Wait until so many things in all are to be told."""
    while True:
        rows = await notifier.world.store.find(AlertRow, {"app_id": APP})
        if sum(row.count for row in rows) == count:
            return
        await trio.sleep(0.005)


async def test_dead_letters_that_were_redriven_are_no_open_matter(tmp_path: Path) -> None:
    """Somebody has looked without being told; a webhook that is named now has nothing to hear."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await dead_letter(notifier, sandbox, "ann")
        await notifier.core.watch.look()
        await until_open(notifier, 1)
        (dead,) = await notifier.world.store.find(DeadDelivery, {"app_id": APP})
        await notifier.redrive(dead.notification_id, dead.number)
        await sandbox.wait_for("apns", 1)
        await notifier.core.watch.look()
        await until_open(notifier, 0)
