"""What the stores find for feeds: joins of the rows in records.py."""

import msgspec

from protocol.records import AuthorRow, InterestRow, PostCountsRow, PostRow


class FoundPost(msgspec.Struct, frozen=True):
    """A post with its counts, and whether its author is private."""

    row: PostRow
    counts: PostCountsRow | None
    is_private: bool


class FoundRelations(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what a reader's feed shows, but for the posts."""

    follows: list[tuple[str, int]]  # author_id, covered
    muted: list[str]
    blocks: list[str]  # whom the reader has blocked
    blocked_by: list[str]
    interests: list[InterestRow]
    liked: list[int]  # newest first, up to 5,000
    reposted: list[int]
    read_position: int


class FoundFeed(msgspec.Struct, frozen=True, kw_only=True):
    """A reader's relations, and where asked for the newest posts by pull, of one moment."""

    relations: FoundRelations
    post_ids: list[int] | None  # newest first
    is_whole: bool = False  # there is nothing older


class FeedChange(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a post or an author, with how that stands by now."""

    lsn: int
    kind: str
    user_id: str
    post: FoundPost | None = None
    author: AuthorRow | None = None
    other_id: str = ""
    blocked: bool = False


class FeedState(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has to know before it serves feeds: as of `lsn`."""

    lsn: int
    hot: list[tuple[str, int]]  # author_id, last_hot_id
    pending: list[tuple[str, int]]  # author_id, post_id: being pushed
