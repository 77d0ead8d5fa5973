"""Receipts of a conversation: read and delivered watermarks, told once per tick."""

import msgspec

from actors.address import Address
from actors.conversation_base import ConversationBase
from actors.conversation_rules import MemberState
from actors.messages import (
    Delivered,
)
from actors.ports import Fanout, Leases, Log, Recent, Relay, WallClock
from actors.reply import Reply
from actors.stream_actor import Staged
from protocol import commands, events, replies
from protocol.codec import Encoded
from protocol.errors import Refused
from protocol.limits import RECEIPT_TICK_S
from protocol.records import (
    Advance,
    Appended,
)
from protocol.types import ReceiptItem


class ReceiptTick(msgspec.Struct, frozen=True):
    """Tell the receipts that moved; the actor posts it to itself."""


class Receipts(ConversationBase):
    """Move watermarks, which never go back."""

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
            address, log=log, leases=leases, fanout=fanout, relay=relay, now_ms=now_ms, recent=recent
        )
        self._receipts: set[str] = set()
        self._senders: set[str] = set()  # whose read watermark moved by sending since the last tick
        self._tick_pending = False

    async def _mark_read(self, member: MemberState, command: commands.MarkRead, reply: Reply) -> None:
        state = self._known
        if command.seq > state.head:
            raise Refused("bad_cursor", f"The conversation's head is {state.head}.")

        def answer(_at: Appended | None) -> replies.ReadMarked:
            return replies.ReadMarked(
                conversation_id=self._id, read_seq=member.read_seq, unread=state.unread_of(member)
            )

        if command.seq <= member.read_seq:
            reply.resolve(answer(None))
            return
        if command.seq == state.head:
            count = state.message_count
        else:
            known = self._counts.get(command.seq)
            count = (
                known if known is not None else await self._log.message_count_at(self._stream, command.seq)
            )
        advance = Advance(
            conversation_id=self._id,
            user_id=member.user_id,
            delivered_seq=command.seq,
            read_seq=command.seq,
            read_count=count,
        )

        def after(_at: Appended | None) -> None:
            if command.seq > member.read_seq:
                member.read_seq = command.seq
                member.read_count = max(member.read_count, count)
                member.delivered_seq = max(member.delivered_seq, command.seq)
                self._receipt_moved(member.user_id)
                self._tell_read(member)

        self._stage_ops([advance], Staged(reply, answer, after=after))

    def watermark_raised(self, user_id: str, at: Appended) -> None:
        """Sending a message reads up to it."""
        state = self._known
        member = state.members.get(user_id)
        if member is not None and at.seq > member.read_seq:
            member.read_seq = at.seq
            member.read_count = max(member.read_count, at.message_count)
            member.delivered_seq = max(member.delivered_seq, at.seq)
            self._senders.add(user_id)
            self._receipt_moved(user_id)

    def _delivered(self, message: Delivered) -> None:
        state = self._state
        if state is None:
            return
        for user_id, seq in message.seqs.items():
            member = state.members.get(user_id)
            if member is None or seq <= member.delivered_seq:
                continue
            seq = min(seq, state.head)
            if seq > member.delivered_seq:
                member.delivered_seq = seq
                self._batch.ops.append(Advance(conversation_id=self._id, user_id=user_id, delivered_seq=seq))
                self._receipt_moved(user_id)

    def _receipt_moved(self, user_id: str) -> None:
        self._receipts.add(user_id)
        if not self._tick_pending:
            self._tick_pending = True
            self._ctx.post_after(RECEIPT_TICK_S, ReceiptTick())

    def _tick(self) -> None:
        """Tell all receipts that moved since the last tick in one event."""
        self._tick_pending = False
        state = self._known
        moved, self._receipts = self._receipts, set()
        items = [
            ReceiptItem(user_id=m.user_id, delivered_seq=m.delivered_seq, read_seq=m.read_seq)
            for m in (state.members.get(user_id) for user_id in sorted(moved))
            if m is not None
        ]
        if items:
            event = events.Receipts(conversation_id=self._id, items=items)
            self._fanout.publish_live(
                self._id, ("receipts", self._id), Encoded(event), to=state.members.keys(), is_state=True
            )
        senders, self._senders = self._senders, set()
        for user_id in senders:
            member = state.members.get(user_id)
            if member is not None:
                self._tell_read(member)

    def _tell_read(self, member: MemberState) -> None:
        """Clear the badge on all devices of a user who has read, or sent, further on one."""
        event = events.Read(
            conversation_id=self._id, read_seq=member.read_seq, unread=self._known.unread_of(member)
        )
        self._fanout.publish_user_live(member.user_id, ("read", self._id), Encoded(event), stream=self._id)
