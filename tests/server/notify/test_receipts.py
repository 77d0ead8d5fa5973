"""What providers tell later, whenever it comes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from actors.notify.address import owner_of
from actors.notify.messages import DeliveryTold
from actors.ports import Outcome
from protocol.records import Append
from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from tests.server.notify.notify_world import APP
from tests.server.notify.test_interleavings import Scene, open_scene


async def undelivered(
    scene: Scene,
    notification_id: int,
    number: int = 0,
    *,
    state: str = "refused",
    action: str = "failover",
    provider_id: str = "twilio",
) -> None:
    """As the door hands on what a provider has told."""
    message = DeliveryTold(notification_id, number, state, "30008", action, APP, provider_id)
    await scene.notifier.world.core.router.ask(owner_of(notification_id), message, timeout_s=5)


async def test_undelivered_while_the_answer_is_being_stored_goes_by_the_next_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory it is concluded already, in the store not yet."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene,
    ):
        await scene.notifier.core.desk.put_provider(APP, "vonage", sandbox.configs().vonage, position=5)
        notification_id = await scene.under_way(Fault(channel="twilio", holds=True, times=1))
        world = scene.notifier.world
        append_nowait = world.flaky.append_nowait
        held: list[tuple[Append, Callable[[Outcome], None]]] = []
        is_held = trio.Event()

        def hold(append: Append, on_done: Callable[[Outcome], None]) -> None:
            held.append((append, on_done))
            is_held.set()

        told = DeliveryTold(notification_id, 0, "refused", "30008", "failover", APP, "twilio")
        async with trio.open_nursery() as nursery:
            with monkeypatch.context() as patch:
                patch.setattr(world.flaky, "append_nowait", hold)
                sandbox.release()
                await is_held.wait()  # what Twilio has answered
                nursery.start_soon(
                    partial(world.core.router.ask, owner_of(notification_id), told, timeout_s=5)
                )
                await trio.testing.wait_all_tasks_blocked(0.05)  # the store's thread answers meanwhile
            for append, on_done in held:
                append_nowait(append, on_done)
        await sandbox.wait_for("vonage", 1)
        row = await scene.closed(notification_id)
        assert (row.state, row.provider_id) == ("accepted", "vonage")


async def test_told_before_the_answer_and_a_kill_it_goes_by_the_next_account(tmp_path: Path) -> None:
    """The answer was never heard, and nobody has to know it: what comes next was told."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene:
            await scene.notifier.core.desk.put_provider(APP, "vonage", sandbox.configs().vonage, position=5)
            notification_id = await scene.under_way(Fault(channel="twilio", holds=True, times=1))
            await undelivered(scene, notification_id)
            row = await scene.delivery(notification_id)
            assert (row.state, row.code, row.told_attempt) == ("sending", "30008", 1)
            flaky = scene.notifier.world.flaky
            flaky.unplug_after(0)
            flaky.let_go()
            sandbox.release()
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            await sandbox.wait_for("vonage", 1)
            row = await scene.closed(notification_id)
            assert (row.state, row.provider_id, row.attempt, row.doubles) == ("accepted", "vonage", 2, 0)
            assert ("result", "refused", "30008") in await scene.notifier.rules(notification_id)
            await undelivered(scene, notification_id)  # Twilio repeats itself
            assert (await scene.delivery(notification_id)).state == "accepted"


async def test_what_was_told_of_one_attempt_is_not_said_of_the_next(tmp_path: Path) -> None:
    """The node is killed once more, while the second account is asked: of that one nothing is known."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, phone=True, channels=["sms"], fallback=["apns"]) as scene:
            await scene.notifier.core.desk.put_provider(APP, "vonage", sandbox.configs().vonage, position=5)
            sandbox.inject(Fault(channel="vonage", holds=True, times=1))
            notification_id = await scene.under_way(Fault(channel="twilio", holds=True, times=1))
            await undelivered(scene, notification_id)
            sandbox.release("twilio")
            await scene.until(notification_id, lambda row: row.state == "sending" and row.attempt == 2)
            await sandbox.wait_held("vonage")
            flaky = scene.notifier.world.flaky
            flaky.unplug_after(0)
            flaky.let_go()
            sandbox.release()
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            row = await scene.closed(notification_id)
            assert (row.state, row.code, row.attempt) == ("unknown", "node_ended", 2)
            await scene.calm()
            assert [sandbox.count(name) for name in ("twilio", "vonage", "apns")] == [1, 1, 0]
            await undelivered(scene, notification_id, provider_id="vonage")  # and now it is known
            await sandbox.wait_for("apns", 1)


async def test_what_was_told_of_an_attempt_is_not_said_of_a_redrive(tmp_path: Path) -> None:
    """Its attempts are counted anew."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene:
            await scene.notifier.core.desk.put_provider(APP, "vonage", sandbox.configs().vonage, position=5)
            sandbox.inject(Fault(channel="vonage", status=400, code="12", times=1))
            notification_id = await scene.under_way(Fault(channel="twilio", holds=True, times=1))
            await undelivered(scene, notification_id)
            sandbox.release()
            assert (await scene.closed(notification_id)).state == "dead"
            sandbox.inject(Fault(channel="twilio", holds=True, times=1))
            await scene.notifier.redrive(notification_id, 0)
            await scene.until(notification_id, lambda row: row.state == "sending")
            await sandbox.wait_held("twilio")
            flaky = scene.notifier.world.flaky
            flaky.unplug_after(0)
            flaky.let_go()
            sandbox.release()
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            row = await scene.closed(notification_id)
            assert (row.state, row.code, row.attempt) == ("unknown", "node_ended", 1)
            assert sandbox.count("vonage") == 0


async def test_after_a_kill_the_next_account_is_the_one_behind_its_own(tmp_path: Path) -> None:
    """Of three, the first two have said that they could not deliver it: none of these is asked again."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene:
            desk, configs = scene.notifier.core.desk, sandbox.configs()
            await desk.put_provider(APP, "vonage", configs.vonage, position=5)
            await desk.put_provider(APP, "twilio_2", configs.twilio, position=9)
            sandbox.inject(Fault(channel="vonage", holds=True, times=1))
            notification_id = await scene.under_way(Fault(channel="twilio", holds=True, times=1))
            await undelivered(scene, notification_id)
            sandbox.release("twilio")
            await scene.until(notification_id, lambda row: row.state == "sending" and row.attempt == 2)
            await sandbox.wait_held("vonage")
            await undelivered(scene, notification_id, provider_id="vonage")
            flaky = scene.notifier.world.flaky
            flaky.unplug_after(0)
            flaky.let_go()
            sandbox.release()
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            row = await scene.closed(notification_id)
            assert (row.state, row.provider_id, row.attempt) == ("accepted", "twilio_2", 3)
            assert (sandbox.count("twilio"), sandbox.count("vonage")) == (2, 1)
