"""Events that the server pushes.

*Conversation events* are durable: gapless `seq` in one conversation. *Inbox events* are durable:
gapless `seq` in the user's own inbox stream. *Live events* have no seq: they may be coalesced, and
their loss is announced by `resync` where it matters.
"""

from typing import Annotated

from msgspec import Meta

from protocol.bases import BaseEvent, BaseInboxEvent
from protocol.feed_events import FeedInboxEvent, FeedLiveEvent
from protocol.notify_events import NotifyEvent
from protocol.types import (
    AtMs,
    Attachment,
    Contact,
    ConversationId,
    ConversationKind,
    Count,
    Cursor,
    Emoji,
    HeadHint,
    NodeInfo,
    PresenceItem,
    Profile,
    ReceiptItem,
    Role,
    Seq,
    Text,
    Title,
    UserId,
)

# The place of an event (whose stream, which seq, when, by whom) is always on the wire. It has defaults as a
# stored body leaves it out: the log's columns hold it, and `stored_events.place` puts it back.


class _ConversationEvent(BaseEvent, frozen=True, kw_only=True, omit_defaults=True):
    conversation_id: ConversationId = ""
    seq: Seq = 0
    at_ms: AtMs = 0
    user_id: Annotated[UserId, Meta(description="Who did it.")] = ""


class MessagePosted(_ConversationEvent, tag="message", frozen=True, kw_only=True, omit_defaults=True):
    """A message was stored."""

    text: str = ""
    client_id: str = ""
    message_count: Annotated[
        int,
        Meta(
            ge=0, description="Messages of the conversation up to and including this one, deleted ones too."
        ),
    ] = 0
    reply_to: Cursor = 0
    thread: Cursor = 0
    mentions: list[UserId] = []
    files: list[Attachment] = []


class MessageEdited(_ConversationEvent, tag="edited", frozen=True, kw_only=True, omit_defaults=True):
    """The author replaced a message's text."""

    target: Seq
    text: Text
    mentions: list[UserId] = []


class MessageDeleted(_ConversationEvent, tag="deleted", frozen=True, kw_only=True, omit_defaults=True):
    """A message was deleted; its content is gone from the store. Every device drops it."""

    target: Seq


class Reacted(_ConversationEvent, tag="reacted", frozen=True, kw_only=True, omit_defaults=True):
    """A reaction was set or taken back."""

    target: Seq
    emoji: Emoji
    removed: bool = False


class ConversationCreated(_ConversationEvent, tag="created", frozen=True, kw_only=True, omit_defaults=True):
    """The conversation began, with these members; for a group `user_id` is its owner."""

    kind: ConversationKind
    title: str = ""
    member_ids: list[UserId]


class MembersAdded(_ConversationEvent, tag="members_added", frozen=True, kw_only=True, omit_defaults=True):
    """Users joined: added by `user_id`, or by themselves through an invite."""

    member_ids: list[UserId]
    invite: str = ""


class MemberRemoved(_ConversationEvent, tag="member_removed", frozen=True, kw_only=True, omit_defaults=True):
    """A member left (member_id == user_id), was removed, or was banned."""

    member_id: UserId
    banned: bool = False


class MemberUnbanned(
    _ConversationEvent, tag="member_unbanned", frozen=True, kw_only=True, omit_defaults=True
):
    """A ban was lifted; the user may be added or join again."""

    member_id: UserId


class RoleChanged(_ConversationEvent, tag="role_changed", frozen=True, kw_only=True, omit_defaults=True):
    """A member has another role. A new owner makes the old one an admin."""

    member_id: UserId
    role: Role


class MemberSilenced(
    _ConversationEvent, tag="member_silenced", frozen=True, kw_only=True, omit_defaults=True
):
    """A member may not post until then; 0 lifts it."""

    member_id: UserId
    until_ms: AtMs


class Renamed(_ConversationEvent, tag="renamed", frozen=True, kw_only=True, omit_defaults=True):
    """The group has another title."""

    title: Title


class InviteCreated(_ConversationEvent, tag="invite_created", frozen=True, kw_only=True, omit_defaults=True):
    """An invite was made. The code itself is shown to admins only; here is what members may know."""

    invite_id: str
    expires_at_ms: AtMs = 0
    max_uses: Count = 0


class InviteRevoked(_ConversationEvent, tag="invite_revoked", frozen=True, kw_only=True, omit_defaults=True):
    """An invite no longer works."""

    invite_id: str


