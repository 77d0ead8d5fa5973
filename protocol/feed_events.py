"""Events of the news feed."""

from typing import Annotated

from msgspec import Meta

from protocol.bases import BaseEvent, BaseInboxEvent
from protocol.feed_types import FeedItem, FollowState, Post
from protocol.types import AtMs, Count, Seq, UserId


class FeedPosted(BaseEvent, tag="feed", frozen=True, kw_only=True, omit_defaults=True):
    """A post has come into the own feed, and can be read there. Only for sessions that watch the feed.

    `position` rises by one with each; after a gap, or a resync of "feed", read the newest page. A feed that
    was made anew goes on far above.
    """

    position: Count
    item: Annotated[FeedItem | None, Meta(description="Null: it is not shown to this reader.")] = None


class FeedNews(BaseEvent, tag="feed_news", frozen=True, kw_only=True, omit_defaults=True):
    """So many new posts of hot authors can be read in the own feed, since the last such event."""

    count: Count
    user_ids: Annotated[list[UserId], Meta(description="Some of their authors.")] = []


class FeedChanged(BaseEvent, tag="feed_changed", frozen=True, kw_only=True, omit_defaults=True):
    """A post on the screen was edited or deleted: show this instead."""

    post: Post


class PostCounts(BaseEvent, tag="post_counts", frozen=True, kw_only=True, omit_defaults=True):
    """The counts of a watched post, coalesced."""

    post_id: int
    likes: Count = 0
    comments: Count = 0
    reposts: Count = 0


class FollowChanged(BaseInboxEvent, tag="follow_changed", frozen=True, kw_only=True, omit_defaults=True):
    """How the user stands to an author has changed, on any device, or as the author answered."""

    seq: Seq = 0
    at_ms: AtMs = 0
    user_id: UserId
    follow: FollowState


class FollowerChanged(BaseInboxEvent, tag="follower_changed", frozen=True, kw_only=True, omit_defaults=True):
    """A user has begun to follow this one, asks to, or has stopped."""

    seq: Seq = 0
    at_ms: AtMs = 0
    user_id: UserId
    follow: FollowState


FeedLiveEvent = FeedPosted | FeedNews | FeedChanged | PostCounts
FeedInboxEvent = FollowChanged | FollowerChanged
