"""Where notifications live: a user's belong to one of a fixed number of partitions, an app's requests to it.

One actor for each user would cost a task and ten kilobytes for each of a campaign's users; a partition
decides for a thousand of them in one append.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Final

from actors.address import Address
from protocol.notify_ids import partition_of_id
from protocol.notify_records import PARTITION_COUNT

KIND: Final = "notify"
APP_KIND: Final = "notify_app"


@lru_cache(maxsize=262_144)
def partition_of(user_id: str) -> int:
    """The partition that a user's notifications belong to; the same on every node."""
    digest = blake2b(f"notify\x00{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % PARTITION_COUNT


def partition_address(partition: int) -> Address:
    """The address of a partition's actor."""
    return _ADDRESSES[partition]


def notify_address(user_id: str) -> Address:
    """The address of the actor that decides what a user is told."""
    return _ADDRESSES[partition_of(user_id)]


def owner_of(notification_id: int) -> Address:
    """The address of the actor that a notification belongs to."""
    return _ADDRESSES[partition_of_id(notification_id)]


def app_address(app_id: str) -> Address:
    """The address of the actor that runs an app's larger requests."""
    return Address(APP_KIND, app_id)


_ADDRESSES: Final = [Address(KIND, str(partition)) for partition in range(PARTITION_COUNT)]
