"""Import users, addresses and groups from CSV or NDJSON, with progress; safe to repeat.

Lines are taken side by side, so that they share commits. A line that is wrong is told with its number and its
code, and the others go on: whoever mends it sends the file again, and what was stored already stays as it is.
"""

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import zip_longest
from typing import Final, Literal, cast

import msgspec
import trio

from actors.notify.address import notify_address
from actors.notify.messages import PutAddress
from actors.router import Router
from protocol.errors import HubbubError, ProtocolError, Refused, Unavailable
from protocol.notify_types import CHANNELS, Channel
from server.directory import Directory
from server.notify.app_desk import AppDesk
from server.notify_service import check_service
from storage.store import Store

Kind = Literal["users", "addresses", "groups"]
Format = Literal["csv", "ndjson"]
MAX_LINES: Final = 1_000_000
MAX_ERRORS: Final = 1_000  # told one by one; the count tells of the rest
CHUNK: Final = 500  # lines between two reports of progress
TASKS: Final = 64  # lines that are taken side by side
ASK_TIMEOUT_S: Final = 15.0
RETRIES: Final = 20  # of a line that the store has no room for now

_object = msgspec.json.Decoder(dict[str, object]).decode
_FIELDS: Final[dict[Kind, frozenset[str]]] = {
    "users": frozenset({"external_id", "username", "name", "language", "time_zone", "email", "phone"}),
    "addresses": frozenset(
        {"external_id", "user_id", "channel", "address", "name", "p256dh", "auth", "topic", "environment"}
    ),
    "groups": frozenset({"group", "external_id", "user_id"}),
}


class Line(msgspec.Struct, frozen=True):
    """A line of a file: where it begins, the first being 1, and what it holds, or why it cannot be read."""

    number: int
    values: dict[str, str]
    error: str = ""


class BadLine(msgspec.Struct, frozen=True):
    """A line that was not taken."""

    line: int
    code: str
    message: str


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far an import has come; `errors` are those since the last report."""

    done: int
    failed: int
    total: int
    errors: list[BadLine] = []
    finished: bool = False


class Importer:
    """Import for one app at a time; several may run side by side."""

    def __init__(self, store: Store, directory: Directory, desk: AppDesk, router: Router) -> None:
        self._store = store
        self._directory = directory
        self._desk = desk
        self._router = router

    async def run(self, app_id: str, kind: Kind, lines: list[Line]) -> AsyncIterator[Progress]:
        """Take all lines. Yields after each CHUNK, and once at the end with `finished`."""
        done = failed = told = 0
        take = {"users": self._user, "addresses": self._address, "groups": self._member}[kind]
        for start in range(0, len(lines), CHUNK):
            chunk = lines[start : start + CHUNK]
            errors = await self._chunk(app_id, kind, take, chunk)
            done += len(chunk) - len(errors)
            failed += len(errors)
            shown = errors[: max(0, MAX_ERRORS - told)]
            told += len(shown)
            yield Progress(done=done, failed=failed, total=len(lines), errors=shown)
        yield Progress(done=done, failed=failed, total=len(lines), finished=True)

    async def _chunk(
        self,
        app_id: str,
        kind: Kind,
        take: Callable[[str, dict[str, str]], Awaitable[None]],
        chunk: list[Line],
    ) -> list[BadLine]:
        errors: list[BadLine] = []
        lines = iter(chunk)

        async def work() -> None:
            for line in lines:
                try:
                    _check_line(kind, line)
                    await _patiently(lambda line=line: take(app_id, line.values))  # type: ignore[misc]
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
        user, _, _ = await self._directory.provision(
            app_id,
            external_id,
            username=line.get("username", ""),
            name=line.get("name", ""),
            language=line.get("language", ""),
            time_zone=line.get("time_zone", ""),
        )
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
        await check_service(channel, address)
        message = PutAddress(user_id, app_id, cast(Channel, channel), address, keys, name)
        await self._router.ask(notify_address(user_id), message, timeout_s=ASK_TIMEOUT_S)

    async def _user_id(self, app_id: str, line: dict[str, str]) -> str:
        if line.get("user_id"):
            return (await self._directory.user_of(app_id, line["user_id"])).user_id
        external_id = line.get("external_id", "")
        found = await self._store.notify.users_by_external(app_id, [external_id])
        if external_id not in found:
            raise Refused("user_not_found", f"The app has no user with the external id {external_id!r}.")
        return found[external_id]


def read_lines(raw: bytes, form: Format) -> list[Line]:
    """Read a file whole. CSV has its columns' names in the first line; NDJSON an object in each.

    A line that cannot be read is told as such, and costs no other.
    Raises: ProtocolError(not_utf8, bad_field), where it is not UTF-8, has no names, or is too long.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ProtocolError("not_utf8", "The file is not UTF-8.") from None
    lines = list(_csv(text) if form == "csv" else _ndjson(text))
    if len(lines) > MAX_LINES:
        raise ProtocolError("bad_field", f"A file has at most {MAX_LINES} lines.")
    return lines


def _csv(text: str) -> Iterator[Line]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] = []
    while True:  # ends with the file
        number = reader.line_num + 1  # a field may hold line breaks, so a row is not a line
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            if not names:
                raise ProtocolError("bad_field", f"The names of the columns cannot be read: {exc}") from None
            yield Line(number, {}, f"The line cannot be read as CSV: {exc}.")
            continue
        if not row:
            continue
        if not names:
            names = [name.strip() for name in row]
        elif len(row) > len(names):
            yield Line(number, {}, "The line has more fields than the first one has names.")
        else:
            yield Line(number, {name: value.strip() for name, value in zip_longest(names, row, fillvalue="")})


def _ndjson(text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = _object(line)
        except (msgspec.MsgspecError, RecursionError) as exc:
            yield Line(number, {}, f"The line is no JSON object: {exc}.")
        else:
            yield Line(number, {name: "" if value is None else str(value) for name, value in values.items()})


def _check_line(kind: Kind, line: Line) -> None:
    """Raises: ProtocolError(bad_field)."""
    if line.error:
        raise ProtocolError("bad_field", line.error)
    unknown = sorted(name for name in line.values if name not in _FIELDS[kind])
    if unknown:
        raise ProtocolError("bad_field", f"There is no field {unknown[0]!r} among {kind}.")


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
