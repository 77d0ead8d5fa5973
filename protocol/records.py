"""What is stored: rows of the log and of the directory, and the operations of one transaction.

These Structs are the schema: `table` and `key` name the SQL table and its primary key, each field is a plain
column (lists are JSON text), `unique` and `indexes` are the further indexes. Both stores are made from them.
Schemas only grow: a new field has a default.
"""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

# -- the log ----------------------------------------------------------------------------------------


def conversation_stream(conversation_id: str) -> str:
    """Name the stream of a conversation's events."""
    return f"c:{conversation_id}"


def author_stream(user_id: str) -> str:
    """Name the stream of what a user did as an author: posts, edits, deletions, privacy."""
    return f"a:{user_id}"


def feed_stream(partition: int) -> str:
    """Name the stream of what was pushed into the feeds of one partition."""
    return f"f:{partition}"


def inbox_stream(user_id: str) -> str:
    """Name the stream of everything that changed for a user."""
    return f"u:{user_id}"


class LogRow(msgspec.Struct, frozen=True, kw_only=True):
    """One event to be appended. The store gives it the next seq of its stream.

    `body` is the JSON of the event without what the columns hold. `client_id` with (stream, user_id) is the
    idempotency key: a row whose key is stored already is not appended, and the first row's place is returned.
    `is_message` rows raise the stream's message_count.
    """

    stream: str
    kind: Annotated[str, Meta(description="The event's type tag.")]
    at_ms: int
    user_id: str
    body: str
    client_id: str | None = None
    is_message: bool = False
    thread: int | None = None


class Appended(msgspec.Struct, frozen=True):
    """Where a row stands in its stream; for a duplicate, where the first one stands."""

    seq: int
    message_count: int
    at_ms: int
    is_duplicate: bool = False


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One stored event as it is read back."""

    seq: int
    kind: str
    at_ms: int
    user_id: str
    client_id: str | None
    message_count: int
    thread: int | None
    body: str


class StreamHead(msgspec.Struct, frozen=True):
    """The last position of a stream; zeros for an empty one."""

    seq: int = 0
    message_count: int = 0
    at_ms: int = 0


# -- the directory ----------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of one table. Subclasses name the table, its primary key, and its further indexes."""

    table: ClassVar[str] = ""
    key: ClassVar[tuple[str, ...]] = ()
    unique: ClassVar[tuple[tuple[str, ...], ...]] = ()
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = ()


class App(Row, frozen=True, kw_only=True):
    """A tenant. Everything else belongs to exactly one."""

    table: ClassVar[str] = "app"
    key: ClassVar[tuple[str, ...]] = ("app_id",)
    unique: ClassVar[tuple[tuple[str, ...], ...]] = (("name",),)

    app_id: str
    name: str
    created_at_ms: int
    allow_sign_up: bool = True


class AppKey(Row, frozen=True, kw_only=True):
    """A key for server-to-server calls. Its secret is derived from the server's own and never stored."""

    table: ClassVar[str] = "app_key"
    key: ClassVar[tuple[str, ...]] = ("app_key",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("app_id",),)

    app_key: str
    app_id: str
    name: str = ""
    created_at_ms: int
    revoked_at_ms: int = 0


class SpentSignature(Row, frozen=True, kw_only=True):
    """A signed request of an app's backend that was taken: no node takes it again while it is valid."""

    table: ClassVar[str] = "spent_signature"
    key: ClassVar[tuple[str, ...]] = ("digest",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("minute",),)

    digest: Annotated[str, Meta(description="Of app key and signature.")]
    minute: Annotated[int, Meta(description="Unix minutes; from then on it may be forgotten.")]


