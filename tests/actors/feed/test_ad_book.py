"""The budgets of campaigns on one node, between readings of the store and across them."""

from typing import Any

from actors.feed.ad_book import RESERVE_MS, AdBook
from actors.feed.ad_rules import Reader
from protocol.records import AdShown, CampaignRow

NOW_MS = 1_700_000_000_000


def row(campaign_id: str = "a", *, app_id: str = "app", **more: Any) -> CampaignRow:
    return CampaignRow(campaign_id=campaign_id, app_id=app_id, title=f"Buy {campaign_id}", **more)


def loaded(*rows: CampaignRow, **used: int) -> AdBook:
    book = AdBook()
    book.begin_reading()
    book.load(rows, used, NOW_MS)
    return book


def ask(book: AdBook, user_id: str, *, app_id: str = "app", now_ms: int = NOW_MS, slot: int = 5) -> str:
    """The campaign that a reader is given; empty: none."""
    ad = book.choose_for(
        Reader(user_id, app_id), anchor=9, slot=slot, hashtags=frozenset(), shown={}, now_ms=now_ms
    )
    return "" if ad is None else ad.campaign_id


def showing(user_id: str, *, at_ms: int = NOW_MS, seen_at_ms: int = 0, campaign_id: str = "a") -> AdShown:
    return AdShown(
        user_id=user_id,
        day=0,
        anchor=9,
        slot=5,
        campaign_id=campaign_id,
        at_ms=at_ms,
        seen_at_ms=seen_at_ms,
    )


def test_a_slot_says_all_that_the_page_shows_and_what_to_tell_it_by() -> None:
    book = loaded(row(text="now", url="https://x.example", image="f_1", sponsor="X"))
    ad = book.choose_for(
        Reader("ann", "app"), anchor=9, slot=5, hashtags=frozenset(), shown={}, now_ms=NOW_MS
    )
    assert ad is not None
    assert (ad.slot_id, ad.title, ad.text, ad.url, ad.image, ad.sponsor) == (
        "9.5",
        "Buy a",
        "now",
        "https://x.example",
        "f_1",
        "X",
    )
    assert book.slot_of(showing("ann"), NOW_MS) == ad


def test_a_burst_of_readers_gets_no_more_than_the_budget() -> None:
    """Sponsors: a thousand readers open their feeds before anybody can tell what was seen."""
    book = loaded(row(budget=10), a=3)
    assert [ask(book, f"u{number}") for number in range(1_000)] == ["a"] * 7 + [""] * 993
    assert book.used("a") == 10


def test_an_app_shows_its_own_campaigns_only() -> None:
    book = loaded(row("a"), row("b", app_id="other"))
    assert ask(book, "u", app_id="other") == "b"
    assert ask(book, "u", app_id="none") == ""


def test_a_showing_is_counted_once_whether_the_reading_saw_it_or_not() -> None:
    """Budgets: what this node counts by itself must not be counted again out of the store, nor be lost."""
    book = loaded(row(budget=4))
    assert ask(book, "before") == "a"
    book.noted_shown(showing("before"))
    assert ask(book, "chosen") == "a"
    book.begin_reading()
    assert ask(book, "meanwhile") == "a"
    book.noted_shown(showing("meanwhile"))
    assert book.used("a") == 3
    book.load([row(budget=4)], {"a": 1}, NOW_MS)  # it found the first one alone
    assert book.used("a") == 3
    book.begin_reading()
    book.load([row(budget=4)], {"a": 2}, NOW_MS)
    assert book.used("a") == 3
    assert ask(book, "last") == "a"
    assert ask(book, "late") == ""


def test_a_reading_that_failed_changes_nothing() -> None:
    """The store may be away for a while; budgets are kept meanwhile."""
    book = loaded(row(budget=2))
    assert ask(book, "ann") == "a"
    book.noted_shown(showing("ann"))
    book.begin_reading()  # and no load
    book.begin_reading()
    assert book.used("a") == 1
    book.load([row(budget=2)], {"a": 1}, NOW_MS)
    assert book.used("a") == 1


def test_what_was_chosen_and_never_stored_is_given_back() -> None:
    """An append may fail; its impressions are not lost to the sponsor."""
    book = loaded(row(budget=1))
    assert ask(book, "ann") == "a"
    for now_ms, used in ((NOW_MS + RESERVE_MS - 1, 1), (NOW_MS + RESERVE_MS, 0)):
        book.begin_reading()
        book.load([row(budget=1)], {}, now_ms)
        assert book.used("a") == used
    assert ask(book, "bob", now_ms=NOW_MS + RESERVE_MS) == "a"


def test_a_slot_that_is_chosen_for_again_takes_one_impression() -> None:
    """A feed partition that was restarted before it had stored what it chose."""
    book = loaded(row(budget=5))
    assert [ask(book, "ann") for _ in range(3)] == ["a"] * 3
    assert book.used("a") == 1
    assert ask(book, "ann", slot=6) == "a"
    assert book.used("a") == 2


def test_only_a_late_impression_takes_from_the_budget_again() -> None:
    """What was set aside for a showing is given to others after ten minutes."""
    book = loaded(row(budget=10), a=1)
    book.noted_seen(showing("ann", seen_at_ms=NOW_MS + RESERVE_MS - 1))
    assert book.used("a") == 1
    book.noted_seen(showing("ann", seen_at_ms=NOW_MS + RESERVE_MS))
    assert book.used("a") == 2


def test_an_ad_stays_until_its_campaign_is_paused_or_over() -> None:
    """Sponsors who take back an ad; readers who scroll back to one whose budget is used up."""
    shown = showing("ann")
    assert loaded(row(budget=1), a=1).slot_of(shown, NOW_MS) is not None
    assert loaded(row(ends_at_ms=NOW_MS + 1)).slot_of(shown, NOW_MS) is not None
    assert loaded(row(ends_at_ms=NOW_MS + 1)).slot_of(shown, NOW_MS + 1) is None
    assert loaded(row(is_paused=True)).slot_of(shown, NOW_MS) is None
    assert loaded(row("other")).slot_of(shown, NOW_MS) is None