class _InboxEvent(BaseInboxEvent, frozen=True, kw_only=True, omit_defaults=True):
    seq: Seq = 0
    at_ms: AtMs = 0


class ConversationAdded(_InboxEvent, tag="conversation_added", frozen=True, kw_only=True, omit_defaults=True):
    """The user is now in a conversation."""

    conversation_id: ConversationId
    by: UserId


class ConversationRemoved(
    _InboxEvent, tag="conversation_removed", frozen=True, kw_only=True, omit_defaults=True
):
    """The user is no longer in a conversation; devices drop it."""

    conversation_id: ConversationId
    by: UserId
    banned: bool = False


class ConversationMuted(_InboxEvent, tag="conversation_muted", frozen=True, kw_only=True, omit_defaults=True):
    """The user muted a conversation until then; 0 lifts it."""

    conversation_id: ConversationId
    until_ms: AtMs


class ContactChanged(_InboxEvent, tag="contact_changed", frozen=True, kw_only=True, omit_defaults=True):
    """A contact or a request came, changed, or (contact is null) went."""

    user_id: UserId
    contact: Contact | None = None


class BlockChanged(_InboxEvent, tag="block_changed", frozen=True, kw_only=True, omit_defaults=True):
    """The user blocked or unblocked somebody."""

    user_id: UserId
    blocked: bool


class ProfileChanged(_InboxEvent, tag="profile_changed", frozen=True, kw_only=True, omit_defaults=True):
    """The user's own profile as it now is."""

    profile: Profile


class SessionRevoked(_InboxEvent, tag="session_revoked", frozen=True, kw_only=True, omit_defaults=True):
    """One log-in of the user was ended."""

    session_id: str


class Typing(BaseEvent, tag="typing", frozen=True, kw_only=True, omit_defaults=True):
    """Somebody is typing; it ends by itself after 6 s."""

    conversation_id: ConversationId
    user_id: UserId
    on: bool = True


class Receipts(BaseEvent, tag="receipts", frozen=True, kw_only=True, omit_defaults=True):
    """Watermarks that moved since the last such event, coalesced."""

    conversation_id: ConversationId
    items: list[ReceiptItem]


class Read(BaseEvent, tag="read", frozen=True, kw_only=True, omit_defaults=True):
    """The user read further on one device: all the user's devices set the badge to `unread`."""

    conversation_id: ConversationId
    read_seq: Cursor
    unread: Count = 0


class Presence(BaseEvent, tag="presence", frozen=True, kw_only=True, omit_defaults=True):
    """Presence of watched users that changed, batched."""

    items: list[PresenceItem]


class Heads(BaseEvent, tag="heads", frozen=True, kw_only=True, omit_defaults=True):
    """New heads of conversations that are not in this session's focus, coalesced."""

    items: list[HeadHint]


class Resync(BaseEvent, tag="resync", frozen=True, kw_only=True, omit_defaults=True):
    """Live events of a stream were dropped for this session: sync from the own cursor up to `head`."""

    conversation_id: Annotated[str, Meta(description="Empty for the user's inbox.")] = ""
    head: Cursor = 0


class Reconnect(BaseEvent, tag="reconnect", frozen=True, kw_only=True, omit_defaults=True):
    """The node is about to go: connect again after a random part of `within_s`, best to one of `nodes`."""

    within_s: float
    nodes: list[NodeInfo] = []
    reason: str = ""


class Closing(BaseEvent, tag="closing", frozen=True, kw_only=True, omit_defaults=True):
    """The last frame before the server closes a TCP connection; a WebSocket has a close frame for this."""

    code: Annotated[int, Meta(description="A close code: below 4500 connect again, else stop.")]
    reason: str = ""


ConversationEvent = (
    MessagePosted
    | MessageEdited
    | MessageDeleted
    | Reacted
    | ConversationCreated
    | MembersAdded
    | MemberRemoved
    | MemberUnbanned
    | RoleChanged
    | MemberSilenced
    | Renamed
    | InviteCreated
    | InviteRevoked
)
InboxEvent = (
    ConversationAdded
    | ConversationRemoved
    | ConversationMuted
    | ContactChanged
    | BlockChanged
    | ProfileChanged
    | SessionRevoked
    | FeedInboxEvent
)
ChatLiveEvent = Typing | Receipts | Read | Presence | Heads | Resync | Reconnect | Closing
LiveEvent = ChatLiveEvent | FeedLiveEvent | NotifyEvent
Event = ConversationEvent | InboxEvent | LiveEvent
