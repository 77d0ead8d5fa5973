"""Make measurements for the tests of the report, with only what a test is about said."""

from typing import Any

import msgspec

from bench.report import Figure, Machine, Measurement, Point, percentiles

MACHINE = Machine(
    cpu_model="Example 9000",
    core_count=2,
    memory_gib=7.8,
    python="CPython 3.11.7",
    sqlite="3.40.1",
    kernel="Linux 6.1",
    commit="0123abc",
    pinned="server on core 0, client on core 1",
    load_before=0.25,
)


def measured(
    value: float = 1_000.0, *, name: str = "delivered", unit: str = "/s", **changes: Any
) -> Measurement:
    """Return one sound round of hubbub with one headline figure, and whatever is changed."""
    is_higher_better = changes.pop("is_higher_better", True)
    measurement = Measurement(
        workload="W1",
        variant="window 10",
        target="hubbub",
        wire="json",
        node_count=1,
        round=1,
        started_at_ms=1_700_000_000_000,
        seconds=5.0,
        figures=[
            Figure(name=name, value=value, unit=unit, is_higher_better=is_higher_better, is_headline=True)
        ],
        latencies=[percentiles([0.001, 0.002, 0.003, 0.050])],
        series=[Point(at_s=float(at_s), per_s=value, p50_ms=1.0, p99_ms=2.0) for at_s in range(5)],
        server_cpu_s=4.5,
        client_cpu_s=2.0,
        client_share=0.4,
        is_client_bound=False,
        error_count=0,
        findings=[],
        is_sound=True,
        notes=[],
    )
    return msgspec.structs.replace(measurement, **changes)
