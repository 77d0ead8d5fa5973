"""The one interface of the store, which SQLite implements here and PostgreSQL later.

All methods are for the Trio thread. Appends are durable when their outcome is known: never before.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar

from protocol.ads_found import AdCounts, AdState, Seen
from protocol.errors import HubbubError
from protocol.feed_found import FeedChange, FeedState, FoundFeed, FoundPost
from protocol.notify_found import NotifyReads
from protocol.notify_glance import NotifyGlances
from protocol.records import (
    Append,
    Appended,
    Arrival,
    AuthorStart,
    AuthorView,
    CommentRow,
    Entry,
    FeedRow,
    LogIn,
    MessageState,
    NodeLease,
    Op,
    PostCountsRow,
    PostRow,
    Relation,
    Row,
    ShardOwner,
    StreamHead,
    UnreadLine,
    User,
)
from storage.recommend_queries import FriendOfFriends, Standing
from storage.trend_queries import ToldTrends, TrendKey

R = TypeVar("R", bound=Row)
Outcome = tuple[Appended, ...] | HubbubError
Value = str | int | None
PostAt = tuple[PostRow, PostCountsRow | None]
"""A post with its counts; None: all are 0."""
UserAt = tuple[int, str]
"""When something began (Unix ms), and whom it is about: also where a list goes on."""


class PostReads(Protocol):
    """What is read of posts, and of who stands how to whom. Each read is of one state of the store.

    Lists of users are by (time, user_id), newest first but for requests; `after` is the last one of the page
    before. With `viewer_id` they leave out whom a block parts from the viewer.
    """

    async def largest_id(self) -> int:
        """The largest id of any post or comment; 0 for none."""
        ...

    async def author_start(self, author_id: str) -> AuthorStart:
        """All that an author's actor begins with."""
        ...

    async def post(self, post_id: int) -> PostAt | None:
        """One post, deleted or not."""
        ...

    async def posts(self, post_ids: Sequence[int]) -> dict[int, PostAt]:
        """Those of up to 1,000 posts that exist, deleted or not."""
        ...

    async def timeline(
        self, author_id: str, *, before: int = 0, limit: int, is_public_only: bool = False
    ) -> list[PostAt]:
        """An author's posts and reposts by falling post_id, below `before` if that is not 0; no deleted ones.

        `is_public_only` keeps to those with that visibility. What a repost repeats is not looked at.
        """
        ...

    async def repost_by(self, user_id: str, post_id: int) -> PostRow | None:
        """The user's own repost of that post, if it is not deleted."""
        ...

    async def comments(
        self, post_id: int, *, parent_id: int = 0, after: int = 0, limit: int, viewer_id: str
    ) -> list[CommentRow]:
        """Comments on a post (or answers to one) by rising comment_id, deleted ones in their places.

        Without those of users whom the viewer has muted, or whom a block parts from the viewer.
        """
        ...

    async def likes(
        self, post_id: int, *, after: UserAt | None = None, limit: int, viewer_id: str
    ) -> list[UserAt]:
        """Who likes a post."""
        ...

    async def followers(
        self, author_id: str, *, after: UserAt | None = None, limit: int, viewer_id: str
    ) -> list[UserAt]:
        """Who follows an author, as that one's actor has counted."""
        ...

    async def following(
        self, user_id: str, *, after: UserAt | None = None, limit: int, viewer_id: str
    ) -> list[UserAt]:
        """Whom a user follows; requests are left out."""
        ...

    async def requests(self, author_id: str, *, after: UserAt | None = None, limit: int) -> list[UserAt]:
        """Who asks to follow an author, oldest first."""
        ...

    async def muted(self, user_id: str, *, after: UserAt | None = None, limit: int) -> list[UserAt]:
        """Whom a user has muted."""
        ...

    async def following_count(self, user_id: str) -> int:
        """How many authors a user follows."""
        ...

    async def marks(self, user_id: str, post_ids: Sequence[int]) -> tuple[set[int], set[int]]:
        """Those of the posts that the user likes, and those that the user has reposted."""
        ...

    async def views(self, viewer_id: str, author_ids: Sequence[str]) -> dict[str, AuthorView]:
        """Each of the authors as the viewer stands to them; also of users who do not exist."""
        ...

    async def relation(
        self, user_id: str, other_id: str, *, but_follows: Collection[str], but_mutes: Collection[str]
    ) -> Relation:
        """All that decides whether a user may follow or mute another one.

        Its counts leave out whom `but_follows` and `but_mutes` name.
        """
        ...

    async def follower_versions(
        self, author_id: str, *, after: str = "", limit: int
    ) -> list[tuple[str, int]]:
        """(follower_id, version) of an author's followers, by rising follower_id."""
        ...

    async def unfinished(self, *, after: str = "", limit: int) -> list[tuple[str, int]]:
        """(author_id, shard) of authors with posts that are still being pushed, by rising author_id."""
        ...


