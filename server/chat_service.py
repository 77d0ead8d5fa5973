"""Give commands their meaning: what goes to an actor, what is read from the store, what the hub does.

Commands that change something go to the actor that owns it, and are answered by it. Reads go straight to the
store: they never queue behind writes, and never wake an actor. The exceptions are list_members, list_invites
and list_contacts, which the actor answers from its memory, so that they show what was decided before them.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeVar

import msgspec
import structlog
import trio

from actors.address import Address
from actors.conversation_rules import direct_id, group_id
from actors.hub import Hub
from actors.messages import (
    Ask,
    Closed,
    Create,
    Delivered,
    LoggedOut,
    OpenBetween,
    Opened,
    Place,
    Told,
    encode_tell,
)
from actors.ports import Fanout
from actors.reply import Reply as ReplyPort
from actors.router import Router
from actors.user_rules import needs_other, profile_of
from protocol import commands, events, replies
from protocol.codec import Encoded
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
from protocol.records import (
    Advance,
    BlockRow,
    ContactRow,
    Device,
    DeviceCursor,
    Entry,
    InviteRow,
    LastSeen,
    MemberRow,
    MessageState,
    Put,
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
    Message,
    NodeInfo,
    PresenceItem,
    Profile,
    ReceiptItem,
    ServerLimits,
)
from server.identity import Identity
from server.session import Session
from storage.store import Store

ASK_TIMEOUT_S: Final = 10.0
CURSOR_FLUSH_S: Final = 1.0  # a device cursor that is lost by a crash costs a second of replay
MAX_WAITING_CURSORS: Final = 5_000  # of one user; what is beyond is told again by the next heartbeat
_MAX_WAITING_DEVICES: Final = 50_000
_MAX_UNTOLD: Final = 50_000  # more connections than one node holds
_FLUSH_CHUNK: Final = 1_000
_MAX_LINES: Final = 1_000  # conversations told in one welcome
_BRIEF_CHARS: Final = 200  # of a message in a conversation list

log = structlog.get_logger(__name__)

T = TypeVar("T")


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


class Caller(msgspec.Struct, frozen=True):
    """Who gives a command, and over which connection; 0: by HTTP."""

    identity: Identity
    conn_id: int = 0
    device_id: str = ""

    @property
    def user_id(self) -> str:
        return self.identity.user.user_id

    @property
    def app_id(self) -> str:
        return self.identity.app_id


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
    ) -> None:
        """`announced` returns when the other nodes know of the sessions that were attached before.

        `check_members`: let the hub hear what these users are in by the store; None where it always does.
        """
        self._store = store
        self._router = router
        self._hub = hub
        self._fanout = fanout
        self._announced = announced
        self._boot = boot
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
        self._cursors: dict[str, dict[tuple[str, str], int]] = {}  # user_id -> (device_id, stream) -> seq
        self._devices: dict[tuple[str, str], Device] = {}
        self._opened: dict[int, tuple[str, Opened]] = {}  # conn_id -> whose, and what was told of it
        # For user actors that could not be reached; the newest of each connection.
        self._untold: dict[tuple[str, Place | str | None], Opened | Closed | Told] = {}
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
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer reads and write device cursors, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                while True:
                    await trio.sleep(CURSOR_FLUSH_S)
                    self._retry_untold()
                    await self.judge_sight()
                    await self.flush_cursors()
            finally:
                self._nursery = None

    # -- sessions (server.session.SessionService) ---------------------------------------------------

    async def open(self, session: Session, hello: Hello) -> Welcome:
        """Attach a session, then read what its device has missed: so nothing falls between."""
        identity = session.identity
        user_id = identity.user.user_id
        session.context = caller = Caller(identity, session.conn_id, hello.device_id)
        self._hub.attach(session, identity.session_id, hello.focus)
        opened = Opened(self._place(session.conn_id), hello.device_id, self._now_ms())
        self._opened[session.conn_id] = (user_id, opened)
        self._tell_user(user_id, opened)
        await self._announced()
        members = await self._store.find(MemberRow, {"user_id": user_id}, limit=100_000)
        self._hub.join(session.conn_id, (row.conversation_id for row in members))
        inbox = await self._store.head(inbox_stream(user_id))
        stored: dict[str, int] = {}
        if hello.cursors is None or hello.inbox_cursor is None:
            stored = await self._store.device_cursors(user_id, hello.device_id)
        cursors = hello.cursors
        if cursors is None:
            cursors = {s[2:]: seq for s, seq in stored.items() if s.startswith("c:")}
        inbox_cursor = hello.inbox_cursor
        if inbox_cursor is None:
            inbox_cursor = stored.get(inbox_stream(user_id), 0)
        lines: list[UnreadLine] = []
        if members:
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
        self._hub.seed(session.conn_id, stands, inbox.seq)
        device_key = (user_id, hello.device_id)
        self._devices[device_key] = Device(
            user_id=user_id, device_id=hello.device_id, client=hello.client, last_seen_ms=self._now_ms()
        )
        if hello.cursors:
            self._note_cursors(caller, hello.cursors, hello.inbox_cursor or 0)
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
            inbox_head=inbox.seq,
            inbox_cursor=inbox_cursor,
            heads=heads,
            heads_complete=len(members) <= _MAX_LINES,
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
            if key in self._doubtful:
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
        elif (read := self._reads.get(kind)) is not None:
            if self._nursery is None:
                raise Unavailable("draining")
            self._nursery.start_soon(self._answer, read, caller, command, reply)
        else:
            reply.resolve(self._of_connection(caller, command))

    def closed(self, session: Session) -> None:
        """Detach a session."""
        self._hub.detach(session.conn_id, was_silent=session.close_code is CloseCode.HEARTBEAT_TIMEOUT)
        _, opened = self._opened.pop(session.conn_id, ("", None))
        if opened is not None:
            self._tell_user(session.user_id, Closed(opened.place, self._now_ms()))

    def shards_moved(self, shards: Collection[int]) -> None:
        """Other actors serve these users from now on: tell them who is connected here."""
        for user_id, opened in list(self._opened.values()):
            if Address("user", user_id).shard in shards:
                self._tell_user(user_id, msgspec.structs.replace(opened, is_repeated=True))

    def lost(self, user_id: str, at_ms: int) -> None:
        """The last connection of a user was on a node that was lost then."""
        self._tell_user(user_id, Closed(None, at_ms))

    def _place(self, conn_id: int) -> Place:
        return Place(self._node_id, self._boot(), conn_id)

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
        read = self._reads.get(kind)
        if read is None or kind is commands.WatchPresence:
            raise Refused("bad_request", "This command needs a connection; see /ws.")
        return await read(caller, command)

    def session_revoked(self, session_id: str, user_id: str) -> None:
        """Close a log-in's connections on all nodes and tell the user's other devices."""
        self._fanout.close_session(user_id, session_id)
        told = Told(f"logout:{session_id}", encode_tell(LoggedOut(session_id)))
        self._tell_surely(user_id, session_id, told)

    # -- plumbing -----------------------------------------------------------------------------------

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
                self._note_cursors(caller, command.cursors, command.inbox_cursor)
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
                self._note_cursors(caller, command.cursors, command.inbox_cursor)
            case commands.Focus():
                self._hub.set_focus(caller.conn_id, command.conversation_ids)
            case commands.Activity():
                self._moved(caller, is_active=command.active)
            case _:
                raise ProtocolError("unknown_type", f"{type(command).__name__} is not handled here.")
        return replies.Ok()

    def _moved(self, caller: Caller, *, is_active: bool) -> None:
        self._hub.moved(caller.conn_id, is_active=is_active)

    def _tell_user(self, user_id: str, message: Opened | Closed) -> None:
        """Tell the user's actor of a connection."""
        self._tell_surely(user_id, message.place, message)

    def _tell_surely(self, user_id: str, about: Place | str | None, message: Opened | Closed | Told) -> None:
        """Tell the user's actor, on whatever node, again if it cannot be reached now or does not answer."""
        self._untold.pop((user_id, about), None)
        self._router.ask_nowait(Address("user", user_id), message, _Receipt(self, user_id, about, message))

    def not_told(self, user_id: str, about: Place | str | None, message: Opened | Closed | Told) -> None:
        """A message did not reach the user's actor, or may not have: it is told again."""
        if isinstance(message, Opened):
            message = msgspec.structs.replace(message, is_repeated=True)
        if len(self._untold) < _MAX_UNTOLD:
            self._untold.setdefault((user_id, about), message)  # unless there is newer news

    def _retry_untold(self) -> None:
        waiting, self._untold = self._untold, {}
        for (user_id, about), message in waiting.items():
            if not isinstance(message, Opened) or self._hub.is_attached(message.place.conn_id):
                self._tell_surely(user_id, about, message)

    def _note_cursors(self, caller: Caller, cursors: dict[str, int], inbox_cursor: int) -> None:
        self._hub.delivered(caller.user_id, cursors, caller.conn_id)
        waiting = self._cursors.setdefault(caller.user_id, {})
        for conversation_id, seq in cursors.items():
            if self._hub.is_member(caller.conn_id, conversation_id):
                _raise_cursor(waiting, (caller.device_id, conversation_stream(conversation_id)), seq)
        if inbox_cursor:
            _raise_cursor(waiting, (caller.device_id, inbox_stream(caller.user_id)), inbox_cursor)

    async def flush_cursors(self) -> None:
        """Write what devices have told; a failure leaves it for the next time."""
        await self._flush_devices()
        await self._flush_delivered()

    async def _flush_devices(self) -> None:
        devices, self._devices = self._devices, {}
        told, self._cursors = self._cursors, {}
        cursors = [
            DeviceCursor(user_id=user_id, device_id=device_id, stream=stream, seq=seq)
            for user_id, waiting in told.items()
            for (device_id, stream), seq in waiting.items()
        ]
        try:
            for puts in _chunks(list(devices.values())):
                await self._store.commit([Put(device) for device in puts])
            for part in _chunks(cursors):
                heads = await self._heads_for((cursor.stream, cursor.seq) for cursor in part)
                await self._store.commit(
                    [
                        Put(msgspec.structs.replace(cursor, seq=min(cursor.seq, heads[cursor.stream])))
                        for cursor in part
                        if heads[cursor.stream]
                    ]
                )
        except Unavailable as error:
            log.warning("cursors_not_stored", code=error.code, count=len(devices) + len(cursors))
            for user_id, waiting in told.items():
                newer = self._cursors.setdefault(user_id, {})
                for key, seq in waiting.items():
                    _raise_cursor(newer, key, seq)
            if len(self._devices) + len(devices) <= _MAX_WAITING_DEVICES:
                self._devices = devices | self._devices

    async def _flush_delivered(self) -> None:
        """Store how far users have got in conversations whose actor sleeps, without waking it."""
        waiting = self._hub.watermarks.take()
        told = [(c, user_id, seq) for c, seqs in waiting.items() for user_id, seq in seqs.items()]
        done = 0
        try:
            for part in _chunks(told):
                heads = await self._heads_for((conversation_stream(c), seq) for c, _, seq in part)
                stored: dict[str, dict[str, int]] = {}
                for conversation_id, user_id, seq in part:
                    if held := min(seq, heads[conversation_stream(conversation_id)]):
                        stored.setdefault(conversation_id, {})[user_id] = held
                await self._store.commit(
                    [
                        Advance(conversation_id=conversation_id, user_id=user_id, delivered_seq=seq)
                        for conversation_id, seqs in stored.items()
                        for user_id, seq in seqs.items()
                    ]
                )
                done += len(part)
                for conversation_id, seqs in stored.items():
                    self._delivered_stored(conversation_id, seqs)
        except Unavailable as error:
            log.warning("delivered_not_stored", code=error.code, count=len(told) - done)
        finally:
            for conversation_id, user_id, seq in told[done:]:
                self._hub.watermarks.put_back(conversation_id, {user_id: seq})

    def _delivered_stored(self, conversation_id: str, seqs: dict[str, int]) -> None:
        """Tell of watermarks that were stored: the actor, if it woke meanwhile, or else those who look."""
        if self._router.tell_if_active(Address("conversation", conversation_id), Delivered(seqs)):
            return
        items = [ReceiptItem(user_id=user_id, delivered_seq=seq) for user_id, seq in seqs.items()]
        encoded = Encoded(events.Receipts(conversation_id=conversation_id, items=items))
        # A key of its own: it must not take the place of what the actor tells of other members.
        key = ("receipts", conversation_id, *seqs)
        self._fanout.publish_live(conversation_id, key, encoded, to=None, is_state=True)

    async def _heads_for(self, told: Iterable[tuple[str, int]]) -> dict[str, int]:
        """A bound for what devices claim to hold of each stream: at most its head, for it only grows.

        Where all claims are below what this node has published itself, nothing is read.
        """
        heads: dict[str, int] = {}
        unknown: set[str] = set()
        for stream, seq in told:
            kind, _, owner_id = stream.partition(":")
            head = self._hub.head_of(owner_id) if kind == "c" else self._hub.inbox_head_of(owner_id)
            heads[stream] = head
            if seq > head:
                unknown.add(stream)
        if unknown:
            read = await self._store.heads(list(unknown))
            for stream in unknown:
                heads[stream] = read.get(stream, 0)
        return heads

    # -- reads --------------------------------------------------------------------------------------

    async def _sync(self, caller: Caller, command: Command) -> Reply:
        assert isinstance(command, commands.Sync)
        conversation_id = command.conversation_id
        await self._check_member(caller, conversation_id)
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
        stream = conversation_stream(conversation_id)
        is_rising = command.after is not None
        found = await self._store.read_messages(
            stream,
            before=command.before,
            after=command.after,
            thread=command.thread,
            limit=command.limit,
            max_bytes=PAGE_BYTES,
        )
        messages = [read_message(conversation_id, entry, state) for entry, state in found]
        items = _fitting(messages if is_rising else messages[::-1])
        more = len(items) < len(messages)
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
        before = _parse_place(command.after)
        lines = await self._store.conversation_lines(caller.user_id, before=before, limit=command.limit + 1)
        more = len(lines) > command.limit
        lines = lines[: command.limit]
        place = f"{lines[-1].updated_at_ms}.{lines[-1].conversation_id}" if more else ""
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
        return [_summary(user_id, line, last.get(line.conversation_id)) for line in lines]

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


