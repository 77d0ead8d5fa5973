"""What has waited in a queue is asked again before it goes, whatever it has waited for."""

import datetime
from pathlib import Path

import msgspec
import pytest
import trio

from actors.notify import keeper
from actors.notify.channel import steady_ms
from protocol import notify_commands
from protocol.notify_content import NotifyRequest
from protocol.notify_types import Preferences, QuietHours
from server.sandbox.faults import Fault
from server.sandbox.sandbox import SandboxOptions, open_sandbox
from tests.server.notify.notify_world import APP, Clock, apns_token
from tests.server.notify.test_interleavings import Scene, open_scene
from tests.server.notify.test_pipeline import HOUR_MS


def quiet_later() -> Preferences:
    """Quiet hours from in an hour until in ten, by the clock of UTC."""
    now = datetime.datetime.now(datetime.UTC)
    start, end = (now + datetime.timedelta(hours=hours) for hours in (1, 10))
    return Preferences(quiet_hours=QuietHours(start=f"{start:%H:%M}", end=f"{end:%H:%M}"))


def look(scene: Scene, clock: Clock) -> None:
    """Let the channel see that time has passed, as its timer would if it had: by the steady clock as well."""
    channel = scene.notifier.core.channels.channels["apns"]
    channel._steady_ms = lambda: steady_ms() + clock.ahead_ms
    channel._pump_soon()


async def put_off(scene: Scene, notification_id: int, clock: Clock) -> None:
    """Wait until a delivery waits for the end of the quiet hours, and no hand with it."""
    row = await scene.until(notification_id, lambda row: row.next_at_ms > clock() + HOUR_MS)
    assert (row.state, row.is_open) == ("queued", True)
    while scene.notifier.core.channels.channels["apns"].in_hand:  # noqa: ASYNC110 - a channel tells nobody
        await trio.sleep(0.01)
    assert ("quiet_hours", "hold", "quiet_hours") in await scene.notifier.rules(notification_id)


async def test_what_a_pause_has_held_up_does_not_ring_at_night(tmp_path: Path) -> None:
    """The operator who mends it at two in the morning wakes nobody but himself."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock) as scene,
    ):
        desk = scene.notifier.core.desk
        await scene.do(notify_commands.SetPreferences(preferences=quiet_later()))
        await desk.pause_provider(APP, "apns", is_paused=True)
        notification_id = await scene.send("evening")
        clock.pass_by(scene.notifier, 3 * HOUR_MS)
        await desk.pause_provider(APP, "apns", is_paused=False)
        await put_off(scene, notification_id, clock)
        assert sandbox.count("apns") == 0
        await desk.pause_provider(APP, "apns", is_paused=True)  # which looks anew at all that waits
        await desk.pause_provider(APP, "apns", is_paused=False)
        assert sandbox.count("apns") == 0
        clock.pass_by(scene.notifier, 8 * HOUR_MS)
        look(scene, clock)
        await sandbox.wait_for("apns", 1)


async def test_what_a_breaker_has_held_up_does_not_ring_at_night(tmp_path: Path) -> None:
    """And the next one that may be sent finds out whether the provider is well, not the next minute's."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock) as scene,
    ):
        ben = await scene.notifier.world.person("ben")
        await scene.notifier.has_apns(ben, 2)
        ben.disconnect()
        await scene.do(notify_commands.SetPreferences(preferences=quiet_later()))
        sandbox.inject(Fault(channel="apns", status=403, code="InvalidProviderToken", times=1))
        first_id = await scene.send("opens the breaker")
        await scene.until(first_id, lambda row: row.attempt == 1 and row.state == "queued")
        late_id = await scene.send("evening")
        await scene.notifier.notify(NotifyRequest(type="t", user_id=ben.user_id, text="for Ben"))
        clock.pass_by(scene.notifier, 3 * HOUR_MS)
        look(scene, clock)
        await put_off(scene, late_id, clock)
        await sandbox.wait_for("apns", 1)
        assert [found.address for found in sandbox.deliveries("apns")] == [apns_token(2)]


async def test_a_user_who_is_not_in_memory_any_more_is_asked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue may hold more users than a partition does."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock) as scene,
    ):
        desk = scene.notifier.core.desk
        wishes = msgspec.structs.replace(quiet_later(), channels={"sms": False})
        await scene.do(notify_commands.SetPreferences(preferences=wishes))
        await desk.pause_provider(APP, "apns", is_paused=True)
        notification_id = await scene.send("evening")
        monkeypatch.setattr(keeper, "MAX_USERS", 0)
        users = await scene.notifier.world.crowd(64)
        await scene.notifier.notify(NotifyRequest(type="contact", user_ids=users, text="others"))
        clock.pass_by(scene.notifier, 3 * HOUR_MS)
        await desk.pause_provider(APP, "apns", is_paused=False)
        await put_off(scene, notification_id, clock)
        assert sandbox.count("apns") == 0
