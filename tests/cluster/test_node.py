"""Users, conversations and presence that span nodes: what they may rely on when nodes come and go."""

from pathlib import Path

import msgspec
import pytest
import trio

from cluster import mesh
from protocol import commands, events, replies
from protocol.errors import CloseCode
from tests.cluster import worlds
from tests.cluster.worlds import ClusterWorld, open_cluster
from tests.server.world import Device, texts


async def people(cluster: ClusterWorld, *places: tuple[str, str]) -> list[Device]:
    """Connect users to nodes: (user, node)."""
    found = []
    for name, node in places:
        member = cluster.members[node]
        found.append(await member.connect(await member.user(name)))
    return found


async def until_texts(device: Device, wanted: list[str]) -> None:
    await device.until_heard(lambda _: texts(device.events) == wanted)


async def test_a_conversation_spans_nodes(tmp_path: Path) -> None:
    """Ann, bob and cid are on three nodes; every one hears every one, once and in order."""
    async with open_cluster(tmp_path, "n1", "n2", "n3") as cluster:
        ann, bob, cid = await people(cluster, ("ann", "n1"), ("bob", "n2"), ("cid", "n3"))
        group = await cluster.members["n1"].group(ann, bob, cid)
        await bob.until(events.ConversationAdded)
        await cid.until(events.ConversationAdded)
        wanted = []
        for number in range(30):
            for device in (ann, bob, cid):
                await device.send(group, f"{device.user_id} {number}")
                wanted.append(f"{device.user_id} {number}")
        for device in (ann, bob, cid):
            await until_texts(device, wanted)


@pytest.mark.parametrize("count", [6])
async def test_direct_conversations_work_from_any_node(tmp_path: Path, count: int) -> None:
    """Whoever owns the actors, and wherever the two are."""
    async with open_cluster(tmp_path, "n1", "n2") as cluster:
        for number in range(count):
            one, other = await people(cluster, (f"a{number}", "n1"), (f"b{number}", "n2"))
            direct = await cluster.members["n1"].direct(one, other)
            await other.until(events.ConversationAdded)
            await one.send(direct, "hello")
            await until_texts(other, ["hello"])
            await other.send(direct, "you")
            await until_texts(one, ["hello", "you"])
            await other.do(commands.SetTyping(conversation_id=direct))
            await one.until(events.Typing)
            await cluster.members["n1"].befriend(one, other)


async def test_presence_is_seen_on_other_nodes(tmp_path: Path) -> None:
    """A user on two nodes is online until both connections are gone."""
    async with open_cluster(tmp_path, "n1", "n2", "n3") as cluster:
        ann, bob = await people(cluster, ("ann", "n1"), ("bob", "n2"))
        await cluster.members["n1"].group(ann, bob)
        await bob.until(events.ConversationAdded)
        reply = await ann.do(commands.WatchPresence(user_ids=["u_bob"]))
        assert isinstance(reply, replies.PresenceList)
        assert reply.items[0].state == "online"
        third = cluster.members["n3"]
        phone = await third.connect(bob.identity, "d2")
        bob.disconnect()
        await phone.do(commands.Activity(active=False))
        await ann.until_heard(
            lambda e: isinstance(e, events.Presence) and any(i.state == "away" for i in e.items)
        )
        phone.disconnect()
        await ann.until_heard(
            lambda e: isinstance(e, events.Presence) and any(i.state == "offline" for i in e.items)
        )
        states = [i.state for e in ann.heard(events.Presence) for i in e.items]
        assert states == ["away", "offline"]


async def test_a_killed_nodes_shards_are_taken_and_nothing_acked_is_lost(tmp_path: Path) -> None:
    """Its users come back elsewhere, and go on where they were."""
    async with open_cluster(tmp_path, "n1", "n2", "n3") as cluster:
        ann, bob = await people(cluster, ("ann", "n1"), ("bob", "n2"))
        group = await cluster.members["n1"].group(ann, bob)
        await bob.until(events.ConversationAdded)
        for number in range(5):
            await ann.send(group, f"before {number}")
        victim = cluster.owner_of("conversation", group).name
        survivor = "n1" if victim != "n1" else "n2"
        await cluster.kill(victim)
        await cluster.settled()
        if victim == "n1":
            (ann,) = await people(cluster, ("ann", survivor))
        elif victim == "n2":
            (bob,) = await people(cluster, ("bob", survivor))
        await ann.send(group, "after")
        await bob.until_heard(lambda e: isinstance(e, events.MessagePosted) and e.text == "after")
        assert texts(await bob.sync(group)) == [*(f"before {n}" for n in range(5)), "after"]


