"""Play IRC logs into a group: one account for each nick, every line stored once and in order.

    hubbub replay --app-key KEY --app-secret SECRET --speed max --verify logs/

Order across senders: a group has one order, but connections do not. So a line is sent only after the line
before it was acked, unless both have the same sender: those share a connection, which keeps order. Each line
has a client id made of its file and number, so a replay that was killed finds the last line that is stored
and goes on after it; whatever was under way is sent again and stored once.

Accounts are made through an app key. The tokens of the nicks are signed here (JWT), so nobody logs in. A
server grants one address a few hundred connections at once and then some per second (`connections_per_s`);
at full speed a replay with more nicks waits for that, unless the server was started with more.
"""

import argparse
import os
import sys
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hubbub.accounts import AppBackend
from hubbub.asker import Ticket
from hubbub.client import Client, connect
from hubbub.irc import Plan, parse_log, plan
from protocol import commands as c
from protocol import events as e
from protocol import replies as r
from protocol.errors import HubbubError, Refused, Unavailable
from protocol.http import ProvisionUser
from protocol.types import ConversationSummary

MAX_MEMBERS: Final = 460  # of 500: room for early joins, late removals, operators, and 8 who watch
OPERATORS: Final = 4  # accounts that add and remove members: one alone would meet its command rate
JOIN_AHEAD_STEPS: Final = 200  # at full speed, joins of the next steps are made together,
JOIN_BATCH: Final = 20  # so many at once: each change of membership is told to everybody at once
MAX_UNDER_WAY: Final = 8  # removals and renames under way while the lines go on
MAX_SESSIONS: Final = 128  # open connections of nicks; the longest unused one is closed for a new one
LOOK_AHEAD: Final = 400  # steps for whose senders connections are opened beforehand
MAX_OPENING: Final = 16  # connections being opened at a time
PROVISION_BATCH: Final = 200  # accounts made by one request
VERIFY_TASKS: Final = 4  # members whose unread count is read at a time
UNLIMITED: Final = 0.0
SHOWN_FAULTS: Final = 20


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to play, where, and how fast. `speed` 1 is real time; 0 is as fast as the server acks."""

    url: str
    app_key: str
    app_secret: str
    connect_url: str = ""  # where the nicks connect; empty: `url`
    group: str = "#ubuntu"
    speed: float = UNLIMITED
    max_members: int = MAX_MEMBERS
    max_sessions: int = MAX_SESSIONS
    watchers: Sequence[str] = ()  # user names of people who are put into the group


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay did. `skipped` lines were stored by an earlier run."""

    conversation_id: str
    lines: int
    skipped: int
    users: int
    seconds: float
    lines_per_s: float


def external_id(account: str) -> str:
    """Name a nick's account in the app's own system."""
    return f"irc:{account}"[:255]


