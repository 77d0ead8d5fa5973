"""The news feed as nouns of the client: `client.posts`, `client.follows`, `client.feed`.

    await client.follows.follow(user_id)
    await client.posts.create("Hello, world #first")
    async for item in client.feed.items():
        ...

Each method is one command of the protocol and behaves as those of `hubbub.api.Commands`: it waits for its
answer, over reconnects if need be, and raises what the server answered instead. What comes live is in
`hubbub.feed_watch`.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar, overload

import msgspec

from hubbub.api import Pages, new_client_id
from hubbub.feed_watch import FeedWatch
from protocol import feed_commands as c
from protocol import feed_replies as fr
from protocol import replies as r
from protocol.commands import Command
from protocol.feed_types import (
    Author,
    Comment,
    FeedItem,
    FeedOrder,
    Follow,
    FollowState,
    Interest,
    InterestKind,
    Post,
    Trend,
    TrendKind,
    TrendWindow,
    Visibility,
)

ReplyT = TypeVar("ReplyT", bound=msgspec.Struct)

FEED_PAGE = 100  # the most that one answer holds


class Ask(Protocol):
    """Carry out one command; a client's `_ask` fits."""

    async def __call__(self, command: Command, reply_type: type[ReplyT], /) -> ReplyT: ...


class _Noun:
    def __init__(self, next_id: Callable[[], int], ask: Ask) -> None:
        self._next_id = next_id
        self._ask = ask

    def _follows(self, page: Callable[[str], Awaitable[fr.FollowList]]) -> Pages[Follow]:
        """Iterate over a list of users, page by page."""
        place = ""

        async def fetch() -> tuple[Sequence[Follow], bool]:
            nonlocal place
            found = await page(place)
            place = found.next
            return found.items, bool(place)

        return Pages(fetch)