class User(Row, frozen=True, kw_only=True):
    """A person or a bot of one app, as others see it. Made by the accounts, then written by the user's actor.

    `username_key` and `name_key` are the case-folded names, for look-ups.
    """

    table: ClassVar[str] = "user_account"
    key: ClassVar[tuple[str, ...]] = ("user_id",)
    unique: ClassVar[tuple[tuple[str, ...], ...]] = (("app_id", "username_key"), ("app_id", "external_id"))
    # The last one is for campaigns: they page through an app's people.
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("app_id", "name_key"),
        ("owner_id",),
        ("app_id", "user_id"),
    )

    user_id: str
    app_id: str
    username: str
    username_key: str
    name: str
    name_key: str
    external_id: str | None = None
    avatar: str = ""
    language: str = ""
    time_zone: str = ""
    is_bot: bool = False
    owner_id: str = ""
    created_at_ms: int


class Credential(Row, frozen=True, kw_only=True):
    """A user's password. The highest version counts; a change inserts the next one and removes the last.

    Apart from User, whose columns the user's own actor updates. As two processes cannot insert the same
    version, neither can undo what the other has just set.
    """

    table: ClassVar[str] = "credential"
    key: ClassVar[tuple[str, ...]] = ("user_id", "version")

    user_id: str
    version: int
    password_hash: Annotated[str, Meta(description="argon2id.")]
    changed_at_ms: int


class Disabled(Row, frozen=True, kw_only=True):
    """The user may not sign in."""

    table: ClassVar[str] = "disabled_user"
    key: ClassVar[tuple[str, ...]] = ("user_id",)

    user_id: str
    at_ms: int


class Session(Row, frozen=True, kw_only=True):
    """One log-in, or a bot's token. Only the hash is kept (SHA-256 of 256 random bits needs no salt).

    Never changed after it was made, only removed: a late note of its use cannot bring it back.
    """

    table: ClassVar[str] = "session"
    key: ClassVar[tuple[str, ...]] = ("session_id",)
    unique: ClassVar[tuple[tuple[str, ...], ...]] = (("token_hash",),)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("user_id",),)

    session_id: str
    user_id: str
    app_id: str
    token_hash: str
    device_name: str = ""
    created_at_ms: int
    expires_at_ms: Annotated[int, Meta(description="When it ends for sure; 0: only by lying idle.")] = 0


class SessionUse(Row, frozen=True, kw_only=True):
    """When a log-in was last used, written lazily."""

    table: ClassVar[str] = "session_use"
    key: ClassVar[tuple[str, ...]] = ("session_id",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("user_id",),)

    session_id: str
    user_id: str
    last_seen_ms: int


class Device(Row, frozen=True, kw_only=True):
    """A device of a user, known by the id that it chose."""

    table: ClassVar[str] = "device"
    key: ClassVar[tuple[str, ...]] = ("user_id", "device_id")

    user_id: str
    device_id: str
    client: str = ""
    last_seen_ms: int = 0


class DeviceCursor(Row, frozen=True, kw_only=True):
    """The last seq of a stream that a device has told us it holds."""

    table: ClassVar[str] = "device_cursor"
    key: ClassVar[tuple[str, ...]] = ("user_id", "device_id", "stream")

    user_id: str
    device_id: str
    stream: str
    seq: int


class LastSeen(Row, frozen=True, kw_only=True):
    """When a user was last connected."""

    table: ClassVar[str] = "last_seen"
    key: ClassVar[tuple[str, ...]] = ("user_id",)

    user_id: str
    at_ms: int


class ContactRow(Row, frozen=True, kw_only=True):
    """One side of a contact; each user's own side is written by that user's actor."""

    table: ClassVar[str] = "contact"
    key: ClassVar[tuple[str, ...]] = ("user_id", "other_id")

    user_id: str
    other_id: str
    state: str
    since_ms: int


class BlockRow(Row, frozen=True, kw_only=True):
    """user_id has blocked other_id."""

    table: ClassVar[str] = "block"
    key: ClassVar[tuple[str, ...]] = ("user_id", "other_id")
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("other_id",),)

    user_id: str
    other_id: str
    since_ms: int


