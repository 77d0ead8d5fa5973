"""`hubbub cluster`, and `hubbub cluster status|restart|drain|stop|start|add`: words in, exit code out."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import msgspec
import trio
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from protocol.errors import StorageUnavailable
from server import config
from server.config import ConfigError, Settings
from server.desk import CliError, needs_data
from server.launch import leash
from server.launch.child import Spawn
from server.launch.door import NobodyThere, ask
from server.launch.launcher import Launcher, LauncherLock
from server.launch.log_stream import ConsoleRender, LogFile, LogStream, render_json
from server.launch.orders import Add, Done, Drain, Order, Progress, Restart, Start, Stop
from server.launch.plan import (
    MAX_NODES,
    NodePlan,
    NodePlans,
    find_free_ports,
    first_ports,
    is_free,
    node_flags,
    serve_words,
)
from server.launch.roll import share_in_store
from server.log_setup import set_up_logging
from storage.glance import glance
from storage.locks import NodeLock, write_lock_holder

if TYPE_CHECKING:
    from server.launch.status import ClusterStatus

# Settings that are no flags of a launcher: it gives them to its nodes, or they cannot be the same for all.
OF_ONE_NODE: Final = frozenset({"cluster", "node_id", "cluster_advertise"})

OK: Final = 0
FAILED: Final = 1
PROBLEMS: Final = 3
DEFAULT_NODES: Final = 3
_PORTS_WITHIN_S: Final = 3.0  # nodes of a launcher that was killed are being killed, too
_WATCH_EVERY_S: Final = 2.0

Run = Callable[[argparse.Namespace, Settings], int]


def add_words(parser: argparse.ArgumentParser) -> None:
    """Add what `hubbub cluster` understands beside settings. The parser's own `run` is `run_cluster`."""
    parser.add_argument(
        "--nodes", type=int, default=DEFAULT_NODES, metavar="N", help=f"How many. Default: {DEFAULT_NODES}."
    )
    parser.epilog = (
        "Node 1 has the ports --port, +1 (bots), +2 and +3 (between nodes); each further node ten higher. "
        "Settings go to every node. SIGTERM or Ctrl-C drains all, a second one kills."
    )
    commands = parser.add_subparsers(
        title="commands beside a running cluster",
        metavar="COMMAND",
        required=False,
        parser_class=type(parser),
    )

    def command(name: str, help_text: str, run: Run) -> argparse.ArgumentParser:
        child: argparse.ArgumentParser = commands.add_parser(
            name, help=help_text, description=help_text[:1].upper() + help_text[1:] + "."
        )
        child.set_defaults(run=run)
        # Not a default, which would undo what stood before the command.
        child.add_argument("--data-dir", "--data", dest="data_dir", default=argparse.SUPPRESS, metavar="DIR")
        child.add_argument("--config", default=argparse.SUPPRESS, metavar="FILE", help="settings file")
        child.add_argument("--json", action="store_true", help="print JSON")
        return child

    def waiting(name: str, help_text: str, run: Run) -> argparse.ArgumentParser:
        child = command(name, help_text, run)
        child.add_argument(
            "--timeout",
            type=float,
            default=120.0,
            metavar="S",
            help="how long to wait for each node's shards",
        )
        return child

    status = command("status", "show nodes, shards, load and lag", run_status)
    status.add_argument("--watch", action="store_true", help="show it anew every two seconds")
    status.add_argument("--url", default="", help="a node's address, where no launcher runs")
    restart = waiting("restart", "restart one node after the other; clients just reconnect", run_restart)
    restart.add_argument("node_ids", nargs="*", metavar="NODE", help="these only; else all that run")
    waiting("start", "start a node that is down", run_start).add_argument("node_id", metavar="NODE")
    waiting("add", "run one node more", run_add)
    for name, help_text, run in (
        ("drain", "let a node hand over what it has, and end", run_drain),
        ("stop", "end a node at once", run_stop),
    ):
        command(name, help_text, run).add_argument("node_id", metavar="NODE")


# -- the launcher itself ----------------------------------------------------------------------------


