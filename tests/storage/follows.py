"""Follows, blocks and the like, written straight into a store."""

from collections.abc import Iterable

from protocol.records import Append, FollowRow, Op, Put
from storage import Store

_CHUNK = 5_000


def follow(user_id: str, author_id: str, since_ms: int = 1, *, state: str = "following") -> Put:
    """An edge as the follower's partition writes it."""
    row = FollowRow(user_id=user_id, author_id=author_id, state=state, since_ms=since_ms, version=since_ms)
    return Put(row)


async def put_all(store: Store, ops: Iterable[Op]) -> None:
    """Write many rows in a few transactions."""
    ops = list(ops)
    for start in range(0, len(ops), _CHUNK):
        await store.append(Append(shard=-1, epoch=0, ops=tuple(ops[start : start + _CHUNK])))
