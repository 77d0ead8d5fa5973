"""Membership's rules, one by one, at the public door: many are memberlist's own tests in our words."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gossip_messages import Ack, Claim, Gossip, GossipMessage, Nack, Ping, PingReq, Sync
from cluster.member import FINAL_INCARNATION, Member, NodeMeta, Status
from cluster.membership import open_membership, step
from cluster.membership_events import (
    Buried,
    Endpoint,
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
    SendTo,
    Start,
    Superseded,
    Tick,
)
from tests.cluster.strategies import claims as some_claims
from tests.cluster.strategies import messages
from tests.cluster.subject import Subject, claim, member, meta_of

ALIVE, SUSPECT, DEAD, LEFT = Status


# --- which belief wins


def test_a_newcomer_is_alive_and_told_of_once() -> None:
    """Routing learns of a member by one event, however often the news come."""
    me = Subject()
    assert MemberChanged(member("a"), None) in me.feed_claims("b", claim("a"))
    assert not [output for output in me.feed_claims("c", claim("a")) if isinstance(output, MemberChanged)]
    assert me.status("a") is ALIVE


@pytest.mark.parametrize("status", [ALIVE, SUSPECT, DEAD])
def test_an_old_incarnation_changes_nothing(status: Status) -> None:
    """News arrive late and in any order; what was refuted stays refuted."""
    me = Subject("a")
    me.feed_claims("b", claim("a", incarnation=5))
    before = me.state.peers["a"].member
    me.feed_claims("b", claim("a", incarnation=4, status=status))
    assert me.state.peers["a"].member == before


def test_a_replayed_accusation_does_not_come_back() -> None:
    """memberlist's replay test: an old alive or suspect message is no news."""
    me = Subject("a")
    accusation, refutation = claim("a", status=SUSPECT, by="b"), claim("a", incarnation=2)
    me.feed_claims("b", accusation)
    assert me.status("a") is SUSPECT
    me.feed_claims("b", refutation)
    for old in (accusation, claim("a"), accusation):
        me.feed_claims("b", old)
    assert me.status("a") is ALIVE


def test_alive_of_the_same_incarnation_clears_nobody() -> None:
    """Only the accused itself can clear itself, by a new incarnation."""
    me = Subject("a")
    me.feed_claims("b", claim("a", status=SUSPECT, by="b"))
    me.feed_claims("b", claim("a"))
    assert me.status("a") is SUSPECT


def test_a_newer_boot_wins_over_anything_of_an_older_one() -> None:
    """A node restarted after kill -9 is back at once, though its last process is suspected, dead or left."""
    for status in (ALIVE, SUSPECT, DEAD, LEFT):
        me = Subject("a")
        me.feed_claims("b", claim("a", incarnation=9, status=status, by="b"))
        outputs = me.feed_claims("a", claim("a", boot=2))
        changed = [output for output in outputs if isinstance(output, MemberChanged)]
        assert [change.member for change in changed] == [member("a", boot=2)]
        me.feed_claims("b", claim("a", incarnation=99, status=DEAD))
        assert me.state.member("a") == member("a", boot=2)


@given(st.lists(some_claims, max_size=12), st.randoms(use_true_random=False))
def test_beliefs_ignore_order_and_repetition(claims: list[Claim], dice: random.Random) -> None:
    """Gossip takes every way and comes any number of times; all nodes must end with the same beliefs."""
    shuffled = [*claims, *claims[: len(claims) // 2]]
    dice.shuffle(shuffled)
    one, other = Subject(), Subject()
    for each in claims:
        one.feed_claims("x", each)
    for each in shuffled:
        other.feed_claims("x", each)
    assert {peer.member for peer in one.state.peers.values()} == {
        peer.member for peer in other.state.peers.values()
    }


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "x"]), st.integers(1, 4), messages, st.floats(0, 3))))
def test_whatever_is_said_breaks_nothing_and_nobody_goes_back(
    said: list[tuple[str, int, GossipMessage, float]],
) -> None:
    """A peer with bugs must not crash us, and no lower (boot, incarnation) ever wins."""
    me = Subject("a", "b")
    for sender, boot, message, after_s in said:
        before = me.state
        me.hear(sender, message, boot=boot)
        me.run(after_s)
        for node_id, peer in before.peers.items():
            assert me.state.peers[node_id].member.precedence >= peer.member.precedence