class ConversationRow(Row, frozen=True, kw_only=True):
    """What the conversation list needs of a conversation; the log is the truth."""

    table: ClassVar[str] = "conversation"
    key: ClassVar[tuple[str, ...]] = ("conversation_id",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("app_id",),)

    conversation_id: str
    app_id: str
    kind: str
    title: str = ""
    created_at_ms: int
    created_by: str
    user_a: str = ""
    user_b: str = ""
    member_count: int = 0


class MemberRow(Row, frozen=True, kw_only=True):
    """A membership with its watermarks. `read_count` is the stream's message_count at `read_seq`."""

    table: ClassVar[str] = "member"
    key: ClassVar[tuple[str, ...]] = ("conversation_id", "user_id")
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("user_id", "conversation_id"),)

    conversation_id: str
    user_id: str
    role: str
    joined_seq: int = 0
    joined_at_ms: int = 0
    silenced_until_ms: int = 0
    muted_until_ms: int = 0
    delivered_seq: int = 0
    read_seq: int = 0
    read_count: int = 0


class Ban(Row, frozen=True, kw_only=True):
    """A user who may neither be added to a group nor join it."""

    table: ClassVar[str] = "ban"
    key: ClassVar[tuple[str, ...]] = ("conversation_id", "user_id")

    conversation_id: str
    user_id: str
    by: str
    at_ms: int


class MessageState(Row, frozen=True, kw_only=True):
    """How a message differs from its log row: edits, reactions, deletion, replies in its thread."""

    table: ClassVar[str] = "message_state"
    key: ClassVar[tuple[str, ...]] = ("conversation_id", "seq")

    conversation_id: str
    seq: int
    text: str | None = None
    mentions: str | None = None
    edited_at_ms: int = 0
    deleted_at_ms: int = 0
    reactions: Annotated[str, Meta(description="JSON list of {emoji, user_ids}.")] = ""
    thread_count: int = 0


class Mention(Row, frozen=True, kw_only=True):
    """A user is mentioned in a message that is not deleted."""

    table: ClassVar[str] = "mention"
    key: ClassVar[tuple[str, ...]] = ("user_id", "conversation_id", "seq")

    user_id: str
    conversation_id: str
    seq: int


class InviteRow(Row, frozen=True, kw_only=True):
    """An invite to a group, found by its code."""

    table: ClassVar[str] = "invite"
    key: ClassVar[tuple[str, ...]] = ("code",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("conversation_id",),)

    code: str
    conversation_id: str
    app_id: str
    created_by: str
    created_at_ms: int
    expires_at_ms: int = 0
    max_uses: int = 0
    uses: int = 0
    revoked_at_ms: int = 0


class Tell(Row, frozen=True, kw_only=True):
    """A message to another actor that must arrive: stored with its cause, removed with its effect."""

    table: ClassVar[str] = "tell"
    key: ClassVar[tuple[str, ...]] = ("tell_id",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("shard",),)

    tell_id: str
    shard: Annotated[int, Meta(description="Shard of the target.")]
    kind: str
    target_id: str
    body: Annotated[str, Meta(description="JSON of the message.")]
    at_ms: int


class FileRow(Row, frozen=True, kw_only=True):
    """An uploaded file; the bytes lie in the file store under their SHA-256."""

    table: ClassVar[str] = "file"
    key: ClassVar[tuple[str, ...]] = ("file_id",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("app_id", "sha256"),)

    file_id: str
    app_id: str
    user_id: str
    sha256: str
    name: str
    media_type: str
    size_bytes: int
    width: int = 0
    height: int = 0
    at_ms: int


class DeadLetter(Row, frozen=True, kw_only=True):
    """A message whose handling crashed its actor twice, kept for the operator."""

    table: ClassVar[str] = "dead_letter"
    key: ClassVar[tuple[str, ...]] = ("dead_letter_id",)

    dead_letter_id: str
    kind: str
    actor_id: str
    message_type: str
    body: str
    error: str
    crash_count: int
    at_ms: int


