"""What is counted of ads, and what it costs to count it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.ads_found import AdCounts, Seen
from protocol.records import AdShown, CampaignRow, FeedOptionsRow, Row
from storage import ad_queries
from storage.migrations import migrate
from storage.schema import spec_of, values_of

DAY_MS = 24 * 3600 * 1000
NOW_MS = 1_700_000_000_000


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    migrate(tmp_path / "hubbub.db")
    with closing(sqlite3.connect(tmp_path / "hubbub.db", isolation_level=None)) as made:
        yield made


def put(connection: sqlite3.Connection, *rows: Row) -> None:
    for row in rows:
        connection.execute(spec_of(type(row)).put, values_of(row))


def shown(
    slot: int, *, campaign_id: str = "a", user_id: str = "ann", at_ms: int = NOW_MS, **more: Any
) -> AdShown:
    day = at_ms // DAY_MS
    return AdShown(
        user_id=user_id, day=day, anchor=9, slot=slot, campaign_id=campaign_id, at_ms=at_ms, **more
    )


def campaign(campaign_id: str, **more: Any) -> CampaignRow:
    return CampaignRow(campaign_id=campaign_id, app_id="app", title="t", **more)


def test_a_campaign_counts_its_own_showings_once_each(connection: sqlite3.Connection) -> None:
    """Sponsors pay by these numbers."""
    put(
        connection,
        shown(1),
        shown(2, seen_at_ms=NOW_MS + 1),
        shown(3, seen_at_ms=NOW_MS + 1, clicked_at_ms=NOW_MS + 2),
        shown(3, at_ms=NOW_MS + DAY_MS, seen_at_ms=NOW_MS + DAY_MS),  # the same slot, a day later
        shown(3, user_id="bob"),
        shown(4, campaign_id="b", seen_at_ms=NOW_MS, clicked_at_ms=NOW_MS),
    )
    put(connection, shown(1, seen_at_ms=NOW_MS + 5))  # the same row, told as seen
    assert ad_queries.counts(connection, "a") == AdCounts(showings=5, impressions=4, clicks=1)
    assert ad_queries.counts(connection, "b") == AdCounts(showings=1, impressions=1, clicks=1)
    assert ad_queries.counts(connection, "none") == AdCounts(showings=0, impressions=0, clicks=0)


def test_only_what_runs_or_will_is_read(connection: sqlite3.Connection) -> None:
    put(
        connection,
        campaign("runs", ends_at_ms=NOW_MS + 1),
        campaign("will", starts_at_ms=NOW_MS + DAY_MS),
        campaign("paused", is_paused=True),
        campaign("over", ends_at_ms=NOW_MS),
        FeedOptionsRow(app_id="app", ads=True, feed_order="ranked"),
    )
    found = ad_queries.state(connection, NOW_MS, {}, NOW_MS, NOW_MS)
    assert {row.campaign_id for row in found.campaigns} == {"runs", "will"}
    assert found.options == [FeedOptionsRow(app_id="app", ads=True, feed_order="ranked")]
    assert not connection.in_transaction


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.none() | st.integers(0, 40)), max_size=30
    ),
    readings=st.lists(st.integers(1, 30), min_size=1, max_size=6),
)
def test_counting_on_gives_what_counting_anew_gives(
    connection: sqlite3.Connection, rows: list[tuple[str, int, int | None]], readings: list[int]
) -> None:
    """Budgets: a node that counts every few seconds looks only at what is new, and misses nothing."""
    connection.execute(f"DELETE FROM {AdShown.table}")
    put(connection, campaign("a", budget=5), campaign("b", budget=9), campaign("free"))
    settled: dict[str, Seen] = {}
    now_ms = 0
    for step in readings:
        now_ms += step
        for slot, (campaign_id, at_ms, seen_after_ms) in enumerate(rows):
            if at_ms <= now_ms:
                seen_at_ms = 0 if seen_after_ms is None else at_ms + seen_after_ms + 1
                is_seen = 0 < seen_at_ms <= now_ms
                row = shown(slot, campaign_id=campaign_id, at_ms=at_ms, seen_at_ms=is_seen * seen_at_ms)
                put(connection, row)
        found = ad_queries.state(connection, now_ms, settled, now_ms - 5, now_ms - 10)
        settled = found.seen
        assert set(settled) == {"a", "b"}
        stored = connection.execute(f"SELECT campaign_id, at_ms, seen_at_ms FROM {AdShown.table}").fetchall()
        for campaign_id in "ab":
            seen = sum(name == campaign_id and seen_at_ms > 0 for name, _, seen_at_ms in stored)
            assert settled[campaign_id].settled + settled[campaign_id].recent == seen
            untold = sum(
                name == campaign_id and not seen_at_ms and at_ms > now_ms - 10
                for name, at_ms, seen_at_ms in stored
            )
            assert found.untold.get(campaign_id, 0) == untold


@pytest.mark.parametrize(
    "query", [ad_queries._SEEN, ad_queries._SEEN_AFTER, ad_queries._UNTOLD, ad_queries._COUNTS]
)
def test_counts_come_out_of_an_index_alone(connection: sqlite3.Connection, query: str) -> None:
    """They are taken every few seconds, of campaigns with millions of showings."""
    plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", (1,) * query.count("?")).fetchall()
    assert any("USING COVERING INDEX" in line[-1] for line in plan), plan
    assert not any(line[-1].startswith("SCAN") for line in plan), plan
