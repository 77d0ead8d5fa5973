"""Tell stored results again: `python -m bench.report RESULTS.jsonl [--html FILE] [--markdown FILE]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.report.markdown import to_markdown
from bench.report.picture import to_html
from bench.report.results import ResultsUnreadable, read_lines, runs
from bench.report.table import to_table

_PLAIN_WIDTH = 100  # columns, where no terminal says how many it has


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of every run in a file; the page and the Markdown are of the last one.

    Returns 0, or 1 where the file cannot be read or has no run; then stderr says why.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Tell stored results again.")
    parser.add_argument("results", type=Path, help="a file that `hubbub bench` wrote, JSON lines")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page with charts there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables for the docs there")
    options = parser.parse_args(arguments)
    try:
        found = runs(read_lines(options.results))
    except (OSError, ResultsUnreadable) as exc:
        print(exc, file=sys.stderr)
        return 1
    if not found:
        print(f"{options.results} is empty", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    for run in found:
        console.print(to_table(run.machine, run.measurements))
    last = found[-1]
    if options.html is not None:
        options.html.write_text(to_html(last.machine, last.measurements), encoding="utf-8")
    if options.markdown is not None:
        options.markdown.write_text(to_markdown(last.machine, last.measurements), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
