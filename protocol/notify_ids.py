"""Ids of notifications: 41 bits of milliseconds since 2020, 4 of the partition, 8 of a count.

They stay below 2^53 and rise with time. The partition can be read off an id, so a link in a mail or a
provider's callback finds the actor that owns it without a look at the store.
"""

from typing import Final

from protocol.notify_records import PARTITION_COUNT

EPOCH_MS: Final = 1_577_836_800_000  # 2020-01-01; 41 bits last until 2089
COUNT_BITS: Final = 8
_PARTITION_BITS: Final = 4
_LOW_BITS: Final = COUNT_BITS + _PARTITION_BITS
assert 1 << _PARTITION_BITS == PARTITION_COUNT


def first_id_at(at_ms: int) -> int:
    """The smallest id of that millisecond."""
    return max(0, at_ms - EPOCH_MS) << _LOW_BITS


def at_ms_of(notification_id: int) -> int:
    """When an id was made, as Unix ms."""
    return (notification_id >> _LOW_BITS) + EPOCH_MS


def partition_of_id(notification_id: int) -> int:
    """The partition that owns it."""
    return (notification_id >> COUNT_BITS) & (PARTITION_COUNT - 1)


class NotifyIds:
    """Make the ids of one partition; `largest_id` is the largest that is stored, of any partition.

    A partition that makes more than 256 in a millisecond borrows from the next one, and a clock that was set
    back is waited for in the same way: ids never repeat.
    """

    def __init__(self, partition: int, largest_id: int) -> None:
        self._partition = partition << COUNT_BITS
        self._last = (((largest_id >> _LOW_BITS) + 1) << COUNT_BITS) - 1  # ms << 8 | count

    def next(self, now_ms: int) -> int:
        """Make the next id, larger than all before it."""
        moment = max(0, now_ms - EPOCH_MS) << COUNT_BITS
        self._last = made = moment if moment > self._last else self._last + 1
        return (made >> COUNT_BITS << _LOW_BITS) | self._partition | (made & ((1 << COUNT_BITS) - 1))
