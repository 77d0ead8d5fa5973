"""What a terminal shows of a message: values in, text out."""

from datetime import datetime
from typing import Final

from rich.text import Text

from protocol.types import Message

REFERENCE_COLOURS: Final = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan")


def message_line(message: Message, name: str, *, is_mine: bool, now: float) -> Text:
    """Show a message as it now is."""
    line = Text()
    line.append(f"{clock(message.at_ms, now)} ", style="dim")
    line.append(f"{message.seq:>4} ", style="dim")
    line.append(clean(name), style="bold" if is_mine else f"bold {colour_of(message.user_id)}")
    if message.reply_to:
        line.append(f" → {message.reply_to}", style="dim")
    line.append(": ")
    if message.deleted:
        line.append("(deleted)", style="dim italic")
    else:
        line.append(clean(message.text).replace("\n", "\n           "))
    for file in message.files:
        line.append(f" [{clean(file.name)}, {file.size_bytes} bytes]", style="cyan")
    if message.edited_at_ms and not message.deleted:
        line.append(" (edited)", style="dim")
    for reaction in message.reactions:
        line.append(f"  {clean(reaction.emoji)} {len(reaction.user_ids)}", style="yellow")
    return line


def clean(text: str) -> str:
    """Take out what would move the cursor or change the terminal: what others write is shown, not obeyed."""
    return "".join(
        char if char.isprintable() or char == "\n" else "\ufffd" for char in text.replace("\t", "    ")
    )


def clock(at_ms: int, now: float) -> str:
    """Show the time of day; with the date where it was not today."""
    at = datetime.fromtimestamp(at_ms / 1000).astimezone()
    today = datetime.fromtimestamp(now).astimezone().date()
    return at.strftime("%H:%M") if at.date() == today else at.strftime("%Y-%m-%d %H:%M")


def colour_of(user_id: str) -> str:
    """Give each user the same colour each time."""
    return REFERENCE_COLOURS[sum(user_id.encode()) % len(REFERENCE_COLOURS)]
