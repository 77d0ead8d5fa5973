"""The sessions of this node: who is connected, and who listens to what.

Durable events go to listeners the moment they are committed. What may be late is batched by one task: heads
of conversations that are off the screen (1 s), presence and delivered receipts (250 ms). Nothing here waits
for a listener: `push` puts a reference into its bounded outbox.

In a cluster events also come from other nodes, over lanes that may lose them, and for a moment from two
owners of one conversation. So each stream has a gate (`actors.stream_gate`): what was pushed already is left
out, and what follows a hole waits until the hole has been read from the store.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import trio

from actors.delivered import DeliveredWatermarks
from actors.feed_audience import FEED_STREAM, FeedAudience
from actors.messages import Place
from actors.ports import WallClock
from actors.presence_board import INBOX, PresenceBoard, PushLive
from actors.stream_gate import Healer, Passage, StreamGate
from protocol import events
from protocol.codec import Encoded
from protocol.errors import CloseCode
from protocol.limits import HEADS_TICK_S, PRESENCE_DEBOUNCE_S, PRESENCE_TICK_S
from protocol.records import conversation_stream, inbox_stream
from protocol.types import HeadHint, Message

LiveKey = str | tuple[str, ...]


Push = Callable[[Encoded, str, int], object]
"""Queue (event, stream, seq); `stream` is a conversation_id, or INBOX."""


class Listener(Protocol):
    """One connection, as the hub sees it."""

    @property
    def conn_id(self) -> int: ...

    @property
    def user_id(self) -> str: ...

    @property
    def push(self) -> Push:
        """Queue a durable event; when the outbox is full, the stream gets a resync instead."""
        ...

    @property
    def push_live(self) -> PushLive:
        """Queue a live event; it takes the place of one with the same key that still waits."""
        ...

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Close soon, without waiting."""
        ...


class _Seat:
    """What the hub knows of one listener."""

    __slots__ = ("conversation_ids", "delivered", "focus", "left", "listener", "push", "session_id")

    def __init__(self, listener: Listener, session_id: str, focus: frozenset[str] | None) -> None:
        self.listener = listener
        self.push = listener.push
        self.session_id = session_id
        self.conversation_ids: set[str] = set()
        self.delivered: dict[str, int] = {}  # what this device has told, so that a heartbeat repeats nothing
        self.focus = focus
        self.left: set[str] | None = set()  # what the user left while the session was being opened


class _Audience:
    """Who listens to one conversation: those with it on their screen, and the others."""

    __slots__ = ("full", "gate", "passive")

    def __init__(self) -> None:
        self.gate = StreamGate()
        self.full: dict[_Seat, None] = {}
        self.passive: dict[_Seat, None] = {}


