"""What is told of the cluster: to clients where they may connect, to operators how it is, to Prometheus."""

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from actors.address import SHARD_COUNT
from cluster import wire
from cluster.member import Member, NodeMeta, Status
from protocol.http import ClusterMember, ClusterView
from protocol.records import NodeLease
from protocol.types import NodeInfo

if TYPE_CHECKING:
    from cluster.node import ClusterNode


class Overview:
    """The cluster as one node sees it. Reads, and changes nothing."""

    def __init__(self, node: "ClusterNode") -> None:
        self._node = node

    def nodes(self) -> list[NodeInfo]:
        """The nodes that clients may connect to, this one first; drained ones are left out."""
        own = self._node.own_load()
        found = []
        if not self._node.meta.is_draining:
            found.append(_info(self._node.settings.node_id, self._node.meta, own.load))
        if self._node.gossip is not None:
            for member in self._node.gossip.members:
                is_other = member.node_id != self._node.settings.node_id
                if is_other and member.status is Status.ALIVE and not member.meta.is_draining:
                    told = self._node.loads.get(member.node_id)
                    found.append(_info(member.node_id, member.meta, 0.0 if told is None else told.load))
        return [info for info in found if info.url]

    def view(self) -> ClusterView:
        """What this node knows of the cluster, for an operator."""
        own, gossip, presence = self._node.own_load(), self._node.gossip, self._node.directory
        leases = {lease.node_id: lease for lease in self._node.leases_read}
        shard_counts = Counter(self._node.keeper.route_of(shard).node_id for shard in range(SHARD_COUNT))
        members = (
            []
            if gossip is None
            else [
                self._member_view(member, leases.get(member.node_id), shard_counts[member.node_id], own)
                for member in gossip.members
            ]
        )
        counts = None if presence is None else presence.counts()
        return ClusterView(
            node_id=self._node.settings.node_id,
            boot=self._node.boot,
            version=self._node.settings.version,
            is_draining=self._node.meta.is_draining,
            members=members,
            shards_owned=len(self._node.keeper.held) if self._node.keeper.lease_left_s > 0 else 0,
            connection_count=own.connection_count,
            loop_lag_s=own.loop_lag_s,
            load=own.load,
            presence_users=0 if counts is None else counts.connected_here + counts.shown_elsewhere,
            presence_digest=own.presence_digest,
            refused={} if self._node.lanes is None else self._node.lanes.refused(),
        )

    def _member_view(
        self, member: Member, lease: NodeLease | None, shard_count: int, own: wire.Load
    ) -> ClusterMember:
        meta, is_me = member.meta, member.node_id == self._node.settings.node_id
        told = own if is_me else self._node.loads.get(member.node_id)
        has_lease = lease is not None and lease.boot == member.boot
        return ClusterMember(
            node_id=member.node_id,
            boot=member.boot,
            status=member.status.name.lower(),
            address=f"{meta.host}:{meta.port}",
            url=meta.url,
            zone=meta.zone,
            incarnation=member.incarnation,
            is_reachable=is_me or self._node.mesh.is_reachable(member.node_id),
            is_draining=meta.is_draining,
            lease_left_ms=lease.lease_left_ms if lease is not None and has_lease else 0,
            shard_count=shard_count,
            connection_count=0 if told is None else told.connection_count,
            loop_lag_s=0.0 if told is None else told.loop_lag_s,
            load=0.0 if told is None else told.load,
        )

    def gauges(self) -> dict[str, float]:
        """How the cluster looks from here, for the metrics."""
        lanes, gossip, presence = self._node.lanes, self._node.gossip, self._node.directory
        numbers: dict[str, float] = {
            "shards_owned": len(self._node.keeper.held),
            "lease_left_seconds": self._node.keeper.lease_left_s,
            "boot": self._node.keeper.boot,
            "calls_forwarded": self._node.router.forwarded_count,
            "calls_under_way": self._node.router.under_way_count,
            "calls_held": self._node.router.held_count,
            "calls_refused": self._node.router.refused_count,
            "holes_filled": self._node.healer.filled_count,
            "holes_resynced": self._node.healer.resync_count,
            "items_malformed": self._node.mesh.malformed_count,
            "items_relayed": self._node.mesh.relayed_count,
            "items_dropped": self._node.mesh.dropped_count,
        }
        if gossip is not None:
            numbers["members_alive"] = len(gossip.alive())
            numbers["members_refused"] = gossip.refused_count
        if presence is not None:
            for name, value in msgspec.structs.asdict(presence.counts()).items():
                numbers[f"presence_{name}"] = value
        if lanes is not None:
            for reason, count in lanes.refused().items():
                numbers[f'envelopes_refused{{reason="{reason}"}}'] = count
        return numbers


def _info(node_id: str, meta: NodeMeta, load: float) -> NodeInfo:
    return NodeInfo(node_id=node_id, url=meta.url, bot_address=meta.bot_address, zone=meta.zone, load=load)
