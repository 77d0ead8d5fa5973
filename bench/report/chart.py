"""The charts, as SVG: latency by percentile, and throughput over time.

A line is told from the others by colour, dashes and marker together, so that it is known without colours
too. The colours are the page's (`picture.py`), by class `s0` to `s7`.
"""

import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

import msgspec

from bench.report.results import Latency, Point
from bench.report.wording import number, with_unit

STYLE_COUNT: Final = 8  # lines that can be told apart; the ninth looks like the first

_WIDTH: Final = 500.0
_HEIGHT: Final = 270.0
_LEFT: Final = 58.0
_RIGHT: Final = 14.0
_TOP: Final = 12.0
_BOTTOM: Final = 44.0

_DASHES: Final = ("", "7 3", "2 3", "9 3 2 3", "", "7 3", "2 3", "9 3 2 3")
_MARKS: Final = ("circle", "square", "triangle", "diamond")

# Nothing that XML 1.0 forbids may be in the page, whatever a workload is called.
_FORBIDDEN: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# One percentile for each step to the right: 90, 99 and 99.9 are as far from each other as each is rarer.
_PERCENTILES: Final[tuple[tuple[str, float, Callable[[Latency], float]], ...]] = (
    ("50", -math.log10(0.5), lambda latency: latency.p50_ms),
    ("90", 1.0, lambda latency: latency.p90_ms),
    ("99", 2.0, lambda latency: latency.p99_ms),
    ("99.9", 3.0, lambda latency: latency.p999_ms),
    ("max", 4.0, lambda latency: latency.max_ms),
)
_LEAST_MS: Final = 0.001  # a logarithm needs more than 0; nothing here is faster


class LatencyLine(msgspec.Struct, frozen=True, kw_only=True):
    """What one line of the latency chart shows; `style` is 0 to 7."""

    name: str
    style: int
    latency: Latency


class RateLine(msgspec.Struct, frozen=True, kw_only=True):
    """What one line of the throughput chart shows; `style` is 0 to 7."""

    name: str
    style: int
    points: Sequence[Point]


def text(value: str) -> str:
    """Make any text fit into the page, between tags and in an attribute."""
    return escape(_FORBIDDEN.sub("\ufffd", value))


def swatch(style: int) -> str:
    """Draw the key of a line: a piece of it with its marker."""
    return (
        f'<svg class="swatch s{style}" viewBox="0 0 34 12" width="34" height="12" aria-hidden="true">'
        f'<path class="line" d="M1 6H33"{_dash(style)}/>{_mark(style, 17, 6, "")}</svg>'
    )


def latency_chart(chart_id: str, lines: Sequence[LatencyLine], *, title: str) -> str:
    """Draw milliseconds over percentiles, both logarithmic. `chart_id` has to be the page's only one."""
    shown = [line for line in lines if line.latency.count]
    values = [max(get(line.latency), _LEAST_MS) for line in shown for _, _, get in _PERCENTILES]
    if not values:
        return ""
    low, high, ticks = log_ticks(min(values), max(values))
    first, last = _PERCENTILES[0][1], _PERCENTILES[-1][1]

    def x_of(place: float) -> float:
        return _LEFT + 10 + (place - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT - 20)

    def y_of(value: float) -> float:
        return _y(math.log(max(value, _LEAST_MS) / low) / math.log(high / low))

    parts = [_gridline(y_of(tick), _tick(tick)) for tick in ticks]
    parts += [_x_tick(x_of(place), name) for name, place, _ in _PERCENTILES]
    parts.append(_axes("percentile", "latency, ms (log scale)"))
    for line in shown:
        spots = [
            (x_of(place), y_of(get(line.latency)), f"{line.name}, {name}: {number(get(line.latency))} ms")
            for name, place, get in _PERCENTILES
        ]
        parts.append(_line(line.style, spots, has_marks=True))
    told = "; ".join(
        f"{line.name}: "
        + ", ".join(f"{name} {number(get(line.latency))} ms" for name, _, get in _PERCENTILES)
        for line in shown
    )
    return _svg(chart_id, title, told, parts)


