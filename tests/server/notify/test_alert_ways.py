"""Webhook and mail are two ways of telling: what stops one stops not the other. And what is over is over."""

from pathlib import Path

import pytest

from protocol.notify_types import AppRules
from server.notify import watch
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, open_sandbox
from tests.server.notify.notify_world import APP, Clock, Notifier, open_notifier
from tests.server.notify.test_alerts_kept import alerts_at, told_to, until_rows
from tests.server.notify.test_http_notify import Hooks, open_webhooks

DEV = "dev@shop.example"


async def put_ways(notifier: Notifier, webhook: str, email: str = DEV) -> None:
    await notifier.core.desk.put_rules(APP, AppRules(alert_webhook=webhook, alert_email=email))


def mails(sandbox: Sandbox) -> int:
    return sandbox.count("smtp")


async def until_asked_to_wait(notifier: Notifier, hooks: Hooks) -> None:
    """Let the webhook ask for ten minutes, at the first alert."""
    hooks.refuses["/alerts"] = 503
    hooks.retry_after = "600"
    notifier.core.alerts.add(APP, "breaker_opened", {"channel": "sms"})
    await hooks.until_told("/alerts", 1)
    await until_rows(notifier, lambda rows: bool(rows[0].reason))


async def test_a_webhook_that_asks_for_a_pause_silences_no_mail(tmp_path: Path) -> None:
    """Who is busy need not be asleep: the mail goes at once, and once."""
    clock = Clock()
    async with (
        open_sandbox() as sandbox,
        open_webhooks() as hooks,
        open_notifier(tmp_path, sandbox, clock=clock) as notifier,
    ):
        await put_ways(notifier, f"{hooks.url}/alerts")
        await until_asked_to_wait(notifier, hooks)
        for number in range(3):
            notifier.core.alerts.add(APP, "breaker_opened", {"channel": f"{number}"})
        await sandbox.wait_for("smtp", 4)
        rows = await until_rows(notifier, lambda rows: len(rows) == 4 and all(row.reason for row in rows))
        assert len(hooks.at("/alerts")) == 1
        assert {row.reason for row in rows} == {"status 503", "webhook_asked_to_wait"}
        assert all(row.is_mailed and row.count for row in rows)
        hooks.refuses.clear()
        clock.ahead_ms += 601_000
        await hooks.until_told("/alerts", 5)
        await until_rows(notifier, lambda rows: all(row.told_at_ms for row in rows))
        assert {alert["detail"]["channel"] for alert in alerts_at(hooks, "/alerts")} == {"sms", "0", "1", "2"}
        assert mails(sandbox) == 4


async def test_an_address_that_is_named_while_the_webhook_is_left_alone_has_its_mail_at_once(
    tmp_path: Path,
) -> None:
    """Somebody noticed that nothing comes."""
    async with (
        open_sandbox() as sandbox,
        open_webhooks() as hooks,
        open_notifier(tmp_path, sandbox) as notifier,
    ):
        await put_ways(notifier, f"{hooks.url}/alerts", "")
        await until_asked_to_wait(notifier, hooks)
        notifier.core.alerts.add(APP, "mass_retirement", {"channel": "apns"})
        await until_rows(notifier, lambda rows: len(rows) == 2 and all(row.reason for row in rows))
        await put_ways(notifier, f"{hooks.url}/alerts")
        await sandbox.wait_for("smtp", 2)
        await until_rows(notifier, lambda rows: all(row.is_mailed for row in rows))
        assert len(hooks.at("/alerts")) == 1


async def test_a_mail_that_was_not_taken_does_not_wait_for_the_webhooks_pause(tmp_path: Path) -> None:
    """Both ways fail at the first try, and the webhook alone has asked for ten minutes."""
    async with (
        open_sandbox() as sandbox,
        open_webhooks() as hooks,
        open_notifier(tmp_path, sandbox) as notifier,
    ):
        sandbox.inject(Fault(channel="smtp", match="dev@*", status=452, code="4.2.2 Full", times=1))
        await put_ways(notifier, f"{hooks.url}/alerts")
        await until_asked_to_wait(notifier, hooks)
        await sandbox.wait_for("smtp", 1)
        await until_rows(notifier, lambda rows: rows[0].is_mailed)
        assert len(hooks.at("/alerts")) == 1