# -- the news feed ----------------------------------------------------------------------------------


class PostRow(Row, frozen=True, kw_only=True):
    """A post as it now is; written by its author's actor. A repost has `repost_of` and no content.

    `is_hot`: it was not pushed, so feeds merge it in when they are read. A deleted post keeps its place.
    """

    table: ClassVar[str] = "post"
    key: ClassVar[tuple[str, ...]] = ("post_id",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("author_id", "post_id"),)

    post_id: int
    author_id: str
    app_id: str
    at_ms: int
    client_id: str = ""
    text: str = ""
    files: Annotated[str, Meta(description="JSON list of Attachment.")] = ""
    mentions: Annotated[str, Meta(description="JSON list of user ids.")] = ""
    hashtags: Annotated[str, Meta(description="JSON list of hashtags.")] = ""
    language: str = ""
    visibility: str = "public"
    repost_of: int = 0
    root_author_id: Annotated[str, Meta(description="Of a repost: the author of what it repeats.")] = ""
    is_hot: bool = False
    edited_at_ms: int = 0
    deleted_at_ms: int = 0


class PostCountsRow(Row, frozen=True, kw_only=True):
    """The counts of a post; written by its author's actor. No row: all are 0."""

    table: ClassVar[str] = "post_counts"
    key: ClassVar[tuple[str, ...]] = ("post_id",)

    post_id: int
    likes: int = 0
    comments: int = 0
    reposts: int = 0


class PostLike(Row, frozen=True, kw_only=True):
    """A user likes a post; written by the post's author's actor."""

    table: ClassVar[str] = "post_like"
    key: ClassVar[tuple[str, ...]] = ("post_id", "user_id")
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("user_id", "post_id"),
        ("post_id", "at_ms", "user_id"),
    )

    post_id: int
    user_id: str
    at_ms: int


class RepostRow(Row, frozen=True, kw_only=True):
    """A user reposts a post, as the actor of the post's author has counted it."""

    table: ClassVar[str] = "repost"
    key: ClassVar[tuple[str, ...]] = ("post_id", "user_id")
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("user_id", "post_id"),)

    post_id: Annotated[int, Meta(description="What is repeated.")]
    user_id: str
    repost_id: int
    at_ms: int


class CommentRow(Row, frozen=True, kw_only=True):
    """A comment on a post; written by the post's author's actor. A deleted one keeps its place."""

    table: ClassVar[str] = "comment"
    key: ClassVar[tuple[str, ...]] = ("comment_id",)
    unique: ClassVar[tuple[tuple[str, ...], ...]] = (("post_id", "user_id", "client_id"),)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("post_id", "parent_id", "comment_id"),
        ("user_id", "comment_id"),
    )

    comment_id: int
    post_id: int
    user_id: str
    client_id: str
    at_ms: int
    text: str = ""
    parent_id: int = 0
    mentions: Annotated[str, Meta(description="JSON list of user ids.")] = ""
    replies: int = 0
    deleted_at_ms: int = 0


class AuthorRow(Row, frozen=True, kw_only=True):
    """A user as an author; written by the author's actor. No row: public, nobody follows, no posts."""

    table: ClassVar[str] = "author"
    key: ClassVar[tuple[str, ...]] = ("user_id",)

    user_id: str
    app_id: str
    is_private: bool = False
    is_hot: Annotated[bool, Meta(description="New posts are merged in at read, not pushed.")] = False
    follower_count: int = 0
    post_count: Annotated[int, Meta(description="Posts and reposts that are not deleted.")] = 0
    last_post_id: int = 0
    last_hot_id: Annotated[int, Meta(description="The newest post that was not pushed; 0: none.")] = 0


