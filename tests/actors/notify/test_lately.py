"""A set that forgets."""

from actors.notify.facts import Facts, UserFacts
from actors.notify.lately import Lately
from actors.notify.verdict import Verdict
from protocol.notify_found import MAX_RECENT


def test_what_is_old_is_forgotten_when_something_is_added() -> None:
    """It must not grow with all that ever happened."""
    lately = Lately(10.0)
    lately.add("a", 0.0)
    lately.add("b", 6.0)
    lately.add("c", 11.0)
    assert ["a" in lately, "b" in lately, "c" in lately] == [False, True, True]
    assert len(lately) == 2


def test_what_is_added_again_is_new() -> None:
    """The last time counts."""
    lately = Lately(10.0)
    lately.add("a", 0.0)
    lately.add("b", 1.0)
    lately.add("a", 9.0)
    lately.add("c", 12.0)
    assert ["a" in lately, "b" in lately, "c" in lately] == [True, False, True]


def test_while_it_holds_nothing_is_forgotten() -> None:
    """However long a read takes, what happened since it began is known."""
    lately = Lately(10.0)
    lately.is_holding = True
    for second in range(100):
        lately.add(second, float(second))
    assert len(lately) == 100
    lately.is_holding = False
    lately.add("last", 100.0)
    assert len(lately) == 11


def test_a_user_is_remembered_for_the_newest_alone() -> None:
    """A user in memory for weeks must not fill it with what makes no duplicate any more."""
    user = UserFacts()
    for number in range(10 * MAX_RECENT):
        facts = Facts(notification_id=number, app_id="a", user_id="u", type="t", created_at_ms=number)
        key = "first" if number % 50 == 0 else str(number)
        user.note(facts, Verdict(kind="send", dedup_key=key), number)
    assert MAX_RECENT <= len(user.recent) <= 2 * MAX_RECENT
    assert user.recent["first"][0] == 10 * MAX_RECENT - 50
    assert str(10 * MAX_RECENT - 1) in user.recent
