"""Members who are away are notified of messages: of each burst once, and nobody else."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import trio

from actors import chat_notices
from actors.address import Address
from actors.conversation_notices import Notices
from actors.notify.builtin_types import BUILTIN_TYPES
from actors.notify.decider import Decider
from actors.notify.messages import Notify
from actors.reply import Reply
from protocol import commands
from protocol.errors import HubbubError, Unavailable
from protocol.notify_records import ChatNotice
from server.identity import Identity
from tests.server.notify.notices import all_told, texts_told, told
from tests.server.notify.notify_world import open_notifier
from tests.server.world import World

DEBOUNCE_S = 0.05


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell soon; and into the centre as well, where tests look. (By itself chat is pushed alone.)"""
    monkeypatch.setattr(chat_notices, "DEBOUNCE_S", DEBOUNCE_S)
    chat = msgspec.structs.replace(BUILTIN_TYPES["chat"], channels=["inapp", "apns"])
    monkeypatch.setitem(BUILTIN_TYPES, "chat", chat)


@contextmanager
def within_the_moment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is done in here is done before hubbub looks who is still away, on whatever machine."""
    with monkeypatch.context() as patch:
        patch.setattr(Notices, "_look", lambda notices: notices._look_in(DEBOUNCE_S))
        yield


async def test_a_burst_is_told_once_to_who_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is connected sees it; a phone that is in a pocket rings once."""
    async with open_notifier(tmp_path, public_url="https://chat.example") as notifier:
        world = notifier.world
        ann, bob, cai = await world.people("ann", "bob", "cai")
        group = await world.group(ann, bob, cai, title="Hikers")
        cai.disconnect()
        with within_the_moment(monkeypatch):
            for number in range(5):
                await ann.send(group, f"m{number}")
        await all_told(world)
        (row,) = await told(world, cai.user_id)
        assert (row.type, row.title, row.text) == ("chat", "Ann · Hikers", "m4")
        assert (row.url, row.in_centre) == (f"https://chat.example/#c/{group}", True)
        assert await told(world, ann.user_id) == []
        assert await told(world, bob.user_id) == []
        await ann.send(group, "m4")  # the same words again are no duplicate
        await all_told(world)
        assert await texts_told(world, cai.user_id) == [("chat", "m4"), ("chat", "m4")]


async def test_who_comes_back_or_reads_within_the_moment_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob, cai = await world.people("ann", "bob", "cai")
        group = await world.group(ann, bob, cai)
        for device in (bob, cai):
            device.disconnect()
        with within_the_moment(monkeypatch):
            sent = await ann.send(group, "hi")
            again = await world.connect(bob.identity)
            await world.core.service.execute(
                cai.identity, commands.MarkRead(conversation_id=group, seq=sent.seq)
            )  # by the API, without a connection
        await all_told(world)
        assert await told(world, again.user_id) == []
        assert await told(world, cai.user_id) == []


async def test_who_muted_is_told_of_mentions_alone(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob, title="Hikers")
        await bob.do(commands.Mute(conversation_id=group, until_ms=2**50))
        bob.disconnect()
        await ann.send(group, "hi")
        assert await world.store.find(ChatNotice, {}) == []  # nothing to do for nobody
        await ann.send(group, "bob, look", mentions=[bob.user_id])
        await all_told(world)
        (row,) = await told(world, bob.user_id)
        assert (row.type, row.title, row.text) == ("mention", "Ann mentioned you · Hikers", "bob, look")


