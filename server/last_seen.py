"""When users were last here, from the end of their last connection until it is stored.

For a node that is alone: it knows itself who has gone, and writes many in one transaction, so that users'
actors need not be awake just because their user is connected (5 KB and a task for each). In a cluster only a
user's actor knows whether another node still has a connection, and writes this itself.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Final

import structlog

from protocol.errors import Unavailable
from protocol.records import LastSeen, Put
from storage.store import Store

MAX_WAITING: Final = 50_000  # as many as one node has connections; beyond it the oldest notes are dropped
_FLUSH_CHUNK: Final = 1_000
_READ_CHUNK: Final = 1_000  # the most values of one Store.find_many

log = structlog.get_logger(__name__)


class LastSeenNotes:
    """Note who has gone (`gone`), store it (`flush`), and tell it (`of`)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, int] = {}  # user_id -> Unix ms

    def gone(self, user_id: str, at_ms: int) -> None:
        """The last connection of a user has ended."""
        self._waiting.pop(user_id, None)
        self._waiting[user_id] = at_ms
        if len(self._waiting) > MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]

    async def flush(self) -> None:
        """Write what is noted; a failure leaves it for the next time."""
        while self._waiting:
            part = dict(islice(self._waiting.items(), _FLUSH_CHUNK))
            try:
                await self._store.commit([Put(LastSeen(user_id=u, at_ms=at_ms)) for u, at_ms in part.items()])
            except Unavailable as error:
                log.warning("last_seen_not_stored", code=error.code, count=len(self._waiting))
                return
            for user_id, at_ms in part.items():
                if self._waiting.get(user_id) == at_ms:  # else they came and went meanwhile
                    del self._waiting[user_id]

    async def of(self, user_ids: Sequence[str]) -> dict[str, int]:
        """When these users were last here, Unix ms; those who never were are left out."""
        seen: dict[str, int] = {}
        for start in range(0, len(user_ids), _READ_CHUNK):
            rows = await self._store.find_many(LastSeen, "user_id", user_ids[start : start + _READ_CHUNK])
            seen.update((row.user_id, row.at_ms) for row in rows)
        seen.update((u, self._waiting[u]) for u in user_ids if u in self._waiting)
        return seen
