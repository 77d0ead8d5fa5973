"""What members who are away are told of a conversation's messages: pure rules over messages and members."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from actors.notify.address import partition_of
from actors.notify.messages import Notify
from protocol.notify_content import Content, Value
from protocol.types import Message

SOURCE: Final = "chat"
MAX_PREVIEW_CHARS: Final = 200
MAX_ACTOR_CHARS: Final = 100
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
    if not messages:
        return []
    shown = [message for message in messages if not message.deleted]
    key = f"chat:{conversation_id}:{messages[-1].seq}"
    users: dict[tuple[int, str, int, int], list[str]] = {}
    by_seq = {message.seq: message for message in shown}
    for member in absent:
        unread = [m.seq for m in shown if m.seq > member.read_seq and m.user_id != member.user_id]
        mentioned = [seq for seq in unread if member.user_id in by_seq[seq].mentions]
        if not unread or (member.is_muted and not mentioned):
            continue
        kind = "mention" if mentioned else "chat"
        group = partition_of(member.user_id), kind, (mentioned or unread)[-1], member.unread
        users.setdefault(group, []).append(member.user_id)
    return [
        (
            partition,
            Notify(
                app_id=app_id,
                user_ids=tuple(user_ids),
                content=_content(kind, conversation_id, title, by_seq[seq], names, unread_count),
                key=key,
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
