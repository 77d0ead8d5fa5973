"""Routers of several nodes over a network of queues that a test empties, loses and reroutes as it likes."""

from collections import deque
from collections.abc import Callable

from actors.address import Address
from actors.messages import Told
from actors.reply import NO_REPLY, Reply
from actors.router import LocalRouter
from cluster import wire
from cluster.router import ClusterRouter
from cluster.routes import ShardRoute
from protocol.errors import HubbubError, Unavailable
from protocol.replies import Changed


class Answer:
    """A reply that notes how often and how it was decided."""

    def __init__(self) -> None:
        self.outcomes: list[object] = []

    @property
    def is_done(self) -> bool:
        return bool(self.outcomes)

    def resolve(self, value: object) -> None:
        self.outcomes.append(value)

    def fail(self, error: HubbubError) -> None:
        self.outcomes.append(error)

    @property
    def code(self) -> str:
        """The one outcome: an error's code, or nothing where it went well."""
        (outcome,) = self.outcomes
        return outcome.code if isinstance(outcome, HubbubError) else ""


class Actors:
    """All actors of one node: they keep what they are told, and answer when the test says so."""

    kind = "user"

    def __init__(self, world: "RouterWorld", node_id: str) -> None:
        self._world = world
        self._node_id = node_id
        self.waiting: list[tuple[Address, Reply, str]] = []
        self.hints: list[object] = []
        self.is_awake = True
        self.answers_at_once = True
        self.refuses_with: HubbubError | None = None

    def deliver(
        self, address: Address, message: object, reply: Reply, *, may_be_at_once: bool = False
    ) -> None:
        if self.refuses_with is not None:
            raise self.refuses_with
        assert isinstance(message, Told)
        self._world.handled.append((self._node_id, address.shard, message.tell_id))
        if reply is not NO_REPLY:
            self.waiting.append((address, reply, message.tell_id))
        if self.answers_at_once:
            self.answer()

    def deliver_if_active(self, address: Address, message: object) -> bool:
        if self.is_awake:
            self.hints.append(message)
        return self.is_awake

    def answer(self) -> None:
        waiting, self.waiting = self.waiting, []
        for _, reply, name in waiting:
            reply.resolve(Changed(conversation_id=name))

    def cut_off(self, shard: int) -> None:
        gone = [item for item in self.waiting if item[0].shard == shard]
        self.waiting = [item for item in self.waiting if item[0].shard != shard]
        for _, reply, _ in gone:
            reply.fail(Unavailable("moved"))


class Node:
    """One router; fits Placement and Way, by what this node believes."""

    def __init__(self, world: "RouterWorld", node_id: str, first_corr: int) -> None:
        self._world = world
        self.node_id = node_id
        self.routes: dict[int, ShardRoute] = {}
        self.hops: dict[str, str] = {}  # where they are not direct
        self.dead: set[str] = set()
        self.is_full = False
        self.actors = Actors(world, node_id)
        self.router = ClusterRouter(
            LocalRouter([self.actors]), self, self, node_id=node_id, first_corr=first_corr
        )

    def owns(self, shard: int) -> bool:
        return self._world.owners.get(shard, ("", 0))[0] == self.node_id

    def route_of(self, shard: int) -> ShardRoute:
        return self.routes.get(shard, ShardRoute(shard))

    def next_hop(self, node_id: str) -> str:
        return "" if node_id in self.dead else self.hops.get(node_id, node_id)

    def send(self, node_id: str, item: wire.Item) -> bool:
        if self.is_full:
            return False
        key = (self.node_id, self.hops.get(node_id, node_id), node_id)
        self._world.queues.setdefault(key, deque()).append(wire.encode(item))
        return True

    def learn(self, shard: int) -> None:
        owner, epoch = self._world.owners.get(shard, ("", 0))
        self.routes[shard] = ShardRoute(shard, owner, 1, epoch)
        self.router.routes_changed([shard])


class RouterWorld:
    """Nodes, the truth of who owns what, and what is on its way: (from, hop, to) -> items."""

    def __init__(self, *node_ids: str) -> None:
        self.owners: dict[int, tuple[str, int]] = {}
        self.queues: dict[tuple[str, str, str], deque[bytes]] = {}
        self.handled: list[tuple[str, int, str]] = []  # (node, shard, name)
        self.is_lost: Callable[[bytes], bool] = lambda _: False
        self.nodes = {node_id: Node(self, node_id, 1000 * n) for n, node_id in enumerate(node_ids)}

    def move(self, shard: int, to: str, *, is_orderly: bool = True) -> None:
        """Give a shard to a node, or ("") to nobody; only those two learn it at once."""
        old, epoch = self.owners.get(shard, ("", 0))
        if old:
            actors = self.nodes[old].actors
            if is_orderly:
                actors.answer()
            else:
                actors.cut_off(shard)
        self.owners[shard] = (to, epoch + 1)
        for node_id in {old, to} - {""}:
            self.nodes[node_id].learn(shard)

    def tell_all(self, shard: int) -> None:
        for node in self.nodes.values():
            node.learn(shard)

    def deliver(self, key: tuple[str, str, str], count: int = 1_000_000) -> int:
        """Let the oldest items of one way arrive; returns how many did."""
        queue = self.queues.get(key, deque())
        done = 0
        while queue and done < count:
            done += 1
            payload = queue.popleft()
            if not self.is_lost(payload):
                assert self.nodes[key[2]].router.received(key[0], wire.decode(payload))
        return done

    def settle(self) -> None:
        """Let everything arrive that is on its way, and what follows from it."""
        while any(self.queues.values()):
            for key in list(self.queues):
                self.deliver(key)

    def names(self) -> list[str]:
        return [name for _, _, name in self.handled]