class Posts(_Noun):
    """Posts, and what people say to them: likes, comments, reposts."""

    async def create(
        self,
        text: str = "",
        *,
        file_ids: Sequence[str] = (),
        mentions: Sequence[str] = (),
        visibility: Visibility = "public",
        language: str = "",
        client_id: str | None = None,
    ) -> Post:
        """Publish a post and wait until it is stored for good, exactly once.

        The same `client_id` gets the same post again: who might be interrupted chooses one. Hashtags are
        found in the text; files are uploaded before by `Accounts.upload`. At most 10 KB of text.
        """
        command = c.CreatePost(
            id=self._next_id(),
            client_id=client_id or new_client_id(),
            text=text,
            file_ids=list(file_ids),
            mentions=list(mentions),
            visibility=visibility,
            language=language,
        )
        return (await self._ask(command, fr.PostInfo)).post

    async def repost(self, post_id: int, *, client_id: str | None = None) -> Post:
        """Repeat a public post to one's own followers; doing it again gives the same repost."""
        command = c.Repost(id=self._next_id(), client_id=client_id or new_client_id(), post_id=post_id)
        return (await self._ask(command, fr.PostInfo)).post

    async def edit(
        self,
        post_id: int,
        *,
        text: str | None = None,
        mentions: Sequence[str] | None = None,
        visibility: Visibility | None = None,
    ) -> Post:
        """Change one's own post; what is None stays."""
        command = c.EditPost(
            id=self._next_id(),
            post_id=post_id,
            text=text,
            mentions=None if mentions is None else list(mentions),
            visibility=visibility,
        )
        return (await self._ask(command, fr.PostInfo)).post

    async def delete(self, post_id: int) -> None:
        """Delete one's own post or repost."""
        await self._ask(c.DeletePost(id=self._next_id(), post_id=post_id), r.Ok)

    async def get(self, post_id: int) -> fr.PostInfo:
        """Read one post, and whether the user likes and repeats it."""
        return await self._ask(c.GetPost(id=self._next_id(), post_id=post_id), fr.PostInfo)

    def of(self, user_id: str, *, before: int = 0, page_size: int = 20) -> Pages[FeedItem]:
        """Iterate over an author's timeline, newest first; `before`: only smaller post_ids."""
        place = before

        async def fetch() -> tuple[Sequence[FeedItem], bool]:
            nonlocal place
            command = c.ListPosts(id=self._next_id(), user_id=user_id, before=place, limit=page_size)
            page = await self._ask(command, fr.PostPage)
            place = page.next
            return page.items, place > 0

        return Pages(fetch)

    async def like(self, post_id: int) -> fr.PostCountsInfo:
        """Like a post; counted once however often it is said."""
        return await self._ask(c.LikePost(id=self._next_id(), post_id=post_id), fr.PostCountsInfo)

    async def unlike(self, post_id: int) -> fr.PostCountsInfo:
        """Take a like back."""
        command = c.LikePost(id=self._next_id(), post_id=post_id, removed=True)
        return await self._ask(command, fr.PostCountsInfo)

    def likes(self, post_id: int, *, page_size: int = 50) -> Pages[Follow]:
        """Iterate over who likes a post."""
        return self._follows(
            lambda after: self._ask(
                c.ListLikes(id=self._next_id(), post_id=post_id, after=after, limit=page_size), fr.FollowList
            )
        )

    async def comment(
        self,
        post_id: int,
        text: str,
        *,
        parent_id: int = 0,
        mentions: Sequence[str] = (),
        client_id: str | None = None,
    ) -> Comment:
        """Comment on a post, or (`parent_id`) answer a comment on it; stored once for each `client_id`."""
        command = c.AddComment(
            id=self._next_id(),
            client_id=client_id or new_client_id(),
            post_id=post_id,
            text=text,
            parent_id=parent_id,
            mentions=list(mentions),
        )
        return (await self._ask(command, fr.CommentInfo)).comment

    async def delete_comment(self, post_id: int, comment_id: int) -> None:
        """Delete one's own comment, or any on one's own post."""
        command = c.DeleteComment(id=self._next_id(), post_id=post_id, comment_id=comment_id)
        await self._ask(command, r.Ok)

    def comments(
        self, post_id: int, *, parent_id: int = 0, after: int = 0, page_size: int = 50
    ) -> Pages[Comment]:
        """Iterate over the comments on a post, or the answers to one of them, oldest first."""
        place = after

        async def fetch() -> tuple[Sequence[Comment], bool]:
            nonlocal place
            command = c.ListComments(
                id=self._next_id(), post_id=post_id, parent_id=parent_id, after=place, limit=page_size
            )
            page = await self._ask(command, fr.CommentPage)
            place = page.next
            return page.items, place > 0

        return Pages(fetch)


