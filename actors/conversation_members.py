"""Membership of a conversation: begin, add, join, remove, roles, and invites."""

from collections.abc import Callable, Sequence
from secrets import token_urlsafe
from typing import Final

import msgspec

from actors import conversation_rules as rules
from actors.conversation_base import ConversationBase
from actors.conversation_rules import ConversationState, MemberState
from actors.messages import (
    AddedTo,
    Ask,
    Create,
    MutedIn,
    OpenBetween,
    RemovedFrom,
)
from actors.reply import Reply
from actors.stream_actor import Staged
from protocol import commands, events, replies
from protocol.errors import Refused
from protocol.limits import MAX_GROUP_MEMBERS
from protocol.records import (
    Advance,
    Appended,
    Ban,
    ConversationRow,
    Insert,
    InviteRow,
    MemberRow,
    Mention,
    Op,
    Put,
    Remove,
    Update,
    User,
)
from protocol.types import ConversationKind, Invite, Member, Role

_MAX_WORKING_INVITES: Final = 100
_MAX_SPENT_INVITES: Final = 100  # kept so that a repeated join or revoke finds what it is about


class Membership(ConversationBase):
    """Decide who is in, and as what."""

    def _member_list(self, member: MemberState) -> replies.MemberList:
        state = self._known
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
        count = len(self._known.members)
        return Update(ConversationRow, {"conversation_id": self._id}, {"member_count": count})

    # -- membership ---------------------------------------------------------------------------------

    def _new_members(self, user_ids: Sequence[str], roles: dict[str, Role], row_index: int) -> list[Op]:
        """Put users into the state, and give what stores them: watermarks start at the event's seq."""
        state = self._known
        at_ms = self._at_ms()
        ops: list[Op] = []
        for user_id in user_ids:
            member = MemberState(user_id, roles.get(user_id, "member"), at_ms)
            state.members[user_id] = member
            ops.append(Put(rules.member_row(self._id, member)))
            ops.append(Advance(conversation_id=self._id, user_id=user_id, row_index=row_index))
        return ops

    def _start_watermarks(self, user_ids: Sequence[str]) -> Callable[[Appended | None], None]:
        state = self._known

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
            if message.user_id not in self._known.members:
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
        rules.check_title(message.title)
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
        state = self._known
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
        state = self._known
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
        state = self._known
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
        state = self._known
        rules.needs_admin(state, member)
        if command.user_id not in state.banned:
            return self._unchanged(reply)
        state.banned.discard(command.user_id)
        where: dict[str, str | int] = {"conversation_id": self._id, "user_id": command.user_id}
        event = events.MemberUnbanned(member_id=command.user_id)
        self._stage(member.user_id, event, reply, ops=[Remove(Ban, where)])
        return None

    def _set_role(self, member: MemberState, command: commands.SetRole, reply: Reply) -> None:
        state = self._known
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
        state = self._known
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
        member.muted_until_ms = command.until_ms
        op = self._update_member(member.user_id, muted_until_ms=command.until_ms)
        self._stage_ops([op], Staged(reply, lambda _at: replies.Ok()))
        self._stage_tell(member.user_id, MutedIn(self._id, command.until_ms))

    # -- invites ------------------------------------------------------------------------------------

    def _working_invites(self) -> list[InviteRow]:
        now_ms = self._now_ms()
        return [
            i
            for i in self._known.invites.values()
            if not i.revoked_at_ms
            and not (i.expires_at_ms and i.expires_at_ms <= now_ms)
            and not (i.max_uses and i.uses >= i.max_uses)
        ]

    def _list_invites(self, member: MemberState, reply: Reply) -> None:
        rules.needs_admin(self._known, member)
        self._answer_when_stored(
            reply,
            lambda _at: replies.InviteList(
                conversation_id=self._id, items=[_invite(row) for row in self._working_invites()]
            ),
        )

    def _create_invite(self, member: MemberState, command: commands.CreateInvite, reply: Reply) -> None:
        state = self._known
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
        invites = self._known.invites
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
        state = self._known
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


def _invite(row: InviteRow) -> Invite:
    return Invite(
        code=row.code,
        created_by=row.created_by,
        expires_at_ms=row.expires_at_ms,
        max_uses=row.max_uses,
        uses=row.uses,
    )
