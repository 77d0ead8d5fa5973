"""Files that a message or a post carries: found by their ids, and only those of the same app."""

from collections.abc import Sequence

from actors.ports import Log
from protocol.errors import Refused
from protocol.records import FileRow
from protocol.types import Attachment


async def attachments_of(log: Log, app_id: str, file_ids: Sequence[str]) -> list[Attachment]:
    """The files in the order asked for. Raises: Refused("file_not_found")."""
    if not file_ids:
        return []
    rows = {row.file_id: row for row in await log.find_many(FileRow, "file_id", file_ids)}
    files = []
    for file_id in file_ids:
        row = rows.get(file_id)
        if row is None or row.app_id != app_id:
            raise Refused("file_not_found", f"There is no file {file_id}.")
        files.append(
            Attachment(
                file_id=file_id,
                name=row.name,
                media_type=row.media_type,
                size_bytes=row.size_bytes,
                width=row.width,
                height=row.height,
            )
        )
    return files
