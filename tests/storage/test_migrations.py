"""Data directories of older releases, and looking inside with other tools."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database
from sqlite_utils.db import NoTable

from protocol.records import MessageState, Put, User
from protocol.tables import TABLES
from storage import check, open_store
from storage.migrations import migrate
from storage.schema import spec_of
from storage.views import VIEWS
from tests.storage.rooms import Room, change


async def test_an_older_directory_gains_tables_columns_and_indexes(tmp_path: Path) -> None:
    """An upgrade is a restart: what an older release wrote is kept and readable."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        await room.say("ann", "old")
    with closing(sqlite3.connect(tmp_path / "hubbub.db")) as connection, connection:
        views = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
        for view in views:
            connection.execute(f"DROP VIEW {view}")
        connection.execute("DROP INDEX idx_user_account_app_id_name_key")
        connection.execute("ALTER TABLE user_account DROP COLUMN time_zone")
        connection.execute("ALTER TABLE user_account DROP COLUMN is_bot")
        connection.execute("ALTER TABLE message_state DROP COLUMN mentions")
        connection.execute("DROP TABLE invite")
        connection.execute(
            "CREATE INDEX idx_notification_centre ON notification (user_id) WHERE in_centre = 1"
        )
        connection.execute("DELETE FROM _sqlite_migrations WHERE name <> '0001_log'")
    assert [problem.code for problem in check(tmp_path)] == ["schema_outdated"]
    async with open_store(tmp_path) as store:
        ann = await store.get(User, "ann")
        assert ann is not None
        assert (ann.time_zone, ann.is_bot) == ("", False)
        await store.commit([Put(MessageState(conversation_id="room", seq=2, mentions="[]"))])
        assert (await store.head("c:room")).seq == 2
    assert check(tmp_path) == []
    with closing(sqlite3.connect(tmp_path / "hubbub.db")) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    assert {"idx_user_account_app_id_name_key", "invite", "messages"} <= names
    assert "idx_notification_centre" not in names  # what nobody reads any more is not written either


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    assert migrate(tmp_path / "hubbub.db") != []
    assert migrate(tmp_path / "hubbub.db") == []


def test_a_failing_step_leaves_nothing_behind(tmp_path: Path) -> None:
    """A node that dies in a migration is started again, and it goes on."""
    with closing(sqlite3.connect(tmp_path / "hubbub.db")) as connection, connection:
        connection.execute("CREATE VIEW invite AS SELECT 1")  # in the way of a table
    with pytest.raises(NoTable):
        migrate(tmp_path / "hubbub.db")
    with closing(sqlite3.connect(tmp_path / "hubbub.db")) as connection, connection:
        assert connection.execute("SELECT name FROM _sqlite_migrations").fetchall() == [("0001_log",)]
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'member'").fetchall() == []
        connection.execute("DROP VIEW invite")
    assert len(migrate(tmp_path / "hubbub.db")) == 3


def test_every_struct_is_a_table_with_plain_columns(tmp_path: Path) -> None:
    """People read them with any tool: no blobs, no packed values."""
    migrate(tmp_path / "hubbub.db")
    db = Database(tmp_path / "hubbub.db")
    for row_type in TABLES:
        table = db.table(row_type.table)
        assert [column.name for column in table.columns] == list(spec_of(row_type).names)
        assert {column.type for column in table.columns} <= {"TEXT", "INTEGER"}
        assert tuple(table.pks) == row_type.key
    db.close()


async def test_people_can_look_inside(tmp_path: Path) -> None:
    """Views say what is stored as one would say it, and show no secret."""
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann", "bob")
        await room.say("ann", "hello")
        await room.say("ann", "second")
        await store.commit([Put(MessageState(conversation_id="room", seq=3, deleted_at_ms=5))])
        done = subprocess.run(
            [sys.executable, "-m", "sqlite_utils", "rows", str(tmp_path / "hubbub.db"), "messages"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert '"text": "hello"' in done.stdout
        assert "second" not in done.stdout
        with closing(sqlite3.connect(tmp_path / "hubbub.db")) as connection:
            for view in VIEWS:
                columns = [column[0] for column in connection.execute(f"SELECT * FROM {view}").description]
                assert not [name for name in columns if "hash" in name or "token" in name]
            unread = connection.execute("SELECT user, unread FROM members ORDER BY user").fetchall()
            assert unread == [("Ann", 0), ("Bob", 1)]
            assert connection.execute("SELECT title, head FROM conversations").fetchall() == [("room", 3)]


@pytest.mark.slow
async def test_datasette_serves_the_directory(tmp_path: Path) -> None:
    """The README says that Datasette opens it, beside a running node."""
    pytest.importorskip("datasette")
    async with open_store(tmp_path) as store:
        room = await Room.open(store, "ann")
        await room.say("ann", "seen by datasette")
        arguments = ["-m", "datasette", "serve", str(tmp_path / "hubbub.db"), "--get"]
        done = subprocess.run(
            [sys.executable, *arguments, "/hubbub/messages.json?_shape=array"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "seen by datasette" in done.stdout
        assert (await room.say("ann", "and it goes on")).seq == 3


async def test_an_unknown_column_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    """Rolling back a release must not wipe what the newer one stored."""
    async with open_store(tmp_path) as store:
        await Room.open(store, "ann")
    change(
        tmp_path,
        "ALTER TABLE user_account ADD COLUMN mood TEXT NOT NULL DEFAULT ''",
        "UPDATE user_account SET mood = 'fine'",
    )
    async with open_store(tmp_path) as store:
        ann = await store.get(User, "ann")
        assert ann is not None
        await store.commit([Put(ann)])
    with closing(sqlite3.connect(tmp_path / "hubbub.db")) as connection:
        assert connection.execute("SELECT mood FROM user_account").fetchall() == [("fine",)]
