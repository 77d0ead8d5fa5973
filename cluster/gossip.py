"""Run the membership: carry its messages, keep its time, and tell who came and who went.

What it believes is for routing and for looking sooner; it never moves a shard by itself.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Final

import structlog
import trio

from cluster import wire
from cluster.gossip_messages import decode_message, encode_message
from cluster.lanes import PeerAddress
from cluster.member import Member, NodeMeta
from cluster.membership import open_membership, step
from cluster.membership_events import (
    Buried,
    Endpoint,
    Event,
    HealthChanged,
    Heard,
    KnownNode,
    Lagged,
    Learned,
    Leave,
    LeaveSpread,
    MemberChanged,
    MetaChanged,
    PipeLost,
    Received,
    Refused,
    Refuted,
    Send,
    SendTo,
    Start,
    Superseded,
    Tick,
)
from cluster.membership_settings import MembershipSettings
from cluster.mesh import LaneSet, Mesh

LAG_TOLD_S: Final = 0.25  # a loop that is later than this may be why others seem to be silent
FORGET_AFTER_S: Final = 60.0  # after that nobody dials a dead node any more; gossip still tells of it

log = structlog.get_logger(__name__)

OnMember = Callable[[Member, Member | None], None]


class Gossip:
    """One boot's view of who is alive. `run` ends only by cancellation, or when this boot is not to live."""

    def __init__(
        self,
        node_id: str,
        boot: int,
        meta: NodeMeta,
        *,
        lanes: LaneSet,
        mesh: Mesh,
        on_member: OnMember,
        settings: MembershipSettings | None = None,
        seed: int = 0,
    ) -> None:
        self._lanes = lanes
        self._mesh = mesh
        self._on_member = on_member
        self._state = open_membership(
            node_id, boot, meta, seed=seed, settings=settings or MembershipSettings()
        )
        self._wake = trio.Event()
        self._has_left = trio.Event()
        self._dead_since: dict[str, float] = {}
        self._dismissed_by: int | None = None
        self.refused_count = 0

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody that is known, the dead included."""
        return self._state.members

    def alive(self) -> set[str]:
        """The node_ids that count as alive, this one's included."""
        return {member.node_id for member in self._state.live_members}

    # -- what happens -------------------------------------------------------------------------------

    def start(self, seeds: Iterable[tuple[str, int]], known: Iterable[KnownNode]) -> None:
        """Begin to take part."""
        endpoints = tuple(Endpoint(host, port) for host, port in seeds)
        self._feed(Start(endpoints, tuple(known)))

    def received(self, node_id: str, boot: int, message: bytes) -> None:
        """A member says something. Raises: msgspec.MsgspecError where it is not understood."""
        self._feed(Received(node_id, boot, decode_message(message)))

    def heard(self, node_id: str, boot: int) -> None:
        """Anything came from a node."""
        self._feed(Heard(node_id, boot))

    def learned(self, nodes: Collection[KnownNode]) -> None:
        """These hold leases, or said hello."""
        self._feed(Learned(tuple(nodes)))

    def buried(self, node_id: str, boot: int) -> None:
        """The store has proved a process to be dead."""
        self._feed(Buried(node_id, boot))

    def way_lost(self, node_id: str) -> None:
        """The direct way to a node broke."""
        self._feed(PipeLost(node_id))

    def lagged(self, lag_s: float) -> None:
        """Our own loop was late."""
        if lag_s > LAG_TOLD_S:
            self._feed(Lagged(lag_s))

    def meta_changed(self, meta: NodeMeta) -> None:
        """Tell the others something new of this node."""
        self._feed(MetaChanged(meta))

    async def leave(self, timeout_s: float) -> None:
        """Say good-bye, and wait until it was said often enough."""
        self._feed(Leave())
        if self._mesh.node_ids:
            with trio.move_on_after(timeout_s):
                await self._has_left.wait()

    async def run(self) -> None:
        """Keep the membership's time until cancelled.

        Raises: RuntimeError, where this boot is not to live.
        """
        while True:
            self._wake = trio.Event()
            with trio.move_on_at(self._state.next_deadline):
                await self._wake.wait()
            if self._dismissed_by is not None:
                raise RuntimeError(f"a newer life of this node is known: boot {self._dismissed_by}")
            if trio.current_time() >= self._state.next_deadline:
                self._tick()

    def _tick(self) -> None:
        self._feed(Tick())
        now = trio.current_time()
        for node_id in [n for n, since in self._dead_since.items() if now - since > FORGET_AFTER_S]:
            del self._dead_since[node_id]
            self._lanes.disconnect(node_id)

    # -- what follows -------------------------------------------------------------------------------

    def _feed(self, event: Event) -> None:
        deadline = self._state.next_deadline
        self._state, outputs = step(self._state, event, trio.current_time())
        for output in outputs:
            match output:
                case Send(node_id, message):
                    self._mesh.send_control(node_id, wire.Gossip(encode_message(message)))
                case SendTo(endpoint, _message):
                    # Who runs there is not known yet: the hello's answer will tell, and is learned then.
                    self._lanes.greet(endpoint.host, endpoint.port, endpoint.port + 1)
                case MemberChanged(member, previous):
                    self._changed(member, previous)
                case Refused(node_id, boot, reason):
                    self.refused_count += 1
                    log.warning("member_refused", peer_id=node_id, boot=boot, reason=reason)
                case HealthChanged(score):
                    log.info("own_health_changed", score=score)
                case Refuted(by, incarnation):
                    log.info("accusation_refuted", peer_id=by, incarnation=incarnation)
                case Superseded(boot):
                    self._dismissed_by = boot
                case LeaveSpread():
                    self._has_left.set()
        if self._state.next_deadline < deadline or self._dismissed_by is not None:
            self._wake.set()

    def _changed(self, member: Member, previous: Member | None) -> None:
        node_id = member.node_id
        if node_id == self._state.me.node_id:
            return
        was_live = previous is not None and previous.is_live and previous.boot == member.boot
        if member.is_live:
            meta = member.meta
            self._dead_since.pop(node_id, None)
            self._lanes.connect(PeerAddress(node_id, member.boot, meta.host, meta.port, meta.port + 1))
            self._mesh.set_alive(node_id, member.boot)
        else:
            self._dead_since[node_id] = trio.current_time()
            self._mesh.set_alive(node_id, None)
        if member.is_live != was_live or previous is None or previous.status != member.status:
            log.info(
                "member_changed",
                peer_id=node_id,
                boot=member.boot,
                status=member.status.name.lower(),
                incarnation=member.incarnation,
            )
        self._on_member(member, previous)
