"""Take in what the server pushes, put it in order, and read what is missing.

Everything durable goes through a `Stream`, which knows what is new; what is deliverable goes into the queue
that the user's iterator takes from. A stream that is behind is read page by page by a sync worker, as fast
as the user takes it. Before anybody listens nothing is kept, only remembered as missed.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, cast

import trio

from hubbub.asker import Asker
from hubbub.backoff import full_jitter_s
from hubbub.cursor_keeper import CursorKeeper
from hubbub.cursors import CursorStore
from hubbub.event_queue import EventQueue
from hubbub.feed_watch import FEED, FeedWatch
from hubbub.notification_watch import NOTIFICATIONS, Watchers
from hubbub.streams import CONVERSATION_EVENTS, INBOX_EVENTS, DurableEvent, Stream, stream_start
from protocol import commands as c
from protocol import events as e
from protocol import replies as r
from protocol.errors import HubbubError, Refused
from protocol.events import ConversationEvent, Event, InboxEvent
from protocol.feed_events import FeedChanged, FeedNews, FeedPosted, PostCounts
from protocol.notify_events import NotificationShown, NotificationsMarked
from protocol.replies import Reply

logger = logging.getLogger("hubbub")

SYNC_WORKERS: Final = 4  # conversations that catch up side by side after a reconnect
SYNC_PAGE: Final = 200  # events in one answer
# A user who does not read keeps the socket unread this long. Then reading goes on, and events without room
# are left to a later sync: the server closes a connection on which its writes were blocked for 10 s.
MAX_PAUSE_S: Final = 5.0
MAX_STALLED_SYNCS: Final = 5  # tries to reach a head that the server no longer has

History = Literal["new", "all"]


class Intake:
    """One client's streams and the queue of what it has to show. Its user takes, its connection gives."""

    def __init__(
        self,
        asker: Asker,
        cursors: CursorStore,
        *,
        history: History,
        focus: Sequence[str] | None,
        max_queued_events: int,
        chance: Callable[[], float],
    ) -> None:
        self.queue = EventQueue(max_queued_events)
        self.streams: dict[str, Stream] = {}
        self.inbox = Stream("")
        self.keeper = CursorKeeper(cursors, asker, self.streams, self.inbox)
        self.feed = FeedWatch(asker, self.queue, chance)
        self.notifications = Watchers(lambda: asker.ended)
        self.focus = None if focus is None else list(focus)
        self.is_listening = False
        self._asker = asker
        self.history: History = history
        self._chance = chance
        self._user_id = ""
        self._heads_complete = False
        self._is_welcomed = False
        self._is_consumed = False
        self._is_paused = False
        self._pause_wake = trio.Event()
        self._is_new_device = False
        self._joined: set[str] = set()  # conversations that the inbox said were new, until they are started
        self._behind: dict[Stream, None] = {}
        self._sync_wake = trio.Event()

    # -- the user's side ----------------------------------------------------------------------------

    def listen(self) -> bool:
        """Keep events from now on, and read what was missed. Returns whether nobody listened before."""
        if self.is_listening:
            return False
        self.is_listening = True
        self.feed.listen()
        self._note_all_behind()
        return True

    def start(self, nursery: trio.Nursery) -> None:
        """Start what only a listener needs: a client that only sends is a few tasks smaller."""
        nursery.start_soon(self.keeper.save_loop)
        for _ in range(SYNC_WORKERS):
            nursery.start_soon(self._sync_worker)

    async def next_event(self) -> tuple[Event, Stream | None]:
        """Wait for the next event and the stream whose cursor it moves. Raises: why the client is over."""
        if self._is_consumed:
            raise RuntimeError("events() has another consumer already")
        self._is_consumed = True
        try:
            while True:  # ends with an event, or with the client
                item = self.queue.get_nowait()
                if item is not None:
                    if self._is_paused and self.queue.has_room:
                        self._pause_wake.set()
                    await trio.lowlevel.checkpoint_if_cancelled()
                    return item
                self._asker.check_open()
                await self.queue.wait_ready()
        finally:
            self._is_consumed = False

    def confirm(self, stream: Stream, seq: int) -> None:
        """Note that the user is done with a stream up to `seq`."""
        if seq > stream.taken:
            stream.taken = seq
            self.keeper.mark(stream)

    def confirm_event(self, event: Event) -> None:
        """Note that the user is done with an event, and with all before it in its stream."""
        if type(event) in CONVERSATION_EVENTS:
            conversation_event = cast("ConversationEvent", event)
            stream = self.streams.get(conversation_event.conversation_id)
            if stream is not None:
                self.confirm(stream, conversation_event.seq)
        elif type(event) in INBOX_EVENTS:
            self.confirm(self.inbox, cast("InboxEvent", event).seq)

    def start_at(self, conversation_id: str, seq: int) -> None:
        """Skip a conversation's events up to `seq`: the user got them otherwise."""
        stream = self.streams.get(conversation_id)
        if stream is None:
            stream = self.streams[conversation_id] = Stream(conversation_id, seq)
        elif not stream.is_started:
            self._deliver(stream, stream.start_at(seq))
        elif seq > stream.received:
            self._deliver(stream, stream.merge_page((), seq) if not stream.buffer else ())
            stream.received = max(stream.received, seq)
            stream.taken = max(stream.taken, seq)
            self._deliver(stream, stream.merge_page((), stream.head))
        self.keeper.mark(stream)

    def on_focus(self) -> None:
        """Catch up with what has come on the screen."""
        for conversation_id in self.focus or ():
            stream = self.streams.get(conversation_id)
            if stream is not None:
                self._note_behind(stream)
        if self.focus is None:
            self._note_all_behind()

    # -- the connection's side ----------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether somebody listens who has not taken what waits."""
        return self.is_listening and not self.queue.has_room

    async def pause(self) -> None:
        """Wait until there is room, `resume` is called, or `MAX_PAUSE_S` are over."""
        self._pause_wake = trio.Event()
        self._is_paused = True
        with trio.move_on_after(MAX_PAUSE_S):
            await self._pause_wake.wait()
        self._is_paused = False

    def resume(self) -> None:
        """End a pause: an answer is awaited, so the socket must be read."""
        if self._is_paused:
            self._pause_wake.set()

    def take(self, message: Reply | Event) -> bool:
        """Take a pushed event. Returns False where the message is none of the intake's."""
        kind = type(message)
        if kind in CONVERSATION_EVENTS:
            self._on_conversation_event(cast("ConversationEvent", message))
        elif kind in INBOX_EVENTS:
            self._offer(self.inbox, cast("InboxEvent", message))
        elif isinstance(message, e.Heads):
            for item in message.items:
                self.learn_head(item.conversation_id, item.head)
            self._on_live(message)
        elif isinstance(message, e.Resync):
            if message.conversation_id == FEED:
                self.feed.on_resync()
            elif message.conversation_id == NOTIFICATIONS:
                self.notifications.miss()
            elif message.conversation_id:
                self.learn_head(message.conversation_id, message.head)
            else:
                self.learn_inbox_head(message.head)
        elif isinstance(message, (e.Typing, e.Receipts, e.Read, e.Presence)):
            self._on_live(message)
        elif isinstance(message, (FeedPosted, FeedNews, FeedChanged, PostCounts)):
            self.feed.take(message)
        elif isinstance(message, (NotificationShown, NotificationsMarked)):
            self.notifications.take(message)
            self._on_live(message)
        else:
            return False
        return True

    def on_welcome(self, welcome: r.Welcome) -> None:
        """Learn where the streams are, and decide where those begin of which this device knows nothing."""
        is_first = not self._is_welcomed and self.history == "new"
        self._is_welcomed = True
        self._user_id = welcome.user.user_id
        self._heads_complete = welcome.heads_complete
        for conversation_id, cursor in welcome.cursors.items():
            if conversation_id not in self.streams:
                self.streams[conversation_id] = Stream(conversation_id, cursor)
        if not self.inbox.is_started:
            self._is_new_device = not (welcome.cursors or welcome.inbox_cursor)
            self.inbox.start_at(0 if self.history == "all" else welcome.inbox_cursor or welcome.inbox_head)
            self.keeper.mark(self.inbox)
        self.inbox.learn_head(welcome.inbox_head)
        for head in welcome.heads:
            if is_first and self._is_new_device and head.conversation_id not in self.streams:
                # The past is not asked for: begin where this device first looks, and remember that.
                stream = self.streams[head.conversation_id] = Stream(head.conversation_id, head.head)
                self.keeper.mark(stream)
            else:
                self.learn_head(head.conversation_id, head.head)
        for stream in self.streams.values():
            if not stream.is_started and not stream.buffer and self.history == "all":
                stream.start_at(0)
        self._note_behind(self.inbox)
        self._note_all_behind()
        self.feed.on_welcome(welcome.now_ms)
        self.notifications.miss()

    def learn_inbox_head(self, head: int) -> None:
        """Note that the user's inbox reaches to `head`."""
        self.inbox.learn_head(head)
        self._note_behind(self.inbox)

    def learn_head(self, conversation_id: str, head: int) -> None:
        """Note that a conversation reaches to `head`."""
        stream = self.streams.get(conversation_id)
        if stream is None:
            stream = self.streams[conversation_id] = Stream(conversation_id)
        elif stream.is_gone:
            return
        stream.learn_head(head)
        if stream.is_behind:
            self._note_behind(stream)

    def _on_conversation_event(self, event: ConversationEvent) -> None:
        stream = self.streams.get(event.conversation_id)
        if stream is None:
            stream = self.streams[event.conversation_id] = Stream(event.conversation_id)
        if stream.is_gone:
            stream.is_gone = stream.is_started = False
        if not stream.is_started:
            start = 0 if self.history == "all" else stream_start(event, self._user_id)
            if start is None and not self.is_listening:
                start = event.seq - 1  # live since the welcome, which did not count it as behind
            if start is not None:
                self._deliver(stream, stream.start_at(start))
        self._offer(stream, event)

    def _offer(self, stream: Stream, event: DurableEvent) -> None:
        has_room = self.is_listening and self.queue.has_room
        self._deliver(stream, stream.offer(event, has_room=has_room))

    def _deliver(self, stream: Stream, events: Iterable[DurableEvent]) -> None:
        for event in events:
            if stream is self.inbox:
                self._follow_inbox(event)
            self.queue.put(event, stream)
        if stream.is_behind:
            self._note_behind(stream)

    def _follow_inbox(self, event: DurableEvent) -> None:
        if isinstance(event, e.ConversationAdded):
            stream = self.streams.get(event.conversation_id)
            if stream is None:
                stream = self.streams[event.conversation_id] = Stream(event.conversation_id)
            elif stream.is_gone:
                stream.is_gone = stream.is_started = False
            if not stream.is_started:
                self._joined.add(event.conversation_id)
                self._note_behind(stream)
        elif isinstance(event, e.ConversationRemoved):
            stream = self.streams.get(event.conversation_id)
            if stream is not None:
                stream.is_gone = True
                stream.buffer.clear()

    def _on_live(self, event: Event) -> None:
        if self.is_listening:
            self.queue.put_live(event)

    # -- catching up --------------------------------------------------------------------------------

    def _wants(self, stream: Stream) -> bool:
        return stream is self.inbox or self.focus is None or stream.conversation_id in self.focus

    def _note_behind(self, stream: Stream) -> None:
        if not self.is_listening or stream.is_syncing or not stream.is_behind or not self._wants(stream):
            return
        if stream not in self._behind:
            self._behind[stream] = None
            self._sync_wake.set()

    def _note_all_behind(self) -> None:
        self._note_behind(self.inbox)
        for stream in self.streams.values():
            self._note_behind(stream)

    async def _sync_worker(self) -> None:
        while True:  # until the client ends
            if not self._behind:
                self._sync_wake = trio.Event() if self._sync_wake.is_set() else self._sync_wake
                await self._sync_wake.wait()
                continue
            stream = next(iter(self._behind))
            del self._behind[stream]
            stream.is_syncing = True
            try:
                await self._catch_up(stream)
            finally:
                stream.is_syncing = False
            self._note_behind(stream)

    async def _catch_up(self, stream: Stream) -> None:
        """Read what a stream misses, page by page, as fast as the user takes it."""
        stalled = 0
        while stream.is_behind:
            await self.queue.wait_room()
            try:
                if not stream.is_started:
                    self._deliver(stream, stream.start_at(await self._find_start(stream)))
                    continue
                before = stream.received
                page = await self._read_page(stream)
            except Refused as exc:
                if exc is self._asker.ended:
                    await trio.sleep_forever()  # the client is over; its nursery ends this task
                if exc.code == "bad_cursor":
                    logger.warning("cursor_refused conversation_id=%s", stream.conversation_id)
                    stream.rewind()
                else:
                    logger.debug("sync_refused conversation_id=%s code=%s", stream.conversation_id, exc.code)
                    stream.is_gone = True
                    stream.buffer.clear()
                    return
                stalled += 1
            except HubbubError as exc:
                if exc is self._asker.ended:
                    await trio.sleep_forever()
                logger.warning("sync_failed conversation_id=%s code=%s", stream.conversation_id, exc.code)
                stalled += 1
                await trio.sleep(exc.retry_after_s or 0.0)
            else:
                self._deliver(stream, stream.merge_page(cast("list[DurableEvent]", page.items), page.head))
                if stream.received > before:
                    stalled = 0
                    continue
                stalled += 1
                if stalled > MAX_STALLED_SYNCS:  # a head was told that nobody can read; the next one heals it
                    logger.warning(
                        "head_unreachable conversation_id=%s head=%s received=%s",
                        stream.conversation_id,
                        stream.head,
                        stream.received,
                    )
                    stream.head = stream.received
                    stream.buffer.clear()
                    return
            if stream.is_behind:
                await trio.sleep(full_jitter_s(stalled, self._chance, first_delay_s=0.02, max_delay_s=5.0))

    async def _read_page(self, stream: Stream) -> r.EventPage:
        if stream is self.inbox:
            inbox = c.SyncInbox(id=self._asker.next_id(), after=stream.received, limit=SYNC_PAGE)
            return await self._asker.ask_now(inbox, r.EventPage)
        sync = c.Sync(
            id=self._asker.next_id(),
            conversation_id=stream.conversation_id,
            after=stream.received,
            limit=SYNC_PAGE,
        )
        return await self._asker.ask_now(sync, r.EventPage)

    async def _find_start(self, stream: Stream) -> int:
        """Decide where a conversation begins for this device that knows no cursor of it."""
        if self.history == "all":
            return 0
        known = min(stream.buffer, default=None)
        if known is not None and stream.conversation_id not in self._joined and not self._heads_complete:
            return known - 1  # it had no news when the device first looked; this is the first
        self._joined.discard(stream.conversation_id)
        command = c.GetConversation(id=self._asker.next_id(), conversation_id=stream.conversation_id)
        summary = (await self._asker.ask_now(command, r.ConversationInfo)).conversation
        stream.learn_head(summary.head)
        # Joining reads up to the join; what came after it is new to this user.
        return summary.read_seq if known is None else min(summary.read_seq, known - 1)
