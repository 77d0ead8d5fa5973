"""The report's arithmetic, on data whose answer is known, and by property."""

from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report import Figure, percentiles, ratios, series, summaries
from tests.bench.measured import measured

SAMPLES_S = st.lists(st.floats(min_value=0, max_value=100), min_size=1, max_size=2_000)


def test_percentiles_are_by_nearest_rank() -> None:
    """1 to 1000 ms: each percentile is the sample of that rank."""
    latency = percentiles(array("d", [ms / 1e3 for ms in range(1_000, 0, -1)]), name="ack")
    assert latency.name == "ack"
    assert latency.count == 1_000
    found = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms)
    assert found == pytest.approx((500, 900, 990, 999, 1_000))


def test_percentiles_of_few_samples_are_among_them() -> None:
    """Of ten samples p90 is the ninth, and whatever is rarer is the greatest."""
    latency = percentiles([ms / 1e3 for ms in range(1, 11)])
    found = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms)
    assert found == pytest.approx((5, 9, 10, 10, 10))


def test_no_samples_give_zeros() -> None:
    """A run in which nothing arrived is told too."""
    latency = percentiles([])
    assert (latency.count, latency.p50_ms, latency.max_ms) == (0, 0.0, 0.0)


@given(samples_s=SAMPLES_S)
def test_percentiles_rise_and_are_samples(samples_s: list[float]) -> None:
    """Every percentile is a time that was observed, and a rarer one is no shorter."""
    latency = percentiles(samples_s)
    found = [latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms]
    assert found == sorted(found)
    assert set(found) <= {sample * 1e3 for sample in samples_s}
    assert latency.max_ms == max(samples_s) * 1e3
    assert sum(sample * 1e3 <= latency.p90_ms for sample in samples_s) * 10 >= len(samples_s) * 9


def test_a_stall_shows_in_the_series() -> None:
    """100/s for 5 s, but nothing for one second, and then what had waited comes at once."""
    arrivals = [(n / 100, 0.001) for n in range(500) if not 200 <= n < 300]
    arrivals += [(3.0, 3.0 - n / 100) for n in range(200, 300)]
    points = series(arrivals, 0.5, until_s=5.0)
    assert [point.at_s for point in points] == [n / 2 for n in range(10)]
    assert [point.per_s for point in points] == [100, 100, 100, 100, 0, 0, 300, 100, 100, 100]
    assert [point.p99_ms > 100 for point in points] == [False] * 6 + [True] + [False] * 3
    assert points[4].p50_ms == points[4].p99_ms == 0


def test_a_stall_until_the_end_shows() -> None:
    """A server that died in the middle has a rate of 0 from then on."""
    points = series([(n / 10, 0.001) for n in range(10)], 0.5, until_s=2.0)
    assert [point.per_s for point in points] == [10, 10, 0, 0]


def test_what_is_outside_the_run_does_not_count() -> None:
    """Warm-up has negative times, and what comes after the end was not asked for in time."""
    points = series([(-0.1, 1.0), (0.5, 0.001), (1.2, 1.0)], 1.0, until_s=1.0)
    assert [(point.per_s, point.p99_ms) for point in points] == [(1.0, 1.0)]


def test_one_early_arrival_is_no_high_rate() -> None:
    """A run that died at once has no rate worth the name."""
    assert [point.per_s for point in series([(1e-9, 0.001)], 1.0)] == [2.0]
    assert series([], 1.0) == []


@given(
    arrivals=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 10)), min_size=1, max_size=200),
    interval_s=st.floats(0.05, 5),
)
def test_the_series_holds_every_arrival(arrivals: list[tuple[float, float]], interval_s: float) -> None:
    """Rate times length, over all intervals, is what arrived."""
    points = series(arrivals, interval_s)
    end_s = max(interval_s / 2, *(at_s for at_s, _ in arrivals))
    starts = [point.at_s for point in points]
    lengths = [end - start for start, end in zip(starts, [*starts[1:], end_s], strict=True)]
    assert starts == sorted(starts)
    total = sum(point.per_s * length for point, length in zip(points, lengths, strict=True))
    assert total == pytest.approx(len(arrivals))


@pytest.mark.parametrize("interval_s", [0, -1])
def test_an_interval_is_positive(interval_s: float) -> None:
    """Anything else would never end."""
    with pytest.raises(ValueError, match="interval"):
        series([(1.0, 1.0)], interval_s)


def test_a_ratio_is_made_within_a_round() -> None:
    """The machine was half as fast in round 2; the ratio of the medians would be 1.5 and tell of that."""
    found = ratios(
        [
            measured(200, round=1),
            measured(100, round=1, target="uvicorn"),
            measured(150, round=2),
            measured(50, round=2, target="uvicorn"),
            measured(200, round=3),
            measured(100, round=3, target="uvicorn"),
        ]
    )
    assert len(found) == 1
    assert (found[0].figure, found[0].wire, found[0].round_count) == ("delivered", "json", 3)
    assert (found[0].spread.median, found[0].spread.low, found[0].spread.high) == (2.0, 2.0, 3.0)


