"""A node that starts with much to send: others have their turns meanwhile."""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from actors.notify.address import partition_of
from actors.notify.delivery import Outgoing, Target
from actors.notify.job import Job
from actors.notify.open_keeper import TAKEN_AT_ONCE, OpenKeeper
from protocol.notify_ids import NotifyIds
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.records import Put
from server.clock import wall_clock_ms
from tests.server.notify.notify_world import apns_token, open_notifier

COUNT = 10 * TAKEN_AT_ONCE


async def test_a_backlog_is_taken_up_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chat on a node that has just started does not stand still for what a campaign has left."""
    async with open_notifier(tmp_path) as notifier:
        ann = await notifier.world.person("ann")
        await notifier.world.store.commit(backlog(ann.user_id))
    turn, taken_in = 0, Counter[int]()
    made = OpenKeeper._job_of

    def counted(keeper: OpenKeeper, row: DeliveryRow, notes: dict[int, NotificationRow]) -> Job | None:
        taken_in[turn] += 1
        return made(keeper, row, notes)

    monkeypatch.setattr(OpenKeeper, "_job_of", counted)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await trio.lowlevel.checkpoint()
            turn += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        async with open_notifier(tmp_path, is_new=False) as notifier:
            await notifier.until_stat("unknown", COUNT)
        nursery.cancel_scope.cancel()
    assert taken_in.total() == COUNT
    assert max(taken_in.values()) <= 2 * TAKEN_AT_ONCE  # the order within a turn is Trio's


def backlog(user_id: str) -> list[Put]:
    """Deliveries of one partition that were under way when their node ended."""
    now_ms, partition = wall_clock_ms(), partition_of(user_id)
    ids = NotifyIds(partition, 0)
    ops: list[Put] = []
    for number in range(COUNT):
        notification_id = ids.next(now_ms)
        target = Target(device_key=f"apns-{number}", channel="apns", address=apns_token(number))
        outgoing = Outgoing(
            delivery_id=f"{notification_id:x}-0",
            notification_id=notification_id,
            app_id="default",
            user_id=user_id,
            type="security",
            priority="low",
            target=target,
            body="x",
        )
        common: dict[str, Any] = {
            "notification_id": notification_id,
            "partition": partition,
            "app_id": "default",
            "user_id": user_id,
            "priority": "low",
            "created_at_ms": now_ms,
        }
        ops.append(Put(NotificationRow(type="security", state="open", **common)))
        ops.append(
            Put(
                DeliveryRow(
                    number=0,
                    channel="apns",
                    device_key=target.device_key,
                    state="sending",
                    outgoing=msgspec.json.encode(outgoing).decode(),
                    next_at_ms=now_ms + 3_600_000,
                    **common,
                )
            )
        )
    return ops
