"""The client: one signed-in device, connected for as long as its `async with` block lasts.

    async with hubbub.connect("http://127.0.0.1:8080", token=token) as client:
        await client.send(conversation_id, "hello")
        async for event in client.events():
            ...

Tasks, all in one nursery that ends with the block: the connection, which connects, and connects again, with
its own reader, writer and heartbeat; once somebody listens, a few sync workers, which read what was missed,
and the saver of cursors; and once the feed is live, the one that keeps it whole.

What the user of `events()` may rely on: within one process each durable event comes exactly once, in the
order of its stream, however connections drop and whatever the live stream loses, repeats or reorders. The
cursor that survives a restart moves only when the next event is asked for, so an event whose handling was
cut short by a crash comes again after it.
"""

import logging
import random
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Final, TypeVar, cast

import msgspec
import trio

from hubbub.api import Commands, new_client_id
from hubbub.asker import Asker, Ticket
from hubbub.connection import CLIENT_NAME, Backoff, Connection, TokenSource
from hubbub.cursors import CursorStore, MemoryCursors
from hubbub.endpoint import parse_urls
from hubbub.errors import ClientClosed
from hubbub.feed import Follows, LiveFeed, Posts
from hubbub.intake import History, Intake
from hubbub.nodes import Nodes
from hubbub.notifications import Notifications
from hubbub.streams import DurableEvent, Stream
from protocol import commands as c
from protocol import replies as r
from protocol.codec import Wire
from protocol.commands import Command
from protocol.errors import HubbubError, Unavailable
from protocol.events import Event
from protocol.limits import MAX_PAGE
from protocol.types import PresenceItem, Profile, ServerLimits

logger = logging.getLogger("hubbub")

MAX_QUEUED_EVENTS: Final = 1_000  # events that wait for the user; then the socket is not read

ReplyT = TypeVar("ReplyT", bound=msgspec.Struct)


