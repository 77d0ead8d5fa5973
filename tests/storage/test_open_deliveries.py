"""Open deliveries by line, and how those of a notification stand."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from protocol.notify_found import Standing
from protocol.notify_records import DeliveryRow
from protocol.records import Op, Put
from storage.check import DATABASE_NAME
from storage.open_delivery_queries import _NEXT, _OF_LINE
from storage.sqlite import open_store


def delivery(notification_id: int, number: int = 0, **more: Any) -> Op:
    given: dict[str, Any] = {"app_id": "a", "channel": "apns", "priority": "low", "state": "queued", **more}
    row = DeliveryRow(
        notification_id=notification_id,
        number=number,
        partition=given.pop("partition", 1),
        user_id="u",
        device_key="d",
        created_at_ms=1,
        **given,
    )
    return Put(row)


async def test_each_line_is_found_whatever_waits_in_the_others(tmp_path: Path) -> None:
    """One app's million deliveries do not hide another's one."""
    ops = [delivery(number, next_at_ms=100 - number) for number in range(50)]
    ops += [
        delivery(100, channel="sms", priority="high"),
        delivery(101, app_id="b", next_at_ms=7),
        delivery(102, app_id="c", is_open=False),
        delivery(103, app_id="d", partition=2),
    ]
    async with open_store(tmp_path) as store:
        await store.commit(ops)
        lines = await store.notify.open_lines(1)
        assert sorted(lines) == [("high", "a", "sms"), ("low", "a", "apns"), ("low", "b", "apns")]
        assert await store.notify.open_lines(3) == []
        rows = await store.notify.open_deliveries(1, ("low", "a", "apns"), limit=3)
        assert [row.notification_id for row in rows] == [49, 48, 47]
        rows = await store.notify.open_deliveries(1, ("low", "b", "apns"), limit=3)
        assert [row.notification_id for row in rows] == [101]


async def test_lines_are_found_by_the_index_alone(tmp_path: Path) -> None:
    """A look costs as much as there are lines, not as there are deliveries."""
    async with open_store(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:

        def plan(sql: str, count: int) -> str:
            found = connection.execute(f"EXPLAIN QUERY PLAN {sql}", tuple("x" * count)).fetchall()
            return "; ".join(row[3] for row in found)

        known = ""
        for depth, column in enumerate(("priority", "app_id", "channel")):
            step = plan(_NEXT[depth], depth + 2)
            assert f"INDEX idx_delivery_line (partition=?{known} AND {column}>?)" in step
            assert "TEMP B-TREE" not in step
            known += f" AND {column}=?"
        rows = plan(_OF_LINE, 5)
        assert "idx_delivery_line (partition=? AND priority=? AND app_id=? AND channel=?)" in rows
        assert "TEMP B-TREE" not in rows


async def test_how_deliveries_stand_is_told_by_all_of_them(tmp_path: Path) -> None:
    """A fallback is for those whom nothing has reached; what one copy in the app says is not asked."""
    ops = [
        delivery(1, 0),
        delivery(1, 1, state="refused", is_open=False),
        delivery(2, 0, state="accepted", accepted_at_ms=5, is_open=False),
        delivery(2, 1),
        delivery(3, 0, state="unknown", is_open=False),
        delivery(4, 0, state="bounced", accepted_at_ms=5, is_open=False),
        delivery(5, 0, state="queued", accepted_at_ms=5),  # undelivered, and on its way by the next account
        delivery(6, 0, state="complained", accepted_at_ms=5, is_open=False),
    ]
    async with open_store(tmp_path) as store:
        await store.commit(ops)
        assert await store.notify.standings([1, 2, 3, 4, 5, 6, 7]) == {
            1: Standing([0], reached=[]),
            2: Standing([1], reached=[0]),
            3: Standing([], reached=[0]),
            4: Standing([], reached=[]),
            5: Standing([0], reached=[]),
            6: Standing([], reached=[0]),
        }


async def test_those_of_which_more_may_be_told_are_texts_and_mails_that_were_taken(tmp_path: Path) -> None:
    """Nobody tells later what became of a push."""
    taken: dict[str, Any] = {"state": "accepted", "is_open": False}
    ops = [
        delivery(1, 0, channel="sms", **taken),
        delivery(2, 0, channel="apns", **taken),
        delivery(2, 1, channel="email", **taken),
        delivery(3, 0, channel="apns", **taken),
        delivery(4, 0, channel="sms", state="confirmed", is_open=False),
        delivery(5, 0, channel="sms", state="unknown", is_open=False),
    ]
    async with open_store(tmp_path) as store:
        await store.commit(ops)
        assert sorted(await store.notify.awaiting_receipts(range(7))) == [1, 2, 5]
