"""Which ad stands where, as sponsors and readers may rely on it."""

import re
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.feed.ad_rules import (
    DAY_MS,
    Campaign,
    Reader,
    campaign_of,
    choose,
    hashtags_above,
    obstacle_to,
    pace_of,
    parse_slot_id,
    slot_id_of,
    slot_indexes,
    speaks,
)
from protocol.errors import Refused
from protocol.limits import AD_EVERY, MAX_SAFE_INTEGER
from protocol.records import CampaignRow

NOW_MS = 1_700_000_000_000
ANN = Reader("u_ann", "app", "en-GB")


def campaign(campaign_id: str = "a", **more: Any) -> Campaign:
    for name in ("languages", "hashtags"):
        if name in more:
            more[name] = msgspec.json.encode(more[name]).decode()
    return campaign_of(CampaignRow(campaign_id=campaign_id, app_id="app", title="t", **more))


def chosen(campaigns: list[Campaign], **more: Any) -> str:
    """The id of the campaign that Ann is shown; empty: none."""
    defaults: dict[str, Any] = {"hashtags": (), "shown": {}, "spent": {}, "seed": "s", "now_ms": NOW_MS}
    found = choose(campaigns, ANN, **defaults | more)
    return "" if found is None else found.row.campaign_id


@given(cuts=st.lists(st.integers(0, 23), max_size=12))
def test_an_ad_stands_behind_every_fifth_however_the_scroll_is_cut(cuts: list[int]) -> None:
    """Readers: none before the first post, none beside another, none twice at the seam of two pages."""
    counted = 0
    places = []
    for count in cuts:
        places += [counted + index for index in slot_indexes(count, counted)]
        counted += count
    assert places == [index for index in range(counted) if (index + 1) % AD_EVERY == 0]


def test_an_ad_is_matched_with_the_posts_since_the_last_one() -> None:
    """Sponsors who pay for a place behind their subject."""
    page = [["a"], ["b"], [], [], ["c"], ["d"], []]
    assert hashtags_above(page, 4) == {"a", "b", "c"}
    assert hashtags_above(page, 6) == {"c", "d"}
    assert hashtags_above(page, 0) == {"a"}


@given(
    anchor=st.integers(1, MAX_SAFE_INTEGER),
    slot=st.integers(1, MAX_SAFE_INTEGER),
)
def test_a_slot_id_names_its_slot(anchor: int, slot: int) -> None:
    assert parse_slot_id(slot_id_of(anchor, slot)) == (anchor, slot)


@given(
    st.text()
    | st.text("0123456789.-+_ ", max_size=8)
    | st.sampled_from(["01.2", "1.2\n", "1.2.3", "1_0.2", "٣.4", f"1.{'9' * 5000}"])
)
def test_what_is_no_slot_id_is_refused(slot_id: str) -> None:
    """A client's bytes: two spellings of one slot would be counted twice."""
    if re.fullmatch(r"[1-9][0-9]{0,15}\.[1-9][0-9]{0,15}\Z", slot_id, re.ASCII):
        assert slot_id_of(*parse_slot_id(slot_id)) == slot_id
        return
    with pytest.raises(Refused) as error:
        parse_slot_id(slot_id)
    assert error.value.code == "slot_not_found"


