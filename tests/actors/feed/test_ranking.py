"""Scores that can be told, and an order in which no author fills the feed."""

import re
from math import prod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from actors.feed import ranking
from actors.feed.interest import factor_at
from actors.feed.ranking import (
    MAX_IN_A_ROW,
    MAX_IN_WINDOW,
    VARIETY_SHARE,
    WINDOW,
    Candidate,
    parts,
    rank,
    score,
)
from protocol.feed_types import Post

NOW_MS = 1_800_000_000_000
HOUR_MS = 3600 * 1000
DOCUMENT = Path(__file__).parents[3] / "docs" / "RANKING.md"

counts = st.integers(0, 10**9)
affinities = st.floats(0, 10_000)
interests = st.sampled_from([0.2, 0.4, 0.6, 0.8, 1.0])


@st.composite
def posts(draw: st.DrawFn) -> Post:
    return Post(
        post_id=draw(st.integers(1, 1000)),
        author_id=draw(st.sampled_from("abc")),
        at_ms=NOW_MS - draw(st.integers(-HOUR_MS, 60 * 24 * HOUR_MS)),
        likes=draw(counts),
        comments=draw(counts),
        reposts=draw(counts),
    )


def of(post: Post, root: Post | None = None, *, affinity: float = 0, interest: float = 1) -> float:
    return score(post, root, affinity=affinity, interest=interest, now_ms=NOW_MS)


def aged(hours: float, *, likes: int = 0, comments: int = 0, reposts: int = 0) -> Post:
    return Post(
        post_id=1,
        author_id="a",
        at_ms=NOW_MS - int(hours * HOUR_MS),
        likes=likes,
        comments=comments,
        reposts=reposts,
    )


@given(post=posts(), root=st.none() | posts(), affinity=affinities, interest=st.just(0.0) | interests)
def test_a_score_is_the_product_of_what_is_told(
    post: Post, root: Post | None, affinity: float, interest: float
) -> None:
    """Explanations: nothing else has a say, not even by rounding."""
    told = parts(post, root, affinity=affinity, interest=interest, now_ms=NOW_MS)
    assert [part.name for part in told] == ["recency", "affinity", "engagement", "interest"]
    assert prod(part.factor for part in told) == of(post, root, affinity=affinity, interest=interest)


def test_a_new_post_without_anything_scores_one() -> None:
    """The unit of all scores."""
    assert of(aged(0)) == 1.0
    assert of(aged(-1)) == 1.0  # by a clock that is ahead
    assert of(aged(12)) == 0.5
    assert of(aged(24)) == 0.25
    assert of(aged(10 * 365 * 24)) == 0.0


@given(post=posts(), more=st.integers(1, 1000), affinity=affinities, interest=interests)
def test_every_factor_pulls_its_way(post: Post, more: int, affinity: float, interest: float) -> None:
    """No reader is surprised: more of what is good never lowers a score, and age never raises it."""
    was = of(post, affinity=affinity, interest=interest)
    for name in ("likes", "comments", "reposts"):
        liked = replace(post, **{name: getattr(post, name) + more})
        assert of(liked, affinity=affinity, interest=interest) >= was
    assert of(post, affinity=affinity + more, interest=interest) > was
    assert of(replace(post, at_ms=post.at_ms - more), affinity=affinity, interest=interest) <= was
    assert of(post, affinity=affinity, interest=interest / 2) < was


def test_words_weigh_more_than_taps() -> None:
    """A repost counts three likes, a comment two."""
    assert of(aged(3, reposts=2)) == of(aged(3, comments=3)) == of(aged(3, likes=6)) > of(aged(3, likes=5))


def test_a_repost_is_as_old_as_itself_and_as_liked_as_what_it_repeats() -> None:
    """An old post that is repeated now comes up now, but not with the crowd of its first day."""
    root = aged(100, likes=1020)
    told = parts(aged(12), root, affinity=0, interest=1, now_ms=NOW_MS)
    assert told[0].value == 12
    assert told[2].value == 10  # an hour: 1020 in 100 hours and the two before


# -- the order --------------------------------------------------------------------------------------


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    ids = draw(st.lists(st.integers(1, 500), unique=True, max_size=60))
    authors = st.sampled_from(draw(st.sampled_from(["a", "ab", "aaaab", "abcdefghijkl"])))
    roots = st.just("") | st.sampled_from("axyz")
    scores = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 10)
    return [Candidate(draw(scores), post_id, draw(authors), draw(roots)) for post_id in ids]


def voices(candidate: Candidate) -> set[str]:
    return {candidate.author_id, candidate.root_author_id} - {""}


def is_forbidden(candidate: Candidate, above: list[Candidate]) -> bool:
    """The rule of the document, word by word."""
    row, window = above[-MAX_IN_A_ROW:], above[-(WINDOW - 1) :]
    return any(
        (len(row) == MAX_IN_A_ROW and all(voice in voices(other) for other in row))
        or sum(voice in voices(other) for other in window) >= MAX_IN_WINDOW
        for voice in voices(candidate)
    )


