"""The state of membership, and the working copy that one step changes.

A state is never changed once it was returned: `Turn` copies its four small tables, `frozen()` makes the next
one.
"""

import msgspec

from cluster.broadcasts import Broadcasts, add_broadcast, take_broadcasts
from cluster.dice import Dice
from cluster.gossip_messages import Claim, GossipMessage
from cluster.member import Member, NodeMeta, Status
from cluster.membership_events import (
    Endpoint,
    HealthChanged,
    MemberChanged,
    Output,
    Send,
)
from cluster.membership_settings import MembershipSettings
from cluster.suspicion import Suspicion

NEVER = float("inf")


class Peer(msgspec.Struct, frozen=True):
    """What we hold of another node. `suspicion` is there exactly while its status is SUSPECT."""

    member: Member
    by: str  # who stands behind this belief: the accuser, or the member itself
    changed_at: float  # when status or boot last changed
    heard_at: float  # when this boot was last heard on any lane
    suspicion: Suspicion | None = None


class Probe(msgspec.Struct, frozen=True):
    """One probe in flight."""

    node_id: str
    boot: int
    incarnation: int  # as it was when the probe began: a later one is a refutation
    sent_at: float
    asks_at: float  # then others are asked
    ends_at: float
    asked_count: int = -1  # how many were asked; -1 before
    nacked_by: tuple[str, ...] = ()

    def postponed(self, by_s: float) -> "Probe":
        return msgspec.structs.replace(self, asks_at=self.asks_at + by_s, ends_at=self.ends_at + by_s)


class Relay(msgspec.Struct, frozen=True):
    """A ping that we sent because somebody asked us to."""

    asker: str
    asker_seq: int
    nack_at: float  # NEVER once the Nack is sent; a late Ack is still passed on
    ends_at: float


