"""What the janitor removes, and what it leaves."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protocol.records import Device, DeviceCursor, FileRow, Insert, Op, Put, User
from server import janitor
from server.janitor import clear_devices, clear_files
from storage import open_store


async def _bytes(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_only_old_bytes_that_no_row_names_are_removed(tmp_path: Path) -> None:
    """An operator's disk must not fill with refused pictures, and nobody's picture may vanish."""
    async with open_store(tmp_path) as store:
        shas = [
            (await store.files.put(_bytes(content), max_bytes=100)).sha256
            for content in (b"named", b"orphan", b"young orphan")
        ]
        row = FileRow(
            file_id="f1",
            app_id="default",
            user_id="u1",
            sha256=shas[0],
            name="a",
            media_type="text/plain",
            size_bytes=5,
            at_ms=1,
        )
        await store.commit([Insert(row)])
        a_week_ago = time.time() - 7 * 86_400
        for sha256 in shas[:2]:
            os.utime(store.files.path_of(sha256), (a_week_ago, a_week_ago))
        assert await clear_files(store, store.files) == 1
        assert [await store.files.size(sha256) for sha256 in shas] == [5, None, 12]


@pytest.mark.parametrize("page", [7, 1_000])
async def test_a_user_keeps_the_devices_seen_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """A client that makes up a device id at each start must not fill the operator's disk."""
    monkeypatch.setattr(janitor, "_PAGE", page)
    async with open_store(tmp_path) as store:
        ops: list[Op] = []
        for user_id, count in (("ann", 130), ("ben", 3)):
            user = User(
                user_id=user_id,
                app_id="default",
                username=user_id,
                username_key=user_id,
                name=user_id,
                name_key=user_id,
                created_at_ms=1,
            )
            ops.append(Insert(user))
            for number in range(count):
                device_id = f"d{number * 37 % 131}"
                ops += [
                    Put(Device(user_id=user_id, device_id=device_id, last_seen_ms=number)),
                    Put(DeviceCursor(user_id=user_id, device_id=device_id, stream="c:room", seq=number)),
                ]
        await store.commit(ops)
        assert await clear_devices(store) == 30
        assert await clear_devices(store) == 0
        devices = await store.find(Device, {"user_id": "ann"})
        assert {device.last_seen_ms for device in devices} == set(range(30, 130))
        cursors = await store.find(DeviceCursor, {"user_id": "ann"})
        assert {cursor.seq for cursor in cursors} == set(range(30, 130))
        assert len(await store.find(Device, {"user_id": "ben"})) == 3
