"""Probing: one member per interval in shuffled rounds, directly and then through others (SWIM, Lifeguard)."""

import msgspec

from cluster.claims import take_claim
from cluster.gossip_messages import Ack, Claim, Nack, Ping, PingReq
from cluster.member import Status
from cluster.membership_state import NEVER, Peer, Probe, Relay, Turn


def probe_next(turn: Turn) -> None:
    """Probe whose turn it is. At the end of a round forget old tombstones and shuffle anew."""
    if turn.now < turn.probe_at:
        return
    turn.probe_at = turn.now + turn.probe_interval_s
    for _ in range(2 * len(turn.probe_order) + 1):
        if turn.probe_index >= len(turn.probe_order):
            _begin_round(turn)
            if not turn.probe_order:
                return
        peer = turn.peers.get(turn.probe_order[turn.probe_index])
        turn.probe_index += 1
        if peer is not None and peer.member.is_live:
            start_probe(turn, peer)
            return


def start_probe(turn: Turn, peer: Peer) -> None:
    """Ping a member; a suspect is told what it is accused of, so that its answer can refute it (buddy)."""
    settings, member = turn.settings, peer.member
    seq = turn.next_seq()
    turn.probes[seq] = Probe(
        member.node_id,
        member.boot,
        member.incarnation,
        turn.now,
        turn.now + settings.probe_timeout_s,
        turn.now + turn.probe_interval_s,
    )
    turn.send(member.node_id, Ping(seq, member.node_id, member.boot, turn.news(*_accusation(peer))))


def is_probed(turn: Turn, node_id: str) -> bool:
    """Tell whether a probe of this node is in flight."""
    return any(probe.node_id == node_id for probe in turn.probes.values())


def drive_probes(turn: Turn) -> None:
    """Ask others about who did not answer, and suspect who answered nobody."""
    for seq, probe in tuple(turn.probes.items()):
        peer = turn.peers.get(probe.node_id)
        if peer is None or not peer.member.is_live or peer.member.boot != probe.boot:
            del turn.probes[seq]
        elif turn.now < probe.asks_at:
            continue
        elif peer.heard_at > probe.sent_at:  # not an answer, but a sign of life (Orleans)
            del turn.probes[seq]
            turn.worsen_health(-1)
        elif turn.now >= probe.ends_at and probe.asked_count >= 0:
            del turn.probes[seq]
            _give_up(turn, probe, peer)
        elif probe.asked_count < 0:
            _ask_others(turn, seq, probe, peer)


def take_ack(turn: Turn, ack: Ack) -> None:
    """Somebody lives: whom we probed, or whom we were asked to ping."""
    relay = turn.relays.pop(ack.seq, None)
    if relay is not None:
        turn.send(relay.asker, Ack(relay.asker_seq, ack.node_id, ack.boot, turn.news()))
        return
    probe = turn.probes.get(ack.seq)
    # Another boot answering says nothing of the one that was asked; the claim that came with it does.
    if probe is not None and (probe.node_id, probe.boot) == (ack.node_id, ack.boot):
        del turn.probes[ack.seq]
        turn.worsen_health(-1)


def take_nack(turn: Turn, sender: str, nack: Nack) -> None:
    """Somebody whom we asked hears us, but not our target."""
    probe = turn.probes.get(nack.seq)
    if probe is not None and sender not in probe.nacked_by:
        turn.probes[nack.seq] = msgspec.structs.replace(probe, nacked_by=(*probe.nacked_by, sender))


def take_ping_req(turn: Turn, asker: str, request: PingReq) -> None:
    """Ping somebody for somebody else."""
    settings = turn.settings
    peer = turn.peers.get(request.node_id)
    if peer is None or len(turn.relays) >= settings.max_relays:
        turn.send(asker, Nack(request.seq, turn.news()))
        return
    seq = turn.next_seq()
    nack_at = turn.now + settings.probe_timeout_s * settings.nack_after_share
    turn.relays[seq] = Relay(
        asker,
        request.seq,
        nack_at,
        turn.now + settings.probe_interval_s,
    )
    turn.send(peer.member.node_id, Ping(seq, request.node_id, request.boot, turn.news(*_accusation(peer))))


def drive_relays(turn: Turn) -> None:
    """Say Nack where no answer came in time; forget who is long past waiting."""
    for seq, relay in tuple(turn.relays.items()):
        if turn.now >= relay.ends_at:
            del turn.relays[seq]
        elif turn.now >= relay.nack_at:
            turn.relays[seq] = msgspec.structs.replace(relay, nack_at=NEVER)
            turn.send(relay.asker, Nack(relay.asker_seq, turn.news()))


def _begin_round(turn: Turn) -> None:
    settings = turn.settings
    for node_id, peer in tuple(turn.peers.items()):
        if not peer.member.is_live and peer.changed_at + settings.tombstone_s <= turn.now:
            del turn.peers[node_id]
    live = [node_id for node_id, peer in turn.peers.items() if peer.member.is_live]
    turn.probe_order = tuple(turn.dice.shuffled(live))
    turn.probe_index = 0


def _ask_others(turn: Turn, seq: int, probe: Probe, peer: Peer) -> None:
    helpers = [
        node_id
        for node_id, other in turn.peers.items()
        if other.member.status is Status.ALIVE and node_id != probe.node_id
    ]
    chosen = turn.dice.sample(helpers, turn.settings.indirect_probes)
    turn.probes[seq] = msgspec.structs.replace(probe, asked_count=len(chosen))
    for node_id in chosen:
        turn.send(node_id, PingReq(seq, probe.node_id, probe.boot, turn.news()))
    # Once more directly, where memberlist tries TCP: one lost message is not a lost member.
    turn.send(probe.node_id, Ping(seq, probe.node_id, probe.boot, turn.news(*_accusation(peer))))


def _give_up(turn: Turn, probe: Probe, peer: Peer) -> None:
    """Suspect the target; and doubt ourselves for each who should at least have said Nack."""
    missing_count = probe.asked_count - len(probe.nacked_by)
    turn.worsen_health(missing_count if probe.asked_count > 0 else 1)
    if peer.member.incarnation == probe.incarnation:
        take_claim(turn, Claim(peer.member.as_status(Status.SUSPECT), turn.me.node_id))


def _accusation(peer: Peer) -> tuple[Claim, ...]:
    return () if peer.suspicion is None else (Claim(peer.member, peer.by),)
