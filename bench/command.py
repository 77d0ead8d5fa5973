"""`hubbub bench`: measure a node, or a cluster, and the usual alternatives beside it, on this machine.

Starts the servers itself, each in a fresh directory and durable as by default, or takes the address of one
that runs. Prints a table; writes JSON lines and a page with charts.
"""

import argparse
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import feed, notify
from bench.feed_graph import power_law, read_edges
from bench.feed_target import FeedHubbub, FeedWorld
from bench.load.cluster_target import HubbubCluster
from bench.load.target import PEERS, Cores, Hubbub, Remote
from bench.notify_cast import USER_COUNT
from bench.notify_target import NotifyHubbub, NotifyWorld
from bench.peers.dramatiq_notify import DRAMATIQ
from bench.peers.dramatiq_notify import is_installed as has_dramatiq
from bench.peers.redis_feed import REDIS, is_installed
from bench.report import Measurement, append_line, machine, to_html, to_table
from bench.runner import CannotRun, Entrant, Job, Plan, run_jobs
from bench.workloads import WORKLOADS

OK: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 130  # as shells say it: 128 and the number of SIGINT
ACCOUNT_COUNT: Final = 100_000  # of a feed's graph that is grown: enough for authors above 10,000 followers
FOLLOWS_EACH: Final = 5
GRAPH_SEED: Final = 1
QUICK_S: Final = 1.0
QUICK_SCALE: Final = 0.02
_PLAIN_WIDTH: Final = 100  # columns, where no terminal says how many it has


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Measure a node and the usual alternatives beside it, on this machine."
    parser.epilog = "workloads:\n" + "\n".join(
        f"  {workload.name}  {workload.title}\n      {'; '.join(workload.variants)}"
        for workload in WORKLOADS.values()
    )
    parser.add_argument("workloads", nargs="*", metavar="W1", help="which; W1 to W9, if none is named")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="TEXT",
        help="only variants whose name contains this; may be given more than once",
    )
    parser.add_argument(
        "--wire", default="json,msgpack,bot", metavar="LIST", help="json, msgpack, bot; default: all three"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3; medians are shown")
    parser.add_argument(
        "--seconds", type=float, default=8.0, metavar="S", help="measured part of a run, default 8"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="of the number of users; 0.1 to try it out"
    )
    parser.add_argument(
        "--nodes", default="1", metavar="LIST", help="numbers of nodes to run on, such as 1,3; default 1"
    )
    parser.add_argument(
        "--peers",
        default=",".join(PEERS),
        metavar="LIST",
        help="uvicorn (the usual one, which ratios are to), uvicorn-tuned (an expert's); default: both",
    )
    parser.add_argument("--no-peer", action="store_true", help="measure hubbub only")
    parser.add_argument(
        "--server-cores", default="", metavar="LIST", help="cores for the servers; default: the first one"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("bench-results"), metavar="DIR", help="default bench-results"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="leave the servers' directories and logs there"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one short round with a fiftieth of the users: does it work here?",
    )
    add_people_arguments(parser)
    address = parser.add_argument_group("a server that runs already, instead of starting one")
    address.add_argument("--address", metavar="HOST:PORT", help="its page's port; limits must be raised")
    address.add_argument("--bot-address", metavar="HOST:PORT", help="its bot port")
    address.add_argument("--app-key", metavar="KEY", help="of `hubbub keys create`")
    address.add_argument("--app-secret", metavar="SECRET", help="of the same")


def add_people_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the news feed's workload takes."""
    people = parser.add_argument_group("the people of `hubbub bench feed`")
    people.add_argument(
        "--graph", type=Path, metavar="FILE", help='lines "u v", u follows v; .gz too; default: one is grown'
    )
    people.add_argument(
        "--accounts", type=int, default=ACCOUNT_COUNT, metavar="N", help=f"grown; default {ACCOUNT_COUNT:,}"
    )
    people.add_argument(
        "--follows", type=int, default=FOLLOWS_EACH, metavar="M", help=f"by each, default {FOLLOWS_EACH}"
    )
    people.add_argument(
        "--by-commands", action="store_true", help="let up to 5,000 people follow and post for real"
    )
    people.add_argument(
        "--people", type=Path, metavar="DIR", help="keep the filled store there, and find it in later runs"
    )


def run(options: argparse.Namespace) -> int:
    """Measure; returns the exit code: 1: a server did not start, or a run was not sound; 130: stopped."""
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    if not hasattr(select, "epoll"):
        console.print("hubbub bench: it needs Linux: epoll, /proc, core affinity.", style="red")
        return FAILED
    try:
        plan = make_plan(options)
        cores = Cores(_server_cores(options.server_cores))
    except ValueError as exc:
        console.print(f"hubbub bench: {exc}", style="red", highlight=False)
        return FAILED
    if any(workload.has_own_targets for workload in plan.workloads) and not (
        options.no_peer or is_installed()
    ):
        console.print("There is no redis-server here to measure beside it: apt install redis-server.")
    cores.pin_client()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    stem = time.strftime("bench-%Y%m%d-%H%M%S")
    lines, page = options.out / f"{stem}.jsonl", options.out / f"{stem}.html"
    here = machine(pinned=str(cores))
    append_line(lines, here)
    measured: list[Measurement] = []
    code = OK
    # Ended by SIGTERM, it stops its servers and removes their directories just as by Ctrl-C.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for measurement in run_jobs(plan, cores, keep=options.keep, on_start=_announcer(console)):
            measured.append(measurement)
            append_line(lines, measurement)
            _tell(console, measurement)
    except CannotRun as exc:
        console.print(f"hubbub bench: {exc}", style="red", highlight=False)
        code = FAILED
    except KeyboardInterrupt:
        console.print("Interrupted; what was measured so far:")
        code = INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)
    if measured:
        console.print(to_table(here, measured))
        page.write_text(to_html(here, measured), encoding="utf-8")
        console.print(f"\n{lines}\n{page}", highlight=False)
    return code or (OK if all(measurement.is_sound for measurement in measured) else FAILED)


