"""A token bucket for one provider's credentials, that slows down when the provider says it is too much."""

from dataclasses import dataclass
from math import ceil

BURST_S = 0.1  # of the rate may go at once: smooth enough for a provider that counts by the second
SLOWEST = 1 / 16  # of the configured rate
RECOVERY_MS = 30_000  # without a complaint the pace doubles again
PAUSE_MS = 1_000  # after a complaint that names no time
LEAST_PER_S = 1e-6  # slower is no pace; below it a wait is no number any more
MAX_WAIT_MS = 3_600_000  # for a token; then it is asked for again


@dataclass(slots=True)
class Pacer:
    """`rate_per_s` 0: no pace of its own; only pauses hold it. Times are ms of a clock that is not set."""

    rate_per_s: float = 0.0
    pace: float = 1.0  # share of the rate that is used now
    _tokens: float = -1.0  # -1: not begun yet, so full
    _at_ms: int = 0
    _pause_until_ms: int = 0
    _changed_at_ms: int = 0

    def take(self, now_ms: int) -> int:
        """Take one token and return 0, or take none and return when one will be there."""
        if now_ms < self._pause_until_ms:
            return self._pause_until_ms
        if self.pace < 1.0 and now_ms - self._changed_at_ms >= RECOVERY_MS:
            self.pace = min(1.0, self.pace * 2)
            self._changed_at_ms = now_ms
        if self.rate_per_s <= 0:
            return 0
        rate_per_ms = max(LEAST_PER_S, self.rate_per_s) * self.pace / 1_000
        burst = max(1.0, self.rate_per_s * BURST_S)
        if self._tokens < 0:
            self._tokens = burst
        elif now_ms > self._at_ms:
            self._tokens = min(burst, self._tokens + (now_ms - self._at_ms) * rate_per_ms)
        self._at_ms = max(self._at_ms, now_ms)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0
        return self._at_ms + min(MAX_WAIT_MS, ceil((1.0 - self._tokens) / rate_per_ms))

    def pace_at(self, now_ms: int) -> float:
        """The share of the rate that the next one would be sent at."""
        has_recovered = self.pace < 1.0 and now_ms - self._changed_at_ms >= RECOVERY_MS
        return min(1.0, self.pace * 2) if has_recovered else self.pace

    def pause_ms(self, now_ms: int) -> int:
        """For how long yet nothing may be sent, as the provider has asked for."""
        return max(0, self._pause_until_ms - now_ms)

    def slow_down(self, now_ms: int, retry_after_s: float | None = None) -> None:
        """The provider said it is too much: pause as long as it asks, then go on at half the pace.

        Complaints of those who were under way together count once.
        """
        pause_ms = PAUSE_MS if retry_after_s is None or retry_after_s <= 0 else ceil(retry_after_s * 1_000)
        if now_ms >= self._pause_until_ms:
            self.pace = max(SLOWEST, self.pace / 2)
        self._pause_until_ms = max(self._pause_until_ms, now_ms + pause_ms)
        self._changed_at_ms = self._pause_until_ms