@pytest.mark.parametrize(
    ("fields", "facts", "obstacle"),
    [
        ({}, {}, None),
        ({"is_paused": True}, {}, "paused"),
        ({"starts_at_ms": NOW_MS}, {}, None),
        ({"starts_at_ms": NOW_MS + 1}, {}, "not_started"),
        ({"ends_at_ms": NOW_MS + 1}, {}, None),
        ({"ends_at_ms": NOW_MS}, {}, "over"),
        ({"budget": 10}, {"spent": 9}, None),
        ({"budget": 10}, {"spent": 10}, "budget_used"),
        ({"budget": 0}, {"spent": 10**9}, None),
        ({"daily_cap": 2}, {"shown_count": 1}, None),
        ({"daily_cap": 2}, {"shown_count": 2}, "capped"),
        ({"daily_cap": 0}, {"shown_count": 150}, None),
        ({"languages": ["de", "EN"]}, {}, None),
        ({"languages": ["de"]}, {}, "language"),
        ({"languages": ["en-US"]}, {}, "language"),
        ({"hashtags": ["tea"]}, {"hashtags": {"tea", "milk"}}, None),
        ({"hashtags": ["tea"]}, {"hashtags": {"milk"}}, "hashtags"),
        ({"hashtags": ["tea"]}, {}, "hashtags"),
    ],
)
def test_a_campaign_is_shown_when_where_and_to_whom_it_was_booked(
    fields: dict[str, Any], facts: dict[str, Any], obstacle: str | None
) -> None:
    """Sponsors, who pay for these and for no others."""
    defaults: dict[str, Any] = {"hashtags": frozenset(), "shown_count": 0, "spent": 0, "now_ms": NOW_MS}
    assert obstacle_to(campaign(**fields), ANN, **defaults | facts) == obstacle
    assert (chosen([campaign(**fields)], hashtags=facts.get("hashtags", ())) == "a") == (
        obstacle is None or obstacle in ("budget_used", "capped")  # chosen() has shown and spent nothing yet
    )


def test_a_reader_whose_language_is_not_known_sees_what_is_for_everybody() -> None:
    nobody = Reader("u", "app")
    facts: dict[str, Any] = {"hashtags": (), "shown_count": 0, "spent": 0, "now_ms": NOW_MS}
    assert obstacle_to(campaign(languages=["en"]), nobody, **facts) == "language"
    assert obstacle_to(campaign(), nobody, **facts) is None
    assert not speaks("eng", "en")
    assert speaks("zh-Hant-TW", "zh-hant")


def test_no_campaign_follows_itself_where_another_can_be_shown() -> None:
    """Readers, who take the same ad twice in a row for a fault."""
    a, b, c = campaign("a"), campaign("b", budget=10**6), campaign("c", languages=["en"])
    for seed in map(str, range(50)):
        assert chosen([a, c], previous_campaign_id="c", seed=seed) == "a"  # though c is the narrower one
        assert chosen([a, b, c], previous_campaign_id="c", next_campaign_id="b", seed=seed) == "a"
        assert chosen([a, b], previous_campaign_id="b", next_campaign_id="a", seed=seed) == "a"
        assert chosen([a], previous_campaign_id="a", seed=seed) == "a"
    assert chosen([]) == ""


def test_the_narrower_target_is_taken_first() -> None:
    """Sponsors of a niche, who would otherwise be outbid in the few places that they can have."""
    wide, english = campaign("wide", budget=10**9), campaign("english", languages=["en"])
    both = campaign("both", languages=["en"], hashtags=["tea"])
    for seed in map(str, range(50)):
        assert chosen([wide, english, both], seed=seed) == "english"
        assert chosen([wide, english, both], hashtags={"tea"}, seed=seed) == "both"


def test_who_must_hurry_is_taken_more_often() -> None:
    """Sponsors whose budget would be left over at the end."""
    end_ms = NOW_MS + 10 * DAY_MS
    fast = campaign("fast", budget=7_200, ends_at_ms=end_ms)  # 30 an hour
    slow = campaign("slow", budget=2_400, ends_at_ms=end_ms)  # 10 an hour
    filler = campaign("filler")
    assert pace_of(fast.row, 0, NOW_MS) == 3 * pace_of(slow.row, 0, NOW_MS)
    assert pace_of(fast.row, 4_800, NOW_MS) == pace_of(slow.row, 0, NOW_MS)
    assert pace_of(fast.row, 0, end_ms - 1) == 7_200  # not ever faster in the last hour
    taken = Counter(chosen([fast, slow, filler], seed=str(number)) for number in range(4_000))
    assert 2.5 < taken["fast"] / taken["slow"] < 3.5
    assert taken["filler"] < 40


def test_one_campaign_more_changes_only_the_slots_that_it_gets() -> None:
    """Nodes that learn of a new campaign at different moments."""
    a, b, c = (campaign(name, budget=1_000_000) for name in "abc")
    for seed in map(str, range(200)):
        before, after = chosen([a, b], seed=seed), chosen([c, b, a], seed=seed)
        assert after in (before, "c")
        assert chosen([b, a, c], seed=seed) == after
