"""The command `hubbub`: run a node, chat from a terminal, and all that an operator does.

Here is the parser, what concerns the node or its whole directory, and how a failure becomes a sentence and
an exit code; what an operator does to accounts is in desk.py.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage or settings; 3 `check` found problems; 130 interrupted.
"""

import argparse
import difflib
import importlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import trio

from protocol.errors import HubbubError
from server import config, desk, notify_desk
from server.config import ConfigError, Settings
from server.desk import CliError, Printer, Work, needs_data, run_at_desk
from server.directory import DEFAULT_APP_ID
from server.launch import command as cluster
from server.launch import leash
from server.log_setup import set_up_logging
from server.version import VERSION
from storage.backup import backup, restore
from storage.check import check

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
PROBLEMS: Final = 3
INTERRUPTED: Final = 130


# -- commands about the whole directory -------------------------------------------------------------


def _serve(_: argparse.Namespace, settings: Settings) -> int:
    leash.tie_to_launcher(os.environ)
    from server.app import run  # the whole node: other commands start faster without it

    return run(settings, on_ready=lambda addresses: print(f"hubbub is at {addresses.page}", flush=True))


def _backup(args: argparse.Namespace, settings: Settings) -> int:
    needs_data(settings)
    destination = Path(args.destination)
    if settings.data_path.resolve() in destination.resolve().parents:
        raise CliError(f"{destination} is inside the data directory; back up to another folder, or disk.")
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
    needs_data(settings)
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

    words: Sequence[str] = ()  # where its commands are optional: what stands after its name

    def error(self, message: str) -> NoReturn:
        # The value of a flag that is not there looks like a command; the flag is what is wrong.
        if "invalid choice" in message:
            usage = self.format_usage()
            unknown = [
                word for word in self.words if word.startswith("--") and word.split("=")[0] not in usage
            ]
            message = f"unrecognized arguments: {unknown[0]}" if unknown else message
        word, _, _ = message.removeprefix("unrecognized arguments: ").partition(" ")
        if word != message.partition(" ")[0] and word.startswith("--"):
            flags = [_flag(name) for name in config.FIELDS if name not in config.SECRETS]
            near = difflib.get_close_matches(word.partition("=")[0], flags, n=1, cutoff=0.7)
            message = f"there is no {word} here" + (f"; did you mean {near[0]}?" if near else "")
        self.exit(USAGE, f"hubbub: {message[:1].upper()}{message[1:]}; see `{self.prog} --help`.\n")


