"""The live feed of a client against a scripted peer on real sockets: each post once, whatever breaks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import hubbub
from hubbub.client import Events
from hubbub.feed_watch import CATCH_UP_PAGE
from protocol import commands as c
from protocol import events as e
from protocol import feed_commands as fc
from protocol import replies as r
from protocol.commands import Command
from protocol.errors import CloseCode
from protocol.feed_events import FeedChanged, FeedNews, FeedPosted, FollowChanged, PostCounts
from protocol.feed_types import Post
from protocol.replies import Reply
from tests.hubbub.feed_peer import FeedPeer
from tests.hubbub.peer import HangupWithCode, PeerSession, open_peer

FAST = hubbub.Backoff(first_delay_s=0.001, max_delay_s=0.01)


@asynccontextmanager
async def live(**more: Any) -> AsyncIterator[tuple[FeedPeer, hubbub.Client, Events]]:
    """A feed of two posts, and a client that listens but has not made its feed live."""
    async with open_peer() as peer:
        feed = FeedPeer(peer)
        feed.add(1)
        feed.add(2)
        with trio.fail_after(20):
            async with hubbub.connect(peer.tcp_url, token="token-ann", backoff=FAST, **more) as client:
                yield feed, client, client.events()


async def take(events: Events, count: int) -> list[int]:
    """The post_ids of the next so many new posts."""
    ids: list[int] = []
    while len(ids) < count:
        event = await anext(events)
        if isinstance(event, FeedPosted):
            assert event.item is not None
            assert event.item.post is not None
            ids.append(event.item.post.post_id)
    return ids


async def wait_watch(feed: FeedPeer, count: int) -> None:
    while sum(isinstance(one, fc.WatchFeed) for one in feed.peer.commands) < count:  # noqa: ASYNC110
        await trio.sleep(0.002)  # it happens on the other end of a real socket


async def test_the_page_and_the_events_after_it_are_the_whole_feed() -> None:
    """Who draws a feed: first the page, then what is on top of it."""
    async with live() as (feed, client, events):
        page = await client.feed.start_live()
        assert [item.post.post_id for item in page.items if item.post] == [2, 1]
        for post_id in (3, 4, 5):
            await feed.push(post_id)
        assert await take(events, 3) == [3, 4, 5]
        assert len(feed.reads) == 1  # an unbroken feed is read once


async def test_a_hole_in_the_positions_is_read_and_told_in_its_place() -> None:
    """An event that was lost between two nodes."""
    async with live() as (feed, client, events):
        await client.feed.start_live()
        feed.lost = {4, 5}
        for post_id in (3, 4, 5, 6, 7):
            await feed.push(post_id)
        assert await take(events, 5) == [3, 4, 5, 6, 7]
        shown, *caught_up = feed.reads
        assert shown.ads  # the user looks at that one
        assert caught_up
        assert not any(read.ads for read in caught_up)  # nobody would see them


async def test_a_resync_of_the_feed_is_answered_by_a_read() -> None:
    """The server had no room for this session; nothing else would show that the last ones are missing."""
    async with live() as (feed, client, events):
        await client.feed.start_live()
        feed.lost = {3, 4}
        await feed.push(3)
        await feed.push(4)
        await feed.peer.tell(e.Resync(conversation_id="feed"))
        assert await take(events, 2) == [3, 4]
        assert "feed" not in client._intake.streams


async def test_what_came_while_there_was_no_connection_is_told_once_it_is_back() -> None:
    """A phone in a tunnel: more than one page of posts, and the watch is told anew."""
    async with live() as (feed, client, events):
        await client.feed.start_live()
        await client.feed.watch([1, 2])
        await feed.push(3)
        assert await take(events, 1) == [3]
        feed.watches.clear()
        many = list(range(4, 4 + 3 * CATCH_UP_PAGE))
        for post_id in many:
            await feed.push(post_id)
        feed.peer.cut_all()
        assert await take(events, len(many)) == many
        (watch,) = feed.watches.values()
        assert (watch.feed, list(watch.post_ids)) == (True, [1, 2])
        await feed.push(many[-1] + 1)
        assert await take(events, 1) == [many[-1] + 1]


@pytest.mark.parametrize("code", [CloseCode.SLOW_CONSUMER, CloseCode.DRAINING])
async def test_a_connection_that_ends_in_the_middle_of_a_catch_up_costs_nothing(code: CloseCode) -> None:
    """Nodes are replaced while clients catch up."""
    async with live() as (feed, client, events):
        await client.feed.start_live()
        answer, hangups = feed.answer, 3

        def hang_up(session: PeerSession, command: Command) -> Reply | None:
            nonlocal hangups
            if isinstance(command, fc.ReadFeed) and command.before and hangups:
                hangups -= 1
                raise HangupWithCode(code)
            return answer(session, command)

        feed.peer.on_command = hang_up
        many = list(range(3, 3 + 2 * CATCH_UP_PAGE))
        feed.lost = set(many[:-1])
        for post_id in many:
            await feed.push(post_id)
        assert await take(events, len(many)) == many
        assert hangups == 0


async def test_posts_of_hot_authors_are_counted_or_told_as_one_wishes() -> None:
    """A page shows "3 new posts"; a bot wants each of them."""
    async with live() as (feed, client, events):
        await client.feed.start_live()
        feed.add(3, why="hot", author="star")
        await feed.tell_news(1, "star")
        news = await anext(events)
        assert news == FeedNews(count=1, user_ids=["star"])
        await client.feed.start_live(expand_news=True)
        feed.add(4, why="hot", author="star")
        feed.add(5, why="hot", author="star")
        await feed.tell_news(2, "star")
        assert await take(events, 2) == [4, 5]


async def test_hot_posts_that_were_missed_are_counted_too() -> None:
    """Their news are not repeated to a new connection."""
    async with live() as (feed, client, events):
        await client.feed.start_live()
        feed.watches.clear()
        for post_id in range(3, 7):
            feed.add(post_id, why="hot", author=f"star{post_id}")
        await feed.push(7)
        feed.peer.cut_all()
        seen = [await anext(events), await anext(events)]
        assert [type(event) for event in seen] == [FeedPosted, FeedNews] or [
            type(event) for event in seen
        ] == [FeedNews, FeedPosted]
        (news,) = [event for event in seen if isinstance(event, FeedNews)]
        assert (news.count, len(news.user_ids)) == (4, 4)


async def test_who_goes_on_where_it_was_gets_what_is_newer() -> None:
    """A bot after a restart; nothing of what it has handled comes again."""
    async with live() as (feed, client, events):
        for post_id in range(3, 3 + CATCH_UP_PAGE):
            feed.add(post_id)
        await client.feed.start_live(since=2)
        assert await take(events, CATCH_UP_PAGE) == list(range(3, 3 + CATCH_UP_PAGE))


@pytest.mark.parametrize("by", ["welcome", "heartbeat"])
async def test_the_past_of_a_new_followee_is_not_told_after_a_reconnect(by: str) -> None:
    """Posts of years ago are in the feed from the follow on, but they are no news."""
    async with live() as (feed, client, events):
        if by == "heartbeat":
            await client.feed.start_live()
        feed.clock_ms = 900_000_000
        if by == "welcome":
            feed.peer.cut_all()
            await client.feed.start_live()
        else:
            beats = heartbeats(feed) + 3  # the answer to the one before the last is taken by then
            while heartbeats(feed) < beats:  # noqa: ASYNC110
                await trio.sleep(0.002)
        for post_id in range(10, 10 + 2 * CATCH_UP_PAGE):
            feed.add(post_id, author="old", at_ms=5_000_000)
        feed.lost = {1000}
        await feed.push(1000)
        feed.clock_ms = 1  # what the next connection says of the time comes too late to help
        feed.peer.cut_all()
        assert await take(events, 1) == [1000]
        feed.add(1001, at_ms=900_000_000)
        await feed.push(1001)
        assert await take(events, 1) == [1001]


def heartbeats(feed: FeedPeer) -> int:
    return sum(isinstance(command, c.Heartbeat) for command in feed.peer.commands)


async def test_nothing_is_kept_for_who_does_not_listen_but_nothing_is_lost_either() -> None:
    """The events may be asked for later."""
    async with open_peer() as peer:
        feed = FeedPeer(peer)
        with trio.fail_after(20):
            async with hubbub.connect(peer.tcp_url, token="token-ann", backoff=FAST) as client:
                await client.feed.start_live()
                for post_id in range(1, 20):
                    await feed.push(post_id)
                await client.posts.like(1)  # its answer comes behind all of them
                assert len(client._intake.queue) == 0
                assert await take(client.events(), 19) == list(range(1, 20))


async def test_a_user_who_reads_slowly_gets_everything_in_order() -> None:
    """Without room events are left to a read; memory stays bounded."""
    async with live(max_queued_events=3) as (feed, client, events):
        await client.feed.start_live()
        many = list(range(3, 403))
        for post_id in many:
            await feed.push(post_id)
            if post_id % 50 == 0:
                await client.posts.like(1)  # so that the socket is read although nobody takes
        assert len(client._intake.queue) <= 3 + CATCH_UP_PAGE
        assert await take(events, len(many)) == many


async def test_live_feeds_end_and_begin_as_their_user_says() -> None:
    """A page that is left, and come back to."""
    async with live() as (feed, client, events):
        await client.feed.start_live()
        await client.feed.stop_live()
        assert [watch.feed for watch in feed.watches.values()] == [False]
        await feed.push(3)
        await client.feed.start_live()
        await feed.push(4)
        assert await take(events, 1) == [4]


async def test_counts_and_changes_of_watched_posts_and_follows_come_as_events() -> None:
    """What is on the screen stays true."""
    async with live() as (feed, client, events):
        await client.feed.watch([1])
        changed = FeedChanged(post=Post(post_id=1, author_id="bob", at_ms=1, text="better"))
        counts = PostCounts(post_id=1, likes=3)
        followed = FollowChanged(seq=1, at_ms=1, user_id="bob", follow="following")
        await feed.peer.tell(changed)
        await feed.peer.tell(counts)
        await feed.peer.add_to_inbox(followed)
        assert [await anext(events) for _ in range(3)] == [changed, counts, followed]


async def test_without_room_counts_are_merged_and_news_add_up() -> None:
    """The latest count is what counts, and no number of news is lost."""
    async with live(max_queued_events=2) as (feed, client, events):
        await client.feed.start_live()
        for number in range(1, 50):
            await feed.peer.tell(PostCounts(post_id=1 + number % 2, likes=number))
            await feed.tell_news(2, f"star{number % 20}")
        await client.posts.like(1)
        likes: dict[int, int] = {}
        count = 0
        while likes != {1: 48, 2: 49} or count < 98:
            event = await anext(events)
            if isinstance(event, PostCounts):
                assert event.likes > likes.get(event.post_id, 0)
                likes[event.post_id] = event.likes
            elif isinstance(event, FeedNews):
                count += event.count
                assert len(event.user_ids) <= 10
        assert count == 98


async def test_a_server_that_refuses_to_go_live_says_why_and_is_not_asked_for_ever() -> None:
    """An app without feeds."""
    async with live() as (feed, client, events):
        answer = feed.answer

        def refuse(session: PeerSession, command: Command) -> Reply | None:
            if isinstance(command, fc.ReadFeed):
                return r.Error(id=command.id, code="not_enabled")
            return answer(session, command)

        feed.peer.on_command = refuse
        with pytest.raises(hubbub.Refused) as refused:
            await client.feed.start_live()
        assert refused.value.code == "not_enabled"
        await wait_watch(feed, 2)
        assert [watch.feed for watch in feed.watches.values()] == [False]
        feed.peer.on_command = answer
        await client.feed.start_live()
        await feed.push(3)
        assert await take(events, 1) == [3]


async def test_a_catch_up_that_fails_is_tried_again() -> None:
    """The partition was restarting."""
    async with live() as (feed, client, events):
        await client.feed.start_live()
        answer, failures = feed.answer, 2

        def fail(session: PeerSession, command: Command) -> Reply | None:
            nonlocal failures
            if isinstance(command, fc.ReadFeed) and failures:
                failures -= 1
                return r.Error(id=command.id, code="crashed")
            return answer(session, command)

        feed.peer.on_command = fail
        feed.lost = {3}
        await feed.push(3)
        await feed.push(4)
        assert await take(events, 2) == [3, 4]
        assert failures == 0


async def test_what_is_watched_last_is_what_the_server_knows() -> None:
    """A command that is tried again must not undo a later one."""
    async with live() as (feed, client, _events):
        answer, refusals = feed.answer, 1

        def refuse(session: PeerSession, command: Command) -> Reply | None:
            nonlocal refusals
            if isinstance(command, fc.WatchFeed) and refusals:
                refusals -= 1
                return r.Error(id=command.id, code="busy", retry_after_s=0.05)
            return answer(session, command)

        feed.peer.on_command = refuse
        async with trio.open_nursery() as nursery:
            for post_ids in ([1], [1, 2], [2]):
                nursery.start_soon(client.feed.watch, post_ids)
                await trio.testing.wait_all_tasks_blocked(0.001)
        (watch,) = feed.watches.values()
        assert list(watch.post_ids) == [2]