async def test_a_mute_outlives_the_actor(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        ann, bob = await notifier.world.people("ann", "bob")
        group = await notifier.world.group(ann, bob)
        await bob.do(commands.Mute(conversation_id=group, until_ms=2**50))
    async with open_notifier(tmp_path, is_new=False) as notifier:
        world = notifier.world
        ann = await world.person("ann")
        await ann.send(group, "hi")
        assert await world.store.find(ChatNotice, {}) == []
        await world.core.service.execute(bob.identity, commands.Mute(conversation_id=group, until_ms=0))
        await ann.send(group, "ho")
        await all_told(world)
        assert await texts_told(world, bob.user_id) == [("chat", "ho")]


async def test_a_sender_without_a_connection_is_told_of_others_alone(tmp_path: Path) -> None:
    """Backends send by HTTP, and are never connected."""
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        direct = await world.direct(ann, bob)
        ann.disconnect()
        send = commands.Send(conversation_id=direct, client_id="k", text="from afar")
        await world.core.service.execute(ann.identity, send)
        assert await world.store.find(ChatNotice, {}) == []
        await bob.send(direct, "hello")
        await all_told(world)
        (row,) = await told(world, ann.user_id)
        assert (row.title, row.text) == ("Bob", "hello")
        assert await told(world, bob.user_id) == []


async def test_a_block_within_the_moment_keeps_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        direct = await world.direct(ann, bob)
        bob.disconnect()
        with within_the_moment(monkeypatch):
            await ann.send(direct, "hi")
            await world.core.service.execute(bob.identity, commands.Block(user_id=ann.user_id))
        await all_told(world)
        assert await told(world, bob.user_id) == []


async def test_edits_and_reactions_are_not_told(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        direct = await world.direct(ann, bob)
        sent = await ann.send(direct, "hi")
        bob.disconnect()
        await ann.do(commands.Edit(conversation_id=direct, target=sent.seq, text="ho"))
        await ann.do(commands.React(conversation_id=direct, target=sent.seq, emoji="👍"))
        assert await world.store.find(ChatNotice, {}) == []


async def test_a_deleted_message_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        direct = await world.direct(ann, bob)
        bob.disconnect()
        with within_the_moment(monkeypatch):
            sent = await ann.send(direct, "oops")
            await ann.do(commands.Delete(conversation_id=direct, target=sent.seq))
        await all_told(world)
        assert await told(world, bob.user_id) == []


async def test_a_crowd_that_is_away_costs_one_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row for each message and member."""
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, *others = await world.people("ann", *(f"p{number}" for number in range(60)))
        group = await world.group(ann, *others)
        for device in others:
            device.disconnect()
        with within_the_moment(monkeypatch):
            for number in range(20):
                await ann.send(group, f"m{number}")
            assert len(await world.store.find(ChatNotice, {})) == 1
        await all_told(world)
        for device in others:
            found = [text for _, text in await texts_told(world, device.user_id)]
            assert found
            assert found[-1] == "m19"
            assert len(set(found)) == len(found)


async def test_partitions_that_take_nothing_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that moves to another node is away for a second."""
    refusals = 3
    original = Decider.notify

    def notify(self: Decider, message: Notify, reply: Reply) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise Unavailable("busy", retry_after_s=0.01)
        original(self, message, reply)

    monkeypatch.setattr(Decider, "notify", notify)
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, *others = await world.people("ann", "bob", "cai", "dan", "eve")
        group = await world.group(ann, *others)
        for device in others:
            device.disconnect()
        await ann.send(group, "hi")
        await all_told(world)
        assert not refusals
        for device in others:
            assert await texts_told(world, device.user_id) == [("chat", "hi")]


async def test_a_shard_that_is_given_away_in_between_is_told_of_once(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        ann, bob = await world.people("ann", "bob")
        direct = await world.direct(ann, bob)
        bob.disconnect()
        await ann.send(direct, "hi")
        shard = Address("conversation", direct).shard
        world.core.cut_off({shard})
        while world.core.conversations.is_active(Address("conversation", direct)):  # noqa: ASYNC110
            await trio.sleep(0.005)  # hosts tell nobody
        world.core.shards_moved({shard}, ours={shard})
        await all_told(world)
        assert await texts_told(world, bob.user_id) == [("chat", "hi")]


async def _begin(world: World) -> tuple[str, list[str]]:
    """A group with members of several partitions, all but one away."""
    ann, *others = await world.people("ann", "bob", "cai", "dan", "eve", "fay")
    group = await world.group(ann, *others)
    for device in others:
        device.disconnect()
    await all_told(world)
    return group, [device.user_id for device in others]


@pytest.mark.parametrize("is_last_stored", [False, True])
@pytest.mark.parametrize("cut", range(9))
async def test_nothing_is_lost_or_doubled_wherever_the_node_dies(
    tmp_path: Path, cut: int, is_last_stored: bool
) -> None:
    """Promise: who is away is told of an acked message once, whatever was stored when the power went."""
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        group, others = await _begin(world)
        unplugged = world.flaky.unplug_after(cut, stores_last=is_last_stored)
        ann = world.devices[0]
        send = commands.Send(conversation_id=group, client_id="k1", text="one")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_quietly, world, ann.identity, send)
            with trio.move_on_after(1.0):  # the last cuts are behind everything that is stored
                await unplugged.wait()
            nursery.cancel_scope.cancel()
        world.flaky.let_go()
    async with open_notifier(tmp_path, is_new=False) as notifier:
        world = notifier.world
        ann = await world.person("ann")
        await ann.send(group, "one", "k1")  # the client's own retry
        await all_told(world)
        for user_id in others:
            assert await texts_told(world, user_id) == [("chat", "one")]
        await ann.send(group, "two")
        await all_told(world)
        for user_id in others:
            assert await texts_told(world, user_id) == [("chat", "one"), ("chat", "two")]


@pytest.mark.parametrize("cut", range(1, 8))
async def test_more_that_is_said_after_a_crash_does_not_double_it(tmp_path: Path, cut: int) -> None:
    """What was being told when the node died is told as it was; what comes later, later."""
    async with open_notifier(tmp_path) as notifier:
        world = notifier.world
        group, others = await _begin(world)
        unplugged = world.flaky.unplug_after(cut, stores_last=True)
        send = commands.Send(conversation_id=group, client_id="k1", text="one", mentions=[others[0]])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_quietly, world, world.devices[0].identity, send)
            await unplugged.wait()
            nursery.cancel_scope.cancel()
        world.flaky.let_go()
    async with open_notifier(tmp_path, is_new=False) as notifier:
        world = notifier.world
        ann = await world.person("ann")
        await ann.send(group, "two")
        await all_told(world)
        for user_id in others:
            found = await texts_told(world, user_id)
            assert len(set(found)) == len(found)
            assert found[-1][1] in ("two", "one")
            assert ("mention", "one") in found or user_id != others[0]


async def _quietly(world: World, identity: Identity, command: commands.Send) -> None:
    """Send, whatever becomes of it."""
    with suppress(HubbubError):
        await world.core.service.execute(identity, command)
