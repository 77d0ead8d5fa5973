"""A reader pages to the end while others post: nothing is skipped or repeated, and ads keep their places."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio

from protocol import feed_commands as f
from protocol import feed_replies as r
from protocol.feed_types import FeedItem, FeedOptions
from protocol.http_campaigns import CreateCampaign
from tests.feed.driver import Driver
from tests.feed.machine import CACHES, Cache
from tests.feed.real_node import RealNode, open_real_node

AD_EVERY = 5
READER = 6
POSTS = 63  # several times the cap, and no multiple of a page
PAGES = (1, 4, 7, 20)


@asynccontextmanager
async def open_feed(cache: Cache) -> AsyncIterator[Driver]:
    """A reader of three authors, one of them hot, who have posted; ads are on."""
    async with open_real_node(cache) as node:
        campaigns = node.world.core.feeds.campaigns
        for number in range(3):
            await campaigns.create("default", CreateCampaign(title=f"ad {number}", daily_cap=0))
        await campaigns.put_options("default", FeedOptions(ads=True))
        driver = Driver(node)
        await driver.everybody_follows(0)
        for author in (1, 2):
            await driver.follow(READER, author)
        await node.settle()
        for number in range(POSTS):
            await driver.post(number % 3, 0, 0)
            await driver.pass_time(0)
        yield driver
        driver.close()


async def read(driver: Driver, command: f.ReadFeed) -> r.FeedPage:
    reply = await driver.node.do(driver.users[READER], command)
    assert isinstance(reply, r.FeedPage)
    assert reply.complete
    return reply


def organic(items: list[FeedItem]) -> list[int]:
    return [item.post.post_id for item in items if item.post is not None]


def slots(items: list[FeedItem]) -> list[tuple[str, str]]:
    return [(item.ad.slot_id, item.ad.campaign_id) for item in items if item.ad is not None]


def expect_ads_in_their_places(items: list[FeedItem]) -> None:
    """One behind each fifth post, none elsewhere, and so never two in a row."""
    count = 0
    for index, item in enumerate(items):
        if item.kind == "ad":
            assert count % AD_EVERY == 0
            assert count
            assert items[index - 1].kind == "post"
        else:
            if count % AD_EVERY == 0 and count:
                assert items[index - 1].kind == "ad", f"no ad behind {count} posts"
            count += 1
    campaign_ids = [campaign_id for _, campaign_id in slots(items)]
    assert all(one != other for one, other in pairwise(campaign_ids))


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("limit", PAGES)
async def test_a_scroll_shows_each_post_once_and_an_ad_behind_each_fifth(cache: Cache, limit: int) -> None:
    """People scroll while the world goes on; advertisers pay for slots that are what they say."""
    async with open_feed(cache) as driver:
        await _scroll(driver, limit, flaps=cache == "flapping")


async def _scroll(driver: Driver, limit: int, *, flaps: bool) -> None:
    dice = random.Random(limit)
    there = driver.oracle.ids(driver.users[READER], now_ms=driver.node.now_ms)
    items: list[FeedItem] = []
    pages: list[tuple[str, list[FeedItem]]] = []
    before = ""
    first: r.FeedPage | None = None
    while True:
        if flaps:
            await driver.node.evict(driver.users[READER])
        async with trio.open_nursery() as nursery:  # the page is made while posts are stored and pushed
            nursery.start_soon(driver.post, dice.randrange(3), 0, 0)
            page = await read(driver, f.ReadFeed(before=before, limit=limit))
        if first is None:
            first = page
            if organic(page.items)[0] not in there:  # the one that was posted meanwhile
                there.insert(0, organic(page.items)[0])
        await driver.pass_time(0)
        pages.append((before, page.items))
        items += page.items
        before = page.before
        if not before:
            break
    assert organic(items) == there
    expect_ads_in_their_places(items)
    assert len(slots(items)) >= len(there) // AD_EVERY - 1
    for cursor, seen in pages[1:]:  # the newest page is another one by now
        again = await read(driver, f.ReadFeed(before=cursor, limit=limit))
        assert organic(again.items) == organic(seen)
        assert slots(again.items) == slots(seen)
    above: list[int] = []
    cursor = first.after
    while True:
        page = await read(driver, f.ReadFeed(after=cursor, limit=limit))
        if not organic(page.items):
            break
        above += organic(page.items)
        cursor = page.after
    now_there = driver.oracle.ids(driver.users[READER], now_ms=driver.node.now_ms)
    assert above == [post_id for post_id in reversed(now_there) if post_id > there[0]]


@pytest.mark.parametrize("cache", CACHES)
async def test_ads_survive_a_restart(cache: Cache) -> None:
    """A reload, even of the server, is not another ad: the slot was sold once."""
    async with open_feed(cache) as driver:
        await _reload(driver)


async def _reload(driver: Driver) -> None:
    page = await read(driver, f.ReadFeed(limit=20))
    second = await read(driver, f.ReadFeed(before=page.before, limit=20))
    await driver.node.restart(orderly=False)
    assert isinstance(driver.node, RealNode)
    await driver.node.world.core.feeds.campaigns.refresh()
    assert slots((await read(driver, f.ReadFeed(limit=20))).items) == slots(page.items)
    assert slots((await read(driver, f.ReadFeed(before=page.before, limit=20))).items) == slots(second.items)
