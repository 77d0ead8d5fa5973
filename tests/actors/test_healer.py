"""What the lanes lost is read from the store: exactly, or announced, and never given up."""

from itertools import pairwise

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.address import Address
from actors.healer import CHECK_SPACING_S, MAX_FILL, MAX_FILL_BYTES
from actors.hub import Hub
from actors.stream_gate import MAX_WAITING
from protocol import events
from protocol.codec import Encoded
from protocol.errors import CloseCode
from protocol.records import Entry, conversation_stream, inbox_stream
from tests.actors.healing import Device, History, open_healing, posted

C1 = conversation_stream("c1")


def resyncs(device: Device, conversation_id: str = "c1") -> list[int]:
    return [
        e.head for e in device.heard if isinstance(e, events.Resync) and e.conversation_id == conversation_id
    ]


def publish(hub: Hub, *seqs: int) -> None:
    for seq in seqs:
        hub.publish("c1", seq, posted("c1", seq), to=())


def commit(history: History, count: int) -> None:
    for _ in range(count):
        history.commit("c1", str(history.head("c1") + 1))


async def test_a_hole_is_published_in_its_place(autojump_clock: MockClock) -> None:
    """A listener cannot tell that anything was lost."""
    async with open_healing() as (hub, history, healer, _):
        device = Device(hub, 1, "ann", history)
        commit(history, 6)
        publish(hub, 1, 5)
        assert device.texts() == ["1"]
        publish(hub, 4, 6, 5)
        await wait_all_tasks_blocked()
        assert device.texts() == ["1", "2", "3", "4", "5", "6"]
        assert (healer.filled_count, healer.resync_count, resyncs(device)) == (1, 0, [])


async def test_events_during_a_fill_wait_for_it(autojump_clock: MockClock) -> None:
    """Also those that were committed after the read, and those that are lost again meanwhile."""
    async with open_healing() as (hub, history, _, _):
        device = Device(hub, 1, "ann", history)
        commit(history, 3)
        history.gate = trio.Event()
        publish(hub, 3)
        await wait_all_tasks_blocked()
        commit(history, 4)
        publish(hub, 4, 7)
        assert device.texts() == []
        history.gate.set()
        await wait_all_tasks_blocked()
        assert device.texts() == [str(n) for n in range(1, 8)]


async def test_a_hole_that_is_too_long_is_a_resync(autojump_clock: MockClock) -> None:
    """A device reads by pages, at its own pace, what would not fit into its outbox."""
    async with open_healing() as (hub, history, healer, _):
        device = Device(hub, 1, "ann", history)
        commit(history, MAX_FILL + 2)
        publish(hub, MAX_FILL + 2)
        await wait_all_tasks_blocked()
        assert (device.texts(), resyncs(device), healer.resync_count) == ([], [MAX_FILL + 2], 1)
        commit(history, 1)
        publish(hub, MAX_FILL + 3)
        assert device.texts() == [str(MAX_FILL + 3)]


async def test_a_flood_behind_a_hole_is_a_resync_up_to_its_end(autojump_clock: MockClock) -> None:
    """While the store does not answer, a busy conversation is held up to a bound only."""
    async with open_healing() as (hub, history, _, _):
        device = Device(hub, 1, "ann", history)
        commit(history, 2)
        history.gate = trio.Event()
        publish(hub, 2)
        await wait_all_tasks_blocked()
        commit(history, MAX_WAITING + 50)
        publish(hub, *range(3, MAX_WAITING + 53))
        history.gate.set()
        await wait_all_tasks_blocked()
        assert resyncs(device) == [MAX_WAITING + 52]
        device.check("c1")


async def test_a_hole_that_cannot_be_read_is_a_resync_up_to_what_is_known(
    autojump_clock: MockClock,
) -> None:
    """The device tries by itself; the head it is told must be beyond its cursor, or it would not."""
    async with open_healing() as (hub, history, healer, _):
        device = Device(hub, 1, "ann", history)
        commit(history, 4)
        history.is_failing = True
        publish(hub, 4)
        await wait_all_tasks_blocked()
        assert (resyncs(device), healer.resync_count) == ([4], 1)
        history.is_failing = False
        commit(history, 3)
        real_read = history.read

        async def read(*_: object, **__: object) -> list[Entry]:
            history.is_failing = True
            try:
                return await real_read(C1, after=0, limit=1)
            finally:
                history.is_failing = False

        history.read = read  # type: ignore[method-assign]  # only the page fails, not the heads
        healer.check_all()
        await trio.sleep(1)
        assert resyncs(device) == [4, 7]
        device.check("c1")


