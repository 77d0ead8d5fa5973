"""Copy a data directory while its node runs, and put such a copy back.

    hubbub.db        one consistent state of the database, compacted
    files/           the files that this state refers to
    manifest.json    what must be there, with sizes and hashes; written last

Both functions block: call them in a thread, or from the command line. Either the whole result is there under
its name, or nothing is.
"""

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from protocol.errors import Refused
from storage.check import DATABASE_NAME, FILES_NAME
from storage.files import sha256_of, sync_folder
from storage.migrations import schema_digest
from storage.reader import open_read_only

MANIFEST_NAME: Final = "manifest.json"
FORMAT: Final = 1
# A node of the time before must never meet an epoch that it believes to be its own.
_EPOCHS_PER_RESTORE: Final = 1_000_000


class BackedUpFile(msgspec.Struct, frozen=True):
    """One uploaded file in a backup."""

    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup consists of."""

    format: int
    created_at_ms: int
    schema: str
    sqlite_version: str
    database_sha256: str
    database_bytes: int
    row_count: int
    files: tuple[BackedUpFile, ...] = ()
    missing_files: tuple[str, ...] = ()


def backup(directory: str | Path, destination: str | Path) -> Manifest:
    """Write a backup of a data directory to a new folder. A node may be running on the directory.

    The copy is one read transaction: the WAL grows meanwhile by what is written. Files are hard links where
    the destination is on the same file system. `missing_files` of the result lists uploads that are not
    there. Raises: Refused where the source is no data directory or the destination exists; OSError;
    sqlite3.Error.
    """
    directory, destination = Path(directory), Path(destination)
    if not (directory / DATABASE_NAME).exists():
        raise Refused("not_found", f"There is no {DATABASE_NAME} in {directory}: it is no data directory.")
    if destination.exists():
        raise Refused("already_exists", f"{destination} exists already; a backup never overwrites.")
    with _appearing(destination) as folder:
        copy = folder / DATABASE_NAME
        with closing(open_read_only(directory / DATABASE_NAME)) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        os.chmod(copy, 0o600)
        with closing(sqlite3.connect(copy)) as connection:
            wanted = connection.execute(
                "SELECT DISTINCT sha256, size_bytes FROM file ORDER BY sha256"
            ).fetchall()
            row_count = int(connection.execute("SELECT count(*) FROM log").fetchone()[0])
        files, missing = [], []
        (folder / FILES_NAME).mkdir(mode=0o700)
        for sha256, size_bytes in wanted:
            source = _file_in(directory, sha256)
            if source.exists():
                _link_or_copy(source, _file_in(folder, sha256))
                files.append(BackedUpFile(sha256, size_bytes))
            else:
                missing.append(sha256)
        manifest = Manifest(
            format=FORMAT,
            created_at_ms=time.time_ns() // 1_000_000,
            schema=schema_digest(),
            sqlite_version=sqlite3.sqlite_version,
            database_sha256=sha256_of(copy),
            database_bytes=copy.stat().st_size,
            row_count=row_count,
            files=tuple(files),
            missing_files=tuple(missing),
        )
        (folder / MANIFEST_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    return manifest


def verify_backup(source: str | Path) -> Manifest:
    """Check that a backup is whole: every file there, with the size and hash of the manifest.

    Raises: Refused "bad_backup", with what is wrong.
    """
    source = Path(source)
    try:
        manifest = msgspec.json.decode((source / MANIFEST_NAME).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise _bad(
            f"There is no {MANIFEST_NAME} in {source}: it is no backup, or an unfinished one."
        ) from None
    except msgspec.MsgspecError as exc:
        raise _bad(f"{source / MANIFEST_NAME} cannot be read: {exc}") from exc
    if manifest.format != FORMAT:
        raise _bad(f"The backup has format {manifest.format}; this release reads format {FORMAT}.")
    _expect(source / DATABASE_NAME, manifest.database_bytes, manifest.database_sha256)
    for file in manifest.files:
        _expect(_file_in(source, file.sha256), file.size_bytes, file.sha256)
    return manifest


def restore(source: str | Path, directory: str | Path) -> Manifest:
    """Make a data directory from a backup. Nodes get epochs that no earlier node has ever had.

    Raises: Refused "bad_backup", or "already_exists" where the directory is not empty; OSError;
    sqlite3.Error.
    """
    source, directory = Path(source), Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise Refused("already_exists", f"{directory} is not empty; restore into a new directory.")
    manifest = verify_backup(source)
    with _appearing(directory) as folder:
        copy = folder / DATABASE_NAME
        shutil.copyfile(source / DATABASE_NAME, copy)
        os.chmod(copy, 0o600)
        (folder / FILES_NAME).mkdir(mode=0o700)
        for file in manifest.files:
            target = _file_in(folder, file.sha256)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(_file_in(source, file.sha256), target)  # no link: the backup stays untouched
            os.chmod(target, 0o600)
        with closing(sqlite3.connect(copy)) as connection, connection:
            connection.execute(
                "UPDATE shard SET owner = '', boot = 0, epoch = epoch + ?", (_EPOCHS_PER_RESTORE,)
            )
            connection.execute("UPDATE node SET lease_until_ms = 0")
            connection.execute(
                "INSERT OR REPLACE INTO store_info (name, value) VALUES ('restored_at_ms', ?)",
                (str(time.time_ns() // 1_000_000),),
            )
    return manifest


@contextlib.contextmanager
def _appearing(destination: Path) -> Iterator[Path]:
    """Give a folder beside `destination` that takes its name when all went well, and vanishes otherwise."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    folder = destination.parent / f".{destination.name}.{os.getpid()}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
        for path in sorted(folder.rglob("*")):
            _sync(path)
        sync_folder(folder)
        os.rename(folder, destination)  # onto an empty folder this works, onto anything else it fails
        sync_folder(destination.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    if path.is_dir():
        sync_folder(path)
        return
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        os.link(source, target)  # stored files never change, so two names may share one
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
        os.chmod(target, 0o600)


def _expect(path: Path, size_bytes: int, sha256: str) -> None:
    if not path.exists():
        raise _bad(f"{path} is missing.")
    if path.stat().st_size != size_bytes:
        raise _bad(f"{path} has {path.stat().st_size} bytes, not {size_bytes}.")
    if sha256_of(path) != sha256:
        raise _bad(f"{path} is damaged: its hash differs from the manifest's.")


def _bad(message: str) -> Refused:
    return Refused("bad_backup", message)


def _file_in(directory: Path, sha256: str) -> Path:
    return directory / FILES_NAME / sha256[:2] / sha256
