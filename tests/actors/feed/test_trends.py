"""What trends: who counts, how it fades, how nodes are joined, and how little memory it takes."""

import random
from itertools import permutations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.feed.trends import (
    DAY,
    HOUR,
    MAX_BODY_BYTES,
    MAX_ITEMS,
    MAX_PEOPLE,
    MAX_SPENDERS,
    Counters,
    Part,
    Span,
    Summary,
    hashtag_weight,
    merge,
    read_summary,
    top_of,
)

NOW_MS = 1_700_000_000_000 // DAY.bucket_ms * DAY.bucket_ms  # at the edge of buckets of both spans
MINUTE_MS = 60_000

spans = st.sampled_from([HOUR, DAY])
acts = st.lists(
    st.tuples(
        st.sampled_from(["tea", "rain", "été", "1234567890123456"]),
        st.integers(0, 30).map(lambda number: f"user{number}"),
        st.sampled_from([1, 2, 3]),
        st.integers(0, 54),  # minutes: all are in one window of either span
        st.sampled_from(["a", "b", "c"]),  # the node that sees it
    ),
    max_size=60,
)


def crowd(counters: Counters, item: str, count: int, *, weight: float = 1, now_ms: int = NOW_MS) -> None:
    for number in range(count):
        counters.note(item, f"{item}-{number}", weight, now_ms)


def names(counters: Counters, now_ms: int = NOW_MS) -> list[str]:
    return [trending.item for trending in counters.top(100, now_ms)]


# -- who counts -------------------------------------------------------------------------------------


def test_the_item_with_the_most_weight_comes_first() -> None:
    """A repost says more than a like."""
    counters = Counters(HOUR)
    crowd(counters, "liked", 5)
    crowd(counters, "reposted", 4, weight=3)
    assert counters.top(2, NOW_MS) == [("reposted", 12.0, 4), ("liked", 5.0, 5)]
    assert counters.top(1, NOW_MS) == [("reposted", 12.0, 4)]


def test_a_person_counts_once_with_the_heaviest_act() -> None:
    """Liking, unliking and liking again, or liking what one has reposted, lifts nothing."""
    counters = Counters(HOUR)
    crowd(counters, "tea", 2)
    assert counters.note("tea", "ann", 1, NOW_MS)
    assert not counters.note("tea", "ann", 1, NOW_MS + MINUTE_MS)
    assert counters.note("tea", "ann", 3, NOW_MS + MINUTE_MS)
    assert not counters.note("tea", "ann", 2, NOW_MS + MINUTE_MS)
    assert counters.top(1, NOW_MS) == [("tea", 5.0, 3)]


@pytest.mark.parametrize("brigade_size", [1, 2])
@given(weights=st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=200), span=spans)
def test_two_colluding_accounts_cannot_lift_anything(
    brigade_size: int, weights: list[int], span: Span
) -> None:
    """However often and however hard they act, ten real people are above them."""
    counters = Counters(span)
    crowd(counters, "real", 10)
    for number, weight in enumerate(weights):
        counters.note("fake", f"brigade{number % brigade_size}", weight, NOW_MS + number)
    assert names(counters, NOW_MS + len(weights)) == ["real"]


@pytest.mark.parametrize("span", [HOUR, DAY])
def test_what_one_person_lifts_in_a_window_is_bounded(span: Span) -> None:
    """The first items count fully, then ever less, and then nothing: not even memory is taken."""
    counters = Counters(span)
    lifted = 0.0
    for number in range(1_000):
        item = f"item{number}"
        crowd(counters, item, 2)
        counters.note(item, "eager", 1, NOW_MS)
        lifted += sum(t.score - 2 for t in counters.top(2_000, NOW_MS) if t.item == item)
        if number < span.full_items:
            assert lifted == number + 1
    assert lifted < 2.5 * span.full_items
    assert not counters.note("one more", "eager", 3, NOW_MS)
    assert "one more" not in counters.names()


def test_a_person_s_influence_comes_back_as_the_window_slides() -> None:
    """Who liked much in the morning is heard in the evening."""
    counters = Counters(HOUR)
    for number in range(200):
        counters.note(f"item{number}", "eager", 1, NOW_MS)
    assert not counters.note("later", "eager", 1, NOW_MS + 59 * MINUTE_MS)
    evening_ms = NOW_MS + 240 * MINUTE_MS
    crowd(counters, "later", 2, now_ms=evening_ms)
    assert counters.note("later", "eager", 1, evening_ms)
    assert counters.top(1, evening_ms) == [("later", 3.0, 3)]


