"""Hosts that users name: each push subscription and each Apprise address leads to a server of its own."""

from typing import Final

from protocol.notify_types import Channel

HOSTED: Final[frozenset[Channel]] = frozenset({"webpush", "apprise"})
_OWN_PORTS: Final = {"https": ":443", "http": ":80"}


def host_of(channel: Channel, address: str) -> str:
    """Name the server that an address leads to: its origin (RFC 6454), without names and passwords.

    "" on channels where the provider has the only one. Of Apprise it may be a token: not for logs.
    """
    if channel not in HOSTED:
        return ""
    scheme, _, rest = address.partition("://")
    authority = rest.split("/", 1)[0].split("?", 1)[0].split("#", 1)[0].rpartition("@")[2].lower()
    scheme = scheme.lower()
    return f"{scheme}://{authority.removesuffix(_OWN_PORTS.get(scheme, ' '))}"
