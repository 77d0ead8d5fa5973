"""Keepers over real stores that share a directory, with the real clock and leases of a second."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from actors.address import SHARD_COUNT
from cluster.placement import MoveRules
from cluster.shards import KeeperSettings, boot_time_s
from protocol.errors import Fenced, Unavailable
from protocol.records import Append
from storage import SqliteStore, check, open_store
from tests.cluster.keepers import Peer
from tests.storage.rooms import message

pytestmark = pytest.mark.slow

QUICK = KeeperSettings(
    lease_s=2.0,
    margin_s=0.5,
    renew_s=0.4,
    retry_s=0.1,
    watch_s=0.2,
    hand_over_s=0.5,
    gather_s=0.2,
    newcomer_s=0.5,
    moves=MoveRules(settle_s=0.6, share=0.25, period_s=0.3, others_after_s=0.6),
)


class Node:
    """A keeper with its own store, and conversations that write as fast as they may."""

    def __init__(self, node_id: str, store: SqliteStore, alive: set[str]) -> None:
        self.store = store
        self.skipped_s = 0.0  # a suspend of this node alone
        self.acked: dict[int, list[int]] = {}
        self.fenced_count = 0
        self.peer = Peer(
            node_id,
            store,
            alive=lambda: alive,
            settings=QUICK,
            boot_time_s=lambda: boot_time_s() + self.skipped_s,
        )

    async def write(self, shard: int) -> None:
        """Append to a stream of the shard for as long as that is allowed here."""
        keeper = self.peer.keeper
        while True:
            await trio.sleep(0.005)
            try:
                append = Append(
                    shard=shard, epoch=keeper.epoch_of(shard), rows=(message(f"r{shard}", "ann"),)
                )
                places = await self.store.append(append)
            except Fenced:
                self.fenced_count += 1
                keeper.fenced(shard)
            except Unavailable:
                continue
            else:
                self.acked.setdefault(shard, []).append(places[0].seq)


@asynccontextmanager
async def open_node(
    nursery: trio.Nursery, directory: Path, node_id: str, alive: set[str]
) -> AsyncIterator[Node]:
    """A node that is up; at exit its store is closed as a dying process closes it."""
    async with open_store(directory) as store:
        node = Node(node_id, store, alive)
        alive.add(node_id)
        await nursery.start(node.peer.run)
        yield node
        node.peer.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
    alive.discard(node_id)


async def until_owned(*nodes: Node, within_s: float) -> None:
    """Wait until each shard has exactly one owner among these."""
    with trio.fail_after(within_s):
        while True:
            owned = [node.peer.owned() for node in nodes]
            assert sum(map(len, owned)) == len(set().union(*owned)), "two nodes own the same shard"
            if sum(map(len, owned)) == SHARD_COUNT:
                return
            await trio.sleep(0.02)


async def test_a_join_a_drain_and_a_death_on_one_directory(tmp_path: Path) -> None:
    """The life of a cluster on one machine, under writes whose order is checked at the end."""
    alive: set[str] = set()
    shards = range(0, SHARD_COUNT, 16)
    nodes: list[Node] = []
    async with (
        trio.open_nursery() as nursery,
        open_node(nursery, tmp_path, "a", alive) as a,
    ):
        nodes.append(a)
        await until_owned(a, within_s=2)
        for shard in shards:
            nursery.start_soon(a.write, shard)
        async with open_node(nursery, tmp_path, "b", alive) as b, trio.open_nursery() as writers:
            nodes.append(b)
            for shard in shards:
                writers.start_soon(b.write, shard)
            with trio.fail_after(10):
                while abs(len(a.peer.owned()) - len(b.peer.owned())) > 1:  # noqa: ASYNC110 - real time
                    await trio.sleep(0.05)
            await until_owned(a, b, within_s=2)
            await trio.sleep(0.2)
            assert b.acked, "what moved is written where it is now"
            await b.peer.keeper.leave(2.0)
            await until_owned(a, within_s=2)
            writers.cancel_scope.cancel()
        async with open_node(nursery, tmp_path, "b", alive) as b:
            with trio.fail_after(10):
                while not len(b.peer.owned()) > 100:  # noqa: ASYNC110 - real time
                    await trio.sleep(0.05)
        # Its store is closed without a word, as by kill -9: the lease had two seconds to go.
        started_at = trio.current_time()
        a.peer.keeper.poke()
        await until_owned(a, within_s=1.5)
        assert trio.current_time() - started_at < 1.5  # its lease would last 1.6 s at least
        nursery.cancel_scope.cancel()
    seqs: dict[int, list[int]] = {}
    for node in nodes:
        assert node.peer.error is None
        assert node.fenced_count == 0, "hand-overs leave nothing behind to be refused"
        for shard, acked in node.acked.items():
            assert acked == sorted(acked)
            seqs.setdefault(shard, []).extend(acked)
    assert sorted(seqs) == list(shards)
    assert all(len(set(acked)) == len(acked) for acked in seqs.values())
    assert check(tmp_path) == []


async def test_a_suspended_owner_is_replaced_and_learns_it(tmp_path: Path) -> None:
    """Its lease ends in the store, too: what it had in flight is fenced, and it gives way."""
    alive: set[str] = set()
    async with (
        trio.open_nursery() as nursery,
        open_node(nursery, tmp_path, "a", alive) as a,
        open_node(nursery, tmp_path, "b", alive) as b,
    ):
        await until_owned(a, b, within_s=8)
        before = a.peer.keeper.held
        a.skipped_s = 5.0
        assert a.peer.owned() == set(), "before any task of it has run"
        # What a process that was stopped for so long finds: its lease has ended, and others looked.
        assert await b.store.renew_node("a", a.peer.keeper.boot, lease_ms=-1)
        won = await b.store.claim(before, node_id="b", boot=b.peer.keeper.boot)
        assert set(won) == set(before)
        shard = min(before)
        with pytest.raises(Fenced):
            await a.store.append(Append(shard=shard, epoch=before[shard], rows=(message("late", "ann"),)))
        a.peer.keeper.fenced(shard)
        await until_owned(a, b, within_s=4)
        assert a.peer.all_cut() == set(before)
        assert b.peer.keeper.owns(shard)
        nursery.cancel_scope.cancel()