def test_a_flood_of_one_person_drives_nothing_out() -> None:
    """Items in the table cannot be pushed out by somebody who likes ten thousand posts."""
    counters = Counters(HOUR)
    quiet = [f"quiet{number}" for number in range(300)]
    for item in quiet:
        crowd(counters, item, 3)
    for number in range(10_000):
        counters.note(f"flood{number}", "eager", 3, NOW_MS + number)
    assert set(quiet) <= set(counters.names())


def test_a_post_stuffed_with_hashtags_lifts_none_of_them() -> None:
    """Three hashtags are a topic, thirty are an attempt."""
    assert [hashtag_weight(3, count) for count in (0, 1, 3, 30)] == [0.0, 3.0, 3.0, pytest.approx(0.3)]


# -- how it fades -----------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [HOUR, DAY])
def test_half_of_a_score_is_gone_after_the_half_life_and_all_after_the_window(span: Span) -> None:
    """What is told to people about trends holds for both windows."""
    counters = Counters(span)
    crowd(counters, "tea", 8)
    scores = [
        t.score
        for at_ms in range(0, 2 * span.window_ms, span.half_life_ms)
        for t in counters.top(1, NOW_MS + at_ms)
    ]
    assert scores == [8.0, 4.0, 2.0, 1.0]


@given(acts=acts, span=spans)
def test_a_score_never_rises_by_itself(acts: list[tuple[str, str, int, int, str]], span: Span) -> None:
    """Only acts lift; time lowers."""
    counters = Counters(span)
    for item, user_id, weight, minute, _ in sorted(acts, key=lambda act: act[3]):
        counters.note(item, user_id, weight, NOW_MS + minute * MINUTE_MS)
    before = {t.item: t.score for t in counters.top(10, NOW_MS + 54 * MINUTE_MS)}
    after = {t.item: t.score for t in counters.top(10, NOW_MS + 54 * MINUTE_MS + span.bucket_ms)}
    assert after.keys() <= before.keys()
    assert all(after[item] < before[item] for item in after)


def test_what_was_loud_yesterday_is_below_what_is_loud_now() -> None:
    """A trend is what happens now."""
    counters = Counters(DAY)
    crowd(counters, "yesterday", 50)
    later_ms = NOW_MS + 18 * 3_600_000
    crowd(counters, "now", 10, now_ms=later_ms)
    assert names(counters, later_ms) == ["now", "yesterday"]


def test_a_clock_that_goes_back_does_no_harm() -> None:
    """An act of the future counts as one of now."""
    counters = Counters(HOUR)
    crowd(counters, "tea", 5, now_ms=NOW_MS + 30 * MINUTE_MS)
    assert counters.top(1, NOW_MS) == [("tea", 5.0, 5)]
    assert counters.note("tea", "ann", 1, NOW_MS)


# -- many people ------------------------------------------------------------------------------------


@pytest.mark.parametrize("people", [MAX_PEOPLE, 1_000, 20_000])
def test_many_people_are_estimated_from_a_small_sample(people: int) -> None:
    """Exact while few, good to a quarter for one item, and unbiased over many."""
    counters = Counters(HOUR)
    items = [f"item{number}" for number in range(10)]
    for item in items:
        crowd(counters, item, people, weight=2)
    top = counters.top(10, NOW_MS)
    assert len(top) == len(items)
    assert counters.people_count <= len(items) * MAX_PEOPLE
    for trending in top:
        assert trending.score == 2 * trending.people
        assert abs(trending.people - people) <= (0 if people <= MAX_PEOPLE else 0.45 * people)
    assert sum(t.people for t in top) / len(top) == pytest.approx(people, rel=0.15)


def test_a_crowd_that_has_left_does_not_blur_who_comes_next() -> None:
    """Where few are left, everybody is sampled again after a while."""
    counters = Counters(HOUR)
    crowd(counters, "news", 5_000)
    for minute in range(60, 180, 5):
        counters.note("news", f"early bird {minute}", 1, NOW_MS + minute * MINUTE_MS)
    at_ms = NOW_MS + 180 * MINUTE_MS
    crowd(counters, "news", 40, now_ms=at_ms)
    assert counters.top(1, at_ms)[0].people == 40 + 11


