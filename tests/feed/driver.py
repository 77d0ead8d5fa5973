"""Drive a node by commands, and say after each what the oracle says.

A `Node` is anything that answers the feed's commands: the real one (tests/feed/real_node.py), or the small
one that shows that this driver notices mistakes. Every operation takes small numbers, which stand for whoever
and whatever is there at that moment; so a random history stays meaningful when hypothesis shortens it. The
operations and how often they are drawn are in `OPERATIONS`.

What is checked after each operation is at once: nobody waits for fan-out or for tells, except where the
protocol promises no more than that something happens soon (`settle`).
"""

import random
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeVar

import msgspec
import trio

from protocol import feed_commands as f
from protocol import feed_replies as r
from protocol.commands import Block, Command, Unblock
from protocol.errors import HubbubError
from protocol.feed_types import FeedItem, InterestKind, Visibility
from protocol.replies import Reply
from tests.feed.oracle import DAY_MS, HOUR_MS, Oracle, Shown

USERS: Final = tuple(f"u_p{number}" for number in range(7))  # enough to cross a threshold of 5 and come back
PAGE: Final = 3
MAX_NEW_ABOVE: Final = 100
HASHTAGS: Final = ("", "tea", "jazz")
_KINDS: Final[tuple[InterestKind, ...]] = ("post", "author", "hashtag")
_VISIBILITIES: Final[tuple[Visibility | None, ...]] = (None, "public", "followers")
_ListCommand = f.ListFollowers | f.ListFollowing | f.ListFollowRequests
R = TypeVar("R")


class Node(Protocol):
    """What is driven. `do` acts for a user, as a device would. Raises: HubbubError."""

    now_ms: int
    soon_s: float  # how long what is owed may take

    async def do(self, user_id: str, command: Command) -> Reply: ...

    async def do_and_crash(self, user_id: str, command: Command, appends: int) -> Reply:
        """Do it, lose everything but what is stored after that many appends, start again, ask again."""
        ...

    async def settle(self) -> None:
        """Return when everything that is owed between actors is done: tells, pushes, counts."""
        ...

    def next_change(self) -> trio.Event:
        """What is set when something was stored after this call."""
        ...

    async def restart(self, *, orderly: bool) -> None: ...

    async def evict(self, user_id: str) -> None:
        """Forget the feed that is kept of a user."""
        ...


class Scroll(msgspec.Struct):
    """A reader on the way down."""

    viewer: str
    must: set[int]  # what was in the feed when it began and all the time since, and is not seen yet
    may: set[int]  # what was in it at some time since
    cursor: str = ""
    bottom: int = 0  # the last id that was seen
    seen: list[int] = []
    has_begun: bool = False


class Top(msgspec.Struct, frozen=True):
    """Where a reader can go up from: the `after` of a page."""

    cursor: str
    shown: int  # the newest id of that page
    known: int  # the newest id there was