class FollowRow(Row, frozen=True, kw_only=True):
    """user_id follows author_id, or asks to; written by the feed partition of user_id.

    `version` is new with each beginning of an edge. `covered`: the author has counted this version, and what
    was posted before that is in the feed: from then on the author's pushes are all there is.
    """

    table: ClassVar[str] = "follow"
    key: ClassVar[tuple[str, ...]] = ("user_id", "author_id")
    # The second holds all that is asked for whom a user follows, and whom those follow in turn.
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("author_id", "state", "since_ms"),
        ("user_id", "state", "since_ms", "author_id"),
    )

    user_id: str
    author_id: str
    state: Annotated[str, Meta(description="requested or following.")]
    since_ms: int
    version: int
    covered: bool = False


class FollowerRow(Row, frozen=True, kw_only=True):
    """author_id is followed by follower_id, as the author's actor has counted; it derives from FollowRow."""

    table: ClassVar[str] = "follower"
    key: ClassVar[tuple[str, ...]] = ("author_id", "follower_id")
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("author_id", "since_ms", "follower_id"),)

    author_id: str
    follower_id: str
    since_ms: int
    version: int


class FanoutJob(Row, frozen=True, kw_only=True):
    """A post that is still being pushed: stored with the post, removed when every partition has it."""

    table: ClassVar[str] = "fanout_job"
    key: ClassVar[tuple[str, ...]] = ("post_id",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("author_id",),)

    post_id: int
    author_id: str
    shard: Annotated[int, Meta(description="Shard of the author.")]


class FeedRow(Row, frozen=True, kw_only=True):
    """A feed that is kept, as of `upto_seq` of its partition's stream; what came later is in the stream.

    `entries` are up to 800 post ids, newest first, as a JSON list: the first, then the differences. It is
    complete from `covered_from` on, but for posts of hot authors.
    """

    table: ClassVar[str] = "feed"
    key: ClassVar[tuple[str, ...]] = ("user_id",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("partition",),)

    user_id: str
    partition: int
    covered_from: int
    position: int
    upto_seq: int
    read_at_ms: Annotated[int, Meta(description="When it was last read, to the hour.")]
    entries: str


class FeedPosition(Row, frozen=True, kw_only=True):
    """How far a user has read the own feed."""

    table: ClassVar[str] = "feed_position"
    key: ClassVar[tuple[str, ...]] = ("user_id",)

    user_id: str
    post_id: int
    at_ms: int


class MuteRow(Row, frozen=True, kw_only=True):
    """user_id does not want to see what other_id writes; written by the feed partition of user_id."""

    table: ClassVar[str] = "mute"
    key: ClassVar[tuple[str, ...]] = ("user_id", "other_id")

    user_id: str
    other_id: str
    since_ms: int


class InterestRow(Row, frozen=True, kw_only=True):
    """user_id is not interested in something; written by the feed partition of user_id."""

    table: ClassVar[str] = "interest"
    key: ClassVar[tuple[str, ...]] = ("user_id", "kind", "target")

    user_id: str
    kind: str
    target: str
    since_ms: int


class FeedOptionsRow(Row, frozen=True, kw_only=True):
    """What an app has switched on in its feeds. No row: the defaults."""

    table: ClassVar[str] = "feed_options"
    key: ClassVar[tuple[str, ...]] = ("app_id",)

    app_id: str
    feed_order: str = "chronological"
    ads: bool = False
    trending: bool = True
    recommendations: bool = True


class CampaignRow(Row, frozen=True, kw_only=True):
    """Ads of one sponsor: what is shown, to whom, when, how often. Written by the app's backend."""

    table: ClassVar[str] = "campaign"
    key: ClassVar[tuple[str, ...]] = ("campaign_id",)
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("app_id",),)

    campaign_id: str
    app_id: str
    title: str
    text: str = ""
    url: str = ""
    image: str = ""
    sponsor: str = ""
    starts_at_ms: int = 0
    ends_at_ms: Annotated[int, Meta(description="0: without end.")] = 0
    budget: Annotated[int, Meta(description="Impressions in all; 0: without limit.")] = 0
    daily_cap: Annotated[int, Meta(description="Showings to one user in 24 h; 0: without limit.")] = 3
    languages: Annotated[str, Meta(description="JSON list; empty: all.")] = ""
    hashtags: Annotated[str, Meta(description="JSON list; empty: all.")] = ""
    is_paused: bool = False
    created_at_ms: int = 0


