"""Messages of a conversation: send, edit, delete, react, and the messages that these are about."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec

from actors import conversation_rules as rules
from actors.address import Address
from actors.attachments import attachments_of
from actors.conversation_base import ConversationBase
from actors.conversation_rules import MemberState, Target
from actors.messages import (
    Ask,
)
from actors.ports import Fanout, Leases, Log, Recent, Relay, WallClock
from actors.reply import Reply
from actors.stream_actor import Staged
from protocol import commands, events, replies
from protocol.errors import HubbubError, Refused
from protocol.events import ConversationEvent
from protocol.records import (
    Appended,
    LogRow,
    Mention,
    MessageState,
    Op,
    Put,
    Redact,
    Remove,
)
from protocol.stored_events import (
    REDACTED_BODY,
    body_of,
    encode_json,
    place,
    read_event,
    read_mentions,
    read_reactions,
)
from protocol.types import Attachment

_CACHED_TARGETS: Final = 1024  # messages that edits, reactions and threads are about; mostly the newest


class Messages(ConversationBase):
    """Decide on messages."""

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
        self._targets: OrderedDict[int, Target] = OrderedDict()
        # The newest messages that nobody has referred to yet, by seq: author, time, thread, mentions.
        self._untouched: dict[int, tuple[str, int, int, list[str]]] = {}
        # Replies in threads that are not committed yet, by key, and who else waits for their ack.
        self._thread_replies: dict[tuple[str, str], list[Reply]] = {}

    @staticmethod
    def is_plain(command: commands.Send) -> bool:
        """Tell whether a message can be judged without a look at another message, or at a file."""
        return not (command.reply_to or command.thread or command.file_ids)

    def send_plain(self, ask: Ask, command: commands.Send, reply: Reply) -> None:
        """Take a plain message. Raises: Refused."""
        at_ms = self._may_send(ask, command)
        self._stage_message(ask.user_id, command, reply, at_ms)

    async def _send(self, ask: Ask, command: commands.Send, reply: Reply) -> None:
        at_ms = self._may_send(ask, command)
        if command.reply_to:
            await self._target(command.reply_to)
        files = await attachments_of(self._log, self._known.app_id, command.file_ids)
        root: Target | None = None
        if command.thread:
            root = await self._target(command.thread)
            if root.state.deleted_at_ms:
                raise Refused("message_deleted")
            if root.thread:
                raise Refused(
                    "message_not_found", "A thread starts at a message that is in no thread itself."
                )
            if await self._is_repeated_in_thread(ask.user_id, command, reply):
                return
        row_index = self._stage_message(ask.user_id, command, reply, at_ms, files)
        if root is not None:
            root.state = msgspec.structs.replace(root.state, thread_count=root.state.thread_count + 1)
            self._batch.ops.append(Put(root.state, row_index))

    def _may_send(self, ask: Ask, command: commands.Send) -> int:
        """Judge a message by what is in memory; returns its time. Raises: Refused."""
        state = self._state
        if state is None:
            raise Refused("conversation_not_found")
        member = rules.member_of(state, ask.user_id, ask.app_id)
        at_ms = self._at_ms()
        rules.may_post(state, member, at_ms)
        rules.check_text(command.text, has_files=bool(command.file_ids))
        if command.mentions:
            rules.check_mentions(state, command.mentions)
        return at_ms

    def _stage_message(
        self,
        user_id: str,
        command: commands.Send,
        reply: Reply,
        at_ms: int,
        files: Sequence[Attachment] = (),
    ) -> int:
        event = events.MessagePosted(
            text=command.text,
            reply_to=command.reply_to,
            thread=command.thread,
            mentions=command.mentions,
            files=list(files),
        )
        row = LogRow(
            stream=self._stream,
            kind="message",
            at_ms=at_ms,
            user_id=user_id,
            body=body_of(event),
            client_id=command.client_id,
            is_message=True,
            thread=command.thread or None,
        )
        row_index = self._stage_row(row, _Posting(self, user_id, command, event, reply))
        self._batch.senders.setdefault(user_id, []).append(row_index)
        if command.mentions:
            for other_id in dict.fromkeys(command.mentions):
                if other_id != user_id:
                    mention = Mention(user_id=other_id, conversation_id=self._id, seq=0)
                    self._batch.ops.append(Put(mention, row_index, "seq"))
        self._message_staged(user_id, command.mentions)
        return row_index

    def _is_staged(self, user_id: str, command: commands.Send, reply: Reply) -> bool:
        """Answer a repetition of a message of this very batch when that one is stored."""
        for staged in self._batch.staged:
            if (
                isinstance(staged, _Posting)
                and staged.user_id == user_id
                and staged.command.client_id == command.client_id
            ):
                staged.repetitions.append(reply)
                return True
        return False

    def _posted(self, posting: "_Posting", at: Appended) -> None:
        """Take note of a message that is stored, before it is published."""
        command, user_id = posting.command, posting.user_id
        self._message_stored(at)
        if at.is_duplicate:
            self._ctx.start_soon(self._answer_repeated, command, at, posting.reply)
        else:
            untouched = self._untouched
            untouched[at.seq] = (user_id, at.at_ms, command.thread, command.mentions)
            if len(untouched) > _CACHED_TARGETS:
                del untouched[next(iter(untouched))]
        if command.thread:
            posting.repetitions += self._thread_replies.pop((user_id, command.client_id))
        for other in posting.repetitions:
            other.resolve(self._sent(at, is_repetition=True))

    def _sent(self, at: Appended, *, is_repetition: bool = False) -> replies.Sent:
        return replies.Sent(conversation_id=self._id, seq=at.seq, at_ms=at.at_ms, duplicate=is_repetition)

    async def _answer_refused(
        self, refused: Refused, user_id: str, command: commands.Send, reply: Reply
    ) -> None:
        """Give a refused message its first ack, if it had been stored before; runs beside the actor.

        Who was silenced, or mentioned somebody who has left, between a send and its retry must not take the
        message for lost.
        """
        try:
            await self._log.barrier()  # the first may be in flight
            at = await self._log.appended(self._stream, user_id, command.client_id)
        except HubbubError as error:
            reply.fail(error)
            return
        if at is None:
            reply.fail(refused)
        else:
            reply.resolve(self._sent(at, is_repetition=True))

    async def _answer_repeated(self, command: commands.Send, at: Appended, reply: Reply) -> None:
        """Answer a repetition like the first time, or refuse a key that meant something else then."""
        try:
            entry = await self._log.entry(self._stream, at.seq)
        except HubbubError as error:
            reply.fail(error)
            return
        assert entry is not None
        first = read_event(self._id, entry)
        is_other = (
            entry.body != REDACTED_BODY
            and isinstance(first, events.MessagePosted)
            and (first.text, first.thread) != (command.text, command.thread)
        )
        if is_other:
            reply.fail(Refused("payload_conflict"))
        else:
            reply.resolve(self._sent(at, is_repetition=True))

    async def _is_repeated_in_thread(self, user_id: str, command: commands.Send, reply: Reply) -> bool:
        """Answer a repeated reply in a thread as the first one; else note that this is the first.

        The store finds repetitions by itself, but only after the thread's count was raised.
        """
        key = (user_id, command.client_id)
        waiting = self._thread_replies.get(key)
        if waiting is not None:
            waiting.append(reply)
            return True
        at = await self._log.appended(self._stream, user_id, command.client_id)
        if at is None:
            self._thread_replies[key] = []
            return False
        first = self._sent(at, is_repetition=True)
        self._answer_in_order(reply, first)
        return True

    async def _target(self, seq: int) -> Target:
        """The message that a command is about.

        One that is not among the newest is read from the store, and this conversation waits for it: about a
        millisecond, in exchange for judging commands strictly in their order.
        """
        if seq > self._known.head:  # stored perhaps, but not taken note of here yet
            raise Refused("message_not_found")
        target = self._targets.get(seq)
        if target is not None:
            self._targets.move_to_end(seq)
            return target
        untouched = self._untouched.pop(seq, None)  # its state lives in one place only
        if untouched is not None:
            state = MessageState(conversation_id=self._id, seq=seq)
            target = Target(seq, *untouched, state)
            self._remember(target)
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

    async def _edit(self, member: MemberState, command: commands.Edit, reply: Reply) -> None:
        state = self._known
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
        state = self._known
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
        self._message_deleted(target.seq)
        return None

    async def _react(self, member: MemberState, command: commands.React, reply: Reply) -> None:
        state = self._known
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


class _Posting(Staged):
    """A message on its way into the log."""

    __slots__ = ("_actor", "command", "repetitions")

    def __init__(
        self,
        actor: Messages,
        user_id: str,
        command: commands.Send,
        event: events.MessagePosted,
        reply: Reply,
    ) -> None:
        super().__init__(reply, None, user_id=user_id, event=event)
        self.event: events.MessagePosted
        self._actor = actor
        self.command = command
        self.repetitions: list[Reply] = []  # of the same message, which wait for this one

    def placed_event(self, conversation_id: str, at: Appended) -> ConversationEvent:
        return place(self.event, conversation_id, self.user_id, at, client_id=self.command.client_id)

    def note(self, at: Appended | None) -> None:
        assert at is not None
        self._actor._posted(self, at)

    def resolve(self, at: Appended | None) -> None:
        assert at is not None
        if not at.is_duplicate:  # else it is compared with the first one, which has to be read
            self.reply.resolve(self._actor._sent(at))
