"""The oracle judges everything else, so each of its rules is stated here once by hand."""

from collections.abc import Callable, Iterator

import pytest

from tests.feed.oracle import DAY_MS, HIDDEN_MS, HOUR_MS, POST_HIDDEN_MS, SEEN_MS, Oracle

NOW = 1_000 * DAY_MS


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    """Ann follows bob, bob follows cat; cat has posted 1 (#tea), bob 2."""
    made = Oracle(["ann", "bob", "cat"])
    made.follow("ann", "bob")
    made.follow("bob", "cat")
    made.post(1, "cat", NOW - 3 * DAY_MS, "cat 1", hashtags=["tea"])
    made.post(2, "bob", NOW - 2 * DAY_MS, "bob 2")
    yield made
    made.close()


def ids(oracle: Oracle, viewer: str = "ann", now_ms: int = NOW) -> list[int]:
    return oracle.ids(viewer, now_ms=now_ms)


def test_a_feed_holds_the_posts_of_those_followed_and_ones_own(oracle: Oracle) -> None:
    assert (ids(oracle, "ann"), ids(oracle, "bob"), ids(oracle, "cat")) == ([2], [2, 1], [1])


def test_a_follow_brings_everything_earlier_and_an_unfollow_takes_it(oracle: Oracle) -> None:
    oracle.follow("ann", "cat")
    assert ids(oracle) == [2, 1]
    oracle.unfollow("ann", "bob")
    assert ids(oracle) == [1]


def test_pages_go_down_and_up_without_overlap(oracle: Oracle) -> None:
    for post_id in range(3, 8):
        oracle.post(post_id, "bob", NOW)
    down = oracle.page("ann", 6, 3, now_ms=NOW)
    up = oracle.page_up("ann", 3, 2, now_ms=NOW)
    assert [shown.post_id for shown in down] == [5, 4, 3]
    assert [shown.post_id for shown in up] == [4, 5]


def test_a_private_author_is_asked_first(oracle: Oracle) -> None:
    oracle.set_private("cat", True)
    oracle.follow("ann", "cat")
    assert (oracle.requests("cat"), ids(oracle), ids(oracle, "bob")) == (["ann"], [2], [2, 1])
    oracle.answer("cat", "ann", accept=False)
    assert oracle.follow_state("ann", "cat") == "none"
    oracle.follow("ann", "cat")
    oracle.answer("cat", "ann", accept=True)
    assert ids(oracle) == [2, 1]


def test_requests_are_accepted_when_the_account_becomes_public(oracle: Oracle) -> None:
    oracle.set_private("cat", True)
    oracle.follow("ann", "cat")
    oracle.set_private("cat", False)
    assert oracle.followers("cat") == ["ann", "bob"]


@pytest.mark.parametrize(("user_id", "other_id"), [("ann", "bob"), ("bob", "ann")])
def test_a_block_ends_follows_both_ways_for_good(oracle: Oracle, user_id: str, other_id: str) -> None:
    oracle.follow("bob", "ann")
    oracle.block(user_id, other_id)
    oracle.unblock(user_id, other_id)
    assert (oracle.following("ann"), oracle.followers("ann")) == ([], [])


def test_a_repost_brings_what_the_reader_does_not_follow(oracle: Oracle) -> None:
    oracle.post(3, "bob", NOW, repost_of=1)
    (repost, _) = oracle.page("ann", now_ms=NOW)
    assert (repost.post_id, repost.root_id, repost.root_author_id, repost.root_text) == (3, 1, "cat", "cat 1")


@pytest.mark.parametrize(("age_ms", "is_shown"), [(SEEN_MS - 1, False), (SEEN_MS, True)])
def test_a_repost_of_what_came_from_its_author_is_left_out_for_two_days(
    oracle: Oracle, age_ms: int, is_shown: bool
) -> None:
    oracle.follow("ann", "cat")
    oracle.post(3, "cat", NOW)
    oracle.post(4, "bob", NOW + age_ms, repost_of=3)
    assert (4 in ids(oracle)) is is_shown  # ann follows its author
    assert (4 in ids(oracle, "bob")) is True  # one's own repost is always shown
    oracle.follow("cat", "bob")
    assert (4 in ids(oracle, "cat")) is is_shown  # cat is its author


