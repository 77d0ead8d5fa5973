"""How an answer comes back: into a slot, never through the asker's mailbox.

An actor answers by calling `resolve` or `fail`; neither blocks, so no actor ever waits for another one.
"""

from collections.abc import Callable
from typing import Final, Protocol

import trio

from protocol.errors import HubbubError


class Reply(Protocol):
    """Take the one answer to a message.

    `resolve` and `fail` are synchronous, do not block, do not raise, and run in the Trio thread. The first
    call counts, later ones are ignored. Sessions implement this themselves, so that a command in flight
    needs no task.
    """

    @property
    def is_done(self) -> bool:
        """Tell whether nobody waits any more: answered, failed, given up, or never awaited at all.

        The host reads it after each batch to know which replies it must fail if the actor crashes.
        """

    def resolve(self, value: object) -> None:
        """Answer with `value`."""

    def fail(self, error: HubbubError) -> None:
        """Answer that the message failed."""


class _NoReply:
    """Ignore the answer: the reply of a message that nobody waits for."""

    __slots__ = ()
    is_done: Final = True

    def resolve(self, value: object) -> None:
        """Ignore `value`."""

    def fail(self, error: HubbubError) -> None:
        """Ignore `error`."""


NO_REPLY: Final[Reply] = _NoReply()
"""The reply of a `tell`."""
POSTED: Final[Reply] = _NoReply()
"""The reply of a message that an actor posted to itself: it dies with the incarnation, and is not retried."""


class OnFailure:
    """The reply of a message whose answer matters only if there is none: then `call` gets the error."""

    __slots__ = ("_call", "is_done")

    def __init__(self, call: Callable[[HubbubError], None]) -> None:
        self._call = call
        self.is_done = False

    def resolve(self, value: object) -> None:
        """Note that the message was taken."""
        self.is_done = True

    def fail(self, error: HubbubError) -> None:
        """Hand over why it was not, once."""
        if not self.is_done:
            self.is_done = True
            self._call(error)


class ReplySlot:
    """Hold one answer for the one task that waits for it."""

    __slots__ = ("_error", "_value", "_waiter", "is_done")

    def __init__(self) -> None:
        self.is_done = False
        self._value: object = None
        self._error: HubbubError | None = None
        self._waiter: trio.lowlevel.Task | None = None

    def resolve(self, value: object) -> None:
        """Answer with `value` and wake the waiting task."""
        if not self.is_done:
            self.is_done = True
            self._value = value
            self._wake()

    def fail(self, error: HubbubError) -> None:
        """Answer with `error` and wake the waiting task, where it is raised."""
        if not self.is_done:
            self.is_done = True
            self._error = error
            self._wake()

    async def wait(self) -> object:
        """Return the answer, or raise the error it came with. One task, once.

        A cancelled wait gives the slot up: an answer that comes later is ignored.
        """
        if self.is_done:
            await trio.lowlevel.checkpoint()
        else:
            if self._waiter is not None:
                raise trio.BusyResourceError("another task already waits for this reply")
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        if self._error is not None:
            raise self._error
        return self._value

    def _wake(self) -> None:
        if self._waiter is not None:
            trio.lowlevel.reschedule(self._waiter)
            self._waiter = None

    def _abort(self, _raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._waiter = None
        self.is_done = True
        return trio.lowlevel.Abort.SUCCEEDED
