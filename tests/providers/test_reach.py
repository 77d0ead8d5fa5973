"""How far we may be sent: endpoints come from clients, and our own network is none of their business."""

import pytest

from server.providers.reach import ANYWHERE, PUBLIC, AddressRefused, is_host, is_public, reach_of
from tests.providers.resolver import Resolver

INSIDE = [
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
OUTSIDE = ["8.8.8.8", "142.250.1.1", "172.32.0.1", "2a00:1450:4001::1", "2606:4700::1", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_that_are_not_public(address: str) -> None:
    """Also those that hide an IPv4 address in an IPv6 one."""
    assert not is_public(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_addresses_that_are_public(address: str) -> None:
    """Push services live there."""
    assert is_public(address)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "::1"])
async def test_a_host_that_leads_home_is_refused_however_it_is_written(host: str) -> None:
    """The resolver reads more spellings than we do, so what it answers is what is checked."""
    with pytest.raises(AddressRefused):
        await PUBLIC.resolve(host, 443)


async def test_one_private_address_among_public_ones_refuses_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody who means well answers so."""
    Resolver(monkeypatch, ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
        await PUBLIC.resolve("push.example", 443)


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "", ".", "-", "a b", "a/b", "::zz"])
async def test_what_is_no_host_is_told_before_it_is_looked_up_and_fails_plainly(host: str) -> None:
    """The resolver has errors of its own for such names, which nobody expects."""
    assert not is_host(host)
    with pytest.raises(OSError):
        await ANYWHERE.resolve(host or "a..b", 80)


@pytest.mark.parametrize(
    "host", ["example.org", "example.org.", "xn--e1afmkfd.example", "my_host", "a", "10.0.0.1", "::1"]
)
def test_what_is_a_host(host: str) -> None:
    """Names inside have underscores, and one label."""
    assert is_host(host)


@pytest.mark.parametrize(
    ("address", "is_allowed"),
    [
        ("10.1.2.3", True),
        ("10.2.0.1", False),
        ("::ffff:10.1.2.3", True),
        ("fd00::5", True),
        ("fd00::6", False),
        ("169.254.169.254", False),
        ("8.8.8.8", True),
        ("nonsense", False),
    ],
)
def test_an_operator_opens_some_networks_and_no_others(address: str, is_allowed: bool) -> None:
    """A mail relay inside is no reason to open the cloud's metadata service."""
    assert reach_of(["10.1.0.0/16", "fd00::5"]).allows(address) is is_allowed


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "x.localhost", "127.0.0.1", "::1", "192.168.0.1"]
)
def test_what_lies_inside_is_seen_without_a_look_up(host: str) -> None:
    """So a developer is told at once."""
    assert PUBLIC.refuses_outright(host)
    assert not ANYWHERE.refuses_outright(host)
    assert not PUBLIC.refuses_outright("example.org")
