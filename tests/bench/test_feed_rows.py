"""Rows of a graph: what is written is what commands would have left."""

import itertools
from pathlib import Path

import pytest
import trio

from actors.feed.feed import read_entries
from bench.feed_graph import Graph, from_lines
from bench.feed_rows import is_active, prepare, text_of, user_id_of, write
from bench.load.target import make_app_key
from protocol.records import AuthorRow, FeedRow, FollowerRow, FollowRow, PostRow, Row, User
from storage import open_store

HISTORY = 3


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Four fans of a star, who is hot, and two of a friend, who is not."""
    return from_lines(["a star", "b star", "c star", "d star", "a friend", "b friend", "friend star"])


@pytest.fixture(scope="module")
def rows(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> dict[type[Row], list[Row]]:
    """All rows of a store that the graph was written into."""
    data = tmp_path_factory.mktemp("world") / "data"
    prepare(data)
    make_app_key(str(data))
    loaded = write(data, graph, hot_from=4, history=HISTORY, active_share=1.0, now_ms=1_800_000_000_000)
    assert (loaded.user_count, loaded.follow_count, loaded.post_count) == (6, 7, 2 * HISTORY)
    assert loaded.row_count == 6 + 7 + 7 + 2 * HISTORY + 2 + 6
    return trio.run(_read, data)


async def _read(data: Path) -> dict[type[Row], list[Row]]:
    async with open_store(data) as store:
        kinds: tuple[type[Row], ...] = (User, FollowRow, FollowerRow, PostRow, AuthorRow, FeedRow)
        return {kind: list(await store.find(kind, {})) for kind in kinds}


def test_follows_stand_on_both_sides(rows: dict[type[Row], list[Row]]) -> None:
    """Whom a reader follows and who follows an author are two tables that must tell the same."""
    follows = {(row.user_id, row.author_id, row.version) for row in rows[FollowRow]}  # type: ignore[attr-defined]
    followers = {(row.follower_id, row.author_id, row.version) for row in rows[FollowerRow]}  # type: ignore[attr-defined]
    assert follows == followers
    assert all(row.covered and row.state == "following" for row in rows[FollowRow])  # type: ignore[attr-defined]


def test_authors_are_counted_and_hot_from_the_threshold(
    graph: Graph, rows: dict[type[Row], list[Row]]
) -> None:
    """The mode decides whether a post is pushed; the count must be that of the follower rows."""
    by_id = {row.user_id: row for row in rows[AuthorRow] if isinstance(row, AuthorRow)}
    accounts = {graph.follower_count(account): account for account in graph.followed()}
    star, friend = by_id[user_id_of(accounts[5])], by_id[user_id_of(accounts[2])]
    assert (star.is_hot, star.follower_count, star.post_count) == (True, 5, HISTORY)
    assert (friend.is_hot, friend.follower_count, friend.last_hot_id) == (False, 2, 0)
    assert star.last_hot_id == star.last_post_id > 0
    assert all(row.is_hot == (row.author_id == star.user_id) for row in rows[PostRow])  # type: ignore[attr-defined]


def test_feeds_hold_what_was_pushed(graph: Graph, rows: dict[type[Row], list[Row]]) -> None:
    """The earlier posts of who is pushed, and one's own; those of hot authors are merged in at read."""
    posts = [row for row in rows[PostRow] if isinstance(row, PostRow)]
    pushed = sorted(row.post_id for row in posts if not row.is_hot)
    by_id = {row.user_id: row for row in rows[FeedRow] if isinstance(row, FeedRow)}
    friend = next(account for account in graph.followed() if graph.follower_count(account) == 2)
    for account in (*graph.followers(friend), friend):
        assert read_entries(by_id[user_id_of(account)].entries) == pushed
    rest = set(range(graph.account_count)) - {friend, *graph.followers(friend)}
    assert all(read_entries(by_id[user_id_of(account)].entries) == [] for account in rest)


def test_posts_rise_with_time() -> None:
    """Ids are the order of every feed."""
    assert len(text_of(7)) == 200
    assert int(text_of(12_345)[1:9]) == 12_345


def test_who_is_active_is_chance_and_the_same_each_time() -> None:
    """The number of feeds that a post goes to is worked out from it."""
    chosen = [account for account in range(10_000) if is_active(account, 0.8)]
    assert 7800 < len(chosen) < 8200
    assert chosen == [account for account in range(10_000) if is_active(account, 0.8)]
    assert not any(is_active(account, 0.0) for account in itertools.islice(chosen, 10))
