"""Answers to commands. Each repeats the command's id; `Error` may answer any of them."""

from typing import Annotated

from msgspec import Meta

from protocol.bases import BaseReply
from protocol.events import Event
from protocol.feed_replies import FeedReply
from protocol.notify_replies import NotifyReply
from protocol.types import (
    AtMs,
    Contact,
    ConversationId,
    ConversationSummary,
    Count,
    Cursor,
    DeviceSession,
    Head,
    Invite,
    Member,
    Message,
    NodeInfo,
    PresenceItem,
    Profile,
    Seq,
    ServerLimits,
    UserId,
)


class Error(BaseReply, tag="error", frozen=True, kw_only=True, omit_defaults=True):
    """A command was not carried out. `code` is stable; `message` is for a person and may change."""

    code: str
    message: str = ""
    retry_after_s: Annotated[
        float | None, Meta(description="Set where the same command may succeed after that many seconds.")
    ] = None


class Ok(BaseReply, tag="ok", frozen=True, kw_only=True, omit_defaults=True):
    """Done; there is nothing more to say."""


class Welcome(BaseReply, tag="welcome", frozen=True, kw_only=True, omit_defaults=True):
    """The session is open: live events flow from here on. Heads name what the device has missed."""

    user: Profile
    app_id: str
    session_id: str
    device_id: str
    node_id: str
    server: str
    now_ms: AtMs
    heartbeat_interval_s: float
    limits: ServerLimits
    nodes: list[NodeInfo] = []
    inbox_head: Cursor = 0
    inbox_cursor: Annotated[
        Cursor, Meta(description="The device's inbox cursor as given in hello, else as stored by the server.")
    ] = 0
    heads: Annotated[
        list[Head],
        Meta(description="Conversations with news for this device, newest first, at most 1,000."),
    ] = []
    heads_complete: bool = True
    cursors: Annotated[
        dict[str, int], Meta(description="Cursors stored for this device, where hello gave none.")
    ] = {}


class HeartbeatAck(BaseReply, tag="heartbeat_ack", frozen=True, kw_only=True, omit_defaults=True):
    """The server is alive. Heads lists streams in which this device is behind, so that a lost hint heals."""

    now_ms: AtMs
    inbox_head: Cursor = 0
    heads: list[Head] = []


class Sent(BaseReply, tag="sent", frozen=True, kw_only=True, omit_defaults=True):
    """The message is stored for good at `seq`. A repeated client_id gets the first answer again."""

    conversation_id: ConversationId
    seq: Seq
    at_ms: AtMs
    duplicate: bool = False


class Changed(BaseReply, tag="changed", frozen=True, kw_only=True, omit_defaults=True):
    """The change is stored at `seq` of the conversation; 0 where nothing needed to change."""

    conversation_id: ConversationId
    seq: Cursor = 0


class ReadMarked(BaseReply, tag="read_marked", frozen=True, kw_only=True, omit_defaults=True):
    """The read watermark as it now stands, and what is unread after it."""

    conversation_id: ConversationId
    read_seq: Cursor
    unread: Count = 0


class ConversationInfo(BaseReply, tag="conversation", frozen=True, kw_only=True, omit_defaults=True):
    """One conversation as the signed-in user sees it."""

    conversation: ConversationSummary
    created: bool = False


class ConversationList(BaseReply, tag="conversations", frozen=True, kw_only=True, omit_defaults=True):
    """A page of the conversation list, newest first. `next` is empty at the end."""

    items: list[ConversationSummary]
    next: str = ""


class MemberList(BaseReply, tag="members", frozen=True, kw_only=True, omit_defaults=True):
    """All members of a conversation, with their receipts."""

    conversation_id: ConversationId
    items: list[Member]
    banned: list[UserId] = []


class EventPage(BaseReply, tag="events", frozen=True, kw_only=True, omit_defaults=True):
    """Events of one stream after the cursor, in order, without gaps. `more` tells whether to go on."""

    conversation_id: Annotated[str, Meta(description="Empty for the user's inbox.")] = ""
    items: list[Event]
    head: Cursor = 0
    more: bool = False


class MessagePage(BaseReply, tag="messages", frozen=True, kw_only=True, omit_defaults=True):
    """Messages as they now are, by rising seq. `more` tells whether there are others further on."""

    conversation_id: ConversationId
    items: list[Message]
    more: bool = False


class InviteInfo(BaseReply, tag="invite", frozen=True, kw_only=True, omit_defaults=True):
    """An invite was made."""

    conversation_id: ConversationId
    invite: Invite


class InviteList(BaseReply, tag="invites", frozen=True, kw_only=True, omit_defaults=True):
    """The invites of a group that still work."""

    conversation_id: ConversationId
    items: list[Invite]


class ProfileList(BaseReply, tag="profiles", frozen=True, kw_only=True, omit_defaults=True):
    """Users of this app; unknown ids are left out."""

    items: list[Profile]


class ContactList(BaseReply, tag="contacts", frozen=True, kw_only=True, omit_defaults=True):
    """All contacts and open requests of the signed-in user, and whom that user has blocked."""

    items: list[Contact]
    blocked: list[UserId] = []


class SessionList(BaseReply, tag="sessions", frozen=True, kw_only=True, omit_defaults=True):
    """All log-ins of the signed-in user."""

    items: list[DeviceSession]


class PresenceList(BaseReply, tag="presence_list", frozen=True, kw_only=True, omit_defaults=True):
    """The presence of the users that are now watched; later changes come as presence events."""

    items: list[PresenceItem]


ChatReply = (
    Error
    | Ok
    | Welcome
    | HeartbeatAck
    | Sent
    | Changed
    | ReadMarked
    | ConversationInfo
    | ConversationList
    | MemberList
    | EventPage
    | MessagePage
    | InviteInfo
    | InviteList
    | ProfileList
    | ContactList
    | SessionList
    | PresenceList
)
Reply = ChatReply | FeedReply | NotifyReply