@given(st.lists(messages, max_size=5))
def test_a_step_is_a_function(said: list[GossipMessage]) -> None:
    """A simulation replays by it, and nobody holds a state that changes under them."""
    me = Subject("a", "b", "c")
    for message in said:
        me.now += 0.3
        event = Received("a", 1, message)
        kept = msgspec.msgpack.encode(me.state)
        once, again = step(me.state, event, me.now), step(me.state, event, me.now)
        assert once == again
        assert msgspec.msgpack.encode(me.state) == kept
        me.state = once[0]


# --- suspicion, death, refutation


def test_a_suspect_that_nobody_confirms_has_the_longest_time() -> None:
    """One sick accuser must not kill quickly."""
    me = Subject("a", "b", "c", "d")
    began = me.now
    me.feed_claims("b", claim("a", status=SUSPECT, by="b"))
    suspicion = me.state.peers["a"].suspicion
    assert suspicion is not None
    assert suspicion.ends_at == began + 24.0


def test_two_confirmations_leave_the_shortest_time() -> None:
    """Three who cannot reach it are right: the cluster should not wait."""
    me = Subject("a", "b", "c", "d", "e")
    began = me.now
    for accuser in ("b", "c", "d"):
        me.feed_claims(accuser, claim("a", status=SUSPECT, by=accuser))
    suspicion = me.state.peers["a"].suspicion
    assert suspicion is not None
    assert suspicion.ends_at == began + 4.0
    outputs = me.run(4.0)
    assert MemberChanged(member("a", status=DEAD), member("a", status=SUSPECT)) in outputs


def test_a_confirmation_is_spread_and_a_repetition_is_not() -> None:
    """Confirmations have to get around to shorten the time everywhere."""
    me = Subject("a", "b", "c", "d")
    me.feed_claims("b", claim("a", status=SUSPECT, by="b"))
    me.feed_claims("c", claim("a", status=SUSPECT, by="c"))
    assert me.state.queue["a"].claim.by == "c"
    serial = me.state.serial
    me.feed_claims("b", claim("a", status=SUSPECT, by="b"))
    assert me.state.serial == serial


def test_an_accused_refutes_with_a_higher_incarnation_and_tells_the_accuser() -> None:
    """A live node always gets itself refuted; having had to, it trusts itself less."""
    for status in (SUSPECT, DEAD, LEFT):
        me = Subject("a", "b")
        outputs = me.hear("a", Ping(7, "me", 1, (claim("me", incarnation=4, status=status, by="b"),)))
        assert me.state.me == member("me", incarnation=5)
        assert Refuted("b", 5) in outputs
        assert HealthChanged(1) in outputs
        [answer] = me.sent(Ack)
        assert claim("me", incarnation=5) in answer.message.claims


def test_who_missed_the_refutation_hears_it_again() -> None:
    """The first answer may be lost, and gossip is limited."""
    me = Subject("a")
    accusation = claim("me", status=SUSPECT, by="a")
    me.feed_claims("a", accusation)
    me.run(60.0)
    me.feed_claims("a", accusation)
    assert me.state.me.incarnation == 2
    assert Gossip((claim("me", incarnation=2),)) in [send.message for send in me.sent(Gossip)]


def test_a_suspect_is_told_at_once_and_with_each_probe() -> None:
    """Lifeguard's buddy: it cannot refute what it does not know."""
    me = Subject("a")
    accusation = claim("a", status=SUSPECT, by="b")
    me.feed_claims("b", accusation)
    assert [send for send in me.sent(Gossip) if send.node_id == "a"]
    pings = me.sent(Ping, me.run(2.0))
    assert pings
    assert all(accusation in ping.message.claims for ping in pings)


def test_a_death_in_a_sync_is_only_a_suspicion() -> None:
    """memberlist's mergeState: what may be long outdated should be refutable."""
    me = Subject("a")
    me.sync("b", claim("a", status=DEAD, by="b"))
    assert me.status("a") is SUSPECT
    me.feed_claims("b", claim("a", status=DEAD, by="b"))
    assert me.status("a") is DEAD


def test_a_proved_death_in_a_sync_is_one() -> None:
    """The store knows."""
    me = Subject("a")
    me.sync("b", claim("a", incarnation=FINAL_INCARNATION, status=DEAD, by="b"))
    assert me.status("a") is DEAD


def test_whom_we_hear_is_not_dead_by_hearsay() -> None:
    """Orleans: a vote against somebody who is talking to us does not count."""
    me = Subject("a")
    me.feed(Heard("a", 1))
    me.feed_claims("b", claim("a", status=DEAD, by="b"))
    assert me.status("a") is SUSPECT


