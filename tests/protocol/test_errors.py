"""Errors carry what a gateway and a client need, and nothing that can drift apart."""

import pytest

from protocol import CODES, HubbubError, ProtocolError, Refused, Unavailable
from protocol.errors import PROTOCOL_CODES, REFUSED_CODES, UNAVAILABLE_CODES


@pytest.mark.parametrize("code", sorted(CODES))
def test_an_error_without_words_of_its_own_says_what_its_code_means(code: str) -> None:
    """A person reads the message; it is never empty and never only the code."""
    error = HubbubError(code)
    assert error.message == CODES[code]
    assert str(error) == f"{code}: {CODES[code]}"
    assert HubbubError(code, "Field `x` is missing.").message == "Field `x` is missing."


def test_only_what_may_be_tried_again_says_when() -> None:
    """Clients retry if and only if `retry_after_s` is there."""
    assert ProtocolError("bad_frame").retry_after_s is None
    assert Refused("not_author").retry_after_s is None
    assert Unavailable("busy").retry_after_s == 1.0
    assert Unavailable("rate_limited", retry_after_s=0.25).retry_after_s == 0.25


def test_a_code_belongs_to_one_class() -> None:
    """Who must act follows from the code alone, so that a client need not know our classes."""
    assert not set(PROTOCOL_CODES) & set(REFUSED_CODES)
    assert not set(PROTOCOL_CODES) & set(UNAVAILABLE_CODES)
    assert not set(REFUSED_CODES) & set(UNAVAILABLE_CODES)
