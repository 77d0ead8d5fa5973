"""How apps' webhooks are called: signed, and tried again, alike for alerts and for events."""

import hmac
from pathlib import Path

import msgspec
import pytest

from protocol.notify_content import NotifyRequest
from protocol.notify_types import AppRules
from server.notify import webhooks
from server.notify.webhooks import (
    FIRST_PAUSE_S,
    MAX_ASKED_S,
    MAX_PAUSE_S,
    Posted,
    WebhookKeys,
    open_webhooks,
    pause_s,
)
from tests.server.notify.notify_world import APP, open_notifier
from tests.server.notify.test_http_notify import open_webhooks as open_hooks
from tests.server.notify.test_telling import put_type
from tests.server.reach import HERE

KEYS = WebhookKeys(b"a secret of 32 bytes for tests...")


@pytest.mark.parametrize(
    ("failures", "asked_s", "jitter", "expected_s"),
    [
        (0, None, 1.0, FIRST_PAUSE_S),
        (0, None, 0.0, FIRST_PAUSE_S / 2),
        (3, None, 1.0, 8 * FIRST_PAUSE_S),
        (1_000, None, 1.0, MAX_PAUSE_S),
        (0, 30.0, 0.0, 30.0),
        (9, 30.0, 1.0, MAX_PAUSE_S),
        (0, 86_400.0, 0.0, MAX_ASKED_S),
    ],
)
def test_each_pause_is_longer_and_never_shorter_than_asked_for(
    failures: int, asked_s: float | None, jitter: float, expected_s: float
) -> None:
    """Whose server is down is not to be kept down; nobody may ask us to wait for ever."""
    assert pause_s(failures, asked_s, jitter) == expected_s


async def test_what_is_refused_says_why_and_for_how_long() -> None:
    """By a real answer: its status and its Retry-After."""
    async with open_hooks() as hooks, open_webhooks(HERE, KEYS) as ours:
        hooks.refuses["/busy"] = 429
        hooks.retry_after = "7"
        assert await ours.post(APP, f"{hooks.url}/busy", b"x", content_type="text/plain") == Posted(
            "status 429", 7.0
        )
        hooks.refuses["/moved"] = 302
        hooks.retry_after = ""
        assert await ours.post(APP, f"{hooks.url}/moved", b"x", content_type="text/plain") == Posted(
            "status 302"
        )
        assert await ours.post(APP, f"{hooks.url}/fine", b"x", content_type="text/plain") == Posted()
    for _, body, headers in hooks.received:
        expected = hmac.new(KEYS.key_of(APP).encode(), body, "sha256").hexdigest()
        assert headers["x-hubbub-signature"] == expected
    assert KEYS.signature("other", b"x") != KEYS.signature(APP, b"x")


async def test_alerts_and_events_come_again_signed_in_one_way(tmp_path: Path) -> None:
    """Both are refused once; what comes then is the same body, with a signature by the same key."""
    async with open_hooks() as hooks, open_notifier(tmp_path) as notifier:
        hooks.refuses.update({"/events": 503, "/alerts": 503})
        rules = AppRules(event_webhook=f"{hooks.url}/events", alert_webhook=f"{hooks.url}/alerts")
        await notifier.core.desk.put_rules(APP, rules)
        await put_type(notifier, APP)
        person = await notifier.world.person("ann")
        await notifier.notify(NotifyRequest(type="t", user_id=person.user_id, text="x"))
        notifier.core.alerts.add(APP, "breaker_opened", {"channel": "sms"})
        for path in ("/events", "/alerts"):
            await hooks.until_told(path, 1)
        hooks.refuses.clear()
        for path in ("/events", "/alerts"):
            await hooks.until_told(path, 2)
            first, second = hooks.at(path)[:2]
            assert second.startswith(first)  # more events may have come
        key = notifier.core.webhook_keys.key_of(APP)
        for _, body, headers in hooks.received:
            assert headers["x-hubbub-signature"] == hmac.new(key.encode(), body, "sha256").hexdigest()


@pytest.mark.parametrize("path", ["/events", "/alerts"])
async def test_a_retry_after_is_kept_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """An hour was asked for: nobody is called again, whatever else there is to tell."""
    monkeypatch.setattr(webhooks, "FIRST_PAUSE_S", 0.001)  # what it would be else
    other = "/alerts" if path == "/events" else "/events"
    async with open_hooks() as hooks, open_notifier(tmp_path) as notifier:
        hooks.refuses[path] = 429
        hooks.retry_after = "3600"
        rules = AppRules(event_webhook=f"{hooks.url}/events", alert_webhook=f"{hooks.url}/alerts")
        await notifier.core.desk.put_rules(APP, rules)
        await put_type(notifier, APP)
        person = await notifier.world.person("ann")
        await notifier.notify(NotifyRequest(type="t", user_id=person.user_id, text="x"))
        notifier.core.alerts.add(APP, "breaker_opened", {"channel": "sms"})
        await hooks.until_told(path, 1)
        await hooks.until_told(other, 1)
        hooks.refuses.clear()
        # When others have come through, the one that is held would have had its turn, too.
        for number in range(5):
            count = len(hooks.at(other))
            await notifier.notify(NotifyRequest(type="t", user_id=person.user_id, text=f"{number}"))
            notifier.core.alerts.add(APP, "breaker_opened", {"channel": f"{number}"})
            await hooks.until_told(other, count + 1)
        assert len(hooks.at(path)) == 1
        # With another address the pause is over.
        url = f"{hooks.url}/new"
        name = "event_webhook" if path == "/events" else "alert_webhook"
        await notifier.core.desk.put_rules(APP, msgspec.structs.replace(rules, **{name: url}))
        await hooks.until_told("/new", 1)
