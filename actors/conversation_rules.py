"""Who may do what in a conversation: pure rules over its state, with `now_ms` handed in.

Each `may_…` returns nothing when it is allowed and raises Refused with a stable code when it is not.
"""

import unicodedata
from bisect import bisect_right
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from protocol.errors import ProtocolError, Refused
from protocol.limits import (
    EDIT_WINDOW_MS,
    MAX_GROUP_MEMBERS,
    MAX_REACTION_KINDS,
    MAX_TEXT_BYTES,
)
from protocol.records import InviteRow, MemberRow, MessageState
from protocol.types import ConversationKind, Reaction, Role

_NOT_IN_TITLES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # bidi controls
RANK: Final[dict[str, int]] = {"member": 0, "admin": 1, "owner": 2}


@dataclass(slots=True)
class MemberState:
    """One member; the watermarks are those that are committed."""

    user_id: str
    role: Role
    joined_at_ms: int
    silenced_until_ms: int = 0
    muted_until_ms: int = 0
    delivered_seq: int = 0
    read_seq: int = 0
    read_count: int = 0


@dataclass(slots=True)
class Target:
    """A message that a command is about: what its log row and its state say."""

    seq: int
    user_id: str
    at_ms: int
    thread: int
    mentions: list[str]
    state: MessageState


@dataclass(slots=True)
class ConversationState:
    """Everything that the rules look at. `head` and `message_count` are those that are committed."""

    conversation_id: str
    app_id: str
    kind: ConversationKind
    title: str
    created_at_ms: int
    created_by: str
    user_a: str = ""
    user_b: str = ""
    members: dict[str, MemberState] = field(default_factory=dict)
    banned: set[str] = field(default_factory=set)
    invites: dict[str, InviteRow] = field(default_factory=dict)
    deleted_seqs: list[int] = field(default_factory=list)
    blocks: set[tuple[str, str]] = field(default_factory=set)
    head: int = 0
    message_count: int = 0
    last_at_ms: int = 0

    def unread_of(self, member: MemberState) -> int:
        """Count the messages after the watermark that are not deleted. Sending reads, so none is own."""
        deleted = len(self.deleted_seqs) - bisect_right(self.deleted_seqs, member.read_seq)
        return max(0, self.message_count - member.read_count - deleted)

    def note_deleted(self, seq: int) -> None:
        """Count a message as deleted, once."""
        at = bisect_right(self.deleted_seqs, seq)
        if at == 0 or self.deleted_seqs[at - 1] != seq:
            self.deleted_seqs.insert(at, seq)


def direct_id(app_id: str, user_a: str, user_b: str) -> str:
    """Name the one direct conversation of two users: both sides and every node get the same."""
    low, high = sorted((user_a, user_b))
    return "d" + blake2b(f"{app_id}\0{low}\0{high}".encode(), digest_size=16).hexdigest()


def group_id(app_id: str, user_id: str, client_id: str) -> str:
    """Name the group that a user creates under an idempotency key: a retry names the same group."""
    return "g" + blake2b(f"{app_id}\0{user_id}\0{client_id}".encode(), digest_size=16).hexdigest()


def invite_id(code: str) -> str:
    """Name an invite without giving its code away."""
    return blake2b(code.encode(), digest_size=8).hexdigest()


def member_of(state: ConversationState, user_id: str, app_id: str) -> MemberState:
    """The user's membership. To all others, and to other apps, the conversation does not exist."""
    member = state.members.get(user_id)
    if member is None or app_id != state.app_id:
        raise Refused("conversation_not_found")
    return member


def may_post(state: ConversationState, member: MemberState, now_ms: int) -> None:
    """Post, edit or react: not while silenced, nor across a block."""
    if member.silenced_until_ms > now_ms:
        raise Refused("silenced")
    if state.blocks and state.kind == "direct":
        raise Refused("blocked")


def check_text(text: str, *, has_files: bool) -> None:
    """A text needs content or company, and at most 100 KB of UTF-8."""
    if not has_files and (not text or text.isspace()):
        raise Refused("text_empty")
    # Four bytes a character at the most: short texts need not be encoded to be measured.
    if len(text) * 4 > MAX_TEXT_BYTES and len(text.encode()) > MAX_TEXT_BYTES:
        raise Refused("text_too_long")