class Hub:
    """Carry events to this node's sessions. All methods are for the Trio thread; only `run` waits."""

    def __init__(self, *, now_ms: WallClock, debounce_s: float = PRESENCE_DEBOUNCE_S) -> None:
        self.presence = PresenceBoard(self._wake, now_ms=now_ms, debounce_s=debounce_s)
        self.watermarks = DeliveredWatermarks(self._wake)
        self.feeds = FeedAudience()
        self.healer: Healer | None = None  # in a cluster; one node alone loses nothing on the way
        self._seats: dict[int, _Seat] = {}
        # Tuples, as most users have one seat: a dict for each is 180 bytes more.
        self._by_user: dict[str, tuple[_Seat, ...]] = {}
        self._audiences: dict[str, _Audience] = {}
        self._inboxes: dict[str, StreamGate] = {}  # of connected users
        self._heads: dict[str, HeadHint] = {}
        self._rejoining: set[str] | None = None  # users whose conversations moved while they were read
        self._work = trio.Event()

    # -- sessions -----------------------------------------------------------------------------------

    def attach(self, listener: Listener, session_id: str, focus: Sequence[str] | None) -> None:
        """Let a session hear its inbox, and conversations that its user enters, from now on."""
        seat = _Seat(listener, session_id, None if focus is None else frozenset(focus))
        self._seats[listener.conn_id] = seat
        self._by_user[listener.user_id] = (*self._by_user.get(listener.user_id, ()), seat)
        self._inboxes.setdefault(listener.user_id, StreamGate())
        self.presence.opened(listener)

    def join(self, conn_id: int, conversation_ids: Iterable[str]) -> None:
        """Let an attached session hear the conversations that its user was in, as read after `attach`."""
        seat = self._seats.get(conn_id)
        if seat is None:
            return
        left = seat.left or ()
        seat.left = None
        for conversation_id in conversation_ids:
            if conversation_id not in left and conversation_id not in seat.conversation_ids:
                seat.conversation_ids.add(conversation_id)
                self._sit(seat, conversation_id)

    def seed(self, conn_id: int, heads: Mapping[str, int], inbox_head: int) -> None:
        """Where the streams of a session stood in the store when it was welcomed.

        It catches up to there by itself; what comes after, it must hear. Known places stay as they are:
        others may not have heard what lies between.
        """
        seat = self._seats.get(conn_id)
        if seat is None:
            return
        for conversation_id, head in heads.items():
            audience = self._audiences.get(conversation_id)
            if audience is not None:
                self._seed(seat, audience.gate, conversation_id, head)
        self._seed(seat, self._inboxes[seat.listener.user_id], INBOX, inbox_head)

    def _seed(self, seat: _Seat, gate: StreamGate, stream: str, head: int) -> None:
        if not gate.is_known:
            gate.head = head
        elif gate.first > head + 1:
            # The first that came here was not the first after the welcome: what lies between was lost.
            self._catch_up(seat, stream, gate.head)

    def _catch_up(self, seat: _Seat, stream: str, head: int) -> None:
        """Let one session read a stream up to there by itself."""
        seat.delivered.pop(stream, None)
        encoded = Encoded(events.Resync(conversation_id=stream, head=head))
        seat.listener.push_live(("resync", stream), encoded, stream)

    def detach(self, conn_id: int, *, was_silent: bool = False) -> None:
        """Forget a session; `was_silent`: nothing was heard from it for too long."""
        seat = self._seats.pop(conn_id, None)
        if seat is None:
            return
        user_id = seat.listener.user_id
        own = tuple([other for other in self._by_user[user_id] if other is not seat])
        if own:
            self._by_user[user_id] = own
        else:
            del self._by_user[user_id]
            del self._inboxes[user_id]
        for conversation_id in seat.conversation_ids:
            self._stand_up(seat, conversation_id)
        self.feeds.forget(seat.listener)
        self.presence.closed(seat.listener, was_silent=was_silent)

    def watch_feed(self, conn_id: int, *, feed: bool, post_ids: Sequence[int]) -> None:
        """Change what of the news feed is on a session's screen."""
        seat = self._seats.get(conn_id)
        if seat is not None:
            self.feeds.watch(seat.listener, feed=feed, post_ids=post_ids)

    def set_focus(self, conn_id: int, focus: Sequence[str] | None) -> None:
        """Change what is on a session's screen."""
        seat = self._seats.get(conn_id)
        if seat is None:
            return
        old, new = seat.focus, None if focus is None else frozenset(focus)
        if old == new:
            return
        seat.focus = new
        moved: Collection[str] = seat.conversation_ids
        if old is not None and new is not None:
            moved = (old ^ new) & seat.conversation_ids
        hints: list[HeadHint] = []
        for conversation_id in moved:
            hint = self._heads.get(conversation_id)
            if hint is not None and seat in self._audiences[conversation_id].passive:
                hints.append(hint)  # it will be no hint's audience when the tick comes
            self._sit(seat, conversation_id)
        if hints:
            self._hint([seat], hints)

    def moved(self, conn_id: int, *, is_active: bool) -> None:
        """The person at a session became active or idle."""
        seat = self._seats.get(conn_id)
        if seat is not None:
            self.presence.moved(seat.listener, is_active=is_active)

    def is_member(self, conn_id: int, conversation_id: str) -> bool:
        """Tell whether a session hears a conversation, which means that its user is a member."""
        seat = self._seats.get(conn_id)
        return seat is not None and conversation_id in seat.conversation_ids

    def is_attached(self, conn_id: int) -> bool:
        """Tell whether a session is still here."""
        return conn_id in self._seats

    def conversation_ids(self, conn_id: int) -> frozenset[str]:
        """The conversations that a session hears."""
        seat = self._seats.get(conn_id)
        return frozenset() if seat is None else frozenset(seat.conversation_ids)

    def is_connected(self, user_id: str) -> bool:
        """Tell whether the user is connected, here or to another node."""
        return user_id in self._by_user or self.presence.is_elsewhere(user_id)

    def is_here(self, user_id: str) -> bool:
        """Tell whether the user is connected to this node."""
        return user_id in self._by_user

    def user_ids(self) -> list[str]:
        """The users who are connected to this node."""
        return list(self._by_user)

    def inbox_head_of(self, user_id: str) -> int:
        """Where the inbox of a user stands who is connected here; 0 where that is not known."""
        inbox = self._inboxes.get(user_id)
        return 0 if inbox is None else max(inbox.head, 0)

    def head_of(self, conversation_id: str) -> int:
        """Where a conversation stands that anybody hears here; 0 where that is not known."""
        audience = self._audiences.get(conversation_id)
        return 0 if audience is None else max(audience.gate.head, 0)

    def listeners(self) -> list[Listener]:
        """All sessions of this node."""
        return [seat.listener for seat in self._seats.values()]

    @property
    def connection_count(self) -> int:
        return len(self._seats)

    def _sit(self, seat: _Seat, conversation_id: str) -> None:
        audience = self._audiences.get(conversation_id)
        if audience is None:
            audience = self._audiences[conversation_id] = _Audience()
        if seat.focus is None or conversation_id in seat.focus:
            audience.passive.pop(seat, None)
            audience.full[seat] = None
        else:
            audience.full.pop(seat, None)
            audience.passive[seat] = None

    def _stand_up(self, seat: _Seat, conversation_id: str) -> None:
        audience = self._audiences.get(conversation_id)
        if audience is not None:
            audience.full.pop(seat, None)
            audience.passive.pop(seat, None)
            if not audience.full and not audience.passive:
                del self._audiences[conversation_id]

    # -- fan-out (actors.ports.Fanout) --------------------------------------------------------------

    def publish(
        self,
        conversation_id: str,
        seq: int,
        encoded: Encoded,
        *,
        to: Collection[str],
        everywhere: bool = False,
        message_count: int = 0,
    ) -> None:
        audience = self._audiences.get(conversation_id)
        if audience is None:
            return
        if self.healer is None:
            audience.gate.passed(seq)
            self._push_event(audience, conversation_id, seq, encoded, everywhere, message_count)
            return

        def release() -> None:
            self._push_event(audience, conversation_id, seq, encoded, everywhere, message_count)

        self._pass(audience.gate, conversation_stream(conversation_id), seq, release)

    def _pass(self, gate: StreamGate, stream: str, seq: int, release: Callable[[], None]) -> None:
        """Let an event through the gate of its stream, now or when the hole before it is filled."""
        passage = gate.judge(seq)
        if passage is Passage.PASS:
            gate.passed(seq)
            release()
        elif passage is not Passage.LEAVE_OUT:
            gate.hold(seq, release)
            if passage is Passage.FILL and self.healer is not None:
                self.healer.fill(stream, gate.head)

    def _push_event(
        self,
        audience: _Audience,
        conversation_id: str,
        seq: int,
        encoded: Encoded,
        everywhere: bool,
        message_count: int,
    ) -> None:
        for seat in audience.full:
            seat.push(encoded, conversation_id, seq)
        if audience.passive:
            if everywhere:
                for seat in audience.passive:
                    seat.push(encoded, conversation_id, seq)
            else:
                self._note_head(audience, conversation_id, seq, encoded, message_count)

    def _note_head(
        self, audience: _Audience, conversation_id: str, seq: int, encoded: Encoded, message_count: int
    ) -> None:
        """Keep what the next tick tells those who do not look; whom it mentions hears it at once."""
        event = encoded.event
        last: Message | None
        if isinstance(event, events.MessagePosted):
            last = _brief(event)
            if event.mentions:
                for seat in audience.passive:
                    if seat.listener.user_id in event.mentions:
                        seat.push(encoded, conversation_id, seq)
        else:
            known = self._heads.get(conversation_id)
            last = None if known is None else known.last_message
        self._heads[conversation_id] = HeadHint(
            conversation_id=conversation_id, head=seq, message_count=message_count, last_message=last
        )
        self._work.set()

    def publish_live(
        self,
        conversation_id: str,
        key: LiveKey,
        encoded: Encoded,
        *,
        to: Collection[str] | None,
        except_user_id: str = "",
        is_state: bool = False,
    ) -> None:
        audience = self._audiences.get(conversation_id)
        if audience is not None:
            stream = conversation_id if is_state else None
            for seat in audience.full:
                if seat.listener.user_id != except_user_id:
                    seat.listener.push_live(key, encoded, stream)

    def publish_user(self, user_id: str, seq: int, encoded: Encoded) -> None:
        inbox = self._inboxes.get(user_id)
        if inbox is None:
            return
        if self.healer is None:
            inbox.passed(seq)
            self._push_inbox(user_id, seq, encoded)
        else:
            release = partial(self._push_inbox, user_id, seq, encoded)
            self._pass(inbox, inbox_stream(user_id), seq, release)

    def _push_inbox(self, user_id: str, seq: int, encoded: Encoded) -> None:
        for seat in self._by_user.get(user_id, ()):
            seat.push(encoded, INBOX, seq)
        event = encoded.event
        if isinstance(event, events.ContactChanged) and event.contact is None:
            self.presence.doubt(user_id)
        elif isinstance(event, events.SessionRevoked):
            self.close_session(user_id, event.session_id)  # what said so directly may be lost; this is not

    def publish_user_live(self, user_id: str, key: LiveKey, encoded: Encoded, *, stream: str) -> None:
        if stream == FEED_STREAM:
            self.feeds.publish_feed(user_id, key, encoded)
            return
        for seat in self._by_user.get(user_id, ()):
            seat.listener.push_live(key, encoded, stream)

    def resync_live(self, stream: str, is_theirs: Callable[[str], bool]) -> None:
        """Tell the sessions here of users whom `is_theirs` names that live events of a stream may be lost."""
        encoded = Encoded(events.Resync(conversation_id=stream))
        for user_id in [user_id for user_id in self._by_user if is_theirs(user_id)]:
            for seat in self._by_user.get(user_id, ()):
                seat.listener.push_live(("resync", stream), encoded, stream)

    def publish_post(self, post_id: int, key: LiveKey, encoded: Encoded) -> None:
        self.feeds.publish_post(post_id, key, encoded)

    def subscribe(self, conversation_id: str, user_ids: Sequence[str]) -> None:
        self._note_moves(user_ids)
        for user_id in user_ids:
            for seat in self._by_user.get(user_id, ()):
                if seat.left is not None:
                    seat.left.discard(conversation_id)
                seat.conversation_ids.add(conversation_id)
                self._sit(seat, conversation_id)

    def unsubscribe(self, conversation_id: str, user_ids: Sequence[str], *, to: Collection[str]) -> None:
        self._note_moves(user_ids)
        for user_id in user_ids:
            for seat in self._by_user.get(user_id, ()):
                self._leave(seat, conversation_id)
            self.presence.doubt(user_id)

    def _leave(self, seat: _Seat, conversation_id: str) -> None:
        seat.conversation_ids.discard(conversation_id)
        seat.delivered.pop(conversation_id, None)
        self._stand_up(seat, conversation_id)
        if seat.left is not None:
            seat.left.add(conversation_id)

    def resync(self, conversation_id: str, head: int, user_ids: Collection[str]) -> None:
        self.subscribe(conversation_id, [user_id for user_id in user_ids if user_id in self._by_user])
        audience = self._audiences.get(conversation_id)
        if audience is None:
            return
        encoded = Encoded(events.Resync(conversation_id=conversation_id, head=head))
        for seat in (*audience.full, *audience.passive):
            user_id = seat.listener.user_id
            seat.delivered.pop(conversation_id, None)  # what was told may not have been stored
            seat.listener.push_live(("resync", conversation_id), encoded, conversation_id)
            if user_id not in user_ids:
                self._leave(seat, conversation_id)
                self.presence.doubt(user_id)
            elif self.presence.watches_beyond(seat.listener.conn_id, user_ids):
                self.presence.doubt(user_id)  # whom it watches may have left meanwhile
        audience.gate.head = max(audience.gate.head, head)

    def resync_user(self, user_id: str, head: int) -> None:
        encoded = Encoded(events.Resync(head=head))
        for seat in self._by_user.get(user_id, ()):
            seat.listener.push_live(("resync", INBOX), encoded, INBOX)
        inbox = self._inboxes.get(user_id)
        if inbox is not None:
            inbox.head = max(inbox.head, head)

    def close_session(self, user_id: str, session_id: str) -> None:
        for seat in self._by_user.get(user_id, ()):
            if seat.session_id == session_id:
                seat.listener.close(CloseCode.SESSION_REVOKED)

    def replace_connection(self, user_id: str, place: Place) -> None:
        """Close one connection of this life of this node, whose device has connected again."""
        seat = self._seats.get(place.conn_id)
        if seat is not None and seat.listener.user_id == user_id:
            seat.listener.close(CloseCode.REPLACED)

    def part(self, user_id: str, other_id: str) -> None:
        self.presence.part(user_id, other_id)
        self.feeds.part(user_id)
        self.feeds.part(other_id)

    # -- healing, in a cluster ----------------------------------------------------------------------

    def streams(self) -> dict[str, int]:
        """The streams that anybody hears here, and where they stand; -1 where that is not known."""
        found = {conversation_stream(c): audience.gate.head for c, audience in self._audiences.items()}
        found |= {inbox_stream(user_id): inbox.head for user_id, inbox in self._inboxes.items()}
        return found

    def stands_at(self, stream: str, head: int) -> None:
        """The store says how far a stream has got: what did not come here is to be read."""
        gate = self._gate_of(stream)
        if gate is None or head <= gate.head or self.healer is None:
            return
        if not gate.is_open:
            gate.close(head)  # it is being read
        elif not gate.is_known:  # nobody knows what was missed: each device compares with its own cursor
            self._resync_stream(stream, head)
        else:
            gate.close(head)
            self.healer.fill(stream, gate.head)

    def filled(self, stream: str, publish: Iterable[Callable[[], None]]) -> None:
        """What a hole held was read. `publish` publishes it event by event; without any, it could not be
        read, or is too long, and listeners read it themselves.
        """
        gate = self._gate_of(stream)
        if gate is None or gate.is_open:
            return  # whoever waited for it has gone
        before, last, is_too_far = gate.head, gate.last, gate.is_too_far
        waiting = gate.reopen()
        for call in publish:
            call()
        if gate is not self._gate_of(stream):
            return  # the last listener was removed by what was read
        if gate.head < last and (gate.head == before or is_too_far):
            self._resync_stream(stream, max(last, gate.head))
            return
        for seq, release in waiting:
            self._pass(gate, stream, seq, release)
        self.stands_at(stream, last)  # what was read may have been only the beginning

    def _gate_of(self, stream: str) -> StreamGate | None:
        kind, _, name = stream.partition(":")
        if kind == "u":
            return self._inboxes.get(name)
        audience = self._audiences.get(name)
        return None if audience is None else audience.gate

    def _resync_stream(self, stream: str, head: int) -> None:
        kind, _, name = stream.partition(":")
        if kind == "u":
            self.resync_user(name, head)
            return
        audience = self._audiences[name]
        encoded = Encoded(events.Resync(conversation_id=name, head=head))
        for seat in (*audience.full, *audience.passive):
            seat.delivered.pop(name, None)
            seat.listener.push_live(("resync", name), encoded, name)
        audience.gate.head = max(audience.gate.head, head)

    def _note_moves(self, user_ids: Iterable[str]) -> None:
        if self._rejoining is not None:
            self._rejoining.update(user_ids)

    def begin_rejoin(self) -> None:
        """The conversations of users are about to be read: note whose change meanwhile."""
        self._rejoining = set()

    def rejoin(self, found: Mapping[str, Collection[str]]) -> tuple[list[str], list[tuple[int, str]]]:
        """Let the sessions of these users hear exactly these conversations.

        Returns the users who entered or left one since `begin_rejoin`, to be read again; and (conn_id,
        conversation_id) of what is heard only now: what was missed there is to be told by `catch_up`.
        """
        moved, self._rejoining = self._rejoining or set(), None
        entered: list[tuple[int, str]] = []
        for user_id, conversation_ids in found.items():
            if user_id in moved:
                continue
            for seat in self._by_user.get(user_id, ()):
                if seat.left is not None:
                    continue  # it is being opened, and reads them itself
                for conversation_id in seat.conversation_ids - set(conversation_ids):
                    self._leave(seat, conversation_id)
                    self.presence.doubt(user_id)
                for conversation_id in set(conversation_ids) - seat.conversation_ids:
                    seat.conversation_ids.add(conversation_id)
                    self._sit(seat, conversation_id)
                    entered.append((seat.listener.conn_id, conversation_id))
        return [user_id for user_id in found if user_id in moved], entered

    def catch_up(self, conn_id: int, conversation_id: str, head: int) -> None:
        """Tell a session how far a conversation had got that it hears since a moment."""
        seat = self._seats.get(conn_id)
        audience = self._audiences.get(conversation_id)
        if seat is not None and audience is not None and conversation_id in seat.conversation_ids:
            if not audience.gate.is_known:
                audience.gate.head = head
            self._catch_up(seat, conversation_id, head)

    def forget_delivered(self, is_concerned: Callable[[str], bool]) -> None:
        """What devices told of these conversations may be lost with their owner: let them tell it again."""
        for conversation_id, audience in self._audiences.items():
            if is_concerned(conversation_id):
                for seat in (*audience.full, *audience.passive):
                    seat.delivered.pop(conversation_id, None)

    # -- delivered receipts -------------------------------------------------------------------------

    def delivered(self, user_id: str, cursors: dict[str, int], conn_id: int) -> None:
        """Note how far a device has got in the conversations that it hears."""
        seat = self._seats.get(conn_id)
        if seat is None:
            return
        for conversation_id, seq in cursors.items():
            if seq > seat.delivered.get(conversation_id, 0) and conversation_id in seat.conversation_ids:
                head = self._audiences[conversation_id].gate.head
                # What lies beyond the head is not held, and must be told again when it is there.
                seat.delivered[conversation_id] = min(seq, head) if head > 0 else seq
                self.watermarks.note(conversation_id, user_id, seq)

    # -- the one task -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what is batched, until cancelled. Rests while there is nothing to send."""
        next_heads = next_tick = trio.current_time()
        while True:
            with trio.move_on_at(self.presence.next_due):
                await self._work.wait()
            self._work = trio.Event()
            # The first change after a rest is told at once, with what comes along with it.
            await trio.sleep_until(max(next_tick, trio.current_time() + _GATHER_S))
            self.presence.tick()
            self.watermarks.tick()
            now = trio.current_time()
            next_tick = now + PRESENCE_TICK_S
            if self._heads and now >= next_heads:
                self._send_heads()
                next_heads = now + HEADS_TICK_S
            if self._heads:
                self._work.set()

    def _wake(self) -> None:
        self._work.set()

    def _send_heads(self) -> None:
        heads, self._heads = self._heads, {}
        news: dict[_Seat, list[str]] = {}
        for conversation_id in heads:
            audience = self._audiences.get(conversation_id)
            if audience is not None:
                for seat in audience.passive:
                    news.setdefault(seat, []).append(conversation_id)
        shared: dict[tuple[str, ...], list[_Seat]] = {}
        for seat, conversation_ids in news.items():
            shared.setdefault(tuple(conversation_ids), []).append(seat)
        for ids, seats in shared.items():
            self._hint(seats, [heads[conversation_id] for conversation_id in ids])

    def _hint(self, seats: Sequence[_Seat], hints: Sequence[HeadHint]) -> None:
        """Push heads to those who do not look, in events short enough for any outbox."""
        for start in range(0, len(hints), _MAX_HINTS):
            part = list(hints[start : start + _MAX_HINTS])
            encoded = Encoded(events.Heads(items=part))
            for seat in seats:
                seat.listener.push_live("heads", encoded, part[0].conversation_id)


_GATHER_S = 0.02  # so that a crowd that comes at once is one event
_BRIEF_CHARS = 200  # of a message in a conversation list
_MAX_HINTS = 100  # heads in one event: 100 KB at the very most


def _brief(event: events.MessagePosted) -> Message:
    return Message(
        conversation_id=event.conversation_id,
        seq=event.seq,
        at_ms=event.at_ms,
        user_id=event.user_id,
        text=event.text[:_BRIEF_CHARS],
        client_id=event.client_id,
        thread=event.thread,
        mentions=event.mentions,
        files=event.files,
    )
