"""Cancel requests: hand on no more of their users, and let all partitions cancel what they hold.

That a request is being cancelled is stored first, so it is gone on with after a crash, until every partition
has answered. A request to a few users has no row here: it is known to their partitions alone, and whoever
was not answered asks again, which does no harm.
"""

from typing import Final

import msgspec
import trio

from actors.entity import EntityContext
from actors.notify.address import partition_address
from actors.notify.messages import CancelPart
from actors.notify.request_keeper import RequestKeeper
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol.errors import HubbubError, Refused, Unavailable
from protocol.notify_records import PARTITION_COUNT, RequestRow
from protocol.notify_replies import RequestCancelled
from protocol.records import Update

ANSWER_S: Final = 8.0  # then it is told how far it has come; commands give up after 10 s
ASK_TIMEOUT_S: Final = 30.0
MAX_RETRY_S: Final = 5.0


class PartCancelled(msgspec.Struct, frozen=True):
    """A partition has cancelled its part of a request."""

    request_id: str
    partition: int
    done: RequestCancelled


class CancelLate(msgspec.Struct, frozen=True):
    """Whoever waits for a cancellation has waited for long enough."""

    request_id: str


class _Cancellation:
    __slots__ = ("parts", "replies", "row")

    def __init__(self, row: RequestRow | None) -> None:
        self.row = row
        self.parts: dict[int, RequestCancelled] = {}
        self.replies: list[Reply] = []


class RequestCanceller(RequestKeeper):
    """Take `CancelRequest`."""

    async def activate(self, ctx: EntityContext) -> None:
        self._cancels: dict[str, _Cancellation] = {}
        await super().activate(ctx)
        for row in self._requests.values():
            if row.state == "cancelling":
                self._cancels[row.request_id] = _Cancellation(row)
                self._begin(row.request_id)

    def may_passivate(self) -> bool:
        return super().may_passivate() and not self._cancels

    async def cancel(self, request_id: str, reply: Reply) -> None:
        """Cancel a request; again where that was done before. Raises: Refused(request_not_found)."""
        known = self._cancels.get(request_id)
        if known is None:
            row = self._requests.get(request_id) or await self._log.get(RequestRow, request_id)
            if row is not None and row.app_id != self._app_id:
                raise Refused("request_not_found")
            known = self._cancels[request_id] = _Cancellation(row)
            if row is None or row.state == "cancelled":
                self._begin(request_id)
            else:
                self.stop(request_id)
                known.row = self._change(row, state="cancelling")
                begun = Staged(NO_REPLY, None, after=lambda _at: self._begin(request_id))
                self._record("cancelling", request_id, begun)
        known.replies.append(reply)
        self._ctx.post_after(ANSWER_S, CancelLate(request_id))

    def _begin(self, request_id: str) -> None:
        for partition in range(PARTITION_COUNT):
            self._ctx.start_soon(self._cancel_part, request_id, partition)

    async def _cancel_part(self, request_id: str, partition: int) -> None:
        """Ask a partition until it has done so."""
        delay_s = 0.05
        message = CancelPart(self._app_id, request_id)
        while True:
            try:
                done = await self._ctx.router.ask(
                    partition_address(partition), message, timeout_s=ASK_TIMEOUT_S
                )
            except HubbubError as error:
                await trio.sleep(max(delay_s, error.retry_after_s or 0.0))
                delay_s = min(MAX_RETRY_S, 2 * delay_s)
                continue
            assert isinstance(done, RequestCancelled)
            self._ctx.post(PartCancelled(request_id, partition, done))
            return

    def part_cancelled(self, message: PartCancelled) -> None:
        """Count a partition's part; with the last one, store and answer."""
        known = self._cancels[message.request_id]
        known.parts[message.partition] = message.done
        if len(known.parts) < PARTITION_COUNT:
            return
        del self._cancels[message.request_id]
        total = _sum(message.request_id, known, "cancelled")
        row = known.row
        if row is None:
            for reply in known.replies:
                if total.cancelled or total.partly or total.under_way or total.kept:
                    reply.resolve(total)
                else:
                    reply.fail(Refused("request_not_found"))
            return

        def answer(_at: object) -> None:
            for reply in known.replies:
                reply.resolve(total)

        answered = Staged(NO_REPLY, None, after=answer)
        counts = {
            "cancelled_count": total.cancelled,
            "partly_count": total.partly,
            "under_way_count": total.under_way,
            "kept_count": total.kept,
        }
        if row.state == "cancelling":
            self._end(row, "cancelled", answered, **counts)
        else:  # it was cancelled before: what was under way then has come to its end
            self._stage_ops([Update(RequestRow, {"request_id": row.request_id}, {**counts})], answered)

    def cancel_late(self, message: CancelLate) -> None:
        """Tell those who wait how far it has come."""
        known = self._cancels.get(message.request_id)
        if known is None:
            return
        replies, known.replies = known.replies, []
        so_far = _sum(message.request_id, known, "cancelling")
        for reply in replies:
            if known.row is not None:
                reply.resolve(so_far)
            else:
                reply.fail(Unavailable("busy", "A partition does not answer yet.", retry_after_s=1.0))


def _sum(request_id: str, known: _Cancellation, state: str) -> RequestCancelled:
    parts = known.parts.values()
    return RequestCancelled(
        request_id=request_id,
        state=state,
        cancelled=sum(part.cancelled for part in parts),
        partly=sum(part.partly for part in parts),
        under_way=sum(part.under_way for part in parts),
        kept=sum(part.kept for part in parts),
    )
