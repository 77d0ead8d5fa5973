"""Campaigns and feed options over the real store: values, the node's memory, and other nodes'."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio
from trio.testing import MockClock

from actors.feed.ad_book import RESERVE_MS
from actors.feed.ad_rules import DAY_MS, Reader
from actors.feed.ad_slots import AdSlots, Organic, fill
from protocol.ads_found import AdCounts, AdState, Seen
from protocol.errors import HubbubError, StorageUnavailable
from protocol.feed_types import FeedOptions
from protocol.http_campaigns import CreateCampaign, UpdateCampaign
from protocol.records import AdShown, CampaignRow, FeedOptionsRow, FileRow, Put
from server.campaigns import REFRESH_S, SETTLE_MS, Campaigns
from storage.sqlite import SqliteStore, open_store
from storage.store import Store
from tests.server.office import Clock, code_of


class World:
    """One node's campaigns, and one reader's feed beside them."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.clock = Clock()
        self.campaigns = Campaigns(store, clock=self.clock)
        self.slots: dict[str, AdSlots] = {}

    async def read_feed(self, user_id: str, *, count: int = 5, anchor: int = 100) -> list[str]:
        """The campaigns in the newest posts of a feed, as its partition places and stores them."""
        slots = self.slots.setdefault(user_id, AdSlots(user_id))
        done = fill(
            [Organic(post_id) for post_id in range(anchor, anchor - count, -1)],
            anchor=anchor,
            counted_before=0,
            slots=slots,
            book=self.campaigns.book,
            reader=Reader(user_id, "app"),
            now_ms=self.clock(),
        )
        await self.store.commit([Put(row) for row in done.rows])
        for row in done.rows:
            self.campaigns.book.noted_shown(row)
        return [ad.campaign_id for _, ad in done.ads]

    async def tell(self, user_id: str, slot_id: str = "100.96", *, is_click: bool = False) -> None:
        slots = self.slots[user_id]
        told = slots.clicked(slot_id, self.clock()) if is_click else slots.seen(slot_id, self.clock())
        assert told is not None
        await self.store.commit([Put(told.row)])
        if told.is_impression:
            self.campaigns.book.noted_seen(told.row)


@asynccontextmanager
async def open_world(folder: Path) -> AsyncIterator[World]:
    async with open_store(folder) as store:
        with trio.fail_after(30):
            yield World(store)


# -- values -----------------------------------------------------------------------------------------


async def test_a_campaign_is_kept_as_it_was_wished_and_tidied(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.store.commit([Put(picture("f_1"))])
        wanted = CreateCampaign(
            title="  Fresh   tea ",
            text="Green.\r\n  Black. \n",
            url="https://tea.example/a?b=c#d",
            image="f_1",
            sponsor="Tea & Co",
            budget=10,
            languages=["EN-gb", "de", "de"],
            hashtags=["#Tea", "GRÜN"],
        )
        row = await world.campaigns.create("app", wanted)
        assert (row.title, row.text, row.languages, row.hashtags, row.daily_cap) == (
            "Fresh tea",
            "Green.\nBlack.",
            '["de","en-GB"]',
            '["grün","tea"]',
            3,
        )
        assert await world.campaigns.get("app", row.campaign_id) == row
        assert row.created_at_ms == world.clock()


def picture(file_id: str, **more: Any) -> FileRow:
    defaults: dict[str, Any] = {"app_id": "app", "width": 4, "height": 4}
    return FileRow(
        file_id=file_id,
        user_id="u",
        sha256="0" * 64,
        name="a",
        media_type="image/png",
        size_bytes=5,
        at_ms=1,
        **defaults | more,
    )


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"title": " \n "}, "bad_field"),
        ({"title": "a\x00b"}, "bad_field"),
        ({"sponsor": "a\u202eb"}, "bad_field"),
        ({"text": "a\x07b"}, "bad_field"),
        ({"url": "javascript:alert(1)"}, "bad_field"),
        ({"url": "//tea.example"}, "bad_field"),
        ({"url": "https://"}, "bad_field"),
        ({"url": "https://bank.example@tea.example"}, "bad_field"),
        ({"url": "https://tea.example/a b"}, "bad_field"),
        ({"url": "https://tea.example:99999"}, "bad_field"),
        ({"url": "http://[::1"}, "bad_field"),
        ({"image": "https://tea.example/a.png"}, "file_not_found"),
        ({"image": "f_other"}, "file_not_found"),
        ({"image": "f_text"}, "bad_image"),
        ({"languages": ["english language"]}, "bad_field"),
        ({"languages": [""]}, "bad_field"),
        ({"hashtags": ["two words"]}, "bad_field"),
        ({"hashtags": ["#"]}, "bad_field"),
        ({"starts_at_ms": 1_800_000_000_000, "ends_at_ms": 1_800_000_000_000}, "bad_field"),
        ({"ends_at_ms": 1_600_000_000_000}, "bad_field"),
    ],
)
async def test_a_value_that_cannot_be_is_refused_with_its_code(
    tmp_path: Path, fields: dict[str, Any], code: str
) -> None:
    """Form authors; and every reader, who would be led to such an address."""
    async with open_world(tmp_path) as world:
        files = [picture("f_other", app_id="other"), picture("f_text", width=0)]
        await world.store.commit([Put(row) for row in files])
        made = await world.campaigns.create("app", CreateCampaign(title="t"))
        with pytest.raises(HubbubError) as error:
            await world.campaigns.create("app", CreateCampaign(**{"title": "t"} | fields))
        assert code_of(error) == code
        assert await world.campaigns.list_page("app") == [made]
        if fields != {"ends_at_ms": 1_600_000_000_000}:  # which is how a campaign is ended for good
            with pytest.raises(HubbubError) as error:
                await world.campaigns.update("app", made.campaign_id, UpdateCampaign(**fields))
            assert code_of(error) == code
            assert await world.campaigns.get("app", made.campaign_id) == made


