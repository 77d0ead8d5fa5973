"""What was told of something that is deleted goes with it."""

import time
from pathlib import Path

import msgspec
import pytest
import trio

from actors import chat_notices
from actors.messages import ActorTell, Deleted, NoticeDue, Told, comment_thing, encode_tell
from actors.notify.address import notify_address, partition_address, partition_of
from actors.notify.builtin_types import BUILTIN_TYPES
from actors.notify.messages import Notify, PutAddress
from protocol import commands, feed_commands, notify_commands, notify_events
from protocol.errors import Refused
from protocol.notify_content import Content
from protocol.notify_records import DeliveryRow
from protocol.notify_replies import NotifyAccepted
from protocol.notify_types import Preferences, QuietHours
from protocol.records import Tell
from server.sandbox.sandbox import open_sandbox
from tests.server.feeds import post
from tests.server.notify.notices import all_told, comment, told
from tests.server.notify.notify_world import APP, Clock, Notifier, open_notifier
from tests.server.world import Device

HOUR_MS = 3_600_000


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_notices, "DEBOUNCE_S", 0.05)


async def delete_comment(device: Device, post_id: int, comment_id: int) -> None:
    await device.do(feed_commands.DeleteComment(post_id=post_id, comment_id=comment_id))


async def unread(notifier: Notifier, device: Device) -> int:
    found = await device.do(notify_commands.MarkNotifications(mark="seen", up_to=1))
    return int(found.unread)  # type: ignore[union-attr]


def is_gone(event: object) -> bool:
    return isinstance(event, notify_events.NotificationsMarked) and event.mark == "dismissed"


async def test_a_mention_in_a_message_that_is_deleted_leaves_the_centre(tmp_path: Path) -> None:
    """Its words are on no device and in no table any more; why is explained."""
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        bob.disconnect()
        sent = await ann.send(group, "bob, the secret is 7", mentions=[bob.user_id])
        await all_told(world)
        (row,) = await told(world, bob.user_id)
        assert (row.type, row.text, row.in_centre) == ("mention", "bob, the secret is 7", True)
        bob = await world.connect(bob.identity)
        assert await unread(notifier, bob) == 1
        await ann.do(commands.Delete(conversation_id=group, target=sent.seq))
        event = await bob.until_heard(is_gone)
        assert isinstance(event, notify_events.NotificationsMarked)
        assert (event.notification_ids, event.unread) == ([row.notification_id], 0)
        await all_told(world)
        (row,) = await told(world, bob.user_id)
        assert (row.state, row.text, row.title, row.content, row.in_centre) == ("erased", "", "", "", False)
        assert await unread(notifier, bob) == 0
        assert (await notifier.rules(row.notification_id))[-1] == ("withdraw", "drop", "deleted")


