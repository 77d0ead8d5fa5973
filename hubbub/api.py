"""Every command of the protocol as a typed method. The client adds the connection underneath."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import msgspec

from protocol import commands as c
from protocol import replies as r
from protocol.commands import Command
from protocol.limits import MAX_PAGE
from protocol.types import (
    Contact,
    ConversationSummary,
    DeviceSession,
    Invite,
    Member,
    Message,
    PresenceItem,
    Profile,
    Role,
)

ReplyT = TypeVar("ReplyT", bound=msgspec.Struct)
ItemT = TypeVar("ItemT")


class Pages(Generic[ItemT]):
    """Iterate over items that come in pages. The next page is read when it is needed.

    Not a generator: who stops half-way leaves nothing behind that would have to be closed.
    """

    def __init__(self, fetch: Callable[[], Awaitable[tuple[Sequence[ItemT], bool]]]) -> None:
        self._fetch = fetch
        self._items: Iterator[ItemT] = iter(())
        self._has_more = True

    def __aiter__(self) -> "Pages[ItemT]":
        return self

    async def __anext__(self) -> ItemT:
        while True:  # ends with an item, or with the last page
            for item in self._items:
                return item
            if not self._has_more:
                raise StopAsyncIteration
            items, self._has_more = await self._fetch()
            self._items = iter(items)


def new_client_id() -> str:
    """Make an idempotency key that nobody else makes."""
    return secrets.token_hex(16)


class Commands(ABC):
    """The commands of a signed-in user.

    Each waits for its answer, over reconnects if need be, and raises what the server answered instead:
    `Refused` (it will not work), `Unavailable` (it did not work now). Codes that mean "later" are tried again
    by themselves. Wrap a call in `trio.move_on_after` or `trio.fail_after` to stop waiting: the command may
    then still be carried out.
    """

    @abstractmethod
    def _next_id(self) -> int: ...

    @abstractmethod
    async def _ask(self, command: Command, reply_type: type[ReplyT]) -> ReplyT: ...

    # -- messages -----------------------------------------------------------------------------------

    async def edit(
        self, conversation_id: str, target: int, text: str, *, mentions: Sequence[str] = ()
    ) -> r.Changed:
        """Replace the text of one's own message, within 24 h."""
        return await self._ask(
            c.Edit(
                id=self._next_id(),
                conversation_id=conversation_id,
                target=target,
                text=text,
                mentions=list(mentions),
            ),
            r.Changed,
        )

    async def delete(self, conversation_id: str, target: int) -> r.Changed:
        """Delete one's own message within 24 h, or, as an admin, any."""
        return await self._ask(
            c.Delete(id=self._next_id(), conversation_id=conversation_id, target=target), r.Changed
        )

    async def react(
        self, conversation_id: str, target: int, emoji: str, *, removed: bool = False
    ) -> r.Changed:
        """Set a reaction on a message, or take it back."""
        return await self._ask(
            c.React(
                id=self._next_id(),
                conversation_id=conversation_id,
                target=target,
                emoji=emoji,
                removed=removed,
            ),
            r.Changed,
        )

    async def mark_read(self, conversation_id: str, seq: int) -> r.ReadMarked:
        """Move the own read watermark to `seq`; it never goes back."""
        return await self._ask(
            c.MarkRead(id=self._next_id(), conversation_id=conversation_id, seq=seq), r.ReadMarked
        )

    async def set_typing(self, conversation_id: str, on: bool = True) -> None:
        """Tell the others that the user is typing; repeat every few seconds, it ends by itself after 6."""
        await self._ask(c.SetTyping(id=self._next_id(), conversation_id=conversation_id, on=on), r.Ok)

    async def history_page(
        self,
        conversation_id: str,
        *,
        before: int = 0,
        after: int | None = None,
        thread: int = 0,
        limit: int = 50,
    ) -> r.MessagePage:
        """Read one page of messages as they now are, by rising seq."""
        return await self._ask(
            c.History(
                id=self._next_id(),
                conversation_id=conversation_id,
                before=before,
                after=after,
                thread=thread,
                limit=limit,
            ),
            r.MessagePage,
        )

    def history(
        self,
        conversation_id: str,
        *,
        before: int = 0,
        after: int | None = None,
        thread: int = 0,
        page_size: int = 200,
    ) -> "Pages[Message]":
        """Iterate over messages: backwards from `before` (0: the newest), or forwards from `after`."""
        size = max(1, min(page_size, MAX_PAGE))
        is_forward = after is not None
        place = before if after is None else after

        async def fetch() -> tuple[Sequence[Message], bool]:
            nonlocal place
            page = await self.history_page(
                conversation_id,
                before=0 if is_forward else place,
                after=place if is_forward else None,
                thread=thread,
                limit=size,
            )
            if not page.items:
                return (), False
            if is_forward:
                place = page.items[-1].seq
                return page.items, page.more
            place = page.items[0].seq
            return page.items[::-1], page.more

        return Pages(fetch)

    async def sync_page(self, conversation_id: str, after: int, *, limit: int = 200) -> r.EventPage:
        """Read one page of a conversation's events after a cursor. `events()` does this by itself."""
        return await self._ask(
            c.Sync(id=self._next_id(), conversation_id=conversation_id, after=after, limit=limit), r.EventPage
        )

    async def sync_inbox_page(self, after: int, *, limit: int = 200) -> r.EventPage:
        """Read one page of the own inbox's events after a cursor. `events()` does this by itself."""
        return await self._ask(c.SyncInbox(id=self._next_id(), after=after, limit=limit), r.EventPage)

    # -- conversations ------------------------------------------------------------------------------

    async def open_direct(self, user_id: str) -> ConversationSummary:
        """Open the conversation with one other user; the same one each time."""
        reply = await self._ask(c.OpenDirect(id=self._next_id(), user_id=user_id), r.ConversationInfo)
        return reply.conversation

    async def create_group(
        self, title: str, member_ids: Iterable[str] = (), *, client_id: str | None = None
    ) -> ConversationSummary:
        """Create a group owned by the signed-in user. The same client_id gives the same group again."""
        reply = await self._ask(
            c.CreateGroup(
                id=self._next_id(),
                client_id=client_id or new_client_id(),
                title=title,
                member_ids=list(member_ids),
            ),
            r.ConversationInfo,
        )
        return reply.conversation

    async def get_conversation(self, conversation_id: str) -> ConversationSummary:
        """Read one line of the conversation list."""
        reply = await self._ask(
            c.GetConversation(id=self._next_id(), conversation_id=conversation_id), r.ConversationInfo
        )
        return reply.conversation

    def list_conversations(self, *, page_size: int = 100) -> "Pages[ConversationSummary]":
        """Iterate over all own conversations, newest first."""
        after = ""

        async def fetch() -> tuple[Sequence[ConversationSummary], bool]:
            nonlocal after
            page = await self._ask(
                c.ListConversations(id=self._next_id(), after=after, limit=page_size), r.ConversationList
            )
            after = page.next
            return page.items, bool(page.next)

        return Pages(fetch)

    async def list_members(self, conversation_id: str) -> list[Member]:
        """Read all members with their receipts."""
        return (await self.member_list(conversation_id)).items

    async def member_list(self, conversation_id: str) -> r.MemberList:
        """Read all members and who is banned."""
        return await self._ask(
            c.ListMembers(id=self._next_id(), conversation_id=conversation_id), r.MemberList
        )

    async def add_members(self, conversation_id: str, user_ids: Iterable[str]) -> r.Changed:
        """Add users to a group. For admins and the owner."""
        return await self._ask(
            c.AddMembers(id=self._next_id(), conversation_id=conversation_id, user_ids=list(user_ids)),
            r.Changed,
        )

    async def remove_member(self, conversation_id: str, user_id: str, *, ban: bool = False) -> r.Changed:
        """Remove a member of a lower role, or ban a user."""
        return await self._ask(
            c.RemoveMember(id=self._next_id(), conversation_id=conversation_id, user_id=user_id, ban=ban),
            r.Changed,
        )

    async def unban(self, conversation_id: str, user_id: str) -> r.Changed:
        """Lift a ban."""
        return await self._ask(
            c.Unban(id=self._next_id(), conversation_id=conversation_id, user_id=user_id), r.Changed
        )

    async def leave(self, conversation_id: str) -> r.Changed:
        """Leave a group."""
        return await self._ask(c.Leave(id=self._next_id(), conversation_id=conversation_id), r.Changed)

    async def rename(self, conversation_id: str, title: str) -> r.Changed:
        """Give a group another title."""
        return await self._ask(
            c.Rename(id=self._next_id(), conversation_id=conversation_id, title=title), r.Changed
        )

    async def set_role(self, conversation_id: str, user_id: str, role: Role) -> r.Changed:
        """Give a member another role; "owner" hands the group over."""
        return await self._ask(
            c.SetRole(id=self._next_id(), conversation_id=conversation_id, user_id=user_id, role=role),
            r.Changed,
        )

    async def silence(self, conversation_id: str, user_id: str, until_ms: int) -> r.Changed:
        """Keep a member from posting until then (Unix ms); 0 lifts it."""
        return await self._ask(
            c.Silence(
                id=self._next_id(), conversation_id=conversation_id, user_id=user_id, until_ms=until_ms
            ),
            r.Changed,
        )

    async def mute(self, conversation_id: str, until_ms: int) -> None:
        """Mute a conversation's alerts for oneself until then (Unix ms); 0 lifts it."""
        await self._ask(c.Mute(id=self._next_id(), conversation_id=conversation_id, until_ms=until_ms), r.Ok)

    async def create_invite(
        self, conversation_id: str, *, expires_at_ms: int = 0, max_uses: int = 0
    ) -> Invite:
        """Make an invite. Not repeated by itself: after a lost connection it raises `outcome_unknown`."""
        reply = await self._ask(
            c.CreateInvite(
                id=self._next_id(),
                conversation_id=conversation_id,
                expires_at_ms=expires_at_ms,
                max_uses=max_uses,
            ),
            r.InviteInfo,
        )
        return reply.invite

    async def list_invites(self, conversation_id: str) -> list[Invite]:
        """Read a group's working invites."""
        reply = await self._ask(
            c.ListInvites(id=self._next_id(), conversation_id=conversation_id), r.InviteList
        )
        return reply.items

    async def revoke_invite(self, conversation_id: str, code: str) -> r.Changed:
        """End an invite."""
        return await self._ask(
            c.RevokeInvite(id=self._next_id(), conversation_id=conversation_id, code=code), r.Changed
        )

    async def join(self, code: str) -> ConversationSummary:
        """Join a group by an invite's code."""
        return (await self._ask(c.Join(id=self._next_id(), code=code), r.ConversationInfo)).conversation

    # -- people -------------------------------------------------------------------------------------

    async def get_users(self, user_ids: Iterable[str]) -> list[Profile]:
        """Read profiles by id; unknown ids are left out."""
        reply = await self._ask(c.GetUsers(id=self._next_id(), user_ids=list(user_ids)), r.ProfileList)
        return reply.items

    async def find_users(self, prefix: str, *, limit: int = 20) -> list[Profile]:
        """Find users whose user name or name begins with these letters."""
        reply = await self._ask(c.FindUsers(id=self._next_id(), prefix=prefix, limit=limit), r.ProfileList)
        return reply.items

    async def update_profile(
        self,
        *,
        name: str | None = None,
        avatar: str | None = None,
        language: str | None = None,
        time_zone: str | None = None,
    ) -> list[Profile]:
        """Change the own profile; what is None stays."""
        reply = await self._ask(
            c.UpdateProfile(
                id=self._next_id(), name=name, avatar=avatar, language=language, time_zone=time_zone
            ),
            r.ProfileList,
        )
        return reply.items

    async def list_contacts(self) -> list[Contact]:
        """Read contacts and open requests."""
        return (await self.contact_list()).items

    async def contact_list(self) -> r.ContactList:
        """Read contacts, open requests and whom the user has blocked."""
        return await self._ask(c.ListContacts(id=self._next_id()), r.ContactList)

    async def request_contact(self, user_id: str) -> None:
        """Ask a user to be a contact; where that user has asked already, this accepts."""
        await self._ask(c.RequestContact(id=self._next_id(), user_id=user_id), r.Ok)

    async def answer_contact(self, user_id: str, accept: bool) -> None:
        """Accept or decline a contact request."""
        await self._ask(c.AnswerContact(id=self._next_id(), user_id=user_id, accept=accept), r.Ok)

    async def remove_contact(self, user_id: str) -> None:
        """End a contact, or take back a request."""
        await self._ask(c.RemoveContact(id=self._next_id(), user_id=user_id), r.Ok)

    async def block(self, user_id: str) -> None:
        """Block a user."""
        await self._ask(c.Block(id=self._next_id(), user_id=user_id), r.Ok)

    async def unblock(self, user_id: str) -> None:
        """Lift a block."""
        await self._ask(c.Unblock(id=self._next_id(), user_id=user_id), r.Ok)

    # -- log-ins ------------------------------------------------------------------------------------

    async def list_sessions(self) -> list[DeviceSession]:
        """Read all log-ins of the signed-in user."""
        return (await self._ask(c.ListSessions(id=self._next_id()), r.SessionList)).items

    async def revoke_session(self, session_id: str) -> None:
        """End one log-in."""
        await self._ask(c.RevokeSession(id=self._next_id(), session_id=session_id), r.Ok)

    async def log_out(self) -> None:
        """End this log-in; the client ends with it."""
        await self._ask(c.Logout(id=self._next_id()), r.Ok)

    @abstractmethod
    async def watch_presence(self, user_ids: Iterable[str], *, contacts: bool = False) -> list[PresenceItem]:
        """Replace the set of users whose presence is told; kept over reconnects."""
