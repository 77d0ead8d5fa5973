"""The directory by itself, and of two or three nodes over a network that loses nothing."""

import msgspec
import pytest

from cluster import presence
from cluster.presence import REFRESH_SLICE, PresenceDirectory
from cluster.presence_feed import ANNOUNCE_TIMEOUT_S, RESEND_S
from cluster.presence_log import TOMBSTONE_KEPT_S
from cluster.presence_messages import MAX_DELTA_ITEMS, PresenceAck, PresenceDelta
from cluster.presence_replica import GRACE_S, LOST_KEPT_S
from tests.cluster.presence_net import PresenceNet


def _met(node_count: int) -> PresenceNet:
    net = PresenceNet(node_count)
    net.meet()
    net.run(0.1)
    return net


def test_a_user_on_two_nodes_is_online_until_both_are_gone() -> None:
    """People have a phone and a laptop, and each lands where it lands."""
    net = _met(3)
    net.tell("n0", "ann", "online")
    net.tell("n1", "ann", "away")
    net.run(0.5)
    assert net["n2"].elsewhere("ann") == ("online", 0)
    assert net["n2"].nodes_of("ann") == ("n0", "n1")
    assert net["n0"].nodes_of("ann") == ("n1",)
    assert net["n0"].elsewhere("ann") == ("away", 0)
    assert net["n0"].state_of("ann") == "online"
    net.tell("n0", "ann", None)
    net.run(0.5)
    assert net["n2"].elsewhere("ann") == ("away", 0)
    net.tell("n1", "ann", None)
    left_at_ms = net.now_ms
    net.run(0.5)
    assert net["n2"].elsewhere("ann") == ("offline", left_at_ms)
    assert [state for _, _, state, _ in net.nodes["n2"].changes] == ["online", "away", "offline"]
    assert net.nodes["n2"].gone == []  # its nodes have stored when


def test_last_seen_is_the_latest_end_in_whatever_order_the_ends_arrive() -> None:
    """Two nodes' deltas overtake each other."""
    net = _met(3)
    net.tell("n0", "ann", "online")
    net.tell("n1", "ann", "online")
    net.run(0.5)
    net.cut.add(("n0", "n2"))
    net.tell("n0", "ann", None)
    net.run(1.0)
    net.tell("n1", "ann", None)
    left_at_ms = net.now_ms
    net.run(0.5)
    net.cut.clear()
    net.run(5.0)
    assert net["n2"].elsewhere("ann") == ("offline", left_at_ms)


def test_who_comes_is_told_at_once_and_who_idles_within_a_moment() -> None:
    """A session waits to be welcomed until it is announced; nobody waits for the others."""
    net = _met(2)
    net.tell("n0", "ann", "online")
    net.run(0.002)
    assert net["n1"].elsewhere("ann")[0] == "online"
    before = net.message_count
    net.tell("n0", "ann", "away")
    net.run(0.05)
    net.tell("n0", "bob", "online")  # takes along what waits
    net.run(0.002)
    assert net["n1"].elsewhere("ann")[0] == "away"
    assert net.message_count == before + 2
    net.tell("n0", "bob", "away")
    net.run(0.05)
    assert net["n1"].elsewhere("bob")[0] == "online"
    net.run(0.06)
    assert net["n1"].elsewhere("bob")[0] == "away"


def test_a_session_is_announced_when_all_peers_have_acked() -> None:
    """Its catch-up read comes after that, so that no event falls between the read and the routing."""
    net = _met(3)
    version = net.tell("n0", "ann", "online")
    assert not net["n0"].announced(version)
    net.run(0.0015)
    assert not net["n0"].announced(version)
    net.run(0.001)
    assert net["n0"].announced(version)
    alone = PresenceNet(1)
    assert alone["n0"].announced(alone.tell("n0", "ann", "online"))


def test_a_lagging_peer_is_not_waited_for_until_it_has_caught_up() -> None:
    """A node that hangs delays one session by half a second, and the next ones not at all."""
    net = _met(3)
    net.cut = {("n0", "n2")}
    version = net.tell("n0", "ann", "online")
    net.run(ANNOUNCE_TIMEOUT_S - 0.001)
    assert not net["n0"].announced(version)
    net.run(0.001)
    assert net["n0"].announced(version)
    assert net["n0"].counts().peers_lagging == 1
    version = net.tell("n0", "bob", "online")
    net.run(0.01)
    assert net["n0"].announced(version)
    net.cut.clear()
    net.run(RESEND_S)
    assert net["n0"].counts().peers_lagging == 0
    net.cut = {("n0", "n2")}
    assert not net["n0"].announced(net.tell("n0", "cid", "online"))


