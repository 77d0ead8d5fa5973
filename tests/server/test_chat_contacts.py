"""Contacts and blocks: two sides, each written by its own actor, that always end up agreeing."""

from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from protocol import commands, events, notify_events, replies
from protocol.errors import HubbubError
from protocol.events import Event
from protocol.records import Tell
from tests.server.world import Device, World, open_world

AGREEING = {("", ""), ("requested", "incoming"), ("incoming", "requested"), ("accepted", "accepted")}


async def state_of(device: Device, other: Device) -> str:
    listed = await device.do(commands.ListContacts())
    assert isinstance(listed, replies.ContactList)
    return next((c.state for c in listed.items if c.user_id == other.user_id), "")


async def settled(world: World, one: Device, other: Device) -> tuple[str, str]:
    """The two sides once no tell is under way."""
    while True:
        states = await state_of(one, other), await state_of(other, one)
        if not await world.store.find(Tell, {}, limit=1):
            if states == (await state_of(one, other), await state_of(other, one)):
                return states
        else:
            await trio.testing.wait_all_tasks_blocked(0.001)


def stored(device: Device) -> list[Event]:
    """What a device has heard of its inbox: notifications are shown beside it."""
    return [event for event in device.events if not isinstance(event, notify_events.NotificationShown)]


async def test_a_request_is_accepted_declined_withdrawn_or_removed(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        request = commands.RequestContact(user_id="u_bob")
        yes = commands.AnswerContact(user_id="u_ann", accept=True)
        no = commands.AnswerContact(user_id="u_ann", accept=False)
        assert await bob.refusal(yes) == "contact_not_found"
        assert await ann.refusal(commands.RemoveContact(user_id="u_bob")) == "contact_not_found"
        assert await ann.refusal(commands.RequestContact(user_id="u_ann")) == "self_not_allowed"
        assert await ann.refusal(commands.Block(user_id="u_ann")) == "self_not_allowed"
        assert await ann.refusal(commands.RequestContact(user_id="u_no")) == "user_not_found"
        await ann.do(request)
        await ann.do(request)  # asking twice is asking once
        assert await settled(world, ann, bob) == ("requested", "incoming")
        assert await ann.refusal(commands.AnswerContact(user_id="u_bob", accept=True)) == "contact_not_found"
        await bob.do(no)
        assert await settled(world, ann, bob) == ("", "")
        await ann.do(request)
        await settled(world, ann, bob)
        await ann.do(commands.RemoveContact(user_id="u_bob"))
        assert await settled(world, ann, bob) == ("", "")
        await ann.do(request)
        await settled(world, ann, bob)
        await bob.do(yes)
        await bob.do(yes)
        assert await settled(world, ann, bob) == ("accepted", "accepted")
        await bob.do(commands.RemoveContact(user_id="u_ann"))
        assert await settled(world, ann, bob) == ("", "")
        async with trio.open_nursery() as nursery:  # both ask at once
            nursery.start_soon(ann.do, request)
            nursery.start_soon(bob.do, commands.RequestContact(user_id="u_ann"))
        assert await settled(world, ann, bob) == ("accepted", "accepted")
        for device in (ann, bob):
            assert await device.sync_inbox() == stored(device)  # what was heard live is what is stored


async def test_a_block_ends_the_contact_and_direct_messages_at_once(tmp_path: Path) -> None:
    """Who blocks somebody wants peace from this moment on, in both directions."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        direct = await world.direct(ann, bob)
        await world.befriend(ann, bob)
        await ann.send(direct, "before")
        await bob.do(commands.Block(user_id="u_ann"))
        send = commands.Send(conversation_id=direct, client_id="k", text="after")
        assert await ann.refusal(send) == "blocked"
        assert await bob.refusal(send) == "blocked"
        assert await ann.refusal(commands.SetTyping(conversation_id=direct)) == "blocked"
        assert await settled(world, ann, bob) == ("", "")
        for device, other in ((ann, bob), (bob, ann)):
            assert await device.refusal(commands.RequestContact(user_id=other.user_id)) == "blocked"
            create = commands.CreateGroup(client_id="k", title="x", member_ids=[other.user_id])
            assert await device.refusal(create) == "blocked"
        assert await world.direct(ann, bob) == direct  # what was said can still be read
        listed = await bob.do(commands.ListContacts())
        assert isinstance(listed, replies.ContactList)
        assert listed.blocked == ["u_ann"]
        assert [e.blocked for e in bob.heard(events.BlockChanged)] == [True]
        assert ann.heard(events.BlockChanged) == []
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        assert await ann.refusal(send) == "blocked"
        await bob.do(commands.Unblock(user_id="u_ann"))
        await ann.send(direct, "again")
        cid = await world.person("cid")
        await cid.do(commands.Block(user_id="u_ann"))
        assert await ann.refusal(commands.OpenDirect(user_id="u_cid")) == "blocked"


@pytest.mark.parametrize("seed", range(10))
async def test_crossed_requests_answers_removals_and_blocks_converge(tmp_path: Path, seed: int) -> None:
    """Whatever both do at the same time, neither is left waiting for the other in vain."""
    random = Random(seed)
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")

        async def act(device: Device, other: Device) -> None:
            for _ in range(random.randrange(1, 5)):
                user_id = other.user_id
                command = random.choices(
                    (
                        commands.RequestContact(user_id=user_id),
                        commands.AnswerContact(user_id=user_id, accept=True),
                        commands.AnswerContact(user_id=user_id, accept=False),
                        commands.RemoveContact(user_id=user_id),
                        commands.Block(user_id=user_id),
                        commands.Unblock(user_id=user_id),
                    ),
                    (6, 3, 1, 3, 1, 2),
                )[0]
                try:
                    await device.do(command)
                except HubbubError as error:
                    assert error.code in ("contact_not_found", "blocked")

        for _ in range(12):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(act, ann, bob)
                nursery.start_soon(act, bob, ann)
            states = await settled(world, ann, bob)
            assert states in AGREEING
            blocked = [
                listed.blocked
                for device in (ann, bob)
                if isinstance(listed := await device.do(commands.ListContacts()), replies.ContactList)
            ]
            if any(blocked):
                assert states == ("", "")
        assert await ann.sync_inbox() == stored(ann)
        assert await bob.sync_inbox() == stored(bob)


async def test_two_profile_changes_in_flight_see_each_other(tmp_path: Path) -> None:
    """The second must not undo, or be judged against, what the first has just changed."""
    async with open_world(tmp_path) as world:
        ann = await world.person("ann")
        tablet = await world.connect(ann.identity, "d2")
        async with trio.open_nursery() as nursery:
            for change in (
                commands.UpdateProfile(name="New"),
                commands.UpdateProfile(language="de"),
                commands.UpdateProfile(time_zone="Europe/Berlin"),
                commands.UpdateProfile(name="Ann"),
            ):
                nursery.start_soon(ann.do, change)
                await trio.testing.wait_all_tasks_blocked()
        changes = [e.profile for e in await tablet.until(events.ProfileChanged, 4)]
        users = await ann.do(commands.GetUsers(user_ids=["u_ann"]))
        assert isinstance(users, replies.ProfileList)
        assert users.items == changes[-1:]
        assert (changes[-1].name, changes[-1].language, changes[-1].time_zone) == (
            "Ann",
            "de",
            "Europe/Berlin",
        )
        assert await ann.do(commands.UpdateProfile(name="Ann")) == replies.ProfileList(items=changes[-1:])
        for bad in (
            commands.UpdateProfile(name="  "),
            commands.UpdateProfile(language="no tag!"),
            commands.UpdateProfile(time_zone="Mars/Base"),
        ):
            assert await ann.refusal(bad) == "bad_field"
