"""What the cluster needs of the store to know who owns what; see storage.store.Store for each promise."""

from collections.abc import Mapping
from typing import Protocol

from protocol.records import NodeLease, ShardOwner


class Ownership(Protocol):
    """Leases and claims, decided by compare-and-swap in the store."""

    async def register_node(self, node_id: str, address: str, *, lease_ms: int = 12_000) -> int: ...

    async def renew_node(
        self, node_id: str, boot: int, *, lease_ms: int = 12_000, is_draining: bool = False
    ) -> bool: ...

    async def claim(
        self, shards: Mapping[int, int], *, node_id: str, boot: int
    ) -> dict[int, tuple[int, int]]: ...

    async def release(self, shards: Mapping[int, int]) -> dict[int, int]: ...

    async def end_leases_of_the_dead(self) -> list[tuple[str, int]]: ...

    async def members(self) -> list[NodeLease]: ...

    async def shards(self) -> list[ShardOwner]: ...
