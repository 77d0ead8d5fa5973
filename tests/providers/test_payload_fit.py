"""Payloads that are made to fit."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.providers.exchange import (
    MAX_RETRY_AFTER_S,
    NotProcessed,
    OutcomeUnknown,
    outcome_of_failure,
    retry_after_s,
)
from server.providers.payload_fit import fitted, shortened


def build(title: str, body: str, dropped: frozenset[str]) -> bytes:
    """Write a payload as providers do."""
    return json.dumps({"t": title, "b": body} | ({} if "d" in dropped else {"d": "d" * 50})).encode()


@given(st.text(max_size=200), st.text(max_size=400), st.integers(40, 300))
def test_what_fits_is_whole_or_as_long_as_it_can_be(title: str, body: str, max_bytes: int) -> None:
    """Never above the limit, and never shorter than need be."""
    made = fitted(build, title, body, max_bytes, ["d"])
    whole = build(title, body, frozenset())
    if len(whole) <= max_bytes:
        assert made == whole
        return
    assert made is not None
    assert len(made) <= max_bytes
    payload = json.loads(made)
    assert body.startswith(payload["b"].removesuffix("…")) or payload["b"] == body
    assert title.startswith(payload["t"].removesuffix("…")) or payload["t"] == title


def test_nothing_fits_into_nothing() -> None:
    """Then it is a dead letter, not an endless loop."""
    assert fitted(build, "t", "b", 5, ["d"]) is None


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("hello", 5, "hello"),
        ("hello!", 5, "hell…"),
        ("hell o!", 6, "hell…"),
        ("abe\u0301f", 4, "ab…"),  # the accent stays with its letter
        ("ab👩‍👩‍👧c", 5, "ab…"),  # a family is one picture
        ("ab👍🏽cd", 4, "ab…"),  # and so is a thumb with its tone
        ("👩‍👩‍👧", 2, ""),
        ("abc", 0, ""),
    ],
)
def test_no_character_is_torn(text: str, count: int, expected: str) -> None:
    """People see characters, not code points."""
    assert shortened(text, count) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("-1", None),
        ("soon", None),
        ("٣", None),
        ("9" * 30, MAX_RETRY_AFTER_S),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: float | None) -> None:
    """RFC 9110, 10.2.3. Push hosts are anybody's, so it has a limit."""
    assert retry_after_s(value, 1_445_412_480_000) == expected


@pytest.mark.parametrize(
    ("code", "action"),
    [
        ("goaway", "retry_now"),
        ("connection_lost", "retry_now"),
        ("refused_stream", "retry"),
        ("connect_failed", "retry"),
        ("backing_off", "retry"),
        ("no_room", "retry"),
        ("address_refused", "dead_letter"),
    ],
)
def test_what_was_not_processed_may_be_sent_again(code: str, action: str) -> None:
    """At once where the connection was the cause."""
    outcome = outcome_of_failure(NotProcessed(code, retry_after_s=3.0), "host")
    assert (outcome.kind, outcome.action, outcome.code) == ("refused", action, code)


def test_a_provider_in_a_network_that_is_closed_keeps_its_queue() -> None:
    """It is the app's settings that are wrong, or the operator's: no notification is lost over it."""
    outcome = outcome_of_failure(NotProcessed("address_refused"))
    assert (outcome.action, outcome.scope) == ("break", "credential")


@pytest.mark.parametrize("code", ["timeout", "connection_lost", "stalled", "stream_reset", "protocol_error"])
def test_what_left_without_an_answer_is_unknown(code: str) -> None:
    """Whatever the reason: it may have arrived."""
    outcome = outcome_of_failure(OutcomeUnknown(code))
    assert (outcome.kind, outcome.action, outcome.code) == ("unknown", "resolve_unknown", code)
