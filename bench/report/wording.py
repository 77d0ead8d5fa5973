"""How numbers are written, the same in the table, the charts and the docs."""

from bench.report.results import Machine
from bench.report.statistics import FigureSummary, Spread


def number(value: float) -> str:
    """Write three significant digits, from 100 up no decimals: 0.0213, 0.118, 1.20, 12,345; 7 as 7."""
    size = abs(value)
    if value == int(value) or size >= 99.95:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    if size >= 0.9995:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.09995 else f"{value:.4f}"


def short_number(value: float) -> str:
    """Write thousands as k and millions as M, where a number has to be narrow: 950, 7.90k, 126k, 1.20M."""
    size = abs(value)
    if size < 1_000:
        return number(value)
    scaled, suffix = (value / 1e6, "M") if size >= 999_500 else (value / 1e3, "k")
    return f"{number(scaled)}{suffix}"


def with_unit(value: float, unit: str) -> str:
    """Write a number and its unit: 5,700/s, 26.1 KiB, 0."""
    return f"{number(value)}{unit}" if unit.startswith("/") else f"{number(value)} {unit}".rstrip()


def label(figure: FigureSummary) -> str:
    """Name a figure together with its unit: "delivered/s", "memory, KiB"."""
    if not figure.unit:
        return figure.name
    return f"{figure.name}{figure.unit if figure.unit.startswith('/') else f', {figure.unit}'}"


def span(spread: Spread, *, is_short: bool = False) -> str:
    """Write from where to where: 5,400–6,010."""
    write = short_number if is_short else number
    return f"{write(spread.low)}–{write(spread.high)}"


def times(value: float) -> str:
    """Write a ratio: 0.84×, 1.52×, 12.3×."""
    return f"{_ratio(value)}×"


def times_span(spread: Spread) -> str:
    """Write from which ratio to which: 0.83–1.52."""
    return f"{_ratio(spread.low)}–{_ratio(spread.high)}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else number(value)


def share(value: float) -> str:
    """Write 0 to 1 as percent."""
    return f"{value * 100:.0f} %"


def machine_line(machine: Machine) -> str:
    """Say on one line what was measured on."""
    return (
        f"{machine.cpu_model}, {machine.core_count} cores, {number(machine.memory_gib)} GiB; "
        f"{machine.kernel}, {machine.python}, SQLite {machine.sqlite}; commit {machine.commit}; "
        f"{machine.pinned}; load {machine.load_before:.2f} before"
    )
