"""Give commands of the news feed their meaning: which actor decides, and what is read from the store."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import count
from typing import Final

import structlog
import trio

from actors.address import Address
from actors.feed import author as author_actor
from actors.feed.address import feed_address, partition_address, partition_of
from actors.hub import Hub
from actors.messages import FeedWatched
from actors.reply import NO_REPLY
from actors.router import Router
from protocol import feed_commands, replies
from protocol.commands import Command
from protocol.errors import Refused
from protocol.replies import Reply
from server.caller import Caller
from server.post_service import PostService

RETELL_S: Final = 15.0  # who watches is told again: a partition that moved or was restarted knows nobody

_FOR_OWN_AUTHOR: Final = frozenset(
    {
        feed_commands.CreatePost,
        feed_commands.EditPost,
        feed_commands.DeletePost,
        feed_commands.AnswerFollow,
        feed_commands.RemoveFollower,
        feed_commands.UpdateAuthor,
    }
)
_FOR_OWN_FEED: Final = frozenset(
    {
        feed_commands.ReadFeed,
        feed_commands.SetFeedPosition,
        feed_commands.ExplainPost,
        feed_commands.FollowUser,
        feed_commands.Unfollow,
        feed_commands.MuteUser,
        feed_commands.SetInterest,
        feed_commands.ListInterests,
        feed_commands.AdSeen,
        feed_commands.AdClicked,
    }
)

log = structlog.get_logger(__name__)

Read = Callable[[Caller, Command], Awaitable[Reply]]


class FeedService:
    """Serve the feed's commands of sessions and of HTTP."""

    def __init__(
        self, *, router: Router, hub: Hub, posts: PostService, reads: Mapping[type[Command], Read]
    ) -> None:
        self._router = router
        self._hub = hub
        self._posts = posts
        self._numbers = count(1)
        self._watch_numbers: dict[int, int] = {}  # conn_id -> its newest watch_feed that is being looked at
        self.reads: dict[type[Command], Read] = {
            **posts.handlers,
            **reads,
            feed_commands.WatchFeed: self._watch,
        }

    @staticmethod
    def actor_of(caller: Caller, kind: type[Command]) -> Address | None:
        """The actor that answers a command without a look at anything before; None: there is none."""
        if kind in _FOR_OWN_FEED:
            return feed_address(caller.user_id)
        if kind in _FOR_OWN_AUTHOR:
            return Address(author_actor.KIND, caller.user_id)
        return None

    async def _watch(self, caller: Caller, command: Command) -> Reply:
        """Change what a session hears live: of posts that it may see."""
        assert isinstance(command, feed_commands.WatchFeed)
        if not caller.conn_id:
            raise Refused("bad_request", "This command needs a connection; see /ws.")
        number = self._watch_numbers[caller.conn_id] = next(self._numbers)
        try:
            post_ids = await self._posts.visible(caller, command.post_ids) if command.post_ids else []
        finally:
            is_latest = self._watch_numbers.get(caller.conn_id) == number
            if is_latest:
                del self._watch_numbers[caller.conn_id]
        if not is_latest:
            return replies.Ok()  # overtaken by what the session has said since
        self._hub.watch_feed(caller.conn_id, feed=command.feed, post_ids=post_ids)
        if command.feed:
            self._tell_watched(caller.user_id)
        return replies.Ok()

    async def run(self) -> None:
        """Tell the partitions again who watches. Ends only by cancellation."""
        while True:
            await trio.sleep(RETELL_S)
            for user_id in self._hub.feeds.user_ids():
                self._tell_watched(user_id)

    def shards_moved(self, shards: Iterable[int]) -> None:
        """Other actors serve these shards: their readers' watchers have to be told anew, and may have missed
        something."""
        moved = set(shards)
        for user_id in self._hub.feeds.user_ids():
            if partition_address(partition_of(user_id)).shard in moved:
                self._hub.feeds.resync(user_id)
                self._tell_watched(user_id)

    def _tell_watched(self, user_id: str) -> None:
        self._router.ask_nowait(feed_address(user_id), FeedWatched(user_id), NO_REPLY)
