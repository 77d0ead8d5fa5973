"""The page is well formed, complete, and asks for nothing, whatever a workload is called."""

import re
import xml.etree.ElementTree as ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.report import Measurement, Point, to_html
from bench.report.chart import linear_ticks, log_ticks
from tests.bench.measured import MACHINE, measured


def parsed(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))


def lines_of(chart: ElementTree.Element) -> list[ElementTree.Element]:
    return [group for group in chart.iter("g") if group.get("class", "").startswith("s")]


def charts_of(page: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The charts by their title."""
    return {
        title.text or "": chart
        for chart in page.iter("svg")
        if chart.get("class") == "chart"
        for title in chart.findall("title")
    }


def rounds() -> list[Measurement]:
    return [
        measured(value, target=target, wire=wire, round=n)
        for n in (1, 2, 3)
        for target, wire, value in (
            ("hubbub", "json", 9_000.0 + n),
            ("hubbub", "bot", 18_000.0 + n),
            ("uvicorn", "json", 6_000.0),
        )
    ]


def test_each_case_has_a_pair_of_charts_with_a_line_per_target_and_wire() -> None:
    """One look shows who is faster, and whether somebody stalled."""
    charts = charts_of(parsed(to_html(MACHINE, [*rounds(), measured(workload="W2")])))
    assert list(charts) == [
        "W1, window 10: latency by percentile, delivery",
        "W1, window 10: throughput over time",
        "W2, window 10: latency by percentile, delivery",
        "W2, window 10: throughput over time",
    ]
    assert [len(lines_of(chart)) for chart in charts.values()] == [3, 3, 1, 1]


def test_lines_are_told_apart_without_colours() -> None:
    """One reader in twelve does not see them, and printers have none."""
    (latency, _) = charts_of(parsed(to_html(MACHINE, rounds()))).values()
    shapes = []
    for group in lines_of(latency):
        line, *marks = group
        shapes.append(
            (line.get("stroke-dasharray"), marks[0].tag, re.sub(r"M[\d. ]+", "", marks[0].get("d", "")))
        )
    assert len(set(shapes)) == 3


def test_a_line_looks_the_same_in_every_chart() -> None:
    """The legend beside the bars holds for the whole page."""
    page = parsed(to_html(MACHINE, [measured(workload="W2", target="uvicorn"), *rounds()]))
    classes: dict[str, set[str | None]] = {}
    for row in page.iter("tr"):
        keys = [key.get("class") for key in row.iter("svg") if "swatch" in (key.get("class") or "")]
        if keys:
            classes.setdefault("".join(row[0].itertext()), set()).add((keys[0] or "").split()[1])
    assert set(classes) == {"hubbub json", "hubbub bot", "uvicorn json"}
    for chart in charts_of(page).values():
        for group in lines_of(chart):
            for title in group.iter("title"):
                classes[(title.text or "").split(",")[0]].add(group.get("class"))
    assert sorted(map(len, classes.values())) == [1, 1, 1]
    assert len(set.union(*classes.values())) == 3


def test_a_stall_reaches_the_bottom_of_the_chart() -> None:
    """Zero is on the axis, so that a stall looks like one."""
    points = [
        Point(at_s=float(at_s), per_s=0.0 if at_s == 2 else 100.0, p50_ms=1, p99_ms=1) for at_s in range(5)
    ]
    rate = charts_of(parsed(to_html(MACHINE, [measured(series=points)])))[
        "W1, window 10: throughput over time"
    ]
    (line,) = lines_of(rate)
    heights = [float(spot.split()[1]) for spot in (line[0].get("d") or "")[1:].split("L")]
    axis = next(path.get("d") or "" for path in rate.findall("path") if "H" in (path.get("d") or ""))
    assert float(axis.split()[1].split("H")[0]) == heights[2]  # the gridline at 0 is the first
    assert heights[2] > heights[0] == heights[1] == heights[3] == heights[4]


def test_charts_have_a_title_and_say_their_numbers() -> None:
    """Who cannot see the chart hears them."""
    for title, chart in charts_of(parsed(to_html(MACHINE, rounds()))).items():
        told = chart.findtext("desc")
        assert chart.get("role") == "img"
        assert "hubbub bot" in (told or ""), title
        labelled_by = (chart.get("aria-labelledby") or "").split()
        assert labelled_by == [chart[0].get("id"), chart[1].get("id")]


def test_ids_are_unique() -> None:
    """A label that names two things names neither."""
    page = parsed(to_html(MACHINE, [*rounds(), measured(workload="W2")]))
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids)) > 4


def test_ratios_and_marks_are_on_the_page() -> None:
    """It says what the table says."""
    unsound = measured(workload="W6", is_sound=False, findings=["2 <missing>"], is_client_bound=True)
    words = " ".join(parsed(to_html(MACHINE, [*rounds(), unsound])).itertext())
    for expected in ("1.50×", "3.00×", "! hubbub json: 2 <missing>", "client-bound", "9,002", "Example 9000"):
        assert expected in words


def test_the_overview_has_a_column_for_each_that_is_compared() -> None:
    """hubbub and an expert's peer stand side by side; the peer that ratios are to has no column."""
    tuned = [measured(12_000.0, target="uvicorn-tuned", round=n) for n in (1, 2, 3)]
    page = parsed(to_html(MACHINE, [*rounds(), *tuned]))
    (overview,) = [table for table in page.iter("table") if table.get("class") == "overview"]
    rows = [["".join(cell.itertext()) for cell in row] for row in overview.iter("tr")]
    assert rows[0] == ["case", "hubbub json", "hubbub bot", "uvicorn-tuned json"]
    assert [cell.split()[0] for cell in rows[1][1:]] == ["1.50×", "3.00×", "2.00×"]


def test_the_page_asks_for_nothing() -> None:
    """It is opened from a mail or a build's artefacts, without a network."""
    page = to_html(MACHINE, rounds())
    assert "://" not in page
    assert "url(" not in page
    assert "@import" not in page
    tags = {element.tag for element in parsed(page).iter()}
    assert not tags & {"script", "link", "img", "image", "iframe", "object", "use"}
    assert "default-src 'none'" in page


@given(name=st.text(), variant=st.text(), finding=st.text(), figure=st.text())
@settings(max_examples=60)
def test_any_name_is_escaped(name: str, variant: str, finding: str, figure: str) -> None:
    """A peer may be called <script>; a control character has no place in the page at all."""
    page = to_html(
        MACHINE,
        [measured(target=name, variant=variant, findings=[finding], is_sound=False, name=figure, unit="")],
    )
    page.encode("utf-8")
    said = "".join(parsed(page).itertext())
    for told in (f"{name} json", variant, finding, figure):
        assert _kept(told) in said


def _kept(told: str) -> str:
    """What the page keeps of a text: a mark for what XML forbids, and one kind of line end."""
    allowed = re.sub("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", told)
    return re.sub("\r\n?", "\n", allowed)


def test_nasty_names_stay_text() -> None:
    """Spelled out, since the property above may not find it."""
    name = "\"><script>alert('&amp;')</script>"
    page = to_html(MACHINE, [measured(target=name), measured(target="uvicorn")])
    assert "<script" not in page
    assert f"{name} json" in " ".join(parsed(page).itertext())


@pytest.mark.parametrize(
    "measurement",
    [
        measured(latencies=[], series=[], figures=[]),
        measured(0.0),
        measured(series=[Point(at_s=0.0, per_s=5.0, p50_ms=1, p99_ms=1)]),
        msgspec.structs.replace(measured(), series=[]),
    ],
)
def test_a_run_that_found_little_is_drawn(measurement: Measurement) -> None:
    """W6 has no latencies; a server that never answered has only zeros."""
    assert "W1" in " ".join(parsed(to_html(MACHINE, [measurement])).itertext())


def test_nothing_measured_is_a_page_too() -> None:
    """An interrupted run has written only the machine."""
    assert "Example 9000" in " ".join(parsed(to_html(MACHINE, [])).itertext())


@given(high=st.floats(1e-3, 1e9))
def test_a_linear_axis_holds_the_greatest_value(high: float) -> None:
    """Round steps from 0, neither crowded nor alone."""
    ticks = linear_ticks(high)
    assert ticks[0] == 0
    assert high * 0.998 <= ticks[-1] <= high * 2
    assert 3 <= len(ticks) <= 7


@given(low=st.floats(1e-3, 1e5), factor=st.floats(1, 1e6))
def test_a_log_axis_holds_both_ends(low: float, factor: float) -> None:
    """Its ticks are within it, and there are two at least."""
    start, end, ticks = log_ticks(low, low * factor)
    assert start <= low <= low * factor <= end
    assert start < end
    assert 1 <= len(ticks) <= 12
    assert all(start <= tick <= end for tick in ticks)