def read_plan(paths: Sequence[Path], *, max_members: int = MAX_MEMBERS) -> Plan:
    """Read log files, and the .txt and .log files of folders, in the order of their names.

    Raises: OSError, ValueError where there is nothing to play.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(child for child in path.iterdir() if child.suffix in (".txt", ".log"))
        else:
            files.append(path)
    if not files:
        raise ValueError("there is no .txt or .log file to play")
    return plan((parse_log(file.name, file.read_bytes()) for file in files), max_members=max_members)


class Replayer:
    """A replay under way. Made by `open_replay`."""

    def __init__(self, settings: Settings, wanted: Plan, backend: AppBackend, nursery: trio.Nursery) -> None:
        self._settings = settings
        self._plan = wanted
        self._backend = backend
        self._nursery = nursery
        self._pool = _Pool(settings, backend, nursery)
        self._user_ids: dict[str, str] = {}
        self._operators: list[Client] = []
        self._turn = 0
        self._under_way: set[str] = set()  # accounts
        self._done = trio.Event()
        self._joined_ahead: set[int] = set()  # indexes of steps
        self._failure: HubbubError | None = None
        self.conversation_id = ""

    async def prepare(self) -> None:
        """Make the accounts, and the group with those who run it."""
        names = [_operator_name(index) for index in range(OPERATORS)]
        await self._provision([*names, *self._plan.accounts])
        self._operators = [await self._pool.open(name) for name in names]
        owner = self._operators[0]
        key = f"replay:{self._settings.group}"[:64]
        group = await owner.create_group(self._settings.group, client_id=key)
        self.conversation_id = group.conversation_id
        others = [client.user_id for client in self._operators[1:]]
        watchers = [await self._find_user(owner, name) for name in self._settings.watchers]
        await owner.add_members(self.conversation_id, [*others, *watchers])
        for user_id in others:
            await owner.set_role(self.conversation_id, user_id, "admin")

    async def _provision(self, accounts: Sequence[str]) -> None:
        for start in range(0, len(accounts), PROVISION_BATCH):
            batch = [
                ProvisionUser(external_id=external_id(account), username=account[:32], name=account[:64])
                for account in accounts[start : start + PROVISION_BATCH]
            ]
            made = await self._backend.provision(batch)
            for account, item in zip(accounts[start : start + PROVISION_BATCH], made.items, strict=True):
                self._user_ids[account] = item.user.user_id

    async def _find_user(self, client: Client, username: str) -> str:
        for profile in await client.find_users(username, limit=50):
            if profile.username.casefold() == username.casefold():
                return profile.user_id
        raise Refused("user_not_found", f"There is no user {username!r} in this app to watch the replay.")

    async def play(self, on_line: Callable[[int], None]) -> tuple[int, int]:
        """Do every step that is not done yet. `on_line` is told how many lines are stored so far.

        Returns: lines sent, lines that were there already.
        """
        steps = self._plan.steps
        first = await self._first_step()
        skipped = sum(1 for step in steps[:first] if step.kind == "say")
        stored = skipped
        on_line(stored)
        started = trio.current_time()
        start_s = steps[first].at_s if first < len(steps) else 0.0
        under_way: list[Ticket] = []  # all of one sender
        sender = ""
        ahead = first
        for index in range(first, len(steps)):
            while ahead < min(len(steps), index + LOOK_AHEAD):
                if steps[ahead].kind in ("say", "leave", "name"):
                    self._pool.expect(steps[ahead].account)
                ahead += 1
            step = steps[index]
            if self._settings.speed > UNLIMITED:
                await trio.sleep_until(started + (step.at_s - start_s) / self._settings.speed)
            if under_way and (step.kind != "say" or step.account != sender):
                for ticket in under_way:
                    await ticket.wait()
                stored += len(under_way)
                on_line(stored)
                under_way = []
            if step.kind == "say":
                client = await self._pool.open(step.account)
                under_way.append(
                    await client.start_send(self.conversation_id, step.text, client_id=step.client_id)
                )
                sender = step.account
            elif step.kind == "join":
                await self._join(index)
            elif step.kind == "remove":
                await self._begin(step.account, partial(self._remove, step.account))
            elif step.kind == "name":
                await self._begin(step.account, partial(self._rename, step.account, step.text))
            else:
                await self._leave(step.account)
        for ticket in under_way:
            await ticket.wait()
        stored += len(under_way)
        on_line(stored)
        await self._wait_done(set(self._under_way))
        return stored - skipped, skipped

    async def _first_step(self) -> int:
        """Find the step after the last line that is stored. All lines before it are stored as well."""
        place = {step.client_id: index for index, step in enumerate(self._plan.steps) if step.kind == "say"}
        async for message in self._operators[0].history(self.conversation_id):
            if message.client_id in place:
                return place[message.client_id] + 1
        return 0

    async def _join(self, index: int) -> None:
        """Add an account to the group; at full speed, those that join soon as well."""
        if index in self._joined_ahead:
            self._joined_ahead.remove(index)
            return
        steps = self._plan.steps
        accounts = [steps[index].account]
        going: set[str] = set()
        if self._settings.speed == UNLIMITED:
            for later in range(index + 1, min(len(steps), index + JOIN_AHEAD_STEPS)):
                # Counted with those of earlier batches: the group has room for so many more than planned.
                if len(self._joined_ahead) >= JOIN_BATCH:
                    break
                step = steps[later]
                if step.kind in ("leave", "remove"):
                    going.add(step.account)
                elif step.kind == "join" and step.account not in going and later not in self._joined_ahead:
                    accounts.append(step.account)
                    self._joined_ahead.add(later)
        await self._wait_done(set(accounts))
        user_ids = [self._user_ids[account] for account in accounts]
        await self._operator().add_members(self.conversation_id, user_ids)

    async def _begin(self, account: str, task: Callable[[], Awaitable[object]]) -> None:
        """Begin what the lines do not depend on: a few at a time, and one at a time for an account."""
        await self._wait_done({account})
        while len(self._under_way) >= MAX_UNDER_WAY:
            await self._done.wait()
        self._check()
        self._under_way.add(account)
        self._nursery.start_soon(self._finish, account, task)

    async def _finish(self, account: str, task: Callable[[], Awaitable[object]]) -> None:
        try:
            await task()
        except HubbubError as exc:
            if not _is_gone_already(exc):
                self._failure = exc
        self._under_way.discard(account)
        self._done.set()
        self._done = trio.Event()

    async def _remove(self, account: str) -> None:
        await self._operator().remove_member(self.conversation_id, self._user_ids[account])

    async def _rename(self, account: str, name: str) -> None:
        await (await self._pool.open(account)).update_profile(name=name[:64])

    async def _wait_done(self, accounts: set[str]) -> None:
        while accounts & self._under_way:
            await self._done.wait()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _leave(self, account: str) -> None:
        await self._wait_done({account})
        try:
            await (await self._pool.open(account)).leave(self.conversation_id)
        except Refused as exc:
            if not _is_gone_already(exc):
                raise

    def _operator(self) -> Client:
        self._turn = (self._turn + 1) % len(self._operators)
        return self._operators[self._turn]

    # -- verifying ----------------------------------------------------------------------------------

    async def verify(self) -> list[str]:
        """Read everything back. Returns what is wrong, in words; empty where all is right."""
        events = [event async for event in self._all_events()]
        faults = self._verify_lines(events)
        faults += await self._verify_unread(events)
        return faults

    async def _all_events(self) -> AsyncIterator[e.Event]:
        after = 0
        while True:  # ends with the last page
            page = await self._operators[0].sync_page(self.conversation_id, after, limit=500)
            for event in page.items:
                yield event
                after = getattr(event, "seq", after)
            if not page.more:
                return

    def _verify_lines(self, events: Sequence[e.Event]) -> list[str]:
        expected = [
            (step.client_id, self._user_ids[step.account], step.text)
            for step in self._plan.steps
            if step.kind == "say"
        ]
        wanted = {client_id for client_id, _, _ in expected}
        stored = [
            (event.client_id, event.user_id, event.text)
            for event in events
            if isinstance(event, e.MessagePosted) and event.client_id in wanted
        ]
        if stored == expected:
            return []
        faults = [f"{len(expected)} lines were played, {len(stored)} are stored"]
        ids = [client_id for client_id, _, _ in stored]
        seen = set(ids)
        faults += [f"line {client_id} is missing" for client_id, _, _ in expected if client_id not in seen]
        if len(ids) != len(seen):
            faults.append(f"{len(ids) - len(seen)} lines are stored more than once")
        for at, (mine, theirs) in enumerate(zip(expected, stored, strict=False)):
            if mine != theirs:
                faults.append(
                    f"the first difference is at line {at + 1}: {mine} was sent, {theirs} is stored"
                )
                break
        return faults

    async def _verify_unread(self, events: Sequence[e.Event]) -> list[str]:
        """Compare every member's unread count with the rule, worked out anew from the events."""
        watermarks = read_watermarks(events)
        authors = message_authors(events)
        members = await self._operators[0].list_members(self.conversation_id)
        faults: list[str] = []
        if {member.user_id for member in members} != set(watermarks):
            faults.append("the list of members is not what the events lead to")
        nicks = {user_id: account for account, user_id in self._user_ids.items()}
        queue = iter(members)

        async def check_members() -> None:
            for member in queue:
                if member.user_id not in nicks:
                    continue  # a watcher, who reads on another device meanwhile
                if member.read_seq != watermarks.get(member.user_id, 0):
                    faults.append(
                        f"{nicks[member.user_id]} has read up to {member.read_seq}, not "
                        f"{watermarks.get(member.user_id, 0)}"
                    )
                expected = sum(
                    1 for seq, author in authors if seq > member.read_seq and author != member.user_id
                )
                try:
                    summary = await self._summary_as(member.user_id)
                except HubbubError as exc:
                    faults.append(f"the unread count of {nicks[member.user_id]} cannot be read: {exc}")
                    continue
                if summary.unread != expected:
                    faults.append(
                        f"{nicks[member.user_id]} has {summary.unread} unread, the events say {expected}"
                    )

        async with trio.open_nursery() as nursery:
            for _ in range(VERIFY_TASKS):
                nursery.start_soon(check_members)
        return faults

    async def _summary_as(self, user_id: str) -> ConversationSummary:
        command = c.GetConversation(id=1, conversation_id=self.conversation_id)
        while True:  # until it is answered; the server limits requests per address
            try:
                reply = await self._backend.command_as(user_id, command, r.ConversationInfo)
            except Unavailable as exc:
                if exc.code != "rate_limited":
                    raise
                await trio.sleep(exc.retry_after_s or 1.0)
            else:
                return reply.conversation


