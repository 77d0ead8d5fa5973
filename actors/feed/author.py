"""The actor of one author: the only writer of their posts, of what is counted there, and of who follows.

Posts, edits and deletions, and changes of privacy are events of the author's stream; likes, comments and
follows are rows alone. An author with a post on its way into feeds stays awake until it is everywhere.
"""

from typing import Final

from actors.address import Address
from actors.entity import EntityContext
from actors.feed.address import AUTHOR_KIND
from actors.feed.author_base import Needs
from actors.feed.author_follows import AuthorFollows
from actors.feed.author_posts import AuthorPosts
from actors.feed.author_reactions import AuthorReactions
from actors.feed.ids import PostIds
from actors.messages import Ask, FollowMoved, RepostMoved, Told, decode_tell
from actors.ports import Fanout, FeedIndex, Leases, Log, Relay, WallClock
from actors.reply import Reply
from protocol import feed_commands
from protocol.errors import Refused
from protocol.limits import COOL_FOLLOWERS, HOT_FOLLOWERS
from protocol.records import AuthorRow, Op, Remove, Tell

KIND: Final = AUTHOR_KIND


class AuthorActor(AuthorPosts, AuthorReactions, AuthorFollows):
    """Own one author. Take `Ask` and `Told`.

    Who asks is the author, but for likes and comments. There the service has looked whether they may see the
    post: the actor knows nothing of blocks.
    """

    def __init__(
        self,
        address: Address,
        *,
        log: Log,
        leases: Leases,
        relay: Relay,
        now_ms: WallClock,
        fanout: Fanout,
        index: FeedIndex,
        ids: PostIds,
        hot_followers: int = HOT_FOLLOWERS,
        cool_followers: int = COOL_FOLLOWERS,
    ) -> None:
        """`ids` are the node's, shared by all its authors."""
        needs = Needs(log, leases, relay, now_ms, fanout, index, ids, hot_followers, cool_followers)
        super().__init__(address, needs)

    # -- life ---------------------------------------------------------------------------------------

    async def activate(self, ctx: EntityContext) -> None:
        """Read the author's row and take up again what was being pushed; all else is read when needed."""
        self._ctx = ctx
        epoch = self._leases.epoch_of(self._shard)
        if not self._ids.is_seeded(self._shard, epoch):
            self._ids.seed(self._shard, epoch, await self._log.posts.largest_id())
        start = await self._log.posts.author_start(self._id)
        self._author = start.author or AuthorRow(user_id=self._id, app_id=start.app_id)
        self._last_at_ms = start.head.at_ms
        if ctx.restarted:
            self._index.forget(self._id)
        if start.unfinished:
            steps = await self._steps()
            if self._author.is_hot:  # by now
                self._followers = None
            for row in start.unfinished:
                if not row.deleted_at_ms:
                    self._index.posted(row, is_pending=True)
                self._begin_push(row.post_id, steps)
        if start.has_backlog:
            await self._take_up_backlogs()
        self._index.started(self._author)
        if start.has_requests and not self._author.is_private:
            self._accept_requests()

    def is_needed(self) -> bool:
        """Stay for posts that are being pushed, and for what is to be told, unless the node or the shard is
        given up: both are stored."""
        return any((self._pushes, self._unconcluded, self._untold, self._backlogs))

    async def passivate(self) -> None:
        self._tell_counts()

    # -- messages -----------------------------------------------------------------------------------

    def handle_nowait(self, message: object, reply: Reply) -> bool:
        return self._fanout_message(message) or self._reactions_message(message)

    async def handle(self, message: object, reply: Reply) -> None:
        if isinstance(message, Ask):
            await self._command(message, reply)
        elif isinstance(message, Told):
            await self._told(message, reply)
        elif not (
            self.handle_nowait(message, reply)
            or await self._follows_message(message)
            or await self._notices_message(message)
        ):
            raise TypeError(f"an author does not take {type(message).__name__}")

    async def _command(self, ask: Ask, reply: Reply) -> None:
        match ask.command:
            case feed_commands.LikePost() as command:
                await self._like(ask, command, reply)
            case feed_commands.AddComment() as command:
                await self._add_comment(ask, command, reply)
            case feed_commands.DeleteComment() as command:
                await self._delete_comment(ask, command, reply)
            case _:
                if ask.user_id != self._id:
                    raise Refused("not_author")
                await self._own_command(ask, reply)

    async def _own_command(self, ask: Ask, reply: Reply) -> None:
        match ask.command:
            case feed_commands.CreatePost() as command:
                await self._create(ask, command, reply)
            case feed_commands.Repost() as command:
                await self._repost(ask, command, reply)
            case feed_commands.EditPost() as command:
                await self._edit(ask, command, reply)
            case feed_commands.DeletePost() as command:
                await self._delete(ask, command, reply)
            case feed_commands.AnswerFollow() as command:
                await self._answer_request(command, reply)
            case feed_commands.RemoveFollower() as command:
                await self._remove_follower(command, reply)
            case feed_commands.UpdateAuthor() as command:
                await self._update_author(ask, command, reply)
            case command:
                raise TypeError(f"an author does not take {type(command).__name__}")

    async def _told(self, message: Told, reply: Reply) -> None:
        """Store the effect of a durable tell and remove the tell, in one append."""
        done: list[Op] = [Remove(Tell, {"tell_id": message.tell_id})]
        match decode_tell(message.body):
            case FollowMoved() as tell:
                await self._follow_moved(tell, done, reply)
            case RepostMoved() as tell:
                await self._repost_moved(tell, done, reply)
            case tell:
                raise TypeError(f"an author is not told {type(tell).__name__}")
