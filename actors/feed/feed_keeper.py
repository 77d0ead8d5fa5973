"""The feeds of one partition: pushed to, written down, dropped, and back after a restart.

What is pushed is one row of the partition's stream for each message, with all who got it; feeds in memory
follow the commits. Each feed is also written down from time to time (`FeedRow`), so that after a restart the
stream is read from there on, and can be trimmed.
"""

from collections.abc import Sequence
from heapq import nsmallest
from typing import Final

import msgspec

from actors.entity import EntityContext
from actors.feed.feed import Feed, read_entries
from actors.feed.relations_keeper import PartitionNeeds, RelationsKeeper
from actors.feed.request import Arrival
from actors.messages import FanOut
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Batch, Staged
from protocol import replies
from protocol.errors import HubbubError
from protocol.records import Appended, FeedRow, LogRow, Op, Put, Remove, Trim

_SWEEP_S: Final = 60.0  # between looks for feeds that nobody reads any more
_RELATIONS_S: Final = 600.0  # of a feed that nobody reads: follows may be a hundred kilobytes, and one read
_DAY_S: Final = 24 * 3600.0
_STEP: Final = 64  # feeds that are written down, or dropped, in one append: some ms
_PAGE_ROWS: Final = 512  # of the stream, or kept feeds, in one read when the partition wakes up
_ENTRIES_KIND: Final = "entries"


class _Entries(msgspec.Struct, frozen=True):
    """The body of a row of the partition's stream."""

    post: int
    users: list[str]


class Sweep(msgspec.Struct, frozen=True):
    """Look for feeds that nobody reads: let go of their follows, later of all of them."""


class WriteDown(msgspec.Struct, frozen=True):
    """Go on writing feeds down; when all are, trim the stream before `before_seq`."""

    user_ids: list[str]
    before_seq: int


class Pushing(Staged):
    """A row of entries on its way into the log."""

    __slots__ = ("fan_out", "users")

    def __init__(self, fan_out: FanOut, users: list[str], reply: Reply) -> None:
        super().__init__(reply, None)
        self.fan_out = fan_out
        self.users = users

    def resolve(self, at: Appended | None) -> None:
        self.reply.resolve(replies.Ok())


_entries = msgspec.json.Decoder(_Entries)
_encode = msgspec.json.Encoder().encode


