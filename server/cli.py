"""The command `hubbub`: run a node, chat from a terminal, and all that an operator does.

Operator's commands open the data directory themselves, also while a node runs on it: SQLite's WAL lets
everybody read, and writers take turns. The node notices a disabled user or a revoked key within seconds.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage or settings; 3 `check` found problems; 130 interrupted.
"""

import argparse
import difflib
import getpass
import importlib
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from protocol.errors import HubbubError
from protocol.records import App, AppKey, DeadLetter, User
from server import config
from server.accounts import Accounts
from server.config import ConfigError, Settings
from server.directory import DEFAULT_APP_ID, Directory
from server.log_ins import LogIns
from server.log_setup import set_up_logging
from server.version import VERSION
from storage.backup import backup, restore
from storage.check import DATABASE_NAME, check
from storage.sqlite import SqliteStore, open_store

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
PROBLEMS: Final = 3
INTERRUPTED: Final = 130

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


def _run_at_desk(args: argparse.Namespace, settings: Settings) -> int:
    _needs_data(settings)
    work: Work = args.work

    async def main() -> None:
        async with open_store(settings.data_path) as store:
            directory = Directory(store)
            await directory.ensure_default_app()
            log_ins = LogIns(store, directory, config.server_secret(settings))
            await work(Desk(args, store, directory, Accounts(store, directory, log_ins)))

    trio.run(main)
    return OK


def _needs_data(settings: Settings) -> None:
    if not (settings.data_path / DATABASE_NAME).is_file():
        raise CliError(
            f"There is no data in {settings.data_path}; name the node's folder with --data-dir, "
            "or start a node once with `hubbub serve`."
        )


# -- commands about the whole directory -------------------------------------------------------------


def _serve(_: argparse.Namespace, settings: Settings) -> int:
    from server.app import run  # the whole node: other commands start faster without it

    return run(settings, on_ready=lambda addresses: print(f"hubbub is at {addresses.page}", flush=True))


def _backup(args: argparse.Namespace, settings: Settings) -> int:
    _needs_data(settings)
    destination = Path(args.destination)
    manifest = backup(settings.data_path, destination)
    secret = settings.data_path / config.SECRET_FILE
    if secret.is_file():
        copy = destination / config.SECRET_FILE
        copy.touch(mode=0o600)
        copy.write_bytes(secret.read_bytes())
    line = {
        "destination": str(destination),
        "row_count": manifest.row_count,
        "database_bytes": manifest.database_bytes,
        "file_count": len(manifest.files),
        "missing_file_count": len(manifest.missing_files),
    }
    Printer(is_json=args.json).one(line, "It holds secret.key: keep it as safe as the node itself.")
    return FAILED if manifest.missing_files else OK


def _restore(args: argparse.Namespace, settings: Settings) -> int:
    manifest = restore(args.source, settings.data_path)
    secret = Path(args.source) / config.SECRET_FILE
    if secret.is_file():
        target = settings.data_path / config.SECRET_FILE
        target.touch(mode=0o600)
        shutil.copyfile(secret, target)
    line = {
        "data_dir": str(settings.data_path),
        "row_count": manifest.row_count,
        "file_count": len(manifest.files),
    }
    Printer(is_json=args.json).one(line, f"Start it: hubbub serve --data-dir {settings.data_path}")
    return OK


def _check(args: argparse.Namespace, settings: Settings) -> int:
    _needs_data(settings)
    problems = check(settings.data_path)
    if args.json:
        print(msgspec.json.encode(problems).decode())
    else:
        for problem in problems:
            print(problem)
        print(f"{len(problems)} problems" if problems else "Everything is as it should be.", file=sys.stderr)
    return PROBLEMS if problems else OK


def _config(args: argparse.Namespace, settings: Settings) -> int:
    sources: Mapping[str, str] = args.sources
    lines = []
    for name in config.FIELDS:
        value = getattr(settings, name)
        if name in config.SECRETS:
            value = "(set)" if value else ""
        if isinstance(value, list) and not args.json:
            value = ",".join(value)
        lines.append(
            {"setting": name, "value": value, "from": sources[name], "meaning": config.describe(name)}
        )
    Printer(is_json=args.json).lines(lines, ("setting", "value", "from", "meaning"))
    return OK