# -- joining nodes ----------------------------------------------------------------------------------


def shards_of(span: Span, acts: list[tuple[str, str, int, int, str]]) -> dict[str, Counters]:
    shards = {node: Counters(span) for node in "abc"}
    for item, user_id, weight, minute, node in acts:
        shards[node].note(item, user_id, weight, NOW_MS + minute * MINUTE_MS)
    return shards


@given(acts=acts, span=spans)
def test_the_nodes_together_see_what_one_node_would_see(
    acts: list[tuple[str, str, int, int, str]], span: Span
) -> None:
    """Whoever is seen by several nodes still counts once."""
    acts = sorted(acts, key=lambda act: act[3])
    at_ms = NOW_MS + 54 * MINUTE_MS
    whole = Counters(span)
    for item, user_id, weight, minute, _ in acts:
        whole.note(item, user_id, weight, NOW_MS + minute * MINUTE_MS)
    shards = shards_of(span, acts)
    summaries = [read_summary(shard.summary(at_ms).body()) for shard in shards.values()]
    expected = {t.item: t.people for t in whole.top(10, at_ms)}
    together: list[list[Part]] = [[*shards.values()], [*summaries], [shards["a"], *summaries]]
    for parts in together:
        assert {t.item: t.people for t in top_of(span, parts, 10, at_ms)} == expected


def test_a_crowd_spread_over_nodes_is_estimated_like_one() -> None:
    """Samples of different density are joined at the sparsest."""
    whole, busy, calm = Counters(HOUR), Counters(HOUR), Counters(HOUR)
    for number in range(6_000):
        (busy if number % 10 else calm).note("news", f"user{number}", 1, NOW_MS)
        calm.note("news", f"user{number % 30}", 1, NOW_MS)
        whole.note("news", f"user{number}", 1, NOW_MS)
    [joined] = top_of(HOUR, [busy, calm.summary(NOW_MS)], 5, NOW_MS)
    [alone] = whole.top(5, NOW_MS)
    assert joined.people == pytest.approx(6_000, rel=0.45)
    assert joined.people == pytest.approx(alone.people, rel=0.35)


@given(
    told=st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b", "c"]),
            st.builds(
                lambda at_ms, item: Summary(
                    at_ms=at_ms, bucket=at_ms, items={item: b"\x00\x00\x00\x01\x00\x00\x40"}
                ),
                st.integers(0, 5),
                st.sampled_from(["tea", "rain"]),
            ),
        ),
        max_size=4,
    )
)
def test_merging_ignores_order_grouping_and_repetition(told: list[dict[str, Summary]]) -> None:
    """Rows are read in any order, and again and again."""
    expected = merge(*told)
    for order in permutations(told):
        assert merge(*order) == expected
        folded: dict[str, Summary] = {}
        for summaries in order:
            folded = merge(folded, merge(folded, summaries))
        assert folded == expected


def test_the_newest_summary_of_a_node_replaces_the_older() -> None:
    """A node's counts are not added to what it told before."""
    counters = Counters(HOUR)
    crowd(counters, "tea", 3)
    old = counters.summary(NOW_MS)
    crowd(counters, "tea", 5, now_ms=NOW_MS + 1)
    new = counters.summary(NOW_MS + 1)
    merged = merge({"a": new}, {"a": old})
    assert merged == {"a": new}
    assert top_of(HOUR, list(merged.values()), 5, NOW_MS + 1) == [("tea", 5.0, 5)]


# -- stored -----------------------------------------------------------------------------------------


@given(acts=acts, span=spans)
def test_a_node_goes_on_from_what_it_had_stored(
    acts: list[tuple[str, str, int, int, str]], span: Span
) -> None:
    """After a restart nobody counts twice and nobody is forgotten."""
    acts = sorted(acts, key=lambda act: act[3])
    at_ms = NOW_MS + 54 * MINUTE_MS
    whole, before, after = Counters(span), Counters(span), Counters(span)
    for number, (item, user_id, weight, minute, _) in enumerate(acts):
        whole.note(item, user_id, weight, NOW_MS + minute * MINUTE_MS)
        (before if number < len(acts) // 2 else after).note(
            item, user_id, weight, NOW_MS + minute * MINUTE_MS
        )
    summary = before.summary(at_ms)
    after.absorb(read_summary(summary.body()), at_ms)
    after.absorb(summary, at_ms)
    assert {t.item: t.people for t in after.top(10, at_ms)} == {
        t.item: t.people for t in whole.top(10, at_ms)
    }


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        '{"at_ms":1,"bucket":2}',
        '{"at_ms":1,"bucket":2,"items":{"tea":"AAAA"}}',
        '{"at_ms":1,"bucket":2,"items":{"tea":"AAAAAQD/QA=="}}',
        '{"at_ms":1,"bucket":2,"items":{"tea":"?"}}',
    ],
)
def test_what_is_no_summary_is_told_apart(body: str) -> None:
    """A row that somebody has edited must not stop the trends."""
    with pytest.raises(ValueError):
        read_summary(body)


