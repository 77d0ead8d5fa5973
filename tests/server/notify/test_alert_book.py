"""When developers are told what, how often, and what is forgotten."""

import msgspec

from protocol.notify_records import AlertRow
from server.notify.alert_book import EVERY_MS, GIVE_UP_MS, MAX_ENTRIES, MAX_THINGS, Alert, AlertBook, Waiting

NOW = 1_800_000_000_000
CODE = {"channel": "sms", "code": "30007", "detail": "filtered"}


def tell(book: AlertBook, waiting: Waiting, now_ms: int) -> Alert:
    alert = book.begin(waiting)
    book.told(waiting, now_ms)
    return alert


def stored(
    book: AlertBook, rows: dict[tuple[str, str, str], AlertRow]
) -> dict[tuple[str, str, str], AlertRow]:
    """What the store holds by now."""
    for place, row in book.take_changes():
        if row is None:
            rows.pop(place, None)
        else:
            rows[place] = row
    return rows


def reopened(book: AlertBook, now_ms: int) -> AlertBook:
    """After a kill: what was stored, and nothing else."""
    again = AlertBook("n1")
    for row in stored(book, {}).values():
        again.restore(row, now_ms)
    return again


def test_one_is_told_at_once_and_the_rest_of_the_hour_as_a_number() -> None:
    """A provider that fails all day is one alert an hour, not thousands."""
    book = AlertBook()
    book.add("shop", "dead_letter", CODE, NOW)
    (waiting,) = book.due("shop", NOW)
    assert tell(book, waiting, NOW).count == 1
    for minute in range(1, 6):
        book.add("shop", "dead_letter", {**CODE, "detail": f"{minute}"}, NOW + minute * 60_000)
    assert book.due("shop", NOW + EVERY_MS - 1) == []
    (waiting,) = book.due("shop", NOW + EVERY_MS)
    alert = book.begin(waiting)
    assert (alert.count, alert.detail["detail"]) == (5, "5")
    assert alert.at_ms == NOW + 60_000


def test_what_came_while_it_was_being_told_is_not_lost() -> None:
    """A webhook takes its time."""
    book = AlertBook()
    book.add("shop", "dead_letter", CODE, NOW)
    (waiting,) = book.due("shop", NOW)
    first = book.begin(waiting)
    book.add("shop", "dead_letter", CODE, NOW)
    assert book.begin(waiting) == first  # each try says the same
    book.told(waiting, NOW + 1)
    (waiting,) = book.due("shop", NOW + 1 + EVERY_MS)
    second = book.begin(waiting)
    assert (first.count, second.count) == (1, 1)
    assert first.alert_id != second.alert_id


def test_what_was_told_is_forgotten_after_an_hour() -> None:
    """Nothing grows with the number of things that ever went wrong."""
    book = AlertBook()
    rows: dict[tuple[str, str, str], AlertRow] = {}
    for number in range(50):
        book.add("shop", "breaker_opened", {"provider_id": f"p{number}"}, NOW)
    for waiting in book.due("shop", NOW):
        book.begin(waiting)
        book.add("shop", *_named(waiting.key[0], waiting.detail), NOW)  # one more of each, to be told later
        book.told(waiting, NOW)
    for waiting in book.due("shop", NOW + EVERY_MS):
        tell(book, waiting, NOW + EVERY_MS)
    assert len(stored(book, rows)) == 50
    assert book.apps == ["shop"]
    assert book.due("shop", NOW + 2 * EVERY_MS) == []
    assert book.apps == []
    assert book.next_at_ms("shop") is None
    assert stored(book, rows) == {}


def _named(kind: str, detail: dict[str, str]) -> tuple[str, dict[str, str]]:
    return kind, detail


