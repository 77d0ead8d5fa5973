"""Authors with unfinished jobs are woken: at a start, when shards are taken, and again until it works."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import trio
import trio.testing
from trio.testing import MockClock

from actors.address import Address
from actors.feed.resumer import PAGE, SCAN_INTERVAL_S, FanoutResumer
from actors.messages import Wake
from actors.ports import Log
from actors.reply import Reply
from actors.router import LocalRouter
from protocol.errors import HubbubError, StorageUnavailable, Unavailable


class Authors:
    """Authors that note when they are woken, and the store with their jobs."""

    kind = "author"

    def __init__(self) -> None:
        self.jobs: dict[str, int] = {}  # author_id -> shard
        self.woken: list[str] = []
        self.trouble: HubbubError | None = None  # of the actors
        self.store_trouble: HubbubError | None = None
        self.read_count = 0

    @property
    def posts(self) -> "Authors":
        return self

    async def unfinished(self, *, after: str, limit: int) -> list[tuple[str, int]]:
        self.read_count += 1
        await trio.sleep(0.001)
        if self.store_trouble is not None:
            raise self.store_trouble
        return [(author_id, shard) for author_id, shard in sorted(self.jobs.items()) if author_id > after][
            :limit
        ]

    def deliver(
        self, address: Address, message: object, reply: Reply, *, may_be_at_once: bool = False
    ) -> None:
        assert isinstance(message, Wake)
        if self.trouble is not None:
            raise self.trouble
        self.woken.append(address.id)

    def deliver_if_active(self, address: Address, message: object) -> bool:
        return False


@asynccontextmanager
async def open_resumer(authors: Authors, owned: set[int]) -> AsyncIterator[FanoutResumer]:
    resumer = FanoutResumer(cast(Log, authors), LocalRouter([authors]), owns=owned.__contains__)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resumer.run)
        await trio.sleep(0.05)  # virtual: the first page is read
        yield resumer
        nursery.cancel_scope.cancel()


async def test_a_start_wakes_the_authors_of_owned_shards_page_by_page(autojump_clock: MockClock) -> None:
    authors = Authors()
    authors.jobs = {f"u{number:04}": number % 2 for number in range(3 * PAGE)}
    async with open_resumer(authors, {1}):
        await trio.sleep(5)
        assert authors.woken == [f"u{number:04}" for number in range(3 * PAGE) if number % 2]
        authors.jobs.clear()
        read_count = authors.read_count
        await trio.sleep(3 * SCAN_INTERVAL_S)
        assert authors.read_count == read_count + 3


async def test_shards_that_were_taken_are_looked_at_at_once(autojump_clock: MockClock) -> None:
    authors, owned = Authors(), {1}
    authors.jobs = {"ann": 2}
    async with open_resumer(authors, owned) as resumer:
        await trio.sleep(1)
        assert authors.woken == []
        owned.add(2)
        resumer.scan_soon()
        await trio.sleep(0.1)
        assert authors.woken == ["ann"]


async def test_a_look_that_is_asked_for_during_another_one_is_not_lost(autojump_clock: MockClock) -> None:
    authors, owned = Authors(), {1}
    async with open_resumer(authors, owned) as resumer:
        resumer.scan_soon()
        await trio.testing.wait_all_tasks_blocked()  # it reads
        authors.jobs["ann"] = 2
        owned.add(2)
        resumer.scan_soon()
        await trio.sleep(1)
        assert authors.woken[:1] == ["ann"]


async def test_trouble_is_tried_again(autojump_clock: MockClock) -> None:
    authors = Authors()
    authors.jobs = {"ann": 1, "bob": 1}
    authors.store_trouble = StorageUnavailable("disk")
    authors.trouble = Unavailable("busy", retry_after_s=2.0)
    async with open_resumer(authors, {1}):
        await trio.sleep(11)
        assert 2 <= authors.read_count <= 4
        authors.store_trouble = None
        await trio.sleep(11)
        assert authors.woken == []
        authors.trouble = None
        await trio.sleep(5)
        assert authors.woken == ["ann", "bob"]
