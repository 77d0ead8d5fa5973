"""The nicks' connections: which are open, being opened, or to be given up for others."""

import zlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from hubbub.accounts import AppBackend
from hubbub.client import Client, connect
from hubbub.replay.settings import Settings
from protocol.errors import HubbubError

MAX_OPENING: Final = 16  # connections being opened at a time

# A nick holds no space, so no line of a log can speak for those who run the group.
_OPERATOR: Final = "replay operator "


def operator_name(index: int) -> str:
    return f"{_OPERATOR}{index + 1}"


def is_operator(account: str) -> bool:
    """Tell those who run the group from the nicks."""
    return account.startswith(_OPERATOR)


class Seats:
    """Connections by account, at most so many; the longest unused one makes room."""

    def __init__(self, settings: Settings, backend: AppBackend, nursery: trio.Nursery) -> None:
        self._settings = settings
        self._backend = backend
        self._nursery = nursery
        self._seats: OrderedDict[str, _Seat] = OrderedDict()
        self._in_use: Counter[str] = Counter()
        self.speaker = ""  # whose lines are under way
        self._opening = trio.Semaphore(MAX_OPENING)
        # Two replays into two groups may run side by side; two into one group get in each other's way.
        self._device_id = f"replay-{zlib.crc32(settings.group.encode()):08x}"

    def expect(self, account: str) -> None:
        """Begin to open a connection that will be used soon, if there is a free seat for it."""
        if account in self._seats:
            self._seats.move_to_end(account)
        elif len(self._seats) < self._settings.max_sessions or self._make_room():
            self._sit_down(account)

    async def open(self, account: str) -> Client:
        """Return the account's open connection. Raises: HubbubError."""
        seat = self._seats.get(account)
        if seat is None:
            self._make_room()
            seat = self._sit_down(account)
        else:
            self._seats.move_to_end(account)
        if not seat.ready.is_set():
            await seat.ready.wait()
        if seat.error is not None:
            raise seat.error
        assert seat.client is not None
        return seat.client

    @asynccontextmanager
    async def in_use(self, account: str) -> AsyncIterator[Client]:
        """Return the account's open connection, and keep it until the block ends. Raises: HubbubError."""
        self._in_use[account] += 1
        try:
            yield await self.open(account)
        finally:
            self._in_use[account] -= 1

    def _sit_down(self, account: str) -> "_Seat":
        seat = self._seats[account] = _Seat()
        self._nursery.start_soon(self._serve, account, seat)
        return seat

    def _make_room(self) -> bool:
        """Let the longest unused connection go. Those not opened yet, in use, and operators, stay."""
        if len(self._seats) < self._settings.max_sessions:
            return True
        for account, seat in self._seats.items():
            is_kept = account == self.speaker or self._in_use[account] or is_operator(account)
            if seat.client is not None and not is_kept:
                del self._seats[account]
                seat.leave.set()
                return True
        return False

    async def _serve(self, account: str, seat: "_Seat") -> None:
        settings = self._settings

        async def token() -> str:
            return self._backend.user_token(external_id(account))

        try:
            await self._opening.acquire()
            is_opening = True
            try:
                async with connect(
                    settings.connect_url or settings.url,
                    token=token,
                    device_id=self._device_id,
                    focus=[],
                    client_name="hubbub-replay/0.1",
                    connect_timeout_s=120.0,
                ) as client:
                    self._opening.release()
                    is_opening = False
                    seat.client = client
                    seat.ready.set()
                    await seat.leave.wait()
            finally:
                if is_opening:
                    self._opening.release()
        except HubbubError as exc:
            seat.error = exc
            seat.ready.set()


def external_id(account: str) -> str:
    """Name a nick's account in the app's own system."""
    return f"irc:{account}"[:255]


class _Seat:
    """One account's connection: being opened, open, or on its way out."""

    __slots__ = ("client", "error", "leave", "ready")

    def __init__(self) -> None:
        self.client: Client | None = None
        self.error: HubbubError | None = None
        self.ready = trio.Event()
        self.leave = trio.Event()
