"""What listeners, devices and users may rely on while lanes lose, owners change and nodes die."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest
import trio

from actors.address import Address
from cluster import presence_replica, wire
from protocol import commands, events, replies
from protocol.errors import CloseCode, Fenced, HubbubError
from protocol.records import LastSeen, Tell
from tests.cluster.worlds import ClusterWorld, open_cluster
from tests.server.world import Device, texts

THREE = ("n1", "n2", "n3")
INBOX_EVENTS = get_args(events.InboxEvent)


async def person(cluster: ClusterWorld, name: str, node: str, device_id: str = "d1") -> Device:
    member = cluster.members[node]
    return await member.connect(await member.user(name), device_id)


@asynccontextmanager
async def three_people(tmp_path: Path) -> AsyncIterator[tuple[ClusterWorld, Device, Device, Device]]:
    """Ann, bob and cid on three nodes."""
    async with open_cluster(tmp_path, *THREE) as cluster:
        yield (
            cluster,
            await person(cluster, "ann", "n1"),
            await person(cluster, "bob", "n2"),
            await person(cluster, "cid", "n3"),
        )


async def group_owned_by(cluster: ClusterWorld, owner: str, *devices: Device) -> str:
    """Make groups until one is owned by that node."""
    while True:
        group = await cluster.members["n1"].group(*devices)
        if cluster.owner_of("conversation", group).name == owner:
            for device in devices:
                await until_member(device, group)
            return group


def user_owned_by(cluster: ClusterWorld, owner: str, prefix: str) -> str:
    """A user's name whose actor runs on that node."""
    return next(
        name for n in range(10_000) if cluster.owner_of("user", f"u_{(name := f'{prefix}{n}')}").name == owner
    )


async def until_member(device: Device, group: str, *, is_member: bool = True) -> None:
    while device.world.core.hub.is_member(device.conn_id, group) is not is_member:  # noqa: ASYNC110 - no event
        await trio.sleep(0.01)


async def until_texts(device: Device, wanted: list[str]) -> None:
    await device.until_heard(lambda _: texts(device.events) == wanted)


async def send_surely(device: Device, group: str, text: str, client_id: str = "") -> None:
    """Send again until it is acked, as the SDK does."""
    client_id = client_id or device.world.new_client_id()
    while True:
        try:
            await device.send(group, text, client_id)
        except HubbubError as error:
            assert error.retry_after_s is not None, error
            await trio.sleep(0.05)
        else:
            return


def losing(cluster: ClusterWorld, *kinds: str) -> list[str]:
    """Let the lanes lose all items of these kinds; returns the list of what was lost."""
    lost: list[str] = []

    def is_lossy(_from: str, _to: str, _lane: object, item: bytes) -> bool:
        kind = str(wire.decode(item).__struct_config__.tag)
        if kind in kinds:
            lost.append(kind)
        return kind in kinds

    cluster.network.is_lossy = is_lossy
    return lost


def mend(cluster: ClusterWorld) -> None:
    cluster.network.is_lossy = lambda *_: False


async def test_a_hole_in_an_inbox_is_filled(tmp_path: Path) -> None:
    """A conversation list misses nothing because a lane lost one item."""
    async with open_cluster(tmp_path, *THREE) as cluster:
        ann = await person(cluster, "ann", "n1")
        bob = await person(cluster, user_owned_by(cluster, "n1", "b"), "n2")
        lost = losing(cluster, "publish_user")
        groups = [await cluster.members["n1"].group(ann, bob) for _ in range(3)]
        while len(lost) < 3:  # noqa: ASYNC110 - told durably, by another actor
            await trio.sleep(0.01)
        mend(cluster)
        groups.append(await cluster.members["n1"].group(ann, bob))
        await bob.until(events.ConversationAdded, 4)
        assert [e.conversation_id for e in bob.heard(events.ConversationAdded)] == groups
        assert [e.seq for e in bob.heard(events.ConversationAdded)] == [1, 2, 3, 4]


