"""Take back what hubbub itself has told of a message, a comment or a post that was deleted.

What waits is cancelled as that of a request is. What was shown goes from the centre, and its words from the
store: who deletes something expects it to be gone. What was pushed already is on the user's device.
"""

from typing import Final

import msgspec

from actors.entity import EntityContext
from actors.messages import Deleted, Told, decode_tell
from actors.notify.cancel_finder import PAGE, Cancel
from actors.notify.canceller import NO_ROOM_RETRY_S, Canceller
from actors.notify.messages import CancelPart, Notify
from actors.notify.sender import NOTIFICATIONS_STREAM
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import notify_events, notify_replies, replies
from protocol.codec import Encoded
from protocol.errors import HubbubError, Unavailable
from protocol.notify_records import NotificationRow
from protocol.notify_types import Decision
from protocol.records import Remove, Tell

SOURCES: Final = frozenset(("chat", "hubbub"))  # of Notify: who tells of things that can be deleted


class WithdrawnFound(msgspec.Struct, frozen=True):
    """What has been told of a thing, as it is stored once all that waited is cancelled; or why not."""

    tell: Deleted
    rows: list[NotificationRow] = []
    is_last: bool = False
    error: HubbubError | None = None
    is_own: bool = True


class Withdrawer(Canceller):
    """Take `Deleted`."""

    async def activate(self, ctx: EntityContext) -> None:
        # Tells by app and what is gone.
        self._withdrawals: dict[tuple[str, str], list[tuple[str, Reply]]] = {}
        await super().activate(ctx)

    def may_passivate(self) -> bool:
        return super().may_passivate() and not self._withdrawals

    def take_told(self, told: Told, reply: Reply) -> None:
        tell = decode_tell(told.body)
        if not isinstance(tell, Deleted):
            super().take_told(told, reply)
            return
        tells = self._withdrawals.setdefault((tell.app_id, tell.thing), [])
        tells.append((told.tell_id, reply))
        if len(tells) == 1:
            self.cancel_part(CancelPart(tell.app_id, tell.thing), _Waiting(self, tell))

    def is_withdrawn(self, message: Notify) -> bool:
        """Tell a notice that was on its way when the thing that it tells of was deleted."""
        return message.source in SOURCES and (message.app_id, message.request_id) in self._called_off

    def drop_withdrawn(self, message: Notify, reply: Reply) -> None:
        """Answer as if nobody had wanted to know."""
        reply.resolve(notify_replies.NotifyAccepted(request_id=message.request_id))

    def begin_withdrawal(self, tell: Deleted, after: int = 0) -> None:
        """All that waited is cancelled: look what has been told."""
        self._ctx.start_soon(self._find_withdrawn, tell, after)

    async def _find_withdrawn(self, tell: Deleted, after: int) -> None:
        try:
            await self._log.barrier()
            rows = await self._reads.of_request(
                tell.app_id, tell.thing, self._partition, after=after, limit=PAGE
            )
        except HubbubError as error:
            self._ctx.post(WithdrawnFound(tell, error=error))
            return
        self._ctx.post(WithdrawnFound(tell, rows, is_last=len(rows) < PAGE))

    def withdrawn_found(self, found: WithdrawnFound) -> None:
        """Blank what was told, and take it out of the centre; with the last page the tells are done."""
        if found.error is not None:
            self.give_up_withdrawal(found.tell, found.error)
            return
        if not self.has_room():
            self._ctx.post_after(NO_ROOM_RETRY_S, found)
            return
        if not self._has_users(list({row.user_id for row in found.rows}), found, NO_REPLY):
            return
        rows = [row for row in found.rows if row.state != "erased" and not _tells_of_others(row)]
        ops, _ = self._blank(rows, Decision("withdraw", "drop", "deleted", found.tell.thing))
        gone: dict[str, list[int]] = {}
        for row in rows:
            if row.in_centre:
                gone.setdefault(row.user_id, []).append(row.notification_id)
        for user_id, ids in gone.items():
            self._tell_gone(user_id, ids)
        if not found.is_last:
            last_id = found.rows[-1].notification_id
            then = Staged(NO_REPLY, None, after=lambda _at: self.begin_withdrawal(found.tell, last_id))
            self._stage_ops(ops, then)
            return
        self._stage_ops(ops)
        for tell_id, reply in self._withdrawals.pop((found.tell.app_id, found.tell.thing)):
            self._stage_ops([Remove(Tell, {"tell_id": tell_id})], Staged(reply, lambda _at: replies.Ok()))

    def group_ended(self, cancel: Cancel, head: NotificationRow) -> None:
        """What opened the batch goes by itself; where that went before, the batch goes with its last."""
        if cancel.key not in self._withdrawals or head.request_id == cancel.request_id:
            return
        ops, _ = self._blank([head], Decision("withdraw", "drop", "deleted", cancel.request_id))
        self._stage_ops(ops)
        if head.in_centre:
            self._tell_gone(head.user_id, [head.notification_id])

    def _tell_gone(self, user_id: str, ids: list[int]) -> None:
        """Let the user's devices know, once it is stored, that these are in the centre no more."""
        user = self._users.get(user_id)
        if user is None:
            return
        event = notify_events.NotificationsMarked(
            mark="dismissed", notification_ids=ids, unread=len(user.unread)
        )

        def tell(_at: object) -> None:
            key = ("notifications_marked", str(ids[0]))
            self._fanout.publish_user_live(user_id, key, Encoded(event), stream=NOTIFICATIONS_STREAM)

        self._stage_ops((), Staged(NO_REPLY, None, after=tell))

    def give_up_withdrawal(self, tell: Deleted, error: HubbubError) -> None:
        """The tells come again."""
        for _, reply in self._withdrawals.pop((tell.app_id, tell.thing)):
            reply.fail(error)

    def _not_loaded(self, message: object) -> None:
        super()._not_loaded(message)
        if isinstance(message, WithdrawnFound):
            self.give_up_withdrawal(message.tell, Unavailable("busy"))


class _Waiting:
    """The reply of a cancellation that a withdrawal begins with."""

    is_done: Final = False

    def __init__(self, withdrawer: Withdrawer, tell: Deleted) -> None:
        self._withdrawer = withdrawer
        self._tell = tell

    def resolve(self, value: object) -> None:
        """All that waited is cancelled."""
        self._withdrawer.begin_withdrawal(self._tell)

    def fail(self, error: HubbubError) -> None:
        """It could not be."""
        self._withdrawer.give_up_withdrawal(self._tell, error)


def _tells_of_others(row: NotificationRow) -> bool:
    """Tell one that has others in it by now: it counts them, and shows none of their words."""
    return row.state == "held" or row.item_count > 1