def run_cluster(args: argparse.Namespace, settings: Settings) -> int:
    """Run the nodes until told to end; returns the exit code.

    Raises: ConfigError, CliError, OSError, and what the store raises, before anything is started.
    """
    if not 1 <= args.nodes <= MAX_NODES:
        raise ConfigError(f"--nodes is {args.nodes}; it is 1 to {MAX_NODES}.")
    if settings.cluster_advertise:
        raise ConfigError(
            "cluster_advertise is the address of one node; leave it out, or use `hubbub serve`."
        )
    directory = settings.data_path.absolute()
    given: Mapping[str, Any] = args.given
    lock = LauncherLock(directory)
    try:
        plans = NodePlans(settings, first_ports(settings, args.sources), find_free=find_free_ports)
        numbers = range(1, args.nodes + 1)
        secret = config.cluster_secret(settings)
        for number in numbers:  # so that what is wrong is said once, and before anything runs
            flags = node_flags(plans.plan(number), given, str(directory))
            environ = {**os.environ, "HUBBUB_CLUSTER_SECRET": secret}
            config.load(flags, environ, config_file=args.config)
        _check_place(directory, [plans.plan(number) for number in numbers])
        logs = LogStream(sys.stderr.fileno(), _render_for(settings))
        own = cast("TextIO", LogFile(logs, "launcher"))
        set_up_logging(log_format="json", level=settings.log_level, stream=own)
        launcher = Launcher(
            directory,
            plans,
            args.nodes,
            command=child_command(given, args.config, directory, "" if settings.cluster_secret else secret),
            logs=logs,
            read_share=share_in_store(directory),
            read_holder=write_lock_holder,
            drain_s=settings.drain_s,
            on_ready=lambda pages: print(f"hubbub is at {', '.join(pages)}", flush=True),
        )
        try:
            return trio.run(launcher.run)
        finally:
            logs.close()
    finally:
        lock.close()


def child_command(
    given: Mapping[str, Any], config_file: str, directory: Path, secret: str
) -> Callable[[NodePlan], Spawn]:
    """Return the function that tells how to start a node. An empty `secret`: they have one from settings."""
    root = Path(__file__).resolve().parents[2]
    # The folder of whoever calls may have a `server` in it that is not ours.
    python = [sys.executable] if Path.cwd() == root else [sys.executable, "-P"]

    def command(plan: NodePlan) -> Spawn:
        flags = node_flags(plan, given, str(directory))
        environ = {**os.environ, leash.VARIABLE: str(os.getpid())}
        if secret:
            environ["HUBBUB_CLUSTER_SECRET"] = secret
        return Spawn([*python, "-m", "server", *serve_words(flags, config_file)], environ)

    return command


def _check_place(directory: Path, plans: list[NodePlan]) -> None:
    """Find out what is in the way, and say so in a sentence. Raises: Refused, CliError."""
    node_lock = NodeLock(directory)
    try:
        node_lock.take_shared()
    finally:
        node_lock.close()
    deadline = time.monotonic() + _PORTS_WITHIN_S
    for plan in plans:
        for host, port in plan.ports.values():
            while not is_free(host, port):
                if time.monotonic() > deadline:
                    raise CliError(
                        f"{host} port {port}, for {plan.node_id}, is in use; stop what runs there, "
                        "or choose others with --port."
                    )
                time.sleep(0.05)  # nothing else is to be done yet


def _render_for(settings: Settings) -> Callable[[str, bytes], bytes]:
    is_terminal = sys.stderr.isatty()
    if settings.log_format == "console" or (settings.log_format == "auto" and is_terminal):
        return ConsoleRender(has_colours=is_terminal)
    return render_json


# -- orders -----------------------------------------------------------------------------------------


def run_restart(args: argparse.Namespace, settings: Settings) -> int:
    return _order(args, settings, Restart(node_ids=args.node_ids, timeout_s=_timeout_s(args)))


def run_drain(args: argparse.Namespace, settings: Settings) -> int:
    return _order(args, settings, Drain(node_id=args.node_id))


def run_stop(args: argparse.Namespace, settings: Settings) -> int:
    return _order(args, settings, Stop(node_id=args.node_id))


def run_start(args: argparse.Namespace, settings: Settings) -> int:
    return _order(args, settings, Start(node_id=args.node_id, timeout_s=_timeout_s(args)))


def run_add(args: argparse.Namespace, settings: Settings) -> int:
    return _order(args, settings, Add(timeout_s=_timeout_s(args)))


def _timeout_s(args: argparse.Namespace) -> float:
    if not args.timeout > 0:
        raise ConfigError(f"--timeout is {args.timeout}; it is a number of seconds above 0.")
    return float(args.timeout)