class FeedReads(Protocol):
    """The reads behind feeds. All answer from one state of the store, as of after the call."""

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


class AdReads(Protocol):
    """The reads behind ads. All answer from one state of the store, as of after the call."""

    async def state(
        self, now_ms: int, *, settled: Mapping[str, Seen], settle_to_ms: int, untold_after_ms: int
    ) -> AdState:
        """All campaigns that run or will, all options of feeds, and what the budgets are used by.

        `settled` are the counts of the call before (none: all is counted), `settle_to_ms` up to when
        impressions are settled: rows seen before that are all stored. `untold`: showings after
        `untold_after_ms` that were not told as seen.
        """
        ...

    async def counts(self, campaign_id: str) -> AdCounts:
        """What has become of a campaign, from all of its showings."""
        ...


class TrendReads(Protocol):
    """What trends and recommendations read."""

    async def told(self, app_id: str, known: Mapping[TrendKey, int], *, since_ms: int) -> ToldTrends:
        """Trend rows of an app whose at_ms is not the known one; those from before since_ms only by key."""
        ...

    async def friends_of_friends(
        self, user_id: str, *, uninterested_since_ms: int, limit: int
    ) -> list[FriendOfFriends]:
        """Whom a user might follow, as those followed do; nobody who is followed, blocked, muted or worse."""
        ...

    async def standings(
        self, user_id: str, author_ids: Sequence[str], *, uninterested_since_ms: int
    ) -> dict[str, Standing]:
        """How a user stands to each of these authors."""
        ...


