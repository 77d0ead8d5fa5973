"""The actor of one conversation: its order, membership, receipts and fan-out.

It decides by `conversation_rules`, stages what was decided, and submits one append per batch. Nothing is
answered or fanned out before the append is committed; commits come back in order, as messages to itself.
Membership changes at once in memory, so that a batch is judged in order; when an append fails the incarnation
ends and the next one loads what is really stored.

Its rows in the directory (members, invites, bans, message states) are written in the same transaction as its
events, so loading those rows is loading a snapshot that is never behind the log.
"""

from typing import Final, cast

from actors import conversation_rules as rules
from actors.conversation_members import Membership
from actors.conversation_messages import Messages
from actors.conversation_notices import Notices
from actors.conversation_receipts import Receipts, ReceiptTick
from actors.conversation_rules import ConversationState, MemberState
from actors.entity import EntityContext
from actors.messages import (
    Ask,
    BlockMoved,
    Create,
    Delivered,
    OpenBetween,
)
from actors.reply import Reply
from protocol import commands, events, replies
from protocol.codec import Encoded
from protocol.errors import Refused
from protocol.records import (
    Ban,
    BlockRow,
    ConversationRow,
    InviteRow,
    MemberRow,
    Update,
)
from protocol.types import ConversationKind, Role

KIND: Final = "conversation"
# A message that is refused for these today may have been taken when it was sent first.
_MAY_HAVE_PASSED: Final = frozenset(
    {"silenced", "blocked", "not_member", "message_deleted", "message_not_found"}
)


class Conversation(Notices, Messages, Membership, Receipts):
    """Own one conversation. Take `Ask`, `Create`, `OpenBetween`, `Delivered` and `BlockMoved`."""

    # -- life ---------------------------------------------------------------------------------------

    async def activate(self, ctx: EntityContext) -> None:
        """Load the conversation from its rows; one that does not exist yet waits to be created."""
        self._ctx = ctx
        row = await self._log.get(ConversationRow, self._id)
        if row is None:
            self._recent.begin(self._id, 0)
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
                muted_until_ms=member.muted_until_ms,
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
        self._recent.begin(self._id, state.head)
        await self._take_up_notice()
        if ctx.restarted:
            self._fanout.resync(self._id, state.head, state.members.keys())

    def may_passivate(self) -> bool:
        return super().may_passivate() and not self._receipts

    # -- messages -----------------------------------------------------------------------------------

    def handle_nowait(self, message: object, reply: Reply) -> bool:
        """Take what needs no look at the store: plain messages, receipts."""
        if isinstance(message, Ask):
            command = message.command
            if not isinstance(command, commands.Send) or not self.is_plain(command):
                return False
            try:
                self.send_plain(message, command, reply)
            except Refused as refused:
                self._refuse_send(refused, message, command, reply)
        elif isinstance(message, Delivered):
            self._delivered(message)
        elif isinstance(message, ReceiptTick):
            self._tick()
        else:
            return self._notices_message(message)
        return True

    async def handle(self, message: object, reply: Reply) -> None:
        if isinstance(message, Ask):
            command = message.command
            if isinstance(command, commands.Send):
                try:
                    await self._send(message, command, reply)
                except Refused as refused:
                    self._refuse_send(refused, message, command, reply)
            else:
                await self._command(message, command, reply)
        elif isinstance(message, Delivered):
            self._delivered(message)
        elif isinstance(message, ReceiptTick):
            self._tick()
        elif isinstance(message, OpenBetween):
            self._open(message, reply)
        elif isinstance(message, Create):
            self._create(message, reply)
        elif isinstance(message, BlockMoved):
            self._block_moved(message)
            reply.resolve(replies.Ok())
        elif not self._notices_message(message):
            raise TypeError(f"a conversation does not take {type(message).__name__}")

    def _refuse_send(self, refused: Refused, ask: Ask, command: commands.Send, reply: Reply) -> None:
        """Refuse a message, unless it repeats one that was taken. Raises: Refused."""
        if refused.code not in _MAY_HAVE_PASSED:
            raise refused
        if not self._is_staged(ask.user_id, command, reply):
            self._ctx.start_soon(self._answer_refused, refused, ask.user_id, command, reply)

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
                    self._id,
                    ("typing", self._id, ask.user_id),
                    Encoded(event),
                    to=state.members.keys(),
                    except_user_id=ask.user_id,
                )
                reply.resolve(replies.Ok())
            case commands.Edit():
                await self._edit(member, command, reply)
            case commands.Delete():
                await self._delete(member, command, reply)
            case commands.React():
                await self._react(member, command, reply)
            case commands.ListMembers():
                # When all that was decided before is stored: what is shown is never taken back.
                self._answer_when_stored(reply, lambda _at: self._member_list(member))
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
                rules.check_title(command.title)
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
                self._list_invites(member, reply)
            case commands.RevokeInvite():
                self._revoke_invite(member, command, reply)
            case _:
                raise TypeError(f"a conversation does not take {type(command).__name__}")
        return None

    # -- other --------------------------------------------------------------------------------------

    def _block_moved(self, message: BlockMoved) -> None:
        if self._state is not None:
            pair = (message.user_id, message.other_id)
            if message.blocked:
                self._state.blocks.add(pair)
            else:
                self._state.blocks.discard(pair)
