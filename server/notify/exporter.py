"""Tell apps what has happened, as it happens: each ledger entry of an app's users, as NDJSON to its webhook.

A cursor for each app and partition is stored after the app has taken a batch, so nothing is left out over a
restart; a batch whose answer was lost comes again (each line has its place in the ledger, by which the app
knows it). The node that owns a partition tells of it. A webhook that fails is tried again with backoff and
holds up nobody else's; what it has missed waits in the ledger, as long as that is kept.
"""

import random
from collections.abc import Callable
from typing import Final

import httpx
import msgspec
import structlog
import trio

from actors.notify.address import partition_address
from actors.notify.keeper import ledger_body
from protocol.errors import HubbubError
from protocol.notify_found import ExportedEntry
from protocol.notify_records import PARTITION_COUNT, ExportRow
from protocol.notify_types import Decision
from protocol.records import Put
from server.notify.alerts import Alerts
from server.notify.setups import SetupCache
from storage.store import Store

EVERY_S: Final = 1.0  # how long an event may wait for others
BATCH: Final = 500
TIMEOUT_S: Final = 15.0
MAX_BACKOFF_S: Final = 300.0
MAX_AT_ONCE: Final = 8  # webhooks that are called side by side

log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


class ExportedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the export. `partition` and `seq` name its place for ever."""

    partition: int
    seq: int
    notification_id: int
    user_id: str
    kind: str
    at_ms: int
    decisions: list[Decision]


def lines_of(partition: int, entries: list[ExportedEntry]) -> bytes:
    """Write entries as NDJSON."""
    return b"".join(
        _encode(
            ExportedEvent(
                partition=partition,
                seq=entry.seq,
                notification_id=entry.notification_id,
                user_id=entry.user_id,
                kind=entry.kind,
                at_ms=entry.at_ms,
                decisions=ledger_body(entry.body).d if entry.body != "{}" else [],
            )
        )
        + b"\n"
        for entry in entries
    )


class Exporter:
    """Call the webhooks of this node's partitions, by `run`."""

    def __init__(
        self,
        store: Store,
        setups: SetupCache,
        alerts: Alerts,
        *,
        owns: Callable[[int], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._setups = setups
        self._alerts = alerts
        self._owns = owns
        self._now_ms = now_ms
        self._cursors: dict[tuple[str, int], int] = {}
        self._paused: dict[str, tuple[float, int]] = {}  # app -> until when, after how many failures
        self.told_count = 0
        self.failed_count = 0

    async def run(self) -> None:
        """Tell until cancelled."""
        async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False) as client:
            while True:
                apps = await self._apps()
                limiter = trio.CapacityLimiter(MAX_AT_ONCE)
                async with trio.open_nursery() as nursery:
                    for app_id, url in apps.items():
                        nursery.start_soon(self._tell_app, client, limiter, app_id, url)
                await trio.sleep(EVERY_S)

    async def _apps(self) -> dict[str, str]:
        """Apps with a webhook that is not paused."""
        found: dict[str, str] = {}
        try:
            for app_id in await self._store.notify.app_versions():
                setup = await self._setups.load(app_id)
                until, _ = self._paused.get(app_id, (0.0, 0))
                if setup.rules.event_webhook and until <= trio.current_time():
                    found[app_id] = setup.rules.event_webhook
        except HubbubError as error:
            log.warning("exports_not_read", code=error.code)
        return found

    async def _tell_app(
        self, client: httpx.AsyncClient, limiter: trio.CapacityLimiter, app_id: str, url: str
    ) -> None:
        async with limiter:
            for partition in range(PARTITION_COUNT):
                if not self._owns(partition_address(partition).shard):
                    self._cursors.pop((app_id, partition), None)
                    continue
                try:
                    while await self._tell_partition(client, app_id, partition, url):
                        pass
                except HubbubError as error:
                    log.warning("export_failed", app_id=app_id, code=error.code)
                    return
                if app_id in self._paused and self._paused[app_id][0] > trio.current_time():
                    return

    async def _tell_partition(self, client: httpx.AsyncClient, app_id: str, partition: int, url: str) -> bool:
        """Tell one batch; True if there may be more."""
        key = (app_id, partition)
        cursor = self._cursors.get(key)
        if cursor is None:
            row = await self._store.get(ExportRow, app_id, partition)
            cursor = self._cursors[key] = row.seq if row is not None else 0
        entries = await self._store.notify.exported(app_id, partition, after=cursor, limit=BATCH)
        if not entries:
            return False
        body = lines_of(partition, entries)
        if not await self._post(client, app_id, url, body):
            return False
        last = entries[-1].seq
        await self._store.commit(
            [Put(ExportRow(app_id=app_id, partition=partition, seq=last, at_ms=self._now_ms()))]
        )
        self._cursors[key] = last
        self.told_count += len(entries)
        return len(entries) == BATCH

    async def _post(self, client: httpx.AsyncClient, app_id: str, url: str, body: bytes) -> bool:
        headers = {
            "content-type": "application/x-ndjson",
            "x-hubbub-signature": self._alerts.signature(app_id, body),
        }
        reason = ""
        try:
            response = await client.post(url, content=body, headers=headers)
            if response.status_code >= 300:
                reason = f"status {response.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            reason = type(exc).__name__
        if not reason:
            self._paused.pop(app_id, None)
            return True
        self.failed_count += 1
        _, failures = self._paused.get(app_id, (0.0, 0))
        pause_s = min(MAX_BACKOFF_S, 2.0**failures) * (0.5 + random.random() / 2)
        self._paused[app_id] = (trio.current_time() + pause_s, failures + 1)
        if failures == 4:
            self._alerts.add(app_id, "event_webhook_failing", {"reason": reason})
        log.info("export_not_taken", app_id=app_id, reason=reason)
        return False
