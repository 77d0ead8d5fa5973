"""Who may see and do what with posts: looked up for each command anew, over the real store and authors."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import pytest

from actors.address import Address
from protocol import feed_commands, feed_replies, replies
from protocol.bases import BaseReply
from protocol.commands import Command
from protocol.errors import HubbubError, Refused
from protocol.limits import MAX_POST_TEXT_BYTES, PAGE_BYTES
from protocol.records import BlockRow, MuteRow, PostRow, Put, User
from server.caller import Caller
from server.identity import Identity
from server.post_service import PostService, parse_place, place_of
from tests.actors.feed.author_world import World, open_world

T = TypeVar("T", bound=BaseReply)


class Office:
    """The service, and users who call it by their ids."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked_count = 0

        async def ask(address: Address, message: object) -> replies.Reply:
            self.asked_count += 1
            return cast(replies.Reply, await world.router.ask(address, message, timeout_s=10.0))

        self.service = PostService(world.store, ask=ask)

    async def do(self, user_id: str, command: Command, kind: type[T]) -> T:
        app_id = "other" if user_id == "eve" else "default"
        row = User(
            user_id=user_id,
            app_id=app_id,
            username=user_id,
            username_key=user_id,
            name="",
            name_key="",
            created_at_ms=1,
        )
        caller = Caller(Identity(user=row, app_id=app_id, session_id="s"))
        reply = await self.service.handlers[type(command)](caller, command)
        assert isinstance(reply, kind)
        return reply

    async def code(self, user_id: str, command: Command) -> str:
        """The error's code; empty where there is none."""
        try:
            await self.do(user_id, command, BaseReply)
        except HubbubError as error:
            return error.code
        return ""

    async def block(self, user_id: str, other_id: str) -> None:
        await self.world.store.commit([Put(BlockRow(user_id=user_id, other_id=other_id, since_ms=1))])

    async def mute(self, user_id: str, other_id: str) -> None:
        await self.world.store.commit([Put(MuteRow(user_id=user_id, other_id=other_id, since_ms=1))])

    async def timeline(self, user_id: str, author_id: str, limit: int = 20) -> list[int]:
        """The post_ids of a whole timeline, read page by page."""
        found: list[int] = []
        before = 0
        while True:
            command = feed_commands.ListPosts(user_id=author_id, before=before, limit=limit)
            page = await self.do(user_id, command, feed_replies.PostPage)
            assert len(page.items) <= limit
            found += [item.post.post_id for item in page.items if item.post is not None]
            if not page.next:
                return found
            before = page.next


@asynccontextmanager
async def open_office(directory: Path) -> AsyncIterator[tuple[Office, World]]:
    async with open_world(directory) as world:
        await world.people("ann", "bob", "cai", "dan")
        await world.people("eve", app_id="other")
        yield Office(world), world


def like(post_id: int, *, removed: bool = False) -> feed_commands.LikePost:
    return feed_commands.LikePost(post_id=post_id, removed=removed)


def comment(post_id: int, text: str = "x", client_id: str = "c", **more: Any) -> feed_commands.AddComment:
    return feed_commands.AddComment(post_id=post_id, text=text, client_id=client_id, **more)


async def test_each_change_of_rights_counts_at_the_next_look(tmp_path: Path) -> None:
    """Public, followers only, private, blocked either way, deleted: for reads and for what is asked."""
    async with open_office(tmp_path) as (office, world):
        open_id = (await world.post("ann", "open")).post.post_id
        close_id = (await world.post("ann", "close", visibility="followers")).post.post_id

        async def codes(user_id: str, post_id: int) -> tuple[str, str, str]:
            """Of a read, of a like and of a repost."""
            read = await office.code(user_id, feed_commands.GetPost(post_id=post_id))
            liked = await office.code(user_id, like(post_id))
            repost = feed_commands.Repost(post_id=post_id, client_id=world.client_id())
            return read, liked, await office.code(user_id, repost)

        not_found = ("post_not_found",) * 3
        assert await codes("bob", open_id) == ("", "", "")
        assert await codes("bob", close_id) == not_found
        assert await codes("eve", open_id) == not_found  # of another app
        await world.edge("bob", "ann", "requested")
        assert await codes("bob", close_id) == not_found
        await world.edge("bob", "ann", "following")
        assert await codes("bob", close_id) == ("", "", "not_repostable")
        await world.do("ann", feed_commands.UpdateAuthor(is_private=True))
        assert await codes("bob", open_id) == ("", "", "")  # has reposted it before
        assert await codes("cai", open_id) == not_found
        await world.edge("bob", "ann", "")
        assert await codes("bob", open_id) == not_found
        # The own like: without counts, and once.
        taken = await office.do("bob", like(open_id, removed=True), feed_replies.PostCountsInfo)
        assert taken == feed_replies.PostCountsInfo(post_id=open_id)
        assert await office.code("bob", like(open_id, removed=True)) == "post_not_found"
        await world.do("ann", feed_commands.UpdateAuthor(is_private=False))
        blocked = ("post_not_found", "blocked", "blocked")
        await office.block("ann", "cai")
        assert await codes("cai", open_id) == blocked
        await office.block("dan", "ann")
        assert await codes("dan", open_id) == blocked
        assert await office.code("dan", comment(open_id)) == "blocked"
        await world.do("ann", feed_commands.DeletePost(post_id=open_id))
        assert await codes("bob", open_id) == not_found
        assert await codes("ann", open_id) == not_found


