"""Tell an app's developers when somebody has to look: by webhook and by mail.

Each app has a task of its own, so a webhook that hangs is its own app's loss. What is to be told is stored
before it is told (see `alert_keeper`), so a kill loses none; one that was told just before may come again,
with the same `alert_id`. What cannot be told is tried again with backoff, and given up after a day; it stands
in the log all the same.
"""

import random
from collections.abc import Callable, Collection
from typing import Final

import msgspec
import structlog
import trio

from actors.notify.delivery import Outgoing, Target
from protocol.errors import HubbubError
from protocol.notify_types import AppRules
from protocol.records import Op, Put
from server.notify.alert_book import AlertBook
from server.notify.alert_keeper import AlertKeeper
from server.notify.alert_pause import Pause
from server.notify.setups import SetupCache
from server.notify.waiting_alert import Alert, Waiting
from server.notify.webhooks import Posted, WebhookKeys, Webhooks, open_webhooks, pause_s
from server.providers.reach import Reach
from storage.store import Store

MAX_SLEEP_S: Final = 1.0  # the wall clock may be set
NOBODY: Final = "nobody_to_tell"
PAUSED: Final = "webhook_asked_to_wait"

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
        self._pauses: dict[str, Pause] = {}  # of apps whose webhook has asked for one
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

    def settle(self, kind: str, *, but: Collection[tuple[str, str]] = ()) -> None:
        """All of a kind is over, but these (app, and what it is about); see AlertBook.settle."""
        self._book.settle(kind, but=but)
        self._stored_soon()

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
            self._look_at_pause(app_id)
            due = self._book.due(app_id, self._now_ms())
            self._stored_soon()  # what is forgotten, too
            for waiting in due:
                if self._book.is_open(waiting):
                    await self._tell(webhooks, waiting)
            next_at_ms = self._book.next_at_ms(app_id)
            if next_at_ms is None:
                del tasks[app_id]
                return
            wait_s = (next_at_ms - self._now_ms()) / 1_000
            with trio.move_on_after(min(max(wait_s, 0.01), MAX_SLEEP_S)):
                await woken.wait()

    def _stored_soon(self) -> None:
        if self._book.has_changed:
            self._keeper.changed()

    def _look_at_pause(self, app_id: str) -> None:
        """A pause holds for the webhook that has asked for it; who names another, or an address, is told."""
        pause, rules = self._pauses.get(app_id), self._known_rules(app_id)
        if pause is None or rules is None:
            return
        now_ms = self._now_ms()
        if not pause.holds(rules, now_ms):
            del self._pauses[app_id]
        elif rules.alert_email != pause.email:
            self._pauses[app_id] = Pause(pause.until_ms, pause.webhook, rules.alert_email)
        else:
            return
        self._book.release(app_id, pause.until_ms, now_ms)

    def _known_rules(self, app_id: str) -> AppRules | None:
        """Once read they stay known."""
        setup = self.setups.known(app_id) if self.setups is not None else None
        return setup.rules if setup is not None else None

    async def _tell(self, webhooks: Webhooks, waiting: Waiting) -> None:
        """Try once, each way that is open: while the webhook asks to be left alone, by mail alone."""
        app_id = waiting.app_id
        pause, known = self._pauses.get(app_id), self._known_rules(app_id)
        if pause is not None and known is not None and pause.holds(known, self._now_ms()):
            if waiting.is_mailed or not known.alert_email:
                self._put_off(waiting, pause)
                return
        else:
            pause = None
        alert = self._book.begin(waiting)
        on_told = waiting.on_this_told
        await self._save()  # what is said, and under which id, before it is said
        rules = AppRules()
        posted = Posted("failed")
        try:
            if self.setups is not None:
                rules = (await self.setups.load(app_id)).rules
            posted = await self._try(webhooks, waiting, alert, rules, is_paused=pause is not None)
        except HubbubError as error:
            posted = Posted(error.code)
        except Exception:  # whatever one app's settings bring about is not the end of the others'
            log.exception("alert_failed", app_id=app_id, kind=alert.kind)
        now_ms = self._now_ms()
        if not posted.reason:
            self.told_count += 1
            self._book.told(waiting, now_ms)
            if on_told is not None:
                on_told()
            await self._save()
            return
        if posted.reason == PAUSED and pause is not None:
            if waiting.telling is alert:  # else it was over meanwhile, and what came since is to be mailed
                self._put_off(waiting, pause)
            return
        log.warning("alert_not_told", app_id=app_id, kind=alert.kind, reason=posted.reason)
        jitter = random.random()
        pause_ms = asked_ms = int(pause_s(waiting.failures, posted.asked_s, jitter) * 1_000)
        if rules.alert_email and not waiting.is_mailed:  # the mail need not wait that long
            pause_ms = int(pause_s(waiting.failures, None, jitter) * 1_000)
        was_sent = posted.reason != NOBODY
        if not self._book.failed(waiting, now_ms, pause_ms=pause_ms, reason=posted.reason, was_sent=was_sent):
            log.warning("alert_given_up", app_id=app_id, kind=alert.kind, count=alert.count)
        if posted.asked_s:
            self._pauses[app_id] = Pause(now_ms + asked_ms, rules.alert_webhook, rules.alert_email)
        self._keeper.changed()

    def _put_off(self, waiting: Waiting, pause: Pause) -> None:
        self._book.put_off(waiting, pause.until_ms, reason=PAUSED)
        self._stored_soon()

    async def _save(self) -> None:
        """As far as the store can: people are told of a full disk, too."""
        try:
            await self._keeper.save()
        except HubbubError as error:
            log.warning("alerts_not_stored", code=error.code)
            self._keeper.changed()

    async def _try(
        self, webhooks: Webhooks, waiting: Waiting, alert: Alert, rules: AppRules, *, is_paused: bool
    ) -> Posted:
        """Tell once. It is told where the webhook has it; without one, where the mail is on its way.

        An app with neither has not been told: it is, if it names one within the day.
        """
        is_mailed = waiting.is_mailed
        if rules.alert_email and not is_mailed and await self._mail(rules.alert_email, alert):
            is_mailed = True
            self._book.mailed(waiting)
        if not rules.alert_webhook:
            return Posted("" if is_mailed else "mail_not_taken" if rules.alert_email else NOBODY)
        if is_paused:
            return Posted(PAUSED if is_mailed else "mail_not_taken")
        body = msgspec.json.encode(alert)
        return await webhooks.post(alert.app_id, rules.alert_webhook, body, content_type="application/json")

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
