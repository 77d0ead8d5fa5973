"""The reads behind ads, off the Trio thread."""

from collections.abc import Mapping

from protocol.ads_found import AdCounts, AdState, Seen
from storage import ad_queries
from storage.reader import Readers


class SqliteAdReads:
    """Fits storage.store.AdReads; see there for what each method promises."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def state(
        self, now_ms: int, *, settled: Mapping[str, Seen], settle_to_ms: int, untold_after_ms: int
    ) -> AdState:
        return await self._readers.run(ad_queries.state, now_ms, settled, settle_to_ms, untold_after_ms)

    async def counts(self, campaign_id: str) -> AdCounts:
        return await self._readers.run(ad_queries.counts, campaign_id)
