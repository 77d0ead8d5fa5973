"""How claims change what a node believes.

Beliefs of one node are ordered by `Member.precedence`, and the greatest wins: so claims may come in any
order, and any number of times. Two rules of kindness soften a death that is only hearsay into a suspicion,
which the accused can still refute: one that came in a Sync (memberlist: mergeState), and one of a peer that
we heard just now (Orleans).
"""

import msgspec

from cluster.gossip_messages import Claim, Gossip
from cluster.member import FINAL_INCARNATION, Member, Status
from cluster.membership_events import MemberChanged, Refused, Refuted, Superseded
from cluster.membership_state import Peer, Turn
from cluster.suspicion import start_suspicion


def take_claims(turn: Turn, claims: tuple[Claim, ...], *, is_hearsay: bool = False) -> bool:
    """Merge what a message carried. Returns whether it accused us."""
    is_accused = False
    for claim in claims:
        if turn.is_over:
            break
        if claim.member.node_id == turn.me.node_id:
            is_accused |= _take_claim_about_me(turn, claim)
        else:
            take_claim(turn, claim, is_hearsay=is_hearsay)
    return is_accused


def take_claim(turn: Turn, claim: Claim, *, is_hearsay: bool = False) -> None:
    """Merge one claim about another node."""
    member = claim.member
    peer = turn.peers.get(member.node_id)
    if peer is None:
        if not member.is_live or not _is_refused(turn, member):
            adopt(turn, member, claim.by)
        return
    known = peer.member
    if (
        member.status is Status.DEAD
        and member.boot == known.boot
        and member.incarnation != FINAL_INCARNATION
        and known.is_live
        and (is_hearsay or turn.is_heard_lately(peer))
    ):
        member = member.as_status(Status.SUSPECT)
    if member.precedence > known.precedence:
        if not member.is_live or not _is_refused(turn, member):
            adopt(turn, member, claim.by)
    elif peer.suspicion is not None and member.precedence == known.precedence:
        _confirm(turn, peer, claim)


def adopt(turn: Turn, member: Member, by: str) -> None:
    """Believe this of another node from now on, and spread it."""
    peer = turn.peers.get(member.node_id)
    previous = None if peer is None else peer.member
    is_same_boot = previous is not None and previous.boot == member.boot
    is_same_status = is_same_boot and previous is not None and previous.status is member.status
    is_suspect = member.status is Status.SUSPECT
    turn.peers[member.node_id] = Peer(
        member,
        by,
        changed_at=peer.changed_at if peer is not None and is_same_status else turn.now,
        heard_at=peer.heard_at if peer is not None and is_same_boot else float("-inf"),
        suspicion=start_suspicion(by, turn.now, turn.node_count, turn.settings) if is_suspect else None,
    )
    claim = Claim(member, by)
    if is_suspect:
        # Lifeguard's buddy, at once instead of with the next probe: the accused can refute without delay.
        turn.send(member.node_id, Gossip((claim,)))
    if member.is_live and member.node_id not in turn.probe_order:
        _enter_probe_order(turn, member.node_id)
    turn.broadcast(claim)
    if previous is None and not member.is_live:
        return  # a tombstone of somebody whom nobody here has met
    if previous is None or not is_same_status or previous.meta != member.meta:
        turn.outputs.append(MemberChanged(member, previous))


def bury(turn: Turn, node_id: str, boot: int) -> None:
    """Believe that a process is dead beyond any refutation: the store proves it."""
    if node_id == turn.me.node_id:
        if boot >= turn.me.boot:
            supersede(turn, boot)
        return
    peer = turn.peers.get(node_id)
    if peer is not None and peer.member.boot <= boot and not _is_buried(peer, boot):
        adopt(turn, Member(node_id, boot, FINAL_INCARNATION, Status.DEAD, peer.member.meta), turn.me.node_id)


def supersede(turn: Turn, boot: int) -> None:
    """Stop for ever."""
    turn.is_over = True
    turn.outputs.append(Superseded(boot))


def expire_suspicions(turn: Turn) -> None:
    """Declare dead whoever did not refute in time, except whom we still hear (Orleans)."""
    for node_id, peer in tuple(turn.peers.items()):
        suspicion = peer.suspicion
        if suspicion is None or suspicion.ends_at > turn.now:
            continue
        # It speaks, but does not hear what it is accused of, or is not heard refuting it. That can go on for
        # ever (a node that only sends), so the second max_s is the last.
        if turn.is_heard_lately(peer) and turn.now < suspicion.started_at + 2 * suspicion.max_s:
            until = turn.now + turn.probe_interval_s
            turn.peers[node_id] = msgspec.structs.replace(peer, suspicion=suspicion.held(until))
            turn.send(node_id, Gossip((Claim(peer.member, peer.by),)))
        else:
            adopt(turn, peer.member.as_status(Status.DEAD), turn.me.node_id)


def _take_claim_about_me(turn: Turn, claim: Claim) -> bool:
    member, me = claim.member, turn.me
    if member.boot > me.boot or (member.boot == me.boot and member.incarnation == FINAL_INCARNATION):
        supersede(turn, member.boot)
        return False
    if member.boot < me.boot:
        return False  # about who was here before us
    is_accusation = member.status is not Status.ALIVE
    if turn.is_leaving:
        return is_accusation and member.status is not Status.LEFT
    if member.incarnation < me.incarnation:
        return is_accusation  # refuted already: whoever says so has not heard it yet
    if not is_accusation and member == me:
        return False
    # Suspected, dead, left, or not as we are: only we may write our record, so it is not so.
    turn.change_me(min(member.incarnation + 1, FINAL_INCARNATION - 1))
    turn.worsen_health(1)  # Lifeguard: had we answered in time, nobody would accuse us
    turn.outputs.append(Refuted(claim.by, turn.me.incarnation))
    return True


def _confirm(turn: Turn, peer: Peer, claim: Claim) -> None:
    assert peer.suspicion is not None
    confirmed = peer.suspicion.confirmed(claim.by)
    if confirmed is not None:
        turn.peers[peer.member.node_id] = msgspec.structs.replace(peer, suspicion=confirmed)
        turn.broadcast(Claim(peer.member, claim.by))


def _is_buried(peer: Peer, boot: int) -> bool:
    return peer.member.boot == boot and peer.member.is_final


def _is_refused(turn: Turn, member: Member) -> bool:
    if turn.me.meta.can_talk_to(member.meta):
        return False
    if turn.refused.get(member.node_id, -1) < member.boot:
        turn.refused = {**turn.refused, member.node_id: member.boot}
        turn.outputs.append(Refused(member.node_id, member.boot, "protocol"))
    return True


def _enter_probe_order(turn: Turn, node_id: str) -> None:
    """Put a newcomer at a random place of the round, so that it is not always probed last (memberlist)."""
    place = turn.dice.below(len(turn.probe_order) + 1)
    turn.probe_order = (*turn.probe_order[:place], node_id, *turn.probe_order[place:])
    if place < turn.probe_index:
        turn.probe_index += 1
