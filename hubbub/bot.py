"""Bots: handlers for messages, commands, mentions, posts and timers, on top of a client.

    bot = hubbub.Bot("hubbub://127.0.0.1:8081", token=token)

    @bot.command("remind")
    async def remind(context: hubbub.Context) -> None:
        await context.reply("I will.")

    bot.run()

Handlers of one conversation run one after the other, in the order of its messages; those of different
conversations side by side, at most so many at a time. A handler that raises is logged and nothing else
happens. With a cursor file a bot that was stopped goes on where it was: a message whose handler was cut
short by a crash comes again, so handlers should be safe to repeat (`context.client_id` helps with that).

The same holds for posts, those of one author one after the other. Where the bot is in its feed is kept by the
server, as the feed's read position.
"""

import logging
import random
import shlex
import signal
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import trio

from hubbub.bot_posts import PostContext, PostProgress, new_post
from hubbub.client import Client, connect
from hubbub.connection import Backoff
from hubbub.cursors import CursorStore, FileCursors, MemoryCursors
from protocol import replies as r
from protocol.errors import HubbubError
from protocol.events import Event, MessagePosted
from protocol.feed_events import FeedPosted
from protocol.notify_content import NotifyRequest
from protocol.notify_replies import NotifyAccepted, RequestCancelled
from protocol.types import ConversationSummary, Profile

logger = logging.getLogger("hubbub.bot")

MAX_CONVERSATIONS_AT_ONCE: Final = 32  # handlers that run side by side
MAX_WAITING: Final = 1_000  # messages that wait for a handler; then no more are read
STOP_TIMEOUT_S: Final = 10.0  # a stopping bot lets the handlers that run come to their end for so long
MAX_KNOWN_PROFILES: Final = 10_000  # names kept in memory
POSITION_INTERVAL_S: Final = 1.0  # how far the bot is in its feed is told at most this often
PREFIXES: Final = ("/", "!")

Handler = Callable[["Context"], Awaitable[None]]
PostHandler = Callable[[PostContext], Awaitable[None]]
Timer = Callable[["Bot"], Awaitable[None]]
HandlerT = TypeVar("HandlerT", bound=Handler)
PostHandlerT = TypeVar("PostHandlerT", bound=PostHandler)
TimerT = TypeVar("TimerT", bound=Timer)


class Invocation(msgspec.Struct, frozen=True):
    """A command as somebody typed it: `/name args…`."""

    name: str
    args: Sequence[str]
    rest: str  # everything after the name, as typed


def parse_invocation(text: str, prefixes: Sequence[str] = PREFIXES) -> Invocation | None:
    """Read "/name arg 'two words'" or "!name …"; None where the text is no command.

    Quotes group words as in a shell; where they do not match, words are split at spaces.
    """
    stripped = text.strip()
    prefix = next((prefix for prefix in prefixes if stripped.startswith(prefix)), None)
    if prefix is None:
        return None
    name, _, rest = stripped[len(prefix) :].partition(" ")
    if "\n" in name:
        name, _, tail = name.partition("\n")
        rest = f"{tail} {rest}" if rest else tail
    if not name or not (name[0].isalpha() or name[0] == "_"):
        return None
    try:
        args = shlex.split(rest)
    except ValueError:
        args = rest.split()
    return Invocation(name.casefold(), args, rest.strip())


