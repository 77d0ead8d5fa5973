"""Files that messages and posts carry."""

from collections.abc import Sequence
from typing import cast

import pytest

from actors.attachments import attachments_of
from actors.ports import Log
from protocol.errors import Refused
from protocol.records import FileRow
from protocol.types import Attachment


class Files:
    """A log that knows some files."""

    def __init__(self, *rows: FileRow) -> None:
        self.rows = rows
        self.read_count = 0

    async def find_many(self, table: object, column: str, values: Sequence[str]) -> list[FileRow]:
        assert (table, column) == (FileRow, "file_id")
        self.read_count += 1
        return [row for row in self.rows if row.file_id in values]


def row(file_id: str, app_id: str = "app") -> FileRow:
    return FileRow(
        file_id=file_id,
        app_id=app_id,
        user_id="ann",
        sha256="0",
        name=f"{file_id}.png",
        media_type="image/png",
        size_bytes=3,
        width=1,
        height=2,
        at_ms=1,
    )


async def test_files_come_in_the_order_asked_for_and_of_the_same_app_alone() -> None:
    files = Files(row("f1"), row("f2"), row("f3", "other"))
    log = cast(Log, files)
    found = await attachments_of(log, "app", ["f2", "f1"])
    assert found == [
        Attachment(file_id=name, name=f"{name}.png", media_type="image/png", size_bytes=3, width=1, height=2)
        for name in ("f2", "f1")
    ]
    for missing in ("f3", "f4"):
        with pytest.raises(Refused) as caught:
            await attachments_of(log, "app", ["f1", missing])
        assert caught.value.code == "file_not_found"
    read_count = files.read_count
    assert await attachments_of(log, "app", []) == []
    assert files.read_count == read_count