class _Receipt:
    """The reply of a message to a user's actor that must arrive."""

    __slots__ = ("_about", "_message", "_service", "_user_id", "is_done")

    def __init__(
        self, service: ChatService, user_id: str, about: Place | str | None, message: Opened | Closed | Told
    ) -> None:
        self._service = service
        self._user_id = user_id
        self._about = about
        self._message = message
        self.is_done = False

    def resolve(self, value: object) -> None:
        self.is_done = True

    def fail(self, error: HubbubError) -> None:
        if not self.is_done:
            self.is_done = True
            if isinstance(error, Unavailable) and error.code != "crashed":
                self._service.not_told(self._user_id, self._about, self._message)


def _raise_cursor(waiting: dict[tuple[str, str], int], key: tuple[str, str], seq: int) -> None:
    known = waiting.get(key)
    if known is None:
        if seq > 0 and len(waiting) < MAX_WAITING_CURSORS:
            waiting[key] = seq
    elif seq > known:
        waiting[key] = seq


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _FLUSH_CHUNK):
        yield items[start : start + _FLUSH_CHUNK]


def _fitting(messages: list[Message]) -> list[Message]:
    """As many messages, one at least, as fit into a page with the texts and reactions that they have now."""
    size_bytes = 0
    for number, message in enumerate(messages):
        reacted_count = sum(len(reaction.user_ids) for reaction in message.reactions)
        size_bytes += len(message.text) + 30 * reacted_count + 200
        if number and size_bytes > PAGE_BYTES:
            return messages[:number]
    return messages


