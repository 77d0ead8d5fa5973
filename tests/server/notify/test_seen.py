"""What the user has seen in the app is not pushed any more, wherever it waits."""

from pathlib import Path

import pytest

from protocol import notify_commands
from protocol.notify_content import NotifyRequest
from protocol.notify_types import AppRules, Preferences
from server.sandbox.faults import Fault
from server.sandbox.sandbox import SandboxOptions, open_sandbox
from tests.server.notify.notify_world import APP, Clock
from tests.server.notify.test_interleavings import (
    SMALL,
    Scene,
    open_scene,
    quiet_now,
    small_memory,  # noqa: F401 - a fixture
)
from tests.server.notify.test_pipeline import HOUR_MS

BOTH = ["inapp", "apns"]
SEEN = ("result", "skipped", "seen_in_app")


async def see(scene: Scene, notification_id: int, mark: str = "seen") -> None:
    command = notify_commands.MarkNotifications(
        mark=mark,  # type: ignore[arg-type]  # one of its literals
        notification_ids=[notification_id],
    )
    await scene.do(command)


@pytest.mark.parametrize("mark", ["seen", "read", "dismissed"])
async def test_what_was_seen_at_night_is_not_pushed_in_the_morning(tmp_path: Path, mark: str) -> None:
    """Who lay awake and read it all is not told it again at seven."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock, channels=BOTH) as scene,
    ):
        await scene.do(notify_commands.SetPreferences(preferences=Preferences(quiet_hours=quiet_now())))
        seen_id, unseen_id = await scene.send("seen"), await scene.send("unseen")
        await see(scene, seen_id, mark)
        clock.pass_by(scene.notifier, 3 * HOUR_MS)
        await scene.notifier.settled(unseen_id)
        row = await scene.notifier.settled(seen_id)
        assert (row.state, row.counted_at_ms) == ("done", 0)
        assert SEEN in await scene.notifier.rules(seen_id)
        await sandbox.wait_for("apns", 1)
        assert "unseen" in str(sandbox.deliveries("apns"))
        assert sandbox.count("apns") == 1


async def test_what_waits_for_a_place_under_the_cap_may_be_seen_meanwhile(tmp_path: Path) -> None:
    """An hour is a long time."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock, channels=BOTH) as scene,
    ):
        await scene.notifier.core.desk.put_rules(APP, AppRules(cap_per_hour=1))
        await scene.closed(await scene.send("first"))
        held_id = await scene.send("over the cap")
        await see(scene, held_id)
        clock.pass_by(scene.notifier, 2 * HOUR_MS)
        assert (await scene.notifier.settled(held_id)).state == "done"
        assert sandbox.count("apns") == 1


@pytest.mark.parametrize(("sees_again", "pushes"), [(False, 1), (True, 0)])
async def test_a_batch_that_has_grown_since_it_was_seen_is_news(
    tmp_path: Path, sees_again: bool, pushes: int
) -> None:
    """Ann's like was seen, Ben's was not."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock, channels=BOTH, batch_window_s=60) as scene,
    ):
        batch_id = await scene.send("Ann", subject="post")
        await see(scene, batch_id)
        await scene.send("Ben", subject="post")
        if sees_again:
            await see(scene, batch_id)
        clock.pass_by(scene.notifier, 61_000)
        await scene.notifier.settled(batch_id)
        await scene.calm()
        assert sandbox.count("apns") == pushes


@pytest.mark.parametrize(
    "fault",
    [
        Fault(channel="apns", status=503, holds=True, times=1),
        Fault(channel="apns", status=410, timestamp_ms=4_000_000_000_000, holds=True, times=1),
    ],
)
async def test_what_is_seen_during_an_attempt_goes_neither_again_nor_by_sms(
    tmp_path: Path, fault: Fault
) -> None:
    """A text message costs money."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=BOTH, fallback=["sms"]) as scene,
    ):
        notification_id = await scene.under_way(fault)
        await see(scene, notification_id)
        sandbox.release()
        await scene.notifier.settled(notification_id)
        await scene.calm()
        assert (sandbox.count("apns"), sandbox.count("twilio")) == (0, 0)


@pytest.mark.usefixtures("small_memory")
async def test_what_is_seen_while_it_waits_in_the_store_is_not_pushed(tmp_path: Path) -> None:
    """A paused provider, and more than fits into memory."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, channels=BOTH, is_capped=False) as scene,
    ):
        await scene.notifier.core.desk.pause_provider(APP, "apns", is_paused=True)
        ids = [await scene.send(f"y{number}") for number in range(SMALL + 20)]
        await scene.do(notify_commands.MarkNotifications(mark="read", up_to=ids[-2]))
        await scene.notifier.core.desk.pause_provider(APP, "apns", is_paused=False)
        for notification_id in ids:
            await scene.closed(notification_id)
        assert sandbox.count("apns") == 1
        assert (await scene.delivery(ids[-2])).code in ("read_in_app", "seen_in_app")


async def test_a_redrive_is_not_for_what_was_seen(tmp_path: Path) -> None:
    """A week later, in the app, it is long known."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, channels=BOTH) as scene:
        sandbox.inject(Fault(channel="apns", status=400, code="PayloadEmpty", times=1))
        notification_id = await scene.send("once")
        await scene.closed(notification_id)
        await see(scene, notification_id)
        await scene.notifier.redrive(notification_id, 0)
        await scene.calm()
        assert sandbox.count("apns") == 0
        assert SEEN in await scene.notifier.rules(notification_id)


async def test_a_code_is_pushed_all_the_same(tmp_path: Path) -> None:
    """It is for the device on which it is wanted."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, channels=BOTH) as scene:
        await scene.notifier.core.desk.pause_provider(APP, "apns", is_paused=True)
        done = await scene.notifier.notify(
            NotifyRequest(type="security", user_id=scene.user_id, text="4711", channels=["inapp", "apns"])
        )
        await see(scene, done.items[0].notification_id)
        await scene.notifier.core.desk.pause_provider(APP, "apns", is_paused=False)
        await sandbox.wait_for("apns", 1)
