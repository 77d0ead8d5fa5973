"""Bounded reads of the notification service: what they count, and that they say when it is not all."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from protocol.notify_glance import HeldOfApp, OpenLane
from protocol.notify_ids import NotifyIds
from protocol.notify_records import (
    DeadDelivery,
    DeliveryRow,
    NotificationRow,
    NotifyGroupRow,
    RequestRow,
)
from protocol.records import Op, Put
from storage.notify_glance import DEAD_ROWS, HELD_ROWS, LANE_ROWS, SLICE_ROWS, SLICES
from storage.sqlite import SqliteStore, open_store

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


class Rows:
    """Make notifications with one delivery each."""

    def __init__(self) -> None:
        self._ids = [NotifyIds(partition, 0) for partition in range(16)]

    def pair(
        self, at_ms: int, *, partition: int = 0, app_id: str = "a", deadline_at_ms: int = 0, **more: Any
    ) -> list[Op]:
        notification_id = self._ids[partition].next(at_ms)
        common: dict[str, Any] = {
            "notification_id": notification_id,
            "partition": partition,
            "app_id": app_id,
            "user_id": "u",
            "created_at_ms": at_ms,
            "priority": more.pop("priority", "low"),
        }
        delivery = {"number": 1, "channel": "apns", "device_key": "d", "state": "queued", **more}
        return [
            Put(NotificationRow(type="t", state="open", deadline_at_ms=deadline_at_ms, **common)),
            Put(DeliveryRow(**common, **delivery)),
        ]


@asynccontextmanager
async def filled(directory: Path, ops: Iterable[list[Op]]) -> AsyncIterator[SqliteStore]:
    async with open_store(directory) as store:
        await store.claim_all("n1")
        await store.commit([op for pair in ops for op in pair])
        yield store


async def test_open_deliveries_are_told_by_lane_with_age_and_lateness(tmp_path: Path) -> None:
    """Operators see by app, channel and priority where it is stuck."""
    rows = Rows()
    ops = [
        rows.pair(NOW_MS - 9_000, next_at_ms=NOW_MS - 1, deadline_at_ms=NOW_MS - 5),
        rows.pair(NOW_MS - 4_000, next_at_ms=NOW_MS + 9_000, partition=7, deadline_at_ms=NOW_MS + 5),
        rows.pair(NOW_MS - 3_000, next_at_ms=0, app_id="b", priority="high", channel="sms"),
        rows.pair(NOW_MS - 8_000, state="accepted", is_open=False),
    ]
    async with filled(tmp_path, ops) as store:
        found = await store.notify_glances.open_deliveries(NOW_MS)
        assert sorted(found.lanes, key=lambda lane: lane.app_id) == [
            OpenLane("a", "apns", "low", 2, NOW_MS - 9_000, 1, 1),
            OpenLane("b", "sms", "high", 1, NOW_MS - 3_000, 1, 0),
        ]
        assert found.is_complete
        backlog = await store.notify_glances.backlog()
        assert (backlog.open_counts, backlog.held_count) == ({"high": 1, "medium": 0, "low": 2}, 0)


async def test_of_a_long_queue_the_oldest_part_is_told_and_the_exact_length(tmp_path: Path) -> None:
    """A campaign to everybody costs a look no more than a quiet day does."""
    rows = Rows()
    count = LANE_ROWS + 50
    ops = [rows.pair(NOW_MS - count + number, next_at_ms=NOW_MS + number) for number in range(count)]
    async with filled(tmp_path, ops) as store:
        found = await store.notify_glances.open_deliveries(NOW_MS + count)
        assert [(lane.count, lane.oldest_at_ms) for lane in found.lanes] == [(LANE_ROWS, NOW_MS - count)]
        assert not found.is_complete
        assert (await store.notify_glances.backlog()).open_counts["low"] == count


async def test_held_ones_are_told_with_what_is_due_next(tmp_path: Path) -> None:
    """By app, over all partitions."""

    def held(number: int, app_id: str, due_at_ms: int) -> list[Op]:
        row = NotificationRow(
            notification_id=number,
            partition=number % 16,
            app_id=app_id,
            user_id="u",
            type="t",
            priority="low",
            state="held",
            created_at_ms=1,
            due_at_ms=due_at_ms,
        )
        return [Put(row)]

    ops = [held(1, "a", 500), held(2, "a", 400), held(3, "b", 700)]
    async with filled(tmp_path, ops) as store:
        found = await store.notify_glances.held()
        assert sorted(found.items, key=lambda item: item.app_id) == [
            HeldOfApp("a", 2, 400),
            HeldOfApp("b", 1, 700),
        ]
        assert found.is_complete
        many = [held(16 * number, "c", 1_000 + number) for number in range(1, HELD_ROWS + 20)]
        await store.commit([op for ops in many for op in ops])
        found = await store.notify_glances.held()
        assert not found.is_complete
        assert HeldOfApp("c", HELD_ROWS, 1_001) in found.items
        assert (await store.notify_glances.backlog()).held_count == HELD_ROWS + 19 + 3


async def test_conclusions_are_counted_or_else_sampled_over_the_whole_span(tmp_path: Path) -> None:
    """A burst at one time does not hide the rest of the hour."""
    rows = Rows()
    since_ms = NOW_MS - HOUR_MS

    def ended(at_ms: int, latency_ms: int = 128, **more: Any) -> list[Op]:
        given = {"state": "accepted", "provider_id": "p", "is_open": False, **more}
        accepted_at_ms = at_ms + latency_ms if given["state"] == "accepted" else 0
        return rows.pair(at_ms, accepted_at_ms=accepted_at_ms, **given)

    ops = [
        ended(since_ms - 5_000),
        ended(since_ms, 7),
        ended(NOW_MS - 1_800_000, 128),
        ended(NOW_MS - 1_800_000, 121),
        ended(NOW_MS, 4_567_000, state="accepted"),
        ended(NOW_MS, state="unknown", doubles=2),
        ended(NOW_MS, state="skipped", provider_id=""),
    ]
    async with filled(tmp_path, ops) as store:
        found = await store.notify_glances.concluded(since_ms=since_ms, now_ms=NOW_MS)
        told = {(item.state, item.latency_ms, item.count, item.doubles) for item in found.items}
        assert told == {
            ("accepted", 7, 1, 0),
            ("accepted", 120, 2, 0),
            ("accepted", 4_500_000, 1, 0),
            ("unknown", -1, 1, 2),
        }
        assert found.is_complete
        burst = [
            ended(NOW_MS - 610_000 + number // 5, 30, app_id="big", partition=1)
            for number in range(SLICES * SLICE_ROWS)
        ]
        await store.commit([op for ops in burst for op in ops])
        found = await store.notify_glances.concluded(since_ms=since_ms, now_ms=NOW_MS)
        assert not found.is_complete
        assert sum(item.count for item in found.items if item.app_id == "big") == SLICE_ROWS
        assert sum(item.count for item in found.items if item.app_id == "a") == 5


async def test_dead_letters_are_counted_by_cause_newest_first(tmp_path: Path) -> None:
    """For one app by its own, so that another one's flood hides none."""

    def dead(number: int, app_id: str, code: str) -> list[Op]:
        return [
            Put(
                DeadDelivery(
                    notification_id=number,
                    number=1,
                    partition=0,
                    app_id=app_id,
                    channel="apns",
                    provider_id="p",
                    code=code,
                    at_ms=number,
                )
            )
        ]

    ops = [dead(1, "a", "X"), dead(2, "a", "X"), dead(3, "a", "Y")]
    async with filled(tmp_path, ops) as store:
        found = await store.notify_glances.dead_letters("a")
        told = {(item.code, item.count, item.oldest_at_ms, item.newest_at_ms) for item in found.items}
        assert told == {("X", 2, 1, 2), ("Y", 1, 3, 3)}
        assert found.is_complete
        await store.commit([op for number in range(DEAD_ROWS) for op in dead(10 + number, "b", "Z")])
        whole = await store.notify_glances.dead_letters("")
        assert [(item.app_id, item.count) for item in whole.items] == [("b", DEAD_ROWS)]
        assert not whole.is_complete
        assert (await store.notify_glances.dead_letters("a")).items == found.items


async def test_open_requests_and_how_far_they_have_come(tmp_path: Path) -> None:
    """Progress of a campaign: by where its cursor stands among the group's users."""

    def request(number: int, state: str, app_id: str = "a") -> list[Op]:
        row = RequestRow(
            request_id=f"r{number}",
            app_id=app_id,
            digest="",
            body="{}",
            state=state,
            created_at_ms=number,
        )
        return [Put(row)]

    members: list[Op] = [
        Put(NotifyGroupRow(app_id="a", name="g", user_id=f"u{number}")) for number in range(5)
    ]
    ops = [
        request(1, "running"),
        request(2, "done"),
        request(3, "waiting"),
        request(4, "running", "b"),
        members,
    ]
    async with filled(tmp_path, ops) as store:
        glances = store.notify_glances
        assert [row.request_id for row in await glances.open_requests("a", limit=9)] == ["r3", "r1"]
        assert [row.request_id for row in await glances.open_requests("", limit=2)] == ["r4", "r3"]
        assert await glances.audience("a", "g") == 5
        assert await glances.reached("a", "g", "u2") == 3
        assert await glances.audience("b", "g") == 0
