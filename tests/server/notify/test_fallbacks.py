"""Whom a fallback is for, and what counts as having reached somebody."""

from pathlib import Path

import pytest

from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from tests.server.notify.test_interleavings import GONE, NO_PUSH, open_scene

BOTH = ["inapp", "apns"]


async def test_a_fallback_is_for_who_has_no_address_too(tmp_path: Path) -> None:
    """The copy in the app has reached nobody who is not there, with a dead token or with none."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, fallback=["sms"], channels=BOTH) as scene,
    ):
        sandbox.inject(GONE)
        await scene.send("to a dead token")
        await sandbox.wait_for("twilio", 1)
        done = await scene.notifier.settled(await scene.send("to none"))
        assert done.in_centre
        assert ("choose", "change", "fallback") in await scene.notifier.rules(done.notification_id)
        assert sandbox.count("twilio") == 2


async def test_a_fallback_makes_up_for_no_wish(tmp_path: Path) -> None:
    """Who wants it in the app alone is not told by SMS instead, nor who is not meant to be."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, fallback=["sms"], channels=BOTH) as scene,
    ):
        await scene.notifier.settled(await scene.send("for the app", channels=["inapp"]))
        await scene.do(NO_PUSH)
        await scene.notifier.settled(await scene.send("unwanted"))
        await scene.calm()
        assert (sandbox.count("apns"), sandbox.count("twilio")) == (0, 0)


@pytest.mark.parametrize("channels", [["apns"], BOTH])
async def test_a_fallback_is_gone_on_with_after_a_restart(tmp_path: Path, channels: list[str]) -> None:
    """Whether the app shows a copy or not, and whether the node lives on or not."""
    async with open_sandbox() as sandbox:
        async with open_scene(
            tmp_path, sandbox, phone=True, fallback=["sms"], is_security=True, channels=channels
        ) as scene:
            sandbox.inject(Fault(channel="apns", status=503, times=1, retry_after_s=1))
            notification_id = await scene.send("code 4711")
            await scene.until(notification_id, lambda row: row.state == "queued" and row.attempt == 1)
        sandbox.inject(GONE)
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            await sandbox.wait_for("twilio", 1)
            await scene.notifier.settled(notification_id)


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_is_late_is_marked_as_late(tmp_path: Path, restarts: bool) -> None:
    """The copy in the app is no delivery, before a restart and after it."""
    async with open_sandbox() as sandbox:
        sandbox.inject(Fault(channel="apns", status=503, times=1, retry_after_s=2))
        async with open_scene(tmp_path, sandbox, channels=BOTH, deadline_s=1) as scene:
            notification_id = await scene.send("late")
            await scene.until(notification_id, lambda row: row.state == "queued" and row.attempt == 1)
            if not restarts:
                await scene.closed(notification_id)
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            await scene.closed(notification_id)
            row = await scene.notifier.row(notification_id)
            assert row.is_late
            assert row.sent_at_ms > row.deadline_at_ms
