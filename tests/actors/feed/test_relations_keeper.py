"""Whom a reader follows and mutes: decided in order, by one read, and without holding up anybody else."""

from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from actors.feed import relations_keeper
from actors.feed.address import feed_address, partition_of
from actors.feed.turns import MAX_WAITING
from actors.messages import BlockStands, FeedTell, FollowAnswered, Told, encode_tell
from actors.reply import ReplySlot
from protocol import feed_commands, feed_replies
from protocol.commands import Command
from protocol.errors import HubbubError, StorageUnavailable
from protocol.records import BlockRow, FollowRow, MuteRow, Put, Remove
from tests.server.feeds import HeldReads, follow, page, post, texts
from tests.server.world import Device, open_world


def give(device: Device, command: Command) -> ReplySlot:
    """Give a command without waiting for its answer."""
    slot = ReplySlot()
    device.world.core.service.handle(device.as_session(), command, slot)
    return slot


async def codes(slots: Sequence[ReplySlot]) -> list[str]:
    """How each was answered: how one stands by then, ok, or the error's code."""
    found: list[str] = []
    for slot in slots:
        try:
            answer = await slot.wait()
        except HubbubError as error:
            found.append(error.code)
        else:
            found.append(answer.follow if isinstance(answer, feed_replies.FollowInfo) else "ok")
    return found


def follows(*others: Device) -> list[Command]:
    return [feed_commands.FollowUser(user_id=other.user_id) for other in others]


def unfollow(other: Device) -> Command:
    return feed_commands.Unfollow(user_id=other.user_id)


def mute(other: Device, *, removed: bool = False) -> Command:
    return feed_commands.MuteUser(user_id=other.user_id, removed=removed)


async def tell(device: Device, told: FeedTell) -> None:
    """Tell the partition of a reader something, as the relay does; returns when its effect is stored."""
    message = Told("t", encode_tell(told))
    await device.world.core.router.ask(feed_address(device.user_id), message, timeout_s=10.0)


async def edge(device: Device, other: Device) -> FollowRow | None:
    return await device.world.store.get(FollowRow, device.user_id, other.user_id)


async def test_nobody_waits_for_what_is_read_for_another_reader(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        names = (f"n{number}" for number in count())
        near = next(n for n in names if partition_of(f"u_{n}") == partition_of(bob.user_id))
        cat = await world.person(near)
        held = HeldReads(world, bob.user_id)
        waiting = give(bob, follows(ann)[0])
        await held.was_read.wait()
        assert await follow(cat, ann) == "following"
        await cat.do(mute(bob))
        await post(ann, "one")
        assert texts(await page(cat)) == ["one"]
        assert texts(await page(bob)) == []
        assert not waiting.is_done
        held.goes_on.set()
        assert await codes([waiting]) == ["following"]
        assert texts(await page(bob)) == ["one"]


async def test_what_one_reader_says_takes_effect_in_the_order_of_arrival(tmp_path: Path) -> None:
    """A client need not wait for an answer before it sends the next command."""
    async with open_world(tmp_path) as world:
        ann, bob, cat = await world.people("ann", "bob", "cat")
        commands = [
            *follows(ann, cat, ann),
            unfollow(ann),
            mute(cat),
            unfollow(ann),
            *follows(ann),
            mute(cat, removed=True),
            unfollow(cat),
            mute(ann),
        ]
        answers = await codes([give(bob, command) for command in commands])
        assert answers == [
            "following",
            "following",
            "following",
            "none",
            "ok",
            "none",
            "following",
            "ok",
            "none",
            "ok",
        ]
        row = await edge(bob, ann)
        assert row is not None
        assert row.state == "following"
        assert await edge(bob, cat) is None
        muted = await world.store.find(MuteRow, {"user_id": bob.user_id})
        assert [row.other_id for row in muted] == [ann.user_id]
        assert await codes([give(bob, command) for command in follows(bob)]) == ["self_not_allowed"]


async def test_a_limit_counts_follows_and_requests_that_are_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relations_keeper, "MAX_FOLLOWING", 3)
    async with open_world(tmp_path) as world:
        bob, *others = await world.people("bob", "a0", "a1", "a2", "a3", "a4")
        for private in others[1:3]:
            await private.do(feed_commands.UpdateAuthor(is_private=True))
        answers = await codes([give(bob, command) for command in follows(*others)])
        assert answers == ["following", "requested", "requested", "too_many_follows", "too_many_follows"]
        await page(bob)  # a feed that is kept knows of follows, and not of requests
        given = [*follows(others[3]), unfollow(others[1]), *follows(others[1], others[3], others[1])]
        answers = await codes([give(bob, command) for command in given])
        assert answers == ["too_many_follows", "none", "requested", "too_many_follows", "requested"]
        given = [unfollow(others[0]), *follows(others[3], others[4])]
        answers = await codes([give(bob, command) for command in given])
        assert answers == ["none", "following", "too_many_follows"]
        assert len(await world.store.find(FollowRow, {"user_id": bob.user_id})) == 3