def _order(args: argparse.Namespace, settings: Settings, order: Order) -> int:
    """Ask the launcher, and follow along until it is done. Leaving stops a roll before its next node."""
    try:
        for answer in ask(settings.data_path.absolute(), order):
            if args.json:
                print(msgspec.json.encode(answer).decode(), flush=True)
            elif isinstance(answer, Progress):
                print(f"{answer.node_id}: {answer.text}", flush=True)
            if isinstance(answer, Done):
                if answer.text:
                    print(f"hubbub: {answer.text}", file=sys.stderr)
                return answer.code
    except NobodyThere as exc:
        raise CliError(str(exc)) from None
    raise CliError("The launcher ended before it was done; its log says why.")


# -- status -----------------------------------------------------------------------------------------


def run_status(args: argparse.Namespace, settings: Settings) -> int:
    """Show how the cluster is; PROBLEMS where a person should look."""
    if args.watch and not args.json:
        with Live(console=_console(), auto_refresh=False) as live:
            while True:  # until Ctrl-C
                live.update(_picture(_status(args, settings), settings), refresh=True)
                time.sleep(_WATCH_EVERY_S)
    status = _status(args, settings)
    if args.json:
        print(msgspec.json.encode(status).decode())
    elif sys.stdout.isatty():
        _console().print(_picture(status, settings))
    else:
        for row in _rows(status):
            print("\t".join(row))
        for problem in status.problems:
            print(problem, file=sys.stderr)
    return PROBLEMS if status.problems else OK


def _console() -> Console:
    return Console(highlight=False, markup=False)  # an address such as [::1]:8082 is no markup


def _status(args: argparse.Namespace, settings: Settings) -> "ClusterStatus":
    # Brings an HTTP client with it, which no other command is to wait for.
    from server.launch.status import ask_nodes, look_up_state, put_together

    needs_data(settings)
    directory = settings.data_path.absolute()
    try:
        seen = glance(directory)
    except StorageUnavailable as exc:
        raise CliError(exc.message) from None
    state = look_up_state(directory)
    urls = [node.local_url for node in state.nodes if node.pid] if state is not None else []
    if args.url or not urls:
        host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host
        scheme = "https" if settings.is_tls else "http"
        urls.append(args.url.rstrip("/") or f"{scheme}://{host}:{settings.port}")
    views = trio.run(ask_nodes, urls, settings.admin_token)
    return put_together(seen, state, _of_this_cluster(views, seen.members))


def _of_this_cluster(views: dict[str, Any], members: list[Any]) -> dict[str, Any]:
    """Leave out a node of another directory that happens to have the port that we guessed."""
    lives = {(member.node_id, member.boot) for member in members}
    return {node_id: view for node_id, view in views.items() if (node_id, view.boot) in lives}


COLUMNS: Final = (
    "node", "state", "pid", "restarts", "boot", "address", "lease", "shards", "epochs",
    "connections", "cpu", "lag", "load", "users", "presence",
)  # fmt: skip


def _rows(status: "ClusterStatus") -> list[list[str]]:
    """What is shown of each node, in the order of COLUMNS; "-" for what could not be learnt."""

    def shown(value: object, form: str = "{}") -> str:
        return "-" if value is None else form.format(value)

    return [
        [
            line.node_id,
            line.state + (" (draining)" if line.is_draining and line.state == "up" else ""),
            shown(line.pid),
            shown(line.restarts),
            shown(line.boot or None),
            line.address or "-",
            f"{line.lease_left_ms / 1000:.1f} s",
            shown(line.shard_count),
            "-" if line.epoch_min is None else f"{line.epoch_min}-{line.epoch_max}",
            shown(line.connection_count),
            shown(line.cpu_share, "{:.0%}"),
            "-" if line.loop_lag_s is None else f"{line.loop_lag_s * 1000:.0f} ms",
            shown(line.load, "{:.2f}"),
            shown(line.presence_users),
            (line.presence_digest or "-")[:8],
        ]
        for line in status.nodes
    ]


def _picture(status: "ClusterStatus", settings: Settings) -> Group:
    launcher = f"launcher {status.launcher_pid}" if status.launcher_pid else "no launcher"
    agreed = {True: "all agree on presence", False: "presence is on its way", None: "presence is not told"}
    head = (
        f"{settings.data_dir}: {len(status.nodes)} nodes, {launcher}, {status.shard_count} shards, "
        f"{status.unowned_count} without an owner, {agreed[status.is_presence_agreed]}"
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in COLUMNS:
        table.add_column(name)
    for row in _rows(status):
        table.add_row(*row)
    return Group(head, table, *(f"! {problem}" for problem in status.problems))
