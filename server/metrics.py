"""What the edge counts, as plain numbers, and how Prometheus reads them.

The hot path adds to integers; text is made when somebody asks. Other parts of the node hand in what they know
as callables (`Metrics.add_gauges`).
"""

import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric

from protocol.errors import CloseCode
from server.outbox import OutboxStats

TEXT_CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
LAG_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Gauges = Callable[[], Mapping[str, float]]
Reading = tuple[Sequence[int], float]


class Metrics:
    """All numbers of one node's edge. Only the Trio thread writes them."""

    def __init__(self) -> None:
        self.outbox = OutboxStats()
        self.commands: Counter[type[msgspec.Struct]] = Counter()  # by command class
        self.errors: Counter[str] = Counter()  # error answers by code
        self.closes: Counter[CloseCode] = Counter()  # connections that we closed, by code
        self.accepted: Counter[str] = Counter()  # connections by transport: websocket, http, tcp
        self.open_connections: Counter[str] = Counter()  # the same, open now
        self.handshake_failures: Counter[str] = Counter()  # by reason; bounded, the reasons are ours
        self.shed: Counter[str] = Counter()  # refused before they cost anything, by reason
        self.accept_errors: Counter[str] = Counter()  # by errno name
        self.sessions_opened_count = 0
        self.ack_count = 0  # sends answered as stored, repetitions included
        self._lag_counts = [0] * (len(LAG_BUCKETS_S) + 1)
        self._lag_sum_s = 0.0
        self._gauges: list[tuple[str, str, Gauges]] = []
        self._histograms: list[tuple[str, str, Sequence[float], Callable[[], Reading]]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def observe_lag(self, lag_s: float) -> None:
        """Note by how much the event loop was late."""
        self._lag_counts[bisect.bisect_left(LAG_BUCKETS_S, lag_s)] += 1
        self._lag_sum_s += lag_s

    def add_gauges(self, prefix: str, help_text: str, read: Gauges) -> None:
        """Export what `read()` returns when asked: {"name": 3} becomes hubbub_<prefix>_name 3.

        A key may carry labels: {'depth{kind="user"}': 3}; one in _total only rises. `read` runs in the Trio
        thread and must be quick.
        """
        self._gauges.append((prefix, help_text, read))

    def add_histogram(
        self, name: str, help_text: str, bounds_s: Sequence[float], read: Callable[[], Reading]
    ) -> None:
        """Export a distribution of seconds: `read()` returns a count for each bound and one for all beyond
        them, and the sum."""
        self._histograms.append((name, help_text, bounds_s, read))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format; send it as `TEXT_CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Make the metric families; called by prometheus-client."""
        yield _counter("connections_accepted", "Connections by transport.", "transport", self.accepted)
        yield _gauge("connections_open", "Open connections by transport.", "transport", self.open_connections)
        yield _counter(
            "handshake_failures",
            "Connections that ended before their first request.",
            "reason",
            self.handshake_failures,
        )
        yield _counter("connections_shed", "Connections refused at once.", "reason", self.shed)
        yield _counter("accept_errors", "Failed accepts.", "errno", self.accept_errors)
        yield _plain("sessions_opened", "Sessions that were welcomed.", self.sessions_opened_count)
        yield _counter(
            "commands",
            "Commands by type.",
            "type",
            {str(kind.__struct_config__.tag): count for kind, count in self.commands.items()},
        )
        yield _counter("errors", "Error answers by code.", "code", self.errors)
        yield _counter(
            "closes",
            "Connections closed by this node, by close code.",
            "code",
            {str(int(code)): count for code, count in self.closes.items()},
        )
        outbox = self.outbox
        yield _plain("events_dropped", "Events that found no room in an outbox.", outbox.dropped_count)
        yield _plain("events_coalesced", "Live events that replaced a pending one.", outbox.coalesced_count)
        yield _plain("resyncs", "Announcements of dropped events.", outbox.resync_count)
        yield _plain("outbox_overflows", "Connections with drops in too many streams.", outbox.overflow_count)
        yield _plain("acks", "Messages acknowledged as stored.", self.ack_count)
        yield _histogram(
            "loop_lag_seconds",
            "By how much the event loop was late.",
            LAG_BUCKETS_S,
            (self._lag_counts, self._lag_sum_s),
        )
        for name, help_text, bounds_s, take_reading in self._histograms:
            yield _histogram(name, help_text, bounds_s, take_reading())
        for prefix, help_text, read in self._gauges:
            yield from _read_gauges(prefix, help_text, read())


def _histogram(name: str, help_text: str, bounds_s: Sequence[float], reading: Reading) -> Metric:
    counts, sum_s = reading
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, bounds_s), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    family = HistogramMetricFamily(f"hubbub_{name}", help_text)
    family.add_metric([], buckets=buckets, sum_value=sum_s)
    return family


def _counter(name: str, help_text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"hubbub_{name}", help_text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _gauge(name: str, help_text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(f"hubbub_{name}", help_text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _plain(name: str, help_text: str, count: int) -> Metric:
    return CounterMetricFamily(f"hubbub_{name}", help_text, value=count)


def _read_gauges(prefix: str, help_text: str, values: Mapping[str, float]) -> Iterable[Metric]:
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for key, value in values.items():
        name, _, rest = key.partition("{")
        labels = dict(_label(pair) for pair in rest.rstrip("}").split(",") if pair)
        family = families.get(name)
        if family is None:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = families[name] = kind(f"hubbub_{prefix}_{name}", help_text, labels=list(labels))
        family.add_metric(list(labels.values()), value)
    return families.values()


def _label(pair: str) -> tuple[str, str]:
    name, _, value = pair.partition("=")
    return name.strip(), value.strip().strip('"')
