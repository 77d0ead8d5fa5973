"""A small news feed in memory, hybrid like the real one, and a list of mistakes that it can make.

Not a model to compare with: it has feeds that are kept, caps, hot authors and pushes that take their time, so
that it can be wrong in the ways such feeds go wrong. The driver must find it right as it is, and wrong with
any one of `MISTAKES`; else the same driver over the real node shows nothing.
"""

import copy
from bisect import insort
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar, cast

import msgspec
import trio

from protocol import feed_commands as f
from protocol import feed_replies as r
from protocol.commands import Block, Command, Unblock
from protocol.errors import Refused
from protocol.feed_types import (
    Author,
    Comment,
    FeedItem,
    Follow,
    FollowState,
    Interest,
    LeftOut,
    Omission,
    Post,
)
from protocol.replies import Ok, Reply
from tests.feed.driver import Node
from tests.feed.machine import Cache
from tests.feed.oracle import DAY_MS, HOUR_MS

CAP: Final = 10
HOT: Final = 5
COOL: Final = 4
T = TypeVar("T")

MISTAKES: Final = (
    "a trimmed feed still counts as complete",
    "posts of a time when their author was hot are forgotten when it is not",
    "posts of a time when their author was not hot are forgotten when it is",
    "what is still being pushed is not merged in",
    "what was being pushed is lost by a crash",
    "what is pushed again is there twice",
    "a new follow brings nothing earlier",
    "an unfollow leaves what was pushed",
    "a block works one way",
    "follows survive a block",
    "a mute does not reach reposts of the muted",
    "a deleted post stays",
    "a repost stays when its original goes",
    "an edit is not seen",
    "an interest ends a day late",
    "an interest in a hashtag does not reach reposts",
    "a repost never comes after what came from the author",
    "a repost of a private author is shown to all",
    "a followers' post is forgotten by its reposts",
    "a page is not filled up",
    "a page begins with the last of the one before",
    "a cursor counts items",
    "going up skips one",
    "nothing is beyond the cap",
    "a hot author does not see own posts",
    "a like counts twice",
    "an unlike counts below nothing",
    "requests stay when the account becomes public",
    "a request shows posts",
    "the read position is lost by a restart",
    "what is above counts what is hidden",
    "a repeated command makes a second post",
    "comments are counted and never taken off",
    "a follower's count forgets blocks",
)


class _Post(msgspec.Struct):
    post: Post
    is_hot: bool
    client_id: str
    readers: list[str]
    waiting: list[str]  # to which of them it is still to be pushed


class _Feed(msgspec.Struct):
    entries: list[int]  # rising
    covered_from: int  # complete for ids from here on, but for hot authors' posts


class _State(msgspec.Struct):
    """What survives a crash."""

    posts: dict[int, _Post] = {}
    follows: dict[tuple[str, str], tuple[FollowState, bool]] = {}  # and whether it is a ghost
    blocks: set[tuple[str, str]] = set()
    mutes: set[tuple[str, str]] = set()
    private: set[str] = set()
    hot: set[str] = set()
    likes: set[tuple[int, str]] = set()
    like_counts: dict[int, int] = {}
    comments: dict[int, Comment] = {}
    comment_keys: dict[tuple[str, str], int] = {}
    interests: dict[tuple[str, str, str], int] = {}
    positions: dict[str, int] = {}
    feeds: dict[str, _Feed] = {}
    last_id: int = 0


