"""Tell the others in the open conversation that the person is typing."""

from contextlib import suppress
from typing import Final

import trio

from hubbub.client import Client
from hubbub.terminal.screen import Screen
from protocol.errors import HubbubError

REPEAT_S: Final = 4.0  # a mark ends by itself after 6 s


class TypingMarks:
    """Marks for what is typed at a terminal: messages, not commands."""

    def __init__(self, client: Client, screen: Screen) -> None:
        self._client = client
        self._screen = screen
        self._is_typing = trio.Event()

    def on_key(self, text: str) -> None:
        """Take note of what the line is after a key."""
        if text and not text.startswith("/"):
            self._is_typing.set()

    async def run(self) -> None:
        """Send marks, one every few seconds at most, while keys are pressed."""
        while True:  # until the terminal is left
            await self._is_typing.wait()
            opened = self._screen.opened
            if opened is not None and self._client.is_connected:
                with suppress(HubbubError):  # a lost mark is no loss
                    await self._client.set_typing(opened.conversation_id)
            await trio.sleep(REPEAT_S)
            self._is_typing = trio.Event()
