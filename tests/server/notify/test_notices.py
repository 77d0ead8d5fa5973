"""Contacts, follows, likes, comments and mentions reach the notification centre through the whole node."""

from pathlib import Path

import pytest
import trio

from protocol import commands, events, feed_commands, notify_events
from protocol.records import Disabled, Put
from tests.server.feeds import follow, post
from tests.server.notify.notices import all_told, comment, told
from tests.server.notify.notify_world import open_notifier
from tests.server.world import Device


async def like(device: Device, post_id: int, *, removed: bool = False) -> None:
    await device.do(feed_commands.LikePost(post_id=post_id, removed=removed))


async def test_a_contact_request_and_its_acceptance_are_told(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        await world.befriend(ann, bob)
        await all_told(world)
        (asked,) = await told(world, bob.user_id)
        assert (asked.type, asked.text) == ("contact", "Ann would like to add you as a contact.")
        (accepted,) = await told(world, ann.user_id)
        assert (accepted.type, accepted.text) == ("contact", "Bob accepted your contact request.")
        (shown,) = await bob.until(notify_events.NotificationShown)
        assert shown.item.notification_id == asked.notification_id


async def test_two_who_ask_each_other_are_each_told_that_it_was_accepted(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.do, commands.RequestContact(user_id=bob.user_id))
            nursery.start_soon(bob.do, commands.RequestContact(user_id=ann.user_id))
        await ann.until_heard(_is_accepted)
        await bob.until_heard(_is_accepted)
        await all_told(world)
        for device in (ann, bob):
            rows = await told(world, device.user_id)
            assert len(rows) == 1
            assert rows[0].type == "contact"


async def test_likes_of_one_post_become_one(tmp_path: Path) -> None:
    """“Ann and Ben”, not two notifications; and a like that is given again is none."""
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob, cai = await world.people("ann", "bob", "cai")
        post_id = await post(ann, "hi")
        await like(ann, post_id)
        await like(bob, post_id)
        await all_told(world)
        await like(bob, post_id, removed=True)
        await like(bob, post_id)
        await like(cai, post_id)
        await all_told(world)
        first, *rest = await told(world, ann.user_id)
        assert (first.type, first.state, first.item_count) == ("like", "held", 2)
        assert first.text == "Bob and Cai liked your post."
        assert sorted(row.state for row in rest) == ["dropped", "merged"]


async def test_a_comment_an_answer_and_a_mention_are_told(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob, cai = await world.people("ann", "bob", "cai")
        post_id = await post(ann, "hello bob", mentions=[bob.user_id])
        await comment(cai, post_id, "well said")
        await all_told(world)
        (row,) = await told(world, bob.user_id)
        assert (row.type, row.title, row.text) == ("mention", "Ann mentioned you", "hello bob")
        (row,) = await told(world, ann.user_id)
        assert (row.type, row.text) == ("comment", "Cai: well said")


async def test_who_is_blocked_or_muted_is_not_heard_of(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob, cai = await world.people("ann", "bob", "cai")
        post_id = await post(ann, "hi")
        await ann.do(feed_commands.MuteUser(user_id=bob.user_id))
        await like(bob, post_id)
        await follow(cai, ann)
        await ann.do(commands.Block(user_id=cai.user_id))
        await all_told(world)
        assert [row.type for row in await told(world, ann.user_id)] in (
            [],
            ["follow"],
        )  # the block came later
        assert "like" not in [row.type for row in await told(world, ann.user_id)]


async def test_follows_and_requests_are_told(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob, cai = await world.people("ann", "bob", "cai")
        await follow(bob, ann)
        await all_told(world)
        await ann.do(feed_commands.UpdateAuthor(is_private=True))
        await follow(cai, ann)
        await all_told(world)
        rows = await told(world, ann.user_id)
        assert [(row.type, row.template) for row in rows] == [
            ("follow", "follow"),
            ("follow", "follow_request"),
        ]
        await ann.do(feed_commands.AnswerFollow(user_id=cai.user_id, accept=True))
        await all_told(world)
        assert len(await told(world, ann.user_id)) == 2
        (accepted,) = await told(world, cai.user_id)
        assert (accepted.type, accepted.text) == ("follow", "Ann accepted your request to follow.")
        (shown,) = await cai.until(notify_events.NotificationShown)
        assert shown.item.url == f"/#u/{ann.user_id}"
        # Said again, it is no news.
        await ann.do(feed_commands.AnswerFollow(user_id=cai.user_id, accept=True))
        await all_told(world)
        assert len(await told(world, cai.user_id)) == 1


async def test_a_tell_to_somebody_who_is_gone_is_removed(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        post_id = await post(ann, "hi")
        await world.store.commit([Put(Disabled(user_id=ann.user_id, at_ms=1))])
        await like(bob, post_id)
        await all_told(world)
        assert await told(world, ann.user_id) == []


@pytest.mark.parametrize("is_last_stored", [False, True])
@pytest.mark.parametrize("cut", range(5))
async def test_a_comment_is_told_once_wherever_the_node_dies(
    tmp_path: Path, cut: int, is_last_stored: bool
) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        post_id = await post(ann, "hi")
        await all_told(world)
        unplugged = world.flaky.unplug_after(cut, stores_last=is_last_stored)
        command = feed_commands.AddComment(post_id=post_id, client_id="k", text="so")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bob.do, command)
            with trio.move_on_after(0.5):
                await unplugged.wait()
            nursery.cancel_scope.cancel()
        world.flaky.let_go()
    async with open_notifier(tmp_path, is_new=False) as notifier:
        world = notifier.world
        bob = await world.person("bob")
        await bob.do(command)
        await all_told(world)
        assert [(row.type, row.text) for row in await told(world, "u_ann")] == [("comment", "Bob: so")]


def _is_accepted(event: object) -> bool:
    return (
        isinstance(event, events.ContactChanged)
        and event.contact is not None
        and event.contact.state == "accepted"
    )
