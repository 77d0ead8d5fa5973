"""What the writer does when the disk fails, and how it groups and checkpoints."""

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import trio

import storage.writer
from protocol.errors import HubbubError, OutcomeUnknown, StorageUnavailable, Unavailable
from protocol.records import Append, LogRow
from storage import SqliteStore, check, open_store
from storage.locks import WriteLock
from tests.storage.rooms import SHARD, Room, message

ROOT = Path(__file__).parent.parent.parent


async def _until_healthy(store: SqliteStore) -> None:
    with trio.fail_after(20):
        while store.health:  # noqa: ASYNC110 - the writer probes by its own clock; nothing announces it
            await trio.sleep(0.05)


def _run(script: str, *arguments: str) -> str:
    """Run a script of this suite in a process of its own, whose limits may be broken."""
    done = subprocess.run(
        [sys.executable, "-m", script, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_many_appends_share_one_commit(tmp_path: Path) -> None:
    """Throughput at FULL comes from this: one fsync for all that came while the last one ran."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        before = store.stats.commit_count
        done: list[object] = []
        for _ in range(500):
            append = Append(shard=SHARD, epoch=room.epoch, rows=(message("room", "ann"),))
            store.append_nowait(append, done.append)
        await store.barrier()
        assert len(done) == 500
        assert store.stats.commit_count - before < 100
        assert store.stats.largest_group > 5
        assert sum(store.stats.commit_buckets) == store.stats.commit_count
        assert store.queued_bytes == 0
        assert store.queued_count == 0


async def test_what_sqlite_cannot_hold_is_refused_alone(tmp_path: Path) -> None:
    """One row with half a character or a huge number: others' rows in the same commit are stored."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        done: list[object] = []

        def append(row: LogRow) -> None:
            store.append_nowait(Append(shard=SHARD, epoch=room.epoch, rows=(row,)), done.append)

        good = message("room", "ann")
        append(good)
        append(msgspec.structs.replace(good, at_ms=2**63))
        append(msgspec.structs.replace(good, body="\ud83d"))
        append(good)
        await store.barrier()
        codes = [outcome.code if isinstance(outcome, HubbubError) else "" for outcome in done]
        assert codes == ["", "internal", "internal", ""]
        assert store.health == ""
        await room.say("ann")


async def test_a_patient_append_waits_for_company_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody waits for shares the commit of what somebody does; alone it is stored a moment later."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        done: list[object] = []

        def append(*, patient: bool) -> None:
            rows = (message("room", "ann"),)
            store.append_nowait(
                Append(shard=SHARD, epoch=room.epoch, rows=rows, patient=patient), done.append
            )

        append(patient=True)
        with trio.fail_after(5):
            await store.barrier()
        assert len(done) == 1
        monkeypatch.setattr(storage.writer, "_PATIENCE_S", 60.0)
        before = store.stats.commit_count
        append(patient=True)
        append(patient=True)
        append(patient=False)
        with trio.fail_after(5):
            while len(done) < 4:  # noqa: ASYNC110 - told by a callback of the store
                await trio.sleep(0.001)
        assert store.stats.commit_count == before + 1


async def test_the_wal_stays_small_under_load_and_goes_when_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of a small server must not fill up with a log of the log."""
    # An eighth of what is usual, so that 24 MB meet it several times.
    monkeypatch.setattr(storage.writer, "_PASSIVE_AT_BYTES", 8 * 1024 * 1024)
    wal = tmp_path / "hubbub.db-wal"
    largest = 0
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        for _ in range(60):
            await room.append(*[message("room", "ann", "x" * 10_000) for _ in range(40)])
            largest = max(largest, wal.stat().st_size)
        assert largest < 16 * 1024 * 1024
        with trio.fail_after(20):
            while wal.stat().st_size > 4 * 1024 * 1024:  # noqa: ASYNC110 - the writer's own idle clock
                await trio.sleep(0.1)
    assert not wal.exists()  # closed cleanly


async def test_a_database_that_is_moved_away_stops_writes_not_reads(tmp_path: Path) -> None:
    """Linux lets a process write into a deleted file; an ack for that would be a lie."""
    home, elsewhere = tmp_path / "data", tmp_path / "moved"
    async with open_store(home) as store:
        room = await Room.open(store, "ann")
        await room.say("ann", "before")
        os.rename(home, elsewhere)
        with pytest.raises(StorageUnavailable):
            await room.say("ann", "lost", client_id="k")
        assert store.health
        with pytest.raises(StorageUnavailable):
            await room.say("ann", "refused at once")
        assert (await store.head("c:room")).seq == 2
        os.rename(elsewhere, home)
        await _until_healthy(store)
        place = await room.say("ann", "again", client_id="k")
        assert (place.seq, place.is_duplicate) == (3, False)
    assert check(home) == []


async def test_a_database_that_is_replaced_is_not_written(tmp_path: Path) -> None:
    """An operator who restores under a running node must not get a mix of two histories."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        database = tmp_path / "hubbub.db"
        kept = database.read_bytes()
        os.rename(database, tmp_path / "old.db")
        database.write_bytes(kept)
        with pytest.raises(StorageUnavailable):
            await room.say("ann")
        assert "replaced" in store.health
        database.unlink()
        os.rename(tmp_path / "old.db", database)
        await _until_healthy(store)


def test_a_full_disk_refuses_sends_serves_reads_and_recovers(tmp_path: Path) -> None:
    """DESIGN 10, disk full: no ack without commit, no growing WAL, and it heals without a restart."""
    output = _run("tests.storage.full_disk", str(tmp_path / "data"), "pages")
    assert "recovered" in output
    assert check(tmp_path / "data") == []


def test_a_file_size_limit_is_survived_like_an_io_error(tmp_path: Path) -> None:
    """A real write error from the operating system (EFBIG) in the middle of a commit."""
    output = _run("tests.storage.full_disk", str(tmp_path / "data"), "rlimit")
    assert "recovered" in output
    assert check(tmp_path / "data") == []


async def test_a_stuck_process_with_the_write_lock_does_not_hang_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that share a directory outlive one that was frozen in its commit."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        monkeypatch.setattr(WriteLock.acquire, "__defaults__", (0.2,))
        other = WriteLock(tmp_path)
        other.acquire()
        with pytest.raises(StorageUnavailable):
            await room.say("ann")
        assert (await store.head("c:room")).seq == 1
        other.release()
        other.close()
        await _until_healthy(store)
        assert (await room.say("ann")).seq == 2


async def test_an_append_that_waits_too_long_makes_the_queue_refuse(tmp_path: Path) -> None:
    """A slow disk is told to clients within a second, and what was queued is still decided."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        other = WriteLock(tmp_path)
        other.acquire()
        done: list[object] = []
        append = Append(shard=SHARD, epoch=room.epoch, rows=(message("room", "ann"),))
        store.append_nowait(append, done.append)
        with trio.fail_after(20):
            while store.oldest_queued_s <= 1.0:  # noqa: ASYNC110 - real seconds: the limit is one
                await trio.sleep(0.1)
        with pytest.raises(Unavailable) as caught:
            store.append_nowait(append, done.append)
        assert caught.value.code == "overloaded"
        other.release()
        other.close()
        await store.barrier()
        assert len(done) == 1
        assert (await room.say("ann")).seq == 3


async def test_a_directory_that_cannot_be_used_is_told_in_a_sentence(tmp_path: Path) -> None:
    """The operator who mistypes --data reads what to do."""
    file = tmp_path / "file"
    file.write_text("not a directory")
    with pytest.raises(StorageUnavailable, match="Choose another one"):
        async with open_store(file / "data"):
            pass
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hubbub.db").write_bytes(b"not a database at all, but long enough" * 100)
    with pytest.raises(StorageUnavailable, match="cannot be used"):
        async with open_store(tmp_path / "data"):
            pass


async def test_closing_commits_what_is_queued(tmp_path: Path) -> None:
    """A drain ends with everything decided."""
    done: list[object] = []
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        append = Append(shard=SHARD, epoch=room.epoch, rows=(message("room", "ann"),))
        for _ in range(100):
            store.append_nowait(append, done.append)
    assert len(done) == 100
    async with open_store(tmp_path) as store:
        assert (await store.head("c:room")).seq == 101


async def test_an_unknown_outcome_is_told_when_nothing_can_be_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COMMIT failed and so does the probe: neither "stored" nor "not stored" would be true."""
    home, elsewhere = tmp_path / "data", tmp_path / "moved"
    async with open_store(home) as store:
        room = await Room.open(store, "ann")
        writer = store._writer
        connect = writer._connect

        class FailingCommit:
            """The connection, except that COMMIT fails as after a lost device."""

            def __init__(self, connection: object) -> None:
                self._connection = connection

            def __getattr__(self, name: str) -> object:
                return getattr(self._connection, name)

            def execute(self, sql: str, *values: object) -> object:
                if sql == "COMMIT":
                    os.rename(home, elsewhere)
                    error = sqlite3.OperationalError("disk I/O error")
                    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                    raise error
                return self._connection.execute(sql, *values)  # type: ignore[attr-defined]

        monkeypatch.setattr(writer, "_connection", FailingCommit(writer._connection))
        with pytest.raises(OutcomeUnknown):
            await room.say("ann", client_id="k")
        monkeypatch.setattr(writer, "_connect", connect)
        os.rename(elsewhere, home)
        await _until_healthy(store)
        assert (await room.say("ann", client_id="k")).seq == 2
    assert check(home) == []


async def test_a_crash_of_the_writer_itself_answers_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours must become errors and a failed health check, and no client that waits for ever."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(store._writer, "_attempt", broken)
        with trio.fail_after(10):
            with pytest.raises(OutcomeUnknown):
                await room.say("ann")
            with pytest.raises(StorageUnavailable):
                await room.say("ann")
            await store.barrier()
            assert "crashed" in store.health
            assert (await store.head("c:room")).seq == 1


async def test_time_in_the_queue_is_reported(tmp_path: Path) -> None:
    """The dashboard shows how long the oldest append waits."""
    async with open_store(tmp_path) as store:
        assert store.oldest_queued_s == 0.0
        room = await Room.open(store, "ann")
        started_at = time.monotonic()
        append = Append(shard=SHARD, epoch=room.epoch, rows=(message("room", "ann"),))
        store.append_nowait(append, lambda _: None)
        assert 0.0 <= store.oldest_queued_s <= time.monotonic() - started_at + 0.001
        await store.barrier()
        assert store.oldest_queued_s == 0.0
