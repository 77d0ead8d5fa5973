"""What users are told of posts, comments and follows: the tells, as pure functions."""

import msgspec

from actors.chat_notices import preview
from actors.messages import NoticeDue, comment_thing, post_thing
from protocol.notify_records import NoticeBacklog
from protocol.records import CommentRow, PostRow


def liked(post: PostRow, user_id: str) -> NoticeDue:
    """To a post's author: a user likes it."""
    return _about_post(post.author_id, post.app_id, user_id, "like", post.post_id)


def commented(post: PostRow, comment: CommentRow) -> NoticeDue:
    """To a post's author: somebody has commented on it."""
    return _about_post(
        post.author_id,
        post.app_id,
        comment.user_id,
        "comment",
        post.post_id,
        data=_said(comment),
        thing=comment_thing(comment.comment_id),
    )


def answered(post: PostRow, parent: CommentRow, comment: CommentRow) -> NoticeDue:
    """To a comment's author: somebody has answered it."""
    return _about_post(
        parent.user_id,
        post.app_id,
        comment.user_id,
        "comment",
        post.post_id,
        # Not with others into one: that would speak of comments on the user's own post.
        batch_key=f"answer:{comment.comment_id}",
        data=_said(comment),
        thing=comment_thing(comment.comment_id),
    )


def mentioned_in_post(post: PostRow, user_id: str) -> NoticeDue:
    """To a user: a post mentions them."""
    data = {"text": preview(post.text)}
    thing = post_thing(post.post_id)
    return _about_post(user_id, post.app_id, post.author_id, "mention", post.post_id, data=data, thing=thing)


def mentioned_in_comment(post: PostRow, comment: CommentRow, user_id: str) -> NoticeDue:
    """To a user: a comment mentions them."""
    return _about_post(
        user_id,
        post.app_id,
        comment.user_id,
        "mention",
        post.post_id,
        data=_said(comment),
        thing=comment_thing(comment.comment_id),
    )


def followed(author_id: str, app_id: str, user_id: str) -> NoticeDue:
    """To an author: a user follows them now."""
    return _of_follow(author_id, app_id, user_id, "follow", "followers", f"/#u/{user_id}")


def follow_requested(author_id: str, app_id: str, user_id: str) -> NoticeDue:
    """To an author: a user would like to follow them."""
    return _of_follow(author_id, app_id, user_id, "follow_request", "follow_requests", "/#requests")


def follow_accepted(follower_id: str, app_id: str, author_id: str) -> NoticeDue:
    """To a user: an author has let them in."""
    return _of_follow(
        follower_id, app_id, author_id, "follow_accepted", "follow_accepted", f"/#u/{author_id}"
    )


def several(backlog: NoticeBacklog, count: int) -> NoticeDue:
    """To whom a backlog is for: so many more have done the same."""
    # The number makes it no duplicate of what one of them has done.
    data = {"more": str(count), "since": str(backlog.at_ms)}
    if backlog.kind == "follow":
        due = followed(backlog.author_id, backlog.app_id, backlog.actor_id)
        url = f"/#u/{backlog.author_id}/followers"
        return msgspec.structs.replace(due, url=url, data=data, actor_count=count)
    kind = "like" if backlog.kind == "like" else "comment"
    batch_key = f"answers:{backlog.thing_id}" if backlog.kind == "answer" else ""
    return _about_post(
        backlog.user_id,
        backlog.app_id,
        backlog.actor_id,
        kind,
        backlog.post_id,
        batch_key=batch_key,
        data=data,
        actor_count=count,
    )


def _of_follow(user_id: str, app_id: str, actor_id: str, template: str, subject: str, url: str) -> NoticeDue:
    return NoticeDue(
        user_id=user_id,
        app_id=app_id,
        actor_id=actor_id,
        type_name="follow",
        template=template,
        subject=subject,
        url=url,
    )


def _about_post(
    user_id: str,
    app_id: str,
    actor_id: str,
    kind: str,
    post_id: int,
    *,
    batch_key: str = "",
    data: dict[str, str] | None = None,
    actor_count: int = 1,
    thing: str = "",
) -> NoticeDue:
    return NoticeDue(
        user_id=user_id,
        app_id=app_id,
        actor_id=actor_id,
        type_name=kind,
        template=kind,
        subject=f"post:{post_id}",
        batch_key=batch_key or f"{kind}:{post_id}",
        url=f"/#post/{post_id}",
        data={"post_id": str(post_id), **(data or {})},
        actor_count=actor_count,
        thing=thing,
    )


def _said(comment: CommentRow) -> dict[str, str]:
    return {"comment_id": str(comment.comment_id), "text": preview(comment.text)}
