"""Answer reads of recent history from memory, where it is certain that the store would say the same.

What makes it certain:
- Only the node that owns a conversation's shard keeps a tail of it, under the epoch of that ownership, and
  believes it only while it holds that very epoch. Nobody else can have written since.
- The conversation's actor tells each event between its commit and its ack (`note`). So who has an ack finds
  his message here, and what is here is stored.
- An actor that wakes begins the tail anew at the head that it has loaded (`begin`): what an earlier
  incarnation has stored and never told is read from the store.
- An actor that ends otherwise than by leaving makes its tail forgotten (`forget`), and again when an append
  concludes that was in flight then: nobody tells what it has stored.
- What is read from the store to fill a tail is joined with what was told meanwhile; a hole between makes the
  tail useless, and it is thrown away.

A commit that its actor has not heard of yet is not seen here, although the store would show it: it is told
within the same turn of the event loop or so, to those who listen too. That is why only connected sessions,
who hear it then, are answered from here.
"""

from collections import OrderedDict
from collections.abc import Collection
from typing import Final, Protocol

import trio

from actors.address import Address
from actors.ports import Leases
from protocol.commands import History, Sync
from protocol.errors import Unavailable
from protocol.events import ConversationEvent
from protocol.records import conversation_stream
from protocol.replies import EventPage, MessagePage
from server.tail import MAX_TAIL_BYTES, EntryAt, Tail

MAX_BYTES: Final = 64 * 1024 * 1024  # of all tails: 250 conversations at their fullest, or 30,000 quiet ones
FILL_COUNT: Final = 128  # events read at once: a page of 50 messages and what is between them, in 0.3 ms
_MAX_TOLD: Final = 256  # while a tail is filled; more, and it is not worth it

_KIND: Final = "conversation"


class TailStore(Protocol):
    """The part of the store that tails are filled from; see storage.store.Store."""

    async def read_tail(self, stream: str, *, limit: int, max_bytes: int = ...) -> list[EntryAt]: ...


class _Fill:
    """One read of the store under way, and what was published since it began."""

    __slots__ = ("done", "epoch", "published")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.published: list[ConversationEvent] = []
        self.done = trio.Event()


class Tails:
    """The tails of this node's conversations: at most `max_bytes` of them; the least used goes first.

    0 bytes: none is kept, and the store is asked each time. `begin`, `note` and `forget` are for the actors
    (fits actors.ports.Recent). Only `fetch` waits.
    """

    def __init__(self, store: TailStore, leases: Leases, *, max_bytes: int = MAX_BYTES) -> None:
        self._store = store
        self._leases = leases
        self._max_bytes = max_bytes
        self._tails: OrderedDict[str, Tail] = OrderedDict()  # the least recently used first
        self._fills: dict[str, _Fill] = {}
        self.size_bytes = 0
        self.fill_count = 0  # reads of the store

    @property
    def tail_count(self) -> int:
        return len(self._tails)

    # -- for actors ---------------------------------------------------------------------------------

    def begin(self, conversation_id: str, head: int) -> None:
        """The conversation's actor has woken, and loaded it as of `head`."""
        self.forget(conversation_id)
        shard = Address(_KIND, conversation_id).shard
        epoch = self._epoch_of(shard)
        if epoch is not None:
            self._keep(Tail(conversation_id, shard, epoch, head))

    def note(self, event: ConversationEvent) -> None:
        """Follow an event that was committed, before its sender is answered."""
        conversation_id = event.conversation_id
        if self._fills and (fill := self._fills.get(conversation_id)) is not None:
            fill.published.append(event)
            if len(fill.published) > _MAX_TOLD:
                del self._fills[conversation_id]
        tail = self._tails.get(conversation_id)
        if tail is not None:
            before_bytes = tail.size_bytes
            if tail.note(event):
                self._tails.move_to_end(conversation_id)
                self._resize(tail.size_bytes - before_bytes)
            else:
                self._drop(tail)

    # -- for sessions -------------------------------------------------------------------------------

    def page(self, command: Sync | History) -> EventPage | MessagePage | None:
        """Answer from memory; None: only the store can tell. Membership is the caller's to check."""
        tail = self._certain(command.conversation_id)
        if tail is None:
            return None
        self._tails.move_to_end(command.conversation_id)
        before_bytes = tail.size_bytes
        page: EventPage | MessagePage | None
        if isinstance(command, Sync):
            page = tail.events(command.after, command.limit)
        elif command.thread or (command.before and command.after is not None):
            return None
        else:
            page = tail.history(command.before, command.after, command.limit)
        if tail.size_bytes != before_bytes:  # the page is kept, or others were dropped for it
            self._resize(tail.size_bytes - before_bytes)
        return page

    async def fetch(self, command: Sync | History) -> EventPage | MessagePage | None:
        """Fill the tail where that may help, and answer from it; None: only the store can tell.

        Raises: what reading the store does.
        """
        if not self._max_bytes or (isinstance(command, History) and (command.thread or command.before)):
            return None
        conversation_id = command.conversation_id
        tail = self._certain(conversation_id)
        if tail is not None and (tail.is_full or tail.row_count >= FILL_COUNT):
            may_help = isinstance(command, History) and tail.has_doubts
            if not may_help:
                return None
        shard = Address(_KIND, conversation_id).shard
        epoch = self._epoch_of(shard)
        if epoch is None:
            return None
        under_way = self._fills.get(conversation_id)
        if under_way is not None:  # a crowd that comes at once reads once
            await under_way.done.wait()
        else:
            await self._fill(conversation_id, shard, epoch)
        return self.page(command)

    async def _fill(self, conversation_id: str, shard: int, epoch: int) -> None:
        fill = self._fills[conversation_id] = _Fill(epoch)
        try:
            self.fill_count += 1
            stream = conversation_stream(conversation_id)
            stored = await self._store.read_tail(stream, limit=FILL_COUNT, max_bytes=MAX_TAIL_BYTES)
            if self._fills.get(conversation_id) is fill:  # no actor has woken meanwhile
                tail = Tail(conversation_id, shard, epoch, 0)
                if tail.fill(stored, fill.published):
                    self.forget(conversation_id)
                    self._keep(tail)
        finally:
            if self._fills.get(conversation_id) is fill:
                del self._fills[conversation_id]
            fill.done.set()

    # -- what is kept -------------------------------------------------------------------------------

    def forget(self, conversation_id: str) -> None:
        """Drop a conversation's tail, and what is being read for it."""
        self._fills.pop(conversation_id, None)
        tail = self._tails.get(conversation_id)
        if tail is not None:
            self._drop(tail)

    def forget_shards(self, shards: Collection[int]) -> None:
        """Drop the tails of these shards, which this node gives up: they would not be believed any more."""
        for tail in [tail for tail in self._tails.values() if tail.shard in shards]:
            self.forget(tail.conversation_id)

    def _certain(self, conversation_id: str) -> Tail | None:
        """The conversation's tail, if nobody else can have written since."""
        tail = self._tails.get(conversation_id)
        if tail is not None and tail.epoch != self._epoch_of(tail.shard):
            self._drop(tail)
            return None
        return tail

    def _epoch_of(self, shard: int) -> int | None:
        try:
            return self._leases.epoch_of(shard)
        except Unavailable:
            return None

    def _keep(self, tail: Tail) -> None:
        self._tails[tail.conversation_id] = tail
        self._resize(tail.size_bytes)

    def _drop(self, tail: Tail) -> None:
        del self._tails[tail.conversation_id]
        self.size_bytes -= tail.size_bytes

    def _resize(self, grown_bytes: int) -> None:
        self.size_bytes += grown_bytes
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._tails.values())))
