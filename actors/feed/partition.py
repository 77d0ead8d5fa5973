"""The actor of one partition: it owns the feeds of its readers, and answers their pages from memory.

What is pushed is one row of the partition's stream for each message, with all who got it; feeds in memory
follow the commits. Each feed is also written down from time to time (`FeedRow`), so that after a restart the
stream is read from there on, and can be trimmed. A feed that is not in memory is made by pull when it is
read, and kept from then on.

Reading from the store never holds up the mailbox: a request that lacks something waits beside it, as a
`_Request`, and is taken up again when what it lacked has been posted back.
"""

from collections.abc import Sequence
from heapq import nsmallest
from typing import Final

import msgspec

from actors.entity import EntityContext
from actors.feed.ad_book import AdBook
from actors.feed.ad_rules import DAY_MS, Reader
from actors.feed.ad_slots import AdSlots, Organic, fill
from actors.feed.affinity import HISTORY_MS, HISTORY_ROWS, Affinities
from actors.feed.cursor import Cursor, read_cursor, write_cursor
from actors.feed.feed import Feed, FeedLimits, Relations, read_entries
from actors.feed.feed_follower import FeedFollower
from actors.feed.ids import first_id_at
from actors.feed.index import Change, FeedNode
from actors.feed.page import Fetched, Missing, PageMaker, Pulled, Shown, Stretch
from actors.feed.ranked_feed import RankedFeeds
from actors.feed.ranked_page import explain, ranked_page
from actors.feed.ranking import COMMENT_WEIGHT, LIKE_WEIGHT, REPOST_WEIGHT
from actors.feed.relations_keeper import RelationsKeeper
from actors.feed_audience import FEED_STREAM
from actors.messages import Ask, Evict, FanOut, FeedWatched, Told
from actors.ports import Fanout, FeedReads, Leases, Log, Relay, WallClock
from actors.reply import NO_REPLY, Reply
from actors.stream_actor import Staged
from protocol import feed_commands, feed_events, feed_replies, replies
from protocol.codec import Encoded
from protocol.errors import HubbubError, ProtocolError, Unavailable
from protocol.feed_found import FoundFeed
from protocol.feed_types import FeedItem
from protocol.records import AdShown, Appended, FeedRow, LogRow, Op, Put, Remove, Trim, User

_SWEEP_S: Final = 60.0  # between looks for feeds that nobody reads any more
_STEP: Final = 64  # feeds that are written down, or dropped, in one append: some ms
_PAGE_ROWS: Final = 512  # of the stream, or kept feeds, in one read when the partition wakes up
_MAX_ROUNDS: Final = 64  # reads of the store for one page; a page needs two or three
_FIRST_ENTRY_KIND: Final = "entries"


class _Entries(msgspec.Struct, frozen=True):
    """The body of a row of the partition's stream."""

    post: int
    users: list[str]


class _Loaded(msgspec.Struct, frozen=True):
    user_id: str
    found: FoundFeed | None
    error: HubbubError | None


class _Retry(msgspec.Struct, frozen=True):
    request: "_Request"
    error: HubbubError | None


class _Sweep(msgspec.Struct, frozen=True):
    """Look for feeds to drop, and whether the stream should be trimmed."""


class _WriteDown(msgspec.Struct, frozen=True):
    """Go on writing feeds down; when all are, trim the stream before `before_seq`."""

    user_ids: list[str]
    before_seq: int


class _Live(msgspec.Struct, frozen=True):
    """The post that these readers were pushed is in memory now: tell those who watch."""

    post_id: int
    places: list[tuple[str, int]]


class _Request:
    """A command of a reader that needs the feed, on its way."""

    __slots__ = ("ask", "feed", "fetched", "is_fresh", "reply", "rounds")

    def __init__(self, ask: Ask, reply: Reply) -> None:
        self.ask = ask
        self.reply = reply
        self.fetched = Fetched()
        self.rounds = 0
        self.feed: Feed | None = None  # one that is not kept
        self.is_fresh = False  # what other nodes did was read after it came


class _Arrival:
    """A feed that is being read from the store."""

    __slots__ = ("changes", "post_ids", "waiting")

    def __init__(self) -> None:
        self.waiting: list[_Request] = []
        self.post_ids: list[int] = []  # pushed meanwhile
        self.changes: list[Change] = []


class _Pushing(Staged):
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
_PURE_READERS: Final = (feed_commands.ReadFeed, feed_commands.ExplainPost, feed_commands.ListInterests)
# Commands that need the reader's feed in memory.
_READERS: Final = (*_PURE_READERS, feed_commands.AdSeen, feed_commands.AdClicked)


