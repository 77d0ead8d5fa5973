"""Where an app may have us send: its webhooks' and providers' addresses, looked at when they are set. Pure.

A name is not looked up here, as it can lead elsewhere tomorrow: that is checked at each connection (see
`server.providers.reach`). What can be told at once is told at once, to whoever made the mistake.
"""

from typing import Final

from protocol.errors import ProtocolError
from protocol.notify_types import AppRules
from protocol.provider_configs import AppriseConfig, ProviderConfig, SmtpConfig, WebPushConfig
from server.providers.dialing import split_url
from server.providers.mail import parse_mailbox
from server.providers.reach import Reach, is_host

SETTING: Final = "notify_networks"
LEAST_RATE_PER_S: Final = 0.001  # one in a quarter of an hour


def check_rules(rules: AppRules, reach: Reach) -> None:
    """Look at an app's webhooks and mail address.

    Raises: ProtocolError(bad_field) where one is none, or not the app's to name.
    """
    _check_url("event_webhook", rules.event_webhook, reach)
    _check_url("alert_webhook", rules.alert_webhook, reach)
    if rules.alert_email:
        try:
            parse_mailbox(rules.alert_email)
        except ValueError as exc:
            raise ProtocolError("bad_field", f"alert_email cannot be used: {exc}.") from None


def check_provider(config: ProviderConfig, reach: Reach) -> None:
    """Look at an account's addresses and pace. Raises: ProtocolError(bad_field) as check_rules does."""
    if 0 < config.rate_per_s < LEAST_RATE_PER_S:
        raise ProtocolError("bad_field", f"rate_per_s is 0, for no pace, or at least {LEAST_RATE_PER_S}.")
    for name in ("base_url", "token_uri"):
        _check_url(name, getattr(config, name, ""), reach)
    if isinstance(config, SmtpConfig):
        if not is_host(config.host):
            raise ProtocolError("bad_field", "host is no name that can be looked up.")
        _check_host("host", config.host, reach)
    if isinstance(config, WebPushConfig | AppriseConfig) and config.allow_private and not reach.networks:
        raise ProtocolError(
            "bad_field", f"allow_private opens no network: the operator has named none in {SETTING}."
        )


def _check_url(name: str, url: str, reach: Reach) -> None:
    if not url:
        return
    try:
        origin, _ = split_url(url)
    except ValueError as exc:
        raise ProtocolError("bad_field", f"{name} is no http(s) address: {exc}.") from None
    _check_host(name, origin.host, reach)


def _check_host(name: str, host: str, reach: Reach) -> None:
    if reach.refuses_outright(host):
        raise ProtocolError(
            "bad_field",
            f"{name}: {host} is not in public; the operator can allow its network in {SETTING}.",
        )
