"""How far we may be sent: which addresses a host may have whose name comes from a client or an app.

Endpoints of Web Push come from clients, webhooks and providers' addresses from apps. Whoever names one could
make the server talk to its own network (SSRF). So a host is resolved once, every address is checked, and the
connection goes to an address that was checked; no second look-up could answer differently (DNS rebinding).
Private networks are open where the operator says so, in the setting notify_networks.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from server.providers.lookup import NamedBy, addresses_of

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Ranges that Python's is_global lets pass, and that lead to an IPv4 address or to nowhere.
_REFUSED_V6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "::/96",  # IPv4-compatible, deprecated (RFC 4291, 2.5.5.1)
        "64:ff9b:1::/48",  # NAT64 of one's own network (RFC 8215)
        "fec0::/10",  # site-local, deprecated (RFC 3879)
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
# RFC 1123 section 2.1; with underscores, as names inside have them.
_NAME: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_MAX_NAME: Final = 253


class AddressRefused(Exception):
    """The host lies, or part of it, in a network where it must not."""


def is_host(text: str) -> bool:
    """Whether it could be a host: a name in ASCII that can be looked up, or a numeric address. Pure."""
    if ":" in text:
        return _address(text) is not None
    name = text.removesuffix(".")
    return len(name) <= _MAX_NAME and all(_NAME.fullmatch(label) for label in name.split("."))


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the public internet, also by what it embeds."""
    ip = _address(address)
    if ip is None:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and any(ip in network for network in _REFUSED_V6):
        return False
    embedded = _embedded(ip)
    if embedded is not None:
        return is_public(str(embedded))
    return ip.is_global and not (
        ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local
    )


class Reach(msgspec.Struct, frozen=True):
    """The public internet, and these networks."""

    networks: tuple[_Network, ...] = ()

    def allows(self, address: str) -> bool:
        """Whether we may connect to a numeric address."""
        ip = _address(address)
        if ip is None:
            return False
        if is_public(address):
            return True
        spellings = (ip, _embedded(ip) or ip)
        return any(spelling in network for spelling in spellings for network in self.networks)

    def refuses_outright(self, host: str) -> bool:
        """Whether a host is seen to lie where it must not without a look-up. For names, `resolve` tells."""
        name = host.removesuffix(".").lower()
        if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 section 6.3
            return not (self.allows("127.0.0.1") or self.allows("::1"))
        return _address(host) is not None and not self.allows(host)

    async def resolve(self, host: str, port: int, named_by: NamedBy = "app") -> list[str]:
        """Resolve a host. One address beyond reach refuses it as a whole: so does an attacker's look.

        Raises: AddressRefused; OSError where the name is not known, or is none.
        """
        try:
            addresses = await addresses_of(host, port, named_by)
        except UnicodeError as exc:  # a name that IDNA does not know
            raise OSError(f"{host!r} is no name of a host") from exc
        for address in addresses:
            if not self.allows(address):
                raise AddressRefused(f"{host} is {address}")
        return addresses


PUBLIC: Final = Reach()
ANYWHERE: Final = Reach((ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0")))


def reach_of(networks: Iterable[str]) -> Reach:
    """The public internet and addresses or networks such as "10.0.0.0/8". Raises: ValueError."""
    return Reach(tuple(ipaddress.ip_network(network, strict=False) for network in networks))


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _embedded(ip: _Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address to which an IPv6 address leads in the end."""
    if isinstance(ip, ipaddress.IPv4Address):
        return None
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