class Membership(msgspec.Struct, frozen=True):
    """All that a node knows of the cluster. Leave alone what is not told here.

    For reading: `me`, `peers`, `health_score`, `next_deadline` and the properties.
    Times are seconds of the clock that `step` is handed.
    """

    settings: MembershipSettings
    me: Member
    peers: dict[str, Peer]  # never changed in place; tombstones included
    refused: dict[str, int]  # node_id -> the boot that speaks no protocol of ours
    probes: dict[int, Probe]  # by seq
    relays: dict[int, Relay]  # by our own seq
    queue: Broadcasts
    seeds: tuple[Endpoint, ...]
    probe_order: tuple[str, ...]
    probe_index: int
    health_score: int
    seq: int
    serial: int
    dice: int
    is_started: bool
    is_leaving: bool
    is_over: bool  # superseded: takes no part any more
    probe_at: float
    gossip_at: float
    sync_at: float
    join_at: float
    join_delay_s: float
    next_deadline: float  # when the next Tick is due; infinity while there is nothing to wait for

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody that we know of, ourselves first, the dead and the gone included."""
        return (self.me, *[peer.member for peer in self.peers.values()])

    @property
    def live_members(self) -> tuple[Member, ...]:
        """Who counts as alive: ourselves unless we left, the alive and the suspects."""
        return tuple([member for member in self.members if member.is_live])

    def member(self, node_id: str) -> Member | None:
        """Return what we believe of a node, if anything."""
        if node_id == self.me.node_id:
            return self.me
        peer = self.peers.get(node_id)
        return None if peer is None else peer.member


class Turn:
    """The working copy of one step."""

    __slots__ = (
        "_before",
        "dice",
        "gossip_at",
        "health_score",
        "is_leaving",
        "is_over",
        "is_started",
        "join_at",
        "join_delay_s",
        "me",
        "now",
        "outputs",
        "peers",
        "probe_at",
        "probe_index",
        "probe_order",
        "probes",
        "queue",
        "refused",
        "relays",
        "seeds",
        "seq",
        "serial",
        "settings",
        "sync_at",
    )

    def __init__(self, before: Membership, now: float) -> None:
        self._before = before
        self.now = now
        self.outputs: list[Output] = []
        self.settings = before.settings
        self.me = before.me
        self.peers = dict(before.peers)
        self.refused = before.refused  # rarely changed, so copied by who changes it
        self.probes = dict(before.probes)
        self.relays = dict(before.relays)
        self.queue = dict(before.queue)
        self.seeds = before.seeds
        self.probe_order = before.probe_order
        self.probe_index = before.probe_index
        self.health_score = before.health_score
        self.seq = before.seq
        self.serial = before.serial
        self.dice = Dice(before.dice)
        self.is_started = before.is_started
        self.is_leaving = before.is_leaving
        self.is_over = before.is_over
        self.probe_at = before.probe_at
        self.gossip_at = before.gossip_at
        self.sync_at = before.sync_at
        self.join_at = before.join_at
        self.join_delay_s = before.join_delay_s

    def frozen(self) -> Membership:
        """Return the state after this step."""
        if self.health_score != self._before.health_score:
            self.outputs.append(HealthChanged(self.health_score))
        return Membership(
            settings=self.settings,
            me=self.me,
            peers=self.peers,
            refused=self.refused,
            probes=self.probes,
            relays=self.relays,
            queue=self.queue,
            seeds=self.seeds,
            probe_order=self.probe_order,
            probe_index=self.probe_index,
            health_score=self.health_score,
            seq=self.seq,
            serial=self.serial,
            dice=self.dice.state,
            is_started=self.is_started,
            is_leaving=self.is_leaving,
            is_over=self.is_over,
            probe_at=self.probe_at,
            gossip_at=self.gossip_at,
            sync_at=self.sync_at,
            join_at=self.join_at,
            join_delay_s=self.join_delay_s,
            next_deadline=self._next_deadline(),
        )

    def _next_deadline(self) -> float:
        if not self.is_started or self.is_over:
            return NEVER
        due = NEVER
        has_live_peers = False
        for peer in self.peers.values():
            if peer.member.status <= Status.SUSPECT:
                has_live_peers = True
                if peer.suspicion is not None and not self.is_leaving:
                    due = min(due, peer.suspicion.ends_at)
        for relay in self.relays.values():
            due = min(due, relay.nack_at, relay.ends_at)
        if self.queue:
            due = min(due, self.gossip_at)
        if self.is_leaving:
            return due
        for probe in self.probes.values():
            due = min(due, probe.ends_at if probe.asked_count >= 0 else probe.asks_at)
        if has_live_peers:
            due = min(due, self.probe_at)
        elif self.seeds:
            due = min(due, self.join_at)
        if self.peers:
            due = min(due, self.sync_at)
        return due

    # --- what the rules share

    @property
    def node_count(self) -> int:
        """Count the live members, ourselves included."""
        return 1 + sum([peer.member.status <= Status.SUSPECT for peer in self.peers.values()])

    @property
    def probe_interval_s(self) -> float:
        """The interval that our own health allows (Lifeguard; memberlist: ScaleTimeout)."""
        return self.settings.probe_interval_s * (self.health_score + 1)

    def is_heard_lately(self, peer: Peer) -> bool:
        """Tell whether this boot was heard within a probe's window (Orleans: such a member gets no vote)."""
        return peer.heard_at > self.now - self.probe_interval_s

    def worsen_health(self, points: int) -> None:
        """Move our health score; negative points improve it."""
        self.health_score = max(0, min(self.settings.max_health_score, self.health_score + points))

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def send(self, node_id: str, message: GossipMessage) -> None:
        self.outputs.append(Send(node_id, message))

    def broadcast(self, claim: Claim) -> None:
        """Put news into the queue for all."""
        if not self.queue:  # the gossip timer rests while there are no news
            self.gossip_at = self.now + self.settings.gossip_interval_s * self.dice.fraction()
        self.serial += 1
        add_broadcast(self.queue, claim, self.serial)

    def news(self, *first: Claim) -> tuple[Claim, ...]:
        """Return what the next message carries: `first` in any case, then what waits in the queue."""
        if not self.queue:
            return first
        waiting = take_broadcasts(
            self.queue,
            limit=self.settings.max_claims_per_message,
            retransmit_limit=self.settings.retransmit_limit(self.node_count),
        )
        return (*first, *[claim for claim in waiting if claim not in first])

    def own_claim(self) -> Claim:
        return Claim(self.me, self.me.node_id)

    def change_me(
        self, incarnation: int, *, status: Status = Status.ALIVE, meta: NodeMeta | None = None
    ) -> None:
        """Take a new incarnation, status or meta, and spread it."""
        previous = self.me
        self.me = Member(
            previous.node_id, previous.boot, incarnation, status, previous.meta if meta is None else meta
        )
        if (self.me.status, self.me.meta) != (previous.status, previous.meta):
            self.outputs.append(MemberChanged(self.me, previous))
        self.broadcast(self.own_claim())
