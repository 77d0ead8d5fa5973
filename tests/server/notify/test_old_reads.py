"""What was read of a notification a moment before it changed does not decide about it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from actors.notify import timekeeper
from actors.notify.open_room import OpenRoom
from actors.ports import Outcome
from protocol.notify_found import Line, Standing
from protocol.notify_records import NotificationRow
from protocol.records import Append
from server.sandbox.sandbox import open_sandbox
from storage.notify_reads import SqliteNotifyReads
from tests.server.notify.notify_world import APP
from tests.server.notify.test_interleavings import GONE, open_scene
from tests.server.notify.test_receipts import undelivered
from tests.server.notify.test_suppressions import MAIL, put
from tests.server.notify.test_undelivered import HELD, deliveries


async def test_what_counted_as_sent_when_it_was_read_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push comes back from the store while it is told that the text message was not delivered."""
    monkeypatch.setattr(timekeeper, "TICK_S", 0.05)
    is_read, may_go_on = trio.Event(), trio.Event()
    real = SqliteNotifyReads.standings

    async def held(self: SqliteNotifyReads, ids: list[int]) -> dict[int, Standing]:
        found = await real(self, ids)
        is_read.set()
        await may_go_on.wait()
        return found

    def is_no_push(_: OpenRoom, line: Line) -> bool:
        return line[2] != "apns"

    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms", "apns"], fallback=["email"]) as scene,
    ):
        await put(scene, "email", MAIL)
        desk = scene.notifier.core.desk
        await desk.pause_provider(APP, "apns", is_paused=True)
        sandbox.inject(GONE)
        with monkeypatch.context() as patch:
            patch.setattr(OpenRoom, "has_place", is_no_push)  # pushes wait in the store
            patch.setattr(OpenRoom, "wants_more", is_no_push)
            notification_id = await scene.send("4711")
            await scene.notifier.until_stat("accepted", 1)
            found = await deliveries(scene, notification_id)
            (number,) = [one.number for one in found if one.channel == "sms"]
        monkeypatch.setattr(SqliteNotifyReads, "standings", held)
        await is_read.wait()
        await undelivered(scene, notification_id, number)
        assert ("fallback", "pass", "others_open") in await scene.notifier.rules(notification_id)
        await desk.pause_provider(APP, "apns", is_paused=False)
        may_go_on.set()
        await scene.notifier.settled(notification_id)
        assert [sandbox.count(name) for name in ("twilio", "apns", "smtp")] == [1, 0, 1]


@pytest.mark.parametrize("has_next", [True, False])
async def test_what_is_being_cancelled_goes_no_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_next: bool
) -> None:
    """The cancellation is decided and on its way into the store, and then it is told."""
    held: list[tuple[Append, Callable[[Outcome], None]]] = []
    is_held, is_read = trio.Event(), trio.Event()
    real = SqliteNotifyReads.notifications

    def hold(append: Append, on_done: Callable[[Outcome], None]) -> None:
        held.append((append, on_done))
        is_held.set()

    async def read(self: SqliteNotifyReads, ids: list[int]) -> list[NotificationRow]:
        found = await real(self, ids)
        is_read.set()
        return found

    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"], fallback=["apns"]) as scene,
    ):
        notifier = scene.notifier
        if has_next:
            await notifier.core.desk.put_provider(APP, "vonage", sandbox.configs().vonage, position=5)
        notification_id = await scene.send("a mistake")
        await scene.closed(notification_id)
        request_id = (await notifier.row(notification_id)).request_id
        flaky = notifier.world.flaky
        append_nowait = flaky.append_nowait
        async with trio.open_nursery() as nursery:
            with monkeypatch.context() as patch:
                patch.setattr(flaky, "append_nowait", hold)
                nursery.start_soon(notifier.core.entry.cancel, APP, request_id)
                await is_held.wait()
                patch.setattr(SqliteNotifyReads, "notifications", read)
                nursery.start_soon(undelivered, scene, notification_id)
                await is_read.wait()
            for append, on_done in held:
                append_nowait(append, on_done)
        await scene.calm()
        assert (await scene.delivery(notification_id)).state == "refused"
        assert (await notifier.row(notification_id)).state == "done"
        assert not {HELD, ("result", "retry", "failover")} & set(await notifier.rules(notification_id))
        assert (sandbox.count("vonage"), sandbox.count("apns")) == (0, 0)


async def test_only_what_may_be_told_undelivered_is_written_when_it_is_cancelled(tmp_path: Path) -> None:
    """A campaign that was pushed to a million costs no write for each."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["apns"]) as scene,
    ):
        pushed, texted = await scene.send("x"), await scene.send("x", channels=["sms"])
        for notification_id, is_written in ((pushed, False), (texted, True)):
            await scene.closed(notification_id)
            request_id = (await scene.notifier.row(notification_id)).request_id
            found = await scene.notifier.core.entry.cancel(APP, request_id)
            assert found.kept == 1
            row = await scene.notifier.row(notification_id)
            assert (row.state, row.expires_at_ms > 0) == ("done", is_written)
