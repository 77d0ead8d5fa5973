"""What is late, as the alerts and the metric have it."""

from pathlib import Path
from typing import Any

from storage.notify_overdue import _OPEN_LANES, _OVERDUE
from tests.storage.test_notify_glance import HOUR_MS, NOW_MS, Rows, filled


async def test_a_late_one_is_seen_behind_10000_of_another_app(tmp_path: Path) -> None:
    """One app's campaign with a week's time does not silence the alert of a bank's codes."""
    rows = Rows()
    ops = [rows.pair(NOW_MS, app_id="slow", deadline_at_ms=NOW_MS + HOUR_MS) for _ in range(10_000)]
    ops += [rows.pair(NOW_MS, app_id="slow", deadline_at_ms=NOW_MS - HOUR_MS) for _ in range(10_000)]
    late: dict[str, Any] = {"app_id": "bank", "priority": "high", "deadline_at_ms": NOW_MS - 1}
    ops += [rows.pair(NOW_MS - HOUR_MS, partition=1, **late), rows.pair(NOW_MS, partition=2, **late)]
    ops.append(rows.pair(NOW_MS, app_id="bank", priority="low", channel="sms", deadline_at_ms=NOW_MS - 1))
    async with filled(tmp_path, ops) as store:
        found = {(one.app_id, one.channel, one.priority): one for one in await store.notify.overdue(NOW_MS)}
    assert set(found) == {("slow", "apns", "low"), ("bank", "apns", "high"), ("bank", "sms", "low")}
    bank = found["bank", "apns", "high"]
    assert (bank.count, bank.oldest_at_ms) == (2, NOW_MS - HOUR_MS)


async def test_the_look_at_what_is_late_goes_by_its_index(tmp_path: Path) -> None:
    """It comes every five seconds, also with a million open."""

    async with filled(tmp_path, []) as store:
        plans = await store._readers.run(
            lambda connection: [
                row[3]
                for sql, values in ((_OPEN_LANES, ()), (_OVERDUE, ("a", "low", 1, 1)))
                for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)
            ]
        )
    assert sum("idx_notification_open" in step for step in plans) == 3
