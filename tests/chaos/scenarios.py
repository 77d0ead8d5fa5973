"""What is done to a cluster under load, and the report of it.

Each scenario is a timetable of faults. It runs with `running_load` around it, which afterwards lets everybody
catch up and judges. One seed gives the same choices again; the moments are the machine's.
"""

import random
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trio

from server.launch.frozen import LOOK_EVERY_S, LockWatch
from storage.locks import write_lock_holder
from tests.chaos.checker import Fault, Findings, outages, summed_up
from tests.chaos.load import Load, Scale
from tests.cluster_nodes import ClusterNode, ClusterProcesses
from tests.nodes import ROOT

KILL_EVERY_S = 20.0
FREEZE_S = 30.0  # longer than a lease (9 s): the frozen node comes back to shards that are others'
CALM_S = 10.0  # between two freezes or cuts: everybody is back, and the shards too
BOUND_S = 15.0  # unavailability of a shard after a fault, as the design promises
BALANCE = 0.10  # how far a node may be from its fair part of the shards


@dataclass(slots=True)
class Report:
    """One run, for people and for machines."""

    scenario: str
    seed: int
    nodes: int
    seconds: float = 0.0
    counts: dict[str, object] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    outage: dict[str, float] = field(default_factory=dict)
    notes: dict[str, object] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        return not self.findings

    def line(self) -> dict[str, object]:
        """Without the evidence: one JSON line."""
        return {
            "scenario": self.scenario,
            "ok": self.is_ok,
            "seed": self.seed,
            "commit": _commit(),
            "nodes": self.nodes,
            "seconds": round(self.seconds, 1),
            **self.counts,
            "faults": len(self.faults),
            "outage": self.outage,
            **self.notes,
            "findings": self.findings,
        }

    def table(self) -> str:
        rows: list[tuple[str, object]] = [("scenario", self.scenario), ("seed", self.seed)]
        rows += [("nodes", self.nodes), ("seconds", round(self.seconds, 1))]
        rows += [*self.counts.items(), *self.notes.items()]
        rows += [(f"outage {name}", value) for name, value in self.outage.items()]
        rows += [(f"fault {number}", fault) for number, fault in enumerate(self.faults, 1)]
        rows.append(("result", "everything held" if self.is_ok else f"{len(self.findings)} findings"))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        return "\n".join([*lines, *(f"WRONG: {text}" for text in self.findings)])

    def demand(self) -> None:
        """Fail, with all evidence, where anything is wrong."""
        print(self.table())
        if not self.is_ok:
            raise AssertionError("\n".join([f"seed {self.seed}", *self.findings, "", *self.evidence]))


class Run:
    """A scenario under way."""

    def __init__(self, cluster: ClusterProcesses, load: Load, seed: int) -> None:
        self.cluster = cluster
        self.load = load
        self.rng = random.Random(f"faults {seed}")
        self.faults: list[Fault] = []
        self.notes: dict[str, object] = {}
        self.findings = Findings()
        self.started_at = trio.current_time()
        self.ended_at = 0.0

    async def note_fault(self, name: str, node: ClusterNode) -> Fault:
        """Record a fault that is about to be done to a node, and what the node owns at this moment."""
        owned = await trio.to_thread.run_sync(self.cluster.owned)
        shards = owned.get(node.name, []) if self.cluster.is_clustered else range(256)
        now = trio.current_time()
        if self.faults:
            self.faults[-1].until = now
        fault = Fault(name, node.name, now, frozenset(shards))
        self.faults.append(fault)
        return fault

    def describe(self) -> list[str]:
        return [
            f"{fault.at - self.started_at:6.1f} s {fault.name} {fault.node}, owner of {len(fault.shards)}"
            for fault in self.faults
        ]


Scenario = Callable[[Run, float], Awaitable[None]]


