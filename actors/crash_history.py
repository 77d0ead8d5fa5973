"""What the crashes of one address add up to. Pure: `now` is handed in, in `trio.current_time()` seconds."""

import msgspec


class CrashPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Say when an actor that keeps crashing is given a rest, and for how long."""

    max_crashes: int = 5
    window_s: float = 60.0
    quarantine_s: float = 60.0
    quarantine_max_s: float = 900.0  # 15 min: an operator has been alerted by then, and senders are told
    # This long without a crash, counted from the last quarantine's end, and the next one is short again.
    forget_after_s: float = 900.0


class CrashHistory:
    """Remember an address's crashes, across its incarnations, for as long as they matter."""

    __slots__ = (
        "_crash_times",
        "_last_at",
        "_last_quarantine_s",
        "_policy",
        "is_restarted",
        "quarantined_until",
    )

    def __init__(self, policy: CrashPolicy, now: float) -> None:
        self._policy = policy
        self._crash_times: list[float] = []  # at most max_crashes
        self._last_at = now
        self._last_quarantine_s = 0.0
        self.quarantined_until = now
        self.is_restarted = False  # set until the next incarnation has been told

    def record(self, now: float) -> float:
        """Count one crash; return the seconds of quarantine that it earns, 0 for none."""
        policy = self._policy
        if self.is_forgettable(now):
            self._last_quarantine_s = 0.0
        self._crash_times = [at for at in self._crash_times if now - at < policy.window_s]
        self._crash_times.append(now)
        self._last_at = now
        if len(self._crash_times) < policy.max_crashes:
            return 0.0
        self._crash_times.clear()
        doubled_s = self._last_quarantine_s * 2 or policy.quarantine_s
        self._last_quarantine_s = min(doubled_s, policy.quarantine_max_s)
        self.quarantined_until = now + self._last_quarantine_s
        return self._last_quarantine_s

    def quarantine_left_s(self, now: float) -> float:
        """Return how many seconds of quarantine are left, 0 when there is none."""
        return max(0.0, self.quarantined_until - now)

    def is_forgettable(self, now: float) -> bool:
        """Tell whether the past no longer changes how the next crash is judged."""
        return now - max(self.quarantined_until, self._last_at) >= self._policy.forget_after_s
