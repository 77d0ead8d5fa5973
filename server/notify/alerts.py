"""Tell an app's developers when somebody has to look: by webhook and by mail.

Each app has a task of its own, so a webhook that hangs is its own app's loss. What cannot be told is tried
again with backoff, and given up after a day; it stands in the log all the same. What waits is in memory: of
dead letters the store knows which were not told (see `watch`), anything else comes again while it lasts.
"""

import hmac
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec
import structlog
import trio

from actors.notify.delivery import Outgoing, Target
from protocol.errors import HubbubError
from server.notify.alert_book import Alert, AlertBook, Waiting
from server.notify.setups import SetupCache
from server.notify.vault import derived_key
from server.notify.webhooks import Webhooks, open_webhooks
from server.providers.reach import Reach

MAX_SLEEP_S: Final = 1.0  # the wall clock may be set

log = structlog.get_logger(__name__)


class Alerts:
    """Collect alerts, and tell them by `run`."""

    def __init__(self, server_secret: bytes, *, reach: Reach, now_ms: Callable[[], int]) -> None:
        self._key = derived_key(server_secret, "notification alerts")
        self._reach = reach
        self._now_ms = now_ms
        self._book = AlertBook()
        self._wake = trio.Event()
        self.told_count = 0
        self.setups: SetupCache | None = None

    def add(self, app_id: str, kind: str, detail: dict[str, str]) -> None:
        """Somebody has to look. Returns at once."""
        log.warning("notify_alert", app_id=app_id, kind=kind, **detail)
        self._book.add(app_id, kind, detail, self._now_ms())
        self._wake.set()

    def stand(
        self,
        app_id: str,
        kind: str,
        detail: dict[str, str],
        *,
        count: int,
        on_told: Callable[[], None] | None = None,
    ) -> None:
        """So many there are by now; say it again as long as that is so. Returns at once.

        `on_told` is called when these have been told; where nobody can be told, never.
        """
        if self._book.stand(app_id, kind, detail, self._now_ms(), count=count, on_told=on_told):
            log.warning("notify_alert", app_id=app_id, kind=kind, count=count, **detail)
            self._wake.set()

    def settle(self, app_id: str, kind: str, detail: dict[str, str]) -> None:
        """It is over: if it was told it need not be told again."""
        self._book.settle(app_id, kind, detail)

    def signature(self, app_id: str, body: bytes) -> str:
        """The X-Hubbub-Signature of a webhook: hex HMAC-SHA256 under the app's webhook key."""
        return hmac.new(self.webhook_key(app_id).encode(), body, "sha256").hexdigest()

    def webhook_key(self, app_id: str) -> str:
        """With which an app checks that a webhook is ours."""
        return hmac.new(self._key, app_id.encode(), "sha256").hexdigest()

    async def run(self) -> None:
        """Tell alerts until cancelled."""
        tasks: dict[str, trio.Event] = {}  # of each app with a task: wakes it
        async with open_webhooks(self._reach) as webhooks, trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                for app_id in self._book.apps:
                    if app_id in tasks:
                        tasks[app_id].set()
                    else:
                        tasks[app_id] = trio.Event()
                        nursery.start_soon(self._serve, webhooks, app_id, tasks)
                await self._wake.wait()

    async def _serve(self, webhooks: Webhooks, app_id: str, tasks: dict[str, trio.Event]) -> None:
        """Tell one app's alerts, until there are none."""
        while True:
            woken = tasks[app_id] = trio.Event()
            for waiting in self._book.due(app_id, self._now_ms()):
                await self._tell(webhooks, waiting)
            next_at_ms = self._book.next_at_ms(app_id)
            if next_at_ms is None:
                del tasks[app_id]
                return
            wait_s = (next_at_ms - self._now_ms()) / 1_000
            with trio.move_on_after(min(max(wait_s, 0.01), MAX_SLEEP_S)):
                await woken.wait()

    async def _tell(self, webhooks: Webhooks, waiting: Waiting) -> None:
        alert, on_told = waiting.alert, waiting.on_told
        is_told = False
        try:
            is_told = await self._try(webhooks, waiting, alert)
        except HubbubError as error:
            log.warning("alert_not_told", app_id=alert.app_id, code=error.code)
        except Exception:  # whatever one app's settings bring about is not the end of the others'
            log.exception("alert_failed", app_id=alert.app_id, kind=alert.kind)
        now_ms = self._now_ms()
        if is_told:
            self.told_count += 1
            self._book.told(waiting, alert.count, now_ms)
            if on_told is not None:
                on_told()
        elif not self._book.failed(waiting, now_ms):
            log.warning("alert_given_up", app_id=alert.app_id, kind=alert.kind, count=alert.count)

    async def _try(self, webhooks: Webhooks, waiting: Waiting, alert: Alert) -> bool:
        """Tell once. True where the webhook has it; without one, where the mail is on its way.

        An app with neither has not been told: it is, if it names one within the day.
        """
        if self.setups is None:
            return False
        rules = (await self.setups.load(alert.app_id)).rules
        if rules.alert_email and not waiting.is_mailed:
            waiting.is_mailed = await self._mail(rules.alert_email, waiting, alert)
        if not rules.alert_webhook:
            return waiting.is_mailed
        body = msgspec.json.encode(alert)
        reason = await webhooks.post(
            rules.alert_webhook,
            body,
            content_type="application/json",
            signature=self.signature(alert.app_id, body),
        )
        if reason:
            log.warning("alert_not_told", app_id=alert.app_id, reason=reason)
        return not reason

    async def _mail(self, address: str, waiting: Waiting, alert: Alert) -> bool:
        """By the app's own mail account, if it has one that works. True unless it was surely not taken."""
        assert self.setups is not None
        lines = [f"{name}: {value}" for name, value in alert.detail.items()]
        outgoing = Outgoing(
            delivery_id=delivery_id_of(waiting),
            notification_id=0,
            app_id=alert.app_id,
            user_id="",
            type="alert",
            priority="high",
            target=Target(device_key="alert", channel="email", address=address),
            title=f"hubbub: {alert.kind.replace('_', ' ')}",
            body="\n".join([f"{alert.kind} ({alert.count})", "", *lines]),
        )
        for account in self.setups.chain(alert.app_id, "email"):
            outcome = await account.provider.send(outgoing)
            if outcome.kind != "refused":
                return True
            log.warning("alert_not_mailed", app_id=alert.app_id, code=outcome.code)
        return False


def delivery_id_of(waiting: Waiting) -> str:
    """Name an alert's mail: the same for each try, another one for each thing. At most 64 characters."""
    thing = blake2b(msgspec.json.encode((waiting.app_id, *waiting.key)), digest_size=12).hexdigest()
    return f"alert-{waiting.at_ms}-{thing}"
