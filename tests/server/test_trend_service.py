"""What readers are answered about trends and recommendations: only what they may see, and want to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from protocol.errors import Refused
from protocol.feed_commands import GetRecommendations, GetTrends
from protocol.feed_types import FeedOptions, Recommendation
from protocol.limits import MAX_POST_TEXT_BYTES, PAGE_BYTES
from protocol.records import (
    AuthorRow,
    BlockRow,
    Disabled,
    InterestRow,
    MuteRow,
    Op,
    PostCountsRow,
    Put,
)
from server.recommendations import UNINTERESTED_MS
from server.trend_service import TrendService
from server.trends import Trends
from storage import SqliteStore, open_store
from tests.server.trending import APP, START_MS, Clock, caller, like, post, publish
from tests.storage.follows import follow

TEA = post(1, "ann", hashtags=["tea"])
RAIN = post(2, "ben", hashtags=["rain"])
SNOW = post(3, "cid", hashtags=["snow", "rain"])


class World:
    """A service over a store in which TEA, RAIN and SNOW trend, in this order."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.clock = Clock()
        self.trends = Trends(store, "a", self.clock)
        self.options = FeedOptions()
        self.service = TrendService(store, self.trends, options_of=lambda _: self.options, now_ms=self.clock)

    async def trending(self, user_id: str = "me", limit: int = 10) -> list[int]:
        reply = await self.service.get_trends(caller(user_id), GetTrends(kind="post", limit=limit))
        assert all(item.kind == "post" for item in reply.items)
        return [item.post.post_id for item in reply.items if item.post is not None]

    async def hashtags(self, user_id: str = "me") -> list[str]:
        reply = await self.service.get_trends(caller(user_id), GetTrends(kind="hashtag"))
        return [item.hashtag for item in reply.items]

    async def recommended(self, limit: int = 10) -> tuple[list[Recommendation], list[int]]:
        reply = await self.service.get_recommendations(caller(), GetRecommendations(limit=limit))
        return reply.authors, [found.post_id for found in reply.posts]


@asynccontextmanager
async def open_world(directory: Path) -> AsyncIterator[World]:
    async with open_store(directory) as store:
        world = World(store)
        await publish(store, TEA, RAIN, SNOW)
        for row, count in ((TEA, 9), (RAIN, 7), (SNOW, 5)):
            like(world.trends, row, count)
        yield world


async def test_the_strongest_come_first_with_their_counts(tmp_path: Path) -> None:
    """A page of trends needs no second request."""
    async with open_world(tmp_path) as world:
        await publish(world.store, ops=[Put(PostCountsRow(post_id=1, likes=9, comments=2))])
        reply = await world.service.get_trends(caller(), GetTrends(kind="post", limit=2))
        first, second = reply.items
        assert first.post is not None
        assert (first.post.text, first.post.likes, first.post.comments) == ("post 1", 9, 2)
        assert (first.score, first.people) == (9.0, 9)
        assert second.post is not None
        assert (second.post.post_id, second.post.likes) == (2, 0)
        assert await world.hashtags() == ["tea", "rain", "snow"]
        assert await world.trending(limit=1) == [1]


BETWEEN: list[tuple[str, Op]] = [
    ("blocked", Put(BlockRow(user_id="me", other_id="ann", since_ms=1))),
    ("blocked by", Put(BlockRow(user_id="ann", other_id="me", since_ms=1))),
    ("muted", Put(MuteRow(user_id="me", other_id="ann", since_ms=1))),
    ("dull author", Put(InterestRow(user_id="me", kind="author", target="ann", since_ms=START_MS))),
    ("dull post", Put(InterestRow(user_id="me", kind="post", target="1", since_ms=START_MS))),
    ("dull hashtag", Put(InterestRow(user_id="me", kind="hashtag", target="tea", since_ms=START_MS))),
]
FOR_NOBODY: list[tuple[str, Op]] = [
    ("deleted", Put(msgspec.structs.replace(TEA, deleted_at_ms=5))),
    ("for followers", Put(msgspec.structs.replace(TEA, visibility="followers"))),
    ("of another app", Put(msgspec.structs.replace(TEA, app_id="other"))),
    ("a repost", Put(msgspec.structs.replace(TEA, repost_of=2, root_author_id="ben"))),
    ("private", Put(AuthorRow(user_id="ann", app_id=APP, is_private=True))),
    ("disabled", Put(Disabled(user_id="ann", at_ms=1))),
]


@pytest.mark.parametrize("op", [op for _, op in BETWEEN], ids=[name for name, _ in BETWEEN])
async def test_what_is_between_a_reader_and_an_author_hides_for_that_reader(tmp_path: Path, op: Op) -> None:
    """Blocks, mutes and "not interested" work at the next read, everywhere."""
    async with open_world(tmp_path) as world:
        assert await world.trending() == [1, 2, 3]
        await publish(world.store, ops=[op])
        assert await world.trending() == [2, 3]
        assert await world.trending("you") == [1, 2, 3]
        assert (await world.recommended())[1] == [2, 3]


