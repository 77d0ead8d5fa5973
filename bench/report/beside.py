"""What stands below a case's table: the ratios to further peers, and a stall by the run without."""

from collections.abc import Sequence
from typing import Final

import msgspec

from bench.report.results import Measurement
from bench.report.statistics import (
    FURTHER,
    HUBBUB,
    Case,
    Summary,
    name_of,
    ratios,
    series_order,
    summaries,
)
from bench.report.wording import number, times, times_span

_STALL: Final = ", one stalls"  # how such a variant's name ends; what is before it is the one without


def beside(measurements: Sequence[Measurement]) -> dict[Case, list[str]]:
    """Lines to print below the table of a case; a case of which there is nothing to say is left out."""
    rows = summaries(measurements)
    found: dict[Case, list[str]] = {}
    compared = [item for peer in FURTHER for item in _compared(measurements, peer).items()]
    for case, lines in (*compared, *_stalls(rows).items()):
        found.setdefault(case, []).extend(lines)
    return found


def _compared(measurements: Sequence[Measurement], peer: str) -> dict[Case, list[str]]:
    """hubbub's ratios to one peer, a line for each headline figure."""
    compared = [ratio for ratio in ratios(measurements, peer=peer) if ratio.target == HUBBUB]
    said: dict[Case, dict[str, list[str]]] = {}
    for ratio in sorted(compared, key=lambda ratio: series_order(ratio.target, ratio.wire)):
        around = f" ({times_span(ratio.spread)})" if ratio.round_count > 1 else ""
        one = f"{name_of(ratio.target, ratio.wire)} {times(ratio.spread.median)}{around}"
        said.setdefault(ratio.case, {}).setdefault(ratio.figure, []).append(one)
    return {
        case: [f"{figure}, × {peer}: {'; '.join(each)}" for figure, each in figures.items()]
        for case, figures in said.items()
    }


def _stalls(rows: Sequence[Summary]) -> dict[Case, list[str]]:
    """The p99 of those who do not stall, beside what it is where nobody does."""
    calm = {(row.case, row.target, row.wire): row for row in rows}
    said: dict[Case, list[str]] = {}
    for row in rows:
        name, is_stall, _ = row.case.variant.partition(_STALL)
        other = calm.get((msgspec.structs.replace(row.case, variant=name), row.target, row.wire))
        if is_stall and other and row.latencies and other.latencies:
            p99, calm_p99 = (number(each.latencies[0].p99_ms) for each in (row, other))
            said.setdefault(row.case, []).append(f"{row.name} {p99}, without {calm_p99}")
    return {case: [f"p99 in ms with one that stalls: {'; '.join(each)}"] for case, each in said.items()}
