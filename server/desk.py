"""What an operator does to accounts at the command line, and how it is printed. Parsed by cli.py.

The commands open the data directory themselves, also while a node runs on it: SQLite's WAL lets everybody
read, and writers take turns. The node notices a disabled user or a revoked key within seconds.
"""

import argparse
import getpass
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from protocol.feed_types import FeedOptions
from protocol.records import App, AppKey, DeadLetter, User
from server import config
from server.accounts import Accounts
from server.campaigns import Campaigns
from server.config import Settings
from server.directory import Directory
from server.log_ins import LogIns
from storage.check import DATABASE_NAME
from storage.sqlite import SqliteStore, open_store

Line = dict[str, Any]
Work = Callable[["Desk"], Awaitable[None]]


class CliError(Exception):
    """It cannot be done; the message is one sentence that says what to do."""


# -- what is printed --------------------------------------------------------------------------------


class Printer:
    """Tables for people, tab-separated lines for pipes, JSON where asked for."""

    def __init__(self, *, is_json: bool) -> None:
        self._is_json = is_json

    def lines(self, lines: Sequence[Line], columns: Sequence[str]) -> None:
        """Print one line for each dict, with these of its keys."""
        if self._is_json:
            print(json.dumps([{name: line[name] for name in columns} for line in lines], ensure_ascii=False))
        elif sys.stdout.isatty():
            table = Table(box=None, header_style="bold", pad_edge=False)
            for name in columns:
                table.add_column(name)
            for line in lines:
                table.add_row(*(_shown(line[name]) for name in columns))
            Console(markup=False, highlight=False).print(table)
        else:
            for line in lines:
                print("\t".join(_shown(line[name]) for name in columns))

    def one(self, line: Line, note: str = "") -> None:
        """Print the facts of one thing, and a note for a person who reads along."""
        if self._is_json:
            print(json.dumps(line, ensure_ascii=False))
            return
        width = max(len(name) for name in line)
        for name, value in line.items():
            print(f"{name:<{width}}  {_shown(value)}" if sys.stdout.isatty() else f"{name}\t{_shown(value)}")
        if note:
            print(note, file=sys.stderr)


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-" if sys.stdout.isatty() else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    # A name with a tab or an escape code in it must not break a line or a terminal.
    return "".join(char if char.isprintable() else "?" for char in str(value))