class Follows(_Noun):
    """Who follows whom, who may, and whom one does not want to see."""

    async def follow(self, user_id: str) -> FollowState:
        """Follow an author. "requested": the account is private, and its owner was asked."""
        return (await self._ask(c.FollowUser(id=self._next_id(), user_id=user_id), fr.FollowInfo)).follow

    async def unfollow(self, user_id: str) -> FollowState:
        """Stop following an author, or take back a request."""
        return (await self._ask(c.Unfollow(id=self._next_id(), user_id=user_id), fr.FollowInfo)).follow

    async def accept(self, user_id: str) -> None:
        """Let a user follow who has asked."""
        await self._ask(c.AnswerFollow(id=self._next_id(), user_id=user_id, accept=True), r.Ok)

    async def decline(self, user_id: str) -> None:
        """Do not let a user follow who has asked."""
        await self._ask(c.AnswerFollow(id=self._next_id(), user_id=user_id, accept=False), r.Ok)

    async def remove_follower(self, user_id: str) -> None:
        """Make a user stop following."""
        await self._ask(c.RemoveFollower(id=self._next_id(), user_id=user_id), r.Ok)

    async def author(self, user_id: str) -> Author:
        """Read a user's counts and how one stands to them."""
        return (await self._ask(c.GetAuthor(id=self._next_id(), user_id=user_id), fr.AuthorInfo)).author

    async def set_private(self, is_private: bool) -> Author:
        """Make the own account private (followers are approved) or public (all who asked are let in)."""
        command = c.UpdateAuthor(id=self._next_id(), is_private=is_private)
        return (await self._ask(command, fr.AuthorInfo)).author

    def followers(self, user_id: str, *, page_size: int = 50) -> Pages[Follow]:
        """Iterate over who follows a user, newest first."""
        return self._follows(
            lambda after: self._ask(
                c.ListFollowers(id=self._next_id(), user_id=user_id, after=after, limit=page_size),
                fr.FollowList,
            )
        )

    def following(self, user_id: str, *, page_size: int = 50) -> Pages[Follow]:
        """Iterate over whom a user follows, newest first."""
        return self._follows(
            lambda after: self._ask(
                c.ListFollowing(id=self._next_id(), user_id=user_id, after=after, limit=page_size),
                fr.FollowList,
            )
        )

    def requests(self, *, page_size: int = 50) -> Pages[Follow]:
        """Iterate over who asks to follow, oldest first."""
        return self._follows(
            lambda after: self._ask(
                c.ListFollowRequests(id=self._next_id(), after=after, limit=page_size), fr.FollowList
            )
        )

    async def mute(self, user_id: str) -> None:
        """Hide a user's posts and comments from oneself; the user is not told."""
        await self._ask(c.MuteUser(id=self._next_id(), user_id=user_id), r.Ok)

    async def unmute(self, user_id: str) -> None:
        """Show a user's posts and comments again."""
        await self._ask(c.MuteUser(id=self._next_id(), user_id=user_id, removed=True), r.Ok)

    def muted(self, *, page_size: int = 50) -> Pages[Follow]:
        """Iterate over whom one has muted."""
        return self._follows(
            lambda after: self._ask(
                c.ListMuted(id=self._next_id(), after=after, limit=page_size), fr.FollowList
            )
        )


class Feed(_Noun):
    """The own feed: what those whom the user follows have posted."""

    async def read(
        self,
        *,
        before: str = "",
        after: str | None = None,
        limit: int = 20,
        order: FeedOrder | None = None,
        explain: bool = False,
        ads: bool = True,
    ) -> fr.FeedPage:
        """Read one page: the newest, or what is beyond a cursor of another page.

        `before` goes on with older items and `after` with newer ones; neither skips or repeats anything,
        whatever comes in meanwhile. `order`: None as the app has set. `explain` also tells what was
        examined and left out, and why. `ads=False` suits a program that nobody looks at.
        """
        return await self._ask(
            c.ReadFeed(
                id=self._next_id(),
                before=before,
                after=after,
                limit=limit,
                order=order,
                explain=explain,
                ads=ads,
            ),
            fr.FeedPage,
        )

    def items(
        self, *, before: str = "", order: FeedOrder | None = None, page_size: int = 20, ads: bool = True
    ) -> Pages[FeedItem]:
        """Iterate over the feed, newest first, to its end. Ads are items of kind "ad"."""
        place = before

        async def fetch() -> tuple[Sequence[FeedItem], bool]:
            nonlocal place
            page = await self.read(before=place, limit=page_size, order=order, ads=ads)
            place = page.before
            return page.items, bool(place)

        return Pages(fetch)

    async def set_position(self, post_id: int) -> None:
        """Remember how far the user has read: the newest post that was on the screen."""
        await self._ask(c.SetFeedPosition(id=self._next_id(), post_id=post_id), r.Ok)

    async def explain(self, post_id: int) -> fr.Explanation:
        """Ask why a post is in the feed or not, and how it scores."""
        return await self._ask(c.ExplainPost(id=self._next_id(), post_id=post_id), fr.Explanation)

    @overload
    async def not_interested(self, *, post_id: int) -> Interest: ...
    @overload
    async def not_interested(self, *, author_id: str) -> Interest: ...
    @overload
    async def not_interested(self, *, hashtag: str) -> Interest: ...
    async def not_interested(self, *, post_id: int = 0, author_id: str = "", hashtag: str = "") -> Interest:
        """See less of a post, an author or a hashtag, from the next read on. It wears off; see docs/FEED.md.

        Give one of the three. Returns what it does, and until when.
        """
        return await self._set_interest(*_target(post_id, author_id, hashtag), removed=False)

    @overload
    async def interested_again(self, *, post_id: int) -> Interest: ...
    @overload
    async def interested_again(self, *, author_id: str) -> Interest: ...
    @overload
    async def interested_again(self, *, hashtag: str) -> Interest: ...
    async def interested_again(self, *, post_id: int = 0, author_id: str = "", hashtag: str = "") -> Interest:
        """Take a "not interested" back."""
        return await self._set_interest(*_target(post_id, author_id, hashtag), removed=True)

    async def _set_interest(self, kind: InterestKind, target: str, *, removed: bool) -> Interest:
        command = c.SetInterest(id=self._next_id(), kind=kind, target=target, removed=removed)
        return (await self._ask(command, fr.InterestInfo)).interest

    async def interests(self) -> list[Interest]:
        """Read all that the user is not interested in, and what that does by now."""
        return (await self._ask(c.ListInterests(id=self._next_id()), fr.InterestList)).items

    async def trends(
        self, kind: TrendKind = "hashtag", *, window: TrendWindow = "hour", limit: int = 10
    ) -> list[Trend]:
        """Read what trends in the app, the strongest first."""
        command = c.GetTrends(id=self._next_id(), kind=kind, window=window, limit=limit)
        return (await self._ask(command, fr.TrendList)).items

    async def recommendations(self, *, limit: int = 10) -> fr.Recommendations:
        """Read authors one might follow, and trending posts of authors one does not follow."""
        return await self._ask(c.GetRecommendations(id=self._next_id(), limit=limit), fr.Recommendations)

    async def ad_seen(self, slot_id: str) -> None:
        """Tell that an ad was on the screen; counted once."""
        await self._ask(c.AdSeen(id=self._next_id(), slot_id=slot_id), r.Ok)

    async def ad_clicked(self, slot_id: str) -> None:
        """Tell that an ad was clicked; counted once."""
        await self._ask(c.AdClicked(id=self._next_id(), slot_id=slot_id), r.Ok)


