"""Bodies of the HTTP API of posts and feeds. Answers are the replies of the commands."""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.feed_types import PostFileIds, PostText, Visibility
from protocol.types import ClientId, Mentions

Key = Annotated[
    ClientId | None, Meta(description="The same key gets the first answer; or the header Idempotency-Key.")
]


class _Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class PostBody(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A post to be published: text, files that were uploaded before, or both."""

    client_id: Key = None
    text: PostText = ""
    file_ids: PostFileIds = []
    mentions: Mentions = []
    visibility: Visibility = "public"
    language: Annotated[str, Meta(max_length=35, description="BCP 47; empty: the author's.")] = ""


class EditPostBody(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """What changes of a post; absent fields stay."""

    text: PostText | None = None
    mentions: Mentions | None = None
    visibility: Visibility | None = None


class CommentBody(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A comment on a post, or an answer to a comment on it."""

    client_id: Key = None
    text: PostText
    parent_id: Annotated[int, Meta(ge=0, description="The comment that is answered; 0: the post.")] = 0
    mentions: Mentions = []


class PositionBody(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """How far the feed was read."""

    post_id: Annotated[int, Meta(ge=0, description="The newest post that was on the screen.")]


class AuthorBody(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """What changes of the own account as an author."""

    is_private: Annotated[bool, Meta(description="Only approved followers see the posts.")]