async def test_only_what_is_given_is_changed(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        made = await world.campaigns.create("app", CreateCampaign(title="t", hashtags=["tea"], budget=5))
        change = UpdateCampaign(hashtags=[], is_paused=True)
        changed = await world.campaigns.update("app", made.campaign_id, change)
        assert changed == msgspec.structs.replace(made, hashtags="", is_paused=True)
        assert await world.campaigns.update("app", made.campaign_id, UpdateCampaign()) == changed


async def test_a_request_that_is_repeated_makes_one_campaign(tmp_path: Path) -> None:
    """Backends that got no answer."""
    async with open_world(tmp_path) as world:
        wanted = CreateCampaign(title="t", client_id="spring")
        made = await world.campaigns.create("app", wanted)
        await world.campaigns.update("app", made.campaign_id, UpdateCampaign(title="T"))
        again = await world.campaigns.create("app", wanted)
        assert (again.campaign_id, again.title) == (made.campaign_id, "T")
        other = await world.campaigns.create("other", wanted)
        assert other.campaign_id != made.campaign_id
        assert len(await world.campaigns.list_page("app")) == 1


async def test_campaigns_of_other_apps_do_not_exist(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        made = await world.campaigns.create("app", CreateCampaign(title="t"))
        for call in (
            world.campaigns.get("other", made.campaign_id),
            world.campaigns.update("other", made.campaign_id, UpdateCampaign(is_paused=True)),
            world.campaigns.report("other", made.campaign_id),
            world.campaigns.get("app", "ad_none"),
        ):
            with pytest.raises(HubbubError) as error:
                await call
            assert code_of(error) == "campaign_not_found"
        assert await world.campaigns.list_page("other") == []
        assert not (await world.campaigns.get("app", made.campaign_id)).is_paused


# -- the node's memory ------------------------------------------------------------------------------


async def test_a_change_counts_when_it_is_answered(tmp_path: Path) -> None:
    """Sponsors who take an ad back."""
    async with open_world(tmp_path) as world:
        assert await world.read_feed("ann") == []
        made = await world.campaigns.create("app", CreateCampaign(title="t"))
        assert await world.read_feed("ann") == [made.campaign_id]
        await world.campaigns.update("app", made.campaign_id, UpdateCampaign(is_paused=True))
        assert await world.read_feed("ann") == []
        assert await world.read_feed("bob") == []
        await world.campaigns.update("app", made.campaign_id, UpdateCampaign(is_paused=False))
        assert await world.read_feed("ann") == [made.campaign_id]


async def test_options_count_when_they_are_answered(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        assert world.campaigns.options_of("app") == FeedOptions()
        assert await world.campaigns.read_options("app") == FeedOptions()
        options = FeedOptions(order="ranked", ads=True, trending=False)
        await world.campaigns.put_options("app", options)
        assert world.campaigns.options_of("app") == options
        assert await world.campaigns.read_options("app") == options
        assert world.campaigns.options_of("other") == FeedOptions()


async def test_the_report_and_the_budget_count_every_slot_once(tmp_path: Path) -> None:
    """Sponsors; and the budget goes on where it was after a restart, and after ten minutes."""
    async with open_world(tmp_path) as world:
        made = await world.campaigns.create("app", CreateCampaign(title="t", budget=3))
        ad = made.campaign_id
        for name in ("ann", "bob", "cem"):
            assert await world.read_feed(name) == [ad]
            assert await world.read_feed(name) == [ad]
        assert await world.read_feed("dan") == []
        await world.tell("ann")
        await world.tell("bob", is_click=True)
        _, counts = await world.campaigns.report("app", ad)
        assert counts == AdCounts(showings=3, impressions=2, clicks=1)
        again = Campaigns(world.store, clock=world.clock)
        await again.refresh()
        assert again.book.used(ad) == 3
        # Cem did not look, and what was set aside for that is free again.
        world.clock.now_ms += RESERVE_MS
        for campaigns in (world.campaigns, again):
            await campaigns.refresh()
            assert campaigns.book.used(ad) == 2
        assert await world.read_feed("dan") == [ad]
        # Then he does: it is counted all the same.
        await world.tell("cem")
        assert world.campaigns.book.used(ad) == 4
        await world.campaigns.refresh()
        assert world.campaigns.book.used(ad) == 4


async def test_what_has_settled_is_not_counted_again(tmp_path: Path) -> None:
    """Budgets stay exact over many readings, while impressions come in on both sides of what is settled."""
    async with open_world(tmp_path) as world:
        made = await world.campaigns.create("app", CreateCampaign(title="t", budget=100, daily_cap=0))
        seen_count = 0
        for turn in range(8):
            assert await world.read_feed("ann", anchor=100 + turn) == [made.campaign_id]
            if turn % 2:
                await world.tell("ann", f"{100 + turn}.{96 + turn}")
                seen_count += 1
            world.clock.now_ms += SETTLE_MS // 3
            await world.campaigns.refresh()
            assert world.campaigns.book.used(made.campaign_id) == turn + 1
        world.clock.now_ms += RESERVE_MS
        await world.campaigns.refresh()
        assert world.campaigns.book.used(made.campaign_id) == seen_count


class StandIn:
    """As much of a store as a refresh reads, without the threads that the virtual clock would jump past."""

    def __init__(self) -> None:
        self.found = AdState(campaigns=[], options=[], seen={}, untold={})
        self.read_at: list[float] = []
        self.is_failing = False

    @property
    def ads(self) -> "StandIn":
        return self

    async def state(self, *_: Any, **__: Any) -> AdState:
        await trio.lowlevel.checkpoint()
        self.read_at.append(trio.current_time())
        if self.is_failing:
            raise StorageUnavailable("The disk is away.")
        return self.found


async def test_what_other_nodes_have_stored_is_known_within_seconds(autojump_clock: MockClock) -> None:
    """The nodes of a cluster share one budget; and a store that fails is waited for."""
    store = StandIn()
    campaigns = Campaigns(cast("Store", store), clock=Clock())
    row = CampaignRow(campaign_id="ad_1", app_id="app", title="t", budget=5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(campaigns.run)
        await trio.sleep(REFRESH_S / 2)
        assert not campaigns.options_of("app").ads
        store.found = AdState(
            [row], [FeedOptionsRow(app_id="app", ads=True)], {"ad_1": Seen(2, 9, 1)}, {"ad_1": 1}
        )
        await trio.sleep(REFRESH_S)
        assert campaigns.options_of("app").ads
        assert campaigns.book.used("ad_1") == 4
        store.is_failing = True
        store.found = AdState([row], [], {"ad_1": Seen(2, 9, 3)}, {})
        await trio.sleep(REFRESH_S)
        assert campaigns.options_of("app").ads
        assert campaigns.book.used("ad_1") == 4
        store.is_failing = False
        await trio.sleep(REFRESH_S)
        assert not campaigns.options_of("app").ads
        assert campaigns.book.used("ad_1") == 5
        nursery.cancel_scope.cancel()
    assert store.read_at == [store.read_at[0] + turn * REFRESH_S for turn in range(4)]


async def test_two_nodes_over_one_store_share_a_budget(tmp_path: Path) -> None:
    """What one has placed is gone for the other, as soon as it has looked."""
    async with open_world(tmp_path) as world:
        other = World(world.store)
        made = await world.campaigns.create("app", CreateCampaign(title="t", budget=2))
        assert await world.read_feed("ann") == [made.campaign_id]
        await other.campaigns.refresh()
        assert await other.read_feed("bob") == [made.campaign_id]
        assert await other.read_feed("cem") == []
        await world.campaigns.refresh()
        assert await world.read_feed("dan") == []


async def test_a_feed_that_comes_back_has_the_ads_it_had(tmp_path: Path) -> None:
    """A feed is thrown out of memory, or its node ends: what was read stays, and caps go on."""
    async with open_world(tmp_path) as world:
        made = await world.campaigns.create("app", CreateCampaign(title="t", daily_cap=2))
        assert await world.read_feed("ann", count=20) == [made.campaign_id] * 2
        await world.tell("ann")
        rows = await world.store.find(AdShown, {"user_id": "ann", "day": world.clock() // DAY_MS})
        assert len(rows) == 2
        world.slots["ann"] = AdSlots("ann", rows)
        assert await world.read_feed("ann", count=20) == [made.campaign_id] * 2
        assert world.slots["ann"].seen("100.96", world.clock()) is None
        assert len(await world.store.find(AdShown, {})) == 2


async def test_many_campaigns_are_listed_in_pages(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        rows = [CampaignRow(campaign_id=f"ad_{number}", app_id="app", title="t") for number in range(7)]
        await world.store.commit([Put(row) for row in rows])
        first = await world.campaigns.list_page("app", limit=4)
        rest = await world.campaigns.list_page("app", after=first[-1].campaign_id, limit=4)
        assert first + rest == rows
