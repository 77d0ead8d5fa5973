"""The retry table, line by line, and what holds for every outcome."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.notify.delivery import ACCEPTED, Action, Kind, Outcome
from actors.notify.retry_policy import BREAK_MS, FAILOVER_AFTER, MAX_ATTEMPTS, Step, delay_s, next_step
from protocol.notify_types import CHANNELS, Channel, TypeRule

NOW_MS = 1_790_000_000_000
RULE = TypeRule(name="t")
DOUBLE = TypeRule(name="t", may_double=True)


def step(
    action: Action = "retry",
    *,
    kind: Kind = "refused",
    retry_after_s: float | None = None,
    channel: Channel = "sms",
    attempt: int = 1,
    rule: TypeRule = RULE,
    expires_at_ms: int = 0,
    has_collapse: bool = False,
    has_next: bool = False,
) -> Step:
    return next_step(
        Outcome(kind=kind, action=action, code="c", retry_after_s=retry_after_s),
        channel=channel,
        attempt=attempt,
        rule=rule,
        now_ms=NOW_MS,
        expires_at_ms=expires_at_ms,
        has_collapse=has_collapse,
        has_next_provider=has_next,
        rand=0.5,
    )


@given(
    attempt=st.integers(1, 10_000),
    retry_after_s=st.none() | st.floats(),
    rand=st.floats(0, 1, exclude_max=True),
)
def test_a_delay_lies_between_what_was_asked_for_and_the_bound(
    attempt: int, retry_after_s: float | None, rand: float
) -> None:
    """Providers answer anything, and nothing makes a delivery wait for ever."""
    wait_s = delay_s(attempt, retry_after_s, rand)
    assert 0 <= wait_s <= 86_400
    if retry_after_s is not None and retry_after_s > 0:
        assert wait_s >= min(retry_after_s, 86_400)
    else:
        assert wait_s <= min(900, 2 ** (attempt - 1))


def test_delays_double_up_to_a_quarter_of_an_hour_and_are_spread_fully() -> None:
    """Full jitter: from nothing to the whole."""
    assert [delay_s(attempt, None, 0.5) for attempt in range(1, 13)] == [
        0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 450, 450,
    ]  # fmt: skip
    assert (delay_s(5, None, 0.0), delay_s(5, 30.0, 0.0), delay_s(5, 30.0, 0.5)) == (0, 30, 38)


@pytest.mark.parametrize(
    ("given_step", "kind", "after_ms"),
    [
        (step("done", kind="accepted"), "done", None),
        (step("retry"), "retry", 500),
        (step("retry", retry_after_s=60), "retry", 60_500),
        (step("retry", attempt=FAILOVER_AFTER, has_next=True), "retry", 2_000),
        (step("retry", attempt=FAILOVER_AFTER + 1, has_next=True), "failover", 0),
        (step("retry", attempt=MAX_ATTEMPTS - 1), "retry", 450_000),
        (step("retry", attempt=MAX_ATTEMPTS), "dead_letter", None),
        (step("retry", expires_at_ms=NOW_MS + 500), "expired", None),
        (step("retry", expires_at_ms=NOW_MS + 501), "retry", 500),
        (step("retry", expires_at_ms=NOW_MS + 500, has_next=True), "failover", 0),
        (step("retry", expires_at_ms=NOW_MS, has_next=True), "expired", None),
        (step("retry_now"), "retry", 0),
        (step("retry_now", attempt=2, has_next=True), "retry", 0),
        (step("retry_now", attempt=3), "retry", 2_000),
        (step("retry_now", attempt=MAX_ATTEMPTS), "dead_letter", None),
        (step("retire"), "retire", None),
        (step("suppress"), "suppress", None),
        (step("dead_letter"), "dead_letter", None),
        (step("break"), "break", BREAK_MS),
        (step("break", has_next=True), "failover", 0),
        (step("failover", has_next=True), "failover", 0),
        (step("failover"), "dead_letter", None),
        (step("failover", retry_after_s=3_600), "retry", 3_600_500),
        (step("expired"), "expired", None),
        # Unknown: it may have arrived.
        (step("resolve_unknown", kind="unknown"), "unknown_final", None),
        (step("resolve_unknown", kind="unknown", has_next=True), "unknown_final", None),
        (step("resolve_unknown", kind="unknown", has_collapse=True), "unknown_final", None),  # SMS has none
        (step("resolve_unknown", kind="unknown", has_collapse=True, channel="apns"), "retry", 500),
        (step("resolve_unknown", kind="unknown", has_collapse=True, channel="fcm"), "retry", 500),
        (step("resolve_unknown", kind="unknown", has_collapse=True, channel="webpush"), "retry", 500),
        (step("resolve_unknown", kind="unknown", channel="apns"), "unknown_final", None),
        (step("resolve_unknown", kind="unknown", rule=DOUBLE), "retry", 500),
        (step("resolve_unknown", kind="unknown", rule=DOUBLE, attempt=4, has_next=True), "failover", 0),
        (
            step(
                "resolve_unknown", kind="unknown", has_collapse=True, channel="fcm", attempt=4, has_next=True
            ),
            "retry",
            4_000,
        ),
        (step("resolve_unknown", kind="unknown", rule=DOUBLE, attempt=MAX_ATTEMPTS), "unknown_final", None),
        (
            step("resolve_unknown", kind="unknown", rule=DOUBLE, expires_at_ms=NOW_MS + 1),
            "unknown_final",
            None,
        ),
    ],
)
def test_the_table(given_step: Step, kind: str, after_ms: int | None) -> None:
    """The one in the module's docstring."""
    assert given_step.kind == kind
    assert given_step.at_ms == (0 if after_ms is None else NOW_MS + after_ms)
    assert given_step.why.stage == "result"