def test_less_is_better_turns_the_ratio_round() -> None:
    """Half the memory is told as 2, so that more than 1 is always better."""
    mine = measured(13, name="memory", unit="KiB", is_higher_better=False)
    theirs = measured(26, name="memory", unit="KiB", is_higher_better=False, target="uvicorn")
    assert [ratio.spread.median for ratio in ratios([mine, theirs])] == [2.0]


def test_each_wire_is_compared_with_what_the_peer_speaks() -> None:
    """The peer speaks JSON only; where it speaks more, like is compared with like."""
    wires = [measured(300, wire="bot"), measured(200, wire="msgpack")]
    json_peer = measured(100, target="uvicorn")
    found = {ratio.wire: ratio.spread.median for ratio in ratios([*wires, json_peer])}
    assert found == {"bot": 3.0, "msgpack": 2.0}
    msgpack_peer = measured(400, target="uvicorn", wire="msgpack")
    found = {ratio.wire: ratio.spread.median for ratio in ratios([*wires, json_peer, msgpack_peer])}
    assert found == {"bot": 3.0, "msgpack": 0.5}


def test_another_peer_is_compared_too_and_the_peer_itself_is_not() -> None:
    """A reader sees how far an expert gets with the peer's libraries, beside hubbub."""
    found = ratios(
        [
            measured(100, target="uvicorn"),
            measured(300, target="uvicorn-tuned"),
            measured(400),
            measured(250, target="uvicorn-tuned", round=2),
            measured(100, target="uvicorn", round=2),
        ]
    )
    assert {(each.target, each.wire): (each.spread.median, each.round_count) for each in found} == {
        ("uvicorn-tuned", "json"): (2.75, 2),
        ("hubbub", "json"): (4.0, 1),
    }


def test_a_ratio_is_of_its_own_row() -> None:
    """hubbub and another peer speak the same wire in the same case: the target decides."""
    runs = [measured(100, target="uvicorn"), measured(300, target="uvicorn-tuned"), measured(400)]
    (tuned, ours) = ratios(runs)
    assert [[ratio.is_of(row) for row in summaries(runs)] for ratio in (ours, tuned)] == [
        [True, False, False],
        [False, False, True],
    ]


@pytest.mark.parametrize(
    "changes", [{"round": 2}, {"variant": "window 1"}, {"workload": "W2"}, {"node_count": 3}]
)
def test_only_like_is_compared(changes: dict[str, Any]) -> None:
    """Neither another round nor another load says anything about this one."""
    assert ratios([measured(), measured(target="uvicorn", **changes)]) == []


@pytest.mark.parametrize("target", ["hubbub", "uvicorn"])
def test_a_run_that_is_not_sound_has_no_ratio(target: str) -> None:
    """A server that loses messages is not fast."""
    runs = [measured(target=name, is_sound=name != target) for name in ("hubbub", "uvicorn")]
    assert ratios(runs) == []


def test_nothing_is_divided_by_zero() -> None:
    """A count of lost messages is 0 on both sides, and a peer that stood still delivered 0."""
    lost = [
        measured(0, name="lost", unit="", is_higher_better=False, target=name)
        for name in ("hubbub", "uvicorn")
    ]
    assert ratios(lost) == []
    assert ratios([measured(100), measured(0, target="uvicorn")]) == []


def test_a_summary_has_the_median_round() -> None:
    """One slow round of three changes the spread, not the figure."""
    rounds = [measured(value, round=n, client_share=n / 10) for n, value in enumerate((100, 20, 110), 1)]
    (summary,) = summaries(rounds)
    spread = summary.figures[0].spread
    assert (spread.median, spread.low, spread.high) == (100, 20, 110)
    assert summary.typical.round == 1
    assert summary.client_share == 0.2
    assert summary.round_count == 3


def test_one_bad_round_marks_the_summary() -> None:
    """What went wrong once is told, and only what went wrong."""
    good = measured(findings=["all there"])
    bad = measured(round=2, findings=["2 missing"], is_sound=False, is_client_bound=True, error_count=4)
    (summary,) = summaries([good, bad])
    assert (summary.is_sound, summary.is_client_bound, summary.error_count) == (False, True, 4)
    assert summary.findings == ["2 missing"]


def test_a_figure_of_one_round_only_is_kept() -> None:
    """A figure that could not be measured each time is told with what there is."""
    extra = Figure(name="cpu", value=3.0, unit="s")
    (summary,) = summaries([measured(), measured(round=2, figures=[extra])])
    assert [figure.name for figure in summary.figures] == ["delivered", "cpu"]


def test_hubbub_is_first_and_cases_keep_their_order() -> None:
    """A peer that was measured first does not lead the table."""
    found = summaries(
        [
            measured(workload="W2", target="uvicorn"),
            measured(workload="W2", wire="bot"),
            measured(workload="W1"),
            measured(workload="W2", wire="json"),
        ]
    )
    assert [(row.case.workload, row.name) for row in found] == [
        ("W2", "hubbub json"),
        ("W2", "hubbub bot"),
        ("W2", "uvicorn json"),
        ("W1", "hubbub json"),
    ]
