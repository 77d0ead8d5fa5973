"""All workloads of `hubbub bench`, by name."""

from typing import Final

from bench import (
    cluster_scaling,
    connections,
    crash,
    fan_out,
    feed,
    fixed_rate,
    history,
    notify,
    one_to_one,
    presence_load,
    reconnect_storm,
)
from bench.load.trial import Workload

WORKLOADS: Final[dict[str, Workload]] = {
    workload.name: workload
    for workload in (
        one_to_one.WORKLOAD,
        fan_out.WORKLOAD,
        connections.WORKLOAD,
        history.WORKLOAD,
        fixed_rate.WORKLOAD,
        crash.WORKLOAD,
        reconnect_storm.WORKLOAD,
        presence_load.WORKLOAD,
        cluster_scaling.WORKLOAD,
        feed.WORKLOAD,
        notify.WORKLOAD,
    )
}
