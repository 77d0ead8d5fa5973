"""What chat actors say to each other and what sessions say to them, beside the protocol's own commands.

They also travel between nodes, so they only grow: a new field has a default.
"""

import msgspec

from actors.notify.messages import NotifyActorMessage
from protocol.commands import Command
from protocol.feed_types import FollowState


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """A signed-in user's command for an actor. `app_id` is the user's; actors refuse those of another app."""

    user_id: str
    app_id: str
    command: Command


class Wake(msgspec.Struct, frozen=True, tag="wake"):
    """Nothing but a reason to be awake."""


class OpenBetween(msgspec.Struct, frozen=True, tag="open_between"):
    """Open the direct conversation of two users who are known to exist in that app."""

    user_id: str
    other_id: str
    app_id: str


class Create(msgspec.Struct, frozen=True, tag="create"):
    """Create a group whose members are known to exist in that app and not to have blocked the owner."""

    user_id: str
    app_id: str
    title: str
    member_ids: tuple[str, ...]


class Delivered(msgspec.Struct, frozen=True, tag="delivered"):
    """These users' devices have everything up to these seqs."""

    seqs: dict[str, int]


class BlockMoved(msgspec.Struct, frozen=True, tag="block_moved"):
    """One of a direct conversation's users blocked or unblocked the other."""

    user_id: str
    other_id: str
    blocked: bool


class Place(msgspec.Struct, frozen=True):
    """Where a connection is: conn_ids are unique within one life of a node."""

    node_id: str
    boot: int
    conn_id: int


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """A connection of the user is being welcomed; `at_ms`: since when.

    `is_repeated`: told late, or again, as when the user's shard has moved. It may be half open by now.
    """

    place: Place
    device_id: str
    at_ms: int
    is_repeated: bool = False


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """A connection of the user has gone; None: the node was lost that held the last one."""

    place: Place | None
    at_ms: int


class FanOut(msgspec.Struct, frozen=True, tag="fan_out"):
    """To a feed partition: push this post into the feeds of these users, who all belong to it.

    Answered by Ok once it is stored. Doing it again changes nothing. Feeds that nobody has read lately are
    left out. At most 1,000 users at a time.
    """

    post_id: int
    author_id: str
    user_ids: tuple[str, ...]


class FeedWatched(msgspec.Struct, frozen=True, tag="feed_watched"):
    """To a feed partition: a session of that user has the feed on its screen. Told now and then again."""

    user_id: str


class Evict(msgspec.Struct, frozen=True, tag="evict"):
    """To a feed partition: keep the feeds of these users no longer; the next read makes them anew."""

    user_ids: tuple[str, ...]


# -- durable tells: stored with their cause, as JSON in records.Tell.body ----------------------------


class AddedTo(msgspec.Struct, frozen=True, tag="added_to"):
    """To a user: you are in this conversation now."""

    conversation_id: str
    by: str


class RemovedFrom(msgspec.Struct, frozen=True, tag="removed_from"):
    """To a user: you are no longer in this conversation."""

    conversation_id: str
    by: str
    banned: bool = False


class MutedIn(msgspec.Struct, frozen=True, tag="muted_in"):
    """To a user: you muted this conversation."""

    conversation_id: str
    until_ms: int


class ContactAsked(msgspec.Struct, frozen=True, tag="contact_asked"):
    """To a user: that user would like to be your contact."""

    user_id: str


class ContactAccepted(msgspec.Struct, frozen=True, tag="contact_accepted"):
    """To a user: that user accepted your request."""

    user_id: str


class ContactGone(msgspec.Struct, frozen=True, tag="contact_gone"):
    """To a user: that user declined, took back, removed, or blocked."""

    user_id: str


class LoggedOut(msgspec.Struct, frozen=True, tag="logged_out"):
    """To a user: one of your log-ins was ended."""

    session_id: str


class FollowSettled(msgspec.Struct, frozen=True, tag="follow_settled"):
    """To a user: so you stand to that author now."""

    author_id: str
    state: FollowState


class FollowerMoved(msgspec.Struct, frozen=True, tag="follower_moved"):
    """To a user: so that follower stands to you now."""

    follower_id: str
    state: FollowState


