"""A store that takes nothing for a moment: who asks is told so, and what is under way for others goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.notify.address import partition_of
from actors.ports import Outcome
from protocol import notify_commands
from protocol.errors import Overloaded
from protocol.notify_content import NotifyRequest
from protocol.notify_types import Preferences
from protocol.records import Append
from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from storage.notify_reads import SqliteNotifyReads
from storage.sqlite import SqliteStore
from tests.server.notify.test_interleavings import SLOW_S, Scene, open_scene

SLOW = Fault(channel="apns", delay_s=SLOW_S, times=1)


def neighbour_of(user_id: str) -> str:
    """A username in the same partition."""
    names = (f"bob{number}" for number in range(1_000))
    return next(name for name in names if partition_of(f"u_{name}") == partition_of(user_id))


@contextmanager
def full_after(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> Iterator[trio.Event]:
    """Let the store be full as soon as that was read; yields what is set then."""
    real: Callable[..., Any] = getattr(owner, method)
    is_full = trio.Event()

    async def read(*args: object, **kwargs: object) -> object:
        found = await real(*args, **kwargs)
        scene.notifier.world.flaky.is_full = True
        is_full.set()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, read)
        yield is_full


async def test_a_mark_in_a_full_store_leaves_alone_what_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One user's "mark as read" must not make another one's code unknown."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, channels=["inapp", "apns"]) as scene:
        seen = await scene.send("one")
        await scene.closed(seen)
        other = await scene.under_way(SLOW)
        mark = notify_commands.MarkNotifications(mark="read", notification_ids=[seen])
        with full_after(scene, monkeypatch, SqliteNotifyReads, "notifications"), pytest.raises(Overloaded):
            await scene.do(mark)
        scene.notifier.world.flaky.is_full = False
        assert (await scene.closed(other)).state == "accepted"
        assert (await scene.notifier.row(seen)).read_at_ms == 0
        await scene.do(mark)
        assert (await scene.notifier.row(seen)).read_at_ms > 0


async def test_an_erasure_waits_for_a_full_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone on with when there is room, and ends nothing meanwhile."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        gone = await scene.send("Secret sale")
        await scene.closed(gone)
        bob = await scene.notifier.world.person(neighbour_of(scene.user_id))
        await scene.notifier.has_apns(bob, 2)
        bob.disconnect()
        sandbox.inject(SLOW)
        other = (await scene.notifier.notify(NotifyRequest(type="t", user_id=bob.user_id, text="x"))).items[0]
        await scene.until(other.notification_id, lambda row: row.state == "sending")
        async with trio.open_nursery() as nursery:
            with full_after(scene, monkeypatch, SqliteNotifyReads, "of_types") as is_full:
                nursery.start_soon(scene.erase)
                await is_full.wait()
            await sandbox.wait_for("apns", 2)
            scene.notifier.world.flaky.is_full = False
        await scene.notifier.until_state(gone, "erased")
        assert (await scene.closed(other.notification_id)).state == "accepted"


async def test_a_receipt_in_a_full_store_leaves_alone_what_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider calls again, as it is told that it failed."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene,
    ):
        told = await scene.send("one")
        await scene.closed(told)
        other = await scene.under_way(Fault(channel="twilio", delay_s=SLOW_S, times=1))
        with full_after(scene, monkeypatch, SqliteStore, "get"), pytest.raises(Overloaded):
            await scene.told(told, "confirmed")
        scene.notifier.world.flaky.is_full = False
        assert (await scene.closed(other)).state == "accepted"
        await scene.told(told, "confirmed")
        assert (await scene.delivery(told)).state == "confirmed"


async def test_preferences_in_a_full_store_leave_alone_what_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are answered once all that was decided before is stored, so they need the store too."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        other = await scene.under_way(SLOW)
        flaky = scene.notifier.world.flaky
        append_nowait = flaky.append_nowait
        unheard: list[Callable[[], None]] = []
        is_in_flight = trio.Event()

        def keep(append: Append, on_done: Callable[[Outcome], None]) -> None:
            append_nowait(append, lambda outcome: unheard.append(lambda: on_done(outcome)))
            is_in_flight.set()

        async with trio.open_nursery() as nursery:
            with monkeypatch.context() as patch:
                patch.setattr(flaky, "append_nowait", keep)
                nursery.start_soon(scene.do, notify_commands.SetPreferences(preferences=Preferences()))
                await is_in_flight.wait()
            flaky.is_full = True
            with pytest.raises(Overloaded):
                await scene.do(notify_commands.GetPreferences())
            flaky.is_full = False
            await scene.notifier.world.store.barrier()
            for hear in unheard:
                hear()
        assert (await scene.closed(other)).state == "accepted"
