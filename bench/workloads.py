"""All workloads of `hubbub bench`, by name."""

from typing import Final

from bench import cluster_scaling, crash, fan_out, one_to_one, presence_load, reconnect_storm
from bench.load.trial import Workload

WORKLOADS: Final[dict[str, Workload]] = {
    workload.name: workload
    for workload in (
        one_to_one.WORKLOAD,
        fan_out.WORKLOAD,
        crash.WORKLOAD,
        reconnect_storm.WORKLOAD,
        presence_load.WORKLOAD,
        cluster_scaling.WORKLOAD,
    )
}
