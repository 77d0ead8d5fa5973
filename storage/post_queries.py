"""The reads of posts, and of who follows, likes, mutes and blocks whom: plain functions on a connection.

Each is one statement, or one read transaction. What may be many rows comes back as one row of JSON: each step
of a statement gives the interpreter's lock away and fights for it.
"""

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from protocol.notify_records import NoticeBacklog
from protocol.records import (
    AuthorRow,
    AuthorStart,
    AuthorView,
    BlockRow,
    CommentRow,
    FanoutJob,
    FollowerRow,
    FollowRow,
    MuteRow,
    PostCountsRow,
    PostLike,
    PostRow,
    Relation,
    User,
    author_stream,
)
from storage.queries import head, snapshot
from storage.schema import TableSpec, spec_of

PostAt = tuple[PostRow, PostCountsRow | None]
UserAt = tuple[int, str]
"""When something began (Unix ms), and whom it is about: also where a list goes on."""

MAX_POSTS: Final = 1000

_POST = spec_of(PostRow)
_COUNTS = spec_of(PostCountsRow)
_COMMENT = spec_of(CommentRow)
_AUTHOR = spec_of(AuthorRow)
_FOLLOW = spec_of(FollowRow)
_POST_WIDTH: Final = len(_POST.names)


def _listed(spec: TableSpec[Any], alias: str) -> str:
    return ", ".join(f"{alias}.{name}" for name in spec.names)


_POST_AND_COUNTS = f"{_listed(_POST, 'p')}, {_listed(_COUNTS, 'n')}"
_WITH_COUNTS = f"LEFT JOIN {PostCountsRow.table} n ON n.post_id = p.post_id"
_LARGEST_ID = (
    f"SELECT max(coalesce((SELECT max(post_id) FROM {PostRow.table}), 0),"
    f" coalesce((SELECT max(comment_id) FROM {CommentRow.table}), 0))"
)
_ONE_POST = f"SELECT {_POST_AND_COUNTS} FROM {PostRow.table} p {_WITH_COUNTS} WHERE p.post_id = ?"
_POSTS = f"""
SELECT json_group_array(json_array({_POST_AND_COUNTS})) FROM json_each(?) asked
CROSS JOIN {PostRow.table} p ON p.post_id = asked.value {_WITH_COUNTS}
"""
_TIMELINE = f"""
SELECT json_group_array(json_array({_POST_AND_COUNTS})) FROM (
    SELECT * FROM {PostRow.table} WHERE author_id = ? AND post_id < ? AND deleted_at_ms = 0{{condition}}
    ORDER BY post_id DESC LIMIT ?
) p {_WITH_COUNTS}
"""
_WHOLE_TIMELINE = _TIMELINE.replace("{condition}", "")
_PUBLIC_TIMELINE = _TIMELINE.replace("{condition}", " AND visibility = 'public'")
_REPOST = (
    f"{_POST.select} WHERE author_id = ? AND repost_of = ? AND repost_of <> 0 AND deleted_at_ms = 0"
    " ORDER BY post_id DESC LIMIT 1"
)
# Nobody sees whom they have blocked, or who has blocked them. `{{user}}` is the column with the other one.
_NO_BLOCK = f"""
    AND NOT EXISTS (SELECT 1 FROM {BlockRow.table} b WHERE b.user_id = :viewer AND b.other_id = {{user}})
    AND NOT EXISTS (SELECT 1 FROM {BlockRow.table} b WHERE b.user_id = {{user}} AND b.other_id = :viewer)
"""
_COMMENTS = f"""
SELECT json_group_array(json_array({_listed(_COMMENT, "c")})) FROM (
    SELECT * FROM {CommentRow.table} c
    WHERE c.post_id = :post AND c.parent_id = :parent AND c.comment_id > :after
    {_NO_BLOCK.replace("{user}", "c.user_id")}
    AND NOT EXISTS (SELECT 1 FROM {MuteRow.table} m WHERE m.user_id = :viewer AND m.other_id = c.user_id)
    ORDER BY c.comment_id LIMIT :limit
) c
"""


