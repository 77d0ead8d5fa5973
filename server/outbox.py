"""What waits to be written to one connection: answers, durable events, and live events that replace each
other.

The bound, and why it holds. Let B = 256 KiB and N = 512 frames.

- *Events* are admitted only while everything that waits stays within B and N.
- *Answers* are always admitted: they were promised when their command was read. The session bounds them: it
  reads the next command only while fewer than 32 are unanswered, fewer than N frames wait here, and
  `size_bytes` plus what unanswered commands may still bring (a page for each that is answered by a list) is
  below B. One command may be dispatched just below that mark, so at most B + one page + 32 small answers
  wait, in N + 32 frames.
- What the writer has taken and not yet written, 64 KiB or one longer answer, comes on top.
- *Announcements* (`Resync`) use only room that events could use.

What does not fit. A durable event that finds no room is dropped, and so is everything after it in its stream
until half of the outbox is free; then one `Resync` with the latest dropped head takes their place. So in each
stream a client sees events in order, then a Resync whose head covers the hole, then newer events. A live
event replaces the pending one with its key, in place (lists of items are merged, newer items win); one that
finds no room is announced by the same Resync where its loss matters.
"""

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import msgspec
import trio

from protocol.codec import Encoded, Wire, encode_frame
from protocol.events import Heads, Presence, Receipts, Resync
from protocol.limits import MAX_OUTBOX_BYTES, MAX_OUTBOX_FRAMES

LiveKey = str | tuple[str, ...]
"""Names what a live event is about, such as ("typing", conversation_id, user_id)."""

# With drops in more streams than this, a fresh connection serves the client better.
MAX_DROPPED_STREAMS: Final = 1000
# One write. Larger ones gain nothing, and a blocked one is judged by whether this much moved in 10 s.
COALESCED_WRITE_BYTES: Final = 64 * 1024
# Announce only when there is room again for a burst: else the next event is dropped and announced at once.
_RESUME_BYTES: Final = MAX_OUTBOX_BYTES // 2
_RESUME_FRAMES: Final = MAX_OUTBOX_FRAMES // 2

_T = TypeVar("_T")


class Sleeper(Protocol):
    """Who waits for something to take."""

    def wake(self) -> None:
        """There is something now. Synchronous; called once."""
        ...


class OutboxStats:
    """What the outboxes of a node did so far: plain numbers, read by the metrics."""

    __slots__ = ("coalesced_count", "dropped_count", "overflow_count", "resync_count")

    def __init__(self) -> None:
        self.coalesced_count = 0  # live events that took a pending one's place
        self.dropped_count = 0  # events that found no room
        self.resync_count = 0  # announcements of such drops
        self.overflow_count = 0  # connections with drops in more than 1,000 streams


