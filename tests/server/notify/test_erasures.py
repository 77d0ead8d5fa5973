"""What was erased is nowhere, and does not come back."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from protocol import notify_commands
from protocol.notify_content import NotifyRequest
from protocol.notify_records import DeadDelivery, ErasureRow
from protocol.notify_types import TypeRule
from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from storage.notify_reads import SqliteNotifyReads
from tests.server.notify.notify_world import APP
from tests.server.notify.test_interleavings import Scene, open_scene


async def test_a_providers_words_do_not_keep_an_erased_users_address(tmp_path: Path) -> None:
    """Mail servers repeat whom they refuse; ledger and dead letters outlive the user."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, channels=["email"]) as scene:
        await scene.do(notify_commands.RegisterPush(channel="email", address="ann.private@example.com"))
        words = "5.7.1 <ann.private@example.com>: message refused"
        sandbox.inject(Fault(channel="smtp", at="dot", status=554, times=1, code=words))
        notification_id = await scene.send("hello")
        await scene.closed(notification_id)
        (dead,) = await scene.notifier.world.store.find(DeadDelivery, {"app_id": APP})
        assert "message refused" in dead.detail
        await scene.erase()
        (dead,) = await scene.notifier.world.store.find(DeadDelivery, {"app_id": APP})
        assert (dead.detail, dead.outgoing) == ("", "")
        told = str([entry.body for entry in await scene.notifier.ledger(notification_id)])
        assert "message refused" in told
        assert "ann.private" not in told


@asynccontextmanager
async def cancelling(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, request_id: str
) -> AsyncIterator[Callable[[], None]]:
    """Cancel a request whose notifications were just read; yields what lets it go on."""
    real = SqliteNotifyReads.of_request
    is_read, go_on = trio.Event(), trio.Event()

    async def slow(self: SqliteNotifyReads, *args: object, **kwargs: object) -> object:
        rows = await real(self, *args, **kwargs)  # type: ignore[arg-type]
        if rows:
            is_read.set()
            await go_on.wait()
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(SqliteNotifyReads, "of_request", slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.notifier.core.entry.cancel, APP, request_id)
            await is_read.wait()
            yield go_on.set


async def test_a_cancellation_does_not_bring_back_what_is_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read the words before they were erased, and stores for how long they hold."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        sandbox.inject(Fault(channel="apns", holds=True, times=1))
        done = await scene.notifier.notify(NotifyRequest(type="t", user_id=scene.user_id, text="very secret"))
        notification_id = done.items[0].notification_id
        await scene.until(notification_id, lambda row: row.state == "sending")
        async with cancelling(scene, monkeypatch, done.request_id) as go_on:
            await scene.erase()
            go_on()
        assert (await scene.delivery(notification_id)).outgoing == ""
        sandbox.release()
        await scene.closed(notification_id)
        assert (await scene.delivery(notification_id)).outgoing == ""
        assert (await scene.notifier.row(notification_id)).state == "erased"


async def test_what_is_erased_after_it_was_cancelled_stays_erased(tmp_path: Path) -> None:
    """The attempt that was under way for both ends last."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        sandbox.inject(Fault(channel="apns", status=503, holds=True, times=1))
        done = await scene.notifier.notify(NotifyRequest(type="t", user_id=scene.user_id, text="secret"))
        notification_id = done.items[0].notification_id
        await scene.until(notification_id, lambda row: row.state == "sending")
        await scene.notifier.core.entry.cancel(APP, done.request_id)
        await scene.erase()
        sandbox.release()
        await scene.closed(notification_id)
        await scene.calm()
        assert (await scene.notifier.row(notification_id)).state == "erased"


@pytest.mark.parametrize("change", ["removed", "other_purpose", "no_purpose", "now_of_it"])
async def test_a_withdrawn_consent_erases_what_rested_on_it_whatever_the_type_is_now(
    tmp_path: Path, change: str
) -> None:
    """Types come and go; the words that were sent under a consent stay, until it ends."""
    async with open_sandbox() as sandbox:
        purpose = "" if change == "now_of_it" else "ads"
        async with open_scene(tmp_path, sandbox, channels=["inapp"], purpose=purpose) as scene:
            await scene.do(notify_commands.SetConsent(purpose="ads", given=True, source="form"))
            desk = scene.notifier.core.desk
            await desk.put_type(APP, TypeRule(name="order", channels=["inapp"]))
            promo = await scene.send("secret promo")
            request = NotifyRequest(type="order", user_id=scene.user_id, text="shipped")
            (order,) = (await scene.notifier.notify(request)).items
            match change:
                case "removed":
                    await desk.remove_type(APP, "t")
                case "other_purpose":
                    await desk.put_type(APP, TypeRule(name="t", channels=["inapp"], purpose="news"))
                case "no_purpose":
                    await desk.put_type(APP, TypeRule(name="t", channels=["inapp"]))
                case _:
                    await desk.put_type(APP, TypeRule(name="t", channels=["inapp"], purpose="ads"))
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            await scene.do(notify_commands.SetConsent(purpose="ads", given=False))
            gone = await scene.notifier.row(promo)
            assert (gone.state, gone.text) == ("erased", "")
            assert (await scene.notifier.row(order.notification_id)).text == "shipped"
            (receipt,) = await scene.notifier.world.store.find(ErasureRow, {"app_id": APP})
            assert receipt.counts == '{"notifications":1}'