async def test_a_node_counts_those_that_may_send_notifications(tmp_path: Path) -> None:
    """They share the pace of an account at a provider: no more than the whole of it, and no less for long."""
    async with open_cluster(tmp_path, "n1", "n2", "n3") as cluster:
        counts = [member.node.node_count for member in cluster.members.values()]
        assert counts == [3, 3, 3]
        await cluster.kill("n3")
        await cluster.settled("n1", "n2")
        while cluster.members["n1"].node.node_count != 2:  # noqa: ASYNC110 - read each second
            await trio.sleep(0.02)


async def test_what_the_lanes_lose_is_read_from_the_store(tmp_path: Path) -> None:
    """Every third item between nodes vanishes; every listener still hears everything, in order, once."""
    async with open_cluster(tmp_path, "n1", "n2", "n3") as cluster:
        ann, bob, cid = await people(cluster, ("ann", "n1"), ("bob", "n2"), ("cid", "n3"))
        group = await cluster.members["n1"].group(ann, bob, cid)
        await bob.until(events.ConversationAdded)
        await cid.until(events.ConversationAdded)
        owner = cluster.owner_of("conversation", group)
        counts = {"n": 0}

        def loses(_from: str, _to: str, _lane: object, item: bytes) -> bool:
            if b"publish" not in item[:16]:
                return False
            counts["n"] += 1
            return counts["n"] % 3 == 0

        cluster.network.is_lossy = loses
        sender = next(d for d in (ann, bob, cid) if d.world is owner)
        wanted = [f"{number}" for number in range(60)]
        for text in wanted:
            await sender.send(group, text)
        cluster.network.is_lossy = lambda *_: False
        await sender.send(group, "last")
        for device in (ann, bob, cid):
            await until_texts(device, [*wanted, "last"])
        assert counts["n"] > 20


async def test_a_broken_way_between_two_nodes_is_gone_round(tmp_path: Path) -> None:
    """The third node passes on what two cannot say to each other."""
    async with open_cluster(tmp_path, "n1", "n2", "n3") as cluster:
        ann, bob = await people(cluster, ("ann", "n1"), ("bob", "n2"))
        groups = [await cluster.members["n1"].group(ann, bob) for _ in range(4)]
        await bob.until(events.ConversationAdded, 4)
        for here, there in (("n1", "n2"), ("n2", "n1")):
            while cluster.members[here].node.mesh.relays_to(there) != ["n3"]:  # noqa: ASYNC110 - told by beats
                await trio.sleep(0.02)
        cluster.network.cut("n1", "n2")
        for group in groups:
            await ann.send(group, f"from ann {group}")
            await bob.send(group, f"from bob {group}")
        for device in (ann, bob):
            await device.until(events.MessagePosted, 8)
        assert cluster.members["n3"].node.mesh.relayed_count > 0


async def test_a_node_that_leaves_hands_over_and_nobody_notices(tmp_path: Path) -> None:
    """Sends go on while the owner leaves: each is acked, none twice, order kept."""
    async with open_cluster(tmp_path, "n1", "n2", "n3") as cluster:
        ann, bob = await people(cluster, ("ann", "n1"), ("bob", "n2"))
        group = await cluster.members["n1"].group(ann, bob)
        await bob.until(events.ConversationAdded)
        member = cluster.members["n3"]
        sent: list[str] = []
        has_left = trio.Event()

        async def send() -> None:
            number = 0
            while not has_left.is_set():
                await ann.send(group, f"{number}")
                sent.append(f"{number}")
                number += 1
            await ann.send(group, "end")
            sent.append("end")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await member.node.leave(5.0)
            await cluster.settled("n1", "n2")
            has_left.set()
        await until_texts(bob, sent)
        assert texts(await bob.sync(group)) == sent


