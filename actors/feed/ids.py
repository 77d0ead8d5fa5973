"""Ids of posts and comments: 41 bits of milliseconds since 2020, 8 of the author's shard, 4 of a count.

They stay below 2^53, rise with time over all authors, and two shards never make the same one. A shard that
makes more than 16 in a millisecond borrows from the next one, so ids never repeat and never go back.
"""

from typing import Final

EPOCH_MS: Final = 1_577_836_800_000  # 2020-01-01; 41 bits last until 2089
_SHARD_BITS: Final = 8
_COUNT_BITS: Final = 4
# By which ids may run ahead of the clock to keep the order between shards and nodes: clocks differ, and are
# set back, by less. Beyond it a flood would take ids away from the time.
_MAX_LEAD_MS: Final = 2_000
_LOW_BITS: Final = _SHARD_BITS + _COUNT_BITS


def at_ms_of(post_id: int) -> int:
    """When an id was made, as Unix ms."""
    return (post_id >> _LOW_BITS) + EPOCH_MS


def first_id_at(at_ms: int) -> int:
    """The smallest id of that millisecond."""
    return max(0, at_ms - EPOCH_MS) << _LOW_BITS


class PostIds:
    """Make the ids of one node. A shard must be seeded anew with each epoch under which the node owns it."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}  # shard -> (ms << 4 | count) of its last id
        self._epochs: dict[int, int] = {}
        self._newest = 0

    def is_seeded(self, shard: int, epoch: int) -> bool:
        """Tell whether ids of that shard can be made."""
        return self._epochs.get(shard) == epoch

    def seed(self, shard: int, epoch: int, largest_id: int) -> None:
        """Take a shard over; `largest_id`: of all posts and comments that are stored, of any shard.

        A clock that went back must not make an id for the second time, nor one below an earlier post.
        """
        self._epochs[shard] = epoch
        self._last[shard] = max(self._last.get(shard, 0), (largest_id >> _LOW_BITS) + 1 << _COUNT_BITS)

    def saw(self, post_id: int) -> None:
        """A post of any node is stored: ids that are made from now on are larger, if clocks allow it."""
        self._newest = max(self._newest, post_id)

    def next(self, shard: int, now_ms: int) -> int:
        """Make the next id of a shard, which is larger than all before it.

        It is also larger than all that this node has made or seen, unless those are too far ahead of the
        clock.
        """
        moment = max(0, now_ms - EPOCH_MS) << _COUNT_BITS
        last = self._last.get(shard, 0)
        made = moment if moment > last else last + 1
        post_id = _join(shard, made)
        if post_id < self._newest < _join(shard, moment + (_MAX_LEAD_MS << _COUNT_BITS)):
            newest_moment = (self._newest >> _LOW_BITS) << _COUNT_BITS
            made = max(made, newest_moment)
            if _join(shard, made) < self._newest:
                made = newest_moment + (1 << _COUNT_BITS)
            post_id = _join(shard, made)
        self._last[shard] = made
        self._newest = max(self._newest, post_id)
        return post_id


def _join(shard: int, made: int) -> int:
    """Put the shard between the milliseconds and the count."""
    count_mask = (1 << _COUNT_BITS) - 1
    return (made >> _COUNT_BITS) << _LOW_BITS | shard << _COUNT_BITS | made & count_mask
