"""Commands that clients send. `reply` of each class names the answer; `Error` may always come instead."""

from typing import Annotated, ClassVar

from msgspec import Meta

from protocol import replies
from protocol.bases import BaseCommand
from protocol.feed_commands import FeedCommand
from protocol.notify_commands import NotifyCommand
from protocol.types import (
    AtMs,
    ClientId,
    ConversationId,
    Count,
    Cursor,
    Cursors,
    DeviceId,
    Emoji,
    FileIds,
    FocusIds,
    InviteCode,
    Limit,
    Mentions,
    Name,
    Role,
    Seq,
    Text,
    Title,
    UserId,
    UserIds,
)


class _Command(BaseCommand, frozen=True, kw_only=True, omit_defaults=True):
    reply: ClassVar[type] = replies.Ok


# -- the connection ---------------------------------------------------------------------------------


class Hello(_Command, tag="hello", frozen=True, kw_only=True, omit_defaults=True):
    """Open the session: first on every connection, within 10 s."""

    reply: ClassVar[type] = replies.Welcome

    token: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=4096,
            description="A session token, a bot token, or a JWT of the app's backend.",
        ),
    ]
    device_id: DeviceId
    client: Annotated[str, Meta(max_length=100, description="Name and version of the client.")] = ""
    cursors: Cursors | None = None
    inbox_cursor: Cursor | None = None
    focus: FocusIds | None = None


class Heartbeat(_Command, tag="heartbeat", frozen=True, kw_only=True, omit_defaults=True):
    """Say that the device lives, about every 30 s, and how far it has got."""

    reply: ClassVar[type] = replies.HeartbeatAck

    cursors: Cursors = {}
    inbox_cursor: Cursor = 0
    active: Annotated[bool, Meta(description="The person has been active since the last heartbeat.")] = True


class Ack(_Command, tag="ack", frozen=True, kw_only=True, omit_defaults=True):
    """Tell that this device has everything up to these cursors: moves the delivered watermark."""

    cursors: Cursors = {}
    inbox_cursor: Cursor = 0


class Focus(_Command, tag="focus", frozen=True, kw_only=True, omit_defaults=True):
    """Say what is on the screen: full live events there, coalesced heads elsewhere. Null: full everywhere."""

    conversation_ids: FocusIds | None = None


class Activity(_Command, tag="activity", frozen=True, kw_only=True, omit_defaults=True):
    """Say that the person is at the device, or has gone away from it."""

    active: bool


class WatchPresence(_Command, tag="watch_presence", frozen=True, kw_only=True, omit_defaults=True):
    """Replace the set of users whose presence this session is told.

    Only contacts and members of shared conversations can be watched.
    """

    reply: ClassVar[type] = replies.PresenceList

    user_ids: UserIds
    contacts: Annotated[bool, Meta(description="Watch all accepted contacts as well.")] = False


# -- messages ---------------------------------------------------------------------------------------


class Send(_Command, tag="send", frozen=True, kw_only=True, omit_defaults=True):
    """Post a message. Answered once it is stored for good."""

    reply: ClassVar[type] = replies.Sent

    conversation_id: ConversationId
    client_id: ClientId
    text: Text = ""
    reply_to: Cursor = 0
    thread: Annotated[
        Cursor, Meta(description="Seq of the message whose thread this belongs to; 0: none.")
    ] = 0
    mentions: Mentions = []
    file_ids: FileIds = []


class Edit(_Command, tag="edit", frozen=True, kw_only=True, omit_defaults=True):
    """Replace the text of one's own message, within 24 h."""

    reply: ClassVar[type] = replies.Changed

    conversation_id: ConversationId
    target: Seq
    text: Text
    mentions: Mentions = []


class Delete(_Command, tag="delete", frozen=True, kw_only=True, omit_defaults=True):
    """Delete one's own message within 24 h; admins may delete any message at any time."""

    reply: ClassVar[type] = replies.Changed

    conversation_id: ConversationId
    target: Seq


class React(_Command, tag="react", frozen=True, kw_only=True, omit_defaults=True):
    """Set a reaction on a message, or take it back."""

    reply: ClassVar[type] = replies.Changed

    conversation_id: ConversationId
    target: Seq
    emoji: Emoji
    removed: bool = False


class MarkRead(_Command, tag="mark_read", frozen=True, kw_only=True, omit_defaults=True):
    """Move the read watermark forward; it never goes back. Sending a message reads up to it as well."""

    reply: ClassVar[type] = replies.ReadMarked

    conversation_id: ConversationId
    seq: Seq


class SetTyping(_Command, tag="set_typing", frozen=True, kw_only=True, omit_defaults=True):
    """Tell the others that the user is typing; repeat every few seconds."""

    conversation_id: ConversationId
    on: bool = True