def rate_chart(chart_id: str, lines: Sequence[RateLine], *, title: str, axis: str) -> str:
    """Draw a rate over the run's seconds, from 0. `chart_id` has to be the page's only one."""
    shown = [line for line in lines if line.points]
    if not shown:
        return ""
    ticks = linear_ticks(max(point.per_s for line in shown for point in line.points))
    end_s = max(line.points[-1].at_s for line in shown)
    time_ticks = linear_ticks(end_s)

    def x_of(at_s: float) -> float:
        return _LEFT + at_s / (end_s or 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def y_of(value: float) -> float:
        return _y(value / ticks[-1])

    parts = [_gridline(y_of(tick), _tick(tick)) for tick in ticks]
    parts += [_x_tick(x_of(tick), _tick(tick)) for tick in time_ticks if tick <= end_s * 1.001]
    parts.append(_axes("seconds since the start", axis))
    for line in shown:
        spots = [
            (x_of(point.at_s), y_of(point.per_s), f"{line.name}: {with_unit(point.per_s, '/s')}")
            for point in line.points
        ]
        parts.append(_line(line.style, spots, has_marks=len(spots) == 1))
    told = "; ".join(
        f"{line.name}: from {with_unit(min(point.per_s for point in line.points), '/s')}"
        f" to {with_unit(max(point.per_s for point in line.points), '/s')}"
        for line in shown
    )
    return _svg(chart_id, title, told, parts)


def linear_ticks(high: float) -> list[float]:
    """Return round numbers from 0 to `high` or a little more; some 4 to 6 of them."""
    if high <= 0:
        return [0.0, 1.0]
    rough = high / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [step * index for index in range(math.ceil(high / step - 0.001) + 1)]


def log_ticks(low: float, high: float) -> tuple[float, float, list[float]]:
    """Return the bounds of an axis that holds both (which are positive), and its ticks: 1, 2, 5, 10, ...

    Where that would be more than eight, only powers of ten are ticks.
    """
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    steps = [float(f"{factor}e{power}") for power in range(first, last + 1) for factor in (1, 2, 5)]
    start = max(step for step in steps if step <= low)
    end = min(step for step in steps if step >= high and step > start)
    ticks = [step for step in steps if start <= step <= end]
    if len(ticks) > 8:
        ticks = [tick for tick in ticks if math.log10(tick).is_integer()]
    return start, end, ticks


def _tick(value: float) -> str:
    """Write a round number: 0.5, 20, 1.5k, 2M."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _y(part: float) -> float:
    return _HEIGHT - _BOTTOM - part * (_HEIGHT - _BOTTOM - _TOP)


def _gridline(y: float, name: str) -> str:
    return (
        f'<path class="grid" d="M{_LEFT:g} {y:.1f}H{_WIDTH - _RIGHT:g}"/>'
        f'<text x="{_LEFT - 7:g}" y="{y + 3.8:.1f}" text-anchor="end">{text(name)}</text>'
    )


def _x_tick(x: float, name: str) -> str:
    bottom = _HEIGHT - _BOTTOM
    return (
        f'<path class="axis" d="M{x:.1f} {bottom:g}v4"/>'
        f'<text x="{x:.1f}" y="{bottom + 17:g}" text-anchor="middle">{text(name)}</text>'
    )


def _axes(x_name: str, y_name: str) -> str:
    middle_x, middle_y = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    return (
        f'<path class="axis" d="M{_LEFT:g} {_HEIGHT - _BOTTOM:g}H{_WIDTH - _RIGHT:g}"/>'
        f'<text class="name" x="{middle_x:g}" y="{_HEIGHT - 7:g}" text-anchor="middle">{text(x_name)}</text>'
        f'<text class="name" text-anchor="middle" transform="translate(13 {middle_y:g}) rotate(-90)">'
        f"{text(y_name)}</text>"
    )


def _line(style: int, spots: Sequence[tuple[float, float, str]], *, has_marks: bool) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in spots)
    marks = "".join(_mark(style, x, y, told) for x, y, told in spots) if has_marks else ""
    return f'<g class="s{style}"><path class="line" d="M{path}"{_dash(style)}/>{marks}</g>'


def _dash(style: int) -> str:
    return f' stroke-dasharray="{_DASHES[style]}"' if _DASHES[style] else ""


def _mark(style: int, x: float, y: float, told: str) -> str:
    kind = _MARKS[style % len(_MARKS)]
    inner = f"<title>{text(told)}</title>" if told else ""
    if kind == "circle":
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.4">{inner}</circle>'
    shape = {
        "square": "m-3 -3h6v6h-6z",
        "triangle": "m0 -4.2l4 7h-8z",
        "diamond": "m0 -4.4l4.4 4.4l-4.4 4.4l-4.4 -4.4z",
    }[kind]
    return f'<path class="mark" d="M{x:.1f} {y:.1f}{shape}">{inner}</path>'


def _svg(chart_id: str, title: str, told: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img"'
        f' aria-labelledby="{chart_id}-title {chart_id}-desc">'
        f'<title id="{chart_id}-title">{text(title)}</title><desc id="{chart_id}-desc">{text(told)}</desc>'
        f"{''.join(parts)}</svg>"
    )
