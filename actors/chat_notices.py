"""What members who are away are told of a conversation's messages: pure rules over messages and members."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from actors.messages import message_thing
from actors.notify.address import partition_of
from actors.notify.messages import Notify
from protocol.notify_content import Content, Value
from protocol.types import Message

SOURCE: Final = "chat"
MAX_PREVIEW_CHARS: Final = 200
MAX_ACTOR_CHARS: Final = 100
MAX_MESSAGES: Final = 2_000  # the newest of a long burst; a mention further back is told as a message
DEBOUNCE_S: Final = 1.0  # a burst is one notification; who is just reconnecting has read it by then
# A conversation in which many are away is not told of with each message: so many notifications a second.
_PER_SECOND: Final = 50
_MAX_PAUSE_S: Final = 30.0


class Absent(msgspec.Struct, frozen=True):
    """A member who is not connected. `unread`: messages beyond the own read watermark."""

    user_id: str
    read_seq: int
    unread: int
    is_muted: bool = False


def pause_s(told_count: int) -> float:
    """How long a conversation waits after it has told so many, before it tells again."""
    return min(_MAX_PAUSE_S, max(DEBOUNCE_S, told_count / _PER_SECOND))


def preview(text: str, max_chars: int = MAX_PREVIEW_CHARS) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text[: 4 * max_chars].split())
    return line if len(line) <= max_chars else f"{line[: max_chars - 1].rstrip()}…"


def messages_due(
    conversation_id: str,
    app_id: str,
    title: str,
    messages: Sequence[Message],
    names: Mapping[str, str],
    absent: Sequence[Absent],
) -> list[tuple[int, Notify]]:
    """What to ask of which partition, so that each of the absent is told once of what they have not read.

    `messages`: those that are due, rising, as they now are; `names`: of their senders. Who is mentioned is
    told of that, even where the conversation is muted. The key names the newest message, so asking again for
    the same messages changes nothing.
    """
    shown = {message.seq: message for message in messages if not message.deleted}
    if not shown:
        return []
    key = f"chat:{conversation_id}:{messages[-1].seq}"
    newest_seq = max(shown)
    mentioned = {user_id: message.seq for message in shown.values() for user_id in message.mentions}
    users: dict[tuple[int, str, int, int], list[str]] = {}
    for member in absent:
        if newest_seq <= member.read_seq:  # so is what they have sent themselves
            continue
        kind, seq = "mention", mentioned.get(member.user_id, 0)
        if seq <= member.read_seq:
            kind, seq = "chat", newest_seq
            if member.is_muted:
                continue
        group = partition_of(member.user_id), kind, seq, member.unread
        users.setdefault(group, []).append(member.user_id)
    return [
        (
            partition,
            Notify(
                app_id=app_id,
                user_ids=tuple(user_ids),
                content=_content(kind, conversation_id, title, shown[seq], names, unread_count),
                key=key,
                request_id=message_thing(conversation_id, seq),
                source=SOURCE,
            ),
        )
        for (partition, kind, seq, unread_count), user_ids in users.items()
    ]


def _content(
    kind: str, conversation_id: str, title: str, message: Message, names: Mapping[str, str], unread: int
) -> Content:
    data: dict[str, Value] = {
        "conversation_id": conversation_id,
        "seq": message.seq,  # also so that the same words twice are no duplicate
        "unread": max(1, unread),
        "text": preview(message.text),
    }
    if title:
        data["conversation"] = title
    if message.files:
        data["files"] = len(message.files)
    return Content(
        type=kind,
        template=kind,
        url=f"/#c/{conversation_id}",
        data=data,
        subject=conversation_id,
        collapse_key=conversation_id,
        actor=names.get(message.user_id, "")[:MAX_ACTOR_CHARS],
    )