class SmallNode:
    """Fits driver.Node. One push is done after each command."""

    soon_s = 0.01  # nothing is owed

    def __init__(self, *, keeps_feeds: bool = True, mistake: str = "") -> None:
        assert not mistake or mistake in MISTAKES
        self.now_ms = 1_700_000_000_000
        self._keeps_feeds = keeps_feeds
        self._mistake = mistake
        self._state = _State()

    def _errs(self, mistake: str) -> bool:
        assert mistake in MISTAKES
        return mistake == self._mistake

    # -- driver.Node --------------------------------------------------------------------------------

    async def do(self, user_id: str, command: Command) -> Reply:
        handle = cast(Callable[[str, Command], Reply], getattr(self, f"_{type(command).__name__.lower()}"))
        reply = handle(user_id, command)
        self._push(1)
        return copy.deepcopy(reply)

    async def do_and_crash(self, user_id: str, command: Command, appends: int) -> Reply:
        """What is stored first is the command itself, then one push after the other."""
        if appends:
            await self.do(user_id, command)
            self._push(appends - 1)
        await self.restart(orderly=False)
        return await self.do(user_id, command)

    async def settle(self) -> None:
        self._push(1_000_000)

    def next_change(self) -> trio.Event:
        return trio.Event()

    async def restart(self, *, orderly: bool) -> None:
        if orderly:
            self._push(1_000_000)
        for held in self._state.posts.values():
            if held.waiting:  # how far it was is lost
                is_lost = self._errs("what was being pushed is lost by a crash")
                held.waiting = [] if is_lost else [*held.readers]
        if self._errs("the read position is lost by a restart"):
            self._state.positions.clear()

    async def evict(self, user_id: str) -> None:
        self._state.feeds.pop(user_id, None)

    # -- following ----------------------------------------------------------------------------------

    def _followuser(self, user_id: str, command: f.FollowUser) -> Reply:
        author_id = command.user_id
        if user_id == author_id:
            raise Refused("self_not_allowed")
        if self._is_blocked(user_id, author_id):
            raise Refused("blocked")
        if self._follow_state(user_id, author_id) == "none":
            if author_id in self._state.private:
                self._state.follows[user_id, author_id] = ("requested", False)
            else:
                self._let_in(user_id, author_id)
        return r.FollowInfo(user_id=author_id, follow=self._follow_state(user_id, author_id))

    def _unfollow(self, user_id: str, command: f.Unfollow) -> Reply:
        self._end_follow(user_id, command.user_id)
        return r.FollowInfo(user_id=command.user_id, follow="none")

    def _let_in(self, user_id: str, author_id: str) -> None:
        self._state.follows[user_id, author_id] = ("following", False)
        feed = self._state.feeds.get(user_id)
        if feed is not None and not self._errs("a new follow brings nothing earlier"):
            for post_id, held in self._state.posts.items():
                if held.post.author_id == author_id and post_id >= feed.covered_from:
                    self._insert(feed, post_id)
        self._count(author_id)

    def _end_follow(self, user_id: str, author_id: str) -> None:
        if self._follow_state(user_id, author_id) == "none":
            return
        if self._errs("an unfollow leaves what was pushed"):
            self._state.follows[user_id, author_id] = ("following", True)
        else:
            del self._state.follows[user_id, author_id]
        self._count(author_id)

    def _count(self, author_id: str) -> None:
        count = len(self._followers(author_id))
        if count >= HOT:
            self._state.hot.add(author_id)
        elif count < COOL:
            self._state.hot.discard(author_id)

    def _updateauthor(self, user_id: str, command: f.UpdateAuthor) -> Reply:
        if command.is_private:
            self._state.private.add(user_id)
        else:
            self._state.private.discard(user_id)
            if not self._errs("requests stay when the account becomes public"):
                for who, author_id in [*self._state.follows]:
                    if author_id == user_id and self._follow_state(who, author_id) == "requested":
                        self._let_in(who, author_id)
        return self._getauthor(user_id, f.GetAuthor(user_id=user_id))

    def _getauthor(self, user_id: str, command: f.GetAuthor) -> Reply:
        author_id = command.user_id
        followers = len(self._followers(author_id))
        if self._errs("a follower's count forgets blocks"):
            followers += sum(other_id == author_id for _, other_id in self._state.blocks)
        return r.AuthorInfo(
            author=Author(
                user_id=author_id,
                is_private=author_id in self._state.private,
                followers=followers,
                following=sum(
                    who == author_id and state == ("following", False)
                    for (who, _), state in self._state.follows.items()
                ),
                posts=len(self._live(author_id)),
                follow=self._follow_state(user_id, author_id),
            )
        )

    def _answerfollow(self, user_id: str, command: f.AnswerFollow) -> Reply:
        if self._follow_state(command.user_id, user_id) != "requested":
            raise Refused("follow_not_found")
        if command.accept:
            self._let_in(command.user_id, user_id)
        else:
            self._end_follow(command.user_id, user_id)
        return Ok()

    def _removefollower(self, user_id: str, command: f.RemoveFollower) -> Reply:
        self._end_follow(command.user_id, user_id)
        return Ok()

    def _block(self, user_id: str, command: Block) -> Reply:
        self._state.blocks.add((user_id, command.user_id))
        if not self._errs("follows survive a block"):
            self._end_follow(user_id, command.user_id)
            self._end_follow(command.user_id, user_id)
        return Ok()

    def _unblock(self, user_id: str, command: Unblock) -> Reply:
        self._state.blocks.discard((user_id, command.user_id))
        return Ok()

    def _muteuser(self, user_id: str, command: f.MuteUser) -> Reply:
        if user_id == command.user_id:
            raise Refused("self_not_allowed")
        if command.removed:
            self._state.mutes.discard((user_id, command.user_id))
        else:
            self._state.mutes.add((user_id, command.user_id))
        return Ok()

    def _setinterest(self, user_id: str, command: f.SetInterest) -> Reply:
        key = (user_id, command.kind, command.target)
        self._state.interests.pop(key, None)
        if not command.removed:
            self._state.interests[key] = self.now_ms
        return r.InterestInfo(
            interest=Interest(
                kind=command.kind,
                target=command.target,
                since_ms=self.now_ms,
                factor=1.0 if command.removed else 0.0,
            )
        )

    def _listfollowers(self, user_id: str, command: f.ListFollowers) -> Reply:
        return self._list(self._followers(command.user_id), command)

    def _listfollowing(self, user_id: str, command: f.ListFollowing) -> Reply:
        return self._list(
            [
                author_id
                for (who, author_id), state in self._state.follows.items()
                if who == command.user_id and state == ("following", False)
            ],
            command,
        )

    def _listfollowrequests(self, user_id: str, command: f.ListFollowRequests) -> Reply:
        return self._list(
            [
                who
                for (who, author_id), (state, _) in self._state.follows.items()
                if author_id == user_id and state == "requested"
            ],
            command,
        )

    def _list(
        self, user_ids: list[str], command: f.ListFollowers | f.ListFollowing | f.ListFollowRequests
    ) -> r.FollowList:
        rest = sorted(user_id for user_id in user_ids if user_id > command.after)
        page = rest[: command.limit]
        return r.FollowList(
            items=[Follow(user_id=user_id) for user_id in page],
            next=page[-1] if len(rest) > len(page) else "",
        )

    # -- posts --------------------------------------------------------------------------------------

    def _createpost(self, user_id: str, command: f.CreatePost) -> Reply:
        def make(post_id: int) -> Post:
            return Post(
                post_id=post_id,
                author_id=user_id,
                at_ms=self.now_ms,
                text=command.text,
                visibility=command.visibility,
                hashtags=_hashtags(command.text),
            )

        return self._make(user_id, command.client_id, make)

    def _repost(self, user_id: str, command: f.Repost) -> Reply:
        target = self._state.posts[command.post_id].post
        root = self._state.posts[target.repost_of or target.post_id].post
        if root.deleted or self._is_blocked(user_id, root.author_id):
            raise Refused("post_not_found")
        if root.visibility != "public" or root.author_id in self._state.private:
            raise Refused("not_repostable")
        for held in self._state.posts.values():
            post = held.post
            if post.author_id == user_id and post.repost_of == root.post_id and not post.deleted:
                return r.PostInfo(post=post, duplicate=True)

        def make(post_id: int) -> Post:
            return Post(post_id=post_id, author_id=user_id, at_ms=self.now_ms, repost_of=root.post_id)

        return self._make(user_id, command.client_id, make)

    def _make(self, user_id: str, client_id: str, make: Callable[[int], Post]) -> Reply:
        if not self._errs("a repeated command makes a second post"):
            for held in self._state.posts.values():
                if (held.post.author_id, held.client_id) == (user_id, client_id):
                    return r.PostInfo(post=held.post, duplicate=True)
        self._state.last_id += 1
        post = make(self._state.last_id)
        is_hot = user_id in self._state.hot
        readers = [user_id] if is_hot else [user_id, *self._followers(user_id)]
        self._state.posts[post.post_id] = _Post(post, is_hot, client_id, readers, [*readers])
        return r.PostInfo(post=post)

    def _editpost(self, user_id: str, command: f.EditPost) -> Reply:
        held = self._own(user_id, command.post_id)
        if held.post.repost_of:
            raise Refused("not_author")
        text = held.post.text if command.text is None else command.text
        edited = msgspec.structs.replace(
            held.post,
            text=held.post.text if self._errs("an edit is not seen") else text,
            hashtags=_hashtags(text),
            visibility=command.visibility or held.post.visibility,
        )
        held.post = edited
        return r.PostInfo(post=msgspec.structs.replace(edited, text=text))

    def _deletepost(self, user_id: str, command: f.DeletePost) -> Reply:
        held = self._own(user_id, command.post_id)
        held.post = msgspec.structs.replace(held.post, deleted=True, hashtags=[])
        return Ok()

    def _own(self, user_id: str, post_id: int) -> _Post:
        held = self._state.posts[post_id]
        if held.post.deleted:
            raise Refused("post_not_found")
        if held.post.author_id != user_id:
            raise Refused("not_author")
        return held

    def _getpost(self, user_id: str, command: f.GetPost) -> Reply:
        return r.PostInfo(post=self._with_counts(self._state.posts[command.post_id].post))

    def _listposts(self, user_id: str, command: f.ListPosts) -> Reply:
        rest = [
            post_id
            for post_id in self._live(command.user_id)
            if post_id < (command.before or 2**53) and self._may_see_root(user_id, post_id)
        ]
        page = rest[: command.limit]
        return r.PostPage(
            items=[FeedItem(post=self._state.posts[post_id].post) for post_id in page],
            next=page[-1] if len(rest) > len(page) else 0,
        )

    def _likepost(self, user_id: str, command: f.LikePost) -> Reply:
        post_id = command.post_id
        self._look(user_id, post_id)
        counts, key = self._state.like_counts, (post_id, user_id)
        if command.removed:
            if key in self._state.likes or self._errs("an unlike counts below nothing"):
                counts[post_id] = counts.get(post_id, 0) - 1
            self._state.likes.discard(key)
        else:
            if key not in self._state.likes or self._errs("a like counts twice"):
                counts[post_id] = counts.get(post_id, 0) + 1
            self._state.likes.add(key)
        return r.PostCountsInfo(post_id=post_id, likes=counts.get(post_id, 0), liked=not command.removed)

    def _addcomment(self, user_id: str, command: f.AddComment) -> Reply:
        self._look(user_id, command.post_id)
        key = (user_id, command.client_id)
        if key in self._state.comment_keys:
            return r.CommentInfo(comment=self._state.comments[self._state.comment_keys[key]], duplicate=True)
        self._state.last_id += 1
        comment = Comment(
            comment_id=self._state.last_id,
            post_id=command.post_id,
            user_id=user_id,
            at_ms=self.now_ms,
            text=command.text,
        )
        self._state.comments[comment.comment_id] = comment
        self._state.comment_keys[key] = comment.comment_id
        return r.CommentInfo(comment=comment)

    def _deletecomment(self, user_id: str, command: f.DeleteComment) -> Reply:
        if not self._errs("comments are counted and never taken off"):
            comment = self._state.comments[command.comment_id]
            self._state.comments[command.comment_id] = msgspec.structs.replace(comment, deleted=True)
        return Ok()

    def _may_see_root(self, user_id: str, post_id: int) -> bool:
        try:
            self._look(user_id, self._state.posts[post_id].post.repost_of or post_id)
        except Refused:
            return False
        return True

    def _look(self, user_id: str, post_id: int) -> None:
        post = self._state.posts[post_id].post
        author_id = post.author_id
        is_open = post.visibility == "public" and author_id not in self._state.private
        may_see = user_id == author_id or (
            (is_open or self._follow_state(user_id, author_id) == "following")
            and not self._is_blocked(user_id, author_id)
        )
        if post.deleted or not may_see:
            raise Refused("post_not_found")

    # -- the feed -----------------------------------------------------------------------------------

    def _push(self, count: int) -> None:
        """Push the oldest post that waits to its next reader, so many times."""
        for post_id, held in self._state.posts.items():
            while held.waiting and count:
                user_id = held.waiting.pop(0)
                count -= 1
                feed = self._state.feeds.get(user_id)
                if feed is not None and post_id >= feed.covered_from:
                    if post_id in feed.entries and self._errs("what is pushed again is there twice"):
                        insort(feed.entries, post_id)
                    self._insert(feed, post_id)

    def _insert(self, feed: _Feed, post_id: int) -> None:
        if post_id not in feed.entries:
            insort(feed.entries, post_id)
        if len(feed.entries) > CAP:
            feed.entries = feed.entries[-CAP:]
            if not self._errs("a trimmed feed still counts as complete"):
                feed.covered_from = feed.entries[0]

    def _feed_of(self, user_id: str) -> _Feed:
        feed = self._state.feeds.get(user_id)
        if feed is None:
            ids = [post_id for post_id in self._pulled(user_id) if not self._state.posts[post_id].is_hot]
            feed = _Feed(ids[-CAP:], ids[-CAP] if len(ids) > CAP else 0)
            if self._keeps_feeds:
                self._state.feeds[user_id] = feed
        return feed

    def _pulled(self, user_id: str) -> list[int]:
        return [
            post_id
            for post_id, held in self._state.posts.items()
            if held.post.author_id == user_id or self._is_in(user_id, held.post.author_id)
        ]

    def _candidates(self, user_id: str) -> list[int]:
        """Everything that may be in a feed, newest first; the same whatever the way it came."""
        feed = self._feed_of(user_id)
        ids = [*feed.entries]
        for post_id in self._pulled(user_id):
            held = self._state.posts[post_id]
            is_hot_now = held.post.author_id in self._state.hot
            is_merged = held.is_hot
            if self._errs("posts of a time when their author was hot are forgotten when it is not"):
                is_merged = is_merged and is_hot_now
            if post_id < feed.covered_from and not self._errs("nothing is beyond the cap"):
                is_merged = True
            if held.waiting and not self._errs("what is still being pushed is not merged in"):
                is_merged = True
            if held.post.author_id == user_id:
                is_merged = not (held.is_hot and self._errs("a hot author does not see own posts"))
            if is_merged and post_id not in ids:
                ids.append(post_id)
        if self._errs("posts of a time when their author was not hot are forgotten when it is"):
            posts, hot = self._state.posts, self._state.hot
            ids = [i for i in ids if posts[i].post.author_id not in hot or posts[i].is_hot]
        return sorted(ids, reverse=True)

    def _readfeed(self, user_id: str, command: f.ReadFeed) -> Reply:
        if command.after is not None:
            return self._read_up(user_id, command)
        candidates = self._candidates(user_id)
        below = int(command.before) if command.before else 2**53
        rest = [post_id for post_id in candidates if post_id < below]
        if self._errs("a page begins with the last of the one before") and command.before:
            rest = [post_id for post_id in candidates if post_id <= below]
        if self._errs("a cursor counts items"):
            rest = candidates[int(command.before) :] if command.before else candidates
        items: list[FeedItem] = []
        left_out: list[Omission] = []
        examined = 0
        for post_id in rest:
            if len(items) == command.limit:
                break
            if self._errs("a page is not filled up") and examined == command.limit:
                break
            examined += 1
            post = self._state.posts[post_id].post
            reason = self._left_out(user_id, post)
            if reason is None:
                items.append(self._item(user_id, post))
            else:
                left_out.append(Omission(post_id=post_id, author_id=post.author_id, reason=reason))
        before = ""
        if any(self._left_out(user_id, self._state.posts[i].post) is None for i in rest[examined:]):
            before = str(rest[examined - 1])
            if self._errs("a cursor counts items"):
                before = str(len(candidates) - len(rest) + examined)
        position = self._state.positions.get(user_id, 0)
        hides = not self._errs("what is above counts what is hidden")
        return r.FeedPage(
            items=items,
            before=before,
            after=str(candidates[0]) if candidates else "",
            complete=True,
            read_position=position,
            new_above=sum(
                0 < position < post_id
                and (not hides or self._left_out(user_id, self._state.posts[post_id].post) is None)
                for post_id in candidates
            ),
            left_out=left_out,
        )

    def _read_up(self, user_id: str, command: f.ReadFeed) -> r.FeedPage:
        start = int(command.after or "0")
        items: list[FeedItem] = []
        for post_id in sorted(self._candidates(user_id)):
            post = self._state.posts[post_id].post
            if post_id > start and len(items) < command.limit and self._left_out(user_id, post) is None:
                items.append(self._item(user_id, post))
        if self._errs("going up skips one"):
            items = items[1:]
        last = items[-1].post if items else None
        return r.FeedPage(
            items=items, after=command.after or "" if last is None else str(last.post_id), complete=True
        )

    def _item(self, user_id: str, post: Post) -> FeedItem:
        root_id = post.repost_of or post.post_id
        return FeedItem(
            post=self._with_counts(post),
            original=self._with_counts(self._state.posts[root_id].post) if post.repost_of else None,
            why="repost" if post.repost_of else "own" if post.author_id == user_id else "followed",
            liked=(root_id, user_id) in self._state.likes,
            reposted=any(
                held.post.author_id == user_id and held.post.repost_of == root_id and not held.post.deleted
                for held in self._state.posts.values()
            ),
        )

    def _left_out(self, viewer: str, post: Post) -> LeftOut | None:
        root = self._state.posts[post.repost_of].post if post.repost_of else None
        if post.deleted and not self._errs("a deleted post stays"):
            return "deleted"
        if root is not None and root.deleted and not self._errs("a repost stays when its original goes"):
            return "deleted"
        if post.author_id != viewer and not self._is_in(viewer, post.author_id):
            return "not_followed"
        authors = [post.author_id] if root is None else [post.author_id, root.author_id]
        for author_id in authors:
            if self._is_blocked(viewer, author_id):
                return "blocked"
            if (viewer, author_id) in self._state.mutes and not (
                author_id != post.author_id and self._errs("a mute does not reach reposts of the muted")
            ):
                return "muted"
        if root is not None:
            follows_root = self._follow_state(viewer, root.author_id) == "following"
            is_private = root.author_id in self._state.private and not self._errs(
                "a repost of a private author is shown to all"
            )
            is_public = root.visibility == "public" or self._errs(
                "a followers' post is forgotten by its reposts"
            )
            if root.author_id != viewer and (not is_public or is_private) and not follows_root:
                return "not_visible"
            is_fresh = post.at_ms - root.at_ms < 48 * HOUR_MS or self._errs(
                "a repost never comes after what came from the author"
            )
            if post.author_id != viewer and is_fresh and (follows_root or root.author_id == viewer):
                return "seen_from_author"
        return "not_interested" if self._is_dull(viewer, post, root) else None

    def _is_dull(self, viewer: str, post: Post, root: Post | None) -> bool:
        late_ms = DAY_MS if self._errs("an interest ends a day late") else 0
        for one in [post] if root is None else [post, root]:
            tags = one.hashtags
            if one is root and self._errs("an interest in a hashtag does not reach reposts"):
                tags = []
            for kind, target, days in (
                ("post", str(one.post_id), 154),
                ("author", one.author_id, 14),
                *(("hashtag", tag, 14) for tag in tags),
            ):
                since_ms = self._state.interests.get((viewer, kind, target))
                if since_ms is not None and self.now_ms < since_ms + days * DAY_MS + late_ms:
                    return True
        return False

    def _explainpost(self, user_id: str, command: f.ExplainPost) -> Reply:
        reason = self._left_out(user_id, self._state.posts[command.post_id].post)
        return r.Explanation(
            post_id=command.post_id, why="followed" if reason is None else None, left_out=reason
        )

    def _setfeedposition(self, user_id: str, command: f.SetFeedPosition) -> Reply:
        self._state.positions[user_id] = command.post_id
        return Ok()

    # -- what is so ---------------------------------------------------------------------------------

    def _follow_state(self, user_id: str, author_id: str) -> FollowState:
        state, is_ghost = self._state.follows.get((user_id, author_id), ("none", False))
        return "none" if is_ghost else state

    def _is_in(self, user_id: str, author_id: str) -> bool:
        """Whether what the author posts comes into the feed."""
        state, _ = self._state.follows.get((user_id, author_id), ("none", False))
        return state == "following" or (state == "requested" and self._errs("a request shows posts"))

    def _followers(self, author_id: str) -> list[str]:
        return [
            user_id
            for (user_id, other_id), state in self._state.follows.items()
            if other_id == author_id and state == ("following", False)
        ]

    def _live(self, author_id: str) -> list[int]:
        posts = (held.post for held in self._state.posts.values())
        mine = [post.post_id for post in posts if post.author_id == author_id and not post.deleted]
        return sorted(mine, reverse=True)

    def _is_blocked(self, user_id: str, other_id: str) -> bool:
        if (user_id, other_id) in self._state.blocks:
            return True
        return (other_id, user_id) in self._state.blocks and not self._errs("a block works one way")

    def _with_counts(self, post: Post) -> Post:
        return msgspec.structs.replace(
            post,
            likes=self._state.like_counts.get(post.post_id, 0),
            comments=sum(
                comment.post_id == post.post_id and not comment.deleted
                for comment in self._state.comments.values()
            ),
            reposts=sum(
                held.post.repost_of == post.post_id and not held.post.deleted
                for held in self._state.posts.values()
            ),
        )


def _hashtags(text: str) -> list[str]:
    return [word[1:] for word in text.split() if word.startswith("#")]


@asynccontextmanager
async def open_small_node(cache: Cache, *, mistake: str = "") -> AsyncIterator[Node]:
    """What machine.FeedMachine.open_node gives."""
    yield SmallNode(keeps_feeds=cache != "off", mistake=mistake)
