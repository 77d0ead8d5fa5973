"""kill -9 while the store writes, again and again over one data directory: promises 1, 2 and 3 in one test.

A failure prints its seed; HUBBUB_SEED=<seed> repeats the choices (not the scheduling).
"""

import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest
import trio

from protocol.records import Append, MemberRow, Put
from storage import check, open_store
from tests.chaos.store_writer import STREAM_COUNT, body_of, row_of, stream_of
from tests.conftest import IS_LONG_RUN

KILL_COUNT = 48 if IS_LONG_RUN else 12
ROOT = Path(__file__).parent.parent.parent


class Told:
    """What the writers told before they were killed."""

    def __init__(self) -> None:
        self.acked: dict[tuple[str, str], int] = {}
        self.tried: set[tuple[str, str]] = set()

    def read(self, output: bytes) -> int:
        """Take in a writer's output. Returns how many acks it holds."""
        ack_count = 0
        for line in output.decode().splitlines():
            match line.split():
                case ["try", stream, client_id]:
                    self.tried.add((stream, client_id))
                case ["ack", stream, client_id, seq]:
                    assert self.acked.setdefault((stream, client_id), int(seq)) == int(seq)
                    ack_count += 1
                case other:
                    pytest.fail(f"the writer said {other}")
        return ack_count


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_kill_9_loses_nothing_acked_and_stores_nothing_twice(tmp_path: Path) -> None:
    """Everybody relies on it: an ack means stored, and a retry after a crash is not a second message."""
    seed = int(os.environ.get("HUBBUB_SEED", random.randrange(2**32)))
    print(f"HUBBUB_SEED={seed}")
    dice = random.Random(seed)
    directory = tmp_path / "data"
    async with open_store(directory):  # the tables are made once; the kills hit running writers
        pass
    told = Told()
    kills_after_acks = 0
    for run in range(KILL_COUNT):
        kills_after_acks += told.read(_run_and_kill(directory, run, dice)) > 0
        _expect_all_acked_stored(directory, told)
    assert kills_after_acks >= KILL_COUNT // 2, "most writers were killed before they had acked anything"
    print(f"{KILL_COUNT} kills, {len(told.acked)} acked, {len(told.tried) - len(told.acked)} open")
    await _retry_what_is_open(directory, told)
    _expect_all_acked_stored(directory, told)
    assert set(told.acked) == told.tried
    assert [str(problem) for problem in check(directory)] == []


def _run_and_kill(directory: Path, run: int, dice: random.Random) -> bytes:
    """Let a writer write for a random while, then SIGKILL it. Returns all that it told."""
    output_path = directory.parent / f"run-{run}.txt"
    arguments = ["-m", "tests.chaos.store_writer", str(directory), str(run), str(dice.randrange(2**32))]
    with open(output_path, "wb") as output:
        writer = subprocess.Popen([sys.executable, *arguments], stdout=output, cwd=ROOT)
        try:
            wanted = int(dice.expovariate(1 / 30_000))  # bytes told: from nothing yet to many commits
            deadline = time.monotonic() + 30
            while output_path.stat().st_size < wanted or wanted == 0:
                assert writer.poll() is None, "the writer died by itself"
                assert time.monotonic() < deadline, "the writer does not write"
                if wanted == 0:
                    break
                time.sleep(0.002)
            time.sleep(dice.random() * 0.02)  # somewhere within a commit or between two
        finally:
            writer.kill()
            writer.wait()
    told = output_path.read_bytes()
    return told[: told.rfind(b"\n") + 1]


def _expect_all_acked_stored(directory: Path, told: Told) -> None:
    """Look into the file with nothing of ours in between."""
    rows_of: dict[str, list[tuple[int, str, str, int]]] = defaultdict(list)
    with closing(sqlite3.connect(directory / "hubbub.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for stream, seq, client_id, body, message_count in connection.execute(
            "SELECT s.name, l.seq, l.client_id, l.body, l.message_count FROM log l JOIN stream s"
            " USING (stream_id) ORDER BY s.name, l.seq"
        ):
            rows_of[stream].append((seq, client_id, body, message_count))
    stored: dict[tuple[str, str], int] = {}
    for stream, rows in rows_of.items():
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1)), f"{stream} has a gap"
        for seq, client_id, body, message_count in rows:
            assert (stream, client_id) not in stored, f"{stream} {client_id} is stored twice"
            assert body == body_of(stream, client_id)
            assert message_count == seq
            stored[stream, client_id] = seq
    lost = {key: seq for key, seq in told.acked.items() if stored.get(key) != seq}
    assert not lost, f"acked and lost or moved: {sorted(lost)[:5]} of {len(lost)}"
    assert set(stored) <= told.tried


async def _retry_what_is_open(directory: Path, told: Told) -> None:
    """Send everything again that was tried, as clients do after a crash; each is stored once afterwards."""
    async with open_store(directory) as store, trio.open_nursery() as nursery:
        epochs = await store.claim_all("retry")
        limiter = trio.CapacityLimiter(64)

        async def retry(stream: str, client_id: str) -> None:
            shard = stream_of(int(stream[2:]))[1]
            append = Append(shard=shard, epoch=epochs[shard], rows=(row_of(stream, client_id),))
            async with limiter:
                (place,) = await store.append(append)
            was_acked_at = told.acked.setdefault((stream, client_id), place.seq)
            assert was_acked_at == place.seq

        for stream, client_id in sorted(told.tried):
            nursery.start_soon(retry, stream, client_id)


async def test_the_writers_streams_spread_over_shards(tmp_path: Path) -> None:
    """The chaos test means little if its load is one stream of one shard."""
    async with open_store(tmp_path / "data") as store:
        epochs = await store.claim_all("n")
        for number in range(STREAM_COUNT):
            stream, shard = stream_of(number)
            row = row_of(stream, "1")
            member = MemberRow(conversation_id=stream[2:], user_id="writer", role="member")
            await store.append(Append(shard=shard, epoch=epochs[shard], rows=(row,), ops=(Put(member),)))
        assert len([row for row in await store.shards() if row.head]) == 4
