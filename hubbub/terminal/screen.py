"""The screen: which conversation is open on it, what of it was shown, and who the people in it are."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hubbub.client import Client
from hubbub.terminal.text import clean, message_line
from protocol.errors import Refused
from protocol.types import ConversationSummary, Message, Profile

PAGE: Final = 20  # messages shown when a conversation is opened, and by /more
READ_DELAY_S: Final = 0.3  # what was shown is marked as read together


class Screen:
    """One person's screen, shared by the prompt and the watcher."""

    def __init__(self, client: Client, console: Console, *, now: Callable[[], float] = time.time) -> None:
        self.console = console
        self.listed: list[ConversationSummary] = []  # by the numbers that /open takes
        self.opened: ConversationSummary | None = None
        self.shown_seq = 0  # the newest seq on the screen
        self.own_seq = 0  # the newest of the own messages
        self.read_told: set[tuple[str, int]] = set()
        self.to_read = trio.Event()  # something was shown that is not marked as read
        self.typists: dict[str, float] = {}  # user -> until when, in trio's seconds
        self.refresh: Callable[[], None] | None = None  # shows `label` anew, where a terminal has one
        self._someone_types = trio.Event()
        self._client = client
        self._now = now
        self._people: dict[str, Profile] = {client.user_id: client.user}
        self._oldest = 0

    async def show_list(self) -> None:
        """Show the conversations, and number them for /open."""
        self.listed = [summary async for summary in self._client.list_conversations()]
        await self.learn([summary.peer_id for summary in self.listed if summary.peer_id])
        if not self.listed:
            self.say("No conversations yet. /new USER begins one, /group TITLE | USER … makes a group.")
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        for number, summary in enumerate(self.listed, 1):
            last = summary.last_message
            said = ""
            if last is not None:
                await self.learn([last.user_id])
                text = "(deleted)" if last.deleted else clean(last.text).replace("\n", " ")
                said = f"{self.name_of(last.user_id)}: {text}"[:60]
            unread = Text(f"{summary.unread} new" if summary.unread else "", style="bold yellow")
            table.add_row(
                f"{number}", Text(self.title_of(summary), style="bold"), unread, Text(said, style="dim")
            )
        self.console.print(table)

    async def show_conversation(self, conversation_id: str) -> None:
        """Open a conversation: its newest messages, and from then on what happens in it."""
        summary = await self._client.get_conversation(conversation_id)
        self.opened = summary
        self.typists.clear()
        self.own_seq = 0
        self.read_told.clear()
        page = await self._client.history_page(conversation_id, limit=PAGE)
        await self.learn([summary.peer_id, *(message.user_id for message in page.items)])
        # What was read as history is not to come as events again.
        self.shown_seq = max(summary.head, page.items[-1].seq if page.items else 0)
        self._client.start_at(conversation_id, self.shown_seq)
        await self._client.focus([conversation_id])
        self.console.rule(Text(self.title_of(summary), style="bold"))
        if page.more:
            self.say("(/more shows what was said before)")
        for message in page.items:
            self.print_message(message)
        self._oldest = page.items[0].seq if page.items else 0
        self.to_read.set()

    async def show_more(self) -> None:
        """Show the page before the oldest message shown."""
        if self._oldest <= 1:
            self.say("(that is all)")
            return
        page = await self._client.history_page(self.here().conversation_id, before=self._oldest, limit=PAGE)
        if not page.items:
            self._oldest = 0
            self.say("(that is all)")
            return
        await self.learn([message.user_id for message in page.items])
        for message in page.items:
            self.print_message(message)
        self._oldest = page.items[0].seq if page.more else 0
        self.console.rule(style="dim")

    async def mark_read_loop(self) -> None:
        """Mark as read what was shown, a moment after it was."""
        while True:  # until the terminal is left
            await self.to_read.wait()
            await trio.sleep(READ_DELAY_S)
            self.to_read = trio.Event()
            if self.opened is not None and self.shown_seq:
                with suppress(Refused):  # it was left in this moment
                    await self._client.mark_read(self.opened.conversation_id, self.shown_seq)

    def label(self) -> str:
        """Say where one is, and who types there: it stands before the line being typed."""
        place = self.title_of(self.opened) if self.opened is not None else "hubbub"
        names = [self.name_of(user_id) for user_id in self.typists]
        if not names:
            return f"{place[:24]} › "
        who = names[0] if len(names) == 1 else f"{len(names)} people"
        return f"{place[:24]} ({who[:24]} … ) › "

    def note_typing(self, user_id: str, until: float) -> None:
        """Show somebody as typing until then; in the past: not any more."""
        if until > trio.current_time():
            self.typists[user_id] = until
            self._someone_types.set()
        elif self.typists.pop(user_id, None) is None:
            return
        if self.refresh is not None:
            self.refresh()

    async def forget_typists_loop(self) -> None:
        """Let typing marks end that nobody took back."""
        while True:  # until the terminal is left
            await self._someone_types.wait()
            if not self.typists:
                self._someone_types = trio.Event()
                continue
            await trio.sleep_until(min(self.typists.values()))
            now = trio.current_time()
            for user_id in [user_id for user_id, until in self.typists.items() if until <= now]:
                self.note_typing(user_id, now)

    def here(self) -> ConversationSummary:
        """Return the open conversation. Raises: ValueError where none is."""
        if self.opened is None:
            raise ValueError("Open a conversation first: /open NUMBER, or /new USER.")
        return self.opened

    async def find_user(self, username: str) -> Profile:
        """Return the user of that name. Raises: ValueError where there is none."""
        if not username:
            raise ValueError("Say which user.")
        for profile in await self._client.find_users(username, limit=50):
            if profile.username.casefold() == username.casefold():
                self._people[profile.user_id] = profile
                return profile
        raise ValueError(f"There is no user {clean(username)!r}.")

    async def learn(self, user_ids: Sequence[str]) -> None:
        """Ask for the names of those users that are not known yet."""
        missing = list({user_id for user_id in user_ids if user_id and user_id not in self._people})
        for start in range(0, len(missing), 500):
            for profile in await self._client.get_users(missing[start : start + 500]):
                self._people[profile.user_id] = profile

    def name_of(self, user_id: str) -> str:
        profile = self._people.get(user_id)
        return clean(profile.name) if profile is not None else user_id

    def title_of(self, summary: ConversationSummary) -> str:
        return clean(summary.title) or self.name_of(summary.peer_id)

    def print_message(self, message: Message) -> None:
        is_mine = message.user_id == self._client.user_id
        if is_mine:
            self.own_seq = max(self.own_seq, message.seq)
        self.console.print(
            message_line(message, self.name_of(message.user_id), is_mine=is_mine, now=self._now()),
            soft_wrap=True,
        )

    def say(self, text: str) -> None:
        self.console.print(Text(text, style="dim"), soft_wrap=True)

    def complain(self, text: str) -> None:
        self.console.print(Text(clean(text), style="red"), soft_wrap=True)
