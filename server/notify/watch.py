"""Watch over what apps were promised: dead letters are told, and deliveries later than their deadline.

Looks every LOOK_S at the dead letters that were not told yet, and at how much is overdue. A dead letter is
marked once somebody has been told, so that a restart loses no alert; it may tell one twice. The node that
owns shard 0 looks, as what it finds is the same everywhere.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import msgspec
import structlog
import trio

from protocol.errors import HubbubError
from protocol.notify_found import UntoldDead
from protocol.notify_records import DeadDelivery
from protocol.records import Op, Update
from server.notify.alert_book import GIVE_UP_MS
from server.notify.alerts import Alerts
from server.notify.waiting_alert import about
from storage.store import Store

LOOK_S: Final = 5.0
MAX_MARKED: Final = 500  # dead letters that are marked in one commit
MAX_CAUSES: Final = (
    50  # of one app that are told apart; an app's own provider can make up any number of codes
)
OTHERS: Final = "others"

log = structlog.get_logger(__name__)


class Report(msgspec.Struct, frozen=True):
    """One alert about dead letters, and all that it tells of."""

    app_id: str
    detail: dict[str, str]
    groups: tuple[UntoldDead, ...]

    @property
    def count(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def found_as(self) -> str:
        """Name just these: with one more it is another name."""
        found = ((*_cause(group), group.count, group.upto_ms) for group in self.groups)
        return msgspec.json.encode(sorted(found)).decode()


def reports_of(groups: Iterable[UntoldDead]) -> list[Report]:
    """Make one alert of each cause; an app's smaller ones beyond MAX_CAUSES share one. Pure."""
    by_app: dict[str, list[UntoldDead]] = {}
    for group in sorted(groups, key=lambda group: -group.count):
        by_app.setdefault(group.app_id, []).append(group)
    reports: list[Report] = []
    for app_id, causes in by_app.items():
        for group in causes[:MAX_CAUSES]:
            detail = {
                "channel": group.channel,
                "provider_id": group.provider_id,
                "code": group.code,
                "detail": group.detail,
                "notification": "see the dead letters for which",
            }
            reports.append(Report(app_id, detail, (group,)))
        if causes[MAX_CAUSES:]:
            detail = {"code": OTHERS, "notification": "see the dead letters for which"}
            reports.append(Report(app_id, detail, tuple(causes[MAX_CAUSES:])))
    return reports


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
        self._told: list[UntoldDead] = []  # and not marked yet
        self.overdue: dict[str, int] = {}  # app -> deliveries that are late now

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                if self._is_ours():
                    await self.look()
                else:
                    await self.leave()
            except HubbubError as error:
                log.warning("watch_failed", code=error.code)
            await trio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once. Raises: HubbubError."""
        await self.mark()
        now_ms = self._now_ms()
        # Older ones were given up.
        groups = await self._store.notify.untold_dead(now_ms - GIVE_UP_MS)
        told = {_cause(group) for group in self._told}  # while that was read
        dead: set[tuple[str, str]] = set()
        for report in reports_of(group for group in groups if _cause(group) not in told):
            dead.add((report.app_id, about(report.detail)))
            self._alerts.stand(
                report.app_id,
                "dead_letter",
                report.detail,
                count=report.count,
                found_as=report.found_as,
                on_told=partial(self._told.extend, report.groups),
            )
        self._alerts.settle("dead_letter", but=dead)  # the others were redriven, or told
        await self._look_at_late(now_ms)

    async def leave(self) -> None:
        """Another node looks: what was found here it finds, and tells, itself. Raises: HubbubError."""
        self.overdue = {}
        self._alerts.settle("dead_letter")
        self._alerts.settle("deadline_passed")
        await self.mark()

    async def mark(self) -> None:
        """Store which dead letters have been told. Raises: HubbubError, and it is done at the next look."""
        while self._told:
            group = self._told.pop()
            try:
                while keys := await self._store.notify.untold_of(group, limit=MAX_MARKED):
                    await self._store.commit([_marked(key, self._now_ms()) for key in keys])
            except HubbubError:
                self._told.append(group)
                raise

    async def _look_at_late(self, now_ms: int) -> None:
        overdue: dict[str, int] = {}
        late: set[tuple[str, str]] = set()
        for found in await self._store.notify.overdue(now_ms):
            overdue[found.app_id] = overdue.get(found.app_id, 0) + found.count
            detail = {"channel": found.channel, "priority": found.priority}
            late.add((found.app_id, about(detail)))
            self._alerts.stand(found.app_id, "deadline_passed", detail, count=found.count)
        self._alerts.settle("deadline_passed", but=late)  # also what a node has left that looked before
        self.overdue = overdue


def _marked(key: tuple[int, int], now_ms: int) -> Op:
    where: dict[str, str | int] = {"notification_id": key[0], "number": key[1]}
    return Update(DeadDelivery, where, {"alerted_at_ms": now_ms})


def _cause(group: UntoldDead) -> tuple[str, str, str, str]:
    return group.app_id, group.channel, group.provider_id, group.code
