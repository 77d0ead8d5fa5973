"""The nouns of the feed: each method is one command that a server would take, and pages end."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.api import Pages
from hubbub.calls import CallTable
from hubbub.feed import Feed, Follows, LiveFeed, Posts
from protocol import feed_commands as fc
from protocol import feed_replies as fr
from protocol import replies as r
from protocol.codec import Wire, decode_command, encode_payload
from protocol.commands import Command
from protocol.feed_types import Author, Comment, FeedItem, Follow, Interest, Post

ReplyT = TypeVar("ReplyT", bound=msgspec.Struct)

POST = Post(post_id=7, author_id="bob", at_ms=1)
COMMENT = Comment(comment_id=8, post_id=7, user_id="ann", at_ms=1)
INTEREST = Interest(kind="post", target="7")
AUTHOR = Author(user_id="bob")
REPLIES: dict[type, Any] = {
    r.Ok: r.Ok(),
    fr.PostInfo: fr.PostInfo(post=POST),
    fr.PostPage: fr.PostPage(items=[FeedItem(post=POST)]),
    fr.PostCountsInfo: fr.PostCountsInfo(post_id=7, likes=1),
    fr.CommentInfo: fr.CommentInfo(comment=COMMENT),
    fr.CommentPage: fr.CommentPage(items=[COMMENT]),
    fr.FollowInfo: fr.FollowInfo(user_id="bob", follow="requested"),
    fr.FollowList: fr.FollowList(items=[Follow(user_id="bob")]),
    fr.AuthorInfo: fr.AuthorInfo(author=AUTHOR),
    fr.FeedPage: fr.FeedPage(items=[FeedItem(post=POST)], complete=True),
    fr.Explanation: fr.Explanation(post_id=7, why="followed"),
    fr.InterestInfo: fr.InterestInfo(interest=INTEREST),
    fr.InterestList: fr.InterestList(items=[INTEREST]),
    fr.TrendList: fr.TrendList(items=[]),
    fr.Recommendations: fr.Recommendations(authors=[]),
}


class Wireless:
    """Takes commands as a server's decoder would, and answers each with a reply of its type."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self._next = 0

    def next_id(self) -> int:
        self._next += 1
        return self._next

    async def ask(self, command: Command, reply_type: type[ReplyT], /) -> ReplyT:
        assert reply_type is type(command).reply
        taken = decode_command(encode_payload(command, Wire.JSON_WS), Wire.JSON_WS)
        assert taken == command
        self.commands.append(command)
        reply = REPLIES[reply_type]
        assert isinstance(reply, reply_type)
        return reply

    def nouns(self) -> tuple[Posts, Follows, Feed]:
        return (Posts(self.next_id, self.ask), Follows(self.next_id, self.ask), Feed(self.next_id, self.ask))


Call = Callable[[Posts, Follows, Feed], Awaitable[Any] | Pages[Any]]

