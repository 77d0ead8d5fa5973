"""The driver over a small node of its own: nothing is found where nothing is wrong, and every mistake is."""

from contextlib import AbstractAsyncContextManager

import pytest
from hypothesis import settings

from tests.conftest import IS_LONG_RUN
from tests.feed.driver import Driver, Node
from tests.feed.machine import CACHES, Cache, FeedMachine, walk
from tests.feed.small_node import MISTAKES, SmallNode, open_small_node


class SmallMachine(FeedMachine):
    def open_node(self, cache: Cache) -> AbstractAsyncContextManager[Node]:
        return open_small_node(cache)


TestSmallNode = SmallMachine.TestCase
TestSmallNode.settings = settings(max_examples=200 if IS_LONG_RUN else 15, stateful_step_count=50)


@pytest.mark.parametrize("cache", CACHES)
async def test_long_walks_over_a_right_node_find_nothing(cache: Cache) -> None:
    for seed in range(40 if IS_LONG_RUN else 4):
        async with open_small_node(cache) as node:
            driver = Driver(node)
            await walk(driver, seed, 300)
            driver.close()


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_every_mistake_is_noticed(mistake: str) -> None:
    """What the driver would not notice in the small node, it would not notice in the real one."""
    for seed in range(60):
        driver = Driver(SmallNode(mistake=mistake))
        try:
            await walk(driver, seed, 300)
        except AssertionError:
            return
        finally:
            driver.close()
    pytest.fail(f"nobody noticed that {mistake}")
