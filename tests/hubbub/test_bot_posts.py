"""Bots that read their feed: each post is handled once, over lost lines and restarts."""

from collections.abc import Callable

import trio
from hypothesis import given
from hypothesis import strategies as st

import hubbub
from hubbub.bot_posts import PostProgress
from protocol import feed_commands as fc
from protocol import feed_replies as fr
from protocol.commands import Command
from protocol.feed_types import Comment, Post
from protocol.replies import Reply
from protocol.types import Profile
from tests.hubbub.feed_peer import FeedPeer
from tests.hubbub.peer import Peer, PeerSession, open_peer

FAST = hubbub.Backoff(first_delay_s=0.001, max_delay_s=0.01)


@given(st.permutations(range(1, 12)), st.permutations(range(1, 12)), st.data())
def test_the_position_never_passes_a_post_that_is_not_handled(
    come: list[int], end: list[int], data: st.DataObject
) -> None:
    """A bot that is killed at any moment gets again what it had not finished."""
    progress = PostProgress(0)
    waiting = list(come)
    at_work: set[int] = set()
    while waiting or at_work:
        if waiting and (not at_work or data.draw(st.booleans())):
            post_id = waiting.pop(0)
            before = progress.position
            progress.begin(post_id)
            at_work.add(post_id)
            assert progress.position == before
        else:
            post_id = next(one for one in end if one in at_work)
            before = progress.position
            at_work.remove(post_id)
            progress.done(post_id)
            # What is at work lies above, unless it came when newer posts were handled already.
            late = {one for one in at_work if one <= before}
            assert all(one > progress.position for one in at_work - late)
    assert progress.position == 11


def bot_at(peer: Peer, handled: list[int]) -> tuple[hubbub.Bot, trio.Event]:
    bot = hubbub.Bot(peer.tcp_url, token="token-ann", backoff=FAST)
    started = trio.Event()

    @bot.on_post
    async def note(context: hubbub.PostContext) -> None:
        handled.append(context.post.post_id)

    @bot.on_start
    async def ready(_: hubbub.Bot) -> None:
        started.set()

    return bot, started


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - it happens on the other end of a real socket
        await trio.sleep(0.002)


async def test_a_bot_handles_what_is_posted_while_it_runs_and_while_it_does_not() -> None:
    """Restart a bot at any time: it reads its feed on from where it was."""
    async with open_peer() as peer:
        feed = FeedPeer(peer)
        for post_id in range(1, 30):
            feed.add(post_id)  # from before the bot
        handled: list[int] = []
        with trio.fail_after(20):
            for round_number in range(3):
                bot, started = bot_at(peer, handled)
                first = 100 * (round_number + 1)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bot.serve)
                    await started.wait()
                    await feed.push(first)
                    feed.add(first + 1, why="hot")
                    await feed.tell_news(1, "star")
                    await feed.push(first + 2, why="own", author="ann")
                    await until(lambda: first + 1 in handled)  # noqa: B023 - awaited in this round
                    peer.cut_all()
                    await feed.push(first + 3)
                    await until(lambda: first + 3 in handled)  # noqa: B023
                    bot.stop()
                feed.watches.clear()
                await feed.push(first + 4)  # the bot is down
        expected = [100, 101, 103, 104, 200, 201, 203, 204, 300, 301, 303]
        assert handled == expected
        assert feed.read_position == 303


async def test_a_post_whose_handler_did_not_end_comes_again() -> None:
    """A process that is killed in the middle of its work."""
    async with open_peer() as peer:
        feed = FeedPeer(peer)
        feed.add(1)
        handled: list[int] = []
        with trio.fail_after(20):
            bot, started = bot_at(peer, handled)

            @bot.on_post
            async def hang(context: hubbub.PostContext) -> None:
                if context.post.author_id == "slow":
                    await trio.sleep_forever()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(bot.serve)
                await started.wait()
                await feed.push(2)
                await feed.push(3, author="slow")
                await feed.push(4)
                await until(lambda: set(handled) == {2, 3, 4} and feed.read_position == 2)
                nursery.cancel_scope.cancel()  # as a kill would
            again: list[int] = []
            bot, _ = bot_at(peer, again)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bot.serve)
                await until(lambda: set(again) == {3, 4})
                bot.stop()


async def test_a_handler_answers_under_keys_that_stay() -> None:
    """Handled twice, a post is commented on once: the server knows the key."""
    async with open_peer() as peer:
        feed = FeedPeer(peer)
        asked: list[Command] = []
        answer = feed.answer

        def listen(session: PeerSession, command: Command) -> Reply | None:
            if isinstance(command, fc.AddComment):
                asked.append(command)
                comment = Comment(comment_id=1, post_id=command.post_id, user_id="ann", at_ms=1)
                return fr.CommentInfo(id=command.id, comment=comment)
            if isinstance(command, fc.Repost):
                asked.append(command)
                return fr.PostInfo(id=command.id, post=Post(post_id=9, author_id="ann", at_ms=1))
            return answer(session, command)

        peer.on_command = listen
        bot = hubbub.Bot(peer.tcp_url, token="token-ann", backoff=FAST)
        bot._profiles["bob"] = Profile(user_id="bob", username="bob", name="Bob")
        started, ended = trio.Event(), trio.Event()

        @bot.on_post
        async def react(context: hubbub.PostContext) -> None:
            author = await context.author()
            await context.comment(f"well said, {author.name}")
            await context.comment(context.text)
            await context.like()
            await context.repost()
            ended.set()

        @bot.on_start
        async def ready(_: hubbub.Bot) -> None:
            started.set()

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bot.serve)
                await started.wait()
                await feed.push(3)
                await ended.wait()
                bot.stop()
        said = [(one.client_id, one.text) for one in asked if isinstance(one, fc.AddComment)]
        assert said == [("comment1:3", "well said, Bob"), ("comment2:3", "post 3")]
        assert [one.client_id for one in asked if isinstance(one, fc.Repost)] == ["repost:3"]
