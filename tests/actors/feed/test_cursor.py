"""Places that clients carry: good for whom they were given to, and nothing else gets through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.feed.cursor import Cursor, _check, read_cursor, write_cursor
from protocol.errors import Refused
from protocol.limits import MAX_SAFE_INTEGER

NUMBERS = st.integers(0, MAX_SAFE_INTEGER)
CURSORS = st.builds(Cursor, st.sampled_from(["older", "newer", "ranked"]), NUMBERS, NUMBERS, NUMBERS, NUMBERS)


@given(cursor=CURSORS, user_id=st.text(min_size=1, max_size=20))
def test_a_cursor_comes_back_as_it_was_given(cursor: Cursor, user_id: str) -> None:
    assert read_cursor(write_cursor(cursor, user_id), user_id, cursor.kind) == cursor


@given(cursor=CURSORS)
def test_a_cursor_is_of_no_use_to_others_or_for_another_use(cursor: Cursor) -> None:
    text = write_cursor(cursor, "ann")
    for user_id, kinds in (("bob", {cursor.kind}), ("ann", {"older", "newer", "ranked"} - {cursor.kind})):
        with pytest.raises(Refused, match="bad_cursor"):
            read_cursor(text, user_id, *kinds)


@given(text=st.text(max_size=120), user_id=st.text(max_size=10))
def test_anything_else_is_refused(text: str, user_id: str) -> None:
    """Also what somebody has made up together with its check sum, which is no secret."""
    with pytest.raises(Refused, match="bad_cursor"):
        read_cursor(text, user_id, "older", "newer", "ranked")


@pytest.mark.parametrize(
    "body", ["o", "x1.1.1.1", "o1.1.1", "o" + "f" * 14 + ".0.0.0", "o-1.0.0.0", "o1.1.1.1.1"]
)
def test_a_place_that_cannot_be_is_refused_with_a_right_sum(body: str) -> None:
    with pytest.raises(Refused, match="bad_cursor"):
        read_cursor(f"{body}.{_check(body, 'ann')}", "ann", "older", "newer", "ranked")
