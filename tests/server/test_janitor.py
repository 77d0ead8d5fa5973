"""What the janitor removes, and what it leaves."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from protocol.records import FileRow, Insert
from server.janitor import clear_files
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