def test_what_cannot_be_told_is_given_up_after_a_day() -> None:
    """It may be down for a night."""
    book = AlertBook()
    book.add("shop", "dead_letter", CODE, NOW)
    (waiting,) = book.due("shop", NOW)
    book.begin(waiting)
    assert book.failed(waiting, NOW, pause_ms=2_000, reason="status 500")
    assert book.due("shop", NOW + 1_999) == []
    (waiting,) = book.due("shop", NOW + 2_000)
    assert book.failed(waiting, NOW + GIVE_UP_MS, pause_ms=2_000, reason="status 500")
    assert not book.failed(waiting, NOW + GIVE_UP_MS + 1, pause_ms=2_000, reason="status 500")
    assert book.apps == []
    assert stored(book, {}) == {}


def test_an_app_cannot_fill_the_memory_by_inventing_codes() -> None:
    """Codes are what a provider answers, and an app's provider may be the app's own."""
    book = AlertBook()
    for number in range(10 * MAX_THINGS):
        book.add("evil", "dead_letter", {"code": f"{number}"}, NOW)
    book.add("good", "dead_letter", CODE, NOW)
    assert len(book.due("evil", NOW)) == MAX_THINGS + 1
    assert sum(waiting.count for waiting in book.due("evil", NOW)) == 10 * MAX_THINGS
    assert len(book.due("good", NOW)) == 1


