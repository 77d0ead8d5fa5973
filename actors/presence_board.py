"""Whose presence is shown to whom on this node.

Each node judges the presence of those who are connected to it (`actors.presence`), with a debounce, and alone
says so to the others; what they say comes in by `elsewhere`. What is shown of a user is the best of both.
Changes are told to the sessions that watch the user, batched by the hub's task.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import trio

from actors.ports import WallClock
from actors.presence import Connections, judge
from protocol import events
from protocol.codec import Encoded
from protocol.limits import PRESENCE_DEBOUNCE_S
from protocol.types import PresenceItem, PresenceState

INBOX: Final = ""  # how the user's own stream is named towards a session
_RANKS: Final[dict[str, int]] = {"offline": 0, "away": 1, "online": 2}


class PushLive(Protocol):
    """Queue a live event under a key; its loss is announced as a resync of `stream`, where that is given."""

    def __call__(self, key: str | tuple[str, ...], encoded: Encoded, stream: str | None = None) -> object: ...


class Watching(Protocol):
    """A session that may be told of presence."""

    @property
    def conn_id(self) -> int: ...

    @property
    def user_id(self) -> str: ...

    @property
    def push_live(self) -> PushLive: ...


_NOBODY: Final[frozenset[str]] = frozenset()
OnHere = Callable[[str, PresenceState, int], None]
"""(user_id, state, last_seen_ms): what this node shows of a user has changed."""


class _Watcher:
    """A session and the users whose presence it is told."""

    __slots__ = ("session", "watched")

    def __init__(self, session: Watching) -> None:
        self.session = session
        self.watched: frozenset[str] = _NOBODY  # an empty set of its own is 216 bytes for each session


class PresenceBoard:
    """Judge, merge and tell presence. For the Trio thread; nothing waits but the hub, which calls `tick`."""

    def __init__(
        self, wake: Callable[[], None], *, now_ms: WallClock, debounce_s: float = PRESENCE_DEBOUNCE_S
    ) -> None:
        self._wake = wake
        self._now_ms = now_ms
        self._debounce_s = debounce_s
        self._here: dict[str, Connections] = {}  # of users connected here, or gone for less than the debounce
        self._shown_here: dict[str, PresenceState] = {}
        self._closed_ms: dict[str, int] = {}  # when the last connection here was closed
        self._debouncing: dict[str, float] = {}  # user_id -> when to judge again; in that order
        self._elsewhere: dict[str, PresenceItem] = {}
        self._shown: dict[str, PresenceItem] = {}  # of all who are not offline
        self._dirty: dict[str, PresenceItem] = {}
        self._watchers: dict[str, dict[_Watcher, None]] = {}  # user_id -> who watches
        self._sessions: dict[int, _Watcher] = {}
        self._by_user: dict[str, tuple[_Watcher, ...]] = {}  # as in the hub
        self._doubted: dict[str, None] = {}  # users who lost a conversation or a contact
        self.rights_version = 0  # counts such losses
        self.on_here: OnHere = _ignore

    # -- connections of this node -------------------------------------------------------------------

    def opened(self, session: Watching) -> None:
        """A session of the user is here; its person counts as active."""
        user_id, conn_id = session.user_id, session.conn_id
        watcher = self._sessions[conn_id] = _Watcher(session)
        self._by_user[user_id] = (*self._by_user.get(user_id, ()), watcher)
        self._debouncing.pop(user_id, None)
        connections = self._here.setdefault(user_id, Connections())
        connections.opened(conn_id, is_active=True)
        self._judge(user_id, connections)

    def moved(self, session: Watching, *, is_active: bool) -> None:
        """The person at that session became active or idle."""
        connections = self._here.get(session.user_id)
        if connections is not None:
            connections.moved(session.conn_id, is_active=is_active)
            self._judge(session.user_id, connections)

    def closed(self, session: Watching, *, was_silent: bool = False) -> None:
        """A session has gone; `was_silent`: because nothing was heard from it for too long."""
        user_id, conn_id = session.user_id, session.conn_id
        watcher = self._sessions.pop(conn_id, None)
        if watcher is None:
            return
        for watched in watcher.watched:
            self._unwatch(watcher, watched)
        own = tuple([other for other in self._by_user[user_id] if other is not watcher])
        if own:
            self._by_user[user_id] = own
        else:
            del self._by_user[user_id]
        connections = self._here[user_id]
        connections.closed(conn_id, trio.current_time(), was_silent=was_silent)
        if not connections.active:
            self._closed_ms[user_id] = self._now_ms()
            self._debouncing[user_id] = trio.current_time() + self._debounce_s
            self._wake()
        self._judge(user_id, connections)

    def _judge(self, user_id: str, connections: Connections) -> None:
        old = self._shown_here.get(user_id, "offline")
        shown = judge(connections, old, trio.current_time(), debounce_s=self._debounce_s)
        last_seen_ms = 0
        if shown == "offline":
            del self._here[user_id]
            self._shown_here.pop(user_id, None)
            self._debouncing.pop(user_id, None)
            last_seen_ms = self._closed_ms.pop(user_id, 0)
        else:
            self._shown_here[user_id] = shown
            if connections.active:
                self._closed_ms.pop(user_id, None)
        if shown != old:
            self.on_here(user_id, shown, last_seen_ms)
            self._show(user_id, last_seen_ms)

    # -- the view -----------------------------------------------------------------------------------

    def elsewhere(self, user_id: str, state: PresenceState, last_seen_ms: int) -> None:
        """What the other nodes together show of a user has changed."""
        if state == "offline":
            if self._elsewhere.pop(user_id, None) is None:
                return
        else:
            self._elsewhere[user_id] = PresenceItem(user_id=user_id, state=state)
        self._show(user_id, last_seen_ms)

    def forget_elsewhere(self) -> None:
        """Nothing is known of the other nodes any more."""
        for user_id in list(self._elsewhere):
            self.elsewhere(user_id, "offline", 0)

    def _show(self, user_id: str, last_seen_ms: int) -> None:
        state = self._shown_here.get(user_id, "offline")
        there = self._elsewhere.get(user_id)
        if there is not None and _RANKS[there.state] > _RANKS[state]:
            state = there.state
        old = self._shown.get(user_id)
        if state == ("offline" if old is None else old.state):
            return
        item = PresenceItem(
            user_id=user_id, state=state, last_seen_ms=last_seen_ms if state == "offline" else 0
        )
        if state == "offline":
            del self._shown[user_id]
        else:
            self._shown[user_id] = item
        if user_id in self._watchers:
            self._dirty[user_id] = item
            self._wake()

    def of(self, user_id: str) -> PresenceItem | None:
        """What is shown of a user who is not offline."""
        return self._shown.get(user_id)

    def is_elsewhere(self, user_id: str) -> bool:
        """Tell whether the user is connected to another node."""
        return user_id in self._elsewhere

    def here(self) -> dict[str, PresenceState]:
        """What this node shows of the users connected to it."""
        return dict(self._shown_here)

    # -- the hub's task -----------------------------------------------------------------------------

    @property
    def next_due(self) -> float:
        """When `tick` has to be called next for a debounce that ends; infinity for none."""
        return next(iter(self._debouncing.values()), float("inf"))

    def tick(self) -> None:
        """Conclude who is gone by now, and tell the watchers what has changed."""
        now = trio.current_time()
        for user_id in [user_id for user_id, due in self._debouncing.items() if due <= now]:
            del self._debouncing[user_id]
            connections = self._here.get(user_id)
            if connections is not None:
                self._judge(user_id, connections)
        dirty, self._dirty = self._dirty, {}
        news: dict[_Watcher, list[PresenceItem]] = {}
        for user_id, item in dirty.items():
            for watcher in self._watchers.get(user_id, ()):
                news.setdefault(watcher, []).append(item)
        # Members of a group mostly watch the same people: one event, encoded once, serves them all.
        shared: dict[tuple[str, ...], Encoded] = {}
        for watcher, items in news.items():
            key = tuple([item.user_id for item in items])
            encoded = shared.get(key)
            if encoded is None:
                encoded = shared[key] = Encoded(events.Presence(items=items))
            watcher.session.push_live("presence", encoded, INBOX)

    # -- watching -----------------------------------------------------------------------------------

    def watch(self, conn_id: int, user_ids: Iterable[str]) -> None:
        """Replace the set of users whose presence a session is told."""
        watcher = self._sessions.get(conn_id)
        if watcher is None:
            return
        wanted = frozenset(user_ids)
        for user_id in watcher.watched - wanted:
            self._unwatch(watcher, user_id)
        for user_id in wanted - watcher.watched:
            self._watchers.setdefault(user_id, {})[watcher] = None
        watcher.watched = wanted

    def watches_beyond(self, conn_id: int, user_ids: Iterable[str]) -> bool:
        """Tell whether a session watches anybody who is not among these users."""
        watcher = self._sessions.get(conn_id)
        return watcher is not None and not watcher.watched.issubset(user_ids)

    def doubt(self, user_id: str) -> None:
        """A reason to see or to be seen by others is gone: whether another one is left must be asked."""
        self.rights_version += 1
        if user_id in self._watchers or any(w.watched for w in self._by_user.get(user_id, ())):
            self._doubted[user_id] = None

    def take_doubted(self) -> list[str]:
        """The users of whom it must be asked, once each."""
        doubted, self._doubted = self._doubted, {}
        return list(doubted)

    def in_sight_of(self, user_id: str) -> set[str]:
        """Those whom a user watches, and those who watch the user."""
        others = {watcher.session.user_id for watcher in self._watchers.get(user_id, ())}
        return others.union(*(watcher.watched for watcher in self._by_user.get(user_id, ())))

    def part(self, user_id: str, other_id: str) -> None:
        """Two users must no longer see each other's presence: to both, the other goes offline."""
        for watching, watched in ((user_id, other_id), (other_id, user_id)):
            for watcher in self._by_user.get(watching, ()):
                if watched in watcher.watched:
                    watcher.watched -= {watched}
                    self._unwatch(watcher, watched)
                    item = PresenceItem(user_id=watched, state="offline")
                    watcher.session.push_live("presence", Encoded(events.Presence(items=[item])), INBOX)

    def _unwatch(self, watcher: _Watcher, user_id: str) -> None:
        watchers = self._watchers.get(user_id)
        if watchers is not None:
            watchers.pop(watcher, None)
            if not watchers:
                del self._watchers[user_id]


def _ignore(_user_id: str, _state: PresenceState, _last_seen_ms: int) -> None:
    """One node alone has nobody to tell."""