async def test_checks_that_fail_are_made_again(autojump_clock: MockClock) -> None:
    """A store that is down for a while leaves nobody behind."""
    async with open_healing() as (hub, history, healer, _):
        device = Device(hub, 1, "ann", history)
        commit(history, 1)
        history.is_failing = True
        healer.check_all()
        await trio.sleep(10)
        assert device.heard == []
        assert history.read_count <= 10 / CHECK_SPACING_S + 1
        history.is_failing = False
        await trio.sleep(1)
        device.check("c1")


async def test_checks_are_spaced_and_holes_are_not(autojump_clock: MockClock) -> None:
    """A lane that loses something all the time must not keep the store busy with heads."""
    async with open_healing() as (hub, history, healer, _):
        device = Device(hub, 1, "ann", history)
        start = trio.current_time()
        for n in range(100):
            healer.check_all()
            commit(history, 2)
            publish(hub, 2 * n + 2)
            await wait_all_tasks_blocked(0.0)
            assert device.texts()[-1] == str(2 * n + 2)
            await trio.sleep(0.01)
        checks = 2 * ((trio.current_time() - start) / CHECK_SPACING_S + 1)
        assert history.read_count <= 100 + checks
        device.check("c1")


async def test_only_the_streams_of_the_moved_shards_are_compared(autojump_clock: MockClock) -> None:
    """When a shard moves, what its former owner did not tell is read; inboxes are streams too."""
    async with open_healing() as (hub, history, healer, _):
        device = Device(hub, 1, "ann", history)
        commit(history, 2)
        history.store(inbox_stream("ann"), events.ConversationAdded(conversation_id="c9", by="x"))
        healer.check_shards({Address("user", "ann").shard})
        await trio.sleep(1)
        assert [type(e) for e in device.heard] == [events.ConversationAdded]
        healer.check_shards({Address("conversation", "c1").shard})
        await trio.sleep(1)
        assert device.texts() == ["1", "2"]


