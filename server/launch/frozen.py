"""Who has held the store's write lock for too long. Pure.

Nodes of one directory take turns writing. One that is stopped in the middle of its commit keeps the lock, and
all others wait for it: killing it is what lets them go on, and loses nothing that was acked.
"""

from collections.abc import Collection
from typing import Final, Protocol

# Commits take milliseconds; a disk that hangs for a second or two is not worth a kill.
FROZEN_AFTER_S: Final = 5.0
# A node that is starting may be migrating a large database under the lock.
STARTING_FROZEN_AFTER_S: Final = 120.0
LOOK_EVERY_S: Final = 0.5
# Looks further apart than this: we were stopped ourselves (Ctrl-Z, suspend), and so may all have been.
_BLIND_AFTER_S: Final = 2.0


class Holder(Protocol):
    """What storage.locks tells: who took the lock last, for the how manieth time, and whether it has it."""

    @property
    def pid(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def is_held(self) -> bool: ...


class LockWatch:
    """Remember since when one and the same acquisition lasts."""

    def __init__(self) -> None:
        self._acquisition = (0, 0)
        self._since = 0.0
        self._looked_at = -1e9

    def look(
        self, holder: Holder | None, now: float, *, up: Collection[int], starting: Collection[int]
    ) -> int | None:
        """Take a look; returns the process to kill, one of ours, or None.

        `up` and `starting` are the process ids of our own children; nobody else is ever named.
        """
        was_blind = now - self._looked_at > _BLIND_AFTER_S
        self._looked_at = now
        if holder is None or not holder.is_held:
            self._acquisition = (0, 0)
            return None
        acquisition = (holder.pid, holder.count)
        if acquisition != self._acquisition or was_blind:
            self._acquisition, self._since = acquisition, now
            return None
        limit_s = STARTING_FROZEN_AFTER_S if holder.pid in starting else FROZEN_AFTER_S
        is_ours = holder.pid in up or holder.pid in starting
        return holder.pid if is_ours and now - self._since > limit_s else None

    def held_s(self, now: float) -> float:
        """For how long the present acquisition has been seen."""
        return now - self._since if self._acquisition != (0, 0) else 0.0
