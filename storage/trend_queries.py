"""The reads behind trends: what the nodes have counted, as far as it is not known yet."""

import sqlite3
from collections.abc import Mapping
from typing import Final

import msgspec

from protocol.records import TrendRow
from storage.schema import spec_of

TrendKey = tuple[str, str, str]  # node_id, kind, span

_TREND: Final = spec_of(TrendRow)
# The bodies are tens of kilobytes each, and most are known; so first it is asked which are new.
_TOLD: Final = f"SELECT node_id, kind, span, at_ms FROM {TrendRow.table} WHERE app_id = ?"
_ONE: Final = f"{_TREND.select} WHERE node_id = ? AND app_id = ? AND kind = ? AND span = ?"


class ToldTrends(msgspec.Struct, frozen=True):
    """Rows that are not known yet, and the keys (with at_ms) of those too old to matter."""

    news: list[TrendRow]
    stale: list[tuple[TrendKey, int]]


def told_trends(
    connection: sqlite3.Connection, app_id: str, known: Mapping[TrendKey, int], since_ms: int
) -> ToldTrends:
    """Find the rows of an app whose at_ms is not the `known` one; those from before `since_ms` are stale."""
    news: list[TrendRow] = []
    stale: list[tuple[TrendKey, int]] = []
    for node_id, kind, span, at_ms in connection.execute(_TOLD, (app_id,)).fetchall():
        key = (node_id, kind, span)
        if at_ms < since_ms:
            stale.append((key, at_ms))
        elif known.get(key) != at_ms:
            # Without a snapshot: a row that was written meanwhile is newer still, and as welcome.
            row = connection.execute(_ONE, (node_id, app_id, kind, span)).fetchone()
            if row is not None:
                news.append(_TREND.row(row))
    return ToldTrends(news, stale)