async def test_a_hole_of_long_events_is_filled_page_by_page(autojump_clock: MockClock) -> None:
    """What one page does not hold is read with the next, though nothing more is published."""
    async with open_healing() as (hub, history, healer, _):
        device = Device(hub, 1, "ann", history)
        for _ in range(5):
            history.commit("c1", "x" * (MAX_FILL_BYTES // 2 - 100))
        healer.check_all()
        await trio.sleep(1)
        assert (len(device.texts()), resyncs(device)) == (5, [])
        device.check("c1")


@pytest.mark.parametrize("stream", [C1, inbox_stream("ann")])
async def test_an_event_of_a_newer_version_is_a_resync(autojump_clock: MockClock, stream: str) -> None:
    """While a cluster is upgraded the log holds events that the older nodes do not know."""
    async with open_healing() as (hub, history, healer, _):
        device = Device(hub, 1, "ann", history)
        history.store(stream, events.ConversationAdded(conversation_id="c1", by="x"))
        history.streams[stream] = [
            msgspec.structs.replace(entry, body='{"type":"of_tomorrow"}') for entry in history.streams[stream]
        ]
        healer.check_all()
        await trio.sleep(1)
        assert resyncs(device, "c1" if stream == C1 else "") == [1]


async def test_a_lost_subscribe_is_made_up_for(autojump_clock: MockClock) -> None:
    """Whoever was added hears the conversation after the gap, and reads what was missed of it."""
    async with open_healing() as (hub, history, healer, _):
        Device(hub, 1, "ann", history)
        bob = Device(hub, 2, "bob", history)
        hub.unsubscribe("c1", ["bob"], to=())
        commit(history, 3)  # bob is back since the second
        publish(hub, 1, 2, 3)
        assert bob.texts() == []
        healer.check_users(["bob"])
        await trio.sleep(1)
        assert (bob.texts(), resyncs(bob)) == ([], [3])
        commit(history, 1)
        publish(hub, 4)
        assert bob.texts() == ["4"]


async def test_a_lost_unsubscribe_is_made_up_for(autojump_clock: MockClock) -> None:
    """Whoever was removed stops hearing the conversation."""
    async with open_healing() as (hub, history, healer, _):
        ann, bob = Device(hub, 1, "ann", history), Device(hub, 2, "bob", history)
        history.members.discard(("c1", "bob"))
        healer.check_all()
        await trio.sleep(1)
        commit(history, 1)
        publish(hub, 1)
        assert (ann.texts(), bob.texts()) == (["1"], [])


@pytest.mark.parametrize("is_added", [False, True])
async def test_members_that_move_during_a_read_are_read_again(
    autojump_clock: MockClock,
    is_added: bool,
) -> None:
    """The read may be older than what was heard since."""
    async with open_healing() as (hub, history, healer, _):
        bob = Device(hub, 2, "bob", history)
        if is_added:
            hub.unsubscribe("c1", ["bob"], to=())
            history.members.discard(("c1", "bob"))
        history.gate = trio.Event()
        healer.check_users(["bob"])
        await wait_all_tasks_blocked()
        if is_added:
            history.members.add(("c1", "bob"))
            hub.subscribe("c1", ["bob"])
        else:
            history.members.discard(("c1", "bob"))
            hub.unsubscribe("c1", ["bob"], to=())
        history.gate.set()
        await trio.sleep(1)
        assert hub.is_member(bob.conn_id, "c1") is is_added


async def test_what_a_hole_says_of_members_may_be_out_of_date(autojump_clock: MockClock) -> None:
    """The page ends with bob's coming; his leaving was heard while it was read."""
    async with open_healing() as (hub, history, healer, _):
        Device(hub, 1, "ann", history)
        bob = Device(hub, 2, "bob", history)
        hub.unsubscribe("c1", ["bob"], to=())
        history.store(C1, events.MembersAdded(member_ids=["bob"]))
        history.gate = trio.Event()
        healer.check_shards([Address("conversation", "c1").shard])
        await wait_all_tasks_blocked()
        history.store(C1, events.MemberRemoved(member_id="bob"))
        history.members.discard(("c1", "bob"))
        removed = events.MemberRemoved(conversation_id="c1", seq=2, member_id="bob")
        hub.publish("c1", 2, Encoded(removed), to=(), everywhere=True)
        hub.unsubscribe("c1", ["bob"], to=())
        history.gate.set()
        await trio.sleep(1)
        assert not hub.is_member(bob.conn_id, "c1")


async def test_the_last_listener_may_leave_by_what_is_read(autojump_clock: MockClock) -> None:
    """Then nobody is left to whom the rest could be told."""
    async with open_healing() as (hub, history, _, _):
        bob = Device(hub, 2, "bob", history)
        commit(history, 1)
        history.store(C1, events.MemberRemoved(member_id="bob"))
        history.members.clear()
        history.gate = trio.Event()
        publish(hub, 1, 3)
        await wait_all_tasks_blocked()
        commit(history, MAX_WAITING + 8)
        publish(hub, *range(4, MAX_WAITING + 8))
        history.gate.set()
        await wait_all_tasks_blocked()
        assert [type(e) for e in bob.heard] == [events.MessagePosted, events.MemberRemoved]


async def test_a_healer_that_is_ended_goes_on_where_it_was(autojump_clock: MockClock) -> None:
    """Gates that wait for it would else stay shut for ever."""
    async with open_healing() as (hub, history, healer, runner):
        device = Device(hub, 1, "ann", history)
        commit(history, 3)
        history.gate = trio.Event()
        publish(hub, 3)
        await wait_all_tasks_blocked()
        await runner.again()
        history.gate.set()
        await wait_all_tasks_blocked()
        assert device.texts() == ["1", "2", "3"]
        history.gate = trio.Event()
        history.members.discard(("c1", "ann"))
        healer.check_all()
        await trio.sleep(CHECK_SPACING_S)
        await runner.again()
        history.gate.set()
        await trio.sleep(1)
        assert hub.conversation_ids(1) == frozenset()


async def test_a_log_out_that_was_lost_closes_the_session_when_it_is_read(
    autojump_clock: MockClock,
) -> None:
    """A revoked log-in must not live on because a lane lost one item."""
    async with open_healing() as (hub, history, healer, _):
        one, other = Device(hub, 1, "ann", history), Device(hub, 2, "ann", history)
        history.store(inbox_stream("ann"), events.SessionRevoked(session_id="s1"))
        healer.check_all()
        await trio.sleep(1)
        assert (one.closed, other.closed) == (CloseCode.SESSION_REVOKED, None)


async def test_many_streams_are_healed_in_one_round(autojump_clock: MockClock) -> None:
    """After a gap each stream is looked at, and read only where something is missing."""
    async with open_healing() as (hub, history, healer, _):
        device = Device(hub, 1, "ann", history)
        names = [f"g{n}" for n in range(1200)]
        for name in names:
            history.members.add((name, "ann"))
            history.commit(name, "0")
        hub.subscribe("g0", ["ann"])
        healer.check_all()
        await trio.sleep(1)
        assert len(hub.conversation_ids(1)) == 1201
        before = history.read_count
        for name in names[::100]:
            history.commit(name, "1")
        healer.check_all()
        await trio.sleep(1)
        assert sorted(device.texts()) == ["1"] * 12
        assert history.read_count - before <= 12 + 6
        seqs = [e.seq for e in device.heard if isinstance(e, events.MessagePosted)]
        assert all(b >= a for a, b in pairwise(seqs))
