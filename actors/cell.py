"""What belongs to one active address and outlives its incarnations: the `Cell`.

Mailbox, the messages in hand, and the answers owed. All plain bookkeeping; `EntityHost` decides.
"""

from typing import Final

import trio

from actors.address import Address
from actors.entity import Entity
from actors.mailbox import BATCH_LIMIT, Envelope, Mailbox
from actors.reply import POSTED, Reply
from protocol.errors import HubbubError

CRASHES_PER_MESSAGE: Final = 2  # then it is a dead letter: once may be bad luck
FLUSH: Final = -1  # as a culprit: the whole batch
_OUTSTANDING_LIMIT: Final = 256  # replies kept before those answered out of order are looked for


class Cell:
    """One address's mailbox, its task's scope, and the messages in the hands of its incarnation."""

    __slots__ = (
        "activation_failures",
        "address",
        "batch",
        "batch_crashes",
        "culprit",
        "cut_off_with",
        "entity",
        "failure",
        "gone",
        "is_asked_to_leave",
        "is_dirty",
        "is_in_turn",
        "is_ordered_to_leave",
        "last_used",
        "mailbox",
        "outstanding",
        "outstanding_limit",
        "retries",
        "scope",
    )

    def __init__(self, address: Address, mailbox: Mailbox, now: float) -> None:
        self.address = address
        self.mailbox = mailbox
        self.last_used = now
        self.scope = trio.CancelScope()
        self.retries: list[tuple[Envelope, int]] = []  # with their crashes so far; at most one batch
        self.batch: list[Envelope] = []  # received or being received, not yet flushed
        self.batch_crashes = 0  # of the message in `batch`, when it is retried alone
        self.culprit: int | None = None  # the position in `batch` that raised, or FLUSH
        self.outstanding: list[Reply] = []  # flushed, not answered; the oldest first
        self.outstanding_limit = _OUTSTANDING_LIMIT
        self.activation_failures = 0  # in a row
        self.entity: Entity | None = None  # the incarnation, while it takes messages
        self.is_in_turn = False  # handling a message in its sender's turn
        self.is_dirty = False  # such messages wait in `batch` to be flushed
        self.failure: Exception | None = None  # raised in a sender's turn, for the cell's own task
        self.is_asked_to_leave = False  # idle, or least recently used: only if nothing came meanwhile
        self.is_ordered_to_leave = False  # draining: as soon as the mailbox is empty
        self.cut_off_with: HubbubError | None = (
            None  # what those who wait are told when the task is cancelled
        )
        self.gone: trio.Event | None = None  # made by whoever waits for this cell to be forgotten

    @property
    def has_mail(self) -> bool:
        """Tell whether there is anything to handle."""
        return bool(self.retries) or not self.mailbox.is_empty

    @property
    def is_gone(self) -> bool:
        """Tell whether the host has forgotten this cell; only for who has set `gone`."""
        return self.gone is not None and self.gone.is_set()

    def takes_at_once(self) -> bool:
        """Tell whether a message may be handled in its sender's turn: nothing waits, nobody is at work."""
        return (
            self.entity is not None
            and self.mailbox.is_waited_for
            and not self.is_in_turn
            and self.failure is None
            and len(self.batch) < BATCH_LIMIT
        )

    async def take_batch(self) -> int:
        """Take the next batch: while messages are being retried, each alone, else what the mailbox holds.

        It is in the cell's hands until `settle_batch`, `requeue_batch` or `fail_batch`. Returns where it
        begins in `batch`: behind what was handled in senders' turns meanwhile.
        """
        self.batch_crashes = 0
        if self.retries:
            await trio.lowlevel.checkpoint()
            self.batch = self.mailbox.take_posted()
            if not self.batch:
                envelope, self.batch_crashes = self.retries.pop(0)
                self.batch.append(envelope)
            return 0
        mail = await self.mailbox.drain()
        start = len(self.batch)
        if self.failure is not None:  # in a sender's turn: what came since has nothing to do with it
            self.mailbox.put_back(mail)
        else:
            self.batch += mail
        return start

    def settle_batch(self) -> None:
        """Note that the batch was flushed: replies that are not done yet are owed from now on."""
        self.outstanding += [reply for _, reply in self.batch if not reply.is_done]
        self.batch = []
        self.is_dirty = False
        if self.outstanding:
            self.forget_answered()

    def forget_answered(self) -> None:
        """Let go of replies that are done.

        Commits answer in order, so looking from the left is enough and each reply is looked at once. The full
        pass is for one that is not answered and holds up the others; doubling spreads its cost.
        """
        outstanding = self.outstanding
        done_count = 0
        for reply in outstanding:
            if not reply.is_done:
                break
            done_count += 1
        del outstanding[:done_count]
        if len(outstanding) > self.outstanding_limit:
            self.outstanding = [reply for reply in outstanding if not reply.is_done]
            self.outstanding_limit = max(_OUTSTANDING_LIMIT, 2 * len(self.outstanding))

    def fail_outstanding(self, error: HubbubError) -> None:
        """Fail every reply that the incarnation still owed for flushed messages."""
        outstanding, self.outstanding = self.outstanding, []
        for reply in outstanding:
            reply.fail(error)

    def requeue_batch(self) -> list[tuple[Envelope, int]]:
        """Put the batch in hand back to be retried one by one; return the messages that crashed too often."""
        batch, culprit, crashes = self.batch, self.culprit, self.batch_crashes
        self.batch, self.culprit, self.batch_crashes = [], None, 0
        self.is_dirty = False
        retries: list[tuple[Envelope, int]] = []
        dead: list[tuple[Envelope, int]] = []
        for position, envelope in enumerate(batch):
            if envelope[1] is POSTED:
                continue
            count = crashes + (culprit in (position, FLUSH))
            (dead if count >= CRASHES_PER_MESSAGE else retries).append((envelope, count))
        self.retries[:0] = retries
        return dead

    def fail_batch(self, error: HubbubError) -> None:
        """Fail the messages that were received but not flushed."""
        batch, self.batch = self.batch, []
        self.is_dirty = False
        for _, reply in batch:
            reply.fail(error)

    def fail_mail(self, error: HubbubError) -> int:
        """Fail every message that no incarnation has seen yet, or that waits to be retried; count them."""
        envelopes = [envelope for envelope, _ in self.retries] + self.mailbox.take_all()
        self.retries.clear()
        for _, reply in envelopes:
            reply.fail(error)
        return len(envelopes)
