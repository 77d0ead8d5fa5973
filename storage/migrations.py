"""Make the tables of a data directory, and bring older ones up to date.

Changes are additive: a missing table, column or index is added, nothing is dropped or renamed, so a node of
the release before can work on the same directory. Each change is one transaction with its record in
sqlite-utils' own table. The caller holds the directory's write lock, and opens readers only afterwards.
"""

import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlite_utils import Database, Migrations
from sqlite_utils.db import Table

from storage.feed_queries import IS_FEED_KIND
from storage.retired_rows import suppress_retired
from storage.schema import SHARD_COUNT, TableSpec, all_specs
from storage.views import VIEWS

# Beyond what the Structs tell. Deleted messages are counted for each unread badge: only these rows are
# indexed. A message's edits are found when it is deleted, to erase them too. And few posts are reposts, of
# which each author has at most one of each post.
_EXTRA_INDEXES = (
    "CREATE INDEX IF NOT EXISTS idx_message_state_deleted ON message_state (conversation_id, seq)"
    " WHERE deleted_at_ms > 0",
    "CREATE INDEX IF NOT EXISTS idx_log_edited ON log (stream_id, json_extract(body, '$.target'))"
    " WHERE kind = 'edited'",
    # What other nodes did to posts and authors is read behind the last lsn that is known.
    f"CREATE INDEX IF NOT EXISTS idx_log_feed ON log (lsn) WHERE {IS_FEED_KIND}",
    # Authors whose posts are merged in when feeds are read.
    "CREATE INDEX IF NOT EXISTS idx_author_hot ON author (user_id) WHERE last_hot_id > 0",
    "CREATE INDEX IF NOT EXISTS idx_post_repost ON post (author_id, repost_of) WHERE repost_of <> 0",
    # What a notification partition goes on with; all but a few rows are concluded.
    "CREATE INDEX IF NOT EXISTS idx_notification_held ON notification (partition, due_at_ms, notification_id)"
    " WHERE state = 'held'",
    "CREATE INDEX IF NOT EXISTS idx_notification_held_user ON notification (user_id, notification_id)"
    " WHERE state = 'held'",
    "CREATE INDEX IF NOT EXISTS idx_notification_into ON notification (into_id) WHERE into_id <> 0",
    "CREATE INDEX IF NOT EXISTS idx_notification_variant ON notification (app_id, variant)"
    " WHERE variant <> ''",
    "CREATE INDEX IF NOT EXISTS idx_notification_request ON notification (request_id) WHERE request_id <> ''",
    # What is late, of each app and priority by itself.
    "CREATE INDEX IF NOT EXISTS idx_notification_open ON notification (app_id, priority, deadline_at_ms)"
    " WHERE state = 'open'",
    "CREATE INDEX IF NOT EXISTS idx_delivery_open ON delivery (partition, priority, next_at_ms)"
    " WHERE is_open = 1",
    # A stuck queue of one app must not hide what others have to send.
    "CREATE INDEX IF NOT EXISTS idx_delivery_line ON delivery (partition, priority, app_id, channel,"
    " next_at_ms, notification_id, number) WHERE is_open = 1",
    "CREATE INDEX IF NOT EXISTS idx_dead_untold_cause ON dead_delivery (app_id, channel, provider_id, code,"
    " at_ms) WHERE alerted_at_ms = 0",
    "CREATE INDEX IF NOT EXISTS idx_delivery_ref ON delivery (provider_ref) WHERE provider_ref <> ''",
    # Who has an address that is stopped. Tokens and subscriptions have one user each.
    "CREATE INDEX IF NOT EXISTS idx_device_of_people ON notify_device (device_key, user_id)"
    " WHERE channel IN ('email', 'sms')",
    # Counted from time to time, for the guard against mass retirement.
    "CREATE INDEX IF NOT EXISTS idx_device_alive ON notify_device (app_id, channel) WHERE retired_at_ms = 0",
    "CREATE INDEX IF NOT EXISTS idx_consent_end ON notify_consent (partition, ends_at_ms)"
    " WHERE ends_at_ms > 0",
    "CREATE INDEX IF NOT EXISTS idx_request_waiting ON notify_request (app_id, next_at_ms)"
    " WHERE state IN ('waiting', 'running')",
    "CREATE INDEX IF NOT EXISTS idx_request_cancelling ON notify_request (app_id) WHERE state = 'cancelling'",
    "CREATE INDEX IF NOT EXISTS idx_request_ended ON notify_request (done_at_ms) WHERE done_at_ms > 0",
)
# Of earlier versions; what replaces them is above, or among a Struct's own indexes.
_FORMER_INDEXES = ("idx_notification_centre", "idx_notification_user_id_notification_id")
# Rows lie in order of arrival (lsn), so that a commit dirties the tail of the table and not a page per
# stream.
_LOG_TABLES = """
CREATE TABLE IF NOT EXISTS stream (
    stream_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    shard INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS log (
    lsn INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    client_id TEXT,
    message_count INTEGER NOT NULL,
    is_message INTEGER NOT NULL,
    thread INTEGER,
    body TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS idx_log_stream_seq ON log (stream_id, seq);
CREATE UNIQUE INDEX IF NOT EXISTS idx_log_client_id ON log (stream_id, user_id, client_id)
    WHERE client_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_log_thread ON log (stream_id, thread, seq) WHERE thread IS NOT NULL;
CREATE TABLE IF NOT EXISTS shard (
    shard INTEGER PRIMARY KEY,
    owner TEXT NOT NULL DEFAULT '',
    boot INTEGER NOT NULL DEFAULT 0,
    epoch INTEGER NOT NULL DEFAULT 0,
    head INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS node (
    node_id TEXT PRIMARY KEY,
    boot INTEGER NOT NULL DEFAULT 0,
    address TEXT NOT NULL DEFAULT '',
    lease_until_ms INTEGER NOT NULL DEFAULT 0,
    clock_id TEXT NOT NULL DEFAULT '',
    is_draining INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS store_info (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
"""


