"""What waits for one lane of one peer: bounded, in order, with a mark wherever something was left out."""

from collections import deque
from typing import Final

BATCH_BYTES: Final = 64 * 1024  # ~5,000 such envelopes a second are more than one node makes
ITEM_OVERHEAD_BYTES: Final = 64  # what Python needs for an item besides its bytes; empty ones fill memory too


class LaneQueue:
    """A queue of items. Once full it takes nothing until it has drained to half: one gap, not thousands."""

    __slots__ = ("_items", "_limit_bytes", "dropped_count", "is_full", "refused_count", "size_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        # (item, when it came); None stands where items were left out.
        self._items: deque[tuple[bytes | None, float]] = deque()
        self.size_bytes = 0
        self.is_full = False
        self.refused_count = 0  # items that were never taken
        self.dropped_count = 0  # items that were taken, and too old before they could be sent

    def __len__(self) -> int:
        return len(self._items)

    def offer(self, item: bytes, now: float) -> bool:
        """Take an item, unless the queue is full."""
        cost_bytes = len(item) + ITEM_OVERHEAD_BYTES
        if self.is_full or self.size_bytes + cost_bytes > self._limit_bytes:
            self.is_full = True
            self.leave_out(now)
            return False
        self._items.append((item, now))
        self.size_bytes += cost_bytes
        return True

    def leave_out(self, now: float) -> None:
        """Mark that an item is missing here, so that the receiver learns of it."""
        self.refused_count += 1
        if not self._items or self._items[-1][0] is not None:
            self._items.append((None, now))

    def take_hole(self) -> bool:
        """Remove the mark at the front; tell whether there was one."""
        if self._items and self._items[0][0] is None:
            self._items.popleft()
            return True
        return False

    def batch(self) -> list[bytes]:
        """The items of the next envelope, up to a mark. They stay queued until `sent`."""
        batch: list[bytes] = []
        size_bytes = 0
        for item, _ in self._items:
            if item is None:
                break
            size_bytes += len(item) + ITEM_OVERHEAD_BYTES
            if batch and size_bytes > BATCH_BYTES:
                break
            batch.append(item)
        return batch

    def sent(self, count: int) -> None:
        """Remove the first `count` items."""
        for _ in range(count):
            item, _at = self._items.popleft()
            assert item is not None  # a batch ends at a mark
            self.size_bytes -= len(item) + ITEM_OVERHEAD_BYTES
        self._drained()

    def drop_older(self, at: float) -> None:
        """Forget what came before that time; for a lane where old items are worth nothing."""
        while self._items and self._items[0][1] < at:
            item, _ = self._items.popleft()
            if item is not None:
                self.size_bytes -= len(item) + ITEM_OVERHEAD_BYTES
                self.dropped_count += 1
        self._drained()

    def _drained(self) -> None:
        if self.is_full and self.size_bytes <= self._limit_bytes // 2:
            self.is_full = False
