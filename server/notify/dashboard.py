"""How notifications are doing, for the dashboard: read from the store in bounded time, and kept a while.

Whoever looks, the store is asked once: what is of all apps is read for all and told by app. What is read is
kept for KEPT_S, or for twenty times as long as it took to read, so that a busy store is asked less often.
What nodes know of themselves alone is asked of all of them (node_views.py).
"""

from collections.abc import Callable
from typing import Final

import msgspec

from protocol.errors import HubbubError
from protocol.http_notify_dashboard import (
    AlertLine,
    Dead,
    DeadLine,
    ExperimentLine,
    Held,
    NotifyDashboard,
    ProviderLine,
    Providers,
    Queues,
    RequestLine,
)
from protocol.notify_content import KeptRequest
from protocol.notify_glance import (
    Backlog,
    Concluded,
    ConcludedDeliveries,
    HeldNotifications,
    OpenDeliveries,
)
from protocol.notify_records import AlertRow, ProviderRow, RequestRow
from server.notify.alert_lines import alert_lines
from server.notify.app_desk import AppDesk
from server.notify.dashboard_lines import held_lines, open_totals, provider_line, queue_lines
from server.notify.kept import Kept
from server.notify.node_lines import Strains, node_lines, strains_of, summed_rates
from server.notify.node_views import NodeViews
from storage.store import Store

KEPT_S: Final = 2.0
EXPERIMENTS_KEPT_S: Final = 30.0  # each is counted anew, over all users who take part
AUDIENCE_KEPT_S: Final = 60.0
SPAN_MS: Final = 3_600_000  # of the providers' success
MAX_APPS: Final = 1_000  # whose own parts are kept
MAX_REQUESTS: Final = 50
MAX_EXPERIMENTS: Final = 20
MAX_ALERTS: Final = 1_000  # that are looked at
MAX_PROVIDERS: Final = 1_000

_request = msgspec.json.Decoder(KeptRequest).decode


class _Whole(msgspec.Struct, frozen=True):
    """What is read for all apps at once."""

    at_ms: int
    open: OpenDeliveries
    held: HeldNotifications
    backlog: Backlog
    concluded: ConcludedDeliveries
    providers: list[ProviderRow]


class _Own(msgspec.Struct, frozen=True):
    """What is read for one app, or for all."""

    dead: Kept[Dead]
    alerts: Kept[list[AlertLine]]
    requests: Kept[list[RequestLine]]
    experiments: Kept[list[ExperimentLine]]


