"""The commands that a client has under way: queued, on the wire, or waiting to be tried again.

Pure bookkeeping: no sockets, no clock (`now` is handed in), no waiting. The client's writer takes what may
be written, its reader settles what was answered, and a lost connection puts back what can safely be sent
again. Promises kept here:

- At most `window` sends are on the wire unanswered; the rest waits in the order in which it came.
- A refused send that is to be tried again holds back the sends to the same conversation that are not on
  the wire yet. Those that were on the wire already may be stored before it: the server takes each command
  by itself, and what it has stored cannot be taken back.
- So that this happens once and not at each retry, a conversation that met a refusal is paced: the refused
  send goes out alone, and each ack after that allows twice as many on the wire, up to the window again.
- After a reconnect everything unanswered is sent again in the original order, with the same client_id. It
  is paced as well: a node that just took over refuses more often than others.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, cast

import trio

from hubbub.backoff import full_jitter_s
from hubbub.errors import error_from_reply, is_retried
from protocol import commands as c
from protocol import feed_commands as fc
from protocol import replies as r
from protocol.commands import Command
from protocol.errors import HubbubError, Unavailable
from protocol.limits import MAX_UNACKED_SENDS
from protocol.replies import Reply

# retry_after_s is the server's; this only spreads the callers. A node's death is over after some 15 s, and
# what waited for that should not wait much longer.
MAX_RETRY_JITTER_S: Final = 2.0

# Commands that may not be sent a second time after an unclear end: each repetition would do something more.
_NOT_REPEATABLE: Final = (c.Hello, c.Heartbeat, c.Ack, c.SetTyping, c.Activity, c.CreateInvite, c.Logout)

# A repetition after a lost connection may find its own work done already; these answers then mean success.
_DONE_ALREADY: Final[dict[type, frozenset[str]]] = {
    c.Leave: frozenset({"not_member", "conversation_not_found"}),
    c.RemoveMember: frozenset({"not_member", "user_not_found"}),
    c.Delete: frozenset({"message_deleted", "message_not_found"}),
    c.RevokeInvite: frozenset({"invite_not_found"}),
    c.RemoveContact: frozenset({"contact_not_found"}),
    c.AnswerContact: frozenset({"contact_not_found"}),
    c.RevokeSession: frozenset({"not_found"}),
    fc.DeletePost: frozenset({"post_not_found"}),
    fc.DeleteComment: frozenset({"comment_not_found"}),
    fc.AnswerFollow: frozenset({"follow_not_found"}),
    fc.RemoveFollower: frozenset({"follow_not_found"}),
}


class Call:
    """One command and, in time, its answer. Created by `CallTable.add`."""

    __slots__ = (
        "_done",
        "attempt",
        "command",
        "error",
        "is_send",
        "ordinal",
        "refusal",
        "reply",
        "was_dropped",
        "written_at",
    )

    def __init__(self, command: Command, ordinal: int) -> None:
        self.command = command
        self.ordinal = ordinal
        self.is_send = isinstance(command, c.Send)
        self.attempt = 0
        self.was_dropped = False  # it was on the wire when a connection was lost
        self.written_at = 0.0
        self.refusal: r.Error | None = None  # the latest answer that meant "later"
        self.reply: Reply | None = None
        self.error: HubbubError | None = None
        self._done = trio.Event()

    @property
    def is_settled(self) -> bool:
        return self._done.is_set()

    async def wait(self) -> Reply:
        """Wait for the answer. Raises: the error that the server or the end of the client gave it."""
        await self._done.wait()
        if self.error is not None:
            # A fresh traceback for each waiter; the instance belongs to this call alone.
            raise self.error
        assert self.reply is not None
        return self.reply

    def settle(self, reply: Reply) -> None:
        self.reply = reply
        self._done.set()

    def fail(self, error: HubbubError) -> None:
        self.error = error
        self._done.set()


class CallTable:
    """All calls of one client. `on_send_settled` is told once per send that is over, however it ended."""

    def __init__(
        self,
        *,
        chance: Callable[[], float],
        on_send_settled: Callable[[], None] = lambda: None,
        window: int = MAX_UNACKED_SENDS,
    ) -> None:
        self.window = window
        self._chance = chance
        self._on_send_settled = on_send_settled
        self._next_ordinal = 1
        self._queue: deque[Call] = deque()
        self._on_wire: dict[int, Call] = {}
        self._sends_on_wire = 0
        # conversation_id -> (when its sends may go on, the sends that wait for it, by ordinal)
        self._held: dict[str, tuple[float, list[Call]]] = {}
        # conversation_id -> how many sends to it may be on the wire; no entry: as many as the window allows
        self._pace: dict[str, int] = {}
        self._later: list[tuple[float, Call]] = []  # other commands that are to be tried again

    @property
    def pending_count(self) -> int:
        """How many calls have no answer yet."""
        held = sum(len(calls) for _, calls in self._held.values())
        return len(self._queue) + len(self._on_wire) + held + len(self._later)

    @property
    def has_answers_due(self) -> bool:
        """Whether the peer owes an answer, so that the socket must be read."""
        return bool(self._on_wire)

    @property
    def oldest_written_at(self) -> float | None:
        """When the command was written whose answer is awaited longest; None where none is."""
        first = next(iter(self._on_wire.values()), None)  # a dict keeps the order of writing
        return None if first is None else first.written_at

    def next_id(self) -> int:
        """Reserve the id that the next command must carry."""
        ordinal = self._next_ordinal
        self._next_ordinal += 1
        return ordinal

    def add(self, command: Command) -> Call:
        """Queue a command whose id came from `next_id`."""
        call = Call(command, command.id)
        held = self._held.get(command.conversation_id) if isinstance(command, c.Send) else None
        if held is not None:
            held[1].append(call)
        else:
            self._queue.append(call)
        return call

    def put_on_wire(self, command: Command) -> Call:
        """Register a command that the caller writes itself (hello)."""
        call = Call(command, command.id)
        self._on_wire[call.ordinal] = call
        return call

    def next_due(self) -> float | None:
        """When something that waits may be tried again; None where nothing waits."""
        dues = [due for due, _ in self._held.values()] + [due for due, _ in self._later]
        return min(dues, default=None)

    def take(self, now: float, limit: int = 64) -> list[Command]:
        """Return what may be written now, in order, and count it as on the wire."""
        if self._held or self._later:
            self._release_due(now)
        batch: list[Command] = []
        queue = self._queue
        skipped: list[Call] = []
        room = {name: pace - self._count_on_wire(name) for name, pace in self._pace.items()}
        while queue and len(batch) < limit:
            call = queue.popleft()
            if call.is_settled:  # its caller gave up
                continue
            if call.is_send:
                name = cast("c.Send", call.command).conversation_id
                if self._sends_on_wire >= self.window or room.get(name, 1) <= 0:
                    skipped.append(call)
                    continue
                if name in room:
                    room[name] -= 1
                self._sends_on_wire += 1
            self._on_wire[call.ordinal] = call
            call.written_at = now
            batch.append(call.command)
        if skipped:
            queue.extendleft(reversed(skipped))
        return batch

    def _release_due(self, now: float) -> None:
        ready = [conversation_id for conversation_id, (due, _) in self._held.items() if due <= now]
        calls = [call for conversation_id in ready for call in self._held.pop(conversation_id)[1]]
        calls += [call for due, call in self._later if due <= now]
        if calls:
            self._later = [(due, call) for due, call in self._later if due > now]
            self._requeue(calls)

    def _requeue(self, calls: Iterable[Call]) -> None:
        live = [call for call in (*calls, *self._queue) if not call.is_settled]
        self._queue = deque(sorted(live, key=lambda call: call.ordinal))

    def answer(self, reply: Reply, now: float) -> bool:
        """Settle the call that this answers, or set it aside for another try.

        Returns whether something was changed for the writer: room in the window, or a retry to be timed.
        """
        call = self._on_wire.pop(reply.id, None)
        if call is None:
            return False  # its caller gave up, or the answer came twice
        if call.is_send:
            self._sends_on_wire -= 1
        if call.is_settled:
            return call.is_send
        if not isinstance(reply, r.Error):
            if call.is_send:
                self._speed_up(cast("c.Send", call.command).conversation_id)
            self._finish(call, reply)
        elif is_retried(reply) and not isinstance(call.command, _NOT_REPEATABLE):
            self._set_aside(call, reply, now)
        elif call.was_dropped and reply.code in _DONE_ALREADY.get(type(call.command), ()):
            self._finish(call, _success_of(call.command))
        else:
            self._abandon(call, error_from_reply(reply))
        return True

    def _set_aside(self, call: Call, error: r.Error, now: float) -> None:
        at_least_s = 0.1 if error.retry_after_s is None else error.retry_after_s
        due = now + full_jitter_s(
            call.attempt, self._chance, max_delay_s=MAX_RETRY_JITTER_S, at_least_s=at_least_s
        )
        call.attempt += 1
        call.refusal = error
        command = call.command
        if not isinstance(command, c.Send):
            self._later.append((due, call))
            return
        self._pace[command.conversation_id] = 1
        old_due, calls = self._held.get(command.conversation_id, (0.0, []))
        calls.append(call)
        waiting = [
            other
            for other in self._queue
            if isinstance(other.command, c.Send) and other.command.conversation_id == command.conversation_id
        ]
        if waiting:
            calls += waiting
            taken = {id(other) for other in waiting}
            self._queue = deque(other for other in self._queue if id(other) not in taken)
        calls.sort(key=lambda other: other.ordinal)
        self._held[command.conversation_id] = (max(due, old_due), calls)

    def _count_on_wire(self, conversation_id: str) -> int:
        return sum(
            isinstance(call.command, c.Send) and call.command.conversation_id == conversation_id
            for call in self._on_wire.values()
        )

    def _speed_up(self, conversation_id: str) -> None:
        pace = self._pace.get(conversation_id)
        if pace is None or conversation_id in self._held:
            return  # an ack from before the refusal says nothing of the present
        if pace * 2 >= self.window:
            del self._pace[conversation_id]
        else:
            self._pace[conversation_id] = pace * 2

    def _finish(self, call: Call, reply: Reply) -> None:
        call.settle(reply)
        if call.is_send:
            self._on_send_settled()

    def _abandon(self, call: Call, error: HubbubError) -> None:
        call.fail(error)
        if call.is_send:
            self._on_send_settled()

    def give_up(self, call: Call, error: HubbubError) -> None:
        """End a call from the caller's side. Its command may still be carried out if it is on the wire."""
        if not call.is_settled:
            self._abandon(call, error)
            if call.ordinal not in self._on_wire:
                self._forget(call)

    def _forget(self, call: Call) -> None:
        self._later = [(due, other) for due, other in self._later if other is not call]
        if isinstance(call.command, c.Send):
            held = self._held.get(call.command.conversation_id)
            if held is not None and call in held[1]:
                held[1].remove(call)
                if not held[1]:
                    del self._held[call.command.conversation_id]

    def on_connection_lost(self) -> None:
        """Put back what can be sent again; end the rest as `outcome_unknown`."""
        dropped = list(self._on_wire.values())
        self._on_wire.clear()
        self._sends_on_wire = 0
        again: list[Call] = []
        for call in dropped:
            if call.is_settled:
                continue
            if isinstance(call.command, _NOT_REPEATABLE):
                self._abandon(
                    call, Unavailable("outcome_unknown", "The connection was lost before the answer.")
                )
                continue
            call.was_dropped = True
            again.append(call)
        # What was said to the old connection about waiting no longer holds, but its order does.
        for _, calls in self._held.values():
            again += calls
        again += [call for _, call in self._later]
        self._held.clear()
        self._later.clear()
        for call in again:
            if isinstance(call.command, c.Send):
                self._pace[call.command.conversation_id] = 1
        self._requeue(again)

    def fail_all(self, make_error: Callable[[], HubbubError]) -> None:
        """End every call: the client is over."""
        calls = [*self._queue, *self._on_wire.values()]
        calls += [call for _, held in self._held.values() for call in held]
        calls += [call for _, call in self._later]
        self._queue.clear()
        self._on_wire.clear()
        self._held.clear()
        self._later.clear()
        self._sends_on_wire = 0
        for call in calls:
            if not call.is_settled:
                self._abandon(call, make_error())


def _success_of(command: Command) -> Reply:
    if type(command).reply is r.Changed:
        return r.Changed(id=command.id, conversation_id=getattr(command, "conversation_id", ""))
    return r.Ok(id=command.id)