class AdShown(Row, frozen=True, kw_only=True):
    """An ad that was put into a slot of a user's feed; written by the feed partition of the user.

    `slot` is the post behind which it stands, in the scroll that began at `anchor`. The slot keeps its ad for
    24 h; `day` keeps this row and what was counted by it apart from what is put there later.
    """

    table: ClassVar[str] = "ad_shown"
    key: ClassVar[tuple[str, ...]] = ("user_id", "day", "anchor", "slot")
    # Whole answers out of an index: what a campaign counts, and what was shown lately and not told as seen.
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("campaign_id", "seen_at_ms", "clicked_at_ms"),
        ("at_ms", "seen_at_ms", "campaign_id"),
    )

    user_id: str
    day: Annotated[int, Meta(description="Of at_ms, as days since 1970 in UTC.")]
    anchor: int
    slot: int
    campaign_id: str
    at_ms: int
    seen_at_ms: int = 0
    clicked_at_ms: int = 0


class TrendRow(Row, frozen=True, kw_only=True):
    """What one node has counted for the trends of an app lately; the sum over the nodes is what is shown."""

    table: ClassVar[str] = "trend"
    key: ClassVar[tuple[str, ...]] = ("node_id", "app_id", "kind", "span")
    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("app_id", "at_ms"),)

    node_id: str
    app_id: str
    kind: str
    span: Annotated[str, Meta(description="hour or day.")]
    at_ms: int
    body: Annotated[str, Meta(description="JSON of the counters.")]


DIRECTORY: tuple[type[Row], ...] = (
    App,
    AppKey,
    SpentSignature,
    User,
    Credential,
    Disabled,
    Session,
    SessionUse,
    Device,
    DeviceCursor,
    LastSeen,
    ContactRow,
    BlockRow,
    ConversationRow,
    MemberRow,
    Ban,
    MessageState,
    Mention,
    InviteRow,
    Tell,
    FileRow,
    DeadLetter,
    PostRow,
    PostCountsRow,
    PostLike,
    RepostRow,
    CommentRow,
    AuthorRow,
    FollowRow,
    FollowerRow,
    FanoutJob,
    FeedRow,
    FeedPosition,
    MuteRow,
    InterestRow,
    FeedOptionsRow,
    CampaignRow,
    AdShown,
    TrendRow,
)

# -- one transaction --------------------------------------------------------------------------------


class Put(msgspec.Struct, frozen=True):
    """Write a row whole, whether it exists or not.

    `row_index` ties it to a log row of the same append: it is skipped when that row was a duplicate. With
    `seq_field`, that field of the row takes the seq that the log row was given.
    """

    row: Row
    row_index: int = -1
    seq_field: str = ""


class Insert(msgspec.Struct, frozen=True):
    """Write a row that must not exist yet, by key or by a unique index: else Conflict, nothing stored."""

    row: Row


class Remove(msgspec.Struct, frozen=True):
    """Remove all rows of a table whose columns equal these values; none is fine."""

    table: type[Row]
    where: dict[str, str | int]
    row_index: int = -1


class Update(msgspec.Struct, frozen=True):
    """Set columns of all rows that equal `where`, leaving their other columns as they are; none is fine.

    `row_index` ties it to a log row of the same append, as that of Put does.
    """

    table: type[Row]
    where: dict[str, str | int]
    values: dict[str, str | int | None]
    row_index: int = -1


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """Raise a member's watermarks; they never go back. With `row_index`, to the place of that log row."""

    conversation_id: str
    user_id: str
    delivered_seq: int = 0
    read_seq: int = 0
    read_count: int = 0
    row_index: int = -1


