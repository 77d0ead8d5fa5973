"""What a run costs: time, the servers' CPU, the client's own CPU."""

import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bench.load.loop import now
from bench.load.target import Target
from bench.report.results import CPU_PER_THOUSAND, Figure

# With this share of its core a client is late by itself, and what it measures is itself.
CLIENT_BOUND_SHARE: Final = 0.9


class Meter:
    """Measure from `start` to `stop`."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.knows_costs = False  # whether the servers' CPU can be read: not where others have started them
        self.seconds = 0.0
        self.server_cpu_s = 0.0
        self.client_cpu_s = 0.0
        self.started_at = self._server_before = self._client_before = 0.0

    def start(self) -> None:
        if self._target.on_measure is not None:
            self._target.on_measure()
        self.knows_costs = bool(self._target.pids())
        self._server_before = self._target.cpu_s()
        self._client_before = own_cpu_s()
        self.started_at = now()

    def stop(self) -> None:
        self.seconds = now() - self.started_at
        self.client_cpu_s = own_cpu_s() - self._client_before
        self.server_cpu_s = self._target.cpu_s() - self._server_before

    @property
    def client_share(self) -> float:
        """How much of one core the client has used, 0 to 1."""
        return self.client_cpu_s / self.seconds if self.seconds else 0.0

    @property
    def server_share(self) -> float:
        """How many cores the servers have used."""
        return self.server_cpu_s / self.seconds if self.seconds else 0.0

    @property
    def is_client_bound(self) -> bool:
        """Tell whether the client may have set the pace."""
        return is_bound(self.client_cpu_s, self.seconds)

    def cpu_per_thousand(self, count: int) -> list[Figure]:
        """What a thousand of what was counted have cost the servers; nothing, where that is not known."""
        if not self.knows_costs:
            return []
        per_thousand_s = self.server_cpu_s / max(1, count) * 1000
        return [Figure(name=CPU_PER_THOUSAND, value=per_thousand_s, unit="s", is_higher_better=False)]


def is_bound(cpu_s: float, seconds: float) -> bool:
    """Tell whether a client that used so much CPU in so long may have set the pace.

    However busy the servers are: of several only one may be, and one at its limit may owe that to the client.
    """
    return cpu_s >= CLIENT_BOUND_SHARE * seconds > 0


def own_cpu_s() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def calm() -> Iterator[None]:
    """Keep the client's cycle collector out of what is measured: its pauses would look like the server's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
