"""`hubbub chat`: a terminal client for one person.

Lines that begin with a slash are commands (see `/help`), everything else is said in the open conversation.
Input is read line by line, so it works from a pipe as well. The token is kept in a file that only its owner
can read, in the user's configuration folder, by server.
"""

import argparse
import getpass
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO

import msgspec
import trio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hubbub.accounts import Accounts, http_base
from hubbub.api import new_client_id
from hubbub.client import Client, connect
from protocol import events as e
from protocol.errors import HubbubError, Refused
from protocol.events import Event
from protocol.types import ConversationSummary, Message, Profile

PAGE: Final = 20  # messages shown when a conversation is opened, and by /more
READ_DELAY_S: Final = 0.3  # what was shown is marked as read together
TYPING_NOTICE_S: Final = 6.0  # the same person's typing is not told again before that
REFERENCE_COLOURS: Final = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan")
HELP: Final = """\
/list                    conversations, with what is unread
/open NUMBER or NAME     open one of them
/new USER                talk with a user
/group TITLE | USER …    make a group, for example: /group Lunch | ann bob
/add USER                put a user into this group
/invite                  make an invite code for this group; /join CODE uses one
/leave                   leave this group
/who                     who is here, and how far they have read
/more                    older messages
/reply N text            answer message number N
/edit N text             change one of your messages
/delete N                delete one of your messages
/react N emoji           react to a message
/find PREFIX             look for users
/name NAME               change how others see you
/logout                  end this log-in and forget it
/quit                    leave; the log-in is kept"""


class SavedLogin(msgspec.Struct, kw_only=True):
    """What is kept of a log-in."""

    token: str
    username: str
    device_id: str


