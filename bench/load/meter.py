"""What a run costs: time, the servers' CPU, the client's own CPU."""

import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bench.load.loop import now
from bench.load.target import Target

# With this share of its core a client is late by itself, and what it measures is itself.
CLIENT_BOUND_SHARE: Final = 0.9


class Meter:
    """Measure from `start` to `stop`."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.seconds = 0.0
        self.server_cpu_s = 0.0
        self.client_cpu_s = 0.0
        self.started_at = self._server_before = self._client_before = 0.0

    def start(self) -> None:
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
        """Tell whether the client, and not the server, may have set the pace."""
        return self.client_share >= CLIENT_BOUND_SHARE and self.server_share < CLIENT_BOUND_SHARE


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
