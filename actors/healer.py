"""Read from the store what the lanes between nodes have lost, for the sessions of this node.

Lanes carry hints; the store is the truth. A hole in a stream is read and published in its place. After a gap
in a lane, or when a shard has moved, the heads of all streams that anybody hears here are compared with the
store's, and who hears what is set right.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog
import trio

from actors.conversation_base import publish_event
from actors.hub import Hub
from protocol.codec import Encoded
from protocol.errors import HubbubError
from protocol.records import Entry, MemberRow, Row
from protocol.stored_events import read_event, read_inbox_event

MAX_FILL: Final = 200  # events read for a hole; a longer one is a resync, which each device reads by itself
MAX_FILL_BYTES: Final = 256 * 1024  # what an outbox holds at most
_CHUNK: Final = 500  # streams or users of one read
_RETRY_S: Final = 1.0
_MAX_ROUNDS: Final = 5  # of reading memberships that move while they are read

log = structlog.get_logger(__name__)

R = TypeVar("R", bound=Row)


class History(Protocol):
    """The part of the store that healing reads; see storage.store.Store."""

    async def read(self, stream: str, *, after: int, limit: int, max_bytes: int = ...) -> list[Entry]: ...

    async def heads(self, streams: Sequence[str]) -> dict[str, int]: ...

    async def find_many(self, table: type[R], column: str, values: Sequence[str | int]) -> list[R]: ...


class StoreHealer:
    """Fits actors.stream_gate.Healer. Only `run` waits."""

    def __init__(self, history: History, hub: Hub) -> None:
        self._history = history
        self._hub = hub
        self._holes: dict[str, int] = {}  # stream -> the seq before the hole
        self._users: set[str] = set()  # whose memberships are to be read again
        self._checks: list[Callable[[str], bool]] = []  # which streams' heads are to be compared
        self._wake = trio.Event()
        self.filled_count = 0  # holes that were read
        self.resync_count = 0  # holes that were too long, or could not be read

    def fill(self, stream: str, after: int) -> None:
        """Read what follows that seq, soon."""
        self._holes[stream] = after
        self._wake.set()

    def check_heads(self, is_concerned: Callable[[str], bool]) -> None:
        """Compare the streams whose name passes with the store, soon: events may have been lost."""
        if len(self._checks) < _CHUNK:
            self._checks.append(is_concerned)
        else:
            self._checks = [_any]
        self._wake.set()

    def check_users(self, user_ids: Iterable[str]) -> None:
        """Read again which conversations these users are in, soon."""
        self._users.update(user_ids)
        self._wake.set()

    def check_all(self) -> None:
        """After a gap in a lane, anything may have been lost."""
        self.check_users(self._hub.user_ids())
        self.check_heads(_any)

    async def run(self) -> None:
        """Heal until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            try:
                if self._users:
                    await self._rejoin()
                if self._checks:
                    await self._compare()
            except HubbubError as error:
                log.warning("heads_unreadable", code=error.code)
                await trio.sleep(_RETRY_S)
                self._wake.set()
            holes, self._holes = self._holes, {}
            for stream, after in holes.items():
                await self._fill(stream, after)

    async def _rejoin(self) -> None:
        for _ in range(_MAX_ROUNDS):
            users = sorted(self._users)[:_CHUNK]
            if not users:
                return
            self._hub.begin_rejoin()
            rows = await self._history.find_many(MemberRow, "user_id", users)
            found: dict[str, set[str]] = {user_id: set() for user_id in users}
            for row in rows:
                found[row.user_id].add(row.conversation_id)
            self._users -= set(users)
            self._users.update(self._hub.rejoin(found))
        if self._users:
            self._wake.set()

    async def _compare(self) -> None:
        checks, self._checks = self._checks, []
        streams = [name for name in self._hub.streams() if any(check(name) for check in checks)]
        try:
            for start in range(0, len(streams), _CHUNK):
                heads = await self._history.heads(streams[start : start + _CHUNK])
                for stream, head in heads.items():
                    self._hub.stands_at(stream, head)
        except HubbubError:
            self._checks += checks
            raise

    async def _fill(self, stream: str, after: int) -> None:
        try:
            entries = await self._history.read(
                stream, after=after, limit=MAX_FILL + 1, max_bytes=MAX_FILL_BYTES
            )
        except HubbubError as error:
            log.warning("hole_unreadable", stream=stream, after_seq=after, code=error.code)
            entries = []
        if not entries or len(entries) > MAX_FILL:
            self.resync_count += 1
            self._hub.filled(stream, (), None)
            return
        self.filled_count += 1
        kind, _, name = stream.partition(":")
        publish: Callable[[Entry], None]
        publish = partial(self._publish_inbox, name) if kind == "u" else partial(self._publish, name)
        self._hub.filled(stream, [partial(publish, entry) for entry in entries], entries[-1].seq)
        if sum(len(entry.body) for entry in entries) > MAX_FILL_BYTES // 2:
            self.check_heads(lambda name: name == stream)  # the page may have ended before the hole did

    def _publish(self, conversation_id: str, entry: Entry) -> None:
        event = read_event(conversation_id, entry)
        publish_event(self._hub, conversation_id, event, entry.message_count, to=())

    def _publish_inbox(self, user_id: str, entry: Entry) -> None:
        self._hub.publish_user(user_id, entry.seq, Encoded(read_inbox_event(entry)))


def _any(_stream: str) -> bool:
    return True
