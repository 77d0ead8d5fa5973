"""What can be an address on each channel: its form is checked when it is registered, not when it is used."""

import re
from base64 import urlsafe_b64decode
from binascii import Error as BadBase64
from hashlib import blake2b
from typing import Final
from urllib.parse import urlsplit

from protocol.errors import Refused
from protocol.notify_types import Channel

_APNS: Final = re.compile(r"[0-9a-f]{64,200}")  # 32 bytes in hex today; Apple says that they may grow
_FCM: Final = re.compile(r"[A-Za-z0-9_:\-]{20,4096}")
_PHONE: Final = re.compile(r"\+[1-9][0-9]{6,14}")  # E.164
_EMAIL: Final = re.compile(r"[^@\s<>\"(),;:\\\[\]]{1,64}@(?:[^@\s.<>]{1,63}\.)+[^@\s.<>]{2,63}")
MIN_NAME_CHARS: Final = 3  # of a mailbox: a shorter one names nobody, and stands in every second sentence
_ANY_MAIL: Final = re.compile(r"[^\s<>\"'(),;:]+(?:@|%40)[^\s<>\"'(),;:]+")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{1,30}://.+", re.IGNORECASE)


def device_key(channel: Channel, address: str) -> str:
    """Name an address: the same one gets the same name, whoever has it."""
    return f"{channel}-{blake2b(address.encode('utf-8', 'replace'), digest_size=12).hexdigest()}"


def checked(channel: Channel, address: str, keys: dict[str, str]) -> str:
    """Return the address as it is kept. Raises: Refused(bad_device_token) with the reason."""
    address = address.strip()
    match channel:
        case "apns":
            address = address.lower().replace(" ", "")
            if not _APNS.fullmatch(address) or len(address) % 2:
                raise _bad("An APNs device token is 64 or more hexadecimal digits.")
        case "fcm":
            if not _FCM.fullmatch(address):
                raise _bad("An FCM registration token is 20 or more letters, digits, and : _ - characters.")
        case "webpush":
            _check_subscription(address, keys)
        case "sms":
            address = re.sub(r"[\s().-]", "", address)
            if not _PHONE.fullmatch(address):
                raise _bad("A phone number is written in E.164: + and up to 15 digits.")
        case "email":
            if len(address) > 254 or not _EMAIL.fullmatch(address):
                raise _bad("That is no mail address.")
        case "apprise":
            if not _SCHEME.fullmatch(address) or len(address) > 2_000:
                raise _bad("An Apprise address begins with a service such as slack:// or tgram://.")
        case "inapp":
            raise _bad("In-app needs no address.")
    return address


def masked(channel: Channel, address: str) -> str:
    """An address as it may be shown: enough to know it again, too little to use it."""
    if channel == "email":
        name, _, domain = address.partition("@")
        return f"{name[:2]}…@{domain}"
    return f"…{address[-4:]}"


def without_address(detail: str, channel: Channel, address: str) -> str:
    """A provider's words without whom they speak of: they are kept for longer than the address may be.

    Of mail any address goes, as a box may forward to another one; of numbers any spelling of this one.
    """
    match channel:
        case "email":
            detail = _ANY_MAIL.sub("…", detail)
            name = address.partition("@")[0]
            if len(name) < MIN_NAME_CHARS:
                return detail
            return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", detail, flags=re.IGNORECASE)
        case "sms":
            digits = r"[\s().-]*".join(char for char in address if char.isdigit())
            return re.sub(rf"\+?{digits}", "…", detail) if digits else detail
        case _:
            return detail.replace(address, "…") if address else detail


def _check_subscription(endpoint: str, keys: dict[str, str]) -> None:
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        raise _bad("The subscription's endpoint is no address.") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0 or len(endpoint) > 2_000:
        raise _bad("The subscription's endpoint is no https address.")
    if parts.username is not None or any(char.isspace() or not char.isprintable() for char in endpoint):
        raise _bad("The subscription's endpoint is no plain address.")
    # RFC 8291 section 2.1: an uncompressed P-256 point, and 16 octets.
    for name, size in (("p256dh", 65), ("auth", 16)):
        try:
            value = urlsafe_b64decode(keys.get(name, "") + "==")
        except (BadBase64, ValueError):
            value = b""
        if len(value) != size or (name == "p256dh" and value[0] != 4):
            raise _bad(f"The subscription's key {name} is missing or is none.")


def _bad(message: str) -> Refused:
    return Refused("bad_device_token", message)
