"""The keeper of shards, in time that is free: who owns what when nodes come, go, freeze and are cut off."""

import itertools
import random

import pytest
import trio
from trio.testing import MockClock

from actors.address import SHARD_COUNT
from cluster.placement import MoveRules, desired_owners
from cluster.routes import ShardRoute
from cluster.shards import KeeperSettings, NodeSuperseded
from protocol.errors import OutcomeUnknown, Unavailable
from tests.cluster.keepers import Cluster, Peer, open_cluster
from tests.conftest import IS_LONG_RUN


def is_whole(cluster: Cluster) -> bool:
    """Every shard has an owner, and no node has 10 % more than its part."""
    most = max(cluster.loads().values())
    return cluster.unowned_count() == 0 and most <= 1.1 * SHARD_COUNT / len(cluster.peers)


def is_balanced(cluster: Cluster) -> bool:
    loads = cluster.loads().values()
    return cluster.unowned_count() == 0 and max(loads) - min(loads) <= 1


async def test_nodes_that_start_together_share_from_the_start(autojump_clock: MockClock) -> None:
    """`hubbub cluster --nodes 3`: nothing has to move after the first seconds."""
    async with open_cluster("a", "b", "c") as cluster:
        assert is_balanced(cluster)
        assert trio.current_time() < 4
        await trio.sleep(120)
        assert [peer.handed for peer in cluster.peers.values()] == [[], [], []]
        for shard, owner in enumerate(desired_owners(["a", "b", "c"])):
            assert cluster.peers["a"].keeper.route_of(shard).node_id == owner


async def test_a_node_alone_owns_everything(autojump_clock: MockClock) -> None:
    async with open_cluster("a") as cluster:
        peer = cluster.peers["a"]
        assert len(peer.keeper.held) == SHARD_COUNT
        assert peer.keeper.route_of(3) == ShardRoute(3, "a", 1, peer.keeper.epoch_of(3))


async def test_a_newcomer_gets_its_share_in_limited_steps(autojump_clock: MockClock) -> None:
    """DESIGN 7: a join interrupts few conversations at a time, and ends in balance."""
    async with open_cluster("a", "b") as cluster:
        await cluster.start("c")
        joined_at = trio.current_time()
        rules = MoveRules()
        await trio.sleep(rules.settle_s - 1)
        assert cluster.loads()["c"] == 0, "the members must be settled first"
        taken = [cluster.loads()["c"]]
        while not is_balanced(cluster):
            await trio.sleep(rules.period_s)
            taken.append(cluster.loads()["c"])
            assert trio.current_time() - joined_at < 90
        steps = [later - earlier for earlier, later in itertools.pairwise(taken)]
        assert max(steps) <= 0.1 * SHARD_COUNT + 1
        moved = sum(len(shards) for peer in cluster.peers.values() for shards in peer.handed)
        assert moved <= 1.1 * cluster.loads()["c"] + 1
        for peer in cluster.peers.values():
            assert peer.cut == [], "nobody was cut off: all went by hand-over"


async def test_a_handed_over_shard_is_taken_at_once(autojump_clock: MockClock) -> None:
    """The old owner's news reaches the new one, which looks without waiting for its second."""
    async with open_cluster("a") as cluster:
        await cluster.start("b")
        await cluster.until(lambda: bool(cluster.peers["a"].handed), 30)
        assert await cluster.until(lambda: cluster.unowned_count() == 0, 1) <= 0.2


async def test_a_killed_nodes_shards_are_taken_at_once_where_its_death_is_provable(
    autojump_clock: MockClock,
) -> None:
    async with open_cluster("a", "b", "c") as cluster:
        cluster.kill("b")
        assert cluster.unowned_count() > 80
        assert await cluster.until(lambda: is_whole(cluster), 1) < 0.5


async def test_a_killed_nodes_shards_are_taken_within_fifteen_seconds_by_its_lease(
    autojump_clock: MockClock,
) -> None:
    """DESIGN 10, where nodes are on several machines, and also when gossip notices nothing at all."""
    times = KeeperSettings()
    for is_noticed in (True, False):
        async with open_cluster("a", "b", "c", proves_death=False) as cluster:
            await trio.sleep(random.uniform(0, 3))
            cluster.kill("b", is_noticed=is_noticed)
            took_s = await cluster.until(lambda: cluster.unowned_count() == 0, 15.0)
            assert took_s > times.lease_s - times.renew_s - 0.1  # it may have been about to renew
            latest_s = times.lease_s + times.watch_s
            assert took_s < latest_s + (
                0.5 if is_noticed else times.moves.others_after_s + times.watch_s + 0.5
            )