class Outbox:
    """Hold what is to be written to one connection.

    Everything but `wait` is synchronous and runs in the Trio thread. `on_overflow` is called, once, when
    drops in more than 1,000 streams would have to be remembered.
    """

    __slots__ = (
        "_dropped",
        "_is_finished",
        "_live",
        "_on_overflow",
        "_queue",
        "_stats",
        "_wire",
        "size_bytes",
        "sleeper",
    )

    def __init__(self, wire: Wire, stats: OutboxStats, on_overflow: Callable[[], None]) -> None:
        self._wire = wire
        self._stats = stats
        self._on_overflow = on_overflow
        # A frame, or the key of the live event that stands here. A list: it is mostly emptied at once, and an
        # empty one is 700 bytes smaller than a deque.
        self._queue: list[bytes | LiveKey] = []
        self._live: dict[LiveKey, Encoded] = {}
        self._dropped: dict[str, int] = {}  # stream -> last dropped seq; 0 where only live events were lost
        self.sleeper: Sleeper | None = None  # told at the next push or reply, and then forgotten
        self._is_finished = False
        self.size_bytes = 0

    @property
    def frame_count(self) -> int:
        """How many frames wait."""
        return len(self._queue)

    @property
    def dropped_stream_count(self) -> int:
        """How many streams have drops that are not announced yet."""
        return len(self._dropped)

    # -- what the others put in ---------------------------------------------------------------------------

    def push(self, encoded: Encoded, stream: str, seq: int) -> bool:
        """Queue one durable event; tell whether there was room.

        `stream` is what a Resync names: the conversation_id, or "" for the user's inbox. Call by rising seq.
        """
        if self._dropped and stream in self._dropped:
            self._drop(stream, seq)
            return False
        frame = encoded.frame(self._wire)
        size_bytes = self.size_bytes + len(frame)
        if size_bytes > MAX_OUTBOX_BYTES or len(self._queue) >= MAX_OUTBOX_FRAMES:
            self._drop(stream, seq)
            return False
        self._queue.append(frame)
        self.size_bytes = size_bytes
        if self.sleeper is not None:
            self._wake()
        return True

    def push_live(self, key: LiveKey, encoded: Encoded, stream: str | None = None) -> bool:
        """Queue a live event, or put it in the place of the pending one with this key.

        `stream` is the Resync by which its loss is announced; None where loss does not matter (typing ends by
        itself). Pending receipts, presence and heads are merged by item, so one key may stand for a whole
        list.
        """
        pending = self._live.get(key)
        if pending is not None:
            encoded = _merge(pending, encoded)
            size_bytes = self.size_bytes - len(pending.frame(self._wire)) + len(encoded.frame(self._wire))
            if size_bytes > MAX_OUTBOX_BYTES:
                # Its place in the queue stays, empty; `take` skips it.
                del self._live[key]
                self.size_bytes -= len(pending.frame(self._wire))
                self._drop_live(stream, encoded)
                return False
            self._live[key] = encoded
            self.size_bytes = size_bytes
            self._stats.coalesced_count += 1
            return True
        size_bytes = self.size_bytes + len(encoded.frame(self._wire))
        if size_bytes > MAX_OUTBOX_BYTES or len(self._queue) >= MAX_OUTBOX_FRAMES:
            self._drop_live(stream, encoded)
            return False
        self._live[key] = encoded
        self._queue.append(key)
        self.size_bytes = size_bytes
        if self.sleeper is not None:
            self._wake()
        return True

    def reply(self, frame: bytes) -> None:
        """Queue an answer; there is always room (see above)."""
        self._queue.append(frame)
        self.size_bytes += len(frame)
        if self.sleeper is not None:
            self._wake()

    def reply_first(self, frame: bytes) -> None:
        """Queue an answer before everything else: `welcome` precedes events that came meanwhile."""
        self._queue.insert(0, frame)
        self.size_bytes += len(frame)
        if self.sleeper is not None:
            self._wake()

    def finish(self) -> None:
        """Let `wait` return at once from now on: the writer takes what is left and ends."""
        self._is_finished = True
        if self.sleeper is not None:
            self._wake()

    # -- what the writer takes out ------------------------------------------------------------------------

    @property
    def is_finished(self) -> bool:
        """Tell whether nothing more will be waited for."""
        return self._is_finished

    def take(self, max_bytes: int = COALESCED_WRITE_BYTES) -> bytes:
        """Remove and return whole frames of at most `max_bytes` together, or one that is larger; b"" if
        none."""
        if self._dropped:
            self._announce()
        queue = self._queue
        frames: list[bytes] = []
        size_bytes = taken_count = 0
        for item in queue:
            if isinstance(item, bytes):
                frame = item
            elif (encoded := self._live.get(item)) is not None:
                frame = encoded.frame(self._wire)
            else:
                taken_count += 1
                continue
            if frames and size_bytes + len(frame) > max_bytes:
                break
            if not isinstance(item, bytes):
                del self._live[item]
            frames.append(frame)
            size_bytes += len(frame)
            taken_count += 1
        del queue[:taken_count]
        self.size_bytes -= size_bytes
        return frames[0] if len(frames) == 1 else b"".join(frames)

    async def wait(self) -> None:
        """Return when there is something to take, or when finished. For the one writer task."""
        if self._queue or self._dropped or self._is_finished:
            await trio.lowlevel.checkpoint()
            return
        sleeper = self.sleeper = _SleepingTask(trio.lowlevel.current_task())
        await trio.lowlevel.wait_task_rescheduled(sleeper.abort)

    def _wake(self) -> None:
        sleeper, self.sleeper = self.sleeper, None
        if sleeper is not None:
            sleeper.wake()

    # -- what did not fit ---------------------------------------------------------------------------------

    def _drop_live(self, stream: str | None, encoded: Encoded) -> None:
        """Remember what a dropped live event would have told about durable ones."""
        event = encoded.event
        if stream is None:
            self._stats.dropped_count += 1
        elif isinstance(event, Heads):
            for item in event.items:
                self._drop(item.conversation_id, item.head)
        elif isinstance(event, Resync):
            self._drop(event.conversation_id, event.head)
        else:
            self._drop(stream, 0)

    def _drop(self, stream: str, seq: int) -> None:
        self._stats.dropped_count += 1
        head = self._dropped.get(stream)
        if head is not None:
            self._dropped[stream] = max(head, seq)
        elif len(self._dropped) < MAX_DROPPED_STREAMS:
            self._dropped[stream] = seq
        else:
            self._stats.overflow_count += 1
            self._on_overflow()

    def _announce(self) -> None:
        """Queue Resyncs for dropped streams while there is room for them."""
        if len(self._queue) > _RESUME_FRAMES or self.size_bytes > _RESUME_BYTES:
            return
        for stream in tuple(self._dropped):
            frame = encode_frame(Resync(conversation_id=stream, head=self._dropped[stream]), self._wire)
            if len(self._queue) >= MAX_OUTBOX_FRAMES or self.size_bytes + len(frame) > MAX_OUTBOX_BYTES:
                return
            del self._dropped[stream]
            self._queue.append(frame)
            self.size_bytes += len(frame)
            self._stats.resync_count += 1


class _SleepingTask:
    """The writer task of a connection that has one."""

    __slots__ = ("_task",)

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self._task: trio.lowlevel.Task | None = task

    def wake(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def abort(self, _raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


def _merge(pending: Encoded, newer: Encoded) -> Encoded:
    """Return what a client that missed `pending` must get instead of `newer`; usually `newer` itself."""
    old, new = pending.event, newer.event
    if isinstance(old, Receipts) and isinstance(new, Receipts):
        receipts = _union(old.items, new.items, lambda item: item.user_id)
        return newer if receipts is None else Encoded(msgspec.structs.replace(new, items=receipts))
    if isinstance(old, Presence) and isinstance(new, Presence):
        presence = _union(old.items, new.items, lambda item: item.user_id)
        return newer if presence is None else Encoded(msgspec.structs.replace(new, items=presence))
    if isinstance(old, Heads) and isinstance(new, Heads):
        heads = _union(old.items, new.items, lambda item: item.conversation_id)
        return newer if heads is None else Encoded(msgspec.structs.replace(new, items=heads))
    return newer


def _union(old: list[_T], new: list[_T], id_of: Callable[[_T], str]) -> list[_T] | None:
    """Return old items that `new` does not replace, then `new`; None where `new` replaces them all."""
    new_ids = {id_of(item) for item in new}
    kept = [item for item in old if id_of(item) not in new_ids]
    return kept + new if kept else None