def migrate(database: Path) -> list[str]:
    """Apply what is missing and name it. The caller holds the write lock of the directory.

    Raises: sqlite3.Error, and nothing of the failing step is kept.
    """
    connection = sqlite3.connect(database, timeout=10.0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        db = Database(connection, execute_plugins=False)
        steps = _steps(all_specs())
        pending = [step.name for step in steps.pending(db)]
        if pending:
            steps.apply(db)
        return pending
    finally:
        connection.close()


def pending_steps(connection: sqlite3.Connection) -> list[str]:
    """Name the steps that a database still needs. Reads only."""
    db = Database(connection, execute_plugins=False, recursive_triggers=False)
    return [step.name for step in _steps(all_specs()).pending(db)]


def schema_digest() -> str:
    """Name the schema this release wants, for a backup's manifest."""
    return _directory_digest(all_specs())


def _steps(specs: tuple[TableSpec[Any], ...]) -> Migrations:
    """List the steps. A digest in a name makes a changed Struct or view a new step."""
    steps = Migrations("hubbub")

    @steps(name="0001_log")
    def _log(db: Database) -> None:
        for statement in _LOG_TABLES.split(";\n"):
            if statement.strip():
                db.conn.execute(statement)
        db.conn.executemany(
            "INSERT OR IGNORE INTO shard (shard) VALUES (?)", ((shard,) for shard in range(SHARD_COUNT))
        )

    @steps(name=f"directory_{_directory_digest(specs)}")
    def _directory(db: Database) -> None:
        for spec in specs:
            _ensure_table(db, spec)
        for statement in _EXTRA_INDEXES:
            db.conn.execute(statement)
        for name in _FORMER_INDEXES:
            db.conn.execute(f"DROP INDEX IF EXISTS {name}")

    @steps(name="0002_suppress_retired")
    def _suppress_retired(db: Database) -> None:
        suppress_retired(db.conn)

    @steps(name=f"views_{_digest(f'{name}:{sql}' for name, sql in VIEWS.items())}")
    def _views(db: Database) -> None:
        for name, sql in VIEWS.items():
            db.create_view(name, sql, replace=True)

    return steps


def _ensure_table(db: Database, spec: TableSpec[Any]) -> None:
    table = db.table(spec.name)
    if not table.exists():
        keys = spec.row_type.key
        table.create(
            {column.name: column.python_type for column in spec.columns},
            pk=keys[0] if len(keys) == 1 else keys,
            not_null={column.name for column in spec.columns if not column.is_nullable},
            defaults={
                column.name: _sql_default(column.default) for column in spec.columns if column.has_default
            },
        )
    else:
        _add_columns(table, spec)
    for columns in spec.row_type.unique:
        table.create_index(columns, unique=True, if_not_exists=True)
    for columns in spec.row_type.indexes:
        table.create_index(columns, if_not_exists=True)


def _add_columns(table: Table, spec: TableSpec[Any]) -> None:
    existing = {column.name for column in table.columns}
    for column in spec.columns:
        if column.name in existing:
            continue
        if column.is_nullable:
            table.add_column(column.name, column.python_type)
        elif column.has_default:
            table.add_column(column.name, column.python_type, not_null_default=_sql_default(column.default))
        else:
            raise TypeError(f"{spec.name}.{column.name} is new and needs a default: schemas only grow")


def _sql_default(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def _directory_digest(specs: Iterable[TableSpec[Any]]) -> str:
    lines = [repr((spec.name, spec.columns, spec.row_type.key, spec.row_type.unique)) for spec in specs]
    lines += [repr(spec.row_type.indexes) for spec in specs]
    return _digest([*lines, *_EXTRA_INDEXES, *_FORMER_INDEXES])


def _digest(lines: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=6).hexdigest()
