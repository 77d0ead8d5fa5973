"""Let members who are away know of a conversation's messages, by notification: once, whatever crashes.

A row for each message and member would slow the chat down. Instead the conversation stores one marker, a
ChatNotice, in the same append as the first message that finds somebody away. A moment later it works out who
has not read what, and asks the partitions of those users; when all of them have stored it, the marker goes,
or moves on to what has been said meanwhile. As long as it stands, a message costs nothing here.

Before it asks, it stores how far it tells. So after a crash the same is asked again, with the same key, and
changes nothing for those who had been told.
"""

from collections.abc import Sequence
from itertools import filterfalse
from random import random
from typing import Final

import msgspec
import trio

from actors import chat_notices as rules
from actors.chat_notices import Absent
from actors.conversation_base import ConversationBase
from actors.feed.author_rules import retry_delay_s
from actors.messages import Deleted, message_thing
from actors.notify.address import partition_address, partition_of
from actors.notify.messages import Notify
from actors.reply import NO_REPLY
from actors.stream_actor import Batch, Staged
from protocol.errors import HubbubError, Refused, Unavailable
from protocol.notify_records import ChatNotice
from protocol.records import Appended, Op, Put, Remove, User
from protocol.stored_events import read_message
from protocol.types import Message

_ASK_TIMEOUT_S: Final = 15.0
_READ_PAGE: Final = 500


class _Look(msgspec.Struct, frozen=True):
    """See who is to be told. `number`: of the timer, so that one that was replaced is known."""

    number: int


class _Told(msgspec.Struct, frozen=True):
    """All have been told, so many of them; or not, and why."""

    upto_seq: int
    count: int
    error: HubbubError | None = None


