"""What both uvicorn peers know and allow: who a token is, conversations and their members, places and pages.

No sockets and no JSON: how commands come in and how answers and events go out is each peer's own.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Generic, NamedTuple, Protocol, TypeVar

import jwt

from bench.peers.uvicorn_store import MessageRow, Store, User
from protocol.errors import Refused
from protocol.limits import MAX_GROUP_MEMBERS, MAX_TEXT_BYTES
from protocol.types import ConversationKind


class _Connected(Protocol):
    @property
    def user(self) -> User: ...


C = TypeVar("C", bound=_Connected)


class Page(NamedTuple):
    """Messages that were asked for, and whether there are more on that side."""

    rows: list[MessageRow]
    more: bool


class Conversation:
    """A conversation and its members. `last_seq` is the last one given out, `head` the last one stored."""

    def __init__(
        self,
        conversation_id: str,
        kind: ConversationKind,
        title: str,
        member_ids: Sequence[str],
        head: int = 0,
    ) -> None:
        self.conversation_id = conversation_id
        self.kind = kind
        self.title = title
        self.member_ids = frozenset(member_ids)
        self.head = self.last_seq = head
        self.stored: asyncio.Future[None] | None = None  # set where it was made by this process

    def peer_id(self, user_id: str) -> str:
        """Return the other one of a direct conversation; of a group, the empty string."""
        others = self.member_ids - {user_id} if self.kind == "direct" else ()
        return next(iter(others), "")


class Online(Generic[C]):
    """The connections of each user who has one."""

    def __init__(self) -> None:
        self.by_user: dict[str, set[C]] = {}

    def attach(self, connection: C) -> None:
        self.by_user.setdefault(connection.user.user_id, set()).add(connection)

    def detach(self, connection: C) -> None:
        connections = self.by_user[connection.user.user_id]
        connections.discard(connection)
        if not connections:
            del self.by_user[connection.user.user_id]


class Rooms:
    """All users and conversations. Where something is not allowed: Refused."""

    def __init__(self, store: Store, secret: str) -> None:
        self._store = store
        self._secret = secret
        self._conversations: dict[str, Conversation] = {}
        self._of_user: dict[str, list[Conversation]] = {}
        self._directs: dict[frozenset[str], Conversation] = {}
        for row in store.conversations():
            kind: ConversationKind = "direct" if row.kind == "direct" else "group"
            self._add(Conversation(row.conversation_id, kind, row.title, row.member_ids, row.head))

    async def sign_in(self, token: str) -> User:
        """Verify a token, and make its user at the first use. Raises: Refused(unauthenticated)."""
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=["HS256"], options={"require": ["exp", "sub"]}
            )
        except jwt.PyJWTError as exc:
            raise Refused("unauthenticated", str(exc)) from None
        subject = str(claims["sub"])
        user = self._store.user_of(subject)
        if user is None:
            await self._store.add_user(token_hex(8), subject, str(claims.get("name", subject)))
            user = self._store.user_of(subject)
            assert user is not None  # ours, or that of a connection which was faster
        return user

    def with_news(self, user: User, cursors: Mapping[str, int]) -> list[Conversation]:
        """Return the user's conversations that have more than a device has, which its cursors tell."""
        return [
            each
            for each in self._of_user.get(user.user_id, ())
            if each.head > cursors.get(each.conversation_id, 0)
        ]

    def place(
        self, user: User, conversation_id: str, text: str, client_id: str
    ) -> tuple[Conversation, MessageRow]:
        """Give a message its place. It has to go to the store at once: places are stored in their order."""
        conversation = self._conversation(user, conversation_id)
        if not text:
            raise Refused("text_empty")
        if len(text) > MAX_TEXT_BYTES or len(text.encode()) > MAX_TEXT_BYTES:
            raise Refused("text_too_long")
        conversation.last_seq = seq = conversation.last_seq + 1
        row = MessageRow(conversation.conversation_id, seq, now_ms(), user.user_id, text, client_id)
        return conversation, row

    def history(self, user: User, conversation_id: str, before: int, after: int | None, limit: int) -> Page:
        """Return messages by rising seq: the first ones after a seq, or else the last ones before one."""
        conversation = self._conversation(user, conversation_id)
        if after is not None:
            return self._page_after(conversation, after, limit)
        rows = self._store.messages_before(conversation.conversation_id, before, limit + 1)
        return Page(rows[:limit][::-1], len(rows) > limit)

    def sync(self, user: User, conversation_id: str, after: int, limit: int) -> tuple[Conversation, Page]:
        """Return the first messages after a seq."""
        conversation = self._conversation(user, conversation_id)
        return conversation, self._page_after(conversation, after, limit)

    async def open_direct(self, user: User, other_id: str) -> tuple[Conversation, bool]:
        """Return the conversation of two, stored, and whether it is new."""
        members = frozenset((user.user_id, other_id))
        if len(members) == 1:
            raise Refused("self_not_allowed")
        if not self._store.has_users([other_id]):
            raise Refused("user_not_found")
        conversation = self._directs.get(members)
        is_new = conversation is None
        if conversation is None:
            conversation = self._make("direct", "", members)
        if conversation.stored is not None:
            await asyncio.shield(conversation.stored)  # both may wait for it
        return conversation, is_new

    async def create_group(self, user: User, title: str, member_ids: Sequence[str]) -> Conversation:
        """Make a group of this user and others; return it stored."""
        members = frozenset((user.user_id, *member_ids))
        if len(members) > MAX_GROUP_MEMBERS:
            raise Refused("group_full")
        if not self._store.has_users(member_ids):
            raise Refused("user_not_found")
        conversation = self._make("group", title, members)
        assert conversation.stored is not None
        await asyncio.shield(conversation.stored)
        return conversation

    def _make(self, kind: ConversationKind, title: str, members: frozenset[str]) -> Conversation:
        conversation = Conversation(token_hex(8), kind, title, sorted(members))
        conversation.stored = self._store.add_conversation(
            conversation.conversation_id, kind, title, conversation.member_ids
        )
        self._add(conversation)
        return conversation

    def _add(self, conversation: Conversation) -> None:
        self._conversations[conversation.conversation_id] = conversation
        for user_id in conversation.member_ids:
            self._of_user.setdefault(user_id, []).append(conversation)
        if conversation.kind == "direct":
            self._directs[conversation.member_ids] = conversation

    def _conversation(self, user: User, conversation_id: str) -> Conversation:
        conversation = self._conversations.get(conversation_id)
        if conversation is None or user.user_id not in conversation.member_ids:
            raise Refused("conversation_not_found")
        return conversation

    def _page_after(self, conversation: Conversation, seq: int, limit: int) -> Page:
        rows = self._store.messages_after(conversation.conversation_id, seq, limit + 1)
        return Page(rows[:limit], len(rows) > limit)


def now_ms() -> int:
    """Tell the time, in Unix milliseconds."""
    return time.time_ns() // 1_000_000
