"""The prompt: what the person types.

Lines that begin with a slash are commands (see `/help`), everything else is said in the open conversation; a
line that is to begin with a slash begins with two.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from rich.table import Table
from rich.text import Text

from hubbub.client import Client
from hubbub.terminal.screen import Screen
from hubbub.terminal.text import clean, colour_of
from protocol.errors import HubbubError

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


class Prompt:
    """Carries out lines."""

    def __init__(self, client: Client, screen: Screen) -> None:
        self._client = client
        self._screen = screen
        self.is_logged_out = False
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "help": self._help,
            "list": self._list,
            "open": self._open,
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

    async def on_line(self, line: str) -> bool:
        """Carry out one line. Returns whether to go on."""
        if not line.strip():
            return True
        if line.startswith("/") and not line.startswith("//"):
            name, _, rest = line[1:].partition(" ")
            if name in ("quit", "exit", "q"):
                return False
            command = self._commands.get(name.casefold())
            if command is None:
                self._screen.complain(f"There is no command /{clean(name)}; /help lists them.")
                return True
        else:
            command, rest = self._speak, line[1:] if line.startswith("//") else line
        try:
            await command(rest.strip())
        except HubbubError as exc:
            if self._client.is_closed:
                return False
            self._screen.complain(exc.message)
        except ValueError as exc:
            self._screen.complain(str(exc))
        return not self.is_logged_out

    async def _speak(self, text: str) -> None:
        if not self._client.is_connected:
            self._screen.say("(no connection; your message goes out as soon as there is one)")
        sent = await self._client.send(self._screen.here().conversation_id, text)
        self._screen.own_seq = max(self._screen.own_seq, sent.seq)

    async def _help(self, _: str) -> None:
        self._screen.say(HELP)

    async def _open(self, wanted: str) -> None:
        if not self._screen.listed:
            await self._screen.show_list()
        if wanted.isdigit() and 1 <= int(wanted) <= len(self._screen.listed):
            await self._screen.show_conversation(self._screen.listed[int(wanted) - 1].conversation_id)
            return
        matches = [
            summary
            for summary in self._screen.listed
            if wanted and wanted.casefold() in self._screen.title_of(summary).casefold()
        ]
        if len(matches) != 1:
            raise ValueError(
                "Type the number of a conversation in the /list."
                if not matches
                else "Several conversations have that in their name; type its number."
            )
        await self._screen.show_conversation(matches[0].conversation_id)

    async def _list(self, _: str) -> None:
        await self._screen.show_list()

    async def _new(self, username: str) -> None:
        user = await self._screen.find_user(username)
        summary = await self._client.open_direct(user.user_id)
        await self._screen.show_conversation(summary.conversation_id)

    async def _group(self, rest: str) -> None:
        title, _, names = rest.partition("|")
        if not title.strip():
            raise ValueError("Like this: /group Lunch | ann bob")
        members = [(await self._screen.find_user(name)).user_id for name in names.split()]
        summary = await self._client.create_group(title.strip(), members)
        await self._screen.show_conversation(summary.conversation_id)

    async def _add(self, username: str) -> None:
        user = await self._screen.find_user(username)
        await self._client.add_members(self._screen.here().conversation_id, [user.user_id])

    async def _invite(self, _: str) -> None:
        invite = await self._client.create_invite(self._screen.here().conversation_id)
        self._screen.say(f"/join {invite.code}")

    async def _join(self, code: str) -> None:
        if not code:
            raise ValueError("Like this: /join CODE")
        summary = await self._client.join(code)
        await self._screen.show_conversation(summary.conversation_id)

    async def _leave(self, _: str) -> None:
        await self._client.leave(self._screen.here().conversation_id)
        self._screen.opened = None
        await self._client.focus([])
        self._screen.say("You left.")

    async def _who(self, _: str) -> None:
        members = await self._client.list_members(self._screen.here().conversation_id)
        await self._screen.learn([member.user_id for member in members])
        table = Table(box=None, show_header=False, pad_edge=False)
        for member in members:
            read = (
                "has read all"
                if member.read_seq >= self._screen.shown_seq
                else f"has read to {member.read_seq}"
            )
            role = "" if member.role == "member" else member.role
            table.add_row(
                Text(self._screen.name_of(member.user_id), style=colour_of(member.user_id)), role, read
            )
        self._screen.console.print(table)

    async def _more(self, _: str) -> None:
        await self._screen.show_more()

    async def _reply(self, rest: str) -> None:
        target, text = _number_and(rest, "/reply 12 text")
        sent = await self._client.send(self._screen.here().conversation_id, text, reply_to=target)
        self._screen.own_seq = max(self._screen.own_seq, sent.seq)

    async def _edit(self, rest: str) -> None:
        target, text = _number_and(rest, "/edit 12 text")
        await self._client.edit(self._screen.here().conversation_id, target, text)

    async def _delete(self, rest: str) -> None:
        if not rest.isdigit():
            raise ValueError("Like this: /delete 12")
        await self._client.delete(self._screen.here().conversation_id, int(rest))

    async def _react(self, rest: str) -> None:
        target, emoji = _number_and(rest, "/react 12 👍")
        await self._client.react(self._screen.here().conversation_id, target, emoji)

    async def _find(self, prefix: str) -> None:
        if not prefix:
            raise ValueError("Like this: /find an")
        for profile in await self._client.find_users(prefix):
            self._screen.say(f"{clean(profile.username)}  {clean(profile.name)}")

    async def _name(self, name: str) -> None:
        if not name:
            raise ValueError("Like this: /name Ann Smith")
        await self._client.update_profile(name=name)
        self._screen.say(f"You are {clean(name)} now.")

    async def _logout(self, _: str) -> None:
        self.is_logged_out = True
        with suppress(HubbubError):  # the answer and the end of the session race each other
            await self._client.log_out()
        self._screen.say("Logged out.")


def _number_and(rest: str, usage: str) -> tuple[int, str]:
    number, _, text = rest.partition(" ")
    if not number.isdigit() or not text.strip():
        raise ValueError(f"Like this: {usage}")
    return int(number), text.strip()
