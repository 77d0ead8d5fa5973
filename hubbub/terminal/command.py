"""The command line of `hubbub chat`."""

import argparse
import os
import sys

import trio
from rich.console import Console
from rich.text import Text

from hubbub.terminal.chat import chat
from hubbub.terminal.keyboard import PipeKeyboard, open_terminal
from hubbub.terminal.logins import LoginFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """State the arguments of `hubbub chat`."""
    parser.add_argument(
        "--url",
        default=os.environ.get("HUBBUB_URL", "http://127.0.0.1:8080"),
        help="the server's public port; of several nodes: A,B,C (HUBBUB_URL; default %(default)s)",
    )
    parser.add_argument("--user", default="", help="log in as this user, whoever was logged in before")


def run(args: argparse.Namespace) -> int:
    """Carry out `hubbub chat`. Returns the exit status."""
    console = Console(highlight=False)

    async def main() -> int:
        logins = LoginFile.default()
        if sys.stdin.isatty() and sys.stdout.isatty():
            with open_terminal(sys.stdin, sys.stdout) as terminal:
                return await chat(args.url, terminal, username=args.user, logins=logins)
        return await chat(args.url, PipeKeyboard(sys.stdin, console), username=args.user, logins=logins)

    try:
        return trio.run(main)
    except ValueError as exc:
        console.print(Text(str(exc), style="red"))
        return 2
    except KeyboardInterrupt:
        return 130
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return 130
