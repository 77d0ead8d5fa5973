"""When developers are told what, how often, and what is forgotten."""

from server.notify.alert_book import EVERY_MS, GIVE_UP_MS, MAX_BACKOFF_MS, MAX_THINGS, AlertBook
from server.notify.alerts import delivery_id_of

NOW = 1_800_000_000_000
CODE = {"channel": "sms", "code": "30007", "detail": "filtered"}


def test_one_is_told_at_once_and_the_rest_of_the_hour_as_a_number() -> None:
    """A provider that fails all day is one alert an hour, not thousands."""
    book = AlertBook()
    book.add("shop", "dead_letter", CODE, NOW)
    (waiting,) = book.due("shop", NOW)
    assert waiting.alert.count == 1
    book.told(waiting, 1, NOW)
    for minute in range(1, 6):
        book.add("shop", "dead_letter", {**CODE, "detail": f"{minute}"}, NOW + minute * 60_000)
    assert book.due("shop", NOW + EVERY_MS - 1) == []
    (waiting,) = book.due("shop", NOW + EVERY_MS)
    assert (waiting.alert.count, waiting.alert.detail["detail"]) == (5, "5")
    assert waiting.alert.at_ms == NOW + 60_000


def test_what_came_while_it_was_being_told_is_not_lost() -> None:
    """A webhook takes its time."""
    book = AlertBook()
    book.add("shop", "dead_letter", CODE, NOW)
    (waiting,) = book.due("shop", NOW)
    alert = waiting.alert
    book.add("shop", "dead_letter", CODE, NOW)
    book.told(waiting, alert.count, NOW + 1)
    (waiting,) = book.due("shop", NOW + 1 + EVERY_MS)
    assert waiting.alert.count == 1


def test_what_was_told_is_forgotten_after_an_hour() -> None:
    """Nothing grows with the number of things that ever went wrong."""
    book = AlertBook()
    for number in range(50):
        book.add("shop", "breaker_opened", {"provider_id": f"p{number}"}, NOW)
    for waiting in book.due("shop", NOW):
        book.add("shop", *_named(waiting.key[0], waiting.detail), NOW)  # one more of each, to be told later
        book.told(waiting, 1, NOW)
    for waiting in book.due("shop", NOW + EVERY_MS):
        book.told(waiting, waiting.count, NOW + EVERY_MS)
    assert book.apps == ["shop"]
    assert book.due("shop", NOW + 2 * EVERY_MS) == []
    assert book.apps == []
    assert book.next_at_ms("shop") is None


def _named(kind: str, detail: dict[str, str]) -> tuple[str, dict[str, str]]:
    return kind, detail


def test_a_webhook_that_fails_is_asked_again_less_and_less_and_given_up_after_a_day() -> None:
    """It may be down for a night."""
    book = AlertBook()
    book.add("shop", "dead_letter", CODE, NOW)
    (waiting,) = book.due("shop", NOW)
    now_ms, pauses = NOW, []
    while book.failed(waiting, now_ms):
        pauses.append(waiting.next_at_ms - now_ms)
        now_ms = waiting.next_at_ms
    assert pauses[:4] == [2_000, 4_000, 8_000, 16_000]
    assert max(pauses) == MAX_BACKOFF_MS
    assert now_ms - NOW > GIVE_UP_MS
    assert book.apps == []


def test_an_app_cannot_fill_the_memory_by_inventing_codes() -> None:
    """Codes are what a provider answers, and an app's provider may be the app's own."""
    book = AlertBook()
    for number in range(10 * MAX_THINGS):
        book.add("evil", "dead_letter", {"code": f"{number}"}, NOW)
    book.add("good", "dead_letter", CODE, NOW)
    assert len(book.due("evil", NOW)) == MAX_THINGS + 1
    assert sum(waiting.count for waiting in book.due("evil", NOW)) == 10 * MAX_THINGS
    assert len(book.due("good", NOW)) == 1


def test_what_stands_in_the_store_is_counted_and_not_added_up() -> None:
    """The same rows are found at each look until they have been told."""
    book = AlertBook()
    assert book.stand("shop", "dead_letter", CODE, NOW, count=3)
    assert not book.stand("shop", "dead_letter", CODE, NOW + 5_000, count=4)
    (waiting,) = book.due("shop", NOW + 5_000)
    assert waiting.alert.count == 4
    book.told(waiting, 4, NOW + 5_000)
    assert not book.stand("shop", "dead_letter", CODE, NOW + 10_000, count=2)
    assert book.due("shop", NOW + 10_000) == []
    (waiting,) = book.due("shop", NOW + 5_000 + EVERY_MS)
    assert waiting.alert.count == 2


def test_what_is_over_is_not_told_again() -> None:
    """Late deliveries that have caught up; those of which nobody has heard are told."""
    book = AlertBook()
    late = {"channel": "sms", "priority": "high"}
    book.stand("shop", "deadline_passed", late, NOW, count=3)
    book.settle("shop", "deadline_passed", late)
    (waiting,) = book.due("shop", NOW)
    book.told(waiting, 3, NOW)
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
    names = [delivery_id_of(waiting) for waiting in waitings]
    assert len(set(names)) == 3
    assert all(len(name) <= 64 for name in names)
    for waiting in waitings:
        book.failed(waiting, NOW)
    assert [delivery_id_of(waiting) for waiting in waitings] == names
