"""The requests of one app, as rows: kept, changed, ended, and forgotten when they are old enough."""

from typing import Final

import msgspec
import trio

from actors.entity import EntityContext
from actors.notify.address import app_address
from actors.notify.ports import DeveloperAlerts, Setups
from actors.notify.timekeeper import RETENTION_MS, TIDY_PAUSE_S, TIDY_ROWS, TIDY_S
from actors.ports import Leases, Log, Relay, WallClock
from actors.stream_actor import Staged, StreamActor
from protocol.errors import HubbubError
from protocol.notify_found import NotifyReads
from protocol.notify_records import RequestRow
from protocol.records import Appended, LogRow, Op, Remove, Trim, Update

OPEN_STATES: Final = ("running", "waiting", "cancelling")

_encode = msgspec.json.Encoder().encode


class Ended(msgspec.Struct, frozen=True):
    """Requests that ended long ago; rows of the app's stream below `before_seq` are as old."""

    request_ids: list[str]
    before_seq: int


class RequestKeeper(StreamActor):
    """Keep the rows. What is done with requests is in the classes derived from it."""

    def __init__(
        self,
        app_id: str,
        *,
        log: Log,
        reads: NotifyReads,
        leases: Leases,
        relay: Relay,
        now_ms: WallClock,
        setups: Setups,
        alerts: DeveloperAlerts,
    ) -> None:
        super().__init__(
            app_address(app_id), f"na:{app_id}", log=log, leases=leases, relay=relay, now_ms=now_ms
        )
        self._app_id = app_id
        self._reads = reads
        self._setups = setups
        self._alerts = alerts
        self._requests: dict[str, RequestRow] = {}  # that have not ended, as decided last
        self._tidied_at_s = float("-inf")
        self._is_tidying = False

    async def activate(self, ctx: EntityContext) -> None:
        self._ctx = ctx
        for state in OPEN_STATES:
            where: dict[str, str | int | None] = {"app_id": self._app_id, "state": state}
            for row in await self._log.find(RequestRow, where, limit=10_000):
                self._requests[row.request_id] = row

    def is_needed(self) -> bool:
        """It has timers to look after."""
        return bool(self._requests)

    def may_passivate(self) -> bool:
        return super().may_passivate() and not self._is_tidying

    def placed(self, staged: Staged, at: Appended) -> None:
        """Nobody listens to this stream."""

    def _record(self, kind: str, request_id: str, staged: Staged) -> None:
        self._stage_row(
            LogRow(
                stream=self._stream,
                kind=kind,
                at_ms=self._at_ms(),
                user_id=self._app_id,
                body=_encode({"request_id": request_id}).decode(),
            ),
            staged,
        )

    def _change(self, row: RequestRow, **changes: str | int) -> RequestRow:
        changed = msgspec.structs.replace(row, **changes)
        self._requests[row.request_id] = changed
        self._stage_ops([Update(RequestRow, {"request_id": row.request_id}, dict(changes))])
        return changed

    def stop(self, request_id: str) -> None:
        """Hand on no more of its users."""
        raise NotImplementedError

    def _end(self, row: RequestRow, state: str, staged: Staged, **changes: str | int) -> None:
        self.stop(row.request_id)
        self._change(row, state=state, done_at_ms=self._now_ms(), **changes)
        del self._requests[row.request_id]
        self._record(state, row.request_id, staged)

    # -- what is old enough -------------------------------------------------------------------------

    def woken(self) -> None:
        """Look now and then for what has been kept for long enough; NotifyResumer wakes those who have it."""
        if not self._is_tidying and self._ctx.now() - self._tidied_at_s >= TIDY_S:
            self._is_tidying = True
            self._tidied_at_s = self._ctx.now()
            self._ctx.start_soon(self._find_ended)

    async def _find_ended(self) -> None:
        before_ms = self._now_ms() - RETENTION_MS
        try:
            ids = await self._reads.ended_requests(self._app_id, before_ms, limit=TIDY_ROWS)
            before_seq = await self._reads.stream_seq_at(self._stream, before_ms)
        except HubbubError:
            ids, before_seq = [], 0
        self._ctx.post(Ended(ids, before_seq))

    def ended_found(self, message: Ended) -> None:
        """Forget them, some at a time."""
        self._is_tidying = False
        try:
            self._log.check_room()
        except HubbubError:
            return  # the next time
        ops: list[Op] = [Remove(RequestRow, {"request_id": request_id}) for request_id in message.request_ids]
        if message.before_seq > 1:
            ops.append(Trim(self._stream, message.before_seq))
        self._stage_ops(ops)
        if len(message.request_ids) >= TIDY_ROWS:
            self._is_tidying = True
            self._ctx.start_soon(self._find_more)

    async def _find_more(self) -> None:
        await trio.sleep(TIDY_PAUSE_S)  # others write too
        await self._log.barrier()
        await self._find_ended()