class Sync(_Command, tag="sync", frozen=True, kw_only=True, omit_defaults=True):
    """Read the events of a conversation after a cursor, in order."""

    reply: ClassVar[type] = replies.EventPage

    conversation_id: ConversationId
    after: Cursor = 0
    limit: Limit = 200


class SyncInbox(_Command, tag="sync_inbox", frozen=True, kw_only=True, omit_defaults=True):
    """Read the events of the own inbox after a cursor, in order."""

    reply: ClassVar[type] = replies.EventPage

    after: Cursor = 0
    limit: Limit = 200


class History(_Command, tag="history", frozen=True, kw_only=True, omit_defaults=True):
    """Read messages as they now are: the newest, those before a seq, or those after one."""

    reply: ClassVar[type] = replies.MessagePage

    conversation_id: ConversationId
    before: Annotated[Cursor, Meta(description="Only messages with a smaller seq; 0: from the newest.")] = 0
    after: Annotated[
        Cursor | None, Meta(description="Only messages with a larger seq, oldest first; not with `before`.")
    ] = None
    thread: Annotated[Cursor, Meta(description="Only this thread and its first message; 0: all.")] = 0
    limit: Limit = 50


# -- conversations ----------------------------------------------------------------------------------


class OpenDirect(_Command, tag="open_direct", frozen=True, kw_only=True, omit_defaults=True):
    """Open the conversation with one other user; opening it again gives the same one."""

    reply: ClassVar[type] = replies.ConversationInfo

    user_id: UserId


class CreateGroup(_Command, tag="create_group", frozen=True, kw_only=True, omit_defaults=True):
    """Create a group owned by the sender. The same client_id gives the same group again."""

    reply: ClassVar[type] = replies.ConversationInfo

    client_id: ClientId
    title: Title
    member_ids: UserIds = []


class GetConversation(_Command, tag="get_conversation", frozen=True, kw_only=True, omit_defaults=True):
    """Read one conversation's line of the list."""

    reply: ClassVar[type] = replies.ConversationInfo

    conversation_id: ConversationId


class ListConversations(_Command, tag="list_conversations", frozen=True, kw_only=True, omit_defaults=True):
    """Read the conversation list, newest first. `after` is `next` of the page before."""

    reply: ClassVar[type] = replies.ConversationList

    after: Annotated[str, Meta(max_length=200)] = ""
    limit: Limit = 50


class ListMembers(_Command, tag="list_members", frozen=True, kw_only=True, omit_defaults=True):
    """Read all members of a conversation and their receipts."""

    reply: ClassVar[type] = replies.MemberList

    conversation_id: ConversationId


class AddMembers(_Command, tag="add_members", frozen=True, kw_only=True, omit_defaults=True):
    """Add users to a group. For admins and the owner."""

    reply: ClassVar[type] = replies.Changed

    conversation_id: ConversationId
    user_ids: UserIds


class RemoveMember(_Command, tag="remove_member", frozen=True, kw_only=True, omit_defaults=True):
    """Remove a member of a lower role, or ban a user: a banned user can neither be added nor join."""

    reply: ClassVar[type] = replies.Changed

    conversation_id: ConversationId
    user_id: UserId
    ban: bool = False


class Unban(_Command, tag="unban", frozen=True, kw_only=True, omit_defaults=True):
    """Lift a ban."""

    reply: ClassVar[type] = replies.Changed

    conversation_id: ConversationId
    user_id: UserId


class Leave(_Command, tag="leave", frozen=True, kw_only=True, omit_defaults=True):
    """Leave a group. The owner hands the group over first, unless alone in it."""

    reply: ClassVar[type] = replies.Changed

    conversation_id: ConversationId


class Rename(_Command, tag="rename", frozen=True, kw_only=True, omit_defaults=True):
    """Give a group another title. For admins and the owner."""

    reply: ClassVar[type] = replies.Changed

    conversation_id: ConversationId
    title: Title


class SetRole(_Command, tag="set_role", frozen=True, kw_only=True, omit_defaults=True):
    """Give a member another role. For the owner; making somebody owner hands the group over."""

    reply: ClassVar[type] = replies.Changed

    conversation_id: ConversationId
    user_id: UserId
    role: Role


class Silence(_Command, tag="silence", frozen=True, kw_only=True, omit_defaults=True):
    """Keep a member of a lower role from posting until then; 0 lifts it."""

    reply: ClassVar[type] = replies.Changed

    conversation_id: ConversationId
    user_id: UserId
    until_ms: AtMs


class Mute(_Command, tag="mute", frozen=True, kw_only=True, omit_defaults=True):
    """Mute a conversation's alerts for oneself until then; 0 lifts it."""

    conversation_id: ConversationId
    until_ms: AtMs