def test_many_apps_cannot_fill_the_store() -> None:
    """Each thing is a row, and all rows are read at the start."""
    book = AlertBook()
    for number in range(MAX_ENTRIES // MAX_THINGS + 20):
        for code in range(MAX_THINGS):
            book.add(f"evil{number}", "dead_letter", {"code": f"{code}"}, NOW)
    assert len(stored(book, {})) == MAX_ENTRIES + 20  # the last 20 with one each, which counts all
    assert [waiting.count for waiting in book.due("evil119", NOW)] == [MAX_THINGS]


def test_what_stands_in_the_store_is_counted_and_not_added_up() -> None:
    """The same rows are found at each look until they have been told."""
    book = AlertBook()
    assert book.stand("shop", "dead_letter", CODE, NOW, count=3)
    assert not book.stand("shop", "dead_letter", CODE, NOW + 5_000, count=4)
    (waiting,) = book.due("shop", NOW + 5_000)
    assert tell(book, waiting, NOW + 5_000).count == 4
    assert not book.stand("shop", "dead_letter", CODE, NOW + 10_000, count=2)
    assert book.due("shop", NOW + 10_000) == []
    (waiting,) = book.due("shop", NOW + 5_000 + EVERY_MS)
    assert book.begin(waiting).count == 2


def test_what_is_over_is_not_told_again() -> None:
    """Late deliveries that have caught up; those of which nobody has heard are told."""
    book = AlertBook()
    late = {"channel": "sms", "priority": "high"}
    book.stand("shop", "deadline_passed", late, NOW, count=3)
    book.settle("shop", "deadline_passed", late)
    (waiting,) = book.due("shop", NOW)
    tell(book, waiting, NOW)
    book.stand("shop", "deadline_passed", late, NOW + 5_000, count=9)
    book.settle("shop", "deadline_passed", late)
    assert book.due("shop", NOW + EVERY_MS) == []
    assert book.apps == []


def test_two_alerts_of_one_moment_are_two_mails() -> None:
    """Mail programs show one of two with the same Message-ID."""
    book = AlertBook()
    book.add("shop", "dead_letter", {"code": "1"}, NOW)
    book.add("shop", "dead_letter", {"code": "2"}, NOW)
    book.add("bank", "dead_letter", {"code": "1"}, NOW)
    waitings = [*book.due("shop", NOW), *book.due("bank", NOW)]
    ids = [book.begin(waiting).alert_id for waiting in waitings]
    assert len(set(ids)) == 3
    for waiting in waitings:
        book.failed(waiting, NOW, pause_ms=1, reason="timeout")
    assert [book.begin(waiting).alert_id for waiting in waitings] == ids


# -- over a kill ------------------------------------------------------------------------------------


def test_what_was_being_told_is_told_again_as_it_was() -> None:
    """Its receiver may have had it, and knows it by its id."""
    book = AlertBook("n1")
    book.add("shop", "breaker_opened", CODE, NOW)
    (waiting,) = book.due("shop", NOW)
    alert = book.begin(waiting)
    book.add("shop", "breaker_opened", {**CODE, "detail": "later"}, NOW + 1)
    book.failed(waiting, NOW, pause_ms=300_000, reason="timeout")
    again = reopened(book, NOW + 60_000)
    (waiting,) = again.due("shop", NOW + 60_000)  # at once
    assert again.begin(waiting) == alert
    again.told(waiting, NOW + 60_000)
    (waiting,) = again.due("shop", NOW + 60_000 + EVERY_MS)
    assert again.begin(waiting).count == 1


def test_what_was_told_stays_told() -> None:
    """A node that is restarted each minute is no reason for an alert each minute."""
    book = AlertBook("n1")
    book.add("shop", "breaker_opened", CODE, NOW)
    (waiting,) = book.due("shop", NOW)
    tell(book, waiting, NOW)
    again = reopened(book, NOW + 60_000)
    again.add("shop", "breaker_opened", CODE, NOW + 60_000)
    assert again.due("shop", NOW + 60_000) == []
    (waiting,) = again.due("shop", NOW + EVERY_MS)
    assert again.begin(waiting).count == 1


def test_what_came_before_the_rows_were_read_is_counted_with_them() -> None:
    """The store may be slow to open."""
    book = AlertBook("n1")
    book.add("shop", "breaker_opened", CODE, NOW)
    again = AlertBook("n1")
    again.add("shop", "breaker_opened", CODE, NOW + 5)
    for row in stored(book, {}).values():
        again.restore(row, NOW + 6)
    (waiting,) = again.due("shop", NOW + 6)
    assert (again.begin(waiting).count, again.begin(waiting).at_ms) == (2, NOW)


def test_what_the_store_itself_knows_is_counted_anew_under_the_same_id() -> None:
    """Dead letters that were told are marked, and those that were not are found at the next look."""
    book = AlertBook("n1")
    book.stand("shop", "dead_letter", CODE, NOW, count=3, found_as="three of them")
    (waiting,) = book.due("shop", NOW)
    alert = book.begin(waiting)
    again = reopened(book, NOW + 60_000)
    assert again.due("shop", NOW + 60_000) == []
    again.stand("shop", "dead_letter", CODE, NOW + 60_000, count=3, found_as="three of them")
    (waiting,) = again.due("shop", NOW + 60_000)
    assert again.begin(waiting).alert_id == alert.alert_id


def test_a_row_outlives_the_book_that_reads_it() -> None:
    """A second kill finds as much as the first."""
    book = AlertBook("n1")
    book.add("shop", "breaker_opened", CODE, NOW)
    rows = stored(book, {})
    again = AlertBook("n1")
    for row in rows.values():
        again.restore(row, NOW)
    assert stored(again, {}) == rows
    assert msgspec.json.decode(next(iter(rows.values())).detail) == CODE


def test_a_webhook_that_asks_for_a_pause_has_it() -> None:
    """All of its app's alerts wait, and no other app's."""
    book = AlertBook()
    book.add("shop", "breaker_opened", CODE, NOW)
    book.add("bank", "breaker_opened", CODE, NOW)
    book.hold("shop", NOW + 60_000)
    book.add("shop", "request_failed", CODE, NOW)
    assert book.due("shop", NOW + 59_999) == []
    assert book.next_at_ms("shop") == NOW + 60_000
    assert len(book.due("bank", NOW)) == 1
    assert len(book.due("shop", NOW + 60_000)) == 2
    book.hold("shop", NOW + 90_000)
    book.hold("shop", 0)  # it has another webhook
    assert len(book.due("shop", NOW + 60_000)) == 2
