"""Import users, addresses and groups from CSV or NDJSON, with progress; safe to repeat.

Lines are taken side by side, so that they share commits. A line that is wrong is told with its number and its
code, and the others go on: whoever mends it sends the file again. Users who are there then get the name,
language and time zone that the file now has; an address is registered again, which does no harm.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import nullcontext
from itertools import islice
from typing import Final, Literal, cast

import msgspec
import trio

from actors.notify.address import notify_address
from actors.notify.messages import PutAddress
from actors.router import Router
from protocol.commands import UpdateProfile
from protocol.errors import HubbubError, ProtocolError, Refused, Unavailable
from protocol.limits import MAX_NAME_CHARS
from protocol.notify_types import CHANNELS, Channel
from protocol.records import User
from server import auth
from server.directory import Directory
from server.notify.app_desk import AppDesk
from server.notify.import_lines import ImportFile, Line
from storage.store import Store

TakeAway = Callable[[str, str, str, str, dict[str, str]], Awaitable[None]]
UpdateUser = Callable[[User, UpdateProfile], Awaitable[None]]
Kind = Literal["users", "addresses", "groups"]
MAX_ERRORS: Final = 1_000  # told one by one; the count tells of the rest
CHUNK: Final = 500  # lines between two reports of progress, and read in one go: a millisecond or two
TASKS: Final = 64  # lines that are taken side by side
ASK_TIMEOUT_S: Final = 15.0
RETRIES: Final = 20  # of a line that the store has no room for now

_FIELDS: Final[dict[Kind, frozenset[str]]] = {
    "users": frozenset({"external_id", "username", "name", "language", "time_zone", "email", "phone"}),
    "addresses": frozenset(
        {"external_id", "user_id", "channel", "address", "name", "p256dh", "auth", "topic", "environment"}
    ),
    "groups": frozenset({"group", "external_id", "user_id"}),
}


class BadLine(msgspec.Struct, frozen=True):
    """A line that was not taken."""

    line: int
    code: str
    message: str


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far an import has come; `errors` are those since the last report.

    `total`: about how many lines there are; exact once it is `finished`.
    """

    done: int
    failed: int
    total: int
    errors: list[BadLine] = []
    finished: bool = False