class LiveFeed(Feed):
    """The own feed of a connected client, which can also come live."""

    def __init__(
        self, next_id: Callable[[], int], ask: Ask, live: FeedWatch, begin: Callable[[], None]
    ) -> None:
        """`begin` starts the watch's task where it does not run yet."""
        super().__init__(next_id, ask)
        self._live = live
        self._begin = begin

    async def start_live(
        self, *, limit: int = 20, since: int | None = None, expand_news: bool = False
    ) -> fr.FeedPage:
        """Read the newest page; what comes after it comes to `client.events()` as `FeedPosted`, each once.

        Whatever the connection does meanwhile: what was missed is read and told in its place. Own posts come
        as well (`why` "own"). Posts of hot authors are only counted, by `FeedNews`, unless `expand_news`
        asks for all of them as items. `since`: tell also what is newer than that post_id, for who goes on
        where it was; at most the newest 5,000.
        """
        self._begin()
        return await self._live.start(limit=limit, since=since, expand_news=expand_news)

    async def stop_live(self) -> None:
        """End the live feed; watched posts stay watched."""
        await self._live.stop()

    async def watch(self, post_ids: Sequence[int]) -> None:
        """Hear of these posts (`PostCounts`, `FeedChanged`): those on the screen, at most 200.

        Replaces the last; kept over reconnects. What changed while there was no connection is not told:
        the next change brings the right numbers, or read the posts again.
        """
        self._begin()
        await self._live.watch(post_ids)


def _target(post_id: int, author_id: str, hashtag: str) -> tuple[InterestKind, str]:
    given: list[tuple[InterestKind, Any]] = [("post", post_id), ("author", author_id), ("hashtag", hashtag)]
    named = [(kind, str(target)) for kind, target in given if target]
    if len(named) != 1:
        raise ValueError("give one of post_id, author_id and hashtag")
    return named[0]
