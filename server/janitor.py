"""What has to be cleared away now and then, while nobody waits for it."""

from typing import Final

import structlog
import trio

from protocol.errors import HubbubError
from protocol.records import FileRow
from storage.files import FileStore
from storage.store import Store

INTERVAL_S: Final = 6 * 3600.0
FIRST_AFTER_S: Final = 60.0  # not while a node that has just started is asked for everything at once
_PAGE: Final = 1_000

log = structlog.get_logger(__name__)


async def clear_files(store: Store, blobs: FileStore) -> int:
    """Remove stored bytes that no file row names: of refused pictures, and of uploads cut short.

    Bytes uploaded again meanwhile are young again and stay. Returns how many files went.
    Raises: HubbubError, where the store or the disk fails.
    """
    named: set[str] = set()
    after = ""
    while rows := await store.find(FileRow, {}, order_by="file_id", after=after, limit=_PAGE):
        named.update(row.sha256 for row in rows)
        after = rows[-1].file_id
    return len(await blobs.delete_unreferenced(named.__contains__))


async def run(store: Store, blobs: FileStore) -> None:
    """Clear away every six hours, until cancelled; a failure waits for the next time."""
    await trio.sleep(FIRST_AFTER_S)
    while True:
        try:
            removed_count = await clear_files(store, blobs)
        except HubbubError as error:
            log.warning("files_not_cleared", code=error.code)
        else:
            if removed_count:
                log.info("files_cleared", count=removed_count)
        await trio.sleep(INTERVAL_S)
