"""Several nodes in one process over one directory: the real store and actors, lanes in memory."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

import trio

from actors.address import SHARD_COUNT, Address
from actors.hub import Hub
from actors.router import LocalRouter
from cluster.node import ClusterNode, ClusterSettings
from cluster.placement import MoveRules
from cluster.shards import KeeperSettings
from protocol.errors import StorageUnavailable
from server.chat_core import ChatCore
from server.directory import Directory
from server.log_ins import LogIns
from storage.sqlite import SqliteStore, open_store
from storage.store import Store
from tests.cluster.memory_lanes import MemoryNetwork
from tests.server.reach import HERE
from tests.server.world import FlakyStore, World

QUICK = KeeperSettings(
    lease_s=3.0,
    margin_s=0.5,
    renew_s=0.5,
    watch_s=0.2,
    retry_s=0.1,
    gather_s=0.2,
    newcomer_s=5.0,
    moves=MoveRules(settle_s=0.5, share=0.5, period_s=0.5),
)


class ClusterStore(FlakyStore):
    """The real store, but for what a test lets it refuse."""

    def __init__(self, store: SqliteStore) -> None:
        super().__init__(store)
        self.refuses_renewals = False

    async def renew_node(self, node_id: str, boot: int, **more: object) -> bool:
        """As the store does it, or not at all."""
        if self.refuses_renewals:
            raise StorageUnavailable("disk")
        return await self._store.renew_node(node_id, boot, **more)  # type: ignore[arg-type]  # its keywords


class Member(World):
    """One node of a cluster in this process; devices connect to it as to a single one."""

    def __init__(
        self, name: str, store: SqliteStore, flaky: ClusterStore, core: ChatCore, node: ClusterNode
    ) -> None:
        super().__init__(store, flaky, core)
        self.faults = flaky
        self.name = name
        self.node = node
        self.now_ms = 1_700_000_000_000
        self.stop = trio.Event()
        self.stopped = trio.Event()


class ClusterWorld:
    """Nodes that come and go."""

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self.directory = directory
        self.network = MemoryNetwork()
        self.members: dict[str, Member] = {}
        self._nursery = nursery

    async def start(self, *names: str) -> list[Member]:
        """Start nodes side by side; return when each of them runs."""
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(self._nursery.start, self._run, name)
        return [self.members[name] for name in names]

    async def _run(self, name: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with open_store(self.directory) as store:
            flaky = ClusterStore(store)
            people = Directory(store)
            log_ins = LogIns(store, people, b"a secret of 32 bytes for tests...")
            made: list[ClusterNode] = []
            members: list[Member] = []

            def surround(router: LocalRouter, hub: Hub) -> ClusterNode:
                node = ClusterNode(
                    ClusterSettings(node_id=name, host="127.0.0.1", port=1, keeper=QUICK),
                    cast(Store, flaky),
                    router,
                    hub,
                    now_ms=lambda: members[0].now_ms if members else 0,
                    load=lambda: (0, 0.0, 0.0),
                    open_lanes=self.network.factory(),
                )
                made.append(node)
                return node

            core = ChatCore(
                cast(Store, flaky),
                people,
                log_ins,
                surround=surround,
                node_id=name,
                server="test",
                nodes=list,
                now_ms=lambda: members[0].now_ms if members else 0,
                max_file_bytes=1 << 20,
                debounce_s=0.0,
                secret=log_ins.server_secret,
                reach=HERE,
            )
            log_ins.on_session_revoked = core.service.session_revoked
            (node,) = made
            node.serve(core)
            member = Member(name, store, flaky, core, node)
            members.append(member)
            async with trio.open_nursery() as nursery:
                await nursery.start(core.supervisor.run)
                await nursery.start(node.supervisor.run)
                self.members[name] = member
                task_status.started()
                await member.stop.wait()
                nursery.cancel_scope.cancel()
        member.stopped.set()

    async def kill(self, name: str) -> None:
        """End a node without a word to anybody."""
        member = self.members.pop(name)
        member.stop.set()
        await member.stopped.wait()

    async def settled(self, *names: str) -> None:
        """Wait until these nodes know each other, and share all shards evenly."""
        wanted = set(names or self.members)
        while True:
            counts = [len(self.members[name].node.keeper.held) for name in wanted]
            views = [set(self.members[name].node.mesh.node_ids) | {name} for name in wanted]
            is_shared = sum(counts) == 256 and max(counts) - min(counts) <= 2
            if is_shared and all(v == wanted for v in views) and self._agree(wanted):
                return
            await trio.sleep(0.02)

    def _agree(self, names: set[str]) -> bool:
        """Tell whether these nodes believe the same of each shard."""
        keepers = [self.members[name].node.keeper for name in names]
        return all(len({keeper.route_of(shard) for keeper in keepers}) == 1 for shard in range(SHARD_COUNT))

    def owner_of(self, kind: str, name: str) -> Member:
        """The node that runs an actor, by its own belief."""
        shard = Address(kind, name).shard
        (owner,) = [m for m in self.members.values() if m.node.keeper.owns(shard)]
        return owner


@asynccontextmanager
async def open_cluster(directory: Path, *names: str, timeout_s: float = 60.0) -> AsyncIterator[ClusterWorld]:
    """Bring a cluster to life on a directory."""
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        world = ClusterWorld(directory, nursery)
        with trio.fail_after(timeout_s):
            await world.start(*names)
            await world.settled(*names)
            yield world
        for member in world.members.values():
            for device in member.devices:
                device.disconnect()


__all__ = ["ClusterWorld", "Member", "open_cluster"]
