"""Where actors live: the `EntityHost` activates, feeds, restarts and passivates the entities of one kind.

Design note. Each active entity has one task and a `Cell` with its mailbox. The cell outlives incarnations:
a message that arrives during a passivation or a restart waits in the same mailbox and meets the next one.
A cell is forgotten only when its mailbox is empty, in the same step of the event loop that looked.

After a crash:
- Messages of the batch in hand were never flushed, so nothing of them is stored. They go to the next
  incarnation in order, each in a batch of its own, so that a second crash has one culprit.
- The message in whose `receive` it happened has one crash on its account. If `flush` failed, all of the batch
  have. Two crashes, and a message becomes a dead letter; its sender is told.
- Messages that were flushed may or may not be stored by the time of the crash; their senders are told
  "restarted" and send again, which is safe because sends are idempotent.
- What the entity had posted to itself is forgotten: it reports on work of the incarnation that is gone.
- Messages still in the mailbox notice nothing.
"""

import inspect
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec
import structlog
import trio

from actors.address import Address
from actors.cell import CRASHES_PER_MESSAGE, FLUSH, Cell
from actors.crash_history import CrashHistory, CrashPolicy
from actors.entity import Entity, EntityContext, StopEntity
from actors.failures import refusal_in, sort_failure
from actors.mailbox import MAILBOX_CAPACITY, Envelope, Mailbox, MailboxFull
from actors.reply import NO_REPLY, POSTED, Reply
from actors.rounds import Rounds, Turn
from actors.router import BUSY_RETRY_S, Router
from actors.supervisor import ChildSpec, ChildStatus
from actors.timers import Timers
from protocol.errors import HubbubError, Unavailable

IDLE_S: Final = 120.0  # Pekko's default for passivation
MAX_ACTIVE: Final = 20_000  # about 4 KB of runtime each before their own state
_RESTARTED_RETRY_S: Final = 0.5  # an activation reads a snapshot and a short tail
_DRAINING_RETRY_S: Final = 1.0
_ACTIVATION_RETRY_S: Final = 0.1
_ASIDE_TIMEOUT_S: Final = 5.0  # for dead letters and settling; the mailbox waits meanwhile
_POLL_S: Final = 0.1  # how often an entity that is not ready to leave is asked again in a drain
_CRASHED_RETRY_S: Final = 60.0  # the message will crash again; an operator has to look
_SWEEP_S: Final = 5.0  # how late an idle entity may be noticed
_DRAIN_SHARE: Final = 0.8  # of a shutdown's time; the rest is for those that are cut off
_LRU_ASKS: Final = 4  # per activation: more than one, so that an excess of those that could not leave shrinks
_MAX_HISTORIES: Final = 10_000  # crashed addresses remembered; the oldest is forgotten first

