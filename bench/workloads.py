"""All workloads of `hubbub bench`, by name."""

from typing import Final

from bench import connections, fan_out, fixed_rate, history, one_to_one
from bench.load.trial import Workload

WORKLOADS: Final[dict[str, Workload]] = {
    workload.name: workload
    for workload in (
        one_to_one.WORKLOAD,
        fan_out.WORKLOAD,
        connections.WORKLOAD,
        history.WORKLOAD,
        fixed_rate.WORKLOAD,
    )
}