class FollowMoved(msgspec.Struct, frozen=True, tag="follow_moved"):
    """To an author: look at the FollowRow of that follower, which has changed, and count by it."""

    follower_id: str


class RepostMoved(msgspec.Struct, frozen=True, tag="repost_moved"):
    """To the author of a post: that user has reposted it (as repost_id), or deleted that repost."""

    post_id: int
    user_id: str
    repost_id: int
    removed: bool


class FollowCounted(msgspec.Struct, frozen=True, tag="follow_counted"):
    """To a feed partition: the author has counted that version of the edge.

    Every later post is pushed to user_id; up to `upto` (a post_id; 0: none) they are to be fetched.
    """

    user_id: str
    author_id: str
    version: int
    upto: int


class FollowAnswered(msgspec.Struct, frozen=True, tag="follow_answered"):
    """To a feed partition: the author has accepted or declined the request of user_id, or ends the follow.

    `accepted` leaves an edge that follows already as it is; without it a request or a follow ends, of that
    `version` (0: whichever it is). A request keeps its version when it is accepted.
    """

    user_id: str
    author_id: str
    accepted: bool
    version: int = 0


class BlockStands(msgspec.Struct, frozen=True, tag="block_stands"):
    """To a feed partition: user_id must not follow other_id, where one of them has blocked the other.

    It may come late: whether a block stands is to be read.
    """

    user_id: str
    other_id: str


class NoticeDue(msgspec.Struct, frozen=True, tag="notice_due", omit_defaults=True):
    """To a notification partition: let this user know what another one has done.

    Unless one of the two has blocked, or user_id has muted, the other. `template` and `type_name` are
    hubbub's own, or the app's of the same name. `actor_count`: of so many people, of whom actor_id is one.
    """

    user_id: str
    app_id: str
    actor_id: str
    type_name: str
    template: str
    subject: str = ""
    batch_key: str = ""
    url: str = ""
    data: dict[str, str] = {}
    actor_count: int = 1
    thing: str = ""  # what it tells of the words of, as Deleted.thing


class Deleted(msgspec.Struct, frozen=True, tag="deleted"):
    """To a notification partition: take back what was told of this, which is no more.

    `thing`: as message_thing and the others below call it; it is the `request_id` of what tells of it.
    """

    app_id: str
    thing: str


class AddressStopped(msgspec.Struct, frozen=True, tag="address_stopped"):
    """To a notification partition: let go of this address, whoever of the app has it; see SuppressionRow."""

    app_id: str
    device_key: str


def message_thing(conversation_id: str, seq: int) -> str:
    """What notifications of a message are asked for by."""
    return f"message:{conversation_id}:{seq}"


def comment_thing(comment_id: int) -> str:
    """What notifications of a comment are asked for by."""
    return f"comment:{comment_id}"


def post_thing(post_id: int) -> str:
    """What notifications of being mentioned in a post are asked for by."""
    return f"post:{post_id}"


UserTell = (
    AddedTo
    | RemovedFrom
    | MutedIn
    | ContactAsked
    | ContactAccepted
    | ContactGone
    | LoggedOut
    | FollowSettled
    | FollowerMoved
)
AuthorTell = FollowMoved | RepostMoved
FeedTell = FollowCounted | FollowAnswered | BlockStands
ActorTell = UserTell | AuthorTell | FeedTell | NoticeDue | Deleted | AddressStopped


class Told(msgspec.Struct, frozen=True, tag="told"):
    """A durable tell as it reaches its target, which stores its effect and removes the tell in one append."""

    tell_id: str
    body: str


ActorMessage = (
    NotifyActorMessage
    | Ask
    | Wake
    | OpenBetween
    | Create
    | Delivered
    | BlockMoved
    | Opened
    | Closed
    | Told
    | FanOut
    | FeedWatched
    | Evict
)
"""What actors take from outside their node."""

_decoder: msgspec.json.Decoder[ActorTell] = msgspec.json.Decoder(ActorTell)


def decode_tell(body: str) -> ActorTell:
    """Decode the body of a tell."""
    return _decoder.decode(body)


def encode_tell(tell: ActorTell) -> str:
    """Encode the body of a tell."""
    return msgspec.json.encode(tell).decode()
