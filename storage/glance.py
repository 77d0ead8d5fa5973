"""Read who is here and who owns what, without opening the store: for looking on from outside.

Nothing is locked, migrated or written, so it works beside nodes in any state, also beside one that is frozen
with the write lock in its hands.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from protocol.errors import StorageUnavailable
from protocol.records import NodeLease, ShardOwner
from storage import ownership
from storage.check import DATABASE_NAME


class Glance(msgspec.Struct, frozen=True):
    """Members and shards of one moment."""

    members: list[NodeLease]
    shards: list[ShardOwner]


def glance(directory: Path) -> Glance:
    """Read them in one transaction; blocks for some ms. Raises: StorageUnavailable."""
    database = (directory / DATABASE_NAME).absolute()
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=2.0)) as connection:
            connection.execute("BEGIN")
            return Glance(ownership.members(connection), ownership.shards(connection))
    except sqlite3.Error as exc:
        raise StorageUnavailable(f"The database in {directory} cannot be read: {exc}.") from None
