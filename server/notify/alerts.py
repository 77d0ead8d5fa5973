"""Tell an app's developers when somebody has to look: by webhook and by mail.

Alerts of one kind about one thing are told once an hour, with how many there were since. What cannot be told
is tried again with backoff, and given up after a day; it stands in the log all the same.
"""

import hmac
from collections.abc import Callable
from typing import Final

import httpx
import msgspec
import structlog
import trio

from actors.notify.delivery import Outgoing, Target
from protocol.notify_types import AppRules
from server.notify.setups import SetupCache
from server.notify.vault import derived_key

EVERY_MS: Final = 3_600_000
GIVE_UP_MS: Final = 86_400_000
TIMEOUT_S: Final = 15.0
MAX_WAITING: Final = 10_000  # alerts that are not told yet, of all apps; the oldest gives way
TICK_S: Final = 0.5
MAX_BACKOFF_MS: Final = 900_000

log = structlog.get_logger(__name__)


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """What is told: the body of the webhook."""

    kind: str
    app_id: str
    at_ms: int
    count: int
    detail: dict[str, str]


class _Waiting(msgspec.Struct):
    alert: Alert
    next_at_ms: int
    since_ms: int
    attempt: int = 0


class Alerts:
    """Collect alerts, and tell them by `run`."""

    def __init__(self, server_secret: bytes, *, now_ms: Callable[[], int]) -> None:
        self._key = derived_key(server_secret, "notification alerts")
        self._now_ms = now_ms
        self._waiting: dict[tuple[str, str, str], _Waiting] = {}
        self._told: dict[tuple[str, str, str], tuple[int, int]] = {}  # when last, and how many since
        self._wake = trio.Event()
        self.told_count = 0
        self.setups: SetupCache | None = None

    def add(self, app_id: str, kind: str, detail: dict[str, str]) -> None:
        """Somebody has to look. Returns at once."""
        log.warning("notify_alert", app_id=app_id, kind=kind, **detail)
        about = "|".join(f"{name}={value}" for name, value in sorted(detail.items()) if name != "detail")
        key = (app_id, kind, about[:300])
        now_ms = self._now_ms()
        known = self._waiting.get(key)
        if known is not None:
            known.alert = msgspec.structs.replace(known.alert, count=known.alert.count + 1)
            return
        last_ms, since = self._told.get(key, (0, 0))
        if now_ms - last_ms < EVERY_MS:
            self._told[key] = (last_ms, since + 1)
            return
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        alert = Alert(kind=kind, app_id=app_id, at_ms=now_ms, count=since + 1, detail=detail)
        self._waiting[key] = _Waiting(alert, now_ms, now_ms)
        self._wake.set()

    def signature(self, app_id: str, body: bytes) -> str:
        """The X-Hubbub-Signature of a webhook: hex HMAC-SHA256 under the app's webhook key."""
        return hmac.new(self.webhook_key(app_id).encode(), body, "sha256").hexdigest()

    def webhook_key(self, app_id: str) -> str:
        """With which an app checks that a webhook is ours."""
        return hmac.new(self._key, app_id.encode(), "sha256").hexdigest()

    async def run(self) -> None:
        """Tell alerts until cancelled."""
        async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False) as client:
            while True:
                if not self._waiting:
                    self._wake = trio.Event()
                    await self._wake.wait()
                now_ms = self._now_ms()
                for key, waiting in [(k, w) for k, w in self._waiting.items() if w.next_at_ms <= now_ms]:
                    await self._tell(client, key, waiting)
                self._told = {k: v for k, v in self._told.items() if now_ms - v[0] < EVERY_MS or v[1]}
                await trio.sleep(TICK_S)

    async def _tell(self, client: httpx.AsyncClient, key: tuple[str, str, str], waiting: _Waiting) -> None:
        alert = waiting.alert
        setup = self.setups.known(alert.app_id) if self.setups is not None else None
        rules = setup.rules if setup is not None else AppRules()
        is_told = True
        if rules.alert_webhook:
            is_told = await self._post(client, rules.alert_webhook, alert)
        if rules.alert_email and waiting.attempt == 0:
            await self._mail(rules.alert_email, alert)
        now_ms = self._now_ms()
        if is_told or now_ms - waiting.since_ms > GIVE_UP_MS:
            self._waiting.pop(key, None)
            self._told[key] = (now_ms, waiting.alert.count - alert.count)
            self.told_count += is_told
            return
        waiting.attempt += 1
        waiting.next_at_ms = now_ms + min(MAX_BACKOFF_MS, 1_000 * 2**waiting.attempt)

    async def _post(self, client: httpx.AsyncClient, url: str, alert: Alert) -> bool:
        body = msgspec.json.encode(alert)
        headers = {
            "content-type": "application/json",
            "x-hubbub-signature": self.signature(alert.app_id, body),
        }
        try:
            response = await client.post(url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            log.warning("alert_not_told", app_id=alert.app_id, error=type(exc).__name__)
            return False
        if response.status_code >= 300:
            log.warning("alert_not_told", app_id=alert.app_id, status=response.status_code)
        return response.status_code < 300

    async def _mail(self, address: str, alert: Alert) -> None:
        """By the app's own mail account, if it has one that works."""
        chain = self.setups.chain(alert.app_id, "email") if self.setups is not None else []
        lines = [f"{name}: {value}" for name, value in alert.detail.items()]
        outgoing = Outgoing(
            delivery_id=f"alert-{alert.at_ms}-{alert.kind}"[:64],
            notification_id=0,
            app_id=alert.app_id,
            user_id="",
            type="alert",
            priority="high",
            target=Target(device_key="alert", channel="email", address=address),
            title=f"hubbub: {alert.kind.replace('_', ' ')}",
            body="\n".join([f"{alert.kind} ({alert.count})", "", *lines]),
        )
        for account in chain:
            outcome = await account.provider.send(outgoing)
            if outcome.kind != "refused":
                return