async def kill(run: Run, duration_s: float, *, every_s: float = KILL_EVERY_S) -> None:
    """SIGKILL to a random node again and again; each is started again a random time later."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        due = start + min(every_s / 2, 5.0)
        while due < start + duration_s:
            await trio.sleep_until(due)
            due += every_s
            node = run.rng.choice([node for node in run.cluster.nodes if node.is_running])
            await run.note_fault("kill -9", node)
            await trio.to_thread.run_sync(node.kill)
            nursery.start_soon(_start_after, node, run.rng.uniform(0.0, every_s * 0.4))
        await trio.sleep_until(max(start + duration_s, due - every_s / 2))


async def _start_after(node: ClusterNode, delay_s: float) -> None:
    await trio.sleep(delay_s)
    await trio.to_thread.run_sync(node.start)


async def freeze(run: Run, duration_s: float, *, frozen_s: float = FREEZE_S, calm_s: float = CALM_S) -> None:
    """SIGSTOP to a random node for longer than its lease, again and again.

    One that is stopped in the middle of a commit holds up the whole directory; it is killed and started
    again, as `hubbub cluster` does with its nodes.
    """
    start = trio.current_time()
    await trio.sleep(min(calm_s, 5.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_lock, run)
        while trio.current_time() + frozen_s <= start + duration_s:
            node = run.rng.choice(run.cluster.nodes)
            await run.note_fault(f"SIGSTOP for {frozen_s:g} s of", node)
            node.freeze()
            try:
                await trio.sleep(frozen_s)
            finally:
                node.thaw()
            await trio.sleep(calm_s)
        nursery.cancel_scope.cancel()


async def _watch_lock(run: Run) -> None:
    """Do what the launcher does about a node that keeps the store's write lock."""
    watch = LockWatch()
    count = 0
    while True:
        await trio.sleep(LOOK_EVERY_S)
        nodes = {node.pid: node for node in run.cluster.nodes if node.is_running}
        holder = await trio.to_thread.run_sync(write_lock_holder, run.cluster.data_dir)
        condemned = watch.look(holder, trio.current_time(), up=nodes.keys(), starting=())
        if condemned is not None:
            count += 1
            run.notes["killed_with_the_write_lock"] = count
            await trio.to_thread.run_sync(nodes[condemned].kill)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(nodes[condemned].start)


class Cutter(Protocol):
    """Something that can cut the network between nodes."""

    def cut(self, source: ClusterNode, target: ClusterNode) -> None: ...

    def heal(self) -> None: ...


def cutting(cutter: Cutter, *, cut_s: float = FREEZE_S, calm_s: float = CALM_S) -> Scenario:
    """Cut one node off from all others, or one pair of nodes, or one direction, again and again."""

    async def cut(run: Run, duration_s: float) -> None:
        start = trio.current_time()
        await trio.sleep(min(calm_s, 5.0))
        while trio.current_time() + cut_s <= start + duration_s:
            node, *others = run.rng.sample(run.cluster.nodes, len(run.cluster.nodes))
            kind = run.rng.choice(["isolate", "part", "deafen"])
            await run.note_fault(f"{kind} for {cut_s:g} s", node)
            try:
                for other in others if kind == "isolate" else others[:1]:
                    cutter.cut(other, node)
                    if kind != "deafen":
                        cutter.cut(node, other)
                await trio.sleep(cut_s)
            finally:
                cutter.heal()
            await trio.sleep(calm_s)

    return cut


async def grow(run: Run, duration_s: float) -> None:
    """A node joins under load; when the shards are balanced, another one is drained."""
    await trio.sleep(3.0)
    newcomer = run.cluster.add()
    await run.note_fault("join of", newcomer)
    await trio.to_thread.run_sync(newcomer.start)
    run.load.add_node(newcomer)
    run.notes["balanced_after_join_s"] = await _until_balanced(run, duration_s)
    leaver = run.rng.choice(run.cluster.nodes[:-1])
    await run.note_fault("drain of", leaver)
    began = trio.current_time()
    code = await trio.to_thread.run_sync(leaver.stop)
    run.notes["drain_s"] = round(trio.current_time() - began, 1)
    if code != 0:
        run.findings.add("drain", f"{leaver.name} ended with {code}")
    run.notes["balanced_after_drain_s"] = await _until_balanced(run, duration_s)
    run.notes["owned_at_the_end"] = {
        name: len(shards) for name, shards in run.cluster.owned().items() if shards
    }


