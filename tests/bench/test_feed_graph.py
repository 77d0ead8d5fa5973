"""Graphs of follows: what is read is what the file says, and what is grown has the shape that is claimed."""

import gzip
from pathlib import Path

import pytest

from bench.feed_graph import class_of, from_lines, power_law, read_edges, statistics


def test_u_v_means_u_follows_v() -> None:
    """The wrong way round, the most followed account would have none, and figures would mean nothing."""
    graph = from_lines(["ann bob", "cat bob", "bob ann"])
    ann, bob, cat = range(3)
    assert sorted(graph.followers(bob)) == [ann, cat]
    assert list(graph.followees(bob)) == [ann]
    assert (graph.follower_count(bob), graph.follower_count(cat)) == (2, 0)
    assert (graph.followed(), graph.following()) == ([ann, bob], [ann, bob, cat])


def test_repetitions_and_follows_of_oneself_are_left_out() -> None:
    """The server refuses the one and ignores the other; the expected entries must do so too."""
    graph = from_lines(["1 2", "# a comment", "", "1 2", "3 3", "2 1"])
    assert graph.edge_count == 2
    assert graph.account_count == 3


def test_a_broken_line_is_told_by_its_number() -> None:
    """A file of 328,132 lines is not searched by eye."""
    with pytest.raises(ValueError, match="line 2"):
        from_lines(["1 2", "1 2 3"])


@pytest.mark.parametrize("name", ["edges.txt", "edges.txt.gz"])
def test_files_are_read_plain_or_packed(tmp_path: Path, name: str) -> None:
    """The real graph comes packed."""
    path = tmp_path / name
    data = b"1 2\n3 2\n"
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read_edges(path).edge_count == 2
    assert read_edges(path).origin == name


def test_an_empty_file_is_no_graph(tmp_path: Path) -> None:
    """A run without follows would measure nothing, and divide by it."""
    path = tmp_path / "edges"
    path.write_text("# nothing\n")
    with pytest.raises(ValueError, match="no follows"):
        read_edges(path)


def test_a_grown_graph_is_the_same_for_the_same_seed() -> None:
    """Rounds and servers are compared, so they need the same people."""
    one, same, other = (power_law(500, 4, seed=seed) for seed in (1, 1, 2))
    assert list(one.authors) == list(same.authors)
    assert list(one.fans) == list(same.fans)
    assert list(one.authors) != list(other.authors)


def test_a_grown_graph_has_few_authors_with_most_of_the_followers() -> None:
    """Fan-out is about the skew; a graph without one would be an easy one."""
    graph = power_law(20_000, 5, seed=1)
    counts = sorted((graph.follower_count(author) for author in graph.followed()), reverse=True)
    assert counts[0] > 3000
    assert sum(counts[: len(counts) // 100]) > 0.4 * sum(counts)
    assert max(map(len, map(graph.followees, range(200)))) <= 5
    assert all(author not in graph.followees(author) for author in range(200))


@pytest.mark.parametrize(("accounts", "follows"), [(1, 5), (10, 0)])
def test_a_graph_that_cannot_be_is_refused(accounts: int, follows: int) -> None:
    """With a sentence, before anything has started."""
    with pytest.raises(ValueError, match="two accounts and one follow"):
        power_law(accounts, follows, seed=1)


@pytest.mark.parametrize(
    ("count", "name"), [(1, "cold"), (99, "cold"), (100, "warm"), (9_999, "warm"), (10_000, "hot")]
)
def test_classes_begin_where_the_issue_says(count: int, name: str) -> None:
    """An author at 10,000 is merged in at read, so its events are told apart."""
    assert class_of(count) == name


def test_statistics_sum_up_what_is_there() -> None:
    """They stand beside the figures, which cannot be judged without them."""
    graph = from_lines([*(f"fan{number} star" for number in range(150)), "star fan1", "x fan1"])
    found = statistics(graph, warm_from=2, hot_from=100)
    assert (found.account_count, found.edge_count, found.author_count, found.reader_count) == (
        152,
        152,
        2,
        152,
    )
    assert found.class_counts == {"cold": 0, "warm": 1, "hot": 1}
    assert found.class_edges == {"cold": 0, "warm": 2, "hot": 150}
    assert found.follower_percentiles == {"p50": 2, "p90": 150, "p99": 150, "p99.9": 150, "max": 150}
    assert "152 accounts, 152 follows by 152 of 2" in str(found)
