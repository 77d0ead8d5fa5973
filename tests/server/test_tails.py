"""Recent history from memory: the same answers as from the store, nothing deleted, nothing acked missing."""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from actors.address import Address
from actors.conversation import Conversation
from protocol import commands, events, replies
from protocol.commands import Command
from protocol.errors import HubbubError, StorageUnavailable, Unavailable
from protocol.records import Append, Entry, MessageState, conversation_stream
from protocol.replies import Reply
from protocol.stored_events import body_of, encode_json
from protocol.types import Reaction
from server import tail as tail_module
from server import tails as tails_module
from server.tail import EntryAt, Tail
from storage.store import Outcome
from tests.cluster.worlds import Member, open_cluster
from tests.server.world import Device, World, open_world


async def outcome(answer: Callable[[], object]) -> object:
    """What a command is answered with: a reply, or the code and words of its refusal."""
    try:
        return await answer()  # type: ignore[misc]  # an awaitable of a Reply
    except HubbubError as error:
        return error.code, error.message


async def compare(device: Device, command: Command) -> bool:
    """Ask as a session, and as the store answers (single commands do); tell whether no store was needed."""
    before = device.world.store.read_count
    found = await outcome(lambda: device.do(command))
    is_from_memory = device.world.store.read_count == before
    stored = await outcome(lambda: device.world.core.service.execute(device.identity, command))
    assert found == stored, command
    return is_from_memory


def some_read(chance: Random, conversation_id: str, head: int) -> Command:
    """A read that a device may ask for, sensible or not."""
    limit = chance.choice((1, 2, 5, 10, 20, 50, 200))
    cursor = chance.choice((0, chance.randint(0, head + 2), max(head - chance.randint(0, 12), 0), head))
    match chance.randrange(6):
        case 0 | 1:
            return commands.Sync(conversation_id=conversation_id, after=cursor, limit=limit)
        case 2:
            return commands.History(conversation_id=conversation_id, limit=limit)
        case 3:
            return commands.History(conversation_id=conversation_id, before=cursor, limit=limit)
        case 4:
            return commands.History(conversation_id=conversation_id, after=cursor, limit=limit)
        case _:
            return commands.History(conversation_id=conversation_id, thread=cursor, limit=limit)


class Talk:
    """Random changes of one conversation; refusals are part of it."""

    def __init__(self, chance: Random, devices: list[Device], conversation_id: str) -> None:
        self._chance = chance
        self._devices = devices
        self.conversation_id = conversation_id
        self.seqs: list[int] = []
        self.head = 1

    async def change(self) -> None:
        chance, conversation_id = self._chance, self.conversation_id
        device = chance.choice(self._devices)
        target = chance.choice(self.seqs[-15:]) if self.seqs else 1
        device.world.now_ms += chance.choice((0, 1, 50))
        kind = chance.choices(("send", "thread", "edit", "react", "delete", "rename"), (12, 3, 3, 3, 1, 1))[0]
        size = chance.choices((chance.randint(1, 100), 3_000, 60_000), (8, 1, 1))[0]
        text = chance.choice(("x", "é", '"', "\n", "🐝")) * min(
            size, 20_000 if chance.random() < 0.5 else size
        )
        command: Command
        match kind:
            case "send" | "thread":
                command = commands.Send(
                    conversation_id=conversation_id,
                    client_id=device.world.new_client_id(),
                    text=text,
                    thread=target if kind == "thread" else 0,
                    reply_to=target if self.seqs and chance.random() < 0.2 else 0,
                    mentions=[self._devices[0].user_id] if chance.random() < 0.2 else [],
                )
            case "edit":
                command = commands.Edit(conversation_id=conversation_id, target=target, text=text)
            case "react":
                emoji = chance.choice(("👍", "🎉"))
                removed = chance.random() < 0.3
                command = commands.React(
                    conversation_id=conversation_id, target=target, emoji=emoji, removed=removed
                )
            case "delete":
                command = commands.Delete(conversation_id=conversation_id, target=target)
            case _:
                command = commands.Rename(conversation_id=conversation_id, title=f"Room {self.head}")
        reply = await outcome(lambda: device.do(command))
        if isinstance(reply, replies.Sent):
            self.seqs.append(reply.seq)
        if isinstance(reply, replies.Sent | replies.Changed):
            self.head = max(self.head, reply.seq)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("is_tight", [False, True])
