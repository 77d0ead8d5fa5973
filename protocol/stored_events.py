"""Between an event on the wire and its row in the log: the body holds what the row's columns do not."""

from typing import Final

import msgspec

from protocol.events import ConversationEvent, InboxEvent, MessagePosted
from protocol.records import Appended, Entry, MessageState
from protocol.types import Message, Reaction

REDACTED_BODY: Final = "{}"  # what is left of a deleted message's content

_encoder = msgspec.json.Encoder()
_conversation_body: msgspec.json.Decoder[ConversationEvent] = msgspec.json.Decoder(ConversationEvent)
_inbox_body: msgspec.json.Decoder[InboxEvent] = msgspec.json.Decoder(InboxEvent)
_reactions: msgspec.json.Decoder[list[Reaction]] = msgspec.json.Decoder(list[Reaction])
_user_ids: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])


def body_of(event: ConversationEvent | InboxEvent) -> str:
    """Encode an event that has no place yet as the body of a log row."""
    return _encoder.encode(event).decode()


def encode_json(value: object) -> str:
    """Encode a list for a JSON column."""
    return _encoder.encode(value).decode()


def body_chars(event: ConversationEvent) -> int:
    """How long the body of an event is that has its place already."""
    bare = msgspec.structs.replace(event, conversation_id="", seq=0, at_ms=0, user_id="")
    if isinstance(bare, MessagePosted):
        bare = msgspec.structs.replace(bare, client_id="", message_count=0)
    return len(body_of(bare))


def place(
    event: ConversationEvent, conversation_id: str, user_id: str, at: Appended, *, client_id: str = ""
) -> ConversationEvent:
    """Give an event the place that the store assigned to it, and a message its key."""
    if isinstance(event, MessagePosted):
        return MessagePosted(
            conversation_id=conversation_id,
            seq=at.seq,
            at_ms=at.at_ms,
            user_id=user_id,
            text=event.text,
            client_id=client_id,
            message_count=at.message_count,
            reply_to=event.reply_to,
            thread=event.thread,
            mentions=event.mentions,
            files=event.files,
        )
    return msgspec.structs.replace(
        event, conversation_id=conversation_id, seq=at.seq, at_ms=at.at_ms, user_id=user_id
    )


def read_event(conversation_id: str, entry: Entry) -> ConversationEvent:
    """Rebuild a conversation event from its log row. A redacted message comes back without content."""
    event = MessagePosted() if entry.body == REDACTED_BODY else _conversation_body.decode(entry.body)
    place_fields: dict[str, object] = {
        "conversation_id": conversation_id,
        "seq": entry.seq,
        "at_ms": entry.at_ms,
        "user_id": entry.user_id,
    }
    if isinstance(event, MessagePosted):
        place_fields |= {"client_id": entry.client_id or "", "message_count": entry.message_count}
    return msgspec.structs.replace(event, **place_fields)


def read_inbox_event(entry: Entry) -> InboxEvent:
    """Rebuild an inbox event from its log row."""
    return msgspec.structs.replace(_inbox_body.decode(entry.body), seq=entry.seq, at_ms=entry.at_ms)


def read_reactions(state: MessageState | None) -> list[Reaction]:
    """Read the reactions of a message, in the order of their first use."""
    return _reactions.decode(state.reactions) if state is not None and state.reactions else []


def read_mentions(state: MessageState | None, posted: MessagePosted) -> list[str]:
    """Read whom a message mentions now: as last edited, else as posted."""
    if state is not None and state.mentions is not None:
        return _user_ids.decode(state.mentions)
    return posted.mentions


def read_message(conversation_id: str, entry: Entry, state: MessageState | None) -> Message:
    """Build a message as it now is from its log row and its state."""
    posted = read_event(conversation_id, entry)
    assert isinstance(posted, MessagePosted)
    if state is not None and state.deleted_at_ms:
        return Message(
            conversation_id=conversation_id,
            seq=entry.seq,
            at_ms=entry.at_ms,
            user_id=entry.user_id,
            thread=posted.thread or (entry.thread or 0),
            deleted=True,
            thread_count=state.thread_count,
        )
    return message_of(posted, state)


def message_of(posted: MessagePosted, state: MessageState | None = None) -> Message:
    """Build a message that was not deleted as it now is from its event and its state; None: as posted."""
    return Message(
        conversation_id=posted.conversation_id,
        seq=posted.seq,
        at_ms=posted.at_ms,
        user_id=posted.user_id,
        text=posted.text if state is None or state.text is None else state.text,
        client_id=posted.client_id,
        reply_to=posted.reply_to,
        thread=posted.thread,
        mentions=read_mentions(state, posted),
        files=posted.files,
        edited_at_ms=0 if state is None else state.edited_at_ms,
        reactions=read_reactions(state),
        thread_count=0 if state is None else state.thread_count,
    )