CALLS: list[tuple[Call, Command, Any]] = [
    (
        lambda p, _f, _n: p.create(
            "hi",
            file_ids=("f1",),
            mentions=("bob",),
            visibility="followers",
            language="de",
            client_id="k",
        ),
        fc.CreatePost(
            client_id="k",
            text="hi",
            file_ids=["f1"],
            mentions=["bob"],
            visibility="followers",
            language="de",
        ),
        POST,
    ),
    (lambda p, _f, _n: p.repost(7, client_id="k"), fc.Repost(client_id="k", post_id=7), POST),
    (
        lambda p, _f, _n: p.edit(7, text="b", mentions=(), visibility="public"),
        fc.EditPost(post_id=7, text="b", mentions=[], visibility="public"),
        POST,
    ),
    (lambda p, _f, _n: p.edit(7), fc.EditPost(post_id=7), POST),
    (lambda p, _f, _n: p.delete(7), fc.DeletePost(post_id=7), None),
    (lambda p, _f, _n: p.get(7), fc.GetPost(post_id=7), REPLIES[fr.PostInfo]),
    (lambda p, _f, _n: p.of("bob", before=9), fc.ListPosts(user_id="bob", before=9), [FeedItem(post=POST)]),
    (lambda p, _f, _n: p.like(7), fc.LikePost(post_id=7), REPLIES[fr.PostCountsInfo]),
    (lambda p, _f, _n: p.unlike(7), fc.LikePost(post_id=7, removed=True), REPLIES[fr.PostCountsInfo]),
    (lambda p, _f, _n: p.likes(7), fc.ListLikes(post_id=7), [Follow(user_id="bob")]),
    (
        lambda p, _f, _n: p.comment(7, "no", parent_id=3, mentions=("bob",), client_id="k"),
        fc.AddComment(client_id="k", post_id=7, text="no", parent_id=3, mentions=["bob"]),
        COMMENT,
    ),
    (lambda p, _f, _n: p.delete_comment(7, 8), fc.DeleteComment(post_id=7, comment_id=8), None),
    (
        lambda p, _f, _n: p.comments(7, parent_id=3, after=2, page_size=5),
        fc.ListComments(post_id=7, parent_id=3, after=2, limit=5),
        [COMMENT],
    ),
    (lambda _p, f, _n: f.follow("bob"), fc.FollowUser(user_id="bob"), "requested"),
    (lambda _p, f, _n: f.unfollow("bob"), fc.Unfollow(user_id="bob"), "requested"),
    (lambda _p, f, _n: f.accept("bob"), fc.AnswerFollow(user_id="bob", accept=True), None),
    (lambda _p, f, _n: f.decline("bob"), fc.AnswerFollow(user_id="bob", accept=False), None),
    (lambda _p, f, _n: f.remove_follower("bob"), fc.RemoveFollower(user_id="bob"), None),
    (lambda _p, f, _n: f.author("bob"), fc.GetAuthor(user_id="bob"), AUTHOR),
    (lambda _p, f, _n: f.set_private(True), fc.UpdateAuthor(is_private=True), AUTHOR),
    (lambda _p, f, _n: f.followers("bob"), fc.ListFollowers(user_id="bob"), [Follow(user_id="bob")]),
    (lambda _p, f, _n: f.following("bob"), fc.ListFollowing(user_id="bob"), [Follow(user_id="bob")]),
    (lambda _p, f, _n: f.requests(), fc.ListFollowRequests(), [Follow(user_id="bob")]),
    (lambda _p, f, _n: f.mute("bob"), fc.MuteUser(user_id="bob"), None),
    (lambda _p, f, _n: f.unmute("bob"), fc.MuteUser(user_id="bob", removed=True), None),
    (lambda _p, f, _n: f.muted(page_size=3), fc.ListMuted(limit=3), [Follow(user_id="bob")]),
    (
        lambda _p, _f, n: n.read(before="c", limit=3, order="ranked", explain=True, ads=False),
        fc.ReadFeed(before="c", limit=3, order="ranked", explain=True, ads=False),
        REPLIES[fr.FeedPage],
    ),
    (lambda _p, _f, n: n.read(after="c"), fc.ReadFeed(after="c"), REPLIES[fr.FeedPage]),
    (lambda _p, _f, n: n.items(before="c"), fc.ReadFeed(before="c"), [FeedItem(post=POST)]),
    (lambda _p, _f, n: n.set_position(7), fc.SetFeedPosition(post_id=7), None),
    (lambda _p, _f, n: n.explain(7), fc.ExplainPost(post_id=7), REPLIES[fr.Explanation]),
    (lambda _p, _f, n: n.not_interested(post_id=7), fc.SetInterest(kind="post", target="7"), INTEREST),
    (
        lambda _p, _f, n: n.not_interested(author_id="bob"),
        fc.SetInterest(kind="author", target="bob"),
        INTEREST,
    ),
    (
        lambda _p, _f, n: n.interested_again(hashtag="cats"),
        fc.SetInterest(kind="hashtag", target="cats", removed=True),
        INTEREST,
    ),
    (lambda _p, _f, n: n.interests(), fc.ListInterests(), [INTEREST]),
    (
        lambda _p, _f, n: n.trends("post", window="day", limit=3),
        fc.GetTrends(kind="post", window="day", limit=3),
        [],
    ),
    (
        lambda _p, _f, n: n.recommendations(limit=3),
        fc.GetRecommendations(limit=3),
        fr.Recommendations(authors=[]),
    ),
    (lambda _p, _f, n: n.ad_seen("1.2"), fc.AdSeen(slot_id="1.2"), None),
    (lambda _p, _f, n: n.ad_clicked("1.2"), fc.AdClicked(slot_id="1.2"), None),
]