async def test_a_message_deleted_at_night_is_not_sent_in_the_morning(tmp_path: Path) -> None:
    """Held by quiet hours, it would else tell what is no more."""
    clock = Clock()
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox, clock=clock) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        put = PutAddress(bob.user_id, APP, "email", "bob@example.org")  # whose account no clock puts off
        await world.core.router.ask(notify_address(bob.user_id), put, timeout_s=5)
        rule = msgspec.structs.replace(BUILTIN_TYPES["chat"], priority="low", channels=["email"])
        await notifier.core.desk.put_type(APP, rule)
        begin, end = (time.strftime("%H:%M", time.gmtime(clock() // 1000 + s)) for s in (-3600, 7200))
        night = QuietHours(start=begin, end=end)
        await bob.do(notify_commands.SetPreferences(preferences=Preferences(quiet_hours=night)))
        group = await world.group(ann, bob)
        bob.disconnect()
        await ann.send(group, "good night")
        await all_told(world)
        gone = await ann.send(group, "what I did not mean")
        await all_told(world)
        assert [row.state for row in await told(world, bob.user_id)] == ["held", "held"]
        await ann.do(commands.Delete(conversation_id=group, target=gone.seq))
        await all_told(world)
        assert [row.state for row in await told(world, bob.user_id)] == ["held", "erased"]
        clock.pass_by(notifier, 3 * HOUR_MS)
        (mail,) = await sandbox.wait_for("smtp", 1)
        first, second = await told(world, bob.user_id)
        assert "good night" in mail.content["html"]
        await notifier.settled(first.notification_id)
        assert second.text == ""
        assert sandbox.count("smtp") == 1


async def test_one_of_several_comments_that_is_deleted_is_not_counted_any_more(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob, cai = await world.people("ann", "bob", "cai")
        post_id = await post(ann, "hi")
        first = await comment(bob, post_id, "first")
        await all_told(world)
        second = await comment(cai, post_id, "second")
        await all_told(world)
        assert (await told(world, ann.user_id))[0].text == "Bob and Cai commented on your post."
        await delete_comment(bob, post_id, first)
        await all_told(world)
        head, other = await told(world, ann.user_id)
        assert (head.text, head.in_centre) == ("Cai: second", True)
        assert "first" not in head.content + other.content
        (shown,) = [event.item for event in ann.heard(notify_events.NotificationShown)[-1:]]
        assert (shown.notification_id, shown.text, shown.count) == (head.notification_id, "Cai: second", 1)
        await delete_comment(cai, post_id, second)
        await all_told(world)
        rows = await told(world, ann.user_id)
        assert [(row.state, row.text, row.in_centre) for row in rows] == [("erased", "", False)] * 2
        assert await unread(notifier, ann) == 0


async def test_a_comments_words_go_from_everybody_who_was_told(tmp_path: Path) -> None:
    """The post's author, who was answered, and who was mentioned."""
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob, cai, dan = await world.people("ann", "bob", "cai", "dan")
        post_id = await post(ann, "hi")
        asked = await comment(bob, post_id, "a question")
        await all_told(world)
        answer = await comment(cai, post_id, "a secret", parent_id=asked, mentions=[dan.user_id])
        await all_told(world)
        for device in (bob, dan):
            assert (await told(world, device.user_id))[-1].text.endswith("a secret")
        await delete_comment(ann, post_id, answer)  # the post's author may
        await all_told(world)
        for device in (ann, bob, dan):
            rows = await told(world, device.user_id)
            assert not any("secret" in row.text + row.title + row.content for row in rows)
            deliveries = await world.store.find(DeliveryRow, {"user_id": device.user_id})
            assert not any("secret" in delivery.outgoing for delivery in deliveries)
        assert (await told(world, bob.user_id))[-1].state == "erased"
        assert (await told(world, ann.user_id))[0].text == "Bob: a question"


async def test_a_post_that_is_deleted_mentions_nobody(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        post_id = await post(ann, "bob knows", mentions=[bob.user_id])
        await all_told(world)
        assert [row.text for row in await told(world, bob.user_id)] == ["bob knows"]
        await ann.do(feed_commands.DeletePost(post_id=post_id))
        await all_told(world)
        assert [(row.state, row.text) for row in await told(world, bob.user_id)] == [("erased", "")]


async def test_what_comes_after_the_deletion_is_not_told(tmp_path: Path) -> None:
    """Tells to a partition come from several actors; what is deleted may be told of before it is told."""
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        thing = comment_thing(77)
        partition = partition_address(partition_of(ann.user_id))
        due = NoticeDue(
            user_id=ann.user_id,
            app_id=APP,
            actor_id=bob.user_id,
            type_name="comment",
            template="comment",
            data={"text": "late"},
            thing=thing,
        )
        tells: list[ActorTell] = [Deleted(APP, thing), due, Deleted(APP, thing)]
        for number, tell in enumerate(tells):
            await world.core.router.ask(partition, Told(f"t{number}", encode_tell(tell)), timeout_s=5)
        assert await told(world, ann.user_id) == []
        assert await world.store.find(Tell, {}) == []


async def test_the_same_deletion_told_twice_at_once_is_answered_twice(tmp_path: Path) -> None:
    """The relay tells again what was not answered in time."""
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        post_id = await post(ann, "bob knows", mentions=[bob.user_id])
        await all_told(world)
        partition = partition_address(partition_of(bob.user_id))
        tell = encode_tell(Deleted(APP, f"post:{post_id}"))

        async def ask(number: int) -> None:
            await world.core.router.ask(partition, Told(f"t{number}", tell), timeout_s=5)

        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(ask, number)
        assert [row.state for row in await told(world, bob.user_id)] == ["erased"]


@pytest.mark.parametrize("is_last_stored", [False, True])
@pytest.mark.parametrize("cut", range(5))
async def test_a_mention_goes_with_its_comment_wherever_the_node_dies(
    tmp_path: Path, cut: int, is_last_stored: bool
) -> None:
    """What was acked as deleted is shown nowhere; what was not is deleted by asking again."""
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        post_id = await post(ann, "hi")
        comment_id = await comment(ann, post_id, "so, bob", mentions=[bob.user_id])
        await all_told(world)
        assert [row.text for row in await told(world, "u_bob")] == ["so, bob"]
        unplugged = world.flaky.unplug_after(cut, stores_last=is_last_stored)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delete_comment, ann, post_id, comment_id)
            with trio.move_on_after(0.5):
                await unplugged.wait()
            nursery.cancel_scope.cancel()
        world.flaky.let_go()
    async with open_notifier(tmp_path, is_new=False) as notifier:
        world = notifier.world
        await delete_comment(await world.person("ann"), post_id, comment_id)
        await all_told(world)
        (row,) = await told(world, "u_bob")
        assert (row.state, row.text, row.content, row.in_centre) == ("erased", "", "", False)


async def test_another_app_that_guesses_an_id_calls_nothing_off(tmp_path: Path) -> None:
    """Ids of comments and posts rise with time; what one app cancels is its own."""
    async with open_notifier(tmp_path) as notifier:
        ann = await notifier.world.person("ann")
        router, thing = notifier.world.core.router, comment_thing(1)
        content = Content(type="comment", text="Nice")
        message = Notify(APP, (ann.user_id,), content, request_id=thing, source="hubbub")

        async def told_count() -> int:
            done = await router.ask(notify_address(ann.user_id), message, timeout_s=5)
            assert isinstance(done, NotifyAccepted)
            return len(done.items)

        with pytest.raises(Refused):
            await notifier.core.entry.cancel("evil", thing)
        assert await told_count() == 1
        await notifier.core.entry.cancel(APP, thing)
        assert await told_count() == 0
