"""The numbers of membership, each with the source of its default."""

import math

import msgspec


class MembershipSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes of a cluster should use the same. Tests shrink them.

    "memberlist" is the DefaultLANConfig of hashicorp/memberlist; "Lifeguard" is Dadgar, Phillips, Currey:
    Lifeguard: Local Health Awareness for More Accurate Failure Detection (2018).
    """

    # One member is probed per interval, in shuffled rounds (memberlist: ProbeInterval).
    probe_interval_s: float = 1.0
    # Then others are asked to probe it (memberlist: ProbeTimeout). The rest of the interval is theirs.
    probe_timeout_s: float = 0.5
    # So many others (memberlist: IndirectChecks).
    indirect_probes: int = 3
    # Who was asked says Nack after this share of probe_timeout_s (Lifeguard: 80 %), so that it comes in time.
    nack_after_share: float = 0.8

    # Suspicion lasts at least this many probe intervals, times log10 of the nodes (memberlist:
    # SuspicionMult).
    suspicion_mult: int = 4
    # At most so many times the least, if nobody confirms it (memberlist: SuspicionMaxTimeoutMult).
    suspicion_max_mult: int = 6

    # News are sent so often, while there are any, to so many (memberlist: GossipInterval, GossipNodes).
    gossip_interval_s: float = 0.2
    gossip_nodes: int = 3
    # Each piece of news is sent mult * ceil(log10(nodes + 1)) times (memberlist: RetransmitMult).
    retransmit_mult: int = 4
    # memberlist fills a 1,400 byte datagram; a claim takes about 100 bytes and our envelopes hold 64 KiB.
    max_claims_per_message: int = 64

    # Full state is exchanged with one member so often. memberlist has 30 s; a third of it heals small
    # clusters sooner and costs little. Above memberlist's pushPullScaleThreshold of nodes: its 30 s.
    sync_interval_s: float = 10.0
    sync_interval_large_s: float = 30.0
    large_cluster_nodes: int = 32

    # A dead member is still told about, and to, for so long, so that it can refute (memberlist:
    # GossipToTheDeadTime).
    dead_on_wire_s: float = 30.0
    # Then only remembered, and called now and then in case a partition has healed (serf: ReconnectTimeout,
    # TombstoneTimeout; both 24 h).
    tombstone_s: float = 24 * 3600.0

    # Local health goes from 0 (well) to this; probing slows down by score + 1 (memberlist:
    # AwarenessMaxMultiplier 8).
    max_health_score: int = 7
    # One point of ill health per so much lag of our own loop: half a probe's timeout, the lag at which our
    # acks begin to come late.
    lag_per_point_s: float = 0.25
    # A step that comes so late after next_deadline means that we stood still; the time lost is given back to
    # whoever we were judging meanwhile. Below this it is ordinary jitter.
    late_after_s: float = 0.5

    # Seeds are called while we know no live member, first so soon again, then doubled up to the other.
    join_retry_s: float = 1.0
    join_retry_max_s: float = 10.0

    # Pings for others that we have in flight at once; beyond, we answer Nack. 32 nodes that all ask us three
    # times within a second stay below it.
    max_relays: int = 256

    def sync_interval(self, node_count: int) -> float:
        """Return how often full state is exchanged, in seconds."""
        is_large = node_count > self.large_cluster_nodes
        return self.sync_interval_large_s if is_large else self.sync_interval_s

    def retransmit_limit(self, node_count: int) -> int:
        """Return how often each piece of news is sent (memberlist: retransmitLimit)."""
        return self.retransmit_mult * math.ceil(math.log10(node_count + 1))
