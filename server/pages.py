"""What fits on a page of a list, where it goes on, and what a line of it shows: plain functions."""

from typing import Final

import msgspec

from protocol.errors import Refused
from protocol.limits import PAGE_BYTES
from protocol.records import Entry, MessageState, UnreadLine
from protocol.stored_events import read_message
from protocol.types import ConversationSummary, Message

_BRIEF_CHARS: Final = 200  # of a message in a conversation list


def fitting(messages: list[Message]) -> list[Message]:
    """As many messages, one at least, as fit into a page with the texts and reactions that they have now."""
    size_bytes = 0
    for number, message in enumerate(messages):
        reacted_count = sum(len(reaction.user_ids) for reaction in message.reactions)
        size_bytes += len(message.text) + 30 * reacted_count + 200
        if number and size_bytes > PAGE_BYTES:
            return messages[:number]
    return messages


def place_of(line: UnreadLine) -> str:
    """Name the place of a conversation in the list, for a client that asks for what comes after it."""
    return f"{line.updated_at_ms}.{line.conversation_id}"


def parse_place(place: str) -> tuple[int, str] | None:
    """Read what `place_of` named: (updated_at_ms, conversation_id). Raises: Refused("bad_cursor")."""
    if not place:
        return None
    at_ms, dot, conversation_id = place.partition(".")
    if not dot or not at_ms.isascii() or not at_ms.isdigit() or len(at_ms) > 16:
        raise Refused("bad_cursor")
    return int(at_ms), conversation_id


def summary(
    user_id: str, line: UnreadLine, last: tuple[Entry, MessageState | None] | None
) -> ConversationSummary:
    """Show a conversation as this user sees it, with the beginning of its last message."""
    message: Message | None = None
    if last is not None:
        message = read_message(line.conversation_id, *last)
        if len(message.text) > _BRIEF_CHARS:
            message = msgspec.structs.replace(message, text=message.text[:_BRIEF_CHARS])
    return ConversationSummary(
        conversation_id=line.conversation_id,
        kind="direct" if line.kind == "direct" else "group",
        title=line.title,
        head=line.head,
        message_count=line.message_count,
        unread=line.unread,
        mentions_unread=line.mentions_unread,
        read_seq=line.read_seq,
        role="owner" if line.role == "owner" else "admin" if line.role == "admin" else "member",
        member_count=line.member_count,
        peer_id=line.user_b if line.user_a == user_id else line.user_a,
        muted_until_ms=line.muted_until_ms,
        updated_at_ms=line.updated_at_ms,
        last_message=message,
    )
