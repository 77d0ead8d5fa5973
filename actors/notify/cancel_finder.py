"""Find what a partition has of a request that is to be cancelled, page by page, and answer in the end.

Each page is read after all that was decided before is stored. Requests are remembered for a while, so that a
page of users that was on its way is not notified after all.
"""

from collections import OrderedDict
from typing import Final

import msgspec

from actors.entity import EntityContext
from actors.notify.builtin_types import DIGEST
from actors.notify.fact_keeper import FactKeeper
from actors.notify.messages import CancelPart, Notify
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol.errors import HubbubError, Unavailable
from protocol.notify_records import DeliveryRow, NotificationRow
from protocol.notify_replies import RequestCancelled

PAGE: Final = 250  # cancelled in one append
MAX_MEMBERS: Final = 1_000  # of one batch, looked at for what it tells without those that leave
MAX_CALLED_OFF: Final = (
    1_000  # requests cancelled last, of all apps: pages of them that come late are refused
)


class CancelFound(msgspec.Struct, frozen=True):
    """Notifications of a request as they were stored, with all that hangs on them; or why not.

    `last_id`: of a page, 0: these were looked at once more. `heads`: of the batches and digests that hold
    some of them; `members`: of those batches. `awaiting`: those that are done, and of which a provider may
    yet tell that it did not deliver them.
    """

    key: tuple[str, str]
    rows: list[NotificationRow] = []
    last_id: int = 0
    is_last: bool = False
    deliveries: list[DeliveryRow] = []
    heads: dict[int, NotificationRow] = {}
    members: dict[int, list[NotificationRow]] = {}
    dead: frozenset[int] = frozenset()
    awaiting: frozenset[int] = frozenset()
    error: HubbubError | None = None
    is_own: bool = True


class Cancel:
    """A request that is being cancelled here. `key`: app and request id; another app may guess the latter."""

    __slots__ = (
        "after",
        "again",
        "app_id",
        "counts",
        "is_last",
        "key",
        "released",
        "replies",
        "request_id",
        "seen",
    )

    def __init__(self, message: CancelPart) -> None:
        self.key = (message.app_id, message.request_id)
        self.app_id = message.app_id
        self.request_id = message.request_id
        self.replies: list[Reply] = []
        self.after = 0  # up to this id it has been read
        self.is_last = False
        self.again: list[int] = []  # to be looked at once more
        self.seen: set[tuple[int, int]] = set()  # open deliveries that were not in memory when first seen
        self.released: set[int] = set()  # what has been released since the last read began
        self.counts = {"cancelled": 0, "partly": 0, "under_way": 0, "kept": 0}

    def answer(self) -> RequestCancelled:
        """What has become of this partition's part."""
        return msgspec.convert(
            {"request_id": self.request_id, "state": "cancelled", **self.counts}, RequestCancelled
        )


class CancelFinder(FactKeeper):
    """Take `CancelPart`, and find what there is of its request."""

    async def activate(self, ctx: EntityContext) -> None:
        self._cancels: dict[tuple[str, str], Cancel] = {}
        self._called_off: OrderedDict[tuple[str, str], None] = OrderedDict()
        await super().activate(ctx)

    def may_passivate(self) -> bool:
        return super().may_passivate() and not self._cancels

    def is_called_off(self, message: Notify) -> bool:
        """Tell a page of a request that was cancelled meanwhile."""
        return message.source == "request" and (message.app_id, message.request_id) in self._called_off

    def cancel_part(self, message: CancelPart, reply: Reply) -> None:
        """Cancel what there is of a request; answered when all of it is stored."""
        key = (message.app_id, message.request_id)
        known = self._cancels.get(key)
        if known is not None:
            known.replies.append(reply)
            return
        self._called_off[key] = None
        if len(self._called_off) > MAX_CALLED_OFF:
            self._called_off.popitem(last=False)
        cancel = self._cancels[key] = Cancel(message)
        cancel.replies.append(reply)
        self._go_on(cancel)

    def _go_on(self, cancel: Cancel) -> None:
        """Read on, or answer, once all that was decided is stored."""

        def then(_at: object = None) -> None:
            if cancel.again or not cancel.is_last:
                cancel.released.clear()
                again, cancel.again = cancel.again, []
                self._ctx.start_soon(self._find_cancelled, cancel, again)
                return
            self._cancels.pop(cancel.key, None)
            for reply in cancel.replies:
                reply.resolve(cancel.answer())

        if self._in_flight or self._batch.staged or self._batch.ops:
            self._stage_ops((), Staged(NO_REPLY, None, after=then))
        else:
            then()

    def _give_up(self, cancel: Cancel, error: HubbubError) -> None:
        self._cancels.pop(cancel.key, None)
        for reply in cancel.replies:
            reply.fail(error)

    async def _find_cancelled(self, cancel: Cancel, again: list[int]) -> None:
        try:
            if again:
                rows = await self._reads.notifications(again)
            else:
                rows = await self._reads.of_request(
                    cancel.app_id, cancel.request_id, self._partition, after=cancel.after, limit=PAGE
                )
            open_ids = [row.notification_id for row in rows if row.state == "open"]
            deliveries = await self._reads.open_of(open_ids) if open_ids else []
            sent_ids = [row.notification_id for row in rows if row.state in ("open", "done", "cancelled")]
            dead = await self._reads.dead_of(sent_ids) if sent_ids else []
            done_ids = [row.notification_id for row in rows if row.state == "done"]
            awaiting = await self._reads.awaiting_receipts(done_ids) if done_ids else []
            grouped = {row.into_id for row in rows if row.state == "merged"}
            grouped |= {row.notification_id for row in rows if row.state == "held" and row.group_key}
            heads = await self._read_notes(grouped)
            members = {
                head_id: await self._reads.members(head_id, limit=MAX_MEMBERS)
                for head_id, head in heads.items()
                if head.state == "held" and head.type != DIGEST
            }
        except HubbubError as error:
            self._ctx.post(CancelFound(cancel.key, error=error))
            return
        self._ctx.post(
            CancelFound(
                cancel.key,
                rows,
                last_id=rows[-1].notification_id if rows and not again else 0,
                is_last=not again and len(rows) < PAGE,
                deliveries=deliveries,
                heads=heads,
                members=members,
                dead=frozenset(dead),
                awaiting=frozenset(awaiting),
            )
        )

    def _not_loaded(self, message: object) -> None:
        super()._not_loaded(message)
        if isinstance(message, CancelFound) and message.key in self._cancels:
            self._give_up(self._cancels[message.key], Unavailable("busy"))
