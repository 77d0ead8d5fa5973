"""Events and catch-up together are the feed: a device that reads once and then listens misses nothing."""

import os
import random
from pathlib import Path

import pytest
import trio

from tests.conftest import IS_LONG_RUN
from tests.feed.driver import USERS, Driver
from tests.feed.live import LiveFeed
from tests.feed.real_node import SMALL, RealNode

ROUNDS = 400 if IS_LONG_RUN else 60


class Watched:
    """Live devices of all users, and a way to wait for what they have."""

    def __init__(self) -> None:
        self.feeds: list[LiveFeed] = []
        self._news = trio.Event()

    def tell(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def until_whole(self, driver: Driver) -> None:
        """Wait until every device has all that the oracle says, and check that it has nothing else."""
        for feed in self.feeds:
            wanted = {
                shown.post_id: shown.text
                for shown in driver.oracle.page(feed.user_id, now_ms=driver.node.now_ms)
            }
            with trio.move_on_after(10.0) as scope:
                while not wanted.items() <= feed.seen.items():
                    await self._news.wait()
            missing = sorted(wanted.keys() - feed.seen.keys())
            assert not scope.cancelled_caught, f"{feed.user_id} never heard of {missing}"
            assert feed.seen.keys() <= driver.author_of.keys()


@pytest.mark.timeout(600 if IS_LONG_RUN else 120)
async def test_events_and_catch_up_are_the_feed(tmp_path: Path) -> None:
    """With devices that lose their connection at random, authors who become hot and cool, and bursts."""
    seed = int(os.environ.get("HUBBUB_SEED", random.randrange(1 << 32)))
    print(f"HUBBUB_SEED={seed}")
    dice = random.Random(seed)
    node = RealNode(tmp_path / "data", SMALL, timeout_s=600.0)
    await node.start()
    try:
        driver = Driver(node)
        watched = Watched()
        async with trio.open_nursery() as nursery:
            for user_id in USERS:
                feed = LiveFeed(node.world, await node.identity(user_id), watched.tell)
                watched.feeds.append(feed)
                nursery.start_soon(feed.run)
            for author in range(3):
                await driver.everybody_follows(author)
            for author in range(3, len(USERS)):  # and these are never hot
                for step in range(1, 4):
                    await driver.follow((author + step) % len(USERS), author)
            for _ in range(ROUNDS):
                await _something(driver, watched, dice)
            await driver.node.settle()
            for feed in watched.feeds:  # a follow tells its devices to read; here they come back for it
                feed.disconnect()
            await watched.until_whole(driver)
            # From here on each event is needed: no later one shows that it is missing.
            for who in [*range(len(USERS)), *range(len(USERS))]:
                await driver.post(who, 0, 0)
                await watched.until_whole(driver)
            nursery.cancel_scope.cancel()
        assert sum(feed.live_count for feed in watched.feeds) > ROUNDS // 4, "hardly anything came live"
        assert sum(feed.connects for feed in watched.feeds) > len(USERS) * 2
        driver.close()
    finally:
        await node.stop()


async def _something(driver: Driver, watched: Watched, dice: random.Random) -> None:
    who, whom = dice.randrange(len(USERS)), dice.randrange(len(USERS))
    match dice.choice(["post", "post", "post", "repost", "burst", "follow", "leave", "lose", "lose", "time"]):
        case "post":
            await driver.post(who, 0, 0)
        case "repost":
            await driver.repost(who, dice.randrange(6))
        case "burst":
            await driver.burst(who, whom, dice.randrange(len(USERS)))
        case "follow":
            await driver.everybody_follows(dice.randrange(3))
        case "leave":
            await driver.most_unfollow(dice.randrange(3), 3)
        case "lose":
            watched.feeds[who].disconnect()
        case "time":
            await driver.pass_time(dice.randrange(2))