async def test_memory_answers_as_the_store_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, is_tight: bool
) -> None:
    """Whatever happens in a conversation, no device can tell where its answer came from."""
    chance = Random(seed)
    if is_tight:  # so that tails are cut and evicted all the time
        monkeypatch.setattr(tail_module, "MIN_ROWS", 12)
        monkeypatch.setattr(tail_module, "MAX_ROWS", 16)
        monkeypatch.setattr(tail_module, "MAX_TAIL_BYTES", 300_000)
        monkeypatch.setattr(tails_module, "FILL_COUNT", 8)
    async with open_world(tmp_path, tails_bytes=400_000 if is_tight else tails_module.MAX_BYTES) as world:
        devices = await world.people("ann", "bob")
        ann, bob = devices
        talks = [
            Talk(chance, devices, await world.group(ann, bob)),
            Talk(chance, devices, await world.direct(ann, bob)),
        ]
        from_memory = 0
        for _ in range(150):
            talk = chance.choice(talks)
            for _ in range(chance.randint(0, 4)):
                await talk.change()
            command = some_read(chance, talk.conversation_id, talk.head)
            from_memory += await compare(chance.choice(devices), command)
            assert world.core.tails.size_bytes <= (400_000 if is_tight else tails_module.MAX_BYTES)
        assert from_memory > 20


async def test_recent_reads_do_not_touch_the_store(tmp_path: Path) -> None:
    """A crowd that comes back and catches up must not fight for the readers."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        for number in range(20):
            await ann.send(group, f"m{number}")
        before = world.store.read_count
        assert len(await bob.sync(group, after=1)) == 20
        page = await bob.do(commands.History(conversation_id=group, limit=10))
        assert isinstance(page, replies.MessagePage)
        assert [message.text for message in page.items] == [f"m{number}" for number in range(10, 20)]
        assert page.more
        assert world.store.read_count == before


async def test_what_is_sent_after_a_restart_is_in_memory_before_anybody_reads(tmp_path: Path) -> None:
    """The actor that wakes begins a tail: a storm of returning devices finds what they missed there."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        last = await ann.send(group, "before")
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        for number in range(20):
            await ann.send(group, f"m{number}")
        before = world.store.read_count
        assert len(await bob.sync(group, after=last.seq)) == 20
        assert world.store.read_count == before
        await compare(bob, commands.Sync(conversation_id=group))
        assert await compare(bob, commands.Sync(conversation_id=group))


async def test_a_tail_is_filled_by_one_read_for_all_who_come_at_once(tmp_path: Path) -> None:
    """After a restart nothing is in memory; the members of a group ask for it together."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        for number in range(60):
            await ann.send(group, f"m{number}")
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        pages: list[Reply] = []

        async def ask(device: Device) -> None:
            pages.append(await device.do(commands.History(conversation_id=group, limit=50)))

        tails_read = 0

        async def read_tail(stream: str, *, limit: int, max_bytes: int = 1 << 20) -> object:
            nonlocal tails_read
            tails_read += 1
            return await world.store.read_tail(stream, limit=limit, max_bytes=max_bytes)

        world.flaky.read_tail = read_tail  # type: ignore[attr-defined]  # counted on its way to the store
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask, ann)
                nursery.start_soon(ask, bob)
        assert tails_read == 1
        assert len(pages) == 20
        assert all(page == pages[0] for page in pages)
        assert await compare(ann, commands.History(conversation_id=group, limit=50))


async def test_who_has_an_ack_reads_his_own_message(tmp_path: Path) -> None:
    """The event is in memory before the ack is given, also while the tail is being filled."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)

        async def talk(device: Device) -> None:
            for number in range(40):
                if number % 10 == 5:
                    world.core.tails.forget(group)
                sent = await device.send(group, f"{device.user_id} {number}")
                page = await device.do(commands.Sync(conversation_id=group, after=sent.seq - 1, limit=1))
                assert isinstance(page, replies.EventPage)
                assert isinstance(page.items[0], events.MessagePosted)
                assert page.items[0].text == f"{device.user_id} {number}"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, ann)
            nursery.start_soon(talk, bob)


