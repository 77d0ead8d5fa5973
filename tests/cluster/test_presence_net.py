"""The presence of a whole cluster over a bad network, in virtual time."""

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster import presence_feed, presence_log
from cluster.presence_replica import GRACE_S
from tests.cluster.presence_net import PresenceNet, SimNode
from tests.strategies import examples

DETECTED_WITHIN_S = 3.0
AGREED_WITHIN_S = 5.0


class _Promise:
    """Whom a node takes for announced, the others show and reach until they leave or their node is lost."""

    def __init__(self, net: PresenceNet) -> None:
        self._net = net
        self._reached: dict[SimNode, set[tuple[str, int, str, int]]] = {}  # (node_id, boot, user_id, version)
        self.announced_count = 0  # that these are not 0 shows that the checks check something
        self.kept_count = 0

    def check(self, node: SimNode) -> None:
        self._check_announced(node)
        for other in self._net.alive:
            for user_id, came_at in other.came_at.items():
                key = (other.node_id, other.boot, user_id, came_at)
                if key in self._reached.get(node, ()):
                    self.kept_count += 1
                    assert other.node_id in node.directory.nodes_of(user_id)
                    assert node.directory.elsewhere(user_id)[0] != "offline"
                    assert node.shown[user_id] != "offline"

    def _check_announced(self, node: SimNode) -> None:
        """All that a node can reach know what it takes for announced, if it counts none as lagging."""
        if node.directory.counts().peers_lagging:
            return
        for user_id, came_at in node.came_at.items():
            if not node.directory.announced(node.told_at[user_id]):
                continue
            for other in self._net.alive:
                if node.can_reach(other) and other.can_reach(node):
                    assert node.node_id in other.directory.nodes_of(user_id)
                    reached = self._reached.setdefault(other, set())
                    reached.add((node.node_id, node.boot, user_id, came_at))
                    self.announced_count += 1

    def lost(self, node: SimNode, node_id: str) -> None:
        """Nothing is promised of a node that was concluded to be lost."""
        self._reached[node] = {key for key in self._reached.get(node, ()) if key[0] != node_id}


def _wreck(net: PresenceNet, promise: _Promise, steps: int) -> None:
    """Let users come, move and go, and nodes die, restart and lose sight of each other."""
    random = net.random
    users = [f"u{n}" for n in range(6)]

    def lose(node: SimNode, other: SimNode) -> Callable[[], None]:
        def act() -> None:
            if node.is_alive:
                promise.lost(node, other.node_id)
                node.lose(other)

        return act

    def find(node: SimNode, other: SimNode) -> Callable[[], None]:
        def act() -> None:
            if node.is_alive and other.is_alive:
                node.find(other)

        return act

    for _ in range(steps):
        node = random.choice(list(net.nodes.values()))
        other = random.choice([n for n in net.nodes.values() if n is not node])
        soon = net.now + random.uniform(0, DETECTED_WITHIN_S)
        dice = random.random()
        if not node.is_alive:
            if dice < 0.5:
                started = net.restart(node.node_id)
                for peer in net.alive:
                    if peer is not started:
                        net.at(net.now + random.random(), find(peer, started))
        elif dice < 0.75:
            net.tell(node.node_id, random.choice(users), random.choice(["online", "away", None]))
        elif dice < 0.85:
            for a, b in ((node, other), (other, node)):
                net.cut.add((a.node_id, b.node_id))
                if random.random() < 0.7:  # a short cut is not noticed at all, or by one side
                    net.at(soon, lose(a, b))
        elif dice < 0.95:
            for a, b in ((node, other), (other, node)):
                net.cut.discard((a.node_id, b.node_id))
                net.at(soon, find(a, b))
        else:
            net.kill(node.node_id)
            for peer in net.alive:
                if random.random() < 0.7:
                    net.at(soon + random.random(), lose(peer, node))
        net.run(random.choice([0.0, 0.001, 0.01, 0.1, 1.0, 8.0]))


def _heal(net: PresenceNet) -> None:
    net.loss = net.repeat = 0.0
    net.cut.clear()
    net.run(DETECTED_WITHIN_S + 1)  # what was to be concluded is concluded
    for node in net.nodes.values():
        if not node.is_alive:
            net.lose(node.node_id)
    net.meet()


@examples(150, long=5_000)
@given(
    seed=st.integers(0, 2**32),
    node_count=st.integers(2, 5),
    loss=st.sampled_from([0.0, 0.1, 0.5]),
    repeat=st.sampled_from([0.0, 0.3]),
    delay_s=st.sampled_from([(0.001, 0.001), (0.0, 0.1), (0.0, 3.0)]),
    is_tight=st.booleans(),
)
# Once: a late ask made the writer resume an older reset than the reader's, and neither gave way.
@example(seed=325, node_count=4, loss=0.0, repeat=0.3, delay_s=(0.0, 3.0), is_tight=True)
def test_after_healing_all_agree_with_the_truth(
    seed: int, node_count: int, loss: float, repeat: float, delay_s: tuple[float, float], is_tight: bool
) -> None:
    """The issue asks for it: whatever was lost, repeated, overtaken, cut off, killed or restarted.

    On the way, no node shows a user as offline whom it had reached before, who has stayed where they are, and
    whose node it has not concluded to be lost. With tight limits, resets are common.
    """
    with pytest.MonkeyPatch.context() as patch:
        if is_tight:
            patch.setattr(presence_log, "TOMBSTONE_KEPT_S", 0.5)
            patch.setattr(presence_log, "MAX_TOMBSTONES", 2)
            patch.setattr(presence_feed, "MAX_DELTA_ITEMS", 1)
        _run(seed, node_count, loss, repeat, delay_s)


