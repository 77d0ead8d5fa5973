"""One app's queue that is stuck costs the others nothing: no campaign, and no place in memory."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from actors.notify import decider, open_room, sender, timekeeper
from protocol import notify_commands, notify_replies
from protocol.notify_content import NotifyRequest
from protocol.notify_records import PARTITION_COUNT, RequestRow
from protocol.notify_types import TypeRule
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, open_sandbox
from tests.server.notify.notify_world import APP, Notifier, apns_token, open_notifier
from tests.server.world import Device

OTHER = "other"
FEW = 24  # deliveries in memory, of a partition
PHONE = 9_000  # a device that nobody else has


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few open deliveries fit into memory, and what spilled is looked for often."""
    monkeypatch.setattr(open_room, "MAX_OPEN", FEW)
    monkeypatch.setattr(open_room, "MIN_OF_LINE", 2)
    monkeypatch.setattr(timekeeper, "TICK_S", 0.1)


@asynccontextmanager
async def open_stuck(
    directory: Path, sandbox: Sandbox, *, of_each: int, is_new: bool = True
) -> AsyncIterator[Notifier]:
    """A node where the default app's only account is paused, with so much to send in each partition."""
    async with open_notifier(directory, sandbox, is_new=is_new) as notifier:
        if is_new:
            desk = notifier.core.desk
            await desk.remove_provider(APP, "apns_development")
            await desk.put_type(APP, TypeRule(name="t", channels=["apns"], is_capped=False, dedup_s=0))
            await desk.pause_provider(APP, "apns", is_paused=True)
            await desk.put_type(OTHER, TypeRule(name="t", channels=["inapp", "apns"], is_capped=False))
            await desk.put_provider(OTHER, "apns", sandbox.configs().apns)
            users = await notifier.world.crowd(16 * PARTITION_COUNT)
            await notifier.have_apns(users)
            for number in range(-(-of_each // 12)):  # hashed, so that some partitions have fewer than 16
                await notifier.notify(NotifyRequest(type="t", user_ids=users, text=f"stuck {number}"))
        yield notifier


async def with_phone(notifier: Notifier) -> Device:
    """A user of the other app."""
    bob = await notifier.world.person("bob", OTHER)
    await notifier.has_apns(bob, PHONE)
    return bob


async def until_pushed(sandbox: Sandbox, count: int = 1) -> Sequence[str]:
    """Wait for pushes; gives to whom they went."""
    await sandbox.wait_for("apns", count)
    return [found.address for found in sandbox.deliveries("apns")]


async def shown(device: Device) -> int:
    page = await device.do(notify_commands.ListNotifications())
    assert isinstance(page, notify_replies.NotificationPage)
    return len(page.items)


async def test_a_stuck_queue_stops_no_campaign_of_another_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forgotten pause button of one app must not be everybody's outage."""
    monkeypatch.setattr(decider, "MAX_OPEN_BULK", 5)
    async with open_sandbox() as sandbox, open_stuck(tmp_path, sandbox, of_each=12) as notifier:
        bob = await notifier.world.person("bob", OTHER)
        done = await notifier.notify(NotifyRequest(type="t", group="*", text="hello"), OTHER)
        await ended(notifier, done.request_id)
        assert await shown(bob) == 1


async def test_a_stuck_channel_stops_no_campaign_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the same app's, where it does not go that way, or goes another way too."""
    monkeypatch.setattr(decider, "MAX_OPEN_BULK", 5)
    async with open_sandbox() as sandbox, open_stuck(tmp_path, sandbox, of_each=12) as notifier:
        ann = await notifier.world.person("ann")
        both = NotifyRequest(type="t", group="*", text="hello", channels=["inapp", "apns"])
        done = await notifier.notify(both)
        await ended(notifier, done.request_id)
        assert await shown(ann) == 1


async def test_a_campaign_waits_for_what_is_moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million users wait in one row, not in a million, while their app has enough to send."""
    monkeypatch.setattr(decider, "MAX_OPEN_BULK", 2)
    async with open_sandbox() as sandbox, open_stuck(tmp_path, sandbox, of_each=0) as notifier:
        await notifier.core.desk.put_provider(
            APP, "apns", msgspec.structs.replace(sandbox.configs().apns, rate_per_s=20.0)
        )
        await notifier.core.desk.pause_provider(APP, "apns", is_paused=False)
        first = await notifier.notify(NotifyRequest(type="t", group="*", text="first"))
        await ended(notifier, first.request_id)
        second = await notifier.notify(NotifyRequest(type="t", group="*", text="second"))
        await until_pushed(sandbox, 20)
        row = await notifier.world.store.get(RequestRow, second.request_id)
        assert row is not None
        assert (row.state, row.user_count) == ("running", 0)
        assert notifier.core.channels.channels["apns"].depth < 16 * PARTITION_COUNT


@pytest.mark.usefixtures("small_memory")
async def test_a_stuck_queue_leaves_room_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has to wait a moment, for a retry or for the user to see it, comes at its time."""
    monkeypatch.setattr(sender, "SEEN_GRACE_MS", 50)
    async with open_sandbox() as sandbox, open_stuck(tmp_path, sandbox, of_each=2 * FEW) as notifier:
        bob = await with_phone(notifier)  # and stays connected
        await notifier.notify(NotifyRequest(type="t", user_id=bob.user_id, text="for Bob"), OTHER)
        assert await until_pushed(sandbox) == [apns_token(PHONE)]


@pytest.mark.usefixtures("small_memory")
async def test_what_is_stuck_is_not_all_that_is_taken_up_after_a_restart(tmp_path: Path) -> None:
    """It is older than all else that waits."""
    async with open_sandbox() as sandbox:
        async with open_stuck(tmp_path, sandbox, of_each=2 * FEW) as notifier:
            bob = await with_phone(notifier)
            bob.disconnect()
            await notifier.core.desk.pause_provider(OTHER, "apns", is_paused=True)
            await notifier.notify(NotifyRequest(type="t", user_id=bob.user_id, text="for Bob"), OTHER)
        async with open_stuck(tmp_path, sandbox, of_each=0, is_new=False) as notifier:
            await notifier.core.desk.pause_provider(OTHER, "apns", is_paused=False)
            assert await until_pushed(sandbox) == [apns_token(PHONE)]


@pytest.mark.usefixtures("small_memory")
async def test_a_notification_is_done_with_the_last_of_its_deliveries(tmp_path: Path) -> None:
    """Also where only a part of them fits into memory."""
    async with open_sandbox() as sandbox, open_stuck(tmp_path, sandbox, of_each=0) as notifier:
        await notifier.core.desk.put_type(APP, TypeRule(name="both", channels=["apns", "email"]))
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        await ann.do(notify_commands.RegisterPush(channel="email", address="ann@example.com"))
        ann.disconnect()
        for number in range(FEW):
            await notifier.notify(NotifyRequest(type="t", user_id=ann.user_id, text=f"{number}"))
        done = await notifier.notify(NotifyRequest(type="both", user_id=ann.user_id, text="both"))
        notification_id = done.items[0].notification_id
        await sandbox.wait_for("smtp", 1)
        await notifier.until_stat("accepted", 1)
        assert (await notifier.row(notification_id)).state == "open"
        await notifier.core.desk.pause_provider(APP, "apns", is_paused=False)
        await notifier.settled(notification_id)
        await until_pushed(sandbox, FEW + 1)
        assert not sandbox.doubles("apns")


async def ended(notifier: Notifier, request_id: str) -> None:
    """Wait until a campaign has been handed on to all."""
    while True:
        row = await notifier.world.store.get(RequestRow, request_id)
        if row is not None and row.state == "done":
            return
        await trio.sleep(0.01)


async def test_an_urgent_mail_goes_before_those_that_wait_for_the_same_connections(tmp_path: Path) -> None:
    """A code to log in, while the server is slow with a campaign's mails: of four connections by default."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        for name, priority in (("news", "low"), ("code", "high")):
            made = {"channels": ["email"], "is_capped": False, "dedup_s": 0, "priority": priority}
            await notifier.core.desk.put_type(APP, msgspec.convert({"name": name, **made}, TypeRule))
        ann = await notifier.world.person("ann")
        await ann.do(notify_commands.RegisterPush(channel="email", address="ann@example.org"))
        ann.disconnect()
        sandbox.inject(Fault(channel="smtp", holds=True))
        news = [
            await notifier.notify(NotifyRequest(type="news", user_id=ann.user_id, text=f"news {number}"))
            for number in range(8)
        ]
        with trio.fail_after(20):
            await sandbox.wait_held("smtp", 3)
            code = await notifier.notify(NotifyRequest(type="code", user_id=ann.user_id, text="4711"))
            await sandbox.wait_held("smtp", 4)
        sandbox.release()
        for done in (code, *news):
            assert (await notifier.settled(done.items[0].notification_id)).state == "done"
        texts = [str(mail.content) for mail in sandbox.deliveries("smtp")]
        assert "4711" in "".join(texts[:4])
        assert (len(texts), sandbox.doubles("smtp")) == (9, {})
