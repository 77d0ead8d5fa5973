"""The published curve of "not interested", and whom it hides."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.feed.interest import (
    DAY_MS,
    ENDS_MS,
    HIDDEN_MS,
    Interests,
    factor_at,
    interest_of,
    said,
    target_of,
    undone,
)
from protocol.errors import HubbubError
from protocol.feed_types import InterestKind, Post
from protocol.limits import MAX_INTERESTS
from protocol.records import InterestRow

NOW_MS = 1_800_000_000_000

kinds: st.SearchStrategy[InterestKind] = st.sampled_from(["post", "author", "hashtag"])
names = st.sampled_from("abc")
edges_ms = st.sampled_from([HIDDEN_MS - 1, HIDDEN_MS, ENDS_MS - 1, ENDS_MS])
ages_ms = edges_ms | st.integers(-DAY_MS, ENDS_MS + 10 * DAY_MS)


def row(kind: InterestKind, target: str, since_ms: int = NOW_MS) -> InterestRow:
    return InterestRow(user_id="reader", kind=kind, target=target, since_ms=since_ms)


def post(post_id: int, author_id: str = "ann", *hashtags: str, repost_of: int = 0) -> Post:
    return Post(
        post_id=post_id, author_id=author_id, at_ms=NOW_MS, hashtags=list(hashtags), repost_of=repost_of
    )


@st.composite
def rows(draw: st.DrawFn) -> InterestRow:
    kind = draw(kinds)
    target = str(draw(st.integers(1, 4))) if kind == "post" else draw(names)
    return row(kind, target, NOW_MS - draw(ages_ms))


@st.composite
def posts(draw: st.DrawFn) -> tuple[Post, Post | None]:
    tags = st.lists(names, max_size=3, unique=True)
    root = post(draw(st.integers(1, 2)), draw(names), *draw(tags))
    if draw(st.booleans()):
        return root, None
    return post(draw(st.integers(3, 4)), draw(names), repost_of=root.post_id), root


@pytest.mark.parametrize(
    ("days", "factor"),
    [
        (0, 0.0),
        (13.999, 0.0),
        (14, 0.2),
        (48.999, 0.2),
        (49, 0.4),
        (84, 0.6),
        (119, 0.8),
        (153.999, 0.8),
        (154, 1.0),
        (4000, 1.0),
    ],
)
def test_the_curve_is_as_published(days: float, factor: float) -> None:
    """Users who were told when it ends."""
    assert factor_at(NOW_MS, NOW_MS + int(days * DAY_MS)) == factor


@given(ages=st.lists(ages_ms, min_size=2))
def test_the_curve_only_ever_rises(ages: list[int]) -> None:
    """What was said once never hits harder later."""
    factors = [factor_at(NOW_MS, NOW_MS + age) for age in sorted(ages)]
    assert all(earlier <= later for earlier, later in pairwise(factors))


def test_a_clock_that_went_back_hides() -> None:
    """The reader has just said so, whatever the clock says."""
    assert factor_at(NOW_MS, NOW_MS - 1000) == 0.0
    assert Interests([row("author", "ann")]).hidden_until(post(1), None, NOW_MS - 1000) == NOW_MS + HIDDEN_MS


@given(interest=rows(), age_ms=ages_ms)
def test_what_the_list_says_is_what_happens(interest: InterestRow, age_ms: int) -> None:
    """The page with "not interested" tells the truth about the feed."""
    now_ms = interest.since_ms + age_ms
    told = interest_of(interest, now_ms)
    mine = Interests([interest])
    hit = {
        "post": lambda: post(int(told.target)),
        "author": lambda: post(9, told.target),
        "hashtag": lambda: post(9, "zoe", told.target),
    }[told.kind]()
    assert mine.factor_of(hit, None, now_ms) == told.factor
    assert mine.hidden_until(hit, None, now_ms) == (told.hidden_until_ms if told.factor == 0 else 0)
    assert (told.factor == 0) == (now_ms < told.hidden_until_ms)
    assert (told.factor == 1) == (now_ms >= told.ends_at_ms)
    assert mine.listed(now_ms) == ([told] if now_ms < told.ends_at_ms else [])
    assert mine.ended(now_ms) == ([] if now_ms < told.ends_at_ms else [interest])


def test_a_post_stays_hidden_to_the_end() -> None:
    """One post comes back to nobody after two weeks."""
    mine = Interests([row("post", "7")])
    assert mine.hidden_until(post(7), None, NOW_MS + ENDS_MS - 1) == NOW_MS + ENDS_MS
    assert mine.hidden_until(post(7), None, NOW_MS + ENDS_MS) == 0


@given(said_rows=st.lists(rows(), max_size=8), judged=posts())
def test_a_post_is_judged_by_all_that_apply(
    said_rows: list[InterestRow], judged: tuple[Post, Post | None]
) -> None:
    """Oracle: each row by itself, the worst of them counts; a repost is judged by its root as well."""
    candidate, root = judged
    latest = {(each.kind, each.target): each for each in said_rows}
    authors = {candidate.author_id} | ({root.author_id} if root else set())
    tags = {*candidate.hashtags, *(root.hashtags if root else ())}
    ids = {str(candidate.post_id)} | ({str(root.post_id)} if root else set())
    applying = [
        interest_of(each, NOW_MS)
        for each in latest.values()
        if each.target in {"post": ids, "author": authors, "hashtag": tags}[each.kind]
    ]
    hidden = [each.hidden_until_ms for each in applying if each.hidden_until_ms > NOW_MS]

    mine = Interests(said_rows)
    assert mine.factor_of(candidate, root, NOW_MS) == min([1.0, *(each.factor for each in applying)])
    assert mine.hidden_until(candidate, root, NOW_MS) == max([0, *hidden])


def test_a_repost_is_hidden_with_its_root_that_nobody_has_loaded() -> None:
    """The id alone is enough."""
    assert Interests([row("post", "7")]).hidden_until(post(8, repost_of=7), None, NOW_MS) > 0


@given(said_rows=st.lists(rows(), max_size=8), judged=posts(), taken=st.data())
def test_taking_back_leaves_no_trace(
    said_rows: list[InterestRow], judged: tuple[Post, Post | None], taken: st.DataObject
) -> None:
    """ "Undo" is at once and whole."""
    mine = Interests(said_rows)
    left = {(each.kind, each.target): each for each in said_rows}
    for key in taken.draw(st.sets(st.sampled_from(sorted(left)))) if left else ():
        assert mine.remove(*key) == left.pop(key)
        assert mine.remove(*key) is None
    fresh = Interests(left.values())
    assert len(mine) == len(left)
    assert mine.listed(NOW_MS) == fresh.listed(NOW_MS)
    assert mine.factor_of(*judged, NOW_MS) == fresh.factor_of(*judged, NOW_MS)
    assert mine.hidden_until(*judged, NOW_MS) == fresh.hidden_until(*judged, NOW_MS)


def test_the_answer_to_taking_back_promises_nothing_hidden() -> None:
    """InterestInfo after `removed`."""
    told = undone(row("author", "ann"))
    assert (told.factor, told.hidden_until_ms, told.ends_at_ms) == (1.0, 0, 0)


def test_said_again_it_begins_anew() -> None:
    """A reader who is shown it once more and says no once more."""
    mine = Interests([row("author", "ann", NOW_MS - 100 * DAY_MS)])
    assert mine.factor_of(post(1), None, NOW_MS) == 0.6
    mine.add(row("author", "ann", NOW_MS))
    assert len(mine) == 1
    assert mine.hidden_until(post(1), None, NOW_MS) == NOW_MS + HIDDEN_MS


def test_the_oldest_gives_way_and_is_named_before_it_goes() -> None:
    """The writer removes its row in the same transaction."""
    full = [row("hashtag", f"t{number}", NOW_MS + number) for number in range(MAX_INTERESTS)]
    mine = Interests(reversed(full))
    assert mine.giving_way(row("hashtag", "t5", NOW_MS)) is None  # it replaces its own
    newest = row("author", "ann", NOW_MS + MAX_INTERESTS)
    assert mine.giving_way(newest) == full[0]
    assert len(mine) == MAX_INTERESTS
    assert mine.add(newest) == full[0]
    assert len(mine) == MAX_INTERESTS
    assert mine.get("hashtag", "t0") is None
    assert mine.factor_of(post(1, "zoe", "t0"), None, NOW_MS) == 1.0
    assert mine.get("author", "ann") == newest


@pytest.mark.parametrize(
    ("kind", "target", "stored"),
    [
        ("post", "9007199254740991", "9007199254740991"),
        ("author", "u_7-b", "u_7-b"),
        ("hashtag", "#Straße", "strasse"),
        ("hashtag", "हिन्दी", "हिन्दी"),
        ("hashtag", "a_1", "a_1"),
        ("hashtag", "\uff03CAFE\u0301", "café"),
        ("hashtag", "نمی\u200cدانم", "نمی\u200cدانم"),
    ],
)
def test_targets_are_stored_as_posts_have_them(kind: InterestKind, target: str, stored: str) -> None:
    """One that is written otherwise would hide nothing."""
    made = said("reader", kind, target, NOW_MS)
    assert made == row(kind, stored)
    assert target_of(kind, stored, "reader") == stored  # stored ones can be taken back


@pytest.mark.parametrize(
    ("kind", "target", "code"),
    [
        ("post", "", "bad_field"),
        ("post", "0", "bad_field"),
        ("post", "007", "bad_field"),
        ("post", "-1", "bad_field"),
        ("post", "٣", "bad_field"),
        ("post", "9007199254740992", "bad_field"),
        ("post", "12\n", "bad_field"),
        ("author", "", "bad_field"),
        ("author", "a b", "bad_field"),
        ("author", "ann\n", "bad_field"),
        ("author", "reader", "self_not_allowed"),
        ("hashtag", "", "bad_field"),
        ("hashtag", "#", "bad_field"),
        ("hashtag", "##cats", "bad_field"),
        ("hashtag", "two words", "bad_field"),
        ("hashtag", "2024", "bad_field"),
        ("hashtag", "_1", "bad_field"),
        ("hashtag", "#\u200d", "bad_field"),
        ("hashtag", "x" * 101, "bad_field"),
        ("hashtag", "ß" * 51, "bad_field"),
        ("hashtag", "a\x00", "bad_field"),
    ],
)
def test_bad_targets_are_told_by_a_stable_code(kind: InterestKind, target: str, code: str) -> None:
    """Bots that send what a person typed."""
    with pytest.raises(HubbubError) as caught:
        target_of(kind, target, "reader")
    assert caught.value.code == code


@given(typed=st.text(min_size=1, max_size=100))
def test_a_hashtag_that_was_taken_can_be_taken_back(typed: str) -> None:
    """The list shows the stored form, and "undo" sends that."""
    try:
        stored = target_of("hashtag", typed, "reader")
    except HubbubError as error:
        assert error.code == "bad_field"
        return
    assert target_of("hashtag", stored, "reader") == stored
    assert len(stored) <= 100