def test_a_suspect_that_goes_on_talking_gets_more_time_but_not_for_ever() -> None:
    """It may only fail to hear what it is accused of; one that never does is of no use to anybody."""
    me = Subject("a")
    me.feed_claims("b", claim("a", status=SUSPECT, by="b"))
    for _ in range(94):
        me.feed(Heard("a", 1))
        me.run(0.5)
    assert me.status("a") is SUSPECT
    for _ in range(40):
        me.feed(Heard("a", 1))
        me.run(0.5)
    assert me.status("a") is DEAD


def test_a_dead_one_that_speaks_is_told_so() -> None:
    """After a partition each side finds out what the other believes of it."""
    me = Subject("a")
    me.feed_claims("b", claim("a", status=DEAD, by="b"))
    me.hear("a", Ping(1, "me", 1))
    assert [send.message for send in me.sent(Gossip)] == [Gossip((claim("a", status=DEAD, by="b"),))]
    me.feed_claims("a", claim("a", incarnation=2))
    assert me.status("a") is ALIVE


def test_a_replaced_process_is_told_and_not_believed() -> None:
    """A frozen process that wakes up after its node was restarted has to end."""
    me = Subject()
    me.feed_claims("a", claim("a", boot=2))
    me.hear("a", Gossip((claim("b"),)), boot=1)
    assert me.state.member("b") is None
    assert [send.message for send in me.sent(Gossip)] == [Gossip((claim("a", boot=2),))]


@pytest.mark.parametrize(
    "news",
    [claim("me", boot=2), claim("me", incarnation=FINAL_INCARNATION, status=DEAD, by="a")],
    ids=["newer boot", "buried"],
)
def test_who_is_superseded_says_so_and_falls_silent(news: Claim) -> None:
    """Orleans: a process that reads its own death ends itself."""
    me = Subject("a")
    assert Superseded(news.member.boot) in me.feed_claims("a", news)
    assert me.hear("a", Ping(1, "me", 1)) == ()
    assert me.run(60.0) == []


def test_a_newer_boot_of_ours_in_the_store_ends_us() -> None:
    """The store gave our node_id to another start: it is the one to live."""
    me = Subject("a")
    assert Superseded(2) in me.feed(Learned((KnownNode("me", 2, meta_of("me")),)))


def test_the_store_can_bury_for_good() -> None:
    """A node's death is provable on one machine: nobody has to wait, and no late message revives it."""
    me = Subject("a", "b")
    outputs = me.feed(Buried("a", 1))
    assert [output.member.status for output in outputs if isinstance(output, MemberChanged)] == [DEAD]
    me.feed_claims("b", claim("a", incarnation=1000))
    assert me.status("a") is DEAD
    assert me.feed(Buried("a", 1)) == ()
    me.feed_claims("a", claim("a", boot=2))
    assert me.status("a") is ALIVE
    me.feed(Buried("a", 1))
    assert me.status("a") is ALIVE
    assert Superseded(1) in me.feed(Buried("me", 1))


def test_tombstones_leave_the_wire_and_then_the_memory() -> None:
    """State must not grow for ever; but an old message must not revive a dead one for a day."""
    me = Subject("a", "b")
    me.feed_claims("b", claim("a", status=DEAD, by="b"))
    me.hear("b", Sync((claim("b"),)))
    assert _knows(me, "a")
    _answer_for(me, 31.0)
    me.hear("b", Sync((claim("b"),)))
    assert not _knows(me, "a")
    me.hear("b", Sync((claim("b"), claim("a"))))  # b still believes in it
    assert _knows(me, "a")
    assert me.status("a") is DEAD
    me.now += 24 * 3600
    _answer_for(me, 10.0)
    assert me.state.member("a") is None


# --- probing


def test_every_member_is_probed_once_a_round() -> None:
    """SWIM's bound on detection rests on the shuffled round robin."""
    peers = ["a", "b", "c", "d", "e"]
    me = Subject(*peers)
    probed = _answer_for(me, 25.5)
    rounds = [sorted(probed[place : place + 5]) for place in range(5, 20, 5)]
    assert rounds == [peers] * 3
    assert len({tuple(probed[place : place + 5]) for place in range(5, 25, 5)}) > 1


