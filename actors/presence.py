"""How presence is concluded from a user's connections: pure, with `now` handed in.

Somebody who comes is shown at once. Somebody who goes is shown as gone only after a debounce, so that a short
drop is not shown at all.
"""

from dataclasses import dataclass, field

from protocol.limits import PRESENCE_DEBOUNCE_S
from protocol.types import PresenceState


@dataclass(slots=True)
class Connections:
    """A user's connections: conn_id -> whether the person is active there; when the last one closed."""

    active: dict[int, bool] = field(default_factory=dict)
    closed_at: float = float("-inf")  # trio.current_time() seconds

    def opened(self, conn_id: int, *, is_active: bool) -> None:
        self.active[conn_id] = is_active

    def moved(self, conn_id: int, *, is_active: bool) -> None:
        if conn_id in self.active:
            self.active[conn_id] = is_active

    def closed(self, conn_id: int, now: float, *, was_silent: bool = False) -> None:
        """A silent connection has been gone for a minute already: no need to wait and see."""
        if self.active.pop(conn_id, None) is not None and not self.active:
            self.closed_at = float("-inf") if was_silent else now


def judge(
    connections: Connections,
    shown: PresenceState,
    now: float,
    *,
    debounce_s: float = PRESENCE_DEBOUNCE_S,
) -> PresenceState:
    """Conclude what to show, given what is shown. Times are trio.current_time() seconds.

    Online while active on any device, away while connected but idle on all, offline once the last connection
    has been closed for `debounce_s`.
    """
    if any(connections.active.values()):
        return "online"
    if connections.active:
        return "away"
    # Compared as the timer computes it: a difference of floats may fall just short of debounce_s.
    return "offline" if now >= connections.closed_at + debounce_s else shown
