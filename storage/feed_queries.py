"""The reads behind feeds: what a feed is made of, posts by id, and what changed lately.

Answers with many rows come as one row of JSON: each step of a statement gives the interpreter's lock away and
has to get it back. Where ids travel as JSON they are numbers or were read from the store itself.
"""

import heapq
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from protocol.feed_found import FeedChange, FeedState, FoundFeed, FoundPost, FoundRelations
from protocol.records import (
    AuthorRow,
    BlockRow,
    FanoutJob,
    FeedPosition,
    FeedRow,
    FollowRow,
    InterestRow,
    MuteRow,
    PostCountsRow,
    PostLike,
    PostRow,
    feed_stream,
)
from storage.queries import snapshot
from storage.schema import TableSpec, spec_of

MAX_MARKS: Final = 5_000  # newest likes and reposts of one reader that are kept with a feed
# The kinds of log rows that say something about posts and authors; see idx_log_feed in migrations.
FEED_KINDS: Final = ("posted", "post_edited", "post_deleted", "pushed", "author_changed", "block_changed")
IS_FEED_KIND: Final = f"kind IN ({', '.join(repr(kind) for kind in FEED_KINDS)})"


def _listed(spec: TableSpec[Any], alias: str) -> str:
    return ", ".join(f"{alias}.{name}" for name in spec.names)


_POST = spec_of(PostRow)
_COUNTS = spec_of(PostCountsRow)
_INTEREST = spec_of(InterestRow)
_FEED = spec_of(FeedRow)
_AUTHOR = spec_of(AuthorRow)

_FOLLOWS = (
    f"SELECT json_group_array(json_array(author_id, covered)) FROM {FollowRow.table}"
    " WHERE user_id = ? AND state = 'following'"
)
_MUTED = f"SELECT json_group_array(other_id) FROM {MuteRow.table} WHERE user_id = ?"
_BLOCKS = f"SELECT json_group_array(other_id) FROM {BlockRow.table} WHERE user_id = ?"
_BLOCKED_BY = f"SELECT json_group_array(user_id) FROM {BlockRow.table} WHERE other_id = ?"
_INTERESTS = (
    f"SELECT json_group_array(json_array({_listed(_INTEREST, 'i')})) FROM {InterestRow.table} i"
    " WHERE i.user_id = ?"
)
_LIKED = (
    f"SELECT json_group_array(post_id) FROM (SELECT post_id FROM {PostLike.table} WHERE user_id = ?"
    " ORDER BY post_id DESC LIMIT ?)"
)
_REPOSTED = (
    f"SELECT json_group_array(repost_of) FROM (SELECT repost_of FROM {PostRow.table} WHERE author_id = ?"
    " AND repost_of <> 0 AND deleted_at_ms = 0 ORDER BY repost_of DESC LIMIT ?)"
)
# Authors with their newest post, so that those with nothing new are not looked at.
_SOURCES = (
    f"SELECT json_group_array(json_array(f.author_id, a.last_post_id)) FROM {FollowRow.table} f"
    f" JOIN {AuthorRow.table} a ON a.user_id = f.author_id WHERE f.user_id = ? AND f.state = 'following'"
    " AND a.last_post_id > ?"
)
_FALLING = (
    f"SELECT json_group_array(post_id) FROM (SELECT post_id FROM {PostRow.table}"
    " WHERE author_id = ? AND post_id < ? AND post_id > ? ORDER BY post_id DESC LIMIT ?)"
)
_RISING = (
    f"SELECT json_group_array(post_id) FROM (SELECT post_id FROM {PostRow.table}"
    " WHERE author_id = ? AND post_id > ? AND post_id < ? ORDER BY post_id LIMIT ?)"
)
_POSTS = (
    f"SELECT json_group_array(json_array({_listed(_POST, 'p')}, c.likes, c.comments, c.reposts,"
    f" coalesce(a.is_private, 0))) FROM json_each(?) asked CROSS JOIN {PostRow.table} p"
    f" ON p.post_id = asked.value LEFT JOIN {PostCountsRow.table} c ON c.post_id = p.post_id"
    f" LEFT JOIN {AuthorRow.table} a ON a.user_id = p.author_id"
)
_MARKED_LIKES = (
    f"SELECT json_group_array(l.post_id) FROM json_each(?) asked CROSS JOIN {PostLike.table} l"
    " ON l.post_id = asked.value AND l.user_id = ?"
)
_MARKED_REPOSTS = (
    f"SELECT json_group_array(r.repost_of) FROM json_each(?) asked CROSS JOIN {PostRow.table} r"
    " ON r.repost_of = asked.value AND r.author_id = ? AND r.repost_of <> 0 AND r.deleted_at_ms = 0"
)
_CHANGES = (
    f"SELECT json_group_array(json_array(lsn, kind, user_id, body)) FROM (SELECT lsn, kind, user_id, body"
    f" FROM log WHERE {IS_FEED_KIND} AND lsn > ? ORDER BY lsn LIMIT ?)"
)

