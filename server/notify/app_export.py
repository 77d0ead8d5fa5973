"""One app's events on their way to its webhook: how far each partition was told, and the next batch.

A cursor is stored after the app has taken a batch, so nothing is left out over a restart; a batch whose
answer was lost comes again (each line has its place in the ledger, by which the app knows it). Where a
stretch of the ledger has nothing of the app's, the cursor passes over it in memory, and is stored seldom.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from actors.notify.keeper import ledger_body
from protocol.notify_found import ExportedEntry
from protocol.notify_records import ExportRow
from protocol.notify_types import Decision
from protocol.records import Put
from storage.store import Store

BATCH: Final = 500
SPAN: Final = 50_000  # rows of the ledger that one read goes through, of whomever they are: some 10 ms
STORE_EVERY: Final = 100_000  # rows passed over; a restart goes through them again

_encode = msgspec.json.Encoder().encode


class ExportedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the export. `partition` and `seq` name its place for ever."""

    partition: int
    seq: int
    notification_id: int
    user_id: str
    kind: str
    at_ms: int
    decisions: list[Decision]


def lines_of(partition: int, entries: list[ExportedEntry]) -> bytes:
    """Write entries as NDJSON."""
    return b"".join(
        _encode(
            ExportedEvent(
                partition=partition,
                seq=entry.seq,
                notification_id=entry.notification_id,
                user_id=entry.user_id,
                kind=entry.kind,
                at_ms=entry.at_ms,
                decisions=ledger_body(entry.body).d if entry.body != "{}" else [],
            )
        )
        + b"\n"
        for entry in entries
    )


class AppExport:
    """Where one app stands in the ledgers of this node's partitions. For one task."""

    def __init__(self, app_id: str, store: Store, *, now_ms: Callable[[], int]) -> None:
        self._app_id = app_id
        self._store = store
        self._now_ms = now_ms
        self._cursors: dict[int, int] = {}  # partition -> up to where there is nothing more to tell
        self._stored: dict[int, int] = {}

    async def tell(
        self, heads: Mapping[int, int], post: Callable[[bytes], Awaitable[bool]]
    ) -> tuple[int, bool]:
        """Tell all there is up to `heads` (partition -> last seq; those that are this node's), by turns.

        Returns how many were told, and False where `post` did not take some: they come first next time.
        Raises: HubbubError.
        """
        for gone in self._cursors.keys() - heads.keys():  # who owns it now tells on
            del self._cursors[gone]
        count = 0
        behind = list(heads)
        while behind:
            for partition in tuple(behind):
                told = await self._step(partition, heads[partition], post)
                if told is None:
                    return count, False
                count += told
                if self._cursors[partition] >= heads[partition]:
                    behind.remove(partition)
        return count, True

    async def _step(self, partition: int, head: int, post: Callable[[bytes], Awaitable[bool]]) -> int | None:
        """Tell one batch. Returns its size, 0 where there was none; None where it was not taken."""
        cursor = self._cursors.get(partition)
        if cursor is None:
            row = await self._store.get(ExportRow, self._app_id, partition)
            cursor = self._cursors[partition] = self._stored[partition] = row.seq if row is not None else 0
        if cursor >= head:
            return 0
        upto = min(head, cursor + SPAN)
        entries = await self._store.notify.exported(
            self._app_id, partition, after=cursor, upto=upto, limit=BATCH
        )
        if entries and not await post(lines_of(partition, entries)):
            return None
        if len(entries) == BATCH:
            upto = entries[-1].seq
        if entries or upto - self._stored[partition] >= STORE_EVERY:
            await self._store.commit(
                [Put(ExportRow(app_id=self._app_id, partition=partition, seq=upto, at_ms=self._now_ms()))]
            )
            self._stored[partition] = upto
        self._cursors[partition] = upto
        return len(entries)
