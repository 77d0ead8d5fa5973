"""Uploaded files in a folder, each under the SHA-256 of its content: stored once, never changed, easy to
verify.

    files/ab/abcdef…      a file, in a folder of its first two hex digits
    files/incoming/…      uploads in progress; what a crash leaves there is removed with the unreferenced
    files/lock            keeps a removal and a second upload of the same content apart

Disk work happens in threads, 1 MiB at a time. A file is on the disk, name and all, when `put` returns.
"""

import contextlib
import hashlib
import os
import re
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio

from protocol.errors import Refused, StorageUnavailable
from storage.locks import LOCK_TIMEOUT_S, take_until

T = TypeVar("T")

CHUNK_BYTES: Final = 1024 * 1024
MIN_UNREFERENCED_AGE_S: Final = 3600.0  # an upload's row may follow its bytes by this long
_MAX_THREADS: Final = 4  # a disk gains nothing from more
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class StoredFile(msgspec.Struct, frozen=True):
    """What `put` stored."""

    sha256: str
    size_bytes: int
    is_new: bool = True


class FileStore:
    """A content-addressed folder. All methods are for the Trio thread; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / "incoming"
        self._limiter = trio.CapacityLimiter(_MAX_THREADS)

    async def put(self, chunks: AsyncIterable[bytes], *, max_bytes: int) -> StoredFile:
        """Store a stream of bytes. A cancelled or failed upload leaves nothing behind.

        Raises: Refused "file_too_large" beyond max_bytes; StorageUnavailable; what `chunks` raises.
        """
        upload = await self._thread(_Upload, self._incoming)
        try:
            buffer = bytearray()
            size_bytes = 0
            async for chunk in chunks:
                size_bytes += len(chunk)
                if size_bytes > max_bytes:
                    raise Refused("file_too_large", f"A file may have {max_bytes} bytes at most.")
                buffer += chunk
                if len(buffer) >= CHUNK_BYTES:
                    await self._thread(upload.write, bytes(buffer))
                    buffer.clear()
            return await self._thread(self._finish, upload, bytes(buffer))
        finally:
            with trio.CancelScope(shield=True):  # one unlink; no data is written any more
                await trio.to_thread.run_sync(upload.discard)

    async def size(self, sha256: str) -> int | None:
        """The file's size in bytes, or None where there is no such file."""
        return await self._thread(self._size, sha256)

    async def read(
        self, sha256: str, *, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from `start`, `length` of them or all, in chunks of 1 MiB at most.

        Close it (`aclosing`) if it is not read to its end. Raises: Refused "file_not_found".
        """
        try:
            file = await self._thread(os.open, self.path_of(sha256), os.O_RDONLY | os.O_CLOEXEC)
        except StorageUnavailable as exc:
            if isinstance(exc.__cause__, FileNotFoundError):
                raise Refused("file_not_found") from exc
            raise
        try:
            left = length
            while left is None or left > 0:
                want = CHUNK_BYTES if left is None else min(left, CHUNK_BYTES)
                chunk = await self._thread(os.pread, file, want, start)
                if not chunk:
                    return
                start += len(chunk)
                left = None if left is None else left - len(chunk)
                yield chunk
        finally:
            os.close(file)

    async def delete_unreferenced(
        self, is_referenced: Callable[[str], bool], *, min_age_s: float = MIN_UNREFERENCED_AGE_S
    ) -> list[str]:
        """Remove files that nothing refers to and that are older than `min_age_s`. Returns their hashes.

        `is_referenced` runs in a thread. Uploads that a crash left unfinished go by the same age.
        """
        return await self._thread(self._delete_unreferenced, is_referenced, min_age_s)

    async def verify(self) -> list[str]:
        """Read every file and return the hashes of those whose content is not what their name says."""
        damaged = []
        for sha256, path in await self._thread(lambda: list(all_files(self._folder))):
            if await self._thread(sha256_of, path) != sha256:
                damaged.append(sha256)
        return damaged

    def path_of(self, sha256: str) -> Path:
        """Where a file lies. Raises: Refused "file_not_found" for what is not a hash."""
        if not _SHA256.fullmatch(sha256):
            raise Refused("file_not_found")
        return self._folder / sha256[:2] / sha256

    # In a thread.

    def _finish(self, upload: "_Upload", rest: bytes) -> StoredFile:
        upload.write(rest)
        sha256 = upload.close()
        path = self.path_of(sha256)
        with _guard(self._folder):
            is_new = not path.exists()
            if is_new:
                if not path.parent.exists():
                    path.parent.mkdir(mode=0o700, exist_ok=True)
                    sync_folder(self._folder)
                os.rename(upload.path, path)
                sync_folder(path.parent)
            else:
                os.utime(path)  # young again: a removal that is under way must leave it
        return StoredFile(sha256, upload.size_bytes, is_new)

    def _size(self, sha256: str) -> int | None:
        try:
            return os.stat(self.path_of(sha256)).st_size
        except FileNotFoundError:
            return None

    def _delete_unreferenced(self, is_referenced: Callable[[str], bool], min_age_s: float) -> list[str]:
        deleted = []
        for sha256, path in list(all_files(self._folder)):
            if _age_s(path) < min_age_s or is_referenced(sha256):
                continue
            with _guard(self._folder):
                if _age_s(path) >= min_age_s:
                    path.unlink()
                    deleted.append(sha256)
        if self._incoming.exists():
            for path in self._incoming.iterdir():
                if _age_s(path) >= max(min_age_s, MIN_UNREFERENCED_AGE_S):
                    path.unlink(missing_ok=True)
        return deleted

    async def _thread(self, function: Callable[..., T], *args: object) -> T:
        """Run disk work off the Trio thread. Raises: StorageUnavailable for what the disk says."""
        try:
            return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)
        except OSError as exc:
            raise StorageUnavailable(f"The file store failed: {exc}") from exc


class _Upload:
    """A temporary file in the store's own file system, hashed while it is written."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file, name = tempfile.mkstemp(dir=folder)
        self._hash = hashlib.sha256()
        self._is_open = True
        self.path = Path(name)
        self.size_bytes = 0

    def write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(self._file, view) :]
        self._hash.update(content)
        self.size_bytes += len(content)

    def close(self) -> str:
        """Put the bytes on the disk. Returns their SHA-256."""
        os.fsync(self._file)
        self._close()
        return self._hash.hexdigest()

    def discard(self) -> None:
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._file)


def all_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (sha256, path) of every stored file."""
    for part in sorted(folder.glob("[0-9a-f][0-9a-f]")):
        for path in sorted(part.iterdir()):
            if _SHA256.fullmatch(path.name):
                yield path.name, path


def sha256_of(path: Path) -> str:
    """Hash a file of any size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk: after a rename, before anybody is told of it."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Keep the folder's other users out. Raises: StorageUnavailable, where one of them seems frozen."""
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not take_until(file, time.monotonic() + LOCK_TIMEOUT_S):
            raise StorageUnavailable("Another process holds the lock of the file store.")
        yield
    finally:
        os.close(file)
