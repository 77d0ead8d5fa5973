"""A clock that is set while notifications are on their way: nothing is lost, and nothing waits for it."""

from pathlib import Path

import pytest
import trio

from actors.notify.channel import steady_ms
from protocol.notify_content import NotifyRequest
from protocol.notify_records import RequestRow
from protocol.notify_types import AppRules
from server.sandbox.faults import Fault
from server.sandbox.sandbox import SandboxOptions, open_sandbox
from tests.server.notify.notify_world import APP, Clock, Notifier
from tests.server.notify.test_interleavings import open_scene
from tests.server.notify.test_pipeline import HOUR_MS, open_at, person
from tests.server.notify.test_requests import the_row

DAY_MS = 24 * HOUR_MS


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, DAY_MS])
async def test_what_was_decided_by_a_clock_that_was_ahead_delays_nothing(
    tmp_path: Path, ahead_ms: int
) -> None:
    """A machine starts with a wrong clock, and NTP sets it right a moment later: codes still arrive."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock, is_capped=False) as scene,
    ):
        await scene.closed(await scene.send("before"))
        clock.ahead_ms += ahead_ms
        await scene.closed(await scene.send("while ahead"))
        clock.ahead_ms -= ahead_ms
        code_id = await scene.send("code", expires_at_ms=clock() + 600_000)
        assert (await scene.closed(code_id)).state == "accepted"
        sandbox.inject(Fault(channel="apns", status=503, times=1))
        again = await scene.until(await scene.send("again"), lambda row: row.attempt >= 1)
        assert again.next_at_ms - clock() < 60_000
        assert (await scene.closed(again.notification_id)).state == "accepted"


@pytest.mark.parametrize("change_ms", [-DAY_MS, -HOUR_MS, HOUR_MS, DAY_MS])
async def test_a_retry_waits_as_long_as_it_was_told_whatever_the_clock_shows(
    tmp_path: Path, change_ms: int
) -> None:
    """A second after a 503 is a second, also where the clock is changed within it."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock) as scene,
    ):
        sandbox.inject(Fault(channel="apns", status=503, times=2))
        notification_id = await scene.send("x")
        await scene.until(notification_id, lambda row: row.attempt >= 1 and row.state == "queued")
        clock.ahead_ms += change_ms
        assert (await scene.closed(notification_id)).state == "accepted"
        assert sandbox.count("apns") == 1


async def test_a_retry_stored_by_a_clock_that_was_ahead_is_taken_up_soon(tmp_path: Path) -> None:
    """The node was restarted with the clock set right: its retry is not due tomorrow."""
    clock = Clock()
    async with open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox:
        async with open_scene(tmp_path, sandbox, clock=clock) as scene:
            clock.ahead_ms += DAY_MS
            sandbox.inject(Fault(channel="apns", status=503, times=1, retry_after_s=30))
            notification_id = await scene.send("x")
            await scene.until(notification_id, lambda row: row.attempt >= 1 and row.state == "queued")
        clock.ahead_ms -= DAY_MS
        async with open_scene(tmp_path, sandbox, is_new=False, clock=clock) as scene:
            assert (await scene.delivery(notification_id)).next_at_ms > clock() + HOUR_MS
            channel = scene.notifier.core.channels.channels["apns"]
            while not channel.depth:  # noqa: ASYNC110 - a queue tells nobody
                await trio.sleep(0.005)
            due_ms = channel._queue.next_due_ms()
            assert due_ms is not None
            assert due_ms <= steady_ms() + 900_000


async def test_the_cap_forgets_what_a_clock_that_was_ahead_has_counted(tmp_path: Path) -> None:
    """Nobody is silent for a day for ten notifications that came while the clock was wrong."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (_, notifier):
        await notifier.core.desk.put_rules(APP, AppRules(cap_per_hour=2))
        ann = await person(notifier, "ann", 1)

        async def send(text: str) -> str:
            done = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text=text))
            return done.items[0].state

        clock.ahead_ms += DAY_MS
        assert [await send(f"{number}") for number in range(3)] == ["open", "open", "held"]
        clock.ahead_ms -= DAY_MS
        assert [await send(f"now {number}") for number in range(3)] == ["open", "open", "held"]


async def until_next(notifier: Notifier, request_id: str, before_ms: int) -> RequestRow:
    """The request, once it is due before that time."""
    while True:
        row = await notifier.world.store.get(RequestRow, request_id)
        assert row is not None
        if row.next_at_ms < before_ms:
            return row
        await trio.sleep(0.005)


async def test_a_recurring_request_leaves_no_time_out_for_a_clock_that_was_ahead(tmp_path: Path) -> None:
    """It ran once while the clock was a day ahead, and goes on with the next hour, not with tomorrow's."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        ann = await person(notifier, "ann", 1)
        done = await notifier.notify(
            NotifyRequest(type="contact", user_ids=[ann.user_id], text="hourly", cron="0 * * * *")
        )
        clock.ahead_ms += DAY_MS
        await notifier.wake_app()
        await sandbox.wait_for("apns", 1)
        await the_row(notifier, done.request_id, "waiting", 1)
        clock.ahead_ms -= DAY_MS
        await notifier.wake_app()
        row = await until_next(notifier, done.request_id, before_ms=clock() + 3 * HOUR_MS)
        assert row.next_at_ms == row.ran_for_ms + HOUR_MS
        clock.ahead_ms += 2 * HOUR_MS
        await notifier.wake_app()
        await sandbox.wait_for("apns", 2)