async def test_a_lost_subscribe_is_made_up_for(tmp_path: Path) -> None:
    """Whoever was added hears the conversation after the gap, and is told to read what was missed."""
    async with three_people(tmp_path) as (cluster, ann, bob, cid):
        group = await group_owned_by(cluster, "n1", ann, bob)
        lost = losing(cluster, "subscribe", "publish")
        await ann.do(commands.AddMembers(conversation_id=group, user_ids=["u_cid"]))
        await ann.send(group, "missed")
        assert lost
        mend(cluster)
        await ann.send(group, "heard by bob")
        await until_member(cid, group)
        resync = await cid.until_heard(lambda e: isinstance(e, events.Resync) and e.conversation_id == group)
        await ann.send(group, "heard")
        await cid.until_heard(lambda e: isinstance(e, events.MessagePosted) and e.text == "heard")
        assert isinstance(resync, events.Resync)
        first = cid.heard(events.MessagePosted)[0]
        assert resync.head >= first.seq - 1
        await until_texts(bob, ["missed", "heard by bob", "heard"])


async def test_a_lost_unsubscribe_is_made_up_for(tmp_path: Path) -> None:
    """A removed member's session stops hearing the conversation."""
    async with three_people(tmp_path) as (cluster, ann, bob, cid):
        group = await group_owned_by(cluster, "n1", ann, bob, cid)
        losing(cluster, "unsubscribe", "publish")
        await ann.do(commands.RemoveMember(conversation_id=group, user_id="u_cid"))
        mend(cluster)
        assert cid.world.core.hub.is_member(cid.conn_id, group)
        await ann.do(commands.SetTyping(conversation_id=group))
        await until_member(cid, group, is_member=False)
        await ann.send(group, "among us")
        await until_texts(bob, ["among us"])
        assert texts(cid.events) == []


async def test_a_former_owner_has_no_say_in_who_hears_what(tmp_path: Path) -> None:
    """Its word may be older than its successor's; the store decides."""
    async with three_people(tmp_path) as (cluster, ann, bob, cid):
        group = await group_owned_by(cluster, "n1", ann, bob)
        node = cluster.members["n3"].node
        epoch = node.keeper.route_of(Address("conversation", group).shard).epoch
        await ann.do(commands.AddMembers(conversation_id=group, user_ids=["u_cid"]))
        await until_member(cid, group)
        for item in (
            wire.Unsubscribe(group, epoch - 1, ["u_cid"]),
            wire.Resync(group, epoch - 1, 99, ["u_ann"]),
        ):
            assert node.fanout.received(item)
            assert cid.world.core.hub.is_member(cid.conn_id, group)
        await ann.do(commands.RemoveMember(conversation_id=group, user_id="u_cid"))
        await until_member(cid, group, is_member=False)
        node.fanout.received(wire.Subscribe(group, epoch - 1, ["u_cid"]))
        assert not cid.world.core.hub.is_member(cid.conn_id, group)
        # An owner that this node has not heard of yet is newer than the one that it knows.
        node.fanout.received(wire.Subscribe(group, epoch + 1, ["u_cid"]))
        assert cid.world.core.hub.is_member(cid.conn_id, group)
        node.fanout.received(wire.Unsubscribe(group, epoch, ["u_cid"]))
        assert cid.world.core.hub.is_member(cid.conn_id, group)
        await until_member(cid, group, is_member=False)  # as the store has it


async def test_a_device_that_connects_elsewhere_replaces_its_older_connection(tmp_path: Path) -> None:
    """And never the newer one, also when a new owner is told of both."""
    async with open_cluster(tmp_path, *THREE) as cluster:
        name = user_owned_by(cluster, "n3", "a")
        older = await person(cluster, name, "n1")
        newer = await person(cluster, name, "n2")
        while older.close_code is None:  # noqa: ASYNC110 - no event
            await trio.sleep(0.01)
        assert (older.close_code, newer.close_code) == (CloseCode.REPLACED, None)
        await cluster.kill("n3")
        await cluster.settled("n1", "n2")
        older.close_code = None
        for shard in (Address("user", newer.user_id).shard,):
            for node in ("n2", "n1"):
                cluster.members[node].core.service.tells.shards_moved([shard])
        tablet = await person(cluster, name, "n1", "d2")
        await trio.sleep(0.2)
        assert (older.close_code, newer.close_code, tablet.close_code) == (None, None, None)


@pytest.mark.parametrize("lost", [(), ("close_session",), ("publish_user",)])
async def test_a_revoked_log_in_ends_everywhere(tmp_path: Path, lost: tuple[str, ...]) -> None:
    """On all nodes, although its user's actor is on a third one, and whatever a lane loses."""
    async with open_cluster(tmp_path, *THREE) as cluster:
        name = user_owned_by(cluster, "n3", "a")
        devices = [await person(cluster, name, node, f"d{node}") for node in THREE]
        losing(cluster, *lost)
        cluster.members["n1"].core.service.session_revoked(f"s_{name}", f"u_{name}")
        for device in devices:
            while device.close_code is None:  # noqa: ASYNC110 - no event
                await trio.sleep(0.01)
            assert device.close_code is CloseCode.SESSION_REVOKED


