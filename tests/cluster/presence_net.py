"""A cluster's presence in memory: directories, a network that loses, repeats, reorders, and virtual time."""

import heapq
import math
from collections.abc import Callable
from itertools import count
from random import Random

import msgspec

from cluster.presence import PresenceDirectory
from cluster.presence_messages import PresenceMessage
from protocol.types import PresenceState

EPOCH_MS = 1_700_000_000_000
_decoder = msgspec.msgpack.Decoder(PresenceMessage)


class SimNode:
    """One boot of a node: its directory, what is true of its users, and what its effects told."""

    def __init__(self, net: "PresenceNet", node_id: str, boot: int) -> None:
        self.node_id = node_id
        self.boot = boot
        self.is_alive = True
        self.truth: dict[str, PresenceState] = {}
        self.came_at: dict[str, int] = {}  # user_id -> the version that told that they came
        self.told_at: dict[str, int] = {}  # user_id -> the version that told their last state
        self.shown: dict[str, PresenceState] = {}  # as on_change tells it
        self.changes: list[tuple[float, str, PresenceState, int]] = []
        self.gone: list[tuple[str, int]] = []
        self.up: dict[str, int] = {}  # node_id -> boot, as this node believes
        self._net = net
        self.directory = PresenceDirectory(
            node_id, boot, on_change=self._changed, on_gone=self._gone, now_ms=lambda: net.now_ms
        )

    def find(self, other: "SimNode") -> None:
        """Conclude that another node is up."""
        if other.boot >= self.up.get(other.node_id, 0):
            self.up[other.node_id] = other.boot
        self.directory.peer_up(other.node_id, other.boot, self._net.now)
        self._net.poll(self)

    def lose(self, other: "SimNode") -> None:
        """Conclude that another node is down."""
        if self.up.get(other.node_id, math.inf) <= other.boot:
            del self.up[other.node_id]
        self.directory.node_lost(other.node_id, other.boot, self._net.now)
        self._net.poll(self)

    def can_reach(self, other: "SimNode") -> bool:
        """Tell whether this node believes that very boot of another one to be up."""
        return self.up.get(other.node_id) == other.boot

    def _changed(self, user_id: str, state: PresenceState, last_seen_ms: int) -> None:
        assert state != self.shown.get(user_id, "offline"), "told what was shown already"
        assert state == "offline" or last_seen_ms == 0
        self.changes.append((self._net.now, user_id, state, last_seen_ms))
        self.shown[user_id] = state

    def _gone(self, user_id: str, last_seen_ms: int) -> None:
        self.gone.append((user_id, last_seen_ms))