async def test_gossip_alone_moves_nothing(autojump_clock: MockClock) -> None:
    """A partition between nodes that all reach the store: the leases are good, so nobody takes anything."""
    async with open_cluster("a", "b", "c") as cluster:
        before = {node_id: peer.owned() for node_id, peer in cluster.peers.items()}
        cluster.views = {node_id: {node_id} for node_id in "abc"}
        await trio.sleep(300)
        assert {node_id: peer.owned() for node_id, peer in cluster.peers.items()} == before


async def test_a_frozen_owner_refuses_by_itself_and_is_cut_off(autojump_clock: MockClock) -> None:
    """SIGSTOP, a suspended machine: when it wakes up, its first look at the clock tells it."""
    async with open_cluster("a", "b", "c") as cluster:
        frozen = cluster.peers["b"]
        before = frozen.owned()
        cluster.processes["b"].freeze()
        await cluster.until(lambda: not frozen.owned(), 12)
        with pytest.raises(Unavailable, match="moved"):
            frozen.keeper.epoch_of(min(before))
        assert cluster.unowned_count() == len(before), "its shards are not taken before it lets go"
        await trio.sleep(0.1)
        assert frozen.all_cut() == before
        await cluster.until(lambda: cluster.unowned_count() == 0, 5)
        await trio.sleep(15)
        cluster.processes["b"].thaw()
        await trio.sleep(2)
        assert frozen.owned() == set()
        assert frozen.keeper.lease_left_s > 5
        assert cluster.unowned_count() == 0
        await cluster.until(lambda: is_balanced(cluster), 120)


async def test_a_suspend_is_noticed_without_any_task(autojump_clock: MockClock) -> None:
    """The first question after waking up is answered right, whichever task asks it."""
    skipped_s = 0.0
    async with open_cluster() as cluster, trio.open_nursery() as nursery:
        peer = Peer(
            "a",
            cluster.process("a"),
            alive=lambda: {"a"},
            settings=KeeperSettings(),
            boot_time_s=lambda: trio.current_time() + skipped_s,
        )
        await nursery.start(peer.run)
        assert peer.keeper.owns(7)
        skipped_s = 11.0
        assert not peer.keeper.owns(7)
        with pytest.raises(Unavailable):
            peer.keeper.epoch_of(7)
        await trio.sleep(5)
        assert peer.keeper.owns(7), "nobody had taken it, and the lease was renewed"
        nursery.cancel_scope.cancel()


async def test_a_short_loss_of_the_store_is_not_noticed(autojump_clock: MockClock) -> None:
    async with open_cluster("a", "b") as cluster:
        before = cluster.peers["a"].keeper.held
        for _ in range(5):
            cluster.processes["a"].is_cut = True
            await trio.sleep(6)
            cluster.processes["a"].is_cut = False
            await trio.sleep(1)
            assert cluster.unowned_count() == 0
        assert cluster.peers["a"].keeper.held == before
        assert cluster.peers["a"].cut == []


async def test_what_nobody_took_is_ours_again_after_the_lease_had_ended(autojump_clock: MockClock) -> None:
    """The store was away for everybody: all come back with what they had, and no epoch changes."""
    async with open_cluster("a", "b") as cluster:
        before = {node_id: peer.keeper.held for node_id, peer in cluster.peers.items()}
        for process in cluster.processes.values():
            process.is_cut = True
        await trio.sleep(60)
        for node_id, peer in cluster.peers.items():
            assert peer.owned() == set()
            assert peer.all_cut() == set(before[node_id])
        for process in cluster.processes.values():
            process.is_cut = False
        await cluster.until(lambda: cluster.unowned_count() == 0, 5)
        held = {node_id: peer.keeper.held for node_id, peer in cluster.peers.items()}
        unchanged = [shard for node_id in "ab" for shard in before[node_id] if shard in held[node_id]]
        assert len(unchanged) >= SHARD_COUNT / 2


async def test_a_lease_renewed_too_late_is_worth_nothing_until_the_table_was_read(
    autojump_clock: MockClock,
) -> None:
    """Between the old lease and the new one others may have taken everything."""
    async with open_cluster("a", "b") as cluster:
        peer, process = cluster.peers["a"], cluster.processes["a"]
        before = peer.owned()
        process.is_cut = True
        await cluster.until(lambda: cluster.loads()["b"] == SHARD_COUNT, 16)
        process.cannot_read = True
        process.is_cut = False
        for _ in range(1000):
            await trio.sleep(0.01)
            assert peer.owned() == set()
        assert cluster.table.nodes["a"].lease_until > trio.current_time() + 8, "it renews all the time"
        process.cannot_read = False
        await cluster.until(lambda: peer.keeper.lease_left_s > 0, 2)
        assert peer.owned() == set()
        assert peer.all_cut() == before


