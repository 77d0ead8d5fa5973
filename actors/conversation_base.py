"""What the parts of the conversation actor share: its state, and how events are staged and published."""

from collections.abc import Callable, Collection, Sequence
from typing import Final

from actors.address import Address
from actors.conversation_rules import ConversationState
from actors.messages import (
    UserTell,
)
from actors.ports import Fanout, Leases, Log, Outcome, Recent, Relay, WallClock
from actors.reply import Reply
from actors.stream_actor import Batch, Staged, StreamActor
from protocol import events, replies
from protocol.codec import Encoded
from protocol.events import ConversationEvent
from protocol.records import (
    Appended,
    LogRow,
    Op,
    conversation_stream,
)
from protocol.stored_events import body_of


def publish_event(
    fanout: Fanout, conversation_id: str, event: ConversationEvent, message_count: int, *, to: Collection[str]
) -> None:
    """Send a stored event to its listeners, and let those in or out whom it concerns.

    `to` are the members after it.
    """
    encoded = Encoded(event)
    if type(event) is events.MessagePosted:
        fanout.publish(conversation_id, event.seq, encoded, to=to, message_count=message_count)
        return
    if isinstance(event, events.ConversationCreated | events.MembersAdded):
        fanout.subscribe(conversation_id, event.member_ids)
    # Edits and reactions matter where the message is seen; all else changes badges or rights.
    is_local = isinstance(event, events.MessageEdited | events.Reacted)
    if isinstance(event, events.MemberRemoved):
        to = {*to, event.member_id}
    fanout.publish(
        conversation_id, event.seq, encoded, to=to, everywhere=not is_local, message_count=message_count
    )
    if isinstance(event, events.MemberRemoved):
        fanout.unsubscribe(conversation_id, [event.member_id], to=to)


CACHED_COUNTS: Final = 1024  # seq -> message_count, for read watermarks near the head


class ConversationBase(StreamActor):
    """Own one conversation's state. The parts that decide are in the classes derived from it."""

    def __init__(
        self,
        address: Address,
        *,
        log: Log,
        leases: Leases,
        fanout: Fanout,
        relay: Relay,
        now_ms: WallClock,
        recent: Recent,
    ) -> None:
        super().__init__(
            address,
            conversation_stream(address.id),
            log=log,
            leases=leases,
            relay=relay,
            now_ms=now_ms,
        )
        self._id = address.id
        self._fanout = fanout
        self._recent = recent
        self._has_ended = False  # otherwise than by leaving with nothing in flight
        self._state: ConversationState | None = None
        self._counts: dict[int, int] = {}  # the oldest first

    @property
    def _known(self) -> ConversationState:
        """The state of a conversation that exists, which is checked before anything is decided."""
        assert self._state is not None
        return self._state

    def ended(self) -> None:
        """From here on nobody tells what is stored: not now, and not when an append in flight concludes."""
        self._has_ended = True
        self._recent.forget(self._id)

    def _decided(self, batch: Batch, outcome: Outcome) -> None:
        if self._has_ended:  # somebody may have read the store before this was in it
            self._recent.forget(self._id)
        super()._decided(batch, outcome)

    def placed(self, staged: Staged, at: Appended) -> None:
        state = self._known
        state.head = at.seq
        state.message_count = at.message_count
        self._remember_count(at)
        event = staged.placed_event(self._id, at)
        self._recent.note(event)  # before anybody hears of it, and asks
        self._publish(event, at.message_count)

    def _publish(self, event: ConversationEvent, message_count: int) -> None:
        publish_event(self._fanout, self._id, event, message_count, to=self._known.members.keys())

    def _message_staged(self, user_id: str, mentions: Sequence[str]) -> None:
        """A message was decided on."""

    def _message_deleted(self, seq: int) -> None:
        """A message is about to be deleted."""

    def _message_stored(self, at: Appended) -> None:
        """A message has come to be stored, now or when it was sent first."""

    # -- staging ------------------------------------------------------------------------------------

    def _stage(
        self,
        user_id: str,
        event: ConversationEvent,
        reply: Reply,
        *,
        ops: Sequence[Op] = (),
        tells: Sequence[tuple[str, UserTell]] = (),
        answer: Callable[[Appended | None], object] | None = None,
        after: Callable[[Appended | None], None] | None = None,
    ) -> int:
        """Stage an event that is no message, and what is stored with it. Returns its row index."""
        self._stage_ops(ops)
        for target_id, tell in tells:
            self._stage_tell(target_id, tell)
        row = LogRow(
            stream=self._stream,
            kind=str(event.__struct_config__.tag),
            at_ms=self._at_ms(),
            user_id=user_id,
            body=body_of(event),
        )
        return self._stage_row(
            row, Staged(reply, answer or self._changed, user_id=user_id, event=event, after=after)
        )

    def _changed(self, at: Appended | None) -> replies.Changed:
        return replies.Changed(conversation_id=self._id, seq=0 if at is None else at.seq)

    def _unchanged(self, reply: Reply) -> None:
        self._answer_in_order(reply, replies.Changed(conversation_id=self._id))

    def _remember_count(self, at: Appended) -> None:
        self._counts[at.seq] = at.message_count
        if len(self._counts) > CACHED_COUNTS:
            del self._counts[next(iter(self._counts))]
