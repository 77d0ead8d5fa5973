"""The newest events of one conversation, in memory: what most reads ask for, answered as the store would.

A tail holds all events from some seq up to its head, without a hole, as `Row`s. It follows what the
conversation's actor publishes. What a reaction, an edit or a reply in a thread makes of an older message is
not worked out here a second time: the row is in doubt from then on, and history that shows it is read from
the store. A deletion empties the tail, so that nothing deleted can ever be served from it.

Nothing here waits. Whether a tail may be believed at all is decided in server/tails.py.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from protocol import events
from protocol.events import ConversationEvent, Event
from protocol.limits import PAGE_BYTES
from protocol.records import Entry, MessageState
from protocol.replies import EventPage, MessagePage
from protocol.stored_events import body_chars, message_of, read_event, read_message
from protocol.types import Message
from server.pages import fitting

MIN_ROWS: Final = (
    192  # kept when a tail is cut: a page of the largest default (200) is rarely asked for whole
)
MAX_ROWS: Final = 256  # cut at; the slack makes it one cut for each 64 events
MAX_TAIL_BYTES: Final = 512 * 1024  # two pages of the longest kind
_MAX_PAGES: Final = 16  # answers kept for those who ask the same: a group comes back to the same head
_TAIL_BYTES: Final = 700  # of an empty one, with its place in the dict
_ROW_BYTES: Final = (
    900  # of a row with its event and its message, beside two copies of the text; 700 measured
)
_STATE_BYTES: Final = 200  # of a message's state, beside its texts
_QUOTE_BYTES: Final = 32  # of each quote in JSON: a string costs 60 more when decoded, in its list
_PLAIN_QUOTES: Final = 12  # in the body of a message that mentions nobody; counted with the row
_PAGE_BYTES: Final = 350  # of a kept page, with its key and its list; 270 measured
_ITEM_BYTES: Final = 9  # of an item of one, which is its row's own: a place in a list that has grown

EntryAt = tuple[Entry, MessageState | None]


class Row:
    """One event of a tail and, where it is a message, the message as it now is; made when first asked for."""

    __slots__ = ("_chars", "_event", "_message", "_stored", "is_in_doubt", "is_message", "size_bytes")

    def __init__(self, event: ConversationEvent | None, stored: EntryAt | None = None) -> None:
        """An event that was just published, or one with its state from the store."""
        self._event = event
        self._stored = stored
        self._message: Message | None = None
        self._chars = 0
        self.is_in_doubt = False  # the message has changed since
        if stored is not None:
            self._chars = len(stored[0].body)
            self.is_message = stored[0].kind == "message"
            self.size_bytes = _ROW_BYTES + _stored_bytes(*stored)
        elif isinstance(event, events.MessagePosted):
            self.is_message = True
            self.size_bytes = _ROW_BYTES + 2 * sys.getsizeof(event.text)
            if event.mentions or event.files:
                self.size_bytes += 100 * len(event.mentions) + 500 * len(event.files)
        else:
            self.is_message = False
            self.size_bytes = _ROW_BYTES + 2 * self.chars

    @property
    def chars(self) -> int:
        """How long the stored body is: by this the store ends its pages."""
        if not self._chars:
            assert self._event is not None
            self._chars = body_chars(self._event)
        return self._chars

    def event(self, conversation_id: str) -> ConversationEvent:
        """The event, as it was published."""
        if self._event is None:
            assert self._stored is not None
            self._event = read_event(conversation_id, self._stored[0])
        return self._event

    def message(self, conversation_id: str) -> Message:
        """The message, as it now is; only where it is one, and not in doubt."""
        if self._message is None:
            state = self._stored[1] if self._stored is not None else None
            if self._stored is not None and state is not None and state.deleted_at_ms:
                self._message = read_message(conversation_id, *self._stored)
            else:  # its texts are the event's, not another copy
                posted = self.event(conversation_id)
                assert isinstance(posted, events.MessagePosted)
                self._message = message_of(posted, state)
        return self._message


def _stored_bytes(entry: Entry, state: MessageState | None) -> int:
    """What an event from the store holds beside a row's own: its texts, as stored and decoded."""
    size_bytes = 2 * sys.getsizeof(entry.body)
    size_bytes += _QUOTE_BYTES * max(entry.body.count('"') - _PLAIN_QUOTES, 0)
    if state is not None:
        size_bytes += _STATE_BYTES + sys.getsizeof(state.text)
        for listed in (state.mentions, state.reactions):
            if listed:
                size_bytes += 2 * sys.getsizeof(listed) + _QUOTE_BYTES * listed.count('"')
    return size_bytes