class Client(Commands):
    """A connected device. Made by `connect`."""

    def __init__(self, asker: Asker, intake: Intake, connection: Connection) -> None:
        self.device_id = connection.device_id
        self._asker = asker
        self._intake = intake
        self._connection = connection
        self._nursery: trio.Nursery | None = None
        self._is_feed_kept = False
        self.posts = Posts(self._next_id, self._ask)
        self.follows = Follows(self._next_id, self._ask)
        self.feed = LiveFeed(self._next_id, self._ask, intake.feed, self._keep_feed)
        self.notifications = Notifications(self._next_id, self._ask, intake.notifications)

    # -- what is known of the session ---------------------------------------------------------------

    @property
    def welcome(self) -> r.Welcome:
        """The latest welcome: who is signed in, on which node, with which limits."""
        welcome = self._connection.welcome
        assert welcome is not None  # connect() waits for it before it hands the client out
        return welcome

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
        return self._connection.is_open

    @property
    def is_closed(self) -> bool:
        """Whether the client is over: its block ended, or the server ended the session for good."""
        return self._asker.ended is not None

    def cursor(self, conversation_id: str) -> int:
        """Return the seq up to which the user of `events()` is done with a conversation; 0 if unknown."""
        stream = self._intake.streams.get(conversation_id)
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
        `give_up_after_s` of `connect` limits that for all calls, and `timeout_s` for this one; then
        `Unavailable` is raised, and the message may or may not have been stored: sending again with the same
        `client_id` is safe. At most 32 sends are unanswered at a time; further callers wait. For the order
        in which several are stored, see `start_send`.

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
        """Queue a message and return at once, unless 32 are unanswered already: then wait for room.

        What is promised of the order within one conversation:
        - One who waits for each ack before the next call gets the order of the calls, always.
        - Messages that are started without waiting are written in the order of the calls, over reconnects
          too, and are stored in it as long as the server refuses none of them.
        - Where it refuses one with an error that means "later" (`busy`, `overloaded`, `rate_limited`, …),
          those behind it that are not written yet wait for it. Those that were written already, 31 at most,
          may be stored before it; the client cannot call them back. The refused one is then tried again
          alone, so this happens once, not with each try.
        - A message that is refused for good, or whose caller gave up, does not hold up those behind it.
        Messages to different conversations never wait for each other.
        """
        return await self._asker.start_send(
            conversation_id,
            text,
            reply_to=reply_to,
            thread=thread,
            mentions=mentions,
            file_ids=file_ids,
            client_id=client_id,
        )

    def _next_id(self) -> int:
        return self._asker.next_id()

    async def _ask(self, command: Command, reply_type: type[ReplyT]) -> ReplyT:
        return await self._asker.ask(command, reply_type)

    # -- what is on the screen ----------------------------------------------------------------------

    async def focus(self, conversation_ids: Sequence[str] | None) -> None:
        """Say what is on the screen. None: every conversation live.

        With a list, the other conversations send coalesced `Heads` only, and are not synced.
        """
        focus = self._intake.focus = None if conversation_ids is None else list(conversation_ids)
        await self._ask(c.Focus(id=self._next_id(), conversation_ids=focus), r.Ok)
        self._intake.on_focus()

    def start_at(self, conversation_id: str, seq: int) -> None:
        """Skip events up to `seq`: the user got them otherwise, for example from `history()`."""
        self._intake.start_at(conversation_id, seq)

    async def set_active(self, active: bool) -> None:
        """Say that the person is at the device, or has gone away from it."""
        await self._ask(c.Activity(id=self._next_id(), active=active), r.Ok)

    async def watch_presence(self, user_ids: Iterable[str], *, contacts: bool = False) -> list[PresenceItem]:
        """Replace the set of users whose presence is told; kept over reconnects."""
        command = c.WatchPresence(id=self._next_id(), user_ids=list(user_ids), contacts=contacts)
        self._connection.presence = command
        return (await self._ask(command, r.PresenceList)).items

    # -- events -------------------------------------------------------------------------------------

    def events(self, *, auto_confirm: bool = True) -> "Events":
        """Iterate over everything that happens, typed.

        Durable events come in the order of their stream, each once; live events (typing, receipts, presence,
        read, heads) as they come; after `feed.start_live`, each new post of the feed once. Before the first
        call nothing is kept, only remembered as missed, so that a client that only sends costs no memory.
        One consumer at a time. The iteration ends with an exception: the reason why the server ended the
        session, or `ClientClosed`.

        Asking for the next event confirms the one before: only then its cursor is told to the server and
        saved. With `auto_confirm=False` the caller confirms by `confirm(event)`.
        """
        if self._intake.listen() and self._nursery is not None and self._asker.ended is None:
            self._start_listening(self._nursery)
        return Events(self._intake, auto_confirm)

    def confirm(self, event: Event) -> None:
        """Mark a durable event, and all before it in its stream, as handled."""
        self._intake.confirm_event(event)

    async def save_cursors(self) -> None:
        """Save the cursors now; the client does it by itself twice a second and at the end."""
        await self._intake.keeper.save()

    # -- tasks --------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Live until cancelled, or until the server ends the session for good."""
        await self._intake.keeper.load()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._intake.is_listening:
                self._start_listening(nursery)
            try:
                await self._connection.run()
            except HubbubError as exc:
                self._end(exc)
            nursery.cancel_scope.cancel()

    def _start_listening(self, nursery: trio.Nursery) -> None:
        self._intake.start(nursery)
        if self._intake.history == "all":
            nursery.start_soon(self._discover)

    def _keep_feed(self) -> None:
        """Start what keeps the live feed whole: a client without one is a task smaller."""
        if not self._is_feed_kept and self._nursery is not None and self._asker.ended is None:
            self._is_feed_kept = True
            self._nursery.start_soon(self._intake.feed.run)

    async def _discover(self) -> None:
        """With history="all": find every conversation, also those without news."""
        await self._connection.opened.wait()
        try:
            async for summary in self.list_conversations(page_size=MAX_PAGE):
                self._intake.learn_head(summary.conversation_id, summary.head)
        except HubbubError as exc:
            if exc is not self._asker.ended:
                logger.warning("discovery_failed code=%s", exc.code)

    def _end(self, reason: HubbubError) -> None:
        """Tell everybody who waits that the client is over."""
        self._asker.end(reason)
        self._intake.queue.wake()
        self._intake.notifications.wake()
        self._connection.opened.set()

    async def _close(self) -> None:
        """Tell and save where the user was, say goodbye, and wake everybody who still waits."""
        if self.is_connected and not self.is_closed:
            await self._intake.keeper.ack_last()
        self._end(ClientClosed())
        await self._connection.close()
        await self._intake.keeper.save_last()


