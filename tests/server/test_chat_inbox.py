"""The user's own stream, the conversation list, and what a device that was away gets back."""

from pathlib import Path
from random import Random

import pytest
import trio

from protocol import commands, events, replies
from protocol.errors import CloseCode
from protocol.events import Event
from protocol.types import ConversationSummary
from tests.server.world import Device, World, open_world


def durable(device: Device, conversation_id: str) -> list[Event]:
    """What a device heard of a conversation's stream."""
    return [e for e in device.events if getattr(e, "seq", 0) and _conversation(e) == conversation_id]


def _conversation(event: Event) -> str:
    inbox = events.ConversationAdded | events.ConversationRemoved | events.ConversationMuted
    return "" if isinstance(event, inbox) else getattr(event, "conversation_id", "")


async def test_the_inbox_is_gapless_and_equals_what_was_heard(tmp_path: Path) -> None:
    """One cursor syncs contacts, conversations, settings and log-ins on every device."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        tablet = await world.connect(bob.identity, "d2")
        group = await world.group(ann, bob)
        await world.befriend(ann, bob)
        await bob.do(commands.Mute(conversation_id=group, until_ms=5))
        await bob.do(commands.UpdateProfile(name="Bobby"))
        await bob.do(commands.Block(user_id="u_ann"))
        await bob.do(commands.Unblock(user_id="u_ann"))
        await ann.do(commands.RemoveMember(conversation_id=group, user_id="u_bob", ban=True))
        await bob.until(events.ConversationRemoved)
        inbox = await bob.sync_inbox()
        kinds = {type(e) for e in inbox}
        assert kinds == {
            events.ConversationAdded,
            events.ConversationRemoved,
            events.ConversationMuted,
            events.ContactChanged,
            events.ProfileChanged,
            events.BlockChanged,
        }
        assert [getattr(e, "seq", 0) for e in inbox] == list(range(1, len(inbox) + 1))
        for device in (bob, tablet):
            heard = [e for e in device.events if type(e) in kinds]
            assert heard == inbox
        assert await bob.sync_inbox(after=3) == inbox[3:]
        assert await bob.refusal(commands.SyncInbox(after=99)) == "bad_cursor"


async def test_tombstones_reach_devices_that_were_away_and_those_that_look_elsewhere(tmp_path: Path) -> None:
    """A deleted message must disappear everywhere, whatever a device was doing meanwhile."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        sent = await ann.send(group, "oops")
        await bob.until(events.MessagePosted)
        bob.disconnect()
        passive = await world.connect(bob.identity, "d2", focus=[])
        await ann.do(commands.Delete(conversation_id=group, target=sent.seq))
        (tombstone,) = passive.heard(events.MessageDeleted)
        assert tombstone.target == sent.seq
        back = await world.connect(bob.identity, cursors={group: sent.seq})
        assert [(h.conversation_id, h.head, h.unread) for h in back.welcome.heads] == [
            (group, tombstone.seq, 0)
        ]
        assert await back.sync(group, after=sent.seq) == [tombstone]


@pytest.mark.parametrize("seed", range(4))
async def test_a_device_that_comes_and_goes_has_everything_once(tmp_path: Path, seed: int) -> None:
    """Backlog and live events together are the stream: nothing missing, nothing twice, across restarts."""
    random = Random(seed)
    seen: list[Event] = []
    inbox: list[Event] = []
    group = ""

    async def visit(world: World, identity_of: Device, sends: int) -> None:
        nonlocal group
        ann = identity_of
        device = await world.connect(
            (await world.user("bob")),
            cursors={group: len(seen)} if group else {},
            inbox_cursor=len(inbox),
        )
        if not group:
            group = await world.group(ann, device)
        async with trio.open_nursery() as nursery:
            for number in range(sends):
                nursery.start_soon(ann.send, group, f"live {number}")
            if any(h.conversation_id == group for h in device.welcome.heads):
                seen.extend(await device.sync(group, after=len(seen), limit=random.randint(1, 5)))
        await device.do(commands.Ack(cursors={group: 1}))
        for event in durable(device, group):
            if getattr(event, "seq", 0) > len(seen):
                assert getattr(event, "seq", 0) == len(seen) + 1
                seen.append(event)
        inbox.extend(await device.sync_inbox(after=len(inbox)))
        device.disconnect()
        for number in range(random.randint(0, 7)):
            await ann.send(group, f"away {number}")

    for _ in range(3):
        async with open_world(tmp_path) as world:
            ann = await world.person("ann")
            for _ in range(4):
                await visit(world, ann, random.randint(0, 6))
            stored = await ann.sync(group)
            assert seen == stored[: len(seen)]
    assert len(seen) > 10
    assert [type(e) for e in inbox] == [events.ConversationAdded]


async def test_the_server_keeps_each_devices_cursors(tmp_path: Path) -> None:
    """A device that lost its memory goes on where it had told it was; another device is another matter."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        sent = await ann.send(group, "x")
        await bob.do(commands.Ack(cursors={group: sent.seq, "foreign": 3}, inbox_cursor=1))
        await world.core.service.flush_cursors()
    async with open_world(tmp_path) as world:
        ann = await world.person("ann")
        await ann.send(group, "y")
        bob = await world.person("bob")
        assert bob.welcome.cursors == {group: sent.seq}
        assert bob.welcome.inbox_cursor == 1
        assert [h.head for h in bob.welcome.heads] == [sent.seq + 1]
        other = await world.connect(bob.identity, "d9")
        assert other.welcome.cursors == {}
        assert other.welcome.inbox_cursor == 0


async def test_the_conversation_list_is_paged_newest_first(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        groups = [await world.group(ann, bob, title=f"Group {n}") for n in range(7)]
        for number in (3, 1, 4, 0, 6, 2, 5):
            world.now_ms += 10
            await ann.send(groups[number], f"last of {number}" + "!" * 300)
        for limit in (1, 3, 7, 50):
            found: list[ConversationSummary] = []
            place = ""
            while True:
                page = await bob.do(commands.ListConversations(after=place, limit=limit))
                assert isinstance(page, replies.ConversationList)
                found += page.items
                place = page.next
                if not place:
                    break
            assert [line.title for line in found] == [f"Group {n}" for n in (5, 2, 6, 0, 4, 1, 3)]
            assert {line.unread for line in found} == {1}
            assert all(line.last_message and len(line.last_message.text) == 200 for line in found)


async def test_an_ended_log_in_closes_its_connections_and_tells_the_others(tmp_path: Path) -> None:
    """Who lost a phone ends its log-in from another device."""
    async with open_world(tmp_path) as world:
        ann = await world.person("ann")
        other_login = type(ann.identity)(user=ann.identity.user, app_id="default", session_id="s_other")
        tablet = await world.connect(other_login, "d2")
        world.core.service.session_revoked("s_ann", "u_ann")
        world.core.service.session_revoked("s_ann", "u_ann")
        (revoked,) = await tablet.until(events.SessionRevoked)
        assert revoked.session_id == "s_ann"
        assert ann.close_code == CloseCode.SESSION_REVOKED
        assert tablet.close_code is None
        assert await tablet.sync_inbox() == [revoked]