class _Answer(msgspec.Struct, frozen=True):
    """What a reader is answered, and what has to be stored before; the book of ads is told after that."""

    reply: replies.Reply
    shown: tuple[AdShown, ...] = ()
    told: AdShown | None = None  # an ad that was seen or clicked
    is_impression: bool = False  # it had not been seen before


class FeedStats(msgspec.Struct):
    """Counters since the start, of all partitions of a node."""

    entry_count: int = 0
    page_count: int = 0
    cold_load_count: int = 0
    late_page_count: int = 0  # pages that had to wait for the store
    written_down_count: int = 0


class FeedPartition(RelationsKeeper):
    """Own the feeds of one partition."""

    def __init__(
        self,
        partition: int,
        *,
        log: Log,
        reads: FeedReads,
        leases: Leases,
        relay: Relay,
        fanout: Fanout,
        node: FeedNode,
        limits: FeedLimits,
        stats: FeedStats,
        ranked: RankedFeeds,
        ads: AdBook,
        follower: FeedFollower,
        now_ms: WallClock,
    ) -> None:
        super().__init__(
            partition,
            log=log,
            reads=reads,
            leases=leases,
            relay=relay,
            fanout=fanout,
            node=node,
            limits=limits,
            now_ms=now_ms,
        )
        self._feeds: dict[str, Feed] = {}
        self._arrivals: dict[str, _Arrival] = {}
        self._watched: set[str] = set()  # readers who had the feed on the screen when they last told
        self._leaving: set[str] = set()  # feeds whose row is being removed
        self._applied_seq = 0  # of the stream: up to here the feeds in memory have it
        self._first_seq = 1
        self._is_writing_down = False
        self._stats = stats
        self._ranked = ranked
        self._ads = ads
        self._follower = follower

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
        ctx.post_after(_SWEEP_S, _Sweep())

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

    # -- messages -----------------------------------------------------------------------------------

    def handle_nowait(self, message: object, reply: Reply) -> bool:
        if isinstance(message, Ask) and type(message.command) in _READERS:
            self._serve(_Request(message, reply))
            return True
        if isinstance(message, FanOut):
            self._fan_out(message, reply)
        elif isinstance(message, _Retry):
            self._retry(message)
        elif isinstance(message, _Loaded):
            self._loaded(message)
        else:
            return False
        return True

    async def handle(self, message: object, reply: Reply) -> None:
        if self.handle_nowait(message, reply):
            return
        match message:
            case Ask():
                if not await self.relate(message, reply):
                    raise TypeError(f"a feed partition does not take {type(message.command).__name__}")
            case Told():
                await self.told(message, reply)
            case FeedWatched(user_id=user_id):
                self._watch(user_id, reply)
            case Evict(user_ids=user_ids):
                self._drop([user_id for user_id in user_ids if user_id in self._feeds])
                self._answer_in_order(reply, replies.Ok())
            case _Live():
                self._tell_live(message.post_id, message.places)
            case _Sweep():
                self._sweep()
            case _WriteDown():
                self._write_down(message)
            case _:
                raise TypeError(f"a feed partition does not take {type(message).__name__}")

    # -- what is pushed -----------------------------------------------------------------------------

    def _fan_out(self, message: FanOut, reply: Reply) -> None:
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
            kind=_FIRST_ENTRY_KIND,
            at_ms=self._now_ms(),
            user_id=message.author_id,
            body=_encode(_Entries(message.post_id, users)).decode(),
        )
        self._stage_row(row, _Pushing(message, users, reply))

    def placed(self, staged: Staged, at: Appended) -> None:
        """Put what was stored into the feeds, and tell those who watch."""
        assert isinstance(staged, _Pushing)
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
            self._tell_live(post_id, places)
        if not self._is_writing_down and at.seq - self._first_seq >= self._limits.tail_rows:
            self._begin_writing_down()

    def _tell_live(self, post_id: int, places: list[tuple[str, int]]) -> None:
        """Tell readers who watch of a post that they can read by now."""
        found = self._node.posts.get(post_id)
        is_known = self._node.posts.is_known
        if found is None or (found.root_id and not is_known(found.root_id)):
            if not is_known(post_id) or (found is not None and found.root_id):
                self._ctx.start_soon(self._fetch_live, post_id, places)
            return
        now_ms = self._now_ms()
        for user_id, position in places:
            feed = self._feeds.get(user_id)
            if feed is None or feed.relations is None:
                continue
            maker = PageMaker(feed, self._node, self._limits, Fetched(), now_ms=now_ms)
            item = None
            if maker.judge(post_id) is None:
                root = self._node.posts.get(found.root_id) if found.root_id else None
                dressed = maker.dress([Shown(found, root)], is_new=True)
                item = dressed[0] if isinstance(dressed, list) else None
            event = feed_events.FeedPosted(position=position, item=item)
            self._fanout.publish_user_live(
                user_id, ("feed", str(position)), Encoded(event), stream=FEED_STREAM
            )

    async def _fetch_live(self, post_id: int, places: list[tuple[str, int]]) -> None:
        try:
            await self._follower.refresh()
            await self._fetch_posts((post_id,))
        except HubbubError:
            return  # the next event's position shows the gap
        self._ctx.post(_Live(post_id, places))

    def _watch(self, user_id: str, reply: Reply) -> None:
        """A session shows the feed: it has to be in memory, for its news to be told."""
        self._watched.add(user_id)
        feed = self._feeds.get(user_id)
        if feed is None or feed.relations is None:
            self._arrive(user_id)
        else:
            self._node.watch(feed)
        reply.resolve(replies.Ok())

    # -- pages --------------------------------------------------------------------------------------

    def _serve(self, request: _Request) -> None:
        """Answer a reader, now or when what it takes has been read."""
        if not self._node.is_loaded or (self._follower.is_needed and not request.is_fresh):
            self._ctx.start_soon(self._refresh, request)
            return
        user_id = request.ask.user_id
        feed = self._feeds.get(user_id) or request.feed
        if feed is None or feed.relations is None:
            self._arrive(user_id).waiting.append(request)
        else:
            self._answer(request, feed)

    def _answer(self, request: _Request, feed: Feed) -> None:
        try:
            answer = self._make(request, feed)
        except HubbubError as error:
            request.reply.fail(error)
            return
        except Exception:
            if not isinstance(request.ask.command, _PURE_READERS):
                raise
            # Nothing was changed, and a thirty-second of all readers must not pay for one broken page.
            self._ctx.log.exception("feed_page_failed", user_id=feed.user_id)
            request.reply.fail(Unavailable("internal"))
            return
        if isinstance(answer, Missing):
            request.rounds += 1
            self._stats.late_page_count += request.rounds == 1
            if request.rounds > _MAX_ROUNDS:
                request.reply.fail(Unavailable("busy", retry_after_s=0.2))
            else:
                self._ctx.start_soon(self._fetch, request, answer)
            return
        feed.read_at_s = self._now_ms() / 1000
        if not answer.shown and answer.told is None:
            request.reply.resolve(answer.reply)
            return

        def note(_at: Appended | None) -> None:
            for row in answer.shown:
                self._ads.noted_shown(row)
            if answer.told is not None and answer.is_impression:
                self._ads.noted_seen(answer.told)

        rows = [*answer.shown, *(() if answer.told is None else (answer.told,))]
        self._stage_ops(
            [Put(row) for row in rows], Staged(request.reply, lambda _at: answer.reply, after=note)
        )

    def _make(self, request: _Request, feed: Feed) -> _Answer | Missing:
        """Work out the answer from what is in memory. Raises: HubbubError."""
        command = request.ask.command
        assert feed.relations is not None
        now_ms = self._now_ms()
        if isinstance(command, feed_commands.ListInterests):
            return _Answer(feed_replies.InterestList(items=feed.relations.interests.listed(now_ms)))
        if isinstance(command, feed_commands.ExplainPost):
            maker = PageMaker(feed, self._node, self._limits, request.fetched, now_ms=now_ms)
            explanation = explain(maker, feed, self._ranked, command.post_id, now_ms)
            return explanation if isinstance(explanation, Missing) else _Answer(explanation)
        if isinstance(command, feed_commands.AdSeen | feed_commands.AdClicked):
            return self._count_ad(command, feed.relations, now_ms)
        assert isinstance(command, feed_commands.ReadFeed)
        if command.before and command.after is not None:
            raise ProtocolError("bad_field", "Give `before` or `after`, not both.")
        maker = PageMaker(
            feed, self._node, self._limits, request.fetched, now_ms=now_ms, explain=command.explain
        )
        user_id = feed.user_id
        cap = self._limits.cap
        start = Cursor("older", 0, 0, 0)
        if command.before:
            start = read_cursor(command.before, user_id, "older", "ranked")
        is_ranked = start.kind == "ranked"
        if not command.before and command.after is None:
            is_ranked = (command.order or self._node.options_of(request.ask.app_id).order) == "ranked"
        if is_ranked:
            made = ranked_page(maker, feed, self._ranked, start, command.limit, cap=cap, now_ms=now_ms)
            if isinstance(made, Missing):
                return made
            stretch, scores, goes_on = made
            return self._page(maker, feed, request.ask, start, stretch, scores, goes_on)
        if command.after is not None:
            start = Cursor("newer", 0, 0, 0)
            if command.after:
                start = read_cursor(command.after, user_id, "newer")
            found = maker.newer(start.bound, command.limit)
        else:
            found = maker.older(start.bound, command.limit)
        if isinstance(found, Missing):
            return found
        return self._page(maker, feed, request.ask, start, found)

    def _page(
        self,
        maker: PageMaker,
        feed: Feed,
        ask: Ask,
        start: Cursor,
        stretch: Stretch,
        scores: Sequence[float] = (),
        goes_on: Cursor | None = None,
    ) -> _Answer | Missing:
        """Dress what was found. `goes_on`: where a ranked page goes on; others say so themselves."""
        command = ask.command
        assert isinstance(command, feed_commands.ReadFeed)
        items = maker.dress(stretch.shown, scores)
        if isinstance(items, Missing):
            return items
        assert feed.relations is not None
        user_id = feed.user_id
        is_first = not command.before and command.after is None
        counted = start.counted + len(items)
        anchor = start.anchor or stretch.first_examined
        before = after = ""
        if command.after is not None:
            after = write_cursor(Cursor("newer", stretch.last_examined, counted, anchor), user_id)
            if not command.after and stretch.first_examined:
                before = write_cursor(Cursor("older", stretch.first_examined, 0, 0), user_id)
        else:
            if goes_on is not None:
                before = write_cursor(goes_on, user_id)
            elif not stretch.is_end:
                before = write_cursor(Cursor("older", stretch.last_examined, counted, anchor), user_id)
            after = write_cursor(Cursor("newer", stretch.first_examined, 0, 0), user_id)
        position = feed.relations.read_position
        new_above = maker.new_above(position) if is_first and position else 0
        if isinstance(new_above, Missing):
            return new_above
        rows: tuple[AdShown, ...] = ()
        if command.ads and self._node.options_of(ask.app_id).ads and self._has_room():
            is_falling = not scores and command.after is None
            filled = self._with_ads(feed.relations, ask, items, anchor, start.counted, is_falling=is_falling)
            if isinstance(filled, Missing):
                return filled
            items, rows = filled
        self._stats.page_count += 1
        page = feed_replies.FeedPage(
            items=items,
            before=before,
            after=after,
            complete=stretch.is_complete,
            order="ranked" if scores else "chronological",
            position=feed.position,
            read_position=position,
            new_above=new_above,
            left_out=stretch.left_out,
        )
        return _Answer(page, rows)

    def _with_ads(
        self,
        relations: Relations,
        ask: Ask,
        items: list[FeedItem],
        anchor: int,
        counted: int,
        *,
        is_falling: bool,
    ) -> tuple[list[FeedItem], tuple[AdShown, ...]] | Missing:
        """Put ads between the posts of a page: those that stand there already, and new ones."""
        slots = relations.ad_slots
        if slots is None:
            return Missing(ads=True)
        organic = []
        for item in items:
            assert item.post is not None
            content = item.original or item.post
            organic.append(Organic(item.post.post_id, content.hashtags))
        filled = fill(
            organic,
            anchor=anchor,
            counted_before=counted,
            slots=slots,
            book=self._ads,
            reader=Reader(ask.user_id, ask.app_id, relations.language),
            is_falling=is_falling,
            now_ms=self._now_ms(),
        )
        dressed = list(items)
        for index, ad in reversed(filled.ads):
            dressed.insert(index + 1, FeedItem(kind="ad", ad=ad))
        return dressed, tuple(filled.rows)

    def _count_ad(
        self, command: feed_commands.AdSeen | feed_commands.AdClicked, relations: Relations, now_ms: int
    ) -> _Answer | Missing:
        """Count that an ad was seen or clicked, once. Raises: Refused("slot_not_found"); as check_room."""
        slots = relations.ad_slots
        if slots is None:
            return Missing(ads=True)
        self._log.check_room()
        count = slots.clicked if isinstance(command, feed_commands.AdClicked) else slots.seen
        told = count(command.slot_id, now_ms)
        if told is None:
            return _Answer(replies.Ok())
        return _Answer(replies.Ok(), told=told.row, is_impression=told.is_impression)

    # -- reading from the store ---------------------------------------------------------------------

    def _arrive(self, user_id: str) -> _Arrival:
        """Begin to read a feed, or what decides what it shows."""
        arrival = self._arrivals.get(user_id)
        if arrival is None:
            arrival = self._arrivals[user_id] = _Arrival()
            self._node.arriving[user_id] = arrival.changes
            has_entries = user_id in self._feeds
            self._stats.cold_load_count += not has_entries
            self._ctx.start_soon(self._load, user_id, not has_entries)
        return arrival

    async def _load(self, user_id: str, with_posts: bool) -> None:
        found: FoundFeed | None = None
        error: HubbubError | None = None
        try:
            found = await self._reads.load(user_id, cap=self._limits.cap, with_posts=with_posts)
        except HubbubError as failure:
            error = failure
        self._ctx.post(_Loaded(user_id, found, error))

    def _loaded(self, message: _Loaded) -> None:
        """A feed was read: keep it, and answer those who waited for it."""
        user_id, found = message.user_id, message.found
        arrival = self._arrivals.pop(user_id)
        if self._node.arriving.get(user_id) is arrival.changes:
            del self._node.arriving[user_id]
        if found is None:
            for request in arrival.waiting:
                request.reply.fail(message.error or Unavailable("busy"))
            return
        relations = Relations(user_id, found.relations)
        for change in arrival.changes:
            change(relations)
        feed = self._feeds.get(user_id)
        if feed is None:
            if found.post_ids is None:  # it was dropped while it was being read
                self._arrive(user_id).waiting += arrival.waiting
                return
            feed = Feed(
                user_id,
                self._partition,
                reversed(found.post_ids),
                cap=self._limits.cap,
                covered_from=0 if found.is_whole else found.post_ids[-1],
                read_at_s=self._now_ms() / 1000,
            )
            for post_id in arrival.post_ids:
                feed.push(post_id)
            self._keep(feed)
        feed.relations = relations
        if user_id in self._watched:
            self._node.watch(feed)
        for request in arrival.waiting:
            request.feed = feed
            self._answer(request, feed)

    async def _refresh(self, request: _Request) -> None:
        """Read what other nodes did, and go on."""
        error: HubbubError | None = None
        try:
            await self._follower.refresh()
        except HubbubError as failure:
            error = failure
        request.is_fresh = True
        self._ctx.post(_Retry(request, error))

    async def _fetch(self, request: _Request, missing: Missing) -> None:
        """Read what a page lacks, and go on with it."""
        error: HubbubError | None = None
        fetched, user_id = request.fetched, request.ask.user_id
        try:
            if missing.pull_before >= 0 or missing.pull_after >= 0:
                is_falling = missing.pull_before >= 0
                bound = missing.pull_before if is_falling else missing.pull_after
                post_ids = await self._reads.pull(
                    user_id,
                    before=bound if is_falling else 0,
                    after=None if is_falling else bound,
                    limit=missing.limit,
                )
                key = ("before" if is_falling else "after", bound)
                fetched.pulled[key] = Pulled(post_ids, len(post_ids) < missing.limit)
            for author_id in missing.rings:
                hot = self._node.hot.get(author_id)
                if hot is not None and not hot.is_loaded:
                    post_ids = await self._reads.author_ids(
                        author_id, after=0, before=1 << 62, limit=missing.limit
                    )
                    hot.load(post_ids, is_whole=len(post_ids) < missing.limit)
            if missing.ads:
                await self._fetch_ads(user_id, request.feed)
            if missing.affinities:
                await self._fetch_affinities(user_id, request.feed)
            if missing.marks:
                liked, reposted = await self._reads.marks(user_id, missing.marks)
                fetched.marked.update(missing.marks)
                fetched.liked.update(liked)
                fetched.reposted.update(reposted)
            if missing.post_ids:
                await self._fetch_posts(missing.post_ids)
        except HubbubError as failure:
            error = failure
        self._ctx.post(_Retry(request, error))

    async def _fetch_affinities(self, user_id: str, unkept: Feed | None) -> None:
        now_ms = self._now_ms()
        rows = await self._reads.affinities(
            user_id,
            since_id=first_id_at(now_ms - HISTORY_MS),
            limit=HISTORY_ROWS,
            weights=(LIKE_WEIGHT, COMMENT_WEIGHT, REPOST_WEIGHT),
        )

        def change(relations: Relations) -> None:
            relations.affinities = Affinities(rows, now_ms=now_ms)

        self._node.relate(user_id, change)
        if unkept is not None and unkept.relations is not None:
            change(unkept.relations)

    async def _fetch_ads(self, user_id: str, unkept: Feed | None) -> None:
        """Read what ads the reader was shown in the last 24 hours, and the reader's language."""
        today = self._now_ms() // DAY_MS
        rows = await self._log.find(AdShown, {"user_id": user_id, "day": today})
        rows += await self._log.find(AdShown, {"user_id": user_id, "day": today - 1})
        reader = await self._log.get(User, user_id)
        slots = AdSlots(user_id, [row for row in rows if row.at_ms + DAY_MS > self._now_ms()])

        def change(relations: Relations) -> None:
            if relations.ad_slots is None:
                relations.ad_slots = slots
                relations.language = "" if reader is None else reader.language

        self._node.relate(user_id, change)
        if unkept is not None and unkept.relations is not None:
            change(unkept.relations)

    async def _fetch_posts(self, post_ids: Sequence[int]) -> None:
        posts = self._node.posts
        moment = posts.begin_read()
        found = None
        try:
            found = await self._reads.posts(post_ids)
        finally:
            posts.end_read(moment, post_ids if found is not None else (), found or ())

    def _retry(self, message: _Retry) -> None:
        request = message.request
        if message.error is not None:
            request.reply.fail(message.error)
        else:
            self._serve(request)

    # -- keeping feeds ------------------------------------------------------------------------------

    def _keep(self, feed: Feed) -> None:
        """Keep a feed from now on, unless none is to be kept, or the store does not take it."""
        if self._limits.ttl_s <= 0 or not self._has_room():
            return
        self._feeds[feed.user_id] = self._node.feeds[feed.user_id] = feed
        feed.is_dirty = False
        self._stage_ops([Put(self._row_of(feed))])
        if len(self._feeds) - len(self._leaving) > self._limits.max_feeds:
            kept = [other for other in self._feeds.values() if other.user_id not in self._leaving]
            oldest = nsmallest(min(_STEP, len(kept) - 1), kept, key=lambda other: other.read_at_s)
            self._drop([other.user_id for other in oldest])

    def _has_room(self) -> bool:
        """Tell whether the store takes anything now: a refused append would end the incarnation."""
        try:
            self._log.check_room()
        except HubbubError:
            return False
        return True

    def _row_of(self, feed: Feed) -> FeedRow:
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

    def cover(self, user_id: str, post_ids: list[int]) -> list[Op]:
        feed = self._feeds[user_id]
        if not post_ids:
            return []

        def insert(_at: Appended | None) -> None:
            for post_id in post_ids:
                feed.insert(post_id)

        self._stage_ops((), Staged(NO_REPLY, None, after=insert))
        return [Put(self._row_of(feed.with_ids(post_ids)))]

    def _drop(self, user_ids: Sequence[str]) -> None:
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

    def _sweep(self) -> None:
        now_s = self._now_ms() / 1000
        gone = {user_id for user_id in self._watched if not self._fanout.is_connected(user_id)}
        if gone:
            self._watched -= gone
            self._node.unwatch(gone)
        if not self._has_room():
            self._ctx.post_after(_SWEEP_S, _Sweep())
            return
        old = [
            user_id
            for user_id, feed in self._feeds.items()
            if now_s - feed.read_at_s > self._limits.ttl_s and user_id not in self._watched
        ]
        self._drop(old[:_STEP])
        self._ctx.post_after(_SWEEP_S if len(old) <= _STEP else 0.1, _Sweep())

    def _begin_writing_down(self) -> None:
        """Write down all feeds that have changed, so that the stream up to here can go."""
        self._is_writing_down = True
        user_ids = [user_id for user_id, feed in self._feeds.items() if feed.is_dirty]
        self._ctx.post_after(0.0, _WriteDown(user_ids, self._applied_seq + 1))

    def _write_down(self, message: _WriteDown) -> None:
        if not self._has_room():
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
                self._ctx.post_after(0.02, _WriteDown(rest, before_seq))

            self._stage_ops(ops, Staged(NO_REPLY, None, after=go_on))
            return

        def trimmed(_at: Appended | None) -> None:
            self._is_writing_down = False
            self._first_seq = before_seq

        ops.append(Trim(self._stream, before_seq))
        self._stage_ops(ops, Staged(NO_REPLY, None, after=trimmed))