def _run(seed: int, node_count: int, loss: float, repeat: float, delay_s: tuple[float, float]) -> None:
    net = PresenceNet(node_count, seed, loss=loss, repeat=repeat, delay_s=delay_s)
    promise = _Promise(net)
    net.after_step = promise.check
    net.meet()
    _wreck(net, promise, steps=80)
    _heal(net)
    net.delay_s = (0.001, 0.02)
    net.run(AGREED_WITHIN_S + GRACE_S)
    assert net.disagreements() == []


@pytest.mark.parametrize("node_count", [3, 4, 5])
def test_a_thousand_users_who_connect_move_and_vanish_are_agreed_upon(node_count: int) -> None:
    """The issue's own numbers: all nodes agree within 5 s of the last change."""
    net = PresenceNet(node_count, seed=node_count, loss=0.05, repeat=0.05, delay_s=(0.0, 0.05))
    net.meet()
    node_ids = list(net.nodes)
    where: dict[str, str] = {}
    for n in range(4_000):
        user_id = f"user-{net.random.randrange(1_000)}"
        at = where.pop(user_id, None)
        if at is not None:
            net.tell(at, user_id, None)
        if at is None or net.random.random() < 0.7:
            where[user_id] = net.random.choice(node_ids)
            net.tell(where[user_id], user_id, net.random.choice(["online", "away"]))
        if n % 10 == 0:
            net.run(0.01)
    net.run(AGREED_WITHIN_S)
    assert net.disagreements() == []
    assert sum(len(node.truth) for node in net.alive) == len(where) > 500


def test_a_killed_nodes_users_go_offline_after_the_grace_and_not_before() -> None:
    """The issue asks for it; users of the killed node who come back elsewhere are never seen to leave."""
    net = PresenceNet(3)
    net.meet()
    for n in range(300):
        net.tell("n0", f"user-{n}", "online")
    net.run(1.0)
    net.kill("n0")
    net.run(4.0)  # until the failure is detected
    net.lose("n0")
    lost_at, lost_at_ms = net.now, net.now_ms
    net.run(1.0)
    for n in range(100):
        net.tell("n1", f"user-{n}", "online")
    net.run(GRACE_S + 1)
    node = net.nodes["n2"]
    ended = [(at, user_id, seen_ms) for at, user_id, state, seen_ms in node.changes if state == "offline"]
    assert {user_id for _, user_id, _ in ended} == {f"user-{n}" for n in range(100, 300)}
    assert {at for at, _, _ in ended} == {lost_at + GRACE_S}
    assert {seen_ms for _, _, seen_ms in ended} == {lost_at_ms}
    assert sorted(node.gone) == sorted((f"user-{n}", lost_at_ms) for n in range(100, 300))
    assert sorted(net.nodes["n1"].gone) == sorted(node.gone)  # those who are here now are not gone
    assert net.disagreements() == []


def test_a_node_that_restarts_within_the_grace_shows_no_flap() -> None:
    """A rolling restart must not tell everybody that thousands left and came back."""
    net = PresenceNet(3)
    net.meet()
    for n in range(50):
        net.tell("n0", f"user-{n}", "online")
    net.run(1.0)
    net.kill("n0")
    net.run(1.0)
    net.restart("n0")  # noticed by its new boot only
    net.meet()
    net.run(1.0)
    for n in range(40):
        net.tell("n0", f"user-{n}", "online")
    net.run(GRACE_S)
    for node_id in ("n1", "n2"):
        node = net.nodes[node_id]
        assert len([c for c in node.changes if c[2] == "online"]) == 50
        assert {c[1] for c in node.changes if c[2] == "offline"} == {f"user-{n}" for n in range(40, 50)}
    assert net.disagreements() == []


def test_an_idle_cluster_is_quiet() -> None:
    """Heartbeats are all that is sent: at three nodes six pairs, each a delta and its ack, every 15 s."""
    net = PresenceNet(3)
    net.meet()
    net.tell("n0", "ann", "online")
    net.run(1.0)
    before = net.message_count
    net.run(60.0)
    assert net.message_count - before <= 6 * 2 * 4


def test_a_lost_peer_costs_nothing() -> None:
    """A node that is down for a day is sent nothing, however much happens meanwhile."""
    net = PresenceNet(2)
    net.meet()
    net.run(1.0)
    net.kill("n1")
    net.lose("n1")
    before = net.message_count
    for n in range(100):
        net.tell("n0", f"user-{n}", "online")
        net.run(0.5)
    assert net.message_count == before