class Driver:
    """Play operations on a node and on the oracle. An AssertionError says where they differ."""

    def __init__(self, node: Node, users: Sequence[str] = USERS, *, page: int = PAGE) -> None:
        self.node = node
        self.users = users
        self.page_limit = page
        self.oracle = Oracle(users)
        self.posts: list[int] = []  # every post_id that was ever given out, deleted or not, in that order
        self.author_of: dict[int, str] = {}
        self.root_of: dict[int, int] = {}  # of reposts
        self.comments: list[tuple[int, int, str]] = []  # (comment_id, post_id, user_id)
        self.scrolls: list[Scroll] = []
        self.tops: dict[str, Top] = {}
        self.read_positions: dict[str, int] = {}
        self.is_settled = False  # nothing is under way, and all that is counted can be compared
        self._crash_after: int | None = None
        self._numbers = 0

    # -- operations: following ----------------------------------------------------------------------

    async def follow(self, who: int, whom: int) -> None:
        user_id, author_id = self.users[who], self.users[whom]
        if user_id == author_id:
            await self.refused(user_id, f.FollowUser(user_id=author_id), "self_not_allowed")
        elif self.oracle.is_blocked(user_id, author_id):
            await self.refused(user_id, f.FollowUser(user_id=author_id), "blocked", "user_not_found")
        else:
            reply = await self._ask(user_id, f.FollowUser(user_id=author_id), r.FollowInfo)
            self.oracle.follow(user_id, author_id)
            assert (reply.user_id, reply.follow) == (
                author_id,
                self.oracle.follow_state(user_id, author_id),
            )
        await self._after(user_id)

    async def unfollow(self, who: int, whom: int) -> None:
        user_id, author_id = self.users[who], self.users[whom]
        if user_id == author_id:
            return
        reply = await self._ask(user_id, f.Unfollow(user_id=author_id), r.FollowInfo)
        self.oracle.unfollow(user_id, author_id)
        assert reply.follow == "none"
        await self._after(user_id)

    async def everybody_follows(self, whom: int) -> None:
        """Make an author hot."""
        for who in range(len(self.users)):
            if who != whom:
                await self.follow(who, whom)

    async def most_unfollow(self, whom: int, stay: int) -> None:
        """Make an author cool again."""
        followers = self.oracle.followers(self.users[whom])
        for user_id in followers[stay:]:
            await self.unfollow(self.users.index(user_id), whom)

    async def cross(self, whom: int, waits: int) -> None:
        """Take an author over the threshold, or back, and let them post; `waits`: once that is counted."""
        if len(self.oracle.followers(self.users[whom])) < len(self.users) - 2:
            await self.everybody_follows(whom)
        else:
            await self.most_unfollow(whom, 2)
        if waits:
            await self.node.settle()
        await self.post(whom, 0, 0)

    async def set_private(self, who: int, is_private: int) -> None:
        user_id = self.users[who]
        reply = await self._ask(user_id, f.UpdateAuthor(is_private=bool(is_private)), r.AuthorInfo)
        assert reply.author.is_private is bool(is_private)
        asked = [] if is_private else self.oracle.requests(user_id)
        self.oracle.set_private(user_id, bool(is_private))
        for follower_id in asked:  # they are let in one by one, soon
            await self._until_following(follower_id, user_id)
        await self._after(user_id)

    async def _until_following(self, user_id: str, author_id: str) -> None:
        follow = ""
        with trio.move_on_after(self.node.soon_s):
            while True:
                change = self.node.next_change()
                reply = await self.node.do(user_id, f.GetAuthor(user_id=author_id))
                assert isinstance(reply, r.AuthorInfo)
                follow = reply.author.follow
                if follow == "following":
                    break
                await change.wait()
        assert follow == "following", f"{user_id} asked to follow {author_id}: {follow}"
        await self.node.settle()

    async def answer(self, who: int, which: int, accept: int) -> None:
        author_id = self.users[who]
        requests = self.oracle.requests(author_id)
        if requests:
            user_id = requests[which % len(requests)]
            await self.node.do(author_id, f.AnswerFollow(user_id=user_id, accept=bool(accept)))
            self.oracle.answer(author_id, user_id, bool(accept))
            await self.node.settle()  # the follower's side hears of it by a tell
            await self._after(user_id)
        else:
            user_id = self.users[which % len(self.users)]
            if self.oracle.follow_state(user_id, author_id) == "none":
                await self.refused(
                    author_id,
                    f.AnswerFollow(user_id=user_id, accept=bool(accept)),
                    *("follow_not_found", "self_not_allowed"),
                )

    async def remove_follower(self, who: int, which: int) -> None:
        author_id = self.users[who]
        followers = self.oracle.followers(author_id)
        if followers:
            user_id = followers[which % len(followers)]
            await self.node.settle()  # the author must have counted whom it removes
            await self.node.do(author_id, f.RemoveFollower(user_id=user_id))
            self.oracle.unfollow(user_id, author_id)
            await self.node.settle()
            await self._after(user_id)

    async def block(self, who: int, whom: int) -> None:
        if who != whom:
            await self.node.do(self.users[who], Block(user_id=self.users[whom]))
            self.oracle.block(self.users[who], self.users[whom])
            await self._after(self.users[who], self.users[whom])

    async def unblock(self, who: int, whom: int) -> None:
        if who != whom:
            await self.node.settle()  # a block that is lifted before its tells arrive need not end follows
            await self.node.do(self.users[who], Unblock(user_id=self.users[whom]))
            self.oracle.unblock(self.users[who], self.users[whom])
            await self._after(self.users[who], self.users[whom])

    async def mute(self, who: int, whom: int, muted: int) -> None:
        command = f.MuteUser(user_id=self.users[whom], removed=not muted)
        if who == whom:
            await self.refused(self.users[who], command, "self_not_allowed")
        else:
            await self._do(self.users[who], command)
            self.oracle.mute(self.users[who], self.users[whom], bool(muted))
            await self._after(self.users[who])

    async def set_interest(self, who: int, kind: int, what: int, removed: int) -> None:
        user_id = self.users[who]
        kind_name = _KINDS[kind]
        if kind_name == "post":
            if not self.posts:
                return
            target = str(self._post(what))
        elif kind_name == "author":
            target = self.users[what % len(self.users)]
            if target == user_id:
                return
        else:
            target = HASHTAGS[1 + what % 2]
        command = f.SetInterest(kind=kind_name, target=target, removed=bool(removed))
        if kind_name == "post" and self.oracle.reasons(user_id, int(target), now_ms=self.node.now_ms):
            return  # nobody says so of what is not shown to them
        reply = await self._ask(user_id, command, r.InterestInfo)
        if removed:
            assert reply.interest.factor == 1.0
            self.oracle.take_interest_back(user_id, kind_name, target)
        else:
            assert reply.interest.factor == 0.0
            self.oracle.set_interest(user_id, kind_name, target, reply.interest.since_ms)
        await self._after(user_id)

    # -- operations: posts --------------------------------------------------------------------------

    async def post(self, who: int, tag: int, followers_only: int) -> None:
        await self.post_as(self.users[who], tag, followers_only)
        await self._after(self.users[who])

    async def post_as(self, user_id: str, tag: int, followers_only: int) -> int:
        text = self._text(user_id, tag)
        visibility: Visibility = "followers" if followers_only else "public"
        self._numbers += 1
        reply = await self._ask(
            user_id,
            f.CreatePost(client_id=f"c{self._numbers}", text=text, visibility=visibility),
            r.PostInfo,
        )
        post = reply.post
        assert (post.author_id, post.text, post.visibility) == (user_id, text, visibility)
        assert post.hashtags == _tags_of(tag)
        self._posted(post.post_id, user_id)
        self.oracle.post(
            post.post_id, user_id, post.at_ms, text, visibility=visibility, hashtags=_tags_of(tag)
        )
        return post.post_id

    async def repost(self, who: int, what: int) -> None:
        if not self.posts:
            return
        user_id, target_id = self.users[who], self._post(what)
        root_id = self.root_of.get(target_id, target_id)
        if target_id != root_id and not self.oracle.may_see(user_id, target_id):
            return
        self._numbers += 1
        command = f.Repost(client_id=f"c{self._numbers}", post_id=target_id)
        root_author_id = self.author_of[root_id]
        if not self.oracle.is_repostable(root_id) or self.oracle.is_blocked(user_id, root_author_id):
            if not self.oracle.repost_by(user_id, root_id):  # else it may be answered with that one
                await self.refused(user_id, command, "post_not_found", "not_repostable", "blocked")
            return
        reply = await self._ask(user_id, command, r.PostInfo)
        earlier = self.oracle.repost_by(user_id, root_id)
        assert reply.post.repost_of == root_id
        if earlier:
            assert (reply.post.post_id, reply.duplicate) == (earlier, True)
        else:
            self._posted(reply.post.post_id, user_id, root_id)
            self.oracle.post(reply.post.post_id, user_id, reply.post.at_ms, repost_of=root_id)
        await self._after(user_id)

    async def edit(self, what: int, tag: int, visibility: int) -> None:
        if not self.posts:
            return
        post_id = self._post(what)
        if visibility:  # of a repost: of what it repeats, whose reposts come and go with that
            post_id = self.root_of.get(post_id, post_id)
        author_id = self.author_of[post_id]
        text = self._text(author_id, tag)
        wanted = _VISIBILITIES[visibility]
        command = f.EditPost(post_id=post_id, text=text, visibility=wanted)
        if post_id in self.root_of or post_id not in self.oracle.live_posts(author_id):
            await self.refused(author_id, command)
            return
        stranger = next(user_id for user_id in self.users if user_id != author_id)
        await self.refused(stranger, command, "not_author", "post_not_found")
        reply = await self._ask(author_id, command, r.PostInfo)
        assert reply.post.text == text
        self.oracle.edit(post_id, text, _tags_of(tag), wanted)
        await self._after(author_id)

    async def delete(self, what: int) -> None:
        if not self.posts:
            return
        post_id = self._post(what)
        author_id = self.author_of[post_id]
        if post_id not in self.oracle.live_posts(author_id):
            return
        stranger = next(user_id for user_id in self.users if user_id != author_id)
        await self.refused(stranger, f.DeletePost(post_id=post_id), "not_author", "post_not_found")
        await self.node.do(author_id, f.DeletePost(post_id=post_id))
        self.oracle.delete(post_id)
        await self._after(author_id, *self.oracle.followers(author_id)[:1])

    async def like(self, who: int, what: int, removed: int) -> None:
        if not self.posts:
            return
        user_id, post_id = self.users[who], self._post(what)
        if post_id in self.root_of:
            return
        command = f.LikePost(post_id=post_id, removed=bool(removed))
        if not self.oracle.may_see(user_id, post_id):
            if not removed:  # a like may be taken back of what is not visible any more
                await self.refused(user_id, command, "post_not_found", "blocked")
            return
        await self._ask(user_id, command, r.PostCountsInfo)
        reply = await self._ask(user_id, command, r.PostCountsInfo)  # an impatient finger
        self.oracle.like(user_id, post_id, not removed)
        assert (reply.likes, reply.liked) == (self.oracle.counts(post_id).likes, not removed)
        await self._after(user_id)

    async def comment(self, who: int, what: int) -> None:
        if not self.posts:
            return
        user_id, post_id = self.users[who], self._post(what)
        if post_id in self.root_of:
            return
        self._numbers += 1
        command = f.AddComment(client_id=f"c{self._numbers}", post_id=post_id, text=f"c {self._numbers}")
        if not self.oracle.may_see(user_id, post_id):
            await self.refused(user_id, command, "post_not_found", "blocked")
            return
        reply = await self._ask(user_id, command, r.CommentInfo)
        again = await self._ask(user_id, command, r.CommentInfo)
        assert (again.comment.comment_id, again.duplicate) == (reply.comment.comment_id, True)
        self.comments.append((reply.comment.comment_id, post_id, user_id))
        self.oracle.comment(reply.comment.comment_id, post_id, user_id, command.text)
        await self._after(user_id)

    async def delete_comment(self, which: int) -> None:
        if not self.comments:
            return
        comment_id, post_id, user_id = self.comments[which % len(self.comments)]
        if post_id in self.oracle.live_posts(self.author_of[post_id]) and self.oracle.may_see(
            user_id, post_id
        ):
            await self.node.do(user_id, f.DeleteComment(post_id=post_id, comment_id=comment_id))
            self.oracle.delete_comment(comment_id)
            self.comments.remove((comment_id, post_id, user_id))

    async def burst(self, first: int, second: int, reader: int) -> None:
        """Two authors post at once, while others read: what was there before is in each page."""
        crash_after, self._crash_after = self._crash_after, None  # those who are at it cannot start a node
        writers = [self.users[first], self.users[second]]
        readers = [self.users[reader], *self.oracle.followers(writers[0])[:2]]
        begun = {user_id: self.oracle.ids(user_id, now_ms=self.node.now_ms) for user_id in readers}
        found: list[tuple[str, r.FeedPage]] = []

        async def read(user_id: str) -> None:
            for _ in range(3):
                page = await self._read(user_id, f.ReadFeed(limit=self.page_limit))
                found.append((user_id, page))

        async with trio.open_nursery() as nursery:
            for writer in writers:
                nursery.start_soon(self.post_as, writer, 0, 0)
            for user_id in readers:
                nursery.start_soon(read, user_id)
        for user_id, page in found:
            shown = _ids(page.items)
            now_there = self.oracle.ids(user_id, now_ms=self.node.now_ms)
            assert set(shown) <= set(now_there), f"{user_id} saw what is nowhere: {shown}"
            expected = [post_id for post_id in now_there if post_id in shown or post_id in begun[user_id]]
            assert shown == expected[: self.page_limit], f"{user_id} missed what was there before: {shown}"
        self._crash_after = crash_after
        await self._after(*readers)

    # -- operations: readers, time, faults ----------------------------------------------------------

    async def begin_scroll(self, who: int) -> None:
        self.scrolls = [*self.scrolls[-2:], self._new_scroll(self.users[who])]
        await self.scroll_on(len(self.scrolls) - 1)

    async def scroll_on(self, which: int) -> None:
        """Read the next page of a scroll that is under way, however much has changed since the last one."""
        if not self.scrolls:
            return
        scroll = self.scrolls[which % len(self.scrolls)]
        page = await self._read(
            scroll.viewer, f.ReadFeed(before=scroll.cursor, limit=self.page_limit, explain=True)
        )
        self._check_page(scroll.viewer, page, scroll.bottom)
        shown = _ids(page.items)
        assert not set(shown) & set(scroll.seen), f"{scroll.viewer} saw {shown} twice"
        if not scroll.has_begun:
            self.tops[scroll.viewer] = Top(page.after, max(shown, default=0), max(self.posts, default=0))
        scroll.has_begun = True
        scroll.seen += shown
        scroll.must -= set(shown)
        scroll.cursor = page.before
        scroll.bottom = scroll.seen[-1] if scroll.seen else 0
        if not page.before:
            assert not scroll.must, f"{scroll.viewer} scrolled to the end and never saw {scroll.must}"
            self.scrolls.remove(scroll)

    async def scroll_up(self, who: int) -> None:
        """From the top of an earlier page to the newest there is now, the next ones first."""
        user_id = self.users[who]
        top = self.tops.pop(user_id, None)
        if top is None or not top.cursor:
            return
        cursor, below, known = top.cursor, top.shown, top.known
        while True:
            page = await self._read(user_id, f.ReadFeed(after=cursor, limit=self.page_limit))
            shown = _ids(page.items)
            # The cursor may stand beyond `below`: for what was examined and hidden then, and is not now.
            starts = [below, *(post_id for post_id in self.posts if below < post_id <= known)]
            wanted = [self._ids_up(user_id, start) for start in starts]
            assert shown in wanted, f"{user_id} going up from {below}: {shown}, not {wanted[0]}"
            assert page.complete
            if not shown:
                return
            cursor, below, known = page.after, shown[-1], max(self.posts)

    async def set_position(self, who: int, what: int) -> None:
        user_id = self.users[who]
        post_id = self._post(what) if self.posts else 0
        await self._do(user_id, f.SetFeedPosition(post_id=post_id))
        self.read_positions[user_id] = post_id
        await self._after(user_id)

    async def pass_time(self, how: int) -> None:
        self.node.now_ms += (1, HOUR_MS, 25 * HOUR_MS, 7 * DAY_MS, 80 * DAY_MS)[how]
        await self.check_top(self.users[0])

    async def evict(self, who: int) -> None:
        await self.node.evict(self.users[who])
        await self.check_top(self.users[who])

    async def restart(self, orderly: int) -> None:
        await self.node.restart(orderly=bool(orderly))
        for user_id in self.users:
            await self.check_top(user_id)

    async def crash_soon(self, appends: int) -> None:
        """Let the node die in the middle of the next command that may be repeated, or of what follows it."""
        self._crash_after = appends

    # -- checks -------------------------------------------------------------------------------------

    async def check_all(self) -> None:
        """Every page of every user, from the newest to the end."""
        for user_id in self.users:
            await self.check_feed(user_id)
        self._note_scrolls()

    async def check_top(self, user_id: str) -> r.FeedPage:
        page = await self._read(user_id, f.ReadFeed(limit=self.page_limit, explain=True))
        self._check_page(user_id, page, 0)
        position = self.read_positions.get(user_id, 0)
        newer = self.oracle.page_up(user_id, position, MAX_NEW_ABOVE, now_ms=self.node.now_ms)
        above = len(newer) if position else 0  # who has never told a position has nothing above it
        assert (page.read_position, page.new_above) == (position, above), f"above, for {user_id}"
        return page

    async def check_feed(self, user_id: str) -> None:
        page = await self.check_top(user_id)
        seen = _ids(page.items)
        while page.before:
            page = await self._read(user_id, f.ReadFeed(before=page.before, limit=self.page_limit))
            self._check_page(user_id, page, seen[-1] if seen else 0)
            seen += _ids(page.items)
        assert seen == self.oracle.ids(user_id, now_ms=self.node.now_ms), f"all pages of {user_id}"

    async def check_counts(self) -> None:
        """Everything that is counted, once nothing is under way."""
        self._crash_after = None
        await self.node.settle()
        for user_id in self.users:
            author = (await self._ask(user_id, f.GetAuthor(user_id=user_id), r.AuthorInfo)).author
            followers = self.oracle.followers(user_id)
            following = self.oracle.following(user_id)
            live = self.oracle.live_posts(user_id)
            counted = (author.followers, author.following, author.posts)
            assert counted == (len(followers), len(following), len(live)), f"the counts of {user_id}"
            lists: tuple[tuple[_ListCommand, list[str]], ...] = (
                (f.ListFollowers(user_id=user_id, limit=2), followers),
                (f.ListFollowing(user_id=user_id, limit=2), following),
                (f.ListFollowRequests(limit=2), self.oracle.requests(user_id)),
            )
            for command, wanted_ids in lists:
                found_ids = await self._list(user_id, command)
                assert found_ids == wanted_ids, f"{command} of {user_id}: {found_ids}, not {wanted_ids}"
            for post_id in live:
                if post_id not in self.root_of:
                    reply = await self._ask(user_id, f.GetPost(post_id=post_id), r.PostInfo)
                    wanted = self.oracle.counts(post_id)
                    found = (reply.post.likes, reply.post.comments, reply.post.reposts)
                    assert found == (wanted.likes, wanted.comments, wanted.reposts), f"counts of {post_id}"
            timeline = await self._timeline(user_id)
            roots = self.root_of
            visible = [i for i in live if i not in roots or self.oracle.may_see(user_id, roots[i])]
            assert timeline == visible, f"the posts of {user_id}: {timeline}, not {visible}"

    async def explain(self, who: int, what: int) -> None:
        """Ask why a post is in the feed or not."""
        if not self.posts:
            return
        user_id, post_id = self.users[who], self._post(what)
        reasons = self.oracle.reasons(user_id, post_id, now_ms=self.node.now_ms)
        try:
            reply = await self._ask(user_id, f.ExplainPost(post_id=post_id), r.Explanation)
        except HubbubError as error:
            assert error.code == "post_not_found"
            assert reasons, f"{post_id} is in the feed of {user_id}"
            return
        assert (reply.why is None) is bool(reasons), f"{user_id} on {post_id}: {reply}, {reasons}"
        if reasons:
            assert reply.left_out in reasons, f"{user_id} on {post_id}: {reply.left_out}, not {reasons}"

    def close(self) -> None:
        self.oracle.close()

    # -- plumbing -----------------------------------------------------------------------------------

    def _check_page(self, user_id: str, page: r.FeedPage, before: int) -> None:
        """One page going down, against what the oracle has below `before` (0: from the top)."""
        now_ms = self.node.now_ms
        wanted = self.oracle.page(user_id, before, self.page_limit + 1, now_ms=now_ms)
        has_more = len(wanted) > self.page_limit
        wanted = wanted[: self.page_limit]
        found = [_shown(item) for item in page.items]
        assert found == wanted, f"the page of {user_id} below {before}:\n{found}\nnot\n{wanted}"
        assert page.complete
        assert page.order == "chronological"
        assert page.before or not has_more, f"the feed of {user_id} ends before it ends"
        for item in page.items:
            assert item.post is not None
            root_id = item.post.repost_of or item.post.post_id
            assert item.liked is self.oracle.has_liked(user_id, root_id), f"liked: {user_id}, {root_id}"
            if self.is_settled:  # what is reposted is counted by its own author, who is told
                reposted = bool(self.oracle.repost_by(user_id, root_id))
                assert item.reposted is reposted, f"reposted: {user_id}, {root_id}"
            if item.post.repost_of == 0:
                counts = self.oracle.counts(root_id)
                assert (item.post.likes, item.post.comments) == (counts.likes, counts.comments)
                wanted_why = {"own"} if item.post.author_id == user_id else {"followed", "hot"}
                assert item.why in wanted_why
            else:
                assert item.why == "repost" or item.post.author_id == user_id
        for omission in page.left_out:
            reasons = self.oracle.reasons(user_id, omission.post_id, now_ms=now_ms)
            assert omission.reason in reasons, f"{omission} for {user_id}: not {reasons}"

    def _ids_up(self, user_id: str, start: int) -> list[int]:
        shown = self.oracle.page_up(user_id, start, self.page_limit, now_ms=self.node.now_ms)
        return [one.post_id for one in shown]

    def _new_scroll(self, user_id: str) -> Scroll:
        there = set(self.oracle.ids(user_id, now_ms=self.node.now_ms))
        return Scroll(user_id, must=there, may=set(there))

    def _note_scrolls(self) -> None:
        """What has left a feed need not be seen any more by those who are on the way down."""
        for scroll in self.scrolls:
            there = set(self.oracle.ids(scroll.viewer, now_ms=self.node.now_ms))
            scroll.must &= there
            scroll.may |= there

    async def _after(self, *user_ids: str) -> None:
        """What every operation ends with: those whom it concerns look at their feeds."""
        self._note_scrolls()
        for user_id in user_ids:
            await self.check_top(user_id)

    async def _do(self, user_id: str, command: Command) -> Reply:
        if self._crash_after is None:
            return await self.node.do(user_id, command)
        appends, self._crash_after = self._crash_after, None
        return await self.node.do_and_crash(user_id, command, appends)

    async def _ask(self, user_id: str, command: Command, kind: type[R]) -> R:
        reply = await self._do(user_id, command)
        assert isinstance(reply, kind), f"{command} was answered by {reply}"
        return reply

    async def refused(self, user_id: str, command: Command, *codes: str) -> None:
        try:
            reply = await self.node.do(user_id, command)
        except HubbubError as error:
            assert not codes or error.code in codes, f"{command} of {user_id}: {error.code}, not {codes}"
            return
        raise AssertionError(f"{user_id} was allowed {command}: {reply}")

    async def _read(self, user_id: str, command: f.ReadFeed) -> r.FeedPage:
        reply = await self.node.do(user_id, command)
        assert isinstance(reply, r.FeedPage)
        return reply

    async def _list(self, user_id: str, command: _ListCommand) -> list[str]:
        found: list[str] = []
        while True:
            page = await self._ask(user_id, command, r.FollowList)
            found += [item.user_id for item in page.items]
            if not page.next:
                assert len(found) == len(set(found)), f"{command} lists somebody twice"
                return sorted(found)
            command = msgspec.structs.replace(command, after=page.next)

    async def _timeline(self, user_id: str) -> list[int]:
        found: list[int] = []
        before = 0
        while True:
            page = await self._ask(
                user_id, f.ListPosts(user_id=user_id, before=before, limit=self.page_limit), r.PostPage
            )
            found += _ids(page.items)
            before = page.next
            if not before:
                return found

    def _post(self, what: int) -> int:
        """0: the newest, and so on; round and round."""
        return self.posts[-1 - what % len(self.posts)]

    def _posted(self, post_id: int, author_id: str, root_id: int = 0) -> None:
        assert post_id not in self.author_of, f"{post_id} was given out twice"
        self.posts.append(post_id)
        self.author_of[post_id] = author_id
        if root_id:
            self.root_of[post_id] = root_id

    def _text(self, user_id: str, tag: int) -> str:
        self._numbers += 1
        return f"{user_id} {self._numbers}{''.join(f' #{name}' for name in _tags_of(tag))}"


