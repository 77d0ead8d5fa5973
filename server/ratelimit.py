"""Rate limits: one pure token bucket, and a bounded set of them by key. `now` is trio.current_time()."""

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable

import msgspec


class Rate(msgspec.Struct, frozen=True):
    """`burst` at once, then `per_s` each second."""

    per_s: float
    burst: float


class TokenBucket:
    """Allow a burst, then a steady rate. Full at first."""

    __slots__ = ("_at", "_tokens", "rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self.rate = rate
        self._tokens = rate.burst
        self._at = now

    def take(self, now: float, cost: float = 1.0) -> float:
        """Take `cost` tokens and return 0.0, or take none and return the seconds to wait for them."""
        tokens = min(self.rate.burst, self._tokens + (now - self._at) * self.rate.per_s)
        self._at = now
        if tokens >= cost:
            self._tokens = tokens - cost
            return 0.0
        self._tokens = tokens
        return (cost - tokens) / self.rate.per_s

    def give_back(self, cost: float = 1.0) -> None:
        """Undo a take: what was charged in advance did not have to be."""
        self._tokens = min(self.rate.burst, self._tokens + cost)

    def is_full(self, now: float) -> bool:
        """Tell whether forgetting this bucket would change nothing."""
        return self._tokens + (now - self._at) * self.rate.per_s >= self.rate.burst


class Buckets:
    """A bucket for each key; the longest unused ones are forgotten beyond `max_count`.

    Who fills the table with new keys only makes others' old sins be forgotten; memory stays bounded.
    """

    def __init__(self, rate: Rate, *, max_count: int = 10_000) -> None:
        self._rate = rate
        self._max_count = max_count
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: Hashable, now: float) -> TokenBucket:
        """Return the key's bucket, made full if there is none."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, now)
            if len(self._buckets) > self._max_count:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket

    def take(self, key: Hashable, now: float, cost: float = 1.0) -> float:
        """As TokenBucket.take, for that key."""
        return self.of(key, now).take(now, cost)

    def give_back(self, key: Hashable, now: float, cost: float = 1.0) -> None:
        """As TokenBucket.give_back, for that key."""
        self.of(key, now).give_back(cost)


def address_key(address: str) -> str:
    """Name who is behind an address: an IPv6 host has a whole /64, and counts as one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6:
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