async def test_a_log_out_that_cannot_be_told_is_told_later(tmp_path: Path) -> None:
    """The user's actor cannot be reached at the moment of it."""
    async with open_cluster(tmp_path, *THREE) as cluster:
        name = user_owned_by(cluster, "n3", "a")
        device = await person(cluster, name, "n2")
        losing(cluster, "close_session")
        shard = Address("user", device.user_id).shard
        # Nobody runs it for a moment.
        cluster.members["n3"].node.keeper.fenced(shard)
        cluster.members["n1"].core.service.session_revoked(f"s_{name}", device.user_id)
        await device.until(events.SessionRevoked)
        assert device.close_code is CloseCode.SESSION_REVOKED


async def test_a_block_ends_presence_on_other_nodes(tmp_path: Path) -> None:
    """From the moment of the block on, neither sees the other."""
    async with three_people(tmp_path) as (cluster, ann, bob, _):
        await cluster.members["n1"].group(ann, bob)
        await bob.until(events.ConversationAdded)
        for one, other in ((ann, "u_bob"), (bob, "u_ann")):
            reply = await one.do(commands.WatchPresence(user_ids=[other]))
            assert isinstance(reply, replies.PresenceList)
            assert [item.state for item in reply.items] == ["online"]
        await ann.do(commands.Block(user_id="u_bob"))
        for one in (ann, bob):
            (event,) = await one.until(events.Presence)
            assert [item.state for item in event.items] == ["offline"]


async def test_receipts_and_counts_cross_nodes(tmp_path: Path) -> None:
    """What one has got and read is seen by the others, and clears the own badge everywhere."""
    async with three_people(tmp_path) as (cluster, ann, bob, cid):
        group = await group_owned_by(cluster, "n3", ann, bob, cid)
        phone = await person(cluster, "bob", "n1", "d2")
        sent = await ann.send(group, "hello")
        await bob.until(events.MessagePosted)
        assert await cluster.members["n2"].unread(bob, group) == 1
        await bob.do(commands.Ack(cursors={group: sent.seq}))

        def told(delivered_seq: int, read_seq: int) -> object:
            return lambda e: (
                isinstance(e, events.Receipts)
                and any(
                    (i.user_id, i.delivered_seq, i.read_seq) == ("u_bob", delivered_seq, read_seq)
                    for i in e.items
                )
            )

        before = (await ann.members(group))["u_bob"].read_seq
        await ann.until_heard(told(sent.seq, before))  # type: ignore[arg-type]  # a test
        await bob.do(commands.SetTyping(conversation_id=group))
        for device in (ann, cid):
            assert (await device.until(events.Typing))[0].user_id == "u_bob"
        reply = await bob.do(commands.MarkRead(conversation_id=group, seq=sent.seq))
        assert isinstance(reply, replies.ReadMarked)
        assert (reply.unread, await cluster.members["n2"].unread(bob, group)) == (0, 0)
        await ann.until_heard(told(sent.seq, sent.seq))  # type: ignore[arg-type]  # a test
        (read,) = await phone.until(events.Read)
        assert (read.read_seq, read.unread) == (sent.seq, 0)


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_watermark_reaches_a_conversation_that_sleeps(tmp_path: Path, *, is_lost: bool) -> None:
    """It is stored by whoever got it last, without waking the actor, and told; a lost one is told again."""
    async with three_people(tmp_path) as (cluster, ann, bob, _):
        group = await group_owned_by(cluster, "n3", ann, bob)
        sent = await ann.send(group, "hello")
        await bob.until(events.MessagePosted)
        host = cluster.members["n3"].core.conversations
        await host.passivate_matching(lambda address: address.id == group, deadline_s=5)
        if is_lost:
            lost = losing(cluster, "hint")
            await bob.do(commands.Ack(cursors={group: sent.seq}))
            while not lost:  # noqa: ASYNC110 - it goes with the next tick
                await trio.sleep(0.01)
            mend(cluster)
            while bob.world.core.hub._seats[bob.conn_id].delivered.get(group):  # noqa: ASYNC110 - no event
                await trio.sleep(0.01)
        await bob.do(commands.Heartbeat(cursors={group: sent.seq}))
        await ann.until_heard(
            lambda e: (
                isinstance(e, events.Receipts)
                and any((i.user_id, i.delivered_seq) == ("u_bob", sent.seq) for i in e.items)
            )
        )
        assert (await ann.members(group))["u_bob"].delivered_seq == sent.seq


