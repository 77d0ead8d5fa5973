"""A suspicion: how long a suspect has for its refutation, and how confirmations shorten that (Lifeguard)."""

import math

import msgspec

from cluster.membership_settings import MembershipSettings


class Suspicion(msgspec.Struct, frozen=True):
    """Who accuses a member, and since when. Times are seconds of the clock that `step` is handed."""

    started_at: float
    min_s: float
    max_s: float
    expected_count: int  # confirmations after which it lasts min_s only
    accusers: tuple[str, ...]  # the first one, then each who confirmed
    held_until: float = float("-inf")  # not before this, as the suspect was heard in the meantime

    @property
    def confirmation_count(self) -> int:
        return len(self.accusers) - 1

    @property
    def ends_at(self) -> float:
        timeout_s = suspicion_timeout_s(
            self.confirmation_count, self.expected_count, min_s=self.min_s, max_s=self.max_s
        )
        return max(self.started_at + timeout_s, self.held_until)

    def confirmed(self, by: str) -> "Suspicion | None":
        """Count one more accuser. Returns None if that is nothing new, or no more is needed."""
        if self.confirmation_count >= self.expected_count or by in self.accusers:
            return None
        return msgspec.structs.replace(self, accusers=(*self.accusers, by))

    def held(self, until: float) -> "Suspicion":
        """Pass no judgement before `until`."""
        return msgspec.structs.replace(self, held_until=until)

    def postponed(self, by_s: float) -> "Suspicion":
        """Give back time in which we ourselves stood still."""
        return msgspec.structs.replace(
            self, started_at=self.started_at + by_s, held_until=self.held_until + by_s
        )


def start_suspicion(by: str, now: float, node_count: int, settings: MembershipSettings) -> Suspicion:
    """Begin one. `node_count` counts the live members, ourselves and the suspect included.

    With too few others to confirm anything none is waited for (memberlist: suspectNode).
    """
    expected_count = settings.suspicion_mult - 2
    if node_count - 2 < expected_count:
        expected_count = 0
    min_s = min_suspicion_s(node_count, settings)
    return Suspicion(now, min_s, min_s * settings.suspicion_max_mult, expected_count, (by,))


def min_suspicion_s(node_count: int, settings: MembershipSettings) -> float:
    """Return the least time that a suspect has (memberlist: suspicionTimeout)."""
    scale = max(1.0, math.log10(max(1, node_count)))
    return settings.suspicion_mult * scale * settings.probe_interval_s


def suspicion_timeout_s(confirmation_count: int, expected_count: int, *, min_s: float, max_s: float) -> float:
    """Return how long a suspicion lasts from its start: max_s, shrinking to min_s (Lifeguard; memberlist).

    The first confirmation takes off most, as it says most: the fault is not the accuser's own.
    """
    if expected_count < 1:
        return min_s
    share = math.log(confirmation_count + 1) / math.log(expected_count + 1)
    return max(min_s, max_s - share * (max_s - min_s))