def test_who_does_not_answer_is_probed_by_others_and_then_suspected() -> None:
    """One bad link is not a dead member."""
    me = Subject("a", "b", "c", "d", "e")
    me.feed(PipeLost("a"))
    [ping] = me.sent(Ping)
    me.now += 0.5
    me.feed(Tick())
    requests = me.sent(PingReq)
    assert len(requests) == 3
    assert "a" not in {request.node_id for request in requests}
    assert len(me.sent(Ping)) >= 1  # and once more directly
    for request in requests:
        me.hear(request.node_id, Nack(ping.message.seq))
    me.now += 0.5
    me.feed(Tick())
    assert me.status("a") is SUSPECT
    assert me.state.health_score == 0  # who was asked said Nack: the fault is not ours


@pytest.mark.parametrize(("nack_count", "score"), [(0, 3), (1, 2), (3, 0)])
def test_missing_nacks_make_us_doubt_ourselves(nack_count: int, score: int) -> None:
    """memberlist's TestMemberList_ProbeNode_Awareness_MissedNack."""
    me = Subject("a", "b", "c", "d")
    me.feed(PipeLost("a"))
    [ping] = me.sent(Ping)
    me.now += 0.5
    me.feed(Tick())
    for request in me.sent(PingReq)[:nack_count]:
        me.hear(request.node_id, Nack(ping.message.seq))
    me.now = me.state.probes[ping.message.seq].ends_at
    me.feed(Tick())
    assert me.status("a") is SUSPECT
    assert me.state.health_score == score


def test_without_others_a_failed_probe_counts_against_us() -> None:
    """memberlist's rule where nobody can say Nack."""
    me = Subject("a")
    me.feed(PipeLost("a"))
    me.now += 0.5
    me.feed(Tick())
    me.now += 0.5
    me.feed(Tick())
    assert (me.status("a"), me.state.health_score) == (SUSPECT, 1)


def test_an_ack_through_another_node_is_as_good() -> None:
    """memberlist's indirect ping."""
    me = Subject("a", "b")
    me.feed(PipeLost("a"))
    [ping] = me.sent(Ping)
    me.now += 0.5
    me.feed(Tick())
    me.hear("b", Ack(ping.message.seq, "a", 1))
    _answer_for(me, 3.0, silent="")
    assert me.status("a") is ALIVE


def test_an_ack_of_another_boot_does_not_save_the_old_one() -> None:
    """The probed process is gone, whoever answers at its place."""
    me = Subject("a")
    me.feed(PipeLost("a"))
    [ping] = me.sent(Ping)
    me.hear("b", Ack(ping.message.seq, "a", 2))
    assert ping.message.seq in me.state.probes


def test_any_message_is_a_sign_of_life() -> None:
    """Orleans: only silence is suspicious, not a lost answer."""
    me = Subject("a")
    me.feed(PipeLost("a"))
    me.now += 0.2
    me.feed(Heard("a", 1))
    me.run(0.9)
    assert me.status("a") is ALIVE


def test_another_boot_heard_says_nothing_of_this_one() -> None:
    me = Subject("a")
    me.feed(PipeLost("a"))
    me.now += 0.2
    me.feed(Heard("a", 2))
    me.run(0.8)
    assert me.status("a") is SUSPECT


def test_a_lost_pipe_is_a_probe_and_not_a_verdict() -> None:
    """Connections break for many reasons; probing soon makes kill -9 be noticed soon."""
    me = Subject("a", "b")
    me.feed(PipeLost("a"))
    assert [send.node_id for send in me.sent(Ping)] == ["a"]
    assert me.status("a") is ALIVE
    assert me.feed(PipeLost("a")) == ()  # in flight already
    assert me.feed(PipeLost("unknown")) == ()


def test_we_ping_for_others_and_say_nack_in_time() -> None:
    """Their probe ends half a second after they asked."""
    me = Subject("a", "b")
    me.hear("a", PingReq(7, "b", 1))
    [ping] = [send for send in me.sent(Ping) if send.node_id == "b"]
    me.now += 0.4
    me.feed(Tick())
    assert [(send.node_id, send.message.seq) for send in me.sent(Nack)] == [("a", 7)]
    me.now += 0.05
    me.hear("b", Ack(ping.message.seq, "b", 1))  # late, but still good news
    assert [(send.node_id, send.message.seq, send.message.node_id) for send in me.sent(Ack)] == [
        ("a", 7, "b")
    ]
    me.hear("b", Ack(ping.message.seq, "b", 1))
    assert not me.sent(Ack)


