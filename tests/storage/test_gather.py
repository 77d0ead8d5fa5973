"""Questions that come while another query runs share the next one."""

import sqlite3
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from protocol.errors import Overloaded, StorageUnavailable, Unavailable
from storage import gather, open_store
from storage.gather import Gathered
from storage.reader import Readers


class Slow:
    """A query that doubles numbers, and runs only as far as the test lets it."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.may_end = trio.Event()

    def __call__(self, connection: sqlite3.Connection, keys: Sequence[int]) -> list[int]:
        self.groups.append(list(keys))
        if len(self.groups) == 1:
            trio.from_thread.run(self.may_end.wait, trio_token=self.token)
        if 13 in keys:
            raise ValueError("unlucky")
        return [2 * key for key in keys]

    @asynccontextmanager
    async def asked(self, tmp_path: Path) -> AsyncIterator[Gathered[int, int]]:
        """The first query runs and waits."""
        self.token = trio.lowlevel.current_trio_token()
        with trio.fail_after(20):
            async with open_store(tmp_path):
                self.readers = readers = Readers(tmp_path / "hubbub.db", count=2)
                await readers.start()
                yield Gathered(readers, self)
                self.may_end.set()
                await readers.aclose()


async def test_all_who_come_while_a_query_runs_share_the_next(tmp_path: Path) -> None:
    """A crowd that connects at once costs a few queries; each gets its own answer."""
    slow = Slow()
    answers: dict[int, int] = {}

    async with slow.asked(tmp_path) as gathered, trio.open_nursery() as nursery:

        async def ask(key: int) -> None:
            answers[key] = await gathered.ask(key)

        for key in range(200):
            nursery.start_soon(ask, key + 100)
        await trio.testing.wait_all_tasks_blocked()
        slow.may_end.set()
    assert answers == {key: 2 * key for key in range(100, 300)}
    assert [len(group) for group in slow.groups] == [
        1,
        gather.MAX_GROUP,
        gather.MAX_GROUP,
        gather.MAX_GROUP,
        7,
    ]


async def test_who_was_cancelled_is_not_asked_for(tmp_path: Path) -> None:
    """Clients that gave up cost nothing, and those behind them still get their answer."""
    slow = Slow()
    answers: list[int] = []

    async with slow.asked(tmp_path) as gathered, trio.open_nursery() as nursery:

        async def ask(key: int) -> None:
            answers.append(await gathered.ask(key))

        nursery.start_soon(ask, 1)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as leaving:
            for key in range(gather.MAX_GROUP):
                leaving.start_soon(ask, key)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, 2)
            await trio.testing.wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        slow.may_end.set()
    assert answers == [2, 4]
    assert slow.groups == [[1], [2]]


async def test_a_query_that_fails_fails_for_its_group_and_no_other(tmp_path: Path) -> None:
    """An error is told to everybody who waits for it; the next query is asked all the same."""
    slow = Slow()
    failed: dict[int, ValueError] = {}
    async with slow.asked(tmp_path) as gathered:

        async def ask(key: int) -> None:
            try:
                await gathered.ask(key)
            except ValueError as exc:
                failed[key] = exc

        async with trio.open_nursery() as nursery:
            for key in (1, 13, 14):
                nursery.start_soon(ask, key)
                await trio.testing.wait_all_tasks_blocked()
            slow.may_end.set()
        assert sorted(failed) == [13, 14]
        assert [str(exc) for exc in failed.values()] == ["unlucky"] * 2
        # Each has a traceback of its own; the query's is shared.
        assert failed[13] is not failed[14]
        assert [len(traceback.extract_tb(exc.__traceback__)) for exc in failed.values()] == [2, 2]
        assert failed[13].__cause__ is failed[14].__cause__
        assert await gathered.ask(3) == 6


async def test_waiting_questions_are_bounded_and_end_with_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 5; and nobody waits for a store that has been closed."""
    monkeypatch.setattr(gather, "MAX_WAITING_READS", 3)
    slow = Slow()
    ended: list[Unavailable] = []

    async with slow.asked(tmp_path) as gathered, trio.open_nursery() as nursery:

        async def ask(key: int) -> None:
            try:
                await gathered.ask(key)
            except Unavailable as exc:
                ended.append(exc)

        nursery.start_soon(ask, 1)
        await trio.testing.wait_all_tasks_blocked()
        for key in (2, 3, 4):
            nursery.start_soon(ask, key)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded):
            await gathered.ask(5)
        nursery.start_soon(slow.readers.aclose)
        await trio.testing.wait_all_tasks_blocked()
        slow.may_end.set()
    assert len({id(exc) for exc in ended}) == 3
    closed = StorageUnavailable("The store is closed.")
    assert {(type(exc), exc.message, exc.retry_after_s) for exc in ended} == {
        (StorageUnavailable, closed.message, closed.retry_after_s)
    }
    with pytest.raises(Unavailable):
        await gathered.ask(6)
    with pytest.raises(Unavailable):
        await gathered.ask(7)