class Context:
    """What a handler is given: one message, and what can be done about it."""

    def __init__(
        self, bot: "Bot", client: Client, message: MessagePosted, command: Invocation | None
    ) -> None:
        self.bot = bot
        self.client = client
        self.message = message
        self.command = command
        self._reply_count = 0

    @property
    def conversation_id(self) -> str:
        return self.message.conversation_id

    @property
    def text(self) -> str:
        return self.message.text

    @property
    def args(self) -> Sequence[str]:
        """The words after a command's name; empty for other messages."""
        return self.command.args if self.command is not None else ()

    @property
    def rest(self) -> str:
        """Everything after a command's name, as typed; else the whole text."""
        return self.command.rest if self.command is not None else self.message.text

    def client_id(self, label: str) -> str:
        """Make an idempotency key that is the same when this message is handled again after a crash."""
        return f"{label}:{self.message.seq}"[:64]

    async def reply(self, text: str, *, is_quoted: bool = True, client_id: str | None = None) -> r.Sent:
        """Answer in the conversation; quoted, it shows what it answers.

        Handling the message again after a crash sends the same replies under the same keys: once each.
        """
        self._reply_count += 1
        return await self.client.send(
            self.conversation_id,
            text,
            reply_to=self.message.seq if is_quoted else 0,
            thread=self.message.thread,
            client_id=client_id or self.client_id(f"reply{self._reply_count}"),
        )

    async def react(self, emoji: str) -> None:
        """Set a reaction on the message."""
        await self.client.react(self.conversation_id, self.message.seq, emoji)

    async def mark_read(self) -> None:
        """Move the bot's read watermark to the message."""
        await self.client.mark_read(self.conversation_id, self.message.seq)

    async def sender(self) -> Profile:
        """Read who wrote the message; remembered after the first time."""
        return await self.bot.profile(self.message.user_id)

    async def conversation(self) -> ConversationSummary:
        """Read the conversation's line of the bot's list."""
        return await self.client.get_conversation(self.conversation_id)


