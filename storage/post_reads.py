"""The reads of posts over SQLite's readers; see storage.store.PostReads for what each method promises."""

from collections.abc import Collection, Sequence

from protocol.records import AuthorStart, AuthorView, CommentRow, PostRow, Relation
from storage import post_queries
from storage.post_queries import PostAt, UserAt
from storage.reader import Readers


class SqlitePostReads:
    """Fits storage.store.PostReads."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def largest_id(self) -> int:
        return await self._readers.run(post_queries.largest_id)

    async def author_start(self, author_id: str) -> AuthorStart:
        return await self._readers.run(post_queries.author_start, author_id)

    async def post(self, post_id: int) -> PostAt | None:
        return await self._readers.run(post_queries.post, post_id)

    async def posts(self, post_ids: Sequence[int]) -> dict[int, PostAt]:
        if not post_ids:
            return {}
        return await self._readers.run(post_queries.posts, post_ids)

    async def timeline(
        self, author_id: str, *, before: int = 0, limit: int, is_public_only: bool = False
    ) -> list[PostAt]:
        return await self._readers.run(post_queries.timeline, author_id, before, limit, is_public_only)

    async def repost_by(self, user_id: str, post_id: int) -> PostRow | None:
        return await self._readers.run(post_queries.repost_by, user_id, post_id)

    async def comments(
        self, post_id: int, *, parent_id: int = 0, after: int = 0, limit: int, viewer_id: str
    ) -> list[CommentRow]:
        return await self._readers.run(post_queries.comments, post_id, parent_id, after, limit, viewer_id)

    async def likes(
        self, post_id: int, *, after: UserAt | None = None, limit: int, viewer_id: str
    ) -> list[UserAt]:
        return await self._readers.run(post_queries.likes, post_id, after, limit, viewer_id)

    async def followers(
        self, author_id: str, *, after: UserAt | None = None, limit: int, viewer_id: str
    ) -> list[UserAt]:
        return await self._readers.run(post_queries.followers, author_id, after, limit, viewer_id)

    async def following(
        self, user_id: str, *, after: UserAt | None = None, limit: int, viewer_id: str
    ) -> list[UserAt]:
        return await self._readers.run(post_queries.following, user_id, after, limit, viewer_id)

    async def requests(self, author_id: str, *, after: UserAt | None = None, limit: int) -> list[UserAt]:
        return await self._readers.run(post_queries.requests, author_id, after, limit)

    async def muted(self, user_id: str, *, after: UserAt | None = None, limit: int) -> list[UserAt]:
        return await self._readers.run(post_queries.muted, user_id, after, limit)

    async def following_count(self, user_id: str) -> int:
        return await self._readers.run(post_queries.following_count, user_id)

    async def marks(self, user_id: str, post_ids: Sequence[int]) -> tuple[set[int], set[int]]:
        if not post_ids:
            return set(), set()
        return await self._readers.run(post_queries.marks, user_id, post_ids)

    async def views(self, viewer_id: str, author_ids: Sequence[str]) -> dict[str, AuthorView]:
        if not author_ids:
            return {}
        return await self._readers.run(post_queries.views, viewer_id, author_ids)

    async def relation(
        self, user_id: str, other_id: str, *, but_follows: Collection[str], but_mutes: Collection[str]
    ) -> Relation:
        return await self._readers.run(post_queries.relation, user_id, other_id, but_follows, but_mutes)

    async def follower_versions(
        self, author_id: str, *, after: str = "", limit: int
    ) -> list[tuple[str, int]]:
        return await self._readers.run(post_queries.follower_versions, author_id, after, limit)

    async def unfinished(self, *, after: str = "", limit: int) -> list[tuple[str, int]]:
        return await self._readers.run(post_queries.unfinished, after, limit)
