"""A bot that reminds: "/remind 10m drink water" makes it say so in ten minutes, whatever happens meanwhile.

    .venv/bin/hubbub bots create reminder
    HUBBUB_TOKEN=… .venv/bin/python examples/reminder_bot.py --state reminders.db

Commands, in any conversation that the bot is in:

    /remind 10m drink water     after s, m, h or d; several may stand together: 1h30m
    /reminders                  what is due here
    /forget 3                   take reminder 3 back

Reminders live in a small SQLite file and survive restarts of the bot. Each fires once, although the bot may
be killed between sending and writing that down: the message is sent under a key made of the reminder, so the
server stores a second attempt not again.
"""

import argparse
import logging
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

import hubbub

MAX_DELAY_S: Final = 366 * 86_400  # further ahead, a calendar serves better
MAX_PER_USER: Final = 100  # open reminders of one user
FIRE_BATCH: Final = 50  # reminders fired in one turn; the rest follows in the next
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DELAY = re.compile(r"(?:\d{1,7}[smhd])+", re.IGNORECASE)
_PART = re.compile(r"(\d{1,7})([smhd])", re.IGNORECASE)


class Reminder(msgspec.Struct, frozen=True):
    """One reminder that has not fired."""

    reminder_id: int
    conversation_id: str
    user_id: str
    reply_to: int
    due_at_s: float
    text: str


def parse_delay(word: str) -> int | None:
    """Read "90s", "10m" or "1h30m" as seconds; None where it is neither, or longer than a year."""
    if _DELAY.fullmatch(word) is None:
        return None
    delay_s = sum(int(count) * _UNIT_S[unit.lower()] for count, unit in _PART.findall(word))
    return delay_s if 0 < delay_s <= MAX_DELAY_S else None


class Reminders:
    """Reminders in a SQLite file. Each call is a few microseconds' work and is safe to repeat."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS reminder ("
            "reminder_id INTEGER PRIMARY KEY AUTOINCREMENT, conversation_id TEXT NOT NULL, "
            "user_id TEXT NOT NULL, reply_to INTEGER NOT NULL, due_at_s REAL NOT NULL, text TEXT NOT NULL, "
            "done_at_s REAL, UNIQUE (conversation_id, reply_to))"
        )

    def close(self) -> None:
        self._db.close()

    def add(self, conversation_id: str, user_id: str, reply_to: int, due_at_s: float, text: str) -> int:
        """Keep a reminder; the message that asked for it is its key. Returns its id."""
        self._db.execute(
            "INSERT INTO reminder (conversation_id, user_id, reply_to, due_at_s, text) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (conversation_id, user_id, reply_to, due_at_s, text),
        )
        row = self._db.execute(
            "SELECT reminder_id FROM reminder WHERE conversation_id = ? AND reply_to = ?",
            (conversation_id, reply_to),
        ).fetchone()
        return int(row[0])

    def due(self, now_s: float) -> list[Reminder]:
        """Return what should fire now, the oldest first."""
        return self._select("due_at_s <= ? ORDER BY due_at_s LIMIT ?", now_s, FIRE_BATCH)

    def of_user(self, user_id: str, conversation_id: str) -> list[Reminder]:
        """Return what a user has open in a conversation."""
        return self._select("user_id = ? AND conversation_id = ? ORDER BY due_at_s", user_id, conversation_id)

    def count(self, user_id: str) -> int:
        """Count a user's open reminders."""
        row = self._db.execute(
            "SELECT count(*) FROM reminder WHERE done_at_s IS NULL AND user_id = ?", (user_id,)
        ).fetchone()
        return int(row[0])

    def finish(self, reminder_id: int, now_s: float) -> None:
        """Note that a reminder has fired or is not wanted any more."""
        self._db.execute(
            "UPDATE reminder SET done_at_s = ? WHERE reminder_id = ? AND done_at_s IS NULL",
            (now_s, reminder_id),
        )

    def _select(self, where: str, *values: object) -> list[Reminder]:
        rows = self._db.execute(
            "SELECT reminder_id, conversation_id, user_id, reply_to, due_at_s, text FROM reminder "
            f"WHERE done_at_s IS NULL AND {where}",
            values,
        )
        return [Reminder(*row) for row in rows]