def _instant(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at_ms else ""


def _user_line(user: User, *, is_disabled: bool = False) -> Line:
    return {
        "user_id": user.user_id,
        "username": user.username,
        "name": user.name,
        "bot": user.is_bot,
        "disabled": is_disabled,
        "created": _instant(user.created_at_ms),
    }


# -- operator's commands ----------------------------------------------------------------------------


class Desk:
    """What an operator's command works with."""

    def __init__(
        self, args: argparse.Namespace, store: SqliteStore, directory: Directory, accounts: Accounts
    ) -> None:
        self.args = args
        self.store = store
        self.directory = directory
        self.accounts = accounts
        self.printer = Printer(is_json=args.json)

    async def app_id(self) -> str:
        """The app that --app names."""
        return (await self.directory.find_app(self.args.app)).app_id

    async def user(self) -> User:
        """The user of that app whom NAME names."""
        return await self.directory.find_user(await self.app_id(), self.args.name)

    async def bot(self) -> User:
        """The working bot of that app whom NAME names."""
        app_id = await self.app_id()
        found = await self.directory.find_user(app_id, self.args.name)
        if not found.is_bot:
            raise CliError(f"{found.username} is a person, not a bot; `hubbub bots list` shows the bots.")
        return await self.directory.bot_of(app_id, found.user_id)


async def users_list(desk: Desk) -> None:
    app_id = await desk.app_id()
    lines: list[Line] = []
    after = ""
    while page := await desk.directory.list_users(app_id, after=after, limit=1000):
        disabled = await desk.directory.disabled_among([user.user_id for user in page])
        lines += [_user_line(user, is_disabled=user.user_id in disabled) for user in page if not user.is_bot]
        after = page[-1].user_id
    lines.sort(key=lambda line: str(line["username"]))
    desk.printer.lines(lines, ("user_id", "username", "name", "disabled", "created"))


async def users_create(desk: Desk) -> None:
    app_id = await desk.app_id()
    password = _new_password()
    user = await desk.accounts.create_user(app_id, desk.args.name, password, name=desk.args.display_name)
    desk.printer.one(_user_line(user))


async def users_passwd(desk: Desk) -> None:
    user = await desk.user()
    await desk.accounts.set_password(user, _new_password())
    desk.printer.one(_user_line(user), "The password is changed; all log-ins of this user have ended.")


async def users_disable(desk: Desk) -> None:
    user = await desk.user()
    await desk.accounts.disable_user(user)
    desk.printer.one(
        _user_line(user, is_disabled=True), "Out: a running node closes the connections within seconds."
    )


async def users_enable(desk: Desk) -> None:
    user = await desk.user()
    await desk.accounts.enable_user(user)
    desk.printer.one(_user_line(user), "The user can log in again.")


async def bots_list(desk: Desk) -> None:
    bots = await desk.directory.list_bots(await desk.app_id())
    lines = [_user_line(bot) | {"owner_id": bot.owner_id} for bot in bots]
    desk.printer.lines(lines, ("user_id", "username", "name", "owner_id", "created"))


async def bots_create(desk: Desk) -> None:
    app_id = await desk.app_id()
    owner = await desk.directory.find_user(app_id, desk.args.owner) if desk.args.owner else None
    bot, token = await desk.accounts.create_bot(
        app_id, desk.args.name, name=desk.args.display_name, owner=owner
    )
    desk.printer.one(
        {"user_id": bot.user_id, "username": bot.username, "token": token},
        "Keep the token: it is shown this once.",
    )


async def bots_token(desk: Desk) -> None:
    bot = await desk.bot()
    token = await desk.accounts.rotate_bot_token(bot)
    desk.printer.one(
        {"user_id": bot.user_id, "username": bot.username, "token": token},
        "Keep the token: it is shown this once. The old one has ended.",
    )


async def bots_delete(desk: Desk) -> None:
    bot = await desk.bot()
    await desk.accounts.disable_user(bot)
    desk.printer.one(_user_line(bot, is_disabled=True), "Gone: what it has written stays.")


def _app_line(app: App) -> Line:
    return {
        "app_id": app.app_id,
        "name": app.name,
        "sign_up": app.allow_sign_up,
        "created": _instant(app.created_at_ms),
    }


async def apps_list(desk: Desk) -> None:
    apps = await desk.directory.list_apps()
    desk.printer.lines([_app_line(app) for app in apps], ("app_id", "name", "sign_up", "created"))


async def apps_create(desk: Desk) -> None:
    app = await desk.directory.create_app(desk.args.name, allow_sign_up=not desk.args.no_sign_up)
    desk.printer.one(_app_line(app))


async def apps_sign_up(desk: Desk) -> None:
    app = await desk.directory.find_app(desk.args.name)
    app = await desk.directory.set_sign_up(app, is_allowed=desk.args.state == "open")
    desk.printer.one(_app_line(app))


async def apps_feed(desk: Desk) -> None:
    app = await desk.directory.find_app(desk.args.name)
    campaigns = Campaigns(desk.store)
    options = await campaigns.read_options(app.app_id)
    given = {name: getattr(desk.args, name) for name in FeedOptions.__struct_fields__}
    wanted = {name: {"on": True, "off": False}.get(value, value) for name, value in given.items() if value}
    if wanted:
        options = msgspec.structs.replace(options, **wanted)
        await campaigns.put_options(app.app_id, options)
    desk.printer.one({"app_id": app.app_id, **msgspec.structs.asdict(options)})


async def campaigns_list(desk: Desk) -> None:
    campaigns, app_id = Campaigns(desk.store), await desk.app_id()
    lines: list[Line] = []
    while rows := await campaigns.list_page(app_id, after=lines[-1]["campaign_id"] if lines else ""):
        for row in rows:
            _, counts = await campaigns.report(app_id, row.campaign_id)
            lines.append({**msgspec.structs.asdict(row), **msgspec.structs.asdict(counts)})
    columns = ("campaign_id", "title", "is_paused", "budget", "showings", "impressions", "clicks")
    desk.printer.lines(lines, columns)


def _key_line(key: AppKey) -> Line:
    return {
        "app_key": key.app_key,
        "name": key.name,
        "created": _instant(key.created_at_ms),
        "revoked": _instant(key.revoked_at_ms),
    }


async def keys_list(desk: Desk) -> None:
    keys = await desk.directory.list_app_keys(await desk.app_id())
    desk.printer.lines([_key_line(key) for key in keys], ("app_key", "name", "created", "revoked"))


async def keys_create(desk: Desk) -> None:
    key, secret = await desk.accounts.create_app_key(await desk.app_id(), desk.args.name)
    desk.printer.one(
        {"app_key": key.app_key, "app_secret": secret, "app_id": key.app_id},
        "Keep the secret where your backend reads it, and nowhere else.",
    )


async def keys_revoke(desk: Desk) -> None:
    await desk.accounts.revoke_app_key(await desk.app_id(), desk.args.key)
    desk.printer.one({"app_key": desk.args.key, "revoked": True})


def _letter_line(letter: DeadLetter) -> Line:
    return msgspec.structs.asdict(letter) | {"at": _instant(letter.at_ms)}


async def dead_letters_list(desk: Desk) -> None:
    letters = await desk.store.find(DeadLetter, {}, limit=10_000)
    letters.sort(key=lambda letter: letter.at_ms)
    desk.printer.lines(
        [_letter_line(letter) for letter in letters],
        ("dead_letter_id", "at", "kind", "actor_id", "message_type", "error"),
    )


async def dead_letters_show(desk: Desk) -> None:
    letter = await desk.store.get(DeadLetter, desk.args.id)
    if letter is None:
        raise CliError(f"There is no dead letter {desk.args.id!r}; `hubbub dead-letters list` shows them.")
    desk.printer.one(_letter_line(letter))


def _new_password() -> str:
    """Ask for a password twice, or read a line where nobody sits at a terminal."""
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise CliError("There is no password on standard input; pipe one line, or use a terminal.")
        return password
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        raise CliError("The two passwords differ; nothing was changed.")
    return password


def run_at_desk(args: argparse.Namespace, settings: Settings) -> int:
    """Do `args.work` with the store and the services over it. Raises: CliError and what those raise."""
    needs_data(settings)
    work: Work = args.work

    async def main() -> None:
        async with open_store(settings.data_path) as store:
            directory = Directory(store)
            await directory.ensure_default_app()
            log_ins = LogIns(store, directory, config.server_secret(settings))
            await work(Desk(args, store, directory, Accounts(store, directory, log_ins)))

    trio.run(main)
    return 0


def needs_data(settings: Settings) -> None:
    """Raises: CliError where no node has ever been."""
    if not (settings.data_path / DATABASE_NAME).is_file():
        raise CliError(
            f"There is no data in {settings.data_path}; name the node's folder with --data-dir, "
            "or start a node once with `hubbub serve`."
        )
