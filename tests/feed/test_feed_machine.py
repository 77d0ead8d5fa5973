"""Whatever people do in whatever order, every page of every user is what plain SQL says.

With the kept feeds on, off, and forgotten all the time; with small constants, so that caps and thresholds are
crossed by the dozen, and in one long run with the real ones.
"""

import os
import random
from contextlib import AbstractAsyncContextManager

import pytest
from hypothesis import settings

from tests.conftest import IS_LONG_RUN
from tests.feed.driver import Driver, Node
from tests.feed.machine import CACHES, Cache, FeedMachine, walk
from tests.feed.real_node import open_real_node

WALKS = 40 if IS_LONG_RUN else 2
STEPS = 400 if IS_LONG_RUN else 150
LIMIT_S = 3600 if IS_LONG_RUN else 240


class RealMachine(FeedMachine):
    def open_node(self, cache: Cache) -> AbstractAsyncContextManager[Node]:
        return open_real_node(cache)


TestRealNode = pytest.mark.timeout(LIMIT_S)(RealMachine.TestCase)
TestRealNode.settings = settings(
    max_examples=400 if IS_LONG_RUN else 12, stateful_step_count=60 if IS_LONG_RUN else 40
)


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("cache", CACHES)
async def test_random_walks_never_part_from_the_oracle(cache: Cache) -> None:
    """Longer histories than hypothesis makes, from seeds that are printed; HUBBUB_SEED repeats one."""
    given = os.environ.get("HUBBUB_SEED")
    seeds = [int(given)] if given else [random.randrange(1 << 32) for _ in range(WALKS)]
    print(f"HUBBUB_SEED: {seeds}")
    for seed in seeds:
        async with open_real_node(cache, timeout_s=600.0) as node:
            driver = Driver(node)
            try:
                await walk(driver, seed, STEPS, flaps=cache == "flapping")
            finally:
                driver.close()