def _is_gone_already(exc: HubbubError) -> bool:
    """Whether a resumed replay met its own work: it repeats the steps after its last stored line."""
    return exc.code in ("not_member", "conversation_not_found", "user_not_found")


def read_watermarks(events: Iterable[e.Event]) -> dict[str, int]:
    """Return how far each present member has read by acting alone: joining and sending read up to there."""
    watermarks: dict[str, int] = {}
    for event in events:
        if isinstance(event, (e.ConversationCreated, e.MembersAdded)):
            for user_id in event.member_ids:
                watermarks[user_id] = event.seq
        elif isinstance(event, e.MemberRemoved):
            watermarks.pop(event.member_id, None)
        elif isinstance(event, e.MessagePosted):
            watermarks[event.user_id] = event.seq
    return watermarks


def message_authors(events: Iterable[e.Event]) -> list[tuple[int, str]]:
    """Return seq and author of each message that is not deleted."""
    authors: dict[int, str] = {}
    for event in events:
        if isinstance(event, e.MessagePosted):
            authors[event.seq] = event.user_id
        elif isinstance(event, e.MessageDeleted):
            authors.pop(event.target, None)
    return list(authors.items())


class _Seat:
    """One account's connection: being opened, open, or on its way out."""

    __slots__ = ("client", "error", "leave", "ready")

    def __init__(self) -> None:
        self.client: Client | None = None
        self.error: HubbubError | None = None
        self.ready = trio.Event()
        self.leave = trio.Event()