def test_a_summary_keeps_the_strongest_within_its_size() -> None:
    """It is written every few seconds."""
    counters = Counters(HOUR)
    for number in range(MAX_ITEMS):
        crowd(counters, f"{number:0100d}", MAX_PEOPLE if number % 2 else 4)
    summary = counters.summary(NOW_MS)
    assert MAX_BODY_BYTES * 0.95 < len(summary.body().encode()) < 64 * 1024
    assert len(summary.items) >= 60
    assert all(int(item) % 2 for item in summary.items)


# -- bounds -----------------------------------------------------------------------------------------


def test_memory_is_bounded_however_much_comes() -> None:
    """One app's trends cannot take the node's memory."""
    counters = Counters(HOUR)
    dice = random.Random(5)
    for number in range(60_000):
        counters.note(f"item{dice.randrange(20_000)}", f"user{number}", 1, NOW_MS + number)
        assert counters.item_count <= 2 * MAX_ITEMS
    for number in range(3 * MAX_SPENDERS):
        counters.note("item", f"spender{number}", 1, NOW_MS + number)
    assert counters.people_count <= counters.item_count * MAX_PEOPLE
    assert counters.spender_count <= 2 * MAX_SPENDERS


def test_the_head_of_a_long_tail_is_found() -> None:
    """Most items are acted on once; the few that trend must not drown in them."""
    dice = random.Random(7)
    counters = Counters(HOUR)
    people: dict[str, set[int]] = {}
    weights = [1 / rank for rank in range(1, 20_001)]
    for rank in dice.choices(range(20_000), weights, k=40_000):
        item = f"item{rank}"
        user = dice.randrange(20_000)
        people.setdefault(item, set()).add(user)
        counters.note(item, f"user{user}", 1, NOW_MS)
    assert len(people) > 4 * MAX_ITEMS
    strongest = sorted(people, key=lambda item: len(people[item]), reverse=True)
    found = names(counters)
    assert set(strongest[:10]) <= set(found[:13])
    assert set(strongest[:40]) <= set(found)


def test_a_rising_item_gets_past_a_full_table() -> None:
    """Items that come late, one person at a time, must be able to grow among a thousand others."""
    counters = Counters(HOUR)
    for number in range(2 * MAX_ITEMS):
        crowd(counters, f"old{number}", 2)
    for step in range(30):
        at_ms = NOW_MS + step * 1_000
        counters.note("rising", f"user{step}", 1, at_ms)
        for number in range(20):
            counters.note(f"noise{step}-{number}", f"noisy{step}-{number}", 1, at_ms)
    assert names(counters, NOW_MS + 30_000) == ["rising"]


def test_a_summary_is_plain_json() -> None:
    """People look into the table with their own tools."""
    counters = Counters(HOUR)
    crowd(counters, "tea", 3)
    decoded = msgspec.json.decode(counters.summary(NOW_MS).body())
    assert decoded["at_ms"] == NOW_MS
    assert list(decoded["items"]) == ["tea"]


def test_the_example_of_the_documentation_holds() -> None:
    """docs/TRENDS.md: nine people now, and one half an hour ago."""
    for span, half_an_hour_ago_ms, expected in (
        (HOUR, NOW_MS, 9.25),
        (DAY, NOW_MS, 10.0),
        (DAY, NOW_MS - 15 * MINUTE_MS, 9 + 2 ** (-1 / 6)),
    ):
        counters = Counters(span)
        counters.note("tea", "early", 1, half_an_hour_ago_ms)
        now_ms = half_an_hour_ago_ms + 30 * MINUTE_MS
        crowd(counters, "tea", 9, now_ms=now_ms)
        [(_, score, people)] = counters.top(1, now_ms)
        assert score == pytest.approx(expected)
        assert people == 10
