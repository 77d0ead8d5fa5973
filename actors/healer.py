"""Read from the store what the lanes between nodes have lost, for the sessions of this node.

Lanes carry hints; the store is the truth. A hole in a stream is read and published in its place. After a gap
in a lane, or when a shard has moved, the heads of all streams that anybody hears here are compared with the
store's, and who hears what is set right.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

import msgspec
import structlog
import trio

from actors.address import Address
from actors.conversation_base import publish_event
from actors.hub import Hub
from protocol import events
from protocol.codec import Encoded
from protocol.errors import HubbubError
from protocol.events import ConversationEvent
from protocol.records import Entry, MemberRow, Row, conversation_stream
from protocol.stored_events import read_event, read_inbox_event

MAX_FILL: Final = 200  # events read for a hole; a longer one is a resync, which each device reads by itself
MAX_FILL_BYTES: Final = 256 * 1024  # what an outbox holds at most
_CHUNK: Final = 500  # streams or users of one read
# A lane that loses much asks for checks all the time, and each reads all heads. Holes are read at once.
CHECK_SPACING_S: Final = 0.25
_MAX_ROUNDS: Final = 5  # of reading memberships that move while they are read

log = structlog.get_logger(__name__)

R = TypeVar("R", bound=Row)


class History(Protocol):
    """The part of the store that healing reads; see storage.store.Store."""

    async def read(self, stream: str, *, after: int, limit: int, max_bytes: int = ...) -> list[Entry]: ...

    async def heads(self, streams: Sequence[str]) -> dict[str, int]: ...

    async def find_many(self, table: type[R], column: str, values: Sequence[str | int]) -> list[R]: ...


class StoreHealer:
    """Fits actors.stream_gate.Healer. Only `run` waits; it may be cancelled and run again."""

    def __init__(self, history: History, hub: Hub) -> None:
        self._history = history
        self._hub = hub
        self._holes: dict[str, int] = {}  # stream -> the seq before the hole; until the hub has what was read
        self._users: set[str] = set()  # whose memberships are to be read again
        self._entered: set[tuple[int, str]] = set()  # (conn_id, conversation_id) whose heads are to be told
        self._shards: set[int] = set()  # whose streams' heads are to be compared
        self._must_compare_all = False
        self._wake = trio.Event()
        self.filled_count = 0  # holes that were read
        self.resync_count = 0  # holes that were too long, or could not be read

    def fill(self, stream: str, after: int) -> None:
        """Read what follows that seq, soon."""
        self._holes[stream] = after
        self._wake.set()

    def check_shards(self, shards: Iterable[int]) -> None:
        """Compare the streams of these shards with the store, soon: events may have been lost."""
        self._shards.update(shards)
        self._wake.set()

    def check_users(self, user_ids: Iterable[str]) -> None:
        """Read again which conversations these users are in, soon."""
        self._users.update(user_ids)
        self._wake.set()

    def check_all(self) -> None:
        """After a gap in a lane, anything may have been lost."""
        self._must_compare_all = True
        self.check_users(self._hub.user_ids())

    async def run(self) -> None:
        """Heal until cancelled."""
        self._wake.set()  # what was left when it was cancelled
        checked_at = float("-inf")
        while True:
            await self._wait(checked_at)
            for stream, after in list(self._holes.items()):
                await self._fill(stream, after)
            if self._has_checks and trio.current_time() >= checked_at + CHECK_SPACING_S:
                try:
                    await self._check()
                except HubbubError as error:
                    log.warning("heads_unreadable", code=error.code)
                checked_at = trio.current_time()

    async def _wait(self, checked_at: float) -> None:
        """Return when there is a hole, or a check whose time has come."""
        until = checked_at + CHECK_SPACING_S if self._has_checks else float("inf")
        if not self._holes:
            with trio.move_on_at(until):
                await self._wake.wait()
        self._wake = trio.Event()

    @property
    def _has_checks(self) -> bool:
        return bool(self._users or self._entered or self._shards or self._must_compare_all)

    async def _check(self) -> None:
        """Set right who hears what, then look for what was missed. What fails is left for the next time."""
        for _ in range(_MAX_ROUNDS):
            if not self._users:
                break
            await self._rejoin(sorted(self._users)[:_CHUNK])
        entered = list(self._entered)
        heads = await self._heads({conversation_stream(c) for _, c in entered})
        self._entered.difference_update(entered)
        for conn_id, conversation_id in entered:
            self._hub.catch_up(conn_id, conversation_id, heads.get(conversation_stream(conversation_id), 0))
        shards, self._shards = self._shards, set()
        is_all, self._must_compare_all = self._must_compare_all, False
        try:
            streams = self._hub.streams()
            heads = await self._heads([name for name in streams if is_all or _shard_of(name) in shards])
            is_all, shards = False, set()
        finally:
            self._must_compare_all |= is_all
            self._shards |= shards
        for stream, head in heads.items():
            self._hub.stands_at(stream, head)

    async def _rejoin(self, user_ids: list[str]) -> None:
        self._hub.begin_rejoin()
        found: dict[str, set[str]] = {}
        try:
            rows = await self._history.find_many(MemberRow, "user_id", user_ids)
            found = {user_id: set() for user_id in user_ids}
            for row in rows:
                found[row.user_id].add(row.conversation_id)
        finally:
            moved, entered = self._hub.rejoin(found)
        self._users.difference_update(user_ids)
        self._users.update(moved)
        self._entered.update(entered)

    async def _heads(self, streams: Collection[str]) -> dict[str, int]:
        names = list(streams)
        heads: dict[str, int] = {}
        for start in range(0, len(names), _CHUNK):
            heads |= await self._history.heads(names[start : start + _CHUNK])
        return heads

    async def _fill(self, stream: str, after: int) -> None:
        publish: list[Callable[[], None]] = []
        try:
            entries = await self._history.read(
                stream, after=after, limit=MAX_FILL + 1, max_bytes=MAX_FILL_BYTES
            )
            # A page that begins later than the hole would leave it open, and be read for ever.
            if entries and len(entries) <= MAX_FILL and entries[0].seq == after + 1:
                publish = self._publishing(stream, entries)
        except HubbubError as error:
            log.warning("hole_unreadable", stream=stream, after_seq=after, code=error.code)
        except msgspec.MsgspecError as error:  # an event of a newer version: devices may understand it
            log.warning("hole_not_understood", stream=stream, after_seq=after, error=str(error))
        if publish:
            self.filled_count += 1
        else:
            self.resync_count += 1
        if self._holes.get(stream) == after:  # before the hub, which may find the next hole behind it
            del self._holes[stream]
        self._hub.filled(stream, publish)

    def _publishing(self, stream: str, entries: Sequence[Entry]) -> list[Callable[[], None]]:
        """What publishes these entries, one by one."""
        kind, _, name = stream.partition(":")
        if kind == "u":
            return [
                partial(self._hub.publish_user, name, entry.seq, Encoded(read_inbox_event(entry)))
                for entry in entries
            ]
        return [partial(self._publish, name, read_event(name, entry), entry) for entry in entries]

    def _publish(self, conversation_id: str, event: ConversationEvent, entry: Entry) -> None:
        publish_event(self._hub, conversation_id, event, entry.message_count, to=())
        # It may be known here what has become of these members since.
        if isinstance(event, events.ConversationCreated | events.MembersAdded):
            self.check_users(user_id for user_id in event.member_ids if self._hub.is_here(user_id))
        elif isinstance(event, events.MemberRemoved) and self._hub.is_here(event.member_id):
            self.check_users([event.member_id])


def _shard_of(stream: str) -> int:
    kind, _, name = stream.partition(":")
    return Address("user" if kind == "u" else "conversation", name).shard
