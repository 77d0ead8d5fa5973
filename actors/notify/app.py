"""The actor of one app's larger requests: to a group or to many users, at a time, again and again.

A request is a row, stored before it is answered. Its users are handed to the partitions page by page; when
all of a page's partitions have stored their part, the row's cursor goes on. After a crash the page is handed
on again, and the key that each of its notifications has makes that harmless. Partitions that have enough in
their queues say `busy`, so a campaign to a million waits here, in one row, and not in a million.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
import trio

from actors.entity import EntityContext
from actors.notify.address import partition_address, partition_of
from actors.notify.messages import CancelRequest, Notify, RunRequest
from actors.notify.ports import Setup
from actors.notify.recurrence import next_cron_ms
from actors.notify.request_canceller import CancelLate, PartCancelled, RequestCanceller
from actors.notify.request_keeper import Ended
from actors.notify.send_at import send_at_ms
from actors.notify.stored_setup import read_request
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import notify_replies
from protocol.errors import HubbubError, ProtocolError, Refused, Unavailable
from protocol.notify_content import NotifyRequest, content_of
from protocol.notify_records import RequestRow
from protocol.records import Appended, Put

PAGE: Final = 1_000  # users handed on at a time
MAX_RUNNING: Final = 4  # requests of one app that go on side by side
ASK_TIMEOUT_S: Final = 30.0
MAX_RETRY_S: Final = 5.0
LONGEST_TIMER_S: Final = 600.0  # a clock that is set is noticed within it
EASY_PAGE_S: Final = 0.15  # what a page takes on a node that has little else to do
REST_SHARE: Final = 2.0
MAX_FAILURES: Final = 3  # of a partition by one page, each of them two crashes or a refused commit
# Not a busy or full store: these tell that the page itself cannot be handled or stored.
_OF_THE_PAGE: Final = frozenset({"internal", "crashed"})
MAX_REST_S: Final = 2.0
EASTERNMOST: Final = "Pacific/Kiritimati"  # UTC+14, where each day begins first

_logger = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


class _Advanced(msgspec.Struct, frozen=True):
    """A page of a request's users was taken; `is_last`: that was all. `zone`: then, of what recurs."""

    request_id: str
    cursor: str
    count: int
    is_last: bool
    zone: str = ""


class _Due(msgspec.Struct, frozen=True):
    """The time of a request may have come."""

    request_id: str
    at_s: float


class _Failed(msgspec.Struct, frozen=True):
    """A request cannot be carried out."""

    request_id: str
    code: str
    detail: str