class Events:
    """An iterator over a client's events. See `Client.events`."""

    def __init__(self, intake: Intake, auto_confirm: bool) -> None:
        self._intake = intake
        self._auto_confirm = auto_confirm
        self._taken: tuple[Stream, int] | None = None

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> Event:
        if self._taken is not None:
            self._intake.confirm(*self._taken)
            self._taken = None
        event, stream = await self._intake.next_event()
        if stream is not None and self._auto_confirm:
            self._taken = (stream, cast("DurableEvent", event).seq)
        return event


@asynccontextmanager
async def connect(
    url: str | Sequence[str],
    *,
    token: TokenSource,
    device_id: str | None = None,
    cursors: CursorStore | None = None,
    history: History = "new",
    focus: Sequence[str] | None = None,
    wire: Wire | None = None,
    client_name: str = CLIENT_NAME,
    connect_timeout_s: float = 30.0,
    give_up_after_s: float = inf,
    backoff: Backoff | None = None,
    max_queued_events: int = MAX_QUEUED_EVENTS,
    ssl_context: ssl.SSLContext | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[Client]:
    """Sign in a device and keep it connected until the block ends.

    url: http(s)://host:8080 or ws(s)://… for a WebSocket, hubbub(s)://host:8081 for the bot port. Several
        addresses of one cluster, in a list or with commas between them: one is taken by chance, the others
        where it does not answer. Once connected, the client also knows the nodes that the server names, and
        goes on at another one where its own is lost, frozen or about to stop.
    token: a session's, a bot's, or a user token signed by the app's backend; or an async function that
        fetches a fresh one for each connection.
    device_id: chosen once and kept: it names the cursors at the server. One connection at a time may use it.
        None makes up a new device.
    cursors: where cursors survive a restart (`FileCursors`); the default forgets them.
    history: what a device without cursors gets of the past: "new" nothing, "all" everything.
    focus: as `Client.focus`; an empty list suits a client that only sends.
    give_up_after_s: how long a send, or another call, is tried again, over refusals that mean "later" and
        over lost connections, before its caller gets `Unavailable`: with the code of the last refusal, or
        "timeout". The default never gives up. Less than 60 s may be too short for the death of a node.
    ssl_context: whom to trust, for https, wss and hubbubs; the default is what the system trusts.

    Raises: Refused where the token is wrong or the certificate is not trusted, Unavailable where no server
        was reached in `connect_timeout_s`.
    """
    chance = rng or random.Random()
    nodes = Nodes(parse_urls(url, wire=wire), chance.random)
    asker = Asker(chance.random, give_up_after_s=give_up_after_s)
    intake = Intake(
        asker,
        cursors or MemoryCursors(),
        history=history,
        focus=focus,
        max_queued_events=max_queued_events,
        chance=chance.random,
    )
    connection = Connection(
        nodes,
        asker,
        intake,
        token=token,
        device_id=device_id or f"py-{new_client_id()}",
        client_name=client_name,
        backoff=backoff or Backoff(),
        ssl_context=ssl_context,
        rng=chance,
    )
    client = Client(asker, intake, connection)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client._run)
        try:
            await client._connection.wait_opened(connect_timeout_s)
            yield client
        except Exception as exc:
            failure = exc  # raised below as it is: the nursery would wrap it in a group
        finally:
            with trio.CancelScope(shield=True), suppress(OSError):
                await client._close()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
