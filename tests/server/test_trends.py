"""Trends of a node and of several: what is counted, told to the others, and found again after a restart."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from actors.feed.trends import DAY, Trending
from protocol.errors import StorageUnavailable
from protocol.records import Op, Put, TrendRow
from server import trends as trends_module
from server.trends import COMMENT_WEIGHT, INTERVAL_S, REPOST_WEIGHT, Trends
from storage import SqliteStore, Store, open_store
from tests.server.trending import APP, Clock, like, post

HOUR_MS = 3_600_000


class World:
    """Nodes that share a store and a clock."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.clock = Clock()

    def node(self, node_id: str = "a") -> Trends:
        return Trends(self.store, node_id, self.clock)


@asynccontextmanager
async def open_world(directory: Path) -> AsyncIterator[World]:
    async with open_store(directory) as store:
        yield World(store)


def people(found: list[Trending]) -> dict[str, int]:
    return {item: count for item, _, count in found}


async def test_acts_on_posts_and_their_hashtags_trend_at_once(tmp_path: Path) -> None:
    """A node alone needs no round through the store to show what it has seen."""
    async with open_world(tmp_path) as world:
        node = world.node()
        await node.prepare(APP)
        like(node, post(7, "ann", hashtags=["tea"]), 4)
        node.noted_act(APP, 8, "ben", "cid", [], COMMENT_WEIGHT)
        for window in ("hour", "day"):
            assert node.top(APP, "post", window, 10) == [("7", 4.0, 4)]
            assert node.top(APP, "hashtag", window, 10) == [("tea", 4.0, 4)]
        assert node.top("other", "post", "hour", 10) == []


async def test_authors_count_for_their_hashtags_and_not_for_their_posts(tmp_path: Path) -> None:
    """Who writes with a hashtag speaks of it; who likes the own post says nothing."""
    async with open_world(tmp_path) as world:
        node = world.node()
        for number, author_id in enumerate(["ann", "ben", "cid"]):
            node.noted_post(APP, number + 1, author_id, ["tea"])
            node.noted_act(APP, number + 1, author_id, author_id, ["tea"], REPOST_WEIGHT)
            node.noted_act(APP, 9, "ann", author_id, [], REPOST_WEIGHT)
        assert node.top(APP, "hashtag", "hour", 10) == [("tea", 9.0, 3)]
        assert node.top(APP, "post", "hour", 10) == []  # two people only: ann's is her own


async def test_an_answer_serves_everybody_for_two_seconds(tmp_path: Path) -> None:
    """Making it takes milliseconds, and a page that many look at asks for it all the time."""
    async with open_world(tmp_path) as world:
        node = world.node()
        like(node, post(7, "ann"), 4)
        assert people(node.top(APP, "post", "hour", 10)) == {"7": 4}
        like(node, post(7, "ann"), 6)
        world.clock.now_ms += 1_999
        assert people(node.top(APP, "post", "hour", 10)) == {"7": 4}
        world.clock.now_ms += 1
        assert people(node.top(APP, "post", "hour", 10)) == {"7": 6}
        like(node, post(7, "ann"), 8)
        world.clock.now_ms -= 10_000  # a clock that goes back must not make it last
        assert people(node.top(APP, "post", "hour", 10)) == {"7": 8}


async def test_nodes_see_each_other_s_acts_once(tmp_path: Path) -> None:
    """Authors live on different nodes, and the same people act on the posts of both."""
    async with open_world(tmp_path) as world:
        a, b = world.node("a"), world.node("b")
        like(a, post(7, "ann", hashtags=["tea"]), 4)
        like(b, post(8, "ben", hashtags=["tea"]), 6)
        for node in (a, b, a, b, a):
            await node.exchange()
        world.clock.now_ms += 10_000
        for node in (a, b):
            assert people(node.top(APP, "post", "hour", 10)) == {"7": 4, "8": 6}
            assert people(node.top(APP, "hashtag", "hour", 10)) == {"tea": 6}


async def test_a_node_that_saw_nothing_reads_what_the_others_told(tmp_path: Path) -> None:
    """A reader may be connected anywhere."""
    async with open_world(tmp_path) as world:
        a, c = world.node("a"), world.node("c")
        like(a, post(7, "ann"), 4)
        await a.exchange()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(c.prepare, APP)
        assert people(c.top(APP, "post", "hour", 10)) == {"7": 4}


async def test_a_lost_node_s_counts_fade_and_its_rows_go(tmp_path: Path) -> None:
    """Nobody takes them over; they are as old as they are."""
    async with open_world(tmp_path) as world:
        a, b = world.node("a"), world.node("b")
        like(a, post(7, "ann"), 8)
        await a.exchange()
        await b.prepare(APP)
        assert b.top(APP, "post", "day", 10) == [("7", 8.0, 8)]
        world.clock.now_ms += DAY.half_life_ms
        [(_, score, _)] = b.top(APP, "post", "day", 10)
        assert score == pytest.approx(4.0, rel=0.15)  # the first bucket may have been nearly over
        assert b.top(APP, "post", "hour", 10) == []
        world.clock.now_ms += DAY.window_ms + HOUR_MS
        like(b, post(8, "ben"), 3)
        await b.exchange()
        assert people(b.top(APP, "post", "day", 10)) == {"8": 3}
        assert {row.node_id for row in await world.store.find(TrendRow, {})} == {"b"}


