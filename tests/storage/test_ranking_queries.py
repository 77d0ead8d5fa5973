"""What a reader did lately, read back for the ranked feed."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.records import CommentRow, PostLike, PostRow, RepostRow, Row
from storage.migrations import migrate
from storage.ranking_queries import _AFFINITY_ROWS, affinity_rows
from storage.schema import spec_of, values_of

READER = "reader"
weighted = partial(affinity_rows, user_id=READER, like_weight=1, comment_weight=2, repost_weight=3)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    migrate(tmp_path / "hubbub.db")
    with closing(sqlite3.connect(tmp_path / "hubbub.db")) as made:
        yield made


def put(connection: sqlite3.Connection, *rows: Row) -> None:
    for row in rows:
        connection.execute(spec_of(type(row)).put, values_of(row))


def post(post_id: int, author_id: str) -> PostRow:
    return PostRow(post_id=post_id, author_id=author_id, app_id="app", at_ms=post_id)


def like(post_id: int, at_ms: int, user_id: str = READER) -> PostLike:
    return PostLike(post_id=post_id, user_id=user_id, at_ms=at_ms)


def repost(post_id: int, at_ms: int, user_id: str = READER) -> RepostRow:
    return RepostRow(post_id=post_id, user_id=user_id, repost_id=post_id + 500, at_ms=at_ms)


def comment(comment_id: int, post_id: int, user_id: str = READER, *, deleted: bool = False) -> CommentRow:
    return CommentRow(
        comment_id=comment_id,
        post_id=post_id,
        user_id=user_id,
        client_id=f"c{comment_id}",
        at_ms=comment_id,
        deleted_at_ms=int(deleted),
    )


def test_likes_comments_and_reposts_come_with_their_authors_and_weights(
    connection: sqlite3.Connection,
) -> None:
    """Affinities are built from these rows."""
    put(connection, post(1, "ann"), post(2, "bob"), like(1, 10), comment(20, 2), repost(1, 30))
    put(connection, like(2, 40, "eve"), comment(50, 1, "eve"), repost(2, 60, "eve"))
    rows = weighted(connection, since_id=1, limit=10)
    assert rows == [("ann", 30, 3), ("bob", 20, 2), ("ann", 10, 1)]


def test_deleted_comments_and_acts_on_own_posts_do_not_count(connection: sqlite3.Connection) -> None:
    """Nobody comes close to an author by what was taken back, nor to oneself."""
    put(connection, post(1, "ann"), post(2, READER))
    put(connection, comment(20, 1, deleted=True), like(2, 5), comment(21, 2), repost(2, 6))
    assert weighted(connection, since_id=0, limit=10) == []


def test_what_is_older_than_asked_for_is_left_out(connection: sqlite3.Connection) -> None:
    """By ids, which rise with time, so that the index ends the search."""
    put(connection, post(10, "ann"), post(11, "bob"))
    put(connection, like(10, 50), like(11, 51), comment(10, 11), comment(12, 10), repost(10, 52))
    assert weighted(connection, since_id=11, limit=10) == [("bob", 51, 1), ("ann", 12, 2)]


acts = st.lists(
    st.tuples(st.sampled_from(["like", "comment", "repost"]), st.integers(1, 8)), unique=True, max_size=24
)


@given(done=acts, since_id=st.integers(0, 10), limit=st.integers(1, 30))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_latest_acts_are_those_of_a_plain_count(
    connection: sqlite3.Connection, done: list[tuple[str, int]], since_id: int, limit: int
) -> None:
    """Oracle: a Python list. Each act happens in the order of its post, as the limit of a source is by id."""
    for table in ("post", "post_like", "comment", "repost"):
        connection.execute(f"DELETE FROM {table}")
    put(connection, *(post(post_id, f"u{post_id % 3}") for post_id in range(1, 9)))
    expected: list[tuple[str, int, int]] = []
    for kind, post_id in done:
        at_ms = 10 * post_id + ("like", "comment", "repost").index(kind)
        author_id = f"u{post_id % 3}"
        if kind == "like":
            put(connection, like(post_id, at_ms))
        elif kind == "comment":
            put(connection, comment(at_ms, post_id))
        else:
            put(connection, repost(post_id, at_ms))
        if (at_ms if kind == "comment" else post_id) >= since_id:
            expected.append((author_id, at_ms, ("like", "comment", "repost").index(kind) + 1))
    expected.sort(key=lambda row: -row[1])
    assert weighted(connection, since_id=since_id, limit=limit) == expected[:limit]


def test_every_source_is_read_by_an_index(connection: sqlite3.Connection) -> None:
    """A reader with a long history costs no more than the limit."""
    plan = connection.execute(
        f"EXPLAIN QUERY PLAN {_AFFINITY_ROWS}",
        {
            "user_id": READER,
            "since_id": 1,
            "limit": 10,
            "like_weight": 1,
            "comment_weight": 2,
            "repost_weight": 3,
        },
    ).fetchall()
    for table in ("post_like", "comment", "repost"):
        sources = [(parent, what) for _, parent, _, what in plan if what.startswith(f"SEARCH {table} ")]
        assert len(sources) == 1, plan
        parent, what = sources[0]
        assert "USING INDEX" in what
        assert "(user_id=? AND" in what
        beside = [other for _, its_parent, _, other in plan if its_parent == parent]
        assert beside == [what], plan  # no sorting before its limit
    assert any(what.startswith("SEARCH p USING INTEGER PRIMARY KEY") for *_, what in plan), plan
