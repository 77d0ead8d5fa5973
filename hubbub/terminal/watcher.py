"""The watcher: tells on the screen what others do, in the open conversation and elsewhere."""

from typing import Final

import trio

from hubbub.client import Client
from hubbub.terminal.screen import Screen
from hubbub.terminal.text import clean
from protocol import events as e
from protocol.events import Event
from protocol.types import Message

TYPING_NOTICE_S: Final = 6.0  # the same person's typing is not told again before that


class Watcher:
    """Shows events. `run` ends with the exception that ended the client."""

    def __init__(self, client: Client, screen: Screen) -> None:
        self._client = client
        self._screen = screen
        self._typing_told: dict[str, float] = {}

    async def run(self) -> None:
        """Show what comes, until the session is over. Raises: HubbubError."""
        async for event in self._client.events():
            await self.on_event(event)

    async def on_event(self, event: Event) -> None:
        opened = self._screen.opened.conversation_id if self._screen.opened is not None else ""
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
            await self._screen.learn([event.by, summary.peer_id])
            self._screen.listed.append(summary)
            who, title = self._screen.name_of(event.by), self._screen.title_of(summary)
            what = "began a talk with you" if summary.kind == "direct" else f"put you into {title}"
            self._screen.say(f"{who} {what}: /open {len(self._screen.listed)}")
        elif isinstance(event, e.ContactChanged) and event.contact is not None:
            await self._screen.learn([event.user_id])
            if event.contact.state == "incoming":
                self._screen.say(f"{self._screen.name_of(event.user_id)} wants to be your contact.")

    async def _on_event_here(self, event: Event) -> None:
        if isinstance(event, e.MessagePosted):
            await self._screen.learn([event.user_id])
            self._screen.print_message(_as_message(event))
            self._screen.shown_seq = max(self._screen.shown_seq, event.seq)
            self._typing_told.pop(event.user_id, None)
            self._screen.note_typing(event.user_id, 0.0)
            if event.user_id == self._client.user_id:
                self._screen.own_seq = max(self._screen.own_seq, event.seq)
            else:
                self._screen.to_read.set()
        elif isinstance(event, e.Typing):
            await self._on_typing(event)
        elif isinstance(event, e.Receipts):
            await self._on_receipts(event)
        elif (note := await self._note_of(event)) is not None:
            self._screen.say(note)
            self._screen.shown_seq = max(self._screen.shown_seq, getattr(event, "seq", 0))

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
        await self._screen.learn([event.user_id, *(user_id for user_id in others if user_id)])
        who = self._screen.name_of(event.user_id)
        match event:
            case e.MessageEdited():
                return f"{who} changed {event.target} to: {clean(event.text)}"
            case e.MessageDeleted():
                return f"{who} deleted {event.target}"
            case e.Reacted():
                did = "took back" if event.removed else "reacted with"
                return f"{who} {did} {clean(event.emoji)} on {event.target}"
            case e.MembersAdded():
                return f"{', '.join(self._screen.name_of(user_id) for user_id in event.member_ids)} joined"
            case e.MemberRemoved():
                verb = "left" if event.member_id == event.user_id else f"was removed by {who}"
                return f"{self._screen.name_of(event.member_id)} {verb}"
            case e.Renamed():
                return f"{who} named the group {clean(event.title)}"
            case e.RoleChanged():
                return f"{self._screen.name_of(event.member_id)} is {event.role} now"

    async def _on_typing(self, event: e.Typing) -> None:
        now = trio.current_time()
        if self._screen.refresh is not None:  # a terminal shows it beside the line being typed
            await self._screen.learn([event.user_id])
            self._screen.note_typing(event.user_id, now + TYPING_NOTICE_S if event.on else 0.0)
        elif event.on and now - self._typing_told.get(event.user_id, -TYPING_NOTICE_S) >= TYPING_NOTICE_S:
            self._typing_told[event.user_id] = now
            await self._screen.learn([event.user_id])
            self._screen.say(f"{self._screen.name_of(event.user_id)} is typing …")

    async def _on_receipts(self, event: e.Receipts) -> None:
        if not self._screen.own_seq or self._screen.opened is None or self._screen.opened.kind != "direct":
            return  # in a group, /who tells; a line for each of 500 readers would not be of use
        for item in event.items:
            key = (item.user_id, self._screen.own_seq)
            if (
                key in self._screen.read_told
                or item.user_id == self._client.user_id
                or item.read_seq < self._screen.own_seq
            ):
                continue
            self._screen.read_told.add(key)
            await self._screen.learn([item.user_id])
            self._screen.say(f"✓ {self._screen.name_of(item.user_id)} has read it")

    async def _tell_elsewhere(self, conversation_id: str, message: Message) -> None:
        if message.user_id == self._client.user_id or message.deleted:
            return
        known = next((item for item in self._screen.listed if item.conversation_id == conversation_id), None)
        if known is None:
            known = await self._client.get_conversation(conversation_id)
            self._screen.listed.append(known)
        await self._screen.learn([message.user_id, known.peer_id])
        text = clean(message.text).replace("\n", " ")[:60]
        place = "" if known.kind == "direct" else f" in {self._screen.title_of(known)}"
        number = self._screen.listed.index(known) + 1
        self._screen.say(f"● {self._screen.name_of(message.user_id)}{place}: {text} (/open {number})")


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
