"""Read IRC channel logs, and plan how a group of accounts plays them. Pure: bytes in, steps out.

The format is the one of the Ubuntu channel logs: `[HH:MM] <nick> text`, `[HH:MM]  * nick action`, and lines
that begin with `===` for joins, parts, renames, kicks, modes and, in older logs, actions.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

EMPTY_TEXT: Final = "(empty line)"  # IRC lets a line be empty; a message has text
MINUTES_PER_DAY: Final = 24 * 60
# The clock of a log runs back only over midnight, or by a minute where two sources were merged.
MIDNIGHT_JUMP_MINUTES: Final = 6 * 60

LineKind = Literal["say", "action", "join", "part", "rename", "kick", "other"]

_SAY = re.compile(r"\[(\d\d):(\d\d)\] ?<([^>]+)> ?(.*)", re.DOTALL)
_ACTION = re.compile(r"\[(\d\d):(\d\d)\] {1,2}\* (\S+) ?(.*)", re.DOTALL)
_JOIN = re.compile(r"=== (.+?) \[[^\]]*\] *has joined #\S+")
_PART = re.compile(r"=== (.+?) \[[^\]]*\] *has left #\S+")
_QUIT = re.compile(r"=== (.+?) \[[^\]]*\] *has quit\b")
_RENAME = re.compile(r"=== (\S+) is now known as (\S+)\s*")
_KICK = re.compile(r"=== (\S+) was kicked (?:off|from) #\S+ by (\S+)")
_MODE = re.compile(r"=== mode/")
_OLD_ACTION = re.compile(r"=== (\S+) (\S.*)", re.DOTALL)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a log, understood. `minute` is the wall clock's, -1 where the line has none."""

    number: int
    kind: LineKind
    nick: str = ""
    text: str = ""  # what was said or done; the new nick of a rename
    minute: int = -1


def decode_line(raw: bytes) -> str:
    """Decode as IRC clients did: UTF-8, else Windows-1252, and what fits neither becomes U+FFFD."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def parse_line(raw: bytes, number: int) -> Line | None:
    """Understand one line; None for an empty one. Never fails: what is not understood is "other"."""
    text = decode_line(raw.rstrip(b"\r\n")).replace("\x00", "\ufffd")
    if not text.strip():
        return None
    if text.startswith("==="):
        return _parse_notice(text, number)
    said = _SAY.fullmatch(text)
    if said is not None and (minute := _minute(said[1], said[2])) >= 0:
        return Line(number=number, kind="say", nick=_nick(said[3]), text=said[4], minute=minute)
    done = _ACTION.fullmatch(text)
    if done is not None and (minute := _minute(done[1], done[2])) >= 0:
        return Line(number=number, kind="action", nick=_nick(done[3]), text=done[4], minute=minute)
    return Line(number=number, kind="other", text=text)


def _parse_notice(text: str, number: int) -> Line:
    if (found := _RENAME.fullmatch(text)) is not None:
        return Line(number=number, kind="rename", nick=_nick(found[1]), text=_nick(found[2]))
    if (found := _JOIN.match(text)) is not None:
        return Line(number=number, kind="join", nick=_nick(found[1]))
    if (found := _PART.match(text) or _QUIT.match(text)) is not None:
        return Line(number=number, kind="part", nick=_nick(found[1]))
    if (found := _KICK.match(text)) is not None:
        return Line(number=number, kind="kick", nick=_nick(found[1]), text=_nick(found[2]))
    if _MODE.match(text) is None and (found := _OLD_ACTION.fullmatch(text)) is not None:
        return Line(number=number, kind="action", nick=_nick(found[1]), text=found[2])
    return Line(number=number, kind="other", text=text)


def _minute(hours: str, minutes: str) -> int:
    hour, minute = int(hours), int(minutes)
    return hour * 60 + minute if hour < 24 and minute < 60 else -1


def _nick(raw: str) -> str:
    """Tidy a nick: the logs break some with a space after a bracket."""
    return raw.replace(" ", "")


class Log(msgspec.Struct, frozen=True):
    """One file of a log."""

    name: str
    lines: Sequence[Line]


def parse_log(name: str, data: bytes) -> Log:
    """Read one file. Lines are separated by newlines only: other separators belong to the text."""
    lines = [parse_line(raw, number) for number, raw in enumerate(data.split(b"\n"), 1)]
    return Log(name, [line for line in lines if line is not None])


# -- the plan ---------------------------------------------------------------------------------------


StepKind = Literal["join", "leave", "remove", "name", "say"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to be done, by or to one account, `at_s` seconds after the beginning at normal speed.

    `account` is the nick by which the account was first known. A member leaves by itself, or is removed by
    those who run the group. `client_id` is set for "say" alone.
    """

    kind: StepKind
    account: str
    at_s: float
    text: str = ""
    client_id: str = ""


class Plan(msgspec.Struct, frozen=True):
    """All steps in order, and whom they need."""

    steps: Sequence[Step]
    accounts: Sequence[str]  # in the order of their first appearance
    line_count: int


