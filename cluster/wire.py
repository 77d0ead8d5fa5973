"""What nodes say to each other: one tagged item after the other in the lanes' envelopes, as MessagePack.

Items only grow (a new field has a default at the end), and one that a node does not know is counted and
skipped: so nodes of two versions live in one cluster while it is upgraded.
"""

from typing import Final

import msgspec

from actors.messages import ActorMessage, Place
from cluster.presence_messages import PresenceMessage
from cluster.routes import ShardRoute
from protocol.events import Event
from protocol.notify_node import NodeAnswer, NodeQuestion
from protocol.replies import Reply


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One thing that one node says to another."""


# -- messages to actors, and their answers ---------------------------------------------------------


class Call(Item, frozen=True, tag="call"):
    """A message for an actor that the receiver is thought to run. Answered by Answer, Failed or NotHere.

    `epoch` is the one under which the sender thinks so. Without `wants_reply` the answer says only that the
    message was taken.
    """

    corr: int
    kind: str
    id: str
    epoch: int
    message: ActorMessage
    wants_reply: bool = True


class Hint(Item, frozen=True, tag="hint"):
    """A message that matters only to an actor that is awake; not answered."""

    kind: str
    id: str
    message: ActorMessage


class Answer(Item, frozen=True, tag="answer"):
    """The actor's answer to a Call; None: the message was taken."""

    corr: int
    value: Reply | None


class Failed(Item, frozen=True, tag="failed"):
    """The Call failed with an error that its sender passes on."""

    corr: int
    code: str
    message: str
    retry_after_s: float | None


class NotHere(Item, frozen=True, tag="not_here"):
    """The receiver of a Call does not run that actor (any more); nothing was done."""

    corr: int


# -- events for the sessions of the receiver -------------------------------------------------------


class Publish(Item, frozen=True, tag="publish"):
    """A durable event of a conversation. Fields as those of Fanout.publish."""

    conversation_id: str
    seq: int
    event: Event
    everywhere: bool
    message_count: int


class Live(Item, frozen=True, tag="live"):
    """A live event of a conversation. Fields as those of Fanout.publish_live."""

    conversation_id: str
    key: str | tuple[str, ...]
    event: Event
    except_user_id: str
    is_state: bool


class PublishUser(Item, frozen=True, tag="publish_user"):
    """A durable event of a user's inbox."""

    user_id: str
    seq: int
    event: Event


class LiveUser(Item, frozen=True, tag="live_user"):
    """A live event for a user's sessions."""

    user_id: str
    key: str | tuple[str, ...]
    event: Event
    stream: str


class PostLive(Item, frozen=True, tag="post_live"):
    """A live event about a post: its counts, its edit or deletion."""

    post_id: int
    key: str | tuple[str, ...]
    event: Event


class Subscribe(Item, frozen=True, tag="subscribe"):
    """The sessions of these users hear the conversation from now on, by its owner of that epoch."""

    conversation_id: str
    epoch: int
    user_ids: list[str]


class Unsubscribe(Item, frozen=True, tag="unsubscribe"):
    """End that."""

    conversation_id: str
    epoch: int
    user_ids: list[str]


class Resync(Item, frozen=True, tag="resync"):
    """Live events of the conversation may be lost; from now on exactly these users hear it."""

    conversation_id: str
    epoch: int
    head: int
    user_ids: list[str]


class ResyncUser(Item, frozen=True, tag="resync_user"):
    """Live events of the user's inbox may be lost."""

    user_id: str
    head: int


class Part(Item, frozen=True, tag="part"):
    """Two users do not see each other's presence any more."""

    user_id: str
    other_id: str


class CloseSession(Item, frozen=True, tag="close_session"):
    """A log-in has ended."""

    user_id: str
    session_id: str


class ReplaceConnection(Item, frozen=True, tag="replace_connection"):
    """A device of the receiver's has connected again."""

    user_id: str
    place: Place


# -- between the nodes themselves ------------------------------------------------------------------


class Gossip(Item, frozen=True, tag="gossip"):
    """A message of the membership, in its own encoding."""

    message: bytes


class Presence(Item, frozen=True, tag="presence"):
    """A message of the presence directory."""

    message: PresenceMessage


class Routes(Item, frozen=True, tag="routes"):
    """Shards that have changed hands; a hint, the store has the truth."""

    routes: list[ShardRoute]


class Missed(Item, frozen=True, tag="missed"):
    """The sender has not sent to the receiver for a while: read from the store what that may have been."""


class Lost(Item, frozen=True, tag="lost"):
    """Something that the receiver has sent did not come: hints that nobody answers are to be told again."""


class Load(Item, frozen=True, tag="load"):
    """How the sender is doing, told each second. `reaches`: the nodes to which its direct way works."""

    connection_count: int
    load: float
    loop_lag_s: float
    presence_digest: str
    presence_version: int
    reaches: list[str] = []


class Inquire(Item, frozen=True, tag="inquire"):
    """What the sender wants to know of the receiver itself. Answered by Told, at once, or not at all."""

    corr: int
    question: NodeQuestion


class Told(Item, frozen=True, tag="told"):
    """The answer to an Inquire."""

    corr: int
    answer: NodeAnswer


class Relayed(Item, frozen=True, tag="relayed"):
    """An item for a node that its sender cannot reach, over one that can."""

    to: str
    origin: str
    origin_boot: int
    item: bytes


AnyItem = (
    Call
    | Hint
    | Answer
    | Failed
    | NotHere
    | Publish
    | Live
    | PublishUser
    | LiveUser
    | PostLive
    | Subscribe
    | Unsubscribe
    | Resync
    | ResyncUser
    | Part
    | CloseSession
    | ReplaceConnection
    | Gossip
    | Presence
    | Routes
    | Missed
    | Lost
    | Load
    | Inquire
    | Told
    | Relayed
)

_decoder: msgspec.msgpack.Decoder[AnyItem] = msgspec.msgpack.Decoder(AnyItem)
encode: Final = msgspec.msgpack.Encoder().encode


_call_decoder: msgspec.msgpack.Decoder[list[msgspec.Raw]] = msgspec.msgpack.Decoder(list[msgspec.Raw])


def not_understood(corr: int) -> Failed:
    """Answer a call that this node does not understand, as it is of a newer version."""
    return Failed(corr, "internal", "The node in charge does not know this command yet.", 5.0)


def corr_of_unknown_call(payload: bytes) -> int | None:
    """Find out by what to answer an item that is a Call and could not be decoded; None: it is no Call."""
    try:
        parts = _call_decoder.decode(payload)
        if len(parts) < 2 or msgspec.msgpack.decode(parts[0], type=str) != "call":
            return None
        return msgspec.msgpack.decode(parts[1], type=int)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def decode(payload: bytes) -> AnyItem:
    """Decode one item. Raises: msgspec.MsgspecError; ValueError."""
    return _decoder.decode(payload)