def make_bot(
    url: str,
    token: str,
    reminders: Reminders,
    *,
    state: str = "",
    clock: Callable[[], float] = time.time,
    tick_s: float = 1.0,
) -> hubbub.Bot:
    """State what the bot does. `clock` gives Unix seconds."""
    bot = hubbub.Bot(url, token=token, cursors=state or None)

    @bot.command("remind")
    async def remind(context: hubbub.Context) -> None:
        word, _, text = context.rest.partition(" ")
        delay_s = parse_delay(word)
        if delay_s is None or not text.strip():
            await context.reply("Like this: /remind 10m drink water (s, m, h or d; 1h30m works too).")
            return
        if reminders.count(context.message.user_id) >= MAX_PER_USER:
            await context.reply(f"You have {MAX_PER_USER} reminders open; /forget some first.")
            return
        # From when it was asked for: a bot that was down meanwhile is not late by that.
        due_at_s = context.message.at_ms / 1000 + delay_s
        reminder_id = reminders.add(
            context.conversation_id, context.message.user_id, context.message.seq, due_at_s, text.strip()
        )
        await context.reply(f"I will remind you in {word} (number {reminder_id}).")

    @bot.command("reminders")
    async def show(context: hubbub.Context) -> None:
        found = reminders.of_user(context.message.user_id, context.conversation_id)
        lines = [
            f"{item.reminder_id}: in {_in_words(item.due_at_s - clock())}, {item.text}" for item in found
        ]
        await context.reply("\n".join(lines) or "Nothing is due here.")

    @bot.command("forget")
    async def forget(context: hubbub.Context) -> None:
        found = reminders.of_user(context.message.user_id, context.conversation_id)
        wanted = next(
            (item for item in found if context.args and context.args[0] == str(item.reminder_id)), None
        )
        if wanted is None:
            await context.reply("There is no such reminder of yours here; see /reminders.")
            return
        reminders.finish(wanted.reminder_id, clock())
        await context.reply(f"Number {wanted.reminder_id} is forgotten.")

    @bot.every(tick_s)
    async def fire(running: hubbub.Bot) -> None:
        for item in reminders.due(clock()):
            try:
                await running.client.send(
                    item.conversation_id,
                    f"Reminder: {item.text}",
                    reply_to=item.reply_to,
                    mentions=[item.user_id],
                    client_id=f"reminder:{item.reply_to}",
                )
            except hubbub.Refused as exc:
                if running.client.is_closed:
                    raise  # the session ended, not the conversation: it is still to fire
                # Nobody is there to be told: the bot was removed, or the conversation is gone.
                logging.getLogger(__name__).warning("reminder_undeliverable code=%s", exc.code)
            reminders.finish(item.reminder_id, clock())

    return bot


def _in_words(seconds: float) -> str:
    left = max(0, round(seconds))
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if left >= 2 * size:
            return f"{left // size}{unit}"
    return f"{left}s"


def main() -> int:
    """Read the arguments and work until stopped."""
    parser = argparse.ArgumentParser(description="A bot that reminds: /remind 10m drink water.")
    parser.add_argument("--url", default=os.environ.get("HUBBUB_URL", "hubbub://127.0.0.1:8081"))
    parser.add_argument("--token", default=os.environ.get("HUBBUB_TOKEN", ""), help="or HUBBUB_TOKEN")
    parser.add_argument("--state", default="reminders.db", metavar="FILE", help="default %(default)s")
    args = parser.parse_args()
    if not args.token:
        parser.error("give the bot's token by --token or HUBBUB_TOKEN; `hubbub bots create NAME` prints one")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    reminders = Reminders(args.state)
    try:
        make_bot(args.url, args.token, reminders, state=f"{args.state}.cursors").run()
    except hubbub.HubbubError as exc:
        print(f"The bot stopped: {exc.message}", file=sys.stderr)
        return 1
    finally:
        reminders.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
