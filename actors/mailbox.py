"""The bounded queue in front of an actor, drained in batches.

A Trio memory channel wakes its reader once per message, about 11 µs each. Here the reader is woken once per
batch and takes what is there, so that a message in a full batch costs well under a microsecond.
"""

from typing import Final

import trio

from actors.reply import POSTED, Reply

MAILBOX_CAPACITY: Final = 256  # DESIGN section 9: past this the sender is told "busy"
BATCH_LIMIT: Final = 64  # one append per batch: long enough to share a commit, short enough to stay fair

Envelope = tuple[object, Reply]
"""A message and where its answer goes; a plain tuple, since one is made per message."""


class MailboxFull(trio.WouldBlock):
    """The mailbox holds as many messages as it may; the sender must be refused."""


class Mailbox:
    """Queue messages for one reader, in two lanes.

    The ordinary lane is bounded. The internal lane (`post`) never refuses, is drained first, and is bounded
    by contract: each posted message is the result of work that the actor itself has in flight.
    All methods run in the Trio thread; only `drain` waits.
    """

    __slots__ = ("_is_woken", "_posted", "_queue", "_reader", "capacity", "peak_depth")

    def __init__(self, capacity: int = MAILBOX_CAPACITY) -> None:
        self.capacity = capacity
        self.peak_depth = 0  # ordinary messages, at the start of a batch
        self._queue: list[Envelope] = []  # lists: an empty deque is 600 bytes larger
        self._posted: list[object] = []
        self._reader: trio.lowlevel.Task | None = None
        self._is_woken = False

    def __len__(self) -> int:
        """Count the ordinary messages that wait."""
        return len(self._queue)

    @property
    def is_waited_for(self) -> bool:
        """Tell whether the reader waits, so that both lanes are empty."""
        return self._reader is not None

    @property
    def is_empty(self) -> bool:
        """Tell whether neither lane holds anything."""
        return not self._queue and not self._posted

    def put_nowait(self, message: object, reply: Reply) -> None:
        """Queue an ordinary message.

        Raises: MailboxFull.
        """
        queue = self._queue
        if len(queue) >= self.capacity:
            raise MailboxFull
        queue.append((message, reply))
        if self._reader is not None:
            self._wake_reader()

    def post(self, message: object) -> None:
        """Queue an internal message; it is handled before every ordinary one, in the order of posting."""
        self._posted.append(message)
        if self._reader is not None:
            self._wake_reader()

    def wake(self) -> None:
        """Let the reader's current or next `drain` return, with an empty batch if nothing waits."""
        self._is_woken = True
        if self._reader is not None:
            self._wake_reader()

    async def drain(self, limit: int = BATCH_LIMIT) -> list[Envelope]:
        """Wait for one message, then take what is there: posted ones first, at most `limit` in all.

        Always a checkpoint, so that a busy actor lets others run between two batches. Cancelled, it has taken
        nothing. The list is empty only after `wake`.

        Raises: trio.BusyResourceError, when another task is already waiting here.
        """
        if self._queue or self._posted or self._is_woken:
            await trio.lowlevel.checkpoint()
        else:
            if self._reader is not None:
                raise trio.BusyResourceError("another task already drains this mailbox")
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._is_woken = False
        batch = self.take_posted(limit)
        queue = self._queue
        depth = len(queue)
        if depth:
            if depth > self.peak_depth:
                self.peak_depth = depth
            room = limit - len(batch)
            batch += queue[:room]
            del queue[:room]
        return batch

    def put_back(self, batch: list[Envelope]) -> None:
        """Undo a `drain`: ordinary messages come first again. Posted ones die with the incarnation."""
        self._queue[:0] = [envelope for envelope in batch if envelope[1] is not POSTED]

    def take_posted(self, limit: int = BATCH_LIMIT) -> list[Envelope]:
        """Take at most `limit` messages of the internal lane, and none of the other, without waiting."""
        posted = self._posted
        batch: list[Envelope] = [(message, POSTED) for message in posted[:limit]]
        del posted[:limit]
        return batch

    def drop_posted(self) -> None:
        """Forget the internal lane, whose messages were meant for an incarnation that is gone."""
        self._posted.clear()

    def take_all(self) -> list[Envelope]:
        """Take every ordinary message without waiting, to refuse them."""
        envelopes, self._queue = self._queue, []
        return envelopes

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            trio.lowlevel.reschedule(reader)

    def _abort(self, _raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED
