"""Commands of the news feed."""

from typing import Annotated, ClassVar

from msgspec import Meta

from protocol import feed_replies, replies
from protocol.bases import BaseCommand
from protocol.feed_types import (
    CommentId,
    FeedCursor,
    FeedOrder,
    InterestKind,
    PageLimit,
    Place,
    PostFileIds,
    PostId,
    PostIds,
    PostText,
    TrendKind,
    TrendWindow,
    Visibility,
)
from protocol.limits import MAX_SAFE_INTEGER
from protocol.types import ClientId, Mentions, UserId


class _Command(BaseCommand, frozen=True, kw_only=True, omit_defaults=True):
    reply: ClassVar[type] = replies.Ok


# -- posts ------------------------------------------------------------------------------------------


class CreatePost(_Command, tag="create_post", frozen=True, kw_only=True, omit_defaults=True):
    """Publish a post. Answered once it is stored for good; the same client_id gets the same post again."""

    reply: ClassVar[type] = feed_replies.PostInfo

    client_id: ClientId
    text: PostText = ""
    file_ids: PostFileIds = []
    mentions: Mentions = []
    visibility: Visibility = "public"
    language: Annotated[str, Meta(max_length=35, description="BCP 47; empty: the author's.")] = ""


class Repost(_Command, tag="repost", frozen=True, kw_only=True, omit_defaults=True):
    """Repeat a public post to one's own followers, once; undone by delete_post. Of a repost: its original."""

    reply: ClassVar[type] = feed_replies.PostInfo

    client_id: ClientId
    post_id: PostId


class EditPost(_Command, tag="edit_post", frozen=True, kw_only=True, omit_defaults=True):
    """Replace the text of one's own post; absent fields stay. Hashtags are found anew."""

    reply: ClassVar[type] = feed_replies.PostInfo

    post_id: PostId
    text: PostText | None = None
    mentions: Mentions | None = None
    visibility: Visibility | None = None


class DeletePost(_Command, tag="delete_post", frozen=True, kw_only=True, omit_defaults=True):
    """Delete one's own post or repost: at the next read nobody sees it or what repeats it any more."""

    post_id: PostId


class GetPost(_Command, tag="get_post", frozen=True, kw_only=True, omit_defaults=True):
    """Read one post."""

    reply: ClassVar[type] = feed_replies.PostInfo

    post_id: PostId


class ListPosts(_Command, tag="list_posts", frozen=True, kw_only=True, omit_defaults=True):
    """Read an author's timeline, newest first: what the reader may see of it."""

    reply: ClassVar[type] = feed_replies.PostPage

    user_id: UserId
    before: Annotated[
        int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="Only smaller post_ids; 0: from the newest.")
    ] = 0
    limit: PageLimit = 20


# -- likes and comments -----------------------------------------------------------------------------


class LikePost(_Command, tag="like_post", frozen=True, kw_only=True, omit_defaults=True):
    """Like a post, or take that back; counted once however often it is said."""

    reply: ClassVar[type] = feed_replies.PostCountsInfo

    post_id: PostId
    removed: bool = False


class ListLikes(_Command, tag="list_likes", frozen=True, kw_only=True, omit_defaults=True):
    """Read who likes a post."""

    reply: ClassVar[type] = feed_replies.FollowList

    post_id: PostId
    after: Place = ""
    limit: PageLimit = 50


class AddComment(_Command, tag="add_comment", frozen=True, kw_only=True, omit_defaults=True):
    """Comment on a post, or answer a comment on it (not an answer to one)."""

    reply: ClassVar[type] = feed_replies.CommentInfo

    client_id: ClientId
    post_id: PostId
    text: PostText
    parent_id: Annotated[
        int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="The comment that is answered; 0: the post.")
    ] = 0
    mentions: Mentions = []


class DeleteComment(_Command, tag="delete_comment", frozen=True, kw_only=True, omit_defaults=True):
    """Delete one's own comment, or any comment on one's own post."""

    post_id: PostId
    comment_id: CommentId


class ListComments(_Command, tag="list_comments", frozen=True, kw_only=True, omit_defaults=True):
    """Read the comments on a post, oldest first: those on the post itself, or the answers to one."""

    reply: ClassVar[type] = feed_replies.CommentPage

    post_id: PostId
    parent_id: Annotated[
        int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="Answers to this comment; 0: to the post.")
    ] = 0
    after: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="Only larger comment_ids.")] = 0
    limit: PageLimit = 50


# -- following --------------------------------------------------------------------------------------


class FollowUser(_Command, tag="follow", frozen=True, kw_only=True, omit_defaults=True):
    """Follow an author; a private one is asked first. Doing it again changes nothing."""

    reply: ClassVar[type] = feed_replies.FollowInfo

    user_id: UserId


class Unfollow(_Command, tag="unfollow", frozen=True, kw_only=True, omit_defaults=True):
    """Stop following an author, or take back a request."""

    reply: ClassVar[type] = feed_replies.FollowInfo

    user_id: UserId


class AnswerFollow(_Command, tag="answer_follow", frozen=True, kw_only=True, omit_defaults=True):
    """Accept or decline the request of a user to follow oneself."""

    user_id: UserId
    accept: bool


class RemoveFollower(_Command, tag="remove_follower", frozen=True, kw_only=True, omit_defaults=True):
    """Make a user stop following oneself."""

    user_id: UserId


class GetAuthor(_Command, tag="get_author", frozen=True, kw_only=True, omit_defaults=True):
    """Read a user's counts and how one stands to them."""

    reply: ClassVar[type] = feed_replies.AuthorInfo

    user_id: UserId


