"""Wall time, as records and tokens carry it. Deadlines are trio.current_time() instead, which never jumps."""

import time


def wall_clock_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
