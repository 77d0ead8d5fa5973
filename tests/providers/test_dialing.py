"""Where we connect to: endpoints come from clients, and our own network is none of their business."""

import pytest
import trio

from server.providers.dialing import (
    AddressRefused,
    Origin,
    dial,
    is_public,
    public_addresses,
    split_url,
    tls_context,
)

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12::1", "ff02::1",
    "2001:db8::1", "100::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",  # IPv4-mapped
    "2002:7f00:1::", "2002:a00:1::1",  # 6to4 of 127.0.0.1 and 10.0.0.1
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",  # NAT64
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo of 10.0.0.1
    "", "localhost", "1", "127.1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "142.250.1.1", "172.32.0.1", "2a00:1450:4001::1", "2606:4700::1", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address: str) -> None:
    """Also those that hide an IPv4 address in an IPv6 one."""
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_that_are_public(address: str) -> None:
    """Push services live there."""
    assert is_public(address)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "::1"])
async def test_a_host_that_leads_home_is_refused_however_it_is_written(host: str) -> None:
    """The resolver reads more spellings than we do, so what it answers is what is checked."""
    with pytest.raises(AddressRefused):
        await public_addresses(host, 443)


class _Resolver(trio.abc.HostnameResolver):
    """Answers in turn, as a name does whose owner rebinds it."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked_count = 0

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]
        self.asked_count += 1
        await trio.lowlevel.checkpoint()
        return [(2, 1, 6, "", (address, port)) for address in self.answers.pop(0)]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]
        raise NotImplementedError


async def test_one_private_address_among_public_ones_refuses_the_host() -> None:
    """Nobody who means well answers so."""
    trio.socket.set_custom_hostname_resolver(_Resolver(["8.8.8.8", "10.0.0.1"]))
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
        await public_addresses("push.example", 443)


async def test_a_name_is_asked_once_and_the_checked_address_is_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second answer, with 127.0.0.1 in it, would be too late to be checked."""
    resolver = _Resolver(["8.8.8.8"], ["127.0.0.1"])
    trio.socket.set_custom_hostname_resolver(resolver)
    dialled: list[str] = []

    async def open_tcp_stream(host: str, port: int) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        dialled.append(host)
        raise OSError("as far as this test goes")

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    with pytest.raises(OSError, match="as far as"):
        await dial(Origin("https", "push.example", 443), tls_context("", ("h2",)), public_only=True)
    assert (dialled, resolver.asked_count) == (["8.8.8.8"], 1)


def test_a_url_comes_apart() -> None:
    """The origin is what VAPID signs: without the scheme's own port (RFC 8292, 2)."""
    origin, path = split_url("https://FCM.example:443/send/a?b=c#d")
    assert (str(origin), origin.port, path) == ("https://fcm.example", 443, "/send/a?b=c")
    assert str(split_url("http://[2a00::1]:8080")[0]) == "http://[2a00::1]:8080"


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x/", "file:///etc/passwd", "https://", "https://a:b@x/", "https://x/\r\nHost: y",
     "https://x/ y", "https://é/", "https://x:99999/"],
)  # fmt: skip
def test_urls_that_are_none(url: str) -> None:
    """What has a line break in it would write headers of its own."""
    with pytest.raises(ValueError):
        split_url(url)
