"""Where we connect to: endpoints, webhooks and providers' addresses as they are written."""

import pytest
import trio

from server.providers.dialing import Origin, dial, split_url, tls_context
from server.providers.reach import ANYWHERE, PUBLIC
from tests.providers.resolver import Resolver


async def test_a_name_is_asked_once_and_the_checked_address_is_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second answer, with 127.0.0.1 in it, would be too late to be checked."""
    resolver = Resolver(monkeypatch, ["8.8.8.8"], ["127.0.0.1"])
    dialled: list[str] = []

    async def open_tcp_stream(host: str, port: int) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        dialled.append(host)
        raise OSError("as far as this test goes")

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    with pytest.raises(OSError, match="as far as"):
        await dial(Origin("https", "push.example", 443), tls_context("", ("h2",)), reach=PUBLIC)
    assert (dialled, resolver.asked_count) == (["8.8.8.8"], 1)


async def test_the_next_address_is_tried_where_one_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host with IPv6 that leads nowhere from here is reached by IPv4."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    Resolver(monkeypatch, ["127.0.0.2", "127.0.0.1"])  # nobody listens at the first
    dialed = await dial(Origin("http", "two.example", port), tls_context("", ("h2",)), reach=ANYWHERE)
    await dialed.stream.aclose()
    await listeners[0].aclose()


def test_a_url_comes_apart() -> None:
    """The origin is what VAPID signs: without the scheme's own port (RFC 8292, 2)."""
    origin, path = split_url("https://FCM.example:443/send/a?b=c#d")
    assert (str(origin), origin.port, path) == ("https://fcm.example", 443, "/send/a?b=c")
    assert str(split_url("http://[2a00::1]:8080")[0]) == "http://[2a00::1]:8080"


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x/", "file:///etc/passwd", "https://", "https://a:b@x/", "https://x/\r\nHost: y",
     "https://x/ y", "https://é/", "https://x:99999/", "http://a..b/", "http://%00/", "https://[::1",
     "http://" + "a" * 64 + ".example/", "http://-/", "http://.../"],
)  # fmt: skip
def test_urls_that_are_none(url: str) -> None:
    """What has a line break in it would write headers of its own."""
    with pytest.raises(ValueError):
        split_url(url)
