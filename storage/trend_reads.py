"""What trends and recommendations read, off the Trio thread."""

from collections.abc import Mapping, Sequence

from storage import recommend_queries, trend_queries
from storage.reader import Readers
from storage.recommend_queries import FriendOfFriends, Standing
from storage.trend_queries import ToldTrends, TrendKey


class SqliteTrendReads:
    """Fits storage.store.TrendReads; see there for what each method promises."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def told(self, app_id: str, known: Mapping[TrendKey, int], *, since_ms: int) -> ToldTrends:
        return await self._readers.run(trend_queries.told_trends, app_id, known, since_ms)

    async def friends_of_friends(
        self, user_id: str, *, uninterested_since_ms: int, limit: int
    ) -> list[FriendOfFriends]:
        return await self._readers.run(
            recommend_queries.friends_of_friends, user_id, uninterested_since_ms, limit
        )

    async def standings(
        self, user_id: str, author_ids: Sequence[str], *, uninterested_since_ms: int
    ) -> dict[str, Standing]:
        return await self._readers.run(
            recommend_queries.standings, user_id, author_ids, uninterested_since_ms
        )