class Dashboards:
    """Make dashboards, for operators and for each app."""

    def __init__(
        self,
        store: Store,
        desk: AppDesk,
        views: NodeViews,
        *,
        unreadable: Callable[[], list[str]],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._glances = store.notify_glances
        self._desk = desk
        self._views = views
        self._unreadable = unreadable
        self._now_ms = now_ms
        self._whole = Kept(self._read_whole, KEPT_S)
        self._own: dict[str, _Own] = {}
        self._audiences: dict[tuple[str, str], Kept[int]] = {}

    async def of(self, app_id: str) -> NotifyDashboard:
        """The dashboard of an app; "": of all apps, for operators. Raises: HubbubError."""
        whole = await self._whole.get()
        nodes = await self._views.of(app_id)
        own = self._own_of(app_id)
        is_operator = not app_id
        queues = queue_lines(whole.open.lanes, app_id, whole.at_ms)
        held = held_lines(whole.held.items, app_id)
        return NotifyDashboard(
            app_id=app_id,
            at_ms=whole.at_ms,
            queues=Queues(
                lines=queues,
                is_complete=whole.open.is_complete,
                open_totals=whole.backlog.open_counts if is_operator else open_totals(queues),
            ),
            held=Held(
                lines=held,
                is_complete=whole.held.is_complete,
                total=whole.backlog.held_count if is_operator else sum(line.count for line in held),
            ),
            rates=summed_rates(part.rates for part in nodes.parts.values()),
            nodes=node_lines(nodes.parts, nodes.missing),
            node_id=self._views.node_id,
            providers=Providers(
                lines=self._provider_lines(whole, app_id, strains_of(nodes.parts)),
                since_ms=whole.at_ms - SPAN_MS,
                is_complete=whole.concluded.is_complete,
            ),
            dead=await own.dead.get(),
            alerts=await own.alerts.get(),
            requests=await own.requests.get(),
            experiments=await own.experiments.get(),
            unreadable=[name for name in self._unreadable() if app_id in ("", name)],
        )

    def changed(self, app_id: str) -> None:
        """Something was redriven or paused: who looks next sees it."""
        self._views.forget(app_id)
        self._whole = Kept(self._read_whole, KEPT_S)
        for whose in ("", app_id):
            known = self._own.get(whose)
            if known is not None:
                self._own[whose] = msgspec.structs.replace(known, dead=self._dead_of(whose))

    # -- all apps -----------------------------------------------------------------------------------

    async def _read_whole(self) -> _Whole:
        now_ms = self._now_ms()
        glances = self._glances
        return _Whole(
            at_ms=now_ms,
            open=await glances.open_deliveries(now_ms),
            held=await glances.held(),
            backlog=await glances.backlog(),
            concluded=await glances.concluded(since_ms=now_ms - SPAN_MS, now_ms=now_ms),
            providers=await self._store.find(ProviderRow, {}, order_by="position", limit=MAX_PROVIDERS),
        )

    def _provider_lines(self, whole: _Whole, app_id: str, strains: Strains) -> list[ProviderLine]:
        """All accounts that are set up, and others that were used."""
        rows = {
            (row.app_id, row.channel, row.provider_id): row
            for row in whole.providers
            if app_id in ("", row.app_id)
        }
        found: dict[tuple[str, str, str], list[Concluded]] = {key: [] for key in rows}
        for item in whole.concluded.items:
            if app_id in ("", item.app_id):
                found.setdefault((item.app_id, item.channel, item.provider_id), []).append(item)
        lines = [
            provider_line(key, rows.get(key), items, strains.get(key, {})) for key, items in found.items()
        ]
        return sorted(lines, key=lambda line: (line.app_id, line.channel, line.position, line.provider_id))

    # -- one app ------------------------------------------------------------------------------------

    def _own_of(self, app_id: str) -> _Own:
        known = self._own.get(app_id)
        if known is None:
            if len(self._own) >= MAX_APPS:
                del self._own[next(iter(self._own))]
            known = self._own[app_id] = _Own(
                self._dead_of(app_id),
                Kept(lambda: self._read_alerts(app_id), KEPT_S),
                Kept(lambda: self._read_requests(app_id), KEPT_S),
                Kept(lambda: self._read_experiments(app_id), EXPERIMENTS_KEPT_S),
            )
        return known

    def _dead_of(self, app_id: str) -> Kept[Dead]:
        return Kept(lambda: self._read_dead(app_id), KEPT_S)

    async def _read_dead(self, app_id: str) -> Dead:
        found = await self._glances.dead_letters(app_id)
        lines = [
            DeadLine(**{name: getattr(item, name) for name in DeadLine.__struct_fields__})  # the same names
            for item in found.items
        ]
        return Dead(lines=sorted(lines, key=lambda line: -line.count), is_complete=found.is_complete)

    async def _read_alerts(self, app_id: str) -> list[AlertLine]:
        where: dict[str, str | int | None] = {"app_id": app_id} if app_id else {}
        # Those with a count alone: what was told within the hour has a row, too, and is no open matter.
        rows = await self._store.find(AlertRow, where, order_by="count", after=0, limit=MAX_ALERTS)
        return alert_lines(rows)

    async def _read_requests(self, app_id: str) -> list[RequestLine]:
        rows = await self._glances.open_requests(app_id, limit=MAX_REQUESTS)
        return [await self._request_line(row) for row in rows]

    async def _request_line(self, row: RequestRow) -> RequestLine:
        request = _request(row.body)
        group = request.group
        reached = -1
        if not group:
            audience = len(request.user_ids)
            reached = int(row.cursor or 0)
        else:
            audience = await self._audience_of(row.app_id, group)
            if row.state != "running" or not row.cursor:
                reached = 0
            elif group != "*":
                reached = await self._glances.reached(row.app_id, group, row.cursor)
            elif row.run <= 1:
                reached = row.user_count
        return RequestLine(
            app_id=row.app_id,
            request_id=row.request_id,
            state=row.state,
            type=request.type,
            group=group,
            cron=request.cron,
            created_at_ms=row.created_at_ms,
            next_at_ms=row.next_at_ms,
            run=row.run,
            user_count=row.user_count,
            reached_count=reached,
            audience_count=audience,
        )

    async def _audience_of(self, app_id: str, group: str) -> int:
        key = (app_id, group)
        known = self._audiences.get(key)
        if known is None:
            if len(self._audiences) >= MAX_APPS:
                del self._audiences[next(iter(self._audiences))]
            known = self._audiences[key] = Kept(
                lambda: self._glances.audience(app_id, group), AUDIENCE_KEPT_S
            )
        return await known.get()

    async def _read_experiments(self, app_id: str) -> list[ExperimentLine]:
        lines = []
        for whose, name in await self._glances.experiments(app_id, limit=MAX_EXPERIMENTS):
            try:
                results = await self._desk.experiment_results(whose, name)
                lines.append(ExperimentLine(app_id=whose, name=name, results=results))
            except HubbubError as error:  # one that is too large to count in time hides no other
                lines.append(ExperimentLine(app_id=whose, name=name, results=None, code=error.code))
        return lines