@pytest.mark.parametrize(("call", "command", "result"), CALLS)
async def test_each_method_is_its_command(call: Call, command: Command, result: Any) -> None:
    """Whoever reads the reference of the protocol finds the same words here."""
    server = Wireless()
    done = call(*server.nouns())
    found = [one async for one in done] if isinstance(done, Pages) else await done
    (sent,) = server.commands
    assert msgspec.structs.replace(sent, id=0) == command
    assert sent.id == 1
    assert found == result


def test_every_command_of_the_feed_has_a_method() -> None:
    """A command that is added to the protocol is added here."""
    assert {type(command) for _, command, _ in CALLS} | {fc.WatchFeed} == set(get_args(fc.FeedCommand))
    assert hasattr(LiveFeed, "watch")


async def test_posts_and_comments_have_keys_of_their_own_where_none_is_given() -> None:
    """Two posts with the same text are two posts."""
    server = Wireless()
    posts, _, _ = server.nouns()
    for _ in range(2):
        await posts.create("hi")
        await posts.comment(7, "hi")
        await posts.repost(7)
    keys = [getattr(command, "client_id", "") for command in server.commands]
    assert len(set(keys)) == 6
    assert all(keys)


@given(count=st.integers(0, 60), size=st.integers(1, 20))
async def test_a_feed_is_iterated_to_its_end(count: int, size: int) -> None:
    """Whoever exports a feed gets all of it, in as many pages as it takes."""
    asked: list[str] = []

    async def ask(command: Command, _reply_type: type[ReplyT], /) -> Any:
        assert isinstance(command, fc.ReadFeed)
        asked.append(command.before)
        first = int(command.before or count)
        ids = range(first, max(0, first - command.limit), -1)
        items = [FeedItem(post=Post(post_id=post_id, author_id="bob", at_ms=1)) for post_id in ids]
        rest = first - len(items)
        return fr.FeedPage(items=items, before=str(rest) if rest > 0 else "", complete=True)

    feed = Feed(lambda: 1, ask)
    found = [item.post.post_id async for item in feed.items(page_size=size) if item.post]
    assert found == list(range(count, 0, -1))
    assert len(asked) == max(1, -(-count // size))


@pytest.mark.parametrize("given", [{}, {"post_id": 1, "hashtag": "x"}])
async def test_an_interest_is_in_one_thing(given: dict[str, Any]) -> None:
    """A slip of the programmer's is told at once."""
    _, _, feed = Wireless().nouns()
    with pytest.raises(ValueError, match="one of"):
        await feed.not_interested(**given)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (fc.DeletePost(id=1, post_id=7), "post_not_found"),
        (fc.DeleteComment(id=1, post_id=7, comment_id=8), "comment_not_found"),
        (fc.AnswerFollow(id=1, user_id="bob", accept=True), "follow_not_found"),
        (fc.RemoveFollower(id=1, user_id="bob"), "follow_not_found"),
    ],
)
def test_a_repetition_that_finds_its_work_done_has_succeeded(command: Command, code: str) -> None:
    """The answer was lost with the connection; the deletion was not."""
    calls = CallTable(chance=lambda: 0.5)
    first = calls.add(command)
    assert calls.take(0.0) == [command]
    calls.answer(r.Error(id=1, code=code), 0.0)
    assert first.error is not None  # at the first time it was really not there
    again = calls.add(msgspec.structs.replace(command, id=2))
    calls.take(0.0)
    calls.on_connection_lost()
    calls.take(0.0)
    calls.answer(r.Error(id=2, code=code), 0.0)
    assert isinstance(again.reply, r.Ok)
