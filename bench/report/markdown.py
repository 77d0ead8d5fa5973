"""The results as Markdown, for the docs."""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from bench.report.beside import beside
from bench.report.remarks import remarks
from bench.report.results import CPU_PER_THOUSAND, Machine, Measurement
from bench.report.statistics import PEER, Case, FigureSummary, Ratio, Summary, ratios, summaries
from bench.report.wording import label, machine_line, number, share, span, times, times_span

_HEADS: Final = (
    "target, wire",
    "figure",
    "median (min–max)",
    f"× {PEER}",
    "p50 / p99 / p99.9 ms",
    "CPU s per 1,000",
    "client",
)


def to_markdown(machine: Machine, measurements: Sequence[Measurement]) -> str:
    """Lay out what was measured: the machine, then per case a heading, a table, and what was found."""
    compared, besides = ratios(measurements), beside(measurements)
    parts = [f"Measured on: {_text(machine_line(machine))}.\n"]
    for case, rows in groupby(summaries(measurements), key=lambda summary: summary.case):
        parts.append(_block(case, list(rows), compared, besides.get(case, [])))
    return "\n".join(parts)


def _block(case: Case, rows: Sequence[Summary], compared: Sequence[Ratio], said: Sequence[str]) -> str:
    lines = [f"### {_text(case.title)}", "", _line(_HEADS), _line(["---"] * 2 + ["---:"] * 5)]
    for row in rows:
        ours = {ratio.figure: ratio for ratio in compared if ratio.is_of(row)}
        lines += [_line(cells) for cells in _rows(row, ours)]
    told = [f"- {_text(line)}" for line in (*said, *_others(rows), *map(str, remarks(rows)))]
    return "\n".join([*lines, "", *told, *([""] if told else [])])


def _rows(row: Summary, compared: dict[str, Ratio]) -> list[list[str]]:
    headlines: list[FigureSummary | None] = [figure for figure in row.figures if figure.is_headline]
    found = []
    for index, figure in enumerate(headlines or [None]):
        is_first = index == 0
        found.append(
            [
                _name(row) if is_first else "",
                _text(label(figure)) if figure else "",
                f"{number(figure.spread.median)} ({span(figure.spread)})" if figure else "",
                _ratio(compared.get(figure.name)) if figure else "",
                _latency(row) if is_first else "",
                _cpu(row) if is_first else "",
                (share(row.client_share) + (", client-bound" if row.is_client_bound else ""))
                if is_first
                else "",
            ]
        )
    return found


def _name(row: Summary) -> str:
    return _text(row.name) if row.is_sound else f"**! {_text(row.name)}**"


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    around = f" ({times_span(ratio.spread)})" if ratio.round_count > 1 else ""
    return f"**{times(ratio.spread.median)}**{around}"


def _latency(row: Summary) -> str:
    if not row.latencies or not row.latencies[0].count:
        return ""
    latency = row.latencies[0]
    return " / ".join(number(value) for value in (latency.p50_ms, latency.p99_ms, latency.p999_ms))


def _cpu(row: Summary) -> str:
    return next(
        (number(figure.spread.median) for figure in row.figures if figure.name == CPU_PER_THOUSAND), ""
    )


def _others(rows: Sequence[Summary]) -> list[str]:
    """The figures that have no column, a line each."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for figure in row.figures:
            if not figure.is_headline and figure.name != CPU_PER_THOUSAND:
                found.setdefault(label(figure), []).append(f"{row.name} {number(figure.spread.median)}")
    return [f"{name}: {'; '.join(values)}" for name, values in found.items()]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(value: str) -> str:
    """Keep a text what it is: one line, no table cell, no tag, no emphasis."""
    return re.sub(r"([\\`*_\[\]|<>])", r"\\\1", " ".join(value.split()))
