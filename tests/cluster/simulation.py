"""A cluster's membership in one process and no time: an event heap drives `step` over an unreliable network.

Everything random comes from the seed, so a run is repeated exactly. After every step of every node the world
checks what must hold at any moment, whatever the network does: no lower (boot, incarnation) ever wins, and
nobody believes in an incarnation that the node itself never took.
"""

import heapq
import random
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final

import msgspec

from cluster.gossip_messages import GossipMessage
from cluster.member import FINAL_INCARNATION, Member, NodeMeta, Status
from cluster.membership import open_membership, step
from cluster.membership_events import (
    Buried,
    Endpoint,
    Event,
    KnownNode,
    Learned,
    Leave,
    MemberChanged,
    PipeLost,
    Received,
    Send,
    SendTo,
    Start,
    Superseded,
    Tick,
)
from cluster.membership_settings import MembershipSettings
from cluster.membership_state import NEVER, Membership

LEASE_S: Final = 12.0  # a crashed process stays in the store's node table so long (engine.md F)
_TICK_JITTER_S: Final = 0.005


class Network(msgspec.Struct, kw_only=True):
    """How messages fare. `cuts` are directed links that bring nothing; `lossy` overrides the loss of one."""

    loss: float = 0.0
    min_delay_s: float = 0.0005
    max_delay_s: float = 0.002
    duplication: float = 0.0
    reorders: bool = True  # else each link keeps its order, as a lane does
    cuts: set[tuple[str, str]] = msgspec.field(default_factory=set)
    lossy: dict[tuple[str, str], float] = msgspec.field(default_factory=dict)


class Process:
    """One boot of a node."""

    def __init__(self, state: Membership) -> None:
        self.state = state
        self.resumes_at = 0.0  # paused until then
        self.loses_backlog = False
        self.backlog: list[Event] = []
        self.due = NEVER  # of the Tick that is on the heap
        self.is_leaving = False


