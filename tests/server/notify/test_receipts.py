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
from tests.server.notify.test_interleavings import SLOW_S, open_scene


async def test_undelivered_while_the_answer_is_being_stored_goes_by_the_next_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory it is concluded already, in the store not yet."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene,
    ):
        await scene.notifier.core.desk.put_provider(APP, "vonage", sandbox.configs().vonage, position=5)
        notification_id = await scene.under_way(Fault(channel="twilio", delay_s=SLOW_S, times=1))
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
