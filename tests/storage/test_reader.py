"""Reads stay short, and neither they nor their callers hold up anything else."""

import sqlite3
from pathlib import Path

import pytest
import trio
import trio.testing

from protocol.errors import Overloaded, ProtocolError, StorageUnavailable, Unavailable
from protocol.records import User
from storage import open_store, reader
from storage.reader import Readers
from tests.storage.rooms import Room

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


def _endless(connection: sqlite3.Connection) -> None:
    connection.execute(ENDLESS).fetchall()


def _one(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT 1").fetchone()[0])


async def test_a_query_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    """A long read pins the WAL: it ends after its limit, and the reader goes on."""
    async with open_store(tmp_path):
        readers = Readers(tmp_path / "hubbub.db", count=1, query_limit_s=0.2)
        await readers.start()
        with trio.fail_after(10), pytest.raises(Unavailable) as caught:
            await readers.run(_endless)
        assert caught.value.code == "timeout"
        assert await readers.run(_one) == 1
        await readers.aclose()


async def test_a_value_that_no_column_holds_is_refused_to_who_asks(tmp_path: Path) -> None:
    """An actor whose look-up is for an id that cannot be answers that one message, and goes on."""
    async with open_store(tmp_path) as store:
        for value in (2**63, "\ud83d"):
            with pytest.raises(ProtocolError) as caught:
                await store.find(User, {"user_id": value})
            assert caught.value.code == "bad_field"


async def test_a_text_that_is_none_ends_no_reader(tmp_path: Path) -> None:
    """A damaged row is told to who asks for it; the threads that read for everybody else go on."""
    async with open_store(tmp_path):
        readers = Readers(tmp_path / "hubbub.db", count=1)
        await readers.start()

        def damaged(connection: sqlite3.Connection) -> None:
            connection.execute("SELECT CAST(X'FF' AS TEXT)").fetchall()

        with trio.fail_after(10):
            for _ in range(2):
                with pytest.raises(StorageUnavailable, match="UTF-8"):
                    await readers.run(damaged)
            assert await readers.run(_one) == 1
        await readers.aclose()


async def test_writes_go_on_beside_a_long_read(tmp_path: Path) -> None:
    """WAL: readers do not block the writer."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        readers = Readers(tmp_path / "hubbub.db", count=1, query_limit_s=1.0)
        await readers.start()
        async with trio.open_nursery() as nursery:

            async def read_long() -> None:
                with pytest.raises(Unavailable):
                    await readers.run(_endless)

            nursery.start_soon(read_long)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(20):
                await room.say("ann")
            assert readers.waiting_count == 1  # it reads still
            nursery.cancel_scope.cancel()
        await readers.aclose()


async def test_a_cancelled_reader_leaves_at_once(tmp_path: Path) -> None:
    """A client that disconnects does not wait for its history."""
    async with open_store(tmp_path):
        readers = Readers(tmp_path / "hubbub.db", count=1, query_limit_s=1.0)
        await readers.start()
        with trio.fail_after(0.9), trio.move_on_after(0.05) as scope:
            await readers.run(_endless)
        assert scope.cancelled_caught
        assert await readers.run(_one) == 1
        assert readers.waiting_count == 0
        await readers.aclose()


async def test_waiting_reads_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 5."""
    monkeypatch.setattr(reader, "MAX_WAITING_READS", 5)
    async with open_store(tmp_path):
        readers = Readers(tmp_path / "hubbub.db", count=1, query_limit_s=0.5)
        await readers.start()
        async with trio.open_nursery() as nursery:

            async def read_long() -> None:
                await readers.run(_endless)

            for _ in range(5):
                nursery.start_soon(read_long)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Overloaded):
                await readers.run(_one)
            nursery.cancel_scope.cancel()
        await readers.aclose()


async def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """One connection of the process writes; a query with a mistake is refused by SQLite itself."""

    def write(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM log")

    async with open_store(tmp_path):
        readers = Readers(tmp_path / "hubbub.db", count=1)
        await readers.start()
        with pytest.raises(Unavailable):
            await readers.run(write)
        assert await readers.run(_one) == 1
        await readers.aclose()
