"""Answers to commands. Each repeats the command's id; `Error` may answer any of them."""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.events import Event
from protocol.types import (
    AtMs,
    CommandId,
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


class _Reply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    id: CommandId = 0


class Error(_Reply, tag="error", frozen=True, kw_only=True, omit_defaults=True):
    """A command was not carried out. `code` is stable; `message` is for a person and may change."""

    code: str
    message: str = ""
    retry_after_s: Annotated[
        float | None, Meta(description="Set where the same command may succeed after that many seconds.")
    ] = None


class Ok(_Reply, tag="ok", frozen=True, kw_only=True, omit_defaults=True):
    """Done; there is nothing more to say."""


class Welcome(_Reply, tag="welcome", frozen=True, kw_only=True, omit_defaults=True):
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


class HeartbeatAck(_Reply, tag="heartbeat_ack", frozen=True, kw_only=True, omit_defaults=True):
    """The server is alive. Heads lists streams in which this device is behind, so that a lost hint heals."""

    now_ms: AtMs
    inbox_head: Cursor = 0
    heads: list[Head] = []


class Sent(_Reply, tag="sent", frozen=True, kw_only=True, omit_defaults=True):
    """The message is stored for good at `seq`. A repeated client_id gets the first answer again."""

    conversation_id: ConversationId
    seq: Seq
    at_ms: AtMs
    duplicate: bool = False


class Changed(_Reply, tag="changed", frozen=True, kw_only=True, omit_defaults=True):
    """The change is stored at `seq` of the conversation; 0 where nothing needed to change."""

    conversation_id: ConversationId
    seq: Cursor = 0


class ReadMarked(_Reply, tag="read_marked", frozen=True, kw_only=True, omit_defaults=True):
    """The read watermark as it now stands, and what is unread after it."""

    conversation_id: ConversationId
    read_seq: Cursor
    unread: Count = 0


class ConversationInfo(_Reply, tag="conversation", frozen=True, kw_only=True, omit_defaults=True):
    """One conversation as the signed-in user sees it."""

    conversation: ConversationSummary
    created: bool = False


class ConversationList(_Reply, tag="conversations", frozen=True, kw_only=True, omit_defaults=True):
    """A page of the conversation list, newest first. `next` is empty at the end."""

    items: list[ConversationSummary]
    next: str = ""


class MemberList(_Reply, tag="members", frozen=True, kw_only=True, omit_defaults=True):
    """All members of a conversation, with their receipts."""

    conversation_id: ConversationId
    items: list[Member]
    banned: list[UserId] = []


class EventPage(_Reply, tag="events", frozen=True, kw_only=True, omit_defaults=True):
    """Events of one stream after the cursor, in order, without gaps. `more` tells whether to go on."""

    conversation_id: Annotated[str, Meta(description="Empty for the user's inbox.")] = ""
    items: list[Event]
    head: Cursor = 0
    more: bool = False


class MessagePage(_Reply, tag="messages", frozen=True, kw_only=True, omit_defaults=True):
    """Messages as they now are, by rising seq. `more` tells whether there are others further on."""

    conversation_id: ConversationId
    items: list[Message]
    more: bool = False


class InviteInfo(_Reply, tag="invite", frozen=True, kw_only=True, omit_defaults=True):
    """An invite was made."""

    conversation_id: ConversationId
    invite: Invite


class InviteList(_Reply, tag="invites", frozen=True, kw_only=True, omit_defaults=True):
    """The invites of a group that still work."""

    conversation_id: ConversationId
    items: list[Invite]


class ProfileList(_Reply, tag="profiles", frozen=True, kw_only=True, omit_defaults=True):
    """Users of this app; unknown ids are left out."""

    items: list[Profile]


class ContactList(_Reply, tag="contacts", frozen=True, kw_only=True, omit_defaults=True):
    """All contacts and open requests of the signed-in user, and whom that user has blocked."""

    items: list[Contact]
    blocked: list[UserId] = []


class SessionList(_Reply, tag="sessions", frozen=True, kw_only=True, omit_defaults=True):
    """All log-ins of the signed-in user."""

    items: list[DeviceSession]


class PresenceList(_Reply, tag="presence_list", frozen=True, kw_only=True, omit_defaults=True):
    """The presence of the users that are now watched; later changes come as presence events."""

    items: list[PresenceItem]


Reply = (
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