async def _until_balanced(run: Run, timeout_s: float) -> float:
    """Wait until each running node owns its fair part. Returns how long it took."""
    began = trio.current_time()
    counts: dict[str, int] = {}
    while trio.current_time() < began + timeout_s:
        owned = await trio.to_thread.run_sync(run.cluster.owned)
        counts = {name: len(shards) for name, shards in owned.items() if shards}
        if is_balanced(counts, [node.name for node in run.cluster.nodes if node.is_running]):
            return round(trio.current_time() - began, 1)
        await trio.sleep(0.5)  # the store tells nobody when it changes
    run.findings.add("balance", f"after {timeout_s:g} s the shards are {counts}")
    return round(timeout_s, 1)


def is_balanced(counts: dict[str, int], names: list[str], *, shard_count: int = 256) -> bool:
    """Whether exactly these nodes own everything, each within a tenth of its fair part."""
    fair = shard_count / len(names)
    return set(counts) == set(names) and all(
        abs(count - fair) <= max(1.0, fair * BALANCE) for count in counts.values()
    )


@asynccontextmanager
async def running_load(
    cluster: ClusterProcesses, scale: Scale, report: Report, *, bound_s: float = BOUND_S
) -> AsyncIterator[Run]:
    """Load around a scenario. When the block ends all is healed, everybody catches up, and is judged."""
    load = Load(cluster, scale, report.seed)
    await load.prepare()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(load.run)
        run = Run(cluster, load, report.seed)
        yield run
        run.ended_at = trio.current_time()
        findings = await load.settle()
    findings.by_kind.update(run.findings.by_kind)
    report.seconds = trio.current_time() - began
    report.counts = load.counts()
    report.notes |= run.notes
    report.faults = run.describe()
    found = outages(load.prober.acks, run.faults, max(run.ended_at, _last_ack(load)))
    report.outage = summed_up(found)
    for outage in found:
        if outage.gap_s > bound_s:
            fault = outage.fault
            findings.add(
                "unavailable",
                f"shard {outage.shard} for {outage.gap_s:.1f} s after {fault.name} {fault.node} at "
                f"{fault.at - run.started_at:.1f} s{', its owner' if outage.is_hit else ''}",
            )
    report.findings += findings.lines()
    if not report.is_ok:
        report.evidence = await trio.to_thread.run_sync(cluster.evidence)


def _last_ack(load: Load) -> float:
    return max((times[-1] for times in load.prober.acks.values() if times), default=0.0)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, cwd=ROOT, text=True, check=False
    )
    return done.stdout.strip()


SCENARIOS: dict[str, Scenario] = {"kill": kill, "freeze": freeze, "grow": grow}


async def run_scenario(
    name: str,
    directory: Path,
    *,
    node_count: int,
    duration_s: float,
    seed: int,
    scale: Scale,
    scenario: Scenario | None = None,
    cluster: ClusterProcesses | None = None,
) -> Report:
    """Start the nodes, run a scenario on them under load, and end them. Returns the report."""
    report = Report(name, seed, node_count)
    cluster = cluster or ClusterProcesses(directory, node_count)
    began = time.monotonic()
    try:
        await trio.to_thread.run_sync(cluster.start_all)
        report.notes["start_s"] = round(time.monotonic() - began, 1)
        if cluster.is_clustered:
            await until_owned(cluster)
        async with running_load(cluster, scale, report) as run:
            await (scenario or SCENARIOS[name])(run, duration_s)
        codes = await trio.to_thread.run_sync(cluster.stop_all)
        if any(codes.values()):
            report.findings.append(f"exit: the nodes ended with {codes}")
            report.evidence = report.evidence or cluster.evidence()
    finally:
        cluster.end_all()
    return report


async def until_owned(cluster: ClusterProcesses, timeout_s: float = 60.0) -> None:
    """Wait until every shard has an owner. Raises: trio.TooSlowError."""
    with trio.fail_after(timeout_s):
        while True:
            if all(row.owner for row in await trio.to_thread.run_sync(cluster.shards)):
                return
            await trio.sleep(0.1)  # the store tells nobody when it changes
