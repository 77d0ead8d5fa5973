"""Where a device stands in each stream, and what of the incoming events is new, in order and complete.

Pure: events in, deliverable events out. `received` is the last seq handed to the user's queue, `taken` the
last one that the user is done with; only `taken` is told to the server and kept for the next start. An event
is deliverable when its seq is `received + 1`. A smaller one was seen; a larger one shows a hole: it waits in
a small buffer, and the stream is behind until the hole is filled by a late event or by a sync.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from protocol.events import (
    ConversationCreated,
    ConversationEvent,
    InboxEvent,
    MembersAdded,
)

BUFFERED_EVENTS: Final = 256  # events that wait for a hole to be filled; beyond, they are synced as well

CONVERSATION_EVENTS: Final = frozenset(ConversationEvent.__args__)
INBOX_EVENTS: Final = frozenset(InboxEvent.__args__)

DurableEvent = ConversationEvent | InboxEvent


class Stream:
    """One stream's cursors. `conversation_id` is empty for the user's inbox."""

    __slots__ = (
        "buffer",
        "conversation_id",
        "head",
        "is_gone",
        "is_started",
        "is_syncing",
        "received",
        "taken",
    )

    def __init__(self, conversation_id: str, cursor: int | None = None) -> None:
        self.conversation_id = conversation_id
        self.is_started = cursor is not None  # False: where to begin is not known yet
        self.received = cursor or 0
        self.taken = cursor or 0
        self.head = cursor or 0
        self.is_syncing = False  # owned by the client's sync workers
        self.is_gone = False  # the user is not in the conversation any more
        self.buffer: dict[int, DurableEvent] = {}

    @property
    def is_behind(self) -> bool:
        """Whether something is known to exist that was not received."""
        return not self.is_gone and (not self.is_started or self.head > self.received)

    def start_at(self, cursor: int) -> list[DurableEvent]:
        """Begin after `cursor`, unless the stream is further already. Returns what becomes deliverable."""
        if not self.is_started:
            self.is_started = True
            was_done = self.taken == self.received
            self.received = max(self.received, cursor)
            if was_done:  # nothing is owed to the user from before the beginning
                self.taken = self.received
            self.head = max(self.head, self.received)
        return self._drain()

    def learn_head(self, head: int) -> None:
        """Note that the stream reaches to `head`."""
        self.head = max(self.head, head)

    def offer(self, event: DurableEvent, *, has_room: bool = True) -> Sequence[DurableEvent]:
        """Take a live event. Returns what becomes deliverable, in order: often just this event.

        Without room nothing is delivered and nothing is kept: the event counts as lost, and the stream as
        behind.
        """
        seq = event.seq
        if seq > self.head:
            self.head = seq
        if seq <= self.received and self.is_started:
            return ()
        if not has_room:
            return ()
        if self.is_started and seq == self.received + 1:
            self.received = seq
            return (event, *self._drain()) if self.buffer else (event,)
        if len(self.buffer) < BUFFERED_EVENTS:
            self.buffer[seq] = event
        return ()

    def merge_page(self, items: Iterable[DurableEvent], head: int) -> list[DurableEvent]:
        """Take a page of a sync. The server vouches that it has no holes. Returns what is new, in order."""
        fresh: list[DurableEvent] = []
        for event in items:
            if event.seq > self.received:
                self.received = event.seq
                fresh.append(event)
        self.head = max(self.head, head, self.received)
        return fresh + self._drain()

    def _drain(self) -> list[DurableEvent]:
        ready: list[DurableEvent] = []
        buffer = self.buffer
        while buffer and (event := buffer.pop(self.received + 1, None)) is not None:
            self.received += 1
            ready.append(event)
        if buffer:
            self.buffer = {seq: event for seq, event in buffer.items() if seq > self.received}
        return ready

    def rewind(self) -> None:
        """Forget where the stream was: the server does not know that place."""
        self.is_started = False
        self.received = self.taken = self.head = 0
        self.buffer.clear()


def stream_start(event: DurableEvent, user_id: str) -> int | None:
    """Return the cursor at which a conversation begins for this user, where the event says it."""
    if isinstance(event, ConversationCreated):
        return event.seq - 1
    if isinstance(event, MembersAdded) and user_id in event.member_ids:
        return event.seq - 1
    return None
