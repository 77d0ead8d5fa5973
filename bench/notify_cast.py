"""Who is notified in `hubbub bench notify`: their addresses, wishes and consents, and the app's types.

The shares are assumptions about a social app, stated here so that they can be changed: 45 % have an iPhone,
35 % an Android phone, 6 % a browser (a twentieth of the iPhones' owners as well), the rest look into the app
alone; everybody has a mail address, three in ten a phone number. Every fifth has quiet hours from 22 to 7 in
one of 12 time zones; 5 % want no push, 4 % likes as a daily digest, 3 % no likes at all, 6 % nothing of the
campaign's type on their phones; 60 % have said yes to marketing. All is drawn from a seed.

Rows go into the store before the server starts, as bench/feed_rows.py does, since a hundred thousand
registrations by commands are not what is measured.
"""

import random
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import trio

from actors.notify.address import partition_of
from actors.notify.addresses import device_key
from protocol.notify_records import ConsentRow, NotifyDeviceRow, NotifyUserRow
from protocol.notify_types import AppRules, Channel, Preferences, QuietHours, TypePreference, TypeRule
from protocol.records import AppKey, Put, Row, User
from storage import SqliteStore, open_store

USER_COUNT: Final = 100_000
SEED: Final = 1
PURPOSE: Final = "marketing"
SUBSCRIPTIONS: Final = 500  # of the sandbox's browsers; several users share one, as each costs a key pair
ZONES: Final = (
    "America/Los_Angeles",
    "America/New_York",
    "America/Sao_Paulo",
    "Europe/London",
    "Europe/Berlin",
    "Europe/Athens",
    "Africa/Lagos",
    "Asia/Dubai",
    "Asia/Kolkata",
    "Asia/Jakarta",
    "Asia/Tokyo",
    "Australia/Sydney",
)
_CHUNK: Final = 5_000  # rows of one commit
_SINCE_AGO_MS: Final = 90 * 86_400_000

RULES: Final = AppRules(cap_per_hour=10)
TYPES: Final = (
    TypeRule(
        name="code",
        priority="high",
        is_security=True,
        is_capped=False,
        channels=["sms"],
        ttl_s=600,
        dedup_s=0,
    ),
    TypeRule(name="message", priority="high", is_capped=False, ttl_s=86_400),
    TypeRule(name="social", priority="low", batch_window_s=5),
    TypeRule(name="order", priority="medium"),
    TypeRule(name="offer", priority="low", purpose=PURPOSE, channels=["inapp", "email"]),
    TypeRule(name="news", priority="low", is_capped=False, channels=["inapp", "webpush"]),
    # One for each channel, to measure it by itself.
    TypeRule(name="centre", is_capped=False, channels=["inapp"]),
    *(
        TypeRule(name=f"by_{channel}", is_capped=False, channels=[channel])
        for channel in ("apns", "fcm", "webpush", "sms", "email")
    ),
)


class Person(msgspec.Struct, frozen=True, gc=False):
    """One user, as far as a benchmark chooses by it."""

    number: int
    user_id: str
    zone: str
    channels: tuple[Channel, ...]
    preferences: Preferences | None
    has_consent: bool


def user_id_of(number: int) -> str:
    """The id of a user: spread like those that the server makes, and the same each time."""
    return f"u_{blake2b(b'bench notify %d' % number, digest_size=12).hexdigest()}"


def make_people(count: int, *, seed: int = SEED) -> list[Person]:
    """Draw the users."""
    chance = random.Random(seed)
    people = []
    for number in range(count):
        channels: list[Channel] = ["email"]
        phone = chance.random()
        if phone < 0.45:
            channels.append("apns")
            if chance.random() < 0.05:
                channels.append("webpush")
        elif phone < 0.80:
            channels.append("fcm")
        elif phone < 0.86:
            channels.append("webpush")
        if chance.random() < 0.3:
            channels.append("sms")
        people.append(
            Person(
                number=number,
                user_id=user_id_of(number),
                zone=chance.choice(ZONES),
                channels=tuple(channels),
                preferences=_preferences(chance),
                has_consent=chance.random() < 0.6,
            )
        )
    return people


