"""This node's own users, in the order in which they last changed. Pure: `now` is trio.current_time() seconds.

Each change gets the next version and moves its user to the end, so what changed after a version is a suffix
that names each user once, however often somebody came and went. Who left stays in it as a tombstone for a
while. A reader that has seen less than the last dropped tombstone (the horizon) cannot be told what it
missed, and must be given everything.
"""

from bisect import bisect_right
from collections import OrderedDict
from typing import Final, NamedTuple

from cluster.presence_digest import PresenceDigest
from cluster.presence_messages import PresenceItem
from protocol.types import PresenceState

# A peer that is silent for longer has been found lost long before (10 s), and a reset costs it one pass.
TOMBSTONE_KEPT_S: Final = 60.0
MAX_TOMBSTONES: Final = 10_000  # some 3 MB; a node with more leaves a minute resets its peers a little sooner
_COMPACT_ABOVE: Final = 1_024  # places that may be out of date before it is worth looking at


class _Entry(NamedTuple):
    version: int
    state: PresenceState
    last_seen_ms: int


class PresenceLog:
    """Number the changes of this node's users, and tell all that changed after a version."""

    __slots__ = ("_entries", "_places", "_tombstones", "_users", "digest", "horizon", "version")

    def __init__(self, node_id: str, boot: int) -> None:
        self.version = 0
        self.horizon = 0  # the version of the last tombstone that was dropped
        self.digest = PresenceDigest(node_id, boot)
        self._entries: dict[str, _Entry] = {}
        self._places: list[int] = []  # rising versions; out of date where the user's entry has a later one
        self._users: list[str] = []  # whose change each of them was
        self._tombstones: OrderedDict[str, float] = OrderedDict()  # user_id -> when they left, oldest first

    def put(self, user_id: str, state: PresenceState, last_seen_ms: int, now: float) -> int:
        """Note a user's state on this node; return the version that tells it. Repetition is free."""
        old = self._entries.get(user_id)
        if old is None and state == "offline":
            return self.version
        if old is not None and old.state == state:
            return old.version
        self.version += 1
        self._entries[user_id] = _Entry(self.version, state, last_seen_ms if state == "offline" else 0)
        self._places.append(self.version)
        self._users.append(user_id)
        if old is not None and old.state != "offline":
            self.digest.remove(user_id, old.state)
        if state == "offline":
            self._tombstones[user_id] = now
        else:
            self._tombstones.pop(user_id, None)
            self.digest.add(user_id, state)
        self.prune(now)
        return self.version

    def state_of(self, user_id: str) -> PresenceState:
        entry = self._entries.get(user_id)
        return "offline" if entry is None else entry.state

    def after(self, version: int, limit: int) -> tuple[list[PresenceItem], int, bool]:
        """Return the oldest `limit` changes after a version, the version that they reach, and if that is all.

        Only a version at or above the horizon can be told everything in this way.
        """
        items: list[PresenceItem] = []
        reached = version
        for at in range(bisect_right(self._places, version), len(self._places)):
            user_id = self._users[at]
            entry = self._entries.get(user_id)
            if entry is None or entry.version != self._places[at]:
                continue
            if len(items) == limit:
                return items, reached, False
            items.append((user_id, entry.state, entry.last_seen_ms))
            reached = entry.version
        return items, self.version, True

    def prune(self, now: float) -> None:
        """Drop tombstones that are too old or too many."""
        while self._tombstones:
            user_id, left_at = next(iter(self._tombstones.items()))
            if now < left_at + TOMBSTONE_KEPT_S and len(self._tombstones) <= MAX_TOMBSTONES:
                break
            del self._tombstones[user_id]
            self.horizon = self._entries.pop(user_id).version
        if len(self._places) > 2 * len(self._entries) + _COMPACT_ABOVE:
            self._compact()

    def _compact(self) -> None:
        kept = sorted((entry.version, user_id) for user_id, entry in self._entries.items())
        self._places = [version for version, _ in kept]
        self._users = [user_id for _, user_id in kept]

    @property
    def connected_count(self) -> int:
        return len(self._entries) - len(self._tombstones)

    @property
    def tombstone_count(self) -> int:
        return len(self._tombstones)
