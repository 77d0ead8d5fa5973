"""Tell an app's developers when somebody has to look: by webhook and by mail.

Each app has a task of its own, so a webhook that hangs is its own app's loss. What is to be told is stored
before it is told (see `alert_keeper`), so a kill loses none; one that was told just before may come again,
with the same `alert_id`. What cannot be told is tried again with backoff, and given up after a day; it stands
in the log all the same.
"""

import random
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
import trio

from actors.notify.delivery import Outgoing, Target
from protocol.errors import HubbubError
from protocol.records import Op, Put
from server.notify.alert_book import Alert, AlertBook, Waiting
from server.notify.alert_keeper import AlertKeeper
from server.notify.setups import SetupCache
from server.notify.webhooks import Posted, WebhookKeys, Webhooks, open_webhooks, pause_s
from server.providers.reach import Reach
from storage.store import Store

MAX_SLEEP_S: Final = 1.0  # the wall clock may be set
NOBODY: Final = "nobody_to_tell"

log = structlog.get_logger(__name__)


class Alerts:
    """Collect alerts, and tell them by `run`. Fits actors.notify.ports.DeveloperAlerts."""

    def __init__(
        self,
        store: Store,
        keys: WebhookKeys,
        *,
        node_id: str,
        is_chief: Callable[[], bool],
        reach: Reach,
        now_ms: Callable[[], int],
    ) -> None:
        """`node_id`: whose rows are ours. `is_chief`: tells whether those of gone nodes are ours, too."""
        self._keys = keys
        self._reach = reach
        self._now_ms = now_ms
        self._book = AlertBook(node_id)
        self._keeper = AlertKeeper(
            store,
            self._book,
            node_id=node_id,
            is_chief=is_chief,
            now_ms=now_ms,
            on_taken_over=lambda: self._wake.set(),
        )
        self._asked_by: dict[str, str] = {}  # app -> its webhook that has asked for a pause
        self._wake = trio.Event()
        self.told_count = 0
        self.setups: SetupCache | None = None

    def add(self, app_id: str, kind: str, detail: dict[str, str]) -> None:
        """Somebody has to look. Returns at once."""
        log.warning("notify_alert", app_id=app_id, kind=kind, **detail)
        self._book.add(app_id, kind, detail, self._now_ms())
        self._keeper.changed()
        self._wake.set()

    def staged(self, app_id: str, kind: str, detail: dict[str, str]) -> tuple[Op, Callable[[], None]]:
        """For what is stored together with what it tells of: the row, and what to call once that is done.

        `detail` names something of which there is one alert in all.
        """
        row = self._book.new_row(app_id, kind, detail, self._now_ms())

        def stored() -> None:
            self._book.put_back([(app_id, kind, row.about)])  # it may have to stand in the row of others
            self.add(app_id, kind, detail)

        return Put(row), stored

    def stand(
        self,
        app_id: str,
        kind: str,
        detail: dict[str, str],
        *,
        count: int,
        found_as: str = "",
        on_told: Callable[[], None] | None = None,
    ) -> None:
        """So many there are by now; say it again as long as that is so. Returns at once.

        `on_told` is called when these have been told; where nobody can be told, never. `found_as` names just
        these, where the store itself knows which were not told.
        """
        now_ms = self._now_ms()
        if self._book.stand(app_id, kind, detail, now_ms, count=count, found_as=found_as, on_told=on_told):
            log.warning("notify_alert", app_id=app_id, kind=kind, count=count, **detail)
            self._wake.set()
        self._keeper.changed()

    def settle(self, app_id: str, kind: str, detail: dict[str, str]) -> None:
        """It is over: if it was told, or was found in the store alone, it need not be told (again)."""
        self._book.settle(app_id, kind, detail)
        self._keeper.changed()

    async def run(self) -> None:
        """Tell alerts until cancelled: first those of this node's life before."""
        tasks: dict[str, trio.Event] = {}  # of each app with a task: wakes it
        async with (
            open_webhooks(self._reach, self._keys, now_ms=self._now_ms) as webhooks,
            trio.open_nursery() as nursery,
        ):
            await self._keeper.load()
            nursery.start_soon(self._keeper.run)
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
            self._look_at_hold(app_id)
            for waiting in self._book.due(app_id, self._now_ms()):
                if not await self._tell(webhooks, waiting):
                    break  # it asks for a pause
            next_at_ms = self._book.next_at_ms(app_id)
            if next_at_ms is None:
                del tasks[app_id]
                return
            wait_s = (next_at_ms - self._now_ms()) / 1_000
            with trio.move_on_after(min(max(wait_s, 0.01), MAX_SLEEP_S)):
                await woken.wait()

    def _look_at_hold(self, app_id: str) -> None:
        """A pause holds for the webhook that has asked for it."""
        setup = self.setups.known(app_id) if self.setups is not None else None
        asked_by = self._asked_by.get(app_id)
        if asked_by is not None and setup is not None and setup.rules.alert_webhook != asked_by:
            del self._asked_by[app_id]
            self._book.hold(app_id, 0)

    async def _tell(self, webhooks: Webhooks, waiting: Waiting) -> bool:
        """Try once. False where the webhook asks to be left alone for a while."""
        alert = self._book.begin(waiting)
        await self._save()  # what is said, and under which id, before it is said
        posted = Posted("failed")
        try:
            posted = await self._try(webhooks, waiting, alert)
        except HubbubError as error:
            posted = Posted(error.code)
        except Exception:  # whatever one app's settings bring about is not the end of the others'
            log.exception("alert_failed", app_id=alert.app_id, kind=alert.kind)
        now_ms = self._now_ms()
        on_told = waiting.on_this_told
        if not posted.reason:
            self.told_count += 1
            self._book.told(waiting, now_ms)
            if on_told is not None:
                on_told()
            await self._save()
            return True
        log.warning("alert_not_told", app_id=alert.app_id, kind=alert.kind, reason=posted.reason)
        pause = pause_s(waiting.failures, posted.asked_s, random.random())
        if not self._book.failed(
            waiting,
            now_ms,
            pause_ms=int(pause * 1_000),
            reason=posted.reason,
            was_sent=posted.reason != NOBODY,
        ):
            log.warning("alert_given_up", app_id=alert.app_id, kind=alert.kind, count=alert.count)
        if posted.asked_s:
            self._book.hold(alert.app_id, now_ms + int(pause * 1_000))
        self._keeper.changed()
        return not posted.asked_s

    async def _save(self) -> None:
        """As far as the store can: people are told of a full disk, too."""
        try:
            await self._keeper.save()
        except HubbubError as error:
            log.warning("alerts_not_stored", code=error.code)
            self._keeper.changed()

    async def _try(self, webhooks: Webhooks, waiting: Waiting, alert: Alert) -> Posted:
        """Tell once. It is told where the webhook has it; without one, where the mail is on its way.

        An app with neither has not been told: it is, if it names one within the day.
        """
        if self.setups is None:
            return Posted(NOBODY)
        rules = (await self.setups.load(alert.app_id)).rules
        if rules.alert_email and not waiting.is_mailed and await self._mail(rules.alert_email, alert):
            self._book.mailed(waiting)
        if not rules.alert_webhook:
            return Posted("" if waiting.is_mailed else "mail_not_taken" if rules.alert_email else NOBODY)
        url, body = rules.alert_webhook, msgspec.json.encode(alert)
        posted = await webhooks.post(alert.app_id, url, body, content_type="application/json")
        if posted.asked_s:
            self._asked_by[alert.app_id] = url
        return posted

    async def _mail(self, address: str, alert: Alert) -> bool:
        """By the app's own mail account, if it has one that works. True unless it was surely not taken."""
        assert self.setups is not None
        lines = [f"{name}: {value}" for name, value in alert.detail.items()]
        outgoing = Outgoing(
            delivery_id=f"alert-{alert.alert_id}",  # of which Message-ID is made: the same at each try
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
