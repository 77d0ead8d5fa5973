"""Who is connected to which node. Each node alone writes what concerns its own users; all others mirror it.

Three views are made of it: what is shown of a user, where a user's events must be sent, and when a new
session is known to everybody. Nothing here waits or sends: messages are returned for the caller to send, over
lanes that may lose, repeat and reorder them. Times are trio.current_time() seconds, except for `_ms`.

How it fails. A message is lost: the writer sends again what was not acked. A node is lost: no event is routed
there from then on; its users stay in sight for a grace, then are offline to those who cannot reach it. A node
restarts: its old boot is out of sight after the same grace, and who is back by then was never seen to leave.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from cluster.presence_digest import merged_digest
from cluster.presence_feed import PresenceFeed
from cluster.presence_log import PresenceLog
from cluster.presence_messages import PresenceAck, PresenceDelta, PresenceMessage
from cluster.presence_replica import PresenceReplica
from protocol.types import PresenceState

# Changes for which nobody waits (idle, gone) are gathered for this long; 250 ms is what a watcher may wait.
GATHER_S: Final = 0.1
# Users looked at per call of `due` after a node is lost: about 5 ms, so that 100,000 of them stall nobody.
REFRESH_SLICE: Final = 1_000
# Users who left lately: who has a second connection elsewhere left when the later one ended. Some 2 MB.
MAX_ENDS: Final = 10_000

OnChange = Callable[[str, PresenceState, int], None]
"""(user_id, state, last_seen_ms). The last is 0 unless offline; and 0 if it is known to the store only."""
OnGone = Callable[[str, int], None]
"""(user_id, last_seen_ms)"""


class _View(NamedTuple):
    """What is shown of a user elsewhere, and the nodes with a connection. Shared by many users."""

    state: PresenceState
    node_ids: tuple[str, ...]


class _Peer:
    """Another node, by its newest boot."""

    __slots__ = ("feed", "replica")

    def __init__(self, feed: PresenceFeed, replica: PresenceReplica) -> None:
        self.feed = feed
        self.replica = replica


class _Backlog(NamedTuple):
    """Users of a replica that was hidden or came back, who are still to be looked at."""

    replica: PresenceReplica
    user_ids: list[str]


class PresenceCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator wants to see of the directory."""

    connected_here: int
    shown_elsewhere: int
    online_elsewhere: int
    tombstones: int
    peers_up: int
    peers_lagging: int
    replicas_lost: int
    ignored_messages: int  # of nodes that are not up, or no longer


