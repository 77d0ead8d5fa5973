"""What a partition does when time has passed: release what is due, end consents, bring back what spilled.

One timer is set to the next moment at which anything is due, as far as the store knows, and no later than
TICK_S from now; what is held in the meantime brings it forward.
"""

import random
from typing import Final

import msgspec

from actors.notify.builtin_types import DIGEST
from actors.notify.deliverer import Conclude, Resume
from actors.notify.open_keeper import OpenRead, urgency
from actors.notify.plan import Ready
from actors.notify.redriver import Redriver
from actors.reply import NO_REPLY
from actors.stream_actor import Staged
from protocol.errors import HubbubError
from protocol.notify_found import Line
from protocol.notify_ids import first_id_at
from protocol.notify_records import DeadDelivery, DeliveryRow, NotificationRow
from protocol.records import Appended, Op, Remove, Trim

TICK_S: Final = 10.0  # the longest between two looks: a clock that jumps is noticed within it
BUSY_TICK_S: Final = 0.05
RELEASE_ROWS: Final = 256  # released in one turn: some 50 ms
MEMBERS_PAGE: Final = 500  # of a digest that are read at a time, some 1 KB each
RELEASE_MEMBERS: Final = 2_000  # of digests that are read in one turn, and the rest of the last digest
RETRY_S: Final = 1.0
# For how long what has ended is kept, idempotency keys and the ledger with it.
RETENTION_MS: Final = 90 * 86_400_000
TIDY_S: Final = 3_600.0
TIDY_ROWS: Final = 200  # forgotten in one append
TIDY_PAUSE_S: Final = 0.2


class Tick(msgspec.Struct, frozen=True):
    """Look what is due. `number`: of the timer, so that one that was replaced is known."""

    number: int


class Looked(msgspec.Struct, frozen=True):
    """What was found due; `next_due_ms`: when more will be, 0 for nothing."""

    ready: Ready
    ended: list[tuple[str, str]]
    opens: list[OpenRead]
    next_due_ms: int
    error: HubbubError | None = None
    is_own: bool = True


class Tidy(msgspec.Struct, frozen=True):
    """Look for what has been kept for long enough."""


class Tidied(msgspec.Struct, frozen=True):
    """What may be forgotten; ledger rows below `before_seq`."""

    ids: list[int]
    before_seq: int


