"""Uploaded files are stored once, whole, and under their own hash."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from protocol.errors import Refused, StorageUnavailable
from storage import FileStore
from tests.storage.uploads import put_bytes


async def _stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    (tmp_path / "files").mkdir()
    return FileStore(tmp_path / "files")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "lock")


async def test_a_file_is_read_back_as_it_came(store: FileStore) -> None:
    content = os.urandom(3_000_000)
    stored = await store.put(
        _stream(content[:1], content[1:2_000_000], content[2_000_000:]), max_bytes=4_000_000
    )
    assert stored.sha256 == hashlib.sha256(content).hexdigest()
    assert stored.size_bytes == await store.size(stored.sha256) == 3_000_000
    assert b"".join([chunk async for chunk in store.read(stored.sha256)]) == content
    part = [chunk async for chunk in store.read(stored.sha256, start=10, length=1_500_000)]
    assert b"".join(part) == content[10:1_500_010]
    assert [chunk async for chunk in store.read(stored.sha256, start=3_000_000)] == []


async def test_equal_content_is_stored_once(store: FileStore, tmp_path: Path) -> None:
    first = await put_bytes(store, b"same")
    second = await put_bytes(store, b"same")
    assert first.sha256 == second.sha256
    assert (first.is_new, second.is_new) == (True, False)
    assert _names(tmp_path / "files") == [first.sha256]
    empty = await put_bytes(store, b"")
    assert await store.size(empty.sha256) == 0


async def test_two_uploads_of_one_content_at_once_are_one_file(store: FileStore, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(put_bytes, store, b"race")
    assert len(_names(tmp_path / "files")) == 1


async def test_a_file_that_is_too_large_leaves_nothing(store: FileStore, tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        await store.put(_stream(b"x" * 10, b"x" * 10), max_bytes=19)
    assert caught.value.code == "file_too_large"
    assert _names(tmp_path / "files") == []


async def test_an_upload_that_breaks_off_leaves_nothing(store: FileStore, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half" * 1_000_000
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.put(broken(), max_bytes=10_000_000)

    async def stalled() -> AsyncIterator[bytes]:
        yield b"half"
        await trio.sleep_forever()

    with trio.move_on_after(0.05):
        await store.put(stalled(), max_bytes=100)
    assert _names(tmp_path / "files") == []


async def test_unknown_and_malicious_names_are_not_found(store: FileStore) -> None:
    """A hash comes from a URL: nothing but 64 hex digits ever reaches the file system."""
    for name in ("../../etc/passwd", "", "ab", "A" * 64, "0" * 63 + "/"):
        with pytest.raises(Refused) as caught:
            await store.size(name)
        assert caught.value.code == "file_not_found"
    assert await store.size("0" * 64) is None
    with pytest.raises(Refused) as caught:
        async with aclosing(store.read("0" * 64)) as chunks:
            await anext(chunks)
    assert caught.value.code == "file_not_found"


async def test_only_old_unreferenced_files_are_deleted(store: FileStore, tmp_path: Path) -> None:
    kept, young, old = [(await put_bytes(store, name)).sha256 for name in (b"kept", b"young", b"old")]
    long_ago = (1, 1)
    os.utime(store.path_of(kept), long_ago)
    os.utime(store.path_of(old), long_ago)
    left = tmp_path / "files" / "incoming" / "left-by-a-crash"
    left.write_bytes(b"half")
    os.utime(left, long_ago)
    assert await store.delete_unreferenced({kept}.__contains__) == [old]
    assert _names(tmp_path / "files") == sorted([kept, young])


async def test_an_upload_saves_an_old_file_from_deletion(store: FileStore) -> None:
    """The row of a second upload follows its bytes; until then the file must not vanish."""
    stored = await put_bytes(store, b"again")
    os.utime(store.path_of(stored.sha256), (1, 1))
    await put_bytes(store, b"again")
    assert await store.delete_unreferenced(lambda _: False) == []


async def test_damage_is_found(store: FileStore) -> None:
    good, bad = await put_bytes(store, b"good"), await put_bytes(store, b"bad")
    store.path_of(bad.sha256).write_bytes(b"bit rot")
    assert await store.verify() == [bad.sha256]
    assert good.sha256 != bad.sha256


async def test_a_folder_that_is_gone_is_unavailable(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "files").rmdir()
    (tmp_path / "files").write_text("a file in its place")
    with pytest.raises(StorageUnavailable):
        await put_bytes(store, b"x")
