"""The arithmetic on what was measured. Pure: no clock, no files.

Rounds are compared only with their own kind: a ratio is made within a round, since another minute of a shared
machine may be a third slower, and only then is the median of the ratios taken.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

import msgspec

from bench.report.results import Figure, Latency, Measurement, Point

HUBBUB: Final = "hubbub"
PEER: Final = "uvicorn"  # which the ratios in the tables are to
EXPERT: Final = "uvicorn-tuned"  # the second one, to which hubbub's ratios stand below
FURTHER: Final = (EXPERT, "redis", "redis-always", "dramatiq", "dramatiq-always")  # all such

_WIRE_ORDER: Final = ("json", "msgpack", "bot")


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What several targets were asked to do alike."""

    workload: str
    variant: str
    node_count: int

    @property
    def title(self) -> str:
        """For people: "W1, window 10, 3 nodes"."""
        nodes = f"{self.node_count} nodes" if self.node_count > 1 else ""
        return ", ".join(part for part in (self.workload, self.variant, nodes) if part)


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Some rounds' values of one figure: the median, and what lies around it."""

    median: float
    low: float
    high: float


class FigureSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over all rounds, in its unit."""

    name: str
    unit: str
    is_higher_better: bool
    is_headline: bool
    spread: Spread


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """All rounds of one target and wire in one case."""

    case: Case
    target: str
    wire: str
    round_count: int
    figures: list[FigureSummary]
    latencies: list[Latency]
    """Of each percentile, and of the count, the median over the rounds."""
    client_share: float
    """The median, 0 to 1."""
    is_client_bound: bool
    """In at least one round."""
    is_sound: bool
    """In every round."""
    error_count: int
    """Of all rounds together."""
    findings: list[str]
    """Each text once; where some rounds are not sound, only theirs."""
    notes: list[str]
    """Each text once."""
    typical: Measurement
    """The round whose headline figure is the median one (of an even count, the lower one of the two)."""

    @property
    def name(self) -> str:
        """For people: "hubbub json"."""
        return name_of(self.target, self.wire)


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """How many times better a target was than the peer, whatever "better" means for the figure."""

    case: Case
    target: str
    wire: str
    """The target's."""
    figure: str
    peer: str
    spread: Spread
    round_count: int
    """How many rounds had both."""

    def is_of(self, row: Summary) -> bool:
        """Tell whether this is about that row."""
        return (self.case, self.target, self.wire) == (row.case, row.target, row.wire)


