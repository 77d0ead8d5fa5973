"""What this node knows of another node's users, from that node's deltas. Pure."""

import math
from typing import Final

from cluster.presence_digest import PresenceDigest
from cluster.presence_messages import PresenceAck, PresenceDelta, PresenceItem
from protocol.types import PresenceState

# A node that restarts, or whose network blinks, has its users back within this; without it, each such blink
# would tell everybody that thousands of users left and came back.
GRACE_S: Final = 5.0
# How long a lost node's users are kept out of sight: a node that thaws or is cut off for longer is rare, and
# then needs one full transfer.
LOST_KEPT_S: Final = 20 * 60.0

Touched = list[tuple[str, int]]
"""Users whose state on that node changed, with last_seen_ms (0: connected, or not known)."""


class PresenceReplica:
    """Mirror the users of one boot of one node, and know whether they are to be shown."""

    __slots__ = (
        "_repeated",
        "_reset_to",
        "_reset_version",
        "boot",
        "digest",
        "drop_at",
        "hide_at",
        "is_ended",
        "is_orderly",
        "is_shown",
        "is_up",
        "lost_at_ms",
        "node_id",
        "states",
        "version",
    )

    def __init__(self, node_id: str, boot: int) -> None:
        self.node_id = node_id
        self.boot = boot
        self.states: dict[str, PresenceState] = {}  # "online" or "away" only
        self.version = 0
        self.digest = PresenceDigest(node_id, boot)
        self._reset_version = 0  # of the reset that is under way
        self._reset_to = 0
        self._repeated: set[str] = set()
        self.is_up = True
        self.is_shown = True
        self.is_orderly = False  # it said good-bye
        self.is_ended = False  # its node has a newer boot
        self.hide_at = math.inf
        self.drop_at = math.inf
        self.lost_at_ms = 0

    # -- whether it is shown ------------------------------------------------------------------------

    def lost(self, now: float, at_ms: int) -> None:
        """The node cannot be reached: its users stay in sight for the grace only."""
        if self.is_up:
            self.is_up = False
            self.hide_at = now + GRACE_S
            self.drop_at = now + LOST_KEPT_S
            self.lost_at_ms = at_ms

    def ended(self, now: float, at_ms: int) -> None:
        """That boot will never be back: nothing is kept beyond the grace."""
        self.lost(now, at_ms)
        self.is_ended = True
        self.drop_at = self.hide_at

    def returned(self) -> None:
        """It was the network only."""
        self.is_up = self.is_shown = True
        self.is_orderly = False
        self.hide_at = self.drop_at = math.inf

    # -- what it holds ------------------------------------------------------------------------------

    def ack(self, *, is_asking: bool) -> PresenceAck:
        """Tell the writer how far this replica has got."""
        if self._reset_version:
            return PresenceAck(self.boot, self._reset_to, self._reset_version, is_asking)
        return PresenceAck(self.boot, self.version, 0, is_asking)

    def apply(self, delta: PresenceDelta) -> tuple[PresenceAck, Touched]:
        """Take in what is new in a delta of this boot, whatever was lost, repeated or overtaken on the way.

        A delta that begins at or below our version and ends above it was made of a log that had all we know,
        and names each user's last state: so none of its items is older than ours. Whatever is not of what is
        under way here is answered by asking, or two nodes that took a late message for news might insist for
        ever on different resets.
        """
        if delta.reset_version:
            return self._apply_reset(delta)
        if self._reset_version:
            return self.ack(is_asking=True), []
        if delta.to_version <= self.version:
            return self.ack(is_asking=False), []
        if delta.from_version > self.version:
            return self.ack(is_asking=True), []
        touched = self._put(delta.items)
        self.version = delta.to_version
        return self.ack(is_asking=False), touched

    def _apply_reset(self, delta: PresenceDelta) -> tuple[PresenceAck, Touched]:
        reset_version = delta.reset_version
        if reset_version < self._reset_version:
            return self.ack(is_asking=True), []  # another one began since
        if reset_version <= self.version:
            return self.ack(is_asking=False), []  # it is over, or was not needed
        if reset_version > self._reset_version:
            if delta.from_version > 0:
                return self.ack(is_asking=True), []
            self._reset_version, self._reset_to, self._repeated = reset_version, 0, set()
        if delta.from_version > self._reset_to:
            return self.ack(is_asking=True), []
        if delta.to_version <= self._reset_to:
            return self.ack(is_asking=False), []
        touched = self._put(delta.items)
        for user_id, state, _ in delta.items:
            if state == "offline":
                self._repeated.discard(user_id)
            else:
                self._repeated.add(user_id)
        self._reset_to = delta.to_version
        if delta.is_last:
            gone: list[PresenceItem] = [
                (user_id, "offline", 0) for user_id in self.states if user_id not in self._repeated
            ]
            touched += self._put(gone)
            self.version = delta.to_version
            self._reset_version, self._reset_to, self._repeated = 0, 0, set()
        return self.ack(is_asking=False), touched

    def _put(self, items: list[PresenceItem]) -> Touched:
        touched: Touched = []
        states, digest = self.states, self.digest
        for user_id, state, last_seen_ms in items:
            old = states.get(user_id)
            if state == "offline":
                if old is None:
                    continue
                del states[user_id]
            elif state == old:
                continue
            else:
                states[user_id] = state
                digest.add(user_id, state)
            if old is not None:
                digest.remove(user_id, old)
            touched.append((user_id, last_seen_ms))
        return touched
