"""What a partition keeps: users in memory, and the ledger in which everything is recorded.

Users are read in groups when something is to be decided about them, and forgotten again, the longest unused
first. A user whose last change is not stored yet is never forgotten, so what is read is never older than what
was decided.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
import trio

from actors.entity import EntityContext
from actors.notify.address import partition_address
from actors.notify.channel_desk import ChannelDesk
from actors.notify.lately import Lately
from actors.notify.ports import Renderer, Setup, Setups
from actors.notify.user_state import UserState
from actors.ports import Fanout, Leases, Log, Relay, WallClock
from actors.reply import Reply
from actors.stream_actor import Staged, StreamActor
from protocol.errors import HubbubError, Unavailable
from protocol.notify_found import FoundUser, NotifyReads
from protocol.notify_ids import NotifyIds, first_id_at
from protocol.notify_records import notify_stream
from protocol.notify_types import Decision
from protocol.records import Appended, LogRow

MAX_USERS: Final = 8_192  # in memory of one partition, about 1 KB each
MAX_LOAD: Final = 1_000  # users in one read
RECENT_MS: Final = 30 * 86_400_000  # how far back duplicates are found, the longest dedup_s
HOUR_MS: Final = 3_600_000
GONE_S: Final = 600.0

_encode = msgspec.json.Encoder().encode


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
    suppressed: int = 0  # mail addresses and numbers to which nothing more is sent
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


class NotifyKeeper(StreamActor):
    """Keep users. What is decided is in the classes derived from it."""

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
        # Notifications that were erased or cancelled: what was read of them is old.
        self._gone = Lately(GONE_S)

    # -- life ---------------------------------------------------------------------------------------

    async def activate(self, ctx: EntityContext) -> None:
        """Begin to keep."""
        self._ctx = ctx
        self._ids = NotifyIds(self._partition, await self._reads.largest_id())

    def is_needed(self) -> bool:
        """It has timers and queues of its own to look after."""
        return True

    def may_passivate(self) -> bool:
        return super().may_passivate() and not self._waiting and not self._is_loading

    async def passivate(self) -> None:
        self._leave()

    def ended(self) -> None:
        self._leave()

    def _leave(self) -> None:
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
                with suppress(HubbubError):  # who needs it is told so by _setup_of, and other apps go on
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

    async def handle_again_if_room(self, messages: Sequence[tuple[object, Reply]]) -> None:
        """As `handle_again`; where the store takes nothing by now, whoever waits is told so."""
        try:
            self.check_room_again()
        except HubbubError as refused:
            for message, reply in messages:
                reply.fail(refused)
                self._not_loaded(message)
            return
        await self.handle_again(messages)

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
        """What an app has set up; in memory since its users are, if it can be read. Raises: HubbubError."""
        setup = self._setups.known(app_id)
        if setup is None:
            raise self._setups.failure(app_id) or Unavailable("busy")
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


def _is_own(message: object) -> bool:
    """Tell a message of the actor itself, for which nobody waits."""
    return getattr(message, "is_own", False)