async def test_a_restarted_node_goes_on_from_its_rows(tmp_path: Path) -> None:
    """What was counted before counts on, and nobody twice: not even who acts before the rows are read."""
    async with open_world(tmp_path) as world:
        node = world.node()
        like(node, post(7, "ann"), 4)
        await node.exchange()
        node = world.node()
        like(node, post(7, "ann"), 6)
        await node.exchange()
        assert people(node.top(APP, "post", "hour", 10)) == {"7": 6}
        again = world.node()
        await again.prepare(APP)
        assert people(again.top(APP, "post", "hour", 10)) == {"7": 6}


async def test_a_restart_with_a_clock_that_went_back_is_heard(tmp_path: Path) -> None:
    """The newest row counts, so a node's rows never go back in time."""
    async with open_world(tmp_path) as world:
        a, b = world.node("a"), world.node("b")
        like(a, post(7, "ann"), 3)
        await a.exchange()
        await b.prepare(APP)
        world.clock.now_ms -= 60_000
        a = world.node("a")
        like(a, post(7, "ann"), 5)
        await a.exchange()
        await b.exchange()
        assert people(b.top(APP, "post", "hour", 10)) == {"7": 5}


async def test_only_what_has_changed_is_written(tmp_path: Path) -> None:
    """Rows are large; a quiet app costs nothing."""
    async with open_world(tmp_path) as world:
        node = world.node()
        like(node, post(7, "ann"), 3)
        await node.exchange()
        rows = await world.store.find(TrendRow, {})
        assert {(row.kind, row.span) for row in rows} == {("post", "hour"), ("post", "day")}
        world.clock.now_ms += 5_000
        await node.exchange()
        assert await world.store.find(TrendRow, {}) == rows


async def test_an_app_nobody_uses_is_forgotten_and_found_again(tmp_path: Path) -> None:
    """Many apps may live on one node."""
    async with open_world(tmp_path) as world:
        node = world.node()
        like(node, post(7, "ann"), 3)
        await node.exchange()
        world.clock.now_ms += HOUR_MS + 1
        await node.exchange()
        assert node.top(APP, "post", "day", 10) == []
        await node.prepare(APP)
        assert people(node.top(APP, "post", "day", 10)) == {"7": 3}


async def test_a_row_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    """Somebody has edited it, or a later release has written it."""
    async with open_world(tmp_path) as world:
        a, b = world.node("a"), world.node("b")
        like(a, post(7, "ann"), 3)
        await a.exchange()
        at_ms = world.clock.now_ms
        odd = [
            TrendRow(node_id="x", app_id=APP, kind="post", span="hour", at_ms=at_ms, body="{"),
            TrendRow(node_id="x", app_id=APP, kind="place", span="hour", at_ms=at_ms, body="{}"),
        ]
        await world.store.commit([Put(row) for row in odd])
        await b.prepare(APP)
        assert people(b.top(APP, "post", "hour", 10)) == {"7": 3}


async def test_a_store_that_fails_is_tried_again(tmp_path: Path) -> None:
    """The counting goes on in memory, and nothing is lost by a full disk."""
    async with open_world(tmp_path) as world:
        node = Trends(cast(Store, _FullDisk(world.store)), "a", world.clock)
        like(node, post(7, "ann"), 3)
        await node.exchange()
        assert people(node.top(APP, "post", "hour", 10)) == {"7": 3}
        assert await world.store.find(TrendRow, {}) == []
        node._store = world.store
        await node.exchange()
        assert len(await world.store.find(TrendRow, {})) == 2


class _FullDisk:
    def __init__(self, store: SqliteStore) -> None:
        self.trends = store.trends

    async def commit(self, ops: list[Op]) -> None:
        raise StorageUnavailable


async def test_run_tells_every_five_seconds_and_at_the_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is stopped leaves what it has counted to the others."""
    exchanged_at_s: list[float] = []

    async def exchange(_: Trends) -> None:
        exchanged_at_s.append(trio.current_time() - started_at_s)
        await trio.sleep(0.5)

    monkeypatch.setattr(trends_module.Trends, "exchange", exchange)
    node = Trends(cast(Store, None), "a", Clock())
    async with trio.open_nursery() as nursery:
        started_at_s = trio.current_time()
        await nursery.start(node.run)
        await trio.sleep(2.2 * INTERVAL_S)
        nursery.cancel_scope.cancel()
    assert exchanged_at_s == pytest.approx([INTERVAL_S, 2 * INTERVAL_S + 0.5, 2.2 * INTERVAL_S])
    assert trio.current_time() - started_at_s == pytest.approx(2.2 * INTERVAL_S + 0.5)


async def test_what_was_counted_is_stored_when_a_node_is_stopped(tmp_path: Path) -> None:
    """With the real store: cancelled, `run` still writes."""
    async with open_world(tmp_path) as world:
        node = world.node()
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            like(node, post(7, "ann"), 3)
            nursery.cancel_scope.cancel()
        assert len(await world.store.find(TrendRow, {})) == 2