def _users(select: str, *, is_rising: bool = False) -> str:
    """A page of (time, user), beyond (:at_ms, :user) in its order, without those whom a block parts."""
    compare, order = (">", "") if is_rising else ("<", " DESC")
    return f"""
    SELECT json_group_array(json_array(at_ms, user_id)) FROM (
        SELECT x.at_ms, x.user_id FROM ({select}) x WHERE (x.at_ms, x.user_id) {compare} (:at_ms, :user)
        {_NO_BLOCK.replace("{user}", "x.user_id")}
        ORDER BY x.at_ms{order}, x.user_id{order} LIMIT :limit
    )
    """


_LIKES = _users(f"SELECT at_ms, user_id FROM {PostLike.table} WHERE post_id = :of")
_FOLLOWERS = _users(
    f"SELECT since_ms AS at_ms, follower_id AS user_id FROM {FollowerRow.table} WHERE author_id = :of"
)
_FOLLOWING = _users(
    f"SELECT since_ms AS at_ms, author_id AS user_id FROM {FollowRow.table}"
    " WHERE user_id = :of AND state = 'following'"
)
_REQUESTS = _users(
    f"SELECT since_ms AS at_ms, user_id FROM {FollowRow.table} WHERE author_id = :of AND state = 'requested'",
    is_rising=True,
)
_MUTED = _users(f"SELECT since_ms AS at_ms, other_id AS user_id FROM {MuteRow.table} WHERE user_id = :of")
_FIRST: Final = (-1, "")  # before all that rises
_LAST: Final = (2**62, "")  # before all that falls

_LIKED = (
    f"SELECT json_group_array(l.post_id) FROM json_each(?) asked CROSS JOIN {PostLike.table} l"
    " ON l.post_id = asked.value AND l.user_id = ?"
)
_REPOSTED = (
    f"SELECT json_group_array(p.repost_of) FROM json_each(?) asked CROSS JOIN {PostRow.table} p"
    " ON p.author_id = ? AND p.repost_of = asked.value AND p.repost_of <> 0 AND p.deleted_at_ms = 0"
)
_VIEWS = f"""
SELECT json_group_array(json_array(
    asked.value, coalesce(u.app_id, ''), coalesce(a.is_private, 0), coalesce(a.is_hot, 0),
    coalesce(a.follower_count, 0), coalesce(a.post_count, 0),
    coalesce((SELECT f.state FROM {FollowRow.table} f
        WHERE f.user_id = :viewer AND f.author_id = asked.value), ''),
    EXISTS (SELECT 1 FROM {FollowRow.table} f
        WHERE f.user_id = asked.value AND f.author_id = :viewer AND f.state = 'following'),
    EXISTS (SELECT 1 FROM {MuteRow.table} m WHERE m.user_id = :viewer AND m.other_id = asked.value),
    EXISTS (SELECT 1 FROM {BlockRow.table} b WHERE b.user_id = :viewer AND b.other_id = asked.value),
    EXISTS (SELECT 1 FROM {BlockRow.table} b WHERE b.user_id = asked.value AND b.other_id = :viewer)
)) FROM json_each(:authors) asked
LEFT JOIN {User.table} u ON u.user_id = asked.value LEFT JOIN {AuthorRow.table} a ON a.user_id = asked.value
"""
_RELATION = f"""
SELECT coalesce((SELECT u.app_id FROM {User.table} u WHERE u.user_id = :other), ''),
    coalesce((SELECT a.is_private FROM {AuthorRow.table} a WHERE a.user_id = :other), 0),
    EXISTS (SELECT 1 FROM {BlockRow.table} b WHERE b.user_id = :user AND b.other_id = :other)
        OR EXISTS (SELECT 1 FROM {BlockRow.table} b WHERE b.user_id = :other AND b.other_id = :user),
    EXISTS (SELECT 1 FROM {MuteRow.table} m WHERE m.user_id = :user AND m.other_id = :other),
    (SELECT count(*) FROM {FollowRow.table} f
        WHERE f.user_id = :user AND f.author_id NOT IN (SELECT value FROM json_each(:but_follows))),
    (SELECT count(*) FROM {MuteRow.table} m
        WHERE m.user_id = :user AND m.other_id NOT IN (SELECT value FROM json_each(:but_mutes)))
"""
_FOLLOWER_VERSIONS = f"""
SELECT json_group_array(json_array(follower_id, version)) FROM (
    SELECT follower_id, version FROM {FollowerRow.table} WHERE author_id = ? AND follower_id > ?
    ORDER BY follower_id LIMIT ?
)
"""
_UNFINISHED = f"""
SELECT json_group_array(json_array(author_id, shard)) FROM (
    SELECT DISTINCT author_id, shard FROM {FanoutJob.table} WHERE author_id > ? ORDER BY author_id LIMIT ?
)
"""
_posts = msgspec.json.Decoder(list[list[Any]]).decode
_ids = msgspec.json.Decoder(set[int]).decode
_users_at = msgspec.json.Decoder(list[tuple[int, str]]).decode
_named = msgspec.json.Decoder(list[tuple[str, int]]).decode


