"""What a replay is asked to do."""

from collections.abc import Sequence
from typing import Final

import msgspec

MAX_MEMBERS: Final = 460  # of 500: room for early joins, late removals, operators, and 8 who watch
OPERATORS: Final = 4  # accounts that add and remove members: one alone would meet its command rate
MAX_SESSIONS: Final = 128  # open connections of nicks; the longest unused one is closed for a new one
UNLIMITED: Final = 0.0  # as fast as the server acks


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to play, where, and how fast. `speed` 1 is real time; 0 is as fast as the server acks."""

    url: str
    app_key: str
    app_secret: str
    connect_url: str = ""  # where the nicks connect; empty: `url`
    group: str = "#ubuntu"
    speed: float = UNLIMITED
    max_members: int = MAX_MEMBERS
    max_sessions: int = MAX_SESSIONS
    watchers: Sequence[str] = ()  # user names of people who are put into the group
