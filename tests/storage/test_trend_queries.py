"""Which trend rows are read: only those that are news."""

from pathlib import Path

from protocol.records import Put, TrendRow
from storage import open_store


def row(node_id: str, at_ms: int, *, app_id: str = "app", kind: str = "post", body: str = "{}") -> TrendRow:
    return TrendRow(node_id=node_id, app_id=app_id, kind=kind, span="hour", at_ms=at_ms, body=body)


async def test_only_rows_that_have_changed_are_read(tmp_path: Path) -> None:
    """Bodies are large, and asked for every few seconds."""
    async with open_store(tmp_path) as store:
        rows = [row("a", 10), row("b", 20), row("b", 20, kind="hashtag"), row("a", 10, app_id="other")]
        await store.commit([Put(one) for one in rows])
        told = await store.trends.told("app", {}, since_ms=0)
        assert sorted(told.news, key=lambda one: (one.node_id, one.kind)) == [rows[0], rows[2], rows[1]]
        assert told.stale == []
        known = {(one.node_id, one.kind, one.span): one.at_ms for one in told.news}
        assert (await store.trends.told("app", known, since_ms=0)).news == []
        await store.commit([Put(row("b", 21, body='{"new":1}'))])
        assert (await store.trends.told("app", known, since_ms=0)).news == [row("b", 21, body='{"new":1}')]


async def test_old_rows_are_named_but_not_read(tmp_path: Path) -> None:
    """Nodes that have gone for good leave rows behind."""
    async with open_store(tmp_path) as store:
        await store.commit([Put(row("gone", 10)), Put(row("here", 20))])
        told = await store.trends.told("app", {}, since_ms=15)
        assert told.news == [row("here", 20)]
        assert told.stale == [(("gone", "post", "hour"), 10)]
