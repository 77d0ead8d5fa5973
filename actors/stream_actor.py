"""What every actor with a stream of its own shares: stage, append once per batch, act after the commit.

The order of things is the promise: decide in memory, append, and only when the append is committed answer
and fan out, in the order of the commits. Several appends may be in flight. When one fails, those that wait
get its error and the incarnation ends, because its memory is ahead of the log.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from secrets import token_hex
from typing import Final, cast

import msgspec
import trio

from actors.address import Address
from actors.entity import Entity, EntityContext, StopEntity
from actors.messages import ActorTell, Ask, Create, FanOut, OpenBetween, Told, UserTell, Wake, encode_tell
from actors.notify.messages import NotifyActorMessage
from actors.ports import Leases, Log, Outcome, Relay, WallClock
from actors.reply import NO_REPLY, Reply
from protocol import commands, feed_commands
from protocol.errors import Fenced, HubbubError, Unavailable
from protocol.events import ConversationEvent, InboxEvent
from protocol.records import Advance, Append, Appended, Insert, LogRow, Op, Put, Tell
from protocol.stored_events import place

MAX_APPENDS_IN_FLIGHT: Final = 8  # beyond this the mailbox fills, and its senders are told Busy

_tell_numbers = count()
# Commands that change nothing that is stored.
_NOT_STORED: Final = (
    commands.SetTyping,
    commands.ListMembers,
    commands.ListInvites,
    commands.ListContacts,
    feed_commands.ReadFeed,
    feed_commands.ExplainPost,
    feed_commands.ListInterests,
)

Answer = Callable[[Appended | None], object]
After = Callable[[Appended | None], None]


class Staged:
    """One decided change. `event` is None for a change that is no event of the stream.

    Changes that come by the thousand have subclasses instead of closures: a closure that knows the change it
    belongs to is a reference cycle, and leaves work for Python's cycle collector.
    """

    __slots__ = ("_after", "_answer", "event", "reply", "row_index", "user_id")

    def __init__(
        self,
        reply: Reply,
        answer: Answer | None,
        *,
        user_id: str = "",
        event: ConversationEvent | InboxEvent | None = None,
        row_index: int = -1,
        after: After | None = None,
    ) -> None:
        self.reply = reply
        self._answer = answer
        self.user_id = user_id
        self.event = event
        self.row_index = row_index
        self._after = after

    def placed_event(self, conversation_id: str, at: Appended) -> ConversationEvent:
        """The event of a conversation, where the store has put it."""
        return place(cast(ConversationEvent, self.event), conversation_id, self.user_id, at)

    def note(self, at: Appended | None) -> None:
        """Act on the commit, before the event is published. `at` is None for what is no event."""
        if self._after is not None:
            self._after(at)

    def resolve(self, at: Appended | None) -> None:
        """Answer, after the event was published."""
        if self._answer is not None:
            self.reply.resolve(self._answer(at))


class Batch:
    """What one append will hold, and what is to be done after it."""

    __slots__ = ("is_concluded", "ops", "rows", "senders", "staged", "tells")

    def __init__(self) -> None:
        self.is_concluded = False  # its outcome is known to the actor
        self.rows: list[LogRow] = []
        self.ops: list[Op] = []
        self.staged: list[Staged] = []
        self.tells: list[Tell] = []
        self.senders: dict[str, list[int]] = {}  # user_id -> row indexes of that user's messages

    def forget(self) -> None:
        """Hold nothing any more: whoever keeps a batch for long asks only whether it is concluded."""
        del self.rows, self.ops, self.staged, self.senders, self.tells


class _Decided(msgspec.Struct, frozen=True):
    batch: Batch
    outcome: Outcome


class StreamActor(Entity):
    """Own one stream. Subclasses take messages in `handle` and publish in `placed`."""

    def __init__(
        self,
        address: Address,
        stream: str,
        *,
        log: Log,
        leases: Leases,
        relay: Relay,
        now_ms: WallClock,
    ) -> None:
        self._shard = address.shard
        self._stream = stream
        self._log = log
        self._leases = leases
        self._relay = relay
        self._now_ms = now_ms
        self._ctx: EntityContext
        self._batch = Batch()
        self._in_flight = 0
        self._decision: trio.Event | None = None  # set at the next commit or refusal; made by who waits
        self._failure: HubbubError | None = None  # of an append: memory is ahead of the log
        self._last_at_ms = 0

    async def handle(self, message: object, reply: Reply) -> None:
        """Decide on one message: raise a HubbubError before anything is changed, or stage."""
        raise NotImplementedError

    def placed(self, staged: Staged, at: Appended) -> None:
        """Take note of a committed event and fan it out."""
        raise NotImplementedError

    def watermark_raised(self, user_id: str, at: Appended) -> None:
        """A message of this user was committed."""

    def woken(self) -> None:
        """Somebody has seen to it that this actor is awake."""

    def handle_nowait(self, message: object, reply: Reply) -> bool:
        """Do the same without awaiting, or return False before anything is changed."""
        return False

    async def receive(self, message: object, reply: Reply) -> None:
        if isinstance(message, _Decided):
            self._conclude(message.batch, message.outcome)
        elif isinstance(message, Wake):
            self.woken()
        else:
            self._check_room(message)
            await self.handle(message, reply)

    def receive_nowait(self, message: object, reply: Reply) -> bool:
        if isinstance(message, _Decided):
            if isinstance(message.outcome, HubbubError):
                return False  # the incarnation ends
            self._conclude(message.batch, message.outcome)
            return True
        self._check_room(message)
        return self.handle_nowait(message, reply)

    def _check_room(self, message: object) -> None:
        """Refuse what the store would not take, before anything is decided; a refused append would end the
        incarnation."""
        if not self._batch.staged and _needs_store(message):  # else it was asked for this batch
            self._log.check_room()

    async def flush(self) -> None:
        """Submit the batch as one append."""
        while not self.flush_nowait():
            await self._next_decision()

    def flush_nowait(self) -> bool:
        """Do so, unless there are as many appends in flight as there may be."""
        batch = self._batch
        if not batch.staged and not batch.ops:
            return True
        if self._failure is not None:  # what was decided since then rests on changes that were not stored
            raise StopEntity(self._failure)
        if self._in_flight >= MAX_APPENDS_IN_FLIGHT:
            return False
        self._batch = Batch()
        for user_id, row_indexes in batch.senders.items():
            batch.ops.append(
                Advance(
                    conversation_id=self._stream.removeprefix("c:"),
                    user_id=user_id,
                    row_index=row_indexes[-1],
                )
            )
        append = Append(
            shard=self._shard,
            epoch=self._leases.epoch_of(self._shard),
            rows=tuple(batch.rows),
            ops=tuple(_without_overwritten(batch.ops)),
            patient=self.is_patient(batch),
        )
        self._log.append_nowait(append, lambda outcome: self._decided(batch, outcome))
        self._in_flight += 1
        return True

    def is_patient(self, batch: Batch) -> bool:
        """Tell whether nobody waits for a batch, which may then share its commit with later ones."""
        return False

    def may_passivate(self) -> bool:
        return self._in_flight == 0

    async def settle(self) -> None:
        """Wait for the appends in flight, and be woken again at once.

        An append behind a failed one may have been committed, and nobody has fanned it out: the next
        incarnation announces a resync.
        """
        while self._in_flight:
            await self._next_decision()
        with suppress(Unavailable):  # draining: the next node's sessions start from their cursors
            self._ctx.router.tell(self._ctx.address, Wake())

    # -- for subclasses -----------------------------------------------------------------------------

    def _at_ms(self) -> int:
        """Wall time that never runs backwards within the stream: for its rows.

        What is decided, and what waits, goes by `_now_ms`: a clock that was ahead stays ahead here.
        """
        self._last_at_ms = max(self._last_at_ms, self._now_ms())
        return self._last_at_ms

    def _stage_row(self, row: LogRow, staged: Staged) -> int:
        """Stage an event; returns its row index, which ties further operations to it."""
        staged.row_index = len(self._batch.rows)
        self._batch.rows.append(row)
        self._batch.staged.append(staged)
        return staged.row_index

    def _stage_ops(self, ops: Sequence[Op], staged: Staged | None = None) -> None:
        """Stage what is stored with the batch, and what to do after it."""
        self._batch.ops.extend(ops)
        if staged is not None:
            self._batch.staged.append(staged)

    def _answer_in_order(self, reply: Reply, value: object) -> None:
        """Answer that nothing needs to change, but not before what was decided earlier is stored.

        A retry of a change that is still in flight would otherwise be acked ahead of the store.
        """
        self._answer_when_stored(reply, lambda _at: value)

    def _answer_when_stored(self, reply: Reply, answer: Answer) -> None:
        """Answer when all that was decided before is stored; `answer` is asked then."""
        if self._in_flight or self._batch.staged or self._batch.ops:
            self._stage_ops((), Staged(reply, answer))
        else:
            reply.resolve(answer(None))

    def _stage_tell(self, target_id: str, tell: UserTell) -> None:
        """Stage a message to a user's actor, which arrives even if this node dies right after the commit."""
        self._stage_tell_to(Address("user", target_id), tell)

    def _stage_tell_to(self, address: Address, tell: ActorTell) -> None:
        """Stage a message to any actor that takes it."""
        at_ms = self._at_ms()
        row = Tell(
            # Rising in the order of staging, so that a scan delivers them in that order.
            tell_id=f"{at_ms:012x}{next(_tell_numbers) & 0xFFFFFF:06x}{token_hex(6)}",
            shard=address.shard,
            kind=address.kind,
            target_id=address.id,
            body=encode_tell(tell),
            at_ms=at_ms,
        )
        self._batch.ops.append(Insert(row))
        self._batch.tells.append(row)

    # -- commits ------------------------------------------------------------------------------------

    async def _next_decision(self) -> None:
        if self._decision is None:
            self._decision = trio.Event()
        await self._decision.wait()

    def _decided(self, batch: Batch, outcome: Outcome) -> None:
        """Bring an outcome back into the actor; called by the store in the Trio thread."""
        self._in_flight -= 1
        if isinstance(outcome, HubbubError):
            self._failure = self._failure or outcome
            if isinstance(outcome, Fenced):
                self._leases.fenced(self._shard)
        if self._decision is not None:
            self._decision.set()
            self._decision = None
        self._ctx.post(_Decided(batch, outcome))

    def _conclude(self, batch: Batch, outcome: Outcome) -> None:
        batch.is_concluded = True
        if isinstance(outcome, HubbubError):
            for staged in batch.staged:
                staged.reply.fail(outcome)
            raise StopEntity(outcome)
        for user_id, row_indexes in batch.senders.items():
            self._raise_watermark(user_id, [outcome[index] for index in row_indexes])
        for staged in batch.staged:
            at = outcome[staged.row_index] if staged.row_index >= 0 else None
            staged.note(at)
            if at is not None and not at.is_duplicate:
                self.placed(staged, at)
            staged.resolve(at)
        if batch.tells:
            self._relay.hint(batch.tells)
        batch.forget()

    def _raise_watermark(self, user_id: str, places: Sequence[Appended]) -> None:
        """Sending reads up to the message. The store has followed the last row, if that was no duplicate."""
        new = [at for at in places if not at.is_duplicate]
        if not new:
            return
        self.watermark_raised(user_id, new[-1])
        if places[-1].is_duplicate:  # an old message was sent again behind a new one
            advance = Advance(
                conversation_id=self._stream.removeprefix("c:"),
                user_id=user_id,
                delivered_seq=new[-1].seq,
                read_seq=new[-1].seq,
                read_count=new[-1].message_count,
            )
            self._batch.ops.append(advance)


def _needs_store(message: object) -> bool:
    """Tell whether somebody waits for a change to be stored.

    Presence, typing, ticks and lists go on while the store takes nothing.
    """
    if isinstance(message, Ask):
        return not isinstance(message.command, _NOT_STORED)
    return isinstance(message, OpenBetween | Create | Told | FanOut | NotifyActorMessage)


def _without_overwritten(ops: list[Op]) -> list[Op]:
    """Leave out rows that a later operation of the same batch writes whole again.

    A burst of reactions to one message would else store the list of all of them once for each.
    """
    last: dict[tuple[type, tuple[object, ...]], int] = {}
    for index, op in enumerate(ops):
        if isinstance(op, Put) and op.row_index < 0:
            last[type(op.row), tuple(getattr(op.row, name) for name in op.row.key)] = index
    if len(last) == len(ops) or not last:
        return ops
    kept = set(last.values())
    return [
        op for index, op in enumerate(ops) if index in kept or not (isinstance(op, Put) and op.row_index < 0)
    ]


__all__ = ["MAX_APPENDS_IN_FLIGHT", "NO_REPLY", "Batch", "Staged", "StreamActor"]
