"""The bot that posts from a file, against a scripted peer: each entry and each answer once, come what may."""

import json
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from examples.feed_bot import MAX_TEXT_BYTES, Entry, State, make_bot, read_source
from protocol import feed_commands as fc
from protocol import feed_replies as fr
from protocol import replies as r
from protocol.commands import Command
from protocol.feed_events import PostCounts
from protocol.feed_types import Comment, FeedItem, Post
from protocol.limits import MAX_POST_TEXT_BYTES
from protocol.replies import Reply
from tests.hubbub.peer import Hangup, Peer, PeerSession, open_peer


class Timeline:
    """One author's posts and their comments, as a server keeps them."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.posts: dict[str, Post] = {}  # by client_id
        self.comments: list[Comment] = []
        self.keys: dict[str, Comment] = {}
        self.watched: list[int] = []
        self.lose: list[type[Command]] = []  # the answers to these are lost, once each
        peer.on_command = self.answer

    def answer(self, _session: PeerSession, command: Command) -> Reply | None:
        reply = self._answer(command)
        if type(command) in self.lose:
            self.lose.remove(type(command))
            raise Hangup
        return reply

    def _answer(self, command: Command) -> Reply | None:
        if isinstance(command, fc.CreatePost):
            if command.text == "refused":
                return r.Error(id=command.id, code="text_empty")
            post = self.posts.setdefault(
                command.client_id,
                Post(post_id=100 + len(self.posts), author_id="ann", at_ms=1, text=command.text),
            )
            return fr.PostInfo(id=command.id, post=post)
        if isinstance(command, fc.ListPosts):
            items = [FeedItem(post=self._counted(post)) for post in reversed(list(self.posts.values()))]
            return fr.PostPage(id=command.id, items=items)
        if isinstance(command, fc.ListComments):
            found = [
                comment
                for comment in self.comments
                if (comment.post_id, comment.parent_id) == (command.post_id, command.parent_id)
                and comment.comment_id > command.after
            ]
            return fr.CommentPage(id=command.id, items=found)
        if isinstance(command, fc.AddComment):
            if command.client_id not in self.keys:
                self.keys[command.client_id] = self._add(
                    command.post_id, "ann", command.text, command.parent_id, command.mentions
                )
            return fr.CommentInfo(id=command.id, comment=self.keys[command.client_id])
        if isinstance(command, fc.WatchFeed):
            self.watched = list(command.post_ids)
            return r.Ok(id=command.id)
        return None

    def _counted(self, post: Post) -> Post:
        count = sum(comment.post_id == post.post_id for comment in self.comments)
        return Post(post_id=post.post_id, author_id="ann", at_ms=1, text=post.text, comments=count)

    def _add(self, post_id: int, user_id: str, text: str, parent_id: int, mentions: list[str]) -> Comment:
        comment = Comment(
            comment_id=1_000 + len(self.comments),
            post_id=post_id,
            user_id=user_id,
            at_ms=1,
            text=text,
            parent_id=parent_id,
            mentions=mentions,
        )
        self.comments.append(comment)
        return comment

    async def say(self, post_id: int, text: str, *, parent_id: int = 0, to: str = "ann") -> int:
        """Somebody comments; who watches hears of the count."""
        comment = self._add(post_id, "bob", text, parent_id, [to] if to else [])
        count = sum(one.post_id == post_id for one in self.comments)
        await self.peer.tell(PostCounts(post_id=post_id, comments=count))
        return comment.comment_id

    def answers(self) -> list[tuple[int, str]]:
        return [(one.parent_id, one.text) for one in self.comments if one.user_id == "ann"]

    async def wait_answers(self, count: int) -> None:
        while len(self.answers()) < count:  # noqa: ASYNC110 - it happens on the other end of a real socket
            await trio.sleep(0.002)

    async def wait_posts(self, count: int) -> None:
        while len(self.posts) < count:  # noqa: ASYNC110
            await trio.sleep(0.002)


def test_a_json_feed_is_read_from_its_oldest_item_on(tmp_path: Path) -> None:
    """What sites publish, newest first."""
    source = tmp_path / "feed.json"
    items = [
        {"id": "2", "title": "Second", "content_text": "More.", "url": "https://example.com/2"},
        {"id": 1, "title": "First"},
        {"title": "", "content_text": None},
    ]
    source.write_text(json.dumps({"version": "https://jsonfeed.org/version/1.1", "items": items}))
    first, second = read_source(source)
    assert (first.text, first.url) == ("First", "")
    assert (second.text, second.url) == ("Second\n\nMore.\n\nhttps://example.com/2", "https://example.com/2")
    assert first.key != second.key


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=12))
def test_each_line_is_one_post_whose_key_stays_when_lines_are_added(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    """A log that grows: what was posted keeps its key, and no two entries share one."""
    source = tmp_path_factory.mktemp("source") / "lines.txt"
    source.write_text("\n".join(["start", *lines]), encoding="utf-8")
    before = read_source(source)
    source.write_text("\n".join(["start", *lines, "another line"]), encoding="utf-8")
    after = read_source(source)
    assert after[: len(before)] == before
    assert len({entry.key for entry in after}) == len(after) == len(before) + 1
    assert all(entry.text.strip() for entry in after)


def test_a_long_entry_is_shortened_to_what_a_post_may_have(tmp_path: Path) -> None:
    """Cut between characters, not within one."""
    source = tmp_path / "long.txt"
    source.write_text("é" * MAX_TEXT_BYTES, encoding="utf-8")
    (entry,) = read_source(source)
    assert entry.text.endswith("é …")
    assert MAX_TEXT_BYTES - 2 <= len(entry.text.encode()) <= MAX_POST_TEXT_BYTES


async def test_each_entry_and_each_answer_is_stored_once_over_lost_answers_and_restarts(
    tmp_path: Path,
) -> None:
    """The bot, its state and its line may fail at any moment."""
    source = tmp_path / "news.txt"
    source.write_text("one\nrefused\ntwo\n")
    async with open_peer() as peer:
        timeline = Timeline(peer)
        timeline.lose = [fc.CreatePost, fc.AddComment]
        with trio.fail_after(20):
            state = State(str(tmp_path / "state.db"))
            bot = make_bot(peer.tcp_url, "token-ann", source, state, tick_s=0.02)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bot.serve)
                await timeline.wait_posts(2)
                with source.open("a") as file:
                    file.write("three\n")
                await timeline.wait_posts(3)
                one = next(post.post_id for post in timeline.posts.values() if post.text == "one")
                asked = await timeline.say(one, "what is that, ann?")
                await timeline.say(one, "I do not ask anybody", to="")
                await timeline.wait_answers(1)
                await timeline.say(one, "and why, ann?", parent_id=asked)
                await timeline.wait_answers(2)
                bot.stop()
            state.close()
            # While it is down, somebody asks; and then its state is lost.
            late = await timeline.say(one, "are you there, ann?")
            state = State(str(tmp_path / "another.db"))
            again = make_bot(peer.tcp_url, "token-ann", source, state, tick_s=0.02)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(again.serve)
                await timeline.wait_answers(3)
                assert set(timeline.watched) == {post.post_id for post in timeline.posts.values()}
                again.stop()
            state.close()
        assert [post.text for post in timeline.posts.values()] == ["one", "two", "three"]
        assert [parent_id for parent_id, _ in timeline.answers()] == [asked, asked, late]
        assert not timeline.lose


async def test_an_answer_says_where_more_is_to_be_read(tmp_path: Path) -> None:
    """Readers who ask want the link."""
    source = tmp_path / "feed.json"
    source.write_text(json.dumps({"items": [{"id": "1", "title": "News", "url": "https://example.com/1"}]}))
    async with open_peer() as peer:
        timeline = Timeline(peer)
        state = State(str(tmp_path / "state.db"))
        bot = make_bot(peer.tcp_url, "token-ann", source, state, tick_s=0.02)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bot.serve)
                await timeline.wait_posts(1)
                (post,) = timeline.posts.values()
                asked = await timeline.say(post.post_id, "ann?")
                await timeline.wait_answers(1)
                bot.stop()
        state.close()
        assert timeline.answers() == [(asked, "There is more to read at https://example.com/1")]


def test_a_state_knows_what_was_posted(tmp_path: Path) -> None:
    """It is what a restart rests on."""
    path = str(tmp_path / "state.db")
    one, two = Entry("a", "one"), Entry("b", "two", "https://example.com")
    state = State(path)
    state.posted(two, 7)
    state.posted(two, 8)
    state.saw(7, 0, 5)
    state.saw(7, 0, 3)
    state.close()
    again = State(path)
    assert again.unposted([one, two]) == [one]
    assert again.url_of(7) == "https://example.com"
    assert (again.url_of(8), again.threads(7), again.threads(8)) == ("", {0: 5}, {0: 0})
    again.close()


async def test_a_bot_whose_source_cannot_be_read_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is being replaced just now."""
    async with open_peer() as peer:
        timeline = Timeline(peer)
        source = tmp_path / "late.json"
        source.write_text('{"items": [')
        state = State(str(tmp_path / "state.db"))
        bot = make_bot(peer.tcp_url, "token-ann", source, state, tick_s=0.02)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bot.serve)
                while "source_unreadable" not in caplog.text:  # noqa: ASYNC110
                    await trio.sleep(0.002)
                source.write_text("here\n")
                await timeline.wait_posts(1)
                bot.stop()
        state.close()
