"""Retries, guesses and races: what is answered must agree with what is stored, always."""

from pathlib import Path

import pytest

from actors.address import Address
from actors.messages import Ask
from actors.reply import ReplySlot
from protocol import commands, events, replies
from protocol.commands import Command
from protocol.errors import Refused, StorageUnavailable
from tests.server.world import Device, World, open_world


def _together(world: World, group: str, *asked: tuple[Device, Command]) -> list[ReplySlot]:
    """Put commands into the conversation's mailbox at once, so that they share a batch."""
    slots = []
    for device, command in asked:
        slot = ReplySlot()
        ask = Ask(device.user_id, device.identity.app_id, command)
        world.core.router.ask_nowait(Address("conversation", group), ask, slot)
        slots.append(slot)
    return slots


async def test_a_retry_in_the_same_batch_gets_the_first_ack(tmp_path: Path) -> None:
    """Who was silenced between a send and its retry must not take the message for lost."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        send = commands.Send(conversation_id=group, client_id="k", text="hi")
        silence = commands.Silence(conversation_id=group, user_id=bob.user_id, until_ms=2**50)
        slots = _together(world, group, (bob, send), (ann, silence), (bob, send))
        first, _, again = [await slot.wait() for slot in slots]
        assert isinstance(first, replies.Sent)
        assert isinstance(again, replies.Sent)
        assert (again.seq, again.duplicate) == (first.seq, True)
        later = _together(world, group, (bob, send))
        assert (await later[0].wait()) == again
        other = commands.Send(conversation_id=group, client_id="new", text="hi")
        with pytest.raises(Refused, match="silenced"):
            await _together(world, group, (bob, other))[0].wait()


async def test_a_key_that_meant_another_text_is_refused(tmp_path: Path) -> None:
    """Its author must not be told that the second text was stored; an edit or a deletion changes nothing."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        first = await ann.send(group, "a", "k")
        with pytest.raises(Refused, match="payload_conflict"):
            await ann.send(group, "b", "k")
        await ann.do(commands.Edit(conversation_id=group, target=first.seq, text="c"))
        assert (await ann.send(group, "a", "k")).duplicate
        await ann.do(commands.Delete(conversation_id=group, target=first.seq))
        assert (await ann.send(group, "a", "k")).seq == first.seq


async def test_a_guessed_seq_is_no_message_before_its_own_ack(tmp_path: Path) -> None:
    """An acked reaction or deletion must be there for good, however early it was asked for."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        for number in range(30):
            head = (await ann.line(group)).head
            send = commands.Send(conversation_id=group, client_id=f"k{number}", text="hi")
            react = commands.React(conversation_id=group, target=head + 1, emoji="x")
            again = commands.React(conversation_id=group, target=head + 1, emoji="y")
            slots = _together(world, group, (ann, send), (bob, react), (bob, again))
            await slots[0].wait()
            acked = set()
            for slot, emoji in zip(slots[1:], "xy", strict=True):
                try:
                    await slot.wait()
                    acked.add(emoji)
                except Refused as refused:
                    assert refused.code == "message_not_found"
            page = await ann.do(commands.History(conversation_id=group, limit=1))
            assert isinstance(page, replies.MessagePage)
            assert {reaction.emoji for reaction in page.items[0].reactions} == acked


async def test_lists_show_only_what_is_stored(tmp_path: Path) -> None:
    """A removal that fails must not have been shown to anybody."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        world.flaky.failures = [StorageUnavailable("disk")]
        remove = commands.RemoveMember(conversation_id=group, user_id=bob.user_id)
        listing = commands.ListMembers(conversation_id=group)
        slots = _together(world, group, (ann, remove), (ann, listing))
        for slot in slots:
            with pytest.raises(StorageUnavailable):
                await slot.wait()
        listed = await ann.do(listing)
        assert isinstance(listed, replies.MemberList)
        assert {member.user_id for member in listed.items} == {ann.user_id, bob.user_id}


@pytest.mark.parametrize("title", ["  ", "a\nb", "a\x1b[31m", "\u202eb"])
async def test_a_title_is_one_line_that_shows_something(tmp_path: Path, title: str) -> None:
    """It is printed in lists and terminals of everybody in the group."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        assert await ann.refusal(commands.Rename(conversation_id=group, title=title)) == "bad_field"
        create = commands.CreateGroup(client_id="new", title=title)
        assert await ann.refusal(create) == "bad_field"


async def test_a_reply_is_to_a_message(tmp_path: Path) -> None:
    """A client shows what was replied to; the group's beginning is no message."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        send = commands.Send(conversation_id=group, client_id="k", text="yes", reply_to=1)
        assert await ann.refusal(send) == "message_not_found"
        first = await ann.send(group, "what?")
        assert (await bob.send(group, "yes", reply_to=first.seq)).seq == first.seq + 1


async def test_typing_receipts_and_presence_go_on_while_the_store_is_down(tmp_path: Path) -> None:
    """Sends are refused with a retry hint; what needs no disk does not notice, then or afterwards."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        await ann.send(group, "before")
        watch = commands.WatchPresence(user_ids=[bob.user_id])
        await ann.do(watch)
        world.flaky.is_down = True
        assert await ann.refusal(commands.Send(conversation_id=group, client_id="k", text="x")) == (
            "storage_unavailable"
        )
        await bob.do(commands.SetTyping(conversation_id=group))
        await ann.until(events.Typing)
        await ann.do(commands.ListMembers(conversation_id=group))
        bob.disconnect()
        await ann.until(events.Presence)
        await ann.until(events.Receipts)
        world.flaky.is_down = False
        told = len(ann.heard(events.Receipts))
        await ann.send(group, "after")
        await ann.until(events.Receipts, told + 1)
