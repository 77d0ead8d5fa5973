"""Local time: what clocks show, and when they show it."""

import struct
from datetime import datetime, timedelta
from importlib import resources
from itertools import pairwise
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.notify.local_time import instant_of, instant_s, known_zone, local_text, stretch, wall_s
from protocol.errors import ProtocolError
from tests.actors.notify.clocks import DAY_MS, DAYS, FIRST_MS, all_zones, clock_changes, minutes, wall

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a wall clock


def as_wall_s(shown: datetime) -> int:
    return (shown - EPOCH) // timedelta(seconds=1)


def changes_in_file(zone: str) -> tuple[int, ...]:
    """The instants at which a zone's clock is changed, as its TZif file lists them (RFC 9636)."""
    for folder in TZPATH:
        path = Path(folder, zone)
        if path.is_file():
            raw = path.read_bytes()
            break
    else:
        raw = resources.files("tzdata.zoneinfo").joinpath(*zone.split("/")).read_bytes()

    def counts_at(at: int) -> tuple[int, ...]:
        assert raw[at : at + 4] == b"TZif"
        return struct.unpack(">6l", raw[at + 20 : at + 44])

    ut, std, leap, times, types, chars = counts_at(0)
    second = 44 + times * 5 + types * 6 + chars + leap * 8 + std + ut
    times = counts_at(second)[3]
    return struct.unpack(f">{times}q", raw[second + 44 : second + 44 + times * 8])


def test_no_zone_changes_twice_within_half_a_day() -> None:
    """`stretch` samples twice a day, and would not see a change that is taken back between two samples."""
    gaps = [
        after_s - before_s
        for zone in all_zones()
        for before_s, after_s in pairwise(changes_in_file(zone))
        if before_s >= 0
    ]
    assert len(gaps) > 10_000
    assert min(gaps) > 43_200


def test_offsets_are_those_of_datetime_around_every_change() -> None:
    """The narrowing down finds the very second: before it the old offset holds, from it on the new one."""
    for zone, near_ms in clock_changes():
        info = ZoneInfo(zone)
        for at_ms in range(near_ms - DAY_MS, near_ms + 2 * DAY_MS, 3_600_000):
            offset = datetime.fromtimestamp(at_ms / 1_000, info).utcoffset()
            assert offset is not None
            assert stretch(zone, at_ms // 1_000)[0] == offset.total_seconds(), (zone, at_ms)
        change_s = stretch(zone, near_ms // 1_000)[1]
        assert wall_s(zone, change_s * 1_000 - 1) == as_wall_s(wall(zone, change_s * 1_000 - 1_000))
        assert wall_s(zone, change_s * 1_000) == as_wall_s(wall(zone, change_s * 1_000))


@given(zone=st.sampled_from(all_zones()), at_s=st.integers(0, 4_102_444_800), after_s=st.integers(0, 10**7))
def test_an_offset_holds_as_long_as_its_stretch(zone: str, at_s: int, after_s: int) -> None:
    """All walks over the clock trust that a stretch is even, from 1970 to 2100."""
    offset_s, end_s = stretch(zone, at_s)
    assert end_s > at_s
    inside_s = min(at_s + after_s, end_s - 1)
    assert wall_s(zone, inside_s * 1_000) == as_wall_s(wall(zone, inside_s * 1_000)) == inside_s + offset_s


@given(change=st.sampled_from(clock_changes()), minute=st.integers(0, 2 * 1_440))
def test_a_local_time_is_its_first_showing_or_the_first_moment_after(
    change: tuple[str, int], minute: int
) -> None:
    """Around every change of a clock, against a clock that is read minute by minute."""
    zone, near_ms = change
    wanted = (wall(zone, near_ms) + timedelta(minutes=minute)).replace(second=0)
    expected = next(
        at_ms
        for at_ms in minutes(near_ms - DAY_MS, near_ms + 4 * DAY_MS)
        if wall(zone, at_ms) >= wanted  # the clock shows it, or has leapt over it
    )
    assert instant_s(as_wall_s(wanted), zone) * 1_000 == expected
    assert instant_of(wanted.isoformat(), zone) == expected


@given(zone=st.sampled_from(all_zones()), minute=st.integers(0, DAYS * 1_440))
def test_showing_a_time_and_finding_it_are_inverse(zone: str, minute: int) -> None:
    """Whatever the zone: what is found shows what was looked for, unless no clock ever shows it."""
    wanted_s = FIRST_MS // 1_000 + minute * 60
    found_s = instant_s(wanted_s, zone)
    shown_s = wall_s(zone, found_s * 1_000)
    assert shown_s == wanted_s or wall_s(zone, found_s * 1_000 - 1) < wanted_s < shown_s


@pytest.mark.parametrize(
    ("local", "zone", "expected"),
    [
        ("2026-11-27T09:00", "Europe/Berlin", "2026-11-27T09:00+01:00"),
        ("2026-03-29T02:30", "Europe/Berlin", "2026-03-29T03:00+02:00"),  # leapt over
        ("2026-10-25T02:30", "Europe/Berlin", "2026-10-25T02:30+02:00"),  # the first of two
        ("2026-04-05T01:45", "Australia/Lord_Howe", "2026-04-05T01:45+11:00"),  # half an hour is shown twice
        ("2026-11-27T09:00", "No/Such", "2026-11-27T09:00+00:00"),
        ("2011-12-30T12:00", "Pacific/Apia", "2011-12-31T00:00+14:00"),  # a day that never was
    ],
)
def test_known_cases(local: str, zone: str, expected: str) -> None:
    """Cases that a person can check by hand."""
    assert local_text(instant_of(local, zone), zone) == expected


def test_parts_of_a_second_are_kept_but_not_in_a_gap() -> None:
    """The first moment after a gap is a full second."""
    assert instant_of("2026-11-27T09:00:00.250", "UTC") % 1_000 == 250
    assert instant_of("2026-03-29T02:30:00.250", "Europe/Berlin") % 1_000 == 0


@pytest.mark.parametrize(
    "local",
    ["", "soon", "2026-02-30T09:00", "2026-11-27T09:00Z", "2026-11-27T09:00+01:00", "1969-01-01T00:00"],
)
def test_what_is_no_local_time_is_refused(local: str) -> None:
    """An app learns at once that its time cannot be used."""
    with pytest.raises(ProtocolError) as caught:
        instant_of(local, "Europe/Berlin")
    assert caught.value.code == "bad_field"


@pytest.mark.parametrize("bad", ["", "Mars/Olympus", "../../etc/passwd", "Europe", "x" * 10_000, "\0"])
def test_an_unknown_zone_gives_way_to_the_apps_and_then_to_utc(bad: str) -> None:
    """What a client calls its zone comes from outside and may be anything."""
    assert known_zone(bad, "Europe/Berlin") == "Europe/Berlin"
    assert known_zone("Asia/Tokyo", "Europe/Berlin") == "Asia/Tokyo"
    assert known_zone(bad, bad) == "UTC"
    assert stretch(bad, 1_790_000_000)[0] == 0
