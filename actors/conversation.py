"""The actor of one conversation: its order, membership, receipts and fan-out.

It decides by `conversation_rules`, stages what was decided, and submits one append per batch. Nothing is
answered or fanned out before the append is committed; commits come back in order, as messages to itself.
Membership changes at once in memory, so that a batch is judged in order; when an append fails the incarnation
ends and the next one loads what is really stored.

Its rows in the directory (members, invites, bans, message states) are written in the same transaction as its
events, so loading those rows is loading a snapshot that is never behind the log.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from secrets import token_urlsafe
from typing import Final, cast

import msgspec

from actors import conversation_rules as rules
from actors.address import Address
from actors.conversation_rules import ConversationState, MemberState, Target
from actors.entity import EntityContext
from actors.messages import (
    AddedTo,
    Ask,
    BlockMoved,
    Create,
    Delivered,
    MutedIn,
    OpenBetween,
    RemovedFrom,
    UserTell,
)
from actors.ports import Fanout, Leases, Log, Relay, WallClock
from actors.reply import Reply
from actors.stream_actor import Staged, StreamActor
from protocol import commands, events, replies
from protocol.codec import Encoded
from protocol.errors import Refused
from protocol.events import ConversationEvent
from protocol.limits import MAX_GROUP_MEMBERS, RECEIPT_TICK_S
from protocol.records import (
    Advance,
    Appended,
    Ban,
    BlockRow,
    ConversationRow,
    FileRow,
    Insert,
    InviteRow,
    LogRow,
    MemberRow,
    Mention,
    MessageState,
    Op,
    Put,
    Redact,
    Remove,
    Update,
    User,
    conversation_stream,
)
from protocol.stored_events import body_of, encode_json, place, read_event, read_mentions, read_reactions
from protocol.types import Attachment, ConversationKind, Invite, Member, ReceiptItem, Role

KIND: Final = "conversation"
_CACHED_TARGETS: Final = 1024  # messages that edits, reactions and threads are about; mostly the newest
_CACHED_COUNTS: Final = 1024  # seq -> message_count, for read watermarks near the head
_MAX_WORKING_INVITES: Final = 100
_MAX_SPENT_INVITES: Final = 100  # kept so that a repeated join or revoke finds what it is about


class _ReceiptTick(msgspec.Struct, frozen=True):
    pass


class Conversation(StreamActor):
    """Own one conversation. Take `Ask`, `Create`, `OpenBetween`, `Delivered` and `BlockMoved`."""

    def __init__(
        self,
        address: Address,
        *,
        log: Log,
        leases: Leases,
        fanout: Fanout,
        relay: Relay,
        now_ms: WallClock,
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
        self._state: ConversationState | None = None
        self._targets: OrderedDict[int, Target] = OrderedDict()
        self._counts: OrderedDict[int, int] = OrderedDict()
        self._receipts: set[str] = set()
        self._senders: set[str] = set()  # whose read watermark moved by sending since the last tick
        self._tick_pending = False

    # -- life ---------------------------------------------------------------------------------------

    async def activate(self, ctx: EntityContext) -> None:
        """Load the conversation from its rows; one that does not exist yet waits to be created."""
        self._ctx = ctx
        row = await self._log.get(ConversationRow, self._id)
        if row is None:
            return
        head = await self._log.head(self._stream)
        state = ConversationState(
            conversation_id=self._id,
            app_id=row.app_id,
            kind=cast(ConversationKind, row.kind),
            title=row.title,
            created_at_ms=row.created_at_ms,
            created_by=row.created_by,
            user_a=row.user_a,
            user_b=row.user_b,
            head=head.seq,
            message_count=head.message_count,
            last_at_ms=head.at_ms,
        )
        where: dict[str, str | int | None] = {"conversation_id": self._id}
        for member in await self._log.find(MemberRow, where, limit=10_000):
            state.members[member.user_id] = MemberState(
                user_id=member.user_id,
                role=cast(Role, member.role),
                joined_at_ms=member.joined_at_ms,
                silenced_until_ms=member.silenced_until_ms,
                delivered_seq=member.delivered_seq,
                read_seq=member.read_seq,
                read_count=member.read_count,
            )
        if state.kind == "group":
            state.banned = {ban.user_id for ban in await self._log.find(Ban, where, limit=100_000)}
            state.invites = {i.code: i for i in await self._log.find(InviteRow, where, limit=10_000)}
        else:
            for user_id, other_id in ((state.user_a, state.user_b), (state.user_b, state.user_a)):
                if await self._log.get(BlockRow, user_id, other_id) is not None:
                    state.blocks.add((user_id, other_id))
        oldest = min((m.read_seq for m in state.members.values()), default=head.seq)
        state.deleted_seqs = await self._log.deleted_seqs(self._id, after=oldest)
        self._last_at_ms = head.at_ms
        self._state = state
        if ctx.restarted:
            self._fanout.resync(self._id, state.head, state.members.keys())

    def may_passivate(self) -> bool:
        return super().may_passivate() and not self._receipts

    # -- messages -----------------------------------------------------------------------------------

    async def handle(self, message: object, reply: Reply) -> None:
        if isinstance(message, Ask):
            command = message.command
            if isinstance(command, commands.Send):
                try:
                    await self._send(message, command, reply)
                except Refused:
                    first = await self._first_of(message, command)
                    if first is None:
                        raise
                    reply.resolve(first)
            else:
                await self._command(message, command, reply)
        elif isinstance(message, Delivered):
            self._delivered(message)
        elif isinstance(message, _ReceiptTick):
            self._tick()
        elif isinstance(message, OpenBetween):
            self._open(message, reply)
        elif isinstance(message, Create):
            self._create(message, reply)
        elif isinstance(message, BlockMoved):
            self._block_moved(message)
        else:
            raise TypeError(f"a conversation does not take {type(message).__name__}")

    def placed(self, staged: Staged, at: Appended) -> None:
        state = self._state
        assert state is not None
        state.head = at.seq
        state.message_count = at.message_count
        self._remember_count(at)
        event = place(cast(ConversationEvent, staged.event), self._id, staged.user_id, at)
        self._publish(event, at.message_count)

    def _publish(self, event: ConversationEvent, message_count: int) -> None:
        encoded = Encoded(event)
        if isinstance(event, events.MessagePosted):
            self._fanout.publish(self._id, event.seq, encoded, message_count=message_count)
            return
        if isinstance(event, events.ConversationCreated | events.MembersAdded):
            self._fanout.subscribe(self._id, event.member_ids)
        # Edits and reactions matter where the message is seen; all else changes badges or rights.
        is_local = isinstance(event, events.MessageEdited | events.Reacted)
        self._fanout.publish(
            self._id, event.seq, encoded, everywhere=not is_local, message_count=message_count
        )
        if isinstance(event, events.MemberRemoved):
            self._fanout.unsubscribe(self._id, [event.member_id])

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

    # -- messages of people -------------------------------------------------------------------------

    async def _send(self, ask: Ask, command: commands.Send, reply: Reply) -> None:
        state = self._state
        if state is None:
            raise Refused("conversation_not_found")
        member = rules.member_of(state, ask.user_id, ask.app_id)
        at_ms = self._at_ms()
        rules.may_post(state, member, at_ms)
        rules.check_text(command.text, has_files=bool(command.file_ids))
        if command.mentions:
            rules.check_mentions(state, command.mentions)
        if command.reply_to > state.head:
            raise Refused("message_not_found")
        files = await self._attachments(command.file_ids) if command.file_ids else []
        root: Target | None = None
        if command.thread:
            root = await self._target(command.thread)
            if root.state.deleted_at_ms:
                raise Refused("message_deleted")
            if root.thread:
                raise Refused(
                    "message_not_found", "A thread starts at a message that is in no thread itself."
                )
        event = events.MessagePosted(
            text=command.text,
            reply_to=command.reply_to,
            thread=command.thread,
            mentions=command.mentions,
            files=files,
        )
        row = LogRow(
            stream=self._stream,
            kind="message",
            at_ms=at_ms,
            user_id=ask.user_id,
            body=body_of(event),
            client_id=command.client_id,
            is_message=True,
            thread=command.thread or None,
        )
        placed = msgspec.structs.replace(event, client_id=command.client_id)

        def answer(at: Appended | None) -> replies.Sent:
            assert at is not None
            return replies.Sent(
                conversation_id=self._id, seq=at.seq, at_ms=at.at_ms, duplicate=at.is_duplicate
            )

        def after(at: Appended | None) -> None:
            assert at is not None
            if at.is_duplicate:
                self._uncount_reply(command.thread)
            else:
                state = MessageState(conversation_id=self._id, seq=at.seq)
                self._remember(Target(at.seq, ask.user_id, at.at_ms, command.thread, command.mentions, state))

        row_index = self._stage_row(
            row, Staged(reply, answer, user_id=ask.user_id, event=placed, after=after)
        )
        self._batch.senders.setdefault(ask.user_id, []).append(row_index)
        for user_id in dict.fromkeys(command.mentions):
            if user_id != ask.user_id:
                mention = Mention(user_id=user_id, conversation_id=self._id, seq=0)
                self._batch.ops.append(Put(mention, row_index, "seq"))
        if root is not None:
            root.state = msgspec.structs.replace(root.state, thread_count=root.state.thread_count + 1)
            self._batch.ops.append(Put(root.state, row_index))

    async def _first_of(self, ask: Ask, command: commands.Send) -> replies.Sent | None:
        """The first ack of a message that is stored, though it would be refused today.

        Who was silenced, or mentioned somebody who has left, between a send and its retry must not take the
        message for lost. Only a refused send pays for looking.
        """
        state = self._state
        if state is None or ask.user_id not in state.members or ask.app_id != state.app_id:
            return None
        while self._in_flight:  # the first may be among them
            await self._decision.wait()
        at = await self._log.appended(self._stream, ask.user_id, command.client_id)
        if at is None:
            return None
        return replies.Sent(conversation_id=self._id, seq=at.seq, at_ms=at.at_ms, duplicate=True)

    def _uncount_reply(self, thread: int) -> None:
        """A reply that was sent again had been counted before; what was staged behind it counted on that."""
        root = self._targets.get(thread)
        if root is not None:
            count = root.state.thread_count - 1
            root.state = msgspec.structs.replace(root.state, thread_count=count)
            self._batch.ops.append(Put(root.state))

    async def _attachments(self, file_ids: list[str]) -> list[Attachment]:
        state = self._state
        assert state is not None
        rows = {row.file_id: row for row in await self._log.find_many(FileRow, "file_id", file_ids)}
        files = []
        for file_id in file_ids:
            row = rows.get(file_id)
            if row is None or row.app_id != state.app_id:
                raise Refused("file_not_found", f"There is no file {file_id}.")
            files.append(
                Attachment(
                    file_id=file_id,
                    name=row.name,
                    media_type=row.media_type,
                    size_bytes=row.size_bytes,
                    width=row.width,
                    height=row.height,
                )
            )
        return files

    async def _target(self, seq: int) -> Target:
        """The message that a command is about.

        One that is not among the newest is read from the store, and this conversation waits for it: about a
        millisecond, in exchange for judging commands strictly in their order.
        """
        target = self._targets.get(seq)
        if target is not None:
            self._targets.move_to_end(seq)
            return target
        entry = await self._log.entry(self._stream, seq)
        if entry is None or entry.kind != "message":
            raise Refused("message_not_found")
        stored = await self._log.get(MessageState, self._id, seq)
        posted = read_event(self._id, entry)
        assert isinstance(posted, events.MessagePosted)
        target = Target(
            seq=seq,
            user_id=entry.user_id,
            at_ms=entry.at_ms,
            thread=entry.thread or 0,
            mentions=read_mentions(stored, posted),
            state=stored or MessageState(conversation_id=self._id, seq=seq),
        )
        self._remember(target)
        return target

    def _remember(self, target: Target) -> None:
        self._targets[target.seq] = target
        if len(self._targets) > _CACHED_TARGETS:
            self._targets.popitem(last=False)

    def _remember_count(self, at: Appended) -> None:
        self._counts[at.seq] = at.message_count
        if len(self._counts) > _CACHED_COUNTS:
            self._counts.popitem(last=False)

    async def _edit(self, member: MemberState, command: commands.Edit, reply: Reply) -> None:
        state = self._state
        assert state is not None
        now_ms = self._now_ms()
        rules.may_post(state, member, now_ms)
        rules.check_text(command.text, has_files=False)
        target = await self._target(command.target)
        rules.may_edit(member, target, now_ms)
        # Who was mentioned while a member may stay mentioned.
        rules.check_mentions(state, [u for u in command.mentions if u not in target.mentions])
        target.state = msgspec.structs.replace(
            target.state,
            text=command.text,
            mentions=encode_json(command.mentions),
            edited_at_ms=self._at_ms(),
        )
        ops: list[Op] = [Put(target.state)]
        for user_id in set(target.mentions) - set(command.mentions):
            ops.append(Remove(Mention, {"user_id": user_id, "conversation_id": self._id, "seq": target.seq}))
        for user_id in set(command.mentions) - set(target.mentions) - {member.user_id}:
            ops.append(Put(Mention(user_id=user_id, conversation_id=self._id, seq=target.seq)))
        target.mentions = command.mentions
        event = events.MessageEdited(target=target.seq, text=command.text, mentions=command.mentions)
        self._stage(member.user_id, event, reply, ops=ops)

    async def _delete(self, member: MemberState, command: commands.Delete, reply: Reply) -> None:
        state = self._state
        assert state is not None
        target = await self._target(command.target)
        rules.may_delete(state, member, target, self._now_ms())
        if target.state.deleted_at_ms:
            return self._unchanged(reply)
        target.state = MessageState(
            conversation_id=self._id,
            seq=target.seq,
            deleted_at_ms=self._at_ms(),
            thread_count=target.state.thread_count,
        )
        ops: list[Op] = [Put(target.state), Redact(self._stream, target.seq)]
        for user_id in target.mentions:
            ops.append(Remove(Mention, {"user_id": user_id, "conversation_id": self._id, "seq": target.seq}))
        target.mentions = []
        self._stage(
            member.user_id,
            events.MessageDeleted(target=target.seq),
            reply,
            ops=ops,
            after=lambda _at: state.note_deleted(target.seq),
        )
        return None

    async def _react(self, member: MemberState, command: commands.React, reply: Reply) -> None:
        state = self._state
        assert state is not None
        rules.may_post(state, member, self._now_ms())
        target = await self._target(command.target)
        if target.state.deleted_at_ms:
            raise Refused("message_deleted")
        changed = rules.react(
            read_reactions(target.state), member.user_id, command.emoji, removed=command.removed
        )
        if changed is None:
            return self._unchanged(reply)
        target.state = msgspec.structs.replace(
            target.state, reactions=encode_json(changed) if changed else ""
        )
        event = events.Reacted(target=target.seq, emoji=command.emoji, removed=command.removed)
        self._stage(member.user_id, event, reply, ops=[Put(target.state)])
        return None

    # -- receipts -----------------------------------------------------------------------------------

    async def _mark_read(self, member: MemberState, command: commands.MarkRead, reply: Reply) -> None:
        state = self._state
        assert state is not None
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
        state = self._state
        assert state is not None
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
            self._ctx.post_after(RECEIPT_TICK_S, _ReceiptTick())

    def _tick(self) -> None:
        """Tell all receipts that moved since the last tick in one event."""
        self._tick_pending = False
        state = self._state
        assert state is not None
        moved, self._receipts = self._receipts, set()
        items = [
            ReceiptItem(user_id=m.user_id, delivered_seq=m.delivered_seq, read_seq=m.read_seq)
            for m in (state.members.get(user_id) for user_id in sorted(moved))
            if m is not None
        ]
        if items:
            event = events.Receipts(conversation_id=self._id, items=items)
            self._fanout.publish_live(self._id, ("receipts", self._id), Encoded(event), is_state=True)
        senders, self._senders = self._senders, set()
        for user_id in senders:
            member = state.members.get(user_id)
            if member is not None:
                self._tell_read(member)

    def _tell_read(self, member: MemberState) -> None:
        """Clear the badge on all devices of a user who has read, or sent, further on one."""
        assert self._state is not None
        event = events.Read(
            conversation_id=self._id, read_seq=member.read_seq, unread=self._state.unread_of(member)
        )
        self._fanout.publish_user_live(member.user_id, ("read", self._id), Encoded(event), stream=self._id)

    # -- commands other than send -------------------------------------------------------------------

    async def _command(self, ask: Ask, command: object, reply: Reply) -> None:
        state = self._state
        if state is None:
            if isinstance(command, commands.Join):
                raise Refused("invite_not_found")
            raise Refused("conversation_not_found")
        if isinstance(command, commands.Join):
            return self._join(ask, command, reply)
        member = rules.member_of(state, ask.user_id, ask.app_id)
        match command:
            case commands.MarkRead():
                await self._mark_read(member, command, reply)
            case commands.SetTyping():
                rules.may_post(state, member, self._now_ms())
                event = events.Typing(conversation_id=self._id, user_id=ask.user_id, on=command.on)
                self._fanout.publish_live(
                    self._id, ("typing", self._id, ask.user_id), Encoded(event), except_user_id=ask.user_id
                )
                reply.resolve(replies.Ok())
            case commands.Edit():
                await self._edit(member, command, reply)
            case commands.Delete():
                await self._delete(member, command, reply)
            case commands.React():
                await self._react(member, command, reply)
            case commands.ListMembers():
                reply.resolve(self._member_list(member))
            case commands.AddMembers():
                rules.needs_admin(state, member)
                self._add(member.user_id, rules.whom_to_add(state, command.user_ids), reply)
            case commands.RemoveMember():
                await self._remove(member, command, reply)
            case commands.Unban():
                self._unban(member, command, reply)
            case commands.Leave():
                rules.may_leave(state, member)
                self._drop(member.user_id, member.user_id, reply)
            case commands.Rename():
                rules.needs_admin(state, member)
                if command.title == state.title:
                    return self._unchanged(reply)
                state.title = command.title
                update = Update(ConversationRow, {"conversation_id": self._id}, {"title": command.title})
                self._stage(member.user_id, events.Renamed(title=command.title), reply, ops=[update])
            case commands.SetRole():
                self._set_role(member, command, reply)
            case commands.Silence():
                self._silence(member, command, reply)
            case commands.Mute():
                self._mute(member, command, reply)
            case commands.CreateInvite():
                self._create_invite(member, command, reply)
            case commands.ListInvites():
                rules.needs_admin(state, member)
                reply.resolve(
                    replies.InviteList(
                        conversation_id=self._id, items=[_invite(i) for i in self._working_invites()]
                    )
                )
            case commands.RevokeInvite():
                self._revoke_invite(member, command, reply)
            case _:
                raise TypeError(f"a conversation does not take {type(command).__name__}")
        return None

    def _member_list(self, member: MemberState) -> replies.MemberList:
        state = self._state
        assert state is not None
        return replies.MemberList(
            conversation_id=self._id,
            items=[
                Member(
                    user_id=m.user_id,
                    role=m.role,
                    joined_at_ms=m.joined_at_ms,
                    silenced_until_ms=m.silenced_until_ms,
                    delivered_seq=m.delivered_seq,
                    read_seq=m.read_seq,
                )
                for m in state.members.values()
            ],
            banned=sorted(state.banned) if rules.RANK[member.role] >= rules.RANK["admin"] else [],
        )

    def _update_member(self, user_id: str, **values: str | int | None) -> Update:
        return Update(MemberRow, {"conversation_id": self._id, "user_id": user_id}, values)

    def _count_members(self) -> Update:
        assert self._state is not None
        count = len(self._state.members)
        return Update(ConversationRow, {"conversation_id": self._id}, {"member_count": count})

    # -- membership ---------------------------------------------------------------------------------

    def _new_members(self, user_ids: Sequence[str], roles: dict[str, Role], row_index: int) -> list[Op]:
        """Put users into the state, and give what stores them: watermarks start at the event's seq."""
        state = self._state
        assert state is not None
        at_ms = self._at_ms()
        ops: list[Op] = []
        for user_id in user_ids:
            member = MemberState(user_id, roles.get(user_id, "member"), at_ms)
            state.members[user_id] = member
            ops.append(Put(rules.member_row(self._id, member)))
            ops.append(Advance(conversation_id=self._id, user_id=user_id, row_index=row_index))
        return ops

    def _start_watermarks(self, user_ids: Sequence[str]) -> Callable[[Appended | None], None]:
        state = self._state
        assert state is not None

        def after(at: Appended | None) -> None:
            assert at is not None
            for user_id in user_ids:
                member = state.members.get(user_id)
                if member is not None and at.seq > member.read_seq:
                    member.read_seq = member.delivered_seq = at.seq
                    member.read_count = at.message_count

        return after

    def _open(self, message: OpenBetween, reply: Reply) -> None:
        if self._state is not None:
            if message.user_id not in self._state.members:
                raise Refused("conversation_not_found")
            return self._unchanged(reply)
        self._begin(
            "direct",
            message.app_id,
            message.user_id,
            "",
            [message.user_id, message.other_id],
            reply,
        )
        return None

    def _create(self, message: Create, reply: Reply) -> None:
        if self._state is not None:
            rules.member_of(self._state, message.user_id, message.app_id)
            return self._unchanged(reply)
        user_ids = list(dict.fromkeys((message.user_id, *message.member_ids)))
        if len(user_ids) > MAX_GROUP_MEMBERS:
            raise Refused("group_full")
        self._begin("group", message.app_id, message.user_id, message.title, user_ids, reply)
        return None

    def _begin(
        self,
        kind: ConversationKind,
        app_id: str,
        user_id: str,
        title: str,
        user_ids: list[str],
        reply: Reply,
    ) -> None:
        at_ms = self._at_ms()
        user_a, user_b = user_ids if kind == "direct" else ("", "")
        state = ConversationState(
            conversation_id=self._id,
            app_id=app_id,
            kind=kind,
            title=title,
            created_at_ms=at_ms,
            created_by=user_id,
            user_a=user_a,
            user_b=user_b,
        )
        self._state = state
        row = ConversationRow(
            conversation_id=self._id,
            app_id=app_id,
            kind=kind,
            title=title,
            created_at_ms=at_ms,
            created_by=user_id,
            user_a=user_a,
            user_b=user_b,
            member_count=len(user_ids),
        )
        roles: dict[str, Role] = {user_id: "owner"} if kind == "group" else {}
        ops: list[Op] = [Insert(row)]
        ops += self._new_members(user_ids, roles, len(self._batch.rows))
        self._stage(
            user_id,
            events.ConversationCreated(kind=kind, title=title, member_ids=user_ids),
            reply,
            ops=ops,
            tells=[(u, AddedTo(self._id, user_id)) for u in user_ids],
            after=self._start_watermarks(user_ids),
        )

    def _add(
        self, by: str, user_ids: list[str], reply: Reply, *, ops: Sequence[Op] = (), invite: str = ""
    ) -> None:
        if not user_ids:
            return self._unchanged(reply)
        added = self._new_members(user_ids, {}, len(self._batch.rows))
        self._stage(
            by,
            events.MembersAdded(member_ids=user_ids, invite=invite),
            reply,
            ops=[*added, *ops, self._count_members()],
            tells=[(u, AddedTo(self._id, by)) for u in user_ids],
            after=self._start_watermarks(user_ids),
        )
        return None

    def _join(self, ask: Ask, command: commands.Join, reply: Reply) -> None:
        state = self._state
        assert state is not None
        if ask.app_id != state.app_id:
            raise Refused("invite_not_found")
        if ask.user_id in state.members:
            return self._unchanged(reply)
        invite = rules.usable_invite(state.invites.get(command.code), self._now_ms())
        user_ids = rules.whom_to_add(state, [ask.user_id])
        used = msgspec.structs.replace(invite, uses=invite.uses + 1)
        state.invites[command.code] = used
        self._add(ask.user_id, user_ids, reply, ops=[Put(used)], invite=rules.invite_id(command.code))
        return None

    async def _remove(self, member: MemberState, command: commands.RemoveMember, reply: Reply) -> None:
        state = self._state
        assert state is not None
        rules.needs_admin(state, member)
        if command.user_id == member.user_id:
            raise Refused("self_not_allowed", "Use leave.")
        other = state.members.get(command.user_id)
        if other is None and not command.ban:
            raise Refused("not_member")
        if other is not None:
            rules.outranks(member, other)
        elif command.user_id in state.banned:
            return self._unchanged(reply)
        else:
            user = await self._log.get(User, command.user_id)
            if user is None or user.app_id != state.app_id:
                raise Refused("user_not_found")
        self._drop(member.user_id, command.user_id, reply, ban=command.ban)
        return None

    def _drop(self, by: str, user_id: str, reply: Reply, *, ban: bool = False) -> None:
        state = self._state
        assert state is not None
        was_member = state.members.pop(user_id, None) is not None
        where: dict[str, str | int] = {"conversation_id": self._id, "user_id": user_id}
        ops: list[Op] = [Remove(MemberRow, where), Remove(Mention, where), self._count_members()]
        if ban:
            state.banned.add(user_id)
            ops.append(Put(Ban(conversation_id=self._id, user_id=user_id, by=by, at_ms=self._at_ms())))
        if not state.members:  # nobody is left to own it: nobody comes back in
            state.invites.clear()
            ops.append(Remove(InviteRow, {"conversation_id": self._id}))
        tells = [(user_id, RemovedFrom(self._id, by, ban))] if was_member else []
        event = events.MemberRemoved(member_id=user_id, banned=ban)
        self._stage(by, event, reply, ops=ops, tells=tells)

    def _unban(self, member: MemberState, command: commands.Unban, reply: Reply) -> None:
        state = self._state
        assert state is not None
        rules.needs_admin(state, member)
        if command.user_id not in state.banned:
            return self._unchanged(reply)
        state.banned.discard(command.user_id)
        where: dict[str, str | int] = {"conversation_id": self._id, "user_id": command.user_id}
        event = events.MemberUnbanned(member_id=command.user_id)
        self._stage(member.user_id, event, reply, ops=[Remove(Ban, where)])
        return None

    def _set_role(self, member: MemberState, command: commands.SetRole, reply: Reply) -> None:
        state = self._state
        assert state is not None
        rules.needs_group(state)
        if member.role != "owner":
            raise Refused("role_too_low")
        other = state.members.get(command.user_id)
        if other is None:
            raise Refused("not_member")
        if other is member:
            raise Refused("self_not_allowed")
        if other.role == command.role:
            return self._unchanged(reply)
        other.role = command.role
        ops: list[Op] = [self._update_member(other.user_id, role=command.role)]
        if command.role == "owner":
            member.role = "admin"
            ops.append(self._update_member(member.user_id, role="admin"))
        event = events.RoleChanged(member_id=other.user_id, role=command.role)
        self._stage(member.user_id, event, reply, ops=ops)
        return None

    def _silence(self, member: MemberState, command: commands.Silence, reply: Reply) -> None:
        state = self._state
        assert state is not None
        rules.needs_admin(state, member)
        other = state.members.get(command.user_id)
        if other is None:
            raise Refused("not_member")
        rules.outranks(member, other)
        if other.silenced_until_ms == command.until_ms:
            return self._unchanged(reply)
        other.silenced_until_ms = command.until_ms
        event = events.MemberSilenced(member_id=other.user_id, until_ms=command.until_ms)
        op = self._update_member(other.user_id, silenced_until_ms=command.until_ms)
        self._stage(member.user_id, event, reply, ops=[op])
        return None

    def _mute(self, member: MemberState, command: commands.Mute, reply: Reply) -> None:
        """A member's own setting: no event of the conversation, but one of the member's inbox."""
        op = self._update_member(member.user_id, muted_until_ms=command.until_ms)
        self._stage_ops([op], Staged(reply, lambda _at: replies.Ok()))
        self._stage_tell(member.user_id, MutedIn(self._id, command.until_ms))

    # -- invites ------------------------------------------------------------------------------------

    def _working_invites(self) -> list[InviteRow]:
        assert self._state is not None
        now_ms = self._now_ms()
        return [
            i
            for i in self._state.invites.values()
            if not i.revoked_at_ms
            and not (i.expires_at_ms and i.expires_at_ms <= now_ms)
            and not (i.max_uses and i.uses >= i.max_uses)
        ]

    def _create_invite(self, member: MemberState, command: commands.CreateInvite, reply: Reply) -> None:
        state = self._state
        assert state is not None
        rules.needs_admin(state, member)
        working = self._working_invites()
        if len(working) >= _MAX_WORKING_INVITES:
            raise Refused("already_exists", "A group has at most 100 working invites; revoke one.")
        forgotten = self._forget_spent_invites(working)
        row = InviteRow(
            code=token_urlsafe(12),
            conversation_id=self._id,
            app_id=state.app_id,
            created_by=member.user_id,
            created_at_ms=self._at_ms(),
            expires_at_ms=command.expires_at_ms,
            max_uses=command.max_uses,
        )
        state.invites[row.code] = row
        event = events.InviteCreated(
            invite_id=rules.invite_id(row.code),
            expires_at_ms=row.expires_at_ms,
            max_uses=row.max_uses,
        )
        self._stage(
            member.user_id,
            event,
            reply,
            ops=[*forgotten, Insert(row)],
            answer=lambda _at: replies.InviteInfo(conversation_id=self._id, invite=_invite(row)),
        )

    def _forget_spent_invites(self, working: Sequence[InviteRow]) -> list[Op]:
        """Let go of the oldest invites that are used up, expired or revoked."""
        assert self._state is not None
        invites = self._state.invites
        kept = {invite.code for invite in working}
        spent = sorted(
            (invite for code, invite in invites.items() if code not in kept), key=lambda i: i.created_at_ms
        )
        ops: list[Op] = []
        for invite in spent[: max(0, len(spent) - _MAX_SPENT_INVITES)]:
            del invites[invite.code]
            ops.append(Remove(InviteRow, {"code": invite.code}))
        return ops

    def _revoke_invite(self, member: MemberState, command: commands.RevokeInvite, reply: Reply) -> None:
        state = self._state
        assert state is not None
        rules.needs_admin(state, member)
        invite = state.invites.get(command.code)
        if invite is None:
            raise Refused("invite_not_found")
        if invite.revoked_at_ms:
            return self._unchanged(reply)
        revoked = msgspec.structs.replace(invite, revoked_at_ms=self._at_ms())
        state.invites[command.code] = revoked
        event = events.InviteRevoked(invite_id=rules.invite_id(command.code))
        self._stage(member.user_id, event, reply, ops=[Put(revoked)])
        return None

    # -- other --------------------------------------------------------------------------------------

    def _block_moved(self, message: BlockMoved) -> None:
        if self._state is not None:
            pair = (message.user_id, message.other_id)
            if message.blocked:
                self._state.blocks.add(pair)
            else:
                self._state.blocks.discard(pair)


def _invite(row: InviteRow) -> Invite:
    return Invite(
        code=row.code,
        created_by=row.created_by,
        expires_at_ms=row.expires_at_ms,
        max_uses=row.max_uses,
        uses=row.uses,
    )
