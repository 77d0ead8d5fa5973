"""An office: directory, log-ins and accounts over the real store, with a clock that a test moves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from protocol.errors import HubbubError, Refused
from server.accounts import Accounts
from server.directory import Directory
from server.log_ins import LogIns
from server.passwords import Passwords
from storage.sqlite import SqliteStore, open_store
from tests.server.http_world import SECRET, cheap_passwords


class Clock:
    """Wall time that a test moves."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


class Office:
    """The three services, as one process has them."""

    def __init__(self, store: SqliteStore, clock: Clock, passwords: Passwords | None = None) -> None:
        self.store = store
        self.clock = clock
        self.revoked: list[tuple[str, str]] = []
        self.directory = Directory(store, clock=clock)
        self.log_ins = LogIns(
            store,
            self.directory,
            SECRET,
            on_session_revoked=lambda session_id, user_id: self.revoked.append((session_id, user_id)),
            clock=clock,
        )
        self.accounts = Accounts(
            store, self.directory, self.log_ins, passwords=passwords or cheap_passwords(), clock=clock
        )


@asynccontextmanager
async def open_office(folder: Path, passwords: Passwords | None = None) -> AsyncIterator[Office]:
    async with open_store(folder) as store:
        office = Office(store, Clock(), passwords)
        await office.directory.ensure_default_app()
        with trio.fail_after(30):
            yield office


def code_of(error: pytest.ExceptionInfo[HubbubError]) -> str:
    return error.value.code


async def refused(log_ins: LogIns, token: str) -> bool:
    try:
        await log_ins.authenticate(token)
    except Refused as exc:
        assert exc.code == "unauthenticated"
        return True
    return False
