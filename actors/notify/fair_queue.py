"""The queue of one channel: by priority, fair between apps, each item not before its time.

Three lanes, one for each priority, and each takes its apps in turn, so an app with a million in the queue
does not delay one that has one. Workers say which lanes they serve: those reserved for HIGH serve nothing
else, so a flood of LOW never fills all of them. Where a worker serves several, HIGH comes first, then MEDIUM,
then LOW; but after 16 HIGH, and after 8 MEDIUM, that were taken while a lower lane waited, the lower one gets
one turn.

What an app has in a lane stands in lines, one for each `key`: what goes by the same accounts to the same
host. Whoever takes may be told, of the first of a line, that it has to wait, and then the whole line waits:
a pace of ten a second costs ten looks a second, however many stand behind. A line that waits takes no turn.

Within a lane, an app and a key: first in, first out, by due time. Costs O(1) for what is due, O(log n) for
what is not, and for each line that has to wait.
"""

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from protocol.notify_types import Priority

T = TypeVar("T")
K = TypeVar("K")

HIGH, MEDIUM, LOW = 0, 1, 2
LANE_OF: dict[Priority, int] = {"high": HIGH, "medium": MEDIUM, "low": LOW}
HIGH_LANE: tuple[int, ...] = (HIGH,)
ALL_LANES: tuple[int, ...] = (HIGH, MEDIUM, LOW)
RUNS = (16, 8)  # of HIGH, and of MEDIUM, before a lower lane that waits gets a turn
STUCK_MS = 10_000  # who waits for that long in one go waits for no pace: the account or host is out of use
DUE_AT_ONCE = 64  # moved by one pop, so that 100,000 due at 07:00 do not make one of them slow


class _App(Generic[T]):
    """What one app has in the queue. It is in a lane's ring while it has a line in its own ring there."""

    __slots__ = ("count", "lines", "name", "rings")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.lines: dict[tuple[int, str], _Line[T]] = {}  # by lane and key; none is empty
        self.rings: tuple[deque[_Line[T]], ...] = (deque(), deque(), deque())  # of those that do not wait


class _Line(Generic[T]):
    __slots__ = ("app", "is_stuck", "key", "lane", "ready")

    def __init__(self, app: _App[T], lane: int, key: str) -> None:
        self.app = app
        self.lane = lane
        self.key = key
        self.is_stuck = False  # it waits for STUCK_MS or longer
        self.ready: deque[T] = deque()