async def test_taking_back_what_was_never_given_tells_nothing(tmp_path: Path) -> None:
    """Else whoever guesses an id learns of private posts, and their counts."""
    async with open_office(tmp_path) as (office, world):
        post_id = (await world.post("ann", "for followers", visibility="followers")).post.post_id
        await world.like("ann", "ann", post_id)
        comment_id = await world.comment("ann", "ann", post_id)
        none = post_id + 1
        for user_id in ("bob", "eve"):
            for there, nowhere in (
                (like(post_id, removed=True), like(none, removed=True)),
                (
                    feed_commands.DeleteComment(post_id=post_id, comment_id=comment_id),
                    feed_commands.DeleteComment(post_id=none, comment_id=comment_id),
                ),
                (
                    feed_commands.DeleteComment(post_id=post_id, comment_id=comment_id + 1),
                    feed_commands.DeleteComment(post_id=none, comment_id=comment_id + 1),
                ),
            ):
                assert await office.code(user_id, there) == "post_not_found", there
                assert await office.code(user_id, nowhere) == "post_not_found", nowhere
        assert office.asked_count == 0
        assert await world.counts(post_id) == (1, 1, 0)
        await office.do("ann", like(post_id, removed=True), feed_replies.PostCountsInfo)
        assert await world.counts(post_id) == (0, 1, 0)


async def test_a_repost_stands_for_its_original(tmp_path: Path) -> None:
    async with open_office(tmp_path) as (office, world):
        root_id = (await world.post("ann", "root")).post.post_id
        repost = feed_commands.Repost(post_id=root_id, client_id="r")
        made = await office.do("bob", repost, feed_replies.PostInfo)
        repost_id = made.post.post_id
        counts = await office.do("cai", like(repost_id), feed_replies.PostCountsInfo)
        assert (counts.post_id, counts.likes, counts.liked) == (root_id, 1, True)
        added = await office.do("cai", comment(repost_id), feed_replies.CommentInfo)
        assert added.comment.post_id == root_id
        seen = await office.do("cai", feed_commands.GetPost(post_id=repost_id), feed_replies.PostInfo)
        assert seen.original is not None
        assert (seen.original.post_id, seen.original.likes, seen.original.comments) == (root_id, 1, 1)
        assert (seen.liked, seen.reposted) == (True, False)
        bobs = await office.do("bob", feed_commands.GetPost(post_id=root_id), feed_replies.PostInfo)
        assert (bobs.liked, bobs.reposted) == (False, True)
        page = await office.do("bob", feed_commands.ListPosts(user_id="bob"), feed_replies.PostPage)
        assert [(item.why, item.reposted) for item in page.items] == [("own", True)]
        assert await office.timeline("cai", "bob") == [repost_id]
        await office.mute("cai", "ann")
        assert await office.timeline("cai", "bob") == []
        await office.block("ann", "dan")
        assert await office.timeline("dan", "bob") == []
        get = feed_commands.GetPost(post_id=repost_id)
        assert await office.code("dan", get) == "post_not_found"
        await world.do("ann", feed_commands.DeletePost(post_id=root_id))
        assert await office.code("cai", get) == "post_not_found"
        assert await office.timeline("bob", "bob") == []