@pytest.mark.parametrize("owner", ["n1", "n3"])
async def test_last_seen_is_stored_when_a_node_is_killed(
    tmp_path: Path, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the lost node ran the user's actor, and the shard has no owner at the end of the grace."""
    monkeypatch.setattr(presence_replica, "GRACE_S", 0.05)
    async with open_cluster(tmp_path, *THREE) as cluster:
        name = user_owned_by(cluster, owner, "a")
        gone = await person(cluster, name, "n3")
        back = await person(cluster, user_owned_by(cluster, owner, "b"), "n3")
        for survivor in ("n1", "n2"):
            cluster.members[survivor].now_ms += 5000
        await cluster.kill("n3")
        again = await cluster.members["n1"].connect(back.identity)
        store = cluster.members["n1"].store
        while await store.get(LastSeen, gone.user_id) is None:  # noqa: ASYNC110 - no event tells it
            await trio.sleep(0.02)
        row = await store.get(LastSeen, gone.user_id)
        assert row is not None
        assert row.at_ms == cluster.members["n1"].now_ms
        assert await store.get(LastSeen, again.user_id) is None


async def test_a_node_that_lost_its_lease_comes_back_and_its_listeners_miss_nothing(
    tmp_path: Path,
) -> None:
    """It acks nothing meanwhile; what the others did is read when its shards are owned again."""
    async with three_people(tmp_path) as (cluster, ann, bob, cid):
        groups = [await group_owned_by(cluster, node, ann, bob, cid) for node in THREE]
        victim = cluster.members["n1"]
        for group in groups:
            await ann.send(group, "before")
        victim.faults.refuses_renewals = True
        while victim.node.keeper.held and victim.node.keeper.lease_left_s > 0:  # noqa: ASYNC110 - no event tells it
            await trio.sleep(0.05)
        assert not any(victim.node.keeper.owns(shard) for shard in range(256))
        async with trio.open_nursery() as nursery:
            for group in groups:
                nursery.start_soon(send_surely, bob, group, "meanwhile")
        victim.faults.refuses_renewals = False
        await cluster.settled()
        async with trio.open_nursery() as nursery:
            for group in groups:
                nursery.start_soon(send_surely, ann, group, "after")
        for device in (ann, bob, cid):
            for group in groups:
                await device.until_heard(
                    lambda e, group=group: (  # type: ignore[misc]  # a test
                        isinstance(e, events.MessagePosted)
                        and (e.conversation_id, e.text) == (group, "after")
                    )
                )
                check_cursor(device, group)


def check_cursor(device: Device, group: str) -> None:
    """What a device has heard of a group has no hole that no resync covers, and nothing twice."""
    cursor = passed = 0
    for event in device.events:
        if getattr(event, "conversation_id", "") != group or isinstance(event, INBOX_EVENTS):
            continue
        if isinstance(event, events.Resync):
            cursor = max(cursor, event.head)
        elif (seq := getattr(event, "seq", 0)) > 0:
            assert seq > passed, f"{device.user_id} heard {seq} twice"
            assert passed == 0 or seq <= cursor + 1, f"{device.user_id} missed what is before {seq}"
            passed, cursor = seq, max(seq, cursor)


async def test_an_actor_that_is_fenced_leaves_no_gap(tmp_path: Path) -> None:
    """The shard is owned anew, and the sender's second try is acked once."""
    async with three_people(tmp_path) as (cluster, ann, bob, cid):
        group = await group_owned_by(cluster, "n2", ann, bob, cid)
        await ann.send(group, "before")
        cluster.members["n2"].flaky.failures = [Fenced()]
        with pytest.raises(HubbubError) as caught:
            await ann.send(group, "fenced", "key")
        assert caught.value.code == "moved"
        await send_surely(ann, group, "fenced", "key")
        await send_surely(ann, group, "after")
        for device in (ann, bob, cid):
            await until_texts(device, ["before", "fenced", "after"])
            check_cursor(device, group)


async def test_a_rolling_restart_loses_no_ack(tmp_path: Path) -> None:
    """All three nodes leave and come back, one after the other, while two users chat."""
    async with open_cluster(tmp_path, *THREE) as cluster:
        ann, bob = await person(cluster, "ann", "n1"), await person(cluster, "bob", "n2")
        group = await group_owned_by(cluster, "n1", ann, bob)
        people = {"ann": ann, "bob": bob}
        acked: dict[str, list[str]] = {"ann": [], "bob": []}
        is_over = False

        async def chat(name: str) -> None:
            number = 0
            while not is_over:
                text = f"{name} {number}"
                client_id = people[name].world.new_client_id()
                with trio.move_on_after(20) as scope:
                    while True:
                        try:
                            await people[name].send(group, text, client_id)
                            break
                        except HubbubError as error:
                            assert error.retry_after_s is not None or error.code == "conversation_not_found"
                            await trio.sleep(0.02)
                assert not scope.cancelled_caught, f"{text} was never acked"
                acked[name].append(text)
                number += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(chat, "ann")
            nursery.start_soon(chat, "bob")
            for node in THREE:
                others = [name for name in THREE if name != node]
                for name, device in list(people.items()):
                    if device.world is cluster.members[node]:
                        people[name] = await person(cluster, name, others[0])
                        device.disconnect()
                await cluster.members[node].node.leave(5.0)
                await cluster.kill(node)
                await cluster.start(node)
                await cluster.settled()
            is_over = True
        await send_surely(people["ann"], group, "end")
        entries = texts(await people["bob"].sync(group))
        for name, sent in acked.items():
            assert [text for text in entries if text.startswith(name)] == sent
        assert len(acked["ann"]) > 10
        await people["bob"].until_heard(lambda e: isinstance(e, events.MessagePosted) and e.text == "end")
        for device in people.values():
            check_cursor(device, group)


async def test_tells_are_delivered_when_their_node_dies_right_after_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contacts and new members are told by those who take over, once."""
    async with open_cluster(tmp_path, *THREE) as cluster:
        victim = "n3"
        asker = await person(cluster, user_owned_by(cluster, victim, "a"), "n1")
        near = await person(cluster, user_owned_by(cluster, victim, "b"), "n1")
        far = await person(cluster, user_owned_by(cluster, "n2", "c"), "n2")
        member = cluster.members[victim]
        monkeypatch.setattr(member.core.relay, "hint", lambda _tells: None)  # it dies before
        await asker.do(commands.RequestContact(user_id=near.user_id))
        await asker.do(commands.RequestContact(user_id=far.user_id))
        assert len(await member.store.find(Tell, {})) == 2
        await cluster.kill(victim)
        for device in (near, far):
            await device.until(events.ContactChanged)
            assert [e.contact.state for e in device.heard(events.ContactChanged) if e.contact] == ["incoming"]
        store = cluster.members["n1"].store
        while await store.find(Tell, {}):  # noqa: ASYNC110 - no event tells it
            await trio.sleep(0.02)
        for device in (near, far):
            found = [e for e in await device.sync_inbox() if isinstance(e, events.ContactChanged)]
            assert len(found) == 1


async def test_a_session_that_a_node_does_not_know_of_misses_nothing(tmp_path: Path) -> None:
    """It was welcomed while that node did not answer; once it knows, what it did not send is read."""
    async with open_cluster(tmp_path, "n1", "n2") as cluster:
        ann = await person(cluster, "ann", "n1")
        guest = await person(cluster, "bob", "n2")
        group = await group_owned_by(cluster, "n1", ann, guest)
        guest.disconnect()
        board = cluster.members["n1"].core.hub.presence
        while board.is_elsewhere("u_bob"):  # noqa: ASYNC110 - no event tells it
            await trio.sleep(0.02)
        cluster.network.tells_gaps = False
        losing(cluster, "presence")
        bob = await person(cluster, "bob", "n2")
        await ann.send(group, "unheard")
        mend(cluster)
        await until_texts(bob, ["unheard"])


def test_helpers_see_what_they_should() -> None:
    """A check that cannot fail shows nothing."""

    class Fake:
        user_id = "u"

        def __init__(self, *found: events.Event) -> None:
            self.events = list(found)

    def message(seq: int) -> events.MessagePosted:
        return events.MessagePosted(conversation_id="g", seq=seq)

    check_cursor(Fake(message(4), message(5)), "g")  # type: ignore[arg-type]  # enough of a device
    gap = events.Resync(conversation_id="g", head=6)
    check_cursor(Fake(message(4), gap, message(7)), "g")  # type: ignore[arg-type]  # the same
    for wrong in ((message(4), message(6)), (message(4), message(4)), (message(4), gap, message(8))):
        with pytest.raises(AssertionError):
            check_cursor(Fake(*wrong), "g")  # type: ignore[arg-type]  # the same
