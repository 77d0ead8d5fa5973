"""How far an app has been told of its events: nothing is skipped, and others' rows are gone through once."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from actors.notify.address import partition_address
from protocol.notify_records import ExportRow, notify_stream
from protocol.records import Append, Insert, LogRow, User
from server.notify import app_export
from server.notify.app_export import AppExport
from storage.sqlite import open_store
from storage.store import Store


class Ledger:
    """The ledger of partition 0."""

    def __init__(self, store: Store, epoch: int) -> None:
        self.store = store
        self._epoch = epoch

    async def write(self, *app_ids: str) -> None:
        """A row of a user of each app."""
        rows = [
            LogRow(
                stream=notify_stream(0), kind="decided", at_ms=1, user_id=f"u_{app_id}", body="{}", thread=1
            )
            for app_id in app_ids
        ]
        shard = partition_address(0).shard
        await self.store.append(Append(shard=shard, epoch=self._epoch, rows=tuple(rows)))

    async def stored(self, app_id: str) -> int:
        row = await self.store.get(ExportRow, app_id, 0)
        return 0 if row is None else row.seq


class Hook:
    """Takes what it is posted, or not."""

    def __init__(self, *takes: bool) -> None:
        self._takes = list(takes)
        self.posted: list[bytes] = []

    async def post(self, body: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        self.posted.append(body)
        return self._takes.pop(0)

    @property
    def seqs(self) -> list[int]:
        return [msgspec.json.decode(line)["seq"] for line in b"".join(self.posted).splitlines()]


@asynccontextmanager
async def open_ledger(directory: Path, app_ids: Sequence[str]) -> AsyncIterator[Ledger]:
    async with open_store(directory) as store:
        epochs = await store.claim_all("n1")
        await store.commit(
            [
                Insert(
                    User(
                        user_id=f"u_{app_id}",
                        app_id=app_id,
                        username=app_id,
                        username_key=app_id,
                        name=app_id,
                        name_key=app_id,
                        created_at_ms=1,
                    )
                )
                for app_id in app_ids
            ]
        )
        yield Ledger(store, epochs[partition_address(0).shard])


async def test_a_quiet_apps_place_moves_on_over_what_others_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a busy neighbour's whole ledger is gone through anew each second."""
    monkeypatch.setattr(app_export, "SPAN", 4)
    monkeypatch.setattr(app_export, "STORE_EVERY", 10)
    async with open_ledger(tmp_path, ["busy", "quiet"]) as ledger:
        hook = Hook(True, True)
        export = AppExport("quiet", ledger.store, now_ms=lambda: 1)
        await ledger.write(*["busy"] * 11)
        assert await export.tell({0: 11}, hook.post) == (0, True)
        assert (hook.posted, await ledger.stored("quiet")) == ([], 11)
        await ledger.write("busy", "quiet", "busy", "busy", "quiet")
        assert await export.tell({0: 16}, hook.post) == (2, True)
        assert (hook.seqs, await ledger.stored("quiet")) == ([13, 16], 16)
        assert await export.tell({0: 16}, Hook().post) == (0, True)


async def test_what_was_not_taken_comes_first_next_time(tmp_path: Path) -> None:
    """No event is skipped."""
    async with open_ledger(tmp_path, ["shop"]) as ledger:
        hook = Hook(False, True)
        export = AppExport("shop", ledger.store, now_ms=lambda: 1)
        await ledger.write(*["shop"] * 3)
        assert await export.tell({0: 3}, hook.post) == (0, False)
        assert await export.tell({0: 3}, hook.post) == (3, True)
        assert hook.posted[0] == hook.posted[1]


async def test_a_long_backlog_goes_in_batches_and_goes_on_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day without the webhook."""
    monkeypatch.setattr(app_export, "BATCH", 3)
    async with open_ledger(tmp_path, ["shop", "other"]) as ledger:
        await ledger.write(*["shop", "other"] * 4)
        hook = Hook(True, False)
        assert await AppExport("shop", ledger.store, now_ms=lambda: 1).tell({0: 8}, hook.post) == (3, False)
        again = Hook(True)
        assert await AppExport("shop", ledger.store, now_ms=lambda: 1).tell({0: 8}, again.post) == (1, True)
        assert (hook.seqs, again.seqs) == ([1, 3, 5, 7], [7])


async def test_a_partition_that_comes_back_goes_on_from_what_its_owner_stored(tmp_path: Path) -> None:
    """Another node had it meanwhile."""
    async with open_ledger(tmp_path, ["shop"]) as ledger:
        await ledger.write("shop", "shop")
        here, there = (
            AppExport("shop", ledger.store, now_ms=lambda: 1),
            AppExport("shop", ledger.store, now_ms=lambda: 1),
        )
        assert await here.tell({0: 1}, Hook(True).post) == (1, True)
        assert await here.tell({}, Hook().post) == (0, True)
        assert await there.tell({0: 2}, Hook(True).post) == (1, True)
        assert await here.tell({0: 2}, Hook().post) == (0, True)