def make_plan(options: argparse.Namespace) -> Plan:
    """Make sense of the arguments. Raises: ValueError, with a sentence."""
    if options.quick:
        options.rounds, options.seconds, options.scale = 1, QUICK_S, QUICK_SCALE
    names = [name.upper() for name in options.workloads] or [
        name for name, workload in WORKLOADS.items() if not workload.has_own_targets
    ]
    for name in names:
        if name not in WORKLOADS:
            raise ValueError(f"there is no workload {name}; there are {', '.join(WORKLOADS)}")
    wires = [wire for wire in options.wire.split(",") if wire]
    for wire in wires:
        if wire not in Hubbub.wires:
            raise ValueError(f"there is no wire {wire}; there are {', '.join(Hubbub.wires)}")
    if options.rounds < 1:
        raise ValueError(f"--rounds: {options.rounds} is not above 0")
    for name, value in (("--seconds", options.seconds), ("--scale", options.scale)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: {value} is not a finite number above 0")
    plan = Plan(
        workloads=[WORKLOADS[name] for name in names],
        variants=options.variant,
        entrants=[
            *_entrants(options, wires),
            *_feed_entrants(options, names, wires),
            *_notify_entrants(options, names),
        ],
        rounds=options.rounds,
        seconds=options.seconds,
        scale=options.scale,
    )
    if not plan.jobs():
        raise ValueError("nothing to run: no workload named has such a variant, wire or number of nodes")
    return plan


def _entrants(options: argparse.Namespace, wires: Sequence[str]) -> list[Entrant]:
    if options.address:
        if not (options.app_key and options.app_secret):
            raise ValueError("--address needs --app-key and --app-secret")
        _check_address("--address", options.address)
        if options.bot_address:
            _check_address("--bot-address", options.bot_address)
        remote: dict[str, object] = {
            "address": options.address,
            "bot_address": options.bot_address or "",
            "app_key": options.app_key,
            "app_secret": options.app_secret,
        }
        return [
            Entrant(Remote, wire, options=remote) for wire in wires if wire != "bot" or options.bot_address
        ]
    peers = [] if options.no_peer else [name for name in options.peers.split(",") if name]
    for name in peers:
        if name not in PEERS:
            raise ValueError(f"there is no peer {name}; there are {', '.join(PEERS)}")
    entrants = []
    for count in _whole_numbers("--nodes", options.nodes):
        if count < 1:
            raise ValueError(f"--nodes: {count} is not above 0")
        if count > 1:
            entrants += [Entrant(HubbubCluster, wire, count, {"node_count": count}) for wire in wires]
            continue
        entrants += [Entrant(Hubbub, wire) for wire in wires]
        entrants += [Entrant(PEERS[name], "json") for name in peers]
    return entrants


def _feed_entrants(options: argparse.Namespace, names: Sequence[str], wires: Sequence[str]) -> list[Entrant]:
    """Who takes part in the news feed's workload, all with the same people. Raises: ValueError."""
    name = feed.WORKLOAD.name
    if name not in names:
        return []
    if options.address:
        raise ValueError("feed prepares its servers itself: not with --address")
    world: dict[str, object] = {"world": world_of(options, scale=options.scale)}
    entrants = [Entrant(FeedHubbub, wire, options=world, workload=name) for wire in wires]
    if not options.no_peer and is_installed():
        entrants += [Entrant(kind, "resp", options=world, workload=name) for kind in REDIS]
    return entrants


def _notify_entrants(options: argparse.Namespace, names: Sequence[str]) -> list[Entrant]:
    """Who takes part in the notifications' workload. Raises: ValueError."""
    name = notify.WORKLOAD.name
    if name not in names:
        return []
    if options.address:
        raise ValueError("notify prepares its servers itself: not with --address")
    world: dict[str, object] = {"world": NotifyWorld(round(USER_COUNT * options.scale))}
    entrants = [Entrant(NotifyHubbub, "bot", options=world, workload=name)]
    if not options.no_peer and has_dramatiq():
        entrants += [
            Entrant(kind, "redis", workload=name, variants=(notify.PEER_VARIANT,)) for kind in DRAMATIQ
        ]
    return entrants


def world_of(options: argparse.Namespace, *, scale: float = 1.0) -> FeedWorld:
    """Make sense of the arguments about the feed's people. Raises: ValueError, with a sentence."""
    if options.graph is None:
        graph = power_law(round(options.accounts * scale), options.follows, seed=GRAPH_SEED)
    else:
        try:
            graph = read_edges(options.graph)
        except OSError as exc:
            raise ValueError(f"--graph: {exc}") from exc
    return FeedWorld(graph, directory=options.people, by_commands=options.by_commands)


def _check_address(option: str, address: str) -> None:
    """Raises: ValueError, where there is no port behind a colon."""
    _, colon, port = address.rpartition(":")
    if not (colon and port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
        raise ValueError(f"{option}: {address} is not HOST:PORT")


def _whole_numbers(option: str, listed: str) -> list[int]:
    """Read "1,3". Raises: ValueError, with a sentence."""
    parts = [part.strip() for part in listed.split(",") if part.strip()]
    for part in parts:
        if not (part.isascii() and part.isdecimal()):
            raise ValueError(f"{option}: {part} is not a whole number")
    return [int(part) for part in parts]


def _server_cores(listed: str) -> list[int]:
    """Read the servers' cores. Raises: ValueError, where this process may not use one."""
    usable = os.sched_getaffinity(0)
    cores = _whole_numbers("--server-cores", listed)
    for core in cores:
        if core not in usable:
            raise ValueError(
                f"--server-cores: core {core} is not one of those that this process may use: "
                + ", ".join(map(str, sorted(usable)))
            )
    return cores


def _announcer(console: Console) -> Callable[[Job, int, int], None]:
    def announce(job: Job, number: int, count: int) -> None:
        console.print(
            f"[{number}/{count}] {job.workload.name} {job.variant}, {job.entrant.title}, round {job.round} …",
            style="dim",
            highlight=False,
            markup=False,
        )

    return announce


def _tell(console: Console, measurement: Measurement) -> None:
    figures = ", ".join(
        f"{figure.name} {figure.value:,.4g}{' ' * (len(figure.unit) > 2)}{figure.unit}"
        for figure in measurement.figures
    )
    latency = measurement.latencies[0] if measurement.latencies else None
    times = (
        "" if latency is None else f", {latency.name} p50 {latency.p50_ms:.1f} p99 {latency.p99_ms:.1f} ms"
    )
    mark = "" if measurement.is_sound else " NOT SOUND: " + "; ".join(measurement.findings)
    console.print(f"    {figures}{times}{mark}", highlight=False, markup=False)


if __name__ == "__main__":
    command = argparse.ArgumentParser(prog="hubbub bench")
    add_arguments(command)
    sys.exit(run(command.parse_args()))