class FairQueue(Generic[T]):
    """Holds at most `capacity` items, and of one app at most `app_capacity` (0: as many)."""

    __slots__ = (
        "_apps",
        "_later",
        "_rings",
        "_runs",
        "_seq",
        "_waiting",
        "app_capacity",
        "capacity",
        "count",
    )

    def __init__(self, capacity: int = 100_000, app_capacity: int = 0) -> None:
        self.capacity = capacity
        self.app_capacity = app_capacity or capacity
        self.count = 0
        self._apps: dict[str, _App[T]] = {}
        self._rings: tuple[deque[_App[T]], ...] = (deque(), deque(), deque())
        self._later: tuple[list[tuple[int, int, _App[T], str, T]], ...] = ([], [], [])
        self._waiting: tuple[list[tuple[int, int, _Line[T]]], ...] = ([], [], [])
        self._runs = [0, 0]
        self._seq = 0

    def __len__(self) -> int:
        return self.count

    def push(self, item: T, app_id: str, lane: int = MEDIUM, due_at_ms: int = 0, key: str = "") -> bool:
        """Queue one; not before `due_at_ms` (by the clock of `pop`, 0: now). False: it is full."""
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
            heappush(self._later[lane], (due_at_ms, self._seq, app, key, item))
        else:
            self._append(app, lane, key, item)
        return True

    def pop(
        self, now_ms: int, lanes: tuple[int, ...] = ALL_LANES, wait_ms: Callable[[T], int] | None = None
    ) -> T | None:
        """Take the next item of these lanes (in rising order); None: nothing is due, see `next_due_ms`.

        `wait_ms` is asked of an item that would be next: 0, and it is taken, or until when it has to wait,
        and all of its line with it.
        """
        for lane in lanes:
            later = self._later[lane]
            if later and later[0][0] <= now_ms:
                self._move_due(lane, now_ms)
            waiting = self._waiting[lane]
            if waiting and waiting[0][0] <= now_ms:
                self._move_waiting(lane, now_ms)
        rings = self._rings
        while (lane := self._next_lane(lanes)) >= 0:
            ring = rings[lane]
            app = ring[0]
            app_ring = app.rings[lane]
            line = app_ring[0]
            until_ms = 0 if wait_ms is None else wait_ms(line.ready[0])
            if until_ms:
                app_ring.popleft()
                if not app_ring:  # with another line the turn is still the app's
                    ring.popleft()
                self._seq += 1
                line.is_stuck = until_ms - now_ms >= STUCK_MS
                heappush(self._waiting[lane], (until_ms, self._seq, line))
                continue
            if lane != LOW and any(rings[lower] for lower in lanes if lower > lane):
                self._runs[lane] += 1
            item = line.ready.popleft()
            if not line.ready:
                app_ring.popleft()
                del app.lines[lane, line.key]
            elif len(app_ring) > 1:
                app_ring.rotate(-1)
            if not app_ring:
                ring.popleft()
            elif len(ring) > 1:
                ring.rotate(-1)
            self.count -= 1
            app.count -= 1
            if not app.count:
                del self._apps[app.name]
            return item
        return None

    def release(self, key: str | None = None) -> None:
        """End the wait of the lines with this key (None: of all), in the order in which they began it."""
        for waiting in self._waiting:
            kept = []
            for entry in sorted(waiting):
                if key is None or entry[2].key == key:
                    self._open(entry[2])
                else:
                    kept.append(entry)
            waiting[:] = kept  # sorted, so a heap

    def hasten(self, may_now: Callable[[T], bool]) -> None:
        """Make due what waits for its time, where `may_now` says so. Costs a look at all that waits."""
        for lane, later in enumerate(self._later):
            kept = []
            for entry in later:
                _, _, app, key, item = entry
                if may_now(item):
                    self._append(app, lane, key, item)
                else:
                    kept.append(entry)
            heapify(kept)
            later[:] = kept

    def discard(self, is_gone: Callable[[T], bool]) -> None:
        """Let go of items that nobody wants any more. Costs a look at all that is queued."""
        for later in self._later:
            kept_later = [entry for entry in later if not is_gone(entry[4])]
            if len(kept_later) < len(later):
                for entry in later:
                    self._uncount(entry[2], is_gone(entry[4]))
                heapify(kept_later)
                later[:] = kept_later
        for app in list(self._apps.values()):
            for place, line in list(app.lines.items()):
                kept = deque(item for item in line.ready if not is_gone(item))
                self._uncount(app, len(line.ready) - len(kept))
                line.ready = kept
                if not kept:
                    del app.lines[place]
            for ring in app.rings:
                _keep(ring, lambda line: bool(line.ready))
        for lane, waiting in enumerate(self._waiting):
            _keep(self._rings[lane], lambda app, lane=lane: bool(app.rings[lane]))  # type: ignore[misc]
            kept_waiting = [entry for entry in waiting if entry[2].ready]
            heapify(kept_waiting)
            waiting[:] = kept_waiting

    def _uncount(self, app: _App[T], count: int) -> None:
        self.count -= count
        app.count -= count
        if not app.count:
            self._apps.pop(app.name, None)

    def next_due_ms(self, lanes: tuple[int, ...] = ALL_LANES) -> int | None:
        """When the next item of these lanes is due, or its line's wait over: 0 for now; None: it is empty."""
        if any(self._rings[lane] for lane in lanes):
            return 0
        nexts = [heap[lane][0][0] for heap in (self._later, self._waiting) for lane in lanes if heap[lane]]
        return min(nexts, default=None)

    def moving_count(self, app_id: str) -> int:
        """How many items of an app are due and go as soon as their turn comes: those of lines not stuck."""
        app = self._apps.get(app_id)
        return sum(len(line.ready) for line in app.lines.values() if not line.is_stuck) if app else 0

    def _next_lane(self, lanes: tuple[int, ...]) -> int:
        """The lane whose turn it is, -1: nothing is due."""
        rings = self._rings
        for lane in lanes:
            if not rings[lane]:
                continue
            if (
                lane != LOW
                and self._runs[lane] >= RUNS[lane]
                and any(rings[lower] for lower in lanes if lower > lane)
            ):
                self._runs[lane] = 0
                continue
            return lane
        return -1

    def _append(self, app: _App[T], lane: int, key: str, item: T) -> None:
        line = app.lines.get((lane, key))
        if line is None:
            line = app.lines[lane, key] = _Line(app, lane, key)
            self._open(line)
        line.ready.append(item)

    def _open(self, line: _Line[T]) -> None:
        line.is_stuck = False
        app_ring = line.app.rings[line.lane]
        if not app_ring:
            self._rings[line.lane].append(line.app)
        app_ring.append(line)

    def _move_due(self, lane: int, now_ms: int) -> None:
        later = self._later[lane]
        for _ in range(DUE_AT_ONCE):
            if not later or later[0][0] > now_ms:
                break
            _, _, app, key, item = heappop(later)
            self._append(app, lane, key, item)

    def _move_waiting(self, lane: int, now_ms: int) -> None:
        waiting = self._waiting[lane]
        for _ in range(DUE_AT_ONCE):
            if not waiting or waiting[0][0] > now_ms:
                break
            self._open(heappop(waiting)[2])


def _keep(ring: deque[K], is_kept: Callable[[K], bool]) -> None:
    kept = [one for one in ring if is_kept(one)]
    if len(kept) < len(ring):
        ring.clear()
        ring.extend(kept)
