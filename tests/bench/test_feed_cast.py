"""Who posts and who reads: by the stated law, the same each time, and with readers of every class."""

from collections import Counter

import pytest

from bench.feed_cast import cast, drawn, entries_of
from bench.feed_graph import Graph, class_of, from_lines, power_law

HOT = 1000


@pytest.fixture(scope="module")
def graph() -> Graph:
    """20,000 people; the first author has thousands of followers."""
    return power_law(20_000, 5, seed=3)


def test_by_followers_who_has_more_posts_more(graph: Graph) -> None:
    """The law that the table names has to be the one that was used."""
    order = drawn(graph, exponent=1.0, count=2000, seed=1)
    top = max(graph.followed(), key=graph.follower_count)
    expected = graph.follower_count(top) / graph.edge_count * 2000
    assert abs(Counter(order)[top] - expected) <= 1


def test_evenly_nobody_posts_more_than_others(graph: Graph) -> None:
    """Exponent 0: every author alike, whatever the followers."""
    authors = graph.followed()
    assert max(Counter(drawn(graph, exponent=0.0, count=len(authors), seed=1)).values()) <= 2


def test_a_mean_that_is_wished_for_is_met(graph: Graph) -> None:
    """The goal speaks of 200 feeds a post; entries a second follow from posts a second by this."""
    people = cast(graph, reader_count=50, hot_from=HOT, mean=60.0)
    assert 54 < people.pushed_each < 66
    assert 0 < people.exponent < 1


def test_hot_authors_are_pushed_to_nobody(graph: Graph) -> None:
    """They are merged in at read, so none of their followers' feeds gets an entry."""
    hot = max(graph.followed(), key=graph.follower_count)
    assert graph.follower_count(hot) >= HOT
    assert entries_of(graph, hot, HOT, lambda account: True) == 0
    cold = min(graph.followed(), key=graph.follower_count)
    assert entries_of(graph, cold, HOT, lambda account: True) == graph.follower_count(cold) + 1


def test_only_kept_feeds_count_as_entries() -> None:
    """Posts are not pushed to who has not read for long; the server's counter must be met exactly."""
    graph = from_lines(["1 9", "2 9", "3 9"])
    author = graph.authors[0]
    assert entries_of(graph, author, HOT, lambda account: account != graph.fans[0]) == 3
    assert entries_of(graph, author, HOT, lambda account: account == author) == 1


def test_readers_follow_authors_of_every_class(graph: Graph) -> None:
    """Latencies are told by class, so somebody has to hear of each."""
    people = cast(graph, reader_count=300, hot_from=HOT, exponent=1.0)
    posters = set(people.order)
    heard: Counter[str] = Counter()
    for reader in people.readers:
        heard.update(
            {
                class_of(graph.follower_count(author), hot_from=HOT)
                for author in graph.followees(reader)
                if author in posters
            }
        )
    assert len(set(people.readers)) == 300
    assert min(heard[name] for name in ("cold", "warm", "hot")) >= 100


def test_readers_are_those_who_may_be_some(graph: Graph) -> None:
    """Cold reads need people whose feed is not kept, warm ones those whose is."""
    people = cast(
        graph, reader_count=200, hot_from=HOT, exponent=1.0, is_reader=lambda account: account % 2 == 0
    )
    assert len(people.readers) == 200
    assert not any(account % 2 for account in people.readers)


def test_the_cast_is_the_same_each_time(graph: Graph) -> None:
    """Rounds and servers are compared."""
    one, other = (cast(graph, reader_count=50, hot_from=HOT, mean=30.0, seed=5) for _ in range(2))
    assert one == other
