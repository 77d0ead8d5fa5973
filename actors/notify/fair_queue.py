"""The queue of one channel: by priority, fair between apps, each item not before its time.

Three lanes, one for each priority, and each takes its apps in turn, so an app with a million in the queue
does not delay one that has one. Workers say which lanes they serve: those reserved for HIGH serve nothing
else, so a flood of LOW never fills all of them. Where a worker serves several, HIGH comes first, then MEDIUM,
then LOW; but after 16 HIGH, and after 8 MEDIUM, that were taken while a lower lane waited, the lower one gets
one turn.

Within a lane and an app: first in, first out, by due time. Costs O(1) for what is due, O(log n) for what is
not.
"""

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from protocol.notify_types import Priority

T = TypeVar("T")

HIGH, MEDIUM, LOW = 0, 1, 2
LANE_OF: dict[Priority, int] = {"high": HIGH, "medium": MEDIUM, "low": LOW}
HIGH_LANE: tuple[int, ...] = (HIGH,)
ALL_LANES: tuple[int, ...] = (HIGH, MEDIUM, LOW)
RUNS = (16, 8)  # of HIGH, and of MEDIUM, before a lower lane that waits gets a turn
DUE_AT_ONCE = 64  # moved by one pop, so that 100,000 due at 07:00 do not make one of them slow


class _App(Generic[T]):
    """What one app has in the queue; `ready` by lane. It is in a lane's ring while it has something there."""

    __slots__ = ("count", "name", "ready")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.ready: tuple[deque[T], deque[T], deque[T]] = (deque(), deque(), deque())


class FairQueue(Generic[T]):
    """Holds at most `capacity` items, and of one app at most `app_capacity` (0: as many)."""

    __slots__ = ("_apps", "_later", "_rings", "_runs", "_seq", "app_capacity", "capacity", "count")

    def __init__(self, capacity: int = 100_000, app_capacity: int = 0) -> None:
        self.capacity = capacity
        self.app_capacity = app_capacity or capacity
        self.count = 0
        self._apps: dict[str, _App[T]] = {}
        self._rings: tuple[deque[_App[T]], ...] = (deque(), deque(), deque())
        self._later: tuple[list[tuple[int, int, _App[T], T]], ...] = ([], [], [])
        self._runs = [0, 0]
        self._seq = 0

    def __len__(self) -> int:
        return self.count

    def push(self, item: T, app_id: str, lane: int = MEDIUM, due_at_ms: int = 0) -> bool:
        """Queue one; not before `due_at_ms` (Unix ms, 0: now). False: it is full, nothing was taken."""
        app = self._apps.get(app_id)
        if app is None:
            app = self._apps[app_id] = _App(app_id)
        if self.count >= self.capacity or app.count >= self.app_capacity:
            if not app.count:
                del self._apps[app_id]
            return False
        self.count += 1
        app.count += 1
        if due_at_ms:
            self._seq += 1
            heappush(self._later[lane], (due_at_ms, self._seq, app, item))
            return True
        ready = app.ready[lane]
        if not ready:
            self._rings[lane].append(app)
        ready.append(item)
        return True

    def pop(self, now_ms: int, lanes: tuple[int, ...] = ALL_LANES) -> T | None:
        """Take the next item of these lanes (in rising order); None: nothing is due, see `next_due_ms`."""
        rings = self._rings
        for lane in lanes:
            later = self._later[lane]
            if later and later[0][0] <= now_ms:
                self._move_due(lane, now_ms)
        for index, lane in enumerate(lanes):
            ring = rings[lane]
            if not ring:
                continue
            if lane != LOW and any(rings[lower] for lower in lanes[index + 1 :]):
                if self._runs[lane] >= RUNS[lane]:
                    self._runs[lane] = 0
                    continue
                self._runs[lane] += 1
            app = ring.popleft()
            ready = app.ready[lane]
            item = ready.popleft()
            if ready:
                ring.append(app)
            self.count -= 1
            app.count -= 1
            if not app.count:
                del self._apps[app.name]
            return item
        return None

    def hasten(self, may_now: Callable[[T], bool]) -> None:
        """Make due what waits for its time, where `may_now` says so. Costs a look at all that waits."""
        for lane, later in enumerate(self._later):
            kept = []
            for entry in later:
                if may_now(entry[3]):
                    app = entry[2]
                    if not app.ready[lane]:
                        self._rings[lane].append(app)
                    app.ready[lane].append(entry[3])
                else:
                    kept.append(entry)
            heapify(kept)
            later[:] = kept

    def next_due_ms(self, lanes: tuple[int, ...] = ALL_LANES) -> int | None:
        """When the next item of these lanes is due: 0 for now, None where there is none."""
        if any(self._rings[lane] for lane in lanes):
            return 0
        return min((self._later[lane][0][0] for lane in lanes if self._later[lane]), default=None)

    def _move_due(self, lane: int, now_ms: int) -> None:
        later, ring = self._later[lane], self._rings[lane]
        for _ in range(DUE_AT_ONCE):
            if not later or later[0][0] > now_ms:
                break
            _, _, app, item = heappop(later)
            ready = app.ready[lane]
            if not ready:
                ring.append(app)
            ready.append(item)
