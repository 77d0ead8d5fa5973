"""Who is in the cluster: SWIM with Lifeguard's additions, as one pure function.

`step(state, event, now)` returns the next state and what to do. There is no I/O, no clock and no randomness
but what the state carries, so a run is repeated exactly by its seed, and thousands of faulty hours are
simulated in seconds (tests/cluster/simulation.py). Its one user is the cluster's node: it feeds events in,
carries outputs out, and calls Tick at `state.next_deadline`.

What it concludes is a hint: it says whom to route to and whose lease to look at. It never moves a shard.

Where the rules are from: Das, Gupta, Motivala, SWIM (2002); Lifeguard (2018); hashicorp/memberlist; and
Orleans' rule that whoever was heard within the last probe window is not voted dead. Where we differ from
memberlist: claims are whole (see claims.py); a boot counter from the store tells a restarted process from a
refutation; a suspect is told at once; a standstill of ours is given back to those we judge; the dead are
called now and then, so partitions heal by themselves; and the store can bury.
"""

from hashlib import blake2b
from typing import Final

import msgspec

from cluster.claims import bury, expire_suspicions, supersede, take_claims
from cluster.dice import Dice
from cluster.gossip_messages import Ack, Claim, Gossip, GossipMessage, Nack, Ping, PingReq, Sync
from cluster.member import Member, NodeMeta, Status
from cluster.membership_events import (
    Buried,
    Endpoint,
    Event,
    Heard,
    Lagged,
    Learned,
    Leave,
    LeaveSpread,
    MetaChanged,
    Output,
    PipeLost,
    Received,
    SendTo,
    Start,
    Tick,
)
from cluster.membership_settings import MembershipSettings
from cluster.membership_state import NEVER, Membership, Peer, Turn
from cluster.prober import (
    drive_probes,
    drive_relays,
    is_probed,
    probe_next,
    start_probe,
    take_ack,
    take_nack,
    take_ping_req,
)

# A busy lane tells thousands of times a second that a peer lives; noting it 20 times a second loses nothing
# that a probe's half second could notice.
_HEARD_RESOLUTION_S: Final = 0.05

_DEFAULTS: Final = MembershipSettings()


def open_membership(
    node_id: str, boot: int, meta: NodeMeta, *, seed: int = 0, settings: MembershipSettings = _DEFAULTS
) -> Membership:
    """Return the state of a process before its Start. The same arguments give the same life."""
    digest = blake2b(f"{node_id}\0{boot}\0{seed}".encode(), digest_size=8).digest()
    dice = Dice(int.from_bytes(digest, "big"))
    return Membership(
        settings=settings,
        me=Member(node_id, boot, 1, Status.ALIVE, meta),
        peers={},
        refused={},
        probes={},
        relays={},
        queue={},
        seeds=(),
        probe_order=(),
        probe_index=0,
        health_score=0,
        seq=dice.below(
            1 << 62
        ),  # a late answer to an earlier boot of ours must not fit a question of this one
        serial=0,
        dice=dice.state,
        is_started=False,
        is_leaving=False,
        is_over=False,
        probe_at=NEVER,
        gossip_at=NEVER,
        sync_at=NEVER,
        join_at=NEVER,
        join_delay_s=settings.join_retry_s,
        next_deadline=NEVER,
    )


def step(state: Membership, event: Event, now: float) -> tuple[Membership, tuple[Output, ...]]:
    """Take in one event. Pure: the same arguments give the same answer, and `state` stays as it was.

    `now` never goes back. Timers that are due run with any event, after it.
    """
    if state.is_over or not (state.is_started or isinstance(event, Start)):
        return state, ()
    if isinstance(event, Heard) and _is_old_news(state, event, now):
        return state, ()
    turn = Turn(state, now)
    late_s = now - state.next_deadline
    if late_s > state.settings.late_after_s:
        _give_back(turn, late_s)
    match event:
        case Received():
            _receive(turn, event)
        case Tick():
            pass
        case Heard(node_id, boot):
            _hear(turn, node_id, boot)
        case PipeLost(node_id):
            _pipe_lost(turn, node_id)
        case Lagged(lag_s):
            turn.worsen_health(int(lag_s / turn.settings.lag_per_point_s))
        case Learned(nodes):
            for node in nodes:
                _learn(turn, Member(node.node_id, node.boot, 0, Status.ALIVE, node.meta))
        case Buried(node_id, boot):
            bury(turn, node_id, boot)
        case MetaChanged(meta):
            if meta != turn.me.meta and not turn.is_leaving:
                turn.change_me(turn.me.incarnation + 1, meta=meta)
        case Leave():
            _leave(turn)
        case Start():
            _start(turn, event)
    if not turn.is_over:
        _run_timers(turn)
        was_spreading = not state.is_leaving or state.me.node_id in state.queue
        if turn.is_leaving and was_spreading and state.me.node_id not in turn.queue:
            turn.outputs.append(LeaveSpread())
    return turn.frozen(), tuple(turn.outputs)


