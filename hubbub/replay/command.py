"""The command line of `hubbub replay`."""

import argparse
import os
import sys
from pathlib import Path
from typing import Final

import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hubbub.irc import Plan
from hubbub.replay.plan import read_plan
from hubbub.replay.replayer import Summary, replay
from hubbub.replay.settings import MAX_MEMBERS, MAX_SESSIONS, OPERATORS, UNLIMITED, Settings
from protocol.errors import HubbubError

SHOWN_FAULTS: Final = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """State the arguments of `hubbub replay`."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="FILE_OR_DIR", help="IRC logs to play, in order"
    )
    parser.add_argument(
        "--url",
        default=os.environ.get("HUBBUB_URL", "http://127.0.0.1:8080"),
        help="the server's public port; of several nodes: A,B,C (HUBBUB_URL; default %(default)s)",
    )
    parser.add_argument(
        "--bots-url",
        default="",
        metavar="URL",
        help="let the nicks connect here instead: the bot port, hubbub://127.0.0.1:8081, is faster",
    )
    parser.add_argument(
        "--app-key",
        default=os.environ.get("HUBBUB_APP_KEY", ""),
        help="key of the app that gets the accounts (HUBBUB_APP_KEY); `hubbub keys create` makes one",
    )
    parser.add_argument(
        "--app-secret",
        default=os.environ.get("HUBBUB_APP_SECRET", ""),
        help="its secret (better by HUBBUB_APP_SECRET: arguments are visible to others on this machine)",
    )
    parser.add_argument("--group", default="#ubuntu", help="title of the group (default %(default)s)")
    parser.add_argument(
        "--speed",
        type=_speed,
        default=1.0,
        metavar="FACTOR",
        help="1 is real time, 60 an hour a minute, max as fast as lines are stored (default 1)",
    )
    parser.add_argument(
        "--max-members",
        type=int,
        default=MAX_MEMBERS,
        help="most nicks in the group at a time (default %(default)s; a group holds 500)",
    )
    parser.add_argument(
        "--sessions",
        type=int,
        default=MAX_SESSIONS,
        help="most connections at a time (default %(default)s)",
    )
    parser.add_argument(
        "--watch",
        action="append",
        default=[],
        metavar="USERNAME",
        help="put this user into the group, to watch it live (may be repeated)",
    )
    parser.add_argument("--verify", action="store_true", help="read everything back and check it")


def run(args: argparse.Namespace) -> int:
    """Carry out `hubbub replay`. Returns the exit status: 0, 1 where something is wrong, 2 for bad usage."""
    console = Console(stderr=True)
    if not (args.app_key and args.app_secret):
        console.print(
            "[red]A replay makes accounts through an app key.[/] Make one with `hubbub keys create`, then set"
        )
        console.print("HUBBUB_APP_KEY and HUBBUB_APP_SECRET, or give --app-key and --app-secret.")
        return 2
    if args.sessions <= OPERATORS or not 1 <= args.max_members <= MAX_MEMBERS:
        console.print(f"[red]--sessions is above {OPERATORS}, --max-members from 1 to {MAX_MEMBERS}.[/]")
        return 2
    try:
        wanted = read_plan(args.paths, max_members=args.max_members)
    except (OSError, ValueError) as exc:
        console.print(f"[red]The logs cannot be read:[/] {exc}", markup=True)
        return 2
    settings = Settings(
        url=args.url,
        connect_url=args.bots_url,
        app_key=args.app_key,
        app_secret=args.app_secret,
        group=args.group,
        speed=args.speed,
        max_members=args.max_members,
        max_sessions=args.sessions,
        watchers=args.watch,
    )
    try:
        summary, faults = trio.run(_run_shown, settings, wanted, args.verify, console)
    except HubbubError as exc:
        console.print(f"[red]The replay stopped:[/] {exc.message} ({exc.code}). Start it again to go on.")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped. Start it again to go on where it was.")
        return 130
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        console.print("Stopped. Start it again to go on where it was.")
        return 130
    out = Console(file=sys.stdout, highlight=False)
    out.print(
        f"{summary.lines} lines by {summary.users} users in {summary.seconds:.1f} s "
        f"({summary.lines_per_s:.0f} lines/s), {summary.skipped} stored before; "
        f"conversation {summary.conversation_id}",
        soft_wrap=True,
    )
    for fault in faults[:SHOWN_FAULTS]:
        out.print(f"WRONG: {fault}", markup=False, soft_wrap=True)
    if len(faults) > SHOWN_FAULTS:
        out.print(f"… and {len(faults) - SHOWN_FAULTS} more")
    if args.verify and not faults:
        out.print(
            "verified: every line once and in order, the right members, every member's unread count right",
            soft_wrap=True,
        )
    return 1 if faults else 0


async def _run_shown(
    settings: Settings, wanted: Plan, is_verified: bool, console: Console
) -> tuple[Summary, list[str]]:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
    )
    with progress:
        task = progress.add_task(settings.group, total=wanted.line_count, rate="")
        started: float | None = None
        first = shown = 0

        def on_line(stored: int) -> None:
            nonlocal started, first, shown
            now = trio.current_time()
            if started is None:
                started, first = now, stored
            if stored - shown >= 50 or stored == wanted.line_count or settings.speed:
                shown = stored
                rate = f"{(stored - first) / (now - started):.0f} lines/s" if now > started else ""
                progress.update(task, completed=stored, rate=rate)

        return await replay(settings, wanted, on_line=on_line, is_verified=is_verified)


def _speed(raw: str) -> float:
    if raw == "max":
        return UNLIMITED
    speed = float(raw)
    if not speed > 0:
        raise argparse.ArgumentTypeError("give a factor above 0, or max")
    return speed