class Redact(msgspec.Struct, frozen=True):
    """Erase the content of a message's row, and of the rows that edited it, for good.

    Their places, times and authors stay, and so does which message an edit was of.
    """

    stream: str
    seq: int


class Trim(msgspec.Struct, frozen=True):
    """Forget the rows of a stream with a smaller seq, but never its last one.

    For streams whose effect is stored elsewhere: those of feed partitions.
    """

    stream: str
    before_seq: int


Op = Put | Insert | Update | Remove | Advance | Redact | Trim


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """One atomic extension of streams of one shard, with what must be stored together with it.

    `epoch` proves the writer's ownership of the shard: a newer epoch in the store refuses the whole append.
    `expected_head` is the shard's head (rows ever appended to it) before this append; None leaves the check
    to the store's own memory of it. A `patient` one, which nobody waits for, may be held back for some
    milliseconds, so that others share its commit.
    """

    shard: int
    epoch: int
    rows: tuple[LogRow, ...] = ()
    ops: tuple[Op, ...] = ()
    expected_head: int | None = None
    patient: bool = False


class ShardOwner(msgspec.Struct, frozen=True):
    """Who may write a shard: `owner` in its life `boot`, proved by `epoch`. An empty owner: nobody."""

    shard: int
    owner: str
    boot: int
    epoch: int
    head: int


class NodeLease(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the store knows it. Its shards may be taken once nothing is left of its lease."""

    node_id: str
    boot: Annotated[int, Meta(description="Rises with every start of the node.")]
    address: str = ""
    lease_left_ms: int = 0
    is_draining: bool = False


class UnreadLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a conversation list, as the store joins it."""

    conversation_id: str
    kind: str
    title: str
    user_a: str
    user_b: str
    member_count: int
    role: str
    muted_until_ms: int
    read_seq: int
    head: int
    message_count: int
    updated_at_ms: int
    unread: int
    mentions_unread: int


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """What the store knows for a device that has just connected."""

    conversation_ids: list[str] = []  # that the user is in
    inbox_head: int = 0
    cursors: dict[str, int] = {}  # stream -> seq, as the device has told


class LogIn(msgspec.Struct, frozen=True, kw_only=True):
    """A log-in with whose it is, as the store joins them; without `user` where that is not there."""

    session: Session
    user: User | None
    is_disabled: bool
    last_seen_ms: int = 0


class AuthorView(msgspec.Struct, frozen=True, kw_only=True):
    """A user as an author, and how one viewer stands to them, as the store joins it."""

    author_id: str
    app_id: str  # empty: there is no such user
    is_private: bool = False
    is_hot: bool = False
    follower_count: int = 0
    post_count: int = 0
    follow: str = ""  # the viewer's: requested or following; empty: neither
    follows_viewer: bool = False
    is_muted: bool = False  # by the viewer
    is_blocked: bool = False  # by the viewer
    blocks_viewer: bool = False


class Relation(msgspec.Struct, frozen=True, kw_only=True):
    """What decides whether one user may follow or mute another, of one moment.

    The counts leave out those whom the reader of it knows better.
    """

    app_id: str  # the other one's; empty: there is no such user
    is_private: bool = False  # as an author
    is_blocked: bool = False  # either way
    is_muted: bool = False
    edge: FollowRow | None = None
    follow_count: int = 0  # follows and requests
    mute_count: int = 0


class AuthorStart(msgspec.Struct, frozen=True, kw_only=True):
    """What an author's actor begins with, of one moment."""

    app_id: str  # empty: there is no such user
    author: AuthorRow | None
    head: StreamHead
    unfinished: list[PostRow] = []  # posts that are still being pushed, the oldest first
    has_requests: bool = False
    has_backlog: bool = False  # there is a NoticeBacklog
