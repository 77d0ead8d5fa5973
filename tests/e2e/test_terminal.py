"""`hubbub chat` as a person runs it, by pipes, against a real node."""

import codecs
import os
import pty
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.nodes import ROOT, running_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class Person:
    """One `hubbub chat` process: types lines, reads what is shown."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.shown = ""

    async def types(self, line: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(line.encode() + b"\n")

    async def sees(self, text: str) -> None:
        """Read on until this is shown; what came before it is used up."""
        assert self.process.stdout is not None
        while text not in self.shown:
            data = await self.process.stdout.receive_some()
            assert data, f"the client ended without showing {text!r}: {self.shown!r}"
            self.shown += data.decode()
        self.shown = self.shown.partition(text)[2]


STYLE = re.compile(r"\x1b\[[0-9;]*m")  # bold, dim, colours


class PersonAtTerminal:
    """One `hubbub chat` process with a terminal of its own: presses keys, sees the screen's bytes."""

    def __init__(self, process: trio.Process, terminal_fd: int) -> None:
        self.process = process
        self.shown = ""
        self._fd = terminal_fd
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def presses(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    async def sees(self, text: str) -> None:
        """Read on until this is shown; what came before it is used up."""
        while text not in self.shown:
            await trio.lowlevel.wait_readable(self._fd)
            self.shown = STYLE.sub("", self.shown + self._decoder.decode(os.read(self._fd, 65_536)))
        self.shown = self.shown.partition(text)[2]


async def start_at_terminal(url: str, home: Path, nursery: trio.Nursery) -> PersonAtTerminal:
    ours, theirs = pty.openpty()
    env = {key: value for key, value in os.environ.items() if not key.startswith("HUBBUB_")}
    env |= {"XDG_CONFIG_HOME": str(home), "TERM": "xterm", "NO_COLOR": "1", "TZ": "UTC"}
    process: trio.Process = await nursery.start(
        partial(
            trio.run_process,
            [sys.executable, "-m", "server", "chat", "--url", url],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            check=False,
            env=env,
            cwd=ROOT,
            start_new_session=True,
        )
    )
    os.close(theirs)
    return PersonAtTerminal(process, ours)


async def test_at_a_terminal_the_line_being_typed_stays_whole_and_is_announced(tmp_path: Path) -> None:
    """What others say must not tear apart what one is typing; and they see that one types."""
    with running_node(tmp_path) as node, trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            ann = await start_at_terminal(node.url, tmp_path / "ann", nursery)
            bob = await start_at_terminal(node.url, tmp_path / "bob", nursery)
            for person, name in ((ann, "ann"), (bob, "bob")):
                await person.sees("(s)ign up?")
                person.presses("s\n")
                await person.sees("User name: ")
                person.presses(f"{name}\n")
                await person.sees("Password: ")
                person.presses("a good long password\n")
                await person.sees("No conversations yet")
                assert "good long" not in person.shown
            ann.presses("/new bob\n")
            await ann.sees("bob › ")
            await bob.sees("ann began a talk with you: /open 1")
            bob.presses("/open 1\n")
            await bob.sees("ann › ")
            bob.presses("half a li")
            await bob.sees("half a li")
            await ann.sees("bob (bob … ) › ")
            ann.presses("interrupted\n")
            await bob.sees("ann: interrupted")
            await bob.sees("ann › half a li")  # shown again, below
            bob.presses("mp\x7fne\x01\x1b[3~H\n")
            await ann.sees("bob: Half a limne")
            await bob.sees("bob: Half a limne")
            bob.presses("\x1b[A")
            await bob.sees("ann › Half a limne")
            bob.presses("\x15")
            bob.presses("\x04")
            await bob.process.wait()
            assert bob.process.returncode == 0
            ann.presses("/quit\n")
            await ann.process.wait()
            assert ann.process.returncode == 0


async def start(url: str, home: Path, nursery: trio.Nursery) -> Person:
    env = {key: value for key, value in os.environ.items() if not key.startswith("HUBBUB_")}
    env |= {"XDG_CONFIG_HOME": str(home), "COLUMNS": "200", "PYTHONUNBUFFERED": "1", "TZ": "UTC"}
    process: trio.Process = await nursery.start(
        partial(
            trio.run_process,
            [sys.executable, "-m", "server", "chat", "--url", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            env=env,
            cwd=ROOT,
        )
    )
    return Person(process)


async def test_two_people_talk(tmp_path: Path) -> None:
    """From sign-up to the first conversation: names, replies, edits, reactions, receipts and history."""
    with running_node(tmp_path) as node, trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            ann = await start(node.url, tmp_path / "ann", nursery)
            bob = await start(node.url, tmp_path / "bob", nursery)
            for person, name in ((ann, "ann"), (bob, "bob")):
                await person.sees("(s)ign up?")
                await person.types("s")
                await person.sees("User name")
                await person.types(name)
                await person.sees("Password")
                await person.types("a good long password")
                await person.sees("No conversations yet")
            await ann.types("/new bob")
            await ann.sees("bob")
            await ann.types("hello bob")
            await ann.sees("hello bob")
            await bob.sees("/open 1")
            await bob.types("/open 1")
            await bob.sees("hello bob")
            await ann.sees("bob has read it")
            await bob.types("hello \x1b[31mann")
            await ann.sees("hello \ufffd[31mann")
            await ann.types("/edit 2 hello, Bob")
            await bob.sees("ann changed 2 to: hello, Bob")
            await bob.types("/react 2 👍")
            await ann.sees("bob reacted with 👍 on 2")
            await bob.types("/delete 3")
            await ann.sees("bob deleted 3")
            await ann.types("/nonsense")
            await ann.sees("no command /nonsense")
            await ann.types("/who")
            await ann.sees("has read")
            await ann.types("/quit")
            await ann.process.wait()
            assert ann.process.returncode == 0
            # The log-in is kept, and only for its owner to read.
            kept = tmp_path / "ann" / "hubbub" / "logins.json"
            assert kept.stat().st_mode & 0o777 == 0o600
            ann = await start(node.url, tmp_path / "ann", nursery)
            await ann.sees("bob")
            await ann.types("/open bob")
            await ann.sees("hello, Bob")
            await ann.sees("(edited)")
            await ann.sees("(deleted)")
            await ann.types("/group Lunch | bob")
            await ann.sees("Lunch")
            await bob.sees("put you into Lunch")
            await ann.types("noon?")
            await bob.sees("in Lunch: noon?")
            await ann.types("/logout")
            await ann.sees("Logged out")
            await ann.process.wait()
            assert kept.read_bytes() == b"{}"
            assert bob.process.stdin is not None
            await bob.process.stdin.aclose()  # the end of the input is the end of the chat
            await bob.process.wait()
            assert bob.process.returncode == 0