@pytest.mark.parametrize("op", [op for _, op in FOR_NOBODY], ids=[name for name, _ in FOR_NOBODY])
async def test_what_is_not_public_trends_for_nobody(tmp_path: Path, op: Op) -> None:
    """Not even for followers: what is put before people unasked has to be meant for all."""
    async with open_world(tmp_path) as world:
        await publish(world.store, ops=[op, follow("me", "ann")])
        assert await world.trending() == [2, 3]
        assert await world.trending("ann") == [2, 3]


async def test_a_post_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    """The counters may know what the store does not."""
    async with open_world(tmp_path) as world:
        like(world.trends, post(99, "ann"), 20)
        assert await world.trending() == [1, 2, 3]


async def test_a_hashtag_that_does_not_interest_is_left_out(tmp_path: Path) -> None:
    """Also of the list of hashtags, and until it has ended."""
    async with open_world(tmp_path) as world:
        row = InterestRow(user_id="me", kind="hashtag", target="rain", since_ms=START_MS)
        await publish(world.store, ops=[Put(row)])
        assert await world.hashtags() == ["tea", "snow"]
        assert await world.hashtags("you") == ["tea", "rain", "snow"]
        assert await world.trending() == [1]
        world.clock.now_ms += UNINTERESTED_MS
        for tagged, count in ((TEA, 9), (RAIN, 7)):
            like(world.trends, tagged, count)
        assert await world.hashtags() == ["tea", "rain"]


async def test_hidden_posts_do_not_make_a_page_short(tmp_path: Path) -> None:
    """More is looked at than is shown."""
    async with open_world(tmp_path) as world:
        await publish(world.store, ops=[Put(MuteRow(user_id="me", other_id="ann", since_ms=1))])
        assert await world.trending(limit=2) == [2, 3]


async def test_what_is_switched_off_is_refused(tmp_path: Path) -> None:
    """An app without trends must not show them by the back door."""
    async with open_world(tmp_path) as world:
        await publish(world.store, ops=[follow("me", "ann"), follow("ann", "dan")])
        friends_only = [Recommendation(user_id="dan", by=["ann"], by_count=1)]
        world.options = FeedOptions(trending=False)
        with pytest.raises(Refused) as caught:
            await world.trending()
        assert caught.value.code == "not_enabled"
        assert await world.recommended() == (friends_only, [])
        world.options = FeedOptions(recommendations=False)
        with pytest.raises(Refused) as caught:
            await world.recommended()
        assert caught.value.code == "not_enabled"
        assert await world.trending() == [1, 2, 3]


async def test_friends_of_friends_come_first_and_trends_fill_up(tmp_path: Path) -> None:
    """Each says why it is there; nobody twice, and nobody who is followed."""
    async with open_world(tmp_path) as world:
        await publish(
            world.store,
            ops=[follow("me", "ann"), follow("ann", "dan"), follow("ann", "ben"), follow("me", "eve")],
        )
        authors, posts = await world.recommended()
        assert authors == [
            Recommendation(user_id="ben", by=["ann"], by_count=1),
            Recommendation(user_id="dan", by=["ann"], by_count=1),
            Recommendation(user_id="cid", reason="trending"),
        ]
        assert posts == [2, 3]
        authors, posts = await world.recommended(limit=1)
        assert [author.user_id for author in authors] == ["ben"]
        assert posts == [2]


async def test_one_s_own_posts_trend_but_are_not_recommended(tmp_path: Path) -> None:
    """It is nice to see oneself among the trends."""
    async with open_world(tmp_path) as world:
        await publish(world.store, post(4, "me"))
        like(world.trends, post(4, "me"), 30)
        assert await world.trending() == [4, 1, 2, 3]
        authors, posts = await world.recommended()
        assert [author.user_id for author in authors] == ["ann", "ben", "cid"]
        assert posts == [1, 2, 3]


async def test_long_posts_make_an_answer_shorter_and_never_too_large(tmp_path: Path) -> None:
    """An answer has to fit into a frame."""
    async with open_world(tmp_path) as world:
        rows = [post(100 + number, f"author{number}", "\x01" * MAX_POST_TEXT_BYTES) for number in range(20)]
        await publish(world.store, *rows)
        for row in rows:
            like(world.trends, row, 20)
        reply = await world.service.get_trends(caller(), GetTrends(kind="post", limit=20))
        assert len(reply.items) == PAGE_BYTES // (6 * MAX_POST_TEXT_BYTES)
        assert len(msgspec.json.encode(reply)) <= PAGE_BYTES + 1_000
        assert len((await world.recommended(limit=20))[1]) == len(reply.items)


async def test_another_node_s_trends_are_read_before_the_first_answer(tmp_path: Path) -> None:
    """After a restart nobody sees an empty page."""
    async with open_world(tmp_path) as world:
        await world.trends.exchange()
        other = World(world.store)
        assert await other.trending() == [1, 2, 3]
        other = World(world.store)
        assert (await other.recommended())[1] == [1, 2, 3]