# --- coming and going


def _start(turn: Turn, event: Start) -> None:
    if turn.is_started:
        return
    settings = turn.settings
    turn.is_started = True
    turn.seeds = event.seeds
    # Staggered, so that nodes started together do not keep step (memberlist: triggerFunc).
    turn.probe_at = turn.now + settings.probe_interval_s * turn.dice.fraction()
    turn.sync_at = turn.now + settings.sync_interval_s * turn.dice.fraction()
    turn.join_at = turn.now
    turn.broadcast(turn.own_claim())
    for node in event.known:
        _learn(turn, Member(node.node_id, node.boot, 0, Status.ALIVE, node.meta))


def _learn(turn: Turn, member: Member) -> None:
    """The store says that this process holds a lease: get to know it, or find out why we believe it dead."""
    if member.node_id == turn.me.node_id:
        if member.boot > turn.me.boot:
            supersede(turn, member.boot)
        return
    peer = turn.peers.get(member.node_id)
    if peer is None or peer.member.boot < member.boot:
        # Incarnation 0 loses to whatever the node says of itself. Its lease may outlive it: probes will tell.
        take_claims(turn, (Claim(member, member.node_id),))
        peer = turn.peers.get(member.node_id)
        if peer is None or peer.member.boot != member.boot:
            return  # refused
    elif peer.member.boot > member.boot or peer.member.is_live or peer.member.is_final:
        return
    turn.send(member.node_id, Sync(_everything(turn, to=member.node_id)))


def _leave(turn: Turn) -> None:
    if turn.is_leaving:
        return
    turn.is_leaving = True
    turn.probes = {}
    turn.change_me(turn.me.incarnation, status=Status.LEFT)
    listeners = [node_id for node_id, peer in turn.peers.items() if peer.member.is_live]
    for node_id in listeners:
        turn.send(node_id, Gossip((turn.own_claim(),)))
    if not listeners:
        turn.queue = {}


# --- what comes in


def _receive(turn: Turn, event: Received) -> None:
    sender, boot, message = event.sender, event.sender_boot, event.message
    if sender == turn.me.node_id or turn.refused.get(sender) == boot:
        return
    peer = turn.peers.get(sender)
    if peer is not None and boot < peer.member.boot:
        # A process that was replaced and does not know it: tell it.
        turn.send(sender, Gossip((Claim(peer.member, peer.by),)))
        return
    _hear(turn, sender, boot)
    is_accused = take_claims(turn, message.claims, is_hearsay=isinstance(message, Sync))
    if turn.is_over:
        return
    # Whoever accuses us hears our record as it is now, whatever became of earlier refutations.
    own = (turn.own_claim(),) if is_accused else ()
    match message:
        case Ping(seq):
            turn.send(sender, Ack(seq, turn.me.node_id, turn.me.boot, turn.news(*own)))
            own = ()
        case Ack():
            take_ack(turn, message)
        case PingReq():
            take_ping_req(turn, sender, message)
        case Nack():
            take_nack(turn, sender, message)
        case Sync(claims, is_reply):
            _answer_sync(turn, sender, claims, is_reply=is_reply)
            own = ()
        case Gossip():
            pass
    if own:
        turn.send(sender, Gossip(own))
    _settle_sender(turn, sender, boot, message)


def _settle_sender(turn: Turn, sender: str, boot: int, message: GossipMessage) -> None:
    """Somebody speaks whom we do not know in this boot, or hold for dead or gone."""
    if turn.refused.get(sender) == boot or turn.is_leaving:
        return
    # What may itself be an answer of this kind is not answered so: two that disagree must not argue for ever.
    if isinstance(message, Gossip) or (isinstance(message, Sync) and message.is_reply):
        return
    peer = turn.peers.get(sender)
    if peer is None or peer.member.boot < boot:
        turn.send(sender, Sync(_everything(turn, to=sender)))
    elif peer.member.boot == boot and not peer.member.is_live:
        turn.send(sender, Gossip((Claim(peer.member, peer.by),)))


def _answer_sync(turn: Turn, sender: str, claims: tuple[Claim, ...], *, is_reply: bool) -> None:
    if not is_reply:
        turn.send(sender, Sync(_everything(turn, to=sender, against=claims), is_reply=True))
        return
    better = _tombstones_against(turn, claims)
    if better:
        turn.send(sender, Sync(better, is_reply=True))


def _everything(turn: Turn, *, to: str, against: tuple[Claim, ...] = ()) -> tuple[Claim, ...]:
    """Return all that goes on the wire: the live, those dead lately, and what `to` should refute."""
    wire_since = turn.now - turn.settings.dead_on_wire_s
    everything = [
        Claim(peer.member, peer.by)
        for node_id, peer in turn.peers.items()
        if peer.member.is_live or peer.changed_at > wire_since or node_id == to
    ]
    for claim in _tombstones_against(turn, against):
        if claim not in everything:
            everything.append(claim)
    return (turn.own_claim(), *everything)


