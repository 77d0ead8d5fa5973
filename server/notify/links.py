"""Links that stand in mails: followed, loaded, unsubscribed. Signed, so that nobody makes one up.

A link carries all that it needs, and a MAC over it: no table of links, nothing to clear away. The MAC is cut
to 96 bits, as whoever guesses one could at most mark a notification as opened or turn a channel off.
"""

import base64
import binascii
import hmac
from typing import Final

import msgspec

from protocol.errors import Refused
from server.notify.vault import derived_key

_MAC_BYTES: Final = 12


class Opened(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """A picture in a mail was loaded."""

    notification_id: int


class Clicked(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """A link in a notification was followed."""

    notification_id: int
    url: str


class Unsubscribed(msgspec.Struct, frozen=True, array_like=True, tag="u"):
    """The user wants no more of a type on a channel."""

    app_id: str
    user_id: str
    type_name: str
    channel: str


class Called(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """A provider tells of one delivery."""

    notification_id: int
    number: int
    app_id: str
    provider_id: str


Link = Opened | Clicked | Unsubscribed | Called
_links: Final[msgspec.msgpack.Decoder[Link]] = msgspec.msgpack.Decoder(Link)
_encode: Final = msgspec.msgpack.Encoder().encode


class Links:
    """Make and read links. `base_url`: where this server is reached; empty: there are no links."""

    def __init__(self, server_secret: bytes, base_url: str) -> None:
        self._key = derived_key(server_secret, "notification links")
        self.base_url = base_url.rstrip("/")

    def token(self, link: Link) -> str:
        """Sign a link."""
        body = _encode(link)
        mac = hmac.digest(self._key, body, "sha256")[:_MAC_BYTES]
        return base64.urlsafe_b64encode(mac + body).rstrip(b"=").decode()

    def read(self, token: str) -> Link:
        """Raises: Refused(bad_link), for whatever we have not made."""
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raise Refused("bad_link") from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, hmac.digest(self._key, body, "sha256")[:_MAC_BYTES]):
            raise Refused("bad_link")
        try:
            return _links.decode(body)
        except msgspec.MsgspecError:
            raise Refused("bad_link") from None

    def opened(self, notification_id: int) -> str:
        """The address of the picture that tells of an opened mail."""
        return f"{self.base_url}/n/o/{self.token(Opened(notification_id))}"

    def clicked(self, notification_id: int, url: str) -> str:
        """An address that leads to `url`, and tells that it was followed."""
        return f"{self.base_url}/n/c/{self.token(Clicked(notification_id, url))}"

    def unsubscribed(self, app_id: str, user_id: str, type_name: str, channel: str) -> str:
        """The one-click address of RFC 8058."""
        return f"{self.base_url}/n/u/{self.token(Unsubscribed(app_id, user_id, type_name, channel))}"

    def called(self, notification_id: int, number: int, app_id: str, provider_id: str) -> str:
        """Where a provider may tell what became of a delivery."""
        token = self.token(Called(notification_id, number, app_id, provider_id))
        return f"{self.base_url}/n/p/{token}"