async def test_a_new_member_may_speak_before_the_node_has_heard_of_it(tmp_path: Path) -> None:
    """A replay's nicks join and speak at once; a lost hint must not become a refusal. Order is kept."""
    async with open_cluster(tmp_path, "n1", "n2") as cluster:
        ann, bob = await people(cluster, ("ann", "n1"), ("bob", "n2"))
        cluster.network.tells_gaps = False
        cluster.network.is_lossy = lambda _from, _to, _lane, item: b"subscribe" in item[:16]
        hub = cluster.members["n2"].core.hub
        while True:
            group = await cluster.members["n1"].group(ann, bob)
            if not hub.is_member(bob.conn_id, group):  # its owner is n1
                break
        sent: list[str] = []

        async def send(text: str) -> None:
            await bob.send(group, text)
            sent.append(text)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(send, f"{number}")
        entries = await ann.sync(group)
        assert sorted(texts(entries)) == sorted(sent)
        await bob.send(group, "more")
        await until_texts(ann, [*texts(entries), "more"])
        stranger = await cluster.members["n2"].person("eve")
        assert await stranger.refusal(commands.Send(conversation_id=group, client_id="k", text="x")) == (
            "conversation_not_found"
        )


async def test_a_device_that_went_on_elsewhere_is_not_closed_by_what_its_old_node_says(
    tmp_path: Path,
) -> None:
    """Its old node was frozen; waking up, it tells of the old connection once more."""
    async with open_cluster(tmp_path, "n1", "n2") as cluster:
        one, two = cluster.members["n1"], cluster.members["n2"]
        old = await one.connect(await one.user("ann"))
        two.now_ms += 1000
        new = await two.connect(await two.user("ann"))
        with trio.fail_after(5):
            while old.close_code is not CloseCode.REPLACED:  # noqa: ASYNC110 - a listener has no event for it
                await trio.sleep(0.01)
        one.core.service.tells.shards_moved(range(256))
        other = await one.connect(await one.user("ann"), "d2")
        await one.direct(other, await one.person("bob"))  # the actor has heard all that was said before
        assert new.close_code is None


async def test_no_shard_is_given_to_a_node_that_is_not_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with another secret has a lease as well, and keeps what it gets for as long as it runs."""
    moves = msgspec.structs.replace(worlds.QUICK.moves, settle_s=1.0)
    quick = msgspec.structs.replace(worlds.QUICK, newcomer_s=0.2, moves=moves)
    monkeypatch.setattr(worlds, "QUICK", quick)
    monkeypatch.setattr(mesh, "OPENING_S", 0.3)
    async with open_cluster(tmp_path, "n1", "n2") as cluster:
        await cluster.settled("n1", "n2")
        for name in ("n1", "n2"):
            cluster.network.cut(name, "n3")
        await cluster.start("n3")
        await trio.sleep(2.5)  # beyond settle_s; gossip calls n3 suspect, at most
        assert "n3" in cluster.members["n1"].node.mesh.node_ids
        assert not cluster.members["n3"].node.keeper.held


async def test_who_was_let_in_by_a_node_that_died_then_hears_the_others(tmp_path: Path) -> None:
    """What it stored and told nobody any more is in the store, also for who has nothing to compare."""
    async with open_cluster(tmp_path, "n1", "n2", "n3") as cluster:
        await cluster.settled("n1", "n2", "n3")
        ann, bob = await people(cluster, ("ann", "n1"), ("bob", "n2"))
        cluster.network.tells_gaps = False
        cluster.network.is_lossy = lambda _from, _to, _lane, item: b"subscribe" in item[:16]
        group = await cluster.members["n1"].group(ann, bob)
        while cluster.owner_of("conversation", group).name != "n3":
            group = await cluster.members["n1"].group(ann, bob)
        cluster.network.is_lossy = lambda *_: False
        await cluster.kill("n3")
        await cluster.settled("n1", "n2")
        hub = cluster.members["n2"].core.hub
        while not hub.is_member(bob.conn_id, group):  # noqa: ASYNC110 - healing tells nobody that it is over
            await trio.sleep(0.01)
        await ann.send(group, "hello")
        await until_texts(bob, ["hello"])
