"""How long to wait before trying again: pure arithmetic, with the chance handed in."""

from collections.abc import Callable
from typing import Final

FIRST_DELAY_S: Final = 0.25  # a dropped Wi-Fi is back this soon
SPREAD_S: Final = 1.0  # 10,000 clients of a dead node are 5,000 a second for each of two others
MAX_DELAY_S: Final = 30.0  # a node that is down for an hour is still asked only twice a minute


def full_jitter_s(
    attempt: int,
    chance: Callable[[], float],
    *,
    first_delay_s: float = FIRST_DELAY_S,
    max_delay_s: float = MAX_DELAY_S,
    at_least_s: float = 0.0,
) -> float:
    """Return the delay before attempt number `attempt` (0 for the first retry).

    Any moment up to a limit that doubles with each attempt, so that thousands of clients dropped together
    do not come back together. `at_least_s` is the server's own wish (`retry_after_s`): it comes on top.
    `chance` returns numbers in [0, 1).
    """
    limit_s = min(max_delay_s, first_delay_s * 2.0 ** min(attempt, 30))
    return at_least_s + limit_s * chance()


def jittered_s(interval_s: float, chance: Callable[[], float], *, spread: float = 0.1) -> float:
    """Return the interval shortened by up to `spread`: many clients drift apart, and none is late."""
    return interval_s * (1.0 - spread * chance())
