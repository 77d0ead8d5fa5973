"""Watch over what apps were promised: dead letters are told, and deliveries later than their deadline.

Looks every LOOK_S at the dead letters that were not told yet, and at how much is overdue. The node that owns
shard 0 looks, as what it finds is the same everywhere.
"""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from protocol.errors import HubbubError
from protocol.notify_records import DeadDelivery
from protocol.records import Op, Update
from server.notify.alerts import Alerts
from storage.store import Store

LOOK_S: Final = 5.0
MAX_TOLD: Final = 500  # dead letters that are marked in one look

log = structlog.get_logger(__name__)


class Watch:
    """Tell of dead letters and late deliveries."""

    def __init__(
        self,
        store: Store,
        alerts: Alerts,
        *,
        is_ours: Callable[[], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._alerts = alerts
        self._is_ours = is_ours
        self._now_ms = now_ms
        self.overdue: dict[str, int] = {}  # app -> deliveries that are late now

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if self._is_ours():
                try:
                    await self.look()
                except HubbubError as error:
                    log.warning("watch_failed", code=error.code)
            else:
                self.overdue = {}
            await trio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once. Raises: HubbubError."""
        now_ms = self._now_ms()
        rows = await self._store.notify.untold_dead(limit=MAX_TOLD)
        for row in rows:
            self._alerts.add(
                row.app_id,
                "dead_letter",
                {
                    "channel": row.channel,
                    "provider_id": row.provider_id,
                    "code": row.code,
                    "detail": row.detail,
                    "notification": "see the dead letters for which",
                },
            )
        ops: list[Op] = [
            Update(
                DeadDelivery,
                {"notification_id": row.notification_id, "number": row.number},
                {"alerted_at_ms": now_ms},
            )
            for row in rows
        ]
        if ops:
            await self._store.commit(ops)
        self.overdue = {}
        for late in await self._store.notify.overdue(now_ms):
            self.overdue[late.app_id] = self.overdue.get(late.app_id, 0) + late.count
            self._alerts.add(
                late.app_id,
                "deadline_passed",
                {"channel": late.channel, "priority": late.priority},
            )
