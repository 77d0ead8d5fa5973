"""The results as a table for people at a terminal; as plain text it is as readable, at 100 columns."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench.report.beside import beside
from bench.report.remarks import Kind, remarks
from bench.report.results import CPU_PER_THOUSAND, Machine, Measurement
from bench.report.statistics import PEER, FigureSummary, Ratio, Summary, ratios, summaries
from bench.report.wording import label, machine_line, number, share, short_number, span, times, times_span

_MEDIAN_WIDTH: Final = 8
_SPAN_WIDTH: Final = 11
# Title, width, whether it is a number. With a blank between them they fill 100 columns. The widths are
# fixed so that the tables of all cases stand in line.
_COLUMNS: Final = (
    ("target, wire", 15, False),
    ("figure", 13, False),
    ("median", _MEDIAN_WIDTH, True),
    ("min–max", _SPAN_WIDTH, True),
    ("p50 ms", 6, True),
    ("p99 ms", 6, True),
    ("CPU/1k", 6, True),
    ("client", 12, True),
    ("ratio", 5, True),
    ("min–max", 9, True),
)
# What was verified is left to the page and the docs: at a terminal only what is wrong has to be seen.
_STYLES: Final = {Kind.UNSOUND: "red", Kind.ERRORS: "yellow", Kind.NOTE: "dim"}
_INDENT: Final = (0, 0, 0, 2)


def to_table(machine: Machine, measurements: Sequence[Measurement]) -> RenderableType:
    """Lay out what was measured: a block per case, in it a row per target and wire.

    A row has the median of each headline figure, the least and the greatest of the rounds, the main latency,
    the server's CPU seconds per 1,000, the client's share of a core, and the median ratio to the peer with
    its least and greatest. "!" is before what is not sound; the findings are below, and hubbub's ratio to
    the second peer.
    """
    compared, besides = ratios(measurements), beside(measurements)
    parts: list[RenderableType] = [Text(machine_line(machine), style="dim")]
    last_workload = ""
    for case, rows in groupby(summaries(measurements), key=lambda summary: summary.case):
        parts.append(Text(f"\n{case.title}", style="bold"))
        parts += _block(list(rows), compared, has_header=case.workload != last_workload)
        parts += [Padding(Text(line), _INDENT) for line in besides.get(case, ())]
        last_workload = case.workload
    parts.append(Text(f"\n{_LEGEND}", style="dim"))
    return Group(*parts)


_LEGEND: Final = (
    f"p50 and p99: of the case's main latency. CPU/1k: {CPU_PER_THOUSAND}, in seconds. client: its share of "
    f"one core. ratio: to {PEER} in the same round; more than 1 is better than {PEER}, also where less is "
    "better. All are medians over the rounds."
)


def _block(rows: Sequence[Summary], compared: Sequence[Ratio], *, has_header: bool) -> list[RenderableType]:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=has_header)
    for title, width, is_number in _COLUMNS:
        table.add_column(
            title,
            width=width,
            justify="right" if is_number else "left",
            header_style="dim",
            overflow="fold",
        )
    for row in rows:
        _add_rows(table, row, {ratio.figure: ratio for ratio in compared if ratio.is_of(row)})
    said = [
        Padding(Text(str(remark), style=_STYLES[remark.kind]), _INDENT)
        for remark in remarks(rows)
        if remark.kind in _STYLES
    ]
    return [table, *said]


def _add_rows(table: Table, row: Summary, compared: dict[str, Ratio]) -> None:
    """A row, and one more for each further headline figure."""
    headlines: list[FigureSummary | None] = [figure for figure in row.figures if figure.is_headline]
    for index, figure in enumerate(headlines or [None]):
        is_first = index == 0
        ratio = compared.get(figure.name) if figure else None
        table.add_row(
            _name(row) if is_first else "",
            *((label(figure), _median(figure), _range(figure)) if figure else ("", "", "")),
            *(_latency(row) if is_first else ("", "")),
            _cpu(row) if is_first else "",
            _client(row) if is_first else "",
            Text(times(ratio.spread.median), style="bold") if ratio else "",
            times_span(ratio.spread) if ratio and ratio.round_count > 1 else "",
        )


def _name(row: Summary) -> Text:
    return Text(row.name) if row.is_sound else Text(f"! {row.name}", style="bold red")


def _median(figure: FigureSummary) -> str:
    written = number(figure.spread.median)
    return written if len(written) <= _MEDIAN_WIDTH else short_number(figure.spread.median)


def _range(figure: FigureSummary) -> str:
    written = span(figure.spread)
    return written if len(written) <= _SPAN_WIDTH else span(figure.spread, is_short=True)


def _latency(row: Summary) -> tuple[str, str]:
    if not row.latencies or not row.latencies[0].count:
        return "", ""
    return number(row.latencies[0].p50_ms), number(row.latencies[0].p99_ms)


def _cpu(row: Summary) -> str:
    return next(
        (number(figure.spread.median) for figure in row.figures if figure.name == CPU_PER_THOUSAND), ""
    )


def _client(row: Summary) -> Text:
    if not row.is_client_bound:
        return Text(share(row.client_share))
    return Text(f"{share(row.client_share)}\nclient-bound", style="yellow")
