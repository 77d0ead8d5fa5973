"""Rules of posts: pure functions, told apart by their codes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.feed import author_rules as rules
from protocol.errors import Refused
from protocol.limits import MAX_COMMENT_TEXT_BYTES, MAX_HASHTAGS, MAX_POST_TEXT_BYTES
from protocol.records import AuthorRow, AuthorView, CommentRow, PostRow

_TEXTS = st.text("ab#_1é\u200d हिन्ß/:.&", max_size=60) | st.text(max_size=60)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", []),
        ("#one two #Two, #one! #THREE.", ["one", "two", "three"]),
        ("(#a) [#b] '#c' …#d", ["a", "b", "c", "d"]),
        ("a#b ##c # d #", []),
        ("#2026 #_ #2026_ #x2026 #2x", ["x2026", "2x"]),
        ("https://x.example/#frag see#no https://x.example/a#b #yes", ["yes"]),
        ("#yes:https://x.example/#no", ["yes"]),
        ("&#39; #a&#b", ["a"]),
        ("#straße #STRASSE", ["strasse"]),
        ("#caf\u00e9 #cafe\u0301", ["café"]),
        ("#हिन्दी #می\u200cخواهم", ["हिन्दी", "می\u200cخواهم"]),
        ("#日本語、#한국어", ["日本語", "한국어"]),
        ("\uff03wide", ["wide"]),
        ("#" + "x" * 100 + " #" + "y" * 101, ["x" * 100]),
        ("#a-b #c.d #e/#f", ["a", "c", "e"]),
    ],
)
def test_hashtags_are_words_behind_a_mark(text: str, tags: list[str]) -> None:
    assert rules.hashtags_of(text) == tags


@given(_TEXTS)
def test_hashtags_are_folded_short_different_and_in_the_text(text: str) -> None:
    """The trends count them, and a client shows them as links."""
    tags = rules.hashtags_of(text)
    assert len(set(tags)) == len(tags) <= MAX_HASHTAGS
    for tag in tags:
        assert 1 <= len(tag) <= rules.MAX_HASHTAG_CHARS
        assert rules.fold_hashtag(tag) == tag
        assert not any(char.isspace() or char == "#" for char in tag)
        assert rules.hashtags_of(f"#{tag}") == [tag]


def test_only_so_many_hashtags_count() -> None:
    tags = rules.hashtags_of(" ".join(f"#t{number}" for number in range(100)))
    assert tags == [f"t{number}" for number in range(MAX_HASHTAGS)]


@given(st.text(), st.booleans())
def test_texts_are_measured_in_bytes(text: str, has_files: bool) -> None:
    size_bytes = len(text.encode())
    try:
        rules.check_post_text(text * 200, has_files=has_files)
        assert size_bytes * 200 <= MAX_POST_TEXT_BYTES
        assert has_files or text.strip()
    except Refused as error:
        assert error.code == ("text_too_long" if text.strip() or has_files else "text_empty")
        assert size_bytes * 200 > MAX_POST_TEXT_BYTES or not text.strip()


def test_a_comment_is_shorter_than_a_post() -> None:
    rules.check_comment_text("é" * (MAX_COMMENT_TEXT_BYTES // 2))
    for text, code in [
        ("", "text_empty"),
        (" ", "text_empty"),
        ("x" * (MAX_COMMENT_TEXT_BYTES + 1), "text_too_long"),
    ]:
        with pytest.raises(Refused) as caught:
            rules.check_comment_text(text)
        assert caught.value.code == code


def post(**fields: object) -> PostRow:
    values: dict[str, object] = {"post_id": 5, "author_id": "ann", "app_id": "a", "at_ms": 1} | fields
    return PostRow(**values)  # type: ignore[arg-type]


@given(
    visibility=st.sampled_from(["public", "followers"]),
    is_private=st.booleans(),
    follow=st.sampled_from(["", "requested", "following"]),
    is_blocked=st.booleans(),
    blocks_viewer=st.booleans(),
    deleted_at_ms=st.sampled_from([0, 1]),
    viewer_id=st.sampled_from(["ann", "bob"]),
)
def test_a_post_is_seen_by_whom_it_is_for(
    visibility: str,
    is_private: bool,
    follow: str,
    is_blocked: bool,
    blocks_viewer: bool,
    deleted_at_ms: int,
    viewer_id: str,
) -> None:
    view = AuthorView(
        author_id="ann",
        app_id="a",
        is_private=is_private,
        follow=follow,
        is_blocked=is_blocked,
        blocks_viewer=blocks_viewer,
    )
    seen = rules.may_see(post(visibility=visibility, deleted_at_ms=deleted_at_ms), view, viewer_id)
    is_open = visibility == "public" and not is_private
    is_parted = is_blocked or blocks_viewer
    expected = viewer_id == "ann" or (not is_parted and (is_open or follow == "following"))
    assert seen == (expected and not deleted_at_ms)


def test_lists_are_as_private_as_the_account() -> None:
    def code(viewer_id: str = "bob", **fields: object) -> str:
        try:
            view = AuthorView(author_id="ann", app_id="a", **fields)  # type: ignore[arg-type]
            rules.may_see_lists(view, viewer_id)
        except Refused as error:
            return error.code
        return ""

    assert code() == ""
    assert code(is_private=True) == code(is_private=True, follow="requested") == "forbidden"
    assert code(is_private=True, follow="following") == code("ann", is_private=True) == ""
    assert code(is_blocked=True) == code(blocks_viewer=True) == "blocked"


def test_only_what_is_public_is_repeated() -> None:
    rules.may_repost(post(), None)
    rules.may_repost(post(), AuthorRow(user_id="ann", app_id="a"))
    private = AuthorRow(user_id="ann", app_id="a", is_private=True)
    for row, author, code in [
        (post(deleted_at_ms=1), None, "post_not_found"),
        (post(repost_of=1), None, "not_repostable"),
        (post(visibility="followers"), None, "not_repostable"),
        (post(), private, "not_repostable"),
    ]:
        with pytest.raises(Refused) as caught:
            rules.may_repost(row, author)
        assert caught.value.code == code


def test_who_may_delete_and_answer_comments() -> None:
    comment = CommentRow(comment_id=9, post_id=5, user_id="bob", client_id="c", at_ms=1)
    rules.may_delete_comment(comment, post(), "bob")
    rules.may_delete_comment(comment, post(), "ann")
    with pytest.raises(Refused) as caught:
        rules.may_delete_comment(comment, post(), "cai")
    assert caught.value.code == "forbidden"
    assert rules.may_answer(comment, 5) is comment
    for parent in (
        None,
        CommentRow(comment_id=9, post_id=6, user_id="b", client_id="c", at_ms=1),
        CommentRow(comment_id=9, post_id=5, user_id="b", client_id="c", at_ms=1, parent_id=8),
        CommentRow(comment_id=9, post_id=5, user_id="b", client_id="c", at_ms=1, deleted_at_ms=1),
    ):
        with pytest.raises(Refused) as caught:
            rules.may_answer(parent, 5)
        assert caught.value.code == "comment_not_found"


@given(st.lists(st.integers(-3, 3), max_size=60))
def test_the_mode_has_hysteresis(steps: list[int]) -> None:
    """A count that wavers between the two bounds changes nothing."""
    count, is_hot, flips = 0, False, 0
    for step in steps:
        count = max(0, count + step)
        following = rules.next_is_hot(is_hot, count, hot_at=10, cool_at=8)
        if following != is_hot:
            assert count >= 10 if following else count < 8
            flips += 1
        is_hot = following
        assert is_hot or count < 10
        assert not is_hot or count >= 8
    assert flips <= sum(abs(step) for step in steps) // 2 + 1


@given(st.integers(1, 10_000), st.none() | st.floats(0, 1_000), st.floats(0, 1))
def test_a_retry_waits_as_long_as_asked_and_not_for_ever(
    count: int, after_s: float | None, jitter: float
) -> None:
    delay_s = rules.retry_delay_s(count, after_s, jitter)
    assert delay_s >= max(after_s or 0.0, rules.FIRST_RETRY_S)
    assert delay_s <= 1.5 * max(after_s or 0.0, rules.LAST_RETRY_S)
