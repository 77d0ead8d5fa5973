"""The client: one signed-in device, connected for as long as its `async with` block lasts.

    async with hubbub.connect("http://127.0.0.1:8080", token=token) as client:
        await client.send(conversation_id, "hello")
        async for event in client.events():
            ...

Tasks, all in one nursery that ends with the block: the supervisor, which connects, and connects again; while
connected its reader, writer and heartbeat; two or more sync workers, which read what was missed; the saver of
cursors. One task writes to the socket and one reads from it.

What the user of `events()` may rely on: within one process each durable event comes exactly once, in the
order of its stream, however connections drop and whatever the live stream loses, repeats or reorders. The
cursor that survives a restart moves only when the next event is asked for, so an event whose handling was
cut short by a crash comes again after it.
"""

import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Final, Literal, TypeVar, cast

import msgspec
import trio

from hubbub.api import Commands, new_client_id
from hubbub.backoff import FIRST_DELAY_S, MAX_DELAY_S, full_jitter_s, jittered_s
from hubbub.calls import Call, CallTable
from hubbub.cursors import CursorStore, MemoryCursors
from hubbub.errors import ClientClosed, ConnectionLost, error_from_reply, fatal_close, is_retried
from hubbub.event_queue import EventQueue
from hubbub.link import Endpoint, Link, open_link, parse_url
from hubbub.streams import CONVERSATION_EVENTS, INBOX_EVENTS, DurableEvent, Stream, stream_start
from protocol import commands as c
from protocol import events as e
from protocol import replies as r
from protocol.codec import Wire
from protocol.commands import Command
from protocol.errors import HubbubError, Refused, Unavailable
from protocol.events import ConversationEvent, Event, InboxEvent
from protocol.limits import HEARTBEAT_TIMEOUT_S, MAX_CURSORS, MAX_PAGE, MAX_UNACKED_SENDS
from protocol.replies import Reply
from protocol.types import NodeInfo, PresenceItem, Profile, ServerLimits

logger = logging.getLogger("hubbub")

SYNC_WORKERS: Final = 4  # conversations that catch up side by side after a reconnect
SYNC_PAGE: Final = 200  # events in one answer
MAX_CALLS: Final = 64  # commands other than sends that may wait at a time; more callers wait their turn
MAX_QUEUED_EVENTS: Final = 1_000  # events that wait for the user; then the socket is not read
# A user who does not read keeps the socket unread this long. Then reading goes on, and events without room
# are left to a later sync: the server closes a connection on which its writes were blocked for 10 s.
MAX_PAUSE_S: Final = 5.0
HELLO_ANSWER_TIMEOUT_S: Final = 15.0  # a node that cannot say welcome by then is not of use
ACK_INTERVAL_S: Final = 1.0  # delivered receipts are told this soon, all together
SAVE_INTERVAL_S: Final = 0.5  # cursors are saved at most this often
STABLE_AFTER_S: Final = 5.0  # a connection that lived this long resets the backoff
MAX_STALLED_SYNCS: Final = 5  # tries to reach a head that the server no longer has
CLIENT_NAME: Final = "hubbub-python/0.1"

ReplyT = TypeVar("ReplyT", bound=msgspec.Struct)
History = Literal["new", "all"]
TokenSource = str | Callable[[], Awaitable[str]]


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """How the client waits between attempts to connect: see `hubbub.backoff`."""

    first_delay_s: float = FIRST_DELAY_S
    max_delay_s: float = MAX_DELAY_S


class Ticket:
    """A send under way. `wait` gives the ack."""

    __slots__ = ("_call", "_client", "client_id")

    def __init__(self, client: "Client", call: Call, client_id: str) -> None:
        self._client = client
        self._call = call
        self.client_id = client_id

    async def wait(self) -> r.Sent:
        """Wait until the message is stored for good. Raises: what the server refused it with.

        When the waiting is cancelled the client stops sending it again; it may have been stored.
        """
        return cast("r.Sent", await self._client._wait_call(self._call))


class Events:
    """An iterator over a client's events. See `Client.events`."""

    def __init__(self, client: "Client", auto_confirm: bool) -> None:
        self._client = client
        self._auto_confirm = auto_confirm
        self._taken: tuple[Stream, int] | None = None

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> Event:
        if self._taken is not None:
            self._client._confirm(*self._taken)
            self._taken = None
        event, stream = await self._client._next_event()
        if stream is not None and self._auto_confirm:
            self._taken = (stream, cast("DurableEvent", event).seq)
        return event


