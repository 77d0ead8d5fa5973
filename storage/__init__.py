"""What survives: the log, the directory (users, conversations, settings), and the files.

Owns the data directory and everything that is read from or written to it. Leaves to others what the rows
mean: the rules are in actors. Imports protocol only.
"""

from storage.locks import DirectoryInUse
from storage.sqlite import SqliteStore, open_store
from storage.store import Outcome, Store, Value

__all__ = ["DirectoryInUse", "Outcome", "SqliteStore", "Store", "Value", "open_store"]
