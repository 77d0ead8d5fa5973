"""Read and delivered watermarks, and unread counts derived from them: exact, coalesced, on all devices."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from protocol import commands, events, replies
from protocol.errors import HubbubError, StorageUnavailable
from protocol.events import Event
from protocol.limits import MAX_GROUP_MEMBERS
from protocol.records import Advance, DeviceCursor, MemberRow, Op, Put, conversation_stream
from server import device_cursors
from storage.check import check
from tests.server.world import Device, World, open_world


def read(conversation_id: str, seq: int) -> commands.MarkRead:
    return commands.MarkRead(conversation_id=conversation_id, seq=seq)


async def test_reading_on_one_device_clears_the_badge_on_the_others_only(tmp_path: Path) -> None:
    """The phone in the pocket must stop showing what was read at the desk."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        phone = await world.connect(bob.identity, "d2", focus=[])
        group = await world.group(ann, bob)
        for text in "abc":
            sent = await ann.send(group, text)
        marked = await bob.do(read(group, sent.seq - 1))
        assert marked == replies.ReadMarked(conversation_id=group, read_seq=sent.seq - 1, unread=1)
        (event,) = await phone.until(events.Read)
        assert event == events.Read(conversation_id=group, read_seq=sent.seq - 1, unread=1)
        back = await bob.do(read(group, 1))  # it never goes back
        assert back == marked
        await bob.send(group, "sending reads too")
        assert (await phone.until(events.Read, 2))[1].unread == 0
        assert all(e.read_seq >= sent.seq for e in ann.heard(events.Read))  # ann's own sends, not bob's
        assert await world.unread(bob, group) == 0
        assert await world.unread(ann, group) == 1


async def test_receipts_of_500_members_are_exact_in_few_events(tmp_path: Path) -> None:
    """Each reading at once must not mean 250,000 events."""
    async with open_world(tmp_path, timeout_s=60) as world:
        ann = await world.person("ann")
        ids = await world.crowd(MAX_GROUP_MEMBERS - 1)
        crowd = [await world.connect(await world.user(user_id[2:]), focus=[]) for user_id in ids]
        group = await world.group(ann, *crowd)
        for text in "abc":
            sent = await ann.send(group, text)
        ann.events.clear()
        async with trio.open_nursery() as nursery:
            for number, device in enumerate(crowd):
                nursery.start_soon(device.do, read(group, sent.seq - number % 3))
                if number % 64 == 63:
                    await trio.testing.wait_all_tasks_blocked()
        wanted = {device.user_id: sent.seq - number % 3 for number, device in enumerate(crowd)}
        told: dict[str, int] = {}
        while len(told) < len(wanted):
            for event in await ann.until(events.Receipts, len(ann.heard(events.Receipts)) or 1):
                told |= {item.user_id: item.read_seq for item in event.items if item.user_id in wanted}
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert told == wanted
        assert len(ann.heard(events.Receipts)) < 50
        members = await ann.members(group)
        assert {u: members[u].read_seq for u in wanted} == wanted
        for number, device in enumerate(crowd[:6]):
            assert await world.unread(device, group) == number % 3
        assert not [e for device in crowd for e in device.heard(events.Receipts)]  # they look elsewhere


async def test_delivered_follows_what_devices_say_and_never_passes_the_head(tmp_path: Path) -> None:
    """Two ticks on a message mean that it is on some device of the other."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        sent = await ann.send(group, "x")
        assert (await ann.members(group))["u_bob"].delivered_seq == 1
        await bob.do(commands.Ack(cursors={group: sent.seq, "not-mine": 5}))

        async def delivered(seq: int) -> None:
            await ann.until_heard(
                lambda e: (
                    isinstance(e, events.Receipts)
                    and any(i.user_id == "u_bob" and i.delivered_seq == seq for i in e.items)
                )
            )

        await delivered(sent.seq)
        member = (await ann.members(group))["u_bob"]
        assert (member.delivered_seq, member.read_seq) == (sent.seq, 1)
        await bob.do(commands.Heartbeat(cursors={group: 10**9}))
        again = await ann.send(group, "y")
        await bob.do(commands.Heartbeat(cursors={group: again.seq}))
        await bob.do(commands.Ack(cursors={group: 10**9 + 1}))
        await delivered(again.seq)
        assert (await ann.members(group))["u_bob"].delivered_seq == again.seq
    async with open_world(tmp_path) as world:
        ann = await world.person("ann")
        assert (await ann.members(group))["u_bob"].delivered_seq == again.seq


async def fall_asleep(world: World) -> None:
    """Send every conversation's actor to sleep."""
    while world.core.conversations.stats().active:
        await world.core.conversations.passivate_matching(lambda _: True, deadline_s=5)


def beyond_head(directory: Path) -> list[str]:
    """What `hubbub check` finds of watermarks and cursors beyond the head of their stream."""
    return [problem.code for problem in check(directory) if problem.code.endswith("_beyond_head")]