class Timekeeper(Redriver):
    """Keep the time of one partition."""

    _tick_number = 0
    _tick_at_s = float("inf")  # trio.current_time() seconds of the timer that counts
    _is_looking = False
    _look_again = False
    _releasing: set[int]

    def begin_time(self) -> None:
        """Set the first timer, and go on with what was open; called once per incarnation, in `activate`."""
        self._releasing = set()
        self.post_resumed(list(self._jobs.values()))
        self.look_in(0.0)
        self._ctx.post_after(TIDY_S * (0.5 + random.random()), Tidy())

    def look_in(self, delay_s: float) -> None:
        """Look what is due in so many seconds, or earlier."""
        at_s = self._ctx.now() + max(0.0, delay_s)
        if at_s >= self._tick_at_s:
            return
        self._tick_at_s = at_s
        self._tick_number += 1
        self._ctx.post_after(max(0.0, delay_s), Tick(self._tick_number))

    def held_until(self, due_at_ms: int) -> None:
        """Something was held until then."""
        self.look_in(min(TICK_S, (due_at_ms - self._now_ms()) / 1000 + 0.001))

    def tick(self, message: Tick) -> None:
        if message.number != self._tick_number:
            return
        self._tick_at_s = float("inf")
        # What is being released must be stored before anything is read: else it would be released twice.
        if self._is_looking or self._releasing:
            self._look_again = True
            return
        self._is_looking = True
        put_off = self._setups.put_off()
        spilled = [line for line in self._spilled if line[1] not in put_off] if put_off else self._spilled
        wanted = sorted(filter(self._room.wants_more, spilled), key=urgency)
        if wanted:
            self._spilled.difference_update(wanted)
            self._closed.is_holding = True
        self._ctx.start_soon(self._look, wanted)

    async def _look(self, wanted: list[Line]) -> None:
        """Read what is due. What was staged before is stored first, so that nothing is seen as it was.

        `wanted`: the lines of which open deliveries have spilled, and for which there is room.
        """
        now_ms = self._now_ms()
        opens: list[OpenRead] = []
        # What these apps hold waits; it is nobody else's loss.
        without = [*self._setups.put_off(), *self.compiling_apps()]
        try:
            await self._log.barrier()
            rows = await self._reads.held(
                self._partition, due_to_ms=now_ms, limit=RELEASE_ROWS, without=without
            )
            rows, members = await self._read_members(rows)
            tried = {
                row.notification_id: await self._reads.deliveries(row.notification_id)
                for row in rows
                if row.is_fallback
            }
            ended = await self._reads.ended_consents(self._partition, now_ms, limit=100, without=without)
            next_due_ms = await self._reads.next_due(self._partition, without=without)
            for line in wanted:
                opens.append(await self._read_open(line))
        except HubbubError as error:
            left = [OpenRead(line, [], {}, {}, is_more=True) for line in wanted]
            self._ctx.post(Looked(Ready([], {}, {}), [], left, 0, error))
            return
        self._ctx.post(Looked(Ready(rows, members, tried), ended, opens, next_due_ms))

    async def _read_members(
        self, rows: list[NotificationRow]
    ) -> tuple[list[NotificationRow], dict[int, list[NotificationRow]]]:
        """Read all that digests have to tell. Returns what is to be released now, and those."""
        members: dict[int, list[NotificationRow]] = {}
        count = 0
        for number, row in enumerate(rows):
            if row.type != DIGEST:
                continue
            found: list[NotificationRow] = []
            while len(found) % MEMBERS_PAGE == 0:
                after = found[-1].notification_id if found else 0
                page = await self._reads.untold(row.notification_id, after=after, limit=MEMBERS_PAGE)
                found += page
                if not page:
                    break
            members[row.notification_id] = found
            count += len(found)
            if count >= RELEASE_MEMBERS:
                return rows[: number + 1], members
        return rows, members

    async def looked(self, message: Looked) -> None:
        """Release what is due."""
        self._is_looking = False
        self._closed.is_holding = False
        if message.error is not None or not self.has_room():
            self._spilled.update(found.line for found in message.opens)
            self.look_in(RETRY_S)
            return
        self.post_resumed([job for found in message.opens for job in await self.take_up_by_turns(found)])
        ready = message.ready
        if ready.rows:
            self._releasing.update(row.notification_id for row in ready.rows)
            if self._has_users([row.user_id for row in ready.rows], ready, NO_REPLY):
                self.released(ready)
        for user_id, purpose in message.ended:
            await self.end_consent(user_id, purpose)
        if ready.rows:
            self._look_again = True
        elif self._look_again or message.ended:
            self._look_again = False
            self.look_in(BUSY_TICK_S)
        elif message.next_due_ms:
            self.held_until(message.next_due_ms)
        else:
            self.look_in(TICK_S)

    async def _find_old(self) -> None:
        before_ms = self._now_ms() - RETENTION_MS
        try:
            ids = await self._reads.ended_before(self._partition, first_id_at(before_ms), limit=TIDY_ROWS)
            before_seq = await self._reads.ledger_seq_at(self._partition, before_ms)
        except HubbubError:
            ids, before_seq = [], 0
        self._ctx.post(Tidied(ids, before_seq))

    def tidy(self) -> None:
        """Look for what may be forgotten."""
        self._ctx.start_soon(self._find_old)

    def tidied(self, message: Tidied) -> None:
        """Forget what has ended long ago, some at a time."""
        if self.has_room():
            ops: list[Op] = []
            for notification_id in message.ids:
                where: dict[str, str | int] = {"notification_id": notification_id}
                ops += [Remove(table, where) for table in (NotificationRow, DeliveryRow, DeadDelivery)]
            if message.before_seq > 1 and len(message.ids) < TIDY_ROWS:
                ops.append(Trim(self._stream, message.before_seq))
            self._stage_ops(ops)
        is_more = len(message.ids) >= TIDY_ROWS
        self._ctx.post_after(TIDY_PAUSE_S if is_more else TIDY_S, Tidy())

    def released(self, ready: Ready) -> None:
        """Decide about what is due, and let it be found again if it is held anew."""
        if not self.knows_released(ready):
            return
        ready = self.with_texts(ready)
        rest = self.release(ready)
        if rest is not None:
            self.go_on_later(rest)
            return
        self._stage_ops((), Staged(NO_REPLY, None, after=self._is_released))

    def _is_released(self, _at: Appended | None) -> None:
        self._releasing.clear()
        self._look_again = False
        self.look_in(0.0)

    def _not_loaded(self, message: object) -> None:
        if isinstance(message, Ready):
            self._releasing.clear()
            self.look_in(RETRY_S)
        elif isinstance(message, Conclude | Resume):
            self._ctx.post_after(RETRY_S, message)

    async def end_consent(self, user_id: str, purpose: str) -> None:
        """A consent has ended: erase what rested on it."""
        raise NotImplementedError
