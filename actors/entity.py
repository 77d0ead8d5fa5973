"""What an actor is made of: the `Entity` that a chat, feed or notification actor derives from.

One instance lives from an activation to a passivation or a crash (an *incarnation*) and alone owns its state.
Everything durable comes back from the log, so an instance may be thrown away at any moment; `EntityHost` does
so when one crashes, and says there what happens to the messages in its hands.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVarTuple

import structlog
import trio

from actors.address import Address
from actors.mailbox import Mailbox
from actors.reply import Reply
from actors.router import Router
from actors.timers import Timers
from protocol.errors import HubbubError, Unavailable

Args = TypeVarTuple("Args")


class StopEntity(Exception):
    """Raise it from an entity that must not go on: its shard was fenced, or its log moved under it.

    The incarnation ends without counting as a crash, and everybody who waits (for an append in flight, in the
    batch, in the mailbox) gets `error`. The next message activates the entity anew.
    """

    def __init__(self, error: HubbubError) -> None:
        super().__init__(error)
        self.error = error


class EntityContext:
    """What one incarnation may use of the world around it. Made by the host, dead once it ends."""

    __slots__ = ("_mailbox", "_nursery", "_take_at_once", "_timers", "address", "restarted", "router")

    def __init__(
        self,
        address: Address,
        router: Router,
        mailbox: Mailbox,
        nursery: trio.Nursery,
        timers: Timers,
        take_at_once: Callable[[object], bool],
        *,
        restarted: bool,
    ) -> None:
        self.address = address
        self.router = router
        # An earlier incarnation crashed or was stopped: events may be stored that were never fanned out, so
        # the entity announces a resync.
        self.restarted = restarted
        self._mailbox: Mailbox | None = mailbox
        self._nursery = nursery
        self._timers = timers
        self._take_at_once = take_at_once

    def post(self, message: object) -> None:
        """Bring the result of work in flight back to the entity, as a message to its `receive`.

        An entity that waits for work may handle it at once (`receive_nowait`). Never fails, and is handled
        before ordinary messages. Call it from the Trio thread, such as from the store's commit callback.
        After the incarnation has ended the message is ignored: whatever it reports has been read from the log
        by the next one.
        """
        if self._mailbox is not None and not self._take_at_once(message):
            self._mailbox.post(message)

    def post_after(self, delay_s: float, message: object) -> None:
        """Post `message` in `delay_s` seconds, unless the incarnation ends before."""
        self._timers.post_at(trio.current_time() + delay_s, self.post, message)

    def tell(self, address: Address, message: object) -> bool:
        """Tell another actor, and return whether the message was taken; never raises Unavailable.

        For what must not interrupt the work in hand: an Unavailable that leaves `receive` refuses the message
        being handled, which is rarely what a full mailbox elsewhere should do.
        """
        try:
            self.router.tell(address, message)
        except Unavailable:
            return False
        return True

    def start_soon(self, work: Callable[[*Args], Awaitable[Any]], *args: *Args) -> None:
        """Run `work` beside the entity. It is cancelled when the incarnation ends; if it raises, that ends.

        It must not touch the entity's state: it posts what it found.
        """
        self._nursery.start_soon(work, *args)

    def now(self) -> float:
        """Return `trio.current_time()`."""
        return trio.current_time()

    @property
    def log(self) -> structlog.typing.FilteringBoundLogger:
        """Return a logger that names this actor; made when asked for, as most incarnations never log."""
        logger: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(actor=str(self.address))
        return logger

    def close(self) -> None:
        """Ignore what is posted from now on. Called by the host alone."""
        self._mailbox = None


class Entity:
    """Own the state behind one address, and change it one message at a time.

    The host calls these methods one after the other: `activate`, then rounds of `receive` (each message of a
    batch) and `flush` (once per batch), then `passivate`; those that may wait, from one task; their `_nowait`
    twins only while that task waits for mail. So no method needs a lock, and
    whatever one of them awaits holds up this actor's mailbox: await reads in `activate`, submit appends in
    `flush` without waiting for the commit, and let its callback `post` the result.

    Effects that others can see (a tell, an answer, fan-out) belong after the commit. A message that was
    received but not yet flushed has no effect by contract, and is given to the next incarnation after a
    crash.
    """

    async def activate(self, ctx: EntityContext) -> None:
        """Load the state: snapshot and log tail. Messages wait in the mailbox meanwhile.

        A HubbubError fails every waiting message with that error ("not found", "storage unavailable") and is
        no crash. Anything else is one.
        """

    async def receive(self, message: object, reply: Reply) -> None:
        """Decide on one message, change the state in memory, and stage what must be appended.

        Messages that the entity posted to itself arrive here too; nobody waits for their reply. Raise a
        HubbubError, before anything was changed, to refuse the message; raise StopEntity to end the
        incarnation.
        """
        raise NotImplementedError

    def receive_nowait(self, message: object, reply: Reply) -> bool:
        """Do the same without awaiting, or return False before anything is changed; then `receive` comes.

        Called in the turn of whoever sends, while the entity waits with an empty mailbox: a message costs no
        task switch then. May raise what `receive` may.
        """
        return False

    def flush_nowait(self) -> bool:
        """Do what `flush` does without awaiting, or return False before anything is changed."""
        return False

    async def flush(self) -> None:
        """Submit what the batch staged, as one append. Called after each batch of at most 64 messages.

        A HubbubError (the store is overloaded) ends the incarnation as StopEntity does, since what is in
        memory will not be in the log.
        """

    def may_passivate(self) -> bool:
        """Tell whether nothing is in flight, so that leaving now would lose nothing."""
        return True

    def is_needed(self) -> bool:
        """Tell whether it should stay awake although nobody has spoken to it for long.

        Not asked when it must leave: in a drain, or when its shard is handed over.
        """
        return False

    async def passivate(self) -> None:
        """Put down what makes the next activation fast (a snapshot). Nothing posted arrives any more.

        Not called after a crash, or when time runs out in a drain: correctness may not depend on it.
        """

    def ended(self) -> None:
        """Take note that the incarnation is over and was not passivated. Called once, before `settle`.

        After a crash, a stop, an activation that failed, and also where nothing else is called any more: when
        the host is cancelled or the entity is cut off. What is in flight may still be stored, by nobody's
        account. Nothing may be awaited or raised here.
        """

    async def settle(self) -> None:
        """Wait until appends in flight have concluded, after a crash or stop and before the next activation.

        May be cancelled and called again. Without this wait the next incarnation may read a log that still
        grows by its predecessor's appends.
        """
