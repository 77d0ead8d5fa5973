"""When developers are told what, how often, and what is forgotten."""

import msgspec

from protocol.notify_records import AlertRow
from server.notify.alert_book import EVERY_MS, GIVE_UP_MS, MAX_ENTRIES, MAX_THINGS, AlertBook
from server.notify.waiting_alert import Alert, Waiting, about

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
    book.settle("deadline_passed")
    (waiting,) = book.due("shop", NOW)
    tell(book, waiting, NOW)
    book.stand("shop", "deadline_passed", late, NOW + 5_000, count=9)
    book.settle("deadline_passed")
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


def test_what_is_put_off_waits_until_then_or_until_it_is_released() -> None:
    """The webhook asks for a pause; another one has not."""
    book = AlertBook()
    one = book.add("shop", "breaker_opened", CODE, NOW)
    other = book.add("shop", "request_failed", CODE, NOW)
    told = book.add("shop", "mass_retirement", CODE, NOW)
    tell(book, told, NOW)
    book.begin(one)
    book.failed(one, NOW, pause_ms=60_000, reason="status 503")
    book.put_off(other, NOW + 60_000, reason="paused")
    assert (one.reason, other.reason) == ("status 503", "paused")
    assert book.due("shop", NOW + 59_999) == []
    assert book.next_at_ms("shop") == NOW + 60_000
    assert book.due("shop", NOW + 60_000) == [one, other]
    book.release("shop", NOW + 60_000, NOW + 1)
    assert book.due("shop", NOW + 1) == [one, other]


# -- what is over -----------------------------------------------------------------------------------


def test_nothing_of_what_was_being_told_is_left_of_what_is_over() -> None:
    """Mailed, not posted, then redriven: of the next dead letters nobody has had a mail."""
    book = AlertBook("n1")
    book.stand("shop", "dead_letter", CODE, NOW, count=5, found_as="five")
    (waiting,) = book.due("shop", NOW)
    first = book.begin(waiting)
    book.mailed(waiting)
    book.failed(waiting, NOW, pause_ms=300_000, reason="status 500")
    book.settle("dead_letter")
    assert stored(book, {}) == {}
    book.stand("shop", "dead_letter", CODE, NOW + 1_000, count=7, found_as="seven")
    (waiting,) = book.due("shop", NOW + 1_000)  # at once: it is news
    second = book.begin(waiting)
    assert (second.count, waiting.is_mailed, waiting.failures, waiting.reason) == (7, False, 0, "")
    assert second.alert_id != first.alert_id


def test_what_is_over_an_hour_after_it_was_told_leaves_nothing_to_the_next_either() -> None:
    """The second telling was mailed, and then it was over."""
    book = AlertBook("n1")
    book.stand("shop", "dead_letter", CODE, NOW, count=5, found_as="five")
    (waiting,) = book.due("shop", NOW)
    tell(book, waiting, NOW)
    book.stand("shop", "dead_letter", CODE, NOW + 1, count=2, found_as="two")
    (waiting,) = book.due("shop", NOW + EVERY_MS)
    book.begin(waiting)
    book.mailed(waiting)
    book.failed(waiting, NOW + EVERY_MS, pause_ms=300_000, reason="status 500")
    book.settle("dead_letter")
    book.stand("shop", "dead_letter", CODE, NOW + EVERY_MS + 1, count=1, found_as="one")
    (waiting,) = book.due("shop", NOW + EVERY_MS + 1)
    assert (book.begin(waiting).count, waiting.is_mailed, waiting.failures) == (1, False, 0)


def test_what_is_over_while_it_is_told_is_no_answer_for_what_comes_then() -> None:
    """The mail server takes its time, and so does the webhook."""
    book = AlertBook("n1")
    book.stand("shop", "deadline_passed", CODE, NOW, count=5)
    (waiting,) = book.due("shop", NOW)
    tell(book, waiting, NOW)
    book.stand("shop", "deadline_passed", CODE, NOW + 1, count=5)
    (waiting,) = book.due("shop", NOW + EVERY_MS)
    book.begin(waiting)
    book.settle("deadline_passed")
    book.mailed(waiting)
    assert not waiting.is_mailed
    assert not book.is_open(waiting)
    book.failed(waiting, NOW + EVERY_MS, pause_ms=300_000, reason="status 500")
    assert (waiting.reason, waiting.failures) == ("", 0)
    assert book.due("shop", NOW + EVERY_MS) == []
    assert book.apps == []


def test_what_stands_is_not_over_and_neither_is_what_stands_with_others() -> None:
    """Beyond 200 things kinds alone are told apart."""
    book = AlertBook("n1")
    for number in range(MAX_THINGS):
        book.add("shop", "breaker_opened", {"code": f"{number}"}, NOW)
    book.stand("shop", "dead_letter", CODE, NOW, count=3, found_as="three")
    book.stand("bank", "dead_letter", CODE, NOW, count=3, found_as="three")
    book.settle("dead_letter", but={("shop", about(CODE)), ("bank", about(CODE))})
    assert [waiting.key for waiting in book.due("shop", NOW)[MAX_THINGS:]] == [("dead_letter", "")]
    assert len(book.due("bank", NOW)) == 1
    book.settle("dead_letter", but={("bank", about(CODE))})
    assert len(book.due("shop", NOW)) == MAX_THINGS
    assert len(book.due("bank", NOW)) == 1
    stored(book, {})
    book.settle("dead_letter", but={("bank", about(CODE))})
    assert not book.has_changed  # a look changes nothing where nothing has changed