def line_id(log_name: str, number: int) -> str:
    """Name a line for ever: its idempotency key."""
    digest = hashlib.blake2b(log_name.encode(), digest_size=9).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9_-]", "", log_name)[:24]
    return f"irc:{stem}:{digest[:8]}:{number}"


def plan(logs: Iterable[Log], *, max_members: int) -> Plan:
    """Decide who joins, leaves, is renamed and speaks, in the order of the lines.

    - One account for each nick that nobody bore before. A rename keeps the account and changes its name. A
      nick that comes back after its account was renamed away, is that account again.
    - Logs tell few of the leavings (no quits), so who speaks without having joined joins first; and when the
      group would grow over `max_members`, the member who was silent for the longest is removed first.
    - A nick that parts, or is kicked, leaves the group, and joins again with its next join or line.
    """
    planner = _Planner(max_members)
    for log in logs:
        planner.play(log)
    return Plan(planner.steps, list(planner.accounts), planner.line_count)


class _Planner:
    def __init__(self, max_members: int) -> None:
        self.steps: list[Step] = []
        self.accounts: dict[str, None] = {}
        self.line_count = 0
        self._max_members = max_members
        self._account_of: dict[str, str] = {}  # the nick in use now -> account
        self._name_of: dict[str, str] = {}  # account -> the nick in use now
        self._shown: dict[str, str] = {}  # account -> its profile's name, where that is not its first nick
        self._members: dict[str, None] = {}  # accounts in the group, the longest silent first
        self._at_s = 0.0

    def play(self, log: Log) -> None:
        times = _line_times(log.lines)
        start_s = self._at_s
        for line, at_s in zip(log.lines, times, strict=True):
            self._at_s = start_s + at_s
            self._step(log.name, line)
        self._at_s += 60.0  # between two logs lie years; a minute will do

    def _step(self, log_name: str, line: Line) -> None:
        if line.kind in ("say", "action"):
            account = self._find(line.nick)
            self._enter(account)
            text = line.text.strip() or EMPTY_TEXT
            said = text if line.kind == "say" else f"* {line.nick} {text}"
            self._add("say", account, said, line_id(log_name, line.number))
            self.line_count += 1
        elif line.kind == "join":
            self._enter(self._find(line.nick))
        elif line.kind in ("part", "kick"):
            account = self._find(line.nick)
            if account in self._members:
                del self._members[account]
                self._add("leave" if line.kind == "part" else "remove", account)
        elif line.kind == "rename":
            self._rename(line.nick, line.text)

    def _find(self, nick: str) -> str:
        account = self._account_of.get(nick)
        if account is not None:
            return account
        # The account that bore this nick first: a new one, or one that was renamed away and is back.
        former = self._name_of.get(nick)
        if former is not None:
            del self._account_of[former]
        if self._shown.get(nick, nick) != nick:
            self._show(nick, nick)
        self.accounts.setdefault(nick)
        self._account_of[nick] = nick
        self._name_of[nick] = nick
        return nick

    def _show(self, account: str, name: str) -> None:
        self._shown[account] = name
        self._add("name", account, name)

    def _rename(self, old: str, new: str) -> None:
        if old == new:
            return
        account = self._find(old)
        holder = self._account_of.get(new)
        if holder is not None and holder != account:
            # Nobody can take a nick in use: its holder had quit, which the log does not tell.
            if holder in self._members:
                del self._members[holder]
                self._add("remove", holder)
            self._account_of.pop(new)
            del self._name_of[holder]
        del self._account_of[old]
        self._account_of[new] = account
        self._name_of[account] = new
        self._show(account, new)

    def _enter(self, account: str) -> None:
        if account in self._members:
            del self._members[account]  # to the end: it was not silent
        else:
            if len(self._members) >= self._max_members:
                silent = next(iter(self._members))
                del self._members[silent]
                self._add("remove", silent)
            self._add("join", account)
        self._members[account] = None

    def _add(
        self,
        kind: StepKind,
        account: str,
        text: str = "",
        client_id: str = "",
    ) -> None:
        self.steps.append(Step(kind=kind, account=account, at_s=self._at_s, text=text, client_id=client_id))


def _line_times(lines: Sequence[Line]) -> list[float]:
    """Return seconds from the log's first minute for each line: never back, spread over their minute."""
    minutes: list[int] = []
    day = 0
    last = first = -1
    for line in lines:
        if line.minute >= 0:
            if first < 0:
                first = last = line.minute
            elif line.minute < last % MINUTES_PER_DAY - MIDNIGHT_JUMP_MINUTES:
                day += 1
            last = max(last, day * MINUTES_PER_DAY + line.minute)
        minutes.append(max(0, last - first))
    counts: dict[int, int] = {}
    for minute in minutes:
        counts[minute] = counts.get(minute, 0) + 1
    times: list[float] = []
    seen: dict[int, int] = {}
    for minute in minutes:
        index = seen[minute] = seen.get(minute, -1) + 1
        times.append(60.0 * (minute + index / counts[minute]))
    return times