def test_a_ping_for_an_unknown_target_is_a_nack_at_once() -> None:
    me = Subject("a")
    me.hear("a", PingReq(7, "stranger", 1))
    assert [send.message.seq for send in me.sent(Nack)] == [7]


# --- our own health


def test_ill_health_slows_probing_and_good_probes_heal_it() -> None:
    """A sick node must not accuse everybody (Lifeguard)."""
    me = Subject("a")
    assert HealthChanged(7) in me.feed(Lagged(30.0))
    assert len(_answer_for(me, 8.0)) <= 2
    _answer_for(me, 60.0)
    assert me.state.health_score == 0
    assert me.feed(Lagged(0.1)) == ()


def test_time_in_which_we_stood_still_condemns_nobody() -> None:
    """After SIGSTOP the answers are still in the socket; judging first would kill the whole cluster."""
    me = Subject("a", "b")
    me.feed(PipeLost("a"))
    me.feed_claims("a", claim("b", status=SUSPECT, by="a"))
    me.now += 30.0
    me.feed(Tick())
    assert (me.status("a"), me.status("b")) == (ALIVE, SUSPECT)
    assert me.state.health_score == 7
    me.feed_claims("b", claim("b", incarnation=2))
    assert me.status("b") is ALIVE


# --- coming and going


def test_seeds_are_called_until_somebody_answers() -> None:
    """A node may be started before the ones it joins."""
    state = open_membership("me", 1, meta_of("me"))
    seeds = (Endpoint("a", 8082), Endpoint("me", 8082))
    state, outputs = step(state, Start(seeds), 0.0)
    called = [output for output in outputs if isinstance(output, SendTo)]
    assert [call.endpoint for call in called] == [Endpoint("a", 8082)]
    assert called[0].message.claims == (claim("me"),)
    times = []
    while state.next_deadline < 40.0:
        now = state.next_deadline
        state, outputs = step(state, Tick(), now)
        times += [now for output in outputs if isinstance(output, SendTo)]
    assert times == [1.0, 3.0, 7.0, 15.0, 25.0, 35.0]
    state, _ = step(state, Received("a", 1, Sync((claim("a"),), is_reply=True)), 40.0)
    assert state.member("a") == member("a")
    state, outputs = step(state, Tick(), 40.01)
    assert not [output for output in outputs if isinstance(output, SendTo)]


def test_a_join_is_answered_with_everything() -> None:
    """A newcomer knows the cluster after one round trip."""
    me = Subject("a", "b")
    outputs = me.hear("new", Sync((claim("new", boot=4),)), boot=4)
    assert MemberChanged(member("new", boot=4), None) in outputs
    [answer] = me.sent(Sync)
    assert answer.node_id == "new"
    assert answer.message.is_reply
    assert {each.member.node_id for each in answer.message.claims} == {"me", "a", "b", "new"}


def test_an_unknown_sender_is_asked_who_it_is() -> None:
    me = Subject("a")
    me.hear("stranger", Ping(1, "me", 1))
    assert [send.node_id for send in me.sent(Ack)] == ["stranger"]
    assert [send.node_id for send in me.sent(Sync)] == ["stranger"]


def test_members_can_be_learned_from_the_store_and_lose_to_what_they_say() -> None:
    """The node table knows who holds a lease before gossip does."""
    me = Subject()
    outputs = me.feed(Learned((KnownNode("a", 3, meta_of("a")), KnownNode("me", 1, meta_of("me")))))
    assert MemberChanged(member("a", 3, 0), None) in outputs
    assert [send.node_id for send in me.sent(Sync)] == ["a"]
    me.feed(Learned((KnownNode("a", 3, meta_of("a")),)))
    assert not me.sent(Sync)
    me.hear("a", Gossip((claim("a", boot=3),)), boot=3)
    assert me.state.member("a") == member("a", 3, 1)


def test_a_live_lease_of_a_dead_one_asks_it() -> None:
    """Gossip and the store disagree: one of them is late, and a sync finds out which."""
    me = Subject("a")
    me.feed_claims("b", claim("a", status=DEAD, by="b"))
    me.feed(Learned((KnownNode("a", 1, meta_of("a")),)))
    [call] = me.sent(Sync)
    assert (call.node_id, me.status("a")) == ("a", DEAD)
    assert claim("a", status=DEAD, by="b") in call.message.claims


