"""Who does not belong to the cluster is refused and counted, and noise on its ports harms nothing."""

import os
import random
import re
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio

from tests.chaos.authority import Authority
from tests.chaos.intruders import pester
from tests.chaos.load import SHORT
from tests.chaos.scenarios import Report, Run, run_scenario
from tests.cluster_nodes import ClusterNode, ClusterProcesses

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

SECRET = "known to all nodes of this test"
MAX_GROWTH_KIB = 64 * 1024  # of a node; a warm allocator takes its part
REFUSED = re.compile(r"^hubbub_cluster\w*refused\w*(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


async def _refused(node: ClusterNode) -> float:
    """How many peers and frames a node has refused, of whatever kind."""
    async with httpx.AsyncClient(timeout=10.0) as http:
        text = (await http.get(f"{node.url}/metrics")).text
    found = REFUSED.findall(text)
    assert found, "the node counts no refusals"
    return sum(float(value) for value in found)


async def _until_refused(nodes: list[ClusterNode], more_than: float) -> bool:
    with trio.move_on_after(20):
        while True:
            if sum([await _refused(node) for node in nodes]) > more_than:
                return True
            await trio.sleep(0.2)  # counters tell nobody when they change
    return False


async def test_strangers_and_noise_are_refused_counted_and_harm_nothing(tmp_path: Path) -> None:
    """A cluster port may be reached by whoever shares the network."""
    seed = int(os.environ.get("HUBBUB_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    authority, other_authority = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    cluster = ClusterProcesses(tmp_path, 0, secret=SECRET)
    for number in (1, 2):
        cluster.add(*authority.flags(f"node{number}"))

    strangers = {
        "another secret": (authority.flags("stranger"), "not what the others know, but long"),
        "another authority": (other_authority.flags("stranger"), SECRET),
    }

    async def intrude(run: Run, _: float) -> None:
        nodes = cluster.nodes
        ports = [port for node in nodes for port in (node.cluster_port, node.cluster_port + 1)]
        before_kib = [node.rss_kib() for node in nodes]
        refused = sum([await _refused(node) for node in nodes])
        run.notes["noise"] = await pester(ports, random.Random(seed), rounds=48)
        run.notes["growth_kib"] = [node.rss_kib() - kib for node, kib in zip(nodes, before_kib, strict=True)]
        if max(run.notes["growth_kib"]) > MAX_GROWTH_KIB:  # type: ignore[call-overload]
            run.findings.add("growth", str(run.notes["growth_kib"]))
        if not await _until_refused(nodes, refused):
            run.findings.add("refusals", "noise was not counted")
        for what, (flags, secret) in strangers.items():
            refused = sum([await _refused(node) for node in nodes])
            own = ClusterProcesses(tmp_path / what.replace(" ", "-"), 0, secret=secret)
            own.directory.mkdir()
            stranger = own.add("--join", f"127.0.0.1:{nodes[0].cluster_port}", *flags)
            try:
                with suppress(AssertionError):  # it may also give up by itself
                    await trio.to_thread.run_sync(stranger.start)
                if not await _until_refused(nodes, refused):
                    run.findings.add("refusals", f"a node with {what} was not counted")
            finally:
                own.end_all()
        if {member.node_id for member in cluster.members()} != {"n1", "n2"}:
            run.findings.add("members", str(cluster.members()))

    report: Report = await run_scenario(
        "intruders",
        tmp_path,
        node_count=2,
        duration_s=0.0,
        seed=seed,
        scale=SHORT,
        scenario=intrude,
        cluster=cluster,
    )
    report.demand()
