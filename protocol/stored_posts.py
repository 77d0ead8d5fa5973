"""Between posts and comments on the wire and their rows."""

from typing import Final

import msgspec

from protocol.feed_types import Comment, Post
from protocol.records import CommentRow, PostCountsRow, PostRow
from protocol.types import Attachment

_files: Final = msgspec.json.Decoder(list[Attachment]).decode
_texts: Final = msgspec.json.Decoder(list[str]).decode


def post_of(row: PostRow, counts: PostCountsRow | None = None) -> Post:
    """Build a post as it now is; a deleted one has no content."""
    if row.deleted_at_ms:
        return Post(
            post_id=row.post_id,
            author_id=row.author_id,
            at_ms=row.at_ms,
            repost_of=row.repost_of,
            deleted=True,
        )
    return Post(
        post_id=row.post_id,
        author_id=row.author_id,
        at_ms=row.at_ms,
        text=row.text,
        files=_files(row.files) if row.files else [],
        mentions=_texts(row.mentions) if row.mentions else [],
        hashtags=_texts(row.hashtags) if row.hashtags else [],
        visibility="followers" if row.visibility == "followers" else "public",
        language=row.language,
        repost_of=row.repost_of,
        edited_at_ms=row.edited_at_ms,
        likes=0 if counts is None else counts.likes,
        comments=0 if counts is None else counts.comments,
        reposts=0 if counts is None else counts.reposts,
    )


def comment_of(row: CommentRow) -> Comment:
    """Build a comment as it now is; a deleted one has no content."""
    if row.deleted_at_ms:
        return Comment(
            comment_id=row.comment_id,
            post_id=row.post_id,
            user_id=row.user_id,
            at_ms=row.at_ms,
            parent_id=row.parent_id,
            deleted=True,
            replies=row.replies,
        )
    return Comment(
        comment_id=row.comment_id,
        post_id=row.post_id,
        user_id=row.user_id,
        at_ms=row.at_ms,
        text=row.text,
        parent_id=row.parent_id,
        mentions=_texts(row.mentions) if row.mentions else [],
        replies=row.replies,
    )