def test_reposts_go_with_what_they_repeat(oracle: Oracle) -> None:
    oracle.post(3, "bob", NOW, repost_of=1)
    changes: list[tuple[Callable[[], None], Callable[[], None]]] = [
        (lambda: oracle.mute("ann", "cat", True), lambda: oracle.mute("ann", "cat", False)),
        (lambda: oracle.block("cat", "ann"), lambda: oracle.unblock("cat", "ann")),
        (lambda: oracle.set_private("cat", True), lambda: oracle.set_private("cat", False)),
        (lambda: oracle.edit(1, "", [], "followers"), lambda: oracle.edit(1, "", [], "public")),
    ]
    for hide, show in changes:
        assert ids(oracle) == [3, 2]
        hide()
        assert ids(oracle) == [2]
        show()
    oracle.delete(1)
    assert (ids(oracle), ids(oracle, "bob")) == ([2], [2])
    assert oracle.reasons("ann", 3, now_ms=NOW) == {"deleted"}


def test_a_follower_of_both_sees_the_repost_of_a_followers_only_post(oracle: Oracle) -> None:
    oracle.post(3, "bob", NOW, repost_of=1)
    oracle.edit(1, "for friends", [], "followers")
    oracle.follow("ann", "cat")
    assert ids(oracle) == [3, 2, 1]


def test_a_muted_author_is_not_in_the_feed(oracle: Oracle) -> None:
    oracle.mute("ann", "bob", True)
    assert (ids(oracle), oracle.reasons("ann", 2, now_ms=NOW)) == ([], {"muted"})


@pytest.mark.parametrize(
    ("kind", "target", "ends_ms"),
    [("author", "cat", HIDDEN_MS), ("hashtag", "tea", HIDDEN_MS), ("post", "1", POST_HIDDEN_MS)],
)
def test_what_does_not_interest_is_hidden_for_its_time(
    oracle: Oracle, kind: str, target: str, ends_ms: int
) -> None:
    oracle.post(3, "bob", NOW, repost_of=1)
    oracle.follow("ann", "cat")
    oracle.set_interest("ann", kind, target, NOW)
    assert ids(oracle, now_ms=NOW + ends_ms - 1) == [2]
    assert ids(oracle, now_ms=NOW + ends_ms) == [3, 2, 1]
    oracle.take_interest_back("ann", kind, target)
    assert ids(oracle) == [3, 2, 1]


def test_counts_are_of_people_and_of_what_is_there(oracle: Oracle) -> None:
    for _ in range(2):
        oracle.like("ann", 1, True)
    oracle.like("bob", 1, True)
    oracle.like("bob", 1, False)
    oracle.comment(1, 1, "ann", "first")
    oracle.comment(2, 1, "bob", "second", parent_id=1)
    oracle.delete_comment(1)
    oracle.post(3, "bob", NOW - HOUR_MS, repost_of=1)
    counts = oracle.counts(1)
    assert (counts.likes, counts.comments, counts.reposts) == (1, 1, 1)
    assert (oracle.has_liked("ann", 1), oracle.has_liked("bob", 1)) == (True, False)
    oracle.delete(3)
    assert oracle.counts(1).reposts == 0


def test_who_may_look_at_a_post(oracle: Oracle) -> None:
    assert oracle.may_see("ann", 1)
    oracle.edit(1, "for friends", [], "followers")
    assert (oracle.may_see("ann", 1), oracle.may_see("bob", 1), oracle.may_see("cat", 1)) == (
        False,
        True,
        True,
    )
    assert not oracle.is_repostable(1)
    oracle.block("cat", "bob")
    assert not oracle.may_see("bob", 1)
