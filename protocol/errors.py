"""Errors that cross folders, their stable codes, and the close codes of a connection.

Errors are sorted by who must act: `ProtocolError` (the peer broke the language: close),
`Refused` (understood and declined: reply, stay connected) and `Unavailable` (later: reply with
`retry_after_s`). Anything else that is raised is our own bug. Codes are never reused or renamed.
"""

from enum import IntEnum
from typing import Final


class HubbubError(Exception):
    """Carry a stable code to whoever must act on it.

    `code` is a key of `CODES`; `message` is a sentence for a person; `retry_after_s` (seconds) is set
    where the same command may succeed later.
    """

    def __init__(self, code: str, message: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message or CODES.get(code, code)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class ProtocolError(HubbubError):
    """The peer broke the language. Framing errors close the connection, the others only the command."""


class Refused(HubbubError):
    """The command was understood and declined; trying it again unchanged will not help."""


class Unavailable(HubbubError):
    """The command may be tried again after `retry_after_s` seconds."""

    def __init__(self, code: str, message: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(code, message, retry_after_s=retry_after_s)


class Fenced(Unavailable):
    """Another node owns the shard now. Its former owner stops the shard's actors and does not retry."""

    def __init__(self, message: str = "") -> None:
        super().__init__("moved", message, retry_after_s=0.5)


class HeadMismatch(Unavailable):
    """The shard's head is not what its owner thought: the store went back in time, or two nodes own it."""

    def __init__(self, message: str = "") -> None:
        super().__init__("moved", message, retry_after_s=0.5)


class Overloaded(Unavailable):
    """The queue to the disk is full (8 MiB) or its oldest entry waits for over 1 s. Nothing was stored."""

    def __init__(self, message: str = "") -> None:
        super().__init__("overloaded", message, retry_after_s=1.0)


class StorageUnavailable(Unavailable):
    """The disk is full or failing. Nothing was stored; reads go on."""

    def __init__(self, message: str = "") -> None:
        super().__init__("storage_unavailable", message, retry_after_s=5.0)


class OutcomeUnknown(Unavailable):
    """The commit may or may not have happened; sending again with the same client_id is safe."""

    def __init__(self, message: str = "") -> None:
        super().__init__("outcome_unknown", message, retry_after_s=1.0)


class Conflict(Refused):
    """An Insert met a row with the same key or unique columns; nothing of the transaction was stored."""

    def __init__(self, table: str, message: str = "") -> None:
        super().__init__("already_exists", message or f"{table} exists already")
        self.table = table


# The whole list: what a peer may meet, and what it means. Kept sorted by who must act.
PROTOCOL_CODES: Final[dict[str, str]] = {
    "bad_frame": "The frame is not valid JSON or MessagePack, or its length prefix is wrong.",
    "frame_too_large": "The frame is longer than the limit told in welcome.",
    "not_utf8": "A text frame or the body of an HTTP request is not valid UTF-8.",
    "unknown_type": "The command's type is not known to this server.",
    "bad_field": "A field is missing, of the wrong type, or outside its limits; the message says which.",
    "hello_expected": "The first command must be hello.",
    "hello_repeated": "hello was already answered on this connection.",
    "hello_timeout": "No hello came in time.",
    "heartbeat_timeout": "Nothing was heard from the client for too long.",
    "wrong_transport": "This address speaks another protocol.",
}
REFUSED_CODES: Final[dict[str, str]] = {
    "unauthenticated": "The token is unknown, expired or revoked.",
    "bad_credentials": "The name or the password is wrong.",
    "forbidden": "The signed-in user may not do this.",
    "origin_refused": "The page's origin is not allowed to open a connection.",
    "not_found": "There is no such thing, or it is not visible to this user.",
    "user_not_found": "There is no such user in this app.",
    "conversation_not_found": "There is no such conversation, or this user is not in it.",
    "message_not_found": "There is no such message in this conversation.",
    "file_not_found": "There is no such file in this app.",
    "invite_not_found": "The invite is unknown, revoked, used up or expired.",
    "name_taken": "Another user of this app has that name.",
    "already_exists": "It exists already.",
    "not_member": "The user is not a member of the conversation.",
    "not_a_group": "Only a group can do this.",
    "group_full": "A group has at most 500 members.",
    "banned": "The user is banned from this group.",
    "silenced": "The user may not post in this group for now.",
    "blocked": "One of the two users has blocked the other.",
    "not_author": "Only the author may do this.",
    "edit_too_late": "A message may be edited or deleted by its author for 24 hours.",
    "message_deleted": "The message was deleted.",
    "owner_must_stay": "The owner must hand the group over before leaving it.",
    "role_too_low": "This needs a higher role in the group.",
    "text_too_long": "The text is too long: a message takes 100 KB, a post 10 KB, a comment 4 KB.",
    "text_empty": "A message or a post needs text or a file, a comment text.",
    "too_many_mentions": "A message may mention at most 50 users.",
    "too_many_reactions": "A message carries at most 50 different reactions.",
    "file_too_large": "The file is larger than this server accepts.",
    "weak_password": "The password is too short, or is the name itself.",
    "bad_image": "The file is not a picture of an accepted kind.",
    "bad_cursor": "The cursor was not given out by this server, or lies beyond the head.",
    "self_not_allowed": "That cannot be done with oneself.",
    "bot_not_allowed": "A bot account may not do this.",
    "payload_conflict": "That client_id was used before for something else.",
    "method_not_allowed": "This HTTP method is not known at this address.",
    "bad_request": "The HTTP request could not be understood.",
    "post_not_found": "There is no such post, or it is not visible to this user.",
    "comment_not_found": "There is no such comment on this post.",
    "follow_not_found": "That user has not asked to follow this one, or does not.",
    "too_many_follows": "A user may follow at most 10,000 others.",
    "too_many_muted": "A user may mute at most 10,000 others.",
    "not_repostable": "Only a public post of a public account can be reposted.",
    "campaign_not_found": "There is no such campaign in this app.",
    "slot_not_found": "No ad was shown to this user under that slot.",
    "not_enabled": "The app has not switched this on.",
    "type_not_found": "The app has no such type of notification.",
    "template_not_found": "The app has no such template.",
    "template_variable_unknown": "The template uses a variable that the data does not have.",
    "template_failed": "The template cannot be rendered with this data.",
    "group_not_found": "The app has no such group of users.",
    "notification_not_found": "There is no such notification, or it is another user's.",
    "request_not_found": "There is no such request to notify in this app.",
    "device_not_found": "The user has no such device.",
    "bad_device_token": "The token, subscription or address cannot belong to that channel.",
    "provider_not_found": "The app has no such provider.",
    "private_address": "The address leads into a private network.",
    "bad_signature": "The request's signature is wrong.",
    "request_expired": "The request's timestamp is more than five minutes away from the server's clock.",
    "request_replayed": "That signed request came before.",
    "experiment_not_found": "The app has no such experiment.",
    "import_not_found": "There is no such import in this app.",
    "bad_link": "The link is not one of ours, or was changed.",
    "contact_not_found": "There is no such contact or request.",
    "untrusted_certificate": "The server's TLS certificate cannot be verified. Raised by clients only.",
}
UNAVAILABLE_CODES: Final[dict[str, str]] = {
    "busy": "The mailbox of the conversation or user is full.",
    "overloaded": "The store or the node has more work than it can take.",
    "rate_limited": "Too many commands in a short time.",
    "too_many_connections": "This address or user has too many connections.",
    "storage_unavailable": "The store does not accept writes now; nothing was stored.",
    "outcome_unknown": "The store may or may not have kept it; send again with the same client_id.",
    "restarted": "The actor was restarted; send again with the same client_id.",
    "crashed": "Handling this command failed twice; it was set aside for the operator.",
    "quarantined": "The conversation, user, author or feed is paused after repeated failures.",
    "draining": "This node is shutting down; connect again.",
    "moved": "Another node owns this now; connect again or retry.",
    "timeout": "No answer came in time.",
    "internal": "The server failed; the failure was logged.",
    "setup_unreadable": "What the app has set up for its notifications cannot be read; its operator is told.",
}
CODES: Final[dict[str, str]] = PROTOCOL_CODES | REFUSED_CODES | UNAVAILABLE_CODES


class CloseCode(IntEnum):
    """Why a connection was closed. 4000-4499: connect again, with jitter. 4500-4999: stop."""

    NORMAL = 1000
    GOING_AWAY = 1001
    DRAINING = 4000  # the node is shutting down
    SLOW_CONSUMER = 4001  # a write was blocked for 10 s
    HEARTBEAT_TIMEOUT = 4002
    OVERLOADED = 4003
    MOVED = 4004  # another node is better for this client
    INTERNAL = 4005
    RATE_LIMITED = 4006
    HELLO_TIMEOUT = 4007
    BAD_FRAME = 4500
    FRAME_TOO_LARGE = 4501
    UNAUTHENTICATED = 4502
    HELLO_EXPECTED = 4503
    SESSION_REVOKED = 4504
    ORIGIN_REFUSED = 4505
    REPLACED = 4506  # the same device connected again


CLOSE_MEANINGS: Final[dict[CloseCode, str]] = {
    CloseCode.NORMAL: "The peer closed on purpose.",
    CloseCode.GOING_AWAY: "The peer is going away.",
    CloseCode.DRAINING: "The node is shutting down.",
    CloseCode.SLOW_CONSUMER: "The client did not read for 10 s.",
    CloseCode.HEARTBEAT_TIMEOUT: "Nothing was heard from the client for 60 s.",
    CloseCode.OVERLOADED: "The node sheds load.",
    CloseCode.MOVED: "Another node is a better place for this client.",
    CloseCode.INTERNAL: "The server failed.",
    CloseCode.RATE_LIMITED: "The client kept sending above its limits.",
    CloseCode.HELLO_TIMEOUT: "No hello came within 10 s.",
    CloseCode.BAD_FRAME: "The framing or the encoding was broken.",
    CloseCode.FRAME_TOO_LARGE: "A frame was longer than the limit.",
    CloseCode.UNAUTHENTICATED: "The token is unknown, expired or revoked.",
    CloseCode.HELLO_EXPECTED: "The first command was not hello.",
    CloseCode.SESSION_REVOKED: "The session was logged out or revoked.",
    CloseCode.ORIGIN_REFUSED: "The page's origin is not allowed.",
    CloseCode.REPLACED: "The same device opened a newer connection.",
}


def may_reconnect(code: int) -> bool:
    """Tell whether a client that was closed with `code` should connect again (with jitter)."""
    return code < 4500
