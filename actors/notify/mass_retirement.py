"""A guard against retiring many good addresses at once, as another app's topic or a bug would.

One guard on each node for its share of the addresses of one app on one channel: users are spread evenly over
the nodes. Within any hour at most 20, or 5 % of them, whichever is more, may be retired. A small app may so
lose all that it has; what an account says that has never worked is not believed before it comes here
(account_proof.py).

A person who has looked may let all of them go for ALLOWED_MS. That is a row of the app's setup, so it holds
on every node and over restarts, and goes by the clock on the wall; `is_allowed` is asked before the guard.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

FEWEST = 20  # of a small app half may be gone on one day for good reasons
SHARE = 0.05
WINDOW_MINUTES = 60
ALLOWED_MS = 3_600_000
CLOCKS_MS = 60_000  # by which the clocks of two nodes may differ

Judgement = Literal["retire", "hold", "alert"]


def is_allowed(until_ms: int, now_ms: int) -> bool:
    """Tell whether everything that is called dead may be retired now. Unix ms; `until_ms` 0: nobody said so.

    An end that lies too far ahead is that of a clock which was set back since: it counts no more.
    """
    return now_ms < until_ms <= now_ms + ALLOWED_MS + CLOCKS_MS


@dataclass(slots=True)
class MassRetirement:
    """Ask `judge` for each address that a provider calls dead. Counts by the minute, so it stays small."""

    _minutes: deque[list[int]] = field(default_factory=deque)  # [minute, retired]
    _retired: int = 0
    _alerted_minute: int = -WINDOW_MINUTES

    def judge(self, now_ms: int, alive_count: int) -> Judgement:
        """`retire` it; `hold` it: keep it and do not send to it for now; `alert`: hold it, and tell somebody.

        `alive_count`: how many addresses of this app, channel and node are alive now, this one included.
        `alert` comes once an hour.
        """
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
