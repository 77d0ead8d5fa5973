"""A campaign whose texts take long is decided some users at a time: others have their turns in between."""

from pathlib import Path

import pytest
import trio

from actors.notify import decider
from actors.notify.address import partition_address, partition_of
from actors.notify.messages import CancelPart, Notify
from actors.reply import ReplySlot
from protocol.errors import Refused
from protocol.notify_content import Content, NotifyRequest
from protocol.notify_replies import NotifyAccepted
from protocol.notify_types import TypeRule
from tests.server.notify.notify_world import APP, Clock, Notifier, open_notifier
from tests.server.notify.test_pipeline import HOUR_MS
from tests.server.notify.texts import one_text

USERS = 6


async def neighbours(notifier: Notifier, count: int) -> list[str]:
    """Users of one partition."""
    users = await notifier.world.crowd(16 * count * 3)
    first = partition_of(users[0])
    return [user_id for user_id in users if partition_of(user_id) == first][:count]


async def begin(notifier: Notifier, users: list[str]) -> ReplySlot:
    """Ask for a page of a campaign, and return when the first of its users has been decided about."""
    await notifier.core.desk.put_type(APP, TypeRule(name="t", channels=["inapp"]))
    await notifier.core.desk.put_template(APP, one_text("Hello"))
    message = Notify(
        app_id=APP,
        user_ids=tuple(users),
        content=Content(type="t", template="greeting"),
        request_id="rq_page",
        key="rq_page:0",
        source="request",
        is_bulk=True,
    )
    slot, before = ReplySlot(), notifier.stats.notified
    notifier.world.core.router.ask_nowait(partition_address(partition_of(users[0])), message, slot)
    while notifier.stats.notified == before:
        await trio.lowlevel.checkpoint()
    assert notifier.stats.notified == before + 1
    return slot


async def test_others_are_told_between_the_users_of_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A one-time code must not wait for a thousand texts of another app."""
    monkeypatch.setattr(decider, "TURN_S", 0.0)
    async with open_notifier(tmp_path) as notifier:
        *users, other = await neighbours(notifier, USERS + 1)
        for user_id in (*users, other):
            await notifier.notify(NotifyRequest(type="contact", user_id=user_id, text="in memory"))
        slot = await begin(notifier, users)
        code = await notifier.notify(NotifyRequest(type="security", user_id=other, text="4711"))
        page = await slot.wait()
        assert isinstance(page, NotifyAccepted)
        assert [item.user_id for item in page.items] == users
        assert {item.state for item in page.items} == {"done"}
        assert code.items[0].notification_id < page.items[-1].notification_id


async def test_a_page_that_is_cancelled_between_two_turns_goes_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cancellation has not counted must not be sent afterwards."""
    monkeypatch.setattr(decider, "TURN_S", 0.0)
    async with open_notifier(tmp_path) as notifier:
        users = await neighbours(notifier, USERS)
        for user_id in users:
            await notifier.notify(NotifyRequest(type="contact", user_id=user_id, text="in memory"))
        before = notifier.stats.notified
        slot = await begin(notifier, users)
        address = partition_address(partition_of(users[0]))
        await notifier.world.core.router.ask(address, CancelPart(APP, "rq_page"), timeout_s=5)
        with pytest.raises(Refused) as caught:
            await slot.wait()
        assert caught.value.code == "request_not_found"
        assert 1 <= notifier.stats.notified - before < USERS


async def test_what_is_due_together_is_released_in_turns_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody's morning begins at once."""
    monkeypatch.setattr(decider, "TURN_S", 0.0)
    clock = Clock()
    async with open_notifier(tmp_path, clock=clock) as notifier:
        users = await neighbours(notifier, USERS)
        at = "2030-01-01T00:00:00+00:00"
        done = await notifier.notify(
            NotifyRequest(type="contact", user_ids=users, text="Good morning", send_at=at)
        )
        assert {item.state for item in done.items} == {"held"}
        clock.pass_by(notifier, 20 * 365 * 24 * HOUR_MS)
        with trio.fail_after(20):
            for item in done.items:
                assert (await notifier.settled(item.notification_id)).state == "done"