async def test_a_limit_counts_mutes_that_are_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relations_keeper, "MAX_MUTED", 2)
    async with open_world(tmp_path) as world:
        bob, a0, a1, a2 = await world.people("bob", "a0", "a1", "a2")
        given = [mute(a0), mute(a1), mute(a2), mute(a1), mute(a0, removed=True), mute(a2), mute(a0)]
        answers = await codes([give(bob, command) for command in given])
        assert answers == ["ok", "ok", "too_many_muted", "ok", "ok", "ok", "too_many_muted"]
        assert await codes([give(bob, mute(a1)), give(bob, mute(a0))]) == ["ok", "too_many_muted"]


async def test_a_block_that_comes_while_the_store_is_read_stops_the_follow(tmp_path: Path) -> None:
    """What was read is from before the block, and what ends follows has found none."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        held = HeldReads(world, bob.user_id)
        waiting = give(bob, follows(ann)[0])
        await held.was_read.wait()
        await world.store.commit([Put(BlockRow(user_id=ann.user_id, other_id=bob.user_id, since_ms=1))])
        await tell(bob, BlockStands(bob.user_id, ann.user_id))
        held.goes_on.set()
        assert await codes([waiting]) == ["blocked"]
        assert await edge(bob, ann) is None


async def test_a_block_that_was_lifted_ends_no_newer_follow(tmp_path: Path) -> None:
    """A tell may be late: what it speaks of is looked up."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await follow(bob, ann)
        await tell(bob, BlockStands(bob.user_id, ann.user_id))
        assert await edge(bob, ann) is not None
        for user_id, other_id in ((bob.user_id, ann.user_id), (ann.user_id, bob.user_id)):
            await follow(bob, ann)
            block = BlockRow(user_id=user_id, other_id=other_id, since_ms=1)
            await world.store.commit([Put(block)])
            await tell(bob, BlockStands(bob.user_id, ann.user_id))
            assert await edge(bob, ann) is None
            await world.store.commit([Remove(BlockRow, {"user_id": user_id, "other_id": other_id})])


async def test_what_ends_a_follow_ends_that_one_and_no_newer(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        answered = partial(FollowAnswered, bob.user_id, ann.user_id)
        await follow(bob, ann)
        first = await edge(bob, ann)
        assert first is not None
        await bob.do(unfollow(ann))
        await follow(bob, ann)
        second = await edge(bob, ann)
        assert second is not None
        assert second.version > first.version
        await tell(bob, answered(False, first.version))
        assert await edge(bob, ann) is not None
        await tell(bob, answered(False, second.version))
        assert await edge(bob, ann) is None
        await follow(bob, ann)
        await tell(bob, answered(False))  # as stored before versions were told
        assert await edge(bob, ann) is None


async def test_who_is_let_in_and_removed_at_once_is_out(tmp_path: Path) -> None:
    """The removal names the request, which may still be all that is stored: it keeps its version."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await ann.do(feed_commands.UpdateAuthor(is_private=True))
        assert await follow(bob, ann) == "requested"
        asked = await edge(bob, ann)
        assert asked is not None
        await tell(bob, FollowAnswered(bob.user_id, ann.user_id, True))
        let_in = await edge(bob, ann)
        assert let_in is not None
        assert (let_in.state, let_in.version) == ("following", asked.version)
        await tell(bob, FollowAnswered(bob.user_id, ann.user_id, False, asked.version))
        assert await edge(bob, ann) is None


async def test_what_the_store_does_not_take_or_answer_is_refused_alone(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        held = HeldReads(world, bob.user_id)
        first, second = (give(bob, command) for command in (follows(ann)[0], mute(ann)))
        await held.was_read.wait()
        world.flaky.is_down = True
        held.goes_on.set()
        down = StorageUnavailable("disk").code
        assert await codes([first, second]) == [down, down]
        world.flaky.is_down = False
        held.error = StorageUnavailable("disk")
        assert await codes([give(bob, unfollow(ann))]) == [down]
        held.error = None
        assert await codes([give(bob, follows(ann)[0])]) == ["following"]
        assert await edge(bob, ann) is not None


async def test_who_sends_too_much_at_once_is_told_to_wait(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        held = HeldReads(world, bob.user_id)
        first = give(bob, mute(ann))
        await held.was_read.wait()
        waiting = [give(bob, mute(ann, removed=bool(number % 2))) for number in range(MAX_WAITING + 2)]
        assert await codes(waiting[-2:]) == ["busy", "busy"]
        held.goes_on.set()
        assert await codes([first, *waiting[:-2]]) == ["ok"] * (MAX_WAITING + 1)
        muted = await world.store.find(MuteRow, {"user_id": bob.user_id})
        assert [row.other_id for row in muted] == []
