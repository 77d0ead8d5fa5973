"""OS file locks of a data directory: processes take turns writing, and nodes notice each other.

flock belongs to the open file and is released by the kernel when its process dies, however it dies.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from protocol.errors import Refused, StorageUnavailable

# A healthy holder commits within milliseconds; one that does not is frozen or its disk hangs.
LOCK_TIMEOUT_S: Final = 10.0
_FIRST_POLL_S: Final = 0.000_2  # about half a commit
_LATER_POLL_S: Final = 0.005


class DirectoryInUse(Refused):
    """Another node works on the directory in a way that this one must not join."""

    def __init__(self, message: str) -> None:
        super().__init__("directory_in_use", message)


class WriteLock:
    """Serialise write transactions and checkpoints of all processes that share a directory.

    Two locks make a fair queue: whoever holds `turn` is next for `write`, so a busy process cannot take the
    lock again past one that waits. Uncontended it costs four system calls, about 3 us.
    """

    def __init__(self, directory: Path) -> None:
        self._turn = os.open(directory / "turn.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._write = os.open(directory / "write.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def held(self, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the lock; for one thread at a time.

        Raises: StorageUnavailable, after `timeout_s` without it.
        """
        self.acquire(timeout_s)
        try:
            yield
        finally:
            self.release()

    def acquire(self, timeout_s: float = LOCK_TIMEOUT_S) -> None:
        """Take the lock. Raises: StorageUnavailable, after `timeout_s` without it."""
        deadline = time.monotonic() + timeout_s
        _poll(self._turn, deadline)
        try:
            _poll(self._write, deadline)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def release(self) -> None:
        fcntl.flock(self._write, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._turn)
        os.close(self._write)


class NodeLock:
    """Tell nodes on one directory apart: one single node alone, or any number of cluster nodes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = os.open(directory / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take_alone(self) -> None:
        """Claim the directory for a single node. Raises: DirectoryInUse."""
        self._take(fcntl.LOCK_EX)

    def take_shared(self) -> None:
        """Join as one of several cluster nodes. Raises: DirectoryInUse where a single node runs."""
        self._take(fcntl.LOCK_SH)

    def close(self) -> None:
        os.close(self._file)

    def _take(self, how: int) -> None:
        try:
            fcntl.flock(self._file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 64, 0).decode("ascii", "replace").strip()
            who = f"Another node (process {holder})" if holder else "Another node"
            raise DirectoryInUse(
                f"{who} is running on {self._directory}. Stop it first, give this node another data "
                "directory, or start several nodes on one directory as a cluster."
            ) from None
        if how == fcntl.LOCK_EX:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)


def _poll(file: int, deadline: float) -> None:
    """Take a lock by asking again and again: a thread in flock() itself could not give up.

    Raises: StorageUnavailable at the deadline.
    """
    patient_after = 0.0
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = time.monotonic()
            if now >= deadline:
                raise StorageUnavailable("Another process holds the write lock of the store.") from None
            patient_after = patient_after or now + 0.05
            time.sleep(_FIRST_POLL_S if now < patient_after else _LATER_POLL_S)
        else:
            return