async def test_a_later_life_ends_this_one_for_good(autojump_clock: MockClock) -> None:
    """Two processes that believe to be the same node: the older one must end, not fight."""
    async with open_cluster("a") as cluster:
        peer = cluster.peers["a"]
        cluster.table.nodes["a"].boot += 1
        await trio.sleep(4)
        assert isinstance(peer.error, NodeSuperseded)
        assert peer.owned() == set()
        assert peer.all_cut() == set(range(SHARD_COUNT))
        with pytest.raises(NodeSuperseded):
            await peer.keeper.run()
        peer.error = None


async def test_a_restarted_node_frees_what_its_last_life_had(autojump_clock: MockClock) -> None:
    """Nobody waits for the old lease, even where no death is provable."""
    async with open_cluster("a", "b", proves_death=False) as cluster:
        cluster.kill("b", is_noticed=False)
        await trio.sleep(0.5)
        await cluster.start("b")
        assert await cluster.until(lambda: is_whole(cluster), 1) < 0.5
        assert cluster.peers["b"].keeper.boot == 2


async def test_a_leaving_node_gives_everything_in_batches(autojump_clock: MockClock) -> None:
    """A drain: every shard's actors finish first, and no shard is without an owner for long."""
    async with open_cluster("a", "b", "c") as cluster:
        peer = cluster.peers["b"]
        peer.hand_over_s = 0.5
        before = peer.owned()

        def look(shards: frozenset[int]) -> None:
            for shard in shards:
                assert not peer.keeper.owns(shard)
                with pytest.raises(Unavailable, match="moved"):
                    peer.keeper.epoch_of(shard)
                assert peer.keeper.route_of(shard).node_id == "b", "routers keep what comes meanwhile"

        peer.on_hand_over = look
        await cluster.leave("b")
        assert set().union(*peer.handed) == before
        assert max(len(shards) for shards in peer.handed) <= 32
        assert peer.cut == []
        given = [route for route in peer.routes if not route.node_id and route.shard in before]
        desired = desired_owners(["a", "c"])
        assert {route.shard for route in given} == before
        assert all(route.next_id == desired[route.shard] for route in given)
        assert await cluster.until(lambda: is_whole(cluster), 1) < 0.3
        assert all(other.cut == [] for other in cluster.peers.values())


async def test_actors_that_do_not_finish_are_cut_off_and_the_shards_given(autojump_clock: MockClock) -> None:
    """One stuck actor must not keep a node from leaving."""
    async with open_cluster("a", "b") as cluster:
        peer = cluster.peers["b"]
        peer.hand_over_s = 1000.0
        before = peer.owned()
        started_at = trio.current_time()
        await cluster.leave("b", deadline_s=8.0)
        assert trio.current_time() - started_at <= 8.5
        assert peer.all_cut() == before
        await cluster.until(lambda: is_whole(cluster), 1)


async def test_a_node_leaves_in_time_when_the_store_is_away(autojump_clock: MockClock) -> None:
    async with open_cluster("a", "b") as cluster:
        cluster.processes["b"].is_cut = True
        started_at = trio.current_time()
        await cluster.leave("b", deadline_s=5.0)
        assert trio.current_time() - started_at <= 7.5
        await cluster.until(lambda: is_whole(cluster), 1)


async def test_hints_count_for_others_shards_and_the_store_for_our_own(autojump_clock: MockClock) -> None:
    """A peer may be wrong or lie; nothing that we own is lost by it, and the next look mends the rest."""
    async with open_cluster("a", "b") as cluster:
        keeper = cluster.peers["a"].keeper
        own = min(keeper.held)
        others = min(cluster.peers["b"].keeper.held)
        epoch = keeper.route_of(others).epoch
        keeper.learn([ShardRoute(others, "x", 1, epoch)])
        assert keeper.route_of(others).node_id == "b"
        lies = [ShardRoute(others, "x", 1, epoch + 1000), ShardRoute(own, "x", 1, 1000), ShardRoute(999, "x")]
        keeper.learn(lies)
        assert keeper.route_of(others).node_id == "x"
        assert keeper.route_of(own).node_id == "a"
        assert keeper.owns(own)
        await trio.sleep(1.5)
        assert keeper.route_of(others) == ShardRoute(others, "b", 1, epoch)
        assert keeper.owns(own)


async def test_a_refused_append_stops_the_shard_until_the_table_was_read(autojump_clock: MockClock) -> None:
    async with open_cluster("a", "b") as cluster:
        peer = cluster.peers["a"]
        taken, kept = sorted(peer.owned())[:2]
        row = cluster.table.shards[taken]
        cluster.table.shards[taken] = type(row)(taken, "b", 1, row.epoch + 1, row.head)
        peer.keeper.fenced(taken)
        assert not peer.keeper.owns(taken)
        assert peer.cut == [frozenset((taken,))]
        peer.keeper.fenced(kept)  # it was an actor of an older epoch that was refused
        assert not peer.keeper.owns(kept)
        await trio.sleep(0.2)
        assert peer.keeper.route_of(taken).node_id == "b"
        assert not peer.keeper.owns(taken)
        assert peer.keeper.owns(kept)
        assert cluster.peers["b"].keeper.owns(taken) or await cluster.until(
            lambda: cluster.peers["b"].keeper.owns(taken), 2
        )


