"""Local time: what a user's clock shows at an instant, and when it will show a given time.

A zone's clock runs evenly but for a few changes a year. `stretch` gives the even part that an instant lies
in; every rule here walks from one stretch to the next and needs no `datetime`. Seconds are Unix time; "wall"
seconds are those that a clock shows, counted as if it stood in UTC.

zoneinfo does not tell when a zone changes. So offsets are sampled twice a day and narrowed down where two
differ: no zone has changed twice within 12 hours since 1970 (a test looks at all of them).
"""

from bisect import bisect_right
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from protocol.errors import ProtocolError

_BLOCK_BITS = 24  # 194 days are sampled at once: 0.4 ms, and two blocks serve a whole year
_SAMPLE_S = 43_200
_FARTHEST_S = 253_370_764_800  # the year 9999, where datetime ends
_MOST_BEHIND_S = 26 * 3_600  # no clock is farther ahead of UTC than that


@lru_cache(maxsize=2_048)  # four times the zones there are; what is unknown is remembered too
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder, or a name too long for a file
        return None


@lru_cache(maxsize=4_096)
def known_zone(*names: str) -> str:
    """The first of the names that is a time zone, else UTC: the user's, then the app's default."""
    return next((name for name in names if _zone(name) is not None), "UTC")


def _offset_s(zone: ZoneInfo, at_s: int) -> int:
    offset = datetime.fromtimestamp(min(at_s, _FARTHEST_S), zone).utcoffset()
    return 0 if offset is None else offset.days * 86_400 + offset.seconds


@lru_cache(maxsize=4_096)
def _changes(name: str, block: int) -> tuple[list[int], list[int]]:
    """Where even stretches begin within a block, and the offsets from there on."""
    begin_s = block << _BLOCK_BITS
    end_s = begin_s + (1 << _BLOCK_BITS)
    zone = _zone(name) or ZoneInfo("UTC")
    starts, offsets = [begin_s], [_offset_s(zone, begin_s)]
    for sample_s in range(begin_s + _SAMPLE_S, end_s + _SAMPLE_S, _SAMPLE_S):
        after_s = min(sample_s, end_s - 1)
        offset = _offset_s(zone, after_s)
        if offset == offsets[-1]:
            continue
        before_s = after_s - _SAMPLE_S
        while after_s - before_s > 1:
            middle_s = (before_s + after_s) // 2
            if _offset_s(zone, middle_s) == offset:
                after_s = middle_s
            else:
                before_s = middle_s
        starts.append(after_s)
        offsets.append(offset)
    return starts, offsets


def stretch(zone: str, at_s: int) -> tuple[int, int]:
    """The offset from UTC at an instant, and until when it surely holds. Both in seconds.

    The next stretch may have the same offset. An unknown zone is UTC.
    """
    block = at_s >> _BLOCK_BITS
    starts, offsets = _changes(zone, block)
    if len(starts) == 1:
        return offsets[0], (block + 1) << _BLOCK_BITS
    index = bisect_right(starts, at_s)
    return offsets[index - 1], starts[index] if index < len(starts) else (block + 1) << _BLOCK_BITS


def wall_s(zone: str, at_ms: int) -> int:
    """What the zone's clock shows at an instant."""
    at_s = at_ms // 1_000
    return at_s + stretch(zone, at_s)[0]


def instant_s(wall: int, zone: str) -> int:
    """When the zone's clock first shows a time; where it leaps over it: the first moment after."""
    at_s = wall - _MOST_BEHIND_S
    while True:  # ends in the stretch that shows `wall`, or the first one that begins later
        offset_s, end_s = stretch(zone, at_s)
        shown_s = wall - offset_s
        if shown_s < at_s:
            return at_s
        if shown_s < end_s:
            return shown_s
        at_s = end_s


def instant_of(local: str, zone: str) -> int:
    """The instant (Unix ms) of a local time such as 2026-11-27T09:00, by the rules of `instant_s`.

    Raises:
        ProtocolError: bad_field, where it is no ISO 8601 date and time, has an offset, or lies before 1970.
    """
    try:
        at = datetime.fromisoformat(local)
    except ValueError as exc:
        raise ProtocolError("bad_field", f"not a date and time such as 2026-11-27T09:00: {local!r}") from exc
    if at.tzinfo is not None:
        raise ProtocolError("bad_field", f"a local time has no offset from UTC: {local!r}")
    if not 1970 <= at.year <= 9998:
        raise ProtocolError("bad_field", f"the year must lie between 1970 and 9998: {local!r}")
    exact = at.replace(tzinfo=UTC)
    wall = int(exact.replace(microsecond=0).timestamp())
    at_s = instant_s(wall, zone)
    is_shown = at_s + stretch(zone, at_s)[0] == wall
    return at_s * 1_000 + (exact.microsecond // 1_000 if is_shown else 0)


def local_text(at_ms: int, zone: str) -> str:
    """An instant for people: 2026-11-27T09:00+01:00."""
    at_s = min(at_ms // 1_000, _FARTHEST_S)
    return datetime.fromtimestamp(at_s, _zone(zone) or ZoneInfo("UTC")).isoformat(timespec="minutes")


def clock_s(text: str) -> int:
    """Seconds since midnight of a `ClockTime`, HH:MM."""
    return int(text[:2]) * 3_600 + int(text[3:5]) * 60
