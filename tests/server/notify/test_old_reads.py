"""What was read of a notification a moment before it changed does not decide about it."""

from pathlib import Path

import pytest
import trio

from actors.notify import open_room, timekeeper
from protocol.notify_found import Standing
from server.sandbox.sandbox import open_sandbox
from storage.notify_reads import SqliteNotifyReads
from tests.server.notify.notify_world import APP
from tests.server.notify.test_interleavings import GONE, open_scene
from tests.server.notify.test_receipts import undelivered
from tests.server.notify.test_suppressions import MAIL, put
from tests.server.notify.test_undelivered import deliveries


async def test_what_counted_as_sent_when_it_was_read_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push comes back from the store while it is told that the text message was not delivered."""
    monkeypatch.setattr(open_room, "MAX_OPEN", 0)  # what does not go at once waits in the store
    monkeypatch.setattr(open_room, "MIN_OF_LINE", 0)
    monkeypatch.setattr(timekeeper, "TICK_S", 0.05)
    is_read, may_go_on = trio.Event(), trio.Event()
    real = SqliteNotifyReads.standings

    async def held(self: SqliteNotifyReads, ids: list[int]) -> dict[int, Standing]:
        found = await real(self, ids)
        is_read.set()
        await may_go_on.wait()
        return found

    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms", "apns"], fallback=["email"]) as scene,
    ):
        await put(scene, "email", MAIL)
        desk = scene.notifier.core.desk
        await desk.pause_provider(APP, "apns", is_paused=True)
        sandbox.inject(GONE)
        notification_id = await scene.send("4711")
        await scene.notifier.until_stat("accepted", 1)
        (number,) = [one.number for one in await deliveries(scene, notification_id) if one.channel == "sms"]
        monkeypatch.setattr(SqliteNotifyReads, "standings", held)
        monkeypatch.setattr(open_room, "MAX_OPEN", 40)
        await is_read.wait()
        await undelivered(scene, notification_id, number)
        assert ("fallback", "pass", "others_open") in await scene.notifier.rules(notification_id)
        await desk.pause_provider(APP, "apns", is_paused=False)
        may_go_on.set()
        await scene.notifier.settled(notification_id)
        assert [sandbox.count(name) for name in ("twilio", "apns", "smtp")] == [1, 0, 1]