_pairs: Final = msgspec.json.Decoder(list[tuple[str, int]]).decode
_numbers: Final = msgspec.json.Decoder(list[int]).decode
_texts: Final = msgspec.json.Decoder(list[str]).decode
_lists: Final = msgspec.json.Decoder(list[list[Any]]).decode
_changes: Final = msgspec.json.Decoder(list[tuple[int, str, str, str]]).decode


def load(connection: sqlite3.Connection, user_id: str, cap: int, with_posts: bool) -> FoundFeed:
    """Read what a feed is made of."""
    with snapshot(connection):
        relations = _relations(connection, user_id)
        if not with_posts:
            return FoundFeed(relations=relations, post_ids=None)
        ids = _pull_falling(connection, user_id, 0, cap + 1)
        return FoundFeed(relations=relations, post_ids=ids[:cap], is_whole=len(ids) <= cap)


def _relations(connection: sqlite3.Connection, user_id: str) -> FoundRelations:
    def one(sql: str, *values: object) -> str:
        text: str = connection.execute(sql, values).fetchone()[0]
        return text

    position = connection.execute(
        f"SELECT post_id FROM {FeedPosition.table} WHERE user_id = ?", (user_id,)
    ).fetchone()
    return FoundRelations(
        follows=_pairs(one(_FOLLOWS, user_id)),
        muted=_texts(one(_MUTED, user_id)),
        blocks=_texts(one(_BLOCKS, user_id)),
        blocked_by=_texts(one(_BLOCKED_BY, user_id)),
        interests=[_INTEREST.row(tuple(row)) for row in _lists(one(_INTERESTS, user_id))],
        liked=_numbers(one(_LIKED, user_id, MAX_MARKS)),
        reposted=_numbers(one(_REPOSTED, user_id, MAX_MARKS)),
        read_position=0 if position is None else position[0],
    )


def pull(
    connection: sqlite3.Connection, user_id: str, before: int, after: int | None, limit: int
) -> list[int]:
    """Ids of the posts of those whom a user follows, and own ones: the truth behind every feed.

    Falling below `before` (0: from the newest), or rising above `after` where given.
    """
    with snapshot(connection):
        if after is not None:
            return _pull_rising(connection, user_id, after, limit)
        return _pull_falling(connection, user_id, before, limit)


def _pull_falling(connection: sqlite3.Connection, user_id: str, before: int, limit: int) -> list[int]:
    """Look at authors by their newest post, until none left can have a post among the newest `limit`."""
    upper = before or 1 << 62
    sources = _sources(connection, user_id, 0)
    best: list[int] = []  # a heap of the largest ids so far, at most `limit`
    for author_id, newest in sources:
        floor = best[0] if len(best) >= limit else 0
        if newest <= floor:
            break
        row = connection.execute(_FALLING, (author_id, upper, floor, limit)).fetchone()
        for post_id in _numbers(row[0]):
            if len(best) < limit:
                heapq.heappush(best, post_id)
            elif post_id > best[0]:
                heapq.heapreplace(best, post_id)
            else:
                break
    best.sort(reverse=True)
    return best


def _pull_rising(connection: sqlite3.Connection, user_id: str, after: int, limit: int) -> list[int]:
    best: list[int] = []  # a heap of the smallest ids so far, negated
    for author_id, _ in _sources(connection, user_id, after):
        ceiling = -best[0] if len(best) >= limit else 1 << 62
        row = connection.execute(_RISING, (author_id, after, ceiling, limit)).fetchone()
        for post_id in _numbers(row[0]):
            if len(best) < limit:
                heapq.heappush(best, -post_id)
            elif post_id < -best[0]:
                heapq.heapreplace(best, -post_id)
            else:
                break
    return sorted(-negated for negated in best)


def _sources(connection: sqlite3.Connection, user_id: str, after: int) -> list[tuple[str, int]]:
    """The authors of a feed who have posted since `after`, by falling newest post; the reader is one."""
    sources = _pairs(connection.execute(_SOURCES, (user_id, after)).fetchone()[0])
    own = connection.execute(
        f"SELECT last_post_id FROM {AuthorRow.table} WHERE user_id = ? AND last_post_id > ?", (user_id, after)
    ).fetchone()
    if own is not None:
        sources.append((user_id, own[0]))
    sources.sort(key=_newest, reverse=True)
    return sources


def _newest(source: tuple[str, int]) -> int:
    return source[1]


