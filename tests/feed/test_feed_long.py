"""One run with the constants of real life: a cap of 800, authors who cross 10,000 followers and come back.

A power-law graph: most follow a few of many, nearly all follow one, and some follow everybody, whose feeds
reach far beyond the cap.
"""

import os
import random
from collections.abc import Iterable

import pytest
import trio

from actors.feed.feed import FeedLimits
from protocol import feed_commands as f
from protocol import feed_replies as r
from tests.feed.driver import Driver
from tests.feed.real_node import RealNode, open_real_node

CROWD = 10_600
AUTHORS = 200  # of them: who post
STAR = 0  # whom nearly all follow
HEAVY = range(CROWD - 12, CROWD)  # who follow all authors
FOLLOWS = 4  # of everybody else, besides the star
POSTS = 1_600
SAMPLE = 25  # readers whose feeds are read to the end, each time
AT_ONCE = 48


class Town:
    """The crowd, in the node and in the oracle."""

    def __init__(self, node: RealNode, dice: random.Random) -> None:
        self.users = [f"u_crowd{number}" for number in range(CROWD)]
        self.node = node
        self.driver = Driver(node, self.users, page=100)
        self.dice = dice

    async def follow(self, edges: Iterable[tuple[int, int]], *, ends: bool = False) -> None:
        """Begin or end many follows, some at a time."""
        limiter = trio.CapacityLimiter(AT_ONCE)
        oracle = self.driver.oracle

        async def one(user_id: str, author_id: str) -> None:
            async with limiter:
                kind = f.Unfollow if ends else f.FollowUser
                reply = await self.node.do(user_id, kind(user_id=author_id))
            assert isinstance(reply, r.FollowInfo)
            assert reply.follow == ("none" if ends else "following")

        async with trio.open_nursery() as nursery:
            for who, whom in edges:
                user_id, author_id = self.users[who], self.users[whom]
                if ends:
                    oracle.unfollow(user_id, author_id)
                else:
                    oracle.follow(user_id, author_id)
                nursery.start_soon(one, user_id, author_id)

    def author(self) -> int:
        """The lower the number, the more they write, and the more follow them."""
        return min(int(self.dice.paretovariate(0.6)) - 1, AUTHORS - 1)

    async def post(self, count: int) -> None:
        for _ in range(count):
            if self.dice.random() < 0.1 and self.driver.posts:
                await self.driver.repost(self.dice.randrange(AUTHORS), self.dice.randrange(50))
            else:
                await self.driver.post_as(self.users[self.author()], self.dice.randrange(3), 0)
            self.node.now_ms += self.dice.choice((0, 1, 1000, 3_600_000))

    async def check(self) -> None:
        sample = [*self.dice.sample(range(CROWD), SAMPLE), *HEAVY[:3], STAR]
        for who in sample:
            await self.driver.check_feed(self.users[who])

    async def is_hot(self) -> bool:
        await self.node.settle()
        reply = await self.node.do(self.users[1], f.GetAuthor(user_id=self.users[STAR]))
        assert isinstance(reply, r.AuthorInfo)
        assert reply.author.followers == len(self.driver.oracle.followers(self.users[STAR]))
        return reply.author.hot


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_real_constants_over_a_power_law_graph() -> None:
    """What is proven with small numbers holds with those that are in use."""
    seed = int(os.environ.get("HUBBUB_SEED", random.randrange(1 << 32)))
    print(f"HUBBUB_SEED={seed}")
    async with open_real_node("kept", limits=FeedLimits(), timeout_s=3600.0) as node:
        node.soon_s = 600.0
        await node.world.crowd(CROWD)
        town = Town(node, random.Random(seed))
        fans = list(range(1, 9_990))
        edges = {(who, town.author()) for who in range(CROWD) for _ in range(FOLLOWS)}
        edges |= {(who, whom) for who in HEAVY for whom in range(AUTHORS)}
        edges |= {(who, STAR) for who in fans}
        edges = {(who, whom) for who, whom in edges if who != whom and (whom != STAR or who in fans)}
        await town.follow(sorted(edges))
        assert not await town.is_hot()
        await town.post(POSTS // 4)
        await town.check()
        await town.follow((who, STAR) for who in range(9_990, 10_050))
        await town.post(POSTS // 8)  # while it is counted
        assert await town.is_hot()
        await town.post(POSTS // 4)
        await town.check()
        await node.restart(orderly=False)
        await town.check()
        await town.follow(((who, STAR) for who in fans[:1_100]), ends=True)
        await town.post(POSTS // 8)
        assert not await town.is_hot()
        await town.post(POSTS // 4)
        await town.check()
        await node.restart(orderly=True)
        for who in HEAVY:
            await node.evict(town.users[who])
        await town.check()
        await node.settle()
        await town.check()
        assert max(len(town.driver.oracle.ids(town.users[who], now_ms=node.now_ms)) for who in HEAVY) > 800
        town.driver.close()
