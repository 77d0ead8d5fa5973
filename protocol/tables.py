"""All tables of the directory, in the order in which they are made."""

from typing import Final

from protocol.notify_records import NOTIFY_TABLES
from protocol.records import DIRECTORY, Row

TABLES: Final[tuple[type[Row], ...]] = (*DIRECTORY, *NOTIFY_TABLES)