@given(
    kind=st.sampled_from(get_args(Kind)),
    action=st.sampled_from(get_args(Action)),
    retry_after_s=st.none() | st.floats(),
    channel=st.sampled_from(CHANNELS),
    attempt=st.integers(1, MAX_ATTEMPTS + 2),
    may_double=st.booleans(),
    has_collapse=st.booleans(),
    has_next=st.booleans(),
    left_ms=st.none() | st.integers(-1_000, 10_000_000),
)
def test_no_outcome_sends_twice_by_mistake_or_too_late_or_for_ever(
    kind: Kind,
    action: Action,
    retry_after_s: float | None,
    channel: Channel,
    attempt: int,
    may_double: bool,
    has_collapse: bool,
    has_next: bool,
    left_ms: int | None,
) -> None:
    """Whatever a provider's adapter says, also where kind and action do not fit together."""
    expires_at_ms = 0 if left_ms is None else NOW_MS + left_ms
    found = step(
        action,
        kind=kind,
        retry_after_s=retry_after_s,
        channel=channel,
        attempt=attempt,
        rule=DOUBLE if may_double else RULE,
        expires_at_ms=expires_at_ms,
        has_collapse=has_collapse,
        has_next=has_next,
    )
    goes_on = found.kind in ("retry", "failover")
    if kind == "accepted":
        assert found.kind == "done"
    if kind == "unknown":
        heals = has_collapse and channel in ("apns", "fcm", "webpush")
        assert found.kind in ("retry", "failover", "unknown_final")
        assert not goes_on or heals or may_double
        assert found.kind != "failover" or may_double
    if found.kind == "failover":
        assert has_next
    if goes_on:
        assert found.at_ms >= NOW_MS
        assert not expires_at_ms or found.at_ms < expires_at_ms
    if found.kind == "retry":
        assert attempt < MAX_ATTEMPTS
    assert found.opens_breaker == (action == "break" and kind == "refused")


def test_accepted_is_done_even_when_it_was_late() -> None:
    """It has arrived; nothing is to be done about the end."""
    found = next_step(ACCEPTED, channel="fcm", attempt=9, rule=RULE, now_ms=NOW_MS, expires_at_ms=1)
    assert (found.kind, found.why.outcome) == ("done", "accepted")
