"""The queue of news."""

from cluster.broadcasts import Broadcasts, add_broadcast, take_broadcasts
from cluster.gossip_messages import Claim
from cluster.member import Member, NodeMeta, Status
from cluster.membership_settings import MembershipSettings


def claim(node_id: str, incarnation: int = 1) -> Claim:
    meta = NodeMeta(host=node_id, port=1)
    return Claim(Member(node_id, 1, incarnation, Status.ALIVE, meta), node_id)


def test_newer_news_about_a_member_replace_the_older() -> None:
    """Nobody should spread a suspicion after its refutation."""
    queue: Broadcasts = {}
    add_broadcast(queue, claim("a", 1), 1)
    add_broadcast(queue, claim("b", 1), 2)
    add_broadcast(queue, claim("a", 2), 3)
    taken = take_broadcasts(queue, limit=10, retransmit_limit=4)
    assert taken == (claim("a", 2), claim("b", 1))


def test_each_piece_is_sent_so_often_and_no_more() -> None:
    """Gossip dies down by itself."""
    queue: Broadcasts = {}
    add_broadcast(queue, claim("a"), 1)
    sent = [take_broadcasts(queue, limit=10, retransmit_limit=3) for _ in range(5)]
    assert sent == [(claim("a"),)] * 3 + [()] * 2
    assert not queue


def test_what_was_sent_least_goes_first_then_the_newest() -> None:
    """A flood of news must not starve any of them, and the freshest matter most."""
    queue: Broadcasts = {}
    add_broadcast(queue, claim("old"), 1)
    assert take_broadcasts(queue, limit=1, retransmit_limit=4) == (claim("old"),)
    add_broadcast(queue, claim("newer"), 2)
    add_broadcast(queue, claim("newest"), 3)
    assert take_broadcasts(queue, limit=2, retransmit_limit=4) == (claim("newest"), claim("newer"))
    assert take_broadcasts(queue, limit=1, retransmit_limit=4) == (claim("newest"),)


def test_the_limit_grows_with_the_logarithm_of_the_cluster() -> None:
    """memberlist's TestRetransmitLimit: 0, 4, 8 for a multiplier of 4."""
    settings = MembershipSettings()
    assert [settings.retransmit_limit(count) for count in (0, 1, 9, 99)] == [0, 4, 4, 8]