def check_title(title: str) -> None:
    """One line that shows something, without what turns a terminal or a line of text around."""
    if not title.strip():
        raise ProtocolError("bad_field", "A title needs letters.")
    if any(unicodedata.category(c) in _NOT_IN_TITLES or c in _TURNS for c in title):
        raise ProtocolError("bad_field", "A title is one line, without control characters.")


def check_mentions(state: ConversationState, mentions: list[str]) -> None:
    """Only members can be mentioned."""
    for user_id in mentions:
        if user_id not in state.members:
            raise Refused("not_member", f"{user_id} is not a member of the conversation.")


def may_edit(member: MemberState, target: Target, now_ms: int) -> None:
    """Only the author, within 24 h, and only what is still there."""
    if target.state.deleted_at_ms:
        raise Refused("message_deleted")
    if target.user_id != member.user_id:
        raise Refused("not_author")
    if now_ms - target.at_ms > EDIT_WINDOW_MS:
        raise Refused("edit_too_late")


def may_delete(state: ConversationState, member: MemberState, target: Target, now_ms: int) -> None:
    """The author within 24 h; in a group admins and the owner at any time."""
    if state.kind == "group" and RANK[member.role] >= RANK["admin"]:
        return
    if target.user_id != member.user_id:
        raise Refused("not_author")
    if now_ms - target.at_ms > EDIT_WINDOW_MS:
        raise Refused("edit_too_late")


def react(reactions: list[Reaction], user_id: str, emoji: str, *, removed: bool) -> list[Reaction] | None:
    """The reactions after one was set or taken back; None where nothing changes."""
    at = next((i for i, reaction in enumerate(reactions) if reaction.emoji == emoji), None)
    if at is None:
        if removed:
            return None
        if len(reactions) >= MAX_REACTION_KINDS:
            raise Refused("too_many_reactions")
        return [*reactions, Reaction(emoji=emoji, user_ids=[user_id])]
    users = reactions[at].user_ids
    if (user_id in users) is not removed:
        return None
    users = [u for u in users if u != user_id] if removed else [*users, user_id]
    changed = [Reaction(emoji=emoji, user_ids=users)] if users else []
    return [*reactions[:at], *changed, *reactions[at + 1 :]]


def needs_group(state: ConversationState) -> None:
    if state.kind != "group":
        raise Refused("not_a_group")


def needs_admin(state: ConversationState, member: MemberState) -> None:
    needs_group(state)
    if RANK[member.role] < RANK["admin"]:
        raise Refused("role_too_low")


def outranks(actor: MemberState, other: MemberState) -> None:
    """Remove, ban and silence work downwards only."""
    if RANK[other.role] >= RANK[actor.role]:
        raise Refused("role_too_low")


def whom_to_add(state: ConversationState, user_ids: list[str]) -> list[str]:
    """Those who are not members yet, once each. A banned user or a full group refuses the whole."""
    new = [u for u in dict.fromkeys(user_ids) if u not in state.members]
    for user_id in new:
        if user_id in state.banned:
            raise Refused("banned", f"{user_id} is banned from this group.")
    if len(state.members) + len(new) > MAX_GROUP_MEMBERS:
        raise Refused("group_full")
    return new


def may_leave(state: ConversationState, member: MemberState) -> None:
    needs_group(state)
    if member.role == "owner" and len(state.members) > 1:
        raise Refused("owner_must_stay")


def usable_invite(invite: InviteRow | None, now_ms: int) -> InviteRow:
    """The invite, if it still works."""
    if invite is None or invite.revoked_at_ms:
        raise Refused("invite_not_found")
    if invite.expires_at_ms and invite.expires_at_ms <= now_ms:
        raise Refused("invite_not_found", "The invite has expired.")
    if invite.max_uses and invite.uses >= invite.max_uses:
        raise Refused("invite_not_found", "The invite is used up.")
    return invite


def member_row(conversation_id: str, member: MemberState) -> MemberRow:
    """A new member's row; its watermarks start where the membership starts."""
    return MemberRow(
        conversation_id=conversation_id,
        user_id=member.user_id,
        role=member.role,
        joined_at_ms=member.joined_at_ms,
    )
