"""An ownership table in memory, held to the store's contract by test_memory_ownership.

Time is trio's, so an autojump clock makes leases free. Each `MemoryOwnership` is what one process sees: it
can be killed, frozen, or cut from the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from actors.address import SHARD_COUNT
from protocol.errors import Refused, StorageUnavailable
from protocol.records import NodeLease, ShardOwner


@dataclass
class _Node:
    boot: int
    address: str
    lease_until: float
    is_draining: bool
    process: "MemoryOwnership"


@dataclass
class MemoryTable:
    """What all processes share. `proves_death`: as on one machine, where locks tell who has died."""

    proves_death: bool = True
    nodes: dict[str, _Node] = field(default_factory=dict)
    shards: list[ShardOwner] = field(
        default_factory=lambda: [ShardOwner(shard, "", 0, 0, 0) for shard in range(SHARD_COUNT)]
    )


class MemoryOwnership:
    """Fits cluster.ownership.Ownership."""

    def __init__(self, table: MemoryTable) -> None:
        self._table = table
        self._thawed = trio.Event()
        self._thawed.set()
        self.is_dead = False
        self.is_cut = False
        self.cannot_read = False
        self.read_count = 0

    def kill(self) -> None:
        """The process has died: its locks are free, and it asks nothing any more."""
        self.is_dead = True

    def freeze(self) -> None:
        """What it asks is neither heard nor answered until `thaw`."""
        if self._thawed.is_set():
            self._thawed = trio.Event()

    def thaw(self) -> None:
        self._thawed.set()

    async def register_node(self, node_id: str, address: str, *, lease_ms: int = 12_000) -> int:
        await self._reach()
        node = self._table.nodes.get(node_id)
        if node is not None and node.process is not self and not node.process.is_dead:
            raise Refused("directory_in_use", f"A node named {node_id} is running already.")
        boot = 1 if node is None else node.boot + 1
        self._table.nodes[node_id] = _Node(boot, address, _until(lease_ms), False, self)
        return boot

    async def renew_node(
        self, node_id: str, boot: int, *, lease_ms: int = 12_000, is_draining: bool = False
    ) -> bool:
        await self._reach()
        node = self._table.nodes.get(node_id)
        if node is None or node.boot != boot:
            return False
        node.lease_until, node.is_draining = _until(lease_ms), is_draining
        return True

    async def claim(
        self, shards: Mapping[int, int], *, node_id: str, boot: int
    ) -> dict[int, tuple[int, int]]:
        await self._reach()
        won: dict[int, tuple[int, int]] = {}
        if not self._is_live(node_id, boot):
            return won
        for shard, seen_epoch in shards.items():
            if not 0 <= shard < SHARD_COUNT:
                continue
            row = self._table.shards[shard]
            is_old_own = row.owner == node_id and row.boot <= boot
            if row.epoch == seen_epoch and (is_old_own or not self._is_live(row.owner, row.boot)):
                self._table.shards[shard] = ShardOwner(shard, node_id, boot, row.epoch + 1, row.head)
                won[shard] = (row.epoch + 1, row.head)
        return won

    async def release(self, shards: Mapping[int, int]) -> dict[int, int]:
        await self._reach()
        released = {}
        for shard, epoch in shards.items():
            row = self._table.shards[shard]
            if row.epoch == epoch:
                self._table.shards[shard] = ShardOwner(shard, "", 0, epoch + 1, row.head)
                released[shard] = epoch + 1
        return released

    async def end_leases_of_the_dead(self) -> list[tuple[str, int]]:
        await self._reach()
        ended = []
        for node_id, node in self._table.nodes.items():
            is_proven = self._table.proves_death and node.process.is_dead
            if is_proven and self._is_live(node_id, node.boot):
                node.lease_until = float("-inf")
                ended.append((node_id, node.boot))
        return ended

    async def members(self) -> list[NodeLease]:
        await self._read()
        return [
            NodeLease(
                node_id=node_id,
                boot=node.boot,
                address=node.address,
                lease_left_ms=int(max(node.lease_until - trio.current_time(), 0) * 1000),
                is_draining=node.is_draining,
            )
            for node_id, node in sorted(self._table.nodes.items())
        ]

    async def shards(self) -> list[ShardOwner]:
        await self._read()
        return list(self._table.shards)

    async def _read(self) -> None:
        await self._reach()
        if self.cannot_read:
            raise StorageUnavailable("The test lets nobody read.")
        self.read_count += 1

    async def _reach(self) -> None:
        await trio.lowlevel.checkpoint()
        await self._thawed.wait()
        if self.is_dead:
            await trio.sleep_forever()
        if self.is_cut:
            raise StorageUnavailable("The test has cut the cable.")

    def _is_live(self, node_id: str, boot: int) -> bool:
        node = self._table.nodes.get(node_id)
        return node is not None and node.boot == boot and node.lease_until > trio.current_time()


def _until(lease_ms: int) -> float:
    return trio.current_time() + lease_ms / 1000 if lease_ms > 0 else float("-inf")
