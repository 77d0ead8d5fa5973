"""A plain model of clocks: every zone's clock minute by minute, as `datetime` reads it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from protocol.notify_types import QuietHours

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
FIRST_MS = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000
DAYS = 4 * 365

# Odd ones: half hours, a change of half an hour, changes at midnight, more than two a year, and none.
ODD_ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Chatham",
    "Asia/Beirut",
    "America/Santiago",
    "America/Havana",
    "Africa/Casablanca",
    "America/Nuuk",
    "Pacific/Kiritimati",
    "Etc/GMT+12",
    "Asia/Kolkata",
    "UTC",
)


@cache
def all_zones() -> tuple[str, ...]:
    """Every zone that has a clock; `localtime` and the like are whatever the machine says."""
    return tuple(sorted(zone for zone in available_timezones() if "/" in zone or zone == "UTC"))


def wall(zone: str, at_ms: int) -> datetime:
    """What the clock shows, without its zone."""
    return datetime.fromtimestamp(at_ms / 1_000, ZoneInfo(zone)).replace(tzinfo=None)


@cache
def clock_changes() -> tuple[tuple[str, int], ...]:
    """Where a zone's clock is changed within four years: (zone, an instant less than a day before).

    Of zones that change alike only one is told.
    """
    found: dict[tuple[int, timedelta | None, timedelta | None], tuple[str, int]] = {}
    for zone in all_zones():
        info = ZoneInfo(zone)
        before = datetime.fromtimestamp(FIRST_MS / 1_000, info).utcoffset()
        for day in range(1, DAYS):
            at_ms = FIRST_MS + day * DAY_MS
            after = datetime.fromtimestamp(at_ms / 1_000, info).utcoffset()
            if after != before:
                found.setdefault((at_ms, before, after), (zone, at_ms - DAY_MS))
                before = after
    return tuple(sorted(found.values(), key=lambda change: (change[1], change[0])))


def minutes(from_ms: int, until_ms: int) -> Iterator[int]:
    """Every full minute from `from_ms` on."""
    return iter(range(-(-from_ms // MINUTE_MS) * MINUTE_MS, until_ms, MINUTE_MS))


def is_quiet(quiet: QuietHours, shown: datetime) -> bool:
    """Whether a clock that shows this is within quiet hours, said as a person would."""
    time = shown.strftime("%H:%M")

    def begins_on(day: datetime) -> bool:
        return not quiet.weekdays or day.weekday() in quiet.weekdays

    if quiet.start <= quiet.end:
        return quiet.start <= time < quiet.end and begins_on(shown)
    if time >= quiet.start:
        return begins_on(shown)
    return time < quiet.end and begins_on(shown - timedelta(days=1))
