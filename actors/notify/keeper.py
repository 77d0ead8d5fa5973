"""What a partition keeps: users in memory, open deliveries, and the ledger in which everything is recorded.

Users are read in groups when something is to be decided about them, and forgotten again, the longest unused
first. A user whose last change is not stored yet is never forgotten, so what is read is never older than what
was decided.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec
import trio

from actors.entity import EntityContext
from actors.notify.address import partition_address
from actors.notify.channel_desk import ChannelDesk
from actors.notify.delivery import Outcome, Outgoing
from actors.notify.job import Job
from actors.notify.lately import Lately
from actors.notify.open_room import OpenRoom
from actors.notify.ports import Account, Renderer, Setup, Setups
from actors.notify.user_state import UserState
from actors.ports import Fanout, Leases, Log, Relay, WallClock
from actors.reply import Reply
from actors.stream_actor import Staged, StreamActor
from protocol.errors import HubbubError, Unavailable
from protocol.notify_found import FoundUser, Line, NotifyReads, Standing
from protocol.notify_ids import NotifyIds, first_id_at
from protocol.notify_records import DeliveryRow, NotificationRow, notify_stream
from protocol.notify_types import Decision, TypeRule
from protocol.records import Appended, LogRow

MAX_USERS: Final = 8_192  # in memory of one partition, about 1 KB each
MAX_LOAD: Final = 1_000  # users in one read
TAKEN_AT_ONCE: Final = 128  # open deliveries that are made from rows in one turn: some 3 ms
PRIORITIES: Final = ("high", "medium", "low")
RECENT_MS: Final = 30 * 86_400_000  # how far back duplicates are found, the longest dedup_s
HOUR_MS: Final = 3_600_000
GONE_S: Final = 600.0
CLOSED_S: Final = 10.0  # thousands a second

_encode = msgspec.json.Encoder().encode
_outgoing = msgspec.json.Decoder(Outgoing).decode


class LedgerBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a ledger row: what was decided, and of which request this is the answer."""

    d: list[Decision]
    digest: str = ""


ledger_body = msgspec.json.Decoder(LedgerBody).decode


class NotifyStats(msgspec.Struct, kw_only=True):
    """Counters of a node, for the metrics."""

    notified: int = 0
    repeated: int = 0
    duplicates: int = 0
    dropped: int = 0
    held: int = 0
    merged: int = 0
    sent: int = 0
    attempts: int = 0
    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    retried: int = 0
    doubled: int = 0
    dead: int = 0
    late: int = 0
    skipped: int = 0
    cancelled: int = 0
    erased: int = 0
    loaded_users: int = 0
    notified_by_app: dict[str, int] = msgspec.field(default_factory=dict)

    def count_notified(self, app_id: str) -> None:
        """One user's notification is being decided."""
        self.notified += 1
        self.notified_by_app[app_id] = self.notified_by_app.get(app_id, 0) + 1


class NotifyNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """What the partitions of a node share. `restarted`: a partition has crashed and is back."""

    log: Log
    reads: NotifyReads
    leases: Leases
    relay: Relay
    fanout: Fanout
    now_ms: WallClock
    setups: Setups
    renderer: Renderer
    channels: ChannelDesk
    stats: NotifyStats
    restarted: Callable[[int], None]
    turns: trio.Lock = msgspec.field(default_factory=trio.Lock)  # see turns.py


class Loaded(msgspec.Struct, frozen=True):
    """Users were read: those asked for, and those found; or why not."""

    user_ids: list[str]
    found: list[FoundUser]
    error: HubbubError | None = None
    at_s: float = 0.0  # trio.current_time() before they were read


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
    away: set[int] = set()  # open deliveries that are not in memory