async def test_a_timeline_is_what_the_reader_may_see_page_by_page(tmp_path: Path) -> None:
    async with open_office(tmp_path) as (office, world):
        roots = [(await world.post("cai", f"root {number}")).post.post_id for number in range(6)]
        mine: dict[int, str] = {}
        for number in range(12):
            if number % 2:
                command = feed_commands.Repost(post_id=roots[number // 2], client_id=world.client_id())
                info = await office.do("ann", command, feed_replies.PostInfo)
                mine[info.post.post_id] = "gone" if number < 9 else "repost"
            else:
                visibility = "followers" if number % 4 else "public"
                mine[(await world.post("ann", visibility=visibility)).post.post_id] = visibility
        for root_id in roots[:4]:
            await world.do("cai", feed_commands.DeletePost(post_id=root_id))
        await world.edge("dan", "ann", "following")
        newest_first = sorted(mine, reverse=True)
        for limit in (1, 2, 5, 100):
            assert await office.timeline("bob", "ann", limit) == [
                i for i in newest_first if mine[i] in ("public", "repost")
            ]
            for user_id in ("ann", "dan"):
                assert await office.timeline(user_id, "ann", limit) == [
                    i for i in newest_first if mine[i] != "gone"
                ]
        await world.do("ann", feed_commands.UpdateAuthor(is_private=True))
        assert await office.timeline("bob", "ann") == []
        assert len(await office.timeline("dan", "ann")) == 8
        await office.block("ann", "dan")
        assert await office.timeline("dan", "ann") == []
        unknown = feed_commands.ListPosts(user_id="nobody")
        assert await office.code("bob", unknown) == "user_not_found"
        assert await office.code("eve", feed_commands.ListPosts(user_id="ann")) == "user_not_found"


async def test_a_page_of_long_posts_fits_into_a_frame(tmp_path: Path) -> None:
    async with open_office(tmp_path) as (office, world):
        ids = [(await world.post("ann", "x" * MAX_POST_TEXT_BYTES)).post.post_id for _ in range(30)]
        command = feed_commands.ListPosts(user_id="ann", limit=100)
        page = await office.do("bob", command, feed_replies.PostPage)
        assert sum(len(item.post.text) for item in page.items if item.post) <= PAGE_BYTES
        assert page.next
        assert await office.timeline("bob", "ann", 100) == sorted(ids, reverse=True)
        for number in range(60):
            await world.comment("bob", "ann", ids[0], "y" * 4096, client_id=str(number))
        found: list[int] = []
        after = 0
        while True:
            comments = await office.do(
                "bob",
                feed_commands.ListComments(post_id=ids[0], after=after, limit=100),
                feed_replies.CommentPage,
            )
            found += [item.comment_id for item in comments.items]
            after = comments.next
            if not after:
                break
        assert found == sorted(set(found))
        assert len(found) == 60


async def test_comments_and_likes_are_listed_for_who_sees_the_post(tmp_path: Path) -> None:
    async with open_office(tmp_path) as (office, world):
        post_id = (await world.post("ann")).post.post_id
        for user_id in ("bob", "cai", "dan"):
            world.now_ms += 1
            await office.do(user_id, like(post_id), feed_replies.PostCountsInfo)
            await office.do(user_id, comment(post_id, user_id), feed_replies.CommentInfo)
        await office.block("dan", "bob")
        await office.mute("bob", "cai")

        async def names(user_id: str) -> tuple[list[str], list[str]]:
            likes: list[str] = []
            after = ""
            while True:
                page = await office.do(
                    user_id,
                    feed_commands.ListLikes(post_id=post_id, after=after, limit=1),
                    feed_replies.FollowList,
                )
                likes += [item.user_id for item in page.items]
                after = page.next
                if not after:
                    break
            comments = await office.do(
                user_id, feed_commands.ListComments(post_id=post_id), feed_replies.CommentPage
            )
            return likes, [item.user_id for item in comments.items]

        assert await names("ann") == (["dan", "cai", "bob"], ["bob", "cai", "dan"])
        assert await names("bob") == (["cai", "bob"], ["bob"])
        listed = await office.do("ann", feed_commands.ListComments(post_id=post_id), feed_replies.CommentPage)
        bobs = listed.items[0].comment_id
        delete = feed_commands.DeleteComment(post_id=post_id, comment_id=bobs)
        assert await office.code("cai", delete) == "forbidden"
        await office.block("ann", "bob")
        assert await office.code("bob", feed_commands.ListComments(post_id=post_id)) == "blocked"
        await office.do("bob", delete, replies.Ok)  # what is one's own, whoever has blocked whom
        assert (await world.counts(post_id))[1] == 2


async def test_lists_of_users_are_as_private_as_the_account(tmp_path: Path) -> None:
    async with open_office(tmp_path) as (office, world):
        await world.follow("ann", "bob", "cai")
        await world.edge("ann", "dan", "following")
        await world.told_all()

        async def listed(user_id: str, command: Command) -> list[str]:
            page = await office.do(user_id, command, feed_replies.FollowList)
            return sorted(item.user_id for item in page.items)

        followers, following = (
            feed_commands.ListFollowers(user_id="ann"),
            feed_commands.ListFollowing(user_id="ann"),
        )
        assert await listed("dan", followers) == ["bob", "cai"]
        assert await listed("dan", following) == ["dan"]
        await world.do("ann", feed_commands.UpdateAuthor(is_private=True))
        for command in (followers, following):
            assert await office.code("dan", command) == "forbidden"
            assert await listed("bob", command)
            assert await listed("ann", command)
        await office.block("cai", "bob")
        assert await listed("bob", followers) == ["bob"]
        await office.block("bob", "ann")
        assert await office.code("bob", followers) == "blocked"
        await world.edge("dan", "ann", "requested")
        assert await listed("ann", feed_commands.ListFollowRequests()) == ["dan"]
        await office.mute("ann", "cai")
        assert await listed("ann", feed_commands.ListMuted()) == ["cai"]
        assert await office.code("ann", feed_commands.ListMuted(after="x")) == "bad_cursor"


async def test_an_author_is_shown_as_one_stands_to_them(tmp_path: Path) -> None:
    async with open_office(tmp_path) as (office, world):
        await world.post("ann")
        await world.follow("ann", "bob")
        await world.edge("ann", "bob", "requested")
        await world.told_all()
        await office.mute("bob", "ann")
        await office.block("bob", "ann")
        info = await office.do("bob", feed_commands.GetAuthor(user_id="ann"), feed_replies.AuthorInfo)
        author = info.author
        assert (author.followers, author.following, author.posts) == (1, 0, 1)
        assert (author.follow, author.follows_you, author.muted, author.blocked) == (
            "following",
            False,
            True,
            True,
        )
        assert await office.code("bob", feed_commands.GetAuthor(user_id="eve")) == "user_not_found"
        assert await office.code("ann", feed_commands.GetAuthor(user_id="bob")) == "blocked"


async def test_a_timeline_says_truly_why_a_post_is_shown(tmp_path: Path) -> None:
    async with open_office(tmp_path) as (office, world):
        root_id = (await world.post("cai")).post.post_id
        await world.post("ann", "own")
        await world.do("ann", feed_commands.Repost(post_id=root_id, client_id="r"))
        last_id = (await world.post("ann", "hot")).post.post_id
        row = await world.store.get(PostRow, last_id)
        assert row is not None
        await world.store.commit([Put(msgspec.structs.replace(row, is_hot=True))])
        await world.edge("bob", "ann", "following")
        await world.edge("dan", "ann", "requested")

        async def why(user_id: str) -> list[str]:
            page = await office.do(user_id, feed_commands.ListPosts(user_id="ann"), feed_replies.PostPage)
            return [item.why for item in page.items]

        assert await why("ann") == ["own", "own", "own"]
        assert await why("bob") == ["hot", "repost", "followed"]
        assert await why("cai") == await why("dan") == ["public", "public", "public"]


async def test_of_many_posts_the_visible_ones_are_told_in_their_order(tmp_path: Path) -> None:
    """For a session that wants to watch them."""
    async with open_office(tmp_path) as (office, world):
        first = (await world.post("ann")).post.post_id
        hidden = (await world.post("ann", visibility="followers")).post.post_id
        second = (await world.post("cai")).post.post_id
        row = await world.store.get(User, "bob")
        assert row is not None
        caller = Caller(Identity(user=row, app_id="default", session_id="s"))
        assert await office.service.visible(caller, [second, hidden, 99, first, second]) == [second, first]
        assert await office.service.visible(caller, []) == []


def test_a_place_is_read_back_or_refused() -> None:
    assert parse_place("") is None
    assert parse_place(place_of((17, "u.x"))) == (17, "u.x")
    for place in ("x", "17", "17.", ".u", "-1.u", "1e3.u", "9" * 17 + ".u", "１７.u"):
        with pytest.raises(Refused) as caught:
            parse_place(place)
        assert caught.value.code == "bad_cursor"
