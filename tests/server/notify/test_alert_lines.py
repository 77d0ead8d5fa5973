"""What the dashboard shows of alerts."""

from protocol.notify_records import AlertRow
from server.notify.alert_lines import alert_lines


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