def author_ids(
    connection: sqlite3.Connection, author_id: str, after: int, before: int, limit: int
) -> list[int]:
    """Ids of an author's newest posts between two ids, both excluded, falling."""
    return _numbers(connection.execute(_FALLING, (author_id, before, after, limit)).fetchone()[0])


def posts(connection: sqlite3.Connection, post_ids: Sequence[int]) -> list[FoundPost]:
    """These posts, and those that they repeat; in no order. What does not exist is left out."""
    with snapshot(connection):
        found = _posts(connection, post_ids)
        roots = {post.row.repost_of for post in found if post.row.repost_of}
        if roots:
            found += _posts(connection, list(roots.difference(post_ids)))
    return found


def _posts(connection: sqlite3.Connection, post_ids: Sequence[int]) -> list[FoundPost]:
    asked = msgspec.json.encode(post_ids).decode()
    return [_found(row) for row in _lists(connection.execute(_POSTS, (asked,)).fetchone()[0])]


def _found(values: list[Any]) -> FoundPost:
    row = _POST.row(tuple(values[:-4]))
    likes, comments, reposts, is_private = values[-4:]
    counts = None
    if likes is not None:
        counts = PostCountsRow(post_id=row.post_id, likes=likes, comments=comments, reposts=reposts)
    return FoundPost(row, counts, bool(is_private))


def marks(
    connection: sqlite3.Connection, user_id: str, post_ids: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Which of these posts a user likes, and which the user has reposted."""
    asked = msgspec.json.encode(post_ids).decode()
    liked = connection.execute(_MARKED_LIKES, (asked, user_id)).fetchone()[0]
    reposted = connection.execute(_MARKED_REPOSTS, (asked, user_id)).fetchone()[0]
    return _numbers(liked), _numbers(reposted)


def kept_feeds(connection: sqlite3.Connection, partition: int, after: str, limit: int) -> list[FeedRow]:
    """The feeds of a partition that are kept, by user_id, beyond `after`."""
    rows = connection.execute(
        f"{_FEED.select} WHERE partition = ? AND user_id > ? ORDER BY user_id LIMIT ?",
        (partition, after, limit),
    )
    return [_FEED.row(row) for row in rows.fetchall()]


def state(connection: sqlite3.Connection) -> FeedState:
    """What a node has to know before it serves feeds."""
    with snapshot(connection):
        lsn = connection.execute("SELECT coalesce(max(lsn), 0) FROM log").fetchone()[0]
        hot = connection.execute(
            f"SELECT user_id, last_hot_id FROM {AuthorRow.table} WHERE last_hot_id > 0"
        ).fetchall()
        pending = connection.execute(f"SELECT author_id, post_id FROM {FanoutJob.table}").fetchall()
    return FeedState(lsn=lsn, hot=hot, pending=pending)


def changes(connection: sqlite3.Connection, after_lsn: int, limit: int) -> list[FeedChange]:
    """What happened to posts and authors since, on any node, in order."""
    with snapshot(connection):
        rows = _changes(connection.execute(_CHANGES, (after_lsn, limit)).fetchone()[0])
        post_ids: set[int] = set()
        bodies = []
        for lsn, kind, user_id, text in rows:
            body: dict[str, Any] = {}
            with suppress(msgspec.DecodeError):  # a row that was erased
                body = msgspec.json.decode(text)
            bodies.append((lsn, kind, user_id, body))
            if "post_id" in body:
                post_ids.add(body["post_id"])
        found = {post.row.post_id: post for post in _posts(connection, list(post_ids))} if post_ids else {}
        authors = {
            user_id: _author(connection, user_id)
            for _, kind, user_id, _ in bodies
            if kind in ("author_changed", "posted")
        }
    return [
        FeedChange(
            lsn=lsn,
            kind=kind,
            user_id=user_id,
            post=found.get(body.get("post_id", 0)),
            author=authors.get(user_id),
            other_id=body.get("user_id", ""),
            blocked=body.get("blocked", False),
        )
        for lsn, kind, user_id, body in bodies
    ]


def _author(connection: sqlite3.Connection, user_id: str) -> AuthorRow | None:
    row = connection.execute(f"{_AUTHOR.select} WHERE user_id = ?", (user_id,)).fetchone()
    return None if row is None else _AUTHOR.row(row)


def entries_head(connection: sqlite3.Connection, partition: int) -> tuple[int, int]:
    """The first and the last seq that a partition's stream still holds; zeros for an empty one."""
    row = connection.execute(
        "SELECT min(seq), max(seq) FROM log WHERE stream_id = (SELECT stream_id FROM stream WHERE name = ?)",
        (feed_stream(partition),),
    ).fetchone()
    return row[0] or 0, row[1] or 0