@given(given_ones=candidates())
def test_each_place_has_the_best_that_may_stand_there(given_ones: list[Candidate]) -> None:
    """The whole rule, checked place by place against a plain reading of it."""
    ranked = rank(given_ones)
    left = sorted(given_ones, key=lambda one: (-one.score, -one.post_id))
    for place, taken in enumerate(ranked):
        allowed = [
            one
            for one in left
            if one.score >= left[0].score * VARIETY_SHARE and not is_forbidden(one, ranked[:place])
        ]
        assert taken == (allowed[0] if allowed else left[0])
        left.remove(taken)
    assert not left


@given(given_ones=candidates(), randomly=st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_how_they_came(given_ones: list[Candidate], randomly: object) -> None:
    """Two nodes, or one after a restart, rank alike."""
    shuffled = list(given_ones)
    randomly.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert rank(shuffled) == rank(given_ones)


def test_different_authors_stay_in_the_order_of_their_scores() -> None:
    """The rule touches nobody who does not repeat."""
    apart = [Candidate(float(number % 7), number, f"u{number}") for number in range(100)]
    assert rank(apart) == sorted(apart, reverse=True)


def test_a_loud_author_gets_three_of_ten_places_while_there_are_others() -> None:
    """Somebody who posts all day does not own the morning of a follower."""
    loud = [Candidate(1.0, number, "loud") for number in range(700)]
    others = [Candidate(VARIETY_SHARE, 1000 + number, f"u{number}") for number in range(100)]
    is_loud = [one.author_id == "loud" for one in rank(loud + others)]
    assert is_loud[:10] == [True, True, False, True] + 6 * [False]
    end = len(is_loud) - is_loud[::-1].index(False)  # from here on nobody else is left
    assert sum(is_loud[:end]) >= 40
    assert all(sum(is_loud[start : start + WINDOW]) <= MAX_IN_WINDOW for start in range(end - WINDOW))


def test_variety_does_not_bring_up_what_is_long_past() -> None:
    """Who follows one active author and a few that sleep reads today's posts, not last month's."""
    loud = [Candidate(1.0, number, "loud") for number in range(20)]
    others = [Candidate(VARIETY_SHARE - 0.01, 100 + number, f"u{number}") for number in range(20)]
    assert rank(loud + others) == sorted(loud + others, reverse=True)


def test_a_feed_of_one_author_is_simply_sorted() -> None:
    """Who follows one person sees all that the person writes."""
    alone = [Candidate(1.0, number, "a") for number in range(50)]
    assert rank(alone) == sorted(alone, reverse=True)


def test_many_reposts_of_one_author_count_as_that_author() -> None:
    """A crowd that repeats one star does not make a feed of that star."""
    star = [Candidate(4.0, number, f"fan{number}", "star") for number in range(9)]
    others = [Candidate(1.0, 100 + number, f"u{number}") for number in range(20)]
    shown = [one.root_author_id == "star" for one in rank(star + others)]
    assert shown[:4] == [True, True, False, True]
    assert sum(shown[:10]) == MAX_IN_WINDOW


# -- the document -----------------------------------------------------------------------------------


def test_the_worked_example_in_the_document_is_right() -> None:
    """Readers who recompute it."""
    lines = re.findall(
        r"^\| (\w+) \| ([\d.]+) h \| (\d+), (\d+), (\d+) \| ([\d.]+) \| ([\d.]+)"
        r" \| ([\d.]+) × ([\d.]+) × ([\d.]+) × ([\d.]+) \| ([\d.]+) \| (\d+)\. \|$",
        DOCUMENT.read_text(),
        re.MULTILINE,
    )
    assert len(lines) >= 5
    told: list[tuple[float, int]] = []
    for author, age_h, likes, comments, reposts, affinity, interest, *figures in lines:
        post = Post(
            post_id=1,
            author_id=author,
            at_ms=NOW_MS - round(float(age_h) * HOUR_MS),
            likes=int(likes),
            comments=int(comments),
            reposts=int(reposts),
        )
        made = parts(post, None, affinity=float(affinity), interest=float(interest), now_ms=NOW_MS)
        *factors, total, place = figures
        assert [f"{part.factor:.2f}" for part in made] == factors
        assert f"{of(post, affinity=float(affinity), interest=float(interest)):.2f}" == total
        told.append((float(total), int(place)))
    order = sorted(told, reverse=True)
    assert [place for _, place in order] == list(range(1, len(told) + 1))


def test_the_curve_in_the_document_is_right() -> None:
    """Users who are told when it ends."""
    lines = re.findall(r"^\| day (\d+) to (\d+) \| ([\d.]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert len(lines) == 5
    day_ms = 24 * HOUR_MS
    for first, last, factor in lines:
        assert factor_at(0, int(first) * day_ms) == float(factor)
        assert factor_at(0, int(last) * day_ms - 1) == float(factor)
    assert factor_at(0, int(lines[-1][1]) * day_ms) == 1.0


@pytest.mark.parametrize(
    "constant", ["HALF_LIFE_H", "AFFINITY_WEIGHT", "ENGAGEMENT_WEIGHT", "ENGAGEMENT_PRIOR_H", "VARIETY_SHARE"]
)
def test_the_constants_in_the_document_are_those_of_the_code(constant: str) -> None:
    """Operators who change one."""
    told = re.search(rf"^\| `{constant}` \| ([\d.]+)", DOCUMENT.read_text(), re.MULTILINE)
    assert told is not None
    assert float(told[1]) == getattr(ranking, constant)
