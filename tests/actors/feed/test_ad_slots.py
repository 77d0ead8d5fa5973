"""The ads in one reader's feed: they stay, they are counted once, and all promises hold together."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.feed.ad_book import RESERVE_MS, AdBook
from actors.feed.ad_rules import DAY_MS, Reader
from actors.feed.ad_slots import MAX_SLOTS, AdSlots, Filled, Organic, Told, fill
from protocol.errors import Refused
from protocol.limits import AD_EVERY
from protocol.records import AdShown, CampaignRow
from tests.strategies import examples

NOW_MS = 1_700_000_000_000
ANN = Reader("ann", "app", "en")


def book_of(*rows: CampaignRow) -> AdBook:
    book = AdBook()
    book.begin_reading()
    book.load(rows, {}, NOW_MS)
    return book


def campaign(campaign_id: str, **more: Any) -> CampaignRow:
    return CampaignRow(campaign_id=campaign_id, app_id="app", title=campaign_id, **{"daily_cap": 0} | more)


def filled(page: range | list[int], slots: AdSlots, book: AdBook, **more: Any) -> Filled:
    defaults: dict[str, Any] = {"anchor": 1_000, "counted_before": 0, "reader": ANN, "now_ms": NOW_MS}
    return fill([Organic(post_id) for post_id in page], slots=slots, book=book, **defaults | more)


def places(done: Filled) -> dict[int, str]:
    return {index: ad.campaign_id for index, ad in done.ads}


# -- telling ----------------------------------------------------------------------------------------


def test_seen_and_clicked_count_once_for_each_slot() -> None:
    """Sponsors pay by these; clients tell again after a lost answer."""
    slots = AdSlots("ann")
    row = slots.place(9, 5, "a", NOW_MS)
    seen = slots.seen("9.5", NOW_MS + 1)
    assert seen is not None
    assert (seen.is_impression, seen.is_click, seen.row.seen_at_ms) == (True, False, NOW_MS + 1)
    assert slots.seen("9.5", NOW_MS + 2) is None
    clicked = slots.clicked("9.5", NOW_MS + 3)
    assert clicked is not None
    assert (clicked.is_impression, clicked.is_click) == (False, True)
    assert (clicked.row.seen_at_ms, clicked.row.clicked_at_ms) == (NOW_MS + 1, NOW_MS + 3)
    assert clicked.row.day == row.day
    assert slots.clicked("9.5", NOW_MS + 4) is None
    assert slots.at(9, 5) == clicked.row


def test_who_clicks_has_seen() -> None:
    """A click without an impression would make a rate above one."""
    slots = AdSlots("ann")
    slots.place(9, 5, "a", NOW_MS)
    told = slots.clicked("9.5", NOW_MS + 1)
    assert told is not None
    assert (told.is_impression, told.is_click, told.row.seen_at_ms) == (True, True, NOW_MS + 1)
    assert slots.seen("9.5", NOW_MS + 2) is None


@pytest.mark.parametrize("slot_id", ["9.6", "8.5", "5.9", "nonsense", "09.5", ""])
def test_a_slot_without_an_ad_is_refused(slot_id: str) -> None:
    slots = AdSlots("ann")
    slots.place(9, 5, "a", NOW_MS)
    for tell in (slots.seen, slots.clicked):
        with pytest.raises(Refused) as error:
            tell(slot_id, NOW_MS)
        assert error.value.code == "slot_not_found"


def test_a_slot_is_forgotten_after_a_day_and_filled_again_as_another_row() -> None:
    """The first row is what was counted; to write over it would take an impression from the sponsor."""
    slots = AdSlots("ann")
    first = slots.place(9, 5, "a", NOW_MS)
    slots.forget(NOW_MS + DAY_MS - 1)
    assert slots.at(9, 5) == first
    with pytest.raises(Refused):
        slots.seen("9.5", NOW_MS + DAY_MS)
    assert len(slots) == 0
    second = slots.place(9, 5, "a", NOW_MS + DAY_MS)
    assert [getattr(second, name) for name in AdShown.key] != [getattr(first, name) for name in AdShown.key]


def test_slots_come_back_from_the_store_as_they_were() -> None:
    """A feed that is thrown out of memory and read again shows the same ads, and caps go on."""
    slots = AdSlots("ann")
    rows = [slots.place(9, slot, name, NOW_MS + slot) for slot, name in ((8, "a"), (5, "b"), (2, "a"))]
    again = AdSlots("ann", reversed(rows))
    assert again.shown_counts == {"a": 2, "b": 1}
    again.forget(NOW_MS + 5 + DAY_MS)
    assert again.shown_counts == {"a": 1}
    assert [again.at(9, slot) for slot in (8, 5, 2)] == [rows[0], None, None]


# -- filling ----------------------------------------------------------------------------------------


def test_a_page_has_an_ad_behind_every_fifth_post_and_keeps_it() -> None:
    slots, book = AdSlots("ann"), book_of(campaign("a"), campaign("b"))
    page = range(100, 80, -1)
    first = filled(page, slots, book)
    assert list(places(first)) == [4, 9, 14, 19]
    again = filled(page, slots, book)
    assert (again.ads, again.rows) == (first.ads, [])
    # Cut differently, the slots are the same.
    tail = filled(page[3:], slots, book, counted_before=3)
    assert [(index + 3, ad) for index, ad in tail.ads] == first.ads
    assert tail.rows == []


def test_neighbours_differ_also_across_pages_and_where_a_slot_is_filled_late() -> None:
    """Readers; with two campaigns the ads alternate."""
    for is_falling in (True, False):
        slots, book = AdSlots("ann"), book_of(campaign("a"), campaign("b"))
        names: list[str] = []
        for page in range(12):
            posts = range(1_000 - 5 * page, 995 - 5 * page, -1)
            order = posts if is_falling else posts[::-1]
            names += places(
                filled(order, slots, book, counted_before=5 * page, is_falling=is_falling)
            ).values()
        assert names in (["a", "b"] * 6, ["b", "a"] * 6)
    for seed in range(40):
        slots = AdSlots("ann")
        slots.place(1_000, 100 + seed - 9, "a", NOW_MS)
        late = filled(
            range(100 + seed, 90 + seed, -1), slots, book_of(campaign("a"), campaign("b", budget=9))
        )
        assert places(late) == {4: "b", 9: "a"}


def test_a_paused_campaign_leaves_its_slot_empty() -> None:
    """What was taken back is off the screen at the next read, and the slot is not sold twice."""
    slots = AdSlots("ann")
    assert places(filled(range(100, 90, -1), slots, book_of(campaign("a")))) == {4: "a", 9: "a"}
    paused = book_of(campaign("a", is_paused=True), campaign("b"))
    assert filled(range(100, 90, -1), slots, paused) == Filled([], [])
    assert places(filled(range(100, 85, -1), slots, paused)) == {14: "b"}


def test_an_empty_slot_is_filled_when_there_is_something_for_it() -> None:
    slots = AdSlots("ann")
    assert filled(range(100, 90, -1), slots, AdBook()) == Filled([], [])
    assert places(filled(range(100, 90, -1), slots, book_of(campaign("a")))) == {4: "a", 9: "a"}


def test_hashtags_are_those_of_the_posts_above_the_slot() -> None:
    slots = AdSlots("ann")
    book = book_of(campaign("tea", hashtags='["tea"]'))
    page = [Organic(100 - index, ["tea"] if index == 6 else ["milk"]) for index in range(15)]
    done = fill(page, anchor=100, counted_before=0, slots=slots, book=book, reader=ANN, now_ms=NOW_MS)
    assert places(done) == {9: "tea"}


def test_a_reader_gets_so_many_ads_a_day_and_what_stands_stays() -> None:
    """Memory is bounded for each reader, and caps stay exact, as no showing within them is forgotten."""
    slots, book = AdSlots("ann"), book_of(campaign("a"), campaign("b"))
    posts = range(10_000, 0, -1)
    done = filled(posts[: MAX_SLOTS * AD_EVERY + 50], slots, book)
    assert len(done.ads) == len(slots) == MAX_SLOTS
    again = filled(posts[: MAX_SLOTS * AD_EVERY + 50], slots, book)
    assert (again.ads, again.rows) == (done.ads, [])
    tomorrow = filled(posts[:20], slots, book, now_ms=NOW_MS + DAY_MS)
    assert len(tomorrow.rows) == len(slots) == 4


# -- all promises at once ---------------------------------------------------------------------------


class World:
    """Feeds of several readers on one or two nodes over one store, as partitions and campaigns work them."""

    def __init__(self, rows: list[CampaignRow], node_count: int) -> None:
        self.rows = {row.campaign_id: row for row in rows}
        self.books = [AdBook() for _ in range(node_count)]
        self.now_ms = NOW_MS
        self.next_post = 1_000
        self.posts: list[int] = []
        self.slots = {name: AdSlots(name) for name in ("ann", "bob", "cem")}
        self.stored: dict[tuple[Any, ...], AdShown] = {}
        self.standing: dict[tuple[str, int, int], AdShown] = {}  # as first seen by the reader
        self.reached: Counter[tuple[str, int]] = Counter()
        self.late_count: Counter[str] = Counter()
        self.read_store()
        self.post(12)

    def post(self, count: int) -> None:
        for _ in range(count):
            self.next_post += 7
            self.posts.insert(0, self.next_post)

    def used(self, campaign_id: str) -> int:
        since_ms = self.now_ms - RESERVE_MS
        return sum(
            row.campaign_id == campaign_id and (row.seen_at_ms > 0 or row.at_ms > since_ms)
            for row in self.stored.values()
        )

    def read_store(self) -> None:
        for book in self.books:
            book.begin_reading()
            used = {campaign_id: self.used(campaign_id) for campaign_id in self.rows}
            book.load(self.rows.values(), used, self.now_ms)

    def book_of(self, name: str) -> AdBook:
        """The book of the node where this reader's feed is."""
        return self.books[-1 if name == "cem" else 0]

    def put(self, row: AdShown) -> None:
        self.stored[tuple(getattr(row, name) for name in AdShown.key)] = row

    def read(self, name: str, anchor: int, start: int, count: int) -> None:
        """Read `count` items from the `start`th on of the scroll that began at `anchor`, and check them.

        A cursor comes with a page, so nobody is further down than where some page has ended.
        """
        book = self.book_of(name)
        scroll = [post_id for post_id in self.posts if post_id <= anchor]
        start %= self.reached[name, anchor] + 1
        self.reached[name, anchor] = max(self.reached[name, anchor], min(start + count, len(scroll)))
        page = scroll[start : start + count]
        before = {campaign_id: book.used(campaign_id) for campaign_id, row in self.rows.items() if row.budget}
        done = fill(
            [Organic(post_id, ["tea"] if post_id % 2 else []) for post_id in page],
            anchor=anchor,
            counted_before=start,
            slots=self.slots[name],
            book=book,
            reader=Reader(name, "app", "de" if name == "bob" else "en-GB"),
            now_ms=self.now_ms,
        )
        for row in done.rows:
            self.put(row)
            book.noted_shown(row)
            if row.campaign_id in before:
                before[row.campaign_id] += 1
                assert before[row.campaign_id] <= self.rows[row.campaign_id].budget
        due = [index for index in range(len(page)) if (start + index + 1) % AD_EVERY == 0]
        if self.slots[name].has_room:  # a and b can always be shown
            assert [index for index, _ in done.ads] == due
        previous = ""
        for index, ad in done.ads:
            assert index in due
            assert ad.campaign_id != previous
            previous = ad.campaign_id
            key = (name, anchor, page[index])
            first = self.standing.get(key)
            placed = self.slots[name].at(anchor, page[index])
            assert placed is not None
            if first is not None and first.at_ms + DAY_MS > self.now_ms:
                assert (placed.campaign_id, placed.at_ms) == (first.campaign_id, first.at_ms)
            assert ad.campaign_id == placed.campaign_id
            self.standing[key] = placed

    def tell(self, told: Told | None, name: str) -> None:
        if told is None:
            return
        self.put(told.row)
        if told.is_impression:
            self.book_of(name).noted_seen(told.row)
            if told.row.at_ms + RESERVE_MS <= told.row.seen_at_ms:
                self.late_count[told.row.campaign_id] += 1

    def check(self) -> None:
        for row in self.stored.values():
            cap = self.rows[row.campaign_id].daily_cap
            within = [
                other
                for other in self.stored.values()
                if (other.user_id, other.campaign_id) == (row.user_id, row.campaign_id)
                and row.at_ms - DAY_MS < other.at_ms <= row.at_ms
            ]
            assert not cap or len(within) <= cap