def _version(args: argparse.Namespace, _: Settings) -> int:
    facts = {
        "hubbub": VERSION,
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        "trio": trio.__version__,
    }
    Printer(is_json=args.json).one(facts)
    return OK


# -- the parser -------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one sentence and where to read on."""

    def error(self, message: str) -> NoReturn:
        word, _, _ = message.removeprefix("unrecognized arguments: ").partition(" ")
        if word != message.partition(" ")[0] and word.startswith("--"):
            flags = [_flag(name) for name in config.FIELDS if name not in config.SECRETS]
            near = difflib.get_close_matches(word.partition("=")[0], flags, n=1, cutoff=0.7)
            message = f"there is no {word} here" + (f"; did you mean {near[0]}?" if near else "")
        self.exit(USAGE, f"hubbub: {message[:1].upper()}{message[1:]}; see `{self.prog} --help`.\n")


def make_parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Make the parser. Of `chat` and `replay` the arguments are loaded only where `argv` names them."""
    parser = _Parser(
        prog="hubbub",
        description="A self-hosted realtime social backend.",
        epilog="examples:\n"
        "  hubbub serve                          run a node here and print the address to open\n"
        "  hubbub serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem\n"
        "  hubbub users create ann               make an account\n"
        "  hubbub keys create --json             an app key for your backend\n"
        "  hubbub backup /backups/today          while the node runs\n\n"
        "exit codes: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 check found problems",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hubbub {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    serve = _command(commands, "serve", "run a node", _serve, with_settings=True)
    serve.epilog = "Each flag is also a variable (HUBBUB_PORT) and a key in hubbub.toml (port = 8080)."
    for name, help_text, module in (
        ("chat", "chat from this terminal", "hubbub.terminal"),
        ("replay", "play logs of IRC channels into a group", "hubbub.replay"),
    ):
        client = commands.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
        if name in argv[:1]:
            tool = importlib.import_module(module)
            tool.add_arguments(client)
            client.set_defaults(tool=tool)

    users = _group(commands, "users", "accounts of people")
    _desk(users, "list", "list the accounts of an app", users_list)
    create = _desk(
        users, "create", "make an account, whether sign-up is open or not", users_create, name="NAME"
    )
    create.add_argument("--display-name", default="", help="shown to others; else the user name")
    create.epilog = "The password is asked for, or read as one line from standard input."
    _desk(users, "passwd", "give a user another password", users_passwd, name="NAME")
    _desk(users, "disable", "keep a user out; what was written stays", users_disable, name="NAME")
    _desk(users, "enable", "let a user in again", users_enable, name="NAME")

    bots = _group(commands, "bots", "accounts of programs")
    _desk(bots, "list", "list the bots of an app", bots_list)
    create = _desk(bots, "create", "make a bot and print its token", bots_create, name="NAME")
    create.add_argument("--display-name", default="", help="shown to others; else the user name")
    create.add_argument("--owner", default="", metavar="NAME", help="the user it belongs to; else the app")
    _desk(bots, "token", "give a bot a new token; the old one ends", bots_token, name="NAME")
    _desk(bots, "delete", "end a bot; what it has written stays", bots_delete, name="NAME")

    apps = _group(commands, "apps", "tenants, each with users and keys of its own")
    _desk(apps, "list", "list the apps", apps_list, has_app=False)
    create = _desk(apps, "create", "make an app", apps_create, name="NAME", has_app=False)
    create.add_argument("--no-sign-up", action="store_true", help="only its backend makes accounts")
    sign_up = _desk(
        apps, "sign-up", "open or close an app's sign-up", apps_sign_up, name="NAME", has_app=False
    )
    sign_up.add_argument("state", choices=("open", "closed"))

    keys = _group(commands, "keys", "keys for the backends of apps")
    _desk(keys, "list", "list the keys of an app", keys_list)
    create = _desk(keys, "create", "make a key and print its secret", keys_create)
    create.add_argument("--name", default="", help="what it is for")
    revoke = _desk(keys, "revoke", "end a key and every token signed with it", keys_revoke)
    revoke.add_argument("key", metavar="KEY")

    letters = _group(commands, "dead-letters", "messages that crashed their actor twice")
    _desk(letters, "list", "list them", dead_letters_list, has_app=False)
    show = _desk(letters, "show", "print one whole", dead_letters_show, has_app=False)
    show.add_argument("id", metavar="ID")

    saved = _command(commands, "backup", "copy the data directory, while its node runs", _backup)
    saved.add_argument("destination", metavar="DEST", help="a folder that does not exist yet")
    restored = _command(commands, "restore", "make a data directory from a backup", _restore)
    restored.add_argument("source", metavar="SRC", help="a folder that `hubbub backup` made")
    _command(commands, "check", "verify the data directory, while its node may run", _check)
    _command(commands, "config", "print the settings and where they come from", _config, with_settings=True)
    _command(commands, "version", "print versions", _version)
    return parser


def _group(commands: Any, name: str, help_text: str) -> Any:
    parser = commands.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)


def _desk(
    group: Any, command: str, help_text: str, work: Work, *, name: str = "", has_app: bool = True
) -> argparse.ArgumentParser:
    parser = _command(group, command, help_text, _run_at_desk)
    parser.set_defaults(work=work)
    if name:
        parser.add_argument("name", metavar=name, help="a name or an id")
    if has_app:
        parser.add_argument(
            "--app", default=DEFAULT_APP_ID, help="the app, by id or name; else the default one"
        )
    return parser


def _command(
    commands: Any,
    name: str,
    help_text: str,
    run: Callable[[argparse.Namespace, Settings], int],
    *,
    with_settings: bool = False,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text[:1].upper() + help_text[1:] + "."
    )
    parser.set_defaults(run=run)
    parser.add_argument("--config", default="", metavar="FILE", help="settings file; else ./hubbub.toml")
    if name != "serve":
        parser.add_argument("--json", action="store_true", help="print JSON")
    for field in config.FIELDS if with_settings else ("data_dir",):
        if field not in config.SECRETS:
            _add_setting(parser, field)
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_setting(parser: argparse.ArgumentParser, name: str) -> None:
    flag = _flag(name)
    default = getattr(config.DEFAULTS, name)
    shown = ",".join(default) if isinstance(default, list) else default
    help_text = config.describe(name) + (f" Default: {shown}." if shown != "" else "")
    help_text = help_text.replace("%", "%%")
    kind = config.base_type(name)
    if kind is bool:
        parser.add_argument(
            flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help_text
        )
        return
    metavar = {int: "N", float: "N", list: "A,B"}.get(kind, "TEXT")
    parser.add_argument(flag, default=argparse.SUPPRESS, metavar=metavar, help=help_text)


# -- main -------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    What people can mend becomes one sentence; our own bugs keep their traceback.
    """
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except ConfigError as exc:
        _complain(str(exc))
        return USAGE
    except BrokenPipeError:  # `hubbub users list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except (CliError, HubbubError, OSError, sqlite3.Error, ExceptionGroup) as exc:
        _complain(_sentence(exc))
        return FAILED


def _main(words: list[str]) -> int:
    args = make_parser(words).parse_args(words)
    if hasattr(args, "tool"):
        return int(args.tool.run(args) or OK)
    flags = {name: getattr(args, name) for name in config.FIELDS if _is_setting(args, name)}
    loaded = config.load(flags, os.environ, config_file=args.config)
    args.sources = loaded.sources
    if args.run is not _serve:
        set_up_logging(log_format="console", level="warning")
    code: int = args.run(args, loaded.settings)
    return code


def _is_setting(args: argparse.Namespace, name: str) -> bool:
    # Commands that take one setting have arguments of their own beside it.
    return hasattr(args, name) and (name == "data_dir" or args.run in (_serve, _config))


def _sentence(exc: BaseException) -> str:
    if isinstance(exc, ExceptionGroup):
        leaf = exc.exceptions[0]
        if not isinstance(leaf, CliError | HubbubError | OSError | sqlite3.Error | ExceptionGroup):
            raise exc
        return _sentence(leaf)
    if isinstance(exc, HubbubError):
        return exc.message
    if isinstance(exc, sqlite3.Error):
        return f"The database cannot be used: {exc}; `hubbub check` tells more."
    return str(exc)


def _complain(sentence: str) -> None:
    print(f"hubbub: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
