"""What has happened lately, for as long as something may be on its way that was read before."""

from collections import OrderedDict
from collections.abc import Hashable


class Lately:
    """A set that forgets what was added to it `keep_s` seconds ago, unless `is_holding`."""

    __slots__ = ("_at", "_keep_s", "is_holding")

    def __init__(self, keep_s: float) -> None:
        self._at: OrderedDict[Hashable, float] = OrderedDict()
        self._keep_s = keep_s
        self.is_holding = False  # something is being read, however long it takes

    def __contains__(self, key: Hashable) -> bool:
        return key in self._at

    def __len__(self) -> int:
        return len(self._at)

    def discard(self, key: Hashable) -> None:
        """Take it out, if it is in."""
        self._at.pop(key, None)

    def add(self, key: Hashable, now: float) -> None:
        """Add it at `now`, in monotonic seconds; the oldest ones go."""
        at = self._at
        at[key] = now
        at.move_to_end(key)
        if self.is_holding:
            return
        before = now - self._keep_s
        while next(iter(at.values())) < before:
            at.popitem(last=False)
