"""One line being typed: keys in, text and the place of the cursor out. Pure."""

from collections import deque
from typing import Final

from rich.cells import cell_len, chop_cells

MAX_HISTORY: Final = 200  # lines that the arrow keys bring back
MAX_LINE_CHARS: Final = 100_000  # a message may have 100 KB

_ESCAPES: Final = {
    "[A": "up",
    "[B": "down",
    "[C": "right",
    "[D": "left",
    "OA": "up",
    "OB": "down",
    "OC": "right",
    "OD": "left",
    "[H": "home",
    "[F": "end",
    "OH": "home",
    "OF": "end",
    "[1~": "home",
    "[4~": "end",
    "[3~": "delete",
}
_CONTROLS: Final = {
    "\n": "enter",
    "\r": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x01": "home",
    "\x05": "end",
    "\x02": "left",
    "\x06": "right",
    "\x10": "up",
    "\x0e": "down",
    "\x15": "kill",
    "\x17": "kill_word",
    "\x0b": "kill_rest",
    "\x04": "eof",
}


class LineEditor:
    """The keys of a simple shell: arrows, home, end, delete, ^A ^E ^U ^W ^K, history; ^D ends the input."""

    def __init__(self) -> None:
        self.text = ""
        self.cursor = 0  # in characters
        self.is_ended = False
        self.is_secret = False  # the line is neither shown nor kept in the history
        self._history: deque[str] = deque(maxlen=MAX_HISTORY)
        self._back = 0  # how far back in the history
        self._draft = ""  # what was being typed before going back
        self._escape = ""  # the beginning of a key that is not complete yet

    def feed(self, keys: str) -> list[str]:
        """Take what was typed. Returns the lines that were finished."""
        lines: list[str] = []
        for char in keys:
            key = self._key(char)
            if key == "enter":
                lines.append(self._finish())
            elif key == "eof":
                self.is_ended = self.is_ended or not self.text
            elif key:
                self._edit(key)
            elif not self._escape and char.isprintable() and len(self.text) < MAX_LINE_CHARS:
                self.text = self.text[: self.cursor] + char + self.text[self.cursor :]
                self.cursor += 1
        return lines

    def visible(self, width: int) -> tuple[str, int]:
        """Return the part of the line that fits into `width` cells, and the cursor's cell in it."""
        if self.is_secret:
            return "", 0
        before = self.text[: self.cursor]
        if cell_len(before) >= width:  # show what is left of the cursor, as far as it fits
            kept = chop_cells(before[::-1], max(1, width - 1))[0][::-1]
            return kept, cell_len(kept)
        shown = chop_cells(self.text, max(1, width - 1))
        return (shown[0] if shown else ""), cell_len(before)

    def _key(self, char: str) -> str:
        """Return the name of the key that this character is, or completes."""
        if char == "\x1b":
            self._escape = char
            return ""
        if not self._escape:
            return _CONTROLS.get(char, "")
        self._escape += char
        body = self._escape[1:]
        if body in ("[", "O") or (body[0] == "[" and (char.isdigit() or char == ";")):
            return "skip"  # it goes on
        self._escape = ""
        return _ESCAPES.get(body, "skip")

    def _finish(self) -> str:
        line = self.text
        if line.strip() and not self.is_secret:
            self._history.append(line)
        self._show("")
        self._back = 0
        return line

    def _edit(self, key: str) -> None:
        text, at = self.text, self.cursor
        match key:
            case "left":
                self.cursor = max(0, at - 1)
            case "right":
                self.cursor = min(len(text), at + 1)
            case "home":
                self.cursor = 0
            case "end":
                self.cursor = len(text)
            case "backspace" if at:
                self.text, self.cursor = text[: at - 1] + text[at:], at - 1
            case "delete":
                self.text = text[:at] + text[at + 1 :]
            case "kill":
                self.text, self.cursor = text[at:], 0
            case "kill_rest":
                self.text = text[:at]
            case "kill_word":
                kept = text[:at].rstrip()
                kept = kept[: kept.rfind(" ") + 1]
                self.text, self.cursor = kept + text[at:], len(kept)
            case "up" if self._back < len(self._history):
                if not self._back:
                    self._draft = text
                self._back += 1
                self._show(self._history[-self._back])
            case "down" if self._back:
                self._back -= 1
                self._show(self._history[-self._back] if self._back else self._draft)

    def _show(self, text: str) -> None:
        self.text, self.cursor = text, len(text)
