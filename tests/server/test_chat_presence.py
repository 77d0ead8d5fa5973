"""Presence, typing and heads: live events that are cheap, batched, and told to those concerned only."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from protocol import commands, events, replies
from protocol.types import PresenceItem
from tests.server.world import Device, open_world, texts


def states(device: Device, user_id: str) -> list[str]:
    """What a device was told of a user, in order."""
    return [i.state for e in device.heard(events.Presence) for i in e.items if i.user_id == user_id]


async def until_state(device: Device, user_id: str, state: str) -> PresenceItem:
    event = await device.until_heard(
        lambda e: (
            isinstance(e, events.Presence) and any(i.user_id == user_id and i.state == state for i in e.items)
        )
    )
    assert isinstance(event, events.Presence)
    return next(i for i in event.items if i.user_id == user_id and i.state == state)


async def watch(device: Device, *user_ids: str, contacts: bool = False) -> dict[str, PresenceItem]:
    reply = await device.do(commands.WatchPresence(user_ids=list(user_ids), contacts=contacts))
    assert isinstance(reply, replies.PresenceList)
    return {item.user_id: item for item in reply.items}


async def test_presence_follows_all_devices_of_a_user(tmp_path: Path) -> None:
    """Online at once, away when idle everywhere, offline with the time of the last connection."""
    async with open_world(tmp_path, debounce_s=0.0) as world:
        ann, bob = await world.people("ann", "bob")
        await world.group(ann, bob)
        assert (await watch(ann, "u_bob"))["u_bob"].state == "online"
        phone = await world.connect(bob.identity, "d2")
        await bob.do(commands.Activity(active=False))
        await phone.do(commands.Heartbeat(active=False))
        await until_state(ann, "u_bob", "away")
        await phone.do(commands.Activity(active=True))
        await until_state(ann, "u_bob", "online")
        bob.disconnect()
        world.now_ms += 1000
        closed_ms = world.now_ms
        phone.disconnect()
        gone = await until_state(ann, "u_bob", "offline")
        assert gone.last_seen_ms == closed_ms
        assert states(ann, "u_bob") == ["away", "online", "offline"]
        assert (await watch(ann, "u_bob"))["u_bob"] == gone
    async with open_world(tmp_path) as world:
        ann = await world.person("ann")
        assert (await watch(ann, "u_bob"))["u_bob"] == gone


async def test_a_short_drop_is_not_shown(tmp_path: Path) -> None:
    """A train in a tunnel must not flicker on everybody's screen."""
    async with open_world(tmp_path, debounce_s=0.6) as world:
        ann, bob, cid = await world.people("ann", "bob", "cid")
        await world.group(ann, bob, cid)
        await watch(ann, "u_bob", "u_cid")
        bob.disconnect()
        cid.disconnect()
        again = await world.connect(bob.identity)
        await until_state(ann, "u_cid", "offline")  # so bob's debounce is over too
        assert states(ann, "u_bob") == []
        again.disconnect()
        await until_state(ann, "u_bob", "offline")


async def test_only_contacts_and_those_who_share_a_conversation_are_watched(tmp_path: Path) -> None:
    """Presence is nobody else's business, and never crosses a block."""
    async with open_world(tmp_path) as world:
        ann, friend, fellow, stranger, blocked = await world.people("ann", "fr", "fe", "st", "bl")
        await world.befriend(ann, friend)
        await world.group(ann, fellow, blocked)
        everyone = ("u_fr", "u_fe", "u_st", "u_bl", "u_no")
        assert set(await watch(ann, *everyone)) == {"u_fr", "u_fe", "u_bl"}
        await blocked.do(commands.Block(user_id="u_ann"))
        parted = await until_state(ann, "u_bl", "offline")
        assert parted == PresenceItem(user_id="u_bl", state="offline")
        for device in (friend, fellow, stranger, blocked):
            device.disconnect()
        await until_state(ann, "u_fr", "offline")
        await until_state(ann, "u_fe", "offline")
        assert states(ann, "u_st") == []
        assert len(states(ann, "u_bl")) == 1  # the parting, nothing of what came later
        assert set(await watch(ann, *everyone, contacts=True)) == {"u_fr", "u_fe"}
        assert set(await watch(ann, contacts=True)) == {"u_fr"}
        ann.events.clear()
        back = await world.connect(friend.identity)
        await until_state(ann, "u_fr", "online")
        assert states(ann, "u_fe") == []
        assert set(await watch(back, contacts=True)) == {"u_ann"}


