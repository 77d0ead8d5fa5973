"""The same content is told once within `dedup_s`, by when it is told: over waits, restarts, busy users."""

import datetime
from pathlib import Path

import msgspec
import pytest

from protocol import notify_commands
from protocol.errors import StorageUnavailable
from protocol.notify_content import NotifyRequest
from protocol.notify_found import MAX_RECENT
from protocol.notify_replies import Notified
from protocol.notify_templates import ChannelText, Experiment, Template
from protocol.notify_types import Preferences, TypeRule
from protocol.records import Put
from server.sandbox.sandbox import SandboxOptions, open_sandbox
from tests.server.notify.notify_world import APP, Clock, open_notifier
from tests.server.notify.test_interleavings import PHONE, Scene, failing_once, open_scene, quiet_now

HOUR_MS = 3_600_000
DAY_S = 86_400


async def ask(scene: Scene, text: str, **more: object) -> Notified:
    request = NotifyRequest(type="t", user_id=scene.user_id, text=text, **more)  # type: ignore[arg-type]
    (item,) = (await scene.notifier.notify(request)).items
    return item


def at(clock: Clock, *, hours: float) -> str:
    """So many hours from now, as `send_at`."""
    then = datetime.datetime.fromtimestamp(clock() / 1000, datetime.UTC) + datetime.timedelta(hours=hours)
    return then.isoformat()


async def test_what_reached_nobody_makes_no_duplicate(tmp_path: Path) -> None:
    """Who registers a phone after the first try is to hear the second; the same after a restart."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, channels=["sms"], dedup_s=DAY_S) as scene:
            lost = await ask(scene, "shipped")
            assert (lost.state, lost.reason) == ("dropped", "unreachable")
            assert (await scene.notifier.row(lost.notification_id)).dedup_key == ""
            await scene.do(notify_commands.RegisterPush(channel="sms", address=PHONE))
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            assert (await ask(scene, "shipped")).state == "open"
            await sandbox.wait_for("sms", 1)


async def test_of_two_that_waited_for_the_morning_one_is_told(tmp_path: Path) -> None:
    """Asked for further apart than `dedup_s`, they would be pushed in the same second."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_scene(tmp_path, sandbox, clock=clock, dedup_s=60) as scene,
    ):
        await scene.do(notify_commands.SetPreferences(preferences=Preferences(quiet_hours=quiet_now())))
        first = await ask(scene, "price fell")
        clock.ahead_ms += 61_000
        second = await ask(scene, "price fell")
        assert (first.state, second.state) == ("held", "held")
        clock.pass_by(scene.notifier, 3 * HOUR_MS)
        await sandbox.wait_for("apns", 1)
        row = await scene.notifier.settled(second.notification_id)
        assert (row.state, row.dedup_key) == ("dropped", "")
        last = (await scene.notifier.ledger(second.notification_id))[-1]
        assert last.kind == "released"
        assert str(first.notification_id) in last.body
        assert sandbox.count("apns") == 1


@pytest.mark.parametrize("restarts", [False, True])
async def test_the_time_at_which_it_is_told_counts(tmp_path: Path, restarts: bool) -> None:
    """One for tomorrow and one for next week are two; what is asked for just after one was told is none."""
    clock = Clock()
    async with open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox:
        async with open_scene(tmp_path, sandbox, clock=clock, dedup_s=3_600) as scene:
            tomorrow = await ask(scene, "same", send_at=at(clock, hours=24))
            next_week = await ask(scene, "same", send_at=at(clock, hours=168))
            soon_after = await ask(scene, "same", send_at=at(clock, hours=168.9))
            assert (tomorrow.state, next_week.state, soon_after.state) == ("held", "held", "dropped")
            if not restarts:
                await _check_at_delivery(scene, clock, tomorrow)
                return
        async with open_scene(tmp_path, sandbox, is_new=False, clock=clock) as scene:
            await _check_at_delivery(scene, clock, tomorrow)
        async with open_scene(tmp_path, sandbox, is_new=False, clock=clock) as scene:
            again = await ask(scene, "same")
            assert (again.state, again.reason) == ("dropped", f"a duplicate of {tomorrow.notification_id}")


