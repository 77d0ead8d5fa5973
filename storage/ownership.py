"""Who may write which shard: claims by compare-and-swap, and the leases of nodes. Run by the writer's thread.

Leases are measured on the machine's own clock since boot, which wall-clock jumps do not touch and which runs
on in suspend; `clock_id` names the boot, so that a lease from before a restart of the machine is void.
(PostgreSQL, where nodes are on several machines, uses the database's clock.)
"""

import sqlite3
import time
from pathlib import Path

from protocol.records import NodeLease, ShardOwner


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
    connection: sqlite3.Connection, shard: int, seen_epoch: int, node_id: str, boot: int
) -> tuple[int, int] | None:
    """Take one shard that is free, ours from an earlier life, or whose owner's lease has ended.

    Returns (epoch, head), or None where the shard has moved on since `seen_epoch` or is not to be had.
    """
    cursor = connection.execute(
        "UPDATE shard SET owner = ?, boot = ?, epoch = epoch + 1 WHERE shard = ? AND epoch = ? AND ("
        " owner = '' OR (owner = ? AND boot <= ?) OR NOT EXISTS ("
        "  SELECT 1 FROM node n WHERE n.node_id = shard.owner AND n.boot = shard.boot"
        "  AND n.clock_id = ? AND n.lease_until_ms > ?))",
        (node_id, boot, shard, seen_epoch, node_id, boot, clock_id(), now_ms()),
    )
    if cursor.rowcount != 1:
        return None
    row: tuple[int, int] = connection.execute(
        "SELECT epoch, head FROM shard WHERE shard = ?", (shard,)
    ).fetchone()
    return row


def release(connection: sqlite3.Connection, shard: int, epoch: int) -> bool:
    """Give a shard up; its next owner gets a new epoch. False where it was not ours any more."""
    cursor = connection.execute(
        "UPDATE shard SET owner = '', boot = 0, epoch = epoch + 1 WHERE shard = ? AND epoch = ?",
        (shard, epoch),
    )
    return cursor.rowcount == 1


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


def clock_id() -> str:
    """Name the machine's current boot; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _next_boot(connection: sqlite3.Connection, node_id: str, address: str, lease_until_ms: int) -> int:
    connection.execute(
        "INSERT INTO node (node_id, boot, address, lease_until_ms, clock_id, is_draining)"
        " VALUES (?, 1, ?, ?, ?, 0) ON CONFLICT (node_id) DO UPDATE SET boot = boot + 1,"
        " address = excluded.address, lease_until_ms = excluded.lease_until_ms,"
        " clock_id = excluded.clock_id, is_draining = 0",
        (node_id, address, lease_until_ms, clock_id()),
    )
    return int(connection.execute("SELECT boot FROM node WHERE node_id = ?", (node_id,)).fetchone()[0])
