"""How many rows a second does the store append durably, and how long does one wait?

Load: N writers, each appending one 300-byte message with a client id and its sender's watermark, waiting for
the ack before the next (closed loop; N is the concurrency). Streams are spread over writers. Beside it, in
the same run, a bare sqlite3 loop writes the same rows into the same tables in groups of the same size: what
the engine alone can do. One JSON line per setting: rows/s, commits/s, p50/p99/p99.9 in ms, WAL bytes per row.

usage: python -m bench.store_append [--seconds S] [--writers 1,16,128] [--synchronous FULL|NORMAL] [--dir DIR]
"""

import argparse
import itertools
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import trio

from protocol.records import Advance, Append, LogRow, MemberRow, Put
from storage import SqliteStore, open_store
from storage.transaction import INSERT_LOG

BODY = '{"text":"' + "x" * 289 + '"}'
SHARD_COUNT = 256


class Run:
    """One setting on a fresh data directory."""

    def __init__(self, store: SqliteStore, epochs: dict[int, int], writer_count: int) -> None:
        self._store = store
        self._epochs = epochs
        self._writer_count = writer_count
        self.waits_s: list[float] = []

    async def prepare(self) -> None:
        members = [
            Put(MemberRow(conversation_id=f"{number}", user_id="u", role="member"))
            for number in range(self._writer_count)
        ]
        await self._store.commit(members)

    async def write(self, number: int, until: float) -> None:
        shard = number % SHARD_COUNT
        stream, epoch = f"c:{number}", self._epochs[shard]
        for turn in itertools.count():
            started_at = time.perf_counter()
            if started_at >= until:
                return
            row = LogRow(
                stream=stream,
                kind="message",
                at_ms=turn,
                user_id="u",
                body=BODY,
                client_id=f"{turn:016x}",
                is_message=True,
            )
            own = Advance(conversation_id=stream[2:], user_id="u", row_index=0)
            await self._store.append(Append(shard=shard, epoch=epoch, rows=(row,), ops=(own,)))
            self.waits_s.append(time.perf_counter() - started_at)


async def measure(directory: Path, writer_count: int, seconds: float, synchronous: str) -> dict[str, object]:
    """Run one setting. Returns its line."""
    async with open_store(directory, synchronous=synchronous) as store:
        run = Run(store, await store.claim_all("bench"), writer_count)
        await run.prepare()
        before = store.stats.commit_count
        started_at = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(writer_count):
                nursery.start_soon(run.write, number, started_at + seconds)
        took_s = time.perf_counter() - started_at
        commit_count = store.stats.commit_count - before
        checkpointed = store.stats.checkpointed_bytes
    row_count = len(run.waits_s)
    waits_ms = sorted(wait * 1000 for wait in run.waits_s)
    bare = bare_rows_per_s(directory, max(row_count // max(commit_count, 1), 1), seconds / 2, synchronous)
    return {
        "bench": "store_append",
        "synchronous": synchronous,
        "writers": writer_count,
        "rows_per_s": round(row_count / took_s),
        "commits_per_s": round(commit_count / took_s),
        "rows_per_commit": round(row_count / max(commit_count, 1), 1),
        "p50_ms": round(statistics.median(waits_ms), 3),
        "p99_ms": round(waits_ms[int(len(waits_ms) * 0.99)], 3),
        "p999_ms": round(waits_ms[int(len(waits_ms) * 0.999)], 3),
        "wal_bytes_per_row": round(checkpointed / max(row_count, 1)),
        "bare_sqlite_rows_per_s": round(bare),
        "ratio_to_bare": round(row_count / took_s / bare, 3),
    }


def bare_rows_per_s(directory: Path, group: int, seconds: float, synchronous: str) -> float:
    """Write the same rows with nothing but sqlite3: one INSERT and one UPDATE per row, one COMMIT per
    group.
    """
    with closing(sqlite3.connect(directory / "hubbub.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        first_stream = connection.execute("SELECT max(stream_id) + 1 FROM stream").fetchone()[0]
        row_count = 0
        started_at = time.perf_counter()
        while time.perf_counter() - started_at < seconds:
            connection.execute("BEGIN IMMEDIATE")
            rows = []
            for number in range(group):
                seq = row_count // group + 1
                stream = first_stream + number
                rows.append((stream, seq, "message", seq, "u", f"{seq:016x}", seq, 1, None, BODY))
            connection.executemany(INSERT_LOG, rows)
            connection.executemany(
                "UPDATE member SET read_seq = ?, read_count = ? WHERE conversation_id = ? AND user_id = 'u'",
                ((row[1], row[1], f"{number}") for number, row in enumerate(rows)),
            )
            connection.execute("COMMIT")
            row_count += group
        return row_count / (time.perf_counter() - started_at)


def commit_id() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    """Print one JSON line per setting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--writers", default="1,16,128")
    parser.add_argument("--synchronous", default="FULL", choices=["FULL", "NORMAL"])
    parser.add_argument(
        "--dir", default=None, help="where to write; the disk matters (default: the system's)"
    )
    options = parser.parse_args()
    machine = {
        "commit": commit_id(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "cpus": os.cpu_count(),
        "system": platform.system(),
    }
    for writers in options.writers.split(","):
        with tempfile.TemporaryDirectory(dir=options.dir) as directory:
            line = trio.run(measure, Path(directory), int(writers), options.seconds, options.synchronous)
        print(json.dumps({**line, **machine}))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