def largest_id(connection: sqlite3.Connection) -> int:
    return int(connection.execute(_LARGEST_ID).fetchone()[0])


def author_start(connection: sqlite3.Connection, author_id: str) -> AuthorStart:
    with snapshot(connection):
        user = connection.execute(
            f"SELECT app_id FROM {User.table} WHERE user_id = ?", (author_id,)
        ).fetchone()
        author = connection.execute(f"{_AUTHOR.select} WHERE user_id = ?", (author_id,)).fetchone()
        stands = head(connection, author_stream(author_id))
        jobs = connection.execute(
            f"SELECT {_listed(_POST, 'p')} FROM {FanoutJob.table} j CROSS JOIN {PostRow.table} p"
            " ON p.post_id = j.post_id WHERE j.author_id = ? ORDER BY j.post_id",
            (author_id,),
        ).fetchall()
        requested = connection.execute(
            f"SELECT 1 FROM {FollowRow.table} WHERE author_id = ? AND state = 'requested' LIMIT 1",
            (author_id,),
        ).fetchone()
        backlog = connection.execute(
            f"SELECT 1 FROM {NoticeBacklog.table} WHERE author_id = ? LIMIT 1", (author_id,)
        ).fetchone()
    return AuthorStart(
        app_id="" if user is None else user[0],
        author=None if author is None else _AUTHOR.row(author),
        head=stands,
        unfinished=[_POST.row(row) for row in jobs],
        has_requests=requested is not None,
        has_backlog=backlog is not None,
    )


def post(connection: sqlite3.Connection, post_id: int) -> PostAt | None:
    row = connection.execute(_ONE_POST, (post_id,)).fetchone()
    return None if row is None else _post_at(row)


def posts(connection: sqlite3.Connection, post_ids: Sequence[int]) -> dict[int, PostAt]:
    if len(post_ids) > MAX_POSTS:
        raise ValueError(f"at most {MAX_POSTS} posts, not {len(post_ids)}")
    found = _answer(connection, _POSTS, (json.dumps(list(post_ids)),))
    return {row[0]: _post_at(row) for row in _posts(found)}


def timeline(
    connection: sqlite3.Connection, author_id: str, before: int, limit: int, is_public_only: bool
) -> list[PostAt]:
    sql = _PUBLIC_TIMELINE if is_public_only else _WHOLE_TIMELINE
    found = _answer(connection, sql, (author_id, before or 2**62, limit))
    return [_post_at(row) for row in _posts(found)]


def repost_by(connection: sqlite3.Connection, user_id: str, post_id: int) -> PostRow | None:
    row = connection.execute(_REPOST, (user_id, post_id)).fetchone()
    return None if row is None else _POST.row(row)


def comments(
    connection: sqlite3.Connection, post_id: int, parent_id: int, after: int, limit: int, viewer_id: str
) -> list[CommentRow]:
    bound = {"post": post_id, "parent": parent_id, "after": after, "limit": limit, "viewer": viewer_id}
    return [_COMMENT.row(tuple(row)) for row in _posts(_answer(connection, _COMMENTS, bound))]


def likes(
    connection: sqlite3.Connection, post_id: int, after: UserAt | None, limit: int, viewer_id: str
) -> list[UserAt]:
    return _page(connection, _LIKES, post_id, after or _LAST, limit, viewer_id)


def followers(
    connection: sqlite3.Connection, author_id: str, after: UserAt | None, limit: int, viewer_id: str
) -> list[UserAt]:
    return _page(connection, _FOLLOWERS, author_id, after or _LAST, limit, viewer_id)


def following(
    connection: sqlite3.Connection, user_id: str, after: UserAt | None, limit: int, viewer_id: str
) -> list[UserAt]:
    return _page(connection, _FOLLOWING, user_id, after or _LAST, limit, viewer_id)


