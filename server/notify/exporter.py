"""Tell apps what has happened, as it happens: each ledger entry of an app's users, as NDJSON to its webhook.

The node that owns a partition tells of it. Each app has a task of its own: one whose webhook fails is tried
again with backoff, and neither it nor a slow one holds up another's. What was missed waits in the ledger, as
long as that is kept.
"""

import random
from collections.abc import Callable
from typing import Final

import structlog
import trio

from actors.notify.address import partition_address
from protocol.errors import HubbubError
from protocol.notify_records import PARTITION_COUNT, notify_stream
from server.notify.alerts import Alerts
from server.notify.app_export import AppExport
from server.notify.setups import SetupCache
from server.notify.webhooks import Posted, WebhookKeys, Webhooks, open_webhooks, pause_s
from server.providers.reach import Reach
from storage.store import Store

EVERY_S: Final = 1.0  # how long an event may wait for others
ALERT_AFTER: Final = 5  # failures in a row; fewer are a restart of the app's server

log = structlog.get_logger(__name__)


class _Follower:
    """An app with a webhook, and the scope of its task."""

    def __init__(self, app_id: str, url: str) -> None:
        self.app_id = app_id
        self.url = url
        self.scope = trio.CancelScope()


class Exporter:
    """Call the webhooks of this node's partitions, by `run`."""

    def __init__(
        self,
        store: Store,
        setups: SetupCache,
        alerts: Alerts,
        keys: WebhookKeys,
        *,
        owns: Callable[[int], bool],
        reach: Reach,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._setups = setups
        self._alerts = alerts
        self._keys = keys
        self._owns = owns
        self._reach = reach
        self._now_ms = now_ms
        self._urls: dict[str, str] = {}  # app -> its webhook, as last read
        self._heads: dict[int, int] = {}  # of the partitions that are ours, as of a second ago
        self.told_count = 0
        self.failed_count = 0

    async def run(self) -> None:
        """Tell until cancelled."""
        followers: dict[str, _Follower] = {}
        async with (
            open_webhooks(self._reach, self._keys, now_ms=self._now_ms) as webhooks,
            trio.open_nursery() as nursery,
        ):
            while True:
                try:
                    apps = await self._apps()
                    self._heads = await self._read_heads()
                except HubbubError as error:
                    log.warning("exports_not_read", code=error.code)
                else:
                    for app_id, follower in list(followers.items()):
                        if apps.get(app_id) != follower.url:  # with a new one it begins anew, without a pause
                            follower.scope.cancel()
                            del followers[app_id]
                    for app_id in apps.keys() - followers.keys():
                        followers[app_id] = _Follower(app_id, apps[app_id])
                        nursery.start_soon(self._follow, webhooks, followers[app_id])
                await trio.sleep(EVERY_S)

    async def _apps(self) -> dict[str, str]:
        """App -> its webhook. Raises: HubbubError."""
        found: dict[str, str] = {}
        for app_id in await self._store.notify.app_versions():
            # One app's rows that cannot be read are not the end of the others' exports, nor of its own.
            try:
                url = (await self._setups.load(app_id)).rules.event_webhook
            except HubbubError:  # it was logged
                url = self._urls.get(app_id, "")
            except Exception:
                log.exception("setup_not_read", app_id=app_id)
                url = self._urls.get(app_id, "")
            if url:
                found[app_id] = url
        self._urls = found
        return found

    async def _read_heads(self) -> dict[int, int]:
        """Partition of ours -> the last seq of its ledger. Raises: HubbubError."""
        ours = {
            notify_stream(partition): partition
            for partition in range(PARTITION_COUNT)
            if self._owns(partition_address(partition).shard)
        }
        return {ours[stream]: seq for stream, seq in (await self._store.heads(list(ours))).items()}

    async def _follow(self, webhooks: Webhooks, follower: _Follower) -> None:
        """Tell one app until it has another webhook, or none."""
        app_id, url = follower.app_id, follower.url
        export = AppExport(app_id, self._store, now_ms=self._now_ms)
        posted = Posted()

        async def post(body: bytes) -> bool:
            nonlocal posted
            posted = await webhooks.post(app_id, url, body, content_type="application/x-ndjson")
            return not posted.reason

        failures = 0
        with follower.scope:
            while True:
                try:
                    count, is_done = await export.tell(self._heads, post)
                except HubbubError as error:
                    log.warning("export_failed", app_id=app_id, code=error.code)
                    count, is_done, posted = 0, False, Posted(error.code)
                except Exception as exc:  # whatever one app brings about is not the end of the others'
                    log.exception("export_crashed", app_id=app_id)
                    count, is_done, posted = 0, False, Posted(type(exc).__name__)
                self.told_count += count
                if count or is_done:
                    failures = 0
                wait_s = EVERY_S
                if not is_done:
                    wait_s = pause_s(failures, posted.asked_s, random.random())
                    failures += 1
                    self.failed_count += 1
                    if failures == ALERT_AFTER:
                        self._alerts.add(app_id, "event_webhook_failing", {"reason": posted.reason})
                    log.info("export_not_taken", app_id=app_id, reason=posted.reason)
                await trio.sleep(wait_s)
