"""A guard against retiring many good addresses at once, as another app's topic or a bug would.

One guard for the addresses of one app on one channel. Within any hour at most 20, or 5 % of them, whichever
is more, may be retired. A small app may so lose all that it has; what an account says that has never worked
is not believed before it comes here (account_proof.py).
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

FEWEST = 20  # of a small app half may be gone on one day for good reasons
SHARE = 0.05
WINDOW_MINUTES = 60
OVERRIDE_MS = 3_600_000

Judgement = Literal["retire", "hold", "alert"]


@dataclass(slots=True)
class MassRetirement:
    """Ask `judge` for each address that a provider calls dead. Counts by the minute, so it stays small."""

    _minutes: deque[list[int]] = field(default_factory=deque)  # [minute, retired]
    _retired: int = 0
    _alerted_minute: int = -WINDOW_MINUTES
    _override_until_ms: int = 0

    def judge(self, now_ms: int, alive_count: int) -> Judgement:
        """`retire` it; `hold` it: keep it and do not send to it for now; `alert`: hold it, and tell somebody.

        `alive_count`: how many addresses of this app and channel are alive now, this one included. `alert`
        comes once an hour.
        """
        if self.is_overridden(now_ms):
            return "retire"
        minute = now_ms // 60_000
        while self._minutes and self._minutes[0][0] <= minute - WINDOW_MINUTES - 1:
            self._retired -= self._minutes.popleft()[1]  # one minute more is kept, so no hour sees more
        limit = max(FEWEST, int(SHARE * (alive_count + self._retired)))
        if self._retired >= limit:
            if minute - self._alerted_minute < WINDOW_MINUTES:
                return "hold"
            self._alerted_minute = minute
            return "alert"
        self._retired += 1
        if self._minutes and self._minutes[-1][0] >= minute:
            self._minutes[-1][1] += 1
        else:
            self._minutes.append([minute, 1])
        return "retire"

    def is_overridden(self, now_ms: int) -> bool:
        """Tell whether a person has looked within the hour."""
        return now_ms < self._override_until_ms

    def override(self, now_ms: int) -> None:
        """A person has looked: for an hour everything that is called dead may be retired."""
        self._override_until_ms = now_ms + OVERRIDE_MS
