"""Give commands about posts and authors their meaning: reads, and what is looked at before it is done.

Who may see a post is looked up here, in the store, for each command anew: so a block, an unfollow or a
change of privacy counts from its ack on. What passes goes to the actor of the post's author.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from actors.address import Address
from actors.feed import author_rules as rules
from actors.feed.address import author_address
from actors.messages import Ask
from protocol import feed_commands, feed_replies
from protocol.commands import Command
from protocol.errors import Refused
from protocol.feed_types import Author, Comment, FeedItem, Follow, FollowState, Post, Why
from protocol.limits import MAX_SAFE_INTEGER, PAGE_BYTES
from protocol.records import AuthorView, CommentRow, PostCountsRow, PostLike, PostRow
from protocol.replies import Reply
from protocol.stored_posts import comment_of, post_of
from server.caller import Caller
from storage.store import PostAt, Store, UserAt

_MAX_LOOKS: Final = 10  # pages examined for one answer, where what reposts repeat is mostly not visible
_ITEM_BYTES: Final = 400  # of a post or comment beside its text

AskActor = Callable[[Address, object], Awaitable[Reply]]
Handler = Callable[[Caller, Command], Awaitable[Reply]]


class PostService:
    """Answer commands about posts, comments, authors and who follows whom."""

    def __init__(self, store: Store, *, ask: AskActor) -> None:
        """`ask` hands a message to an actor and waits for its answer."""
        self._store = store
        self._posts = store.posts
        self._ask = ask
        self.handlers: dict[type[Command], Handler] = {
            feed_commands.GetPost: self._get_post,
            feed_commands.ListPosts: self._list_posts,
            feed_commands.ListLikes: self._list_likes,
            feed_commands.ListComments: self._list_comments,
            feed_commands.LikePost: self._like_post,
            feed_commands.AddComment: self._add_comment,
            feed_commands.DeleteComment: self._delete_comment,
            feed_commands.Repost: self._repost,
            feed_commands.GetAuthor: self._get_author,
            feed_commands.ListFollowers: self._list_followers,
            feed_commands.ListFollowing: self._list_following,
            feed_commands.ListFollowRequests: self._list_requests,
            feed_commands.ListMuted: self._list_muted,
        }

    async def visible(self, caller: Caller, post_ids: Sequence[int]) -> list[int]:
        """Those of the posts that the caller may see now, in their order."""
        return [at[0].post_id for at, _ in await self._seen(caller, post_ids)]

    # -- posts --------------------------------------------------------------------------------------

    async def _get_post(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, feed_commands.GetPost)
        found = await self._seen(caller, [command.post_id])
        if not found:
            raise Refused("post_not_found")
        item = (await self._marked(caller, found, None))[0]
        assert item.post is not None
        return feed_replies.PostInfo(
            post=item.post, original=item.original, liked=item.liked, reposted=item.reposted
        )

    async def _list_posts(self, caller: Caller, command: Command) -> Reply:
        """What the reader may see of a timeline; that may be nothing, which is no error."""
        assert isinstance(command, feed_commands.ListPosts)
        author = await self._author(caller, command.user_id)
        is_own = author.author_id == caller.user_id
        is_follower = author.follow == "following"
        if not is_own and (
            author.is_blocked or author.blocks_viewer or (author.is_private and not is_follower)
        ):
            return feed_replies.PostPage(items=[])
        shown: list[tuple[PostAt, PostAt | None]] = []
        examined = command.before
        is_over = False
        for _ in range(_MAX_LOOKS):
            page = await self._posts.timeline(
                author.author_id,
                before=min(examined, MAX_SAFE_INTEGER),
                limit=command.limit,
                is_public_only=not (is_own or is_follower),
            )
            originals = await self._originals(caller, [row for row, _ in page], is_muting=not is_own)
            for row, counts in page:
                if len(shown) == command.limit:
                    break
                examined = row.post_id
                if not row.repost_of:
                    shown.append(((row, counts), None))
                elif (original := originals.get(row.repost_of)) is not None:
                    shown.append(((row, counts), original))
            else:
                is_over = len(page) < command.limit
            if is_over or len(shown) == command.limit:
                break
        fitting = _fitting(shown)
        if len(fitting) < len(shown):
            examined, is_over = fitting[-1][0][0].post_id, False
        return feed_replies.PostPage(
            items=await self._marked(caller, fitting, author), next=0 if is_over else examined
        )

    async def _list_likes(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, feed_commands.ListLikes)
        root = await self._root(caller, command.post_id)
        after = parse_place(command.after)
        limit = command.limit
        found = await self._posts.likes(root.post_id, after=after, limit=limit + 1, viewer_id=caller.user_id)
        return _follow_list(found, limit)

    async def _list_comments(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, feed_commands.ListComments)
        root = await self._root(caller, command.post_id)
        found = await self._posts.comments(
            root.post_id,
            parent_id=min(command.parent_id, MAX_SAFE_INTEGER),
            after=min(command.after, MAX_SAFE_INTEGER),
            limit=command.limit + 1,
            viewer_id=caller.user_id,
        )
        size_bytes = 0
        items: list[Comment] = []
        for row in found[: command.limit]:
            size_bytes += len(row.text) + _ITEM_BYTES
            if items and size_bytes > PAGE_BYTES:
                break
            items.append(comment_of(row))
        is_over = len(items) == len(found)
        return feed_replies.CommentPage(items=items, next=0 if is_over else items[-1].comment_id)

    # -- what must be looked at before it is done -----------------------------------------------------

    async def _like_post(self, caller: Caller, command: Command) -> Reply:
        """Of a repost, what it repeats is liked. Who has lost sight of it may take a like back, not more."""
        assert isinstance(command, feed_commands.LikePost)
        root = await self._existing_root(caller, command.post_id)
        refusal = await self._refusal(caller, root)
        if refusal is not None:
            # Else the answer would tell that the post exists, and its counts.
            own = await self._store.get(PostLike, root.post_id, caller.user_id) if command.removed else None
            if own is None:
                raise refusal
        reply = await self._ask_author(caller, root, msgspec.structs.replace(command, post_id=root.post_id))
        return reply if refusal is None else feed_replies.PostCountsInfo(post_id=root.post_id)

    async def _add_comment(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, feed_commands.AddComment)
        root = await self._root(caller, command.post_id)
        return await self._ask_author(caller, root, msgspec.structs.replace(command, post_id=root.post_id))

    async def _delete_comment(self, caller: Caller, command: Command) -> Reply:
        """Who has lost sight of the post may delete their own comment on it."""
        assert isinstance(command, feed_commands.DeleteComment)
        root = await self._existing_root(caller, command.post_id)
        refusal = await self._refusal(caller, root)
        if refusal is not None:
            comment_id = min(command.comment_id, MAX_SAFE_INTEGER)
            comment = await self._store.get(CommentRow, comment_id)
            if comment is None or (comment.post_id, comment.user_id) != (root.post_id, caller.user_id):
                raise refusal
        return await self._ask_author(caller, root, msgspec.structs.replace(command, post_id=root.post_id))

    async def _repost(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, feed_commands.Repost)
        await self._root(caller, command.post_id)
        message = Ask(caller.user_id, caller.app_id, command)
        return await self._ask(author_address(caller.user_id), message)

    async def _ask_author(self, caller: Caller, post: PostRow, command: Command) -> Reply:
        message = Ask(caller.user_id, caller.app_id, command)
        return await self._ask(author_address(post.author_id), message)

    # -- authors ------------------------------------------------------------------------------------

    async def _get_author(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, feed_commands.GetAuthor)
        view = await self._author(caller, command.user_id)
        if view.blocks_viewer:  # whom the caller has blocked is shown: that is where it is undone
            raise Refused("blocked")
        following_count = await self._posts.following_count(view.author_id)
        follow: FollowState = (
            "following" if view.follow == "following" else "requested" if view.follow else "none"
        )
        return feed_replies.AuthorInfo(
            author=Author(
                user_id=view.author_id,
                is_private=view.is_private,
                followers=view.follower_count,
                following=following_count,
                posts=view.post_count,
                follow=follow,
                follows_you=view.follows_viewer,
                muted=view.is_muted,
                blocked=view.is_blocked,
                hot=view.is_hot,
            )
        )

    async def _list_followers(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, feed_commands.ListFollowers)
        after = parse_place(command.after)
        rules.may_see_lists(await self._author(caller, command.user_id), caller.user_id)
        found = await self._posts.followers(
            command.user_id, after=after, limit=command.limit + 1, viewer_id=caller.user_id
        )
        return _follow_list(found, command.limit)

    async def _list_following(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, feed_commands.ListFollowing)
        after = parse_place(command.after)
        rules.may_see_lists(await self._author(caller, command.user_id), caller.user_id)
        found = await self._posts.following(
            command.user_id, after=after, limit=command.limit + 1, viewer_id=caller.user_id
        )
        return _follow_list(found, command.limit)

    async def _list_requests(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, feed_commands.ListFollowRequests)
        after = parse_place(command.after)
        found = await self._posts.requests(caller.user_id, after=after, limit=command.limit + 1)
        return _follow_list(found, command.limit)

    async def _list_muted(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, feed_commands.ListMuted)
        after = parse_place(command.after)
        found = await self._posts.muted(caller.user_id, after=after, limit=command.limit + 1)
        return _follow_list(found, command.limit)

    async def _author(self, caller: Caller, user_id: str) -> AuthorView:
        """A user of the app, as the caller stands to them. Raises: Refused("user_not_found")."""
        view = (await self._posts.views(caller.user_id, [user_id]))[user_id]
        if view.app_id != caller.app_id:
            raise Refused("user_not_found")
        return view

    # -- who may see what -----------------------------------------------------------------------------

    async def _root(self, caller: Caller, post_id: int) -> PostRow:
        """The post that likes and comments of this one belong to: of a repost, what it repeats.

        Raises: Refused(post_not_found, blocked).
        """
        post = await self._existing_root(caller, post_id)
        refusal = await self._refusal(caller, post)
        if refusal is not None:
            raise refusal
        return post

    async def _existing_root(self, caller: Caller, post_id: int) -> PostRow:
        """The same, whether the caller may see it or not. Raises: Refused("post_not_found")."""
        found = await self._posts.post(post_id)
        if found is not None and found[0].repost_of and not found[0].deleted_at_ms:
            found = await self._posts.post(found[0].repost_of)
        if found is None or found[0].deleted_at_ms or found[0].app_id != caller.app_id:
            raise Refused("post_not_found")
        return found[0]

    async def _refusal(self, caller: Caller, post: PostRow) -> Refused | None:
        """Why the caller may not see a post; None: they may."""
        view = (await self._posts.views(caller.user_id, [post.author_id]))[post.author_id]
        if rules.may_see(post, view, caller.user_id):
            return None
        return Refused("blocked" if view.is_blocked or view.blocks_viewer else "post_not_found")

    async def _seen(self, caller: Caller, post_ids: Sequence[int]) -> list[tuple[PostAt, PostAt | None]]:
        """Those of the posts that the caller may see, each repost with what it repeats."""
        found = await self._posts.posts(post_ids)
        visible = await self._visible(caller, list(found.values()))
        originals = await self._originals(caller, [row for row, _ in visible.values()])
        shown: list[tuple[PostAt, PostAt | None]] = []
        for post_id in dict.fromkeys(post_ids):
            if (at := visible.get(post_id)) is not None:
                original = originals.get(at[0].repost_of)
                if original is not None or not at[0].repost_of:
                    shown.append((at, original))
        return shown

    async def _originals(
        self, caller: Caller, rows: Sequence[PostRow], *, is_muting: bool = False
    ) -> dict[int, PostAt]:
        """What these reposts repeat, where the caller may see it, and with `is_muting` wants to."""
        root_ids = list({row.repost_of for row in rows if row.repost_of})
        found = await self._posts.posts(root_ids)
        return await self._visible(caller, list(found.values()), is_muting=is_muting)

    async def _visible(
        self, caller: Caller, found: Sequence[PostAt], *, is_muting: bool = False
    ) -> dict[int, PostAt]:
        mine = [at for at in found if at[0].app_id == caller.app_id]
        views = await self._posts.views(caller.user_id, list({row.author_id for row, _ in mine}))
        return {
            row.post_id: (row, counts)
            for row, counts in mine
            if rules.may_see(row, views[row.author_id], caller.user_id)
            and not (is_muting and views[row.author_id].is_muted)
        }

    async def _marked(
        self, caller: Caller, shown: Sequence[tuple[PostAt, PostAt | None]], author: AuthorView | None
    ) -> list[FeedItem]:
        """The posts as items, with the reader's own marks.

        `author` has posted them all; None: why they are shown is not asked.
        """
        root_ids = [row.repost_of or row.post_id for (row, _), _ in shown]
        liked, reposted = await self._posts.marks(caller.user_id, root_ids)
        return [
            FeedItem(
                post=_post(at),
                original=None if original is None else _post(original),
                why="public" if author is None else _why(at[0], author, caller.user_id),
                liked=root_id in liked,
                reposted=root_id in reposted,
            )
            for (at, original), root_id in zip(shown, root_ids, strict=True)
        ]


def _why(row: PostRow, author: AuthorView, viewer_id: str) -> Why:
    """Why a viewer sees a post of that author."""
    if row.author_id == viewer_id:
        return "own"
    if author.follow != "following":
        return "public"
    if row.repost_of:
        return "repost"
    return "hot" if row.is_hot else "followed"


def place_of(at: UserAt) -> str:
    """Name a place in a list of users, for a client that asks for what comes after it."""
    return f"{at[0]}.{at[1]}"


def parse_place(place: str) -> UserAt | None:
    """Read what `place_of` named. Raises: Refused("bad_cursor")."""
    if not place:
        return None
    at_ms, dot, user_id = place.partition(".")
    if not dot or not user_id or not at_ms.isascii() or not at_ms.isdigit() or len(at_ms) > 16:
        raise Refused("bad_cursor")
    return int(at_ms), user_id


def _follow_list(found: Sequence[UserAt], limit: int) -> feed_replies.FollowList:
    """A page, made from one line more than fits, if there is one."""
    page = found[:limit]
    return feed_replies.FollowList(
        items=[Follow(user_id=user_id, since_ms=at_ms) for at_ms, user_id in page],
        next=place_of(page[-1]) if len(found) > limit else "",
    )


def _fitting(
    shown: list[tuple[PostAt, PostAt | None]],
) -> list[tuple[PostAt, PostAt | None]]:
    """As many, one at least, as fit into a page."""
    size_bytes = 0
    for number, ((row, _), original) in enumerate(shown):
        size_bytes += _size(row) + (0 if original is None else _size(original[0]))
        if number and size_bytes > PAGE_BYTES:
            return shown[:number]
    return shown


def _size(row: PostRow) -> int:
    return len(row.text) + len(row.files) + _ITEM_BYTES


def _post(at: tuple[PostRow, PostCountsRow | None]) -> Post:
    return post_of(*at)
