"""What is written straight into the store is what commands leave there; else figures mean nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from actors.feed.feed import read_entries
from bench.feed_commands import MOST_ACCOUNTS, write_by_commands
from bench.feed_graph import from_lines
from bench.feed_rows import prepare, write
from bench.load.target import CannotRun, Cores, make_app_key
from protocol.records import AuthorRow, FeedRow, FollowerRow, FollowRow, PostRow, User
from storage import open_store

pytestmark = pytest.mark.slow

HISTORY = 3
GRAPH = from_lines(["a star", "b star", "c star", "a b", "star a", "d b"])


def filled(directory: Path, fill: Callable[[Path], object]) -> dict[str, object]:
    """What a store holds once it was filled, without ids and times that are new each time."""
    data = directory / "data"
    prepare(data)
    make_app_key(str(data))
    fill(data)
    return trio.run(_read, data)


async def _read(data: Path) -> dict[str, object]:
    async with open_store(data) as store:
        posts = {row.post_id: (row.author_id, row.text, row.is_hot) for row in await store.find(PostRow, {})}
        authors = [row for row in await store.find(AuthorRow, {}) if row.follower_count]
        feeds = await store.find(FeedRow, {})
        return {
            "users": sorted((row.user_id, row.external_id) for row in await store.find(User, {})),
            "follows": sorted(
                (row.user_id, row.author_id, row.state, row.covered)
                for row in await store.find(FollowRow, {})
            ),
            "followers": sorted(
                (row.author_id, row.follower_id) for row in await store.find(FollowerRow, {})
            ),
            "posts": sorted(posts.values()),
            "authors": sorted(
                (row.user_id, row.follower_count, row.post_count, row.is_hot, posts[row.last_post_id])
                for row in authors
            ),
            # Within one moment posts of several authors may be stored in another order.
            "feeds": sorted(
                (
                    row.user_id,
                    row.partition,
                    row.covered_from,
                    sorted(posts[post_id] for post_id in read_entries(row.entries)),
                )
                for row in feeds
            ),
        }


def test_rows_are_what_commands_leave(tmp_path: Path) -> None:
    """Users, follows, counts, posts and feeds, whichever way they came."""
    cores = Cores()
    cores.is_pinned = False
    by_rows = filled(
        tmp_path / "rows",
        lambda data: write(data, GRAPH, hot_from=10_000, history=HISTORY, active_share=1.0),
    )
    by_commands = filled(
        tmp_path / "commands",
        lambda data: write_by_commands(data.parent, GRAPH, cores=cores, history=HISTORY, active_share=1.0),
    )
    for kind, rows in by_rows.items():
        assert by_commands[kind] == rows, kind


def test_a_large_graph_is_not_begun(tmp_path: Path) -> None:
    """Each account is connected for the while."""
    graph = from_lines(f"{number} star" for number in range(MOST_ACCOUNTS))
    with pytest.raises(CannotRun, match="5,000"):
        write_by_commands(tmp_path, graph, cores=Cores(), history=1, active_share=1.0)