def has_delivered(conversation_id: str, user_id: str, seq: int) -> Callable[[Event], bool]:
    """Whether an event says that a user holds exactly up to there."""
    return lambda e: (
        isinstance(e, events.Receipts)
        and e.conversation_id == conversation_id
        and any(i.user_id == user_id and i.delivered_seq == seq for i in e.items)
    )


async def test_delivered_in_sleeping_conversations_is_stored_and_told_and_wakes_none(tmp_path: Path) -> None:
    """After a restart everybody says at once what they hold in all their conversations."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        groups = [await world.group(ann, bob) for _ in range(40)]
        heads = {group: (await ann.send(group, "x")).seq for group in groups}
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        await bob.do(commands.Ack(cursors=dict.fromkeys(groups, 2**50)))
        for group, head in heads.items():
            await ann.until_heard(has_delivered(group, "u_bob", head))
        assert world.core.conversations.stats().activations == 0
        for group, head in heads.items():
            member = await world.store.get(MemberRow, group, "u_bob")
            assert member is not None
            assert (member.delivered_seq, member.read_seq) == (head, 1)
        assert not beyond_head(tmp_path)
        assert (await ann.members(groups[0]))["u_bob"].delivered_seq == heads[groups[0]]


async def test_delivered_that_could_not_be_stored_is_stored_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device will not say it again: for it, it was told."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        sent = await ann.send(group, "x")
        await fall_asleep(world)
        refused = trio.Event()

        async def refuse(ops: Sequence[Op]) -> None:
            if any(isinstance(op, Advance) for op in ops):
                refused.set()
            raise StorageUnavailable("no space")

        monkeypatch.setattr(world.store, "commit", refuse)
        await bob.do(commands.Ack(cursors={group: sent.seq}))
        await refused.wait()
        monkeypatch.undo()
        await ann.until_heard(has_delivered(group, "u_bob", sent.seq))
        cursors = await world.store.device_cursors("u_bob", "d1")
        assert cursors == {f"c:{group}": sent.seq}
        assert world.core.conversations.stats().active == 0


async def test_a_device_holds_no_more_than_there_is(tmp_path: Path) -> None:
    """A cursor beyond the head would hide events that are still to come."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        sent = await ann.send(group, "x")
        await bob.until(events.ConversationAdded)
        await bob.do(commands.Ack(cursors={group: 2**50}, inbox_cursor=2**50))
        await ann.do(commands.Ack(cursors={group: 1}))
        await world.core.service.flush_cursors()
        assert await world.store.device_cursors("u_bob", "d1") == {f"c:{group}": sent.seq, "u:u_bob": 1}
        assert await world.store.device_cursors("u_ann", "d1") == {f"c:{group}": 1}
        assert not beyond_head(tmp_path)


async def test_a_stored_cursor_never_goes_back(tmp_path: Path) -> None:
    """A device has gone on at another node, and what it had told here before is written late."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        old, other = [await world.group(ann, bob) for _ in range(2)]
        for text in "abc":
            sent = await ann.send(old, text)
        await world.core.service.flush_cursors()
        stream = conversation_stream(old)
        elsewhere = DeviceCursor(user_id="u_bob", device_id="d1", stream=stream, seq=sent.seq - 1)
        await world.store.commit([Put(elsewhere)])
        await bob.do(commands.Ack(cursors={old: sent.seq - 2, other: 1}))
        await world.core.service.flush_cursors()
        stored = {stream: sent.seq - 1, conversation_stream(other): 1}
        assert await world.store.device_cursors("u_bob", "d1") == stored
        await bob.do(commands.Ack(cursors={old: sent.seq}))
        await world.core.service.flush_cursors()
        stored[stream] = sent.seq
        assert await world.store.device_cursors("u_bob", "d1") == stored


async def test_cursors_of_one_user_leave_room_for_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever tells too much between two flushes loses the rest of it, and nobody else does."""
    monkeypatch.setattr(device_cursors, "MAX_WAITING_CURSORS", 3)
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        groups = [await world.group(ann, bob) for _ in range(5)]
        await world.core.service.flush_cursors()
        cursors = dict.fromkeys(groups, 1)
        await bob.do(commands.Ack(cursors=cursors))
        await ann.do(commands.Ack(cursors={groups[4]: 1}))
        await world.core.service.flush_cursors()
        assert len(await world.store.device_cursors("u_bob", "d1")) == 3
        assert await world.store.device_cursors("u_ann", "d1") == {f"c:{groups[4]}": 1}
        await bob.do(commands.Ack(cursors=dict.fromkeys(groups[3:], 1)))
        await world.core.service.flush_cursors()
        assert len(await world.store.device_cursors("u_bob", "d1")) == 5


class Model:
    """Unread counts by the plainest means: for each member the unread messages of others."""

    def __init__(self) -> None:
        self.unread: dict[str, set[int]] = {}

    def check(self, user_id: str, unread: int) -> None:
        assert unread == len(self.unread[user_id])