async def _check_at_delivery(scene: Scene, clock: Clock, tomorrow: Notified) -> None:
    clock.pass_by(scene.notifier, tomorrow.due_at_ms - clock() + 1_000)
    await scene.sandbox.wait_for("apns", 1)
    again = await ask(scene, "same")
    assert (again.state, again.reason) == ("dropped", f"a duplicate of {tomorrow.notification_id}")


async def test_who_was_shown_no_variant_is_not_counted_for_it(tmp_path: Path) -> None:
    """An experiment on users without a phone would else have as many failures as they are."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        desk = notifier.core.desk
        await desk.put_type(APP, TypeRule(name="push", channels=["apns"]))
        texts = {name: {"en": {"default": ChannelText(body=name)}} for name in ("default", "short")}
        await desk.put_template(APP, Template(name="t", texts=texts))  # type: ignore[arg-type]
        await desk.put_experiment(
            APP, Experiment(name="e", template="t", variants={"default": 1, "short": 1})
        )
        without, reached = [await notifier.world.person(name) for name in ("ann", "ben")]
        await notifier.has_apns(reached, 1)
        for device in (without, reached):
            device.disconnect()
            done = await notifier.notify(
                NotifyRequest(type="push", user_id=device.user_id, template="t", experiment="e")
            )
            await notifier.settled(done.items[0].notification_id)
        counts = await notifier.world.store.notify.variant_counts(APP, "e")
        assert sum(count.exposed for count in counts) == 1
        assert sum(count.drawn for count in counts) == 2


async def many(scene: Scene) -> None:
    """More than memory holds of a user."""
    for number in range(MAX_RECENT + 1):
        await scene.send(f"news {number}")


async def test_a_busy_user_hears_nothing_twice_within_a_day(tmp_path: Path) -> None:
    """The promise of 24 hours is not one of 300 notifications; after a restart, and before it."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, channels=["inapp"], dedup_s=DAY_S) as scene:
            first = await ask(scene, "your order has left", subject="order-1")
            await many(scene)
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            again = await ask(scene, "your order has left", subject="order-1")
            assert (again.state, again.reason) == ("dropped", f"a duplicate of {first.notification_id}")
            assert (await ask(scene, "your order has left", subject="order-2")).state == "done"


async def test_what_is_due_is_not_told_twice_to_a_busy_user_either(tmp_path: Path) -> None:
    """What waits is judged when it is due, and memory may have forgotten by then."""
    clock = Clock()
    async with open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox:
        async with open_scene(tmp_path, sandbox, clock=clock, channels=["inapp"], dedup_s=DAY_S) as scene:
            first, _, third = [
                await ask(scene, "same", send_at=at(clock, hours=hours)) for hours in (1, 26, 1.9)
            ]
            assert third.state == "held"
            await many(scene)
            clock.pass_by(scene.notifier, HOUR_MS + 1_000)
            await scene.notifier.until_state(first.notification_id, "done")
        async with open_scene(tmp_path, sandbox, is_new=False, clock=clock) as scene:
            clock.pass_by(scene.notifier, HOUR_MS)
            row = await scene.notifier.settled(third.notification_id)
            assert row.state == "dropped"
            last = (await scene.notifier.ledger(third.notification_id))[-1]
            assert str(first.notification_id) in last.body


async def test_a_look_up_that_fails_is_told_to_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which tries again: nothing is sent that may be a duplicate."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, channels=["inapp"], dedup_s=DAY_S) as scene:
            await many(scene)
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            with failing_once(monkeypatch, "told") as calls:
                with pytest.raises(StorageUnavailable):
                    await ask(scene, "not taken")
                assert (await ask(scene, "not taken")).state == "done"
                assert len(calls) == 2


async def test_neither_does_one_who_chats_much(tmp_path: Path) -> None:
    """Chat is no duplicate of anything, but stands between what was told and now."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, channels=["inapp"], dedup_s=DAY_S) as scene:
            first = await ask(scene, "your order has left")
            row = await scene.notifier.row(first.notification_id)
            chats = [
                msgspec.structs.replace(
                    row, notification_id=row.notification_id + number, type="chat", dedup_key=""
                )
                for number in range(1, 2_001)
            ]
            await scene.notifier.world.store.commit([Put(chat) for chat in chats])
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            again = await ask(scene, "your order has left")
            assert again.reason == f"a duplicate of {first.notification_id}"