class PresenceDirectory:
    """Know where every user of the cluster is connected.

    After each call the caller sends what was returned, wakes who waits for `announced_version`, and calls
    `due` at `next_deadline`. `on_change` tells what is shown of a user on other nodes, whenever it moves;
    `on_gone` tells whose last known connection died with a lost node, for last_seen to be stored. Both are
    called from within `received` and `due`, and must not call back.
    """

    def __init__(
        self, node_id: str, boot: int, *, on_change: OnChange, on_gone: OnGone, now_ms: Callable[[], int]
    ) -> None:
        self.node_id = node_id
        self.boot = boot
        self._on_change = on_change
        self._on_gone = on_gone
        self._now_ms = now_ms  # Unix milliseconds, for last_seen only
        self._log = PresenceLog(node_id, boot)
        self._wanted_version = 0  # what need not wait for more
        self._gather_until = math.inf
        self._peers: dict[str, _Peer] = {}
        self._asks: dict[str, None] = {}  # peers to be asked what follows what we hold
        self._lost: list[PresenceReplica] = []  # of any boot, shown until its grace is over
        self._shown: list[PresenceReplica] = []
        self._unroutable: set[str] = set()  # nodes that are down and may still stand in views
        self._backlogs: deque[_Backlog] = deque()
        self._views: dict[str, _View] = {}  # of users who are not offline elsewhere
        self._shared_views: dict[_View, _View] = {}
        self._online_count = 0
        self._ends: OrderedDict[str, int] = OrderedDict()  # user_id -> last_seen_ms
        self._ignored_count = 0

    # -- this node's users --------------------------------------------------------------------------

    def local_changed(
        self, user_id: str, state: PresenceState | None, last_seen_ms: int, now: float, *, urgent: bool
    ) -> int:
        """Note what a user is on this node (None or "offline": has left); return the version that tells it.

        Urgent changes go out with the next call of `due`; others may wait for more of their kind.
        """
        before = self._log.version
        version = self._log.put(user_id, state or "offline", last_seen_ms, now)
        if urgent:
            # Also when nothing is new: what said so may still be gathering.
            self._wanted_version = max(self._wanted_version, version)
            if self._wanted_version == self._log.version:
                self._gather_until = math.inf  # it takes along what was gathered
        elif self._log.version > before:
            self._gather_until = min(self._gather_until, now + GATHER_S)
        return version

    @property
    def version(self) -> int:
        """Count this node's changes."""
        return self._log.version

    @property
    def announced_version(self) -> int:
        """What all peers hold of this node that are up and not lagging."""
        acked = (
            peer.feed.acked_version
            for peer in self._peers.values()
            if peer.replica.is_up and not peer.feed.is_lagging
        )
        return min(acked, default=self._log.version)

    def announced(self, version: int) -> bool:
        """Tell whether nobody need wait any longer for the peers to know of this version.

        Of two changes of one user only the later one is told: should there be more to tell than fits into one
        delta, and the earlier one be announced by itself, then the user may be known a round trip later.
        """
        return self.announced_version >= version

    def behind(self, version: int) -> list[str]:
        """The peers that are up and do not hold that version yet, the lagging ones among them."""
        return [
            node_id
            for node_id, peer in self._peers.items()
            if peer.replica.is_up and peer.feed.acked_version < version
        ]

    def gave_up(self, version: int) -> None:
        """Somebody waited for `ANNOUNCE_TIMEOUT_S`: do not wait for those to blame until they catch up.

        A delta that is not answered for that long has the same effect by itself.
        """
        for peer in self._peers.values():
            if peer.feed.acked_version < version:
                peer.feed.gave_up()

    # -- other nodes --------------------------------------------------------------------------------

    def peer_up(self, node_id: str, boot: int, now: float) -> None:
        """A node was found, or found again: exchange users with it, and show those that it had.

        A newer boot ends the older one, whose users stay in sight for the grace unless it has long been over.
        """
        if node_id == self.node_id:
            return
        peer = self._peers.get(node_id)
        if peer is not None and boot < peer.replica.boot:
            return
        if peer is None or boot > peer.replica.boot:
            if peer is not None:
                self._retire(peer.replica, now)
            feed = PresenceFeed(self._log, self.boot)
            self._peers[node_id] = _Peer(feed, PresenceReplica(node_id, boot))
        elif peer.replica.is_up:
            return
        else:
            self._return(peer)
        self._unroutable.discard(node_id)
        self._asks[node_id] = None
        self._arrange()

    def node_lost(self, node_id: str, boot: int, now: float) -> None:
        """A node cannot be reached: send it nothing, and show its users for the grace only.

        The loss of a boot that was never up here says that the older one, which was, is no more either.
        """
        peer = self._peers.get(node_id)
        if peer is None or boot < peer.replica.boot or not peer.replica.is_up:
            return
        peer.replica.lost(now, self._now_ms())
        self._lost.append(peer.replica)
        self._unroutable.add(node_id)
        self._asks.pop(node_id, None)
        self._arrange()

    def node_left(self, node_id: str, boot: int, now: float) -> None:
        """A node said good-bye: it has told who left, and stored when. Nobody is left to us to store."""
        peer = self._peers.get(node_id)
        if peer is not None and boot == peer.replica.boot:
            self.node_lost(node_id, boot, now)
            peer.replica.is_orderly = True
            peer.replica.drop_at = peer.replica.hide_at

    def received(
        self, node_id: str, boot: int, message: PresenceMessage, now: float
    ) -> list[PresenceMessage]:
        """Take a peer's message, in whatever order; return what is to be sent to it in return.

        Messages of nodes that are not up are ignored: what we would not show or route by must not be acked.
        """
        peer = self._peers.get(node_id)
        if peer is None or boot != peer.replica.boot or not peer.replica.is_up:
            self._ignored_count += 1
            return []
        peer.feed.heard()
        match message:
            case PresenceAck(boot=about):
                if about != self.boot:
                    self._ignored_count += 1
                    return []
                peer.feed.take(message)
                delta = peer.feed.due(self._wanted_version, now)
                return [] if delta is None else [delta]
            case PresenceDelta(boot=of):
                if of != boot:
                    self._ignored_count += 1
                    return []
                ack, touched = peer.replica.apply(message)
                for user_id, last_seen_ms in touched:
                    if last_seen_ms:
                        self._note_end(user_id, last_seen_ms)
                    self._refresh(user_id)
                return [ack]

    # -- time ---------------------------------------------------------------------------------------

    def due(self, now: float) -> list[tuple[str, PresenceMessage]]:
        """Do what time asks for; return (node_id, message) of what is to be sent."""
        self._log.prune(now)
        if now >= self._gather_until:
            self._gather_until = math.inf
            self._wanted_version = self._log.version
        for replica in list(self._lost):
            self._judge(replica, now)
        self._refresh_some()
        sent: list[tuple[str, PresenceMessage]] = [
            (node_id, self._peers[node_id].replica.ack(is_asking=True)) for node_id in self._asks
        ]
        self._asks.clear()
        for node_id, peer in self._peers.items():
            if peer.replica.is_up:
                delta = peer.feed.due(self._wanted_version, now)
                if delta is not None:
                    sent.append((node_id, delta))
        return sent

    @property
    def next_deadline(self) -> float:
        """When `due` must be called next; in the past if there is something to do now, inf if never."""
        if self._backlogs or self._asks:
            return -math.inf
        deadlines = [self._gather_until]
        deadlines += (replica.hide_at if replica.is_shown else replica.drop_at for replica in self._lost)
        deadlines += (
            peer.feed.deadline(self._wanted_version) for peer in self._peers.values() if peer.replica.is_up
        )
        return min(deadlines)

    # -- what is known ------------------------------------------------------------------------------

    def nodes_of(self, user_id: str) -> tuple[str, ...]:
        """The other nodes that hold a connection of a user and can be reached."""
        view = self._views.get(user_id)
        if view is None:
            return ()
        if self._unroutable:
            return tuple(node_id for node_id in view.node_ids if node_id not in self._unroutable)
        return view.node_ids

    def elsewhere(self, user_id: str) -> tuple[PresenceState, int]:
        """What is shown of a user by other nodes, and last_seen_ms if offline (0: the store may know)."""
        view = self._views.get(user_id)
        return ("offline", self._ends.get(user_id, 0)) if view is None else (view.state, 0)

    def state_of(self, user_id: str) -> PresenceState:
        """What is to be shown of a user, this node included."""
        return _better(self._log.state_of(user_id), self.elsewhere(user_id)[0])

    def digest(self) -> str:
        """Return a hash of who is connected where: two nodes that agree on everything have the same."""
        return merged_digest([self._log.digest, *(replica.digest for replica in self._shown)])

    def counts(self) -> PresenceCounts:
        up = [peer for peer in self._peers.values() if peer.replica.is_up]
        return PresenceCounts(
            connected_here=self._log.connected_count,
            shown_elsewhere=len(self._views),
            online_elsewhere=self._online_count,
            tombstones=self._log.tombstone_count,
            peers_up=len(up),
            peers_lagging=sum(peer.feed.is_lagging for peer in up),
            replicas_lost=len(self._lost),
            ignored_messages=self._ignored_count,
        )

    # -- lost nodes ---------------------------------------------------------------------------------

    def _retire(self, replica: PresenceReplica, now: float) -> None:
        if replica.is_up:
            self._lost.append(replica)
        replica.ended(now, self._now_ms())
        # Its node can be reached again, but these users are not there.
        self._backlogs.append(_Backlog(replica, list(replica.states)))

    def _return(self, peer: _Peer) -> None:
        replica = peer.replica
        if not replica.is_shown:
            self._backlogs.append(_Backlog(replica, list(replica.states)))
        replica.returned()
        self._lost.remove(replica)
        peer.feed.resume()

    def _judge(self, replica: PresenceReplica, now: float) -> None:
        if replica.is_shown and now >= replica.hide_at:
            replica.is_shown = False
            self._arrange()
            self._backlogs.append(_Backlog(replica, list(replica.states)))
        if now >= replica.drop_at:
            self._lost.remove(replica)
            peer = self._peers.get(replica.node_id)
            if peer is not None and peer.replica is replica:
                del self._peers[replica.node_id]

    def _arrange(self) -> None:
        """Collect what is shown, in an order of its own so that users of the same nodes share a view."""
        replicas = [*self._lost, *(peer.replica for peer in self._peers.values() if peer.replica.is_up)]
        self._shown = sorted((r for r in replicas if r.is_shown), key=lambda r: (r.node_id, r.boot))
        self._shared_views.clear()

    def _refresh_some(self) -> None:
        """Look at some of the users who were hidden or shown with their node."""
        left = REFRESH_SLICE
        while self._backlogs and left:
            replica, user_ids = self._backlogs[0]
            while user_ids and left:
                left -= 1
                user_id = user_ids.pop()
                if replica.is_shown:
                    self._refresh(user_id)
                    continue
                self._note_end(user_id, replica.lost_at_ms)
                is_gone = self._refresh(user_id) and not replica.is_orderly
                if is_gone and self._log.state_of(user_id) == "offline":
                    self._on_gone(user_id, self._ends[user_id])
            if not user_ids:
                self._backlogs.popleft()

    # -- what is shown ------------------------------------------------------------------------------

    def _refresh(self, user_id: str) -> bool:
        """Bring what is shown of a user up to date; tell whether the user just went offline."""
        state: PresenceState = "offline"
        node_ids: tuple[str, ...] = ()
        for replica in self._shown:
            found = replica.states.get(user_id)
            if found is not None:
                state = _better(state, found)
                # A node that is down stays in views, and nodes_of leaves it out: so nothing need be done to
                # them when it is back within the grace.
                if not replica.is_ended:
                    node_ids += (replica.node_id,)
        old = self._views.get(user_id)
        shown = "offline" if old is None else old.state
        if state == "offline":
            self._views.pop(user_id, None)
        else:
            view = _View(state, node_ids)
            self._views[user_id] = self._shared_views.setdefault(view, view)
        if state == shown:
            return False
        self._online_count += (state == "online") - (shown == "online")
        is_gone = state == "offline"
        self._on_change(user_id, state, self._ends.get(user_id, 0) if is_gone else 0)
        return is_gone

    def _note_end(self, user_id: str, last_seen_ms: int) -> None:
        self._ends[user_id] = max(last_seen_ms, self._ends.get(user_id, 0))
        self._ends.move_to_end(user_id)
        if len(self._ends) > MAX_ENDS:
            self._ends.popitem(last=False)


def _better(state: PresenceState, other: PresenceState) -> PresenceState:
    """Merge the states of two connections: one that is active shows the person as online."""
    if "online" in (state, other):
        return "online"
    return "away" if "away" in (state, other) else "offline"