async def test_presence_ends_with_the_last_reason_to_see_it(tmp_path: Path) -> None:
    """Who was banned from a group, or is no contact any more, must not go on watching the others' lives."""
    async with open_world(tmp_path) as world:
        ann, bob, cid, dan = await world.people("ann", "bob", "cid", "dan")
        await world.befriend(ann, bob)
        await world.befriend(ann, dan)
        group, second = await world.group(ann, bob, cid), await world.group(ann, cid)
        await world.befriend(bob, cid)
        await watch(ann, "u_bob", "u_cid", "u_dan")
        await watch(cid, "u_ann", "u_bob")
        await watch(dan, "u_ann", contacts=True)

        await ann.do(commands.RemoveMember(conversation_id=group, user_id="u_cid", ban=True))
        await ann.do(commands.RemoveContact(user_id="u_dan"))
        for device, user_id in ((ann, "u_dan"), (dan, "u_ann")):
            parted = await until_state(device, user_id, "offline")
            assert parted == PresenceItem(user_id=user_id, state="offline")
        await world.core.service.judge_sight()
        assert states(cid, "u_ann") == []  # another group is shared
        assert states(cid, "u_bob") == []  # and they are contacts
        assert states(ann, "u_cid") == []

        await cid.do(commands.Leave(conversation_id=second))
        for device, user_id in ((ann, "u_cid"), (cid, "u_ann")):
            parted = await until_state(device, user_id, "offline")
            assert parted == PresenceItem(user_id=user_id, state="offline")
        for device in (cid, dan):
            await device.do(commands.Activity(active=False))
        bob.disconnect()
        await until_state(ann, "u_bob", "offline")
        await until_state(cid, "u_bob", "offline")
        assert (states(ann, "u_cid"), states(ann, "u_dan")) == (["offline"], ["offline"])


async def test_rights_that_end_while_a_watch_is_set_up_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leave is fanned out before the hub knows of the watch that its reads still allowed."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        share = world.store.sharing_conversation

        async def then_leave(user_id: str, other_ids: Sequence[str]) -> set[str]:
            found = await share(user_id, other_ids)
            monkeypatch.undo()
            await bob.do(commands.Leave(conversation_id=group))
            return found

        monkeypatch.setattr(world.store, "sharing_conversation", then_leave)
        assert set(await watch(ann, "u_bob")) == {"u_bob"}
        parted = await until_state(ann, "u_bob", "offline")
        assert parted == PresenceItem(user_id="u_bob", state="offline")


async def test_many_changes_reach_a_watcher_in_one_event(tmp_path: Path) -> None:
    """A whole group that comes online after a restart costs each member one event."""
    async with open_world(tmp_path) as world:
        ann = await world.person("ann")
        ids = await world.crowd(60)
        create = commands.CreateGroup(client_id="k", title="x", member_ids=ids)
        await ann.do(create)
        await watch(ann, *ids)
        for user_id in ids:
            await world.connect(await world.user(user_id[2:]))
        await until_state(ann, ids[-1], "online")
        told = [i.user_id for e in ann.heard(events.Presence) for i in e.items]
        assert sorted(told) == sorted(ids)
        assert len(ann.heard(events.Presence)) < 10