class PresenceNet:
    """Carry messages between directories in virtual time. The same seed does the same again."""

    def __init__(
        self,
        node_count: int,
        seed: int = 0,
        *,
        loss: float = 0.0,
        repeat: float = 0.0,
        delay_s: tuple[float, float] = (0.001, 0.001),
    ) -> None:
        self.random = Random(seed)
        self.now = 1_000.0
        self.loss = loss
        self.repeat = repeat
        self.delay_s = delay_s
        self.cut: set[tuple[str, str]] = set()
        self.message_count = 0
        self.after_step: Callable[[SimNode], None] = lambda _: None
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.nodes = {f"n{n}": SimNode(self, f"n{n}", 1) for n in range(node_count)}

    @property
    def now_ms(self) -> int:
        return EPOCH_MS + round(self.now * 1000)

    def __getitem__(self, node_id: str) -> PresenceDirectory:
        return self.nodes[node_id].directory

    @property
    def alive(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.is_alive]

    # -- what happens -------------------------------------------------------------------------------

    def meet(self) -> None:
        """Let all live nodes find each other now."""
        for node in self.alive:
            for other in self.alive:
                if node is not other:
                    node.find(other)

    def tell(self, node_id: str, user_id: str, state: PresenceState | None) -> int:
        """Connect, move or (None) end a user's session on a node, as its hub would tell."""
        node = self.nodes[node_id]
        came = state is not None and user_id not in node.truth
        version = node.directory.local_changed(user_id, state, self.now_ms, self.now, urgent=came)
        node.told_at[user_id] = version
        if state is None:
            node.truth.pop(user_id, None)
            node.came_at.pop(user_id, None)
        else:
            node.truth[user_id] = state
            if came:
                node.came_at[user_id] = version
        self.poll(node)
        return version

    def kill(self, node_id: str) -> SimNode:
        """End a node as kill -9 does: nobody is told yet."""
        node = self.nodes[node_id]
        node.is_alive = False
        node.truth.clear()
        return node

    def restart(self, node_id: str) -> SimNode:
        """Start a node's next boot: it finds the others at once, and they it when `meet` is called."""
        node = self.nodes[node_id] = SimNode(self, node_id, self.nodes[node_id].boot + 1)
        for other in self.alive:
            if other is not node:
                node.find(other)
        return node

    def lose(self, node_id: str) -> None:
        """Let all others conclude that a node is lost."""
        lost = self.nodes[node_id]
        for node in self.alive:
            if node is not lost:
                node.lose(lost)

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Do something at a time."""
        heapq.heappush(self._heap, (when, next(self._order), act))

    def run(self, for_s: float) -> None:
        """Let virtual time pass: deliver what is on its way, and call `due` when it asks to be called."""
        until = self.now + for_s
        while True:
            for node in self.alive:
                self._poll_until_done(node)
            wake_at = min((node.directory.next_deadline for node in self.alive), default=math.inf)
            if self._heap:
                wake_at = min(wake_at, self._heap[0][0])
            if wake_at > until:
                self.now = until
                return
            self.now = max(self.now, wake_at)
            while self._heap and self._heap[0][0] <= self.now:
                heapq.heappop(self._heap)[2]()

    # -- what is true -------------------------------------------------------------------------------

    def expected(self, node: SimNode, user_id: str) -> PresenceState:
        """What a node should show of a user elsewhere."""
        states = [other.truth.get(user_id) for other in self.alive if other is not node]
        return "online" if "online" in states else "away" if "away" in states else "offline"

    def user_ids(self) -> set[str]:
        known = {user_id for node in self.nodes.values() for user_id in node.shown}
        return known.union(*(node.truth for node in self.nodes.values()))

    def disagreements(self) -> list[str]:
        """Say what any live node shows or does other than what is true."""
        found: list[str] = []
        user_ids = sorted(self.user_ids())
        for node in self.alive:
            for user_id in user_ids:
                state = node.directory.elsewhere(user_id)[0]
                expected = self.expected(node, user_id)
                if state != expected:
                    found.append(f"{node.node_id} shows {user_id} as {state}, not {expected}")
                if node.shown.get(user_id, "offline") != state:
                    found.append(f"{node.node_id} told another state of {user_id} than it shows")
                routes = sorted(node.directory.nodes_of(user_id))
                right = sorted(o.node_id for o in self.alive if o is not node and user_id in o.truth)
                if routes != right:
                    found.append(f"{node.node_id} routes {user_id} to {routes}, not {right}")
        if len({node.directory.digest() for node in self.alive}) > 1:
            found.append("digests differ")
        return found

    # -- the network --------------------------------------------------------------------------------

    def _poll_until_done(self, node: SimNode) -> None:
        for _ in range(1_000):
            if node.directory.next_deadline > self.now:
                return
            self.poll(node)
        raise AssertionError(f"{node.node_id} asks to be called for ever: a busy loop")

    def poll(self, node: SimNode) -> None:
        """Do what a node wants to do now."""
        for to, message in node.directory.due(self.now):
            self._send(node, to, message)
        self.after_step(node)

    def _send(self, node: SimNode, to: str, message: PresenceMessage) -> None:
        payload = msgspec.msgpack.encode(message)
        copies = 1 + (self.random.random() < self.repeat)
        for _ in range(copies):
            self.message_count += 1
            if (node.node_id, to) in self.cut or self.random.random() < self.loss:
                continue
            at = self.now + self.random.uniform(*self.delay_s)
            self.at(at, lambda: self._deliver(node, to, payload))

    def _deliver(self, sender: SimNode, to: str, payload: bytes) -> None:
        target = self.nodes[to]
        if not target.is_alive or (sender.node_id, to) in self.cut:
            return
        message = _decoder.decode(payload)
        for answer in target.directory.received(sender.node_id, sender.boot, message, self.now):
            self._send(target, sender.node_id, answer)
        self.poll(target)
