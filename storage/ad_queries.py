"""The reads behind ads: plain functions on a connection, each of one state of the store.

Counts are taken from the rows of `ad_shown` alone, which say of each showing whether it was seen and clicked;
they come out of an index, about forty million rows a second.
"""

import sqlite3
from collections.abc import Mapping

from protocol.ads_found import AdCounts, AdState, Seen
from protocol.records import AdShown, CampaignRow, FeedOptionsRow
from storage.schema import spec_of

_CAMPAIGN = spec_of(CampaignRow)
_OPTIONS = spec_of(FeedOptionsRow)
_RUNNING = f"{_CAMPAIGN.select} WHERE is_paused = 0 AND (ends_at_ms = 0 OR ends_at_ms > ?)"
_SEEN = f"SELECT count(*) FROM {AdShown.table} WHERE campaign_id = ? AND seen_at_ms > ? AND seen_at_ms <= ?"
_SEEN_AFTER = f"SELECT count(*) FROM {AdShown.table} WHERE campaign_id = ? AND seen_at_ms > ?"
# The plus keeps SQLite from walking the whole table in the order of another index, only to group.
_UNTOLD = (
    f"SELECT campaign_id, count(*) FROM {AdShown.table} WHERE at_ms > ? AND seen_at_ms = 0"
    " GROUP BY +campaign_id"
)
_COUNTS = (
    "SELECT count(*), coalesce(sum(seen_at_ms > 0), 0), coalesce(sum(clicked_at_ms > 0), 0)"
    f" FROM {AdShown.table} WHERE campaign_id = ?"
)


def state(
    connection: sqlite3.Connection,
    now_ms: int,
    settled: Mapping[str, Seen],
    settle_to_ms: int,
    untold_after_ms: int,
) -> AdState:
    """Read all campaigns that run or will, and what their budgets are used by.

    `settled` is what was counted before: only what came after it is counted now.
    """
    connection.execute("BEGIN")
    try:
        campaigns = [_CAMPAIGN.row(row) for row in connection.execute(_RUNNING, (now_ms,)).fetchall()]
        options = [_OPTIONS.row(row) for row in connection.execute(_OPTIONS.select).fetchall()]
        untold = dict(connection.execute(_UNTOLD, (untold_after_ms,)).fetchall())
        seen = {}
        for row in campaigns:
            if row.budget:
                before = settled.get(row.campaign_id, Seen(0, 0, 0))
                to_ms = max(before.settled_to_ms, settle_to_ms)  # the clock may have gone back
                span = (row.campaign_id, before.settled_to_ms, to_ms)
                [more] = connection.execute(_SEEN, span).fetchone()
                [recent] = connection.execute(_SEEN_AFTER, (row.campaign_id, to_ms)).fetchone()
                seen[row.campaign_id] = Seen(before.settled + more, to_ms, recent)
        return AdState(campaigns, options, seen, untold)
    finally:
        connection.execute("ROLLBACK")


def counts(connection: sqlite3.Connection, campaign_id: str) -> AdCounts:
    return AdCounts(*connection.execute(_COUNTS, (campaign_id,)).fetchone())
