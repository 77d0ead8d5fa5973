"""A store that takes nothing for a moment: who asks is told so, and what is under way for others goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from actors.notify.address import partition_of
from actors.ports import Outcome
from actors.reply import ReplySlot
from protocol import notify_commands
from protocol.errors import Overloaded
from protocol.notify_content import NotifyRequest
from protocol.notify_types import Preferences, TypeRule
from protocol.records import Append
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, open_sandbox
from storage.notify_reads import SqliteNotifyReads
from storage.sqlite import SqliteStore
from tests.server.notify.notify_world import APP
from tests.server.notify.test_interleavings import Scene, open_scene

HELD = Fault(channel="apns", holds=True, times=1)


def neighbour_of(user_id: str) -> str:
    """A username in the same partition."""
    names = (f"bob{number}" for number in range(1_000))
    return next(name for name in names if partition_of(f"u_{name}") == partition_of(user_id))


async def neighbours_under_way(scene: Scene, sandbox: Sandbox) -> int:
    """Another user of the same partition, to whom something is just being sent."""
    bob = await scene.notifier.world.person(neighbour_of(scene.user_id))
    await scene.notifier.has_apns(bob, 2)
    bob.disconnect()
    await scene.notifier.core.desk.put_type(APP, TypeRule(name="plain", channels=["apns"]))
    sandbox.inject(HELD)
    done = await scene.notifier.notify(NotifyRequest(type="plain", user_id=bob.user_id, text="x"))
    notification_id = done.items[0].notification_id
    await scene.until(notification_id, lambda row: row.state == "sending")
    await sandbox.wait_held("apns")
    return notification_id


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
        other = await scene.under_way(HELD)
        mark = notify_commands.MarkNotifications(mark="read", notification_ids=[seen])
        with full_after(scene, monkeypatch, SqliteNotifyReads, "notifications"), pytest.raises(Overloaded):
            await scene.do(mark)
        scene.notifier.world.flaky.is_full = False
        sandbox.release()
        assert (await scene.closed(other)).state == "accepted"
        assert (await scene.notifier.row(seen)).read_at_ms == 0
        await scene.do(mark)
        assert (await scene.notifier.row(seen)).read_at_ms > 0


async def test_an_erasure_waits_for_a_full_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone on with when there is room, and ends nothing meanwhile."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        gone = await scene.send("Secret sale")
        await scene.closed(gone)
        other = await neighbours_under_way(scene, sandbox)
        async with trio.open_nursery() as nursery:
            with full_after(scene, monkeypatch, SqliteNotifyReads, "of_types") as is_full:
                nursery.start_soon(scene.erase)
                await is_full.wait()
            scene.notifier.world.flaky.is_full = False
        await scene.notifier.until_state(gone, "erased")
        sandbox.release()
        assert (await scene.closed(other)).state == "accepted"


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
        other = await scene.under_way(Fault(channel="twilio", holds=True, times=1))
        with full_after(scene, monkeypatch, SqliteStore, "get"), pytest.raises(Overloaded):
            await scene.told(told, "confirmed")
        scene.notifier.world.flaky.is_full = False
        sandbox.release()
        assert (await scene.closed(other)).state == "accepted"
        await scene.told(told, "confirmed")
        assert (await scene.delivery(told)).state == "confirmed"


@contextmanager
def unheard(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[trio.Event, Callable[[], None]]]:
    """Keep back what becomes of appends: yields what is set with the first, and what lets it be heard."""
    flaky = scene.notifier.world.flaky
    append_nowait = flaky.append_nowait
    outcomes: list[Callable[[], None]] = []
    is_in_flight = trio.Event()

    def keep(append: Append, on_done: Callable[[Outcome], None]) -> None:
        append_nowait(append, lambda outcome: outcomes.append(lambda: on_done(outcome)))
        is_in_flight.set()

    def hear() -> None:
        for outcome in outcomes:
            outcome()

    with monkeypatch.context() as patch:
        patch.setattr(flaky, "append_nowait", keep)
        yield is_in_flight, hear


async def test_preferences_in_a_full_store_leave_alone_what_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are answered once all that was decided before is stored, so they need the store too."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        other = await scene.under_way(HELD)
        async with trio.open_nursery() as nursery:
            with unheard(scene, monkeypatch) as (is_in_flight, hear):
                nursery.start_soon(scene.do, notify_commands.SetPreferences(preferences=Preferences()))
                await is_in_flight.wait()
            scene.notifier.world.flaky.is_full = True
            with pytest.raises(Overloaded):
                await scene.do(notify_commands.GetPreferences())
            scene.notifier.world.flaky.is_full = False
            await scene.notifier.world.store.barrier()
            hear()
        sandbox.release()
        assert (await scene.closed(other)).state == "accepted"


async def test_who_waited_for_another_decision_is_refused_by_a_full_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What joins a batch that a keyed one has opened waits for that; by then there may be no room."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, batch_window_s=60) as scene:
        other = await neighbours_under_way(scene, sandbox)
        opener = NotifyRequest(type="t", user_id=scene.user_id, text="1", subject="s", idempotency_key="K")
        async with trio.open_nursery() as nursery:
            with unheard(scene, monkeypatch) as (is_in_flight, hear):
                nursery.start_soon(scene.notifier.notify, opener)
                await is_in_flight.wait()
            joins, slot = msgspec.structs.replace(opener, text="2", idempotency_key="K2"), ReplySlot()
            assert scene.notifier.core.entry.notify_nowait(APP, joins, slot)
            scene.notifier.world.flaky.is_full = True
            await scene.notifier.world.store.barrier()
            hear()
            with pytest.raises(Overloaded):
                await slot.wait()
        scene.notifier.world.flaky.is_full = False
        sandbox.release()
        assert (await scene.closed(other)).state == "accepted"