def test_what_was_told_and_is_over_after_a_restart_is_not_told_again() -> None:
    """It was late, was told, was late still; and in the next life it has caught up."""
    book = AlertBook("n1")
    book.stand("shop", "deadline_passed", CODE, NOW, count=5)
    (waiting,) = book.due("shop", NOW)
    tell(book, waiting, NOW)
    book.stand("shop", "deadline_passed", CODE, NOW + 5_000, count=5)
    (row,) = stored(book, {}).values()
    for caught_up in (False, True):
        again = AlertBook("n1")
        again.restore(row, NOW + 60_000)
        if not caught_up:
            again.stand("shop", "deadline_passed", CODE, NOW + 60_000, count=2)
        assert again.due("shop", NOW + EVERY_MS - 1) == []
        counts = [waiting.count for waiting in again.due("shop", NOW + EVERY_MS)]
        assert counts == ([] if caught_up else [2])


# -- giving up --------------------------------------------------------------------------------------


def test_what_came_a_minute_ago_is_not_given_up_with_what_failed_for_a_day() -> None:
    """It is told as soon as the webhook is back, by mail at once, and under an id of its own."""
    book = AlertBook("n1")
    waiting = book.add("shop", "breaker_opened", CODE, NOW)
    first = book.begin(waiting)
    book.mailed(waiting)
    day = NOW + GIVE_UP_MS
    for _ in range(3):
        book.add("shop", "breaker_opened", CODE, day - 60_000)
    assert not book.failed(waiting, day + 1, pause_ms=300_000, reason="status 500")
    assert book.due("shop", day + 1) == []
    (waiting,) = book.due("shop", day + 300_001)
    second = book.begin(waiting)
    assert (second.count, waiting.is_mailed) == (3, False)
    assert second.alert_id != first.alert_id
    assert book.failed(waiting, day + GIVE_UP_MS, pause_ms=1, reason="status 500")
    assert not book.failed(waiting, day + GIVE_UP_MS + 2, pause_ms=1, reason="status 500")
    assert book.apps == []


def test_where_there_is_nobody_to_tell_the_newest_is_kept_for_a_day() -> None:
    """Who names a webhook on the second day hears that it goes on."""
    book = AlertBook("n1")
    waiting = book.add("shop", "breaker_opened", CODE, NOW)
    day = NOW + GIVE_UP_MS
    book.add("shop", "breaker_opened", CODE, day - 60_000)
    book.begin(waiting)
    assert not book.failed(waiting, day + 1, pause_ms=1_000, reason="nobody_to_tell", was_sent=False)
    (waiting,) = book.due("shop", day + 1_001)
    alert = book.begin(waiting)
    assert (alert.count, alert.at_ms) == (1, day - 60_000)
    late = day - 60_000 + GIVE_UP_MS + 1
    assert not book.failed(waiting, late, pause_ms=1_000, reason="nobody_to_tell", was_sent=False)
    assert book.apps == []


def test_what_a_look_counts_is_given_up_whole() -> None:
    """The next look counts what is not too old."""
    book = AlertBook("n1")
    book.stand("shop", "dead_letter", CODE, NOW, count=3, found_as="three")
    (waiting,) = book.due("shop", NOW)
    book.begin(waiting)
    book.stand("shop", "dead_letter", CODE, NOW + 1, count=9, found_as="nine")
    assert not book.failed(waiting, NOW + GIVE_UP_MS + 1, pause_ms=1, reason="status 500")
    assert book.apps == []


# -- crowded ----------------------------------------------------------------------------------------


def test_a_crowded_book_is_read_again_as_it_was_written() -> None:
    """Kinds come on top of 200 things, and first in the order of rows: each keeps its own id."""
    book = AlertBook("n1")
    for number in range(MAX_THINGS + 30):
        book.add("shop", "breaker_opened", {"code": f"{number:03}"}, NOW)
    for number in range(3):
        book.add("shop", f"kind{number}", CODE, NOW)
    ids = {waiting.key: book.begin(waiting).alert_id for waiting in book.due("shop", NOW)}
    rows = stored(book, {})
    again = AlertBook("n1")
    for place in sorted(rows):
        again.restore(rows[place], NOW)
    assert {waiting.key: again.begin(waiting).alert_id for waiting in again.due("shop", NOW)} == ids
    assert stored(again, dict(rows)) == rows


def test_what_is_counted_with_others_leaves_no_row_of_its_own() -> None:
    """A second restart would count it again. Several nodes are gone at once, and one takes over."""
    rows: dict[tuple[str, str, str], AlertRow] = {}
    again = AlertBook("n1")
    for node in range(3):
        book = AlertBook(f"gone{node}")
        for number in range(MAX_THINGS):
            book.add("shop", "breaker_opened", {"code": f"{node}-{number}"}, NOW)
        for place, row in stored(book, {}).items():
            rows[place] = msgspec.structs.replace(row, node_id="n1")
            again.restore(rows[place], NOW)
    stored(again, rows)
    assert len(rows) == 2 * MAX_THINGS + 1
    assert sum(row.count for row in rows.values()) == 3 * MAX_THINGS
    twice = AlertBook("n1")
    for row in rows.values():
        twice.restore(row, NOW)
    assert sum(waiting.count for waiting in twice.due("shop", NOW)) == 3 * MAX_THINGS