class LoginFile:
    """Log-ins by server, in a file of mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def default(cls) -> "LoginFile":
        """$XDG_CONFIG_HOME/hubbub/logins.json, or the same under ~/.config."""
        base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        return cls(Path(base) / "hubbub" / "logins.json")

    def load(self, server: str) -> SavedLogin | None:
        return self._all().get(server)

    def save(self, server: str, login: SavedLogin | None) -> None:
        """Keep a log-in, or forget it. The old file stays whole until the new one is."""
        logins = self._all()
        if login is None:
            logins.pop(server, None)
        else:
            logins[server] = login
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_suffix(f".{os.getpid()}.new")
        # The mode is set at birth: there is no moment at which others could read it.
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(logins))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)

    def _all(self) -> dict[str, SavedLogin]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, SavedLogin])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}


# -- what is shown: values in, text out -------------------------------------------------------------


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


class Terminal:
    """One person at one terminal."""

    def __init__(self, client: Client, console: Console, *, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._console = console
        self._now = now
        self._people: dict[str, Profile] = {client.user_id: client.user}
        self._list: list[ConversationSummary] = []
        self._open: ConversationSummary | None = None
        self._oldest = 0
        self._shown = 0  # the newest seq on the screen
        self._mine = 0  # the newest of the own messages
        self._read_told: set[tuple[str, int]] = set()
        self._typing_told: dict[str, float] = {}
        self._to_read = trio.Event()
        self.is_logged_out = False
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "help": self._help,
            "list": self._show_list,
            "open": self._open_command,
            "new": self._new,
            "group": self._group,
            "add": self._add,
            "invite": self._invite,
            "join": self._join,
            "leave": self._leave,
            "who": self._who,
            "more": self._more,
            "reply": self._reply,
            "edit": self._edit,
            "delete": self._delete,
            "react": self._react,
            "find": self._find,
            "name": self._name,
            "logout": self._logout,
        }

    async def run(self, read_line: Callable[[], Awaitable[str | None]]) -> None:
        """Serve until the input ends, /quit, or the server ends the session. Raises: HubbubError."""
        self._say(f"Hello {clean(self._client.user.name)}. /help tells what you can type.")
        await self._show_list("")
        failure: HubbubError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._mark_read_loop)

            async def watch() -> None:
                nonlocal failure
                try:
                    async for event in self._client.events():
                        await self._on_event(event)
                except HubbubError as exc:
                    failure = exc
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            while (line := await read_line()) is not None:
                if not await self._on_line(line.rstrip("\r\n")):
                    break
            nursery.cancel_scope.cancel()
        if failure is not None and not self.is_logged_out:
            raise failure

    # -- what the person types ----------------------------------------------------------------------

    async def _on_line(self, line: str) -> bool:
        """Carry out one line. Returns whether to go on."""
        if not line.strip():
            return True
        if line.startswith("/") and not line.startswith("//"):
            name, _, rest = line[1:].partition(" ")
            if name in ("quit", "exit", "q"):
                return False
            command = self._commands.get(name.casefold())
            if command is None:
                self._complain(f"There is no command /{clean(name)}; /help lists them.")
                return True
        else:
            command, rest = self._speak, line[1:] if line.startswith("//") else line
        try:
            await command(rest.strip())
        except HubbubError as exc:
            if self._client.is_closed:
                return False
            self._complain(exc.message)
        except ValueError as exc:
            self._complain(str(exc))
        return not self.is_logged_out

    async def _speak(self, text: str) -> None:
        sent = await self._client.send(self._here().conversation_id, text)
        self._mine = max(self._mine, sent.seq)

    async def _help(self, _: str) -> None:
        self._say(HELP)

    async def _show_list(self, _: str) -> None:
        self._list = [summary async for summary in self._client.list_conversations()]
        await self._learn([summary.peer_id for summary in self._list if summary.peer_id])
        if not self._list:
            self._say("No conversations yet. /new USER begins one, /group TITLE | USER … makes a group.")
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        for number, summary in enumerate(self._list, 1):
            last = summary.last_message
            said = ""
            if last is not None:
                await self._learn([last.user_id])
                text = "(deleted)" if last.deleted else clean(last.text).replace("\n", " ")
                said = f"{self._name_of(last.user_id)}: {text}"[:60]
            unread = Text(f"{summary.unread} new" if summary.unread else "", style="bold yellow")
            table.add_row(
                f"{number}", Text(self._title(summary), style="bold"), unread, Text(said, style="dim")
            )
        self._console.print(table)

    async def _open_command(self, wanted: str) -> None:
        if not self._list:
            await self._show_list("")
        if wanted.isdigit() and 1 <= int(wanted) <= len(self._list):
            await self._show_conversation(self._list[int(wanted) - 1].conversation_id)
            return
        matches = [
            summary
            for summary in self._list
            if wanted and wanted.casefold() in self._title(summary).casefold()
        ]
        if len(matches) != 1:
            raise ValueError(
                "Type the number of a conversation in the /list."
                if not matches
                else "Several conversations have that in their name; type its number."
            )
        await self._show_conversation(matches[0].conversation_id)

    async def _show_conversation(self, conversation_id: str) -> None:
        summary = await self._client.get_conversation(conversation_id)
        self._open = summary
        self._mine = 0
        self._read_told.clear()
        page = await self._client.history_page(conversation_id, limit=PAGE)
        await self._learn([summary.peer_id, *(message.user_id for message in page.items)])
        # What was read as history is not to come as events again.
        self._shown = max(summary.head, page.items[-1].seq if page.items else 0)
        self._client.start_at(conversation_id, self._shown)
        await self._client.focus([conversation_id])
        self._console.rule(Text(self._title(summary), style="bold"))
        if page.more:
            self._say("(/more shows what was said before)")
        for message in page.items:
            self._print_message(message)
        self._oldest = page.items[0].seq if page.items else 0
        self._to_read.set()

    async def _new(self, username: str) -> None:
        user = await self._user(username)
        summary = await self._client.open_direct(user.user_id)
        await self._show_conversation(summary.conversation_id)

    async def _group(self, rest: str) -> None:
        title, _, names = rest.partition("|")
        if not title.strip():
            raise ValueError("Like this: /group Lunch | ann bob")
        members = [(await self._user(name)).user_id for name in names.split()]
        summary = await self._client.create_group(title.strip(), members)
        await self._show_conversation(summary.conversation_id)

    async def _add(self, username: str) -> None:
        user = await self._user(username)
        await self._client.add_members(self._here().conversation_id, [user.user_id])

    async def _invite(self, _: str) -> None:
        invite = await self._client.create_invite(self._here().conversation_id)
        self._say(f"/join {invite.code}")

    async def _join(self, code: str) -> None:
        if not code:
            raise ValueError("Like this: /join CODE")
        summary = await self._client.join(code)
        await self._show_conversation(summary.conversation_id)

    async def _leave(self, _: str) -> None:
        await self._client.leave(self._here().conversation_id)
        self._open = None
        await self._client.focus([])
        self._say("You left.")

    async def _who(self, _: str) -> None:
        members = await self._client.list_members(self._here().conversation_id)
        await self._learn([member.user_id for member in members])
        table = Table(box=None, show_header=False, pad_edge=False)
        for member in members:
            read = "has read all" if member.read_seq >= self._shown else f"has read to {member.read_seq}"
            role = "" if member.role == "member" else member.role
            table.add_row(Text(self._name_of(member.user_id), style=colour_of(member.user_id)), role, read)
        self._console.print(table)

    async def _more(self, _: str) -> None:
        if self._oldest <= 1:
            self._say("(that is all)")
            return
        page = await self._client.history_page(self._here().conversation_id, before=self._oldest, limit=PAGE)
        await self._learn([message.user_id for message in page.items])
        for message in page.items:
            self._print_message(message)
        self._oldest = page.items[0].seq if page.items and page.more else 0
        self._console.rule(style="dim")

    async def _reply(self, rest: str) -> None:
        target, text = _number_and(rest, "/reply 12 text")
        sent = await self._client.send(self._here().conversation_id, text, reply_to=target)
        self._mine = max(self._mine, sent.seq)

    async def _edit(self, rest: str) -> None:
        target, text = _number_and(rest, "/edit 12 text")
        await self._client.edit(self._here().conversation_id, target, text)

    async def _delete(self, rest: str) -> None:
        if not rest.isdigit():
            raise ValueError("Like this: /delete 12")
        await self._client.delete(self._here().conversation_id, int(rest))

    async def _react(self, rest: str) -> None:
        target, emoji = _number_and(rest, "/react 12 👍")
        await self._client.react(self._here().conversation_id, target, emoji)

    async def _find(self, prefix: str) -> None:
        if not prefix:
            raise ValueError("Like this: /find an")
        for profile in await self._client.find_users(prefix):
            self._say(f"{clean(profile.username)}  {clean(profile.name)}")

    async def _name(self, name: str) -> None:
        if not name:
            raise ValueError("Like this: /name Ann Smith")
        await self._client.update_profile(name=name)
        self._say(f"You are {clean(name)} now.")

    async def _logout(self, _: str) -> None:
        self.is_logged_out = True
        with suppress(HubbubError):  # the answer and the end of the session race each other
            await self._client.log_out()
        self._say("Logged out.")

    # -- what happens elsewhere ---------------------------------------------------------------------

    async def _on_event(self, event: Event) -> None:
        opened = self._open.conversation_id if self._open is not None else ""
        if getattr(event, "conversation_id", "") == opened and opened:
            await self._on_event_here(event)
        elif isinstance(event, e.Heads):
            for hint in event.items:
                if hint.conversation_id != opened and hint.last_message is not None:
                    await self._tell_elsewhere(hint.conversation_id, hint.last_message)
        elif isinstance(event, e.MessagePosted) and event.user_id != self._client.user_id:
            await self._tell_elsewhere(event.conversation_id, _as_message(event))
        elif isinstance(event, e.ConversationAdded) and event.by != self._client.user_id:
            summary = await self._client.get_conversation(event.conversation_id)
            await self._learn([event.by, summary.peer_id])
            self._list.append(summary)
            self._say(
                f"{self._name_of(event.by)} put you into {self._title(summary)}: /open {len(self._list)}"
            )
        elif isinstance(event, e.ContactChanged) and event.contact is not None:
            await self._learn([event.user_id])
            if event.contact.state == "incoming":
                self._say(f"{self._name_of(event.user_id)} wants to be your contact.")

    async def _on_event_here(self, event: Event) -> None:
        if isinstance(event, e.MessagePosted):
            await self._learn([event.user_id])
            self._print_message(_as_message(event))
            self._shown = max(self._shown, event.seq)
            self._typing_told.pop(event.user_id, None)
            if event.user_id == self._client.user_id:
                self._mine = max(self._mine, event.seq)
            else:
                self._to_read.set()
        elif isinstance(event, e.Typing):
            await self._on_typing(event)
        elif isinstance(event, e.Receipts):
            await self._on_receipts(event)
        elif (note := await self._note_of(event)) is not None:
            self._say(note)
            self._shown = max(self._shown, getattr(event, "seq", 0))

    async def _note_of(self, event: Event) -> str | None:
        """Tell in a sentence what else happened in the open conversation."""
        if not isinstance(
            event,
            (
                e.MessageEdited,
                e.MessageDeleted,
                e.Reacted,
                e.MembersAdded,
                e.MemberRemoved,
                e.Renamed,
                e.RoleChanged,
            ),
        ):
            return None
        others = [*getattr(event, "member_ids", ()), getattr(event, "member_id", "")]
        await self._learn([event.user_id, *(user_id for user_id in others if user_id)])
        who = self._name_of(event.user_id)
        match event:
            case e.MessageEdited():
                return f"{who} changed {event.target} to: {clean(event.text)}"
            case e.MessageDeleted():
                return f"{who} deleted {event.target}"
            case e.Reacted():
                did = "took back" if event.removed else "reacted with"
                return f"{who} {did} {clean(event.emoji)} on {event.target}"
            case e.MembersAdded():
                return f"{', '.join(self._name_of(user_id) for user_id in event.member_ids)} joined"
            case e.MemberRemoved():
                verb = "left" if event.member_id == event.user_id else f"was removed by {who}"
                return f"{self._name_of(event.member_id)} {verb}"
            case e.Renamed():
                return f"{who} named the group {clean(event.title)}"
            case e.RoleChanged():
                return f"{self._name_of(event.member_id)} is {event.role} now"

    async def _on_typing(self, event: e.Typing) -> None:
        now = trio.current_time()
        if event.on and now - self._typing_told.get(event.user_id, -TYPING_NOTICE_S) >= TYPING_NOTICE_S:
            self._typing_told[event.user_id] = now
            await self._learn([event.user_id])
            self._say(f"{self._name_of(event.user_id)} is typing …")

    async def _on_receipts(self, event: e.Receipts) -> None:
        if not self._mine or self._open is None or self._open.kind != "direct":
            return  # in a group, /who tells; a line for each of 500 readers would not be of use
        for item in event.items:
            key = (item.user_id, self._mine)
            if key in self._read_told or item.user_id == self._client.user_id or item.read_seq < self._mine:
                continue
            self._read_told.add(key)
            await self._learn([item.user_id])
            self._say(f"✓ {self._name_of(item.user_id)} has read it")

    async def _tell_elsewhere(self, conversation_id: str, message: Message) -> None:
        if message.user_id == self._client.user_id or message.deleted:
            return
        known = next((item for item in self._list if item.conversation_id == conversation_id), None)
        if known is None:
            known = await self._client.get_conversation(conversation_id)
            self._list.append(known)
        await self._learn([message.user_id, known.peer_id])
        text = clean(message.text).replace("\n", " ")[:60]
        place = "" if known.kind == "direct" else f" in {self._title(known)}"
        number = self._list.index(known) + 1
        self._say(f"● {self._name_of(message.user_id)}{place}: {text} (/open {number})")

    async def _mark_read_loop(self) -> None:
        while True:  # until the terminal is left
            await self._to_read.wait()
            await trio.sleep(READ_DELAY_S)
            self._to_read = trio.Event()
            if self._open is not None and self._shown:
                with suppress(Refused):  # it was left in this moment
                    await self._client.mark_read(self._open.conversation_id, self._shown)

    # -- small things -------------------------------------------------------------------------------

    def _here(self) -> ConversationSummary:
        if self._open is None:
            raise ValueError("Open a conversation first: /open NUMBER, or /new USER.")
        return self._open

    async def _user(self, username: str) -> Profile:
        if not username:
            raise ValueError("Say which user.")
        for profile in await self._client.find_users(username, limit=50):
            if profile.username.casefold() == username.casefold():
                self._people[profile.user_id] = profile
                return profile
        raise ValueError(f"There is no user {clean(username)!r}.")

    async def _learn(self, user_ids: Sequence[str]) -> None:
        missing = list({user_id for user_id in user_ids if user_id and user_id not in self._people})
        for start in range(0, len(missing), 500):
            for profile in await self._client.get_users(missing[start : start + 500]):
                self._people[profile.user_id] = profile

    def _name_of(self, user_id: str) -> str:
        profile = self._people.get(user_id)
        return clean(profile.name) if profile is not None else user_id

    def _title(self, summary: ConversationSummary) -> str:
        return clean(summary.title) or self._name_of(summary.peer_id)

    def _print_message(self, message: Message) -> None:
        is_mine = message.user_id == self._client.user_id
        if is_mine:
            self._mine = max(self._mine, message.seq)
        self._console.print(
            message_line(message, self._name_of(message.user_id), is_mine=is_mine, now=self._now()),
            soft_wrap=True,
        )

    def _say(self, text: str) -> None:
        self._console.print(Text(text, style="dim"), soft_wrap=True)

    def _complain(self, text: str) -> None:
        self._console.print(Text(clean(text), style="red"), soft_wrap=True)


def _as_message(event: e.MessagePosted) -> Message:
    return Message(
        conversation_id=event.conversation_id,
        seq=event.seq,
        at_ms=event.at_ms,
        user_id=event.user_id,
        text=event.text,
        reply_to=event.reply_to,
        thread=event.thread,
        mentions=event.mentions,
        files=event.files,
    )


def _number_and(rest: str, usage: str) -> tuple[int, str]:
    number, _, text = rest.partition(" ")
    if not number.isdigit() or not text.strip():
        raise ValueError(f"Like this: {usage}")
    return int(number), text.strip()


# -- signing in -------------------------------------------------------------------------------------


class _Input:
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


async def _sign_in(server: str, username: str, reader: _Input, console: Console) -> SavedLogin:
    """Log in or sign up until it works. Raises: HubbubError where the server cannot be used, EOFError."""
    while True:  # ends with a log-in
        answer = ""
        while answer[:1] not in ("l", "s"):
            answer = (await reader.ask("(l)og in or (s)ign up? ")).casefold()
        name = username or await reader.ask("User name: ")
        password = await reader.ask_secret("Password: ")
        async with Accounts(server) as accounts:
            try:
                if answer.startswith("s"):
                    done = await accounts.sign_up(name, password, device_name="hubbub chat")
                else:
                    done = await accounts.log_in(name, password, device_name="hubbub chat")
            except HubbubError as exc:
                if not isinstance(exc, Refused) and exc.code != "bad_field":
                    raise
                console.print(Text(exc.message, style="red"))
                continue
        return SavedLogin(
            token=done.token, username=done.user.username, device_id=f"terminal-{new_client_id()[:16]}"
        )


async def chat(url: str, *, username: str, logins: LoginFile, source: TextIO, console: Console) -> int:
    """Sign in, by the kept token where there is one, and chat. Returns the exit status."""
    server = http_base(url)
    reader = _Input(source, console)
    try:
        while True:  # ends with the chat; a token that the server has forgotten is asked for once more
            login = logins.load(server)
            if login is None or (username and login.username.casefold() != username.casefold()):
                login = await _sign_in(server, username, reader, console)
                logins.save(server, login)
            try:
                async with connect(
                    server,
                    token=login.token,
                    device_id=login.device_id,
                    focus=[],
                    client_name="hubbub-chat/0.1",
                ) as client:
                    terminal = Terminal(client, console)
                    await terminal.run(reader.line)
                    if terminal.is_logged_out:
                        logins.save(server, None)
                return 0
            except Refused as exc:
                if exc.code != "unauthenticated":
                    raise
                logins.save(server, None)
                console.print(Text("That log-in has ended; log in again.", style="red"))
    except HubbubError as exc:
        console.print(Text(exc.message, style="red"))
        return 1
    except EOFError:
        return 1


# -- the command ------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """State the arguments of `hubbub chat`."""
    parser.add_argument(
        "--url",
        default=os.environ.get("HUBBUB_URL", "http://127.0.0.1:8080"),
        help="the server's public port (HUBBUB_URL; default %(default)s)",
    )
    parser.add_argument("--user", default="", help="log in as this user, whoever was logged in before")


def run(args: argparse.Namespace) -> int:
    """Carry out `hubbub chat`. Returns the exit status."""
    console = Console(highlight=False)

    async def main() -> int:
        return await chat(
            args.url, username=args.user, logins=LoginFile.default(), source=sys.stdin, console=console
        )

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