class NotifyKeeper(StreamActor):
    """Keep users and open deliveries. What is decided is in the classes derived from it."""

    def __init__(self, partition: int, needs: NotifyNeeds) -> None:
        super().__init__(
            partition_address(partition),
            notify_stream(partition),
            log=needs.log,
            leases=needs.leases,
            relay=needs.relay,
            now_ms=needs.now_ms,
        )
        self._partition = partition
        self._reads = needs.reads
        self._fanout = needs.fanout
        self._setups = needs.setups
        self._renderer = needs.renderer
        self._channels = needs.channels
        self._stats = needs.stats
        self._restarted = needs.restarted
        self._turns = needs.turns
        self._ids: NotifyIds
        self._users: OrderedDict[str, UserState] = OrderedDict()
        self._waiting: list[tuple[object, Reply, frozenset[str]]] = []  # messages, and whom they wait for
        self._wanted: dict[str, None] = {}
        self._absent: set[str] = set()  # users who do not exist, as long as one reading is taken in
        self._is_loading = False
        self._jobs: dict[tuple[int, int], Job] = {}
        self._notes: dict[int, OpenNote] = {}
        self._deciding: dict[tuple[int, int], Job] = {}  # decided, and on their way into the log
        self._room = OpenRoom()
        self._spilled: set[Line] = set()  # lines with open deliveries that are not in memory
        self._gone = Lately(
            GONE_S
        )  # notifications that were erased or cancelled: what was read of them is old
        self._closed = Lately(CLOSED_S)  # deliveries that were concluded: the same

    # -- life ---------------------------------------------------------------------------------------

    async def activate(self, ctx: EntityContext) -> None:
        """Take up the deliveries that are open."""
        self._ctx = ctx
        self._ids = NotifyIds(self._partition, await self._reads.largest_id())
        lines = await self._reads.open_lines(self._partition)
        for line in sorted(lines, key=urgency):
            await self.take_up_by_turns(await self._read_open(line, self._room.most_of_line))

    async def _read_open(self, line: Line, limit: int) -> OpenRead:
        """Read open deliveries of one line; changes nothing here."""
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
        job.is_begun = row.state == "sending"
        return job

    def is_needed(self) -> bool:
        """It has timers and queues of its own to look after."""
        return True

    def may_passivate(self) -> bool:
        return (
            super().may_passivate()
            and not self._waiting
            and not self._is_loading
            and not any(job.is_begun for job in self._jobs.values())
        )

    async def passivate(self) -> None:
        self._leave()

    def ended(self) -> None:
        self._leave()

    def _leave(self) -> None:
        jobs = [*self._jobs.values(), *self._deciding.values()]
        for job in jobs:
            job.is_cancelled = True
        self._channels.left(jobs)
        self._jobs = {}
        self._room = OpenRoom()
        self._deciding = {}
        self._notes = {}
        self._users.clear()

    # -- users --------------------------------------------------------------------------------------

    def _has_users(self, user_ids: Sequence[str], message: object, reply: Reply) -> bool:
        """Tell whether these users are in memory, or are known not to exist; else they are read first.

        Then the message comes again, through `handle`.
        """
        users, absent = self._users, self._absent
        missing: list[str] | None = None
        for user_id in user_ids:
            user = users.get(user_id)
            if user is None:
                if user_id in absent:
                    continue
            elif not user.is_doubtful or not user.is_settled:
                users.move_to_end(user_id)
                continue
            else:
                del users[user_id]
            if missing is None:
                missing = []
            missing.append(user_id)
        if missing is None:
            return True
        self._waiting.append((message, reply, frozenset(missing)))
        self._wanted.update(dict.fromkeys(missing))
        if not self._is_loading:
            self._is_loading = True
            self._ctx.start_soon(self._load)
        return False

    async def _load(self) -> None:
        """Read the users that are wanted, and post them."""
        user_ids = list(self._wanted)[:MAX_LOAD]
        now_ms, at_s = self._now_ms(), self._ctx.now()
        try:
            await self._log.barrier()
            found = await self._reads.users(
                user_ids,
                since_id=first_id_at(now_ms - RECENT_MS),
                counted_since_ms=now_ms - HOUR_MS,
            )
            for app_id in {user.app_id for user in found}:
                await self._setups.load(app_id)
        except HubbubError as error:
            self._ctx.post(Loaded(user_ids, [], error))
            return
        self._ctx.post(Loaded(user_ids, found, at_s=at_s))

    async def _take_users(self, loaded: Loaded) -> None:
        """Take in users who were read, and go on with what waited for them."""
        self._is_loading = False
        for user_id in loaded.user_ids:
            self._wanted.pop(user_id, None)
        for user in loaded.found:
            if user.user_id not in self._users:
                self._users[user.user_id] = UserState(user, loaded.at_s)
        self._stats.loaded_users += len(loaded.found)
        users = self._users
        self._absent = {user_id for user_id in loaded.user_ids if user_id not in users}
        waiting, self._waiting = self._waiting, []
        asked = set(loaded.user_ids)
        error = loaded.error
        if error is None:
            try:
                self.check_room_again()
            except HubbubError as refused:
                error = refused
        again: list[tuple[object, Reply]] = []
        for message, reply, missing in waiting:
            if not missing <= asked:
                self._waiting.append((message, reply, missing - asked))
                self._wanted.update(dict.fromkeys(missing - asked))
            elif error is not None:
                reply.fail(error)
                self._not_loaded(message)
            else:
                again.append((message, reply))
        try:
            await self.handle_again(again)
        finally:
            self._absent = set()
        self._forget_some()
        if self._wanted and not self._is_loading:
            self._is_loading = True
            self._ctx.start_soon(self._load)

    async def handle_again(self, messages: Sequence[tuple[object, Reply]]) -> None:
        """Take messages that waited for something, if somebody still waits for their answer."""
        for message, reply in messages:
            if not reply.is_done or _is_own(message):
                try:
                    await self.handle(message, reply)
                except HubbubError as refused:
                    reply.fail(refused)

    def has_room(self) -> bool:
        """Tell whether the store takes anything now: a refused append would end the incarnation."""
        try:
            self._log.check_room()
        except HubbubError:
            return False
        return True

    def check_room_again(self) -> None:
        """Refuse, before anything is changed, what came a while ago: the store may have filled up since.

        Raises: Overloaded, StorageUnavailable.
        """
        if not self._batch.staged:  # else it was asked for this batch
            self._log.check_room()

    def _not_loaded(self, message: object) -> None:
        """A message of the actor's own could not be handled, as the store does not answer."""

    def _forget_some(self) -> None:
        users = self._users
        while len(users) > MAX_USERS:
            user = next(iter(users.values()))
            if not user.is_settled:
                return
            del users[user.user_id]

    def _setup_of(self, app_id: str) -> Setup:
        """What an app has set up; in memory since its users are. Raises: Unavailable."""
        setup = self._setups.known(app_id)
        if setup is None:
            raise Unavailable("busy")
        return setup

    # -- the ledger ---------------------------------------------------------------------------------

    def _record(
        self,
        kind: str,
        user_id: str,
        notification_id: int,
        decisions: list[Decision],
        staged: Staged,
        *,
        client_id: str | None = None,
        digest: str = "",
    ) -> int:
        """Stage a row of the ledger; returns its index in the append."""
        user = self._users.get(user_id)
        if user is not None:
            user.batch = self._batch
        return self._stage_row(
            LogRow(
                stream=self._stream,
                kind=kind,
                at_ms=self._at_ms(),
                user_id=user_id,
                body=_encode(LedgerBody(decisions, digest)).decode(),
                client_id=client_id,
                thread=notification_id,
            ),
            staged,
        )

    def placed(self, staged: Staged, at: Appended) -> None:
        """Nothing is published by place: the ledger is read by those who ask."""

    # -- open deliveries ----------------------------------------------------------------------------

    def _open(self, job: Job, standing: Standing | None = None) -> None:
        """Keep an open delivery in memory. `standing`: how its notification's stand in the store."""
        self._jobs[job.notification_id, job.number] = job
        self._room.enter(job)
        note = self._notes.get(job.notification_id)
        if note is None:
            note = self._notes[job.notification_id] = OpenNote(job.user_id, job.rule, set())
        note.numbers.add(job.number)
        if standing is not None:
            note.is_sent = note.is_sent or standing.is_reached
            note.away.update(self._not_here(job.notification_id, standing.open_numbers))
        note.away.discard(job.number)

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


def _is_own(message: object) -> bool:
    """Tell a message of the actor itself, for which nobody waits."""
    return getattr(message, "is_own", False)
