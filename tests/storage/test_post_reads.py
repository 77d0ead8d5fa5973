"""What is read of posts: each list in its order, whole over its pages, and without whom a block parts."""

import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.records import (
    Append,
    AuthorRow,
    AuthorView,
    BlockRow,
    CommentRow,
    FanoutJob,
    FollowerRow,
    FollowRow,
    LogRow,
    MuteRow,
    Op,
    PostCountsRow,
    PostLike,
    PostRow,
    Put,
    Relation,
    Row,
    User,
    author_stream,
)
from storage import SqliteStore, open_store, post_queries
from storage.store import UserAt
from tests.strategies import examples

JSON_ARGUMENTS = {"authors": "[]", "but_follows": "[]", "but_mutes": "[]"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with open_store(tmp_path) as opened:
        yield opened


async def put(store: SqliteStore, *rows: Row) -> None:
    ops: list[Op] = [Put(row) for row in rows]
    await store.commit(ops)


def post(post_id: int, author_id: str = "ann", **fields: Any) -> PostRow:
    return PostRow(post_id=post_id, author_id=author_id, app_id="a", at_ms=post_id, **fields)


def user(user_id: str, app_id: str = "a") -> User:
    return User(
        user_id=user_id,
        app_id=app_id,
        username=user_id,
        username_key=user_id,
        name="",
        name_key="",
        created_at_ms=1,
    )


async def test_the_largest_id_is_of_posts_and_comments(store: SqliteStore) -> None:
    """A shard's new owner makes ids beyond it."""
    assert await store.posts.largest_id() == 0
    await put(store, post(7))
    assert await store.posts.largest_id() == 7
    await put(store, CommentRow(comment_id=9, post_id=7, user_id="bob", client_id="c", at_ms=1))
    assert await store.posts.largest_id() == 9


async def test_posts_come_with_their_counts_whatever_their_text(store: SqliteStore) -> None:
    text = 'a\0b \x01 "quoted" \\ ü 😀 \u2028 \x7f'
    row = post(2**53 - 1, text=text, is_hot=True)
    counts = PostCountsRow(post_id=row.post_id, likes=1, comments=2, reposts=3)
    await put(store, row, counts, post(5))
    assert await store.posts.post(row.post_id) == (row, counts)
    assert await store.posts.post(5) == (post(5), None)
    assert await store.posts.post(6) is None
    found = await store.posts.posts([5, row.post_id, 6, 5])
    assert found == {5: (post(5), None), row.post_id: (row, counts)}
    assert await store.posts.posts([]) == {}
    with pytest.raises(ValueError, match="1000"):
        await store.posts.posts(range(1001))


async def test_a_timeline_is_paged_by_falling_ids_without_what_is_deleted(store: SqliteStore) -> None:
    rows = [
        post(number, visibility="followers" if number % 3 == 0 else "public", deleted_at_ms=number == 4)
        for number in range(1, 11)
    ]
    counts = PostCountsRow(post_id=10, likes=4)
    await put(store, *rows, counts, post(99, "bob"))
    first = await store.posts.timeline("ann", limit=4)
    assert [row.post_id for row, _ in first] == [10, 9, 8, 7]
    assert first[0][1] == counts
    rest = await store.posts.timeline("ann", before=7, limit=40)
    assert [row.post_id for row, _ in rest] == [6, 5, 3, 2, 1]
    public = await store.posts.timeline("ann", limit=40, is_public_only=True)
    assert [row.post_id for row, _ in public] == [10, 8, 7, 5, 2, 1]


async def test_the_own_repost_is_found_unless_it_is_deleted(store: SqliteStore) -> None:
    await put(
        store,
        post(1),
        post(2, "bob", repost_of=1, deleted_at_ms=5),
        post(3, "bob", repost_of=1),
        post(4, "cai", repost_of=1),
        post(5, "bob"),
    )
    found = await store.posts.repost_by("bob", 1)
    assert found is not None
    assert found.post_id == 3
    assert await store.posts.repost_by("ann", 1) is None
    assert await store.posts.repost_by("bob", 0) is None
    await put(store, PostLike(post_id=5, user_id="bob", at_ms=1), PostLike(post_id=1, user_id="ann", at_ms=1))
    assert await store.posts.marks("bob", [1, 2, 5, 77]) == ({5}, {1})
    assert await store.posts.marks("bob", []) == (set(), set())


async def test_comments_are_in_order_and_hide_the_muted_and_the_blocked(store: SqliteStore) -> None:
    def comment(number: int, user_id: str, parent_id: int = 0, post_id: int = 1) -> CommentRow:
        return CommentRow(
            comment_id=number,
            post_id=post_id,
            user_id=user_id,
            client_id=str(number),
            at_ms=1,
            text=f"{number}",
            parent_id=parent_id,
        )

    rows = [
        comment(10, "bob"),
        comment(11, "muted"),
        comment(12, "blocked"),
        comment(13, "blocks"),
        comment(14, "bob", parent_id=10),
        comment(15, "viewer"),
        comment(16, "bob", post_id=2),
    ]
    await put(
        store,
        *rows,
        MuteRow(user_id="viewer", other_id="muted", since_ms=1),
        MuteRow(user_id="bob", other_id="viewer", since_ms=1),
        BlockRow(user_id="viewer", other_id="blocked", since_ms=1),
        BlockRow(user_id="blocks", other_id="viewer", since_ms=1),
    )
    read = store.posts.comments
    assert await read(1, limit=9, viewer_id="viewer") == [rows[0], rows[5]]
    assert await read(1, limit=1, viewer_id="viewer") == [rows[0]]
    assert await read(1, limit=9, after=10, viewer_id="viewer") == [rows[5]]
    assert await read(1, limit=9, parent_id=10, viewer_id="viewer") == [rows[4]]
    assert len(await read(1, limit=9, viewer_id="somebody")) == 5


_Page = Callable[[UserAt | None], Awaitable[list[UserAt]]]


async def whole(page: _Page) -> list[UserAt]:
    """Read a list of users page by page."""
    found: list[UserAt] = []
    while more := await page(found[-1] if found else None):
        found += more
    return found


@examples(25, long=500)
@given(
    edges=st.dictionaries(st.sampled_from("bcdefghij"), st.integers(1, 3), max_size=9),
    limit=st.integers(1, 4),
)
async def test_lists_of_users_are_whole_over_their_pages(
    tmp_path_factory: pytest.TempPathFactory, edges: dict[str, int], limit: int
) -> None:
    """Many begin in the same millisecond; the place in a list is (time, user)."""
    async with open_store(tmp_path_factory.mktemp("store")) as store:
        rows: list[Row] = []
        for user_id, at_ms in edges.items():
            rows += [
                PostLike(post_id=1, user_id=user_id, at_ms=at_ms),
                FollowerRow(author_id="a", follower_id=user_id, since_ms=at_ms, version=1),
                FollowRow(user_id="a", author_id=user_id, state="following", since_ms=at_ms, version=1),
                FollowRow(user_id=user_id, author_id="a", state="requested", since_ms=at_ms, version=1),
                MuteRow(user_id="a", other_id=user_id, since_ms=at_ms),
            ]
        await put(
            store,
            *rows,
            BlockRow(user_id="v", other_id="b", since_ms=1),
            BlockRow(user_id="c", other_id="v", since_ms=1),
            FollowRow(user_id="a", author_id="z", state="requested", since_ms=1, version=1),
            FollowRow(user_id="z", author_id="a", state="following", since_ms=1, version=1),
        )
        reads = store.posts
        rising = sorted((at_ms, user_id) for user_id, at_ms in edges.items())
        seen = [at for at in reversed(rising) if at[1] not in "bc"]
        assert await whole(lambda at: reads.likes(1, after=at, limit=limit, viewer_id="v")) == seen
        assert await whole(lambda at: reads.followers("a", after=at, limit=limit, viewer_id="v")) == seen
        assert await whole(lambda at: reads.following("a", after=at, limit=limit, viewer_id="v")) == seen
        assert await whole(lambda at: reads.requests("a", after=at, limit=limit)) == rising
        assert await whole(lambda at: reads.muted("a", after=at, limit=limit)) == rising[::-1]
        assert await reads.following_count("a") == len(edges)


async def test_a_view_tells_how_the_viewer_stands_to_each_author(store: SqliteStore) -> None:
    await put(
        store,
        user("ann"),
        user("bob"),
        user("eve", "other"),
        AuthorRow(user_id="ann", app_id="a", is_private=True, is_hot=True, follower_count=3, post_count=2),
        FollowRow(user_id="vic", author_id="ann", state="requested", since_ms=1, version=1),
        FollowRow(user_id="ann", author_id="vic", state="following", since_ms=1, version=1),
        FollowRow(user_id="vic", author_id="bob", state="following", since_ms=1, version=1),
        FollowRow(user_id="bob", author_id="vic", state="requested", since_ms=1, version=1),
        MuteRow(user_id="vic", other_id="bob", since_ms=1),
        BlockRow(user_id="vic", other_id="eve", since_ms=1),
        BlockRow(user_id="bob", other_id="vic", since_ms=1),
    )
    assert await store.posts.views("vic", ["ann", "bob", "eve", "nobody"]) == {
        "ann": AuthorView(
            author_id="ann",
            app_id="a",
            is_private=True,
            is_hot=True,
            follower_count=3,
            post_count=2,
            follow="requested",
            follows_viewer=True,
        ),
        "bob": AuthorView(author_id="bob", app_id="a", follow="following", is_muted=True, blocks_viewer=True),
        "eve": AuthorView(author_id="eve", app_id="other", is_blocked=True),
        "nobody": AuthorView(author_id="nobody", app_id=""),
    }
    assert await store.posts.views("vic", []) == {}


async def test_a_relation_tells_what_decides_on_a_follow_or_a_mute(store: SqliteStore) -> None:
    async def read(user_id: str, other_id: str, but: Collection[str] = ()) -> Relation:
        return await store.posts.relation(user_id, other_id, but_follows=but, but_mutes=but)

    assert await read("ann", "nobody") == Relation(app_id="")
    edge = FollowRow(user_id="ann", author_id="bob", state="requested", since_ms=1, version=7, covered=True)
    await put(
        store,
        user("bob"),
        user("cai", "other"),
        AuthorRow(user_id="bob", app_id="a", is_private=True),
        edge,
        FollowRow(user_id="ann", author_id="dan", state="following", since_ms=1, version=8),
        FollowRow(user_id="bob", author_id="dan", state="following", since_ms=1, version=9),
        *(MuteRow(user_id="ann", other_id=other_id, since_ms=1) for other_id in ("bob", "dan", "eve")),
        BlockRow(user_id="cai", other_id="ann", since_ms=1),
    )
    assert await read("ann", "bob") == Relation(
        app_id="a", is_private=True, is_muted=True, edge=edge, follow_count=2, mute_count=3
    )
    assert await read("ann", "cai", ["dan", "zoe"]) == Relation(
        app_id="other", is_blocked=True, follow_count=1, mute_count=2
    )
    assert await read("cai", "ann") == Relation(app_id="", is_blocked=True)
    assert await read("bob", "dan") == Relation(
        app_id="",
        edge=FollowRow(user_id="bob", author_id="dan", state="following", since_ms=1, version=9),
        follow_count=1,
    )


async def test_an_author_begins_with_what_was_left_undone(store: SqliteStore) -> None:
    start = await store.posts.author_start("ann")
    assert (start.app_id, start.author, start.head.seq, start.unfinished) == ("", None, 0, [])
    epochs = await store.claim_all("n1")
    row = LogRow(stream=author_stream("ann"), kind="posted", at_ms=77, user_id="ann", body='{"post_id":3}')
    author = AuthorRow(user_id="ann", app_id="a", last_post_id=5)
    await store.append(Append(shard=4, epoch=epochs[4], rows=(row,), ops=(Put(author),)))
    jobs = [FanoutJob(post_id=number, author_id="ann", shard=4) for number in (5, 3)]
    jobs.append(FanoutJob(post_id=6, author_id="bob", shard=9))
    await put(store, user("ann"), *jobs, post(3), post(4), post(5), post(6, "bob"))
    await put(store, FollowRow(user_id="bob", author_id="ann", state="requested", since_ms=1, version=1))
    start = await store.posts.author_start("ann")
    assert (start.app_id, start.author, start.head.seq, start.head.at_ms) == ("a", author, 1, 77)
    assert [row.post_id for row in start.unfinished] == [3, 5]
    assert start.has_requests
    assert not (await store.posts.author_start("bob")).has_requests
    assert await store.posts.unfinished(limit=9) == [("ann", 4), ("bob", 9)]
    assert await store.posts.unfinished(after="ann", limit=9) == [("bob", 9)]
    assert await store.posts.unfinished(limit=1) == [("ann", 4)]


async def test_followers_are_read_in_pages_with_their_versions(store: SqliteStore) -> None:
    rows = [
        FollowerRow(author_id="ann", follower_id=f"u{number}", since_ms=1, version=number)
        for number in range(5)
    ]
    await put(store, *rows, FollowerRow(author_id="bob", follower_id="u9", since_ms=1, version=1))
    assert await store.posts.follower_versions("ann", limit=2) == [("u0", 0), ("u1", 1)]
    assert await store.posts.follower_versions("ann", after="u1", limit=9) == [
        ("u2", 2),
        ("u3", 3),
        ("u4", 4),
    ]


async def test_no_read_walks_a_whole_table(store: SqliteStore) -> None:
    """There may be millions of posts, likes and follows: each read finds its rows by an index."""
    statements = {
        name: sql
        for name, sql in vars(post_queries).items()
        if isinstance(sql, str) and "SELECT" in sql and "{" not in sql
    }
    assert len(statements) == 18

    def plan(connection: sqlite3.Connection, sql: str) -> list[str]:
        named = re.findall(r":(\w+)", sql)
        bound: Any = dict.fromkeys(named, 1) | JSON_ARGUMENTS if named else ["[]"] * sql.count("?")
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", bound)]

    for name, sql in statements.items():
        steps = await store._readers.run(plan, sql)
        made = {step.removeprefix("CO-ROUTINE ") for step in steps if step.startswith("CO-ROUTINE ")}
        for step in steps:
            is_small = "VIRTUAL TABLE" in step or step == "SCAN CONSTANT ROW"
            assert not step.startswith("SCAN") or is_small or step.removeprefix("SCAN ") in made, (name, step)
        if name.startswith("_REPOST"):
            assert any("(author_id=? AND repost_of=?)" in step for step in steps), steps
