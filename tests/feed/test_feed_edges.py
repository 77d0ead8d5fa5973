"""Histories that once went wrong, or that chance would take long to find."""

from hashlib import blake2b

import pytest

from protocol import feed_commands as f
from tests.feed.driver import Driver
from tests.feed.real_node import SMALL, open_real_node


@pytest.mark.parametrize("count", [SMALL.cap, SMALL.cap + 1, 3 * SMALL.cap])
@pytest.mark.parametrize("has_own_post", [False, True])
async def test_the_first_author_of_an_empty_feed_brings_all_their_posts(
    count: int, has_own_post: bool
) -> None:
    """A newcomer's first follow fills the whole kept feed; what is beyond it must stay in reach."""
    async with open_real_node("kept") as node:
        driver = Driver(node)
        if has_own_post:
            await driver.post(0, 0, 0)
        await driver.check_top(driver.users[0])  # the feed is kept from here on
        for _ in range(count):
            await driver.post(1, 0, 0)
        await driver.follow(0, 1)
        await node.settle()
        await driver.check_feed(driver.users[0])
        driver.close()


@pytest.mark.parametrize("first", [0, 1])
async def test_a_block_that_is_lifted_leaves_the_other_ones(first: int) -> None:
    """Two have blocked each other, and one forgives: a friend's repost still shows nothing."""
    async with open_real_node("kept") as node:
        driver = Driver(node)
        second = 1 - first
        await driver.post(first, 0, 0)
        await driver.post(second, 0, 0)
        for who in (first, second):
            await driver.follow(who, 2)
        await driver.repost(2, 0)
        await driver.repost(2, 2)
        await driver.block(first, second)
        await driver.block(second, first)
        for who in (first, second):
            await driver.unblock(who, 1 - who)
            await driver.check_all()
        driver.close()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "x",
        "o",
        "o5",
        "o5.0",
        "o5.0.0",
        "o.0.0.0",
        "q5.0.0.0",
        "o-5.0.0.0",
        f"o{'f' * 20}.0.0.0",
        "oé.0.0.0",
    ],
)
async def test_a_cursor_that_was_made_up_is_refused(body: str) -> None:
    """The check is no secret. Whoever makes it must not bring down the feeds of others with it."""
    async with open_real_node("kept") as node:
        driver = Driver(node)
        await driver.post(0, 0, 0)
        check = blake2b(f"{driver.users[0]}\x00{body}".encode(), digest_size=5).hexdigest()
        for cursor in (f"{body}.{check}", body, f"{body}.", check):
            if cursor:
                await driver.refused(driver.users[0], f.ReadFeed(before=cursor), "bad_cursor")
                await driver.refused(driver.users[0], f.ReadFeed(after=cursor), "bad_cursor")
        await driver.check_all()
        driver.close()


async def test_the_cursor_of_another_reader_is_refused() -> None:
    """Places are handed around in links; each is good for one reader's feed."""
    async with open_real_node("kept") as node:
        driver = Driver(node)
        await driver.everybody_follows(0)
        for _ in range(4):
            await driver.post(0, 0, 0)
        page = await driver.check_top(driver.users[1])
        assert page.before
        await driver.refused(driver.users[2], f.ReadFeed(before=page.before), "bad_cursor")
        await driver.refused(driver.users[1], f.ReadFeed(after=page.before), "bad_cursor")
        driver.close()