async def test_what_was_deleted_is_never_served_again(tmp_path: Path) -> None:
    """Neither as an event nor as a message, nor by a read that was under way when it was deleted."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        for round_number in range(20):
            sent = await ann.send(group, f"secret {round_number}")
            await ann.do(commands.Edit(conversation_id=group, target=sent.seq, text="secret, edited"))
            reads = (
                commands.Sync(conversation_id=group, after=sent.seq - 1),
                commands.History(conversation_id=group),
            )
            for command in reads:
                assert "secret" in repr(await bob.do(command))
            if round_number % 2:
                world.core.tails.forget(group)
            async with trio.open_nursery() as nursery:
                for command in reads:  # under way, from memory or from the store
                    nursery.start_soon(bob.do, command)
                await ann.do(commands.Delete(conversation_id=group, target=sent.seq))
            for command in reads:
                assert "secret" not in repr(await bob.do(command))
                await compare(bob, command)


async def test_a_fill_that_a_deletion_overtakes_is_thrown_away(tmp_path: Path) -> None:
    """The store was read before, and the answer arrives after: it must not stay."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        sent = await ann.send(group, "secret")
        tails = world.core.tails
        tails.forget(group)
        read, has_read, may_return = world.store.read_tail, trio.Event(), trio.Event()

        async def slow_read(stream: str, *, limit: int, max_bytes: int = 0) -> object:
            found = await read(stream, limit=limit, max_bytes=max_bytes)
            has_read.set()
            await may_return.wait()
            return found

        world.flaky.read_tail = slow_read  # type: ignore[attr-defined]  # in place of the store's own
        command = commands.History(conversation_id=group)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bob.do, command)
            await has_read.wait()
            await ann.do(commands.Delete(conversation_id=group, target=sent.seq))
            await ann.send(group, "next")
            may_return.set()
        del world.flaky.read_tail
        assert "secret" not in repr(tails.page(command))
        assert "secret" not in repr(await bob.do(command))
        await compare(bob, command)


async def test_what_a_crashed_actor_stored_and_never_told_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next incarnation acks it as a repetition; from then on it must be seen."""
    published = Conversation._publish
    has_crashed = False

    def crash(self: Conversation, event: events.ConversationEvent, message_count: int) -> None:
        nonlocal has_crashed
        if isinstance(event, events.MessagePosted) and event.text == "crash" and not has_crashed:
            has_crashed = True
            raise RuntimeError("injected")
        published(self, event, message_count)

    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        await ann.send(group, "before")
        note = world.core.tails.note
        monkeypatch.setattr(Conversation, "_publish", crash)
        monkeypatch.setattr(
            world.core.tails,
            "note",
            lambda event: None if getattr(event, "text", "") == "crash" else note(event),
        )
        with pytest.raises(HubbubError):
            await ann.send(group, "crash", "k")
        monkeypatch.setattr(world.core.tails, "note", note)
        sent = await ann.send(group, "crash", "k")
        assert sent.duplicate
        page = await ann.do(commands.Sync(conversation_id=group, after=sent.seq - 1))
        assert isinstance(page, replies.EventPage)
        assert page.head == sent.seq
        assert "crash" in repr(page.items)
        await compare(ann, commands.History(conversation_id=group))


class LateNews:
    """Appends are stored at once, and their outcome is told only when the test says so."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self._append = world.store.append_nowait
        self._held: list[tuple[Callable[[Outcome], None], Outcome]] = []
        self.is_stored = trio.Event()
        monkeypatch.setattr(world.flaky, "append_nowait", self._hold)

    def _hold(self, append: Append, on_done: Callable[[Outcome], None]) -> None:
        def keep(outcome: Outcome) -> None:
            self._held.append((on_done, outcome))
            self.is_stored.set()

        self._append(append, keep)

    def tell(self) -> None:
        for on_done, outcome in self._held:
            on_done(outcome)


@pytest.mark.parametrize("is_read_meanwhile", [False, True])
async def test_a_cancelled_actor_leaves_no_tail_that_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_read_meanwhile: bool
) -> None:
    """A deletion that is stored, and that nobody tells any more: the message must not be served.

    So it goes when the supervisor runs the host again after a bug; the epoch stays the same.
    """
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        sent = await ann.send(group, "secret")
        before = await world.store.read_tail(conversation_stream(group), limit=100)
        command = commands.History(conversation_id=group)
        news = LateNews(world, monkeypatch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.refusal, commands.Delete(conversation_id=group, target=sent.seq))
            with trio.fail_after(5):
                await news.is_stored.wait()
            world.core.conversations.cut_off(lambda _: True, Unavailable("restarted", retry_after_s=0.5))
        if is_read_meanwhile:  # by a read of the store that was under way when the deletion was stored

            async def early(stream: str, *, limit: int, max_bytes: int = 0) -> object:
                return before

            with monkeypatch.context() as patch:
                patch.setattr(world.flaky, "read_tail", early, raising=False)
                assert "secret" in repr(await bob.do(command))
        news.tell()
        monkeypatch.undo()
        assert "secret" not in repr(await bob.do(command))
        await compare(bob, command)