def test_giving_up_on_an_announcement_makes_those_to_blame_lag() -> None:
    """A peer that still takes in 100,000 users acks often, and is not up to date for a while."""
    net = _met(3)
    net.cut = {("n0", "n2")}
    version = net.tell("n0", "ann", "online")
    net.run(0.01)
    net["n0"].gave_up(version)
    assert net["n0"].announced(version)
    assert net["n0"].counts().peers_lagging == 1


def test_nothing_is_routed_to_a_lost_node_while_its_users_are_still_in_sight() -> None:
    """Events for it would only fill a lane that nobody reads."""
    net = _met(3)
    net.tell("n0", "ann", "online")
    net.tell("n1", "ann", "online")
    net.run(0.1)
    net.lose("n0")
    assert net["n2"].nodes_of("ann") == ("n1",)
    net.tell("n1", "ann", None)
    net.run(0.5)
    assert net["n2"].nodes_of("ann") == ()
    assert net["n2"].elsewhere("ann")[0] == "online"
    net.nodes["n2"].find(net.nodes["n0"])
    assert net["n2"].nodes_of("ann") == ("n0",)  # though the view changed while it was lost


def test_a_node_that_is_back_is_shown_again_and_catches_up() -> None:
    """A partition that lasts longer than the grace hides its users; it need not transfer them again."""
    net = _met(2)
    for n in range(2 * REFRESH_SLICE + 1):
        net.tell("n0", f"user-{n}", "online")
    net.run(1.0)
    net.lose("n0")
    net.lose("n1")
    net.run(GRACE_S - 0.001)
    assert net["n1"].counts().shown_elsewhere == 2 * REFRESH_SLICE + 1
    net.run(0.001)
    assert net["n1"].counts().shown_elsewhere == 0
    net.tell("n0", "user-0", None)
    net.tell("n0", "late", "online")
    net.run(30.0)
    net.meet()
    net.run(0.01)
    assert net.disagreements() == []
    assert net["n1"].counts().shown_elsewhere == 2 * REFRESH_SLICE + 1


def test_a_node_that_comes_back_while_it_is_being_hidden_ends_up_shown() -> None:
    """Hiding takes several calls of `due`; what was not hidden yet must not be hidden after it is back."""
    net = _met(2)
    for n in range(3 * REFRESH_SLICE):
        net.tell("n0", f"user-{n}", "online")
    net.run(1.0)
    node = net.nodes["n1"]
    node.directory.node_lost("n0", 1, net.now)
    node.directory.due(net.now + GRACE_S)
    assert node.directory.counts().shown_elsewhere == 2 * REFRESH_SLICE
    assert node.directory.next_deadline < net.now
    net.now += GRACE_S
    net.meet()
    net.run(0.1)
    assert net.disagreements() == []
    assert len(node.gone) == REFRESH_SLICE


def test_a_node_that_left_in_order_is_not_reported_as_gone() -> None:
    """It has stored last_seen itself; a user it forgot disappears after the grace all the same."""
    net = _met(3)
    net.tell("n0", "ann", "online")
    net.tell("n0", "bob", "online")
    net.run(0.1)
    net.tell("n0", "ann", None)
    net.run(0.5)
    for node_id in ("n1", "n2"):
        net[node_id].node_left("n0", 1, net.now)
    net.kill("n0")
    net.run(GRACE_S - 0.01)
    assert net["n1"].elsewhere("bob")[0] == "online"
    assert net["n1"].nodes_of("bob") == ()
    net.run(0.02)
    assert net["n1"].elsewhere("bob")[0] == "offline"
    assert net.nodes["n1"].gone == []
    assert net["n1"].counts().replicas_lost == 0
    assert net.disagreements() == []


def test_a_lost_node_is_forgotten_in_the_end() -> None:
    """Hosts are replaced: what a node that never returns has left must not stay for ever."""
    net = _met(2)
    net.tell("n0", "ann", "online")
    net.run(0.1)
    net.kill("n0")
    net.lose("n0")
    net.run(LOST_KEPT_S - 0.01)
    assert net["n1"].counts().replicas_lost == 1
    net.run(0.02)
    assert net["n1"].counts().replicas_lost == 0
    net.restart("n0")
    net.meet()
    net.run(0.1)
    assert net.disagreements() == []


def test_a_reader_that_forgot_is_given_everything_again() -> None:
    """One side may lose sight of the other for so long that it drops all, and the other one not at all."""
    net = _met(2)
    net.tell("n0", "ann", "online")
    net.tell("n0", "bob", "online")
    net.tell("n0", "bob", None)
    net.run(1.0)
    net["n1"].node_lost("n0", 1, net.now)
    net.run(LOST_KEPT_S + TOMBSTONE_KEPT_S)
    net.meet()
    net.run(0.1)
    assert net.disagreements() == []


