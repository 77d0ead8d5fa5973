"""Alerts as rows, so that a kill loses none: each change of the book is stored, and read again at the start.

A node keeps the rows of what it tells. Those of nodes that are gone are taken over by the one that owns
shard 0, with their ids: who was told of one already knows it by that.
"""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from protocol.errors import HubbubError
from protocol.notify_records import AlertRow
from protocol.records import Op, Put, Remove
from server.notify.alert_book import MAX_ENTRIES, AlertBook
from server.notify.waiting_alert import Place
from storage.store import Store

MAX_STORED: Final = 500  # rows in one commit
PAUSE_S: Final = 0.1  # between two commits of what is only counted: a mistake may come by the thousand
RETRY_S: Final = 1.0
TAKE_OVER_S: Final = 10.0  # about as long as a node's lease

log = structlog.get_logger(__name__)


class AlertKeeper:
    """Keep the book's rows, by `run`. Nothing is stored before `load` has returned."""

    def __init__(
        self,
        store: Store,
        book: AlertBook,
        *,
        node_id: str,
        is_chief: Callable[[], bool],
        now_ms: Callable[[], int],
        on_taken_over: Callable[[], None] = lambda: None,
    ) -> None:
        """`is_chief`: tells whether this node looks after what gone ones have left."""
        self._store = store
        self._book = book
        self._node_id = node_id
        self._is_chief = is_chief
        self._now_ms = now_ms
        self._on_taken_over = on_taken_over
        self._is_loaded = False
        self._saving = trio.Lock()
        self._change = trio.Event()
        self._taken: set[tuple[str, Place]] = set()  # rows that are in the book, and not removed yet
        self._seen: set[tuple[str, int]] = set()  # lives of gone nodes that have left nothing (more)

    async def load(self) -> None:
        """Read what this node had to tell in its life before, however long the store takes."""
        while not self._is_loaded:
            try:
                rows = await self._store.find(AlertRow, {"node_id": self._node_id}, limit=2 * MAX_ENTRIES)
            except HubbubError as error:
                log.warning("alerts_not_read", code=error.code)
                await trio.sleep(RETRY_S)
                continue
            self._is_loaded = True
            for row in rows:
                self._restore(row)

    def changed(self) -> None:
        """Something is to be stored soon. Returns at once."""
        self._change.set()

    async def save(self) -> None:
        """Store all that has changed by now. Raises: HubbubError, and it is done later."""
        async with self._saving:
            changes = self._book.take_changes() if self._is_loaded else []
            while changes:
                part = changes[:MAX_STORED]
                try:
                    await self._store.commit([self._op(place, row) for place, row in part])
                except BaseException:
                    self._book.put_back([place for place, _ in changes])
                    raise
                del changes[:MAX_STORED]

    async def run(self) -> None:
        """Store what changes, and take over what gone nodes have left, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save_on)
            while True:
                try:
                    if self._is_chief():
                        await self.take_over()
                except HubbubError as error:
                    log.warning("alerts_not_taken_over", code=error.code)
                await trio.sleep(TAKE_OVER_S)

    async def _save_on(self) -> None:
        while True:
            pause_s = PAUSE_S
            try:
                await self.save()
            except HubbubError as error:
                log.warning("alerts_not_stored", code=error.code)
                pause_s = RETRY_S
                self._change.set()
            await trio.sleep(pause_s)
            await self._change.wait()
            self._change = trio.Event()

    async def take_over(self) -> None:
        """Tell what nodes that are gone had to tell. Raises: HubbubError."""
        for member in await self._store.members():
            life = (member.node_id, member.boot)
            if member.lease_left_ms:
                self._seen.discard(life)  # it was frozen, and may yet leave something
            elif member.node_id != self._node_id and life not in self._seen:
                await self._take_over(life)

    async def _take_over(self, life: tuple[str, int]) -> None:
        node_id, _ = life
        while True:
            rows = await self._store.find(AlertRow, {"node_id": node_id}, limit=MAX_STORED)
            if not rows:
                self._seen.add(life)
                return
            places = [(row.app_id, row.kind, row.about) for row in rows]
            for place, row in zip(places, rows, strict=True):
                if (node_id, place) not in self._taken:  # at a look that could not store it
                    self._taken.add((node_id, place))
                    self._restore(row)
            # First ours, then without theirs: a kill in between tells one twice, under the same id.
            await self.save()
            await self._store.commit([_removal(node_id, place) for place in places])
            self._taken.difference_update((node_id, place) for place in places)
            log.info("alerts_taken_over", of_node_id=node_id, count=len(rows))
            self._on_taken_over()

    def _restore(self, row: AlertRow) -> None:
        try:
            self._book.restore(row, self._now_ms())
        except ValueError:  # what msgspec raises, too: written by a later release
            log.exception("alert_unreadable", app_id=row.app_id, kind=row.kind)

    def _op(self, place: Place, row: AlertRow | None) -> Op:
        return Put(row) if row is not None else _removal(self._node_id, place)


def _removal(node_id: str, place: Place) -> Op:
    app_id, kind, about = place
    return Remove(AlertRow, {"node_id": node_id, "app_id": app_id, "kind": kind, "about": about})
