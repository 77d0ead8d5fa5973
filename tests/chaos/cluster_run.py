"""Run one scenario against a real cluster, and print its report: a table, and one JSON line.

    python -m tests.chaos.cluster_run --scenario kill --minutes 3 --seed 7

Where something does not hold, the exit code is 1, and what was found, the seed and the nodes' own warnings
are printed. Everything stays on this machine.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from tests.chaos.load import Scale
from tests.chaos.netns import NETWORK, Networks, can_make_namespaces, open_networks
from tests.chaos.presence_run import run_presence
from tests.chaos.scenarios import FREEZE_S, SCENARIOS, Report, cutting, freeze, run_scenario
from tests.cluster_nodes import ClusterProcesses, raise_file_limit


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", choices=sorted([*SCENARIOS, "cut", "presence"]), default="kill")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--members", type=int, default=500, help="of the group (default %(default)s)")
    parser.add_argument("--listeners", type=int, default=60, help="of them connected (default %(default)s)")
    parser.add_argument("--shards", type=int, default=64, help="probed, of 256 (default %(default)s)")
    parser.add_argument(
        "--replay", type=Path, nargs="*", default=[], help="IRC logs to be replayed meanwhile"
    )
    parser.add_argument("--users", type=int, default=1000, help="of presence (default %(default)s)")
    parser.add_argument(
        "--fault-s",
        type=float,
        default=FREEZE_S,
        help="how long a node is frozen or cut (default %(default)g)",
    )
    parser.add_argument(
        "--inside", default="", help=argparse.SUPPRESS
    )  # the namespaces that were made for it
    parser.add_argument("--keep", type=Path, help="work here, and leave data and logs behind")
    return parser.parse_args()


async def _run(arguments: argparse.Namespace, seed: int, directory: Path) -> Report:
    duration_s = arguments.minutes * 60
    cluster: ClusterProcesses | None = None
    if arguments.scenario == "presence":
        report = Report("presence", seed, arguments.nodes)
        cluster = ClusterProcesses(directory, arguments.nodes)
        try:
            await run_presence(cluster, report, users=arguments.users, stir_s=duration_s)
        finally:
            cluster.end_all()
        return report
    logs: list[Path] = []
    for path in arguments.replay:
        logs += sorted(path.glob("*.txt")) if path.is_dir() else [path]
    scale = Scale(
        members=arguments.members,
        listeners=arguments.listeners,
        shards=arguments.shards,
        # 256 shards at the pace of 64 would be a benchmark.
        probe_every_s=0.5 * max(1.0, arguments.shards / 64),
        replay=logs,
        replay_s=duration_s * 0.9,
    )
    scenario = SCENARIOS.get(arguments.scenario)
    if arguments.scenario == "cut":
        networks = Networks(arguments.inside, arguments.nodes)
        cluster = ClusterProcesses(
            directory,
            *(0, "--unlimited", f"127.0.0.0/8,{NETWORK}.0/24"),
            secret="a secret of all nodes of this run",
        )
        for number in range(1, arguments.nodes + 1):
            cluster.add(host=networks.address(number), within=networks.within(number))
        scenario = cutting(networks, cut_s=arguments.fault_s)
    elif arguments.scenario == "freeze":
        scenario = partial(freeze, frozen_s=arguments.fault_s)
    return await run_scenario(
        arguments.scenario,
        directory,
        node_count=arguments.nodes,
        duration_s=duration_s,
        seed=seed,
        scale=scale,
        scenario=scenario,
        cluster=cluster,
    )


def _run_inside(arguments: argparse.Namespace) -> int:
    """Run this command again where the clients' network is."""
    if not can_make_namespaces():
        print("Cutting networks needs root, iproute2 and network namespaces.", file=sys.stderr)
        return 2
    with open_networks(f"hb{os.getpid()}", arguments.nodes) as networks:
        command = [sys.executable, "-m", "tests.chaos.cluster_run", *sys.argv[1:], "--inside", networks.name]
        return subprocess.run([*networks.within(0), *command], check=False).returncode


def main() -> int:
    """Run as the docstring says."""
    arguments = _arguments()
    if arguments.scenario == "cut" and not arguments.inside:
        return _run_inside(arguments)
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    raise_file_limit()
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        report = trio.run(partial(_run, arguments, seed, directory))
    print(report.table())
    for line in report.evidence:
        print(line, file=sys.stderr)
    print(json.dumps(report.line()), flush=True)
    return 0 if report.is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
