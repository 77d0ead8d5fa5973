"""Where an app may have us send: a wrong address is told to whoever sets it."""

from pathlib import Path

import msgspec
import pytest
import trio

from protocol.errors import ProtocolError
from protocol.notify_types import AppRules
from protocol.provider_configs import (
    AppriseConfig,
    FcmConfig,
    ProviderConfig,
    SmtpConfig,
    TwilioConfig,
    VonageConfig,
    WebPushConfig,
)
from server.notify.targets import check_provider, check_rules
from server.notify.webhooks import Posted, WebhookKeys, open_webhooks
from server.providers.reach import PUBLIC
from server.sandbox.sandbox import open_sandbox
from tests.providers.resolver import Resolver
from tests.server.notify.notify_world import APP, open_notifier
from tests.server.reach import HERE

INSIDE = "http://10.0.0.5"
FCM = FcmConfig(project_id="p", client_email="a@b.example", private_key="k")


@pytest.mark.parametrize("name", ["event_webhook", "alert_webhook"])
@pytest.mark.parametrize(
    "url",
    ["http://a..b/", "ftp://x.example/", "x.example/hook", "http://x.example:99999/", "http://x y.example/",
     "http://ann:secret@x.example/", "http://127.0.0.1/", "https://localhost/", "http://[::1]:80/",
     "http://169.254.169.254/latest", INSIDE],
)  # fmt: skip
def test_a_webhook_that_is_none_or_lies_inside_is_refused(name: str, url: str) -> None:
    """One app's slip was once the end of all apps' webhooks; and the server's own network is not theirs."""
    with pytest.raises(ProtocolError, match=name) as caught:
        check_rules(msgspec.convert({name: url}, AppRules), PUBLIC)
    assert caught.value.code == "bad_field"


@pytest.mark.parametrize(
    "url", ["https://shop.example/hooks?a=1", "http://8.8.8.8:8080", "https://x_y.example"]
)
def test_a_webhook_in_public_is_taken(url: str) -> None:
    """With a port, a path and a query."""
    check_rules(AppRules(event_webhook=url, alert_webhook=url), PUBLIC)


@pytest.mark.parametrize("address", ["ann", "ann@", "a@b\r\nBcc: c@d.example", "ann@-.example", "@x.example"])
def test_an_alert_mail_address_that_is_none_is_refused(address: str) -> None:
    """Else nobody would ever be told."""
    with pytest.raises(ProtocolError, match="alert_email"):
        check_rules(AppRules(alert_email=address), PUBLIC)
    check_rules(AppRules(alert_email="Ann <ann@shop.example>"), PUBLIC)


@pytest.mark.parametrize(
    "config",
    [
        msgspec.structs.replace(FCM, base_url=INSIDE),
        msgspec.structs.replace(FCM, token_uri=INSIDE),
        TwilioConfig(account_sid="a", secret="s", sender="x", base_url=INSIDE),
        VonageConfig(api_key="a", api_secret="s", sender="x", base_url="http://a..b"),
        SmtpConfig(host="10.0.0.5", sender="a@b.example"),
        SmtpConfig(host="a..b", sender="a@b.example"),
        SmtpConfig(host="localhost", sender="a@b.example"),
        WebPushConfig(private_key="k", subject="mailto:a@b.example", allow_private=True),
        AppriseConfig(allow_private=True),
    ],
)
def test_a_provider_inside_is_the_operators_to_allow(config: ProviderConfig) -> None:
    """Apps set providers up by HTTP, and several apps share a server."""
    with pytest.raises(ProtocolError) as caught:
        check_provider(config, PUBLIC)
    assert caught.value.code == "bad_field"


async def test_the_sandbox_is_used_where_the_operator_allows_it() -> None:
    """As SANDBOX.md tells."""
    async with open_sandbox() as sandbox:
        configs = sandbox.configs()
        for config in (configs.apns, configs.fcm, configs.webpush, configs.twilio, configs.smtp):
            check_provider(config, HERE)
            with pytest.raises(ProtocolError):
                check_provider(config, PUBLIC)


async def test_a_webhook_whose_name_leads_inside_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is the app's, and so is what it leads to: that is looked at with each connection."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    Resolver(monkeypatch, ["127.0.0.1"], ["127.0.0.1"])
    url = f"http://hooks.example:{port}/"
    keys = WebhookKeys(b"a secret of 32 bytes for tests...")
    async with open_webhooks(PUBLIC, keys) as webhooks:
        told = await webhooks.post(APP, url, b"x", content_type="text/plain")
    assert told == Posted("address_refused")
    with trio.move_on_after(0):
        await listener.accept()
        pytest.fail("somebody connected")
    async with open_webhooks(HERE, keys) as webhooks, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: webhooks.post(APP, url, b"x", content_type="text/plain"))
        await (await listener.accept()).aclose()  # with the operator's leave it connects
        nursery.cancel_scope.cancel()
    await listener.aclose()


async def test_settings_are_refused_where_they_are_made(tmp_path: Path) -> None:
    """By the doors that HTTP uses."""
    async with open_notifier(tmp_path) as notifier:
        with pytest.raises(ProtocolError):
            await notifier.core.desk.put_rules(APP, AppRules(event_webhook="http://a..b/"))
        with pytest.raises(ProtocolError):
            await notifier.core.desk.put_provider(APP, "mail", SmtpConfig(host=INSIDE, sender="a@b.example"))
        assert (await notifier.core.desk.setup(APP)).rules == AppRules()


@pytest.mark.parametrize("rate_per_s", [5e-324, 1e-310, 1e-9, 0.0009])
def test_a_pace_that_is_almost_none_is_refused(rate_per_s: float) -> None:
    """It would hold what waits for years; who wants nothing sent pauses the account."""
    with pytest.raises(ProtocolError, match="rate_per_s") as caught:
        check_provider(msgspec.structs.replace(FCM, rate_per_s=rate_per_s), PUBLIC)
    assert caught.value.code == "bad_field"
    for fine in (0.0, 0.001, 100_000.0):
        check_provider(msgspec.structs.replace(FCM, rate_per_s=fine), PUBLIC)
