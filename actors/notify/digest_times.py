"""When digests are due: a local time every day or week, and full hours.

Where the clock leaps over the time, the digest is due at the first moment after; where the clock shows it
twice, the first time only.
"""

from actors.notify.local_time import clock_s, instant_s, stretch, wall_s

_DAY_S = 86_400
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0


def next_daily_ms(at: str, zone: str, now_ms: int) -> int:
    """The first instant after `now_ms` (Unix ms) at which the daily digest of `at` (HH:MM) is due."""
    return _next_ms(clock_s(at), zone, now_ms, wall_s(zone, now_ms) // _DAY_S, 1)


def next_weekly_ms(weekday: int, at: str, zone: str, now_ms: int) -> int:
    """The first instant after `now_ms` (Unix ms) at which the digest of a weekday (Monday 0) is due."""
    day = wall_s(zone, now_ms) // _DAY_S
    day -= (day + _EPOCH_WEEKDAY - weekday) % 7
    return _next_ms(clock_s(at), zone, now_ms, day, 7)


def _next_ms(time_s: int, zone: str, now_ms: int, day: int, days: int) -> int:
    # `day` is the user's today or before. What the clock shows later was never first shown earlier, so no day
    # before can still be due.
    while True:  # ends after two or three rounds
        due_ms = instant_s(day * _DAY_S + time_s, zone) * 1_000
        if due_ms > now_ms:
            return due_ms
        day += days


def next_hour_ms(zone: str, now_ms: int) -> int:
    """The first instant after `now_ms` (Unix ms) at which the zone's clock shows a full hour."""
    at_s = now_ms // 1_000 + 1
    while True:  # ends in the first stretch that is longer than an hour
        offset_s, end_s = stretch(zone, at_s)
        hour_s = at_s + -(at_s + offset_s) % 3_600
        if hour_s < end_s:
            return hour_s * 1_000
        at_s = end_s