def requests(
    connection: sqlite3.Connection, author_id: str, after: UserAt | None, limit: int
) -> list[UserAt]:
    return _page(connection, _REQUESTS, author_id, after or _FIRST, limit, author_id)


def muted(connection: sqlite3.Connection, user_id: str, after: UserAt | None, limit: int) -> list[UserAt]:
    return _page(connection, _MUTED, user_id, after or _LAST, limit, "")  # also whom a block parts


def following_count(connection: sqlite3.Connection, user_id: str) -> int:
    sql = f"SELECT count(*) FROM {FollowRow.table} WHERE user_id = ? AND state = 'following'"
    return int(connection.execute(sql, (user_id,)).fetchone()[0])


def marks(connection: sqlite3.Connection, user_id: str, post_ids: Sequence[int]) -> tuple[set[int], set[int]]:
    asked = (json.dumps(list(post_ids)), user_id)
    with snapshot(connection):
        liked = _ids(_answer(connection, _LIKED, asked))
        reposted = _ids(_answer(connection, _REPOSTED, asked))
    return liked, reposted


def views(connection: sqlite3.Connection, viewer_id: str, author_ids: Sequence[str]) -> dict[str, AuthorView]:
    asked = {"viewer": viewer_id, "authors": json.dumps(list(author_ids))}
    return {row[0]: _view(row) for row in _posts(_answer(connection, _VIEWS, asked))}


def relation(
    connection: sqlite3.Connection,
    user_id: str,
    other_id: str,
    but_follows: Collection[str],
    but_mutes: Collection[str],
) -> Relation:
    asked = {
        "user": user_id,
        "other": other_id,
        "but_follows": json.dumps(list(but_follows)),
        "but_mutes": json.dumps(list(but_mutes)),
    }
    with snapshot(connection):
        app_id, is_private, is_blocked, is_muted, follow_count, mute_count = connection.execute(
            _RELATION, asked
        ).fetchone()
        edge = connection.execute(
            f"{_FOLLOW.select} WHERE user_id = ? AND author_id = ?", (user_id, other_id)
        ).fetchone()
    return Relation(
        app_id=app_id,
        is_private=bool(is_private),
        is_blocked=bool(is_blocked),
        is_muted=bool(is_muted),
        edge=None if edge is None else _FOLLOW.row(edge),
        follow_count=follow_count,
        mute_count=mute_count,
    )


def follower_versions(
    connection: sqlite3.Connection, author_id: str, after: str, limit: int
) -> list[tuple[str, int]]:
    return _named(_answer(connection, _FOLLOWER_VERSIONS, (author_id, after, limit)))


def unfinished(connection: sqlite3.Connection, after: str, limit: int) -> list[tuple[str, int]]:
    return _named(_answer(connection, _UNFINISHED, (after, limit)))


def _page(
    connection: sqlite3.Connection, sql: str, of: str | int, beyond: UserAt, limit: int, viewer_id: str
) -> list[UserAt]:
    at_ms, user_id = beyond
    bound = {"of": of, "at_ms": at_ms, "user": user_id, "limit": limit, "viewer": viewer_id}
    return _users_at(_answer(connection, sql, bound))


def _answer(connection: sqlite3.Connection, sql: str, bound: Any) -> str:
    answer: str = connection.execute(sql, bound).fetchone()[0]
    return answer


def _post_at(row: Sequence[Any]) -> PostAt:
    counts = tuple(row[_POST_WIDTH:])
    return _POST.row(tuple(row[:_POST_WIDTH])), None if counts[0] is None else _COUNTS.row(counts)


def _view(row: Sequence[Any]) -> AuthorView:
    (
        author_id,
        app_id,
        is_private,
        is_hot,
        follower_count,
        post_count,
        follow,
        follows_viewer,
        is_muted,
        is_blocked,
        blocks_viewer,
    ) = row
    return AuthorView(
        author_id=author_id,
        app_id=app_id,
        is_private=bool(is_private),
        is_hot=bool(is_hot),
        follower_count=follower_count,
        post_count=post_count,
        follow=follow,
        follows_viewer=bool(follows_viewer),
        is_muted=bool(is_muted),
        is_blocked=bool(is_blocked),
        blocks_viewer=bool(blocks_viewer),
    )
