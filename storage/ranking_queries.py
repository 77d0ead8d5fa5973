"""What a reader did with whose posts, for the ranked feed: plain functions on a connection."""

import sqlite3
from typing import Final

from protocol.records import CommentRow, PostLike, PostRow, RepostRow

# Each source walks its index by (user_id, id) from the newest id backwards and ends at the limit; only what
# is left of the three is joined with the posts. All ids of posts and comments rise with time.
_AFFINITY_ROWS: Final = f"""
SELECT p.author_id, acts.at_ms, acts.weight
FROM (
    SELECT * FROM (
        SELECT post_id, at_ms, :like_weight AS weight FROM {PostLike.table}
        WHERE user_id = :user_id AND post_id >= :since_id ORDER BY post_id DESC LIMIT :limit)
    UNION ALL SELECT * FROM (
        SELECT post_id, at_ms, :comment_weight FROM {CommentRow.table}
        WHERE user_id = :user_id AND comment_id >= :since_id AND deleted_at_ms = 0
        ORDER BY comment_id DESC LIMIT :limit)
    UNION ALL SELECT * FROM (
        SELECT post_id, at_ms, :repost_weight FROM {RepostRow.table}
        WHERE user_id = :user_id AND post_id >= :since_id ORDER BY post_id DESC LIMIT :limit)
    ORDER BY at_ms DESC LIMIT :limit
) acts CROSS JOIN {PostRow.table} p ON p.post_id = acts.post_id
WHERE p.author_id <> :user_id
ORDER BY acts.at_ms DESC
"""


def affinity_rows(
    connection: sqlite3.Connection,
    user_id: str,
    *,
    since_id: int,
    limit: int,
    like_weight: int,
    comment_weight: int,
    repost_weight: int,
) -> list[tuple[str, int, int]]:
    """The reader's latest likes, comments and reposts as (author_id, at_ms, weight), newest first.

    `since_id`: the first id of the moment from which they count; likes and reposts of older posts do not.
    What was done to one's own posts is left out, after the limit.
    """
    return connection.execute(
        _AFFINITY_ROWS,
        {
            "user_id": user_id,
            "since_id": since_id,
            "limit": limit,
            "like_weight": like_weight,
            "comment_weight": comment_weight,
            "repost_weight": repost_weight,
        },
    ).fetchall()
