"""Keep a device's cursors where they outlive it: saved on this side, and told to the server."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import trio

from hubbub.asker import Asker
from hubbub.cursors import CursorStore
from hubbub.streams import Stream
from protocol import commands as c
from protocol import replies as r
from protocol.errors import HubbubError
from protocol.limits import MAX_CURSORS

ACK_INTERVAL_S: Final = 1.0  # delivered receipts are told this soon, all together
SAVE_INTERVAL_S: Final = 0.5  # cursors are saved at most this often


class CursorKeeper:
    """Notes which cursors moved. `streams` is the intake's own table: it only grows."""

    def __init__(self, store: CursorStore, asker: Asker, streams: dict[str, Stream], inbox: Stream) -> None:
        self._store = store
        self._asker = asker
        self._streams = streams
        self._inbox = inbox
        self._unsaved: set[str] = set()
        self._is_inbox_unsaved = False
        self._unacked: set[str] = set()
        self._is_inbox_unacked = False
        self._dirty = trio.Event()
        self._ack_wake = trio.Event()

    async def load(self) -> None:
        """Put the cursors that were saved last into the streams."""
        saved = await self._store.load()
        for conversation_id, cursor in saved.conversations.items():
            self._streams[conversation_id] = Stream(conversation_id, cursor)
        if saved.inbox is not None:
            self._inbox.start_at(saved.inbox)

    def mark(self, stream: Stream) -> None:
        """Note that a stream's `taken` moved."""
        if stream is self._inbox:
            self._is_inbox_unsaved = self._is_inbox_unacked = True
        else:
            self._unsaved.add(stream.conversation_id)
            self._unacked.add(stream.conversation_id)
        self._dirty.set()
        self._ack_wake.set()

    def to_tell(self) -> dict[str, int]:
        """Return the cursors for hello and heartbeats, at most as many as one command may name."""
        cursors: dict[str, int] = {}
        for stream in reversed(self._streams.values()):  # the newest conversations first, where not all fit
            if stream.is_started and not stream.is_gone:
                cursors[stream.conversation_id] = stream.taken
                if len(cursors) == MAX_CURSORS:
                    break
        return cursors

    async def ack_loop(self) -> None:
        """Tell the server how far the user has got, about once a second while that moves."""
        while True:  # until the connection is lost
            await self._ack_wake.wait()
            await trio.sleep(ACK_INTERVAL_S)
            self._ack_wake = trio.Event()
            self._tell()

    def _tell(self) -> None:
        names = [name for name in self._unacked if self._streams[name].is_started]
        self._unacked.clear()
        self._is_inbox_unacked = False
        for start in range(0, max(1, len(names)), MAX_CURSORS):
            cursors = {name: self._streams[name].taken for name in names[start : start + MAX_CURSORS]}
            # Nobody waits for the answer; a lost one is made good by the next heartbeat.
            self._asker.tell(c.Ack(id=self._asker.next_id(), cursors=cursors, inbox_cursor=self._inbox.taken))

    async def ack_last(self) -> None:
        """Tell the server, within a second, what it does not know yet: the client is about to go.

        Where no store keeps the cursors, the server's memory of them is what the next start finds.
        """
        if not (self._unacked or self._is_inbox_unacked):
            return
        with trio.move_on_after(1.0), suppress(HubbubError):
            ack = c.Ack(id=self._asker.next_id(), cursors=self.to_tell(), inbox_cursor=self._inbox.taken)
            await self._asker.ask_now(ack, r.Ok)

    async def save_loop(self) -> None:
        """Save what moved, about twice a second."""
        while True:  # until the client ends
            await self._dirty.wait()
            await trio.sleep(SAVE_INTERVAL_S)
            await self.save()

    async def save(self) -> None:
        """Save now what moved. What could not be saved stays noted."""
        self._dirty = trio.Event()
        self._is_inbox_unsaved = False
        names, self._unsaved = self._unsaved, set()
        changed: Mapping[str, int] = {
            name: stream.taken for name in names if (stream := self._streams[name]).is_started
        }
        try:
            await self._store.save(changed, self._inbox.taken)
        except BaseException:
            self._unsaved |= names
            self._dirty.set()
            raise

    async def save_last(self) -> None:
        """Save what was not saved yet, within 5 s."""
        if self._dirty.is_set() or self._unsaved or self._is_inbox_unsaved:
            with trio.move_on_after(5.0):
                await self.save()
