"""Whose server an address leads to."""

import pytest

from actors.notify.hosts import host_of
from protocol.notify_types import Channel


@pytest.mark.parametrize(
    ("channel", "address", "host"),
    [
        ("webpush", "https://push.example/a/b?c", "https://push.example"),
        ("webpush", "HTTPS://Push.Example:443/a", "https://push.example"),
        ("webpush", "https://push.example:8443", "https://push.example:8443"),
        ("webpush", "http://push.example:80/", "http://push.example"),
        ("webpush", "http://push.example:443/", "http://push.example:443"),
        ("webpush", "https://[::1]:9/a", "https://[::1]:9"),
        ("apprise", "ntfys://ann:secret@ntfy.example/topic", "ntfys://ntfy.example"),
        ("apprise", "json://hook.example?a=b@c", "json://hook.example"),
        ("webpush", "nonsense", "nonsense://"),
        ("email", "ann@example.org", ""),
        ("fcm", "https://not.a.host/", ""),
    ],
)
def test_a_host_is_known_by_its_origin(channel: Channel, address: str, host: str) -> None:
    """One host has one breaker, however its address is written; one host's breaker is no other's."""
    assert host_of(channel, address) == host
