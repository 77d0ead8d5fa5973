"""Keepers of several nodes over one ownership table, without lanes, actors or sockets."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

import trio

from actors.address import SHARD_COUNT
from cluster.ownership import Ownership
from cluster.routes import ShardRoute
from cluster.shards import KeeperSettings, ShardKeeper
from protocol.errors import Unavailable
from tests.cluster.memory_ownership import MemoryOwnership, MemoryTable


class Peer:
    """One node: its keeper, and what the keeper asked of the rest of the node."""

    def __init__(
        self,
        node_id: str,
        ownership: Ownership,
        *,
        alive: Callable[[], Collection[str]],
        settings: KeeperSettings,
        boot_time_s: Callable[[], float],
    ) -> None:
        self.node_id = node_id
        self.scope = trio.CancelScope()
        self.handed: list[frozenset[int]] = []
        self.cut: list[frozenset[int]] = []
        self.routes: list[ShardRoute] = []
        self.hand_over_s = 0.0
        self.on_hand_over: Callable[[frozenset[int]], None] = lambda _shards: None
        self.tell_others: Callable[[Sequence[ShardRoute]], None] = lambda _routes: None
        self.error: BaseException | None = None
        self.keeper = ShardKeeper(
            ownership,
            node_id=node_id,
            address=f"{node_id}:8082",
            alive=alive,
            hand_over=self._hand_over,
            cut_off=self.cut.append,
            on_routes=self._note_routes,
            boot_time_s=boot_time_s,
            settings=settings,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the keeper as a supervisor does: again, when the store was away at its start."""
        with self.scope:
            while self.error is None:
                try:
                    await self.keeper.run(task_status=task_status)
                except Unavailable:
                    await trio.sleep(1)
                except Exception as error:
                    self.error = error

    def owned(self) -> set[int]:
        """What `owns` says yes to: all that is held, as long as the lease is live."""
        held = set(self.keeper.held)
        return held if held and self.keeper.owns(min(held)) else set()

    def all_cut(self) -> set[int]:
        return set().union(*self.cut)

    async def _hand_over(self, shards: frozenset[int], deadline_s: float) -> None:
        self.handed.append(shards)
        self.on_hand_over(shards)
        await trio.sleep(self.hand_over_s)

    def _note_routes(self, routes: Sequence[ShardRoute]) -> None:
        self.routes += routes
        self.tell_others(routes)


class Cluster:
    """Peers over one table in memory; time is the test's. Two owners of one shard at once end the test."""

    def __init__(self, nursery: trio.Nursery, *, proves_death: bool, settings: KeeperSettings) -> None:
        self.table = MemoryTable(proves_death=proves_death)
        self.settings = settings
        self.peers: dict[str, Peer] = {}
        self.processes: dict[str, MemoryOwnership] = {}
        self.alive: set[str] = set()  # as gossip has it, in everybody's view
        self.views: dict[str, set[str]] = {}  # who sees it differently
        self.shares_hints = True
        self._nursery = nursery

    async def start(self, node_id: str) -> Peer:
        """Start a node and return when it is ready."""
        peer = self._make(node_id)
        await self._nursery.start(peer.run)
        return peer

    def start_soon(self, node_id: str) -> Peer:
        peer = self._make(node_id)
        self._nursery.start_soon(peer.run)
        return peer

    def process(self, node_id: str) -> MemoryOwnership:
        """The process of a node: the one that lives, or a new one."""
        process = self.processes.get(node_id)
        if process is None or process.is_dead:
            process = self.processes[node_id] = MemoryOwnership(self.table)
        return process

    def kill(self, node_id: str, *, is_noticed: bool = True) -> None:
        """kill -9; gossip notices at once, or not at all."""
        self.processes[node_id].kill()
        self.peers.pop(node_id).scope.cancel()
        if is_noticed:
            self.alive.discard(node_id)
            for peer in self.peers.values():
                peer.keeper.poke()

    async def leave(self, node_id: str, deadline_s: float = 10.0) -> Peer:
        """Drain a node and end it."""
        peer = self.peers[node_id]
        await peer.keeper.leave(deadline_s)
        self.kill(node_id)
        return peer

    def loads(self) -> dict[str, int]:
        return {node_id: len(peer.owned()) for node_id, peer in self.peers.items()}

    def unowned_count(self) -> int:
        return SHARD_COUNT - len(set().union(*[peer.owned() for peer in self.peers.values()]))

    async def until(self, is_so: Callable[[], bool], within_s: float) -> float:
        """Wait until something is so. Returns after how many seconds it was."""
        started_at = trio.current_time()
        while not is_so():
            assert trio.current_time() - started_at < within_s, (self.loads(), self.unowned_count())
            await trio.sleep(0.05)
        return trio.current_time() - started_at

    async def watch(self) -> None:
        """Look all the time for shards with two owners, whatever their epochs."""
        while True:
            owners: dict[int, str] = {}
            for node_id, peer in self.peers.items():
                held = peer.keeper.held
                for shard in peer.owned():
                    assert shard not in owners, f"{shard} is owned by {owners[shard]} and {node_id}"
                    owners[shard] = node_id
                    assert held[shard] <= self.table.shards[shard].epoch
            await trio.sleep(0.1)

    def _make(self, node_id: str) -> Peer:
        self.alive.add(node_id)
        peer = Peer(
            node_id,
            self.process(node_id),
            alive=lambda: self.views.get(node_id, self.alive),
            settings=self.settings,
            boot_time_s=trio.current_time,
        )
        peer.tell_others = lambda routes: self._spread(node_id, routes)
        self.peers[node_id] = peer
        return peer

    def _spread(self, node_id: str, routes: Sequence[ShardRoute]) -> None:
        """Pass a peer's news of its own on, as the control lane does."""
        if self.shares_hints:
            for other in self.peers.values():
                if other.node_id != node_id and not self.processes[node_id].is_dead:
                    other.keeper.learn([route for route in routes if route.node_id in ("", node_id)])


@asynccontextmanager
async def open_cluster(
    *node_ids: str, proves_death: bool = True, settings: KeeperSettings | None = None
) -> AsyncIterator[Cluster]:
    """A cluster whose first nodes start together and are in balance."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, proves_death=proves_death, settings=settings or KeeperSettings())
        nursery.start_soon(cluster.watch)
        for node_id in node_ids:
            cluster.start_soon(node_id)
        await cluster.until(lambda: cluster.unowned_count() == 0 or not node_ids, 10)
        yield cluster
        for peer in cluster.peers.values():
            assert peer.error is None, peer.error
        nursery.cancel_scope.cancel()
