"""How often something may be done: token buckets, and what is remembered of each address.

Pure: `now` (`trio.current_time()` seconds) is handed in.
"""

import ipaddress
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

MAX_TRACKED_ADDRESSES: Final = 20_000  # about 10 MB at most; the longest unseen is forgotten first


class Rate(msgspec.Struct, frozen=True):
    """So many per second in the long run, and so many at once."""

    per_s: float
    burst: float


class TokenBucket:
    """Tell whether one more is allowed now. Starts full."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at = now

    def take(self, now: float, count: float = 1.0) -> bool:
        """Take `count` tokens if they are there; a refused caller takes none."""
        rate = self._rate
        tokens = self._tokens + (now - self._at) * rate.per_s
        if tokens > rate.burst:
            tokens = rate.burst
        self._at = now
        if tokens < count:
            self._tokens = tokens
            return False
        self._tokens = tokens - count
        return True

    def retry_after_s(self, now: float, count: float = 1.0) -> float:
        """Seconds until `count` tokens are there; 0 if they are."""
        tokens = self._tokens + (now - self._at) * self._rate.per_s
        return max(0.0, (count - tokens) / self._rate.per_s)


class AddressRates:
    """One token bucket for each address: log-in failures, sign-ups, connection attempts.

    IPv6 counts by /64, the smallest block that one customer gets. Names and ids serve as addresses
    too, each for itself.
    """

    def __init__(self, rate: Rate, *, max_addresses: int = MAX_TRACKED_ADDRESSES) -> None:
        self._rate = rate
        self._max_addresses = max_addresses
        self._buckets: dict[str, TokenBucket] = {}  # by last use, the oldest first

    def take(self, address: str, now: float, count: float = 1.0) -> bool:
        """Count so many (at most the burst) for this address; tell whether they were allowed."""
        return self._bucket(address, now).take(now, min(count, self._rate.burst))

    def retry_after_s(self, address: str, now: float, count: float = 1.0) -> float:
        """Seconds until the address may try again."""
        bucket = self._buckets.get(address_key(address))
        return 0.0 if bucket is None else bucket.retry_after_s(now, min(count, self._rate.burst))

    def __len__(self) -> int:
        return len(self._buckets)

    def _bucket(self, address: str, now: float) -> TokenBucket:
        key = address_key(address)
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            bucket = TokenBucket(self._rate, now)
            while len(self._buckets) >= self._max_addresses:
                del self._buckets[next(iter(self._buckets))]
        self._buckets[key] = bucket
        return bucket


class AddressCounts:
    """How many connections each address has open now."""

    def __init__(self, max_per_address: int) -> None:
        self._max_per_address = max_per_address
        self._counts: dict[str, int] = {}

    def enter(self, address: str, *, is_limited: bool = True) -> bool:
        """Count one more, unless the address is at its limit. Each success needs one `leave`."""
        key = address_key(address)
        count = self._counts.get(key, 0)
        if is_limited and count >= self._max_per_address:
            return False
        self._counts[key] = count + 1
        return True

    def leave(self, address: str) -> None:
        """Count one less."""
        key = address_key(address)
        count = self._counts[key] - 1
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]

    def __len__(self) -> int:
        return len(self._counts)


def address_key(address: str) -> str:
    """Return what an address counts as: itself, or for IPv6 its /64."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def client_address(peer: str, forwarded_for: str, is_trusted: Callable[[str], bool]) -> str:
    """Return whose connection it is: the peer's, or behind trusted proxies the last address none of them is.

    `forwarded_for` is the X-Forwarded-For header; only what trusted proxies have appended to it is believed.
    """
    address = peer
    for hop in reversed(forwarded_for.split(",")):
        if not is_trusted(address):
            break
        candidate = hop.strip().strip('"').removeprefix("[").partition("]")[0]
        try:
            ipaddress.ip_address(candidate)
        except ValueError:
            break
        address = candidate
    return address


def trusted_networks(networks: tuple[str, ...]) -> Callable[[str], bool]:
    """Make the test for `client_address` from addresses and networks such as "10.0.0.0/8".

    Raises: ValueError where one is neither.
    """
    parsed = tuple(ipaddress.ip_network(network, strict=False) for network in networks)

    if not parsed:
        return lambda _: False

    @lru_cache(maxsize=1024)  # mostly the same few: a proxy, an office, this machine
    def is_trusted(address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip in network for network in parsed)

    return is_trusted