class Bot:
    """A bot account at work. State the handlers, then `run()`, or `await serve()` inside another program."""

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        token: str,
        device_id: str = "bot",
        cursors: CursorStore | str | Path | None = None,
        prefixes: Sequence[str] = PREFIXES,
        backoff: Backoff | None = None,
        ssl_context: ssl.SSLContext | None = None,
        give_up_after_s: float = inf,
    ) -> None:
        """`url`, `give_up_after_s`: as for `connect`. A bot that gives up loses what it was about to answer.

        `cursors`: a file (or a store) that remembers where the bot was; without, it begins anew each time.

        `device_id` names the bot's cursors; one process at a time may use it.
        """
        self._url = url
        self._token = token
        self._device_id = device_id
        if cursors is None:
            self._cursors: CursorStore = MemoryCursors()
        elif isinstance(cursors, (str, Path)):
            self._cursors = FileCursors(cursors)
        else:
            self._cursors = cursors
        self._prefixes = tuple(prefixes)
        self._backoff = backoff
        self._ssl_context = ssl_context
        self._give_up_after_s = give_up_after_s
        self._on_message: list[Handler] = []
        self._on_mention: list[Handler] = []
        self._commands: dict[str, Handler] = {}
        self._on_post: list[PostHandler] = []
        self._on_event: list[Callable[[Event], Awaitable[None]]] = []
        self._timers: list[tuple[float, Timer]] = []
        self._on_start: list[Timer] = []
        self._profiles: dict[str, Profile] = {}
        self._client: Client | None = None
        self._posts = PostProgress(0)
        self._queues: dict[str, deque[Event]] = {}  # conversations or authors with work, each with one task
        self._waiting = trio.Semaphore(MAX_WAITING)
        self._running = trio.Semaphore(MAX_CONVERSATIONS_AT_ONCE)
        self._stop = trio.Event()

    # -- stating the handlers -----------------------------------------------------------------------

    def on_message(self, handler: HandlerT) -> HandlerT:
        """Call this for each message of somebody else that no command handler took."""
        self._on_message.append(handler)
        return handler

    def on_mention(self, handler: HandlerT) -> HandlerT:
        """Call this for each message that mentions the bot, before `on_message`."""
        self._on_mention.append(handler)
        return handler

    def on_post(self, handler: PostHandlerT) -> PostHandlerT:
        """Call this for each new post of somebody else in the bot's feed: of those whom it follows.

        A new bot begins with what is posted from now on; one that was stopped gets what it has missed, at
        most the newest 5,000.
        """
        self._on_post.append(handler)
        return handler

    def command(self, name: str) -> Callable[[HandlerT], HandlerT]:
        """Call this for `/name …` and `!name …`; `context.args` are its words."""

        def register(handler: HandlerT) -> HandlerT:
            if name.casefold() in self._commands:
                raise ValueError(f"there is a handler for the command {name!r} already")
            self._commands[name.casefold()] = handler
            return handler

        return register

    def every(self, seconds: float) -> Callable[[TimerT], TimerT]:
        """Call this so often while the bot runs, jittered by a tenth; never twice at a time."""

        def register(timer: TimerT) -> TimerT:
            self._timers.append((seconds, timer))
            return timer

        return register

    def on_start(self, handler: TimerT) -> TimerT:
        """Call this once, when the bot is first connected and before any message is handled."""
        self._on_start.append(handler)
        return handler

    def on_event(self, handler: Callable[[Event], Awaitable[None]]) -> Callable[[Event], Awaitable[None]]:
        """Call this for every event, of whatever type; durable ones of a conversation in their order."""
        self._on_event.append(handler)
        return handler

    # -- working ------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The connected client, while the bot runs."""
        if self._client is None:
            raise RuntimeError("the bot is not running")
        return self._client

    async def profile(self, user_id: str) -> Profile:
        """Read a user's profile; remembered, so a name may be out of date by the life of this process."""
        known = self._profiles.get(user_id)
        if known is None:
            found = await self.client.get_users([user_id])
            known = found[0] if found else Profile(user_id=user_id, username=user_id, name=user_id)
            if len(self._profiles) >= MAX_KNOWN_PROFILES:
                del self._profiles[next(iter(self._profiles))]
            self._profiles[user_id] = known
        return known

    async def notify(self, type: str, user_ids: str | Sequence[str], **content: Any) -> NotifyAccepted:
        """Notify users of the app, once however often the connection breaks; for bots that the app made.

        `content`: the fields of `NotifyRequest`, such as title, text, url, template, data, send_at. Handlers
        that may run again name an `idempotency_key`, for example `context.client_id("order")`.
        """
        whom = {"user_id": user_ids} if isinstance(user_ids, str) else {"user_ids": list(user_ids)}
        request = NotifyRequest(type=type, **whom, **content)
        return await self.client.notifications.notify(request)

    async def cancel_notifications(self, request_id: str) -> RequestCancelled:
        """Cancel what `notify` has asked for, by the `request_id` of its answer. Safe to repeat."""
        return await self.client.notifications.cancel(request_id)

    def stop(self) -> None:
        """Stop gracefully: no new messages, running handlers come to their end within 10 s."""
        self._stop.set()

    def run(self) -> None:
        """Work until SIGTERM or SIGINT. For the program's main thread."""
        trio.run(self._run_until_signal)

    async def _run_until_signal(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_signals)
            failure: HubbubError | None = None
            try:
                await self.serve()
            except HubbubError as exc:
                failure = exc
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                logger.info("bot_stopping signal=%s", signal.Signals(number).name)
                self.stop()

    async def serve(self) -> None:
        """Work until `stop` is called. Raises: HubbubError where the server ends the session for good."""
        self._stop = trio.Event()
        async with connect(
            self._url,
            token=self._token,
            device_id=self._device_id,
            cursors=self._cursors,
            backoff=self._backoff,
            ssl_context=self._ssl_context,
            give_up_after_s=self._give_up_after_s,
        ) as client:
            self._client = client
            self._profiles[client.user_id] = client.user
            failure: HubbubError | None = None
            logger.info("bot_started user_id=%s username=%s", client.user_id, client.user.username)
            if self._on_post:
                await self._begin_posts(client)
            for handler in self._on_start:
                await handler(self)
            async with trio.open_nursery() as nursery:
                if self._on_post:
                    nursery.start_soon(self._keep_position, client)
                for seconds, timer in self._timers:
                    nursery.start_soon(self._tick, seconds, timer)
                try:
                    await self._take_events(client, nursery)
                except HubbubError as exc:
                    failure = exc
                await self._finish_handlers()
                nursery.cancel_scope.cancel()
            if self._on_post and not client.is_closed:
                with trio.move_on_after(1.0), suppress(HubbubError):
                    await client.feed.set_position(self._posts.position)
            self._client = None
        if failure is not None:
            raise failure

    async def _take_events(self, client: Client, nursery: trio.Nursery) -> None:
        """Hand events to the conversations' queues until the bot is stopped."""
        events = client.events(auto_confirm=False)
        async with trio.open_nursery() as stopper:
            failure: HubbubError | None = None
            stopper.start_soon(_cancel_on, self._stop, stopper.cancel_scope)
            try:
                while True:  # until the bot is stopped, or its session ends
                    event = await anext(events)
                    await self._waiting.acquire()
                    self._enqueue(event, nursery)
            except HubbubError as exc:
                failure = exc
            stopper.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _begin_posts(self, client: Client) -> None:
        """Go on in the feed where the bot was, or begin with what is new."""
        known = (await client.feed.read(limit=1, order="chronological", ads=False)).read_position
        page = await client.feed.start_live(limit=1, since=known or None, expand_news=True)
        newest = max((item.post.post_id for item in page.items if item.post is not None), default=0)
        self._posts = PostProgress(known or newest)

    async def _keep_position(self, client: Client) -> None:
        """Tell the server how far the bot has got with its feed."""
        told = 0
        while True:  # until the bot is stopped
            if self._posts.position != told:
                told = self._posts.position
                try:
                    await client.feed.set_position(told)
                except HubbubError as exc:
                    if client.is_closed:
                        return
                    logger.warning("feed_position_not_kept code=%s", exc.code)
            await trio.sleep(POSITION_INTERVAL_S)

    def _enqueue(self, event: Event, nursery: trio.Nursery) -> None:
        key = getattr(event, "conversation_id", "")
        post = new_post(event)
        if post is not None:
            key = f"@{post.author_id}"  # no conversation is called so
            self._posts.begin(post.post_id)
        queue = self._queues.get(key)
        if queue is not None:
            queue.append(event)
            return
        self._queues[key] = deque((event,))
        nursery.start_soon(self._work, key)

    async def _work(self, key: str) -> None:
        """Handle one conversation's events in order; ends with the last of them."""
        queue = self._queues[key]
        async with self._running:
            while queue and not self._stop.is_set():
                event = queue.popleft()
                try:
                    await self._handle(event)
                    if not self.client.is_closed:  # else its handler may have failed for that reason
                        self._confirm(event)
                finally:
                    self._waiting.release()
        for _ in queue:  # left for the next start: they are not confirmed
            self._waiting.release()
        del self._queues[key]

    def _confirm(self, event: Event) -> None:
        self.client.confirm(event)
        post = new_post(event)
        if post is not None:
            self._posts.done(post.post_id)

    async def _handle(self, event: Event) -> None:
        for handler in self._on_event:
            await self._guard(handler, event)
        if isinstance(event, FeedPosted) and event.item is not None and event.item.post is not None:
            item, post = event.item, event.item.post
            if post.author_id != self.client.user_id:
                for on_post in self._on_post:
                    await self._guard(on_post, PostContext(self, self.client, item, post))
        if isinstance(event, MessagePosted) and event.user_id != self.client.user_id:
            for chosen, context in self._choose(event):
                await self._guard(chosen, context)

    def _choose(self, message: MessagePosted) -> list[tuple[Handler, Context]]:
        command = parse_invocation(message.text, self._prefixes)
        context = Context(self, self.client, message, command)
        if command is not None and command.name in self._commands:
            return [(self._commands[command.name], context)]
        chosen: list[Handler] = []
        if self._on_mention and self.client.user_id in message.mentions:
            chosen += self._on_mention
        chosen += self._on_message
        return [(handler, context) for handler in chosen]

    async def _guard(self, handler: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await handler(*args)
        except Exception:
            logger.exception("handler_failed handler=%s", getattr(handler, "__name__", handler))

    async def _tick(self, seconds: float, timer: Timer) -> None:
        chance = random.Random()
        while not self._stop.is_set():
            with trio.move_on_after(seconds * (1.05 - 0.1 * chance.random())):
                await self._stop.wait()
            if not self._stop.is_set():
                await self._guard(timer, self)

    async def _finish_handlers(self) -> None:
        with trio.move_on_after(STOP_TIMEOUT_S) as scope:
            for _ in range(MAX_CONVERSATIONS_AT_ONCE):
                await self._running.acquire()
        if scope.cancelled_caught:
            logger.warning("handlers_cut_short count=%s", len(self._queues))
        else:
            for _ in range(MAX_CONVERSATIONS_AT_ONCE):
                self._running.release()


async def _cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
