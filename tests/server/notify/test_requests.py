"""Larger requests as rows: when what recurs comes next, and for how long they are kept."""

from pathlib import Path

import pytest
import trio

from actors.messages import Wake
from actors.notify.address import app_address
from actors.notify.timekeeper import RETENTION_MS
from protocol.notify_content import NotifyRequest
from protocol.notify_records import RequestRow
from protocol.notify_types import AppRules, TypeRule
from protocol.records import Put
from server.clock import wall_clock_ms
from server.notify.setups import SetupCache
from tests.server.notify.notify_world import APP, Clock, Notifier, open_notifier
from tests.server.notify.test_pipeline import HOUR_MS

DAY_MS = 24 * HOUR_MS
INDIA_MS = 5 * HOUR_MS + HOUR_MS // 2  # Asia/Kolkata is 5:30 ahead of UTC, all year round


async def the_row(notifier: Notifier, request_id: str, state: str, run: int) -> RequestRow:
    """The request, once it has come so far."""
    while True:
        row = await notifier.world.store.get(RequestRow, request_id)
        assert row is not None
        if (row.state, row.run) == (state, run):
            return row
        await trio.sleep(0.005)


async def test_what_recurs_keeps_the_apps_time_zone_on_a_node_that_has_just_taken_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the app has set up is not in memory there yet."""
    clock = Clock()
    async with open_notifier(tmp_path, clock=clock) as notifier:
        await notifier.core.desk.put_rules(APP, AppRules(default_time_zone="Asia/Kolkata"))
        done = await notifier.notify(NotifyRequest(type="contact", group="*", text="x", cron="0 9 * * *"))
        row = await the_row(notifier, done.request_id, "waiting", 0)
        assert (row.next_at_ms + INDIA_MS) % DAY_MS == 9 * HOUR_MS
    clock.ahead_ms = DAY_MS
    monkeypatch.setattr(SetupCache, "known", lambda _self, _app_id: None)
    async with open_notifier(tmp_path, is_new=False, clock=clock) as notifier:
        row = await the_row(notifier, done.request_id, "waiting", 1)
        assert (row.next_at_ms + INDIA_MS) % DAY_MS == 9 * HOUR_MS


async def test_a_request_that_cannot_go_on_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Monday's news did not come: nobody has cancelled it, the type was removed on Friday."""
    clock = Clock()
    async with open_notifier(tmp_path, clock=clock) as notifier:
        alerts: list[tuple[str, str, dict[str, str]]] = []
        told = trio.Event()

        def add(app_id: str, kind: str, detail: dict[str, str]) -> None:
            alerts.append((app_id, kind, detail))
            told.set()

        monkeypatch.setattr(notifier.core.alerts, "add", add)
        await notifier.world.people("ann")
        await notifier.core.desk.put_type(APP, TypeRule(name="news"))
        done = await notifier.notify(NotifyRequest(type="news", group="*", text="x", cron="* * * * *"))
        await notifier.core.desk.remove_type(APP, "news")
        clock.ahead_ms += 61_000
        await notifier.wake_app()
        row = await the_row(notifier, done.request_id, "failed", 1)
        assert (row.code, "news" in row.detail) == ("type_not_found", True)
        assert row.done_at_ms > 0
        await told.wait()
        (alert,) = alerts
        assert alert[:2] == (APP, "request_failed")
        assert alert[2] == {"request_id": done.request_id, "code": row.code, "detail": row.detail}
        found = await notifier.core.entry.cancel(
            APP, done.request_id
        )  # it may be, with what an earlier run left
        assert found.state == "cancelled"


async def test_requests_that_ended_long_ago_are_forgotten(tmp_path: Path) -> None:
    """The others stay: those that wait, and those that are younger than the idempotency keys."""
    now_ms = wall_clock_ms()
    old_ms, young_ms = now_ms - RETENTION_MS - DAY_MS, now_ms - RETENTION_MS + DAY_MS
    rows = [
        ("done-old", "done", old_ms),
        ("cancelled-old", "cancelled", old_ms),
        ("failed-old", "failed", old_ms),
        ("done-young", "done", young_ms),
        ("waits", "waiting", 0),
    ]
    async with open_notifier(tmp_path) as notifier:
        body = '{"type":"contact","group":"*","text":"x"}'
        await notifier.world.store.commit(
            [
                Put(
                    RequestRow(
                        request_id=request_id,
                        app_id=APP,
                        digest="",
                        body=body,
                        state=state,
                        created_at_ms=old_ms,
                        next_at_ms=now_ms + DAY_MS,
                        done_at_ms=done_at_ms,
                    )
                )
                for request_id, state, done_at_ms in rows
            ]
        )
        assert await notifier.world.store.notify.apps_with_ended_requests(now_ms - RETENTION_MS) == [APP]
        notifier.world.core.router.tell(app_address(APP), Wake())
        while True:
            found = await notifier.world.store.find(RequestRow, {"app_id": APP})
            if len(found) <= 2:
                break
            await trio.sleep(0.005)
        assert {row.request_id for row in found} == {"done-young", "waits"}


async def test_an_app_with_nothing_to_do_is_woken_to_forget(tmp_path: Path) -> None:
    """Its actor is not awake for a request that is done."""
    old_ms = wall_clock_ms() - RETENTION_MS - DAY_MS
    async with open_notifier(tmp_path) as notifier:
        await notifier.world.store.commit(
            [
                Put(
                    RequestRow(
                        request_id="rq",
                        app_id=APP,
                        digest="",
                        body="{}",
                        state="done",
                        created_at_ms=old_ms,
                        done_at_ms=old_ms,
                    )
                )
            ]
        )
    async with open_notifier(tmp_path, is_new=False) as notifier:
        while await notifier.world.store.find(RequestRow, {"app_id": APP}):  # noqa: ASYNC110 - rows tell nobody
            await trio.sleep(0.005)