class Tail:
    """The events of a conversation from `first` up to `head`."""

    __slots__ = (
        "_pages",
        "_pages_bytes",
        "_rows",
        "conversation_id",
        "epoch",
        "has_doubts",
        "head",
        "is_full",
        "shard",
        "size_bytes",
    )

    def __init__(self, conversation_id: str, shard: int, epoch: int, head: int) -> None:
        """Begin after `head`, with nothing. `epoch`: the one under which the shard's owner has said so."""
        self.conversation_id = conversation_id
        self.shard = shard
        self.epoch = epoch
        self.head = head
        self.has_doubts = False  # of a message
        self.is_full = head == 0  # holds as much as a read of the store would bring
        self.size_bytes = _TAIL_BYTES
        self._rows: list[Row] = []
        self._pages: dict[tuple[object, ...], EventPage | MessagePage] = {}
        self._pages_bytes = 0  # of those in size_bytes

    @property
    def row_count(self) -> int:
        return len(self._rows)

    @property
    def first(self) -> int:
        """The seq of the first event that is held, or would be the next."""
        return self.head - len(self._rows) + 1

    def fill(self, stored: Sequence[EntryAt], published: Iterable[ConversationEvent]) -> bool:
        """Take over what was read from the store, then what was published since the read began.

        Returns False where there is a hole between; the tail is of no use then. For a new tail only.
        """
        self.head = stored[-1][0].seq if stored else 0
        self.is_full = True
        for entry_at in stored:
            self._append(Row(None, entry_at))
        if self.size_bytes > MAX_TAIL_BYTES:  # the store's bound is on the bodies alone
            self._cut()
        return all(self.note(event) for event in published)

    def note(self, event: ConversationEvent) -> bool:
        """Follow an event that was published. False: not the next one, so something was missed."""
        if event.seq <= self.head:
            return True  # the store had it already when the tail was filled
        if event.seq > self.head + 1:
            return False
        self._drop_pages()
        self.head = event.seq
        match event:
            case events.MessagePosted():
                if event.thread:
                    self._doubt(event.thread)
            case events.MessageDeleted():
                self._rows.clear()
                self.size_bytes = _TAIL_BYTES
                self.has_doubts = self.is_full = False
                return True
            case events.MessageEdited() | events.Reacted():
                self._doubt(event.target)
            case _:
                pass
        self._append(Row(event))
        if len(self._rows) > MAX_ROWS or self.size_bytes > MAX_TAIL_BYTES:
            self._cut()
        return True

    def events(self, after: int, limit: int) -> EventPage | None:
        """Answer `sync`; None: only the store can tell."""
        key = ("sync", after, limit)
        page = self._pages.get(key)
        if page is None:
            page = self._read_events(after, limit)
            if page is not None:
                self._keep(key, page)
        assert page is None or isinstance(page, EventPage)
        return page

    def history(self, before: int, after: int | None, limit: int) -> MessagePage | None:
        """Answer `history` that is not of a thread; None: only the store can tell."""
        key = ("history", before, after, limit)
        page = self._pages.get(key)
        if page is None:
            page = self._read_history(before, after, limit)
            if page is not None:
                self._keep(key, page)
        assert page is None or isinstance(page, MessagePage)
        return page

    def _keep(self, key: tuple[object, ...], page: EventPage | MessagePage) -> None:
        if len(self._pages) >= _MAX_PAGES:
            self._drop_pages()
        self._pages[key] = page
        self._pages_bytes += _PAGE_BYTES + _ITEM_BYTES * len(page.items)
        self.size_bytes += _PAGE_BYTES + _ITEM_BYTES * len(page.items)

    def _drop_pages(self) -> None:
        if self._pages:
            self._pages.clear()
            self.size_bytes -= self._pages_bytes
            self._pages_bytes = 0

    def _read_events(self, after: int, limit: int) -> EventPage | None:
        skipped = after - self.first + 1
        if skipped < 0 or after > self.head:
            return None
        items: list[Event] = []
        chars = 0
        for row in self._rows[skipped : skipped + limit]:
            chars += row.chars
            if items and chars > PAGE_BYTES:
                break
            items.append(row.event(self.conversation_id))
        more = after + len(items) < self.head
        return EventPage(conversation_id=self.conversation_id, items=items, head=self.head, more=more)

    def _read_history(self, before: int, after: int | None, limit: int) -> MessagePage | None:
        first = self.first
        rows: Iterable[Row]
        if after is not None:
            if not first - 1 <= after <= self.head:
                return None
            rows = self._rows[after - first + 1 :]
            is_to_the_end = True
        else:
            if before and not first <= before <= self.head + 1:
                return None
            rows = reversed(self._rows[: before - first] if before else self._rows)
            is_to_the_end = first == 1
        found: list[Message] = []
        chars = 0
        more = False
        for row in rows:
            if not row.is_message:
                continue
            chars += row.chars
            more = len(found) == limit or (chars > PAGE_BYTES and bool(found))
            if more:
                break
            if row.is_in_doubt:
                return None
            found.append(row.message(self.conversation_id))
        if not (more or is_to_the_end):
            return None  # there may be older ones
        items = fitting(found)
        more = more or len(items) < len(found)
        return MessagePage(
            conversation_id=self.conversation_id, items=items if after is not None else items[::-1], more=more
        )

    def _doubt(self, seq: int) -> None:
        """The message of that seq is not any more what this tail knows."""
        index = seq - self.head + len(self._rows)  # the head is one ahead of the rows here
        if index >= 0:
            self._rows[index].is_in_doubt = self.has_doubts = True

    def _append(self, row: Row) -> None:
        self._rows.append(row)
        self.size_bytes += row.size_bytes

    def _cut(self) -> None:
        """Let go of the oldest rows where there are too many, or too large ones."""
        rows = self._rows
        count = len(rows) - MIN_ROWS if len(rows) > MAX_ROWS else 0
        freed_bytes = sum(row.size_bytes for row in rows[:count])
        while self.size_bytes - freed_bytes > MAX_TAIL_BYTES and count < len(rows):
            freed_bytes += rows[count].size_bytes
            count += 1
        if count:
            del rows[:count]
            self.size_bytes -= freed_bytes
            self.is_full = True  # a read of the store would not bring more
