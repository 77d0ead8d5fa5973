"""OS file locks of a data directory: processes take turns writing, and nodes notice each other.

flock belongs to the open file and is released by the kernel when its process dies, however it dies.
"""

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from protocol.errors import Refused, StorageUnavailable

# A healthy holder commits within milliseconds; one that does not is frozen or its disk hangs.
LOCK_TIMEOUT_S: Final = 10.0
_FIRST_POLL_S: Final = 0.000_2  # about half a commit
_LATER_POLL_S: Final = 0.005
_TURN_PATIENCE_S: Final = 0.25  # many commits; whoever waits with `turn` for longer may be frozen
_LIFE_PATIENCE_S: Final = 1.0  # looks at a life lock take microseconds each
_HOLDER: Final = struct.Struct("=qq")  # pid, count


class DirectoryInUse(Refused):
    """Another node works on the directory in a way that this one must not join."""

    def __init__(self, message: str) -> None:
        super().__init__("directory_in_use", message)


class WriteLockHeld(StorageUnavailable):
    """Another process keeps the write lock: it is frozen, or its disk hangs. The own disk may be well."""

    def __init__(self) -> None:
        super().__init__("Another process holds the write lock of the store.")


class Holder(msgspec.Struct, frozen=True):
    """Who took the write lock last, by what its file says.

    A supervisor that finds the same pid and count again after seconds, held both times, has found a process
    that is frozen in its commit, or whose disk hangs.
    """

    pid: int
    count: int  # of this process's acquisitions so far
    is_held: bool


class WriteLock:
    """Serialise write transactions and checkpoints of all processes that share a directory.

    Two locks make a fair queue: whoever holds `turn` is next for `write`, so a busy process cannot take the
    lock again past one that waits. Only `write` keeps writers apart; a process that was frozen while it
    waited with `turn` in its hands costs the others some fairness and a moment, nothing else.
    Uncontended it costs five system calls, about 4 us.
    """

    def __init__(self, directory: Path) -> None:
        self._turn = _open(directory / "turn.lock")
        self._write = _open(directory / "write.lock")
        self._turn_patience_s = _TURN_PATIENCE_S
        self._count = 0

    @contextlib.contextmanager
    def held(self, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the lock; for one thread at a time.

        Raises: WriteLockHeld, after `timeout_s` without it.
        """
        self.acquire(timeout_s)
        try:
            yield
        finally:
            self.release()

    def acquire(self, timeout_s: float = LOCK_TIMEOUT_S) -> None:
        """Take the lock. Raises: WriteLockHeld, after `timeout_s` without it."""
        now = time.monotonic()
        deadline = now + timeout_s
        if take_until(self._turn, min(deadline, now + self._turn_patience_s)):
            self._turn_patience_s = _TURN_PATIENCE_S
            try:
                is_ours = take_until(self._write, deadline)
            finally:
                fcntl.flock(self._turn, fcntl.LOCK_UN)
        else:
            self._turn_patience_s = _LATER_POLL_S  # whoever has it is slow; be quick to pass it again
            is_ours = take_until(self._write, deadline)
        if not is_ours:
            raise WriteLockHeld
        self._count += 1
        # A hint for supervisors: a full disk must not cost the lock.
        with contextlib.suppress(OSError):
            os.pwrite(self._write, _HOLDER.pack(os.getpid(), self._count), 0)

    def release(self) -> None:
        fcntl.flock(self._write, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._turn)
        os.close(self._write)


def write_lock_holder(directory: Path) -> Holder | None:
    """Tell who has the write lock, or had it last; None where nobody ever took it.

    Asking takes the lock for an instant, which a process that waits for it just tries again.
    """
    try:
        file = os.open(directory / "write.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        is_held = False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            is_held = True
        content = os.pread(file, _HOLDER.size, 0)
    finally:
        os.close(file)
    if len(content) < _HOLDER.size:
        return None
    pid, count = _HOLDER.unpack(content)
    return Holder(pid, count, is_held)


class NodeLock:
    """Tell nodes on one directory apart: one single node alone, or any number of cluster nodes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = _open(directory / "node.lock")

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
        os.ftruncate(self._file, 0)  # what stands there is from somebody who is gone
        if how == fcntl.LOCK_EX:
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)


class LifeLock:
    """Prove that a cluster node has a process: its own lock, held from registration until the store closes.

    The kernel frees it when the process dies and only then: a frozen process keeps it.
    """

    def __init__(self, directory: Path, node_id: str) -> None:
        self._node_id = node_id
        self._directory = directory
        self._file = _open(life_path(directory, node_id))

    def take(self) -> None:
        """Begin to live. Raises: DirectoryInUse where another process lives under this node_id."""
        # Whoever looks whether the node is alive has the lock for an instant.
        if not take_until(self._file, time.monotonic() + _LIFE_PATIENCE_S):
            holder = os.pread(self._file, 64, 0).decode("ascii", "replace").strip()
            raise DirectoryInUse(
                f"A node named {self._node_id} (process {holder or 'unknown'}) is running on"
                f" {self._directory} already. Give this node another name, or stop that one first."
            )
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        os.close(self._file)


def life_path(directory: Path, node_id: str) -> Path:
    """Where a node's own lock lies; whatever its name is, it stays in the directory."""
    return directory / f"node-{quote(node_id, safe='')}.lock"


@contextlib.contextmanager
def is_dead(directory: Path, node_id: str) -> Iterator[bool]:
    """Tell whether a node has provably no process, which stays so within the block.

    A node whose lock file is missing proves nothing: False.
    """
    try:
        file = os.open(life_path(directory, node_id), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(file)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def take_until(file: int, deadline: float) -> bool:
    """Take the lock of an open file by asking again and again: a thread in flock() itself could not give up.

    False: it was not to be had by `deadline`, a time.monotonic().
    """
    patient_after = 0.0
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = time.monotonic()
            if now >= deadline:
                return False
            patient_after = patient_after or now + 0.05
            time.sleep(_FIRST_POLL_S if now < patient_after else _LATER_POLL_S)
        else:
            return True