def _preferences(chance: random.Random) -> Preferences | None:
    quiet = QuietHours(start="22:00", end="07:00") if chance.random() < 0.2 else None
    general: dict[Channel, bool] = {}
    types: dict[str, TypePreference] = {}
    if chance.random() < 0.05:
        general = {"apns": False, "fcm": False, "webpush": False}
    social = chance.random()
    if social < 0.04:
        types["social"] = TypePreference(frequency="daily")
    elif social < 0.07:
        types["social"] = TypePreference(frequency="off")
    if chance.random() < 0.06:
        types["news"] = TypePreference(channels={"apns": False, "fcm": False, "webpush": False})
    if quiet is None and not general and not types:
        return None
    return Preferences(channels=general, types=types, quiet_hours=quiet)


def address_of(person: Person, channel: Channel) -> str:
    """An address that the sandbox takes; web push has those that the sandbox makes."""
    number = person.number + 1
    match channel:
        case "apns":
            return blake2b(b"apns %d" % number, digest_size=32).hexdigest()
        case "fcm":
            return f"fcm_{blake2b(b'fcm %d' % number, digest_size=60).hexdigest()}"
        case "sms":
            return f"+4915{number:09d}"
        case "email":
            return f"user{number}@example.com"
        case _:
            raise ValueError(f"{channel} has no address that could be made up")


class Subscription(msgspec.Struct, frozen=True):
    """What a browser got from the sandbox."""

    endpoint: str
    keys: dict[str, str]


def subscription_rows(
    people: Sequence[Person], subscriptions: Sequence[Subscription], app_id: str, now_ms: int
) -> Iterator[Row]:
    """The addresses of browsers."""
    for person in people:
        if "webpush" in person.channels:
            taken = subscriptions[person.number % len(subscriptions)]
            yield _device_row(person, "webpush", taken.endpoint, app_id, now_ms, taken.keys)


def _device_row(
    person: Person, channel: Channel, address: str, app_id: str, now_ms: int, keys: dict[str, str]
) -> NotifyDeviceRow:
    return NotifyDeviceRow(
        user_id=person.user_id,
        device_key=device_key(channel, address),
        app_id=app_id,
        channel=channel,
        address=address,
        keys=msgspec.json.encode(keys).decode() if keys else "",
        registered_at_ms=now_ms,
        seen_at_ms=now_ms,
    )


def rows_of(people: Sequence[Person], app_id: str, now_ms: int) -> Iterator[Row]:
    """All rows but the browsers', each kind in the order of its key: that is written much faster."""
    since_ms = now_ms - _SINCE_AGO_MS
    in_order = sorted(people, key=lambda person: person.user_id)
    for person in in_order:
        name = f"n{person.number}"
        yield User(
            user_id=person.user_id,
            app_id=app_id,
            username=name,
            username_key=name,
            name=name,
            name_key=name,
            external_id=name,
            language="en",
            time_zone=person.zone,
            created_at_ms=since_ms,
        )
    for person in in_order:
        if person.preferences is not None:
            yield NotifyUserRow(
                user_id=person.user_id,
                app_id=app_id,
                preferences=msgspec.json.encode(person.preferences).decode(),
            )
    for person in in_order:
        if person.has_consent:
            yield ConsentRow(
                user_id=person.user_id,
                purpose=PURPOSE,
                app_id=app_id,
                partition=partition_of(person.user_id),
                source="signup",
                given_at_ms=since_ms,
            )
    for person in in_order:
        for channel in person.channels:
            if channel != "webpush":
                yield _device_row(person, channel, address_of(person, channel), app_id, since_ms, {})


def write(directory: Path, people: Sequence[Person]) -> int:
    """Fill a data directory that has one app key; returns how many rows there are."""
    return trio.run(_write, directory, people)


def write_subscriptions(
    directory: Path, people: Sequence[Person], subscriptions: Sequence[Subscription]
) -> int:
    """Add the browsers' addresses to a filled directory."""
    return trio.run(_write_subscriptions, directory, people, subscriptions)


async def _write(directory: Path, people: Sequence[Person]) -> int:
    async with open_store(directory) as store:
        (key,) = await store.find(AppKey, {})
        return await _put(store, rows_of(people, key.app_id, time.time_ns() // 1_000_000))


async def _write_subscriptions(
    directory: Path, people: Sequence[Person], subscriptions: Sequence[Subscription]
) -> int:
    async with open_store(directory) as store:
        (key,) = await store.find(AppKey, {})
        now_ms = time.time_ns() // 1_000_000
        return await _put(store, subscription_rows(people, subscriptions, key.app_id, now_ms))


async def _put(store: SqliteStore, rows: Iterator[Row]) -> int:
    count = 0
    while chunk := [Put(row) for row in islice(rows, _CHUNK)]:
        await store.commit(chunk)
        count += len(chunk)
    return count