@pytest.mark.parametrize("seed", range(8))
async def test_unread_is_exact_whatever_happens_in_whatever_order(tmp_path: Path, seed: int) -> None:
    """Sends, reads, deletes, leaves and returns of several users, against a model; then after a restart."""
    random = Random(seed)
    model = Model()
    names = ("ann", "bob", "cid", "dan")
    async with open_world(tmp_path) as world:
        people = {p.user_id: p for p in await world.people(*names)}
        owner = people["u_ann"]
        group = await world.group(owner, people["u_bob"])
        model.unread = {"u_ann": set(), "u_bob": set()}
        messages: list[tuple[int, str]] = []
        head = 1
        for step in range(60):
            user_id = random.choice(list(model.unread))
            device = people[user_id]
            action = random.choices(("send", "read", "delete", "add", "remove"), (5, 4, 2, 2, 1))[0]
            if action == "send":
                key = f"k{random.randrange(12)}"
                sent = await device.send(group, "x", f"{user_id}-{key}")
                if not sent.duplicate:
                    head = sent.seq
                    messages.append((head, user_id))
                    for other, unread in model.unread.items():
                        if other == user_id:
                            unread.clear()
                        else:
                            unread.add(head)
            elif action == "read":
                seq = random.randint(1, head)
                marked = await device.do(read(group, seq))
                assert isinstance(marked, replies.ReadMarked)
                model.unread[user_id] = {s for s in model.unread[user_id] if s > marked.read_seq}
                assert marked.read_seq >= seq
                model.check(user_id, marked.unread)
            elif action == "delete" and messages:
                target, author = random.choice(messages)
                by = people[author] if author in model.unread and random.random() < 0.5 else owner
                changed = await by.do(commands.Delete(conversation_id=group, target=target))
                assert isinstance(changed, replies.Changed)
                head = max(head, changed.seq)
                for unread in model.unread.values():
                    unread.discard(target)
            elif action == "add":
                other = random.choice(list(people))
                changed = await owner.do(commands.AddMembers(conversation_id=group, user_ids=[other]))
                assert isinstance(changed, replies.Changed)
                head = max(head, changed.seq)
                model.unread.setdefault(other, set())
            elif action == "remove" and user_id != "u_ann":
                changed = await device.do(commands.Leave(conversation_id=group))
                assert isinstance(changed, replies.Changed)
                head = changed.seq
                del model.unread[user_id]
            for member in model.unread:
                model.check(member, await world.unread(people[member], group))
            if step % 20 == 19:  # what the actor knows is what it would load
                await _agree(world, people, group, model)
    async with open_world(tmp_path) as world:
        people = {p.user_id: p for p in await world.people(*names)}
        await _agree(world, people, group, model)
        for user_id, unread in model.unread.items():
            heads = {h.conversation_id: h.unread for h in people[user_id].welcome.heads}
            assert heads == {group: len(unread)}


async def _agree(world: World, people: dict[str, Device], group: str, model: Model) -> None:
    """The list's count, the actor's count and the model's are the same."""
    for user_id in model.unread:
        marked = await people[user_id].do(read(group, 1))
        assert isinstance(marked, replies.ReadMarked)
        model.check(user_id, marked.unread)
        model.check(user_id, await world.unread(people[user_id], group))


@pytest.mark.parametrize("seed", range(4))
async def test_the_actor_and_the_list_count_the_same_under_concurrency(tmp_path: Path, seed: int) -> None:
    """Many commands in flight at once: when all is quiet both counts agree, before and after a restart."""
    random = Random(seed)
    names = ("ann", "bob", "cid", "dan")
    counted: dict[str, int] = {}
    async with open_world(tmp_path) as world:
        people = await world.people(*names)
        owner = people[0]
        group = await world.group(*people)

        async def act(device: Device) -> None:
            sent: list[int] = []
            for number in range(30):
                try:
                    match random.randrange(6):
                        case 0 | 1 | 2:
                            key = f"{device.user_id}{random.randrange(number + 1)}"
                            sent.append((await device.send(group, "x", key)).seq)
                        case 3 if sent:
                            await device.do(read(group, random.choice(sent)))
                        case 4 if sent:
                            target = random.choice(sent)
                            await device.do(commands.Delete(conversation_id=group, target=target))
                        case 5 if device is not owner:
                            await device.do(commands.Leave(conversation_id=group))
                            add = commands.AddMembers(conversation_id=group, user_ids=[device.user_id])
                            await owner.do(add)
                except HubbubError:
                    pass

        async with trio.open_nursery() as nursery:
            for device in people:
                for _ in range(3):
                    nursery.start_soon(act, device)
        for device in people:
            marked = await device.do(read(group, 1))
            assert isinstance(marked, replies.ReadMarked)
            counted[device.user_id] = marked.unread
            assert await world.unread(device, group) == marked.unread
    async with open_world(tmp_path) as world:
        for device in await world.people(*names):
            marked = await device.do(read(group, 1))
            assert isinstance(marked, replies.ReadMarked)
            assert marked.unread == counted[device.user_id]
