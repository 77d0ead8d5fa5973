"""Addresses that a directory of an older release has retired are as those that are retired now."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from actors.notify.suppression import lifts
from protocol.notify_records import NotifyDeviceRow, SuppressionRow
from protocol.records import Put
from storage.check import DATABASE_NAME
from storage.retired_rows import kind_of_code
from storage.sqlite import open_store


def address(user_id: str, key: str, why: str = "", *, retired_at_ms: int = 5, **more: Any) -> Put:
    channel = key.partition("-")[0]
    given: dict[str, Any] = {"registered_at_ms": 1, **more}
    row = NotifyDeviceRow(
        user_id=user_id,
        device_key=key,
        app_id=given.pop("app_id", "a"),
        channel=channel,
        address=f"at {key}",
        retired_at_ms=retired_at_ms,
        retired_for=why,
        **given,
    )
    return Put(row)


def make_old(directory: Path) -> None:
    """As before there were suppressions: no table of them, and the step that fills it is still to come."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection, connection:
        connection.execute(f"DROP TABLE {SuppressionRow.table}")
        connection.execute(
            "DELETE FROM _sqlite_migrations WHERE name LIKE 'directory_%' OR name LIKE '0002_%'"
        )


async def kinds(directory: Path) -> dict[tuple[str, str], tuple[str, str, int]]:
    async with open_store(directory) as store:
        rows = [*await store.find(SuppressionRow, {"app_id": "a"})]
        rows += await store.find(SuppressionRow, {"app_id": "b"})
    return {(row.app_id, row.device_key): (row.kind, row.code, row.at_ms) for row in rows}


async def test_stop_before_the_upgrade_is_stop_after_it(tmp_path: Path) -> None:
    """The next night's import would else write to all who ever said no."""
    async with open_store(tmp_path) as store:
        await store.commit(
            [
                address("u1", "sms-1", "21610"),
                address("u2", "sms-2", "21614"),
                address("u3", "email-3", "550"),
                address("u4", "email-4", "abuse"),
                address("u5", "email-5", retired_at_ms=0),
                address("u6", "apns-6", "Unregistered"),
                address("u7", "sms-7"),
                address("u8", "sms-1", "21614", app_id="b"),
            ]
        )
    make_old(tmp_path)
    assert await kinds(tmp_path) == {
        ("a", "sms-1"): ("stopped", "21610", 5),
        ("a", "sms-2"): ("dead", "21614", 5),
        ("a", "email-3"): ("dead", "550", 5),
        ("a", "email-4"): ("stopped", "abuse", 5),
        ("a", "sms-7"): ("stopped", "retired", 5),
        ("b", "sms-1"): ("dead", "21614", 5),
    }


async def test_who_was_registered_again_since_stays_reachable(tmp_path: Path) -> None:
    """And of two users with one address, the one who said stop counts."""
    async with open_store(tmp_path) as store:
        await store.commit(
            [
                address("u1", "sms-1", "21610"),
                address("u2", "sms-1", retired_at_ms=0, registered_at_ms=6),
                address("u1", "sms-2", "21610"),
                address("u2", "sms-2", retired_at_ms=0, registered_at_ms=5),
                address("u1", "sms-3", "21614", retired_at_ms=4),
                address("u2", "sms-3", "21610", retired_at_ms=7),
            ]
        )
    make_old(tmp_path)
    assert await kinds(tmp_path) == {
        ("a", "sms-2"): ("stopped", "21610", 5),
        ("a", "sms-3"): ("stopped", "21610", 7),
    }


async def test_what_was_lifted_since_is_not_put_back(tmp_path: Path) -> None:
    """It is done once, however often the node is started; and what is known better stays."""
    async with open_store(tmp_path) as store:
        await store.commit([address("u1", "sms-1", "21610")])
        assert await store.find(SuppressionRow, {"app_id": "a"}) == []
    assert await kinds(tmp_path) == {}
    known = SuppressionRow(app_id="a", device_key="sms-1", kind="dead", code="x", at_ms=1)
    async with open_store(tmp_path) as store:
        await store.commit([Put(known)])
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection, connection:
        connection.execute("DELETE FROM _sqlite_migrations WHERE name LIKE '0002_%'")
    assert await kinds(tmp_path) == {("a", "sms-1"): ("dead", "x", 1)}


@pytest.mark.parametrize(
    ("channel", "code", "kind"),
    [
        ("sms", "21610", "stopped"),
        ("sms", "30004", "stopped"),
        ("sms", "7", "stopped"),
        ("sms", "9", "stopped"),
        ("sms", "unsubscribed", "stopped"),
        ("sms", "33", "dead"),
        ("sms", "21211", "dead"),
        ("email", "550", "dead"),
        ("email", "5.1.1", "dead"),
        ("email", "Permanent/General", "dead"),
        ("email", "bounce", "dead"),
        ("email", "5.0.0", "stopped"),
        ("email", "complained", "stopped"),
        ("email", "abuse", "stopped"),
        ("email", "suppress", "stopped"),
        ("email", "", "stopped"),
    ],
)
def test_the_providers_word_tells_who_said_so(channel: str, code: str, kind: str) -> None:
    """Where it does not, it is as if the person had: that takes an opt-in to lift."""
    assert kind_of_code(channel, code) == kind
    assert lifts(kind, opt_in=False, is_users_own=True) == (kind == "dead")