class AppActor(RequestCanceller):
    """Own the requests of one app. Take `RunRequest`, `CancelRequest` and `Wake`."""

    # -- life ---------------------------------------------------------------------------------------

    async def activate(self, ctx: EntityContext) -> None:
        """Take up what is not done."""
        self._running: dict[str, trio.CancelScope] = {}
        self._timers: dict[str, float] = {}  # trio.current_time() seconds of the one that counts, by request
        await super().activate(ctx)
        for row in self._requests.values():
            self._set_timer(row)
        self._start_some()

    def woken(self) -> None:
        """Look at the clock: it may have been set."""
        super().woken()
        for row in list(self._requests.values()):
            if row.state == "waiting":
                self._due(row.request_id)
        self._start_some()

    # -- messages -----------------------------------------------------------------------------------

    async def handle(self, message: object, reply: Reply) -> None:
        match message:
            case RunRequest():
                await self._run(message, reply)
            case CancelRequest(request_id=request_id):
                await self.cancel(request_id, reply)
                self._start_some()
            case PartCancelled():
                self.part_cancelled(message)
            case CancelLate():
                self.cancel_late(message)
            case Ended():
                self.ended_found(message)
            case _Advanced():
                self._advance(message)
            case _Due(request_id=request_id, at_s=at_s):
                if self._timers.get(request_id) == at_s:  # none that was replaced
                    del self._timers[request_id]
                    self._due(request_id)
            case _Failed():
                self._fail(message)
            case _:
                raise TypeError(f"an app does not take {type(message).__name__}")

    async def _run(self, message: RunRequest, reply: Reply) -> None:
        known = self._requests.get(message.request_id) or await self._log.get(RequestRow, message.request_id)
        if known is not None:
            if known.digest != message.digest:
                raise Refused("payload_conflict", "That idempotency key was used before for something else.")
            answer = _accepted(known, repeated=True)
            self._answer_when_stored(reply, lambda _at: answer)
            return
        now_ms = self._now_ms()
        setup = await self._setups.at_least(self._app_id, message.setup_version)
        request = message.request
        next_at_ms = 0
        if request.cron:
            zone = request.time_zone or setup.rules.default_time_zone
            next_at_ms = next_cron_ms(request.cron, zone, now_ms)
            if not next_at_ms or 0 < request.ends_at_ms <= next_at_ms:
                raise Refused("bad_request", "The cron expression is never due before ends_at_ms.")
        elif request.send_at:
            # Local times come first in the east; from then on each user's own partition waits for them.
            next_at_ms = max(now_ms, send_at_ms(request.send_at, EASTERNMOST))
        row = RequestRow(
            request_id=message.request_id,
            app_id=self._app_id,
            digest=message.digest,
            body=_encode(request).decode(),
            state="waiting" if next_at_ms > now_ms else "running",
            created_at_ms=now_ms,
            next_at_ms=next_at_ms,
        )
        self._requests[row.request_id] = row
        answer = _accepted(row)

        def begin(_at: Appended | None) -> None:
            self._set_timer(row)
            self._start_some()

        self._record("requested", row.request_id, Staged(reply, lambda _at: answer, after=begin))
        self._stage_ops([Put(row)])

    def stop(self, request_id: str) -> None:
        self._timers.pop(request_id, None)
        scope = self._running.pop(request_id, None)
        if scope is not None:
            scope.cancel()

    # -- when ---------------------------------------------------------------------------------------

    def _set_timer(self, row: RequestRow) -> None:
        if row.state == "waiting":
            # A clock may be set meanwhile.
            delay_s = min(LONGEST_TIMER_S, max(0.0, (row.next_at_ms - self._now_ms()) / 1000 + 0.001))
            at_s = self._ctx.now() + delay_s
            if at_s < self._timers.get(row.request_id, float("inf")):
                self._timers[row.request_id] = at_s
                self._ctx.post_after(delay_s, _Due(row.request_id, at_s))

    def _due(self, request_id: str) -> None:
        row = self._requests.get(request_id)
        if row is None or row.state != "waiting":
            return
        if row.next_at_ms > self._now_ms():
            self._set_timer(self._brought_forward(row))
            return
        run = row.run + 1
        self._change(row, state="running", run=run, cursor="", ran_for_ms=row.next_at_ms)
        self._record("running", request_id, Staged(NO_REPLY, None, after=lambda _at: self._start_some()))

    def _brought_forward(self, row: RequestRow) -> RequestRow:
        """A recurring request after its clock was set back: it leaves out no time that has not come.

        It ran once for all the times that a clock that was ahead had leapt over; those come now, each once.
        """
        request, setup = read_request(row.body), self._setups.known(self._app_id)
        zone = request.time_zone or (setup.rules.default_time_zone if setup is not None else "")
        if not request.cron or not zone or (row.run and not row.ran_for_ms):
            return row
        next_at_ms = next_cron_ms(request.cron, zone, max(self._now_ms(), row.ran_for_ms))
        return self._change(row, next_at_ms=next_at_ms) if 0 < next_at_ms < row.next_at_ms else row

    def _advance(self, message: _Advanced) -> None:
        row = self._requests.get(message.request_id)
        if row is None or row.state != "running":
            return
        row = self._change(row, cursor=message.cursor, user_count=row.user_count + message.count)
        if not message.is_last:
            return
        self._running.pop(row.request_id, None)
        request = read_request(row.body)
        if request.cron:
            next_at_ms = next_cron_ms(request.cron, message.zone, max(self._now_ms(), row.next_at_ms))
            if next_at_ms and (not request.ends_at_ms or next_at_ms < request.ends_at_ms):
                row = self._change(row, state="waiting", next_at_ms=next_at_ms)
                self._set_timer(row)
                self._record("waiting", row.request_id, Staged(NO_REPLY, None))
                self._start_some()
                return
        self._end(row, "done", Staged(NO_REPLY, None))
        self._start_some()

    def _fail(self, message: _Failed) -> None:
        row = self._requests.get(message.request_id)
        if row is not None and row.state == "running":
            _logger.warning("request_failed", app_id=self._app_id, code=message.code)
            told = {"request_id": row.request_id, "code": message.code, "detail": message.detail}
            alert, stored = self._alerts.staged(self._app_id, "request_failed", told)
            staged = Staged(NO_REPLY, None, after=lambda _at: stored())
            self._end(row, "failed", staged, code=message.code, detail=message.detail)
            self._stage_ops([alert])
        self._start_some()

    # -- handing on ---------------------------------------------------------------------------------

    def _start_some(self) -> None:
        for row in self._requests.values():
            if len(self._running) >= MAX_RUNNING:
                return
            if row.state == "running" and row.request_id not in self._running:
                scope = self._running[row.request_id] = trio.CancelScope()
                self._ctx.start_soon(self._hand_on, row, scope)

    async def _hand_on(self, row: RequestRow, scope: trio.CancelScope) -> None:
        """Hand a request's users to their partitions, from its cursor on."""
        try:
            request = read_request(row.body)
        except msgspec.ValidationError:  # stored when more was let in than is now
            self._ctx.post(_Failed(row.request_id, "bad_field", "It cannot be read any more."))
            return
        cursor = row.cursor
        with scope:
            while True:
                users, cursor, is_last = await self._page(request, cursor)
                began_at = trio.current_time()
                try:
                    await self._notify(row, request, users)
                except HubbubError as error:
                    self._ctx.post(_Failed(row.request_id, error.code, error.message))
                    return
                zone = await self._zone_of(request) if is_last and request.cron else ""
                self._ctx.post(_Advanced(row.request_id, cursor, len(users), is_last, zone))
                if is_last:
                    return
                await trio.sleep(rest_s(trio.current_time() - began_at))

    async def _zone_of(self, request: NotifyRequest) -> str:
        """The time zone of a cron expression: the app's own, as it is set up now, unless the request says."""
        return request.time_zone or (await self._setup()).rules.default_time_zone

    async def _setup(self) -> Setup:
        """What the app has set up, however long the store takes."""
        delay_s = 0.1
        while True:
            try:
                return await self._setups.load(self._app_id)
            except HubbubError as error:
                await trio.sleep(max(delay_s, error.retry_after_s or 0.0))
                delay_s = min(MAX_RETRY_S, 2 * delay_s)

    async def _page(self, request: NotifyRequest, cursor: str) -> tuple[list[str], str, bool]:
        """The next users of a request, the cursor behind them, and whether they are the last."""
        if request.group:
            delay_s = 0.1
            while True:
                try:
                    users = await self._reads.group_page(
                        self._app_id, request.group, after=cursor, limit=PAGE
                    )
                except HubbubError as error:
                    await trio.sleep(max(delay_s, error.retry_after_s or 0.0))
                    delay_s = min(MAX_RETRY_S, 2 * delay_s)
                    continue
                return users, users[-1] if users else cursor, len(users) < PAGE
        start = int(cursor or 0)
        users = request.user_ids[start : start + PAGE]
        return users, str(start + len(users)), start + PAGE >= len(request.user_ids)

    async def _notify(self, row: RequestRow, request: NotifyRequest, users: Sequence[str]) -> None:
        """Notify these users; returns when every partition has stored its part.

        Raises: HubbubError, where that can never be: a type or template was removed meanwhile, or a
        partition fails of it again and again.
        """
        parts: dict[int, list[str]] = {}
        for user_id in users:
            parts.setdefault(partition_of(user_id), []).append(user_id)
        content = content_of(request)
        setup = await self._setup()
        refused: list[HubbubError] = []

        async def ask(partition: int, user_ids: list[str]) -> None:
            message = Notify(
                app_id=self._app_id,
                user_ids=tuple(user_ids),
                content=content,
                request_id=row.request_id,
                key=f"{row.request_id}:{row.run}",
                source="request",
                digest=row.digest,
                occurrence=str(row.run) if request.cron else "",
                is_bulk=True,
                setup_version=setup.version,
            )
            delay_s = 0.05
            failure_count = 0
            while True:
                try:
                    await self._ctx.router.ask(partition_address(partition), message, timeout_s=ASK_TIMEOUT_S)
                except Unavailable as error:
                    failure_count += error.code in _OF_THE_PAGE
                    if failure_count >= MAX_FAILURES:
                        refused.append(error)
                        return
                    await trio.sleep(max(delay_s, error.retry_after_s or 0.0))
                    delay_s = min(MAX_RETRY_S, 2 * delay_s)
                    continue
                except (Refused, ProtocolError) as error:
                    if error.code != "user_not_found":
                        refused.append(error)
                return

        async with trio.open_nursery() as nursery:
            for partition, user_ids in parts.items():
                nursery.start_soon(ask, partition, user_ids)
        if refused:
            raise refused[0]


def rest_s(took_s: float) -> float:
    """How long a request rests between two pages, by how long the last one took.

    A page that takes longer than on an idle node is held up by others' requests, or holds them up.
    """
    return min(MAX_REST_S, REST_SHARE * max(0.0, took_s - EASY_PAGE_S))


def _accepted(row: RequestRow, *, repeated: bool = False) -> notify_replies.NotifyAccepted:
    return notify_replies.NotifyAccepted(request_id=row.request_id, state=row.state, repeated=repeated)
