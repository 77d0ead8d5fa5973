"""How one peer is kept up to date with this node's users. Pure: `now` is trio.current_time() seconds.

One delta is in flight at a time. What changes until its ack comes goes into the next one together, so a slow
peer gets fewer and larger deltas. All that is kept of a peer is how far it has got.
"""

import math
from typing import Final

from cluster.presence_log import PresenceLog
from cluster.presence_messages import MAX_DELTA_ITEMS, PresenceAck, PresenceDelta

# An ack takes some milliseconds here and 0.3 s round the world: later than this, something was lost.
RESEND_S: Final = 1.0
RESEND_MAX_S: Final = 4.0  # doubled up to here, so that a peer that answers again agrees within 5 s
HEARTBEAT_S: Final = 15.0  # heals a reader that forgot; each costs two small messages
# What a new session waits at most for its announcement: longer, and people notice it when they connect.
ANNOUNCE_TIMEOUT_S: Final = 0.5


class PresenceFeed:
    """Decide what to send to one boot of one peer, and when."""

    __slots__ = (
        "_attempts",
        "_boot",
        "_first_sent_at",
        "_in_flight_to",
        "_is_due",
        "_lagging_until",
        "_log",
        "_position",
        "_reset_version",
        "_sent_at",
        "acked_version",
    )

    def __init__(self, log: PresenceLog, boot: int) -> None:
        self._log = log
        self._boot = boot  # ours, not the peer's
        self.acked_version = 0  # the peer has held everything up to here
        self._position = 0  # where the next delta starts; in a reset, how far that has got
        self._reset_version = 0
        self._in_flight_to: int | None = None
        self._first_sent_at = -math.inf
        self._sent_at = -math.inf
        self._attempts = 0
        self._is_due = True  # to be sent at once, even if it is empty
        self._lagging_until = 0

    @property
    def is_lagging(self) -> bool:
        """True from an announcement that it let time out until it has acked all that was there then."""
        return self.acked_version < self._lagging_until

    def due(self, wanted_version: int, now: float) -> PresenceDelta | None:
        """Return the delta to be sent now, if any. Nothing waits that is not beyond `wanted_version`."""
        if self._in_flight_to is not None:
            if now >= self._first_sent_at + ANNOUNCE_TIMEOUT_S:
                self.gave_up()
            return self._send(now) if now >= self._resend_at else None
        is_due = self._is_due or self._position < wanted_version or now >= self._sent_at + HEARTBEAT_S
        return self._send(now) if is_due else None

    def deadline(self, wanted_version: int) -> float:
        """When `due` has something to do next, if nothing else happens; in the past if it has already."""
        if self._in_flight_to is not None:
            # An overdue heartbeat makes nobody wait: it must not be a deadline that stays in the past.
            may_lag = self.acked_version < self._log.version and not self.is_lagging
            return min(self._resend_at, self._first_sent_at + ANNOUNCE_TIMEOUT_S if may_lag else math.inf)
        if self._is_due or self._position < wanted_version:
            return -math.inf
        return self._sent_at + HEARTBEAT_S

    def gave_up(self) -> None:
        """Somebody waited for this peer's ack for too long: let nobody wait until it has caught up."""
        if not self.is_lagging:
            self._lagging_until = self._log.version

    def heard(self) -> None:
        """Anything came from the peer: it can be reached, so what it has not acked need not wait long."""
        self._attempts = min(self._attempts, 1)

    def resume(self) -> None:
        """Go on from where the peer had got, with whatever was in flight forgotten."""
        self._in_flight_to = None
        self._attempts = 0
        self._is_due = True

    def take(self, ack: PresenceAck) -> None:
        """Note what the peer holds. Acks may come late, twice or in any order."""
        if max(ack.version, ack.reset_version) > self._log.version:
            return  # not of this boot's making
        if ack.reset_version == 0:
            self.acked_version = max(self.acked_version, ack.version)
        if ack.is_asking:
            self._position, self._reset_version = ack.version, ack.reset_version
            self.resume()
        elif ack.reset_version == self._reset_version:
            self._advance(ack.version)
        elif ack.reset_version == 0 and ack.version >= self._reset_version:
            # The reset is done, or was not needed; then what is in flight of it is answered too.
            self._reset_version, self._position = 0, ack.version
            self.resume()
            self._is_due = self._position < self._log.version

    def _advance(self, version: int) -> None:
        self._position = max(self._position, version)
        if self._in_flight_to is not None and version >= self._in_flight_to:
            self._in_flight_to = None
            self._attempts = 0
            self._is_due = self._reset_version > 0

    def _send(self, now: float) -> PresenceDelta:
        log = self._log
        # A reset may go on below the horizon as long as nobody was forgotten who left after it began: only
        # those can have been repeated by it.
        if max(self._position, self._reset_version) < log.horizon:
            self._position, self._reset_version = 0, log.version
        items, to_version, is_last = log.after(self._position, MAX_DELTA_ITEMS)
        if self._in_flight_to is None:
            self._first_sent_at = now
        self._in_flight_to = to_version
        self._sent_at = now
        self._attempts += 1
        self._is_due = False
        return PresenceDelta(
            self._boot, self._position, to_version, self._reset_version, is_last=is_last, items=items
        )

    @property
    def _resend_at(self) -> float:
        # The exponent is bounded as attempts may go on for days.
        return self._sent_at + min(RESEND_MAX_S, RESEND_S * 2.0 ** min(self._attempts - 1, 8))