class UpdateAuthor(_Command, tag="update_author", frozen=True, kw_only=True, omit_defaults=True):
    """Make the own account private or public. Whoever asked is let in when it becomes public."""

    reply: ClassVar[type] = feed_replies.AuthorInfo

    is_private: bool


class ListFollowers(_Command, tag="list_followers", frozen=True, kw_only=True, omit_defaults=True):
    """Read who follows a user, newest first."""

    reply: ClassVar[type] = feed_replies.FollowList

    user_id: UserId
    after: Place = ""
    limit: PageLimit = 50


class ListFollowing(_Command, tag="list_following", frozen=True, kw_only=True, omit_defaults=True):
    """Read whom a user follows, newest first."""

    reply: ClassVar[type] = feed_replies.FollowList

    user_id: UserId
    after: Place = ""
    limit: PageLimit = 50


class ListFollowRequests(_Command, tag="list_follow_requests", frozen=True, kw_only=True, omit_defaults=True):
    """Read who asks to follow oneself, oldest first."""

    reply: ClassVar[type] = feed_replies.FollowList

    after: Place = ""
    limit: PageLimit = 50


class MuteUser(_Command, tag="mute_user", frozen=True, kw_only=True, omit_defaults=True):
    """Hide a user's posts and comments from oneself, or show them again. The user is not told."""

    user_id: UserId
    removed: bool = False


class ListMuted(_Command, tag="list_muted", frozen=True, kw_only=True, omit_defaults=True):
    """Read whom one has muted."""

    reply: ClassVar[type] = feed_replies.FollowList

    after: Place = ""
    limit: PageLimit = 50


# -- the feed ---------------------------------------------------------------------------------------


class ReadFeed(_Command, tag="read_feed", frozen=True, kw_only=True, omit_defaults=True):
    """Read a page of the own feed: the newest, or what is beyond a cursor, older or newer."""

    reply: ClassVar[type] = feed_replies.FeedPage

    before: FeedCursor = ""
    after: Annotated[
        FeedCursor | None, Meta(description="Only newer items, the next ones first; not with `before`.")
    ] = None
    limit: PageLimit = 20
    order: Annotated[FeedOrder | None, Meta(description="Absent: as the app has set.")] = None
    explain: Annotated[bool, Meta(description="Also tell what was examined and left out.")] = False
    ads: Annotated[
        bool, Meta(description="False: no ads, for who reads what nobody looks at, such as to catch up.")
    ] = True


class SetFeedPosition(_Command, tag="set_feed_position", frozen=True, kw_only=True, omit_defaults=True):
    """Remember how far the user has read: the newest post that was on the screen. May go back."""

    post_id: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]


class WatchFeed(_Command, tag="watch_feed", frozen=True, kw_only=True, omit_defaults=True):
    """Say what this session shows: live feed events, and live counts of these posts. Replaces the last."""

    feed: bool = False
    post_ids: PostIds = []


class ExplainPost(_Command, tag="explain_post", frozen=True, kw_only=True, omit_defaults=True):
    """Ask why a post is in the own feed or not, and how it scores."""

    reply: ClassVar[type] = feed_replies.Explanation

    post_id: PostId


class SetInterest(_Command, tag="set_interest", frozen=True, kw_only=True, omit_defaults=True):
    """Say "not interested" in a post, an author or a hashtag, or take it back. Works at the next read."""

    reply: ClassVar[type] = feed_replies.InterestInfo

    kind: InterestKind
    target: Annotated[str, Meta(min_length=1, max_length=100, description="post_id, user_id or hashtag.")]
    removed: bool = False


class ListInterests(_Command, tag="list_interests", frozen=True, kw_only=True, omit_defaults=True):
    """Read what one is not interested in, and what that does by now."""

    reply: ClassVar[type] = feed_replies.InterestList


class GetTrends(_Command, tag="get_trends", frozen=True, kw_only=True, omit_defaults=True):
    """Read what trends in the app."""

    reply: ClassVar[type] = feed_replies.TrendList

    kind: TrendKind = "hashtag"
    window: TrendWindow = "hour"
    limit: PageLimit = 10


class GetRecommendations(_Command, tag="get_recommendations", frozen=True, kw_only=True, omit_defaults=True):
    """Read authors one might follow, and trending posts of authors one does not follow."""

    reply: ClassVar[type] = feed_replies.Recommendations

    limit: PageLimit = 10


class AdSeen(_Command, tag="ad_seen", frozen=True, kw_only=True, omit_defaults=True):
    """An ad was on the screen; counted once for each slot."""

    slot_id: Annotated[str, Meta(min_length=1, max_length=100)]


class AdClicked(_Command, tag="ad_clicked", frozen=True, kw_only=True, omit_defaults=True):
    """An ad was clicked; counted once for each slot."""

    slot_id: Annotated[str, Meta(min_length=1, max_length=100)]


FeedCommand = (
    CreatePost
    | Repost
    | EditPost
    | DeletePost
    | GetPost
    | ListPosts
    | LikePost
    | ListLikes
    | AddComment
    | DeleteComment
    | ListComments
    | FollowUser
    | Unfollow
    | AnswerFollow
    | RemoveFollower
    | GetAuthor
    | UpdateAuthor
    | ListFollowers
    | ListFollowing
    | ListFollowRequests
    | MuteUser
    | ListMuted
    | ReadFeed
    | SetFeedPosition
    | WatchFeed
    | ExplainPost
    | SetInterest
    | ListInterests
    | GetTrends
    | GetRecommendations
    | AdSeen
    | AdClicked
)
