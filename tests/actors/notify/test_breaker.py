"""The breaker: when it opens, for how long, and that it never stays open by accident."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.notify.breaker import FAILURES, PROBE_MS, Breaker, Finding, finding
from actors.notify.delivery import ACCEPTED, Outcome

NOW_MS = 1_790_000_000_000


def fail(breaker: Breaker, now_ms: int, found: Finding = "failure") -> bool:
    """One sending that fails; whether that was the moment to tell somebody."""
    ticket = breaker.admit(now_ms)
    assert ticket
    return breaker.record(ticket, found, now_ms)


def test_five_failures_in_a_row_open_it_and_a_success_between_does_not() -> None:
    """A provider that answers now and then is used."""
    breaker = Breaker()
    for found in ["failure"] * 4 + ["ok"] + ["failure"] * 4:
        fail(breaker, NOW_MS, found)  # type: ignore[arg-type]  # a list of literals is one of str
    assert breaker.state == "closed"
    assert fail(breaker, NOW_MS)
    assert (breaker.state, breaker.admit(NOW_MS + 4_999)) == ("open", 0)


def test_provider_failures_wait_5_s_and_double_to_a_minute_and_are_told_once() -> None:
    """One is let through each time; its success closes it, and the next time it begins with 5 s again."""
    breaker, now_ms, waits, news = Breaker(failures=FAILURES - 1), NOW_MS, [], []
    for _ in range(6):
        news.append(fail(breaker, now_ms))
        waits.append((breaker.retry_at_ms - now_ms) // 1_000)
        assert not breaker.admit(breaker.retry_at_ms - 1)
        now_ms = breaker.retry_at_ms
    assert waits == [5, 10, 20, 40, 60, 60]
    assert news == [True] + [False] * 5
    fail(breaker, now_ms, "ok")
    assert breaker.state == "closed"
    for _ in range(FAILURES):
        fail(breaker, now_ms)
    assert breaker.retry_at_ms == now_ms + 5_000


def test_a_config_error_opens_it_at_once_for_5_minutes_doubling_to_an_hour() -> None:
    """10,000 in the queue do not become 10,000 dead letters."""
    breaker, now_ms, waits = Breaker(), NOW_MS, []
    for _ in range(6):
        fail(breaker, now_ms, "config")
        waits.append((breaker.retry_at_ms - now_ms) // 60_000)
        now_ms = breaker.retry_at_ms
    assert waits == [5, 10, 20, 40, 60, 60]
    breaker.reset()
    assert breaker.admit(now_ms)
    assert (breaker.state, fail(breaker, now_ms, "config")) == ("closed", True)
    assert breaker.retry_at_ms == now_ms + 300_000


def test_half_open_lets_one_through_and_another_where_nothing_came_back() -> None:
    """A probe may be cancelled with its worker; that must not keep the queue for ever."""
    breaker = Breaker()
    fail(breaker, NOW_MS, "config")
    probe_ms = breaker.retry_at_ms
    lost = breaker.admit(probe_ms)
    assert lost
    assert not breaker.admit(probe_ms + PROBE_MS - 1)
    second = breaker.admit(probe_ms + PROBE_MS)
    assert second
    assert not breaker.record(lost, "config", probe_ms + PROBE_MS)
    assert not breaker.admit(probe_ms + PROBE_MS)  # the lost one's late answer changes nothing
    breaker.record(second, "ok", probe_ms + PROBE_MS)
    assert breaker.state == "closed"


def test_what_was_under_way_when_it_opened_says_nothing_any_more() -> None:
    """A hundred in flight that fail together count once, and one that succeeded before does not close it."""
    breaker = Breaker()
    tickets = [breaker.admit(NOW_MS) for _ in range(100)]
    news = [breaker.record(ticket, "config", NOW_MS) for ticket in tickets]
    assert news == [True] + [False] * 99
    assert breaker.retry_at_ms == NOW_MS + 300_000
    breaker.record(tickets[0], "ok", NOW_MS)
    assert breaker.state == "open"


def test_another_cause_is_news_and_begins_anew() -> None:
    """The provider was down, and is up again with the key revoked."""
    breaker = Breaker(failures=FAILURES - 1)
    fail(breaker, NOW_MS)
    assert fail(breaker, breaker.retry_at_ms, "config")
    assert breaker.wait_ms == 300_000


@given(st.lists(st.tuples(st.sampled_from(["ok", "failure", "config", "neutral"]), st.integers(0, 400_000))))
def test_it_always_admits_again_within_the_hour_and_never_while_open(
    steps: list[tuple[Finding, int]],
) -> None:
    """Whatever comes back, and however late."""
    breaker, now_ms = Breaker(), NOW_MS
    old: list[int] = []
    for found, pause_ms in steps:
        now_ms += pause_ms
        was_open = breaker.state != "closed" and now_ms < breaker.retry_at_ms
        ticket = breaker.admit(now_ms)
        assert bool(ticket) == (not was_open)
        assert breaker.state == "closed" or breaker.retry_at_ms - now_ms <= 3_600_000
        old.append(ticket)
        breaker.record(old[len(old) // 2] if pause_ms % 2 else ticket, found, now_ms)
    assert breaker.admit(now_ms + 3_600_000)


@pytest.mark.parametrize(
    ("outcome", "found"),
    [
        (ACCEPTED, "ok"),
        (Outcome(kind="refused", action="retire"), "ok"),
        (Outcome(kind="refused", action="dead_letter"), "ok"),
        (Outcome(kind="refused", action="break", scope="credential"), "config"),
        (Outcome(kind="unknown", action="resolve_unknown", scope="provider"), "failure"),
        (Outcome(kind="unknown", action="resolve_unknown", scope="host"), "failure"),
        (Outcome(kind="unknown", action="resolve_unknown"), "nothing"),
        (Outcome(kind="refused", action="expired", code="expired"), "nothing"),
        (Outcome(kind="refused", action="retry", scope="provider"), "failure"),
        (Outcome(kind="refused", action="retry", scope="host"), "failure"),
        (Outcome(kind="refused", action="retry", scope="credential"), "neutral"),
        (Outcome(kind="refused", action="retry", scope="device"), "neutral"),
        (Outcome(kind="refused", action="retry_now"), "neutral"),
    ],
)
def test_what_outcomes_say_of_the_provider(outcome: Outcome, found: Finding) -> None:
    """A dead token is no fault of the provider, and too many requests are the pacer's."""
    assert finding(outcome) == found
