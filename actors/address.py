"""Where an actor is found: its address, and the shard that the address belongs to."""

from functools import lru_cache
from hashlib import blake2b
from typing import Final

import msgspec

# Fixed for the life of a cluster: ten times the nodes we plan for at most, as Akka's sharding advises.
SHARD_COUNT: Final = 256
# An address is hashed on the way to the store for each batch; 64 Ki entries (about 10 MB) hold the busy ones.
_CACHED_SHARDS: Final = 65_536


class Address(msgspec.Struct, frozen=True, cache_hash=True):
    """Name one actor on whatever node it runs: `kind` ("conversation", "user", …) and `id` within it."""

    kind: str
    id: str

    @property
    def shard(self) -> int:
        """Return the shard of this address, from 0 to 255."""
        return shard_of(self)

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}"


@lru_cache(maxsize=_CACHED_SHARDS)
def shard_of(address: Address) -> int:
    """Return the shard of `address`: the same on every node, in every process, for ever.

    Never Python's `hash()`, which is salted per process. The NUL keeps ("ab", "c") apart from ("a", "bc").
    """
    digest = blake2b(f"{address.kind}\0{address.id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % SHARD_COUNT
