"""What waits for the user's sake, or begins anew, is not late for that."""

from pathlib import Path
from typing import Any, Literal

import pytest
import trio

from server.sandbox.faults import Fault
from server.sandbox.sandbox import SandboxOptions, open_sandbox
from tests.server.notify.notify_world import Clock
from tests.server.notify.test_failover import be_quiet, has_vonage, sent
from tests.server.notify.test_interleavings import open_scene
from tests.server.notify.test_pipeline import HOUR_MS
from tests.server.notify.test_receipts import undelivered

HALF_HOUR_S = 1_800


@pytest.mark.parametrize("how", ["failover", "retry", "fallback"])
async def test_what_waits_for_the_morning_is_not_late(
    tmp_path: Path, how: Literal["failover", "retry", "fallback"]
) -> None:
    """Nobody is to be woken by an alert because nobody was woken by a message."""
    clock = Clock()
    rule: dict[str, Any] = {"fallback": ["apns"], "deadline_s": HALF_HOUR_S}
    async with open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox:
        async with open_scene(tmp_path, sandbox, clock=clock, phone=True, channels=["sms"], **rule) as scene:
            notifier = scene.notifier
            if how == "retry":
                fault = Fault(channel="twilio", status=429, code="20429", holds=True, times=1)
                notification_id = await scene.under_way(fault)
                await be_quiet(scene)
                sandbox.release()
            else:
                if how == "failover":
                    await has_vonage(scene)
                notification_id = await sent(scene)
                await be_quiet(scene)
                await undelivered(scene, notification_id)
            if how == "fallback":
                while (row := await notifier.row(notification_id)).due_at_ms < clock() + HOUR_MS:  # noqa: ASYNC110
                    await trio.sleep(0.005)
                due_at_ms = row.due_at_ms
            else:
                delivery = await scene.until(notification_id, lambda row: row.state == "queued")
                due_at_ms = delivery.next_at_ms
            clock.pass_by(notifier, HOUR_MS)
            await notifier.core.watch.look()
            assert notifier.core.watch.overdue == {}
            clock.ahead_ms += due_at_ms - clock()
        # What waits for a time of day is looked at every 15 minutes by a clock that nobody sets.
        async with open_scene(tmp_path, sandbox, clock=clock, is_new=False) as scene:
            row = await scene.notifier.settled(notification_id)
            assert (row.is_late, scene.notifier.stats.late) == (False, 0)
            count = sum(sandbox.count(name) for name in ("twilio", "vonage", "apns"))
            assert count == (1 if how == "retry" else 2)


@pytest.mark.parametrize("has_next", [True, False])
async def test_what_is_told_hours_later_is_not_late(tmp_path: Path, has_next: bool) -> None:
    """The first went in time; what follows on a late report has a deadline of its own."""
    clock = Clock()
    rule: dict[str, Any] = {"fallback": ["apns"], "deadline_s": HALF_HOUR_S}
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock, phone=True, channels=["sms"], **rule) as scene,
    ):
        if has_next:
            await has_vonage(scene)
        notification_id = await sent(scene)
        clock.pass_by(scene.notifier, 5 * HOUR_MS)
        await undelivered(scene, notification_id)
        row = await scene.notifier.settled(notification_id)
        assert sandbox.count("vonage" if has_next else "apns") == 1
        assert (row.is_late, scene.notifier.stats.late) == (False, 0)
