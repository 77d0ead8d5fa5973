"""Where feeds live: each user's feed, follows and mutes belong to one of a fixed number of partitions.

An actor for each feed would cost ten kilobytes for each reader; a partition keeps thousands of feeds in
arrays, and a post reaches all its readers there by one message and one row of the log.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Final

from actors.address import Address

KIND: Final = "feed"
AUTHOR_KIND: Final = "author"
# Fixed for the life of a data directory. Each is a message and a row for a post with many followers, so few
# are cheap (32 took a tenth more of a core); sixteen nodes can still have one each.
PARTITION_COUNT: Final = 16


@lru_cache(maxsize=262_144)
def partition_of(user_id: str) -> int:
    """The partition that a user's feed belongs to; the same on every node."""
    digest = blake2b(f"feed\x00{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % PARTITION_COUNT


def partition_address(partition: int) -> Address:
    """The address of a partition's actor."""
    return _ADDRESSES[partition]


def feed_address(user_id: str) -> Address:
    """The address of the actor that owns a user's feed."""
    return _ADDRESSES[partition_of(user_id)]


def author_address(user_id: str) -> Address:
    """The address of the actor that owns a user's posts."""
    return Address(AUTHOR_KIND, user_id)


_ADDRESSES: Final = [Address(KIND, str(partition)) for partition in range(PARTITION_COUNT)]