class Store(Protocol):
    """Log, directory and queries over one durable engine."""

    @property
    def feeds(self) -> FeedReads: ...
    @property
    def posts(self) -> PostReads: ...

    @property
    def ads(self) -> AdReads: ...

    @property
    def notify(self) -> NotifyReads: ...

    @property
    def notify_glances(self) -> NotifyGlances: ...

    async def claim_all(self, node_id: str) -> dict[int, int]:
        """Take all 256 shards with new epochs, as a single node does at its start. Returns shard -> epoch.

        Raises: Refused "directory_in_use" where another node runs; StorageUnavailable.
        """
        ...

    async def register_node(self, node_id: str, address: str, *, lease_ms: int = 12_000) -> int:
        """Begin a new life of a cluster node. Returns its boot number.

        Raises: as claim_all; Refused "directory_in_use" also where a process with this node_id is running.
        """
        ...

    async def renew_node(
        self, node_id: str, boot: int, *, lease_ms: int = 12_000, is_draining: bool = False
    ) -> bool:
        """Prolong the node's lease; False: a later life of it has begun, and this one must stop."""
        ...

    async def claim(
        self, shards: Mapping[int, int], *, node_id: str, boot: int
    ) -> dict[int, tuple[int, int]]:
        """Take shards (shard -> the epoch seen) that nobody holds by a live lease, in one transaction.

        Returns shard -> (epoch, head) of those won. A shard that has moved on since is lost, and a node whose
        own lease has ended wins nothing. Raises: StorageUnavailable, OutcomeUnknown.
        """
        ...

    async def release(self, shards: Mapping[int, int]) -> dict[int, int]:
        """Give shards (shard -> epoch held) up, in one transaction.

        Returns shard -> the new epoch under which it is free, of those that were ours until now.
        Raises: as claim.
        """
        ...

    async def end_leases_of_the_dead(self) -> list[tuple[str, int]]:
        """End the leases of nodes that provably have no process any more, so that their shards are free now.

        Returns (node_id, boot) of each. A node that is frozen, or starting anew, is left alone. Engines that
        nodes of several machines share can prove nothing and return an empty list. Raises: as claim.
        """
        ...

    async def members(self) -> list[NodeLease]:
        """Every node ever seen, with what is left of its lease."""
        ...

    async def shards(self) -> list[ShardOwner]:
        """All shards with their owners, epochs and heads."""
        ...

    def append_nowait(self, append: Append, on_done: Callable[[Outcome], None]) -> None:
        """Queue one append; `on_done` is called once, synchronously, in the Trio thread, in commit order.

        Appends of one shard are committed in the order given. Raises: Overloaded, StorageUnavailable at once,
        in which case `on_done` is not called.
        """
        ...

    def check_room(self) -> None:
        """Tell whether an append of ordinary size would be taken now: asked before anything is decided.

        Raises: Overloaded, StorageUnavailable.
        """
        ...

    async def append(self, append: Append) -> tuple[Appended, ...]:
        """As append_nowait, and wait; a cancelled wait leaves the append queued.

        Raises: Fenced, HeadMismatch, Overloaded, StorageUnavailable, OutcomeUnknown, Conflict.
        """
        ...

    async def commit(self, ops: Sequence[Op]) -> None:
        """One transaction outside any shard (accounts, sessions, cursors). Raises: as append."""
        ...

    async def barrier(self) -> None:
        """Return when all that was queued before is decided."""
        ...

    async def others_version(self) -> int:
        """A number that changes when another process has written. Raises: StorageUnavailable."""
        ...

    async def read(self, stream: str, *, after: int, limit: int, max_bytes: int = 1 << 20) -> list[Entry]:
        """Entries with seq > after, rising: one if there is any, more up to limit and max_bytes of body."""
        ...

    async def read_messages(
        self,
        stream: str,
        *,
        before: int = 0,
        after: int | None = None,
        thread: int = 0,
        limit: int,
        max_bytes: int = 1 << 20,
    ) -> list[tuple[Entry, MessageState | None]]:
        """Message entries (is_message), rising by seq, each with its MessageState or None.

        Newest first selection with `before` (0: from the newest), oldest first with `after`. `thread` keeps
        only the message with that seq and the replies in its thread.
        """
        ...

    async def read_tail(
        self, stream: str, *, limit: int, max_bytes: int = 1 << 20
    ) -> list[tuple[Entry, MessageState | None]]:
        """The newest entries of any kind, rising by seq, each with its MessageState or None.

        One state of the store: the last seq is the head, and the states are as of it. One entry if there is
        any, more up to limit and max_bytes of body.
        """
        ...

    async def entry(self, stream: str, seq: int) -> Entry | None: ...

    async def appended(self, stream: str, user_id: str, client_id: str) -> Appended | None:
        """The row that is stored under an idempotency key, as the duplicate that a second one would be."""
        ...

    async def message_count_at(self, stream: str, seq: int) -> int:
        """How many messages the stream has with a seq up to and including `seq`."""
        ...

    async def head(self, stream: str) -> StreamHead: ...

    async def get(self, table: type[R], *key: Value) -> R | None:
        """The row with that primary key."""
        ...

    async def find(
        self,
        table: type[R],
        where: dict[str, Value],
        *,
        order_by: str = "",
        after: Value = None,
        limit: int = 1000,
    ) -> list[R]:
        """Rows whose columns equal these values, ordered by a column (and only beyond `after` in it)."""
        ...

    async def find_many(self, table: type[R], column: str, values: Sequence[str | int]) -> list[R]:
        """Rows whose column is one of these (up to 1,000) values, in no order."""
        ...

    async def find_prefix(
        self, table: type[R], where: dict[str, Value], column: str, prefix: str, *, limit: int = 20
    ) -> list[R]:
        """Rows whose text column begins with prefix, rising by that column; uses an index range, not LIKE."""
        ...

    async def conversation_lines(
        self, user_id: str, *, before: tuple[int, str] | None = None, limit: int = 50
    ) -> list[UnreadLine]:
        """The user's conversations by falling (updated_at_ms, id), below `before` where given."""
        ...

    async def conversation_line(self, user_id: str, conversation_id: str) -> UnreadLine | None: ...

    async def last_messages(
        self, conversation_ids: Sequence[str]
    ) -> dict[str, tuple[Entry, MessageState | None]]:
        """The newest message of each of these (up to 500) conversations; those without one are left out."""
        ...

    async def device_cursors(self, user_id: str, device_id: str) -> dict[str, int]:
        """Stream -> seq, as that device has told."""
        ...

    async def arrival(self, user_id: str, device_id: str) -> Arrival:
        """What is read for a device that has connected, of one moment after the call."""
        ...

    async def external_user(self, app_id: str, external_id: str) -> tuple[User, bool] | None:
        """The user whom an app's backend knows by that id, and whether they are disabled."""
        ...

    async def log_in(self, token_hash: str) -> LogIn | None:
        """The log-in with that token, and whose it is."""
        ...

    async def sharing_conversation(self, user_id: str, other_ids: Sequence[str]) -> set[str]:
        """Those of the others who are in a conversation with the user."""
        ...

    async def heads(self, streams: Sequence[str]) -> dict[str, int]:
        """Stream -> its last seq; streams without an entry are left out."""
        ...

    async def deleted_seqs(self, conversation_id: str, *, after: int) -> list[int]:
        """Seqs of deleted messages beyond `after`, rising."""
        ...

    @property
    def trends(self) -> TrendReads: ...