class CreateInvite(_Command, tag="create_invite", frozen=True, kw_only=True, omit_defaults=True):
    """Make an invite link. For admins and the owner."""

    reply: ClassVar[type] = replies.InviteInfo

    conversation_id: ConversationId
    expires_at_ms: Annotated[AtMs, Meta(description="0: never.")] = 0
    max_uses: Annotated[Count, Meta(description="0: without limit.")] = 0


class ListInvites(_Command, tag="list_invites", frozen=True, kw_only=True, omit_defaults=True):
    """Read a group's working invites. For admins and the owner."""

    reply: ClassVar[type] = replies.InviteList

    conversation_id: ConversationId


class RevokeInvite(_Command, tag="revoke_invite", frozen=True, kw_only=True, omit_defaults=True):
    """End an invite. For admins and the owner."""

    reply: ClassVar[type] = replies.Changed

    conversation_id: ConversationId
    code: InviteCode


class Join(_Command, tag="join", frozen=True, kw_only=True, omit_defaults=True):
    """Join a group by an invite's code."""

    reply: ClassVar[type] = replies.ConversationInfo

    code: InviteCode


# -- people -----------------------------------------------------------------------------------------


class GetUsers(_Command, tag="get_users", frozen=True, kw_only=True, omit_defaults=True):
    """Read profiles by id."""

    reply: ClassVar[type] = replies.ProfileList

    user_ids: UserIds


class FindUsers(_Command, tag="find_users", frozen=True, kw_only=True, omit_defaults=True):
    """Find users of this app whose user name or name begins with these letters."""

    reply: ClassVar[type] = replies.ProfileList

    prefix: Annotated[str, Meta(min_length=1, max_length=64)]
    limit: Annotated[int, Meta(ge=1, le=50)] = 20


class UpdateProfile(_Command, tag="update_profile", frozen=True, kw_only=True, omit_defaults=True):
    """Change the own profile; absent fields stay."""

    reply: ClassVar[type] = replies.ProfileList

    name: Name | None = None
    avatar: Annotated[str, Meta(max_length=64, description="A file id; empty: none.")] | None = None
    language: Annotated[str, Meta(max_length=35, description="BCP 47.")] | None = None
    time_zone: Annotated[str, Meta(max_length=64, description="IANA name.")] | None = None


class ListContacts(_Command, tag="list_contacts", frozen=True, kw_only=True, omit_defaults=True):
    """Read contacts, open requests and blocked users."""

    reply: ClassVar[type] = replies.ContactList


class RequestContact(_Command, tag="request_contact", frozen=True, kw_only=True, omit_defaults=True):
    """Ask a user to be a contact; where that user has asked already, this accepts."""

    user_id: UserId


class AnswerContact(_Command, tag="answer_contact", frozen=True, kw_only=True, omit_defaults=True):
    """Accept or decline a contact request."""

    user_id: UserId
    accept: bool


class RemoveContact(_Command, tag="remove_contact", frozen=True, kw_only=True, omit_defaults=True):
    """End a contact, or take back a request."""

    user_id: UserId


class Block(_Command, tag="block", frozen=True, kw_only=True, omit_defaults=True):
    """Block a user: no direct messages, requests, invitations or presence between the two. Ends a contact."""

    user_id: UserId


class Unblock(_Command, tag="unblock", frozen=True, kw_only=True, omit_defaults=True):
    """Lift a block."""

    user_id: UserId


class ListSessions(_Command, tag="list_sessions", frozen=True, kw_only=True, omit_defaults=True):
    """Read all log-ins of the signed-in user."""

    reply: ClassVar[type] = replies.SessionList


class RevokeSession(_Command, tag="revoke_session", frozen=True, kw_only=True, omit_defaults=True):
    """End one log-in; its connections are closed."""

    session_id: Annotated[str, Meta(min_length=1, max_length=64)]


class Logout(_Command, tag="logout", frozen=True, kw_only=True, omit_defaults=True):
    """End this log-in; its connections are closed."""


ChatCommand = (
    Hello
    | Heartbeat
    | Ack
    | Focus
    | Activity
    | WatchPresence
    | Send
    | Edit
    | Delete
    | React
    | MarkRead
    | SetTyping
    | Sync
    | SyncInbox
    | History
    | OpenDirect
    | CreateGroup
    | GetConversation
    | ListConversations
    | ListMembers
    | AddMembers
    | RemoveMember
    | Unban
    | Leave
    | Rename
    | SetRole
    | Silence
    | Mute
    | CreateInvite
    | ListInvites
    | RevokeInvite
    | Join
    | GetUsers
    | FindUsers
    | UpdateProfile
    | ListContacts
    | RequestContact
    | AnswerContact
    | RemoveContact
    | Block
    | Unblock
    | ListSessions
    | RevokeSession
    | Logout
)
Command = ChatCommand | FeedCommand | NotifyCommand
