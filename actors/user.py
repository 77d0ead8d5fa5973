"""The actor of one user: the own inbox stream, contacts and blocks, profile, and devices that are connected.

It stays while the user is connected. It is the only writer of the user's inbox and of the user's own side of
every contact; the other side is written by the other user's actor, told durably.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from actors import user_rules
from actors.address import Address
from actors.conversation_rules import direct_id
from actors.entity import EntityContext
from actors.feed.address import feed_address
from actors.messages import (
    AddedTo,
    Ask,
    BlockMoved,
    BlockStands,
    Closed,
    ContactAccepted,
    ContactAsked,
    ContactGone,
    FollowerMoved,
    FollowSettled,
    LoggedOut,
    MutedIn,
    NoticeDue,
    Opened,
    RemovedFrom,
    Told,
    decode_tell,
)
from actors.notify.address import notify_address
from actors.notify.messages import UserChanged
from actors.ports import Fanout, FeedIndex, Leases, Log, Relay, WallClock
from actors.reply import NO_REPLY, OnFailure, Reply
from actors.stream_actor import After, Answer, Staged, StreamActor
from actors.user_rules import Circle
from protocol import commands, events, feed_events, replies
from protocol.codec import Encoded
from protocol.errors import HubbubError, Refused
from protocol.events import InboxEvent
from protocol.records import (
    Appended,
    BlockRow,
    ContactRow,
    LastSeen,
    LogRow,
    Op,
    Put,
    Remove,
    Tell,
    Update,
    User,
    inbox_stream,
)
from protocol.stored_events import body_of
from protocol.types import ContactState

KIND: Final = "user"
_RETRY_S: Final = 0.25


class _TellBlock(msgspec.Struct, frozen=True):
    """Tell a conversation how a block stands; `after_s`: not at once."""

    conversation_id: str
    other_id: str
    after_s: float = 0.0


class UserActor(StreamActor):
    """Own one user. Take `Ask`, `Told`, `Opened` and `Closed`."""

    def __init__(
        self,
        address: Address,
        *,
        log: Log,
        leases: Leases,
        fanout: Fanout,
        relay: Relay,
        now_ms: WallClock,
        index: FeedIndex,
    ) -> None:
        super().__init__(
            address, inbox_stream(address.id), log=log, leases=leases, relay=relay, now_ms=now_ms
        )
        self._id = address.id
        self._fanout = fanout
        self._index = index
        self._circle: Circle | None = None
        self._head = 0
        self._devices: dict[str, Opened] = {}  # device_id -> its newest connection, as was told
        self._user: User | None = None  # as changed last, stored or in flight

    # -- life ---------------------------------------------------------------------------------------

    async def activate(self, ctx: EntityContext) -> None:
        """Read where the inbox stands; contacts and blocks are read when first needed."""
        self._ctx = ctx
        head = await self._log.head(self._stream)
        self._head = head.seq
        self._last_at_ms = head.at_ms
        if ctx.restarted:
            self._fanout.resync_user(self._id, head.seq)

    def is_needed(self) -> bool:
        """A connected user's actor stays awake, however quiet the user is."""
        return self._fanout.is_connected(self._id)

    async def _load_circle(self) -> Circle:
        if self._circle is None:
            where: dict[str, str | int | None] = {"user_id": self._id}
            contacts = await self._log.find(ContactRow, where, limit=100_000)
            blocked = await self._log.find(BlockRow, where, limit=100_000)
            self._circle = Circle({row.other_id: row for row in contacts}, {row.other_id for row in blocked})
        return self._circle

    # -- messages -----------------------------------------------------------------------------------

    async def handle(self, message: object, reply: Reply) -> None:
        if isinstance(message, Ask):
            await self._command(message, reply)
        elif isinstance(message, Told):
            await self._told(message, reply)
        elif isinstance(message, Opened):
            self._opened(message)
            reply.resolve(replies.Ok())
        elif isinstance(message, Closed):
            self._closed(message)
            reply.resolve(replies.Ok())
        elif isinstance(message, _TellBlock):
            await self._tell_block(message)
        else:
            raise TypeError(f"a user does not take {type(message).__name__}")

    def placed(self, staged: Staged, at: Appended) -> None:
        self._head = at.seq
        assert staged.event is not None
        event = msgspec.structs.replace(staged.event, seq=at.seq, at_ms=at.at_ms)
        self._fanout.publish_user(self._id, at.seq, Encoded(event))

    def _stage(
        self,
        event: InboxEvent,
        *,
        reply: Reply = NO_REPLY,
        answer: Answer | None = None,
        ops: Sequence[Op] = (),
        client_id: str | None = None,
        after: After | None = None,
    ) -> None:
        self._stage_ops(ops)
        self._stage_row(
            LogRow(
                stream=self._stream,
                kind=str(event.__struct_config__.tag),
                at_ms=self._at_ms(),
                user_id=self._id,
                body=body_of(event),
                client_id=client_id,
            ),
            Staged(reply, answer, user_id=self._id, event=event, after=after),
        )

    # -- connections --------------------------------------------------------------------------------

    def _opened(self, message: Opened) -> None:
        """A device is on one node at a time: where it was before, a connection may be half open for long.

        Never the other way round: what a frozen node tells when it wakes up must not close the connection
        with which its client went on elsewhere.
        """
        known = self._devices.get(message.device_id)
        if known is None:
            self._devices[message.device_id] = message
        elif known.place != message.place and not message.is_repeated and message.at_ms >= known.at_ms:
            self._devices[message.device_id] = message
            self._fanout.replace_connection(self._id, known.place)

    def _closed(self, message: Closed) -> None:
        if message.place is None and self._fanout.is_connected(self._id):
            return  # back already
        for device_id in [d for d, known in self._devices.items() if message.place in (known.place, None)]:
            del self._devices[device_id]
        if not self._fanout.is_connected(self._id):
            self._stage_ops([Put(LastSeen(user_id=self._id, at_ms=message.at_ms))])

    # -- what others told ---------------------------------------------------------------------------

    async def _told(self, message: Told, reply: Reply) -> None:
        """Store the effect of a durable tell and remove the tell, in one append."""
        done: list[Op] = [Remove(Tell, {"tell_id": message.tell_id})]
        client_id = f"tell:{message.tell_id}"
        tell = decode_tell(message.body)
        event: InboxEvent | None = None
        after: After | None = None
        match tell:
            case AddedTo():
                event = events.ConversationAdded(conversation_id=tell.conversation_id, by=tell.by)
            case RemovedFrom():
                event = events.ConversationRemoved(
                    conversation_id=tell.conversation_id, by=tell.by, banned=tell.banned
                )
            case MutedIn():
                event = events.ConversationMuted(conversation_id=tell.conversation_id, until_ms=tell.until_ms)
            case LoggedOut():
                event = events.SessionRevoked(session_id=tell.session_id)
                session_id = tell.session_id

                def close(_at: Appended | None) -> None:
                    self._fanout.close_session(self._id, session_id)

                after = close
            case ContactAsked():
                event = await self._asked(tell.user_id, done)
            case ContactAccepted():
                event = await self._accepted(tell.user_id, done)
            case ContactGone():
                event = await self._gone(tell.user_id, done)
            case FollowSettled():
                event = feed_events.FollowChanged(user_id=tell.author_id, follow=tell.state)
            case FollowerMoved():
                event = feed_events.FollowerChanged(user_id=tell.follower_id, follow=tell.state)
            case _:
                raise TypeError(f"a user is not told {type(tell).__name__}")
        if event is None:
            self._stage_ops(done, Staged(reply, _ok))
        else:
            self._stage(event, reply=reply, answer=_ok, ops=done, client_id=client_id, after=after)

    async def _asked(self, other_id: str, ops: list[Op]) -> InboxEvent | None:
        circle = await self._load_circle()
        if other_id in circle.blocked:  # the block came between: the other side must not wait for an answer
            self._stage_tell(other_id, ContactGone(self._id))
            return None
        state = user_rules.after_asked(circle, other_id)
        if state is None:
            return None
        await self._stage_notice(other_id, "contact_accepted" if state == "accepted" else "contact_request")
        if state == "accepted":  # both asked: both have said yes
            self._stage_tell(other_id, ContactAccepted(self._id))
        return self._set_contact(other_id, state, ops)

    async def _accepted(self, other_id: str, ops: list[Op]) -> InboxEvent | None:
        circle = await self._load_circle()
        row = circle.contacts.get(other_id)
        if row is None:  # taken back meanwhile: the other side must not keep it
            self._stage_tell(other_id, ContactGone(self._id))
            return None
        if row.state == "accepted":
            return None
        await self._stage_notice(other_id, "contact_accepted")
        return self._set_contact(other_id, "accepted", ops)

    async def _stage_notice(self, other_id: str, template: str) -> None:
        """Let this user be notified of what the other one has said."""
        user = self._user or await self._log.get(User, self._id)
        if user is not None:
            due = NoticeDue(
                user_id=self._id,
                app_id=user.app_id,
                actor_id=other_id,
                type_name="contact",
                template=template,
                subject=other_id,
                url=f"/#u/{other_id}",
            )
            self._stage_tell_to(notify_address(self._id), due)

    async def _gone(self, other_id: str, ops: list[Op]) -> InboxEvent | None:
        """Drop the own side, and say so.

        What was dropped may be newer than what the other side spoke of (a request that crossed a removal),
        and then the other side must not keep its part of it. It ends there: who has nothing says nothing.
        """
        circle = await self._load_circle()
        if other_id not in circle.contacts:
            return None
        self._stage_tell(other_id, ContactGone(self._id))
        return self._drop_contact(other_id, ops)

    def _set_contact(self, other_id: str, state: ContactState, ops: list[Op]) -> InboxEvent:
        assert self._circle is not None
        row = ContactRow(user_id=self._id, other_id=other_id, state=state, since_ms=self._at_ms())
        self._circle.contacts[other_id] = row
        ops.append(Put(row))
        return events.ContactChanged(user_id=other_id, contact=user_rules.contact_of(row))

    def _drop_contact(self, other_id: str, ops: list[Op]) -> InboxEvent:
        assert self._circle is not None
        del self._circle.contacts[other_id]
        ops.append(Remove(ContactRow, {"user_id": self._id, "other_id": other_id}))
        return events.ContactChanged(user_id=other_id)

    # -- commands -----------------------------------------------------------------------------------

    async def _command(self, ask: Ask, reply: Reply) -> None:
        match ask.command:
            case commands.RequestContact(user_id=other_id):
                await self._request(ask, other_id, reply)
            case commands.AnswerContact(user_id=other_id, accept=accept):
                await self._answer(other_id, reply, accept=accept)
            case commands.RemoveContact(user_id=other_id):
                await self._remove_contact(other_id, reply)
            case commands.Block(user_id=other_id):
                await self._block(ask, other_id, reply)
            case commands.Unblock(user_id=other_id):
                await self._unblock(ask, other_id, reply)
            case commands.UpdateProfile() as command:
                await self._update_profile(ask, command, reply)
            case commands.ListContacts():
                circle = await self._load_circle()
                reply.resolve(
                    replies.ContactList(
                        items=[user_rules.contact_of(row) for row in circle.contacts.values()],
                        blocked=sorted(circle.blocked),
                    )
                )
            case command:
                raise TypeError(f"a user does not take {type(command).__name__}")

    async def _other(self, ask: Ask, other_id: str) -> User:
        """Another user of the same app."""
        user_rules.needs_other(self._id, other_id)
        other = await self._log.get(User, other_id)
        if other is None or other.app_id != ask.app_id:
            raise Refused("user_not_found")
        return other

    async def _request(self, ask: Ask, other_id: str, reply: Reply) -> None:
        await self._other(ask, other_id)
        circle = await self._load_circle()
        if other_id in circle.blocked or await self._log.get(BlockRow, other_id, self._id) is not None:
            raise Refused("blocked")
        state = user_rules.after_request(circle, other_id)
        if state is None:
            self._answer_in_order(reply, replies.Ok())
            return
        ops: list[Op] = []
        event = self._set_contact(other_id, state, ops)
        tell = ContactAccepted(self._id) if state == "accepted" else ContactAsked(self._id)
        self._stage_tell(other_id, tell)
        self._stage(event, reply=reply, answer=_ok, ops=ops)

    async def _answer(self, other_id: str, reply: Reply, *, accept: bool) -> None:
        circle = await self._load_circle()
        row = circle.contacts.get(other_id)
        if row is not None and row.state == "accepted" and accept:
            self._answer_in_order(reply, replies.Ok())
            return
        if row is None or row.state != "incoming":
            raise Refused("contact_not_found")
        ops: list[Op] = []
        if accept:
            event = self._set_contact(other_id, "accepted", ops)
            self._stage_tell(other_id, ContactAccepted(self._id))
        else:
            event = self._drop_contact(other_id, ops)
            self._stage_tell(other_id, ContactGone(self._id))
        self._stage(event, reply=reply, answer=_ok, ops=ops)

    async def _remove_contact(self, other_id: str, reply: Reply) -> None:
        circle = await self._load_circle()
        if other_id not in circle.contacts:
            raise Refused("contact_not_found")
        ops: list[Op] = []
        event = self._drop_contact(other_id, ops)
        self._stage_tell(other_id, ContactGone(self._id))
        self._stage(event, reply=reply, answer=_ok, ops=ops)

    async def _block(self, ask: Ask, other_id: str, reply: Reply) -> None:
        await self._other(ask, other_id)
        circle = await self._load_circle()
        if other_id in circle.blocked:
            self._block_moved(ask.app_id, other_id, blocked=True)  # the first time may have ended in a crash
            self._answer_in_order(reply, replies.Ok())
            return
        circle.blocked.add(other_id)
        row = BlockRow(user_id=self._id, other_id=other_id, since_ms=self._at_ms())
        ops: list[Op] = [Put(row)]
        # Neither follows the other any more.
        self._stage_tell_to(feed_address(self._id), BlockStands(self._id, other_id))
        self._stage_tell_to(feed_address(other_id), BlockStands(other_id, self._id))
        if other_id in circle.contacts:
            gone: list[Op] = []
            self._stage(self._drop_contact(other_id, gone), ops=gone)
            self._stage_tell(other_id, ContactGone(self._id))
        event = events.BlockChanged(user_id=other_id, blocked=True)
        self._stage(
            event,
            reply=reply,
            answer=_ok,
            ops=ops,
            after=lambda _at: self._block_moved(ask.app_id, other_id, blocked=True),
        )

    async def _unblock(self, ask: Ask, other_id: str, reply: Reply) -> None:
        circle = await self._load_circle()
        if other_id not in circle.blocked:
            self._answer_in_order(reply, replies.Ok())
            return
        circle.blocked.discard(other_id)
        self._stage(
            events.BlockChanged(user_id=other_id, blocked=False),
            reply=reply,
            answer=_ok,
            ops=[Remove(BlockRow, {"user_id": self._id, "other_id": other_id})],
            after=lambda _at: self._block_moved(ask.app_id, other_id, blocked=False),
        )

    def _block_moved(self, app_id: str, other_id: str, *, blocked: bool) -> None:
        """Let it take effect now where the two meet; what is not awake reads it when it wakes."""
        conversation_id = direct_id(app_id, self._id, other_id)
        self._tell_conversation(conversation_id, other_id, blocked)
        self._index.blocked(self._id, other_id, blocked=blocked)
        if blocked:
            self._fanout.part(self._id, other_id)

    async def _tell_block(self, message: _TellBlock) -> None:
        """Tell a conversation that could not be told before how the block stands by now."""
        if message.after_s:
            self._ctx.post_after(message.after_s, msgspec.structs.replace(message, after_s=0.0))
            return
        blocked = message.other_id in (await self._load_circle()).blocked
        self._tell_conversation(message.conversation_id, message.other_id, blocked)

    def _tell_conversation(self, conversation_id: str, other_id: str, blocked: bool) -> None:
        """Tell how a block stands; without an answer it is told again."""

        def again(error: HubbubError) -> None:
            after_s = max(_RETRY_S, error.retry_after_s or 0.0)
            self._ctx.post(_TellBlock(conversation_id, other_id, after_s))

        moved = BlockMoved(self._id, other_id, blocked)
        self._ctx.router.ask_nowait(Address("conversation", conversation_id), moved, OnFailure(again))

    async def _update_profile(self, ask: Ask, command: commands.UpdateProfile, reply: Reply) -> None:
        """Store a change whose values the accounts have checked."""
        # Read once: the row is this actor's to write, and a change in flight must not be read past.
        user = self._user or await self._log.get(User, self._id)
        if user is None or user.app_id != ask.app_id:
            raise Refused("user_not_found")
        values: dict[str, str | int | None] = {
            name: value
            for name in ("name", "avatar", "language", "time_zone")
            if (value := getattr(command, name)) is not None and value != getattr(user, name)
        }
        if not values:
            self._answer_in_order(reply, replies.ProfileList(items=[user_rules.profile_of(user)]))
            return
        if "name" in values:
            values["name_key"] = user_rules.fold(command.name or "")
        self._user = msgspec.structs.replace(user, **values)
        profile = user_rules.profile_of(self._user)
        self._stage(
            events.ProfileChanged(profile=profile),
            reply=reply,
            answer=lambda _at: replies.ProfileList(items=[profile]),
            ops=[Update(User, {"user_id": self._id}, values)],
            after=self._tell_changed,
        )

    def _tell_changed(self, _at: Appended | None) -> None:
        """Let notifications go by it. A tell that is lost does no harm for long: see fact_keeper.py."""
        self._ctx.tell(notify_address(self._id), UserChanged(self._id))


def _ok(_at: Appended | None) -> replies.Ok:
    return replies.Ok()