class _Pool:
    """Connections by account, at most so many; the longest unused one makes room."""

    def __init__(self, settings: Settings, backend: AppBackend, nursery: trio.Nursery) -> None:
        self._settings = settings
        self._backend = backend
        self._nursery = nursery
        self._seats: OrderedDict[str, _Seat] = OrderedDict()
        self._opening = trio.Semaphore(MAX_OPENING)
        # Two replays into two groups may run side by side; two into one group get in each other's way.
        self._device_id = f"replay-{zlib.crc32(settings.group.encode()):08x}"

    def expect(self, account: str) -> None:
        """Begin to open a connection that will be used soon, if there is a free seat for it."""
        if account in self._seats:
            self._seats.move_to_end(account)
        elif len(self._seats) < self._settings.max_sessions or self._make_room():
            self._sit_down(account)

    async def open(self, account: str) -> Client:
        """Return the account's open connection. Raises: HubbubError."""
        seat = self._seats.get(account)
        if seat is None:
            self._make_room()
            seat = self._sit_down(account)
        else:
            self._seats.move_to_end(account)
        if not seat.ready.is_set():
            await seat.ready.wait()
        if seat.error is not None:
            raise seat.error
        assert seat.client is not None
        return seat.client

    def _sit_down(self, account: str) -> _Seat:
        seat = self._seats[account] = _Seat()
        self._nursery.start_soon(self._serve, account, seat)
        return seat

    def _make_room(self) -> bool:
        """Let the longest unused connection go. Those not opened yet, and operators, stay."""
        if len(self._seats) < self._settings.max_sessions:
            return True
        for account, seat in self._seats.items():
            if seat.client is not None and not account.startswith(_OPERATOR):
                del self._seats[account]
                seat.leave.set()
                return True
        return False

    async def _serve(self, account: str, seat: _Seat) -> None:
        settings = self._settings

        async def token() -> str:
            return self._backend.user_token(external_id(account))

        try:
            await self._opening.acquire()
            is_opening = True
            try:
                async with connect(
                    settings.connect_url or settings.url,
                    token=token,
                    device_id=self._device_id,
                    focus=[],
                    client_name="hubbub-replay/0.1",
                    connect_timeout_s=120.0,
                ) as client:
                    self._opening.release()
                    is_opening = False
                    seat.client = client
                    seat.ready.set()
                    await seat.leave.wait()
            finally:
                if is_opening:
                    self._opening.release()
        except HubbubError as exc:
            seat.error = exc
            seat.ready.set()


