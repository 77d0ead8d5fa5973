"""The sessions of this node: who is connected, who listens to what, who is told of whose presence.

Durable events go to listeners the moment they are committed. What may be late is batched by one task: heads
of conversations that are off the screen (1 s), presence and delivered receipts (250 ms). Nothing here waits
for a listener: `push` puts a reference into its bounded outbox.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

import trio

from actors.address import Address
from actors.messages import Delivered
from actors.router import Router
from protocol import events
from protocol.codec import Encoded
from protocol.errors import CloseCode
from protocol.limits import HEADS_TICK_S, PRESENCE_TICK_S
from protocol.types import HeadHint, Message, PresenceItem, PresenceState, ReceiptItem

INBOX = ""  # how the user's own stream is named towards a session
LiveKey = str | tuple[str, ...]


Push = Callable[[Encoded, str, int], object]
"""Queue (event, stream, seq); `stream` is a conversation_id, or INBOX."""


class PushLive(Protocol):
    """Queue a live event under a key; its loss is announced as a resync of `stream`, where that is given."""

    def __call__(self, key: LiveKey, encoded: Encoded, stream: str | None = None) -> object: ...


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

    __slots__ = ("conversation_ids", "delivered", "focus", "left", "listener", "session_id", "watched")

    def __init__(self, listener: Listener, session_id: str, focus: frozenset[str] | None) -> None:
        self.listener = listener
        self.session_id = session_id
        self.conversation_ids: set[str] = set()
        self.delivered: dict[str, int] = {}  # what this device has told, so that a heartbeat repeats nothing
        self.focus = focus
        self.left: set[str] | None = set()  # what the user left while the session was being opened
        self.watched: set[str] = set()


class _Audience:
    """Who listens to one conversation: those with it on their screen, and the others."""

    __slots__ = ("full", "head", "passive")

    def __init__(self) -> None:
        self.head = 0  # the last seq that was published
        self.full: dict[_Seat, None] = {}
        self.passive: dict[_Seat, None] = {}


class Hub:
    """Carry events to this node's sessions. All methods are for the Trio thread; only `run` waits."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._seats: dict[int, _Seat] = {}
        self._by_user: dict[str, dict[int, _Seat]] = {}
        self._audiences: dict[str, _Audience] = {}
        self._watchers: dict[str, dict[_Seat, None]] = {}
        self._presence: dict[str, PresenceItem] = {}
        self._inbox_heads: dict[str, int] = {}  # of connected users, once anything was published
        self._heads: dict[str, HeadHint] = {}
        self._presence_dirty: dict[str, PresenceItem] = {}
        self._doubted: dict[str, None] = {}  # users who lost a conversation or a contact
        self.rights_version = 0  # counts such losses
        self._delivered: dict[str, dict[str, int]] = {}
        self._undelivered: dict[str, dict[str, int]] = {}  # for conversations that sleep, or have no room
        self._work = trio.Event()

    # -- sessions -----------------------------------------------------------------------------------

    def attach(self, listener: Listener, session_id: str, focus: Sequence[str] | None) -> None:
        """Let a session hear its inbox, and conversations that its user enters, from now on."""
        seat = _Seat(listener, session_id, None if focus is None else frozenset(focus))
        self._seats[listener.conn_id] = seat
        self._by_user.setdefault(listener.user_id, {})[listener.conn_id] = seat

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

    def detach(self, conn_id: int) -> None:
        """Forget a session."""
        seat = self._seats.pop(conn_id, None)
        if seat is None:
            return
        user_id = seat.listener.user_id
        own = self._by_user[user_id]
        del own[conn_id]
        if not own:
            del self._by_user[user_id]
            self._inbox_heads.pop(user_id, None)
        for conversation_id in seat.conversation_ids:
            self._stand_up(seat, conversation_id)
        for watched in seat.watched:
            self._unwatch(seat, watched)

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

    def is_member(self, conn_id: int, conversation_id: str) -> bool:
        """Tell whether a session hears a conversation, which means that its user is a member."""
        seat = self._seats.get(conn_id)
        return seat is not None and conversation_id in seat.conversation_ids

    def conversation_ids(self, conn_id: int) -> frozenset[str]:
        """The conversations that a session hears."""
        seat = self._seats.get(conn_id)
        return frozenset() if seat is None else frozenset(seat.conversation_ids)

    def connections_of(self, user_id: str) -> list[int]:
        """The conn_ids of a user's sessions on this node."""
        return list(self._by_user.get(user_id, ()))

    def inbox_head_of(self, user_id: str) -> int:
        """The last seq that was published to a user while connected here; 0 if none was."""
        return self._inbox_heads.get(user_id, 0)

    def head_of(self, conversation_id: str) -> int:
        """The last seq that was published here while anybody listened; 0 if none was."""
        audience = self._audiences.get(conversation_id)
        return 0 if audience is None else audience.head

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
        everywhere: bool = False,
        message_count: int = 0,
    ) -> None:
        audience = self._audiences.get(conversation_id)
        if audience is None:
            return
        audience.head = seq
        for seat in audience.full:
            seat.listener.push(encoded, conversation_id, seq)
        if audience.passive:
            if everywhere:
                for seat in audience.passive:
                    seat.listener.push(encoded, conversation_id, seq)
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
                        seat.listener.push(encoded, conversation_id, seq)
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
        seats = self._by_user.get(user_id)
        if seats is None:
            return
        self._inbox_heads[user_id] = seq
        for seat in seats.values():
            seat.listener.push(encoded, INBOX, seq)
        event = encoded.event
        if isinstance(event, events.ContactChanged) and event.contact is None:
            self.doubt(user_id)

    def publish_user_live(self, user_id: str, key: LiveKey, encoded: Encoded, *, stream: str) -> None:
        for seat in self._by_user.get(user_id, {}).values():
            seat.listener.push_live(key, encoded, stream)

    def subscribe(self, conversation_id: str, user_ids: Sequence[str]) -> None:
        for user_id in user_ids:
            for seat in self._by_user.get(user_id, {}).values():
                if seat.left is not None:
                    seat.left.discard(conversation_id)
                seat.conversation_ids.add(conversation_id)
                self._sit(seat, conversation_id)

    def unsubscribe(self, conversation_id: str, user_ids: Sequence[str]) -> None:
        for user_id in user_ids:
            for seat in self._by_user.get(user_id, {}).values():
                self._leave(seat, conversation_id)
            self.doubt(user_id)

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
            seat.delivered.pop(conversation_id, None)  # what was told may not have been stored
            seat.listener.push_live(("resync", conversation_id), encoded, conversation_id)
            if seat.listener.user_id not in user_ids:
                self._leave(seat, conversation_id)
                self.doubt(seat.listener.user_id)
            elif not seat.watched.issubset(user_ids):
                self.doubt(seat.listener.user_id)  # whom it watches may have left meanwhile
        if conversation_id in self._audiences:
            audience.head = max(audience.head, head)

    def resync_user(self, user_id: str, head: int) -> None:
        encoded = Encoded(events.Resync(head=head))
        for seat in self._by_user.get(user_id, {}).values():
            seat.listener.push_live(("resync", INBOX), encoded, INBOX)

    def close_session(self, user_id: str, session_id: str) -> None:
        for seat in list(self._by_user.get(user_id, {}).values()):
            if seat.session_id == session_id:
                seat.listener.close(CloseCode.SESSION_REVOKED)

    # -- presence -----------------------------------------------------------------------------------

    def presence_changed(self, user_id: str, state: str, last_seen_ms: int) -> None:
        item = PresenceItem(user_id=user_id, state=_state(state), last_seen_ms=last_seen_ms)
        if item.state == "offline":
            self._presence.pop(user_id, None)
        else:
            self._presence[user_id] = item
        if user_id in self._watchers:
            self._presence_dirty[user_id] = item
            self._work.set()

    def presence_of(self, user_id: str) -> PresenceItem | None:
        """What is shown of a user who is not offline."""
        return self._presence.get(user_id)

    def watch(self, conn_id: int, user_ids: Iterable[str]) -> None:
        """Replace the set of users whose presence a session is told."""
        seat = self._seats.get(conn_id)
        if seat is None:
            return
        wanted = set(user_ids)
        for user_id in seat.watched - wanted:
            self._unwatch(seat, user_id)
        for user_id in wanted - seat.watched:
            self._watchers.setdefault(user_id, {})[seat] = None
        seat.watched = wanted

    def doubt(self, user_id: str) -> None:
        """A reason to see or to be seen by others is gone: whether another one is left must be asked."""
        self.rights_version += 1
        if user_id in self._watchers or any(s.watched for s in self._by_user.get(user_id, {}).values()):
            self._doubted[user_id] = None

    def take_doubted(self) -> list[str]:
        """The users of whom it must be asked, once each."""
        doubted, self._doubted = self._doubted, {}
        return list(doubted)

    def in_sight_of(self, user_id: str) -> set[str]:
        """Those whom a user watches, and those who watch the user."""
        others = {seat.listener.user_id for seat in self._watchers.get(user_id, ())}
        return others.union(*(seat.watched for seat in self._by_user.get(user_id, {}).values()))

    def part(self, user_id: str, other_id: str) -> None:
        """Two users must no longer see each other's presence: to both, the other goes offline."""
        for watching, watched in ((user_id, other_id), (other_id, user_id)):
            for seat in self._by_user.get(watching, {}).values():
                if watched in seat.watched:
                    seat.watched.discard(watched)
                    self._unwatch(seat, watched)
                    item = PresenceItem(user_id=watched, state="offline")
                    seat.listener.push_live("presence", Encoded(events.Presence(items=[item])), INBOX)

    def _unwatch(self, seat: _Seat, user_id: str) -> None:
        watchers = self._watchers.get(user_id)
        if watchers is not None:
            watchers.pop(seat, None)
            if not watchers:
                del self._watchers[user_id]

    # -- delivered receipts -------------------------------------------------------------------------

    def delivered(self, user_id: str, cursors: dict[str, int], conn_id: int) -> None:
        """Note how far a device has got in the conversations that it hears."""
        seat = self._seats.get(conn_id)
        if seat is None:
            return
        for conversation_id, seq in cursors.items():
            if seq > seat.delivered.get(conversation_id, 0) and conversation_id in seat.conversation_ids:
                head = self._audiences[conversation_id].head
                # What lies beyond the head is not held, and must be told again when it is there.
                seat.delivered[conversation_id] = min(seq, head) if head else seq
                waiting = self._delivered.setdefault(conversation_id, {})
                if seq > waiting.get(user_id, 0):
                    waiting[user_id] = seq
                    self._work.set()

    # -- the one task -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what is batched, until cancelled. Rests while there is nothing to send."""
        next_heads = trio.current_time()
        while True:
            await self._work.wait()
            self._work = trio.Event()
            await trio.sleep(PRESENCE_TICK_S)
            self._send_presence()
            self._send_delivered()
            now = trio.current_time()
            if self._heads and now >= next_heads:
                self._send_heads()
                next_heads = now + HEADS_TICK_S
            if self._heads:
                self._work.set()

    def _send_presence(self) -> None:
        dirty, self._presence_dirty = self._presence_dirty, {}
        news: dict[_Seat, list[PresenceItem]] = {}
        for user_id, item in dirty.items():
            for seat in self._watchers.get(user_id, ()):
                news.setdefault(seat, []).append(item)
        # Members of a group mostly watch the same people: one event, encoded once, serves them all.
        shared: dict[tuple[str, ...], Encoded] = {}
        for seat, items in news.items():
            key = tuple([item.user_id for item in items])
            encoded = shared.get(key)
            if encoded is None:
                encoded = shared[key] = Encoded(events.Presence(items=items))
            seat.listener.push_live("presence", encoded, INBOX)

    def _send_delivered(self) -> None:
        """Tell the conversations that are awake. The others must not be woken: after a restart that would be
        all of them at once.
        """
        waiting, self._delivered = self._delivered, {}
        for conversation_id, seqs in waiting.items():
            if not self._router.tell_if_active(Address("conversation", conversation_id), Delivered(seqs)):
                self.put_back_delivered(conversation_id, seqs)

    def take_delivered(self) -> dict[str, dict[str, int]]:
        """Watermarks that no actor has taken: conversation_id -> user_id -> seq. The caller stores them."""
        taken, self._undelivered = self._undelivered, {}
        return taken

    def put_back_delivered(self, conversation_id: str, seqs: dict[str, int]) -> None:
        """Keep watermarks that could not be stored; they are maxima, so the highest one is enough."""
        waiting = self._undelivered.setdefault(conversation_id, {})
        for user_id, seq in seqs.items():
            waiting[user_id] = max(seq, waiting.get(user_id, 0))

    def delivered_stored(self, conversation_id: str, seqs: dict[str, int]) -> None:
        """Tell of watermarks that were stored: the actor, if it woke meanwhile, or else those who look."""
        if self._router.tell_if_active(Address("conversation", conversation_id), Delivered(seqs)):
            return
        items = [ReceiptItem(user_id=user_id, delivered_seq=seq) for user_id, seq in seqs.items()]
        encoded = Encoded(events.Receipts(conversation_id=conversation_id, items=items))
        # A key of its own: it must not take the place of what the actor tells of other members.
        self.publish_live(conversation_id, ("receipts", conversation_id, *seqs), encoded, is_state=True)

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


def _state(state: str) -> PresenceState:
    return "online" if state == "online" else "away" if state == "away" else "offline"