async def test_what_was_mailed_is_no_word_of_what_comes_after_it_was_over(tmp_path: Path) -> None:
    """Mailed, the webhook down, redriven; then the same cause again, of which nobody has heard."""
    detail = {"channel": "sms", "code": "21606"}
    async with (
        open_sandbox() as sandbox,
        open_webhooks() as hooks,
        open_notifier(tmp_path, sandbox) as notifier,
    ):
        hooks.refuses["/alerts"] = 500
        await put_ways(notifier, f"{hooks.url}/alerts")
        told: list[str] = []
        alerts = notifier.core.alerts
        alerts.stand(APP, "dead_letter", detail, count=5, found_as="a", on_told=lambda: told.append("a"))
        await hooks.until_told("/alerts", 1)
        await until_rows(notifier, lambda rows: bool(rows[0].reason) and rows[0].is_mailed)
        alerts.settle("dead_letter")
        alerts.stand(APP, "dead_letter", detail, count=7, found_as="b", on_told=lambda: told.append("b"))
        await sandbox.wait_for("smtp", 2)
        await put_ways(notifier, "")
        await until_rows(notifier, lambda rows: rows[0].told_at_ms > 0)
        assert (told, mails(sandbox)) == (["b"], 2)


async def test_what_is_over_while_another_is_told_is_not_told(tmp_path: Path) -> None:
    """Two causes; the webhook takes its time with the first, and the second is redriven."""
    async with open_webhooks() as hooks, open_notifier(tmp_path) as notifier:
        await told_to(notifier, f"{hooks.url}/alerts")
        alerts = notifier.core.alerts
        alerts.add(APP, "breaker_opened", {"channel": "sms"})
        alerts.stand(APP, "dead_letter", {"code": "1"}, count=5, found_as="a")
        await hooks.until_told("/alerts", 1)
        alerts.settle("dead_letter")
        await until_rows(notifier, lambda rows: len(rows) == 1 and rows[0].told_at_ms > 0)
        assert [alert["kind"] for alert in alerts_at(hooks, "/alerts")] == ["breaker_opened"]


async def test_what_was_told_goes_from_the_list_after_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else happens meanwhile that would have anything stored."""
    monkeypatch.setattr(watch, "LOOK_S", 3_600.0)
    clock = Clock()
    async with open_webhooks() as hooks, open_notifier(tmp_path, clock=clock) as notifier:
        await told_to(notifier, f"{hooks.url}/alerts")
        notifier.core.alerts.add(APP, "breaker_opened", {"channel": "sms"})
        await hooks.until_told("/alerts", 1)
        await until_rows(notifier, lambda rows: rows[0].told_at_ms > 0)
        clock.ahead_ms += 3_601_000
        await until_rows(notifier, lambda rows: rows == [])


async def test_what_was_late_before_a_restart_is_no_alert_an_hour_after_it(tmp_path: Path) -> None:
    """It was told, was late still at the next look, and has caught up since."""
    clock = Clock()
    late = {"channel": "sms", "priority": "high"}
    async with open_webhooks() as hooks:
        async with open_notifier(tmp_path, clock=clock) as notifier:
            await told_to(notifier, f"{hooks.url}/alerts")
            notifier.core.alerts.stand(APP, "deadline_passed", late, count=3)
            await hooks.until_told("/alerts", 1)
            await until_rows(notifier, lambda rows: rows[0].told_at_ms > 0)
            notifier.core.alerts.stand(APP, "deadline_passed", late, count=3)
            await until_rows(notifier, lambda rows: rows[0].count == 3)
        async with open_notifier(tmp_path, is_new=False, clock=clock) as notifier:
            await until_rows(notifier, lambda rows: rows[0].count == 0)
            clock.ahead_ms += 3_601_000
            await until_rows(notifier, lambda rows: rows == [])
        assert len(alerts_at(hooks, "/alerts")) == 1
