"""The reads behind feeds, off the Trio thread."""

import sqlite3
from collections.abc import Sequence

from protocol.feed_found import FeedChange, FeedState, FoundFeed, FoundPost
from protocol.records import Entry, FeedRow, feed_stream
from storage import feed_queries, queries
from storage.ranking_queries import affinity_rows
from storage.reader import Readers

_ENTRIES_BYTES = 4 * 1024 * 1024  # of one read; a row has up to 1,000 user ids


class FeedReads:
    """Read what feeds are made of; see storage.feed_queries for what each answers."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def load(self, user_id: str, *, cap: int, with_posts: bool) -> FoundFeed:
        return await self._readers.run(feed_queries.load, user_id, cap, with_posts)

    async def pull(self, user_id: str, *, before: int = 0, after: int | None = None, limit: int) -> list[int]:
        return await self._readers.run(feed_queries.pull, user_id, before, after, limit)

    async def author_ids(self, author_id: str, *, after: int, before: int, limit: int) -> list[int]:
        return await self._readers.run(feed_queries.author_ids, author_id, after, before, limit)

    async def posts(self, post_ids: Sequence[int]) -> list[FoundPost]:
        return await self._readers.run(feed_queries.posts, post_ids)

    async def marks(self, user_id: str, post_ids: Sequence[int]) -> tuple[list[int], list[int]]:
        return await self._readers.run(feed_queries.marks, user_id, post_ids)

    async def affinities(
        self, user_id: str, *, since_id: int, limit: int, weights: tuple[int, int, int]
    ) -> list[tuple[str, int, int]]:
        like, comment, repost = weights

        def read(connection: sqlite3.Connection) -> list[tuple[str, int, int]]:
            return affinity_rows(
                connection,
                user_id,
                since_id=since_id,
                limit=limit,
                like_weight=like,
                comment_weight=comment,
                repost_weight=repost,
            )

        return await self._readers.run(read)

    async def kept_feeds(self, partition: int, *, after: str, limit: int) -> list[FeedRow]:
        return await self._readers.run(feed_queries.kept_feeds, partition, after, limit)

    async def state(self) -> FeedState:
        return await self._readers.run(feed_queries.state)

    async def changes(self, after_lsn: int, *, limit: int) -> list[FeedChange]:
        return await self._readers.run(feed_queries.changes, after_lsn, limit)

    async def entries(self, partition: int, *, after: int, limit: int) -> list[Entry]:
        stream = feed_stream(partition)
        return await self._readers.run(queries.read, stream, after, limit, _ENTRIES_BYTES)

    async def entries_head(self, partition: int) -> tuple[int, int]:
        return await self._readers.run(feed_queries.entries_head, partition)
