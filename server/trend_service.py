"""Answer get_trends and get_recommendations, as far as the app has them switched on."""

from collections.abc import Callable

from protocol.errors import Refused
from protocol.feed_commands import GetRecommendations, GetTrends
from protocol.feed_replies import Recommendations, TrendList
from protocol.feed_types import FeedOptions, Trend
from server.caller import Caller
from server.recommendations import Recommender, fitting, spare
from server.trends import Trends
from storage.store import Store


class TrendService:
    """The handlers. `options_of`: what an app (app_id) has switched on."""

    def __init__(
        self,
        store: Store,
        trends: Trends,
        *,
        options_of: Callable[[str], FeedOptions],
        now_ms: Callable[[], int],
    ) -> None:
        self._trends = trends
        self._options_of = options_of
        self._recommender = Recommender(store, trends, now_ms)

    async def get_trends(self, caller: Caller, command: GetTrends) -> TrendList:
        """The strongest hashtags, or posts that the reader may see.

        Raises: Refused "not_enabled"; Unavailable.
        """
        if not self._options_of(caller.app_id).trending:
            raise Refused("not_enabled")
        await self._trends.prepare(caller.app_id)
        found = self._trends.top(caller.app_id, command.kind, command.window, spare(command.limit))
        if command.kind == "post":
            items = [
                Trend(kind="post", post=seen.post, score=seen.trending.score, people=seen.trending.people)
                for seen in fitting(await self._recommender.trending_posts(caller, found))
            ]
        else:
            hidden = (await self._recommender.uninteresting(caller.user_id)).hashtags
            items = [
                Trend(kind="hashtag", hashtag=item, score=score, people=people)
                for item, score, people in found
                if item not in hidden
            ]
        return TrendList(items=items[: command.limit])

    async def get_recommendations(self, caller: Caller, command: GetRecommendations) -> Recommendations:
        """Whom the reader might follow, and what trends elsewhere. Raises: as get_trends."""
        options = self._options_of(caller.app_id)
        if not options.recommendations:
            raise Refused("not_enabled")
        if options.trending:
            await self._trends.prepare(caller.app_id)
        authors, posts = await self._recommender.recommend(
            caller, command.limit, with_trends=options.trending
        )
        return Recommendations(authors=authors, posts=posts)
