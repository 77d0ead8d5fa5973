"""What is read of a user before something is decided: as fast for one with a long past as for a new one."""

from pathlib import Path
from typing import Any

from protocol.notify_ids import NotifyIds, first_id_at
from protocol.notify_records import NotificationRow
from protocol.records import Insert, Op, Put, User
from storage.notify_queries import _MAX_CENTRE, _USERS
from storage.sqlite import open_store

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


async def test_a_bots_many_notifications_hide_neither_what_is_held_nor_what_counts(tmp_path: Path) -> None:
    """Of a bot that reads none, the newest 10,000 count as unread; what is held is found exactly."""
    ids, ops = NotifyIds(3, 0), []

    def add(at_ms: int, **more: Any) -> int:
        row: dict[str, Any] = {"state": "done", "in_centre": True, **more}
        notification_id = ids.next(at_ms)
        row |= {"notification_id": notification_id, "partition": 3, "app_id": "a", "user_id": "bot"}
        ops.append(Put(NotificationRow(type="t", priority="low", created_at_ms=at_ms, **row)))
        return notification_id

    held_id = add(NOW_MS - HOUR_MS, state="held", group_key="digest:daily", in_centre=False)
    for number in range(_MAX_CENTRE + 50):
        add(NOW_MS - HOUR_MS + number, read_at_ms=NOW_MS if number == _MAX_CENTRE else 0)
    add(NOW_MS, in_centre=False, counted_at_ms=NOW_MS)
    async with open_store(tmp_path) as store:
        user = User(
            user_id="bot",
            app_id="a",
            username="bot",
            username_key="bot",
            name="",
            name_key="",
            created_at_ms=1,
        )
        changes: list[Op] = [Insert(user), *ops]
        for start in range(0, len(changes), 4_000):
            await store.commit(changes[start : start + 4_000])
        (found,) = await store.notify.users(
            ["bot"], since_id=first_id_at(NOW_MS - 30 * 86_400_000), counted_since_ms=NOW_MS - HOUR_MS
        )
        _, unread = await store.notify.centre("bot", before=0, limit=1, unread_only=False)
    assert [group.notification_id for group in found.groups] == [held_id]
    assert found.counted == [NOW_MS]
    assert (len(found.unread), unread) == (_MAX_CENTRE - 1, _MAX_CENTRE - 1)


async def test_what_is_held_for_a_user_is_found_by_its_index(tmp_path: Path) -> None:
    """A user with half a million notifications took half a second, whatever was asked with him."""
    async with open_store(tmp_path) as store:
        values = {"asked": "[]", "since_id": 1, "counted_since_ms": 1}
        plan = await store._readers.run(
            lambda connection: connection.execute(f"EXPLAIN QUERY PLAN {_USERS}", values).fetchall()
        )
    assert any("idx_notification_held_user" in row[3] for row in plan)
