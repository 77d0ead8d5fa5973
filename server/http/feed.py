"""Posts, following and the feed over HTTP: each address is one command of the protocol.

What comes in a query, a path or a body becomes the command as its decoder would make it, so the same limits
hold and the same codes come back. The answer is the command's reply.
"""

import secrets
from typing import Annotated, Final, TypeVar

import msgspec
from litestar import Router, delete, get, patch, post, put
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter

from protocol import feed_commands as c
from protocol import feed_replies as r
from protocol.commands import Command
from protocol.errors import ProtocolError
from protocol.http_posts import AuthorBody, CommentBody, EditPostBody, PositionBody, PostBody
from protocol.limits import MAX_FRAME_BYTES, MAX_SAFE_INTEGER
from protocol.replies import Ok
from server.http.context import BEARER, AnyRequest, execute, services_of, signed_in

CommandT = TypeVar("CommandT", bound=Command)
ReplyT = TypeVar("ReplyT")

POSTS: Final = ["Posts"]
FOLLOWING: Final = ["Following"]
FEED: Final = ["Feed"]

# FromPath of a text, as the command's own field says what it may be.
_Id = FromPath[str]
_Key = Annotated[
    str,
    HeaderParameter(
        name="Idempotency-Key", description="Instead of `client_id`: the same key gets the first answer."
    ),
]
_Limit = Annotated[int, QueryParameter(ge=1, le=100, description="How many items at the most.")]
_After = Annotated[
    str, QueryParameter(max_length=200, description="`next` of the page before; empty: from the start.")
]


