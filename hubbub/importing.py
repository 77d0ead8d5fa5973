"""`hubbub import`: send a file of users, addresses or groups to a server, and show how far it has come."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class _BadLine(msgspec.Struct):
    line: int
    code: str
    message: str


class _Report(msgspec.Struct):
    done: int
    failed: int
    total: int
    errors: list[_BadLine] = []
    finished: bool = False


_report = msgspec.json.Decoder(_Report).decode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("kind", choices=("users", "addresses", "groups"))
    parser.add_argument("file", metavar="FILE", help=".csv, or one JSON object in each line")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the server; else this machine's")
    parser.add_argument("--app-key", default=os.environ.get("HUBBUB_APP_KEY", ""), metavar="KEY")
    parser.epilog = "The app's secret is read from HUBBUB_APP_SECRET. Safe to repeat."


def run(args: argparse.Namespace) -> int:
    """Import a file; 0 if every line was taken."""
    secret = os.environ.get("HUBBUB_APP_SECRET", "")
    if not args.app_key or not secret:
        print("hubbub: name --app-key, and set HUBBUB_APP_SECRET.", file=sys.stderr)
        return 2
    path = Path(args.file)
    is_csv = path.suffix.lower() == ".csv"
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console
    ) as progress:
        task = progress.add_task(args.kind, total=None)

        def show(report: _Report) -> None:
            progress.update(task, total=report.total, completed=report.done + report.failed)
            for bad in report.errors:
                print(f"line {bad.line}: {bad.code}: {bad.message}", file=sys.stderr)

        try:
            last = import_file(
                args.url, args.app_key, secret, args.kind, path.read_bytes(), is_csv=is_csv, show=show
            )
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            print(f"hubbub: {args.url} cannot be reached: {exc}", file=sys.stderr)
            return 1
    if last is None or not last.finished:
        print("hubbub: the import broke off; run it again.", file=sys.stderr)
        return 1
    print(f"{last.done} taken, {last.failed} refused")
    return 1 if last.failed else 0


def import_file(
    url: str,
    app_key: str,
    secret: str,
    kind: str,
    content: bytes,
    *,
    is_csv: bool,
    show: Callable[[_Report], None],
) -> _Report | None:
    """Send a file, and hand on each report. Raises: httpx.HTTPError; SystemExit with a refusal's sentence."""
    media_type = "text/csv" if is_csv else "application/x-ndjson"
    last: _Report | None = None
    with httpx.stream(
        "POST",
        f"{url.rstrip('/')}/v1/app/import/{kind}",
        content=content,
        headers={"content-type": media_type},
        auth=(app_key, secret),
        timeout=httpx.Timeout(30.0, read=300.0),
    ) as response:
        if response.status_code != 200:
            response.read()
            raise SystemExit(f"hubbub: refused: {response.text}")
        for line in response.iter_lines():
            if line:
                last = _report(line)
                show(last)
    return last
