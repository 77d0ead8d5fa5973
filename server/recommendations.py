"""What is put before readers unasked: posts that trend, and authors they might follow.

Whoever is put before a reader has to be public, or be followed by somebody the reader follows, and there is
neither a block, a mute nor a "not interested" between them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from actors.feed.trends import Trending
from protocol.feed_types import Post, Recommendation
from protocol.limits import PAGE_BYTES
from protocol.records import InterestRow, PostCountsRow, PostRow
from protocol.stored_posts import post_of
from server.caller import Caller
from server.trends import Trends
from storage.recommend_queries import Standing
from storage.store import Store

# A "not interested" counts here until it has ended altogether; elsewhere it fades before.
UNINTERESTED_MS: Final = 154 * 86_400_000
_SPARE: Final = 3  # times what is asked for is looked at, as some of it may not be shown to this reader
_SPARE_AT_LEAST: Final = 50


class SeenPost(NamedTuple):
    """A trending post that the reader may see, and how the reader stands to its author."""

    post: Post
    trending: Trending
    standing: Standing


class Uninteresting(msgspec.Struct, frozen=True):
    """Posts and hashtags that a reader is not interested in."""

    posts: frozenset[str]
    hashtags: frozenset[str]


class Recommender:
    """Look for what a reader may like. Reads only."""

    def __init__(self, store: Store, trends: Trends, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._trends = trends
        self._now_ms = now_ms

    async def uninteresting(self, user_id: str) -> Uninteresting:
        """What the reader is not interested in by now."""
        since_ms = self._now_ms() - UNINTERESTED_MS
        rows = await self._store.find(InterestRow, {"user_id": user_id})
        alive = [row for row in rows if row.since_ms > since_ms]
        return Uninteresting(
            frozenset(row.target for row in alive if row.kind == "post"),
            frozenset(row.target for row in alive if row.kind == "hashtag"),
        )

    async def trending_posts(self, caller: Caller, found: Iterable[Trending]) -> list[SeenPost]:
        """Those of the trending posts that the reader may see, in that order.

        Left out: deleted ones, those for followers only and of private accounts, of other apps, by whom a
        block parts from the reader, whom the reader has muted, and what the reader is not interested in.
        """
        by_id = {int(trending.item): trending for trending in found}
        rows = {row.post_id: row for row in await self._store.find_many(PostRow, "post_id", list(by_id))}
        if not rows:
            return []
        counts = {
            row.post_id: row for row in await self._store.find_many(PostCountsRow, "post_id", list(rows))
        }
        uninteresting = await self.uninteresting(caller.user_id)
        standing_of = await self._standings(caller, {row.author_id for row in rows.values()})
        seen: list[SeenPost] = []
        for post_id, trending in by_id.items():
            row = rows.get(post_id)
            if row is None or not _is_public(row, caller.app_id):
                continue
            standing = standing_of[row.author_id]
            if not standing.may_be_shown or trending.item in uninteresting.posts:
                continue
            post = post_of(row, counts.get(post_id))
            if uninteresting.hashtags.isdisjoint(post.hashtags):
                seen.append(SeenPost(post, trending, standing))
        return seen

    async def recommend(
        self, caller: Caller, limit: int, *, with_trends: bool
    ) -> tuple[list[Recommendation], list[Post]]:
        """Authors whom those followed follow, filled up with those of trending posts; and such posts.

        Neither the authors nor those of the posts are followed by the reader.
        """
        friends = await self._store.trends.friends_of_friends(
            caller.user_id, uninterested_since_ms=self._now_ms() - UNINTERESTED_MS, limit=limit
        )
        authors = {
            friend.author_id: Recommendation(user_id=friend.author_id, by=friend.by, by_count=friend.by_count)
            for friend in friends
        }
        if not with_trends:
            return list(authors.values()), []
        found = self._trends.top(caller.app_id, "post", "day", spare(limit))
        strangers = [
            seen
            for seen in await self.trending_posts(caller, found)
            if seen.standing.may_be_recommended and seen.post.author_id != caller.user_id
        ]
        for seen in strangers:
            if len(authors) >= limit:
                break
            author_id = seen.post.author_id
            authors.setdefault(author_id, Recommendation(user_id=author_id, reason="trending"))
        return list(authors.values()), [seen.post for seen in fitting(strangers[:limit])]

    async def _standings(self, caller: Caller, author_ids: Iterable[str]) -> dict[str, Standing]:
        asked: Sequence[str] = sorted(author_ids)
        return await self._store.trends.standings(
            caller.user_id, asked, uninterested_since_ms=self._now_ms() - UNINTERESTED_MS
        )


def spare(limit: int) -> int:
    """How many to look at, so that enough is left when those are out that this reader may not see."""
    return max(_SPARE * limit, _SPARE_AT_LEAST)


def fitting(found: list[SeenPost]) -> list[SeenPost]:
    """As many posts, one at least, as fit into an answer with the texts that they have."""
    size_bytes = 0
    for number, seen in enumerate(found):
        size_bytes += len(msgspec.json.encode(seen.post))
        if number and size_bytes > PAGE_BYTES:
            return found[:number]
    return found


def _is_public(row: PostRow, app_id: str) -> bool:
    return (
        row.app_id == app_id
        and row.visibility == "public"
        and not row.deleted_at_ms
        and not row.repost_of  # what is repeated trends itself
    )
