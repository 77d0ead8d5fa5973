"""A circuit breaker for credentials or for a host: when sending is of no use, the queue is kept and waits.

- closed to open: at once on a configuration error, or on 5 failures of the provider in a row.
- open to half-open: when its time has come one sending is let through.
- half-open to closed on its success, and to open for twice as long on its failure. Where nothing came back
  within a minute, or nothing that says anything of the provider, another is let through.
"""

from dataclasses import dataclass
from typing import Literal

from actors.notify.delivery import Outcome
from actors.notify.retry_policy import BREAK_MS

Finding = Literal["ok", "failure", "config", "neutral", "nothing"]
State = Literal["closed", "open", "half_open"]

FAILURES = 5  # in a row: fewer are seen on a good day
FIRST_MS, LONGEST_MS = 5_000, 60_000  # after failures: a provider's bad minute
CONFIG_FIRST_MS, CONFIG_LONGEST_MS = BREAK_MS, 3_600_000  # after config errors: somebody has to mend it
FIRST_TICKET = 1  # of a breaker that has never opened
PROBE_MS = 60_000  # a probe whose sender was cancelled says nothing; longer than any request may take


def finding(outcome: Outcome) -> Finding:
    """What an outcome says of the provider, whatever it says of the address.

    Any plain answer shows that it is alive. `neutral`: it is alive and does not want more, which is the
    pacer's, or not this device's. `nothing`: what happened concerns one device, or we never asked.
    """
    if outcome.kind == "accepted":
        return "ok"
    is_of_device = outcome.scope == "device"
    if outcome.action == "expired":
        return "nothing"  # mostly by our own clock
    if outcome.kind == "unknown" or outcome.action == "resolve_unknown":
        return "nothing" if is_of_device else "failure"
    if outcome.action == "break":
        return "neutral" if is_of_device else "config"
    if outcome.action in ("retry", "failover"):
        return "failure" if outcome.scope in ("provider", "host") else "neutral"
    return "neutral" if outcome.action == "retry_now" else "ok"


@dataclass(slots=True)
class Breaker:
    """Ask `admit` before each sending, and hand the ticket it gives back to `record` with the outcome.

    A ticket is a generation: every change of state begins a new one, so that what was under way when the
    breaker opened neither closes it nor makes it wait longer. Times are ms of a clock that is not set.
    """

    state: State = "closed"
    generation: int = FIRST_TICKET
    failures: int = 0
    wait_ms: int = 0  # how long it is or was open; 0 once it has closed
    retry_at_ms: int = 0  # open: when it lets one through; half-open: when it lets another
    is_config: bool = False

    @property
    def moment(self) -> tuple[int, int]:
        """What changes whenever those who wait have to ask again."""
        return self.generation, self.retry_at_ms

    def wait_until_ms(self, now_ms: int) -> int:
        """When to ask again; 0: `admit` gives a ticket now."""
        return self.retry_at_ms if self.state != "closed" and now_ms < self.retry_at_ms else 0

    def admit(self, now_ms: int) -> int:
        """A ticket for one sending, or 0: not now, but at `retry_at_ms`."""
        if self.state == "closed":
            return self.generation
        if now_ms < self.retry_at_ms:
            return 0
        self.state = "half_open"
        self.generation += 1
        self.retry_at_ms = now_ms + PROBE_MS
        return self.generation

    def record(self, ticket: int, found: Finding, now_ms: int) -> bool:
        """Take in what came of a sending. True where it has just opened: the moment to tell somebody.

        It is told once: reopening after a failed probe is no news, unless the cause is another.
        """
        if ticket != self.generation:
            return False
        if found == "nothing":
            if self.state == "half_open":
                self.retry_at_ms = now_ms
            return False
        if found == "ok" or (found == "neutral" and self.state == "half_open"):
            if self.state == "half_open":
                self.reset()
            self.failures = 0
            return False
        if found == "neutral":
            return False
        self.failures += 1
        if self.state == "closed" and found == "failure" and self.failures < FAILURES:
            return False
        is_config = found == "config"
        is_news = self.wait_ms == 0 or is_config != self.is_config
        first_ms, longest_ms = (CONFIG_FIRST_MS, CONFIG_LONGEST_MS) if is_config else (FIRST_MS, LONGEST_MS)
        self.wait_ms = first_ms if is_news else min(self.wait_ms * 2, longest_ms)
        self.is_config = is_config
        self.state = "open"
        self.generation += 1
        self.retry_at_ms = now_ms + self.wait_ms
        return is_news

    def reset(self) -> None:
        """Close it: a probe went well, or the settings were changed."""
        self.state = "closed"
        self.generation += 1
        self.failures = self.wait_ms = self.retry_at_ms = 0
        self.is_config = False
