"""Which node should own which shard, and which shards change hands now. Pure: the store decides, later.

Every node works this out for itself from the same members and agrees with the others without asking them.
Where views differ for a moment, compare-and-swap in the store lets one of them win, and nothing is harmed.

Shards are given out by rendezvous hashing with bounded loads: all (node, shard) pairs by falling hash, each
shard to the first node that has room. So loads differ by one at most, and a node that joins or leaves moves
at most 1.4 times as many shards as it must, for up to 8 nodes (plain rendezvous hashing moves the least, but
leaves one node of eight with half as much again as another).
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import msgspec

from actors.address import SHARD_COUNT
from protocol.records import NodeLease, ShardOwner


class MoveRules(msgspec.Struct, frozen=True, kw_only=True):
    """How fast shards may change hands while nobody has to."""

    # A node that restarts or a view that flaps must not set shards wandering. Pekko waits 20 s, as its
    # entities are down for seconds; here what is sent meanwhile is held for a moment, and nobody notices.
    settle_s: float = 10.0
    share: float = 0.1  # of all shards, by all nodes together, in each period (Pekko's rebalance limit)
    period_s: float = 5.0  # Pekko: 10 s
    batch: int = 32  # when everything goes: few enough for one hand-over to be short
    # Members' views may differ by a gossip round or two; after that availability goes first.
    others_after_s: float = 1.5


def is_cut_off(holders: Collection[str], alive: Collection[str]) -> bool:
    """Tell whether a node reaches less than half of the others that hold a live lease.

    It can reach the store, so its lease and its shards are its own; but what it took now, the majority could
    not reach. It leaves free shards to them, and takes one only if nobody else does.
    """
    return 2 * sum(node_id in alive for node_id in holders) < len(holders)


def desired_owners(node_ids: Collection[str]) -> tuple[str, ...]:
    """The owner of each shard among nodes that are live and not draining; "" for all where there is none."""
    return _desired_owners(tuple(sorted(set(node_ids))))


def free_shards(rows: Sequence[ShardOwner], members: Sequence[NodeLease]) -> dict[int, int]:
    """Shards that nobody holds by a live lease, with the epoch to claim them by."""
    live = {(member.node_id, member.boot) for member in members if member.lease_left_ms > 0}
    return {row.shard: row.epoch for row in rows if (row.owner, row.boot) not in live}


def plan_claims(
    free_for_s: Mapping[int, float], desired: Sequence[str], node_id: str, *, rules: MoveRules
) -> list[int]:
    """Choose which free shards to claim now, by how long each has been seen free."""
    return [
        shard
        for shard, free_s in free_for_s.items()
        if desired[shard] == node_id or free_s >= rules.others_after_s
    ]


def plan_moves(
    held: Collection[int],
    owners: Sequence[str],
    desired: Sequence[str],
    node_id: str,
    *,
    is_draining: bool,
    stable_for_s: float,
    given_lately: int,
    rules: MoveRules,
) -> list[int]:
    """Choose which shards of ours to give up now.

    `owners` is who has each shard at present: the nodes that have shards to give share the limit.
    `stable_for_s` is for how long the live nodes have been the same ones, `given_lately` how many shards
    this node gave up within the last period.
    """
    if is_draining:
        return sorted(held)[: rules.batch]
    if stable_for_s < rules.settle_s:
        return []
    surplus = sorted(shard for shard in held if desired[shard] not in (node_id, ""))
    givers = {owner for owner, wanted in zip(owners, desired, strict=True) if owner not in ("", wanted)}
    limit = max(int(SHARD_COUNT * rules.share) // len(givers | {node_id}), 1)
    return surplus[: max(limit - given_lately, 0)]


_CACHED_VIEWS: Final = 64  # memberships seen lately; making one for 8 nodes takes 3 ms


@lru_cache(maxsize=_CACHED_VIEWS)
def _desired_owners(node_ids: tuple[str, ...]) -> tuple[str, ...]:
    owners = [""] * SHARD_COUNT
    if not node_ids:
        return tuple(owners)
    floor, extra_count = divmod(SHARD_COUNT, len(node_ids))
    load = dict.fromkeys(node_ids, 0)
    pairs = [(_score(node_id, shard), shard, node_id) for node_id in node_ids for shard in range(SHARD_COUNT)]
    for _, shard, node_id in sorted(pairs, reverse=True):
        if owners[shard]:
            continue
        if load[node_id] >= floor:
            # So many nodes have one more than the others, and whoever is wanted most takes that place.
            if load[node_id] > floor or extra_count == 0:
                continue
            extra_count -= 1
        owners[shard] = node_id
        load[node_id] += 1
    return tuple(owners)


def _score(node_id: str, shard: int) -> bytes:
    # Part of how nodes agree: a release that changes it moves almost every shard.
    return blake2b(f"{shard}\0{node_id}".encode(), digest_size=8).digest()