CAMPAIGNS = [
    campaign("a"),
    campaign("b", budget=10**6),
    campaign("few", languages='["en", "de"]', budget=4, daily_cap=2),
    campaign("english", languages='["en"]', daily_cap=3),
    campaign("tea", hashtags='["tea"]', daily_cap=1, budget=2),
]


@st.composite
def doings(draw: st.DrawFn) -> list[tuple[str, int, int, int]]:
    kind = st.sampled_from(["read", "read", "read", "post", "tell", "wait", "store"])
    return draw(
        st.lists(
            st.tuples(kind, st.integers(0, 2), st.integers(0, 30), st.integers(1, 23)),
            min_size=10,
            max_size=40,
        )
    )


@examples(150, long=3_000)
@given(steps=doings(), node_count=st.integers(1, 2))
def test_whatever_is_read_when_every_promise_of_an_ad_holds(
    steps: list[tuple[str, int, int, int]], node_count: int
) -> None:
    """Random pages, re-reads, new posts, tells and hours: every 5th, stable, capped, in budget, not twice.

    One node keeps a budget but for what is told late; two nodes may together place more between readings.
    """
    world = World(CAMPAIGNS, node_count)
    names = list(world.slots)
    anchors = dict.fromkeys(names, world.posts[0])
    unread: Counter[str] = Counter()
    known: dict[str, int] = {}
    for kind, who, where, count in steps:
        name = names[who]
        if kind == "post":
            world.post(count)
            anchors[name] = world.posts[0]  # this reader goes back to the top, the others scroll on
        elif kind == "read":
            stored = len(world.stored)
            world.read(name, anchors[name], where, count)
            for row in list(world.stored.values())[stored:]:
                unread[row.campaign_id] += 1
        elif kind == "tell":
            for row in list(world.stored.values())[-count:]:
                if row.at_ms + DAY_MS > world.now_ms and row.user_id == name:
                    slot_id = f"{row.anchor}.{row.slot}"
                    tell = world.slots[name].clicked if count % 2 else world.slots[name].seen
                    world.tell(tell(slot_id, world.now_ms), name)
        elif kind == "wait":
            world.now_ms += (1_000, RESERVE_MS // 2, RESERVE_MS, DAY_MS // 2)[where % 4]
        else:
            world.read_store()
            unread.clear()
            if node_count > 1:
                known.update({row.campaign_id: world.used(row.campaign_id) for row in CAMPAIGNS})
        world.check()
        for sold in CAMPAIGNS:
            if sold.budget:
                used, beyond = world.used(sold.campaign_id), world.late_count[sold.campaign_id]
                if node_count > 1:
                    beyond += unread[sold.campaign_id]
                assert used <= max(sold.budget, known.get(sold.campaign_id, 0)) + beyond