@pytest.mark.parametrize("away_s", [TOMBSTONE_KEPT_S - 2, TOMBSTONE_KEPT_S + 2])
def test_who_left_while_a_peer_was_away_is_gone_there_on_both_sides_of_the_horizon(away_s: float) -> None:
    """Shortly away, the tombstones tell it; longer, a reset of several parts; nobody who stayed flaps."""
    net = _met(2)
    count = 2 * MAX_DELTA_ITEMS + 1
    for n in range(count):
        net.tell("n0", f"user-{n}", "online")
    net.run(1.0)
    net.cut = {("n0", "n1")}  # nobody concludes that the other one is lost
    for n in range(0, count, 2):
        net.tell("n0", f"user-{n}", None)
    net.run(away_s)
    net.cut.clear()
    net.run(5.0)
    assert net.disagreements() == []
    ended = [change for change in net.nodes["n1"].changes if change[2] == "offline"]
    assert len(net.nodes["n1"].changes) == count + len(ended) == count + (count + 1) // 2


def test_an_older_boot_and_strangers_are_not_listened_to() -> None:
    """Lanes may bring what a process sent before it died, and gossip may be late."""
    net = _met(2)
    old = net.kill("n0")
    net.restart("n0")
    net.meet()
    net.run(0.1)
    directory = net["n1"]
    digest = directory.digest()
    delta = PresenceDelta(1, 0, 1, 0, is_last=True, items=[("ann", "online", 0)])
    directory.peer_up("n0", old.boot, net.now)
    directory.node_lost("n0", old.boot, net.now)
    directory.node_left("n0", old.boot, net.now)
    for node_id, boot, message in (
        ("n0", old.boot, delta),
        ("n0", 2, delta),  # the sender's boot and the delta's differ
        ("n0", 2, PresenceAck(boot=0, version=1)),  # of an earlier life of ours
        ("who", 1, delta),
    ):
        assert directory.received(node_id, boot, message, net.now) == []
    assert directory.counts().ignored_messages == 4
    assert directory.counts().peers_up == 1
    assert directory.digest() == digest
    directory.peer_up("n1", 9, net.now)  # itself
    assert directory.counts().peers_up == 1


def test_the_loss_of_a_boot_that_was_never_seen_ends_the_one_that_was() -> None:
    """A node may die, start and die again before the news of its second boot gets here."""
    net = _met(2)
    net.tell("n0", "ann", "online")
    net.run(0.1)
    net.kill("n0")
    net.restart("n0")
    net.kill("n0")
    net.lose("n0")
    assert net["n1"].nodes_of("ann") == ()
    net.run(GRACE_S + 0.1)
    assert net.disagreements() == []


def test_those_who_left_are_remembered_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """last_seen is the store's to keep; here it only spans two ends that cross."""
    monkeypatch.setattr(presence, "MAX_ENDS", 10)
    net = _met(2)
    for n in range(30):
        net.tell("n0", f"user-{n}", "online")
    net.run(0.1)
    for n in range(30):
        net.tell("n0", f"user-{n}", None)
    net.run(0.5)
    known = [n for n in range(30) if net["n1"].elsewhere(f"user-{n}")[1]]
    assert known == list(range(20, 30))


def test_the_digest_tells_two_users_who_swapped_their_states() -> None:
    """Nodes prove by it that they agree: it must not be blind to what a plain XOR or CRC is blind to."""
    digests = set()
    for ann, bob in (("online", "away"), ("away", "online"), ("online", "online")):
        net = PresenceNet(1)
        net.tell("n0", "user-1", "online" if ann == "online" else "away")
        net.tell("n0", "user-2", "online" if bob == "online" else "away")
        digests.add(net["n0"].digest())
    assert len(digests) == 3
    other = PresenceNet(1)
    other.tell("n0", "user-2", "online")
    other.tell("n0", "user-1", "away")
    other.tell("n0", "user-1", "online")
    assert other["n0"].digest() in digests


def test_a_full_delta_fits_into_an_envelope() -> None:
    """An envelope between nodes takes 64 KiB; a larger delta would never arrive."""
    items = [("x" * 64, "offline", 2**53 - 1)] * MAX_DELTA_ITEMS
    delta = PresenceDelta(2**53 - 1, 2**53 - 1, 2**53 - 1, 2**53 - 1, is_last=True, items=list(items))  # type: ignore[arg-type]  # mypy widens the literal
    payload = msgspec.msgpack.encode(delta)
    assert len(payload) < 60 * 1024
    assert msgspec.msgpack.decode(payload, type=PresenceDelta) == delta


def test_a_node_alone_asks_for_nothing() -> None:
    """Without --cluster nothing of this may wake anybody up."""
    directory = PresenceDirectory("n0", 1, on_change=print, on_gone=print, now_ms=lambda: 0)
    assert directory.next_deadline == float("inf")
    directory.local_changed("ann", "online", 0, 0.0, urgent=True)
    assert directory.due(0.0) == []
    assert directory.next_deadline == float("inf")
