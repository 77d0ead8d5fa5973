"""The news feed's part of a node: authors and feed partitions as hosts of actors, and what they share."""

from collections.abc import Callable, Collection

from actors.address import Address
from actors.entity_host import DeadLetterSink, EntityHost
from actors.feed import address as feed_address
from actors.feed import author as author_actor
from actors.feed.author import AuthorActor
from actors.feed.feed import FeedLimits
from actors.feed.feed_follower import FeedFollower
from actors.feed.ids import PostIds
from actors.feed.index import FeedNode
from actors.feed.news import FeedNewsTeller
from actors.feed.partition import FeedPartition
from actors.feed.ranked_feed import RankedFeeds
from actors.feed.relations_keeper import FeedStats, PartitionNeeds
from actors.feed.resumer import FanoutResumer
from actors.hub import Hub
from actors.ports import Fanout, Leases, Relay
from actors.rounds import Turn
from actors.router import Router
from actors.supervisor import ChildSpec, at_once
from protocol import feed_commands
from protocol.commands import Command
from protocol.replies import Reply
from server.caller import Caller
from server.campaigns import Campaigns
from server.feed_service import Read
from server.trend_service import TrendService
from server.trends import Trends
from storage.store import Store

MAX_AUTHORS = 20_000  # awake at once; one who rests costs nothing


class FeedCore:
    """Wire the feed's actors over one store."""

    def __init__(
        self,
        store: Store,
        *,
        node_id: str,
        router: Router,
        hub: Hub,
        fanout: Fanout,
        leases: Leases,
        relay: Relay,
        turn: Turn,
        now_ms: Callable[[], int],
        on_dead_letter: DeadLetterSink,
        has_others: bool,
        limits: FeedLimits,
    ) -> None:
        """`has_others`: there may be other nodes, whose posts are read from the log."""
        self.limits = limits
        self.stats = FeedStats()
        self.trends = Trends(store, node_id, now_ms)
        self.campaigns = Campaigns(store, clock=now_ms)
        options_of = self.campaigns.options_of
        self.node = node = FeedNode(trending=self.trends, options_of=options_of, has_others=has_others)
        self._trend_service = TrendService(store, self.trends, options_of=options_of, now_ms=now_ms)
        self.follower = FeedFollower(node, store.feeds, is_needed=has_others)
        self.ranked = RankedFeeds()
        self._news = FeedNewsTeller(node, fanout, now_ms=now_ms)
        self._resumer = FanoutResumer(store, router, owns=leases.owns)
        hub.feeds.heard = node.heard
        hub.feeds.counts_of = node.posts.counts_of
        ids = PostIds()
        node.on_post = ids.saw

        def author(address: Address) -> AuthorActor:
            return AuthorActor(
                address,
                log=store,
                leases=leases,
                relay=relay,
                now_ms=now_ms,
                fanout=fanout,
                index=node,
                ids=ids,
                hot_followers=limits.hot_followers,
                cool_followers=limits.cool_followers,
            )

        needs = PartitionNeeds(
            log=store,
            reads=store.feeds,
            leases=leases,
            relay=relay,
            fanout=fanout,
            now_ms=now_ms,
            node=node,
            follower=self.follower,
            limits=limits,
            stats=self.stats,
            ranked=self.ranked,
            ads=self.campaigns.book,
        )

        def partition(address: Address) -> FeedPartition:
            return FeedPartition(int(address.id), needs)

        self.authors = EntityHost(
            author_actor.KIND,
            author,
            router=router,
            on_dead_letter=on_dead_letter,
            max_active=MAX_AUTHORS,
            wakes_after_crash=True,
            turn=turn,
        )
        self.partitions = EntityHost(
            feed_address.KIND,
            partition,
            router=router,
            on_dead_letter=on_dead_letter,
            mailbox_capacity=2048,  # it speaks for thousands of readers
            wakes_after_crash=True,
            turn=turn,
        )

    @property
    def hosts(self) -> tuple[EntityHost, EntityHost]:
        """The hosts, for routing and hand-over."""
        return self.authors, self.partitions

    def child_specs(self) -> list[ChildSpec]:
        """What to supervise, in the order of starting."""
        return [
            self.partitions.child_spec(),
            self.authors.child_spec(),
            ChildSpec(name="feed_follower", start=at_once(self.follower.run)),
            ChildSpec(name="campaigns", start=at_once(self.campaigns.run)),
            ChildSpec(name="feed_news", start=at_once(self._news.run)),
            ChildSpec(name="fanout_resumer", start=at_once(self._resumer.run)),
            ChildSpec(name="trends", start=self.trends.run),
        ]

    @property
    def reads(self) -> dict[type[Command], Read]:
        """The reads that are answered here."""
        trends = self._trend_service

        async def get_trends(caller: Caller, command: Command) -> Reply:
            assert isinstance(command, feed_commands.GetTrends)
            return await trends.get_trends(caller, command)

        async def get_recommendations(caller: Caller, command: Command) -> Reply:
            assert isinstance(command, feed_commands.GetRecommendations)
            return await trends.get_recommendations(caller, command)

        return {
            feed_commands.GetTrends: get_trends,
            feed_commands.GetRecommendations: get_recommendations,
        }

    def shards_moved(self, *, ours: Collection[int]) -> None:
        """This node has taken shards: posts that their authors were pushing go on."""
        if ours:
            self._resumer.scan_soon()

    def gauges(self) -> dict[str, float]:
        """How the feeds are doing, for the metrics."""
        stats = self.stats
        return {
            "entries_pushed_total": stats.entry_count,
            "posts_total": self.node.post_count,
            "pages_total": stats.page_count,
            "late_pages_total": stats.late_page_count,
            "cold_loads_total": stats.cold_load_count,
            "written_down_total": stats.written_down_count,
            "in_memory": len(self.node.feeds),
            "posts_in_memory": len(self.node.posts),
            "posts_pending": sum(map(len, self.node.pending.values())),
            "hot_authors": len(self.node.hot),
        }
