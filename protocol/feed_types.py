"""Field types of the news feed: posts, comments, authors, feed items, ads, trends.

A post_id rises with time (its upper 41 bits are milliseconds since 2020), so ids are the order of every feed
and of every timeline; newest first means falling ids.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocol.limits import MAX_FILES, MAX_SAFE_INTEGER, MAX_WATCHED_POSTS
from protocol.types import AtMs, Attachment, Count, FileId, UserId

PostId = Annotated[
    int, Meta(ge=1, le=MAX_SAFE_INTEGER, description="A post or repost; rises with time, over all authors.")
]
CommentId = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER, description="A comment; rises with time.")]
# No limit here: the frame bounds it, and the rules answer text_too_long, which bad_field would hide.
PostText = Annotated[str, Meta(description="UTF-8, at most 10 KB encoded; else text_too_long.")]
PostFileIds = Annotated[list[FileId], Meta(max_length=MAX_FILES, description="Pictures, videos, files.")]
PostIds = Annotated[list[PostId], Meta(max_length=MAX_WATCHED_POSTS)]
Hashtag = Annotated[
    str, Meta(min_length=1, max_length=100, description="Without #; found case-folded in a post's text.")
]
FeedCursor = Annotated[
    str, Meta(max_length=120, description="`before` or `after` of a page; opaque. Empty: from the newest.")
]
Place = Annotated[str, Meta(max_length=200, description="`next` of the page before; empty: from the start.")]
PageLimit = Annotated[int, Meta(ge=1, le=100, description="How many items at the most.")]
Visibility = Literal["public", "followers"]
FollowState = Literal["none", "requested", "following"]
FeedOrder = Literal["chronological", "ranked"]
InterestKind = Literal["post", "author", "hashtag"]
TrendKind = Literal["post", "hashtag"]
TrendWindow = Literal["hour", "day"]
ItemKind = Literal["post", "ad"]
Why = Literal["followed", "hot", "own", "repost", "public"]
"""Why an item is shown: by a followed author; by a hot one; own; reposted by one who is followed.

public: by somebody whom the reader does not follow, in that author's timeline; never in a feed.
"""
LeftOut = Literal[
    "deleted",
    "not_followed",
    "blocked",
    "muted",
    "not_visible",
    "seen_from_author",
    "not_interested",
]
"""Why a post is not in a feed. seen_from_author: a repost of what the reader got from its author lately."""


class Post(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A post as it now is. A repost has `repost_of` and no content of its own."""

    post_id: PostId
    author_id: UserId
    at_ms: AtMs
    text: str = ""
    files: list[Attachment] = []
    mentions: list[UserId] = []
    hashtags: list[str] = []
    visibility: Visibility = "public"
    language: str = ""
    repost_of: Annotated[int, Meta(ge=0, description="The post that this one repeats; 0: none.")] = 0
    edited_at_ms: AtMs = 0
    deleted: bool = False
    likes: Count = 0
    comments: Count = 0
    reposts: Count = 0


class Comment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A comment on a post, or an answer to one (`parent_id`)."""

    comment_id: CommentId
    post_id: PostId
    user_id: UserId
    at_ms: AtMs
    text: str = ""
    parent_id: Annotated[int, Meta(ge=0, description="The comment it answers; 0: the post itself.")] = 0
    mentions: list[UserId] = []
    deleted: bool = False
    replies: Annotated[int, Meta(ge=0, description="Answers that are not deleted.")] = 0


class Author(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user as the author of posts, and how the reader stands to them."""

    user_id: UserId
    is_private: Annotated[bool, Meta(description="Only approved followers see the posts.")] = False
    followers: Count = 0
    following: Count = 0
    posts: Annotated[int, Meta(ge=0, description="Posts and reposts that are not deleted.")] = 0
    follow: FollowState = "none"
    follows_you: bool = False
    muted: bool = False
    blocked: Annotated[bool, Meta(description="The reader has blocked them.")] = False
    hot: Annotated[bool, Meta(description="Merged into feeds when they are read, not pushed.")] = False


class Follow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a list of followers, of those followed, or of requests."""

    user_id: UserId
    since_ms: AtMs = 0


class AdSlot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An ad in a feed. `slot_id` names this one showing of it: tell ad_seen and ad_clicked with it."""

    slot_id: str
    campaign_id: str
    title: str = ""
    text: str = ""
    url: str = ""
    image: str = ""
    sponsor: str = ""


class FeedItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item of a feed: a post with the reader's own marks, or an ad."""

    kind: ItemKind = "post"
    post: Post | None = None
    original: Annotated[Post | None, Meta(description="What a repost repeats.")] = None
    why: Why = "followed"
    liked: Annotated[bool, Meta(description="The reader likes it (of a repost: the original).")] = False
    reposted: Annotated[bool, Meta(description="The reader has reposted it.")] = False
    score: Annotated[float | None, Meta(description="In a ranked feed: what it was sorted by.")] = None
    ad: AdSlot | None = None


class Omission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A post that a page examined and left out. `until_ms`: from when it would be shown; 0: not by time."""

    post_id: PostId
    author_id: UserId
    reason: LeftOut
    until_ms: AtMs = 0


class ScorePart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One factor of an item's score. The score is the product of its factors."""

    name: str
    factor: float
    value: Annotated[
        float, Meta(description="What the factor was worked out from, such as hours of age.")
    ] = 0.0


class Interest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One "not interested" of the reader, and what it does by now."""

    kind: InterestKind
    target: Annotated[str, Meta(min_length=1, max_length=100, description="post_id, user_id or hashtag.")]
    since_ms: AtMs = 0
    hidden_until_ms: AtMs = 0
    ends_at_ms: AtMs = 0
    factor: Annotated[float, Meta(description="What scores are multiplied with now; 0: hidden.")] = 0.0


class Trend(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A post or hashtag that many different people act on now, with its decayed count."""

    kind: TrendKind
    hashtag: str = ""
    post: Post | None = None
    score: float = 0.0
    people: Annotated[int, Meta(ge=0, description="Different people in the window, estimated.")] = 0


class Recommendation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An author to follow. `by`: some of those the reader follows who follow them; empty: by trend."""

    user_id: UserId
    by: list[UserId] = []
    by_count: Count = 0
    reason: Literal["friends_of_friends", "trending"] = "friends_of_friends"


class FeedOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an app has switched on in its feeds."""

    order: FeedOrder = "chronological"
    ads: bool = False
    trending: bool = True
    recommendations: bool = True