async def test_a_failed_append_is_in_no_tail(tmp_path: Path) -> None:
    """Only what is stored is told."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        await ann.send(group, "one")
        world.flaky.failures.append(StorageUnavailable("disk"))
        with pytest.raises(HubbubError):
            await ann.send(group, "lost")
        await trio.testing.wait_all_tasks_blocked()  # the actor ends, and the next one loads what is stored
        await ann.send(group, "two")
        for command in (commands.Sync(conversation_id=group), commands.History(conversation_id=group)):
            assert "lost" not in repr(await bob.do(command))
            await compare(bob, command)


async def test_who_has_left_reads_nothing_from_memory(tmp_path: Path) -> None:
    """Membership comes before everything."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        await ann.send(group, "one")
        assert "one" in repr(await bob.do(commands.History(conversation_id=group)))
        await bob.do(commands.Leave(conversation_id=group))
        await trio.testing.wait_all_tasks_blocked()
        await ann.send(group, "two")
        assert await bob.refusal(commands.History(conversation_id=group)) == "conversation_not_found"
        assert await bob.refusal(commands.Sync(conversation_id=group)) == "conversation_not_found"


async def test_a_failing_store_fails_the_read_that_would_fill(tmp_path: Path) -> None:
    """A read that fails leaves nothing behind, and the next one fills."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        await ann.send(group, "one")
        world.core.tails.forget(group)

        async def refuse(stream: str, *, limit: int, max_bytes: int = 0) -> object:
            raise StorageUnavailable("disk")

        world.flaky.read_tail = refuse  # type: ignore[attr-defined]  # in place of the store's own
        command = commands.History(conversation_id=group)
        assert await bob.refusal(command) == "storage_unavailable"
        del world.flaky.read_tail
        await bob.do(command)
        assert await compare(bob, command)


def stored_messages(count: int, *, reacted_count: int = 0, mentioned_count: int = 0) -> list[EntryAt]:
    """Messages as the store reads them, with texts that are theirs alone."""
    found: list[EntryAt] = []
    for seq in range(1, count + 1):
        users = [f"u_{seq:06}{number:06}" for number in range(max(reacted_count, mentioned_count))]
        posted = events.MessagePosted(text=f"text {seq}" * 5, mentions=users[:mentioned_count])
        reactions = [Reaction(emoji="👍", user_ids=users[:reacted_count])] if reacted_count else []
        entry = Entry(
            seq=seq,
            kind="message",
            at_ms=1_700_000_000_000 + seq,
            user_id=f"u_{seq}",
            client_id=f"client-{seq}",
            message_count=seq,
            thread=None,
            body=body_of(posted),
        )
        state = MessageState(
            conversation_id="c",
            seq=seq,
            text=f"edited {seq}" * 5,
            mentions=encode_json(users[:mentioned_count]),
            reactions=encode_json(reactions),
        )
        found.append((entry, state if reacted_count or seq % 2 else None))
    return found


@pytest.mark.parametrize(
    ("count", "reacted_count", "mentioned_count"), [(100, 0, 0), (40, 0, 50), (5, 500, 0)]
)
def test_a_tail_holds_no_more_than_it_counts(count: int, reacted_count: int, mentioned_count: int) -> None:
    """Memory for all tails is bounded by what each says: rows, states, what is decoded, and kept pages."""
    body_of(events.MessagePosted())  # imported and warm before anything is measured
    tracemalloc.start()
    try:
        before_bytes, _ = tracemalloc.get_traced_memory()
        tail = Tail("c", 1, 1, 0)
        assert tail.fill(
            stored_messages(count, reacted_count=reacted_count, mentioned_count=mentioned_count), ()
        )
        for limit in range(300, 300 + tail_module._MAX_PAGES // 2):
            tail.events(0, limit)
            tail.history(0, None, limit)
        gc.collect()
        held_bytes = tracemalloc.get_traced_memory()[0] - before_bytes
    finally:
        tracemalloc.stop()
    assert tail.row_count == count
    assert held_bytes <= tail.size_bytes
    assert tail.size_bytes < 4 * held_bytes  # and no wild guess


def test_a_tail_that_is_filled_is_cut_to_its_bound() -> None:
    """Reactions of 500 members are a hundred times the text; the store's bound is on the bodies alone."""
    tail = Tail("c", 1, 1, 0)
    assert tail.fill(stored_messages(128, reacted_count=500), ())
    assert 1 < tail.row_count < 20
    assert tail.size_bytes <= tail_module.MAX_TAIL_BYTES
    page = tail.events(tail.first - 1, 200)
    assert page is not None
    assert [event.seq for event in page.items if isinstance(event, events.MessagePosted)][-1] == 128


