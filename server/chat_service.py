"""Give commands their meaning: what goes to an actor, what is read from the store, what the hub does.

Commands that change something go to the actor that owns it, and are answered by it. Reads go straight to the
store: they never queue behind writes, and never wake an actor. Those of recent history are answered at once
from what the store is known to hold (server/tails.py). The exceptions are list_members, list_invites
and list_contacts, which the actor answers from its memory, so that they show what was decided before them.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import structlog
import trio

from actors.address import Address
from actors.conversation_rules import direct_id, group_id
from actors.hub import Hub
from actors.messages import (
    Ask,
    Create,
    OpenBetween,
)
from actors.ports import Fanout
from actors.reply import Reply as ReplyPort
from actors.router import Router
from actors.user_rules import needs_other, profile_of
from protocol import commands, replies
from protocol.commands import Command, Hello
from protocol.errors import CloseCode, HubbubError, ProtocolError, Refused, Unavailable
from protocol.limits import (
    HEARTBEAT_INTERVAL_S,
    MAX_CURSORS,
    MAX_FRAME_BYTES,
    MAX_GROUP_MEMBERS,
    MAX_TEXT_BYTES,
    MAX_UNACKED_SENDS,
    MAX_WATCHED_USERS,
    PAGE_BYTES,
)
from protocol.notify_commands import Notify
from protocol.records import (
    AppKey,
    BlockRow,
    ContactRow,
    Device,
    Entry,
    InviteRow,
    LastSeen,
    MemberRow,
    UnreadLine,
    User,
    conversation_stream,
    inbox_stream,
)
from protocol.replies import Reply, Welcome
from protocol.stored_events import read_event, read_inbox_event, read_message
from protocol.types import (
    ConversationSummary,
    DeviceSession,
    Head,
    NodeInfo,
    PresenceItem,
    Profile,
    ServerLimits,
)
from server.caller import Caller
from server.connection_tells import ConnectionTells
from server.device_cursors import DeviceCursors
from server.feed_service import FeedService
from server.identity import Identity
from server.notify_service import NotifyService
from server.pages import fitting, parse_place, place_of, summary
from server.session import Session
from server.tails import Tails
from storage.store import Store

ASK_TIMEOUT_S: Final = 10.0
CURSOR_FLUSH_S: Final = 1.0  # a device cursor that is lost by a crash costs a second of replay
_MAX_LINES: Final = 1_000  # conversations told in one welcome

log = structlog.get_logger(__name__)


class People(Protocol):
    """The part of the directory that clients reach through commands; server/directory.py fits this."""

    async def get_users(self, app_id: str, user_ids: Sequence[str]) -> list[Profile]: ...

    async def find_users(self, app_id: str, prefix: str, limit: int = 20) -> list[Profile]: ...

    async def checked_profile(
        self, identity: Identity, change: commands.UpdateProfile
    ) -> commands.UpdateProfile: ...


class LogIns(Protocol):
    """The part of the log-ins that clients reach through commands; server/log_ins.py fits this."""

    def forget_user(self, user_id: str) -> None: ...

    async def list_sessions(self, identity: Identity) -> list[DeviceSession]: ...

    async def revoke_session(self, identity: Identity, session_id: str) -> None: ...

    async def log_out(self, identity: Identity) -> None: ...

    async def authenticate_app(self, app_key: str, secret: str) -> AppKey: ...


# Commands that the conversation's actor answers.
_FOR_CONVERSATION: Final = (
    commands.Send,
    commands.MarkRead,
    commands.SetTyping,
    commands.Edit,
    commands.Delete,
    commands.React,
    commands.ListMembers,
    commands.RemoveMember,
    commands.Unban,
    commands.Leave,
    commands.Rename,
    commands.SetRole,
    commands.Silence,
    commands.Mute,
    commands.CreateInvite,
    commands.ListInvites,
    commands.RevokeInvite,
)
# Commands that the caller's own actor answers.
_FOR_USER: Final = (
    commands.RequestContact,
    commands.AnswerContact,
    commands.RemoveContact,
    commands.Block,
    commands.Unblock,
    commands.ListContacts,
)
_CONVERSATION_TYPES: Final = frozenset(_FOR_CONVERSATION)
_USER_TYPES: Final = frozenset(_FOR_USER)


class ChatService:
    """Serve sessions (as `SessionService`) and single commands over HTTP (`execute`)."""

    def __init__(
        self,
        *,
        store: Store,
        router: Router,
        hub: Hub,
        people: People,
        log_ins: LogIns,
        node_id: str,
        server: str,
        nodes: Callable[[], list[NodeInfo]],
        now_ms: Callable[[], int],
        max_file_bytes: int,
        fanout: Fanout,
        announced: Callable[[], Awaitable[None]],
        boot: Callable[[], int],
        check_members: Callable[[Iterable[str]], None] | None = None,
        tails: Tails,
        feeds: FeedService,
        notifications: NotifyService,
    ) -> None:
        """`announced` returns when the other nodes know of the sessions that were attached before.

        `check_members`: let the hub hear what these users are in by the store; None where it always does.
        """
        self._store = store
        self._tails = tails
        self._feeds = feeds
        self._notifications = notifications
        self._router = router
        self._hub = hub
        self._fanout = fanout
        self._announced = announced
        self._check_members = check_members
        # Commands of sessions that may be members nevertheless: (conn_id, conversation_id) -> in order.
        self._doubtful: dict[tuple[int, str], list[tuple[Command, ReplyPort]]] = {}
        self._people = people
        self._log_ins = log_ins
        self._node_id = node_id
        self._server = server
        self._nodes = nodes
        self._now_ms = now_ms
        self._limits = ServerLimits(
            max_frame_bytes=MAX_FRAME_BYTES,
            max_text_bytes=MAX_TEXT_BYTES,
            max_group_members=MAX_GROUP_MEMBERS,
            max_unacked_sends=MAX_UNACKED_SENDS,
            max_file_bytes=max_file_bytes,
        )
        self._nursery: trio.Nursery | None = None
        self._cursors = DeviceCursors(store=store, hub=hub, router=router, fanout=fanout)
        self.tells = ConnectionTells(
            router=router, is_attached=hub.is_attached, node_id=node_id, boot=boot, now_ms=now_ms
        )
        self._reads: dict[type[Command], Callable[[Caller, Command], Awaitable[Reply]]] = {
            commands.Sync: self._sync,
            commands.SyncInbox: self._sync_inbox,
            commands.History: self._history,
            commands.ListConversations: self._list_conversations,
            commands.GetConversation: self._get_conversation,
            commands.GetUsers: self._get_users,
            commands.FindUsers: self._find_users,
            commands.OpenDirect: self._open_direct,
            commands.CreateGroup: self._create_group,
            commands.AddMembers: self._add_members,
            commands.Join: self._join,
            commands.UpdateProfile: self._update_profile,
            commands.WatchPresence: self._watch_presence,
            commands.ListSessions: self._list_sessions,
            commands.RevokeSession: self._revoke_session,
            commands.Logout: self._log_out,
            **feeds.reads,
            **notifications.reads,
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer reads and write device cursors, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                while True:
                    await trio.sleep(CURSOR_FLUSH_S)
                    self.tells.retry()
                    await self.judge_sight()
                    await self.flush_cursors()
            finally:
                self._nursery = None

    async def flush_cursors(self) -> None:
        """Write what devices have told; a failure leaves it for the next time."""
        await self._cursors.flush()

    # -- sessions (server.session.SessionService) ---------------------------------------------------

    async def open(self, session: Session, hello: Hello) -> Welcome:
        """Attach a session, then read what its device has missed: so nothing falls between."""
        identity = session.identity
        user_id = identity.user.user_id
        session.context = caller = Caller(identity, session.conn_id, hello.device_id)
        self._hub.attach(session, identity.session_id, hello.focus)
        self.tells.opened(session.conn_id, user_id, hello.device_id)
        await self._announced()
        found = await self._store.arrival(user_id, hello.device_id)
        self._hub.join(session.conn_id, found.conversation_ids)
        stored = found.cursors
        cursors = hello.cursors
        if cursors is None:
            cursors = {s[2:]: seq for s, seq in stored.items() if s.startswith("c:")}
        inbox_cursor = hello.inbox_cursor
        if inbox_cursor is None:
            inbox_cursor = stored.get(inbox_stream(user_id), 0)
        lines: list[UnreadLine] = []
        if found.conversation_ids:  # after they were joined: what comes in between is heard
            lines = await self._store.conversation_lines(user_id, limit=_MAX_LINES)
        heads = [
            Head(
                conversation_id=line.conversation_id,
                head=line.head,
                unread=line.unread,
                read_seq=line.read_seq,
            )
            for line in lines
            if line.head > cursors.get(line.conversation_id, 0)
        ]
        stands = {line.conversation_id: line.head for line in lines}
        self._hub.seed(session.conn_id, stands, found.inbox_head)
        self._cursors.seen(
            Device(
                user_id=user_id, device_id=hello.device_id, client=hello.client, last_seen_ms=self._now_ms()
            )
        )
        if hello.cursors:
            self._note(caller, hello.cursors, hello.inbox_cursor or 0)
        return Welcome(
            user=profile_of(identity.user),
            app_id=identity.app_id,
            session_id=identity.session_id,
            device_id=hello.device_id,
            node_id=self._node_id,
            server=self._server,
            now_ms=self._now_ms(),
            heartbeat_interval_s=HEARTBEAT_INTERVAL_S,
            limits=self._limits,
            nodes=self._nodes(),
            inbox_head=found.inbox_head,
            inbox_cursor=inbox_cursor,
            heads=heads,
            heads_complete=len(found.conversation_ids) <= _MAX_LINES,
            cursors=dict(list(cursors.items())[:MAX_CURSORS]) if hello.cursors is None else {},
        )

    def handle(self, session: Session, command: Command, reply: ReplyPort) -> None:
        """Carry out one command of an open session, without blocking."""
        caller = session.context
        assert isinstance(caller, Caller)
        kind = type(command)
        if kind in _CONVERSATION_TYPES:
            conversation_id: str = command.conversation_id  # type: ignore[union-attr]  # all of that set have it
            key = (caller.conn_id, conversation_id)
            if self._doubtful and key in self._doubtful:
                self._doubtful[key].append((command, reply))
            elif self._hub.is_member(*key):
                self._ask(Address("conversation", conversation_id), caller, command, reply)
            elif self._check_members is None or self._nursery is None:
                raise Refused("conversation_not_found")
            else:
                self._doubtful[key] = [(command, reply)]
                self._nursery.start_soon(self._ask_if_member, caller, conversation_id)
        elif kind in _USER_TYPES:
            self._ask(Address("user", caller.user_id), caller, command, reply)
        elif (address := self._owner_of(caller, kind)) is not None:
            self._ask(address, caller, command, reply)
        elif (read := self._reads.get(kind)) is not None:
            if self._nursery is None:
                raise Unavailable("draining")
            if isinstance(command, Notify) and self._begins(caller, command, reply):
                return
            if isinstance(command, commands.History | commands.Sync) and self._hub.is_member(
                caller.conn_id, command.conversation_id
            ):
                page = self._tails.page(command)
                if page is not None:
                    reply.resolve(page)
                    return
            self._nursery.start_soon(self._answer, read, caller, command, reply)
        else:
            reply.resolve(self._of_connection(caller, command))

    def closed(self, session: Session) -> None:
        """Detach a session."""
        self._hub.detach(session.conn_id, was_silent=session.close_code is CloseCode.HEARTBEAT_TIMEOUT)
        self.tells.closed(session.conn_id)

    # -- single commands ----------------------------------------------------------------------------

    async def execute(self, identity: Identity, command: Command) -> Reply:
        """Carry out one command that came by HTTP, as the bearer of `identity`.

        Raises: HubbubError; Refused("bad_request") for commands that only make sense on a connection.
        """
        caller = Caller(identity)
        kind = type(command)
        if kind in _CONVERSATION_TYPES:
            conversation_id: str = command.conversation_id  # type: ignore[union-attr]  # all of that set have it
            await self._check_member(caller, conversation_id)
            return await self._ask_and_wait(Address("conversation", conversation_id), caller, command)
        if kind in _USER_TYPES:
            return await self._ask_and_wait(Address("user", caller.user_id), caller, command)
        address = self._owner_of(caller, kind)
        if address is not None:
            return await self._ask_and_wait(address, caller, command)
        read = self._reads.get(kind)
        if read is None or kind is commands.WatchPresence:
            raise Refused("bad_request", "This command needs a connection; see /ws.")
        return await read(caller, command)

    def session_revoked(self, session_id: str, user_id: str) -> None:
        """Close a log-in's connections on all nodes and tell the user's other devices."""
        self._fanout.close_session(user_id, session_id)
        self.tells.logged_out(user_id, session_id)

    # -- plumbing -----------------------------------------------------------------------------------

    def _owner_of(self, caller: Caller, kind: type[Command]) -> Address | None:
        """The actor of the feed or of notifications that answers a command by itself."""
        return self._feeds.actor_of(caller, kind) or self._notifications.actor_of(caller, kind)

    def _ask(self, address: Address, caller: Caller, command: Command, reply: ReplyPort) -> None:
        self._router.ask_nowait(address, Ask(caller.user_id, caller.app_id, command), reply)

    async def _ask_and_wait(self, address: Address, caller: Caller, command: Command) -> Reply:
        return await self._ask_message(address, Ask(caller.user_id, caller.app_id, command))

    async def _ask_if_member(self, caller: Caller, conversation_id: str) -> None:
        """Pass on the commands of a session that does not hear the conversation, if its user is a member.

        What another node said of a new membership may have been lost on the way; the store knows. Commands
        that come meanwhile wait behind, so their order is kept.
        """
        key = (caller.conn_id, conversation_id)
        error: HubbubError | None = None
        try:
            await self._check_member(caller, conversation_id)
        except HubbubError as refused:
            error = refused
        finally:
            waiting = self._doubtful.pop(key)
        if error is None and self._check_members is not None:
            self._check_members([caller.user_id])
        for command, reply in waiting:
            if error is not None:
                reply.fail(error)
            else:
                self._ask(Address("conversation", conversation_id), caller, command, reply)

    async def _ask_message(self, address: Address, message: object) -> Reply:
        answer: Reply = await self._router.ask(  # type: ignore[assignment]  # actors answer with Replies
            address, message, timeout_s=ASK_TIMEOUT_S
        )
        return answer

    def _begins(self, caller: Caller, command: Notify, reply: ReplyPort) -> bool:
        """Tell whether a request to notify is under way without a task of its own. Raises: HubbubError."""
        try:
            return self._notifications.begin(caller, command, reply)
        except HubbubError:
            raise
        except Exception:
            log.exception("command_crashed", command="Notify", user_id=caller.user_id)
            raise Unavailable("internal") from None

    async def _answer(
        self,
        read: Callable[[Caller, Command], Awaitable[Reply]],
        caller: Caller,
        command: Command,
        reply: ReplyPort,
    ) -> None:
        try:
            reply.resolve(await read(caller, command))
        except HubbubError as error:
            reply.fail(error)
        except Exception:
            # A read has no actor whose supervisor would log it: this is the place.
            log.exception("command_crashed", command=type(command).__name__, user_id=caller.user_id)
            reply.fail(Unavailable("internal"))

    async def _check_member(self, caller: Caller, conversation_id: str) -> None:
        if caller.conn_id and self._hub.is_member(caller.conn_id, conversation_id):
            return
        if await self._store.get(MemberRow, conversation_id, caller.user_id) is None:
            raise Refused("conversation_not_found")

    # -- what concerns the connection itself --------------------------------------------------------

    def _of_connection(self, caller: Caller, command: Command) -> Reply:
        match command:
            case commands.Heartbeat():
                self._note(caller, command.cursors, command.inbox_cursor)
                self._moved(caller, is_active=command.active)
                behind = [
                    Head(conversation_id=conversation_id, head=head)
                    for conversation_id, seq in command.cursors.items()
                    if (head := self._hub.head_of(conversation_id)) > seq
                    and self._hub.is_member(caller.conn_id, conversation_id)
                ]
                return replies.HeartbeatAck(
                    now_ms=self._now_ms(), heads=behind, inbox_head=self._hub.inbox_head_of(caller.user_id)
                )
            case commands.Ack():
                self._note(caller, command.cursors, command.inbox_cursor)
            case commands.Focus():
                self._hub.set_focus(caller.conn_id, command.conversation_ids)
            case commands.Activity():
                self._moved(caller, is_active=command.active)
            case _:
                raise ProtocolError("unknown_type", f"{type(command).__name__} is not handled here.")
        return replies.Ok()

    def _note(self, caller: Caller, cursors: dict[str, int], inbox_cursor: int) -> None:
        self._cursors.note(caller.user_id, caller.device_id, caller.conn_id, cursors, inbox_cursor)

    def _moved(self, caller: Caller, *, is_active: bool) -> None:
        self._hub.moved(caller.conn_id, is_active=is_active)

    # -- reads --------------------------------------------------------------------------------------

    async def _sync(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.Sync)
        conversation_id = command.conversation_id
        await self._check_member(caller, conversation_id)
        if caller.conn_id and (recent := await self._tails.fetch(command)) is not None:
            return recent
        stream = conversation_stream(conversation_id)
        entries, head, more = await self._page(stream, command.after, command.limit)
        return replies.EventPage(
            conversation_id=conversation_id,
            items=[read_event(conversation_id, entry) for entry in entries],
            head=head,
            more=more,
        )

    async def _sync_inbox(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.SyncInbox)
        stream = inbox_stream(caller.user_id)
        entries, head, more = await self._page(stream, command.after, command.limit)
        return replies.EventPage(items=[read_inbox_event(entry) for entry in entries], head=head, more=more)

    async def _page(self, stream: str, after: int, limit: int) -> tuple[list[Entry], int, bool]:
        """Entries after a cursor, the stream's head, and whether there are more."""
        entries = await self._store.read(stream, after=after, limit=limit, max_bytes=PAGE_BYTES)
        # Read after the page: a short page may have ended before an entry that was too long for it.
        head = (await self._store.head(stream)).seq
        if after > head:
            raise Refused("bad_cursor", f"The head is {head}.")
        return entries, head, bool(entries) and entries[-1].seq < head

    async def _history(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.History)
        if command.before and command.after is not None:
            raise ProtocolError("bad_field", "Give `before` or `after`, not both.")
        conversation_id = command.conversation_id
        await self._check_member(caller, conversation_id)
        if caller.conn_id and (recent := await self._tails.fetch(command)) is not None:
            return recent
        stream = conversation_stream(conversation_id)
        is_rising = command.after is not None
        found = await self._store.read_messages(
            stream,
            before=command.before,
            after=command.after,
            thread=command.thread,
            limit=command.limit + 1,
            max_bytes=PAGE_BYTES,
        )
        more = len(found) > command.limit
        if more:
            found = found[:-1] if is_rising else found[1:]
        messages = [read_message(conversation_id, entry, state) for entry, state in found]
        items = fitting(messages if is_rising else messages[::-1])
        more = more or len(items) < len(messages)
        if items and not more:
            # The store ends a page early where the next message is long: only it can tell if there is one.
            last_seq = items[-1].seq
            more = bool(
                await self._store.read_messages(
                    stream,
                    before=0 if is_rising else last_seq,
                    after=last_seq if is_rising else None,
                    thread=command.thread,
                    limit=1,
                )
            )
        return replies.MessagePage(
            conversation_id=conversation_id, items=items if is_rising else items[::-1], more=more
        )

    async def _list_conversations(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.ListConversations)
        before = parse_place(command.after)
        lines = await self._store.conversation_lines(caller.user_id, before=before, limit=command.limit + 1)
        more = len(lines) > command.limit
        lines = lines[: command.limit]
        place = place_of(lines[-1]) if more else ""
        return replies.ConversationList(items=await self._summaries(caller.user_id, lines), next=place)

    async def _get_conversation(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.GetConversation)
        return await self._info(caller, command.conversation_id)

    async def _info(self, caller: Caller, conversation_id: str, *, created: bool = False) -> Reply:
        line = await self._store.conversation_line(caller.user_id, conversation_id)
        if line is None:
            raise Refused("conversation_not_found")
        summary = (await self._summaries(caller.user_id, [line]))[0]
        return replies.ConversationInfo(conversation=summary, created=created)

    async def _summaries(self, user_id: str, lines: Sequence[UnreadLine]) -> list[ConversationSummary]:
        last = await self._store.last_messages([line.conversation_id for line in lines]) if lines else {}
        return [summary(user_id, line, last.get(line.conversation_id)) for line in lines]

    async def _get_users(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.GetUsers)
        return replies.ProfileList(items=await self._people.get_users(caller.app_id, command.user_ids))

    async def _users(self, app_id: str, user_ids: Sequence[str]) -> dict[str, User]:
        """Those of the users that exist in the app."""
        found = await self._store.find_many(User, "user_id", list(dict.fromkeys(user_ids)))
        return {user.user_id: user for user in found if user.app_id == app_id}

    async def _find_users(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.FindUsers)
        found = await self._people.find_users(caller.app_id, command.prefix, command.limit)
        return replies.ProfileList(items=found)

    async def _update_profile(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.UpdateProfile)
        checked = await self._people.checked_profile(caller.identity, command)
        reply = await self._ask_and_wait(Address("user", caller.user_id), caller, checked)
        self._log_ins.forget_user(caller.user_id)
        return reply

    # -- conversations that begin or grow -----------------------------------------------------------

    async def _blocked_with(self, user_id: str) -> set[str]:
        """Users who blocked this one, or whom this one blocked."""
        own = await self._store.find(BlockRow, {"user_id": user_id}, limit=100_000)
        others = await self._store.find(BlockRow, {"other_id": user_id}, limit=100_000)
        return {row.other_id for row in own} | {row.user_id for row in others}

    async def _known(self, caller: Caller, user_ids: Sequence[str]) -> list[str]:
        """These users, if all exist in the caller's app and no block stands between. Raises: Refused."""
        wanted = [u for u in dict.fromkeys(user_ids) if u != caller.user_id]
        known = await self._users(caller.app_id, wanted) if wanted else {}
        blocked = await self._blocked_with(caller.user_id) if wanted else set()
        for user_id in wanted:
            if user_id not in known:
                raise Refused("user_not_found", f"There is no user {user_id}.")
            if user_id in blocked:
                raise Refused("blocked")
        return wanted

    async def _open_direct(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.OpenDirect)
        needs_other(caller.user_id, command.user_id)
        conversation_id = direct_id(caller.app_id, caller.user_id, command.user_id)
        line = await self._store.conversation_line(caller.user_id, conversation_id)
        if line is None:
            await self._known(caller, [command.user_id])
            message = OpenBetween(caller.user_id, command.user_id, caller.app_id)
            return await self._begin(caller, conversation_id, message)
        return await self._info(caller, conversation_id)

    async def _create_group(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.CreateGroup)
        member_ids = await self._known(caller, command.member_ids)
        conversation_id = group_id(caller.app_id, caller.user_id, command.client_id)
        message = Create(caller.user_id, caller.app_id, command.title, tuple(member_ids))
        return await self._begin(caller, conversation_id, message)

    async def _begin(self, caller: Caller, conversation_id: str, message: object) -> Reply:
        changed = await self._ask_message(Address("conversation", conversation_id), message)
        created = isinstance(changed, replies.Changed) and changed.seq > 0
        return await self._info(caller, conversation_id, created=created)

    async def _add_members(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.AddMembers)
        await self._check_member(caller, command.conversation_id)
        await self._known(caller, command.user_ids)
        return await self._ask_and_wait(Address("conversation", command.conversation_id), caller, command)

    async def _join(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.Join)
        invite = await self._store.get(InviteRow, command.code)
        if invite is None or invite.app_id != caller.app_id:
            raise Refused("invite_not_found")
        await self._ask_and_wait(Address("conversation", invite.conversation_id), caller, command)
        return await self._info(caller, invite.conversation_id)

    # -- presence -----------------------------------------------------------------------------------

    async def _watch_presence(self, caller: Caller, command: Command) -> Reply:
        """Watch contacts and members of shared conversations; others, and blocked ones, are left out."""
        assert isinstance(command, commands.WatchPresence)
        version = self._hub.presence.rights_version
        asked = set(command.user_ids)
        if command.contacts:
            asked |= await self._contacts(caller.user_id)
        allowed = await self._in_sight(caller.user_id, asked)
        watched = sorted(allowed)[:MAX_WATCHED_USERS]
        self._hub.presence.watch(caller.conn_id, watched)
        if self._hub.presence.rights_version != version:
            self._hub.presence.doubt(caller.user_id)  # somebody left somewhere while this was read
        return replies.PresenceList(items=await self._presence(watched))

    async def _contacts(self, user_id: str) -> set[str]:
        rows = await self._store.find(ContactRow, {"user_id": user_id}, limit=100_000)
        return {row.other_id for row in rows if row.state == "accepted"}

    async def _in_sight(self, user_id: str, other_ids: set[str]) -> set[str]:
        """Those of the others with whom a user shares presence."""
        allowed = other_ids & await self._contacts(user_id)
        if rest := other_ids - allowed:
            allowed |= await self._store.sharing_conversation(user_id, list(rest))
        return allowed - await self._blocked_with(user_id) if allowed else allowed

    async def judge_sight(self) -> None:
        """Part those who have no reason any more to see each other's presence."""
        doubted = self._hub.presence.take_doubted()
        try:
            while doubted:
                user_id = doubted[-1]
                others = self._hub.presence.in_sight_of(user_id) - {user_id}
                if others:
                    for other_id in others - await self._in_sight(user_id, others):
                        self._hub.presence.part(user_id, other_id)
                doubted.pop()
        except Unavailable as error:
            log.warning("presence_not_judged", code=error.code, count=len(doubted))
        finally:
            for user_id in doubted:
                self._hub.presence.doubt(user_id)

    async def _presence(self, user_ids: Sequence[str]) -> list[PresenceItem]:
        """What is shown of these users, as of after the reads: a change meanwhile is not lost."""
        seen: dict[str, int] = {}
        for start in range(0, len(user_ids), 1000):
            rows = await self._store.find_many(LastSeen, "user_id", user_ids[start : start + 1000])
            seen |= {row.user_id: row.at_ms for row in rows}
        return [
            self._hub.presence.of(user_id)
            or PresenceItem(user_id=user_id, state="offline", last_seen_ms=seen.get(user_id, 0))
            for user_id in user_ids
        ]

    # -- log-ins ------------------------------------------------------------------------------------

    async def _list_sessions(self, caller: Caller, _command: Command) -> Reply:
        return replies.SessionList(items=await self._log_ins.list_sessions(caller.identity))

    async def _revoke_session(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.RevokeSession)
        await self._log_ins.revoke_session(caller.identity, command.session_id)
        return replies.Ok()

    async def _log_out(self, caller: Caller, _command: Command) -> Reply:
        await self._log_ins.log_out(caller.identity)
        return replies.Ok()
