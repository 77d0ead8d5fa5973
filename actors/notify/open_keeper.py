"""The open deliveries of a partition: those in memory, and how those in the store come there."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final

import msgspec
import trio

from actors.entity import EntityContext
from actors.notify.delivery import Outcome, Outgoing
from actors.notify.job import Job
from actors.notify.keeper import MAX_LOAD, NotifyKeeper, NotifyNeeds
from actors.notify.lately import Lately
from actors.notify.open_room import OpenRoom
from actors.notify.ports import Account
from actors.notify.undelivered import CAME, UNDELIVERED
from protocol.errors import HubbubError
from protocol.notify_found import Line, Standing
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.notify_types import TypeRule

TAKEN_AT_ONCE: Final = 128  # open deliveries that are made from rows in one turn: some 3 ms
PRIORITIES: Final = ("high", "medium", "low")
SEEN_S: Final = 60.0
CLOSED_S: Final = 10.0  # thousands a second
TOLD_S: Final = 10.0

_outgoing = msgspec.json.Decoder(Outgoing).decode


class OpenRead(msgspec.Struct, frozen=True):
    """Open deliveries of one line, and their notifications, as they were stored when they were read."""

    line: Line
    rows: list[DeliveryRow]
    notes: dict[int, NotificationRow]
    standings: dict[int, Standing]
    is_more: bool = False  # than `rows`


class OpenNote(msgspec.Struct):
    """A notification with open deliveries."""

    user_id: str
    rule: TypeRule
    numbers: set[int]
    is_sent: bool = False  # a provider has taken one, or may have; what the centre shows does not count
    is_seen: bool = False  # by the user, in the app or elsewhere
    away: set[int] = set()  # open deliveries that are not in memory


class OpenKeeper(NotifyKeeper):
    """Keep open deliveries."""

    def __init__(self, partition: int, needs: NotifyNeeds) -> None:
        super().__init__(partition, needs)
        self._jobs: dict[tuple[int, int], Job] = {}
        self._notes: dict[int, OpenNote] = {}
        self._deciding: dict[tuple[int, int], Job] = {}  # decided, and on their way into the log
        self._room = OpenRoom()
        self._spilled: set[Line] = set()  # lines with open deliveries that are not in memory
        self._seen = Lately(SEEN_S)  # notifications that were seen: what was read of them is old
        self._closed = Lately(CLOSED_S)  # deliveries that were concluded: the same
        self._told = Lately(TOLD_S)  # (notification_id, number, state) that providers told: the same

    async def activate(self, ctx: EntityContext) -> None:
        """Take up the deliveries that are open."""
        await super().activate(ctx)
        lines = await self._reads.open_lines(self._partition)
        for line in sorted(lines, key=urgency):
            await self.take_up_by_turns(await self._read_open(line))

    def may_passivate(self) -> bool:
        return super().may_passivate() and not any(job.is_begun for job in self._jobs.values())

    def _leave(self) -> None:
        super()._leave()
        jobs = [*self._jobs.values(), *self._deciding.values()]
        for job in jobs:
            job.is_cancelled = True
        self._channels.left(jobs)
        self._jobs = {}
        self._room = OpenRoom()
        self._deciding = {}
        self._notes = {}

    async def _read_open(self, line: Line) -> OpenRead:
        """Read open deliveries of one line, as many as there is room for; changes nothing here."""
        limit = self._room.full_at(line)  # those that are in memory are mostly the first ones
        rows = await self._reads.open_deliveries(self._partition, line, limit=limit)
        return await self._with_notes(line, rows, is_more=len(rows) >= limit)

    async def _with_notes(
        self, line: Line, rows: Sequence[DeliveryRow], *, is_more: bool = False
    ) -> OpenRead:
        """Read what belongs to open deliveries."""
        ids = sorted({row.notification_id for row in rows})
        standings: dict[int, Standing] = {}
        for start in range(0, len(ids), MAX_LOAD):
            standings |= await self._reads.standings(ids[start : start + MAX_LOAD])
        notes = await self._read_notes(ids)
        for app_id in {row.app_id for row in rows}:
            with suppress(HubbubError):  # its deliveries stay in the store until it can be read
                await self._setups.load(app_id)
        return OpenRead(line, list(rows), notes, standings, is_more)

    async def take_up_by_turns(self, found: OpenRead) -> list[Job]:
        """As take_up, and let others have their turns: 20,000 hold the loop for half a second."""
        taken: list[Job] = []
        for start in range(0, len(found.rows), TAKEN_AT_ONCE):
            part = msgspec.structs.replace(found, rows=found.rows[start : start + TAKEN_AT_ONCE])
            taken += self.take_up(part)
            await trio.lowlevel.checkpoint()
        return taken

    def take_up(self, found: OpenRead, *, is_forced: bool = False) -> list[Job]:
        """Bring open deliveries that were read into memory, as far as there is room; offer none yet.

        What was read is a moment old: what has been opened, decided or concluded since is known here.
        """
        taken: list[Job] = []
        is_more = found.is_more
        for row in found.rows:
            key = (row.notification_id, row.number)
            if key in self._jobs or key in self._deciding or key in self._closed:
                continue
            if (
                row.notification_id in self._gone
                or row.notification_id not in found.notes
                or not row.outgoing
            ):
                continue
            has_place = is_forced or self._room.has_place(found.line)
            job = self._job_of(row, found.notes) if has_place else None
            if job is None:
                is_more = True
                continue
            self._open(job, found.standings.get(row.notification_id))
            self._notes[row.notification_id].is_seen |= self.is_seen(found.notes[row.notification_id])
            taken.append(job)
        if is_more:
            self._spilled.add(found.line)
        return taken

    async def _read_notes(self, ids: Collection[int]) -> dict[int, NotificationRow]:
        found: dict[int, NotificationRow] = {}
        wanted = sorted(ids)
        for start in range(0, len(wanted), MAX_LOAD):
            for row in await self._reads.notifications(wanted[start : start + MAX_LOAD]):
                found[row.notification_id] = row
        return found

    def _job_of(self, row: DeliveryRow, notes: dict[int, NotificationRow]) -> Job | None:
        """The delivery of a row; None: it cannot be told what it is."""
        note = notes.get(row.notification_id)
        setup = self._setups.known(row.app_id)
        if note is None or setup is None or not row.outgoing:
            return None
        rule = setup.type_rule(note.type) or TypeRule(name=note.type)
        job = Job(
            self,
            _outgoing(row.outgoing),
            row.number,
            rule,
            created_at_ms=row.created_at_ms,
            due_at_ms=row.next_at_ms,
            deadline_at_ms=note.deadline_at_ms,
            attempt=row.attempt,
            doubles=row.doubles,
        )
        job.provider_id = row.provider_id
        if row.failed_over:
            job.account_index = job.failed_over = row.failed_over
            job.undelivered_by = tuple(filter(None, row.undelivered_by.split("/")))
        job.is_begun = row.state == "sending"
        if job.is_begun and row.told_attempt == row.attempt:
            job.told_code = row.code
        return job

    def _open(self, job: Job, standing: Standing | None = None) -> None:
        """Keep an open delivery in memory. `standing`: how its notification's stand in the store."""
        self._jobs[job.notification_id, job.number] = job
        self._room.enter(job)
        note = self._notes.get(job.notification_id)
        if note is None:
            note = self._notes[job.notification_id] = OpenNote(job.user_id, job.rule, set())
        note.numbers.add(job.number)
        if standing is not None:
            note.is_sent = note.is_sent or self._has_come(job.notification_id, standing)
            note.away.update(self._not_here(job.notification_id, standing.open_numbers))
        note.away.discard(job.number)

    def _has_come(self, notification_id: int, standing: Standing) -> bool:
        """Tell whether a provider has taken one, or may have: as it was read, and as was told since."""
        for number in standing.reached:
            key = (notification_id, number)
            if key in self._jobs or key in self._deciding:  # on its way once more
                continue
            if not self._was_told(key, UNDELIVERED) or self._was_told(key, CAME):
                return True
        return any(self._was_told((notification_id, number), CAME) for number in standing.open_numbers)

    def _was_told(self, key: tuple[int, int], states: frozenset[str]) -> bool:
        """Tell whether a provider has told one of these states of a delivery lately."""
        return any((*key, state) in self._told for state in states)

    def is_seen(self, row: NotificationRow) -> bool:
        """Tell whether its user has seen it, since it was read from the store too."""
        return row.seen_at_ms > 0 or row.notification_id in self._seen

    def _not_here(self, notification_id: int, numbers: Sequence[int]) -> list[int]:
        """Which of the deliveries that were open when they were read wait in the store alone."""
        keys = [(notification_id, number) for number in numbers]
        known = (self._jobs, self._deciding, self._closed)
        return [key[1] for key in keys if not any(key in those for those in known)]

    def _close(self, job: Job) -> bool:
        """Let go of a concluded delivery; True if it was the last one of its notification."""
        job.is_cancelled = True
        if job.slot == "reserved":
            self._channels.left((job,))
        key = (job.notification_id, job.number)
        if self._jobs.pop(key, None) is not None:
            self._room.leave(job)
        self._closed.add(key, self._ctx.now())
        note = self._notes.get(job.notification_id)
        if note is None:
            return True
        note.numbers.discard(job.number)
        if note.numbers:
            return False
        del self._notes[job.notification_id]
        return not note.away

    def begin(self, jobs: list[Job]) -> None:
        """Of Owner: store that attempts begin."""
        raise NotImplementedError

    def conclude(self, job: Job, account: Account | None, outcome: Outcome) -> None:
        """Of Owner: store what became of an attempt."""
        raise NotImplementedError


def urgency(line: Line) -> int:
    """By which lines are sorted, the most urgent first."""
    return PRIORITIES.index(line[0])