class FeedKeeper(RelationsKeeper):
    """Keep feeds. What is read of them is in the class derived from it."""

    def __init__(self, partition: int, needs: PartitionNeeds) -> None:
        super().__init__(partition, needs)
        self._stats = needs.stats
        self._feeds: dict[str, Feed] = {}
        self._arrivals: dict[str, Arrival] = {}
        self._watched: set[str] = set()  # readers who had the feed on the screen when they last told
        self._leaving: set[str] = set()  # feeds whose row is being removed
        self._applied_seq = 0  # of the stream: up to here the feeds in memory have it
        self._first_seq = 1
        self._is_writing_down = False

    def tell_live(self, post_id: int, places: list[tuple[str, int]]) -> None:
        """Tell readers who watch of a post that they can read by now: user_id, position in the feed."""
        raise NotImplementedError

    # -- life ---------------------------------------------------------------------------------------

    async def activate(self, ctx: EntityContext) -> None:
        """Take the kept feeds, and what was pushed since each was written down."""
        self._ctx = ctx
        first, last = await self._reads.entries_head(self._partition)
        self._first_seq = max(first, 1)
        upto: dict[str, int] = {}
        after = ""
        while True:
            rows = await self._reads.kept_feeds(self._partition, after=after, limit=_PAGE_ROWS)
            for row in rows:
                self._feeds[row.user_id] = Feed(
                    row.user_id,
                    self._partition,
                    read_entries(row.entries),
                    cap=self._limits.cap,
                    covered_from=row.covered_from,
                    position=row.position,
                    read_at_s=row.read_at_ms / 1000,
                )
                upto[row.user_id] = row.upto_seq
            if len(rows) < _PAGE_ROWS:
                break
            after = rows[-1].user_id
        seq = min(upto.values(), default=last)
        while seq < last:
            entries = await self._reads.entries(self._partition, after=seq, limit=_PAGE_ROWS)
            if not entries:
                break
            for entry in entries:
                body = _entries.decode(entry.body)
                for user_id in body.users:
                    feed = self._feeds.get(user_id)
                    if feed is not None and entry.seq > upto[user_id]:
                        feed.push(body.post)
            seq = entries[-1].seq
        self._applied_seq = max(last, seq)
        for feed in self._feeds.values():
            self._node.feeds[feed.user_id] = feed
        ctx.post_after(_SWEEP_S, Sweep())

    def is_needed(self) -> bool:
        """Feeds in memory are what makes pages fast."""
        return bool(self._feeds)

    def may_passivate(self) -> bool:
        return super().may_passivate() and not self._arrivals

    async def passivate(self) -> None:
        self._leave()

    def ended(self) -> None:
        self._leave()

    def _leave(self) -> None:
        for user_id, feed in self._feeds.items():
            if self._node.feeds.get(user_id) is feed:
                del self._node.feeds[user_id]
        for user_id, arrival in self._arrivals.items():
            if self._node.arriving.get(user_id) is arrival.changes:
                del self._node.arriving[user_id]
        self._feeds = {}
        self._arrivals = {}

    # -- what is pushed -----------------------------------------------------------------------------

    def fan_out(self, message: FanOut, reply: Reply) -> None:
        """Stage a post for those of the readers whose feeds are kept."""
        feeds, arrivals = self._feeds, self._arrivals
        if arrivals:
            users = [user_id for user_id in message.user_ids if user_id in feeds or user_id in arrivals]
        else:
            users = [user_id for user_id in message.user_ids if user_id in feeds]
        if not users:
            reply.resolve(replies.Ok())
            return
        row = LogRow(
            stream=self._stream,
            kind=_ENTRIES_KIND,
            at_ms=self._now_ms(),
            user_id=message.author_id,
            body=_encode(_Entries(message.post_id, users)).decode(),
        )
        self._stage_row(row, Pushing(message, users, reply))

    def is_patient(self, batch: Batch) -> bool:
        """A post that is pushed is in every page already, as one that is pending."""
        return not batch.ops and all(isinstance(staged, Pushing) for staged in batch.staged)

    def placed(self, staged: Staged, at: Appended) -> None:
        """Put what was stored into the feeds, and tell those who watch."""
        assert isinstance(staged, Pushing)
        self._applied_seq = at.seq
        post_id = staged.fan_out.post_id
        feeds, watched = self._feeds, self._watched
        places: list[tuple[str, int]] = []
        count = 0
        for user_id in staged.users:
            feed = feeds.get(user_id)
            if feed is None:
                arrival = self._arrivals.get(user_id)
                if arrival is not None:
                    arrival.post_ids.append(post_id)
            elif feed.push(post_id):
                count += 1
                if user_id in watched:
                    places.append((user_id, feed.position))
        self._stats.entry_count += count
        if places:
            self.tell_live(post_id, places)
        if not self._is_writing_down and at.seq - self._first_seq >= self._limits.tail_rows:
            self._begin_writing_down()

    # -- keeping feeds ------------------------------------------------------------------------------

    def keep(self, feed: Feed) -> None:
        """Keep a feed from now on, unless none is to be kept, or the store does not take it."""
        if self._limits.ttl_s <= 0 or not self.has_room():
            return
        self._feeds[feed.user_id] = self._node.feeds[feed.user_id] = feed
        feed.is_dirty = False
        self._stage_ops([Put(self._row_of(feed))])
        if len(self._feeds) - len(self._leaving) > self._limits.max_feeds:
            spared = {*self._leaving, *self._watched, feed.user_id}
            kept = [other for other in self._feeds.values() if other.user_id not in spared]
            oldest = nsmallest(_STEP, kept, key=lambda other: other.read_at_s)
            self.drop([other.user_id for other in oldest])

    def has_room(self) -> bool:
        """Tell whether the store takes anything now: a refused append would end the incarnation."""
        try:
            self._log.check_room()
        except HubbubError:
            return False
        return True

    def _row_of(self, feed: Feed) -> FeedRow:
        feed.stored_read_at_s = feed.read_at_s
        return FeedRow(
            user_id=feed.user_id,
            partition=self._partition,
            covered_from=feed.covered_from,
            position=feed.position,
            upto_seq=self._applied_seq,
            read_at_ms=int(feed.read_at_s * 1000),
            entries=feed.entries(),
        )

    def is_arriving(self, user_id: str) -> bool:
        return user_id in self._arrivals

    def cover(self, user_id: str, post_ids: list[int], *, new_from: int) -> list[Op]:
        feed = self._feeds[user_id]
        if not post_ids or user_id in self._leaving:  # a row written now would outlive the feed
            return []

        def take(_at: Appended | None) -> None:
            for post_id in sorted(post_ids):
                if feed.take(post_id, new_from=new_from) and user_id in self._watched:
                    self.tell_live(post_id, [(user_id, feed.position)])

        self._stage_ops((), Staged(NO_REPLY, None, after=take))
        return [Put(self._row_of(feed.with_ids(post_ids, new_from=new_from)))]

    def drop(self, user_ids: Sequence[str]) -> None:
        """Remove kept feeds. They stay in memory until that is stored: else pushes would be missed."""
        dropped = [user_id for user_id in user_ids if user_id not in self._leaving]
        if not dropped:
            return
        self._leaving.update(dropped)

        def forget(_at: Appended | None) -> None:
            for user_id in dropped:
                self._leaving.discard(user_id)
                feed = self._feeds.pop(user_id, None)
                if feed is not None and self._node.feeds.get(user_id) is feed:
                    del self._node.feeds[user_id]

        ops = [Remove(FeedRow, {"user_id": user_id}) for user_id in dropped]
        self._stage_ops(ops, Staged(NO_REPLY, None, after=forget))

    def sweep(self) -> None:
        now_s = self._now_ms() / 1000
        gone = {user_id for user_id in self._watched if not self._fanout.is_connected(user_id)}
        if gone:
            self._watched -= gone
            self._node.unwatch(gone)
        for feed in self._feeds.values():
            if now_s - feed.read_at_s > _RELATIONS_S and feed.user_id not in self._watched:
                feed.relations = None
        if not self.has_room():
            self._ctx.post_after(_SWEEP_S, Sweep())
            return
        old = [
            user_id
            for user_id, feed in self._feeds.items()
            if now_s - feed.read_at_s > self._limits.ttl_s and user_id not in self._watched
        ]
        self.drop(old[:_STEP])
        # Else a feed that is read each day, but gets nothing, would look forgotten after a restart.
        read = [feed for feed in self._feeds.values() if feed.read_at_s - feed.stored_read_at_s > _DAY_S]
        self._stage_ops(
            [Put(self._row_of(feed)) for feed in read[:_STEP] if feed.user_id not in self._leaving]
        )
        self._ctx.post_after(_SWEEP_S if max(len(old), len(read)) <= _STEP else 0.1, Sweep())

    def _begin_writing_down(self) -> None:
        """Write down all feeds that have changed, so that the stream up to here can go."""
        self._is_writing_down = True
        user_ids = [user_id for user_id, feed in self._feeds.items() if feed.is_dirty]
        self._ctx.post_after(0.0, WriteDown(user_ids, self._applied_seq + 1))

    def write_down(self, message: WriteDown) -> None:
        if not self.has_room():
            self._ctx.post_after(1.0, message)
            return
        ops: list[Op] = []
        for user_id in message.user_ids[:_STEP]:
            feed = self._feeds.get(user_id)
            if feed is not None and user_id not in self._leaving:
                feed.is_dirty = False
                ops.append(Put(self._row_of(feed)))
        self._stats.written_down_count += len(ops)
        rest = message.user_ids[_STEP:]
        before_seq = message.before_seq
        if rest:

            def go_on(_at: Appended | None) -> None:
                self._ctx.post_after(0.02, WriteDown(rest, before_seq))

            self._stage_ops(ops, Staged(NO_REPLY, None, after=go_on))
            return

        def trimmed(_at: Appended | None) -> None:
            self._is_writing_down = False
            self._first_seq = before_seq

        ops.append(Trim(self._stream, before_seq))
        self._stage_ops(ops, Staged(NO_REPLY, None, after=trimmed))