class World:
    """The nodes, the network, the store's node table, and the time."""

    def __init__(
        self,
        seed: int,
        node_count: int,
        *,
        network: Network | None = None,
        settings: MembershipSettings | None = None,
        seeds_for_all: bool = True,
    ) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.network = Network() if network is None else network
        self.settings = MembershipSettings() if settings is None else settings
        self.now = 1000.0
        self.node_ids = [f"n{place}" for place in range(node_count)]
        self.processes: dict[str, Process] = {}
        self.boots: dict[str, int] = dict.fromkeys(self.node_ids, 0)
        self.lease_until: dict[tuple[str, int], float] = {}
        self.step_count = 0
        self.changes: list[tuple[float, str, MemberChanged]] = []
        self.trace = blake2b(digest_size=16)
        self._seeds = self.node_ids if seeds_for_all else self.node_ids[:2]
        self._truth: dict[tuple[str, int], int] = {}  # the highest incarnation each process took itself
        self._buried: set[tuple[str, int]] = set()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._last_arrival: dict[tuple[str, str], float] = {}

    # --- what a test makes happen

    def start(self, node_id: str, known: Iterable[str] = ()) -> None:
        """Start a new boot of a node. Whoever ran under its id is gone."""
        self.boots[node_id] += 1
        boot = self.boots[node_id]
        state = open_membership(
            node_id, boot, self.meta(node_id), seed=self.random.getrandbits(32), settings=self.settings
        )
        self.processes[node_id] = Process(state)
        self._truth[node_id, boot] = 1
        seeds = tuple([_endpoint(other) for other in self._seeds if other != node_id])
        table = tuple([self.known_node(other) for other in known if other in self.processes])
        self.feed(node_id, Start(seeds, table))

    def meta(self, node_id: str) -> NodeMeta:
        endpoint = _endpoint(node_id)
        return NodeMeta(host=endpoint.host, port=endpoint.port)

    def known_node(self, node_id: str) -> KnownNode:
        return KnownNode(node_id, self.boots[node_id], self.meta(node_id))

    def crash(self, node_id: str, *, is_noticed: bool = False) -> None:
        """Kill the process; if `is_noticed`, its connections break visibly, as after kill -9."""
        del self.processes[node_id]
        self.lease_until[node_id, self.boots[node_id]] = self.now + LEASE_S
        if is_noticed:
            for other in list(self.processes):
                if (node_id, other) not in self.network.cuts:
                    self.later(self._delay_s(), self._feeder(other, PipeLost(node_id)))

    def pause(self, node_id: str, for_s: float, *, loses_backlog: bool) -> None:
        """Stop the process for a time. Then it gets what came meanwhile, or has lost it."""
        process = self.processes[node_id]
        process.resumes_at = self.now + for_s
        process.loses_backlog = loses_backlog
        self.later(for_s, lambda: self._resume(node_id, process))

    def wake(self, node_id: str) -> None:
        """End a pause before its time."""
        process = self.processes[node_id]
        if process.resumes_at > self.now:
            process.resumes_at = self.now
            self._resume(node_id, process)

    def leave(self, node_id: str, *, gone_after_s: float) -> None:
        """Let a node say good-bye; its process ends a little later."""
        process = self.processes[node_id]
        process.is_leaving = True
        self.feed(node_id, Leave())
        self.later(gone_after_s, lambda: self._end(node_id, process))

    def bury(self, observer: str, node_id: str, boot: int) -> None:
        """Let the store prove to `observer` that a process is dead; it must be."""
        assert not self._runs(node_id, boot)
        self._buried.add((node_id, boot))
        self.feed(observer, Buried(node_id, boot))

    def read_table(self, observer: str) -> None:
        """Let `observer` read who holds a live lease: who lives, and who died only just now."""
        nodes = [
            self.known_node(node_id) for node_id, process in self.processes.items() if not process.is_leaving
        ]
        for (node_id, boot), until in self.lease_until.items():
            if until > self.now and node_id not in self.processes:
                nodes.append(KnownNode(node_id, boot, self.meta(node_id)))
        self.feed(observer, Learned(tuple(nodes)))

    def cut(self, groups: Iterable[Iterable[str]]) -> None:
        """Partition the network: only within a group messages come through."""
        sides = [set(group) for group in groups]
        for one in self.node_ids:
            for other in self.node_ids:
                if not any({one, other} <= side for side in sides):
                    self.network.cuts.add((one, other))

    def feed(self, node_id: str, event: Event) -> None:
        """Bring an event to a node, now; a paused one gets it later, a dead one never."""
        process = self.processes.get(node_id)
        if process is None:
            return
        if process.resumes_at > self.now:
            process.backlog.append(event)
            return
        self._step(node_id, process, event)

    def later(self, after_s: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (self.now + after_s, self._serial, action))

    # --- running

    def run(self, for_s: float) -> None:
        end = self.now + for_s
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    def run_until(
        self, condition: Callable[[], bool], *, within_s: float, look_each_s: float = 0.25
    ) -> float:
        """Run until something holds. Returns after how many seconds, or infinity if it took too long."""
        began_at = self.now
        while not condition():
            if self.now - began_at > within_s:
                return float("inf")
            self.run(look_each_s)
        return self.now - began_at

    # --- what a test asks

    @property
    def live(self) -> dict[str, int]:
        """Who runs, in which boot, and does not leave."""
        return {
            node_id: process.state.me.boot
            for node_id, process in self.processes.items()
            if not process.is_leaving
        }

    def view(self, observer: str) -> dict[str, int]:
        """Whom a node believes alive, in which boot."""
        return {member.node_id: member.boot for member in self.processes[observer].state.live_members}

    def agrees(self) -> bool:
        """Tell whether all who live believe alive exactly those who live."""
        live = self.live
        return all(self.view(node_id) == live for node_id in live)

    def believes(self, observer: str, node_id: str) -> Member | None:
        return self.processes[observer].state.member(node_id)

    def describe(self) -> str:
        """Say who believes what, for a test that failed."""
        lines = [f"t={self.now:.3f} live={self.live}"]
        for observer, process in self.processes.items():
            beliefs = [
                f"{member.node_id}/{member.boot}.{member.incarnation} {member.status.name.lower()}"
                for member in process.state.members
            ]
            lines.append(f"  {observer} (health {process.state.health_score}): {', '.join(beliefs)}")
        return "\n".join(lines)

    # --- inside

    def _step(self, node_id: str, process: Process, event: Event) -> None:
        before = process.state
        after, outputs = step(before, event, self.now)
        process.state = after
        self.step_count += 1
        self.trace.update(f"{self.now!r} {node_id} {type(event).__name__} {len(outputs)}\n".encode())
        key = (node_id, after.me.boot)
        self._truth[key] = max(self._truth[key], after.me.incarnation)
        self._check(node_id, before, after)
        for output in outputs:
            match output:
                case Send(to, message):
                    self._transmit(node_id, to, message)
                case SendTo(endpoint, message):
                    self._transmit(node_id, endpoint.host, message)
                case MemberChanged():
                    self.changes.append((self.now, node_id, output))
                case Superseded():
                    assert self._may_be_superseded(node_id, after), f"{node_id} must not stop"
                case _:
                    pass
        due = after.next_deadline
        if due != process.due:
            process.due = due
            if due != NEVER:
                jitter_s = self.random.random() * _TICK_JITTER_S
                self.later(max(0.0, due - self.now) + jitter_s, lambda: self._tick(node_id, process, due))

    def _check(self, node_id: str, before: Membership, after: Membership) -> None:
        assert after.me.precedence >= before.me.precedence
        for other, peer in after.peers.items():
            known = before.peers.get(other)
            if peer is known:
                continue
            member = peer.member
            assert known is None or member.precedence >= known.member.precedence, (
                f"{node_id} went back from {known} to {peer}"
            )
            if member.incarnation == FINAL_INCARNATION:
                assert (other, member.boot) in self._buried, f"{other} was buried by nobody"
            else:
                assert member.incarnation <= self._truth[other, member.boot], f"{other} never took {member}"
            assert (peer.suspicion is not None) == (member.status is Status.SUSPECT)

    def _may_be_superseded(self, node_id: str, state: Membership) -> bool:
        return self.boots[node_id] > state.me.boot or (node_id, state.me.boot) in self._buried

    def _tick(self, node_id: str, process: Process, due: float) -> None:
        if self.processes.get(node_id) is not process or process.due != due:
            return  # something else was due earlier, and this no longer is
        if process.resumes_at > self.now:
            return  # the resumption ticks
        process.due = NEVER
        self._step(node_id, process, Tick())

    def _resume(self, node_id: str, process: Process) -> None:
        if self.processes.get(node_id) is not process or process.resumes_at > self.now:
            return
        backlog, process.backlog = process.backlog, []
        if process.loses_backlog:
            backlog = []
        ticks_first = self.random.random() < 0.5
        for event in (Tick(), *backlog) if ticks_first else (*backlog, Tick()):
            if self.processes.get(node_id) is process:
                self._step(node_id, process, event)

    def _end(self, node_id: str, process: Process) -> None:
        if self.processes.get(node_id) is process:
            del self.processes[node_id]

    def _runs(self, node_id: str, boot: int) -> bool:
        process = self.processes.get(node_id)
        return process is not None and process.state.me.boot == boot

    def _feeder(self, node_id: str, event: Event) -> Callable[[], None]:
        return lambda: self.feed(node_id, event)

    def _transmit(self, sender: str, to: str, message: GossipMessage) -> None:
        network, link = self.network, (sender, to)
        if link in network.cuts or self.random.random() < network.lossy.get(link, network.loss):
            return
        received = Received(sender, self.processes[sender].state.me.boot, message)
        copies = 2 if self.random.random() < network.duplication else 1
        for _ in range(copies):
            arrives_at = self.now + self._delay_s()
            if not network.reorders:
                arrives_at = max(arrives_at, self._last_arrival.get(link, 0.0))
                self._last_arrival[link] = arrives_at
            self.later(arrives_at - self.now, self._feeder(to, received))

    def _delay_s(self) -> float:
        return self.random.uniform(self.network.min_delay_s, self.network.max_delay_s)


def _endpoint(node_id: str) -> Endpoint:
    return Endpoint(node_id, 8082)