DeadLetterSink = Callable[[Address, object, BaseException, int], Awaitable[None] | None]
"""Keep a message that crashed its actor: (address, message, error, crashes)."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class HostStats(msgspec.Struct, frozen=True, kw_only=True):
    """What one host has done since it was made, and what it holds now."""

    kind: str
    active: int
    mailbox_depth: int  # ordinary messages waiting, over all mailboxes
    mailbox_peak: int  # the deepest single mailbox that was ever drained
    quarantined: int
    activations: int
    passivations: int
    crashes: int
    restarts: int  # incarnations that followed a crash or a stop
    stops: int  # StopEntity: fenced, overloaded
    dead_letters: int
    refused: int  # messages refused: busy, quarantined, draining


class EntityHost:
    """Run the entities of one kind: `run` under a supervisor, fed by a router, until `drain`."""

    def __init__(
        self,
        kind: str,
        factory: Callable[[Address], Entity],
        *,
        router: Router,
        on_dead_letter: DeadLetterSink,
        idle_s: float = IDLE_S,
        max_active: int = MAX_ACTIVE,
        mailbox_capacity: int = MAILBOX_CAPACITY,
        crash_policy: CrashPolicy | None = None,
        wakes_after_crash: bool = False,
        turn: Turn | None = None,
    ) -> None:
        """Prepare a host; nothing runs before `run`. `turn`: the node's, at whose end entities are flushed.

        `max_active` is where the least recently used are asked to leave; at twice that number, when none of
        them can, new activations are refused. With `wakes_after_crash` an entity is activated again at once,
        to announce its resync, rather than by its next message.
        """
        self.kind = kind
        self._factory = factory
        self._router = router
        self._on_dead_letter = on_dead_letter
        self._idle_s = idle_s
        self._max_active = max_active
        self._mailbox_capacity = mailbox_capacity
        self._crash_policy = crash_policy or CrashPolicy()
        self._wakes_after_crash = wakes_after_crash
        self._cells: OrderedDict[Address, Cell] = OrderedDict()  # least recently used first
        self._histories: dict[Address, CrashHistory] = {}
        self._nursery: trio.Nursery | None = None  # set while it takes messages
        self._turn = turn or Turn()
        self._timers = Timers(self._turn)
        self._dirty = Rounds(self._flush_at_once, self._turn)
        self._flushing = trio.CancelScope()  # ends the flushing of a run
        self._is_over = trio.Event()
        self._asked_count = 0  # cells that were asked to leave and have not answered yet
        self._mailbox_peak = 0
        self._activations = 0
        self._passivations = 0
        self._crashes = 0
        self._restarts = 0
        self._stops = 0
        self._dead_letters = 0
        self._refused = 0

    # Taking messages: synchronous, on the hot path.

    def deliver(
        self, address: Address, message: object, reply: Reply, *, may_be_at_once: bool = False
    ) -> None:
        """Put a message in the mailbox of `address`, activating the entity first where needed.

        `may_be_at_once`: an entity that waits for work may handle it in this very turn. Not for what one
        actor sends another: a chain of them would be one long turn.

        Raises: Unavailable("busy"), when the mailbox or the host is full; Unavailable("quarantined");
        Unavailable("draining"), also before `run`.
        """
        if self._nursery is None:
            self._refused += 1
            raise Unavailable("draining", retry_after_s=_DRAINING_RETRY_S)
        cell = self._cells.get(address)
        if cell is None:
            cell = self._admit(address, self._nursery)
        elif may_be_at_once and cell.takes_at_once() and self._take_at_once(cell, message, reply):
            return
        try:
            cell.mailbox.put_nowait(message, reply)
        except MailboxFull:
            self._refused += 1
            raise Unavailable("busy", retry_after_s=BUSY_RETRY_S) from None

    def deliver_if_active(self, address: Address, message: object) -> bool:
        """Put a message in the mailbox of an entity that is awake and has room; return whether it was."""
        cell = self._cells.get(address)
        if cell is None or self._nursery is None:
            return False
        try:
            cell.mailbox.put_nowait(message, NO_REPLY)
        except MailboxFull:
            return False
        return True

    def _take_at_once(self, cell: Cell, message: object, reply: Reply) -> bool:
        """Let an entity that waits handle a message now; return whether it did. What it raises is settled."""
        entity = cell.entity
        assert entity is not None
        cell.is_in_turn = True
        try:
            if not entity.receive_nowait(message, reply):
                return False
        except Exception as error:
            refusal = refusal_in(error)
            if refusal is not None:
                reply.fail(refusal)
                return True
            cell.culprit = len(cell.batch)
            cell.failure = error
            cell.mailbox.wake()  # the cell's own task crashes of it
        finally:
            cell.is_in_turn = False
        cell.batch.append((message, reply))
        if not cell.is_dirty:
            cell.is_dirty = True
            self._dirty.add(cell)
        return True

    def _take_posted_at_once(self, cell: Cell, message: object) -> bool:
        return cell.takes_at_once() and self._take_at_once(cell, message, POSTED)

    def _flush_at_once(self, cell: Cell) -> None:
        """Flush what a cell has taken in senders' turns, unless its own task is awake and does so."""
        if not cell.is_dirty or not cell.mailbox.is_waited_for or cell.entity is None:
            return
        try:
            if not cell.entity.flush_nowait():
                cell.mailbox.wake()
                return
        except Exception as error:
            cell.culprit = FLUSH
            cell.failure = error
            cell.mailbox.wake()
            return
        cell.settle_batch()
        self._note_stays(cell)

    def is_active(self, address: Address) -> bool:
        """Tell whether the entity is awake (or waking, or leaving)."""
        return address in self._cells

    def stats(self) -> HostStats:
        """Count what happened so far and what waits now. Walks all mailboxes: for a scrape only."""
        now = trio.current_time()
        return HostStats(
            kind=self.kind,
            active=len(self._cells),
            mailbox_depth=sum(len(cell.mailbox) + len(cell.retries) for cell in self._cells.values()),
            mailbox_peak=self._mailbox_peak,
            quarantined=sum(history.quarantine_left_s(now) > 0 for history in self._histories.values()),
            activations=self._activations,
            passivations=self._passivations,
            crashes=self._crashes,
            restarts=self._restarts,
            stops=self._stops,
            dead_letters=self._dead_letters,
            refused=self._refused,
        )

    # Life of the host.

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take messages and run entities until `drain` is through, or until cancelled.

        Cancelled, it fails what waits with "draining" and lets no entity put down its snapshot.
        """
        self._is_over = is_over = trio.Event()
        self._timers = timers = Timers(self._turn)
        self._flushing = trio.CancelScope()
        nursery = None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(timers.run)
                nursery.start_soon(self._flush_rounds)
                task_status.started()
                while not is_over.is_set():
                    with trio.move_on_after(min(self._idle_s / 4, _SWEEP_S)):
                        await is_over.wait()
                    self._sweep(trio.current_time())
                timers.stop()
                self._flushing.cancel()
        finally:
            if self._nursery is nursery:  # else it runs again already
                self._nursery = None

    async def _flush_rounds(self) -> None:
        with self._flushing:
            await self._dirty.run()

    def child_spec(self, *, shutdown_s: float = 10.0) -> ChildSpec:
        """Describe this host as a child that drains within `shutdown_s` seconds when it is stopped."""

        async def start(*, task_status: ChildStatus) -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.run)
                task_status.started()
                await task_status.stop_requested.wait()
                await self.drain(deadline_s=shutdown_s * _DRAIN_SHARE)

        return ChildSpec(name=f"{self.kind}_host", start=start, shutdown_s=shutdown_s, graceful=True)

    async def drain(self, *, deadline_s: float) -> int:
        """Take no more messages, let every entity finish what waits and leave; then `run` returns.

        Return how many were cut off at the deadline; the messages in their hands failed with "draining".
        """
        self._nursery = None
        cut_count = await self.passivate_matching(lambda _: True, deadline_s=deadline_s)
        self._is_over.set()
        return cut_count

    async def passivate_matching(self, matches: Callable[[Address], bool], *, deadline_s: float) -> int:
        """Let the entities whose address matches finish what waits and leave, as when a shard is handed over.

        The caller has made the router send their messages elsewhere; one that still comes here is handled.
        Return how many were cut off at the deadline.
        """
        cells = [cell for cell in self._cells.values() if matches(cell.address)]
        for cell in cells:
            cell.is_ordered_to_leave = True
            cell.gone = cell.gone or trio.Event()
            cell.mailbox.wake()
        with trio.move_on_after(deadline_s) as scope:
            for cell in cells:
                await _see_off(cell)
        if not scope.cancelled_caught:
            return 0
        late = [cell for cell in cells if not cell.is_gone]
        for cell in late:
            _log.warning("entity_cut_off", actor=str(cell.address), queue_depth=len(cell.mailbox))
            cell.scope.cancel()
        for cell in late:
            await _see_off(cell)
        return len(late)

    def cut_off(self, matches: Callable[[Address], bool], error: HubbubError) -> None:
        """End the entities whose address matches: this node may not run them any more.

        Everybody who waits for one of them gets `error`. Returns before they have ended, which is the next
        step of each.
        """
        for cell in self._cells.values():
            if matches(cell.address):
                cell.cut_off_with = error
                cell.scope.cancel()

    def _sweep(self, now: float) -> None:
        """Ask idle entities to leave, and forget crashes that no longer matter."""
        for cell in self._cells.values():
            if now - cell.last_used < self._idle_s:
                break  # the others were used later
            self._ask_to_leave(cell)
        for address in [a for a, history in self._histories.items() if history.is_forgettable(now)]:
            del self._histories[address]

    def _ask_to_leave(self, cell: Cell) -> None:
        if not cell.is_asked_to_leave:
            cell.is_asked_to_leave = True
            self._asked_count += 1
            cell.mailbox.wake()

    def _note_stays(self, cell: Cell) -> None:
        """Put a cell that is in use, or cannot leave, behind all that were used before."""
        cell.last_used = trio.current_time()
        self._cells.move_to_end(cell.address)
        if cell.is_asked_to_leave:
            cell.is_asked_to_leave = False
            self._asked_count -= 1

    def _admit(self, address: Address, nursery: trio.Nursery) -> Cell:
        """Start a cell for `address`, if it is not in quarantine and the host has room."""
        now = trio.current_time()
        left_s = self._quarantine_left_s(address, now)
        if left_s > 0:
            self._refused += 1
            raise Unavailable("quarantined", retry_after_s=left_s)
        excess = len(self._cells) + 1 - self._max_active
        if excess > self._max_active:
            self._refused += 1
            raise Unavailable("busy", "Too many actors are at work on this node.", retry_after_s=BUSY_RETRY_S)
        for _ in range(min(excess - self._asked_count, _LRU_ASKS)):
            oldest = next(iter(self._cells.values()))
            self._cells.move_to_end(
                oldest.address
            )  # so that one that cannot leave does not shield the others
            self._ask_to_leave(oldest)
        cell = self._cells[address] = Cell(address, Mailbox(self._mailbox_capacity), now)
        nursery.start_soon(self._run_cell, cell)
        return cell

    def _quarantine_left_s(self, address: Address, now: float) -> float:
        history = self._histories.get(address)
        return history.quarantine_left_s(now) if history is not None else 0.0

    # Life of one cell: its task.

    async def _run_cell(self, cell: Cell) -> None:
        """Run one incarnation after the other for as long as there is mail."""
        try:
            with cell.scope:
                while True:
                    has_crashed = await self._run_incarnation(cell)
                    left_s = self._quarantine_left_s(cell.address, trio.current_time())
                    if left_s > 0:
                        self._refused += cell.fail_mail(Unavailable("quarantined", retry_after_s=left_s))
                    must_wake = has_crashed and self._wakes_after_crash and left_s == 0 and self._nursery
                    # From this look to the cell's removal nothing is awaited, so no message falls between.
                    if not (cell.has_mail or must_wake):
                        return
        finally:
            self._note_stays(cell)  # it counts as asked no more
            del self._cells[cell.address]
            if cell.gone is not None:
                cell.gone.set()
            # Cut off; else nothing is left.
            error = cell.cut_off_with or Unavailable("draining", retry_after_s=_DRAINING_RETRY_S)
            cell.fail_outstanding(error)
            cell.fail_batch(error)
            cell.fail_mail(error)

    async def _run_incarnation(self, cell: Cell) -> bool:
        """Run one incarnation to its end, and settle what it leaves behind; return whether it crashed."""
        history = self._histories.get(cell.address)
        restarted = history is not None and history.is_restarted
        context: EntityContext | None = None
        entity: Entity | None = None
        is_awake = has_left = False
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:  # the entity's helper tasks
                context = EntityContext(
                    cell.address,
                    self._router,
                    cell.mailbox,
                    nursery,
                    self._timers,
                    partial(self._take_posted_at_once, cell),
                    restarted=restarted,
                )
                entity = self._factory(cell.address)
                await entity.activate(context)
                is_awake = True
                self._note_activation(cell, history if restarted else None)
                await self._serve(cell, entity)
                nursery.cancel_scope.cancel()
        except BaseException as raised:
            failure, passing = sort_failure(raised)
            if passing is not None:
                if failure is not None:
                    _log.error("entity_crashed_when_cut_off", actor=str(cell.address), exc_info=failure)
                raise passing from None
        else:
            has_left = True
        finally:
            if context is not None:
                context.close()
            cell.entity = None
            cell.mailbox.drop_posted()
            if entity is not None and not has_left:
                entity.ended()
        if failure is None:
            return False
        if isinstance(failure, StopEntity | HubbubError):
            error = failure.error if isinstance(failure, StopEntity) else failure
            self._note_stop(cell, error, is_awake=is_awake)
            if entity is not None and is_awake:
                await self._settle(cell, entity)
            return False
        dead = self._note_crash(cell, failure, is_awake=is_awake)
        for (message, reply), crashes in dead:
            reply.fail(Unavailable("crashed", retry_after_s=_CRASHED_RETRY_S))
            await self._set_aside(cell.address, message, failure, crashes)
        if entity is not None and is_awake:
            await self._settle(cell, entity)
        elif cell.has_mail:
            await trio.sleep(_ACTIVATION_RETRY_S)
        return True

    async def _serve(self, cell: Cell, entity: Entity) -> None:
        """Feed batches to an active entity; return once it has been passivated."""
        mailbox = cell.mailbox
        cell.entity = entity
        while True:
            if (cell.is_asked_to_leave or cell.is_ordered_to_leave) and not (cell.has_mail or cell.is_dirty):
                if self._may_leave(cell, entity):
                    await self._passivate(cell, entity)
                    return
                self._note_stays(cell)
            start = await cell.take_batch()
            if cell.failure is not None:
                failure, cell.failure = cell.failure, None
                raise failure
            batch = cell.batch
            if not batch:
                continue
            if mailbox.peak_depth > self._mailbox_peak:
                self._mailbox_peak = mailbox.peak_depth
            for position in range(start, len(batch)):
                message, reply = batch[position]
                try:
                    await entity.receive(message, reply)
                except Exception as error:
                    refusal = refusal_in(error)
                    if refusal is None:
                        cell.culprit = position
                        raise
                    reply.fail(refusal)
            try:
                await entity.flush()
            except Exception:
                cell.culprit = FLUSH
                raise
            cell.settle_batch()
            batch, message, reply = [], None, NO_REPLY  # an idle entity shall not hold on to its last batch
            self._note_stays(cell)

    def _may_leave(self, cell: Cell, entity: Entity) -> bool:
        """Tell whether an entity with an empty mailbox owes nobody anything."""
        cell.forget_answered()
        if cell.outstanding:
            if trio.current_time() - cell.last_used < self._idle_s:
                return False
            cell.fail_outstanding(Unavailable("timeout"))  # an answer this late is none
        if entity.is_needed() and not cell.is_ordered_to_leave:
            return False
        return entity.may_passivate()

    async def _passivate(self, cell: Cell, entity: Entity) -> None:
        try:
            await entity.passivate()
        except HubbubError as error:  # no snapshot this time; the log has everything
            _log.warning("entity_snapshot_failed", actor=str(cell.address), code=error.code)
        self._passivations += 1

    # How an incarnation ends otherwise.

    def _note_activation(self, cell: Cell, history: CrashHistory | None) -> None:
        self._activations += 1
        cell.activation_failures = 0
        if history is not None:
            history.is_restarted = False
            self._restarts += 1

    def _note_stop(self, cell: Cell, error: HubbubError, *, is_awake: bool) -> None:
        """Tell everybody who waits why the incarnation could not start or go on."""
        if is_awake:
            self._stops += 1
            self._history(cell.address).is_restarted = True
            _log.info("entity_stopped", actor=str(cell.address), code=error.code)
        cell.fail_outstanding(error)
        cell.fail_batch(error)
        cell.culprit = None
        cell.fail_mail(error)

    def _note_crash(self, cell: Cell, failure: Exception, *, is_awake: bool) -> list[tuple[Envelope, int]]:
        """Count a crash and sort the messages in hand; return those that crashed too often."""
        self._crashes += 1
        history = self._history(cell.address)
        history.is_restarted = True
        quarantine_s = history.record(trio.current_time())
        dead = cell.requeue_batch()
        _log.error(
            "entity_crashed",
            actor=str(cell.address),
            retried_count=len(cell.retries),
            dead_letter_count=len(dead),
            outstanding_count=len(cell.outstanding),
            quarantine_s=quarantine_s,
            exc_info=failure,
        )
        cell.fail_outstanding(Unavailable("restarted", retry_after_s=_RESTARTED_RETRY_S))
        if not is_awake:
            cell.activation_failures += 1
            if cell.activation_failures >= CRASHES_PER_MESSAGE:
                cell.activation_failures = 0
                cell.fail_mail(Unavailable("crashed", retry_after_s=_DRAINING_RETRY_S))
        return dead

    def _history(self, address: Address) -> CrashHistory:
        history = self._histories.get(address)
        if history is None:
            if len(self._histories) >= _MAX_HISTORIES:
                del self._histories[next(iter(self._histories))]
            history = self._histories[address] = CrashHistory(self._crash_policy, trio.current_time())
        return history

    async def _set_aside(self, address: Address, message: object, error: Exception, crashes: int) -> None:
        """Hand a message that keeps crashing to the dead-letter sink, which may fail but not hold us up."""
        self._dead_letters += 1
        try:
            with trio.fail_after(_ASIDE_TIMEOUT_S):
                kept = self._on_dead_letter(address, message, error, crashes)
                if inspect.isawaitable(kept):
                    await kept
        except Exception:
            _log.exception("dead_letter_lost", actor=str(address), message_type=type(message).__name__)

    async def _settle(self, cell: Cell, entity: Entity) -> None:
        """Let the appends of an ended incarnation conclude, however long the store takes.

        A next incarnation that loads while they are undecided would stay behind its own log for good. So mail
        waits in its bounded mailbox; from the first seconds on, what waits is refused instead.
        """
        try:
            while True:
                with trio.move_on_after(_ASIDE_TIMEOUT_S) as patience:
                    await entity.settle()
                if not patience.cancelled_caught:
                    return
                self._refused += cell.fail_mail(Unavailable("overloaded", retry_after_s=_ASIDE_TIMEOUT_S))
        except Exception as error:
            _log.warning("entity_settle_failed", actor=str(cell.address), exc_info=error)


async def _see_off(cell: Cell) -> None:
    """Wait until a cell that was ordered to leave is gone, asking again if it was not ready."""
    assert cell.gone is not None
    while not cell.gone.is_set():
        with trio.move_on_after(_POLL_S):
            await cell.gone.wait()
        cell.mailbox.wake()