def make_parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Make the parser. The arguments of tools (`chat`, `bench`, …) are loaded where `argv` names them."""
    parser = _Parser(
        prog="hubbub",
        description="A self-hosted realtime social backend.",
        epilog="examples:\n"
        "  hubbub serve                          run a node here and print the address to open\n"
        "  hubbub serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem\n"
        "  hubbub cluster --nodes 3              several nodes on this machine, as one\n"
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
    launch = _command(
        commands, "cluster", "run several nodes on this machine", cluster.run_cluster, with_settings=True
    )
    cluster.add_words(launch)
    launch.words = argv[1:]
    for name, help_text, module in (
        ("chat", "chat from this terminal", "hubbub.terminal"),
        ("replay", "play logs of IRC channels into a group", "hubbub.replay"),
        ("bench", "measure a node, or several, on this machine", "bench.command"),
        ("import", "send a file of users, addresses or groups to a server", "hubbub.importing"),
        ("sandbox", "run fakes of APNs, FCM, Web Push, SMS and SMTP for tests", "server.sandbox.command"),
    ):
        client = commands.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
        if name in argv[:1]:
            tool = importlib.import_module(module)
            tool.add_arguments(client)
            client.set_defaults(tool=tool)

    users = _group(commands, "users", "accounts of people")
    _desk(users, "list", "list the accounts of an app", desk.users_list)
    create = _desk(
        users, "create", "make an account, whether sign-up is open or not", desk.users_create, name="NAME"
    )
    create.add_argument("--display-name", default="", help="shown to others; else the user name")
    create.epilog = "The password is asked for, or read as one line from standard input."
    _desk(users, "passwd", "give a user another password", desk.users_passwd, name="NAME")
    _desk(users, "disable", "keep a user out; what was written stays", desk.users_disable, name="NAME")
    _desk(users, "enable", "let a user in again", desk.users_enable, name="NAME")

    bots = _group(commands, "bots", "accounts of programs")
    _desk(bots, "list", "list the bots of an app", desk.bots_list)
    create = _desk(bots, "create", "make a bot and print its token", desk.bots_create, name="NAME")
    create.add_argument("--display-name", default="", help="shown to others; else the user name")
    create.add_argument("--owner", default="", metavar="NAME", help="the user it belongs to; else the app")
    _desk(bots, "token", "give a bot a new token; the old one ends", desk.bots_token, name="NAME")
    _desk(bots, "delete", "end a bot; what it has written stays", desk.bots_delete, name="NAME")

    apps = _group(commands, "apps", "tenants, each with users and keys of its own")
    _desk(apps, "list", "list the apps", desk.apps_list, has_app=False)
    create = _desk(apps, "create", "make an app", desk.apps_create, name="NAME", has_app=False)
    create.add_argument("--no-sign-up", action="store_true", help="only its backend makes accounts")
    sign_up = _desk(
        apps, "sign-up", "open or close an app's sign-up", desk.apps_sign_up, name="NAME", has_app=False
    )
    sign_up.add_argument("state", choices=("open", "closed"))
    feed = _desk(
        apps, "feed", "show or switch what an app's feeds have", desk.apps_feed, name="NAME", has_app=False
    )
    feed.add_argument(
        "--order", choices=("chronological", "ranked"), help="of feeds, where readers say nothing"
    )
    for switch in ("ads", "trending", "recommendations"):
        feed.add_argument(f"--{switch}", choices=("on", "off"))
    feed.epilog = "A node that is running follows within seconds."

    campaigns = _group(commands, "campaigns", "ads in the feeds of apps")
    _desk(campaigns, "list", "list the campaigns of an app, and count them", desk.campaigns_list)

    keys = _group(commands, "keys", "keys for the backends of apps")
    _desk(keys, "list", "list the keys of an app", desk.keys_list)
    create = _desk(keys, "create", "make a key and print its secret", desk.keys_create)
    create.add_argument("--name", default="", help="what it is for")
    revoke = _desk(keys, "revoke", "end a key and every token signed with it", desk.keys_revoke)
    revoke.add_argument("key", metavar="KEY")

    letters = _group(commands, "dead-letters", "messages that crashed their actor twice")
    _desk(letters, "list", "list them", desk.dead_letters_list, has_app=False)
    show = _desk(letters, "show", "print one whole", desk.dead_letters_show, has_app=False)
    show.add_argument("id", metavar="ID")

    told = _desk(
        commands,
        "explain",
        "why a notification was, or was not, delivered",
        notify_desk.explain,
        has_app=False,
    )
    told.add_argument("id", metavar="ID", help="the notification's id")
    notify = _group(commands, "notify", "notifications that wait, or were given up")
    _desk(notify, "queues", "what waits, by app, channel and priority", notify_desk.queues, has_app=False)
    _desk(notify, "dead", "list deliveries of an app that were given up", notify_desk.dead)

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
    parser = _command(group, command, help_text, run_at_desk)
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
) -> _Parser:
    parser: _Parser = commands.add_parser(
        name, help=help_text, description=help_text[:1].upper() + help_text[1:] + "."
    )
    parser.set_defaults(run=run, has_settings=with_settings)
    parser.add_argument("--config", default="", metavar="FILE", help="settings file; else ./hubbub.toml")
    if name not in ("serve", "cluster"):
        parser.add_argument("--json", action="store_true", help="print JSON")
    for field in config.FIELDS if with_settings else ("data_dir",):
        # A launcher names its nodes itself, and they are a cluster.
        if field not in config.SECRETS and not (name == "cluster" and field in cluster.OF_ONE_NODE):
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
    flags = (flag, "--data") if name == "data_dir" else (flag,)
    parser.add_argument(*flags, dest=name, default=argparse.SUPPRESS, metavar=metavar, help=help_text)


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
    # A launcher gives the ports to its nodes, so it checks the settings as those will have them.
    is_launcher = args.run is cluster.run_cluster
    loaded = config.load(flags, os.environ, config_file=args.config, is_checked=not is_launcher)
    args.sources, args.given = loaded.sources, flags
    if args.run is not _serve:
        set_up_logging(log_format="console", level="warning")
    code: int = args.run(args, loaded.settings)
    return code


def _is_setting(args: argparse.Namespace, name: str) -> bool:
    # Commands that take one setting have arguments of their own beside it.
    return hasattr(args, name) and (name == "data_dir" or args.has_settings)


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
    if isinstance(exc, OSError) and exc.strerror and exc.filename:
        return f"{exc.filename}: {exc.strerror}; check the path, its owner and the space on its disk."
    return str(exc)


def _complain(sentence: str) -> None:
    print(f"hubbub: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
