"""What has to be cleared away now and then, while nobody waits for it."""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from protocol.errors import HubbubError
from protocol.records import Device, DeviceCursor, FileRow, Op, Remove, SpentSignature, User
from storage.files import FileStore
from storage.store import Store

INTERVAL_S: Final = 6 * 3600.0
SIGNATURES_INTERVAL_S: Final = 300.0  # they are kept for eleven minutes
FIRST_AFTER_S: Final = 60.0  # not while a node that has just started is asked for everything at once
MAX_DEVICES_PER_USER: Final = 100  # as many as log-ins; each has a cursor for every conversation
_PAGE: Final = 1_000
_REMOVALS: Final = 100  # devices in one transaction, with a thousand cursors each

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


async def clear_devices(store: Store) -> int:
    """Remove the devices seen longest ago, with their cursors, of users who have too many.

    Device ids are the client's to choose, and one that comes back is simply new. Returns how many went.
    Raises: HubbubError, where the store fails.
    """
    removed_count = 0
    after = ""
    while users := await store.find(User, {}, order_by="user_id", after=after, limit=_PAGE):
        for user in users:
            removed_count += await _clear_devices_of(store, user.user_id)
        after = users[-1].user_id
    return removed_count


async def _clear_devices_of(store: Store, user_id: str) -> int:
    removed_count = 0
    kept: list[Device] = []
    after = ""
    while page := await store.find(
        Device, {"user_id": user_id}, order_by="device_id", after=after, limit=_PAGE
    ):
        kept = sorted([*kept, *page], key=lambda device: device.last_seen_ms, reverse=True)
        surplus, kept = kept[MAX_DEVICES_PER_USER:], kept[:MAX_DEVICES_PER_USER]
        for start in range(0, len(surplus), _REMOVALS):
            ops: list[Op] = []
            for device in surplus[start : start + _REMOVALS]:
                where: dict[str, str | int] = {"user_id": user_id, "device_id": device.device_id}
                ops += [Remove(Device, where), Remove(DeviceCursor, where)]
            await store.commit(ops)
        removed_count += len(surplus)
        if len(page) < _PAGE:
            break
        after = page[-1].device_id
    return removed_count


async def forget_signatures(store: Store, now_ms: int) -> None:
    """Remove the signatures that are valid nowhere any more, a minute's at a time.

    Raises: HubbubError, where the store fails.
    """
    while rows := await store.find(SpentSignature, {}, order_by="minute", limit=1):
        minute = rows[0].minute
        if minute > now_ms // 60_000:
            return
        await store.commit([Remove(SpentSignature, {"minute": minute})])


async def run_signatures(store: Store, *, is_ours: Callable[[], bool], now_ms: Callable[[], int]) -> None:
    """Forget signatures of requests every five minutes, until cancelled; otherwise as `run`."""
    while True:
        await trio.sleep(SIGNATURES_INTERVAL_S)
        if is_ours():
            try:
                await forget_signatures(store, now_ms())
            except HubbubError as error:
                log.warning("not_tidied", code=error.code)


async def run(store: Store, blobs: FileStore, *, is_ours: Callable[[], bool]) -> None:
    """Clear away every six hours, until cancelled; a failure waits for the next time.

    `is_ours`: whether it is this node's turn; one of those that share the data is enough.
    """
    await trio.sleep(FIRST_AFTER_S)
    while True:
        if not is_ours():
            await trio.sleep(INTERVAL_S)
            continue
        try:
            file_count = await clear_files(store, blobs)
            device_count = await clear_devices(store)
        except HubbubError as error:
            log.warning("not_tidied", code=error.code)
        else:
            if file_count or device_count:
                log.info("tidied", file_count=file_count, device_count=device_count)
        await trio.sleep(INTERVAL_S)