def test_the_dead_are_called_now_and_then() -> None:
    """A partition that lasted longer than gossip heals by itself (serf's reconnect)."""
    me = Subject("a")
    me.feed_claims("b", claim("a", status=DEAD, by="b"))
    me.run(60.0)
    assert len([send for send in me.sent(Sync, me.run(60.0)) if send.node_id == "a"]) >= 5


def test_a_leave_is_told_to_all_and_final() -> None:
    """A rolling restart should cost nobody a suspicion."""
    me = Subject("a", "b")
    me.feed(Leave())
    assert {send.node_id for send in me.sent(Gossip)} == {"a", "b"}
    assert me.state.me.status is LEFT
    outputs = me.run(5.0)
    assert LeaveSpread() in outputs
    assert not me.sent(Ping, outputs)
    me.hear("a", Ping(1, "me", 1, (claim("me", status=SUSPECT, by="a"),)))
    [answer] = me.sent(Ack)
    assert claim("me", status=LEFT) in answer.message.claims
    assert me.state.me.incarnation == 1
    other = Subject("a")
    other.feed_claims("a", claim("a", status=LEFT))
    assert other.status("a") is LEFT
    other.feed_claims("b", claim("a"), claim("a", status=DEAD))
    assert other.status("a") is LEFT


def test_who_leaves_alone_has_told_everybody() -> None:
    me = Subject()
    assert LeaveSpread() in me.feed(Leave())


def test_who_speaks_no_protocol_of_ours_is_refused_once() -> None:
    """A rolling upgrade across too many versions says so, and crashes nothing."""
    me = Subject("a")
    meta = NodeMeta(host="new", port=8082, min_protocol=2, max_protocol=3)
    newcomer = Claim(Member("new", 1, 1, ALIVE, meta), "new")
    assert Refused("new", 1, "protocol") in me.hear("new", Sync((newcomer,)))
    assert me.hear("new", Ping(1, "me", 1, (newcomer,))) == ()
    assert not [output for output in me.feed_claims("a", newcomer) if isinstance(output, Refused)]
    assert me.state.member("new") is None
    speaks_both = NodeMeta(host="new", port=8082, min_protocol=1, max_protocol=3)
    me.hear("new", Gossip((Claim(Member("new", 2, 1, ALIVE, speaks_both), "new"),)), boot=2)
    assert me.status("new") is ALIVE


def test_a_change_of_meta_takes_a_new_incarnation() -> None:
    """Draining is told to all, and no older record can undo it."""
    me = Subject("a")
    draining = NodeMeta(host="me", port=8082, is_draining=True)
    me.feed(MetaChanged(draining))
    assert me.state.me == Member("me", 1, 2, ALIVE, draining)
    assert me.state.queue["me"].claim.member == me.state.me
    assert me.feed(MetaChanged(draining)) == ()
    other = Subject()
    other.feed_claims("me2", claim("b"))
    changed = Member("b", 1, 2, ALIVE, NodeMeta(host="b", port=8082, is_draining=True))
    assert MemberChanged(changed, member("b")) in other.feed_claims("b", Claim(changed, "b"))


def test_an_idle_cluster_says_little() -> None:
    """A probe and its answer a second, and a sync in ten: cheap enough for a hundred nodes."""
    me = Subject(*[f"n{place}" for place in range(9)])
    _answer_for(me, 20.0)
    step_count = 0
    end = me.now + 60.0
    while me.state.next_deadline <= end:
        me.now = me.state.next_deadline
        me.feed(Tick())
        for node_id, ping in me.sent(Ping):
            me.hear(node_id, Ack(ping.seq, node_id, 1))
        step_count += 1
    assert step_count <= 70


def _knows(me: Subject, node_id: str) -> bool:
    [answer] = me.sent(Sync)
    return node_id in {each.member.node_id for each in answer.message.claims}


def _answer_for(me: Subject, for_s: float, *, silent: str = "", nacks: bool = True) -> list[str]:
    """Let time pass while every ping but the silent one's is answered. Returns who was pinged, in order."""
    end = me.now + for_s
    pinged: list[str] = []
    while me.state.next_deadline <= end:
        me.now = max(me.now, me.state.next_deadline)
        outputs = me.feed(Tick())
        for node_id, ping in me.sent(Ping, outputs):
            pinged.append(node_id)
            if node_id != silent:
                me.hear(node_id, Ack(ping.seq, node_id, ping.boot))
        for node_id, request in me.sent(PingReq, outputs):
            if nacks:
                me.hear(node_id, Nack(request.seq))
    me.now = end
    return pinged