def _parse_place(place: str) -> tuple[int, str] | None:
    if not place:
        return None
    at_ms, dot, conversation_id = place.partition(".")
    if not dot or not at_ms.isascii() or not at_ms.isdigit() or len(at_ms) > 16:
        raise Refused("bad_cursor")
    return int(at_ms), conversation_id


def _summary(
    user_id: str, line: UnreadLine, last: tuple[Entry, MessageState | None] | None
) -> ConversationSummary:
    message: Message | None = None
    if last is not None:
        message = read_message(line.conversation_id, *last)
        if len(message.text) > _BRIEF_CHARS:
            message = msgspec.structs.replace(message, text=message.text[:_BRIEF_CHARS])
    return ConversationSummary(
        conversation_id=line.conversation_id,
        kind="direct" if line.kind == "direct" else "group",
        title=line.title,
        head=line.head,
        message_count=line.message_count,
        unread=line.unread,
        mentions_unread=line.mentions_unread,
        read_seq=line.read_seq,
        role="owner" if line.role == "owner" else "admin" if line.role == "admin" else "member",
        member_count=line.member_count,
        peer_id=line.user_b if line.user_a == user_id else line.user_a,
        muted_until_ms=line.muted_until_ms,
        updated_at_ms=line.updated_at_ms,
        last_message=message,
    )