async def test_typing_is_told_to_those_who_look_and_not_to_oneself(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob, cid = await world.people("ann", "bob", "cid")
        tablet = await world.connect(ann.identity, "d2")
        group = await world.group(ann, bob, cid)
        await cid.do(commands.Focus(conversation_ids=[]))
        await ann.do(commands.SetTyping(conversation_id=group))
        await ann.do(commands.SetTyping(conversation_id=group, on=False))
        assert [e.on for e in bob.heard(events.Typing)] == [True, False]
        assert bob.heard(events.Typing)[0].user_id == "u_ann"
        for device in (ann, tablet, cid):
            assert device.heard(events.Typing) == []


async def test_what_is_off_the_screen_comes_as_coalesced_heads(tmp_path: Path) -> None:
    """Forty busy groups must not wake a phone forty times a second; the badge stays right."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group, seen = await world.group(ann, bob), await world.group(ann, bob)
        await bob.until(events.ConversationCreated, 2)
        await bob.do(commands.Focus(conversation_ids=[seen]))
        for number in range(20):
            sent = await ann.send(group, f"{number}" + "x" * 300)
            await ann.send(seen, f"{number}")
        assert texts(bob.events) == [f"{n}" for n in range(20)]

        def has_head(event: events.Event) -> bool:
            return isinstance(event, events.Heads) and event.items[0].head == sent.seq

        heads = await bob.until_heard(has_head)
        assert isinstance(heads, events.Heads)
        (hint,) = heads.items
        assert (hint.conversation_id, hint.message_count) == (group, 20)
        assert hint.last_message is not None
        assert (hint.last_message.seq, len(hint.last_message.text)) == (sent.seq, 200)
        assert len(bob.heard(events.Heads)) <= 3
        bob.events.clear()
        edit = await ann.do(commands.Edit(conversation_id=group, target=sent.seq, text="edited"))
        assert isinstance(edit, replies.Changed)
        (heads,) = await bob.until(events.Heads)
        assert (heads.items[0].head, heads.items[0].message_count) == (edit.seq, 20)
        mention = await ann.send(group, "@bob", mentions=["u_bob"])
        assert texts(bob.events) == ["@bob"]  # whom it mentions hears it at once
        await ann.do(commands.Delete(conversation_id=group, target=mention.seq))
        assert [e.target for e in bob.heard(events.MessageDeleted)] == [mention.seq]


async def test_who_looks_while_a_head_is_under_way_is_told_of_it(tmp_path: Path) -> None:
    """Else a message that came just before the screen was opened would stay unseen until the next one."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        await bob.do(commands.Focus(conversation_ids=[]))
        sent = await ann.send(group, "just before")
        await bob.do(commands.Focus(conversation_ids=[group]))
        (heads,) = bob.heard(events.Heads)
        assert heads.items[0].head == sent.seq
        await ann.send(group, "after")
        assert texts(bob.events) == ["after"]


async def test_a_heartbeat_tells_of_streams_in_which_the_device_is_behind(tmp_path: Path) -> None:
    """A lost hint heals within one heartbeat."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        sent = await ann.send(group, "x")
        await bob.until(events.ConversationAdded)
        beat = await bob.do(commands.Heartbeat(cursors={group: 1, "other": 1}))
        assert isinstance(beat, replies.HeartbeatAck)
        assert [(h.conversation_id, h.head) for h in beat.heads] == [(group, sent.seq)]
        assert beat.inbox_head == 1
        beat = await bob.do(commands.Heartbeat(cursors={group: sent.seq}))
        assert isinstance(beat, replies.HeartbeatAck)
        assert beat.heads == []


async def test_the_same_delivered_cursors_wake_no_conversation_again(tmp_path: Path) -> None:
    """Heartbeats name up to 1,000 conversations each; sleeping ones must be left to sleep."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        sent = await ann.send(group, "x")
        cursors = {group: sent.seq}
        await bob.do(commands.Heartbeat(cursors=cursors))
        await ann.until_heard(
            lambda e: isinstance(e, events.Receipts) and any(i.user_id == "u_bob" for i in e.items)
        )
        with trio.fail_after(5):
            while world.core.conversations.stats().active:
                await world.core.conversations.passivate_matching(lambda _: True, deadline_s=5)
        activations = world.core.conversations.stats().activations
        await bob.do(commands.Heartbeat(cursors=cursors))
        await watch(ann, "u_bob")
        bob.disconnect()
        await until_state(ann, "u_bob", "offline")  # the hub has ticked since
        assert world.core.conversations.stats().activations == activations
