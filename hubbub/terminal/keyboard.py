"""Where lines come from: a person's terminal, or a pipe.

At a terminal the last row is the line being typed. It is taken away before anything else is shown and put
back after it, so what others say never tears it apart.
"""

import codecs
import io
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TextIO, cast

import trio
from rich.cells import cell_len
from rich.console import Console

from hubbub.terminal.editor import LineEditor

READ_BYTES: Final = 4096


class Keyboard(Protocol):
    """A source of lines, and the console beside it."""

    console: Console
    has_keys: bool  # single keys are seen, not only whole lines

    async def line(self) -> str | None:
        """Wait for a line; None at the end of the input."""
        ...

    async def ask(self, question: str, *, is_secret: bool = False) -> str:
        """Ask for a line. Raises: EOFError at the end of the input."""
        ...


class PipeKeyboard:
    """Lines of a pipe or a file, read by a thread so that messages are shown meanwhile."""

    has_keys = False

    def __init__(self, source: TextIO, console: Console) -> None:
        self._source = source
        self.console = console

    async def line(self) -> str | None:
        """Wait for a line. The thread that waits is left behind when the client ends."""
        text = await trio.to_thread.run_sync(self._source.readline, abandon_on_cancel=True)
        return text.rstrip("\r\n") if text else None

    async def ask(self, question: str, *, is_secret: bool = False) -> str:
        self.console.print(question, end="")
        text = await self.line()
        if text is None:
            raise EOFError
        return text if is_secret else text.strip()


class TerminalKeyboard:
    """Keys of a terminal. Made by `open_terminal`."""

    has_keys = True

    def __init__(self, keys_fd: int, screen: TextIO) -> None:
        self._fd = keys_fd
        self._screen = screen
        self._editor = LineEditor()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines: list[str] = []
        self._is_shown = False  # whether the row is on the screen
        self.label: Callable[[], str] = str  # what stands before the line
        self.on_key: Callable[[str], None] = lambda _text: None  # told the text after each key
        self.console = Console(file=cast("TextIO", _AboveTheRow(self)), highlight=False, force_terminal=True)

    async def line(self) -> str | None:
        """Wait for a line. What was typed is taken off the screen: what it does will be seen there."""
        while not self._lines:
            if self._editor.is_ended:
                self.hide()
                return None
            self.redraw()
            await trio.lowlevel.wait_readable(self._fd)
            data = os.read(self._fd, READ_BYTES)
            if not data:
                self._editor.is_ended = True
            self._lines += self._editor.feed(self._decoder.decode(data))
            self.on_key(self._editor.text)
        self.redraw()
        return self._lines.pop(0)

    async def ask(self, question: str, *, is_secret: bool = False) -> str:
        label, self.label = self.label, lambda: question
        self._editor.is_secret = is_secret
        try:
            text = await self.line()
        finally:
            self.hide()
            self.label, self._editor.is_secret = label, False
        if text is None:
            raise EOFError
        self.console.print(question if is_secret else question + text, markup=False)
        return text if is_secret else text.strip()

    async def follow_signals(self) -> None:
        """Set the terminal up again when the job comes to the foreground, and fit the row to its width."""
        with trio.open_signal_receiver(signal.SIGCONT, signal.SIGWINCH) as signals:
            async for number in signals:
                if number == signal.SIGCONT:
                    tty.setcbreak(self._fd, termios.TCSADRAIN)
                self.redraw()

    def redraw(self) -> None:
        """Show the row as it now is."""
        label = self.label()
        shown, cursor = self._editor.visible(max(8, self.console.width - cell_len(label)))
        back = cell_len(shown) - cursor
        self._screen.write(f"\r\x1b[K{label}{shown}" + (f"\x1b[{back}D" if back else ""))
        self._screen.flush()
        self._is_shown = True

    def hide(self) -> None:
        """Take the row off the screen."""
        if self._is_shown:
            self._screen.write("\r\x1b[K")
            self._screen.flush()
            self._is_shown = False

    def write_above(self, text: str) -> None:
        """Show text in the rows above the line being typed."""
        was_shown = self._is_shown
        self.hide()
        self._screen.write(text)
        if was_shown and text.endswith("\n"):
            self.redraw()
        self._screen.flush()


class _AboveTheRow(io.TextIOBase):
    """The file that the console writes to."""

    def __init__(self, keyboard: TerminalKeyboard) -> None:
        self._keyboard = keyboard

    @property
    def encoding(self) -> str:  # type: ignore[override] # io.TextIOBase has it as an attribute
        return sys.stdout.encoding

    def write(self, text: str) -> int:
        if text:
            self._keyboard.write_above(text)
        return len(text)


@contextmanager
def open_terminal(keys: TextIO, screen: TextIO) -> Iterator[TerminalKeyboard]:
    """Read a terminal key by key until the block ends; then it is as it was before."""
    fd = keys.fileno()
    before = termios.tcgetattr(fd)
    keyboard = TerminalKeyboard(fd, screen)
    tty.setcbreak(fd)
    try:
        yield keyboard
    finally:
        keyboard.hide()
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
