"""The results as one HTML page with charts. It asks for nothing else: no script, no font, no address.

It is well-formed XML too, so that a test can read it.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final

from bench.report.beside import beside
from bench.report.chart import (
    STYLE_COUNT,
    LatencyLine,
    RateLine,
    latency_chart,
    rate_chart,
    swatch,
    text,
)
from bench.report.remarks import Kind, remarks
from bench.report.results import Machine, Measurement
from bench.report.statistics import (
    PEER,
    Case,
    FigureSummary,
    Ratio,
    Summary,
    name_of,
    ratios,
    series_order,
    summaries,
)
from bench.report.wording import label, machine_line, number, share, span, times, times_span

# After Okabe and Ito's colours, which the colour-blind tell apart; darker or lighter where the page needs it.
_LIGHT: Final = ("#0072b2", "#b8540a", "#007a5a", "#7a4fa3", "#555555", "#b0417a", "#8a6d00", "#2a8fbd")
_DARK: Final = ("#56b4e9", "#f0913e", "#2ec79a", "#c2a0ea", "#b5b5b5", "#ef8fbf", "#e6c845", "#9bd5f5")

_STYLE: Final = """
:root{color-scheme:light dark;--page:#fff;--ink:#1c1e21;--soft:#5c636b;--grid:#e3e6e9;--edge:#8b939b;
--bad:#b3261e;--warn:#8a5a00;LIGHT}
@media (prefers-color-scheme:dark){:root{--page:#16181b;--ink:#e8eaed;--soft:#a3abb3;--grid:#2d3136;
--edge:#6c747c;--bad:#ff8a80;--warn:#f0b445;DARK}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:20px 20px 40px;background:var(--page);color:var(--ink);
font:14px/1.45 system-ui,sans-serif}
h1{font-size:22px;margin:0 0 4px}
h2{font-size:17px;margin:34px 0 8px;padding-top:12px;border-top:1px solid var(--grid)}
p{margin:4px 0}.soft{color:var(--soft)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
.full{width:100%;min-width:880px;table-layout:fixed}
th,td{padding:3px 14px 3px 0;text-align:left;white-space:nowrap;vertical-align:middle}
thead th{font-weight:400;color:var(--soft);border-bottom:1px solid var(--grid)}
tbody th{font-weight:500}.overview tbody th{white-space:normal}.num{text-align:right}
.overview td,.overview thead th{text-align:right}.overview thead th:first-child{text-align:left}
.best{font-weight:650}
.bar{display:block;width:100%;height:14px}
.bar rect{fill:currentColor}
.bar path{stroke:var(--ink);stroke-width:1.5;vector-effect:non-scaling-stroke}
.bar .track{fill:var(--grid);opacity:.5}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));
gap:6px 22px;margin-top:12px}
figure{margin:0}figcaption{font-weight:500}
.chart{display:block;width:100%;height:auto}
.chart text{font:11.5px system-ui,sans-serif;fill:var(--soft)}.chart .name{fill:var(--ink)}
.grid{stroke:var(--grid);fill:none}.axis{stroke:var(--edge);fill:none}
.line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}
.mark{fill:currentColor;stroke:var(--page);stroke-width:.8}
.swatch{margin-right:8px;vertical-align:-1px}
ul{margin:6px 0;padding-left:20px}
CLASSES
"""

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"  # the page's own style, and nothing else
_CLASSES: Final = {Kind.UNSOUND: "bad", Kind.ERRORS: "warn", Kind.VERIFIED: "soft", Kind.NOTE: "soft"}
# Six columns: the name, the bar, the median, the rounds, the ratio, the client.
_COLUMNS: Final = "".join(f'<col style="width:{width}%"/>' for width in (19, 30, 9, 14, 15, 13))


def to_html(machine: Machine, measurements: Sequence[Measurement]) -> str:
    """Draw what was measured: an overview of all ratios, then a section per case.

    A section has bars of the headline figures (the median of the rounds, and a thin line from the least to
    the greatest), and a pair of charts: the main latency's percentiles (each the median of the rounds), and
    the throughput over time of the round whose headline figure is the median one.
    """
    rows = summaries(measurements)
    compared, besides = ratios(measurements), beside(measurements)
    styles = _styles(rows)
    sections = [
        _section(f"c{index}", case, list(of_case), compared, besides.get(case, []), styles)
        for index, (case, of_case) in enumerate(groupby(rows, key=lambda row: row.case))
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>hubbub bench</title><style>{_style_sheet()}</style></head>\n<body><h1>hubbub bench</h1>"
        f'<p class="soft">{text(machine_line(machine))}</p>\n'
        f"{_overview(rows, compared)}{''.join(sections)}</body></html>\n"
    )


def _style_sheet() -> str:
    return (
        _STYLE.replace("LIGHT", "".join(f"--s{index}:{colour};" for index, colour in enumerate(_LIGHT)))
        .replace("DARK", "".join(f"--s{index}:{colour};" for index, colour in enumerate(_DARK)))
        .replace("CLASSES", "".join(f".s{index}{{color:var(--s{index})}}" for index in range(STYLE_COUNT)))
    )


def _styles(rows: Sequence[Summary]) -> dict[str, int]:
    """Give each target and wire its line, the same on the whole page."""
    names = {series_order(row.target, row.wire): row.name for row in rows}
    return {names[key]: index % STYLE_COUNT for index, key in enumerate(sorted(names))}


def _overview(rows: Sequence[Summary], compared: Sequence[Ratio]) -> str:
    """A line per case and figure, a column per target and wire; empty where nothing was compared."""
    columns = sorted({(ratio.target, ratio.wire) for ratio in compared}, key=lambda each: series_order(*each))
    if not columns:
        return ""
    cells: dict[tuple[Case, str], dict[tuple[str, str], Ratio]] = {}
    for ratio in compared:
        cells.setdefault((ratio.case, ratio.figure), {})[ratio.target, ratio.wire] = ratio
    order = list(dict.fromkeys(row.case for row in rows))
    lines = [
        f'<tr><th scope="row">{text(case.title)}: {text(figure)}</th>'
        + "".join(f"<td>{_ratio_cell(of_case.get(column))}</td>" for column in columns)
        + "</tr>"
        for (case, figure), of_case in sorted(cells.items(), key=lambda item: order.index(item[0][0]))
    ]
    heads = "".join(f'<th scope="col">{text(name_of(*column))}</th>' for column in columns)
    return (
        f'<h2>Times better than {PEER}</h2><p class="soft">The median of the rounds\' ratios, and the least '
        "and the greatest. More than 1 is better, also where less is better.</p>"
        f'<div class="scroll"><table class="overview"><thead><tr><th scope="col">case</th>{heads}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody>"
        "</table></div>\n"
    )


def _ratio_cell(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    around = f' <span class="soft">({times_span(ratio.spread)})</span>' if ratio.round_count > 1 else ""
    kind = "best" if ratio.spread.median >= 1 else "best warn"
    return f'<span class="{kind}">{times(ratio.spread.median)}</span>{around}'


def _section(
    chart_id: str,
    case: Case,
    rows: Sequence[Summary],
    compared: Sequence[Ratio],
    said: Sequence[str],
    styles: Mapping[str, int],
) -> str:
    return (
        f'<section><h2 id="{chart_id}">{text(case.title)}</h2>{_bars(rows, compared, styles)}'
        f"{_beside(said)}{_remarks(rows)}{_charts(chart_id, case, rows, styles)}</section>\n"
    )


def _beside(said: Sequence[str]) -> str:
    return "".join(f"<p>{text(line)}</p>" for line in said)


def _bars(rows: Sequence[Summary], compared: Sequence[Ratio], styles: Mapping[str, int]) -> str:
    """One table per headline figure: its bars share one scale."""
    figures = {
        (figure.name, figure.unit): figure for row in rows for figure in row.figures if figure.is_headline
    }
    return "".join(_bar_table(figure, rows, compared, styles) for figure in figures.values())


def _bar_table(
    figure: FigureSummary,
    rows: Sequence[Summary],
    compared: Sequence[Ratio],
    styles: Mapping[str, int],
) -> str:
    found = [
        (row, one)
        for row in rows
        for one in row.figures
        if one.is_headline and (one.name, one.unit) == (figure.name, figure.unit)
    ]
    top = max(one.spread.high for _, one in found)
    lines = []
    for row, one in found:
        ratio = next((each for each in compared if each.is_of(row) and each.figure == figure.name), None)
        style = styles[row.name]
        mark = "" if row.is_sound else '<span class="bad">! </span>'
        bound = ' <span class="warn">client-bound</span>' if row.is_client_bound else ""
        lines.append(
            f'<tr><th scope="row">{swatch(style)}{mark}{text(row.name)}</th>'
            f'<td class="s{style}">{_bar(one, top)}</td>'
            f'<td class="num best">{number(one.spread.median)}</td><td class="soft">{span(one.spread)}</td>'
            f'<td class="num">{_ratio_cell(ratio)}</td><td>{share(row.client_share)}{bound}</td></tr>'
        )
    better = "more is better" if figure.is_higher_better else "less is better"
    return (
        f'<div class="scroll"><table class="full"><colgroup>{_COLUMNS}</colgroup><thead><tr>'
        '<th scope="col">target, wire</th>'
        f'<th scope="col">{text(label(figure))} ({better})</th><th scope="col" class="num">median</th>'
        f'<th scope="col">min–max</th><th scope="col" class="num">× {PEER}</th>'
        f'<th scope="col">client\'s core</th></tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _bar(figure: FigureSummary, top: float) -> str:
    """A bar of the median, with a line from the least to the greatest; the numbers stand beside it."""
    scale = 100 / top if top > 0 else 0.0
    low, high = figure.spread.low * scale, figure.spread.high * scale
    return (
        '<svg class="bar" viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="14"/>'
        f'<rect width="{max(0.0, figure.spread.median * scale):.2f}" height="14"/>'
        f'<path d="M{low:.2f} 7H{high:.2f}M{low:.2f} 4v6M{high:.2f} 4v6"/></svg>'
    )


def _charts(chart_id: str, case: Case, rows: Sequence[Summary], styles: Mapping[str, int]) -> str:
    latency_name = next((row.latencies[0].name for row in rows if row.latencies), "")
    latency = latency_chart(
        f"{chart_id}-latency",
        [
            LatencyLine(name=row.name, style=styles[row.name], latency=row.latencies[0])
            for row in rows
            if row.latencies
        ],
        title=f"{case.title}: latency by percentile, {latency_name}",
    )
    headline = next((figure.name for row in rows for figure in row.figures if figure.unit == "/s"), "")
    rate = rate_chart(
        f"{chart_id}-rate",
        [RateLine(name=row.name, style=styles[row.name], points=row.typical.series) for row in rows],
        title=f"{case.title}: throughput over time",
        axis=f"{headline}/s" if headline else "per second",
    )
    shown = [
        f"<figure><figcaption>{text(caption)}</figcaption>{chart}</figure>"
        for caption, chart in (
            (f"Latency by percentile: {latency_name}", latency),
            ("Throughput over time, the median round", rate),
        )
        if chart
    ]
    return f'<div class="charts">{"".join(shown)}</div>' if shown else ""


def _remarks(rows: Sequence[Summary]) -> str:
    lines = [f'<li class="{_CLASSES[remark.kind]}">{text(str(remark))}</li>' for remark in remarks(rows)]
    return f"<ul>{''.join(lines)}</ul>" if lines else ""