def made(kind: type[CommandT], /, **fields: object) -> CommandT:
    """Make a command as its decoder would; None stands for an absent field.

    Raises: ProtocolError("bad_field").
    """
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return msgspec.convert({"type": kind.__struct_config__.tag, **given}, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise ProtocolError("bad_field", str(exc)) from None


async def carried_out(request: AnyRequest, reply_type: type[ReplyT], command: Command) -> ReplyT:
    """Carry out a command as the bearer of the token. Raises: HubbubError."""
    identity = await signed_in(request)
    services_of(request).charge_creation(identity.user_id, command)
    return await execute(request, identity, command, reply_type)


def _key_of(body_key: str | None, header_key: str) -> str:
    key = body_key or header_key
    if not key:
        raise ProtocolError(
            "bad_field", "Give a client_id, or the header Idempotency-Key, so that a repetition is one."
        )
    return key


# -- posts ------------------------------------------------------------------------------------------


@post("/posts", status_code=201, summary="Publish a post", tags=POSTS, security=BEARER)
async def create_post(request: AnyRequest, data: JSONBody[PostBody], key: _Key = "") -> r.PostInfo:
    """Answered once it is stored for good; repeated with the same key it is the same post, a `duplicate`."""
    command = made(
        c.CreatePost,
        client_id=_key_of(data.client_id, key),
        text=data.text,
        file_ids=data.file_ids,
        mentions=data.mentions,
        visibility=data.visibility,
        language=data.language,
    )
    return await carried_out(request, r.PostInfo, command)


@get("/posts/{post_id:str}", summary="Read a post", tags=POSTS, security=BEARER)
async def get_post(request: AnyRequest, post_id: _Id) -> r.PostInfo:
    """As it now is, with the reader's own marks."""
    return await carried_out(request, r.PostInfo, made(c.GetPost, post_id=post_id))


@patch("/posts/{post_id:str}", summary="Edit a post", tags=POSTS, security=BEARER)
async def edit_post(request: AnyRequest, post_id: _Id, data: JSONBody[EditPostBody]) -> r.PostInfo:
    """Of one's own; absent fields stay, and hashtags are found anew."""
    command = made(
        c.EditPost, post_id=post_id, text=data.text, mentions=data.mentions, visibility=data.visibility
    )
    return await carried_out(request, r.PostInfo, command)


@delete("/posts/{post_id:str}", status_code=204, summary="Delete a post", tags=POSTS, security=BEARER)
async def delete_post(request: AnyRequest, post_id: _Id) -> None:
    """One's own post or repost: at the next read nobody sees it, or what repeats it, any more."""
    await carried_out(request, Ok, made(c.DeletePost, post_id=post_id))


@post("/posts/{post_id:str}/repost", status_code=201, summary="Repost a post", tags=POSTS, security=BEARER)
async def repost(request: AnyRequest, post_id: _Id, key: _Key = "") -> r.PostInfo:
    """To one's own followers, once; undone by deleting the repost."""
    # Without a key it is safe to repeat as well: whoever has reposted a post gets that repost again.
    command = made(c.Repost, client_id=key or secrets.token_hex(16), post_id=post_id)
    return await carried_out(request, r.PostInfo, command)


@put("/posts/{post_id:str}/like", summary="Like a post", tags=POSTS, security=BEARER)
async def like(request: AnyRequest, post_id: _Id) -> r.PostCountsInfo:
    """Counted once however often it is said."""
    return await carried_out(request, r.PostCountsInfo, made(c.LikePost, post_id=post_id))


@delete("/posts/{post_id:str}/like", status_code=200, summary="Take a like back", tags=POSTS, security=BEARER)
async def unlike(request: AnyRequest, post_id: _Id) -> r.PostCountsInfo:
    """Answers with the counts as they now are."""
    return await carried_out(request, r.PostCountsInfo, made(c.LikePost, post_id=post_id, removed=True))


@get("/posts/{post_id:str}/likes", summary="Who likes a post", tags=POSTS, security=BEARER)
async def list_likes(
    request: AnyRequest, post_id: _Id, after: _After = "", limit: _Limit = 50
) -> r.FollowList:
    """Page by page."""
    return await carried_out(
        request, r.FollowList, made(c.ListLikes, post_id=post_id, after=after, limit=limit)
    )


@get("/posts/{post_id:str}/comments", summary="Read comments", tags=POSTS, security=BEARER)
async def list_comments(
    request: AnyRequest,
    post_id: _Id,
    parent_id: Annotated[
        int, QueryParameter(ge=0, le=MAX_SAFE_INTEGER, description="Answers to this comment; 0: to the post.")
    ] = 0,
    after: Annotated[
        int, QueryParameter(ge=0, le=MAX_SAFE_INTEGER, description="Only larger comment_ids.")
    ] = 0,
    limit: _Limit = 50,
) -> r.CommentPage:
    """Oldest first: those on the post itself, or the answers to one of them."""
    command = made(c.ListComments, post_id=post_id, parent_id=parent_id, after=after, limit=limit)
    return await carried_out(request, r.CommentPage, command)


@post("/posts/{post_id:str}/comments", status_code=201, summary="Comment", tags=POSTS, security=BEARER)
async def add_comment(
    request: AnyRequest, post_id: _Id, data: JSONBody[CommentBody], key: _Key = ""
) -> r.CommentInfo:
    """On a post, or on a comment on it; not on an answer to one."""
    command = made(
        c.AddComment,
        client_id=_key_of(data.client_id, key),
        post_id=post_id,
        text=data.text,
        parent_id=data.parent_id,
        mentions=data.mentions,
    )
    return await carried_out(request, r.CommentInfo, command)


@delete(
    "/posts/{post_id:str}/comments/{comment_id:str}",
    status_code=204,
    summary="Delete a comment",
    tags=POSTS,
    security=BEARER,
)
async def delete_comment(request: AnyRequest, post_id: _Id, comment_id: _Id) -> None:
    """One's own, or any on one's own post."""
    await carried_out(request, Ok, made(c.DeleteComment, post_id=post_id, comment_id=comment_id))


@get("/posts/{post_id:str}/explanation", summary="Why is it in my feed", tags=FEED, security=BEARER)
async def explain_post(request: AnyRequest, post_id: _Id) -> r.Explanation:
    """Or why not, and the factors of its score."""
    return await carried_out(request, r.Explanation, made(c.ExplainPost, post_id=post_id))


# -- following --------------------------------------------------------------------------------------


@get("/users/{user_id:str}/posts", summary="Read an author's timeline", tags=POSTS, security=BEARER)
async def list_posts(
    request: AnyRequest,
    user_id: _Id,
    before: Annotated[
        int, QueryParameter(ge=0, le=MAX_SAFE_INTEGER, description="Only smaller post_ids; 0: the newest.")
    ] = 0,
    limit: _Limit = 20,
) -> r.PostPage:
    """Newest first: what the reader may see of it."""
    return await carried_out(
        request, r.PostPage, made(c.ListPosts, user_id=user_id, before=before, limit=limit)
    )


@get("/users/{user_id:str}/author", summary="Read a user as an author", tags=FOLLOWING, security=BEARER)
async def get_author(request: AnyRequest, user_id: _Id) -> r.AuthorInfo:
    """The counts, and how the reader stands to them."""
    return await carried_out(request, r.AuthorInfo, made(c.GetAuthor, user_id=user_id))


@patch("/author", summary="Make the own account private or public", tags=FOLLOWING, security=BEARER)
async def update_author(request: AnyRequest, data: JSONBody[AuthorBody]) -> r.AuthorInfo:
    """Whoever asked to follow is let in when it becomes public."""
    return await carried_out(request, r.AuthorInfo, made(c.UpdateAuthor, is_private=data.is_private))


@get("/users/{user_id:str}/followers", summary="Who follows a user", tags=FOLLOWING, security=BEARER)
async def list_followers(
    request: AnyRequest, user_id: _Id, after: _After = "", limit: _Limit = 50
) -> r.FollowList:
    """Newest first."""
    return await carried_out(
        request, r.FollowList, made(c.ListFollowers, user_id=user_id, after=after, limit=limit)
    )


@get("/users/{user_id:str}/following", summary="Whom a user follows", tags=FOLLOWING, security=BEARER)
async def list_following(
    request: AnyRequest, user_id: _Id, after: _After = "", limit: _Limit = 50
) -> r.FollowList:
    """Newest first."""
    return await carried_out(
        request, r.FollowList, made(c.ListFollowing, user_id=user_id, after=after, limit=limit)
    )


@put("/following/{user_id:str}", summary="Follow an author", tags=FOLLOWING, security=BEARER)
async def follow(request: AnyRequest, user_id: _Id) -> r.FollowInfo:
    """A private one is asked first: `requested`. Doing it again changes nothing."""
    return await carried_out(request, r.FollowInfo, made(c.FollowUser, user_id=user_id))


@delete(
    "/following/{user_id:str}",
    status_code=200,
    summary="Stop following an author",
    tags=FOLLOWING,
    security=BEARER,
)
async def unfollow(request: AnyRequest, user_id: _Id) -> r.FollowInfo:
    """Or take a request back."""
    return await carried_out(request, r.FollowInfo, made(c.Unfollow, user_id=user_id))


@get("/follow_requests", summary="Who asks to follow", tags=FOLLOWING, security=BEARER)
async def list_follow_requests(request: AnyRequest, after: _After = "", limit: _Limit = 50) -> r.FollowList:
    """Oldest first."""
    return await carried_out(request, r.FollowList, made(c.ListFollowRequests, after=after, limit=limit))


@put(
    "/follow_requests/{user_id:str}",
    status_code=204,
    summary="Accept a request to follow",
    tags=FOLLOWING,
    security=BEARER,
)
async def accept_follow(request: AnyRequest, user_id: _Id) -> None:
    """From then on the user sees the posts."""
    await carried_out(request, Ok, made(c.AnswerFollow, user_id=user_id, accept=True))


@delete(
    "/follow_requests/{user_id:str}",
    status_code=204,
    summary="Decline a request to follow",
    tags=FOLLOWING,
    security=BEARER,
)
async def decline_follow(request: AnyRequest, user_id: _Id) -> None:
    """The user may ask again."""
    await carried_out(request, Ok, made(c.AnswerFollow, user_id=user_id, accept=False))


@delete(
    "/followers/{user_id:str}",
    status_code=204,
    summary="Remove a follower",
    tags=FOLLOWING,
    security=BEARER,
)
async def remove_follower(request: AnyRequest, user_id: _Id) -> None:
    """The user follows no more; a private account is asked before it is followed again."""
    await carried_out(request, Ok, made(c.RemoveFollower, user_id=user_id))


@get("/mutes", summary="Whom one has muted", tags=FOLLOWING, security=BEARER)
async def list_muted(request: AnyRequest, after: _After = "", limit: _Limit = 50) -> r.FollowList:
    """Page by page."""
    return await carried_out(request, r.FollowList, made(c.ListMuted, after=after, limit=limit))


@put("/mutes/{user_id:str}", status_code=204, summary="Mute a user", tags=FOLLOWING, security=BEARER)
async def mute(request: AnyRequest, user_id: _Id) -> None:
    """Hides posts and comments from the own eyes; the user is not told."""
    await carried_out(request, Ok, made(c.MuteUser, user_id=user_id))


@delete("/mutes/{user_id:str}", status_code=204, summary="Unmute a user", tags=FOLLOWING, security=BEARER)
async def unmute(request: AnyRequest, user_id: _Id) -> None:
    """Shows them again."""
    await carried_out(request, Ok, made(c.MuteUser, user_id=user_id, removed=True))


# -- the feed ---------------------------------------------------------------------------------------


@get("/feed", summary="Read the own feed", tags=FEED, security=BEARER)
async def read_feed(
    request: AnyRequest,
    before: Annotated[
        str,
        QueryParameter(max_length=120, description="`before` of a page: what is older. Empty: the newest."),
    ] = "",
    after: Annotated[
        str | None,
        QueryParameter(
            max_length=120,
            description="`after` of a page: what is newer, the next ones first; not with before.",
        ),
    ] = None,
    limit: _Limit = 20,
    order: Annotated[
        str | None, QueryParameter(description="chronological or ranked; absent: as the app has set.")
    ] = None,
    explain: Annotated[bool, QueryParameter(description="Also tell what was left out, and why.")] = False,
    ads: Annotated[bool, QueryParameter(description="false: no ads, where nobody looks at the page.")] = True,
) -> r.FeedPage:
    """A page, newest first. `complete` says whether anything that belongs into it is missing."""
    command = made(c.ReadFeed, before=before, after=after, limit=limit, order=order, explain=explain, ads=ads)
    return await carried_out(request, r.FeedPage, command)


@put("/feed/position", status_code=204, summary="Remember how far one has read", tags=FEED, security=BEARER)
async def set_position(request: AnyRequest, data: JSONBody[PositionBody]) -> None:
    """Kept for all devices; may go back."""
    await carried_out(request, Ok, made(c.SetFeedPosition, post_id=data.post_id))


@get("/interests", summary="What one is not interested in", tags=FEED, security=BEARER)
async def list_interests(request: AnyRequest) -> r.InterestList:
    """With what each does by now, and until when."""
    return await carried_out(request, r.InterestList, c.ListInterests())


@put("/interests/{kind:str}/{target:str}", summary="Say not interested", tags=FEED, security=BEARER)
async def not_interested(request: AnyRequest, kind: _Id, target: _Id) -> r.InterestInfo:
    """In a `post` (its id), an `author` (user id) or a `hashtag`: from the next read on; it wears off."""
    return await carried_out(request, r.InterestInfo, made(c.SetInterest, kind=kind, target=target))


@delete(
    "/interests/{kind:str}/{target:str}",
    status_code=200,
    summary="Take a not interested back",
    tags=FEED,
    security=BEARER,
)
async def interested_again(request: AnyRequest, kind: _Id, target: _Id) -> r.InterestInfo:
    """Works at the next read."""
    command = made(c.SetInterest, kind=kind, target=target, removed=True)
    return await carried_out(request, r.InterestInfo, command)


@get("/trends", summary="What trends", tags=FEED, security=BEARER)
async def get_trends(
    request: AnyRequest,
    kind: Annotated[str, QueryParameter(description="hashtag or post.")] = "hashtag",
    window: Annotated[str, QueryParameter(description="hour or day.")] = "hour",
    limit: _Limit = 10,
) -> r.TrendList:
    """In the app, the strongest first."""
    return await carried_out(request, r.TrendList, made(c.GetTrends, kind=kind, window=window, limit=limit))


@get("/recommendations", summary="Whom one might follow", tags=FEED, security=BEARER)
async def get_recommendations(request: AnyRequest, limit: _Limit = 10) -> r.Recommendations:
    """Friends of friends, and what trends of authors one does not follow."""
    return await carried_out(request, r.Recommendations, made(c.GetRecommendations, limit=limit))


@post("/feed/ads/{slot_id:str}/seen", status_code=204, summary="An ad was seen", tags=FEED, security=BEARER)
async def ad_seen(request: AnyRequest, slot_id: _Id) -> None:
    """Counted once for each slot."""
    await carried_out(request, Ok, made(c.AdSeen, slot_id=slot_id))


@post(
    "/feed/ads/{slot_id:str}/clicked",
    status_code=204,
    summary="An ad was clicked",
    tags=FEED,
    security=BEARER,
)
async def ad_clicked(request: AnyRequest, slot_id: _Id) -> None:
    """Counted once for each slot."""
    await carried_out(request, Ok, made(c.AdClicked, slot_id=slot_id))


def feed_router() -> Router:
    """Everything that a person does with posts and feeds."""
    return Router(
        path="/v1",
        route_handlers=[
            create_post,
            get_post,
            edit_post,
            delete_post,
            repost,
            like,
            unlike,
            list_likes,
            list_comments,
            add_comment,
            delete_comment,
            explain_post,
            list_posts,
            get_author,
            update_author,
            list_followers,
            list_following,
            follow,
            unfollow,
            list_follow_requests,
            accept_follow,
            decline_follow,
            remove_follower,
            list_muted,
            mute,
            unmute,
            read_feed,
            set_position,
            list_interests,
            not_interested,
            interested_again,
            get_trends,
            get_recommendations,
            ad_seen,
            ad_clicked,
        ],
        request_max_body_size=MAX_FRAME_BYTES,  # as commands: a longer text is too long, not too large
    )