class Client(Commands):
    """A connected device. Made by `connect`."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        token: TokenSource,
        device_id: str,
        cursors: CursorStore,
        history: History,
        focus: Sequence[str] | None,
        client_name: str,
        backoff: Backoff,
        max_queued_events: int,
        ssl_context: ssl.SSLContext | None,
        rng: random.Random,
    ) -> None:
        self.device_id = device_id
        self._endpoint = endpoint
        self._token = token
        self._cursors = cursors
        self._history: History = history
        self._focus = None if focus is None else list(focus)
        self._client_name = client_name
        self._backoff = backoff
        self._ssl_context = ssl_context
        self._rng = rng

        self._calls = CallTable(chance=rng.random, on_send_settled=self._on_send_settled)
        self._send_slots = trio.Semaphore(MAX_UNACKED_SENDS)
        self._call_slots = trio.Semaphore(MAX_CALLS)
        self._write_wake = trio.Event()

        self._welcome: r.Welcome | None = None
        self._opened = trio.Event()  # welcomed for the first time, or ended before that
        self._ended: HubbubError | None = None
        self._lost: ConnectionLost | None = None
        self._last_error: r.Error | None = None
        self._moving_to: list[NodeInfo] | None = None
        self._nodes: list[Endpoint] = []
        self._connection_scope: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._link: Link | None = None  # while a session is open
        self._heard_at = 0.0
        self._is_paused = False
        self._pause_wake = trio.Event()
        self._presence: c.WatchPresence | None = None

        self._queue = EventQueue(max_queued_events)
        self._is_listening = False
        self._is_consumed = False
        self._streams: dict[str, Stream] = {}
        self._inbox = Stream("")
        self._is_new_device = False
        self._joined: set[str] = set()  # conversations that the inbox said were new, until they are started
        self._behind: dict[Stream, None] = {}
        self._sync_wake = trio.Event()
        self._unsaved: set[str] = set()
        self._is_inbox_unsaved = False
        self._unacked: set[str] = set()
        self._is_inbox_unacked = False
        self._dirty = trio.Event()
        self._ack_wake = trio.Event()

    # -- what is known of the session ---------------------------------------------------------------

    @property
    def welcome(self) -> r.Welcome:
        """The latest welcome: who is signed in, on which node, with which limits."""
        assert self._welcome is not None  # connect() waits for it before it hands the client out
        return self._welcome

    @property
    def user(self) -> Profile:
        """The signed-in user, as of the latest welcome."""
        return self.welcome.user

    @property
    def user_id(self) -> str:
        return self.welcome.user.user_id

    @property
    def limits(self) -> ServerLimits:
        return self.welcome.limits

    @property
    def is_connected(self) -> bool:
        """Whether a session is open now. Calls wait while it is not; nobody needs to ask before calling."""
        return self._link is not None

    @property
    def is_closed(self) -> bool:
        """Whether the client is over: its block ended, or the server ended the session for good."""
        return self._ended is not None

    def cursor(self, conversation_id: str) -> int:
        """Return the seq up to which the user of `events()` is done with a conversation; 0 if unknown."""
        stream = self._streams.get(conversation_id)
        return stream.taken if stream is not None else 0

    # -- sending ------------------------------------------------------------------------------------

    async def send(
        self,
        conversation_id: str,
        text: str = "",
        *,
        reply_to: int = 0,
        thread: int = 0,
        mentions: Sequence[str] = (),
        file_ids: Sequence[str] = (),
        client_id: str | None = None,
        timeout_s: float | None = None,
    ) -> r.Sent:
        """Post a message and wait until it is stored for good, exactly once.

        Without an answer the send is repeated with the same client_id, over reconnects and after every
        refusal that means "later", until it is acked, refused for good, or the caller stops waiting.
        `timeout_s` limits that; then `Unavailable("timeout")` is raised, and the message may or may not have
        been stored: sending again with the same `client_id` is safe. At most 32 sends are unanswered at a
        time; further callers wait. Sends to one conversation are stored in the order of the calls.

        Raises: Refused, Unavailable, ProtocolError.
        """
        with trio.move_on_after(inf if timeout_s is None else timeout_s):
            ticket = await self.start_send(
                conversation_id,
                text,
                reply_to=reply_to,
                thread=thread,
                mentions=mentions,
                file_ids=file_ids,
                client_id=client_id,
            )
            return await ticket.wait()
        raise Unavailable("timeout", f"The message was not acknowledged within {timeout_s:g} s.")

    async def start_send(
        self,
        conversation_id: str,
        text: str = "",
        *,
        reply_to: int = 0,
        thread: int = 0,
        mentions: Sequence[str] = (),
        file_ids: Sequence[str] = (),
        client_id: str | None = None,
    ) -> Ticket:
        """Queue a message and return at once, unless 32 are unanswered already: then wait for room."""
        self._check_open()
        await _acquire(self._send_slots)
        if self._ended is not None:
            self._send_slots.release()
            self._check_open()
        key = client_id or new_client_id()
        command = c.Send(
            id=self._calls.next_id(),
            conversation_id=conversation_id,
            client_id=key,
            text=text,
            reply_to=reply_to,
            thread=thread,
            mentions=list(mentions),
            file_ids=list(file_ids),
        )
        call = self._calls.add(command)
        self._write_wake.set()
        return Ticket(self, call, key)

    def _on_send_settled(self) -> None:
        self._send_slots.release()
        self._write_wake.set()

    def _next_id(self) -> int:
        return self._calls.next_id()

    async def _ask(self, command: Command, reply_type: type[ReplyT]) -> ReplyT:
        self._check_open()
        await _acquire(self._call_slots)
        try:
            return await self._ask_now(command, reply_type)
        finally:
            self._call_slots.release()

    async def _ask_now(self, command: Command, reply_type: type[ReplyT]) -> ReplyT:
        """Ask without a slot: for the client's own tasks, which are few."""
        self._check_open()
        call = self._calls.add(command)
        self._write_wake.set()
        reply = await self._wait_call(call)
        if not isinstance(reply, reply_type):
            raise Refused("bad_request", f"The server answered with {type(reply).__name__}.")
        return reply

    async def _wait_call(self, call: Call) -> Reply:
        try:
            return await call.wait()
        except trio.Cancelled:
            self._calls.give_up(call, Unavailable("timeout", "The caller stopped waiting."))
            raise

    def _check_open(self) -> None:
        if self._ended is not None:
            raise self._ended

    # -- what is on the screen ----------------------------------------------------------------------

    async def focus(self, conversation_ids: Sequence[str] | None) -> None:
        """Say what is on the screen. None: every conversation live.

        With a list, the other conversations send coalesced `Heads` only, and are not synced.
        """
        self._focus = None if conversation_ids is None else list(conversation_ids)
        await self._ask(c.Focus(id=self._next_id(), conversation_ids=self._focus), r.Ok)
        for conversation_id in self._focus or ():
            stream = self._streams.get(conversation_id)
            if stream is not None:
                self._note_behind(stream)
        if self._focus is None:
            self._note_all_behind()

    def start_at(self, conversation_id: str, seq: int) -> None:
        """Skip events up to `seq`: the user got them otherwise, for example from `history()`."""
        stream = self._streams.get(conversation_id)
        if stream is None:
            stream = self._streams[conversation_id] = Stream(conversation_id, seq)
        elif not stream.is_started:
            self._deliver(stream, stream.start_at(seq))
        elif seq > stream.received:
            self._deliver(stream, stream.merge_page((), seq) if not stream.buffer else ())
            stream.received = max(stream.received, seq)
            stream.taken = max(stream.taken, seq)
            self._deliver(stream, stream.merge_page((), stream.head))
        self._mark_cursor(stream)

    async def set_active(self, active: bool) -> None:
        """Say that the person is at the device, or has gone away from it."""
        await self._ask(c.Activity(id=self._next_id(), active=active), r.Ok)

    async def watch_presence(self, user_ids: Iterable[str], *, contacts: bool = False) -> list[PresenceItem]:
        """Replace the set of users whose presence is told; kept over reconnects."""
        command = c.WatchPresence(id=self._next_id(), user_ids=list(user_ids), contacts=contacts)
        self._presence = command
        return (await self._ask(command, r.PresenceList)).items

    # -- events: the user's side --------------------------------------------------------------------

    def events(self, *, auto_confirm: bool = True) -> Events:
        """Iterate over everything that happens, typed.

        Durable events come in the order of their stream, each once; live events (typing, receipts, presence,
        read, heads) as they come. Before the first call nothing is kept, only remembered as missed, so that
        a client that only sends costs no memory. One consumer at a time. The iteration ends with an
        exception: the reason why the server ended the session, or `ClientClosed`.

        Asking for the next event confirms the one before: only then its cursor is told to the server and
        saved. With `auto_confirm=False` the caller confirms by `confirm(event)`.
        """
        if not self._is_listening:
            self._is_listening = True
            self._note_all_behind()
            if self._nursery is not None and self._ended is None:
                self._start_listening(self._nursery)
        return Events(self, auto_confirm)

    def confirm(self, event: Event) -> None:
        """Mark a durable event, and all before it in its stream, as handled."""
        if type(event) in CONVERSATION_EVENTS:
            conversation_event = cast("ConversationEvent", event)
            stream = self._streams.get(conversation_event.conversation_id)
            if stream is not None:
                self._confirm(stream, conversation_event.seq)
        elif type(event) in INBOX_EVENTS:
            self._confirm(self._inbox, cast("InboxEvent", event).seq)

    def _confirm(self, stream: Stream, seq: int) -> None:
        if seq > stream.taken:
            stream.taken = seq
            self._mark_cursor(stream)

    def _mark_cursor(self, stream: Stream) -> None:
        if stream is self._inbox:
            self._is_inbox_unsaved = self._is_inbox_unacked = True
        else:
            self._unsaved.add(stream.conversation_id)
            self._unacked.add(stream.conversation_id)
        self._dirty.set()
        self._ack_wake.set()

    async def _next_event(self) -> tuple[Event, Stream | None]:
        if self._is_consumed:
            raise RuntimeError("events() has another consumer already")
        self._is_consumed = True
        try:
            while True:  # ends with an event, or with the client
                item = self._queue.get_nowait()
                if item is not None:
                    if self._is_paused and self._queue.has_room:
                        self._pause_wake.set()
                    await trio.lowlevel.checkpoint_if_cancelled()
                    return item
                self._check_open()
                await self._queue.wait_ready()
        finally:
            self._is_consumed = False

    # -- events: the connection's side --------------------------------------------------------------

    def _on_message(self, message: Reply | Event) -> None:
        """Take one message. Raises: ConnectionLost where it is a goodbye."""
        kind = type(message)
        if kind in CONVERSATION_EVENTS:
            self._on_conversation_event(cast("ConversationEvent", message))
        elif kind in INBOX_EVENTS:
            self._offer(self._inbox, cast("InboxEvent", message))
        elif isinstance(message, r.Welcome):
            self._on_welcome(message)
            self._calls.answer(message, trio.current_time())
        elif isinstance(message, e.Heads):
            for item in message.items:
                self._on_head(item.conversation_id, item.head)
            self._on_live(message)
        elif isinstance(message, e.Resync):
            if message.conversation_id:
                self._on_head(message.conversation_id, message.head)
            else:
                self._inbox.learn_head(message.head)
                self._note_behind(self._inbox)
        elif isinstance(message, e.Reconnect):
            self._on_reconnect(message)
        elif isinstance(message, e.Closing):
            raise ConnectionLost(message.reason or "closed by the server", message.code)
        elif isinstance(message, (e.Typing, e.Receipts, e.Read, e.Presence)):
            self._on_live(message)
        else:
            reply = cast("Reply", message)
            if isinstance(reply, r.Error) and reply.id == 0:
                self._last_error = reply
            elif self._calls.answer(reply, trio.current_time()):
                self._write_wake.set()

    def _on_conversation_event(self, event: ConversationEvent) -> None:
        stream = self._streams.get(event.conversation_id)
        if stream is None:
            stream = self._streams[event.conversation_id] = Stream(event.conversation_id)
        if stream.is_gone:
            stream.is_gone = stream.is_started = False
        if not stream.is_started:
            start = 0 if self._history == "all" else stream_start(event, self.user_id)
            if start is None and not self._is_listening:
                start = event.seq - 1  # live since the welcome, which did not count it as behind
            if start is not None:
                self._deliver(stream, stream.start_at(start))
        self._offer(stream, event)

    def _offer(self, stream: Stream, event: DurableEvent) -> None:
        has_room = self._is_listening and self._queue.has_room
        self._deliver(stream, stream.offer(event, has_room=has_room))

    def _deliver(self, stream: Stream, events: Iterable[DurableEvent]) -> None:
        for event in events:
            if stream is self._inbox:
                self._follow_inbox(event)
            self._queue.put(event, stream)
        if stream.is_behind:
            self._note_behind(stream)

    def _follow_inbox(self, event: DurableEvent) -> None:
        if isinstance(event, e.ConversationAdded):
            stream = self._streams.get(event.conversation_id)
            if stream is None:
                stream = self._streams[event.conversation_id] = Stream(event.conversation_id)
            elif stream.is_gone:
                stream.is_gone = stream.is_started = False
            if not stream.is_started:
                self._joined.add(event.conversation_id)
                self._note_behind(stream)
        elif isinstance(event, e.ConversationRemoved):
            stream = self._streams.get(event.conversation_id)
            if stream is not None:
                stream.is_gone = True
                stream.buffer.clear()

    def _on_head(self, conversation_id: str, head: int) -> None:
        stream = self._streams.get(conversation_id)
        if stream is None:
            stream = self._streams[conversation_id] = Stream(conversation_id)
        elif stream.is_gone:
            return
        stream.learn_head(head)
        if stream.is_behind:
            self._note_behind(stream)

    def _on_live(self, event: Event) -> None:
        if self._is_listening:
            self._queue.put_live(event)

    def _on_reconnect(self, event: e.Reconnect) -> None:
        if self._moving_to is None:
            self._moving_to = event.nodes
            logger.info("reconnect_asked within_s=%s reason=%s", event.within_s, event.reason)
            assert self._connection_scope is not None
            # Its own deadline does the waiting: whatever comes until then is still delivered.
            self._connection_scope.deadline = trio.current_time() + event.within_s * self._rng.random()

    def _on_welcome(self, welcome: r.Welcome) -> None:
        is_first = self._welcome is None and self._history == "new"
        self._welcome = welcome
        self._calls.window = max(1, min(MAX_UNACKED_SENDS, welcome.limits.max_unacked_sends))
        self._nodes = [
            endpoint
            for node in welcome.nodes
            if (endpoint := node_endpoint(node, self._endpoint)) is not None
        ]
        for conversation_id, cursor in welcome.cursors.items():
            if conversation_id not in self._streams:
                self._streams[conversation_id] = Stream(conversation_id, cursor)
        if not self._inbox.is_started:
            self._is_new_device = not (welcome.cursors or welcome.inbox_cursor)
            self._inbox.start_at(0 if self._history == "all" else welcome.inbox_cursor or welcome.inbox_head)
            self._mark_cursor(self._inbox)
        self._inbox.learn_head(welcome.inbox_head)
        for head in welcome.heads:
            if is_first and self._is_new_device and head.conversation_id not in self._streams:
                # The past is not asked for: begin where this device first looks, and remember that.
                stream = self._streams[head.conversation_id] = Stream(head.conversation_id, head.head)
                self._mark_cursor(stream)
            else:
                self._on_head(head.conversation_id, head.head)
        for stream in self._streams.values():
            if not stream.is_started and not stream.buffer and self._history == "all":
                stream.start_at(0)
        self._note_behind(self._inbox)
        self._note_all_behind()
        self._opened.set()

    # -- catching up --------------------------------------------------------------------------------

    def _wants(self, stream: Stream) -> bool:
        return stream is self._inbox or self._focus is None or stream.conversation_id in self._focus

    def _note_behind(self, stream: Stream) -> None:
        if not self._is_listening or stream.is_syncing or not stream.is_behind or not self._wants(stream):
            return
        if stream not in self._behind:
            self._behind[stream] = None
            self._sync_wake.set()

    def _note_all_behind(self) -> None:
        self._note_behind(self._inbox)
        for stream in self._streams.values():
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
            await self._queue.wait_room()
            try:
                if not stream.is_started:
                    self._deliver(stream, stream.start_at(await self._find_start(stream)))
                    continue
                before = stream.received
                page = await self._read_page(stream)
            except Refused as exc:
                if exc is self._ended:
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
                if exc is self._ended:
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
                await trio.sleep(
                    full_jitter_s(stalled, self._rng.random, first_delay_s=0.02, max_delay_s=5.0)
                )

    async def _read_page(self, stream: Stream) -> r.EventPage:
        if stream is self._inbox:
            inbox = c.SyncInbox(id=self._next_id(), after=stream.received, limit=SYNC_PAGE)
            return await self._ask_now(inbox, r.EventPage)
        sync = c.Sync(
            id=self._next_id(),
            conversation_id=stream.conversation_id,
            after=stream.received,
            limit=SYNC_PAGE,
        )
        return await self._ask_now(sync, r.EventPage)

    async def _find_start(self, stream: Stream) -> int:
        """Decide where a conversation begins for this device that knows no cursor of it."""
        if self._history == "all":
            return 0
        known = min(stream.buffer, default=None)
        if (
            known is not None
            and stream.conversation_id not in self._joined
            and not self.welcome.heads_complete
        ):
            return known - 1  # it had no news when the device first looked; this is the first
        self._joined.discard(stream.conversation_id)
        command = c.GetConversation(id=self._next_id(), conversation_id=stream.conversation_id)
        summary = (await self._ask_now(command, r.ConversationInfo)).conversation
        stream.learn_head(summary.head)
        # Joining reads up to the join; what came after it is new to this user.
        return summary.read_seq if known is None else min(summary.read_seq, known - 1)

    async def _discover(self) -> None:
        """With history="all": find every conversation, also those without news."""
        await self._opened.wait()
        try:
            async for summary in self.list_conversations(page_size=MAX_PAGE):
                self._on_head(summary.conversation_id, summary.head)
        except HubbubError as exc:
            if exc is not self._ended:
                logger.warning("discovery_failed code=%s", exc.code)

    # -- tasks --------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Live until cancelled, or until the server ends the session for good."""
        saved = await self._cursors.load()
        for conversation_id, cursor in saved.conversations.items():
            self._streams[conversation_id] = Stream(conversation_id, cursor)
        if saved.inbox is not None:
            self._inbox.start_at(saved.inbox)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._is_listening:
                self._start_listening(nursery)
            try:
                await self._supervise()
            except HubbubError as exc:
                self._end(exc)
            nursery.cancel_scope.cancel()

    def _start_listening(self, nursery: trio.Nursery) -> None:
        """Start what only a user of events() needs: a client that only sends is a few tasks smaller."""
        nursery.start_soon(self._save_loop)
        for _ in range(SYNC_WORKERS):
            nursery.start_soon(self._sync_worker)
        if self._history == "all":
            nursery.start_soon(self._discover)

    def _end(self, reason: HubbubError) -> None:
        """Tell everybody who waits that the client is over."""
        if self._ended is None:
            self._ended = reason
        self._calls.fail_all(lambda: reason)
        self._queue.wake()
        self._opened.set()

    async def _supervise(self) -> None:
        """Connect, and connect again. Raises: HubbubError when that is of no more use."""
        attempt = 0
        while True:  # until cancelled, or ended for good
            started = trio.current_time()
            lost, retry_after_s = await self._connect_once(self._pick_endpoint(attempt))
            if self._ended is not None:
                return  # closed by its user
            fatal = fatal_close(lost, self._last_error)
            if fatal is not None:
                raise fatal
            if trio.current_time() - started >= STABLE_AFTER_S:
                attempt = 0
            if lost.reason == _MOVING:
                continue
            delay_s = full_jitter_s(
                attempt,
                self._rng.random,
                first_delay_s=self._backoff.first_delay_s,
                max_delay_s=self._backoff.max_delay_s,
                at_least_s=retry_after_s,
            )
            logger.info("reconnecting reason=%r attempt=%s delay_s=%.2f", str(lost), attempt, delay_s)
            attempt += 1
            await trio.sleep(delay_s)

    def _pick_endpoint(self, attempt: int) -> Endpoint:
        if self._moving_to is not None:
            better = [
                endpoint
                for node in self._moving_to
                if (endpoint := node_endpoint(node, self._endpoint)) is not None
            ]
            self._moving_to = None
            if better:
                return better[0]
        if attempt < 2 or not self._nodes:
            return self._endpoint
        # The address that the user gave takes part: it may be a load balancer.
        return self._rng.choice([self._endpoint, *self._nodes])

    async def _connect_once(self, endpoint: Endpoint) -> tuple[ConnectionLost, float]:
        """Connect and serve one connection until it is lost. Raises: HubbubError where hello is refused."""
        self._lost = None
        self._last_error = None
        refused: HubbubError | None = None
        link: Link | None = None
        async with trio.open_nursery() as nursery:
            self._connection_scope = nursery.cancel_scope
            try:
                link = await open_link(nursery, endpoint, ssl_context=self._ssl_context)
                refused = await self._greet(link)
                if refused is None:
                    self._link = link
                    self._heard_at = trio.current_time()
                    nursery.start_soon(self._guard, self._write_loop, link)
                    nursery.start_soon(self._guard, self._heartbeat_loop, link)
                    nursery.start_soon(self._guard, self._ack_loop, link)
                    await self._read_loop(link)
            except ConnectionLost as lost:
                self._note_lost(lost)
            finally:
                self._connection_scope = None
                self._link = None
                if link is not None:
                    with trio.CancelScope(shield=True):
                        await link.abort()
                nursery.cancel_scope.cancel()
        # Not before the writer has ended: it might take a call for a link that is dead already.
        self._calls.on_connection_lost()
        if self._moving_to is not None and self._lost is None:
            self._lost = ConnectionLost(_MOVING)
        if refused is not None:
            if isinstance(refused, Unavailable):
                return ConnectionLost(str(refused)), refused.retry_after_s or 0.0
            raise refused
        assert self._lost is not None
        return self._lost, 0.0

    def _note_lost(self, lost: ConnectionLost) -> None:
        if self._lost is None:  # the first finding is the cause, the others follow from it
            self._lost = lost

    async def _guard(self, task: Callable[[Link], Awaitable[None]], link: Link) -> None:
        """Run a task of one connection; where it finds the connection lost, end its other tasks too."""
        try:
            await task(link)
        except ConnectionLost as lost:
            self._note_lost(lost)
            if self._connection_scope is not None:
                self._connection_scope.cancel()

    async def _greet(self, link: Link) -> HubbubError | None:
        """Say hello and take the welcome. Returns why the server refused, if it did.

        Raises: ConnectionLost.
        """
        token = self._token if isinstance(self._token, str) else await self._token()
        has_cursors = bool(self._streams) or self._inbox.is_started
        hello = c.Hello(
            id=self._next_id(),
            token=token,
            device_id=self.device_id,
            client=self._client_name,
            cursors=self._cursors_to_tell() if has_cursors else None,
            inbox_cursor=self._inbox.taken if self._inbox.is_started else None,
            focus=self._focus,
        )
        call = self._calls.put_on_wire(hello)
        with trio.move_on_after(HELLO_ANSWER_TIMEOUT_S):
            await link.send([hello])
            while not call.is_settled:
                for message in await link.receive():
                    if isinstance(message, r.Error) and message.id == hello.id:
                        if is_retried(message) or message.retry_after_s is not None:
                            return Unavailable(
                                message.code, message.message, retry_after_s=message.retry_after_s or 0.0
                            )
                        return error_from_reply(message)
                    self._on_message(message)
        if not call.is_settled:
            raise ConnectionLost("no welcome came in time")
        if self._presence is not None:
            self._presence = msgspec.structs.replace(self._presence, id=self._next_id())
            self._calls.add(self._presence)
        return None

    async def _read_loop(self, link: Link) -> None:
        while True:  # until the connection is lost
            if self._is_listening and not self._queue.has_room and not self._calls.has_answers_due:
                await self._pause()
            for message in await link.receive():
                self._on_message(message)
            self._heard_at = trio.current_time()

    async def _pause(self) -> None:
        """Leave the socket unread while the user has no room for events and no answer is awaited."""
        self._pause_wake = trio.Event()
        self._is_paused = True
        with trio.move_on_after(MAX_PAUSE_S):
            await self._pause_wake.wait()
        self._is_paused = False

    async def _write_loop(self, link: Link) -> None:
        calls = self._calls
        while True:  # until the connection is lost
            batch = calls.take(trio.current_time())
            if batch:
                if self._is_paused:
                    self._pause_wake.set()
                await link.send(batch)
                continue
            if self._write_wake.is_set():
                self._write_wake = trio.Event()
                continue  # look once more: something may have come between take and the new event
            due = calls.next_due()
            if due is None:
                await self._write_wake.wait()
            else:
                with trio.move_on_at(due):
                    await self._write_wake.wait()

    async def _heartbeat_loop(self, link: Link) -> None:
        while True:  # until the connection is lost
            interval_s = jittered_s(self.welcome.heartbeat_interval_s, self._rng.random)
            await trio.sleep(interval_s)
            heartbeat = c.Heartbeat(
                id=self._next_id(), cursors=self._cursors_to_tell(), inbox_cursor=self._inbox.taken
            )
            asked_at = trio.current_time()
            answer: r.HeartbeatAck | None = None
            try:
                with trio.move_on_after(HEARTBEAT_TIMEOUT_S / 2):
                    answer = await self._ask_now(heartbeat, r.HeartbeatAck)
                if answer is None and self._heard_at < asked_at:
                    raise ConnectionLost("the server is silent")
            except Unavailable as exc:
                logger.debug("heartbeat_unanswered code=%s", exc.code)
            if answer is not None:
                self._inbox.learn_head(answer.inbox_head)
                self._note_behind(self._inbox)
                for head in answer.heads:
                    self._on_head(head.conversation_id, head.head)

    async def _ack_loop(self, link: Link) -> None:
        """Tell the server how far the user has got, about once a second while that moves."""
        while True:  # until the connection is lost
            await self._ack_wake.wait()
            await trio.sleep(ACK_INTERVAL_S)
            self._ack_wake = trio.Event()
            self._tell_cursors()

    def _tell_cursors(self) -> None:
        names = [name for name in self._unacked if self._streams[name].is_started]
        self._unacked.clear()
        self._is_inbox_unacked = False
        for start in range(0, max(1, len(names)), MAX_CURSORS):
            cursors = {name: self._streams[name].taken for name in names[start : start + MAX_CURSORS]}
            # Nobody waits for the answer; a lost one is made good by the next heartbeat.
            self._calls.add(c.Ack(id=self._next_id(), cursors=cursors, inbox_cursor=self._inbox.taken))
        self._write_wake.set()

    def _cursors_to_tell(self) -> dict[str, int]:
        cursors: dict[str, int] = {}
        for stream in reversed(self._streams.values()):  # the newest conversations first, where not all fit
            if stream.is_started and not stream.is_gone:
                cursors[stream.conversation_id] = stream.taken
                if len(cursors) == MAX_CURSORS:
                    break
        return cursors

    async def _save_loop(self) -> None:
        while True:  # until the client ends
            await self._dirty.wait()
            await trio.sleep(SAVE_INTERVAL_S)
            await self.save_cursors()

    async def save_cursors(self) -> None:
        """Save the cursors now; the client does it by itself twice a second and at the end."""
        self._dirty = trio.Event()
        self._is_inbox_unsaved = False
        names, self._unsaved = self._unsaved, set()
        changed: Mapping[str, int] = {
            name: stream.taken for name in names if (stream := self._streams[name]).is_started
        }
        try:
            await self._cursors.save(changed, self._inbox.taken)
        except BaseException:
            self._unsaved |= names
            self._dirty.set()
            raise

    async def _close(self) -> None:
        """Tell and save where the user was, say goodbye, and wake everybody who still waits."""
        link = self._link
        if link is not None and self._ended is None and (self._unacked or self._is_inbox_unacked):
            # Where no store keeps the cursors, the server's memory of them is what the next start finds.
            with trio.move_on_after(1.0), suppress(HubbubError):
                ack = c.Ack(
                    id=self._next_id(), cursors=self._cursors_to_tell(), inbox_cursor=self._inbox.taken
                )
                await self._ask_now(ack, r.Ok)
        self._end(ClientClosed())
        if link is not None:
            await link.close()
        if self._dirty.is_set() or self._unsaved or self._is_inbox_unsaved:
            with trio.move_on_after(5.0):
                await self.save_cursors()

    async def _wait_opened(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            await self._opened.wait()
        if self._ended is not None:
            raise self._ended
        if self._welcome is None:
            reason = f" ({self._lost})" if self._lost is not None else ""
            raise Unavailable("timeout", f"{self._endpoint} was not reached within {timeout_s:g} s{reason}.")


_MOVING: Final = "moving to another node"


def node_endpoint(node: NodeInfo, like: Endpoint) -> Endpoint | None:
    """Return where a node is reached by the transport in use; None where it does not offer it.

    A connection with TLS is never continued without.
    """
    address = node.bot_address if like.wire is Wire.MSGPACK_TCP else node.url
    if not address:
        return None
    if like.wire is Wire.MSGPACK_TCP and "://" not in address:
        address = f"hubbub{'s' if like.is_tls else ''}://{address}"
    try:
        endpoint = parse_url(address, wire=like.wire)
    except ValueError:
        return None
    if (like.is_tls and not endpoint.is_tls) or endpoint.wire is not like.wire:
        return None
    return endpoint


async def _acquire(slots: trio.Semaphore) -> None:
    """Take a slot; without waiting, and without a trip through the scheduler, where one is free."""
    try:
        slots.acquire_nowait()
    except trio.WouldBlock:
        await slots.acquire()


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: TokenSource,
    device_id: str | None = None,
    cursors: CursorStore | None = None,
    history: History = "new",
    focus: Sequence[str] | None = None,
    wire: Wire | None = None,
    client_name: str = CLIENT_NAME,
    connect_timeout_s: float = 30.0,
    backoff: Backoff | None = None,
    max_queued_events: int = MAX_QUEUED_EVENTS,
    ssl_context: ssl.SSLContext | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[Client]:
    """Sign in a device and keep it connected until the block ends.

    url: http(s)://host:8080 or ws(s)://… for a WebSocket, hubbub(s)://host:8081 for the bot port.
    token: a session's, a bot's, or a user token signed by the app's backend; or an async function that
        fetches a fresh one for each connection.
    device_id: chosen once and kept: it names the cursors at the server. One connection at a time may use it.
        None makes up a new device.
    cursors: where cursors survive a restart (`FileCursors`); the default forgets them.
    history: what a device without cursors gets of the past: "new" nothing, "all" everything.
    focus: as `Client.focus`; an empty list suits a client that only sends.

    Raises: Refused where the token is wrong, Unavailable where no server was reached in `connect_timeout_s`.
    """
    chance = rng or random.Random()
    client = Client(
        parse_url(url, wire=wire),
        token=token,
        device_id=device_id or f"py-{new_client_id()}",
        cursors=cursors or MemoryCursors(),
        history=history,
        focus=focus,
        client_name=client_name,
        backoff=backoff or Backoff(),
        max_queued_events=max_queued_events,
        ssl_context=ssl_context,
        rng=chance,
    )
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client._run)
        try:
            await client._wait_opened(connect_timeout_s)
            yield client
        except Exception as exc:
            failure = exc  # raised below as it is: the nursery would wrap it in a group
        finally:
            with trio.CancelScope(shield=True), suppress(OSError):
                await client._close()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