# A nick holds no space, so no line of a log can speak for those who run the group.
_OPERATOR: Final = "replay operator "


def _operator_name(index: int) -> str:
    return f"{_OPERATOR}{index + 1}"


@asynccontextmanager
async def open_replay(settings: Settings, wanted: Plan) -> AsyncIterator[Replayer]:
    """Hold a replay's connections; all of them end with the block."""
    failure: Exception | None = None
    async with (
        AppBackend(settings.url, settings.app_key, settings.app_secret) as backend,
        trio.open_nursery() as nursery,
    ):
        try:
            yield Replayer(settings, wanted, backend, nursery)
        except Exception as exc:
            failure = exc  # raised below as it is, not in a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def replay(
    settings: Settings,
    wanted: Plan,
    *,
    on_line: Callable[[int], None] = lambda _: None,
    is_verified: bool = False,
) -> tuple[Summary, list[str]]:
    """Play a plan to its end, and, if asked to, read it back. Returns what was done and what is wrong."""
    async with open_replay(settings, wanted) as replayer:
        await replayer.prepare()
        started = trio.current_time()
        lines, skipped = await replayer.play(on_line)
        seconds = max(trio.current_time() - started, 1e-9)
        faults = await replayer.verify() if is_verified else []
        summary = Summary(
            conversation_id=replayer.conversation_id,
            lines=lines,
            skipped=skipped,
            users=len(wanted.accounts),
            seconds=seconds,
            lines_per_s=lines / seconds,
        )
        return summary, faults


# -- the command ------------------------------------------------------------------------------------


