"""Quiet hours: when a user is not to be disturbed.

The user's clock decides: it is quiet while the clock shows a time within the window. An hour that the clock
leaps over is not missed, and one that it shows twice counts twice. `start` equal to `end` is no window. The
part after midnight belongs to the weekday on which the window began.
"""

from collections.abc import Iterator

from actors.notify.local_time import clock_s, stretch
from protocol.notify_types import QuietHours

_DAY_S = 86_400
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0


def quiet_until_ms(quiet: QuietHours, zone: str, now_ms: int) -> int:
    """The first instant after `now_ms` (Unix ms) at which it is quiet no more; 0: it is not quiet now."""
    start_s, end_s = clock_s(quiet.start), clock_s(quiet.end)
    days = quiet.weekdays
    now_s = at_s = now_ms // 1_000
    while True:  # ends within the first stretch that is longer than the window
        offset_s, stretch_end_s = stretch(zone, at_s)
        left_s = _left_s(start_s, end_s, days, at_s + offset_s)
        if not left_s:
            return at_s * 1_000 if at_s > now_s else 0
        if at_s + left_s < stretch_end_s:
            return (at_s + left_s) * 1_000
        at_s = stretch_end_s


def quiet_from_ms(quiet: QuietHours, zone: str, now_ms: int) -> int:
    """The first instant from `now_ms` on (Unix ms) at which it is quiet; 0 where it never is."""
    start_s, end_s = clock_s(quiet.start), clock_s(quiet.end)
    if start_s == end_s:
        return 0
    days = quiet.weekdays
    now_s = at_s = now_ms // 1_000
    while True:  # ends within the first stretch that is longer than a week
        offset_s, stretch_end_s = stretch(zone, at_s)
        wall = at_s + offset_s
        if _left_s(start_s, end_s, days, wall):
            return at_s * 1_000 if at_s > now_s else now_ms
        day = wall // _DAY_S
        if wall - day * _DAY_S >= start_s:
            day += 1
        while days and (day + _EPOCH_WEEKDAY) % 7 not in days:
            day += 1
        begin_s = day * _DAY_S + start_s - offset_s
        if begin_s < stretch_end_s:
            return begin_s * 1_000
        at_s = stretch_end_s


def quiet_windows(quiet: QuietHours, zone: str, from_ms: int, until_ms: int) -> Iterator[tuple[int, int]]:
    """The quiet hours that begin or go on between two instants, as (begin, end) in Unix ms."""
    while True:
        from_ms = quiet_from_ms(quiet, zone, from_ms)
        if not from_ms or from_ms >= until_ms:
            return
        end_ms = quiet_until_ms(quiet, zone, from_ms)
        yield from_ms, end_ms
        from_ms = end_ms


def _left_s(start_s: int, end_s: int, days: list[int], wall: int) -> int:
    """For how long it stays quiet by a clock that shows `wall` and runs evenly; 0: it is not quiet."""
    day, time_s = divmod(wall, _DAY_S)
    if start_s < end_s:
        is_quiet = start_s <= time_s < end_s and (not days or (day + _EPOCH_WEEKDAY) % 7 in days)
        return end_s - time_s if is_quiet else 0
    if start_s == end_s:
        return 0
    if time_s >= start_s and (not days or (day + _EPOCH_WEEKDAY) % 7 in days):
        return _DAY_S - time_s + end_s
    if time_s < end_s and (not days or (day + _EPOCH_WEEKDAY - 1) % 7 in days):
        return end_s - time_s
    return 0