def _tombstones_against(turn: Turn, claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
    """Return what we know of deaths that these claims do not."""
    better = []
    for claim in claims:
        peer = turn.peers.get(claim.member.node_id)
        if peer is None or peer.member.is_live:
            continue
        if peer.member.precedence > claim.member.precedence:
            better.append(Claim(peer.member, peer.by))
    return tuple(better)


def _is_old_news(state: Membership, event: Heard, now: float) -> bool:
    peer = state.peers.get(event.node_id)
    return (
        peer is None
        or peer.member.boot != event.boot
        or (now - peer.heard_at < _HEARD_RESOLUTION_S and now < state.next_deadline)
    )


def _hear(turn: Turn, node_id: str, boot: int) -> None:
    peer = turn.peers.get(node_id)
    if peer is not None and peer.member.boot == boot:
        turn.peers[node_id] = Peer(peer.member, peer.by, peer.changed_at, turn.now, peer.suspicion)


def _pipe_lost(turn: Turn, node_id: str) -> None:
    peer = turn.peers.get(node_id)
    if peer is not None and peer.member.is_live and not turn.is_leaving and not is_probed(turn, node_id):
        start_probe(turn, peer)


# --- what time brings


def _run_timers(turn: Turn) -> None:
    drive_relays(turn)
    if not turn.is_leaving:
        drive_probes(turn)
        expire_suspicions(turn)
        probe_next(turn)
        _sync(turn)
        _call_seeds(turn)
    _gossip(turn)


def _gossip(turn: Turn) -> None:
    """Send the news to a few members, the lately dead included so that they can refute."""
    if not turn.queue or turn.now < turn.gossip_at:
        return
    settings = turn.settings
    wire_since = turn.now - settings.dead_on_wire_s
    targets = [
        node_id
        for node_id, peer in turn.peers.items()
        if peer.member.is_live
        or (peer.member.status is Status.DEAD and not peer.member.is_final and peer.changed_at > wire_since)
    ]
    if not targets:
        turn.queue = {}  # nobody to tell; a newcomer syncs
    for node_id in turn.dice.sample(targets, settings.gossip_nodes):
        claims = turn.news()
        if claims:
            turn.send(node_id, Gossip(claims))
    turn.gossip_at = turn.now + settings.gossip_interval_s


def _sync(turn: Turn) -> None:
    """Exchange everything with one live member, and with one dead one in case it lives (serf: reconnect)."""
    if turn.now < turn.sync_at:
        return
    # Jittered, so that two nodes do not keep calling each other at the same moment.
    interval_s = turn.settings.sync_interval(turn.node_count)
    turn.sync_at = turn.now + interval_s * (0.75 + 0.25 * turn.dice.fraction())
    live, dead = [], []
    for node_id, peer in turn.peers.items():
        if peer.member.is_live:
            live.append(node_id)
        elif not peer.member.is_final:
            dead.append(node_id)
    for node_id in (*turn.dice.sample(live, 1), *turn.dice.sample(dead, 1)):
        turn.send(node_id, Sync(_everything(turn, to=node_id)))
    # Halves that started while they could not reach each other know nothing of each other: seeds join them.
    # (Who is alone calls all of them anyway.)
    for endpoint in turn.dice.sample(_unmet_seeds(turn) if live else [], 1):
        turn.outputs.append(SendTo(endpoint, Sync(_everything(turn, to=""))))


def _unmet_seeds(turn: Turn) -> list[Endpoint]:
    live = [turn.me, *[peer.member for peer in turn.peers.values() if peer.member.is_live]]
    met = {(member.meta.host, member.meta.port) for member in live}
    return [seed for seed in turn.seeds if (seed.host, seed.port) not in met]


def _call_seeds(turn: Turn) -> None:
    """Call all seeds while we are alone, less and less often."""
    if turn.now < turn.join_at:
        return
    if any(peer.member.is_live for peer in turn.peers.values()):
        turn.join_delay_s = turn.settings.join_retry_s
        return
    for endpoint in _unmet_seeds(turn):
        turn.outputs.append(SendTo(endpoint, Sync(_everything(turn, to=""))))
    turn.join_at = turn.now + turn.join_delay_s
    turn.join_delay_s = min(2 * turn.join_delay_s, turn.settings.join_retry_max_s)


def _give_back(turn: Turn, late_s: float) -> None:
    """We stood still: what we would have heard is still to be read, so nobody is judged by that time.

    And we have to expect that others suspect us by now (Lifeguard).
    """
    turn.worsen_health(int(late_s / turn.settings.lag_per_point_s))
    turn.probes = {seq: probe.postponed(late_s) for seq, probe in turn.probes.items()}
    for node_id, peer in tuple(turn.peers.items()):
        if peer.suspicion is not None:
            turn.peers[node_id] = msgspec.structs.replace(peer, suspicion=peer.suspicion.postponed(late_s))
