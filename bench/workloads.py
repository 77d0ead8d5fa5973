"""All workloads of `hubbub bench`, by name."""

from typing import Final

from bench import cluster_scaling, fan_out, one_to_one
from bench.load.trial import Workload

WORKLOADS: Final[dict[str, Workload]] = {
    workload.name: workload for workload in (one_to_one.WORKLOAD, fan_out.WORKLOAD, cluster_scaling.WORKLOAD)
}
