"""Readers' commands that need their feed: pages, explanations, counted ads.

Reading from the store never holds up the mailbox: a request that lacks something waits beside it, and is
taken up again when what it lacked has been posted back. A feed that is not in memory is made by pull when it
is read, and kept from then on.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from actors.feed.ad_rules import DAY_MS, Reader
from actors.feed.ad_slots import AdSlots, Organic, fill
from actors.feed.affinity import HISTORY_MS, HISTORY_ROWS, Affinities
from actors.feed.cursor import Cursor, read_cursor, write_cursor
from actors.feed.feed import Feed, Relations
from actors.feed.feed_keeper import FeedKeeper
from actors.feed.ids import EPOCH_MS, first_id_at
from actors.feed.page import Missing, PageMaker, Pulled, Stretch
from actors.feed.ranked_page import explain, ranked_page
from actors.feed.ranking import COMMENT_WEIGHT, LIKE_WEIGHT, REPOST_WEIGHT
from actors.feed.relations_keeper import PartitionNeeds
from actors.feed.request import Arrival, Request
from actors.messages import Ask
from actors.stream_actor import Staged
from protocol import feed_commands, feed_replies, replies
from protocol.errors import HubbubError, ProtocolError, Unavailable
from protocol.feed_found import FoundFeed
from protocol.feed_types import FeedItem
from protocol.records import AdShown, Appended, Put, User

_MAX_ROUNDS: Final = 64  # reads of the store for one page; a page needs two or three


class Loaded(msgspec.Struct, frozen=True):
    user_id: str
    found: FoundFeed | None
    error: HubbubError | None


class Retry(msgspec.Struct, frozen=True):
    request: "Request"
    error: HubbubError | None


_PURE_READERS: Final = (feed_commands.ReadFeed, feed_commands.ExplainPost, feed_commands.ListInterests)
# Commands that need the reader's feed in memory.
READERS: Final = (
    *_PURE_READERS,
    feed_commands.AdSeen,
    feed_commands.AdClicked,
    feed_commands.SetInterest,
)


class _Answer(msgspec.Struct, frozen=True):
    """What a reader is answered, and what has to be stored before; the book of ads is told after that."""

    reply: replies.Reply
    shown: tuple[AdShown, ...] = ()
    told: AdShown | None = None  # an ad that was seen or clicked
    is_impression: bool = False  # it had not been seen before


class PageDesk(FeedKeeper):
    """Answer readers."""

    def __init__(self, partition: int, needs: PartitionNeeds) -> None:
        super().__init__(partition, needs)
        self._ranked = needs.ranked
        self._ads = needs.ads
        self._follower = needs.follower

    # -- pages --------------------------------------------------------------------------------------

    def serve(self, request: Request) -> None:
        """Answer a reader, now or when what it takes has been read."""
        if not self._node.is_loaded or (self._follower.is_needed and not request.is_fresh):
            self._ctx.start_soon(self._refresh, request)
            return
        user_id = request.ask.user_id
        feed = self._feeds.get(user_id) or request.feed
        if feed is None or feed.relations is None:
            self.arrive(user_id).waiting.append(request)
        else:
            self._answer(request, feed)

    def _answer(self, request: Request, feed: Feed) -> None:
        command = request.ask.command
        try:
            if isinstance(command, feed_commands.SetInterest):
                assert feed.relations is not None
                self._log.check_room()
                self.set_interest(feed.user_id, command, feed.relations, request.reply)
                return
            answer = self._make(request, feed)
        except HubbubError as error:
            request.reply.fail(error)
            return
        except Exception:
            if not isinstance(request.ask.command, _PURE_READERS):
                raise
            # Nothing was changed, and a sixteenth of all readers must not pay for one broken page.
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

    def _make(self, request: Request, feed: Feed) -> _Answer | Missing:
        """Work out the answer from what is in memory. Raises: HubbubError."""
        command = request.ask.command
        assert feed.relations is not None
        now_ms = self._now_ms()
        if isinstance(command, feed_commands.ListInterests):
            return _Answer(feed_replies.InterestList(items=feed.relations.interests.listed(now_ms)))
        if isinstance(command, feed_commands.ExplainPost):
            maker = PageMaker(feed, self._node, self._limits, request.fetched, now_ms=now_ms)
            explanation = explain(maker, feed, self._ranked, request.ask.app_id, command.post_id, now_ms)
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
        if command.ads and self._node.options_of(ask.app_id).ads and self.has_room():
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

    def arrive(self, user_id: str) -> Arrival:
        """Begin to read a feed, or what decides what it shows."""
        arrival = self._arrivals.get(user_id)
        if arrival is None:
            arrival = self._arrivals[user_id] = Arrival()
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
        self._ctx.post(Loaded(user_id, found, error))

    def loaded(self, message: Loaded) -> None:
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
                self.arrive(user_id).waiting += arrival.waiting
                return
            feed = Feed(
                user_id,
                self._partition,
                reversed(found.post_ids),
                cap=self._limits.cap,
                covered_from=0 if found.is_whole else found.post_ids[-1],
                # Above any that this reader was told of an earlier one, so that watchers see a gap.
                position=max(0, self._now_ms() - EPOCH_MS),
                read_at_s=self._now_ms() / 1000,
            )
            for post_id in arrival.post_ids:
                feed.push(post_id)
            self.keep(feed)
        feed.relations = relations
        if user_id in self._watched:
            self._node.watch(feed)
        for request in arrival.waiting:
            request.feed = feed
            self._answer(request, feed)

    async def _refresh(self, request: Request) -> None:
        """Read what other nodes did, and go on."""
        error: HubbubError | None = None
        try:
            await self._follower.refresh()
        except HubbubError as failure:
            error = failure
        request.is_fresh = True
        self._ctx.post(Retry(request, error))

    async def _fetch(self, request: Request, missing: Missing) -> None:
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
                await self.fetch_posts(missing.post_ids)
        except HubbubError as failure:
            error = failure
        self._ctx.post(Retry(request, error))

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

    async def fetch_posts(self, post_ids: Sequence[int]) -> None:
        posts = self._node.posts
        moment = posts.begin_read()
        found = None
        try:
            found = await self._reads.posts(post_ids)
        finally:
            posts.end_read(moment, post_ids if found is not None else (), found or ())

    def retry(self, message: Retry) -> None:
        request = message.request
        if message.error is not None:
            request.reply.fail(message.error)
        else:
            self.serve(request)