async def test_kept_answers_count_and_end_with_the_next_event(tmp_path: Path) -> None:
    """Sixteen pages of a quiet conversation are more than the conversation itself."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        await ann.send(group, "one")
        tails = world.core.tails
        tail = tails._tails[group]
        before_bytes, quiet_bytes = tails.size_bytes, tail.size_bytes
        for limit in range(10, 26):
            await bob.do(commands.Sync(conversation_id=group, limit=limit))
        assert tails.size_bytes - before_bytes == tail.size_bytes - quiet_bytes > 16 * 300
        await bob.do(commands.Sync(conversation_id=group, limit=26))  # one too many: it is kept alone
        assert 300 < tails.size_bytes - before_bytes == tail.size_bytes - quiet_bytes < 1000
        await ann.send(group, "one")
        await world.core.service.execute(ann.identity, commands.GetConversation(conversation_id=group))
        assert tails.size_bytes == sum(tail.size_bytes for tail in tails._tails.values())
        assert tail.size_bytes - quiet_bytes < 1200  # a row


def holder_of(cluster_members: list[Member], group: str) -> list[Member]:
    """The nodes that would answer from memory."""
    command = commands.Sync(conversation_id=group, after=0)
    return [member for member in cluster_members if member.core.tails.page(command) is not None]


async def test_only_the_owner_answers_from_memory_and_a_new_owner_begins_anew(tmp_path: Path) -> None:
    """While a shard moves, an acked message is seen by its sender on whatever node he asks."""
    async with open_cluster(tmp_path, "n1", "n2") as cluster:
        n1, n2 = cluster.members["n1"], cluster.members["n2"]
        ann = await n1.person("ann")
        bob = await n2.person("bob")
        group = await n1.group(ann, bob)
        await bob.until(events.ConversationAdded)
        count = 0

        async def talk(devices: list[Device]) -> None:
            nonlocal count
            for device in devices:
                count += 1
                sent = await device.send(group, f"m{count}")
                for command in (
                    commands.Sync(conversation_id=group, after=sent.seq - 1),
                    commands.History(conversation_id=group, limit=5),
                ):
                    assert f"m{count}'" in repr(await device.do(command))

        await talk([ann, bob] * 5)
        owner = cluster.owner_of("conversation", group)
        assert holder_of([n1, n2], group) == [owner]
        other = n2 if owner is n1 else n1
        await cluster.kill(owner.name)
        await cluster.settled()
        survivor = bob if other is n2 else ann
        await talk([survivor] * 5)
        assert holder_of([n1, n2], group) == [other]
        assert await compare(survivor, commands.Sync(conversation_id=group, after=0))


def shard_of(group: str) -> int:
    return Address("conversation", group).shard


async def test_a_tail_of_an_earlier_ownership_is_not_believed(tmp_path: Path) -> None:
    """The shard went away and came back: somebody else may have written meanwhile."""
    async with open_world(tmp_path) as world:
        ann, bob = await world.people("ann", "bob")
        group = await world.group(ann, bob)
        await ann.send(group, "one")
        command = commands.Sync(conversation_id=group)
        assert world.core.tails.page(command) is not None
        epochs: dict[int, int] = world.core.leases._epochs  # type: ignore[attr-defined]  # what Alone goes by
        shard = shard_of(group)
        epoch = epochs.pop(shard)
        assert world.core.tails.page(command) is None
        assert "one" in repr(await bob.do(command))  # by the store, and nothing is kept
        assert world.core.tails.page(command) is None
        epochs[shard] = epoch + 1
        assert world.core.tails.page(command) is None
