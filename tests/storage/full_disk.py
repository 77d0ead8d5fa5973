"""Fill a store's disk for real, and let it empty again. Run in a process of its own by test_writer.

usage: full_disk.py DIRECTORY pages|rlimit
"""

import resource
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from protocol.errors import OutcomeUnknown, StorageUnavailable
from storage import SqliteStore, open_store
from tests.storage.rooms import Room

LIMIT_BYTES = 3 * 1024 * 1024


def limit_file_size(store: SqliteStore, is_full: bool) -> None:
    """No file may grow beyond the limit: the next write of the WAL fails with EFBIG."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES if is_full else hard, hard))


def limit_pages(store: SqliteStore, is_full: bool) -> None:
    """SQLite itself reports SQLITE_FULL; each new connection of the writer gets the limit, too."""
    pages = LIMIT_BYTES // 4096 if is_full else 1_000_000
    writer = store._writer
    connect = type(writer)._connect

    def limited() -> sqlite3.Connection:
        connection = connect(writer)
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    writer._connect = limited  # type: ignore[method-assign]
    writer._connection.execute(f"PRAGMA max_page_count = {pages}")


async def main(directory: Path, limit: Callable[[SqliteStore, bool], None]) -> None:
    async with open_store(directory) as store:
        room = await Room.open(store, "ann")
        limit(store, True)
        acked = 0
        for number in range(1000):
            try:
                await room.say("ann", "x" * 20_000, client_id=f"k{number}")
            except (StorageUnavailable, OutcomeUnknown):
                break
            acked += 1
        else:
            raise AssertionError("the disk never became full")
        assert acked > 0
        assert (await store.head("c:room")).seq == acked + 1, "refused and yet stored, or acked and lost"
        wal = (directory / "hubbub.db-wal").stat().st_size
        refused = 0
        for number in range(200):
            try:
                await room.say("ann", "x" * 20_000, client_id=f"refused{number}")
            except (StorageUnavailable, OutcomeUnknown):
                refused += 1
        assert refused > 0
        assert len(await store.read("c:room", after=0, limit=3)) == 3
        assert (directory / "hubbub.db-wal").stat().st_size <= max(wal, LIMIT_BYTES) + 65536
        limit(store, False)
        with trio.fail_after(30):
            while store.health:  # noqa: ASYNC110 - the writer probes by its own clock
                await trio.sleep(0.05)
        # Everything again, as clients do: what was acked is found, what was refused is stored now.
        for number in range(acked + 1):
            place = await room.say("ann", "x" * 20_000, client_id=f"k{number}")
            assert place.is_duplicate == (number < acked) or number == acked, number
        print(f"recovered: {acked} acked, {refused} refused, {store.stats.fault_count} faults")


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), {"pages": limit_pages, "rlimit": limit_file_size}[sys.argv[2]])