class Notices(ConversationBase):
    """Tell who is away."""

    _notice: ChatNotice | None = None  # as decided last, stored or in flight
    _is_telling = False
    _failed_count = 0  # times in a row
    _unplaced_count = 0  # messages in flight
    _newest_seq = 0  # of the messages that are stored
    _away_id = ""  # who was away when it was looked last
    _all_here: tuple[Batch, int] | None = None  # in this batch, of so many members, nobody was away
    _is_urgent = False  # somebody was mentioned while others were being told
    _look_number = 0
    _look_at = float("inf")  # trio.current_time() seconds of the timer that counts

    async def _take_up_notice(self) -> None:
        """Go on with what an earlier incarnation has not told; part of `activate`."""
        self._newest_seq = self._known.head
        self._notice = await self._log.get(ChatNotice, self._id)
        if self._notice is not None:
            self._look_in(rules.DEBOUNCE_S)

    def is_needed(self) -> bool:
        """Stay for what is to be told, unless the node or the shard is given up: the marker is stored."""
        return self._notice is not None

    def is_patient(self, batch: Batch) -> bool:
        """Nobody waits for a marker that moves or goes."""
        return bool(batch.ops) and not batch.rows and all(map(_is_of_marker, batch.ops))

    # -- while messages come ------------------------------------------------------------------------

    def _message_staged(self, user_id: str, mentions: Sequence[str]) -> None:
        """Store a marker with a message that finds somebody away, unless one stands."""
        self._unplaced_count += 1
        if self._notice is not None:
            if mentions:
                self._is_urgent = self._is_telling
                self._look_in(rules.DEBOUNCE_S)
        elif self._is_somebody_away(user_id, mentions):
            state = self._known
            self._notice = ChatNotice(
                conversation_id=self._id, shard=self._shard, app_id=state.app_id, after_seq=self._newest_seq
            )
            self._stage_ops([Put(self._notice)])
            self._look_in(rules.DEBOUNCE_S)

    def _message_stored(self, at: Appended) -> None:
        self._unplaced_count -= 1
        self._all_here = None
        if at.seq > self._newest_seq and not at.is_duplicate:
            self._newest_seq = at.seq

    def _is_somebody_away(self, sender_id: str, mentions: Sequence[str]) -> bool:
        """Tell whether a member is not connected who would want to know.

        Of many members all are asked, unless the last one who was away still is. It is asked once for each
        batch of messages, which is little beside bringing them to all of the connected.
        """
        is_connected, members = self._fanout.is_connected, self._known.members
        known = self._all_here
        if known is None or known[0] is not self._batch or known[1] != len(members):
            away = members.get(self._away_id)
            if away is not None and self._would_know(away.user_id, sender_id):
                return True
            is_sender_away = False
            for user_id in filterfalse(is_connected, members):
                if user_id == sender_id:
                    is_sender_away = True
                elif self._would_know(user_id, sender_id):
                    self._away_id = user_id
                    return True
            if not is_sender_away:  # else a message of somebody else may find them away
                self._all_here = self._batch, len(members)
        return any(user_id != sender_id and not is_connected(user_id) for user_id in mentions)

    def _would_know(self, user_id: str, sender_id: str) -> bool:
        member = self._known.members[user_id]
        return (
            user_id != sender_id
            and member.muted_until_ms <= self._last_at_ms
            and not self._fanout.is_connected(user_id)
        )

    def _message_deleted(self, seq: int) -> None:
        """Stage that what was told of it be taken back from whoever was away."""
        tell = Deleted(self._known.app_id, message_thing(self._id, seq))
        for partition in sorted(set(map(partition_of, self._known.members))):
            self._stage_tell_to(partition_address(partition), tell)

    # -- telling ------------------------------------------------------------------------------------

    def _look_in(self, delay_s: float) -> None:
        """Look in so many seconds, or earlier."""
        at = self._ctx.now() + delay_s
        if at < self._look_at:
            self._look_at = at
            self._look_number += 1
            self._ctx.post_after(delay_s, _Look(self._look_number))

    def _notices_message(self, message: object) -> bool:
        """Take what this part has posted to itself; returns whether it was that."""
        if isinstance(message, _Look):
            if message.number == self._look_number:
                self._look_at = float("inf")
                self._look()
        elif isinstance(message, _Told):
            self._told(message)
        else:
            return False
        return True

    def _look(self) -> None:
        notice, state = self._notice, self._state
        if notice is None or state is None or self._is_telling:
            return
        if not self._has_room():
            self._look_in(rules.DEBOUNCE_S)
            return
        upto_seq = notice.upto_seq or self._newest_seq
        absent = self._absent(upto_seq)
        if upto_seq <= notice.after_seq or not absent:
            self._settle(max(upto_seq, notice.after_seq), rules.DEBOUNCE_S)
            return
        self._is_telling = True
        self._notice = notice = msgspec.structs.replace(notice, upto_seq=upto_seq)

        def tell(_at: Appended | None) -> None:
            self._ctx.start_soon(self._tell, notice, state.title, absent)

        self._stage_ops([Put(notice)], Staged(NO_REPLY, None, after=tell))

    def _absent(self, upto_seq: int) -> list[Absent]:
        """Who is not connected and has not read so far."""
        state, now_ms = self._known, self._now_ms()
        if state.kind == "direct" and state.blocks:
            return []
        members = state.members
        return [
            Absent(user_id, member.read_seq, state.unread_of(member), member.muted_until_ms > now_ms)
            for user_id in filterfalse(self._fanout.is_connected, members)
            if (member := members[user_id]).read_seq < upto_seq
        ]

    async def _tell(self, notice: ChatNotice, title: str, absent: list[Absent]) -> None:
        """Read what is to be told, and ask the partitions; runs beside the actor."""
        count = 0
        try:
            messages = await self._messages(notice)
            senders = await self._log.find_many(User, "user_id", list({m.user_id for m in messages}))
            names = {user.user_id: user.name or user.username for user in senders}
            due = rules.messages_due(self._id, notice.app_id, title, messages, names, absent)
            count = sum(len(message.user_ids) for _, message in due)
            errors: list[HubbubError] = []
            async with trio.open_nursery() as nursery:
                for partition, message in due:
                    nursery.start_soon(self._ask, partition, message, errors)
            error = errors[0] if errors else None
        except HubbubError as caught:
            error = caught
        self._ctx.post(_Told(notice.upto_seq, count, error))

    async def _messages(self, notice: ChatNotice) -> list[Message]:
        """The messages that are to be told, rising."""
        found: list[Message] = []
        after = max(notice.after_seq, notice.upto_seq - rules.MAX_MESSAGES)
        while after < notice.upto_seq:
            page = await self._log.read_messages(self._stream, after=after, limit=_READ_PAGE)
            found += [
                read_message(self._id, entry, state) for entry, state in page if entry.seq <= notice.upto_seq
            ]
            after = page[-1][0].seq if page else notice.upto_seq
        return found

    async def _ask(self, partition: int, message: Notify, errors: list[HubbubError]) -> None:
        try:
            await self._ctx.router.ask(partition_address(partition), message, timeout_s=_ASK_TIMEOUT_S)
        except Refused as refused:  # it will not be taken later either
            if refused.code != "user_not_found":
                self._ctx.log.warning("chat_notice_refused", code=refused.code, partition=partition)
        except HubbubError as error:
            errors.append(error)

    def _told(self, told: _Told) -> None:
        """Let the marker go, or move on."""
        self._is_telling = False
        if told.error is None and self._has_room():
            self._failed_count = 0
            self._settle(told.upto_seq, rules.pause_s(told.count))
            return
        error = told.error or Unavailable("busy")
        self._failed_count += 1
        if self._failed_count == 8:
            self._ctx.log.warning("chat_notice_delayed", code=error.code, attempt=self._failed_count)
        self._look_in(retry_delay_s(self._failed_count, error.retry_after_s, random()))

    def _settle(self, upto_seq: int, pause_s: float) -> None:
        """Up to there all is told. What has been said since is looked at after a pause."""
        if self._unplaced_count or self._newest_seq > upto_seq:
            assert self._notice is not None
            notice = msgspec.structs.replace(self._notice, after_seq=upto_seq, upto_seq=0)
            if notice != self._notice:
                self._notice = notice
                self._stage_ops([Put(notice)])
            self._look_in(rules.DEBOUNCE_S if self._is_urgent else pause_s)
            self._is_urgent = False
        else:
            self._notice = None
            self._stage_ops([Remove(ChatNotice, {"conversation_id": self._id})])

    def _has_room(self) -> bool:
        """Tell whether the store takes anything now: a refused append would end the incarnation."""
        try:
            self._log.check_room()
        except HubbubError:
            return False
        return True


def _is_of_marker(op: Op) -> bool:
    table = op.table if isinstance(op, Remove) else type(op.row) if isinstance(op, Put) else None
    return table is ChatNotice
