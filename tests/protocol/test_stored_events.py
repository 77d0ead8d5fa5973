"""What is read back from the log is what was told live."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.events import MessagePosted
from protocol.records import Appended, Entry, MessageState
from protocol.reference import CONVERSATION_EVENTS, INBOX_EVENTS, tag_of
from protocol.stored_events import (
    REDACTED_BODY,
    body_of,
    encode_json,
    place,
    read_event,
    read_inbox_event,
    read_message,
)
from protocol.types import Message, Reaction
from tests import strategies
from tests.strategies import examples

NO_PLACE = {"conversation_id": "", "seq": 0, "at_ms": 0, "user_id": ""}


def entry_of(event: MessagePosted, body: str) -> Entry:
    return Entry(
        seq=event.seq,
        kind="message",
        at_ms=event.at_ms,
        user_id=event.user_id,
        client_id=event.client_id or None,
        message_count=event.message_count,
        thread=event.thread or None,
        body=body,
    )


@pytest.mark.parametrize("kind", CONVERSATION_EVENTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@examples(30, long=2_000)
def test_a_replayed_event_is_the_live_event(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    """A device that was away ends up with the same state as one that was there."""
    live = data.draw(strategies.structs(kind))
    count = live.message_count if isinstance(live, MessagePosted) else 0
    draft = msgspec.structs.replace(live, **NO_PLACE)
    key = live.client_id if isinstance(live, MessagePosted) else ""
    at = Appended(live.seq, count, live.at_ms)
    placed = place(draft, live.conversation_id, live.user_id, at, client_id=key)
    assert placed == live

    body = body_of(draft)
    for column in NO_PLACE:
        assert column not in msgspec.json.decode(body), (
            "a column holds it; a body that repeats it could disagree"
        )
    entry = Entry(
        seq=live.seq,
        kind=tag_of(kind),
        at_ms=live.at_ms,
        user_id=live.user_id,
        client_id=live.client_id if isinstance(live, MessagePosted) else None,
        message_count=count,
        thread=None,
        body=body,
    )
    assert read_event(live.conversation_id, entry) == live


@pytest.mark.parametrize("kind", INBOX_EVENTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@examples(30, long=2_000)
def test_a_replayed_inbox_event_is_the_live_event(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    """One inbox cursor syncs contacts, settings and the conversation list of all devices."""
    live = data.draw(strategies.structs(kind))
    entry = Entry(
        seq=live.seq,
        kind=tag_of(kind),
        at_ms=live.at_ms,
        user_id="u1",
        client_id=None,
        message_count=0,
        thread=None,
        body=body_of(msgspec.structs.replace(live, seq=0, at_ms=0)),
    )
    assert read_inbox_event(entry) == live


@given(posted=strategies.structs(MessagePosted))
@examples(50, long=2_000)
def test_a_redacted_message_keeps_its_place_and_nothing_else(posted: MessagePosted) -> None:
    """The order stays gapless, and deleted content is gone from every later catch-up."""
    event = read_event(posted.conversation_id, entry_of(posted, REDACTED_BODY))
    assert event == MessagePosted(
        conversation_id=posted.conversation_id,
        seq=posted.seq,
        at_ms=posted.at_ms,
        user_id=posted.user_id,
        client_id=posted.client_id,
        message_count=posted.message_count,
    )


@given(posted=strategies.structs(MessagePosted), reactions=st.lists(strategies.structs(Reaction), max_size=3))
@examples(50, long=2_000)
def test_a_message_is_its_log_row_with_its_later_changes(
    posted: MessagePosted, reactions: list[Reaction]
) -> None:
    """History shows an edited text once, as edited, and a deleted one not at all."""
    row = entry_of(posted, body_of(msgspec.structs.replace(posted, **NO_PLACE)))
    c1, seq = posted.conversation_id, posted.seq

    untouched = read_message(c1, row, None)
    assert (untouched.text, untouched.edited_at_ms, untouched.reactions) == (posted.text, 0, [])
    assert (untouched.mentions, untouched.files) == (posted.mentions, posted.files)

    changed = read_message(
        c1,
        row,
        MessageState(
            conversation_id=c1,
            seq=seq,
            text="edited",
            mentions=encode_json(["u9"]),
            edited_at_ms=5,
            reactions=encode_json(reactions),
            thread_count=2,
        ),
    )
    assert (changed.text, changed.mentions, changed.edited_at_ms) == ("edited", ["u9"], 5)
    assert (changed.reactions, changed.thread_count, changed.files) == (reactions, 2, posted.files)

    deleted = read_message(c1, row, MessageState(conversation_id=c1, seq=seq, text="edited", deleted_at_ms=7))
    assert deleted == Message(
        conversation_id=c1,
        seq=seq,
        at_ms=posted.at_ms,
        user_id=posted.user_id,
        thread=posted.thread,
        deleted=True,
    )
