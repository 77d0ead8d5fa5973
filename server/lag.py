"""How late the event loop is: the sign that a node has more to do than it can."""

import math
from collections.abc import Callable
from typing import Final

import structlog
import trio

LAG_INTERVAL_S: Final = 0.1  # often enough to shed within a fraction of a second; costs nothing
WARN_LAG_S: Final = 0.25  # people begin to notice
_FADE: Final = 0.7  # a lag of 0.6 s is forgotten below 0.5 s after one good sample, one of 2 s after four

log = structlog.get_logger(__name__)


class LagWatch:
    """Measure the loop's lag by sleeping and looking how late it wakes."""

    def __init__(self, observe: Callable[[float], None] = lambda _lag_s: None) -> None:
        self._observe = observe
        self._recent_s = 0.0
        self._due = math.inf

    def lag_s(self, now: float) -> float:
        """The lag lately, in seconds; a stall that is not over yet counts too."""
        return max(self._recent_s, now - self._due)

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self._due = trio.current_time() + LAG_INTERVAL_S
            await trio.sleep_until(self._due)
            lag_s = trio.current_time() - self._due
            self._observe(lag_s)
            self._recent_s = max(lag_s, self._recent_s * _FADE)
            if lag_s >= WARN_LAG_S:
                log.warning("loop_lagged", duration_ms=round(lag_s * 1000))
