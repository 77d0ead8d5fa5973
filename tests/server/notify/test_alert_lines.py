"""What the dashboard shows of alerts."""

from pathlib import Path

from protocol.notify_records import AlertRow
from protocol.records import Put
from server.notify.alert_lines import alert_lines
from server.notify.dashboard import MAX_ALERTS
from tests.server.notify.notify_world import APP, open_notifier


def test_alerts_are_those_that_nobody_was_told_of() -> None:
    """What was told within the hour has a row, too, and is no open matter."""
    told = AlertRow(
        node_id="n1", app_id="a", kind="breaker_opened", about="", detail="{}", at_ms=5, count=0, told_at_ms=5
    )
    detail = '{"channel":"sms","code":"","detail":"no such key"}'
    waits = AlertRow(
        node_id="n1",
        app_id="a",
        kind="breaker_opened",
        about="x",
        detail=detail,
        at_ms=7,
        count=3,
        reason="status 500",
    )
    (line,) = alert_lines([told, waits])
    assert (line.kind, line.about, line.count) == ("breaker_opened", "channel: sms, detail: no such key", 3)
    assert (line.at_ms, line.reason) == (7, "status 500")


def alert_row(number: int, count: int, told_at_ms: int = 0) -> AlertRow:
    return AlertRow(
        node_id="n9",
        app_id=APP,
        kind="breaker_opened",
        about=f"{number}",
        detail="{}",
        at_ms=number,
        count=count,
        told_at_ms=told_at_ms,
    )


async def test_what_waits_is_seen_behind_any_number_that_were_told(tmp_path: Path) -> None:
    """A bad hour of many apps: all were told long before, and one of them could not be. Oldest first."""
    rows = [alert_row(number, count=0, told_at_ms=number) for number in range(1, MAX_ALERTS + 1)]
    rows += [alert_row(MAX_ALERTS + 1, count=9), alert_row(MAX_ALERTS + 2, count=3)]
    async with open_notifier(tmp_path) as notifier:
        await notifier.world.store.commit([Put(row) for row in rows])
        for app_id in ("", APP):
            seen = await notifier.core.dashboard.of(app_id)
            assert [(line.at_ms, line.count) for line in seen.alerts] == [
                (MAX_ALERTS + 1, 9),
                (MAX_ALERTS + 2, 3),
            ]
