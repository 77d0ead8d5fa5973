"""What a channel has done since the start, for metrics and the dashboard."""

from typing import Final

import msgspec

from actors.notify.delivery import Kind
from protocol.notify_types import Priority

BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0, 1800.0)


def _buckets() -> dict[Priority, list[int]]:
    size = len(BUCKETS_S) + 1
    return {"high": [0] * size, "medium": [0] * size, "low": [0] * size}


class ChannelStats(msgspec.Struct, kw_only=True):
    """Counters of one channel of a node."""

    sent: int = 0  # requests made
    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    busy_s: float = 0.0  # the sum of what requests took
    by_app: dict[tuple[str, Kind], int] = msgspec.field(default_factory=dict)  # the three of them
    # From the request to notify to the provider's yes, in buckets, by priority; the last is all beyond.
    latency: dict[Priority, list[int]] = msgspec.field(default_factory=_buckets)
    latency_sum_s: dict[Priority, float] = msgspec.field(
        default_factory=lambda: {"high": 0.0, "medium": 0.0, "low": 0.0}
    )

    def outcomes(self) -> dict[Kind, int]:
        """The three outcomes, counted."""
        return {"accepted": self.accepted, "refused": self.refused, "unknown": self.unknown}

    def count(self, app_id: str, kind: Kind, took_s: float) -> None:
        """Count what a request came to."""
        self.busy_s += took_s
        counted = (app_id, kind)
        self.by_app[counted] = self.by_app.get(counted, 0) + 1
        if kind == "accepted":
            self.accepted += 1
        elif kind == "unknown":
            self.unknown += 1
        else:
            self.refused += 1

    def time(self, priority: Priority, seconds: float) -> None:
        """Note how long it took from the request to notify to the provider's yes."""
        self.latency_sum_s[priority] += seconds
        buckets = self.latency[priority]
        for index, bound in enumerate(BUCKETS_S):
            if seconds <= bound:
                buckets[index] += 1
                return
        buckets[-1] += 1