class Importer:
    """Import for one app at a time; several may run side by side."""

    def __init__(
        self,
        store: Store,
        directory: Directory,
        desk: AppDesk,
        router: Router,
        *,
        take_away: TakeAway,
        update: UpdateUser,
    ) -> None:
        """`take_away`: let others have an address no more. `update`: change a user's profile."""
        self._store = store
        self._directory = directory
        self._desk = desk
        self._router = router
        self._take_away = take_away
        self._update = update

    async def run(self, app_id: str, kind: Kind, file: ImportFile) -> AsyncGenerator[Progress, None]:
        """Take all lines. Yields after each CHUNK, and once at the end with `finished`."""
        done = failed = told = 0
        take = {"users": self._user, "addresses": self._address, "groups": self._member}[kind]
        while lines := list(islice(file.lines, CHUNK)):
            chunk = [line for line in lines if line.error is not None or line.values is not None]
            errors = await self._chunk(app_id, kind, take, chunk)
            done += len(chunk) - len(errors)
            failed += len(errors)
            shown = errors[: max(0, MAX_ERRORS - told)]
            told += len(shown)
            yield Progress(done=done, failed=failed, total=max(file.total, done + failed), errors=shown)
        yield Progress(done=done, failed=failed, total=done + failed, finished=True)

    async def _chunk(
        self,
        app_id: str,
        kind: Kind,
        take: Callable[[str, dict[str, str]], Awaitable[None]],
        chunk: list[Line],
    ) -> list[BadLine]:
        errors: list[BadLine] = []
        lines = iter(chunk)
        addresses: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)  # who comes last has one

        async def work() -> None:
            for line in lines:
                try:
                    values = _values_of(kind, line)
                    async with addresses[values["address"]] if "address" in values else nullcontext():
                        await _patiently(lambda values=values: take(app_id, values))  # type: ignore[misc]
                except HubbubError as error:
                    errors.append(BadLine(line.number, error.code, error.message))

        async with trio.open_nursery() as nursery:
            for _ in range(min(TASKS, len(chunk))):
                nursery.start_soon(work)
        return sorted(errors, key=lambda error: error.line)

    async def _user(self, app_id: str, line: dict[str, str]) -> None:
        external_id = line.get("external_id", "")
        if not 1 <= len(external_id) <= 128:
            raise ProtocolError("bad_field", "external_id has 1 to 128 characters.")
        language = auth.checked_language(line.get("language", ""))
        time_zone = auth.checked_time_zone(line.get("time_zone", ""))
        name = auth.checked_name(line["name"][:MAX_NAME_CHARS]) if line.get("name") else ""
        user, was_created, _ = await self._directory.provision(
            app_id,
            external_id,
            username=line.get("username", ""),
            name=name,
            language=language,
            time_zone=time_zone,
        )
        if not was_created:
            change = UpdateProfile(
                name=_other(name, user.name),
                language=_other(language, user.language),
                time_zone=_other(time_zone, user.time_zone),
            )
            if change != UpdateProfile():
                await self._update(user, change)
        for field, channel in (("email", "email"), ("phone", "sms")):
            if line.get(field):
                await self._put_address(user.user_id, app_id, channel, line[field], {}, "")

    async def _address(self, app_id: str, line: dict[str, str]) -> None:
        channel = line.get("channel", "")
        if channel not in CHANNELS:
            raise ProtocolError("bad_field", f"channel is one of {', '.join(CHANNELS)}, not {channel!r}.")
        keys = {name: line[name] for name in ("p256dh", "auth", "topic", "environment") if line.get(name)}
        user_id = await self._user_id(app_id, line)
        await self._put_address(user_id, app_id, channel, line.get("address", ""), keys, line.get("name", ""))

    async def _member(self, app_id: str, line: dict[str, str]) -> None:
        group = line.get("group", "")
        if not 1 <= len(group) <= 64 or group == "*":
            raise ProtocolError("bad_field", "group has 1 to 64 characters, and is not *.")
        user_id = await self._user_id(app_id, line)
        await self._desk.change_group(app_id, group, add=[user_id])

    async def _put_address(
        self, user_id: str, app_id: str, channel: str, address: str, keys: dict[str, str], name: str
    ) -> None:
        await self._take_away(app_id, user_id, channel, address, keys)
        message = PutAddress(user_id, app_id, cast(Channel, channel), address, keys, name, is_import=True)
        await self._router.ask(notify_address(user_id), message, timeout_s=ASK_TIMEOUT_S)

    async def _user_id(self, app_id: str, line: dict[str, str]) -> str:
        if line.get("user_id"):
            return (await self._directory.user_of(app_id, line["user_id"])).user_id
        external_id = line.get("external_id", "")
        found = await self._store.notify.users_by_external(app_id, [external_id])
        if external_id not in found:
            raise Refused("user_not_found", f"The app has no user with the external id {external_id!r}.")
        return found[external_id]


def _other(wanted: str, known: str) -> str | None:
    """What is to be changed; a line without a value says nothing of it."""
    return wanted if wanted and wanted != known else None


def _values_of(kind: Kind, line: Line) -> dict[str, str]:
    """Raises: ProtocolError, of a line that could not be read or has a field that there is not."""
    if line.error is not None:
        raise line.error
    values = line.values or {}
    unknown = sorted(name for name in values if name not in _FIELDS[kind])
    if unknown:
        raise ProtocolError("bad_field", f"There is no field {unknown[0]!r} among {kind}.")
    return values


async def _patiently(take: Callable[[], Awaitable[None]]) -> None:
    """Take a line, and wait where the store or an actor has no room now."""
    for attempt in range(RETRIES):
        try:
            await take()
            return
        except Unavailable as error:
            if attempt == RETRIES - 1:
                raise
            await trio.sleep(max(0.1, error.retry_after_s or 0.0))