def _speed(raw: str) -> float:
    if raw == "max":
        return UNLIMITED
    speed = float(raw)
    if not speed > 0:
        raise argparse.ArgumentTypeError("give a factor above 0, or max")
    return speed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """State the arguments of `hubbub replay`."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="FILE_OR_DIR", help="IRC logs to play, in order"
    )
    parser.add_argument(
        "--url",
        default=os.environ.get("HUBBUB_URL", "http://127.0.0.1:8080"),
        help="the server's public port (HUBBUB_URL; default %(default)s)",
    )
    parser.add_argument(
        "--bots-url",
        default="",
        metavar="URL",
        help="let the nicks connect here instead, for example hubbub://127.0.0.1:8081",
    )
    parser.add_argument(
        "--app-key",
        default=os.environ.get("HUBBUB_APP_KEY", ""),
        help="key of the app that gets the accounts (HUBBUB_APP_KEY); `hubbub keys create` makes one",
    )
    parser.add_argument(
        "--app-secret",
        default=os.environ.get("HUBBUB_APP_SECRET", ""),
        help="its secret (better by HUBBUB_APP_SECRET: arguments are visible to others on this machine)",
    )
    parser.add_argument("--group", default="#ubuntu", help="title of the group (default %(default)s)")
    parser.add_argument(
        "--speed",
        type=_speed,
        default=1.0,
        metavar="FACTOR",
        help="1 is real time, 60 an hour a minute, max as fast as lines are stored (default 1)",
    )
    parser.add_argument(
        "--max-members",
        type=int,
        default=MAX_MEMBERS,
        help="most nicks in the group at a time (default %(default)s; a group holds 500)",
    )
    parser.add_argument(
        "--sessions",
        type=int,
        default=MAX_SESSIONS,
        help="most connections at a time (default %(default)s)",
    )
    parser.add_argument(
        "--watch",
        action="append",
        default=[],
        metavar="USERNAME",
        help="put this user into the group, to watch it live (may be repeated)",
    )
    parser.add_argument("--verify", action="store_true", help="read everything back and check it")


def run(args: argparse.Namespace) -> int:
    """Carry out `hubbub replay`. Returns the exit status: 0, 1 where something is wrong, 2 for bad usage."""
    console = Console(stderr=True)
    if not (args.app_key and args.app_secret):
        console.print(
            "[red]A replay makes accounts through an app key.[/] Make one with `hubbub keys create`, then set"
        )
        console.print("HUBBUB_APP_KEY and HUBBUB_APP_SECRET, or give --app-key and --app-secret.")
        return 2
    if args.sessions <= OPERATORS or not 1 <= args.max_members <= MAX_MEMBERS:
        console.print(f"[red]--sessions is above {OPERATORS}, --max-members from 1 to {MAX_MEMBERS}.[/]")
        return 2
    try:
        wanted = read_plan(args.paths, max_members=args.max_members)
    except (OSError, ValueError) as exc:
        console.print(f"[red]The logs cannot be read:[/] {exc}", markup=True)
        return 2
    settings = Settings(
        url=args.url,
        connect_url=args.bots_url,
        app_key=args.app_key,
        app_secret=args.app_secret,
        group=args.group,
        speed=args.speed,
        max_members=args.max_members,
        max_sessions=args.sessions,
        watchers=args.watch,
    )
    try:
        summary, faults = trio.run(_run_shown, settings, wanted, args.verify, console)
    except HubbubError as exc:
        console.print(f"[red]The replay stopped:[/] {exc.message} ({exc.code}). Start it again to go on.")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped. Start it again to go on where it was.")
        return 130
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        console.print("Stopped. Start it again to go on where it was.")
        return 130
    out = Console(file=sys.stdout, highlight=False)
    out.print(
        f"{summary.lines} lines by {summary.users} users in {summary.seconds:.1f} s "
        f"({summary.lines_per_s:.0f} lines/s), {summary.skipped} stored before; "
        f"conversation {summary.conversation_id}",
        soft_wrap=True,
    )
    for fault in faults[:SHOWN_FAULTS]:
        out.print(f"WRONG: {fault}", markup=False, soft_wrap=True)
    if len(faults) > SHOWN_FAULTS:
        out.print(f"… and {len(faults) - SHOWN_FAULTS} more")
    if args.verify and not faults:
        out.print("verified: every line once and in order, every member's unread count right", soft_wrap=True)
    return 1 if faults else 0


async def _run_shown(
    settings: Settings, wanted: Plan, is_verified: bool, console: Console
) -> tuple[Summary, list[str]]:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
    )
    with progress:
        task = progress.add_task(settings.group, total=wanted.line_count, rate="")
        started: float | None = None
        first = shown = 0

        def on_line(stored: int) -> None:
            nonlocal started, first, shown
            now = trio.current_time()
            if started is None:
                started, first = now, stored
            if stored - shown >= 50 or stored == wanted.line_count or settings.speed:
                shown = stored
                rate = f"{(stored - first) / (now - started):.0f} lines/s" if now > started else ""
                progress.update(task, completed=stored, rate=rate)

        return await replay(settings, wanted, on_line=on_line, is_verified=is_verified)
