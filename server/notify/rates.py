"""How fast things happen: what counters gained, over the last minutes.

`RateRing` is pure; `Rates` fills one every EVERY_S from this node's counters. Counters are named by
(app, name), with "" for all apps together.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec
import trio

from actors.notify.channel_desk import ChannelDesk
from actors.notify.keeper import NotifyStats

EVERY_S: Final = 5.0
KEPT: Final = 60  # slices: five minutes
WINDOW_S: Final = 60.0

Counter = tuple[str, str]  # app, name


class Slice(msgspec.Struct, frozen=True):
    """What counters gained within a span of seconds; those that gained nothing are left out."""

    span_s: float
    gained: dict[Counter, float]


class RateRing:
    """Keep what counters gained in the last KEPT slices of time."""

    def __init__(self, capacity: int = KEPT) -> None:
        self._slices: deque[Slice] = deque(maxlen=capacity)
        self._last: dict[Counter, float] = {}
        self._last_at_s: float | None = None

    def add(self, at_s: float, counters: Mapping[Counter, float]) -> None:
        """Take the counters in as they are at that time; the first time only begins.

        A counter that fell has begun anew, so it has gained what it shows.
        """
        last_at_s, self._last_at_s = self._last_at_s, at_s
        last, self._last = self._last, dict(counters)
        if last_at_s is None or at_s <= last_at_s:
            return
        gained: dict[Counter, float] = {}
        for counter, value in counters.items():
            before = last.get(counter, 0.0)
            gain = value - before if value >= before else value
            if gain:
                gained[counter] = gain
        self._slices.append(Slice(at_s - last_at_s, gained))

    def covered_s(self, window_s: float = WINDOW_S) -> float:
        """How many seconds `per_s` is of: less than the window after a start."""
        return sum(found.span_s for found in self._newest(window_s))

    def per_s(self, app_id: str, window_s: float = WINDOW_S) -> dict[str, float]:
        """How much each counter of an app gained per second; those that gained nothing are left out."""
        covered_s = self.covered_s(window_s)
        sums: dict[str, float] = {}
        for found in self._newest(window_s):
            for (whose, name), gain in found.gained.items():
                if whose == app_id:
                    sums[name] = sums.get(name, 0.0) + gain
        return {name: gain / covered_s for name, gain in sums.items()}

    def series(self, app_id: str, name: str) -> list[float]:
        """What a counter gained per second in each slice that is kept, oldest first."""
        return [found.gained.get((app_id, name), 0.0) / found.span_s for found in self._slices]

    def _newest(self, window_s: float) -> Iterator[Slice]:
        covered_s = 0.0
        for found in reversed(self._slices):
            if covered_s + found.span_s / 2 > window_s:  # half: a slice is never exactly EVERY_S long
                return
            covered_s += found.span_s
            yield found


class Rates:
    """Fill a ring by `run`."""

    def __init__(self, read: Callable[[], Mapping[Counter, float]]) -> None:
        self.ring = RateRing()
        self._read = read

    async def run(self) -> None:
        """Read the counters until cancelled."""
        while True:
            self.ring.add(trio.current_time(), self._read())
            await trio.sleep(EVERY_S)


def counters_of(stats: NotifyStats, channels: ChannelDesk) -> dict[Counter, float]:
    """This node's counters, for all apps and for each that has any."""
    read: dict[Counter, float] = {
        ("", name): float(getattr(stats, name))
        for name in NotifyStats.__struct_fields__
        if name != "notified_by_app"
    }
    for app_id, count in stats.notified_by_app.items():
        read[app_id, "notified"] = count
    for name, channel in channels.channels.items():
        for kind, count in channel.stats.outcomes().items():
            read["", f"{kind}:{name}"] = count
        for (app_id, kind), count in channel.stats.by_app.items():
            read[app_id, f"{kind}:{name}"] = count
    return read
