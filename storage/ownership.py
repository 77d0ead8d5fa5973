"""Who may write which shard: claims by compare-and-swap, and the leases of nodes. Run by the writer's thread.

Leases are measured on the machine's own clock since boot, which wall-clock jumps do not touch and which runs
on in suspend; `clock_id` names the boot, so that a lease from before a restart of the machine is void.
(PostgreSQL, where nodes are on several machines, uses the database's clock.)
"""

import json
import sqlite3
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from protocol.records import NodeLease, ShardOwner
from storage.locks import is_dead

_IS_LIVE: Final = "n.clock_id = :clock_id AND n.lease_until_ms > :now_ms"


def claim_all(connection: sqlite3.Connection, node_id: str) -> dict[int, int]:
    """Take every shard with a new epoch. Returns shard -> epoch."""
    boot = _next_boot(connection, node_id, "", 0)
    connection.execute("UPDATE shard SET owner = ?, boot = ?, epoch = epoch + 1", (node_id, boot))
    return dict(connection.execute("SELECT shard, epoch FROM shard").fetchall())


def register_node(connection: sqlite3.Connection, node_id: str, address: str, lease_ms: int) -> int:
    """Begin a new life of a node. Returns its boot number, which rises with every start."""
    return _next_boot(connection, node_id, address, now_ms() + lease_ms)


def renew_node(
    connection: sqlite3.Connection, node_id: str, boot: int, lease_ms: int, is_draining: bool
) -> bool:
    """Prolong a lease; False where a later life of the node has begun."""
    cursor = connection.execute(
        "UPDATE node SET lease_until_ms = ?, clock_id = ?, is_draining = ? WHERE node_id = ? AND boot = ?",
        (now_ms() + lease_ms, clock_id(), int(is_draining), node_id, boot),
    )
    return cursor.rowcount == 1


def claim(
    connection: sqlite3.Connection, seen_epochs: Mapping[int, int], node_id: str, boot: int
) -> dict[int, tuple[int, int]]:
    """Take the shards that are free, ours from an earlier life, or whose owner's lease has ended.

    A shard that has moved on since its seen epoch is left out, and so is every shard of a claimer whose own
    lease has ended. Returns shard -> (epoch, head) of those taken.
    """
    rows = connection.execute(
        "UPDATE shard SET owner = :node_id, boot = :boot, epoch = shard.epoch + 1"
        " FROM (SELECT key, value FROM json_each(:seen_epochs)) AS seen"
        " WHERE shard.shard = CAST(seen.key AS INTEGER) AND shard.epoch = seen.value"
        f" AND EXISTS (SELECT 1 FROM node n WHERE n.node_id = :node_id AND n.boot = :boot AND {_IS_LIVE})"
        " AND (shard.owner = '' OR (shard.owner = :node_id AND shard.boot <= :boot) OR NOT EXISTS ("
        f" SELECT 1 FROM node n WHERE n.node_id = shard.owner AND n.boot = shard.boot AND {_IS_LIVE}))"
        " RETURNING shard, epoch, head",
        {
            "node_id": node_id,
            "boot": boot,
            "seen_epochs": json.dumps(dict(seen_epochs)),
            "clock_id": clock_id(),
            "now_ms": now_ms(),
        },
    )
    return {shard: (epoch, head) for shard, epoch, head in rows.fetchall()}


def release(connection: sqlite3.Connection, epochs: Mapping[int, int]) -> dict[int, int]:
    """Give shards up: they are free under a new epoch, so what their old owner still writes is fenced.

    Returns shard -> new epoch of those that were ours until now.
    """
    rows = connection.execute(
        "UPDATE shard SET owner = '', boot = 0, epoch = shard.epoch + 1"
        " FROM (SELECT key, value FROM json_each(?)) AS held"
        " WHERE shard.shard = CAST(held.key AS INTEGER) AND shard.epoch = held.value"
        " RETURNING shard, epoch",
        (json.dumps(dict(epochs)),),
    )
    return dict(rows.fetchall())


def find_dead(connection: sqlite3.Connection, directory: Path) -> list[tuple[str, int]]:
    """Nodes with a live lease and, as their lock shows, no process; (node_id, boot) of each."""
    found = []
    for node_id, boot in _live_leases(connection):
        with is_dead(directory, node_id) as is_gone:
            if is_gone:
                found.append((node_id, boot))
    return found


def end_leases_of_the_dead(connection: sqlite3.Connection, directory: Path) -> list[tuple[str, int]]:
    """End the lease of each node that has no process any more. Returns (node_id, boot) of each.

    No harm comes to a node that is starting: its new process takes the lock before it registers, and here
    both the lock and the transaction are held, so the boot read is that of the process that has died.
    """
    ended = []
    for node_id, boot in _live_leases(connection):
        with is_dead(directory, node_id) as is_gone:
            if is_gone:
                connection.execute(
                    "UPDATE node SET lease_until_ms = 0 WHERE node_id = ? AND boot = ?", (node_id, boot)
                )
                ended.append((node_id, boot))
    return ended


def members(connection: sqlite3.Connection) -> list[NodeLease]:
    """Every node ever seen, with what is left of its lease."""
    now, clock = now_ms(), clock_id()
    rows = connection.execute(
        "SELECT node_id, boot, address, lease_until_ms, clock_id, is_draining FROM node ORDER BY node_id"
    )
    return [
        NodeLease(
            node_id=node_id,
            boot=boot,
            address=address,
            lease_left_ms=max(until_ms - now, 0) if clock == its_clock else 0,
            is_draining=bool(is_draining),
        )
        for node_id, boot, address, until_ms, its_clock, is_draining in rows.fetchall()
    ]


def shards(connection: sqlite3.Connection) -> list[ShardOwner]:
    rows = connection.execute("SELECT shard, owner, boot, epoch, head FROM shard ORDER BY shard")
    return [ShardOwner(*row) for row in rows.fetchall()]


def now_ms() -> int:
    """Milliseconds since the machine started, the same in every process."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
    return (time.monotonic_ns() if clock is None else time.clock_gettime_ns(clock)) // 1_000_000


@cache
def clock_id() -> str:
    """Name the machine's current boot; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _live_leases(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    return connection.execute(
        f"SELECT n.node_id, n.boot FROM node n WHERE {_IS_LIVE} ORDER BY n.node_id",
        {"clock_id": clock_id(), "now_ms": now_ms()},
    ).fetchall()


def _next_boot(connection: sqlite3.Connection, node_id: str, address: str, lease_until_ms: int) -> int:
    connection.execute(
        "INSERT INTO node (node_id, boot, address, lease_until_ms, clock_id, is_draining)"
        " VALUES (?, 1, ?, ?, ?, 0) ON CONFLICT (node_id) DO UPDATE SET boot = boot + 1,"
        " address = excluded.address, lease_until_ms = excluded.lease_until_ms,"
        " clock_id = excluded.clock_id, is_draining = 0",
        (node_id, address, lease_until_ms, clock_id()),
    )
    return int(connection.execute("SELECT boot FROM node WHERE node_id = ?", (node_id,)).fetchone()[0])
