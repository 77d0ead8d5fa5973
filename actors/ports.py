"""What the chat actors need of the world: a log, proof of ownership, and a way to reach listeners.

storage/ and cluster/ fit these shapes; server/app.py brings them together. Tests bring in-memory ones.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar

from actors.messages import Place
from protocol.codec import Encoded
from protocol.errors import HubbubError
from protocol.events import ConversationEvent
from protocol.feed_found import FeedChange, FeedState, FoundFeed, FoundPost
from protocol.records import (
    Append,
    Appended,
    AuthorRow,
    AuthorStart,
    AuthorView,
    Entry,
    FeedRow,
    MessageState,
    PostCountsRow,
    PostRow,
    Relation,
    Row,
    StreamHead,
    Tell,
)

R = TypeVar("R", bound=Row)
Outcome = tuple[Appended, ...] | HubbubError


class PostLog(Protocol):
    """The part of the store that authors read; see storage.store.PostReads."""

    async def largest_id(self) -> int: ...

    async def author_start(self, author_id: str) -> AuthorStart: ...

    async def post(self, post_id: int) -> tuple[PostRow, PostCountsRow | None] | None: ...

    async def repost_by(self, user_id: str, post_id: int) -> PostRow | None: ...

    async def requests(
        self, author_id: str, *, after: tuple[int, str] | None = None, limit: int
    ) -> list[tuple[int, str]]: ...

    async def following_count(self, user_id: str) -> int: ...

    async def marks(self, user_id: str, post_ids: Sequence[int]) -> tuple[set[int], set[int]]: ...

    async def views(self, viewer_id: str, author_ids: Sequence[str]) -> dict[str, AuthorView]: ...

    async def relation(
        self, user_id: str, other_id: str, *, but_follows: Collection[str], but_mutes: Collection[str]
    ) -> Relation: ...

    async def follower_versions(
        self, author_id: str, *, after: str = "", limit: int
    ) -> list[tuple[str, int]]: ...

    async def unfinished(self, *, after: str = "", limit: int) -> list[tuple[str, int]]: ...


class Log(Protocol):
    """The part of the store that actors write and load their state through; see storage.store.Store."""

    @property
    def posts(self) -> PostLog: ...

    def append_nowait(self, append: Append, on_done: Callable[[Outcome], None]) -> None: ...

    def check_room(self) -> None: ...

    async def barrier(self) -> None: ...
    async def others_version(self) -> int: ...

    async def head(self, stream: str) -> StreamHead: ...

    async def entry(self, stream: str, seq: int) -> Entry | None: ...

    async def read_messages(
        self, stream: str, *, after: int | None = None, limit: int
    ) -> list[tuple[Entry, MessageState | None]]: ...

    async def appended(self, stream: str, user_id: str, client_id: str) -> Appended | None: ...

    async def message_count_at(self, stream: str, seq: int) -> int: ...

    async def deleted_seqs(self, conversation_id: str, *, after: int) -> list[int]: ...

    async def get(self, table: type[R], *key: str | int | None) -> R | None: ...

    async def find(
        self,
        table: type[R],
        where: dict[str, str | int | None],
        *,
        order_by: str = "",
        after: str | int | None = None,
        limit: int = 1000,
    ) -> list[R]: ...

    async def find_many(self, table: type[R], column: str, values: Sequence[str | int]) -> list[R]: ...


class FeedReads(Protocol):
    """The reads behind feeds; see storage.store.FeedReads. All answer from one state of the store."""

    async def load(self, user_id: str, *, cap: int, with_posts: bool) -> FoundFeed:
        """All that decides what a reader's feed shows; `with_posts`: and the newest `cap` post ids."""
        ...

    async def pull(self, user_id: str, *, before: int = 0, after: int | None = None, limit: int) -> list[int]:
        """Ids of posts of those whom a user follows, and own ones, deleted ones too.

        Falling below `before` (0: from the newest), or rising above `after` where given.
        """
        ...

    async def author_ids(self, author_id: str, *, after: int, before: int, limit: int) -> list[int]:
        """Ids of an author's newest posts between two ids, both excluded, falling."""
        ...

    async def posts(self, post_ids: Sequence[int]) -> list[FoundPost]:
        """These posts, and those that they repeat, in no order; what does not exist is left out."""
        ...

    async def marks(self, user_id: str, post_ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Which of these posts a user likes, and which the user has reposted."""
        ...

    async def affinities(
        self, user_id: str, *, since_id: int, limit: int, weights: tuple[int, int, int]
    ) -> list[tuple[str, int, int]]:
        """A reader's latest likes, comments and reposts: author_id, at_ms, and the weight of each kind.

        Of posts from `since_id` on, newest first.
        """
        ...

    async def kept_feeds(self, partition: int, *, after: str, limit: int) -> list[FeedRow]:
        """The kept feeds of a partition, by rising user_id beyond `after`."""
        ...

    async def state(self) -> FeedState:
        """What a node has to know before it serves feeds."""
        ...

    async def changes(self, after_lsn: int, *, limit: int) -> list[FeedChange]:
        """What happened to posts and authors behind that place of the log, on any node, in order."""
        ...

    async def entries(self, partition: int, *, after: int, limit: int) -> list[Entry]:
        """Rows of a partition's stream with a larger seq, rising."""
        ...

    async def entries_head(self, partition: int) -> tuple[int, int]:
        """The first and the last seq that a partition's stream still holds; zeros for an empty one."""
        ...


class Leases(Protocol):
    """Proof of which shards this node owns."""

    def epoch_of(self, shard: int) -> int:
        """The epoch under which this node owns the shard. Raises: Unavailable("moved") where it does not."""
        ...

    def owns(self, shard: int) -> bool:
        """Tell whether this node may run the shard's actors now."""
        ...

    def fenced(self, shard: int) -> None:
        """The store has refused an append of this shard: somebody else owns it. Does not block or raise."""
        ...


class Fanout(Protocol):
    """Carry events to the sessions that listen, wherever they are. Nothing here blocks or raises."""

    def publish(
        self,
        conversation_id: str,
        seq: int,
        encoded: Encoded,
        *,
        to: Collection[str],
        everywhere: bool = False,
        message_count: int = 0,
    ) -> None:
        """Send a durable event of a conversation to its sessions; `to` are its members, wherever they are.

        Whole to those that look at it, as a coalesced head to the others; `everywhere`: whole to all.
        `message_count` is the conversation's as of this event.
        """
        ...

    def publish_live(
        self,
        conversation_id: str,
        key: str | tuple[str, ...],
        encoded: Encoded,
        *,
        to: Collection[str] | None,
        except_user_id: str = "",
        is_state: bool = False,
    ) -> None:
        """Send a live event to the sessions that look; a newer one with the same key replaces it.

        `to` are the conversation's members; None: whoever they are, when the sender does not know them.
        `is_state`: its loss must be announced, since nothing later repeats what it says.
        """
        ...

    def publish_user(self, user_id: str, seq: int, encoded: Encoded) -> None:
        """Send a durable inbox event to all sessions of a user."""
        ...

    def publish_user_live(
        self, user_id: str, key: str | tuple[str, ...], encoded: Encoded, *, stream: str
    ) -> None:
        """Send a live event to all sessions of a user; its loss is announced as a resync of `stream`.

        With FEED_STREAM, to those of them that watch the feed.
        """
        ...

    def publish_post(self, post_id: int, key: str | tuple[str, ...], encoded: Encoded) -> None:
        """Send a live event about a post to the sessions that watch it."""
        ...

    def subscribe(self, conversation_id: str, user_ids: Sequence[str]) -> None:
        """Let the sessions of these users hear the conversation from now on."""
        ...

    def unsubscribe(self, conversation_id: str, user_ids: Sequence[str], *, to: Collection[str]) -> None:
        """End that; `to` are the members who stay, and may watch the presence of those who go."""
        ...

    def resync(self, conversation_id: str, head: int, user_ids: Collection[str]) -> None:
        """Tell all who listen to read from their cursor up to head: live events may have been lost.

        Membership may have moved with them: from now on the sessions of exactly these users listen.
        """
        ...

    def resync_user(self, user_id: str, head: int) -> None:
        """The same for a user's inbox."""
        ...

    def is_connected(self, user_id: str) -> bool:
        """Tell whether the user is connected, to this node or another one."""
        ...

    def part(self, user_id: str, other_id: str) -> None:
        """From now on two users do not see each other's presence, nor hear of each other's posts."""
        ...

    def close_session(self, user_id: str, session_id: str) -> None:
        """Close the connections of one log-in."""
        ...

    def replace_connection(self, user_id: str, place: Place) -> None:
        """Close one connection, whose device has connected again."""
        ...


class Relay(Protocol):
    """Carry durable tells to their targets."""

    def hint(self, tells: Sequence[Tell]) -> None:
        """These tells were committed just now; deliver them without waiting for the next scan."""
        ...


class Recent(Protocol):
    """Remember the newest events of conversations, for those who read them. Nothing here blocks or raises."""

    def begin(self, conversation_id: str, head: int) -> None:
        """An actor has loaded the conversation; what it will tell follows `head`. Forget what was before."""
        ...

    def note(self, event: ConversationEvent) -> None:
        """This event was committed. Told in order, before its sender is answered."""
        ...

    def forget(self, conversation_id: str) -> None:
        """An actor has ended out of turn, or its append concluded later: more may be stored than told."""
        ...


class FeedIndex(Protocol):
    """What this node knows of posts and authors beyond its feeds; what is told here counts at the next read.

    Told after the commit and before the answer, so that who has an ack finds it in every feed of the node.
    Other nodes learn it from the log. Nothing here blocks or raises.
    """

    def posted(self, post: PostRow, *, is_pending: bool) -> None:
        """A post or repost is stored. `is_pending`: it is about to be pushed; else it is hot or nobody's."""
        ...

    def pushed(self, post_id: int, author_id: str) -> None:
        """It is in every feed that it belongs in."""
        ...

    def edited(self, post: PostRow) -> None: ...

    def deleted(self, post: PostRow) -> None:
        """`post` as it is after the deletion."""
        ...

    def counted(self, counts: PostCountsRow) -> None: ...

    def liked(self, post: PostRow, user_id: str, *, removed: bool) -> None: ...

    def commented(self, post: PostRow, user_id: str) -> None: ...

    def reposted(self, post: PostRow, user_id: str, *, removed: bool) -> None: ...

    def author_changed(self, author: AuthorRow) -> None:
        """Privacy, or the way of new posts into feeds, or the newest hot post."""
        ...

    def blocked(self, user_id: str, other_id: str, *, blocked: bool) -> None: ...

    def forget(self, author_id: str) -> None:
        """The author's actor has ended out of turn: more may be stored than told, until one starts."""
        ...

    def started(self, author: AuthorRow) -> None:
        """The author's actor has begun, and has told of the posts that it is still pushing."""
        ...


class WallClock(Protocol):
    """Unix time in milliseconds; for display and for limits set by people, never for order."""

    def __call__(self) -> int: ...


__all__ = [
    "Appended",
    "Fanout",
    "FeedIndex",
    "Leases",
    "Log",
    "MessageState",
    "Outcome",
    "PostLog",
    "Recent",
    "Relay",
    "WallClock",
]
