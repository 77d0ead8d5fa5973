"""What survives: the log, the directory (users, conversations, settings), and the files.

Owns the data directory and everything that is read from or written to it. Leaves to others what the rows
mean: the rules are in actors. Imports protocol only.
"""

from storage.backup import Manifest, backup, restore, verify_backup
from storage.check import Problem, check
from storage.files import FileStore, StoredFile
from storage.locks import DirectoryInUse, Holder, write_lock_holder
from storage.sqlite import SqliteStore, open_store
from storage.store import Outcome, Store, Value

__all__ = [
    "DirectoryInUse",
    "FileStore",
    "Holder",
    "Manifest",
    "Outcome",
    "Problem",
    "SqliteStore",
    "Store",
    "StoredFile",
    "Value",
    "backup",
    "check",
    "open_store",
    "restore",
    "verify_backup",
    "write_lock_holder",
]
