"""Keep a device connected: pick a node, say hello, read, write and beat until the connection is lost; again.

Where it is lost, or its node goes, the next one is another node, as `hubbub.nodes` orders them: the cursors
in hello and the client_ids of what was not acked make the session go on there.

Tasks, in the nursery of one connection: the reader, the writer, the heartbeat and the teller of cursors. One
task writes to the socket and one reads from it. The first that finds the connection lost ends the others.
"""

import logging
import random
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, cast

import msgspec
import trio

from hubbub.asker import Asker
from hubbub.backoff import FIRST_DELAY_S, MAX_DELAY_S, SPREAD_S, full_jitter_s, jittered_s
from hubbub.endpoint import Endpoint
from hubbub.errors import ConnectionLost, UntrustedServer, error_from_reply, fatal_close, is_retried
from hubbub.intake import Intake
from hubbub.link import CONNECT_TIMEOUT_S, Link, open_link
from hubbub.nodes import Nodes
from protocol import commands as c
from protocol import events as e
from protocol import replies as r
from protocol.errors import HubbubError, Refused, Unavailable
from protocol.events import Event
from protocol.limits import MAX_UNACKED_SENDS
from protocol.replies import Reply

logger = logging.getLogger("hubbub")

HELLO_ANSWER_TIMEOUT_S: Final = 15.0  # a node that cannot say welcome by then is not of use
FROZEN_AFTER_S: Final = 5.0  # the same where another node is to be had; doubled with each round of attempts
PROBE_AFTER_S: Final = 10.0  # a command without an answer, and silence: ask whether anybody is there
# A heartbeat, and not a word after it: nobody is. A node gives its own parts 10 s before it says "timeout".
PROBE_ANSWER_S: Final = 12.0
READ_ON_S: Final = 0.5  # this program may have stood still itself: it first reads what has come meanwhile
STABLE_AFTER_S: Final = 5.0  # a connection that lived this long resets the backoff
CLIENT_NAME: Final = "hubbub-python/0.1"

TokenSource = str | Callable[[], Awaitable[str]]


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """How the client waits between attempts to connect: see `hubbub.backoff`.

    `spread_s`: over how long the clients of a node that is gone spread themselves before they come to others.
    """

    first_delay_s: float = FIRST_DELAY_S
    max_delay_s: float = MAX_DELAY_S
    spread_s: float = SPREAD_S