async def test_a_shard_that_was_taken_is_noticed_within_a_second(autojump_clock: MockClock) -> None:
    """Also where no append of ours is there to be refused: reads must not be served from memory."""
    async with open_cluster("a", "b") as cluster:
        cluster.shares_hints = False
        peer = cluster.peers["a"]
        shard = min(peer.owned())
        row = cluster.table.shards[shard]
        cluster.table.shards[shard] = type(row)(shard, "", 0, row.epoch + 1, row.head)
        await trio.sleep(1.2)
        assert peer.all_cut() == {shard}
        assert cluster.unowned_count() == 0


async def test_a_claim_whose_answer_was_lost_is_found_in_the_table(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OutcomeUnknown: no shard is held by a node that does not know it."""
    async with open_cluster() as cluster:
        process = cluster.process("a")
        claim = process.claim
        is_lost = True

        async def claim_and_lose(shards: dict[int, int], **options: object) -> dict[int, tuple[int, int]]:
            nonlocal is_lost
            won = await claim(shards, **options)  # type: ignore[arg-type]  # as they came
            if is_lost:
                is_lost = False
                raise OutcomeUnknown
            return won

        monkeypatch.setattr(process, "claim", claim_and_lose)
        await cluster.start("a")
        await cluster.until(lambda: cluster.unowned_count() == 0, 2)
        assert {row.epoch for row in cluster.table.shards} == {1}


async def test_every_shard_gets_an_owner_though_views_differ(autojump_clock: MockClock) -> None:
    """Each node believes that others should take some of them, who think otherwise or do not exist."""
    async with open_cluster("a", "b", "c") as cluster:
        cluster.shares_hints = False
        await trio.sleep(30)
        cluster.views = {"a": {"a", "b", "c"}, "b": {"b"}}
        cluster.kill("c", is_noticed=False)
        for peer in cluster.peers.values():
            peer.keeper.poke()
        assert await cluster.until(lambda: cluster.unowned_count() == 0, 5) < 4.5


async def test_a_quiet_cluster_tells_nothing(autojump_clock: MockClock) -> None:
    async with open_cluster("a", "b") as cluster:
        await trio.sleep(2)
        for peer in cluster.peers.values():
            peer.routes.clear()
        reads = {node_id: process.read_count for node_id, process in cluster.processes.items()}
        await trio.sleep(60)
        for node_id, peer in cluster.peers.items():
            assert peer.routes == []
            assert cluster.processes[node_id].read_count - reads[node_id] <= 122


@pytest.mark.parametrize("seed", range(200 if IS_LONG_RUN else 12))
async def test_whatever_happens_there_is_one_owner_and_in_the_end_balance(
    autojump_clock: MockClock, seed: int
) -> None:
    """Kills, restarts, freezes, cuts, drains and wrong views at random; a failure names its seed."""
    dice = random.Random(seed)
    async with open_cluster("a", "b", "c", proves_death=dice.random() < 0.5) as cluster:
        for _ in range(25):
            await _something(cluster, dice)
            await trio.sleep(dice.uniform(0, 15))
        cluster.views = {}
        for node_id in "abcd":
            if node_id in cluster.processes:
                cluster.processes[node_id].thaw()
                cluster.processes[node_id].is_cut = False
        await cluster.until(lambda: cluster.unowned_count() == 0, 18)
        await cluster.until(lambda: is_balanced(cluster), 200)


async def _something(cluster: Cluster, dice: random.Random) -> None:
    node_id = dice.choice("abcd")
    process = cluster.processes.get(node_id)
    if node_id not in cluster.peers:
        cluster.start_soon(node_id)
        return
    assert process is not None
    others = [other for other in cluster.peers if other != node_id]
    match dice.randrange(7):
        case 0 if others:
            cluster.kill(node_id, is_noticed=dice.random() < 0.5)
        case 1 if others:
            await cluster.leave(node_id, dice.uniform(0, 10))
        case 2:
            process.freeze()
        case 3:
            process.is_cut = True
        case 4:
            cluster.views[node_id] = {node_id, *dice.sample(sorted(cluster.peers), 1)}
        case 5:
            cluster.peers[node_id].keeper.fenced(dice.randrange(SHARD_COUNT))
        case _:
            process.thaw()
            process.is_cut = False
            cluster.views.pop(node_id, None)