def percentiles(samples_s: Sequence[float], *, name: str = "delivery") -> Latency:
    """Sum up times given in seconds, in any order; none at all gives zeros.

    By nearest rank: the smallest sample that at least that share of all samples does not exceed. So with
    fewer than 1,000 samples p99.9 is the greatest one.
    """
    ordered = sorted(samples_s)

    def at(per_mille: int) -> float:
        # In whole numbers: ceil(0.9 * 10) depends on how 0.9 is rounded.
        rank = -(-len(ordered) * per_mille // 1000)
        return ordered[rank - 1] * 1e3 if ordered else 0.0

    return Latency(
        name=name,
        count=len(ordered),
        p50_ms=at(500),
        p90_ms=at(900),
        p99_ms=at(990),
        p999_ms=at(999),
        max_ms=at(1000),
    )


def series(
    arrivals: Iterable[tuple[float, float]], interval_s: float, *, until_s: float | None = None
) -> list[Point]:
    """Cut a run into intervals.

    An arrival is when it came, in seconds since the measurement's start, and how long it took, in seconds;
    their order does not matter. What came before 0 or after `until_s` (by default the last arrival) is left
    out. Every interval is there, also one in which nothing came, so that a stall shows. The last one is
    longer or shorter by up to one half, and its rate is by its own length; so the shortest run is one half.

    Raises:
        ValueError: the interval is not positive.
    """
    if interval_s <= 0:
        raise ValueError(f"an interval of {interval_s} s")
    taken = [
        (at_s, took_s) for at_s, took_s in arrivals if at_s >= 0 and (until_s is None or at_s <= until_s)
    ]
    end_s = until_s if until_s is not None else max((at_s for at_s, _ in taken), default=0.0)
    if not taken and not end_s:
        return []
    end_s = max(end_s, interval_s / 2)  # one arrival after a nanosecond is no rate of 1e9/s
    count = max(1, round(end_s / interval_s))
    buckets: list[list[float]] = [[] for _ in range(count)]
    for at_s, took_s in taken:
        buckets[min(int(at_s / interval_s), count - 1)].append(took_s)
    points = []
    for index, bucket in enumerate(buckets):
        start_s = index * interval_s
        length_s = interval_s if index < count - 1 else end_s - start_s
        latency = percentiles(bucket)
        points.append(
            Point(
                at_s=start_s,
                per_s=len(bucket) / length_s,
                p50_ms=latency.p50_ms,
                p99_ms=latency.p99_ms,
            )
        )
    return points


def case_of(measurement: Measurement) -> Case:
    """Say what a measurement may be compared with."""
    return Case(workload=measurement.workload, variant=measurement.variant, node_count=measurement.node_count)


def summaries(measurements: Iterable[Measurement]) -> list[Summary]:
    """Sum up the rounds. Cases come in the order of their first measurement; in a case hubbub is first."""
    rounds: dict[tuple[Case, str, str], list[Measurement]] = {}
    cases: dict[Case, int] = {}
    for measurement in measurements:
        case = case_of(measurement)
        cases.setdefault(case, len(cases))
        rounds.setdefault((case, measurement.target, measurement.wire), []).append(measurement)
    order = sorted(rounds, key=lambda key: (cases[key[0]], *series_order(key[1], key[2])))
    return [_summary(case, rounds[case, target, wire]) for case, target, wire in order]


def series_order(target: str, wire: str) -> tuple[bool, str, int, str]:
    """Sort targets and wires: hubbub first, then by name; JSON, MessagePack, bot protocol, then by name."""
    place = _WIRE_ORDER.index(wire) if wire in _WIRE_ORDER else len(_WIRE_ORDER)
    return target != HUBBUB, target, place, wire


def name_of(target: str, wire: str) -> str:
    """Name a row: "hubbub json"; where there is no wire, "hubbub"."""
    return f"{target} {wire}" if wire else target


def ratios(measurements: Iterable[Measurement], *, peer: str = PEER) -> list[Ratio]:
    """Compare the headline figures of each case, target and wire with the peer's of the same round.

    Every target but the peer itself is compared: hubbub, and other peers too. More than 1 means that the
    target is better: where more is better it is the target's by the peer's, and where less is better (a
    latency, memory) it is the peer's by the target's. The peer's run is its only one, or else the
    one with the same wire, or else with JSON. Rounds that are not sound are left out, and so is a ratio that
    would divide by 0. Of a round that was measured twice the later one counts.
    """
    ours: dict[tuple[Case, str, str], dict[int, Measurement]] = {}
    theirs: dict[tuple[Case, int], dict[str, Measurement]] = {}
    for measurement in measurements:
        case = case_of(measurement)
        if not measurement.is_sound:
            continue
        if measurement.target == peer:
            theirs.setdefault((case, measurement.round), {})[measurement.wire] = measurement
        else:
            key = (case, measurement.target, measurement.wire)
            ours.setdefault(key, {})[measurement.round] = measurement
    found = []
    for (case, target, wire), rounds in ours.items():
        values: dict[str, list[float]] = {}
        for number, measurement in rounds.items():
            other = _same_wire(theirs.get((case, number), {}), wire)
            if other is None:
                continue
            for name, ratio in _round_ratios(measurement, other):
                values.setdefault(name, []).append(ratio)
        found += [
            Ratio(
                case=case,
                target=target,
                wire=wire,
                figure=name,
                peer=peer,
                spread=_spread(ratio),
                round_count=len(ratio),
            )
            for name, ratio in values.items()
        ]
    return found


def _same_wire(by_wire: dict[str, Measurement], wire: str) -> Measurement | None:
    if len(by_wire) == 1:
        return next(iter(by_wire.values()))
    return by_wire.get(wire) or by_wire.get("json")


def _round_ratios(ours: Measurement, theirs: Measurement) -> Iterable[tuple[str, float]]:
    their_figures = {(figure.name, figure.unit): figure.value for figure in theirs.figures}
    for figure in ours.figures:
        other = their_figures.get((figure.name, figure.unit))
        if not figure.is_headline or other is None:
            continue
        better, worse = (figure.value, other) if figure.is_higher_better else (other, figure.value)
        if worse:
            yield figure.name, better / worse


def _spread(values: Sequence[float]) -> Spread:
    return Spread(median=median(values), low=min(values), high=max(values))


def _summary(case: Case, rounds: Sequence[Measurement]) -> Summary:
    unsound = [measurement for measurement in rounds if not measurement.is_sound]
    return Summary(
        case=case,
        target=rounds[0].target,
        wire=rounds[0].wire,
        round_count=len(rounds),
        figures=_figures(rounds),
        latencies=_latencies(rounds),
        client_share=median(measurement.client_share for measurement in rounds),
        is_client_bound=any(measurement.is_client_bound for measurement in rounds),
        is_sound=not unsound,
        error_count=sum(measurement.error_count for measurement in rounds),
        findings=_once(text for measurement in unsound or rounds for text in measurement.findings),
        notes=_once(text for measurement in rounds for text in measurement.notes),
        typical=_typical(rounds),
    )


def _figures(rounds: Sequence[Measurement]) -> list[FigureSummary]:
    """Each figure that any round has, by name and unit; a round that lacks it does not count."""
    by_name: dict[tuple[str, str], list[Figure]] = {}
    for measurement in rounds:
        for figure in measurement.figures:
            by_name.setdefault((figure.name, figure.unit), []).append(figure)
    return [
        FigureSummary(
            name=name,
            unit=unit,
            is_higher_better=figures[0].is_higher_better,
            is_headline=figures[0].is_headline,
            spread=_spread([figure.value for figure in figures]),
        )
        for (name, unit), figures in by_name.items()
    ]


def _latencies(rounds: Sequence[Measurement]) -> list[Latency]:
    by_name: dict[str, list[Latency]] = {}
    for measurement in rounds:
        for latency in measurement.latencies:
            by_name.setdefault(latency.name, []).append(latency)
    return [
        Latency(
            name=name,
            count=math.floor(median(latency.count for latency in all_rounds)),
            p50_ms=median(latency.p50_ms for latency in all_rounds),
            p90_ms=median(latency.p90_ms for latency in all_rounds),
            p99_ms=median(latency.p99_ms for latency in all_rounds),
            p999_ms=median(latency.p999_ms for latency in all_rounds),
            max_ms=median(latency.max_ms for latency in all_rounds),
        )
        for name, all_rounds in by_name.items()
    ]


def _typical(rounds: Sequence[Measurement]) -> Measurement:
    ordered = sorted(rounds, key=_headline)
    return ordered[(len(ordered) - 1) // 2]


def _headline(measurement: Measurement) -> float:
    return next((figure.value for figure in measurement.figures if figure.is_headline), 0.0)


def _once(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