class Connection:
    """One device's connection, and the next one after it."""

    def __init__(
        self,
        nodes: Nodes,
        asker: Asker,
        intake: Intake,
        *,
        token: TokenSource,
        device_id: str,
        client_name: str,
        backoff: Backoff,
        ssl_context: ssl.SSLContext | None,
        rng: random.Random,
    ) -> None:
        self.device_id = device_id
        self.welcome: r.Welcome | None = None  # the latest one
        self.opened = trio.Event()  # welcomed for the first time, or over before that
        self.presence: c.WatchPresence | None = None  # asked for again after each hello
        self._nodes = nodes
        self._asker = asker
        self._calls = asker.calls
        self._intake = intake
        self._keeper = intake.keeper
        self._token = token
        self._client_name = client_name
        self._backoff = backoff
        self._ssl_context = ssl_context
        self._rng = rng
        self._lost: ConnectionLost | None = None
        self._reason = ""  # why the last connection, or the last attempt, ended
        self._last_error: r.Error | None = None
        self._is_moving = False  # the node asked us to
        self._was_open = False  # the last connection came to a session
        self._scope: trio.CancelScope | None = None
        self._link: Link | None = None  # while a session is open
        self._heard_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether a session is open now."""
        return self._link is not None

    async def close(self) -> None:
        """Say goodbye, if there is a session. The asker was told before that the client is over."""
        if self._link is not None:
            await self._link.close()

    async def wait_opened(self, timeout_s: float) -> None:
        """Wait for the first welcome. Raises: why the client is over, or Unavailable after `timeout_s`."""
        with trio.move_on_after(timeout_s):
            await self.opened.wait()
        self._asker.check_open()
        if self.welcome is None:
            reason = f" ({self._reason})" if self._reason else ""
            raise Unavailable("timeout", f"{self._nodes} was not reached within {timeout_s:g} s{reason}.")

    async def run(self) -> None:
        """Connect, and connect again. Raises: HubbubError when that is of no more use."""
        attempt = 0  # rounds in a row in which no node could be had for long
        wishes_s: list[float] = []  # for how long those who refused in this round want to be left alone
        while True:  # until cancelled, or ended for good
            started = trio.current_time()
            endpoint = self._nodes.next()
            lost, retry_after_s = await self._connect_once(endpoint, self._patience_s(attempt))
            self._reason = str(lost)
            if self._asker.ended is not None:
                return  # closed by its user
            fatal = fatal_close(lost, self._last_error)
            if fatal is not None:
                raise fatal
            if self._was_open:
                if trio.current_time() - started >= STABLE_AFTER_S:
                    attempt = 0
                if lost.reason == _MOVING:
                    continue  # its jitter is over
            else:
                if retry_after_s:
                    wishes_s.append(retry_after_s)
                if self._nodes.failed(endpoint):
                    logger.info("trying_next endpoint=%s reason=%r", endpoint, str(lost))
                    continue
                if isinstance(lost, UntrustedServer) and self.welcome is None:
                    # It never worked, so a person must act; one that did work may be about to be renewed.
                    raise Refused("untrusted_certificate", lost.reason)
            first_delay_s = self._backoff.first_delay_s
            if self._was_open and self._nodes.has_choice:
                first_delay_s = max(first_delay_s, self._backoff.spread_s)
            delay_s = full_jitter_s(
                attempt,
                self._rng.random,
                first_delay_s=first_delay_s,
                max_delay_s=self._backoff.max_delay_s,
                at_least_s=min(wishes_s, default=0.0),
            )
            wishes_s.clear()
            logger.info("reconnecting reason=%r attempt=%s delay_s=%.2f", str(lost), attempt, delay_s)
            attempt += 1
            await trio.sleep(delay_s)

    def _patience_s(self, attempt: int) -> float:
        """How long one node may take: not long where there are others, unless all of them are slow."""
        if not self._nodes.has_choice:
            return HELLO_ANSWER_TIMEOUT_S
        return min(HELLO_ANSWER_TIMEOUT_S, FROZEN_AFTER_S * 2.0 ** min(attempt, 10))

    async def _connect_once(self, endpoint: Endpoint, patience_s: float) -> tuple[ConnectionLost, float]:
        """Connect and serve one connection until it is lost. Raises: HubbubError where hello is refused.

        `_was_open` tells afterwards whether there was a session.
        """
        self._lost = None
        self._last_error = None
        self._was_open = self._is_moving = False
        refused: HubbubError | None = None
        link: Link | None = None
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            try:
                link = await open_link(
                    nursery,
                    endpoint,
                    ssl_context=self._ssl_context,
                    timeout_s=min(CONNECT_TIMEOUT_S, patience_s),
                )
                refused = await self._greet(link, patience_s)
                if refused is None:
                    assert self.welcome is not None
                    self._nodes.opened(endpoint, self.welcome.node_id)
                    self._was_open = True
                    self._link = link
                    self._heard_at = trio.current_time()
                    nursery.start_soon(self._guard, self._write_loop, link)
                    nursery.start_soon(self._guard, self._heartbeat_loop, link)
                    nursery.start_soon(self._guard, self._tell_loop, link)
                    await self._read_loop(link)
            except ConnectionLost as lost:
                self._note_lost(lost)
            finally:
                self._scope = None
                self._link = None
                if link is not None:
                    with trio.CancelScope(shield=True):
                        await link.abort()
                nursery.cancel_scope.cancel()
        # Not before the writer has ended: it might take a call for a link that is dead already.
        self._calls.on_connection_lost()
        if self._is_moving and self._lost is None:
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
            if self._scope is not None:
                self._scope.cancel()
        except HubbubError as error:
            if error is not self._asker.ended:
                raise
            # The client was closed, and its answer came before the cancellation.

    async def _greet(self, link: Link, patience_s: float) -> HubbubError | None:
        """Say hello and take the welcome within `patience_s`. Returns why the server refused, if it did.

        Raises: ConnectionLost.
        """
        token = self._token if isinstance(self._token, str) else await self._token()
        has_cursors = bool(self._intake.streams) or self._intake.inbox.is_started
        hello = c.Hello(
            id=self._asker.next_id(),
            token=token,
            device_id=self.device_id,
            client=self._client_name,
            cursors=self._keeper.to_tell() if has_cursors else None,
            inbox_cursor=self._intake.inbox.taken if self._intake.inbox.is_started else None,
            focus=self._intake.focus,
        )
        call = self._calls.put_on_wire(hello)
        with trio.move_on_after(patience_s):
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
        if self.presence is not None:
            self.presence = msgspec.structs.replace(self.presence, id=self._asker.next_id())
            self._calls.add(self.presence)
        return None

    async def _read_loop(self, link: Link) -> None:
        while True:  # until the connection is lost
            if self._intake.is_full and not self._calls.has_answers_due:
                await self._intake.pause()
            for message in await link.receive():
                self._on_message(message)
            self._heard_at = trio.current_time()

    def _on_message(self, message: Reply | Event) -> None:
        """Take one message. Raises: ConnectionLost where it is a goodbye."""
        if self._intake.take(message):
            return
        if isinstance(message, r.Welcome):
            self._on_welcome(message)
            self._calls.answer(message, trio.current_time())
        elif isinstance(message, e.Reconnect):
            self._on_reconnect(message)
        elif isinstance(message, e.Closing):
            raise ConnectionLost(message.reason or "closed by the server", message.code)
        else:
            reply = cast("Reply", message)
            if isinstance(reply, r.Error) and reply.id == 0:
                self._last_error = reply
            elif self._calls.answer(reply, trio.current_time()):
                self._asker.wake.set()

    def _on_welcome(self, welcome: r.Welcome) -> None:
        self.welcome = welcome
        self._calls.window = max(1, min(MAX_UNACKED_SENDS, welcome.limits.max_unacked_sends))
        self._nodes.learn(welcome.nodes)
        self._intake.on_welcome(welcome)
        self.opened.set()

    def _on_reconnect(self, event: e.Reconnect) -> None:
        self._nodes.learn(event.nodes)
        if not self._is_moving and self._scope is not None:
            self._is_moving = True
            logger.info("reconnect_asked within_s=%s reason=%s", event.within_s, event.reason)
            # Its own deadline does the waiting: whatever comes until then is still delivered.
            self._scope.deadline = trio.current_time() + event.within_s * self._rng.random()

    async def _write_loop(self, link: Link) -> None:
        calls = self._calls
        while True:  # until the connection is lost
            batch = calls.take(trio.current_time())
            if batch:
                self._intake.resume()
                await link.send(batch)
                continue
            if self._asker.wake.is_set():
                self._asker.wake = trio.Event()
                continue  # look once more: something may have come between take and the new event
            due = calls.next_due()
            if due is None:
                await self._asker.wake.wait()
            else:
                with trio.move_on_at(due):
                    await self._asker.wake.wait()

    async def _heartbeat_loop(self, link: Link) -> None:
        welcome = self.welcome
        assert welcome is not None  # the hello was answered
        while True:  # until the connection is lost
            await self._until_heartbeat(jittered_s(welcome.heartbeat_interval_s, self._rng.random))
            heartbeat = c.Heartbeat(
                id=self._asker.next_id(),
                cursors=self._keeper.to_tell(),
                inbox_cursor=self._intake.inbox.taken,
            )
            asked_at = trio.current_time()
            answer: r.HeartbeatAck | None = None
            try:
                with trio.move_on_after(PROBE_ANSWER_S):
                    answer = await self._asker.ask_now(heartbeat, r.HeartbeatAck)
                if answer is None and self._heard_at < asked_at:
                    await trio.sleep(READ_ON_S)
                    if self._heard_at < asked_at:
                        raise ConnectionLost("the server is silent")
            except Unavailable as exc:
                logger.debug("heartbeat_unanswered code=%s", exc.code)
            if answer is not None:
                self._intake.feed.note_time(answer.now_ms)
                self._intake.learn_inbox_head(answer.inbox_head)
                for head in answer.heads:
                    self._intake.learn_head(head.conversation_id, head.head)

    async def _until_heartbeat(self, interval_s: float) -> None:
        """Wait for the interval; less where a command has no answer and nothing else is heard either."""
        due = trio.current_time() + interval_s
        while (now := trio.current_time()) < due:
            asked_at = self._calls.oldest_written_at
            if asked_at is not None and now >= max(asked_at, self._heard_at) + PROBE_AFTER_S:
                return
            await trio.sleep(min(due - now, PROBE_AFTER_S / 4))

    async def _tell_loop(self, link: Link) -> None:
        await self._keeper.ack_loop()


_MOVING: Final = "moving to another node"
