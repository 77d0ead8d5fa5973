"""The pass over the records: sound ones pass, and each kind of fault that is planted is found."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from bench.feed_rows import prepare
from bench.notify_check import Asked, Report, Taken, check
from bench.notify_wishes import is_quiet
from protocol.notify_content import NotifyRequest
from protocol.notify_types import AppRules, TypeRule

# 2026-11-26 12:00 in UTC, 13:00 in Berlin: nobody's night.
NOON_MS = 1_795_694_400_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NIGHT_MS = NOON_MS + 11 * HOUR_MS
ANN, BEN = "u_ann", "u_ben"
CODE, PUSH, TEXT, NEWS_ANN, NEWS_BEN, HELD, DROPPED = 101, 102, 103, 104, 105, 106, 107
APNS, PHONE = "ab" * 32, "+491500000001"


class Books:
    """A database with what became of some notifications, written as plainly as it is read."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.asked: list[Asked] = []
        self.taken: dict[str, list[Taken]] = {"apns": [], "sms": []}
        self._seqs = 0

    def do(self, sql: str, *values: object) -> None:
        with closing(sqlite3.connect(self.database)) as db, db:
            changed = db.execute(sql, values)
            assert changed.rowcount, f"nothing was changed by {sql}"

    def put(self, table: str, **values: object) -> None:
        marks = ", ".join("?" * len(values))
        self.do(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", *values.values())

    def user(self, user_id: str, **wishes: object) -> None:
        self.put(
            "user_account",
            user_id=user_id,
            app_id="default",
            username=user_id,
            username_key=user_id,
            name=user_id,
            name_key=user_id,
            time_zone="Europe/Berlin",
            created_at_ms=1,
        )
        if wishes:
            self.put("notify_user", user_id=user_id, app_id="default", preferences=json.dumps(wishes))

    def note(
        self,
        number: int,
        user_id: str,
        type_name: str,
        *,
        state: str = "done",
        at_ms: int = NOON_MS,
        **more: object,
    ) -> None:
        self.put(
            "notification",
            notification_id=number,
            partition=0,
            app_id="default",
            user_id=user_id,
            type=type_name,
            priority="medium",
            state=state,
            created_at_ms=at_ms,
            **more,
        )

    def ask(self, number: int, request: NotifyRequest, state: str = "done") -> None:
        self.asked.append(Asked(request, number, state))

    def say(self, number: int, kind: str, *decisions: list[str], at_ms: int = NOON_MS) -> None:
        self._seqs += 1
        self.put(
            "log",
            stream_id=1,
            seq=self._seqs,
            kind=kind,
            at_ms=at_ms,
            user_id=ANN,
            message_count=0,
            is_message=0,
            thread=number,
            body=json.dumps({"d": decisions}),
        )

    def sent(self, number: int, user_id: str, channel: str, device_key: str) -> None:
        """A decision with an attempt, its result, the delivery, and what the provider has."""
        self.say(number, "decided", ["enqueue", "pass", channel, device_key], ["attempt", "pass", channel])
        self.say(number, "concluded", ["result", "accepted", "done"], ["result", "accepted", "accepted"])
        self.put(
            "delivery",
            notification_id=number,
            number=0,
            partition=0,
            app_id="default",
            user_id=user_id,
            channel=channel,
            device_key=device_key,
            priority="medium",
            state="accepted",
            is_open=0,
            attempt=1,
            created_at_ms=NOON_MS,
        )

    def checked(self) -> Report:
        return check(self.database, self.asked, self.taken)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without rows."""
    directory = tmp_path_factory.mktemp("empty")
    prepare(directory)
    return directory / "hubbub.db"


@pytest.fixture
def books(empty: Path, tmp_path: Path) -> Books:
    """Sound books: a code, a push, an order, a campaign to both, one held and one dropped."""
    database = tmp_path / "hubbub.db"
    shutil.copy(empty, database)
    books = Books(database)
    books.put("stream", stream_id=1, name="n:0", shard=0)
    rules = msgspec.json.encode(AppRules(cap_per_hour=2)).decode()
    books.put("notify_app", app_id="default", version=1, rules=rules)
    for rule in (
        TypeRule(name="code", is_security=True, channels=["sms"], dedup_s=0),
        TypeRule(name="order"),
        TypeRule(name="offer", purpose="marketing"),
        TypeRule(name="news", channels=["inapp"]),
    ):
        books.put("notify_type", app_id="default", name=rule.name, body=msgspec.json.encode(rule).decode())
    books.user(ANN)
    books.user(
        BEN, quiet_hours={"start": "22:00", "end": "07:00"}, types={"order": {"channels": {"fcm": False}}}
    )
    for user_id, key, channel, address in ((ANN, "apns-1", "apns", APNS), (BEN, "sms-1", "sms", PHONE)):
        books.put(
            "notify_device",
            user_id=user_id,
            device_key=key,
            app_id="default",
            channel=channel,
            address=address,
            registered_at_ms=1,
        )
    books.put(
        "notify_request",
        request_id="rq_news",
        app_id="default",
        digest="",
        body=json.dumps({"type": "news", "group": "*"}),
        state="done",
        created_at_ms=NOON_MS,
        done_at_ms=NOON_MS,
    )
    books.asked.append(Asked(NotifyRequest(type="news", group="*", text="News"), 0, "rq_news"))
    books.note(CODE, BEN, "code")
    books.ask(CODE, NotifyRequest(type="code", user_id=BEN, text="1234", idempotency_key="k1"))
    books.sent(CODE, BEN, "sms", "sms-1")
    books.taken["sms"].append(Taken(f"{PHONE} 0123456789abcdef", PHONE, NOON_MS + 5))
    books.note(PUSH, ANN, "order")
    books.ask(PUSH, NotifyRequest(type="order", user_id=ANN, text="Sent", idempotency_key="k2"))
    books.sent(PUSH, ANN, "apns", "apns-1")
    books.taken["apns"].append(Taken(f"{PUSH:x}-0", APNS, NOON_MS + 7))
    for number, user_id in ((NEWS_ANN, ANN), (NEWS_BEN, BEN)):
        books.note(number, user_id, "news", request_id="rq_news")
        books.say(number, "decided", ["enqueue", "sent", "inapp"])
    books.note(HELD, BEN, "order", state="held")
    books.say(HELD, "decided", ["quiet_hours", "hold", "quiet_hours"])
    books.note(DROPPED, ANN, "offer", state="dropped")
    books.say(DROPPED, "decided", ["consent", "drop", "purpose"])
    return books


def test_sound_records_have_no_violation(books: Books) -> None:
    """Else every run would be called unsound, or nobody would look."""
    report = books.checked()
    assert report.violations == []
    assert report.arrived_at_ms == {CODE: NOON_MS + 5, PUSH: NOON_MS + 7}
    assert (report.notification_count, report.delivery_count, report.doubles) == (6, 2, 0)


def _again(books: Books) -> None:
    books.note(201, ANN, "order")
    books.ask(201, NotifyRequest(type="order", user_id=ANN, text="Sent", idempotency_key="k3"))
    books.say(201, "decided", ["enqueue", "sent", "inapp"])


def _two_under_a_key(books: Books) -> None:
    books.note(201, ANN, "order")
    books.ask(201, NotifyRequest(type="order", user_id=ANN, text="Other", idempotency_key="k2"))
    books.say(201, "decided", ["enqueue", "sent", "inapp"])


def _sent_to_ben(type_name: str, channel: str, at_ms: int) -> Callable[[Books], None]:
    def plant(books: Books) -> None:
        books.note(201, BEN, type_name, at_ms=at_ms)
        books.say(201, "decided", ["enqueue", "pass", channel, "x"], at_ms=at_ms)

    return plant


def _delayed(again_at_ms: int) -> Callable[[Books], None]:
    """The same as PUSH, asked for two days before and let go at that time."""

    def plant(books: Books) -> None:
        books.note(201, ANN, "order", at_ms=NOON_MS - 2 * DAY_MS)
        books.ask(201, NotifyRequest(type="order", user_id=ANN, text="Sent", idempotency_key="k3"))
        books.say(201, "decided", ["schedule", "hold", "send_at_ms"], at_ms=NOON_MS - 2 * DAY_MS)
        books.say(201, "released", ["enqueue", "sent", "inapp"], at_ms=again_at_ms)

    return plant


def _attempt(at_ms: int, type_name: str = "order", seen_at_ms: int = 0) -> Callable[[Books], None]:
    """Decided for Ben at noon, and begun at that time."""

    def plant(books: Books) -> None:
        books.note(201, BEN, type_name, seen_at_ms=seen_at_ms)
        books.say(201, "decided", ["enqueue", "pass", "apns", "x"])
        books.say(201, "attempted", ["attempt", "pass", "apns"], at_ms=at_ms)
        books.say(201, "concluded", ["result", "accepted", "done"], at_ms=at_ms + 50)
        books.put(
            "delivery",
            notification_id=201,
            number=0,
            partition=0,
            app_id="default",
            user_id=BEN,
            channel="email",
            device_key="email-1",
            priority="medium",
            state="accepted",
            is_open=0,
            attempt=1,
            created_at_ms=NOON_MS,
        )

    return plant


def _over_the_cap(books: Books) -> None:
    for number in range(201, 204):
        books.note(number, BEN, "order")
        books.say(number, "decided", ["enqueue", "pass", "apns", "x"])


def _uncounted_double(books: Books) -> None:
    books.do("UPDATE delivery SET attempt = 2 WHERE notification_id = ?", PUSH)
    books.say(PUSH, "attempted", ["attempt", "pass", "apns"])
    books.say(PUSH, "concluded", ["result", "accepted", "done"])
    books.taken["apns"].append(books.taken["apns"][0])


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (
            lambda b: b.do("DELETE FROM notification WHERE notification_id = ?", PUSH),
            "a notification is lost",
        ),
        (
            lambda b: b.do("UPDATE notification SET user_id = ? WHERE notification_id = ?", BEN, PUSH),
            "another's",
        ),
        (_two_under_a_key, "one key has two notifications"),
        (_again, "the same content twice"),
        (_delayed(NOON_MS + HOUR_MS), "the same content twice"),
        (_attempt(NIGHT_MS), "an attempt in quiet hours"),
        (_attempt(NOON_MS + HOUR_MS, seen_at_ms=NOON_MS + 1), "an attempt of what was seen"),
        (lambda b: b.do("DELETE FROM notify_request"), "a request is lost"),
        (lambda b: b.do("UPDATE notify_request SET state = 'running'"), "a request is not done"),
        (lambda b: b.do("DELETE FROM notification WHERE notification_id = ?", NEWS_BEN), "misses users"),
        (
            lambda b: b.do("UPDATE notification SET user_id = ? WHERE notification_id = ?", ANN, NEWS_BEN),
            "tells users twice",
        ),
        (_sent_to_ben("order", "fcm", NOON_MS), "sent against a preference"),
        (_sent_to_ben("offer", "inapp", NOON_MS), "sent without consent"),
        (_sent_to_ben("order", "apns", NIGHT_MS), "sent in quiet hours"),
        (_over_the_cap, "sent over the cap"),
        (lambda b: b.do("DELETE FROM log WHERE thread = ?", HELD), "has no decision"),
        (lambda b: b.do("DELETE FROM log WHERE thread = ? AND kind = 'decided'", PUSH), "has no decision"),
        (lambda b: b.do("DELETE FROM log WHERE kind = 'concluded' AND thread = ?", PUSH), "without a result"),
        (lambda b: b.say(PUSH, "concluded", ["result", "accepted"]), "a result without an attempt"),
        (
            lambda b: b.do("UPDATE delivery SET attempt = 2 WHERE notification_id = ?", PUSH),
            "not all explained",
        ),
        (
            lambda b: b.do('UPDATE log SET body = \'{"d":[["x","y"]]}\' WHERE thread = ?', DROPPED),
            "not explained",
        ),
        (
            lambda b: b.do("UPDATE delivery SET state = 'sending' WHERE notification_id = ?", PUSH),
            "left under way",
        ),
        (
            lambda b: b.do("UPDATE notification SET state = 'open' WHERE notification_id = ?", PUSH),
            "left under way",
        ),
        (lambda b: b.taken["apns"].clear(), "accepted, but no provider has it"),
        (lambda b: b.taken["apns"].append(Taken("999-0", APNS, 1)), "a provider has what was not sent"),
        (lambda b: b.taken["sms"].append(b.taken["sms"][0]), "a provider has what was not sent"),
        (lambda b: b.taken["apns"].append(b.taken["apns"][0]), "taken more often than attempted"),
        (_uncounted_double, "a double is not counted"),
    ],
)
def test_a_planted_violation_is_found(books: Books, plant: Callable[[Books], None], kind: str) -> None:
    """A check that finds nothing proves nothing."""
    plant(books)
    assert any(kind in violation for violation in books.checked().violations), books.checked().violations


@pytest.mark.parametrize(
    "plant",
    [
        _delayed(NOON_MS + DAY_MS),  # asked for within the day, but sent a day later
        _attempt(NIGHT_MS, type_name="code", seen_at_ms=NOON_MS),
        _attempt(NOON_MS + 9 * HOUR_MS + 500),  # 22:00 in Berlin: it was let go before
        _attempt(NOON_MS + 500, seen_at_ms=NOON_MS + 2_000),
    ],
)
def test_what_looks_like_a_violation_and_is_none(books: Books, plant: Callable[[Books], None]) -> None:
    """A check that cries wolf is switched off."""
    plant(books)
    assert books.checked().violations == []


@pytest.mark.parametrize(
    ("quiet", "at_ms", "expected"),
    [
        ({"start": "22:00", "end": "07:00"}, NOON_MS, False),
        ({"start": "22:00", "end": "07:00"}, NOON_MS + 9 * 3_600_000, True),  # 22:00 in Berlin
        ({"start": "22:00", "end": "07:00"}, NOON_MS + 9 * 3_600_000 - 1, False),
        ({"start": "22:00", "end": "07:00"}, NOON_MS + 18 * 3_600_000, False),  # 07:00
        ({"start": "12:00", "end": "14:00"}, NOON_MS, True),
        ({"start": "12:00", "end": "14:00", "weekdays": [4]}, NOON_MS, False),  # that was a Thursday
        (
            {"start": "22:00", "end": "07:00", "weekdays": [3]},
            NOON_MS + 14 * 3_600_000,
            True,
        ),  # Friday, 03:00
        ({"start": "09:00", "end": "09:00"}, NOON_MS, False),
    ],
)
def test_quiet_hours_are_by_the_users_clock(quiet: dict[str, object], at_ms: int, expected: bool) -> None:
    """Worked out apart from the service, so that one does not repeat the other's mistake."""
    assert is_quiet({"quiet_hours": quiet}, "Europe/Berlin", at_ms) is expected