def _tags_of(tag: int) -> list[str]:
    return [HASHTAGS[tag]] if tag else []


def _ids(items: Iterable[FeedItem]) -> list[int]:
    return [item.post.post_id for item in items if item.post is not None]


def _shown(item: FeedItem) -> Shown:
    assert item.post is not None
    if item.post.repost_of == 0:
        assert item.original is None
        return Shown(item.post.post_id, item.post.author_id, item.post.text)
    assert item.original is not None
    return Shown(
        item.post.post_id,
        item.post.author_id,
        item.post.text,
        item.post.repost_of,
        item.original.author_id,
        item.original.text,
    )


# -- what there is to do ------------------------------------------------------------------------------

_USER: Final = len(USERS)
_RECENT: Final = 12  # how far back an operation reaches for its post


class Operation(msgspec.Struct, frozen=True):
    """A method of Driver: how often it is drawn, and for each argument how many values it has."""

    name: str
    weight: int
    sizes: dict[str, int]


OPERATIONS: Final = (
    Operation("follow", 4, {"who": _USER, "whom": _USER}),
    Operation("unfollow", 2, {"who": _USER, "whom": _USER}),
    Operation("everybody_follows", 1, {"whom": _USER}),
    Operation("most_unfollow", 1, {"whom": _USER, "stay": 5}),
    Operation("cross", 3, {"whom": 3, "waits": 2}),  # few authors, so that they go both ways
    Operation("set_private", 1, {"who": _USER, "is_private": 2}),
    Operation("answer", 1, {"who": _USER, "which": _USER, "accept": 2}),
    Operation("remove_follower", 1, {"who": _USER, "which": _USER}),
    Operation("block", 1, {"who": _USER, "whom": _USER}),
    Operation("unblock", 1, {"who": _USER, "whom": _USER}),
    Operation("mute", 1, {"who": _USER, "whom": _USER, "muted": 2}),
    Operation("set_interest", 1, {"who": _USER, "kind": 3, "what": _RECENT, "removed": 2}),
    Operation("post", 8, {"who": _USER, "tag": len(HASHTAGS), "followers_only": 2}),
    Operation("repost", 3, {"who": _USER, "what": _RECENT}),
    Operation("edit", 2, {"what": _RECENT, "tag": len(HASHTAGS), "visibility": 3}),
    Operation("delete", 2, {"what": _RECENT}),
    Operation("like", 1, {"who": _USER, "what": _RECENT, "removed": 2}),
    Operation("comment", 1, {"who": _USER, "what": _RECENT}),
    Operation("delete_comment", 1, {"which": 3}),
    Operation("burst", 1, {"first": _USER, "second": _USER, "reader": _USER}),
    Operation("begin_scroll", 2, {"who": _USER}),
    Operation("scroll_on", 3, {"which": 3}),
    Operation("scroll_up", 1, {"who": _USER}),
    Operation("set_position", 1, {"who": _USER, "what": _RECENT}),
    Operation("explain", 1, {"who": _USER, "what": _RECENT}),
    Operation("pass_time", 2, {"how": 5}),
    Operation("evict", 1, {"who": _USER}),
    Operation("restart", 1, {"orderly": 2}),
    Operation("crash_soon", 1, {"appends": 8}),
    Operation("check_all", 2, {}),
)


def draw(rng: random.Random) -> tuple[str, dict[str, int]]:
    """Choose an operation and its arguments."""
    (operation,) = rng.choices(OPERATIONS, [one.weight for one in OPERATIONS])
    return operation.name, {name: rng.randrange(size) for name, size in operation.sizes.items()}
