"""Answers to commands of the news feed."""

from typing import Annotated

from msgspec import Meta

from protocol.bases import BaseReply
from protocol.feed_types import (
    Author,
    Comment,
    FeedItem,
    FeedOptions,
    FeedOrder,
    Follow,
    FollowState,
    Interest,
    LeftOut,
    Omission,
    Post,
    Recommendation,
    ScorePart,
    Trend,
    Why,
)
from protocol.types import AtMs, Count, UserId


class PostInfo(BaseReply, tag="post", frozen=True, kw_only=True, omit_defaults=True):
    """A post as it now is. `duplicate`: it was there already, under that client_id."""

    post: Post
    original: Annotated[Post | None, Meta(description="What a repost repeats.")] = None
    liked: bool = False
    reposted: bool = False
    duplicate: bool = False


class PostPage(BaseReply, tag="posts", frozen=True, kw_only=True, omit_defaults=True):
    """Posts of one author by falling post_id. `next`: go on before this post_id; 0: that was all."""

    items: list[FeedItem]
    next: Count = 0


class PostCountsInfo(BaseReply, tag="post_counts_info", frozen=True, kw_only=True, omit_defaults=True):
    """The counts of a post after the command."""

    post_id: int
    likes: Count = 0
    comments: Count = 0
    reposts: Count = 0
    liked: bool = False


class CommentInfo(BaseReply, tag="comment", frozen=True, kw_only=True, omit_defaults=True):
    """A comment that is stored. `duplicate`: it was there already, under that client_id."""

    comment: Comment
    duplicate: bool = False


class CommentPage(BaseReply, tag="comments", frozen=True, kw_only=True, omit_defaults=True):
    """Comments by rising comment_id. `next`: go on after this comment_id; 0: that was all."""

    items: list[Comment]
    next: Count = 0


class FollowInfo(BaseReply, tag="follow_info", frozen=True, kw_only=True, omit_defaults=True):
    """How the reader stands to an author after the command."""

    user_id: UserId
    follow: FollowState


class FollowList(BaseReply, tag="follows", frozen=True, kw_only=True, omit_defaults=True):
    """Users in a list. `next` is `after` for the page behind it; empty: that was all."""

    items: list[Follow]
    next: str = ""


class AuthorInfo(BaseReply, tag="author", frozen=True, kw_only=True, omit_defaults=True):
    """A user as an author."""

    author: Author


class FeedPage(BaseReply, tag="feed_page", frozen=True, kw_only=True, omit_defaults=True):
    """A page of the own feed. Newest first; with `after`, oldest first.

    `complete`: nothing that belongs into this stretch of the feed is missing. `before` goes on with older
    items ("" at the end), `after` with newer ones; both stand for what was examined last, shown or not.
    """

    items: list[FeedItem]
    before: str = ""
    after: str = ""
    complete: bool
    order: FeedOrder = "chronological"
    position: Annotated[
        int,
        Meta(ge=0, description="Rises by one with each entry that is pushed into this feed; see event feed."),
    ] = 0
    read_position: Annotated[int, Meta(ge=0, description="As set by set_feed_position.")] = 0
    new_above: Annotated[
        int,
        Meta(ge=0, description="Visible items newer than read_position, counted up to 100; first page only."),
    ] = 0
    left_out: Annotated[list[Omission], Meta(description="With `explain`: examined and left out.")] = []


class Explanation(BaseReply, tag="explanation", frozen=True, kw_only=True, omit_defaults=True):
    """Why a post is in the reader's feed (`why`), or why not (`left_out`), and the factors of its score."""

    post_id: int
    why: Why | None = None
    left_out: LeftOut | None = None
    until_ms: AtMs = 0
    score: float = 0.0
    factors: list[ScorePart] = []
    held_back: Annotated[
        int,
        Meta(
            description="Places that it stands lower in the ranked feed than by its score alone, so that its"
            " author does not fill it; below 0: higher."
        ),
    ] = 0


class InterestInfo(BaseReply, tag="interest", frozen=True, kw_only=True, omit_defaults=True):
    """One "not interested" as it now is; after taking it back its factor is 1."""

    interest: Interest


class InterestList(BaseReply, tag="interests", frozen=True, kw_only=True, omit_defaults=True):
    """All that the reader is not interested in; what has ended is left out."""

    items: list[Interest]


class TrendList(BaseReply, tag="trends", frozen=True, kw_only=True, omit_defaults=True):
    """What trends, the strongest first."""

    items: list[Trend]


class Recommendations(BaseReply, tag="recommendations", frozen=True, kw_only=True, omit_defaults=True):
    """Whom one might follow, and what trends elsewhere."""

    authors: list[Recommendation]
    posts: list[Post] = []


class FeedOptionsInfo(BaseReply, tag="feed_options", frozen=True, kw_only=True, omit_defaults=True):
    """What the app has switched on."""

    options: FeedOptions


FeedReply = (
    PostInfo
    | PostPage
    | PostCountsInfo
    | CommentInfo
    | CommentPage
    | FollowInfo
    | FollowList
    | AuthorInfo
    | FeedPage
    | Explanation
    | InterestInfo
    | InterestList
    | TrendList
    | Recommendations
    | FeedOptionsInfo
)
