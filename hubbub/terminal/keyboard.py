"""The keyboard: lines of standard input, be it a terminal or a pipe."""

import getpass
from typing import TextIO

import trio
from rich.console import Console


class Keyboard:
    """Lines of standard input, read by a thread so that messages are shown meanwhile."""

    def __init__(self, source: TextIO, console: Console) -> None:
        self._source = source
        self._console = console
        self.is_terminal = source.isatty()

    async def line(self) -> str | None:
        """Read a line; None at the end. The thread that waits is left behind when the client ends."""
        text = await trio.to_thread.run_sync(self._source.readline, abandon_on_cancel=True)
        return text or None

    async def ask(self, question: str) -> str:
        """Ask for a line. Raises: EOFError."""
        self._console.print(question, end="")
        text = await self.line()
        if text is None:
            raise EOFError
        return text.strip()

    async def ask_secret(self, question: str) -> str:
        """Ask for a line that is not shown. Raises: EOFError."""
        if not self.is_terminal:
            return await self.ask(question)
        return await trio.to_thread.run_sync(getpass.getpass, question, abandon_on_cancel=True)
