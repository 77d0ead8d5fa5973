"""So many connections at a time, and who is urgent goes first.

A channel keeps hands for HIGH alone; an account has fewer connections than the channel has hands. Without an
order of their own there, a one-time code would wait behind a campaign's mails that wait already.
"""

from typing import Final

import trio

_KEPT_SHARE: Final = 4  # one in so many is for the urgent alone


class Slots:
    """A limiter of `count` places. Of 4 and more a quarter is kept for the urgent; of fewer none is."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._kept = count // _KEPT_SHARE
        self._urgent = trio.lowlevel.ParkingLot()
        self._others = trio.lowlevel.ParkingLot()

    @property
    def waiting_count(self) -> int:
        """How many wait for a place."""
        return len(self._urgent) + len(self._others)

    async def acquire(self, *, is_urgent: bool) -> None:
        """Take a place, or wait for one. Cancelled, it has taken none."""
        await trio.lowlevel.checkpoint_if_cancelled()
        kept, lot = (0, self._urgent) if is_urgent else (self._kept, self._others)
        if self._free > kept and not len(lot):
            self._free -= 1
        else:
            await lot.park()  # `release` has taken the place for us

    def release(self) -> None:
        """Give the place back; it is taken at once for who waits."""
        self._free += 1
        for kept, lot in ((0, self._urgent), (self._kept, self._others)):
            if self._free > kept and len(lot):
                self._free -= 1
                lot.unpark()
                return
