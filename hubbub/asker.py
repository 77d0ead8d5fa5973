"""Ask the server: queue commands for the writer, bound how many wait, and hand each caller its answer.

It outlives connections: a call made while there is none waits for the next one. Once `end` was called, every
call ends with its reason, those under way and those to come.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Final, TypeVar, cast

import msgspec
import trio

from hubbub.api import new_client_id
from hubbub.calls import Call, CallTable
from hubbub.errors import error_from_reply
from protocol import commands as c
from protocol import replies as r
from protocol.commands import Command
from protocol.errors import HubbubError, Refused, Unavailable
from protocol.limits import MAX_UNACKED_SENDS
from protocol.replies import Reply

MAX_CALLS: Final = 64  # commands other than sends that may wait at a time; more callers wait their turn

ReplyT = TypeVar("ReplyT", bound=msgspec.Struct)


class Asker:
    """The calls of one client. The connection's writer waits on `wake` and takes from `calls`."""

    def __init__(self, chance: Callable[[], float], *, give_up_after_s: float = inf) -> None:
        """`give_up_after_s`: how long a caller waits before it gets the last refusal, or a time-out."""
        self.give_up_after_s = give_up_after_s
        self.calls = CallTable(chance=chance, on_send_settled=self._on_send_settled)
        self.wake = trio.Event()  # there is something to write; the writer puts a new one in its place
        self.ended: HubbubError | None = None  # why the client is over
        self._send_slots = trio.Semaphore(MAX_UNACKED_SENDS)
        self._call_slots = trio.Semaphore(MAX_CALLS)

    def next_id(self) -> int:
        """Reserve the id that the next command must carry."""
        return self.calls.next_id()

    def check_open(self) -> None:
        """Raises: why the client is over, if it is."""
        if self.ended is not None:
            raise self.ended

    def end(self, reason: HubbubError) -> None:
        """Fail every call, now and from now on. The first reason stays."""
        if self.ended is None:
            self.ended = reason
        self.calls.fail_all(lambda: reason)

    def tell(self, command: Command) -> None:
        """Queue a command whose answer nobody waits for."""
        self.calls.add(command)
        self.wake.set()

    async def ask(self, command: Command, reply_type: type[ReplyT]) -> ReplyT:
        """Send a command, as often as it takes, and return its answer. Raises: HubbubError."""
        self.check_open()
        deadline = trio.current_time() + self.give_up_after_s
        await self._take_slot(self._call_slots, deadline)
        try:
            return await self.ask_now(command, reply_type, deadline=deadline)
        finally:
            self._call_slots.release()

    async def ask_now(self, command: Command, reply_type: type[ReplyT], *, deadline: float = inf) -> ReplyT:
        """Ask without a slot: for the client's own tasks, which are few."""
        self.check_open()
        call = self.calls.add(command)
        self.wake.set()
        reply = await self.wait(call, deadline)
        if not isinstance(reply, reply_type):
            raise Refused("bad_request", f"The server answered with {type(reply).__name__}.")
        return reply

    async def start_send(
        self,
        conversation_id: str,
        text: str,
        *,
        reply_to: int,
        thread: int,
        mentions: Sequence[str],
        file_ids: Sequence[str],
        client_id: str | None,
    ) -> "Ticket":
        """Queue a message; wait only where 32 are unanswered already. See `Client.start_send`."""
        self.check_open()
        deadline = trio.current_time() + self.give_up_after_s
        await self._take_slot(self._send_slots, deadline)
        if self.ended is not None:
            self._send_slots.release()
            raise self.ended
        key = client_id or new_client_id()
        command = c.Send(
            id=self.calls.next_id(),
            conversation_id=conversation_id,
            client_id=key,
            text=text,
            reply_to=reply_to,
            thread=thread,
            mentions=list(mentions),
            file_ids=list(file_ids),
        )
        call = self.calls.add(command)
        self.wake.set()
        return Ticket(self, call, key, deadline)

    async def wait(self, call: Call, deadline: float = inf) -> Reply:
        """Wait for a call's answer, until `deadline`. When the waiting ends before it, the call is given up.

        Raises: why it was refused for good; Unavailable at the deadline.
        """
        try:
            if deadline == inf or call.is_settled:
                return await call.wait()
            with trio.move_on_at(deadline):
                return await call.wait()
        except trio.Cancelled:
            self.calls.give_up(call, Unavailable("timeout", "The caller stopped waiting."))
            raise
        self.calls.give_up(call, self._given_up(call.refusal))
        return await call.wait()  # its answer, where that came at the last moment

    async def _take_slot(self, slots: trio.Semaphore, deadline: float) -> None:
        """Take a slot; without waiting, and without a trip through the scheduler, where one is free.

        Raises: Unavailable at the deadline.
        """
        try:
            slots.acquire_nowait()
        except trio.WouldBlock:
            with trio.move_on_at(deadline):
                await slots.acquire()
                return
            raise self._given_up(None) from None

    def _given_up(self, refusal: r.Error | None) -> HubbubError:
        tried = f"given up after {self.give_up_after_s:g} s"
        if refusal is None:
            return Unavailable("timeout", f"No answer came; {tried}.")
        error = error_from_reply(refusal)
        return Unavailable(error.code, f"{error.message} ({tried})", retry_after_s=error.retry_after_s or 1.0)

    def _on_send_settled(self) -> None:
        self._send_slots.release()
        self.wake.set()


class Ticket:
    """A send under way. `wait` gives the ack."""

    __slots__ = ("_asker", "_call", "_deadline", "client_id")

    def __init__(self, asker: Asker, call: Call, client_id: str, deadline: float) -> None:
        self._asker = asker
        self._call = call
        self._deadline = deadline
        self.client_id = client_id

    async def wait(self) -> r.Sent:
        """Wait until the message is stored for good. Raises: what the server refused it with.

        When the waiting is cancelled the client stops sending it again; it may have been stored.
        """
        return cast("r.Sent", await self._asker.wait(self._call, self._deadline))
