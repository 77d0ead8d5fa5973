"""Field types that commands, replies and events share.

`Meta` limits are checked when decoding, not when constructing, so outside bytes always enter
through a decoder.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocol.limits import (
    MAX_CURSORS,
    MAX_FILES,
    MAX_IDS,
    MAX_MENTIONS,
    MAX_NAME_CHARS,
    MAX_PAGE,
    MAX_SAFE_INTEGER,
    MAX_TITLE_CHARS,
)

# The lookahead is for Python, whose `$` also matches before a final newline; elsewhere it is always true.
ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"

CommandId = Annotated[
    int,
    Meta(
        ge=0,
        le=MAX_SAFE_INTEGER,
        description="Chosen by the client and repeated in the answer. 0 or absent: only errors are answered.",
    ),
]
UserId = Annotated[str, Meta(pattern=ID_PATTERN, description="A user of this app; opaque.")]
ConversationId = Annotated[str, Meta(pattern=ID_PATTERN, description="A conversation; opaque.")]
DeviceId = Annotated[
    str, Meta(pattern=ID_PATTERN, description="Chosen once by the device and kept; names its cursors.")
]
ClientId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="Idempotency key per sender and conversation: the same key gets the first answer.",
    ),
]
FileId = Annotated[str, Meta(pattern=ID_PATTERN, description="A file uploaded before.")]
Seq = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER, description="Gapless position in one stream, from 1.")]
Cursor = Annotated[
    int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="The last seq that is known; 0 for none.")
]
AtMs = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER, description="Unix time in milliseconds, UTC.")]
Count = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE, description="How many items at the most.")]
# No limit here: the frame bounds it, and the rules answer text_too_long, which bad_field would hide.
Text = Annotated[str, Meta(description="UTF-8, at most 100 KB encoded; else text_too_long.")]
Title = Annotated[str, Meta(min_length=1, max_length=MAX_TITLE_CHARS)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Emoji = Annotated[str, Meta(min_length=1, max_length=32, description="One emoji or short name.")]
UserIds = Annotated[list[UserId], Meta(max_length=MAX_IDS)]
Mentions = Annotated[list[UserId], Meta(max_length=MAX_MENTIONS, description="Users to be alerted.")]
FileIds = Annotated[list[FileId], Meta(max_length=MAX_FILES)]
Cursors = Annotated[
    dict[ConversationId, Cursor],
    Meta(max_length=MAX_CURSORS, description="For each conversation the last seq that this device has."),
]
FocusIds = Annotated[
    list[ConversationId],
    Meta(max_length=100, description="What is on the screen; null: every conversation live."),
]
Role = Literal["owner", "admin", "member"]
ConversationKind = Literal["direct", "group"]
PresenceState = Literal["online", "away", "offline"]
ContactState = Literal["requested", "incoming", "accepted"]
InviteCode = Annotated[str, Meta(pattern=ID_PATTERN)]


class Attachment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file as it hangs on a message; fetch it at /v1/files/{file_id}."""

    file_id: FileId
    name: str
    media_type: str
    size_bytes: Count
    width: int = 0
    height: int = 0


class Profile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What other users of the app may see of a user."""

    user_id: UserId
    username: str
    name: str
    avatar: str = ""
    language: str = ""
    time_zone: str = ""
    is_bot: bool = False


class Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One member of a conversation with the watermarks that receipts are derived from."""

    user_id: UserId
    role: Role = "member"
    joined_at_ms: AtMs = 0
    silenced_until_ms: AtMs = 0
    delivered_seq: Cursor = 0
    read_seq: Cursor = 0


class Reaction(msgspec.Struct, frozen=True, kw_only=True):
    """Who reacted to a message with one emoji, in the order of reacting."""

    emoji: str
    user_ids: list[UserId]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message as it now is: its latest text, its reactions, or only the mark that it was deleted."""

    conversation_id: ConversationId
    seq: Seq
    at_ms: AtMs
    user_id: UserId
    text: str = ""
    client_id: str = ""
    reply_to: Cursor = 0
    thread: Annotated[int, Meta(ge=0, description="Seq of the thread's first message; 0: not in one.")] = 0
    mentions: list[UserId] = []
    files: list[Attachment] = []
    edited_at_ms: AtMs = 0
    deleted: bool = False
    reactions: list[Reaction] = []
    thread_count: Annotated[
        int, Meta(ge=0, description="Replies in the thread that this message starts.")
    ] = 0


class ConversationSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a user's conversation list, with that user's own unread count."""

    conversation_id: ConversationId
    kind: ConversationKind
    title: str = ""
    head: Cursor = 0
    message_count: Annotated[int, Meta(ge=0, description="All messages ever, deleted ones too.")] = 0
    unread: Annotated[
        int, Meta(ge=0, description="Messages of others after read_seq that are not deleted; exact.")
    ] = 0
    mentions_unread: Count = 0
    read_seq: Cursor = 0
    role: Role = "member"
    member_count: Count = 0
    peer_id: str = ""
    muted_until_ms: AtMs = 0
    updated_at_ms: AtMs = 0
    last_message: Message | None = None


class Invite(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A link by which users may join a group."""

    code: InviteCode
    created_by: UserId
    expires_at_ms: AtMs = 0
    max_uses: Count = 0
    uses: Count = 0


class Contact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One contact of the signed-in user, or a request to or from that user."""

    user_id: UserId
    state: ContactState
    since_ms: AtMs = 0


class DeviceSession(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One log-in of the signed-in user."""

    session_id: str
    device_name: str = ""
    created_at_ms: AtMs = 0
    last_seen_ms: AtMs = 0
    expires_at_ms: AtMs = 0
    current: bool = False


class PresenceItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The presence of one user. last_seen_ms is 0 while online."""

    user_id: UserId
    state: PresenceState
    last_seen_ms: AtMs = 0


class ReceiptItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far one member has received and read."""

    user_id: UserId
    delivered_seq: Cursor = 0
    read_seq: Cursor = 0


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a conversation stands, for a user who is not looking at it."""

    conversation_id: ConversationId
    head: Cursor
    unread: Count = 0
    read_seq: Cursor = 0


class HeadHint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """News of a conversation that is not on the screen: add the growth of message_count to its badge."""

    conversation_id: ConversationId
    head: Cursor
    message_count: Count = 0
    last_message: Message | None = None


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node that a client may connect to, best first."""

    node_id: str
    url: Annotated[str, Meta(description="Of its WebSocket, such as wss://chat.example.com/ws.")]
    bot_address: Annotated[str, Meta(description="HOST:PORT or hubbub(s)://HOST:PORT; empty: no bots.")] = ""
    zone: Annotated[str, Meta(description="Where it stands, as its operator calls it.")] = ""
    load: Annotated[
        float,
        Meta(
            description="How close it is to turning newcomers away, 0 to 1: the larger of its share of "
            "connections taken and its event loop's lag against the lag at which it sheds."
        ),
    ] = 0.0
    draining: Annotated[bool, Meta(description="It is shutting down; only where nothing else is left.")] = (
        False
    )


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the server accepts from this session."""

    max_frame_bytes: int
    max_text_bytes: int
    max_group_members: int
    max_unacked_sends: int
    max_file_bytes: int
